//! Values that some sets publish as text and others as a number.

use serde::Deserialize;
use serde_json::Number;

/// A JSON text or number.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "the value must be text or a number")]
pub enum Scalar {
    /// Text, kept as it is.
    Text(String),
    /// A number.
    Number(Number),
}

impl From<Scalar> for String {
    /// The text itself; a number as decimal digits without an exponent, whole ones without `.0`.
    fn from(scalar: Scalar) -> String {
        match scalar {
            Scalar::Text(text) => text,
            Scalar::Number(number) => match number.as_f64() {
                // Rust prints an f64 with the fewest digits that read back the same, never with an exponent.
                Some(float) if number.is_f64() => float.to_string(),
                _ => number.to_string(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_plain_decimals() {
        for (json, text) in [
            ("145.0", "145"),
            ("-9867630", "-9867630"),
            ("18446744073709551615", "18446744073709551615"),
            ("2.5", "2.5"),
            ("1e3", "1000"),
            ("1e-5", "0.00001"),
            ("\" 7 \"", " 7 "),
        ] {
            let scalar: Scalar = serde_json::from_str(json).unwrap();
            assert_eq!(String::from(scalar), text);
        }
        let error = serde_json::from_str::<Scalar>("[1]").unwrap_err().to_string();
        assert!(error.contains("must be text or a number"), "{error}");
    }
}
