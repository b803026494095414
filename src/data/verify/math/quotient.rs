//! Quotients of polynomials, in exact arithmetic.
//!
//! The variables of the polynomials are letters, π, roots that are no numbers, and logarithms of primes; their coefficients are
//! fractions times square roots of whole numbers. The roots of different square-free numbers are linearly independent over the
//! fractions, and so are the logarithms of different primes; π is transcendental. So what is equal here is equal as a number, and
//! `2\sqrt3` is `\sqrt{12}`, `(x+1)^2` is `x^2+2x+1`, `\frac{1}{1+\sqrt2}` is `\sqrt2-1`. Nothing is rounded; what would leave the
//! bounds below is no quotient.

use std::collections::BTreeMap;

use super::rational::Rational;

/// The most terms of a polynomial.
const MAX_TERMS: usize = 128;
/// The largest exponent, of a power that is multiplied out and of a variable.
const MAX_POWER: i128 = 64;
/// The largest number whose roots are taken, which is by trial division.
const MAX_RADICAND: i128 = 10_000_000_000;

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

    /// A number.
    pub fn constant(value: Rational) -> Self {
        Quotient { above: term(value, 1, None), below: one() }
    }

    /// A variable.
    pub fn variable(name: String) -> Option<Self> {
        Some(Quotient { above: term(Rational::new(1, 1)?, 1, Some(name)), below: one() })
    }

    /// Its logarithm to `base`, or the natural one: a sum of logarithms of primes over another. Of products of a number above
    /// 0, square roots of numbers and powers of e.
    pub fn logarithm(&self, base: Option<&Self>) -> Option<Self> {
        let above = self.natural_logarithm()?;
        match base {
            None => Some(above),
            Some(base) => above.times(&base.natural_logarithm()?.inverse()?),
        }
    }

    fn natural_logarithm(&self) -> Option<Self> {
        log_of_term(&self.above)?.minus(&log_of_term(&self.below)?)
    }

    /// Its value, if it is a fraction of whole numbers.
    pub fn as_rational(&self) -> Option<Rational> {
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

    /// The sum.
    pub fn plus(&self, other: &Self) -> Option<Self> {
        if self.below == other.below {
            return Some(Quotient { above: add(&self.above, &other.above)?, below: self.below.clone() });
        }
        let above = add(&multiply(&self.above, &other.below)?, &multiply(&other.above, &self.below)?)?;
        Some(Quotient { above, below: multiply(&self.below, &other.below)? })
    }

    /// The product.
    pub fn times(&self, other: &Self) -> Option<Self> {
        Some(Quotient {
            above: multiply(&self.above, &other.above)?,
            below: multiply(&self.below, &other.below)?,
        })
    }

    /// The inverse; `None` of 0.
    pub fn inverse(&self) -> Option<Self> {
        if self.above.is_empty() {
            return None;
        }
        Some(Quotient { above: self.below.clone(), below: self.above.clone() })
    }

    /// Its power to a fraction.
    pub fn power(&self, exponent: Rational) -> Option<Self> {
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
    pub fn root(&self, k: i128) -> Option<Self> {
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

/// The natural logarithm of a polynomial of one term.
fn log_of_term(sum: &Sum) -> Option<Quotient> {
    let mut terms = sum.iter();
    let (Some((Monomial { radicand, powers }, &coefficient)), None) = (terms.next(), terms.next()) else {
        return None;
    };
    let (a, b) = coefficient.terms();
    let mut total = Quotient { above: Sum::new(), below: one() };
    for (number, share) in [(a, (1, 1)), (b, (-1, 1)), (*radicand, (1, 2))] {
        for (prime, count) in primes(number)? {
            let times = Quotient::constant(Rational::new(count.checked_mul(share.0)?, share.1)?);
            total = total.plus(&Quotient::variable(format!("ln {prime}"))?.times(&times)?)?;
        }
    }
    for (name, &exponent) in powers {
        // That of another variable is not known.
        if name != "e" {
            return None;
        }
        total = total.plus(&Quotient::constant(Rational::new(exponent, 1)?))?;
    }
    Some(total)
}

/// The prime factors of `n` and how often each occurs.
fn primes(n: i128) -> Option<Vec<(i128, i128)>> {
    if !(1..=MAX_RADICAND).contains(&n) {
        return None;
    }
    let (mut rest, mut found, mut p) = (n, Vec::new(), 2);
    while p * p <= rest {
        let mut count = 0;
        while rest % p == 0 {
            rest /= p;
            count += 1;
        }
        if count > 0 {
            found.push((p, count));
        }
        p += 1;
    }
    if rest > 1 {
        found.push((rest, 1));
    }
    Some(found)
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
    let (mut outside, mut inside) = (1i128, 1i128);
    for (prime, count) in primes(n)? {
        let count = u32::try_from(count).ok()?;
        outside *= prime.pow(count / k);
        inside *= prime.pow(count % k);
    }
    Some((outside, inside))
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

    #[test]
    fn logarithms_are_taken_apart_into_those_of_primes() {
        let number = |a, b| Quotient::constant(Rational::new(a, b).unwrap());
        let log = |a: &Quotient, base: Option<Quotient>| a.logarithm(base.as_ref());
        assert!(log(&number(8, 1), Some(number(4, 1))).unwrap().equals(&number(3, 2)));
        assert!(log(&number(1, 9), Some(number(3, 1))).unwrap().equals(&number(-2, 1)));
        let root = number(8, 1).root(2).unwrap();
        assert!(log(&root, Some(number(2, 1))).unwrap().equals(&number(3, 2)));
        let e = Quotient::variable("e".into()).unwrap();
        assert!(log(&e.times(&e).unwrap(), None).unwrap().equals(&number(2, 1)));
        let sum = log(&number(3, 1), None).unwrap().plus(&log(&number(4, 1), None).unwrap()).unwrap();
        assert!(log(&number(12, 1), None).unwrap().equals(&sum));
        for (of, base) in [(number(0, 1), None), (number(-2, 1), None), (number(2, 1), Some(number(1, 1)))] {
            assert!(log(&of, base).is_none());
        }
        let sum = number(1, 1).plus(&e).unwrap();
        assert!(log(&sum, None).is_none() && log(&Quotient::variable("x".into()).unwrap(), None).is_none());
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
