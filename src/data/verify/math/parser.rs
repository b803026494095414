//! Tokens in, nodes out.
//!
//! Every text parses: a bracket without its partner is a sign like any other. Only depth is refused, so that
//! neither reading, comparing nor dropping an answer can run out of stack.

use super::brackets::{closing, opening, partners};
use super::element::{argument, elements, fraction};
use super::lexer::{Kind, Token};
use super::node::{Element, Node};
use super::rational::Rational;
use super::units;

/// The deepest nesting of braces, brackets and commands.
const MAX_DEPTH: usize = 32;
/// The most signs of division: in `a/b/c/…` each nests another fraction.
const MAX_SLASHES: usize = 32;

/// Commands whose arguments follow them, in braces or as one token; after other commands, as in
/// `\pi\text{ cm}`, a group is a factor of its own.
const TAKE_GROUPS: &[&str] = &[
    "bar",
    "begin",
    "binom",
    "color",
    "dot",
    "end",
    "hat",
    "mathcal",
    "mathfrak",
    "overleftrightarrow",
    "overline",
    "overrightarrow",
    "overset",
    "phantom",
    "pmod",
    "stackrel",
    "textcolor",
    "tilde",
    "underline",
    "underset",
    "vec",
    "widehat",
];

/// Words for which LaTeX has a command of the same name.
const FUNCTIONS: &[&str] = &["pi", "sin", "cos", "tan", "cot", "log", "ln"];

/// Reads the answer that `tokens` spell, a list of at least one element; `None` if it nests too deeply.
pub fn parse(tokens: &[Token<'_>]) -> Option<Vec<Element>> {
    let mut parser = Parser { tokens, partner: partners(tokens), slashes: 0 };
    let mut nodes = parser.sequence(0, tokens.len(), false, 0)?;
    if nodes.last() == Some(&Node::Char('.')) {
        nodes.pop();
    }
    Some(elements(nodes))
}

/// The result of reading something: nodes, and the index of the token after them.
type Read<T> = Option<(T, usize)>;

struct Parser<'t, 'a> {
    tokens: &'t [Token<'a>],
    partner: Vec<Option<usize>>,
    slashes: usize,
}

impl<'a> Parser<'_, 'a> {
    /// The kind of token `at`, if that is before `to`.
    fn kind(&self, at: usize, to: usize) -> Option<Kind<'a>> {
        if at < to { self.tokens.get(at).map(|t| t.kind) } else { None }
    }

    fn digit(&self, at: usize, to: usize) -> Option<char> {
        match self.kind(at, to)? {
            Kind::Char(c) if c.is_ascii_digit() => Some(c),
            _ => None,
        }
    }

    fn begins_number(&self, at: usize, to: usize) -> bool {
        let from = if self.kind(at, to) == Some(Kind::Char('.')) { at + 1 } else { at };
        self.digit(from, to).is_some()
    }

    /// The first token from `at` on that is not blank.
    fn skip_blanks(&self, mut at: usize, to: usize) -> usize {
        while matches!(self.kind(at, to), Some(Kind::Space | Kind::Thin)) {
            at += 1;
        }
        at
    }

    /// The end of the group that opens at `at`, if it closes before `to`.
    fn group(&self, at: usize, to: usize) -> Option<usize> {
        self.partner.get(at).copied().flatten().filter(|&end| end < to)
    }

    /// Reads tokens `at..to`; `bracketed` where a comma separates the elements of a tuple.
    fn sequence(&mut self, mut at: usize, to: usize, bracketed: bool, depth: usize) -> Option<Vec<Node>> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut out = Vec::new();
        while let Some(kind) = self.kind(at, to) {
            at = match kind {
                _ if self.begins_number(at, to) => {
                    let (number, next) = self.number(at, to, bracketed);
                    self.mixed(number, next, to, depth, &mut out)?
                }
                Kind::Char('{') => match self.group(at, to) {
                    Some(end) => {
                        out.extend(self.sequence(at + 1, end, bracketed, depth + 1)?);
                        end + 1
                    }
                    None => at + 1,
                },
                Kind::Space | Kind::Thin | Kind::Char('}') => at + 1,
                Kind::Char(',') | Kind::Thousands => {
                    out.push(Node::Comma);
                    at + 1
                }
                Kind::Char('/') => self.slash(at, to, depth, &mut out)?,
                Kind::Char(script @ ('^' | '_')) => self.script(script, at, to, depth, &mut out)?,
                Kind::Char('*') => {
                    // A sign of multiplication says something between numbers only.
                    let next = self.skip_blanks(at + 1, to);
                    if matches!(out.last(), Some(Node::Number(_) | Node::Digits(_)))
                        && self.begins_number(next, to)
                    {
                        out.push(Node::Char('*'));
                    }
                    next
                }
                Kind::Char(c) if c.is_alphabetic() => self.word(at, to, depth, &mut out)?,
                Kind::Char(_) | Kind::Command(_) => {
                    let (node, next) = self.sign(at, to, depth)?;
                    out.push(node);
                    next
                }
            };
        }
        Some(out)
    }

    /// Reads the number at `at`: digits with their thousands separators, and decimals.
    fn number(&self, at: usize, to: usize, bracketed: bool) -> (Node, usize) {
        let run = |mut at: usize| {
            let mut digits = String::new();
            while let Some(digit) = self.digit(at, to) {
                digits.push(digit);
                at += 1;
            }
            (digits, at)
        };
        // Behind `1,` this is an element of a list already, and so are the numbers after it: `1,2,345`.
        let in_list =
            at >= 2 && self.kind(at - 1, to) == Some(Kind::Char(',')) && self.digit(at - 2, to).is_some();
        let (mut whole, mut next) = run(at);
        let mut groups = Vec::new();
        let mut end = next;
        let is_grouped = loop {
            let separates = match self.kind(end, to) {
                Some(Kind::Thousands | Kind::Thin) => true,
                Some(Kind::Char(',')) => !bracketed && !in_list,
                _ => false,
            };
            if !separates || self.digit(end + 1, to).is_none() {
                break !groups.is_empty() && (1..=3).contains(&whole.len());
            }
            let (group, after) = run(end + 1);
            if group.len() != 3 {
                break false;
            }
            groups.push(group);
            end = after;
        };
        if is_grouped {
            whole.push_str(&groups.concat());
            next = end;
        }
        let mut fraction = String::new();
        if self.kind(next, to) == Some(Kind::Char('.')) && self.digit(next + 1, to).is_some() {
            (fraction, next) = run(next + 1);
        }
        let number = Rational::from_decimal(&whole, &fraction).map_or_else(
            || {
                let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
                Node::Digits(format!("{whole}.{fraction}"))
            },
            Node::Number,
        );
        (number, next)
    }

    /// Pushes the number before `at`, joined with a fraction behind it if the two are a mixed number:
    /// `2\frac{1}{2}`, or `2 1/2` with a blank.
    fn mixed(
        &mut self,
        number: Node,
        at: usize,
        to: usize,
        depth: usize,
        out: &mut Vec<Node>,
    ) -> Option<usize> {
        let whole = match &number {
            Node::Number(n) if n.is_whole() => *n,
            _ => {
                out.push(number);
                return Some(at);
            }
        };
        let next = self.skip_blanks(at, to);
        if self.kind(next, to) == Some(Kind::Command("frac")) {
            let (fraction, end) = self.command("frac", next + 1, to, depth)?;
            match joined(whole, &fraction) {
                Some(sum) => out.push(sum),
                None => out.extend([number, fraction]),
            }
            return Some(end);
        }
        if next > at && self.digit(next, to).is_some() {
            let (above, slash) = self.number(next, to, true);
            let slash = self.skip_blanks(slash, to);
            let below = self.skip_blanks(slash + 1, to);
            if self.kind(slash, to) == Some(Kind::Char('/')) && self.digit(below, to).is_some() {
                let (below, end) = self.number(below, to, true);
                let goes_on = matches!(self.kind(end, to), Some(Kind::Char('^' | '_' | '!' | '/')));
                if !goes_on && let Some(sum) = joined(whole, &fraction(vec![above], vec![below])) {
                    out.push(sum);
                    return Some(end);
                }
            }
        }
        out.push(number);
        Some(at)
    }

    /// Reads a `/`: it divides the product before it by the one factor after it.
    fn slash(&mut self, at: usize, to: usize, depth: usize, out: &mut Vec<Node>) -> Option<usize> {
        self.slashes += 1;
        if self.slashes > MAX_SLASHES {
            return None;
        }
        let from = out.iter().rposition(|n| !n.is_factor()).map_or(0, |last| last + 1);
        // Behind a word it is part of a unit, km/h. Behind a logarithm it may belong to the argument, or not.
        let of_logarithm =
            |node: &Node| matches!(node, Node::Name(name) if matches!(name.as_str(), "log" | "ln"));
        if from == out.len() || out[from..].iter().any(of_logarithm) {
            out.push(Node::Char('/'));
            return Some(at + 1);
        }
        let (mut below, mut next) = self.operand(at + 1, to, depth)?;
        if below.is_empty() {
            out.push(Node::Char('/'));
            return Some(next);
        }
        while let Some(Kind::Char(script @ ('^' | '_'))) = self.kind(next, to) {
            next = self.script(script, next, to, depth, &mut below)?;
        }
        while self.kind(next, to) == Some(Kind::Char('!')) {
            below.push(Node::Char('!'));
            next += 1;
        }
        let above = out.split_off(from);
        out.push(fraction(above, below));
        Some(next)
    }

    /// Reads `^` or `_` and its script.
    fn script(
        &mut self,
        script: char,
        at: usize,
        to: usize,
        depth: usize,
        out: &mut Vec<Node>,
    ) -> Option<usize> {
        let (nodes, next) = self.operand(at + 1, to, depth)?;
        out.push(match nodes.as_slice() {
            [] => Node::Char(script),
            [Node::Name(name)] if name == "circ" => Node::Char('°'),
            _ => Node::Apply(script.to_string(), vec![argument(nodes)]),
        });
        Some(next)
    }

    /// Reads letters from `at` on: a word, if they are upright or known as one.
    fn word(&mut self, at: usize, to: usize, depth: usize, out: &mut Vec<Node>) -> Option<usize> {
        let upright = self.tokens.get(at).is_some_and(|t| t.upright);
        let letters: String = self.tokens[at..to]
            .iter()
            .take_while(|t| t.upright == upright)
            .map_while(|t| match t.kind {
                Kind::Char(c) if c.is_alphabetic() => Some(c),
                _ => None,
            })
            .collect();
        let next = at + letters.chars().count();
        match letters.as_str() {
            "and" | "or" => out.push(Node::Conjunction),
            "sqrt" => {
                let (root, next) = self.command("√", next, to, depth)?;
                out.push(root);
                return Some(next);
            }
            "inf" | "infinity" | "infty" => out.push(Node::Name("infty".to_owned())),
            name if FUNCTIONS.contains(&name) => out.push(Node::Name(letters)),
            word if upright || units::is_known(word) => out.push(Node::Word(letters)),
            _ => out.extend(letters.chars().map(Node::Char)),
        }
        Some(next)
    }

    /// Reads a bracket with its content, a command with its arguments, or any other sign.
    fn sign(&mut self, at: usize, to: usize, depth: usize) -> Read<Node> {
        let kind = self.tokens.get(at).map(|t| t.kind)?;
        if let Some(open) = opening(kind)
            && let Some(end) = self.group(at, to)
            && let Some(close) = self.tokens.get(end).and_then(|t| closing(t.kind))
        {
            let nodes = self.sequence(at + 1, end, true, depth + 1)?;
            return Some((Node::List(open, elements(nodes), close), end + 1));
        }
        match kind {
            Kind::Char(c) => Some((Node::Char(c), at + 1)),
            Kind::Command(name) => self.command(name, at + 1, to, depth + 1),
            Kind::Space | Kind::Thin | Kind::Thousands => Some((Node::Comma, at + 1)),
        }
    }

    /// Reads the arguments, from `at` on, of the command `name`.
    fn command(&mut self, name: &str, at: usize, to: usize, depth: usize) -> Read<Node> {
        if depth > MAX_DEPTH {
            return None;
        }
        match name {
            "frac" => {
                let (above, next) = self.unit_argument(at, to, depth)?;
                let (below, next) = self.unit_argument(next, to, depth)?;
                Some((fraction(above, below), next))
            }
            "sqrt" | "√" => {
                let mut next = self.skip_blanks(at, to);
                let mut args = Vec::new();
                if self.kind(next, to) == Some(Kind::Char('['))
                    && let Some(end) = self.group(next, to)
                {
                    args.push(argument(self.sequence(next + 1, end, false, depth + 1)?));
                    next = end + 1;
                }
                // Nobody who types √13 means (√1)3.
                let (radicand, next) = if name == "√" {
                    self.operand(next, to, depth)
                } else {
                    self.unit_argument(next, to, depth)
                }?;
                args.insert(0, argument(radicand));
                Some((Node::Apply("sqrt".to_owned(), args), next))
            }
            _ => {
                let (mut args, mut next) = (Vec::new(), at);
                while TAKE_GROUPS.contains(&name)
                    && self.kind(next, to) == Some(Kind::Char('{'))
                    && let Some(end) = self.group(next, to)
                {
                    args.push(argument(self.sequence(next + 1, end, false, depth + 1)?));
                    next = end + 1;
                }
                if args.is_empty() && TAKE_GROUPS.contains(&name) {
                    let (nodes, after) = self.unit_argument(next, to, depth)?;
                    args.extend((!nodes.is_empty()).then(|| argument(nodes)));
                    next = after;
                }
                let name = name.to_owned();
                Some((if args.is_empty() { Node::Name(name) } else { Node::Apply(name, args) }, next))
            }
        }
    }

    /// Reads an argument as TeX does: a group in braces or one token, of `12` the `1`. Round brackets
    /// count as a group too, since `\sqrt(2)` is often written and never means the root of a bracket.
    fn unit_argument(&mut self, at: usize, to: usize, depth: usize) -> Read<Vec<Node>> {
        let at = self.skip_blanks(at, to);
        match self.kind(at, to) {
            None | Some(Kind::Char('}' | ',' | '^' | '_' | '/')) => Some((Vec::new(), at)),
            Some(Kind::Char('{')) => match self.group(at, to) {
                Some(end) => Some((self.sequence(at + 1, end, false, depth + 1)?, end + 1)),
                None => Some((Vec::new(), at + 1)),
            },
            Some(Kind::Char(c)) if c.is_ascii_digit() => {
                Some((vec![self.number(at, at + 1, true).0], at + 1))
            }
            Some(_) => self.sign(at, to, depth).map(|(node, next)| (vec![node], next)),
        }
    }

    /// Reads the operand of `/`, `^` or `_`: like an argument, but a number is taken whole and with its
    /// sign, since that is meant by `x^10` and `x^-1`.
    fn operand(&mut self, at: usize, to: usize, depth: usize) -> Read<Vec<Node>> {
        let at = self.skip_blanks(at, to);
        let signed = matches!(self.kind(at, to), Some(Kind::Char('-' | '+')));
        let from = at + usize::from(signed);
        if !self.begins_number(from, to) {
            return self.unit_argument(at, to, depth);
        }
        let (number, next) = self.number(from, to, true);
        let sign = (self.kind(at, from) == Some(Kind::Char('-'))).then_some(Node::Char('-'));
        Some((sign.into_iter().chain([number]).collect(), next))
    }
}

/// The mixed number of a whole number and a proper fraction.
fn joined(whole: Rational, fraction: &Node) -> Option<Node> {
    match fraction {
        Node::Number(part) if part.is_proper() => whole.checked_add(*part).map(Node::Number),
        _ => None,
    }
}
