//! Formulas, read as quotients of polynomials. What is not read, most functions and units among it, is equal to nothing but its
//! own spelling.

use super::node::{Element, Node};
use super::quotient::Quotient;
use super::rational::Rational;

/// The sign of a factorial.
const FACTORIAL: Node = Node::Char('!');

/// Commands that stand for a number or a variable.
const VARIABLES: &[&str] = &[
    "pi",
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "varepsilon",
    "zeta",
    "eta",
    "theta",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "rho",
    "sigma",
    "tau",
    "phi",
    "varphi",
    "chi",
    "psi",
    "omega",
];

/// Letters that before a bracket are functions.
const FUNCTIONS: &str = "fghpqFGHPQ";

/// The formula that `nodes` spell, if it is one.
pub fn read(nodes: &[Node]) -> Option<Quotient> {
    let mut total: Option<Quotient> = None;
    let mut rest = nodes;
    while !rest.is_empty() {
        let negative = match rest {
            [Node::Char('-'), ..] => true,
            [Node::Char('+'), ..] => false,
            // A term without a sign before it is the first.
            _ if total.is_none() => false,
            _ => return None,
        };
        let signed = matches!(rest[0], Node::Char('+' | '-'));
        let from = usize::from(signed);
        let length = rest[from..].iter().take_while(|n| !matches!(n, Node::Char('+' | '-'))).count();
        let term = product(&rest[from..from + length])?;
        let term = if negative { term.negative()? } else { term };
        total = Some(match total {
            Some(total) => total.plus(&term)?,
            None => term,
        });
        rest = &rest[from + length..];
    }
    total
}

/// Reads a product: factors side by side, or with a sign of multiplication between them.
fn product(nodes: &[Node]) -> Option<Quotient> {
    let mut total: Option<Quotient> = None;
    let mut at = 0;
    while at < nodes.len() {
        let multiplied = nodes[at] == Node::Char('*');
        if multiplied && total.is_none() {
            return None;
        }
        at += usize::from(multiplied);
        // Side by side, a number is the first factor: `x2` and `2 3` are other things. A factorial has an end of its own.
        let after_factorial = at > 0 && nodes[at - 1] == FACTORIAL;
        if matches!(nodes.get(at)?, Node::Number(_)) && total.is_some() && !multiplied && !after_factorial {
            return None;
        }
        let (factor, next) = match &nodes[at] {
            Node::Name(name) if matches!(name.as_str(), "log" | "ln") => {
                (logarithm(name, &nodes[at + 1..])?, nodes.len())
            }
            _ => power(nodes, at)?,
        };
        total = Some(match total {
            Some(total) => total.times(&factor)?,
            None => factor,
        });
        at = next;
    }
    total
}

/// Reads the factor at `at` with its exponent; returns what follows it too.
fn power(nodes: &[Node], at: usize) -> Option<(Quotient, usize)> {
    let (base, next) = factor(nodes, at)?;
    if nodes.get(next) == Some(&FACTORIAL) {
        // `5!!` is another function, and what 3!^2 or a fraction's factorial would be is not said.
        let ambiguous = matches!(nodes.get(next + 1), Some(Node::Apply(..) | Node::Char('!')));
        let negative = matches!(&nodes[at], Node::Number(n) if n.is_negative());
        let of = if negative { base.negative()? } else { base };
        let value = if ambiguous { None } else { factorial(of.as_rational()?) }?;
        let value = Quotient::constant(value);
        return Some((if negative { value.negative()? } else { value }, next + 1));
    }
    let script = |at: usize| match nodes.get(at) {
        Some(Node::Apply(name, args)) if name == "^" => args.first(),
        _ => None,
    };
    let Some(exponent) = script(next) else { return Some((base, next)) };
    // To read -2^2 or a mixed number's power one would have to know how it was written.
    let ambiguous = matches!(&nodes[at], Node::Number(n) if n.is_negative() || !n.is_whole());
    if ambiguous || script(next + 1).is_some() {
        return None;
    }
    Some((base.power(read(exponent)?.as_rational()?)?, next + 1))
}

fn factor(nodes: &[Node], at: usize) -> Option<(Quotient, usize)> {
    let value = match nodes.get(at)? {
        Node::Number(number) => Quotient::constant(*number),
        Node::Char(c) if c.is_alphabetic() => return letters(nodes, at),
        Node::Name(name) if VARIABLES.contains(&name.as_str()) => {
            return indexed(name.clone(), nodes, at + 1);
        }
        Node::Apply(name, args) => match (name.as_str(), args.as_slice()) {
            ("/", [above, below]) => read(above)?.times(&read(below)?.inverse()?)?,
            ("binom", [n, k]) => {
                Quotient::constant(binomial(read(n)?.as_rational()?, read(k)?.as_rational()?)?)
            }
            ("sqrt", [radicand]) => read(radicand)?.root(2)?,
            ("sqrt", [radicand, order]) => {
                let (n, k) = read(order)?.as_rational()?.terms();
                read(radicand)?.root(if k == 1 { n } else { return None })?
            }
            _ => return None,
        },
        Node::List('(', items, ')') => match items.as_slice() {
            [Element { label: None, value, unit: None }] => read(value)?,
            _ => return None,
        },
        _ => return None,
    };
    Some((value, at + 1))
}

/// Reads what follows `log` or `ln`: perhaps a base, and one factor. With more behind it one would have to know where the
/// argument ends.
fn logarithm(name: &str, nodes: &[Node]) -> Option<Quotient> {
    let (base, rest) = match nodes {
        [Node::Apply(script, base), rest @ ..] if script == "_" && name == "log" => {
            (Some(read(base.first()?)?), rest)
        }
        _ if name == "log" => (Some(Quotient::constant(Rational::new(10, 1)?)), nodes),
        _ => (None, nodes),
    };
    let (argument, next) = power(rest, 0)?;
    // `\log(8)^2` may be the square of either.
    let ambiguous = matches!(rest.first(), Some(Node::List(..))) && next > 1;
    if next < rest.len() || ambiguous { None } else { argument.logarithm(base.as_ref()) }
}

/// The factorial of a whole number that is not negative.
fn factorial(n: Rational) -> Option<Rational> {
    let (n, one) = n.terms();
    // More are beyond i128.
    if one != 1 || !(0..=33).contains(&n) {
        return None;
    }
    Rational::new((1..=n).product(), 1)
}

/// The number of ways to choose `k` of `n`.
fn binomial(n: Rational, k: Rational) -> Option<Rational> {
    let ((n, 1), (k, 1)) = (n.terms(), k.terms()) else { return None };
    if !(0..=n).contains(&k) {
        return None;
    }
    let mut ways = 1i128;
    for i in 0..k.min(n - k) {
        // The product of i + 1 numbers in a row is a multiple of (i + 1)!, and grows beyond i128 within some hundred steps.
        ways = ways.checked_mul(n - i)? / (i + 1);
    }
    Rational::new(ways, 1)
}

/// Reads a letter, which is a variable; not one of a word, nor of the corners of a figure, whose order counts.
fn letters(nodes: &[Node], at: usize) -> Option<(Quotient, usize)> {
    let letter = |node: &Node| match node {
        Node::Char(c) if c.is_alphabetic() => Some(*c),
        _ => None,
    };
    let before = nodes[..at].iter().rev().map_while(letter);
    let run: String = before.chain(nodes[at..].iter().map_while(letter)).collect();
    let count = run.chars().count();
    if count > 2 || (count > 1 && run.chars().any(char::is_uppercase)) {
        return None;
    }
    let first = letter(nodes.get(at)?)?;
    if FUNCTIONS.contains(first) && matches!(nodes.get(at + 1), Some(Node::List('(', ..))) {
        return None;
    }
    indexed(first.to_string(), nodes, at + 1)
}

/// A variable with the index that may follow it at `next`.
fn indexed(name: String, nodes: &[Node], next: usize) -> Option<(Quotient, usize)> {
    match nodes.get(next) {
        Some(Node::Apply(script, index)) if script == "_" => {
            Some((Quotient::variable(format!("{name} {index:?}"))?, next + 1))
        }
        _ => Some((Quotient::variable(name)?, next)),
    }
}
