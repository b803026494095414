//! Units of measurement, in one spelling.

use super::node::Node;

/// Units by their spellings, the first of which is the one that is compared. Plurals in `s` are understood.
const UNITS: &[&[&str]] = &[
    &["mm", "millimeter", "millimetre"],
    &["cm", "centimeter", "centimetre"],
    &["m", "meter", "metre"],
    &["km", "kilometer", "kilometre"],
    &["in", "inch", "inches"],
    &["ft", "foot", "feet"],
    &["yd", "yard"],
    &["mi", "mile"],
    &["mg", "milligram"],
    &["g", "gram"],
    &["kg", "kilogram"],
    &["oz", "ounce"],
    &["lb", "pound"],
    &["ml", "milliliter", "millilitre"],
    &["l", "liter", "litre"],
    &["gal", "gallon"],
    &["s", "sec", "second"],
    &["min", "minute"],
    &["h", "hr", "hour"],
    &["day"],
    &["week"],
    &["month"],
    &["year"],
    &["mph"],
    &["deg", "degree"],
    &["%", "percent"],
    &["$", "dollar"],
    &["cent"],
    &["unit"],
    &["/", "per"],
    &[SQUARE, "sq"],
    &[CUBIC, "cu"],
];
const SQUARE: &str = "square";
const CUBIC: &str = "cubic";

/// Words behind a number that are part of its value.
const NUMERALS: &[&str] = &["dozen", "hundred", "thousand", "million", "billion", "trillion"];

/// Letters that, upright and alone, are a unit; others are variables or constants, as i and e.
const LETTERS: &[&str] = &["m", "g", "s", "h", "l", "L", "N", "J", "W", "V", "A", "C", "F", "K"];

/// Whether a word not marked as text is a unit: one of at least two letters, since one is a variable.
pub fn is_known(word: &str) -> bool {
    word.len() > 1 && spelling(&word.to_lowercase()).is_some()
}

/// Whether a word marked as text may be a unit after a value: anything countable may.
pub fn may_be(word: &str) -> bool {
    let is_letter = word.chars().nth(1).is_none();
    if is_letter { LETTERS.contains(&word) } else { !is_numeral(word) }
}

/// Whether a word is a numeral, such as `million`, and not a unit.
pub fn is_numeral(word: &str) -> bool {
    NUMERALS.contains(&word.strip_suffix('s').unwrap_or(word))
}

/// The spelling under which a unit is compared, if it is a known one.
fn spelling(lower: &str) -> Option<&'static str> {
    let find = |word: &str| UNITS.iter().find(|names| names.contains(&word)).map(|names| names[0]);
    find(lower).or_else(|| lower.strip_suffix('s').filter(|stem| stem.len() > 1).and_then(find))
}

/// One spelling for `nodes`, the words and signs of a unit: that of `centimeters`, `square cm` and `cm^2`.
pub fn canonical(nodes: &[Node]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut power = None;
    for node in nodes {
        match node {
            Node::Word(word) => {
                let lower = word.to_lowercase();
                match spelling(&lower) {
                    Some(SQUARE) => power = Some("^2/1"),
                    Some(CUBIC) => power = Some("^3/1"),
                    known => {
                        parts.push(known.map_or_else(|| singular(&lower).to_owned(), str::to_owned));
                        parts.extend(power.take().map(str::to_owned));
                    }
                }
            }
            Node::Char('°') => parts.push("deg".to_owned()),
            Node::Char(c) => parts.push(c.to_string()),
            Node::Apply(script, args) => {
                if let [arg] = args.as_slice()
                    && let [Node::Number(number)] = arg.as_slice()
                {
                    parts.push(format!("{script}{number}"));
                }
            }
            _ => {}
        }
    }
    parts.join(" ")
}

/// A word of no known unit without the `s` of its plural.
fn singular(word: &str) -> &str {
    word.strip_suffix('s').filter(|stem| stem.len() > 2).unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::verify::math::rational::Rational;

    fn words(text: &str) -> Vec<Node> {
        text.split(' ').map(|w| Node::Word(w.to_owned())).collect()
    }

    #[test]
    fn one_spelling_a_unit() {
        assert_eq!(canonical(&words("centimeters")), "cm");
        assert_eq!(canonical(&words("Miles per hour")), "mi / h");
        let squared = Node::Apply("^".to_owned(), vec![vec![Node::Number(Rational::new(2, 1).unwrap())]]);
        assert_eq!(canonical(&words("square feet")), canonical(&[words("ft"), vec![squared]].concat()));
        assert_eq!(canonical(&words("apples")), "apple");
        assert_eq!(canonical(&[Node::Char('°')]), canonical(&words("degrees")));
    }

    #[test]
    fn what_is_no_unit() {
        assert!(is_known("cm") && is_known("hours") && is_known("percent"));
        assert!(!is_known("m") && !is_known("ab") && !is_known("ms") && !is_known(""));
        assert!(may_be("apples") && may_be("m"));
        assert!(!may_be("million") && !may_be("millions") && !may_be("i") && !may_be("e") && !may_be("x"));
    }
}
