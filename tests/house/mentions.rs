//! Files that comments and documents name exist.
//!
//! Two kinds of words name a file of the repository:
//! - a path that begins with one of the repository's top directories, `src/random.rs` or `tests/golden/`: a file or a
//!   directory must have that path from the root;
//! - the name of a source file with any directories before it, `mma.cuh` or `host/shim.h`: the path of some source must
//!   end so, or be that path from the directory of the text if it begins with a dot.
//!
//! Names with other endings that stand without a top directory (`config.json`, `out.jsonl`) are those of users' files.
//! Absolute paths, web addresses and what follows a placeholder name nothing here.

use crate::{prose, repository};
use regex::Regex;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// Endings of source files.
const SOURCES: [&str; 6] = [".rs", ".cu", ".cuh", ".h", ".cpp", ".py"];

/// Words that look like a source file of the repository and are none.
const OTHERS: [(&str, &str); 2] = [("llama.cpp", "another engine"), ("cublas_api.h", "a header of CUDA")];

/// The repository, as far as names are looked up in it.
struct Tree {
    /// Paths of files and directories from the root.
    paths: BTreeSet<String>,
    /// Directories at the root.
    top: BTreeSet<String>,
}

impl Tree {
    fn new(files: &[String]) -> Tree {
        let mut paths = BTreeSet::new();
        let mut top = BTreeSet::new();
        for file in files {
            let mut path = file.as_str();
            paths.insert(path.to_string());
            while let Some((directory, _)) = path.rsplit_once('/') {
                paths.insert(directory.to_string());
                path = directory;
            }
            if path != file {
                top.insert(path.to_string());
            }
        }
        Tree { paths, top }
    }

    /// Whether a word of a text in `file` names a file of the repository, and if so whether it is there.
    fn named(&self, file: &str, word: &str) -> Option<bool> {
        let source = SOURCES.iter().any(|ending| word.len() > ending.len() && word.ends_with(ending));
        if word.starts_with("./") || word.starts_with("../") {
            let path = repository::beside(file, word);
            return source.then(|| path.is_some_and(|path| self.paths.contains(&path)));
        }
        let rooted = word.split_once('/').is_some_and(|(first, _)| self.top.contains(first));
        if rooted {
            return Some(self.paths.contains(word.trim_end_matches('/')));
        }
        if !source || word.starts_with('/') {
            return None;
        }
        let end = format!("/{word}");
        Some(self.paths.iter().any(|path| path == word || path.ends_with(&end)))
    }
}

static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[A-Za-z0-9_./+-]+").unwrap());

/// Words of a text that may name a file, and where each begins.
fn words(text: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    for found in WORD.find_iter(text) {
        let before = text[..found.start()].chars().next_back();
        // `<math.h>` is the compiler's, and behind `{name}`, `$name`, `*`, `~` or `https:` stands a part of a path.
        if !before.is_some_and(|c| "<>{}$*~:".contains(c)) {
            words.push((found.start(), found.as_str().trim_end_matches(['.', '-', '+'])));
        }
    }
    words
}

/// A line for each word in `text` that names a file which is not there.
fn faults(tree: &Tree, path: &str, text: &str) -> Vec<String> {
    let other = |word: &str| OTHERS.iter().any(|&(name, _)| name == word);
    words(text)
        .into_iter()
        .filter(|&(_, word)| !other(word) && tree.named(path, word) == Some(false))
        .map(|(offset, word)| format!("{path}:{}: there is no {word}", repository::line(text, offset)))
        .collect()
}

#[test]
fn named_files_exist() {
    let tree = Tree::new(&repository::files());
    let all = prose::all();
    let named = |prose: &prose::Prose| {
        words(&prose.text).iter().filter(|(_, word)| tree.named(&prose.path, word) == Some(true)).count()
    };
    let count: usize = all.iter().map(named).sum();
    assert!(count > 150, "found {count} names of files: are they still written so?");
    repository::report(
        &all.iter().flat_map(|prose| faults(&tree, &prose.path, &prose.text)).collect::<Vec<_>>(),
    );
}

#[test]
fn exceptions_are_needed() {
    let tree = Tree::new(&repository::files());
    let all = prose::all();
    for (name, reason) in OTHERS {
        let stands = |prose: &prose::Prose| words(&prose.text).iter().any(|&(_, word)| word == name);
        assert!(all.iter().any(stands), "no text says {name} ({reason}) any more");
        assert_eq!(tree.named("f", name), Some(false), "{name} is a file by now");
    }
}

#[test]
fn a_name_of_a_file_that_is_not_there_is_a_fault() {
    let files = [
        "README.md",
        "cuda/host/shim.h",
        "cuda/mma.cuh",
        "docs/a.md",
        "src/device/host/block.rs",
        "tests/x/main.rs",
    ];
    let tree = Tree::new(&files.map(str::to_string));
    let of = |text: &str| faults(&tree, "cuda/host/shim.h", text).len();
    for right in [
        "Mirrored in src/device/host/block.rs.",
        "`host/block.rs`, mma.cuh and shim.h",
        "the directories cuda/, `tests/x` and docs/",
        "#include \"../mma.cuh\"",
        "faster than llama.cpp",
        "#include <math.h>",
        "config.json, out/table.md, DIR/tokenizer.json",
        "/usr/local/cuda/bin/nvcc and https://example.org/src/a.rs",
        "$bundle/tests/no and {dir}/no.rs and *.rs",
        "and/or, n/a, 1/2, a.hidden, the .rs ending",
        "tests of src. cuda-host",
    ] {
        assert_eq!(of(right), 0, "{right}");
    }
    for wrong in [
        "Mirrored in src/device/host/launch.rs.",
        "host/launch.rs runs it",
        "see `launch.rs`:",
        "(flash.cuh)",
        "src/device/block.rs",
        "ock.rs",
        "docs/b.md",
        "docs/a",
        "tests/y/",
        "../mma.h",
        "../../../mma.cuh",
        "cuda/host/shim.cpp's",
        "tests/golden_sft",
        "check.py --help",
    ] {
        assert_eq!(of(wrong), 1, "{wrong}");
    }
    assert_eq!(faults(&tree, "a.rs", "one\ntwo no.rs"), ["a.rs:2: there is no no.rs"]);
}
