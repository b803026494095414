//! Formulas as quotients of polynomials, in exact arithmetic.
//!
//! The variables of the polynomials are letters, π, and roots that are no numbers; their coefficients are fractions times square
//! roots of whole numbers. The roots of different square-free numbers are linearly independent over the fractions, and π is
//! transcendental, so such quotients are equal as numbers exactly when they are equal here: `2\sqrt3` and `\sqrt{12}`,
//! `(x+1)^2` and `x^2+2x+1`, `\frac{1}{1+\sqrt2}` and `\sqrt2-1`. Nothing is rounded. What is not read, functions and units among
//! it, or would leave the bounds below, is no quotient, and is then equal to nothing but its own spelling.

use std::collections::BTreeMap;

use super::node::{Element, Node};
use super::rational::Rational;

/// The most terms of a polynomial.
const MAX_TERMS: usize = 128;
/// The largest exponent, of a power that is multiplied out and of a variable.
const MAX_POWER: i128 = 64;
/// The largest number whose roots are taken, which is by trial division.
const MAX_RADICAND: i128 = 10_000_000_000;

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

/// A product of variables and the square root of a square-free whole number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Monomial {
    radicand: i128,
    powers: BTreeMap<String, i128>,
}

/// A polynomial: monomials and their coefficients, none of them 0.
type Sum = BTreeMap<Monomial, Rational>;

/// A quotient of polynomials, the second of which is not 0.
#[derive(Debug, Clone)]
pub struct Quotient {
    above: Sum,
    below: Sum,
}

impl Quotient {
    /// The formula that `nodes` spell, if it is one.
    pub fn read(nodes: &[Node]) -> Option<Self> {
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
            let term = if negative { term.times(&Quotient::constant(Rational::new(-1, 1)?))? } else { term };
            total = Some(match total {
                Some(total) => total.plus(&term)?,
                None => term,
            });
            rest = &rest[from + length..];
        }
        total
    }

    /// Whether the two are the same, for all values of their variables.
    pub fn equals(&self, other: &Self) -> bool {
        let cross = |a: &Sum, b: &Sum| multiply(a, b);
        match (cross(&self.above, &other.below), cross(&other.above, &self.below)) {
            (Some(left), Some(right)) => left == right,
            _ => false,
        }
    }

    /// The difference.
    pub fn minus(&self, other: &Self) -> Option<Self> {
        self.plus(&other.times(&Quotient::constant(Rational::new(-1, 1)?))?)
    }

    /// The negative.
    pub fn negative(&self) -> Option<Self> {
        self.times(&Quotient::constant(Rational::new(-1, 1)?))
    }

    fn constant(value: Rational) -> Self {
        Quotient { above: term(value, 1, None), below: one() }
    }

    fn variable(name: String) -> Option<Self> {
        Some(Quotient { above: term(Rational::new(1, 1)?, 1, Some(name)), below: one() })
    }

    /// Its value, if it is a fraction of whole numbers.
    fn as_rational(&self) -> Option<Rational> {
        let value = |sum: &Sum| -> Option<Rational> {
            let mut terms = sum.iter();
            match (terms.next(), terms.next()) {
                (None, _) => Rational::new(0, 1),
                (Some((m, &c)), None) if m.radicand == 1 && m.powers.is_empty() => Some(c),
                _ => None,
            }
        };
        value(&self.above)?.checked_div(value(&self.below)?)
    }

    fn plus(&self, other: &Self) -> Option<Self> {
        if self.below == other.below {
            return Some(Quotient { above: add(&self.above, &other.above)?, below: self.below.clone() });
        }
        let above = add(&multiply(&self.above, &other.below)?, &multiply(&other.above, &self.below)?)?;
        Some(Quotient { above, below: multiply(&self.below, &other.below)? })
    }

    fn times(&self, other: &Self) -> Option<Self> {
        Some(Quotient {
            above: multiply(&self.above, &other.above)?,
            below: multiply(&self.below, &other.below)?,
        })
    }

    fn inverse(&self) -> Option<Self> {
        if self.above.is_empty() {
            return None;
        }
        Some(Quotient { above: self.below.clone(), below: self.above.clone() })
    }

    /// Its power to a fraction.
    fn power(&self, exponent: Rational) -> Option<Self> {
        let (n, k) = exponent.terms();
        if n == 0 || n.checked_abs()? > MAX_POWER {
            return None;
        }
        let base = if k == 1 { self.clone() } else { self.root(k)? };
        let mut power = base.clone();
        for _ in 1..n.abs() {
            power = power.times(&base)?;
        }
        if n < 0 { power.inverse() } else { Some(power) }
    }

    /// Its root of order `k`: of a number that is not negative, or a square root. That of a polynomial is a variable of its own.
    fn root(&self, k: i128) -> Option<Self> {
        let order = u32::try_from(k).ok().filter(|k| (2..=16).contains(k))?;
        let Some(value) = self.as_rational() else {
            let spelled = (self.below == one()).then(|| format!("root {k} of {:?}", self.above))?;
            return Quotient::variable(spelled);
        };
        let (a, b) = value.terms();
        if a == 0 {
            return Some(self.clone());
        }
        if a < 0 {
            return None;
        }
        // The root of a/b is that of a·b^(k−1), over b.
        let radicand = a.checked_mul(b.checked_pow(order - 1)?)?;
        let (outside, inside) = extract(radicand, order)?;
        let factor = Rational::new(outside, b)?;
        if inside == 1 || order == 2 {
            return Some(Quotient { above: term(factor, inside, None), below: one() });
        }
        Some(Quotient { above: term(factor, 1, Some(format!("root {k} of {inside}"))), below: one() })
    }
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
        // Side by side, a number is the first factor: `x2` and `2 3` are other things.
        if matches!(nodes.get(at)?, Node::Number(_)) && total.is_some() && !multiplied {
            return None;
        }
        let (factor, next) = power(nodes, at)?;
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
    Some((base.power(Quotient::read(exponent)?.as_rational()?)?, next + 1))
}

fn factor(nodes: &[Node], at: usize) -> Option<(Quotient, usize)> {
    let value = match nodes.get(at)? {
        Node::Number(number) => Quotient::constant(*number),
        Node::Char(c) if c.is_alphabetic() => return letters(nodes, at),
        Node::Name(name) if VARIABLES.contains(&name.as_str()) => {
            return indexed(name.clone(), nodes, at + 1);
        }
        Node::Apply(name, args) => match (name.as_str(), args.as_slice()) {
            ("/", [above, below]) => Quotient::read(above)?.times(&Quotient::read(below)?.inverse()?)?,
            ("sqrt", [radicand]) => Quotient::read(radicand)?.root(2)?,
            ("sqrt", [radicand, order]) => {
                let (n, k) = Quotient::read(order)?.as_rational()?.terms();
                Quotient::read(radicand)?.root(if k == 1 { n } else { return None })?
            }
            _ => return None,
        },
        Node::List('(', items, ')') => match items.as_slice() {
            [Element { label: None, value, unit: None }] => Quotient::read(value)?,
            _ => return None,
        },
        _ => return None,
    };
    Some((value, at + 1))
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

fn one() -> Sum {
    Rational::new(1, 1).map_or_else(Sum::new, |one| term(one, 1, None))
}

fn term(coefficient: Rational, radicand: i128, variable: Option<String>) -> Sum {
    let powers = variable.into_iter().map(|name| (name, 1)).collect();
    let sum = Sum::from([(Monomial { radicand, powers }, coefficient)]);
    if coefficient.is_zero() { Sum::new() } else { sum }
}

fn insert(sum: &mut Sum, monomial: Monomial, coefficient: Rational) -> Option<()> {
    let total = match sum.remove(&monomial) {
        Some(before) => before.checked_add(coefficient)?,
        None => coefficient,
    };
    if !total.is_zero() {
        sum.insert(monomial, total);
    }
    (sum.len() <= MAX_TERMS).then_some(())
}

fn add(a: &Sum, b: &Sum) -> Option<Sum> {
    let mut sum = a.clone();
    for (monomial, &coefficient) in b {
        insert(&mut sum, monomial.clone(), coefficient)?;
    }
    Some(sum)
}

fn multiply(a: &Sum, b: &Sum) -> Option<Sum> {
    let mut sum = Sum::new();
    for (left, &x) in a {
        for (right, &y) in b {
            // √6·√10 = 2·√15
            let shared = gcd(left.radicand, right.radicand);
            let radicand = (left.radicand / shared).checked_mul(right.radicand / shared)?;
            let mut powers = left.powers.clone();
            for (name, n) in &right.powers {
                let power = powers.entry(name.clone()).or_insert(0);
                *power += n;
                if *power > MAX_POWER {
                    return None;
                }
            }
            let coefficient = x.checked_mul(y)?.checked_mul(Rational::new(shared, 1)?)?;
            insert(&mut sum, Monomial { radicand, powers }, coefficient)?;
        }
    }
    Some(sum)
}

/// `n` as a^k·b with b free of powers of k; returns a and b.
fn extract(n: i128, k: u32) -> Option<(i128, i128)> {
    if !(1..=MAX_RADICAND).contains(&n) {
        return None;
    }
    let (mut rest, mut outside, mut inside) = (n, 1i128, 1i128);
    let mut p = 2;
    while p * p <= rest {
        let mut count = 0;
        while rest % p == 0 {
            rest /= p;
            count += 1;
        }
        outside *= p.pow(count / k);
        inside *= p.pow(count % k);
        p += 1;
    }
    Some((outside, inside * rest))
}

/// The greatest common divisor of numbers above 0.
fn gcd(mut a: i128, mut b: i128) -> i128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn powers_are_taken_out_of_roots() {
        assert_eq!(extract(12, 2), Some((2, 3)));
        assert_eq!(extract(1, 2), Some((1, 1)));
        assert_eq!(extract(54, 3), Some((3, 2)));
        assert_eq!(extract(16, 3), Some((2, 2)));
        assert_eq!(extract(9_999_999_967, 2), Some((1, 9_999_999_967)), "a prime");
        for out in [0, -4, MAX_RADICAND + 1] {
            assert_eq!(extract(out, 2), None);
        }
    }

    proptest! {
        #[test]
        fn a_number_is_its_parts(n in 1i128..1_000_000, k in 2u32..5) {
            let (a, b) = extract(n, k).unwrap();
            prop_assert_eq!(a.pow(k) * b, n);
            prop_assert!((2..100).all(|p: i128| b % p.pow(k) != 0), "{} of {}", b, n);
        }
    }
}
