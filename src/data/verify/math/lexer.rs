//! LaTeX to tokens, without everything that only changes how it is typeset.
//!
//! Math delimiters, sizes, fonts and `\left` do not matter to an answer and are dropped; spellings of one sign
//! become one. Other spaces are kept, since `1 1/2` is not `11/2`, and upright letters (`\text{…}`) stay marked,
//! since `5\text{ m}` is a length and `5m` a product.

/// A token, and whether it stood in upright text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// The kind of token.
    pub kind: Kind<'a>,
    /// Whether it stood inside `\text{…}` or one of its siblings.
    pub upright: bool,
}

/// The kinds of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A character other than a blank; braces that group are among them.
    Char(char),
    /// A command, without its backslash. `\{` and `\}` are the commands `{` and `}`.
    Command(&'a str),
    /// One or more blanks.
    Space,
    /// `\,`: between digits a thousands separator, elsewhere a blank.
    Thin,
    /// `{,}` or `,\!`: a comma set as the thousands separator.
    Thousands,
}

/// The tokens of `text`, in one pass.
pub fn lex(text: &str) -> Vec<Token<'_>> {
    let mut lexer = Lexer { tokens: Vec::new(), modes: Vec::new(), text_follows: false };
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("{,}") {
            lexer.push(Kind::Thousands);
            rest = after;
        } else if c == '\\' {
            rest = lexer.command(&rest[1..]);
        } else {
            lexer.char(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    lexer.tokens
}

struct Lexer<'a> {
    tokens: Vec<Token<'a>>,
    /// For every open brace, whether its content is upright.
    modes: Vec<bool>,
    /// A command like `\text` came last: the brace that follows opens upright text.
    text_follows: bool,
}

impl<'a> Lexer<'a> {
    fn push(&mut self, kind: Kind<'a>) {
        self.text_follows = false;
        let upright = self.modes.last().copied().unwrap_or(false);
        self.tokens.push(Token { kind, upright });
    }

    fn space(&mut self) {
        let upright = self.modes.last().copied().unwrap_or(false);
        if self.tokens.last().is_some_and(|t| t.kind != Kind::Space) {
            self.tokens.push(Token { kind: Kind::Space, upright });
        }
    }

    fn char(&mut self, c: char) {
        match c {
            // `$` opens and closes formulas; the currency is `\$`.
            '$' | '\u{200b}' | '\u{feff}' => {}
            '{' => {
                let upright = self.text_follows || self.modes.last().copied().unwrap_or(false);
                self.push(Kind::Char('{'));
                self.modes.push(upright);
            }
            '}' => {
                self.modes.pop();
                self.push(Kind::Char('}'));
            }
            '~' => self.space(),
            _ if c.is_whitespace() => self.space(),
            '−' => self.push(Kind::Char('-')),
            '·' | '×' | '⋅' => self.push(Kind::Char('*')),
            '÷' | '⁄' => self.push(Kind::Char('/')),
            'π' => self.push(Kind::Command("pi")),
            '∞' => self.push(Kind::Command("infty")),
            '√' => self.push(Kind::Command("√")),
            '∅' => self.push(Kind::Command("emptyset")),
            '…' => self.push(Kind::Command("dots")),
            _ => self.push(Kind::Char(c)),
        }
    }

    /// Takes the command whose name begins `rest`; returns the text after it.
    fn command(&mut self, rest: &'a str) -> &'a str {
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let (name, after) = rest.split_at(if letters > 0 { letters } else { first });
        match name {
            "left" | "right" | "middle" => {
                // `\right.` sets no delimiter.
                return after.trim_start().strip_prefix('.').unwrap_or(after);
            }
            "text" | "textrm" | "textnormal" | "textit" | "textbf" | "mbox" | "hbox" | "mathrm" => {
                self.text_follows = true;
            }
            "big" | "Big" | "bigg" | "Bigg" | "bigl" | "Bigl" | "biggl" | "Biggl" | "bigr" | "Bigr"
            | "biggr" | "Biggr" | "displaystyle" | "textstyle" | "boxed" | "fbox" | "mathbf" | "mathit"
            | "mathsf" | "mathbb" | "boldsymbol" | "bm" | "operatorname" | "limits" | "(" | ")" | "["
            | "]" => {}
            "!" => self.negative_space(),
            "," => self.push(Kind::Thin),
            ";" | ":" | ">" | "quad" | "qquad" => self.space(),
            _ if name.trim().is_empty() => self.space(),
            "$" => self.push(Kind::Char('$')),
            "%" => self.push(Kind::Char('%')),
            "lbrace" => self.push(Kind::Command("{")),
            "rbrace" => self.push(Kind::Command("}")),
            "lbrack" => self.push(Kind::Char('[')),
            "rbrack" => self.push(Kind::Char(']')),
            "degree" => self.push(Kind::Char('°')),
            "cdot" | "times" | "ast" => self.push(Kind::Char('*')),
            "div" => self.push(Kind::Char('/')),
            "pm" => self.push(Kind::Char('±')),
            "le" | "leq" | "leqslant" => self.push(Kind::Char('≤')),
            "ge" | "geq" | "geqslant" => self.push(Kind::Char('≥')),
            "lt" => self.push(Kind::Char('<')),
            "gt" => self.push(Kind::Char('>')),
            "ne" | "neq" => self.push(Kind::Char('≠')),
            "in" => self.push(Kind::Char('∈')),
            "cup" => self.push(Kind::Char('∪')),
            "cap" => self.push(Kind::Char('∩')),
            "mid" | "vert" | "lvert" | "rvert" => self.push(Kind::Char('|')),
            "colon" => self.push(Kind::Char(':')),
            "prime" => self.push(Kind::Char('\'')),
            "dfrac" | "tfrac" | "cfrac" => self.push(Kind::Command("frac")),
            "dbinom" | "tbinom" => self.push(Kind::Command("binom")),
            "varnothing" => self.push(Kind::Command("emptyset")),
            "ldots" | "cdots" => self.push(Kind::Command("dots")),
            _ => self.push(Kind::Command(name)),
        }
        after
    }

    /// `\!`: ignored unless it follows a comma, which it turns into a thousands separator.
    fn negative_space(&mut self) {
        if let Some(last) = self.tokens.last_mut().filter(|t| t.kind == Kind::Char(',')) {
            last.kind = Kind::Thousands;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Kind<'_>> {
        lex(text).into_iter().map(|t| t.kind).collect()
    }

    #[test]
    fn ink_that_says_nothing_goes() {
        assert_eq!(kinds(r"$\left( x \right.$"), kinds("( x "));
        assert_eq!(kinds(r"\boxed{\displaystyle\dfrac12}"), kinds(r"{\frac12}"));
        assert_eq!(kinds(r"a\ \;b"), kinds("a b"));
        assert_eq!(kinds(r"1,\!000"), kinds("1{,}000"));
        assert_eq!(kinds("−3·2"), kinds(r"-3\cdot2"));
        assert_eq!(kinds(r"\%\$"), [Kind::Char('%'), Kind::Char('$')]);
        assert_eq!(kinds(r"\"), [], "a lone backslash is a blank at the start");
    }

    #[test]
    fn upright_text_ends_with_its_brace() {
        let upright: String = lex(r"a\text{b{c}d}e\mathrm {f}g")
            .into_iter()
            .filter(|t| t.upright)
            .filter_map(|t| match t.kind {
                Kind::Char(c) if c.is_alphabetic() => Some(c),
                _ => None,
            })
            .collect();
        assert_eq!(upright, "bcdf");
    }
}
