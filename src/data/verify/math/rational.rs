//! Fractions without rounding.
//!
//! A verifier that compared floats within a tolerance would take 0.333 for 1/3 and reward it. Everything
//! here is exact within i128 and `None` beyond it, so that the caller can compare as text instead.

/// A fraction in lowest terms; the denominator is above 0, so equal fractions have equal fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rational {
    numerator: i128,
    denominator: i128,
}

impl Rational {
    /// `numerator / denominator`; `None` if the denominator is 0 or the terms leave i128.
    pub fn new(numerator: i128, denominator: i128) -> Option<Self> {
        if denominator == 0 {
            return None;
        }
        let divisor = gcd(numerator.unsigned_abs(), denominator.unsigned_abs());
        let divisor = i128::try_from(divisor).ok()?;
        let (mut numerator, mut denominator) = (numerator / divisor, denominator / divisor);
        if denominator < 0 {
            (numerator, denominator) = (numerator.checked_neg()?, denominator.checked_neg()?);
        }
        Some(Rational { numerator, denominator })
    }

    /// The decimal `whole.fraction`, both of digits alone and either of them possibly empty.
    pub fn from_decimal(whole: &str, fraction: &str) -> Option<Self> {
        let fraction = fraction.trim_end_matches('0');
        let digits = format!("0{whole}{fraction}");
        let scale = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        Self::new(digits.parse().ok()?, scale)
    }

    /// The sum.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let left = self.numerator.checked_mul(other.denominator)?;
        let right = other.numerator.checked_mul(self.denominator)?;
        Self::new(left.checked_add(right)?, self.denominator.checked_mul(other.denominator)?)
    }

    /// The product.
    pub fn checked_mul(self, other: Self) -> Option<Self> {
        // Reduced crosswise first: the products are then the terms of the result, no larger.
        let a = Self::new(self.numerator, other.denominator)?;
        let b = Self::new(other.numerator, self.denominator)?;
        Self::new(a.numerator.checked_mul(b.numerator)?, a.denominator.checked_mul(b.denominator)?)
    }

    /// The quotient; `None` also where `other` is 0.
    pub fn checked_div(self, other: Self) -> Option<Self> {
        let a = Self::new(self.numerator, other.numerator)?;
        let b = Self::new(other.denominator, self.denominator)?;
        Self::new(a.numerator.checked_mul(b.numerator)?, a.denominator.checked_mul(b.denominator)?)
    }

    /// The negative.
    pub fn checked_neg(self) -> Option<Self> {
        Some(Rational { numerator: self.numerator.checked_neg()?, ..self })
    }

    /// Whether it is below 0.
    pub fn is_negative(self) -> bool {
        self.numerator < 0
    }

    /// Whether it lies strictly between 0 and 1, as the fraction of a mixed number does.
    pub fn is_proper(self) -> bool {
        0 < self.numerator && self.numerator < self.denominator
    }

    /// Numerator and denominator, in lowest terms.
    pub fn terms(self) -> (i128, i128) {
        (self.numerator, self.denominator)
    }

    /// Whether it is 0.
    pub fn is_zero(self) -> bool {
        self.numerator == 0
    }

    /// Whether it is a whole number.
    pub fn is_whole(self) -> bool {
        self.denominator == 1
    }
}

impl std::fmt::Display for Rational {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.numerator, self.denominator)
    }
}

/// The greatest common divisor; that of 0 and n is n.
fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ratio(numerator: i128, denominator: i128) -> Rational {
        Rational::new(numerator, denominator).unwrap()
    }

    #[test]
    fn lowest_terms() {
        assert_eq!(ratio(2, 4), ratio(1, 2));
        assert_eq!(ratio(1, -2), ratio(-1, 2));
        assert_eq!(ratio(0, -7), ratio(0, 1));
        assert_ne!(ratio(1, 3), Rational::from_decimal("0", "333").unwrap());
        assert_eq!(Rational::from_decimal("", "50"), Some(ratio(1, 2)));
        assert_eq!(Rational::from_decimal("", ""), Some(ratio(0, 1)));
        assert_eq!(ratio(-1, 2).to_string(), "-1/2");
    }

    #[test]
    fn what_does_not_fit_is_none() {
        assert_eq!(Rational::new(1, 0), None);
        assert_eq!(ratio(1, 2).checked_div(ratio(0, 1)), None);
        assert_eq!(Rational::new(i128::MIN, i128::MIN), None);
        assert_eq!(Rational::new(i128::MIN, -1), None);
        assert_eq!(ratio(i128::MIN, 1).checked_neg(), None);
        assert_eq!(ratio(i128::MAX, 1).checked_add(ratio(1, 1)), None);
        assert_eq!(Rational::from_decimal(&"9".repeat(40), ""), None);
        assert_eq!(Rational::from_decimal("", &"1".repeat(40)), None);
    }

    proptest! {
        #[test]
        fn division_undoes_itself(a in any::<i64>(), b in 1..i64::MAX, c in any::<i64>(), d in 1..i64::MAX) {
            let (x, y) = (ratio(a.into(), b.into()), ratio(c.into(), d.into()));
            if let Some(quotient) = x.checked_div(y) {
                // x / (x / y) = y
                prop_assert!(a == 0 || x.checked_div(quotient) == Some(y));
            } else {
                prop_assert_eq!(c, 0);
            }
        }

        #[test]
        fn no_terms_panic(a in any::<i128>(), b in any::<i128>(), c in any::<i128>(), d in any::<i128>()) {
            if let (Some(x), Some(y)) = (Rational::new(a, b), Rational::new(c, d)) {
                let _ = (x.checked_add(y), x.checked_div(y), x.checked_neg());
            }
        }
    }
}
