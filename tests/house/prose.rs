//! The text that a file holds for its readers: its comments, or all of a document.

use crate::repository;

/// Replaces code, so that two comments with code between them are not read as one sentence.
const CODE: char = '\u{1}';

/// Text for readers, and the file that it stands in.
pub struct Prose {
    /// Path from the repository's root.
    pub path: String,
    /// The text of the file with its code blotted out, line for line.
    pub text: String,
}

/// The comments of all sources and scripts, and all documents.
pub fn all() -> Vec<Prose> {
    let mut all = Vec::new();
    for path in repository::files() {
        let Some(source) = repository::text(&path) else { continue };
        if let Some(text) = prose(&path, &source) {
            all.push(Prose { path, text });
        }
    }
    assert!(all.len() > 100, "found {} files with text: is the repository all there?", all.len());
    all
}

/// The prose of a file, if it is of a kind that has some.
fn prose(path: &str, source: &str) -> Option<String> {
    match path.rsplit('/').next()?.rsplit_once('.').map(|(_, extension)| extension) {
        Some("md") => Some(source.to_string()),
        Some("rs") => Some(c_comments(source, true)),
        Some("cu" | "cuh" | "h" | "cpp") => Some(c_comments(source, false)),
        Some("py") => Some(hash_comments(source, true)),
        Some("sh" | "toml") => Some(hash_comments(source, false)),
        Some("txt") if path.starts_with("scripts/") || path.starts_with("benches/") => {
            Some(hash_comments(source, false))
        }
        _ if source.starts_with("#!") => Some(hash_comments(source, false)),
        _ => None,
    }
}

/// The replacement of a character of code.
fn blotted(c: char) -> char {
    if c.is_whitespace() { c } else { CODE }
}

/// Comments of Rust (whose block comments nest and whose strings may be raw), or of C++.
fn c_comments(source: &str, rust: bool) -> String {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut out = String::with_capacity(source.len());
    let mut i = 0;
    while i < chars.len() {
        let start = i;
        match (at(i), at(i + 1)) {
            ('/', '/') => {
                while at(i) == '/' || at(i) == '!' {
                    out.push(' ');
                    i += 1;
                }
                while i < chars.len() && at(i) != '\n' {
                    out.push(at(i));
                    i += 1;
                }
                continue;
            }
            ('/', '*') => {
                let mut depth = 0;
                while i < chars.len() {
                    match (at(i), at(i + 1)) {
                        ('/', '*') if rust || depth == 0 => depth += 1,
                        ('*', '/') => depth -= 1,
                        (c, _) => {
                            out.push(if c == '*' { ' ' } else { c });
                            i += 1;
                            continue;
                        }
                    }
                    out.push_str("  ");
                    i += 2;
                    if depth == 0 {
                        break;
                    }
                }
                continue;
            }
            ('r', '"' | '#') if rust && !identifier(at(i.wrapping_sub(1))) => {
                let hashes = (i + 1..).take_while(|&j| at(j) == '#').count();
                i += 1 + hashes;
                if at(i) == '"' {
                    i += 1;
                    let end = |i: usize| at(i) == '"' && (1..=hashes).all(|k| at(i + k) == '#');
                    while i < chars.len() && !end(i) {
                        i += 1;
                    }
                    i += 1 + hashes;
                }
            }
            ('"', _) => {
                i += 1;
                while i < chars.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                i += 1;
            }
            // A character, not a lifetime or a separator of digits.
            ('\'', c) if c == '\\' || at(i + 2) == '\'' => {
                i += 2;
                while c == '\\' && i + 1 < chars.len() && at(i + 1) != '\'' {
                    i += 1;
                }
                i += if c == '\\' { 2 } else { 1 };
            }
            _ => i += 1,
        }
        out.extend(chars[start..i.min(chars.len())].iter().map(|&c| blotted(c)));
    }
    out
}

fn identifier(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Comments of shell, TOML or Python: from a `#` that begins a line or follows a blank. Of Python the strings in
/// three quotes too, as documentation is written in them.
fn hash_comments(source: &str, python: bool) -> String {
    let mut out = String::with_capacity(source.len());
    let mut documentation = false;
    for line in source.split_inclusive('\n') {
        let mut comment = false;
        let mut before = ' ';
        let mut rest = line.chars();
        while let Some(c) = rest.next() {
            if python && !comment && c == '"' && rest.as_str().starts_with("\"\"") {
                documentation = !documentation;
                rest.nth(1);
                out.push_str("   ");
                before = c;
                continue;
            }
            let opens = c == '#' && !documentation && !comment && before.is_whitespace();
            comment |= opens;
            out.push(match (comment || documentation, opens) {
                (_, true) => ' ',
                (true, _) => c,
                _ => blotted(c),
            });
            before = c;
        }
    }
    out
}

/// The words of a text without its code.
#[cfg(test)]
fn words(path: &str, source: &str) -> String {
    let text = prose(path, source).unwrap();
    assert_eq!(text.lines().count(), source.lines().count(), "a line for each line");
    text.replace(CODE, " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn comments_of_rust_are_kept_and_its_strings_and_characters_are_not() {
    let source = r##"
//! First.
/// Second, "quoted".
fn f<'a>(c: &'a str) -> char { // third
    let url = "https://a.b/c"; let raw = r#"// "no" "#; /* fourth /* nested */ still */
    let path = "a\"// no"; '"' // fifth, after a quote
}   let c = '\''; // sixth
"##;
    assert_eq!(
        words("a.rs", source),
        "First. Second, \"quoted\". third fourth nested still fifth, after a quote sixth"
    );
}

#[test]
fn comments_of_other_languages_are_kept() {
    assert_eq!(words("a.cu", "int a; // one\n/* two\n * three */ \"// no\" // four\n"), "one two three four");
    assert_eq!(words("run.sh", "#!/bin/sh\n# one\necho ${a#no} \"$#\" # two\n"), "!/bin/sh one two");
    assert_eq!(words("scripts/tool", "#!/bin/sh\nno # one\n"), "!/bin/sh one");
    assert_eq!(words("a.py", "\"\"\"One\ntwo.\"\"\"\nno = '#no'  # three\n"), "One two. three");
    assert_eq!(words("a.md", "All `of` it.\n"), "All `of` it.");
    assert!(prose("a.json", "{}").is_none());
}
