//! Links between documents lead to a file that exists, and to a heading that it has.

use crate::repository;
use regex::Regex;
use std::collections::BTreeSet;
use std::fs;
use std::sync::LazyLock;

static LINK: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\]\(([^)\s]+)\)").unwrap());

/// Anchors of a document's headings, as GitHub makes them: small letters, blanks as hyphens, no punctuation.
fn anchors(document: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut anchors = BTreeSet::new();
    for line in document.lines() {
        fenced ^= line.starts_with("```");
        let title = line.trim_start_matches('#');
        if fenced || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
        anchors
            .insert(title.trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-"));
    }
    anchors
}

/// A line for each link of the document at `path` that leads nowhere. `read` gives a file by its path from the root, or none.
fn faults(path: &str, document: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut faults = Vec::new();
    for found in LINK.captures_iter(document) {
        let target = &found[1];
        if target.contains("://") {
            continue;
        }
        let (file, anchor) =
            target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
        let text = if file.is_empty() {
            Some(document.to_string())
        } else {
            repository::beside(path, file).and_then(|file| read(&file))
        };
        let leads = match (&text, anchor) {
            (Some(text), Some(anchor)) => anchors(text).contains(anchor),
            (text, _) => text.is_some(),
        };
        if !leads {
            let line = repository::line(document, found.get(0).unwrap().start());
            faults.push(format!("{path}:{line}: the link to {target} leads nowhere"));
        }
    }
    faults
}

#[test]
fn links_lead_somewhere() {
    let mut all = Vec::new();
    for path in repository::files().iter().filter(|path| path.ends_with(".md")) {
        all.extend(faults(path, &repository::text(path).unwrap(), |file| {
            let there = repository::root().join(file);
            there.exists().then(|| fs::read_to_string(there).unwrap_or_default())
        }));
    }
    repository::report(&all);
}

#[test]
fn a_link_that_leads_nowhere_is_a_fault() {
    let read = |file: &str| match file {
        "docs/a.md" => Some("# A\n\n## What it's `for`, c = 2\n\n```sh\n# no heading\n```\n".to_string()),
        "README.md" => Some("# Top\n".to_string()),
        _ => None,
    };
    let of = |path: &str, text: &str| faults(path, text, read).len();
    for right in
        ["[a](docs/a.md)", "[a](docs/a.md#what-its-for-c--2)", "## B\n[b](#b)", "[x](https://no.example/a#b)"]
    {
        assert_eq!(of("README.md", right), 0, "{right}");
    }
    assert_eq!(of("docs/a.md", "[top](../README.md#top) ![picture](a.md)"), 0);
    for wrong in
        ["[a](docs/b.md)", "[a](docs/a.md#no-heading)", "[b](#b)", "[a](../docs/a.md)", "![p](docs/p.svg)"]
    {
        assert_eq!(of("README.md", wrong), 1, "{wrong}");
    }
    assert_eq!(of("docs/a.md", "[a](docs/a.md)"), 1);
}
