//! The numbers that an option takes: checked, and said in words, from one value.

use std::fmt;
use std::path::PathBuf;

use crate::{Error, Result};

/// The numbers that an option takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Range {
    /// Whole numbers from one to another, both included.
    Whole(u64, u64),
    /// All finite numbers.
    Finite,
    /// Finite numbers of at least this.
    Least(f64),
    /// Finite numbers above this.
    Above(f64),
    /// Numbers from one to another, both included.
    Between(f64, f64),
    /// Numbers of at least the first and below the second.
    Below(f64, f64),
    /// Numbers above the first and at most the second.
    AboveTo(f64, f64),
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Range::Whole(least, u64::MAX) => write!(f, "{least} to 2^64 - 1"),
            Range::Whole(least, most) => write!(f, "{least} to {most}"),
            Range::Finite => f.write_str("finite numbers"),
            Range::Least(least) => write!(f, "numbers of at least {least}"),
            Range::Above(bound) => write!(f, "numbers above {bound}"),
            Range::Between(least, most) => write!(f, "{least} to {most}"),
            Range::Below(least, bound) => write!(f, "numbers of at least {least} and below {bound}"),
            Range::AboveTo(bound, most) => write!(f, "numbers above {bound} and at most {most}"),
        }
    }
}

impl Range {
    /// Whether it has this whole number.
    pub fn has_whole(self, n: u64) -> bool {
        match self {
            Range::Whole(least, most) => (least..=most).contains(&n),
            _ => self.has(n as f64),
        }
    }

    /// Whether it has this number.
    pub fn has(self, x: f64) -> bool {
        x.is_finite()
            && match self {
                Range::Whole(least, most) => x.fract() == 0.0 && x >= least as f64 && x <= most as f64,
                Range::Finite => true,
                Range::Least(least) => x >= least,
                Range::Above(bound) => x > bound,
                Range::Between(least, most) => (least..=most).contains(&x),
                Range::Below(least, bound) => (least..bound).contains(&x),
                Range::AboveTo(bound, most) => x > bound && x <= most,
            }
    }

    /// Fails if the option of this name has a number outside the range.
    ///
    /// # Errors
    /// [`Error::Usage`] naming option, range and number.
    pub(crate) fn check(self, option: &str, value: &impl Numbers) -> Result<()> {
        match value.outside(self) {
            Some(value) => Err(Error::usage(format!("`{option}` takes {self}, not {value}"))),
            None => Ok(()),
        }
    }
}

/// A value of an option, as far as it consists of numbers.
pub(crate) trait Numbers {
    /// The first of its numbers that is outside `range`, as text; `None` if there is none.
    fn outside(&self, range: Range) -> Option<String>;
}

macro_rules! whole {
    ($($kind:ty),*) => {$(
        impl Numbers for $kind {
            fn outside(&self, range: Range) -> Option<String> {
                (!range.has_whole(*self as u64)).then(|| self.to_string())
            }
        }
    )*};
}
whole!(u16, u32, u64, usize);

macro_rules! real {
    ($($kind:ty),*) => {$(
        impl Numbers for $kind {
            fn outside(&self, range: Range) -> Option<String> {
                (!range.has(f64::from(*self))).then(|| self.to_string())
            }
        }
    )*};
}
real!(f32, f64);

impl<T: Numbers> Numbers for Vec<T> {
    fn outside(&self, range: Range) -> Option<String> {
        self.iter().find_map(|x| x.outside(range))
    }
}

impl<T: Numbers> Numbers for Option<T> {
    fn outside(&self, range: Range) -> Option<String> {
        self.as_ref().and_then(|x| x.outside(range))
    }
}

/// Says of types of options that they hold no numbers.
macro_rules! no_numbers {
    ($($kind:ty),* $(,)?) => {$(
        impl crate::range::Numbers for $kind {
            fn outside(&self, _: crate::range::Range) -> Option<String> {
                None
            }
        }
    )*};
}
#[cfg(feature = "train")]
pub(crate) use no_numbers;
no_numbers!(bool, String, PathBuf);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_its_bounds_as_it_says() {
        let says = |range: Range, has: &[f64], lacks: &[f64], words: &str| {
            assert!(has.iter().all(|&x| range.has(x)), "{range:?}");
            assert!(lacks.iter().chain(&[f64::NAN, f64::INFINITY]).all(|&x| !range.has(x)), "{range:?}");
            assert_eq!(range.to_string(), words);
        };
        says(Range::Whole(1, 8), &[1.0, 8.0], &[0.0, 9.0, 1.5, -1.0], "1 to 8");
        says(Range::Finite, &[-1e300, 0.0], &[], "finite numbers");
        says(Range::Least(0.0), &[0.0, 1e38], &[-1e-9], "numbers of at least 0");
        says(Range::Above(0.0), &[1e-9], &[0.0, -1.0], "numbers above 0");
        says(Range::Between(0.0, 1.0), &[0.0, 1.0], &[1.1, -0.1], "0 to 1");
        says(Range::Below(0.0, 1.0), &[0.0, 0.9], &[1.0], "numbers of at least 0 and below 1");
        says(Range::AboveTo(0.0, 1.0), &[1.0], &[0.0, 1.1], "numbers above 0 and at most 1");
    }

    #[test]
    fn whole_numbers_are_compared_as_such() {
        let all = Range::Whole(0, u64::MAX);
        assert!(all.has_whole(u64::MAX));
        assert_eq!(all.to_string(), "0 to 2^64 - 1");
        // The two are one float64.
        let most = (1 << 53) + 1;
        assert!(!Range::Whole(0, 1 << 53).has_whole(most));
        let error = Range::Whole(1, 4).check("c_max", &Some(vec![2usize, 7])).unwrap_err();
        assert_eq!((error.exit_code(), error.to_string().as_str()), (2, "`c_max` takes 1 to 4, not 7"));
        assert!(Range::Above(0.0).check("lr", &None::<f32>).is_ok());
        assert_eq!(
            Range::Above(0.0).check("lr", &-0.1f32).unwrap_err().to_string(),
            "`lr` takes numbers above 0, not -0.1"
        );
    }
}
