//! The library names no flags: a user of the crate has fields, named in backticks; the command line shows the flags.
//!
//! Checked are the strings in the code of src/ outside src/cli/. Attributes, comments and tests (`#[cfg(test)]`) are
//! not strings of the library.

use crate::repository;
use proc_macro2::{TokenStream, TokenTree};
use regex::Regex;
use std::sync::LazyLock;

/// Strings that name flags all the same: headings of the help, for options that are given as flags.
const HELP: [&str; 2] = [
    "Reinforcement learning (--stage rl)",
    "Implicit and continuous thoughts (--method icot, coconut, distill)",
];

static FLAG: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(^|[^\w-])--[a-z{]").unwrap());

/// The strings of code that name a flag, and their lines.
fn named(tokens: TokenStream, found: &mut Vec<(usize, String)>) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(p) if p.as_char() == '#' => {
                tokens.next_if(|next| matches!(next, TokenTree::Punct(p) if p.as_char() == '!'));
                let Some(TokenTree::Group(attribute)) = tokens.next() else { continue };
                if attribute.stream().to_string().replace(' ', "") == "cfg(test)" {
                    // The item that it belongs to, up to its body or its semicolon.
                    tokens.by_ref().find(|t| match t {
                        TokenTree::Group(g) => g.delimiter() == proc_macro2::Delimiter::Brace,
                        TokenTree::Punct(p) => p.as_char() == ';',
                        _ => false,
                    });
                }
            }
            TokenTree::Group(group) => named(group.stream(), found),
            TokenTree::Literal(literal) => {
                let text = literal.to_string();
                if FLAG.is_match(&text) && !HELP.iter().any(|help| text == format!("{help:?}")) {
                    found.push((literal.span().start().line, text));
                }
            }
            _ => {}
        }
    }
}

/// A line for each string of a file that names a flag.
fn faults(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    named(text.parse().unwrap_or_else(|e| panic!("{path}: {e}")), &mut found);
    found.into_iter().map(|(line, text)| format!("{path}:{line}: names a flag: {text}")).collect()
}

#[test]
fn the_library_names_no_flags() {
    let ours = |path: &String| {
        path.starts_with("src/")
            && path.ends_with(".rs")
            && !path.starts_with("src/cli/")
            && !path.ends_with("/tests.rs")
    };
    let files = repository::files().into_iter().filter(ours);
    repository::report(
        &files.flat_map(|path| faults(&path, &repository::text(&path).unwrap())).collect::<Vec<_>>(),
    );
}

#[test]
fn a_string_that_names_a_flag_is_a_fault() {
    for wrong in [
        r#"fn f() { Error::usage("give a smaller --lr") }"#,
        r#"const A: &str = "--lr is too large";"#,
        r#"fn f() { g(format!("--{}", name)) }"#,
        r#"fn f() { vec![("a", r"or (--lr)")] }"#,
        r##"#[cfg(not(test))] fn f() { g("--lr") }"##,
    ] {
        assert_eq!(faults("f", wrong).len(), 1, "{wrong}");
    }
    for right in [
        r#"fn f() { Error::usage("give a smaller `lr`") }"#,
        r#"/// As --lr says. "--lr"
           fn f() { let a = b - -c; }"#,
        r##"#[arg(help = "--lr")] struct A;"##,
        r##"#[cfg(test)] mod tests { fn f() { g("--lr") } }"##,
        r#"const A: &str = "a -- b, a--b, ---";"#,
    ] {
        assert!(faults("f", right).is_empty(), "{right}");
    }
    assert_eq!(faults("f.rs", "\n\nconst A: &str = \"--lr\";"), [r#"f.rs:3: names a flag: "--lr""#]);
}
