//! Sections of docs/spec.md that comments and documents cite exist.
//!
//! Every "section N" is a citation of the specification: "spec section 3", "spec sections 2 to 4 and 8", "spec section
//! 5, 2" (the second item of the numbered list in section 5), also across the end of a line. Sections of other
//! documents are cited as "§ N".

use crate::{prose, repository};
use regex::Regex;
use std::collections::BTreeSet;
use std::sync::LazyLock;

const SPEC: &str = "docs/spec.md";

static HEADING: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^## (\d+)\. ").unwrap());
static ITEM: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^(\d+)\. ").unwrap());

/// "section 5", or "section 5, 2" for an item.
static ONE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?i)\bsection\s+(\d+)(?:,\s+(\d+)\b)?").unwrap());
/// "sections 1, 2 and 5 to 7".
static MANY: LazyLock<Regex> = LazyLock::new(|| {
    let between = r"(?:\s*,\s*and\s+|\s*,\s*|\s+and\s+|\s+or\s+|\s+to\s+|\s*[–-]\s*)";
    Regex::new(&format!(r"(?i)\bsections\s+\d+(?:{between}\d+)*")).unwrap()
});
/// A number of `MANY`, with the word or dash that makes it the end of a range.
static PART: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(\bto\s+|[–-]\s*)?(\d+)").unwrap());

/// A place in the specification: a section, or an item of a list in it.
type Place = (u32, Option<u32>);

/// The places that a specification has.
fn places(spec: &str) -> BTreeSet<Place> {
    let number = |found: regex::Captures| found[1].parse::<u32>().unwrap();
    let mut places = BTreeSet::new();
    let mut section = None;
    for line in spec.lines() {
        if line.starts_with("## ") {
            section = HEADING.captures(line).map(number);
            places.extend(section.map(|section| (section, None)));
        } else if let (Some(section), Some(item)) = (section, ITEM.captures(line)) {
            places.insert((section, Some(number(item))));
        }
    }
    places
}

/// Citations in a text: where each begins, its words, and the places that it names.
fn citations(text: &str) -> Vec<(usize, &str, Vec<Place>)> {
    let mut found = Vec::new();
    for citation in ONE.captures_iter(text) {
        let whole = citation.get(0).unwrap();
        let number = |i: usize| citation.get(i).map(|digits| digits.as_str().parse().unwrap());
        found.push((whole.start(), whole.as_str(), vec![(number(1).unwrap(), number(2))]));
    }
    for citation in MANY.find_iter(text) {
        let mut named: Vec<Place> = Vec::new();
        for part in PART.captures_iter(citation.as_str()) {
            let number: u32 = part[2].parse().unwrap();
            let first = match (part.get(1), named.last()) {
                (Some(_), Some(&(last, _))) => last + 1,
                _ => number,
            };
            named.extend((first..=number).map(|n| (n, None)));
        }
        found.push((citation.start(), citation.as_str(), named));
    }
    found
}

/// A line for each citation in `text` of a place that is not among `places`.
fn faults(path: &str, text: &str, places: &BTreeSet<Place>) -> Vec<String> {
    let mut faults = Vec::new();
    for (offset, words, named) in citations(text) {
        if !named.iter().all(|place| places.contains(place)) {
            let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
            faults.push(format!("{path}:{}: {SPEC} has no {words}", repository::line(text, offset)));
        }
    }
    faults
}

#[test]
fn cited_sections_of_the_specification_exist() {
    let spec = repository::text(SPEC).unwrap();
    let places = places(&spec);
    let all = prose::all();
    let cited: usize = all.iter().map(|prose| citations(&prose.text).len()).sum();
    assert!(cited > 50, "found {cited} citations: are they still written so?");
    repository::report(
        &all.iter().flat_map(|prose| faults(&prose.path, &prose.text, &places)).collect::<Vec<_>>(),
    );
}

#[test]
fn a_citation_of_a_section_that_is_not_there_is_a_fault() {
    let places = places("# T\n\n## 1. A\n\n## 2. B\n\n1. one\n2. two\n\n## Index\n\n3. no\n\n## 4. C\n");
    let of = |text: &str| faults("f", text, &places).len();
    for right in [
        "(spec section 1)",
        "section 2, 2",
        "Spec\nsections 1 and 2.",
        "sections 1, 2, and 4",
        "sections 1 to 2",
        "a section of 3 lines, intersection 9",
        "section 1, where 9 rows",
    ] {
        assert_eq!(of(right), 0, "{right}");
    }
    for wrong in [
        "(spec section 3)",
        "spec\nsection 11",
        "Section 0",
        "section 1, 1",
        "section 2, 3",
        "sections 1 and 3",
        "sections 1 to 4",
        "sections 1-3",
        "sections 1 or 5",
    ] {
        assert_eq!(of(wrong), 1, "{wrong}");
    }
    assert_eq!(of("section 5 and section 6"), 2);
    assert_eq!(
        faults("f.rs", "\n\n see section\n 9, 1", &places),
        [format!("f.rs:3: {SPEC} has no section 9, 1")]
    );
}
