//! Values that some sets publish as text and others as a number.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A JSON text or number, as text: a number as decimal digits without an exponent, whole ones without `.0`. It is read
/// from the letters of the file, so that none of its digits is lost, however many there are.
#[derive(Debug)]
pub struct Scalar(String);

/// The most places that an exponent may move the point by: beyond it a number stays as it is written.
const MOST_PLACES: i64 = 400;

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let text = raw.get();
        match text.as_bytes().first() {
            Some(b'"') => serde_json::from_str(text).map(Scalar).map_err(D::Error::custom),
            Some(b'-' | b'0'..=b'9') => Ok(Scalar(plain(text).unwrap_or_else(|| text.to_owned()))),
            _ => Err(D::Error::custom("the value must be text or a number")),
        }
    }
}

impl From<Scalar> for String {
    fn from(scalar: Scalar) -> String {
        scalar.0
    }
}

/// A JSON number without exponent and without zeros at the end of its fraction.
fn plain(number: &str) -> Option<String> {
    let (sign, number) = number.strip_prefix('-').map_or(("", number), |rest| ("-", rest));
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let exponent: i64 = exponent.parse().ok().filter(|e: &i64| e.abs() <= MOST_PLACES)?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    // The digits, and how many of them stand before the point.
    let mut digits = format!("{whole}{fraction}");
    let mut point = whole.len() as i64 + exponent;
    if point <= 0 {
        digits.insert_str(0, &"0".repeat((1 - point) as usize));
        point = 1;
    }
    let point = point as usize;
    if digits.len() < point {
        digits.push_str(&"0".repeat(point - digits.len()));
    }
    let (whole, fraction) = digits.split_at(point);
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    Some(format!("{sign}{whole}{point}{fraction}"))
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
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("-0.1234567890123456789012345", "-0.1234567890123456789012345"),
            ("2.5", "2.5"),
            ("2.50", "2.5"),
            ("0", "0"),
            ("-0.0", "-0"),
            ("1e3", "1000"),
            ("1.25E+1", "12.5"),
            ("1e-5", "0.00001"),
            ("12.5e-2", "0.125"),
            ("1e999", "1e999"),
            ("\" 7 \"", " 7 "),
            ("\"\\u0037\"", "7"),
        ] {
            let scalar: Scalar = serde_json::from_str(json).unwrap();
            assert_eq!(String::from(scalar), text);
        }
        for wrong in ["[1]", "{}", "null", "true"] {
            let error = serde_json::from_str::<Scalar>(wrong).unwrap_err().to_string();
            assert!(error.contains("must be text or a number"), "{error}");
        }
    }
}
