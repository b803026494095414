//! Finding the answer in a text, and comparing two answers.
//!
//! Accuracy is the figure everything else is judged by, so equality is exact: numbers are compared
//! digit by digit, not as floats that would call 9007199254740993 and 9007199254740992 the same
//! (GSM-Hard has answers of that size). The rule is that of spec sections 5 and 12: strip blanks, a final
//! `.` and thousands commas; equal as numbers (10.0 = 10) or, failing that, as text.

use serde::{Deserialize, Serialize};

/// The mark before the answer in the prompt layout (spec section 1).
pub const ANSWER_MARK: &str = "Answer:";

/// Which part of a text is its answer (spec section 5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum AnswerRule {
    /// The text after the last `Answer:`; without one there is no answer
    #[default]
    Last,
    /// The authors' code's: what stands between the first `Answer:` and a second one, or without one the whole text
    Paper,
}

impl AnswerRule {
    /// The answer in a generated text, without surrounding blanks; `None` if it has none.
    pub fn extract(self, text: &str) -> Option<&str> {
        match self {
            AnswerRule::Last => extract(text),
            AnswerRule::Paper => {
                let mut parts = text.split(ANSWER_MARK);
                let before = parts.next();
                parts.next().or(before).map(str::trim)
            }
        }
    }

    /// The answer that a data set gives: where it holds the mark itself, the part that a generated text like it would
    /// be judged by.
    pub fn gold(self, text: &str) -> &str {
        if text.contains(ANSWER_MARK) { self.extract(text).unwrap_or(text) } else { text }
    }
}

/// The answer in a generated text: the text after its last `Answer:`, without surrounding blanks.
///
/// The last, because a reasoning text may itself use the word. `None` when there is none.
pub fn extract(text: &str) -> Option<&str> {
    text.rfind(ANSWER_MARK).map(|at| text[at + ANSWER_MARK.len()..].trim())
}

/// Whether `predicted` counts as the answer `gold`.
///
/// A comma is a thousands comma only where every group behind one has three digits: `1,234` is a
/// number, the pair `1,2` is text. Signs, decimals and exponents (`-1.5e3`) are understood; `inf`,
/// `nan`, fractions and units are text. Text is compared letter by letter, case included.
pub fn matches(predicted: &str, gold: &str) -> bool {
    let (predicted, gold) = (strip(predicted), strip(gold));
    match (Decimal::parse(predicted), Decimal::parse(gold)) {
        (Some(predicted), Some(gold)) => predicted == gold,
        _ => predicted == gold,
    }
}

/// `text` without surrounding blanks and without one final full stop.
fn strip(text: &str) -> &str {
    let text = text.trim();
    text.strip_suffix('.').map_or(text, str::trim_end)
}

/// A decimal number of any length: `±0.DIGITS · 10^exponent`, with neither leading nor trailing
/// zeros in `digits`. Two of them are the same number exactly when all fields are equal.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// Reads `[+-]digits[,digits…][.digits][e[+-]digits]`; `None` if `text` is anything else.
    fn parse(text: &str) -> Option<Self> {
        let (negative, text) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let whole = without_commas(whole)?;
        if whole.is_empty() && fraction.is_empty() || !is_digits(fraction) {
            return None;
        }
        let all = whole.clone() + fraction;
        let significant = all.trim_start_matches('0');
        let leading_zeros = all.len() - significant.len();
        let digits = significant.trim_end_matches('0').to_owned();
        if digits.is_empty() {
            return Some(Decimal { negative: false, digits, exponent: 0 });
        }
        let places = i64::try_from(whole.len()).ok()?.checked_sub(i64::try_from(leading_zeros).ok()?)?;
        Some(Decimal { negative, digits, exponent: exponent.checked_add(places)? })
    }
}

/// The number behind an `e`: an optional sign and at least one digit, within i64.
fn parse_exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !is_digits(digits) {
        return None;
    }
    text.parse().ok()
}

/// The digits of a whole number without its thousands commas; `None` if it is not one. May be empty.
fn without_commas(whole: &str) -> Option<String> {
    let mut groups = whole.split(',');
    let first = groups.next()?;
    let grouped = first.len() != whole.len();
    if !is_digits(first) || grouped && !(1..=3).contains(&first.len()) {
        return None;
    }
    let mut digits = first.to_owned();
    for group in groups {
        if group.len() != 3 || !is_digits(group) {
            return None;
        }
        digits.push_str(group);
    }
    Some(digits)
}

/// Whether `text` holds nothing but ASCII digits; true when empty.
fn is_digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn extraction_takes_what_follows_the_last_mark() {
        assert_eq!(extract("###Answer:19"), Some("19"));
        assert_eq!(extract("Answer: 7 ###Answer:\n 19 \n"), Some("19"));
        assert_eq!(extract("Answer:"), Some(""));
        assert_eq!(extract("answer:19"), None);
        assert_eq!(extract(""), None);
    }

    #[test]
    fn the_authors_rule_takes_what_follows_the_first_mark() {
        for (text, last, paper) in [
            ("###Answer:19", Some("19"), "19"),
            ("Answer: 7 ###Answer:\n 19 \n", Some("19"), "7 ###"),
            ("19 ", None, "19"),
            ("Answer:", Some(""), ""),
            ("", None, ""),
        ] {
            assert_eq!(AnswerRule::Last.extract(text), last, "{text:?}");
            assert_eq!(AnswerRule::Paper.extract(text), Some(paper), "{text:?}");
        }
        assert_eq!(AnswerRule::Last.gold("So Answer: 4, Answer: 5"), "5");
        assert_eq!(AnswerRule::Paper.gold("So Answer: 4, Answer: 5"), "4,");
        assert_eq!([AnswerRule::Last, AnswerRule::Paper].map(|rule| rule.gold(" 5 ")), [" 5 "; 2]);
    }

    #[test]
    fn equal_answers() {
        for (predicted, gold) in [
            ("10.0", "10"),
            (" 10 ", "10"),
            ("10.", "10"),
            ("10 .", "10"),
            ("1,234", "1234"),
            ("1,234,567.50", "1234567.5"),
            ("-3", "-3.00"),
            ("+3", "3"),
            ("-0", "0"),
            ("0.0", "-0.000"),
            ("007", "7"),
            (".5", "0.5"),
            ("5e-1", "0.5"),
            ("1e3", "1,000"),
            ("1.25E+2", "125"),
            ("9007199254740993", "9007199254740993.0"),
            ("0e99999999999", "0"),
            ("Paris", "Paris"),
            (" Paris. ", "Paris"),
            (r"\frac{1}{2}", r"\frac{1}{2}"),
            ("1,2", "1,2"),
            ("", ""),
            ("１０", "１０"),
        ] {
            assert!(matches(predicted, gold), "{predicted:?} should match {gold:?}");
            assert!(matches(gold, predicted), "{gold:?} should match {predicted:?}");
        }
    }

    #[test]
    fn different_answers() {
        for (predicted, gold) in [
            ("10.01", "10"),
            ("-10", "10"),
            ("100", "10"),
            ("1e1", "1"),
            ("9007199254740993", "9007199254740992"),
            ("123456789012345678901234567890", "123456789012345678901234567891"),
            ("0.1", "0.10000000000000001"),
            ("1,2", "12"),
            ("12,34", "1234"),
            ("1234,567", "1234567"),
            (",123", "123"),
            ("1,,234", "1234"),
            ("paris", "Paris"),
            ("10 apples", "10"),
            ("$10", "10"),
            ("", "0"),
            (".", "0"),
            ("-", "0"),
            ("e5", "0"),
            ("1e", "1"),
            ("1e+", "1"),
            ("--1", "1"),
            ("nan", "NaN"),
            ("inf", "1e999"),
            ("1e99999999999999999999", "1e99999999999999999998"),
            ("１０", "10"),
        ] {
            assert!(!matches(predicted, gold), "{predicted:?} should not match {gold:?}");
            assert!(!matches(gold, predicted), "{gold:?} should not match {predicted:?}");
        }
    }

    /// `n` with commas behind every third digit from the right.
    fn grouped(n: u64) -> String {
        let digits = n.to_string();
        let mut out = String::new();
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                out.push(',');
            }
            out.push(digit);
        }
        out
    }

    proptest! {
        #[test]
        fn no_text_panics_and_every_text_matches_itself(a in any::<String>(), b in any::<String>()) {
            prop_assert!(matches(&a, &a));
            prop_assert_eq!(matches(&a, &b), matches(&b, &a));
            let _ = extract(&a);
        }

        #[test]
        fn number_like_text_never_panics(a in "[-+0-9.,eE ]{0,24}", b in "[-+0-9.,eE ]{0,24}") {
            prop_assert!(matches(&a, &a));
            prop_assert_eq!(matches(&a, &b), matches(&b, &a));
        }

        #[test]
        fn whole_numbers_match_exactly_when_equal(a in any::<i64>(), b in any::<i64>()) {
            prop_assert_eq!(matches(&a.to_string(), &b.to_string()), a == b);
            let (decimal, neighbour) = (format!("{a}.0"), a.wrapping_add(1).to_string());
            prop_assert!(!matches(&decimal, &neighbour));
        }

        #[test]
        fn every_spelling_of_a_number_matches(n in any::<u64>(), zeros in 0usize..5, point in 1usize..12) {
            let plain = n.to_string();
            prop_assert!(matches(&grouped(n), &plain));
            let spelled = format!(" {}{plain}.{} . ", "0".repeat(zeros), "0".repeat(zeros));
            prop_assert!(matches(&spelled, &plain));
            let scaled = format!("{plain}{}e-{point}", "0".repeat(point));
            prop_assert!(matches(&scaled, &plain));
            let shifted = format!("0.{}{plain}e{}", "0".repeat(point), point + plain.len());
            prop_assert!(matches(&shifted, &plain));
        }
    }
}
