//! Definitions and imports of a Rust file, read from its tokens.

use std::collections::BTreeSet;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A path that a file names: of a `use` declaration, or written out in its code.
#[derive(Debug, Clone, PartialEq)]
pub struct Import {
    /// Its parts; the last is `*` for everything in a module.
    pub path: Vec<String>,
    /// The name that a `use` declaration gives it.
    pub name: Option<String>,
    /// Whether the declaration makes the name visible beyond the file.
    pub public: bool,
    pub line: usize,
}

/// A file without its tests.
#[derive(Debug, Default)]
pub struct Source {
    pub defined: BTreeSet<String>,
    pub imports: Vec<Import>,
    /// Every name in its code outside `use` declarations.
    used: BTreeSet<String>,
    /// How many modules of the file itself the reader is in.
    inside: usize,
}

impl Import {
    /// Whether the file makes no use of the name itself.
    pub fn passes_on(&self, source: &Source) -> bool {
        self.public && self.name.as_ref().is_none_or(|name| !source.used.contains(name))
    }
}

/// The path of the module that a file of `src/` holds.
pub fn module(path: &str) -> Vec<String> {
    let inner = path.strip_prefix("src/").unwrap_or(path).strip_suffix(".rs").unwrap_or(path);
    let mut parts: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib")) {
        parts.pop();
    }
    parts
}

impl Source {
    pub fn of(path: &str, text: &str) -> Self {
        let tokens: TokenStream = text.parse().unwrap_or_else(|e| panic!("{path}: {e}"));
        let mut source = Source::default();
        source.read(tokens, true);
        source
    }

    /// Reads the items and the code of a file or of a group of tokens in it.
    fn read(&mut self, tokens: TokenStream, top: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut public = false;
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Punct(p) if p.as_char() == '#' => {
                    at = self.attribute(&tokens, at);
                    continue;
                }
                TokenTree::Ident(word) => match word.to_string().as_str() {
                    "pub" => {
                        public = true;
                        at += 1;
                        // Of `pub(crate)` the part in brackets.
                        let restricted = matches!(tokens.get(at), Some(TokenTree::Group(g)) if g.delimiter() == Delimiter::Parenthesis);
                        at += usize::from(restricted);
                        continue;
                    }
                    "use" => {
                        let end = (at..tokens.len()).find(|&i| is(&tokens[i], ';')).unwrap_or(tokens.len());
                        let tree = &tokens[at + 1..end];
                        self.tree(tree, &[], public, word.span().start().line);
                        at = end;
                    }
                    "mod" if matches!(tokens.get(at + 2), Some(TokenTree::Group(_))) => {
                        if let Some(TokenTree::Group(body)) = tokens.get(at + 2) {
                            self.inside += 1;
                            self.read(body.stream(), false);
                            self.inside -= 1;
                        }
                        at += 2;
                    }
                    keyword => {
                        let next = tokens.get(at + 1);
                        if top
                            && defines(keyword)
                            && let Some(TokenTree::Ident(name)) = next
                        {
                            self.defined.insert(name.to_string());
                        }
                        if top
                            && keyword == "macro_rules"
                            && let Some(TokenTree::Ident(name)) = tokens.get(at + 2)
                        {
                            self.defined.insert(name.to_string());
                        }
                        at = self.path(&tokens, at);
                        public = false;
                        continue;
                    }
                },
                TokenTree::Group(group) => self.read(group.stream(), false),
                _ => {}
            }
            public = false;
            at += 1;
        }
    }

    /// Passes over an attribute, and over the item behind it if that is a test's.
    fn attribute(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        let bang = tokens.get(at + 1).is_some_and(|t| is(t, '!'));
        let inside = at + 1 + usize::from(bang);
        let Some(TokenTree::Group(group)) = tokens.get(inside) else { return at + 1 };
        let text = group.stream().to_string().replace(' ', "");
        let test = text == "test"
            || (text.starts_with("cfg(") && text.contains("test") && !text.contains("not(test"));
        if !test {
            return inside + 1;
        }
        let last = |t: &TokenTree| {
            is(t, ';') || matches!(t, TokenTree::Group(g) if g.delimiter() == Delimiter::Brace)
        };
        (inside + 1..tokens.len()).find(|&i| last(&tokens[i])).unwrap_or(tokens.len() - 1) + 1
    }

    /// Reads a path that begins at a word, and returns where it ends.
    fn path(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        let (mut path, mut next) = (Vec::new(), at);
        let line = tokens[at].span().start().line;
        while let Some(TokenTree::Ident(word)) = tokens.get(next) {
            path.push(word.to_string());
            let colons = tokens.get(next + 1).is_some_and(|t| is(t, ':'))
                && tokens.get(next + 2).is_some_and(|t| is(t, ':'));
            if !colons {
                break;
            }
            next += 3;
        }
        self.used.insert(path[0].clone());
        if path.len() > 1 {
            self.import(Import { path, name: None, public: false, line });
        }
        next + 1
    }

    /// Reads the tree of a `use` declaration under `prefix`.
    fn tree(&mut self, tokens: &[TokenTree], prefix: &[String], public: bool, line: usize) {
        let mut path = prefix.to_vec();
        let mut at = 0;
        let mut name = None;
        while let Some(token) = tokens.get(at) {
            match token {
                TokenTree::Ident(word) if *word == "as" => {
                    name = tokens.get(at + 1).map(ToString::to_string);
                    break;
                }
                TokenTree::Ident(word) => path.push(word.to_string()),
                TokenTree::Punct(p) if p.as_char() == '*' => path.push("*".to_owned()),
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    for part in inner.split(|t| is(t, ',')).filter(|part| !part.is_empty()) {
                        self.tree(part, &path, public, part[0].span().start().line);
                    }
                    return;
                }
                _ => {}
            }
            at += 1;
        }
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let name = name.or_else(|| path.last().cloned()).filter(|name| name != "*");
        self.import(Import { path, name, public, line });
    }

    /// Notes an import. In a module within the file, `super` is the file or a module in it.
    fn import(&mut self, mut import: Import) {
        for segment in import.path.iter_mut().take(self.inside).take_while(|segment| *segment == "super") {
            *segment = "self".to_owned();
        }
        self.imports.push(import);
    }
}

fn is(token: &TokenTree, c: char) -> bool {
    matches!(token, TokenTree::Punct(p) if p.as_char() == c)
}

fn defines(keyword: &str) -> bool {
    matches!(keyword, "fn" | "struct" | "enum" | "trait" | "type" | "const" | "static" | "union")
}
