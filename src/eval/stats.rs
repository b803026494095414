//! A mean over seeds with its confidence interval.
//!
//! Five seeds are few, so the interval is Student's, not the normal one: with n values of standard
//! deviation s (Bessel's correction) the mean is known to ± t(0.975, n − 1) · s / √n with 95 %
//! confidence.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// A mean with its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Half the width of the interval; `None` for a single value, which says nothing of its spread.
    pub half_width: Option<f64>,
}

/// Mean and interval of `values`, one a seed; `None` if there are none.
pub fn estimate(values: &[f64]) -> Option<Estimate> {
    if values.is_empty() {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let half_width = StudentsT::new(0.0, 1.0, n - 1.0).ok().map(|t| {
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
        t.inverse_cdf(0.975) * (variance / n).sqrt()
    });
    Some(Estimate { mean, half_width })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_values_against_the_published_quantile() {
        let e = estimate(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert_eq!(e.mean, 3.0);
        // t(0.975, 4) = 2.776445, s = sqrt(2.5)
        let want = 2.776_445_105 * (2.5f64 / 5.0).sqrt();
        assert!((e.half_width.unwrap() - want).abs() < 1e-8);
    }

    #[test]
    fn two_values_have_a_wide_interval_and_equal_ones_none() {
        // t(0.975, 1) = 12.706205, s / sqrt(2) = 0.5
        let e = estimate(&[0.0, 1.0]).unwrap();
        assert!((e.half_width.unwrap() - 12.706_204_736 * 0.5).abs() < 1e-7);
        assert_eq!(estimate(&[0.5; 5]).unwrap(), Estimate { mean: 0.5, half_width: Some(0.0) });
    }

    #[test]
    fn one_value_has_no_interval_and_none_no_mean() {
        assert_eq!(estimate(&[0.25]), Some(Estimate { mean: 0.25, half_width: None }));
        assert_eq!(estimate(&[]), None);
    }
}
