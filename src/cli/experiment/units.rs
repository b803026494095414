//! Units in which a column of figures is neither a row of zeros nor of long numbers.

/// Units of one quantity, from the smallest on: the value of each, and its name.
pub(super) struct Units(&'static [(f64, &'static str)]);

/// Things that are counted.
pub(super) const COUNT: Units = Units(&[(1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")]);

/// Floating-point operations.
pub(super) const OPERATIONS: Units = Units(&[
    (1.0, "FLOP"),
    (1e3, "kFLOP"),
    (1e6, "MFLOP"),
    (1e9, "GFLOP"),
    (1e12, "TFLOP"),
    (1e15, "PFLOP"),
    (1e18, "EFLOP"),
]);

/// Memory, of bytes.
pub(super) const BYTES: Units =
    Units(&[(1.0, "B"), (1024.0, "KiB"), (1048576.0, "MiB"), (1073741824.0, "GiB")]);

/// Time, of seconds. Days are hours here: what is billed is hours.
pub(super) const TIME: Units = Units(&[(1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h")]);

impl Units {
    /// The largest unit in which even the smallest of `values` has two digits or more, with so many decimals; zeros do
    /// not count.
    fn fitting(&self, decimals: usize, values: &[f64]) -> (f64, &'static str) {
        let least = values.iter().copied().filter(|&x| x > 0.0).fold(f64::INFINITY, f64::min);
        let digits = 0.1f64.powi(decimals as i32 - 1);
        let fits = |(size, _): &&(f64, &str)| least.is_finite() && least >= digits * size;
        self.0.iter().rev().find(fits).or(self.0.first()).copied().unwrap_or((1.0, ""))
    }

    /// A column: its head with the unit, and its cells with so many decimals.
    pub(super) fn column(&self, head: &str, decimals: usize, values: &[f64]) -> (String, Vec<String>) {
        let (size, name) = self.fitting(decimals, values);
        let head = if name.is_empty() { head.to_owned() } else { format!("{head} ({name})") };
        (head, values.iter().map(|x| format!("{:.decimals$}", x / size)).collect())
    }

    /// One value with its unit.
    pub(super) fn text(&self, decimals: usize, value: f64) -> String {
        let (size, name) = self.fitting(decimals, &[value]);
        format!("{:.decimals$} {name}", value / size).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_fits_its_column() {
        assert_eq!(
            COUNT.column("n", 1, &[41_600_000.0, 34_600_000.0]),
            ("n (M)".into(), vec!["41.6".into(), "34.6".into()])
        );
        assert_eq!(COUNT.column("n", 0, &[7.0, 0.0]), ("n".into(), vec!["7".into(), "0".into()]));
        assert_eq!(TIME.text(3, 453.0), "0.126 h");
        assert_eq!(TIME.text(1, 90.0), "1.5 min");
        assert_eq!(TIME.text(1, 0.000_02), "0.0 ms");
        assert_eq!(BYTES.text(1, 1536.0), "1.5 KiB");
        assert_eq!(OPERATIONS.text(1, 2.5e14), "250.0 TFLOP");
        assert_eq!(OPERATIONS.text(1, 0.0), "0.0 FLOP");
    }
}
