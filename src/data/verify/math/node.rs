//! The parsed form of an answer.

use super::rational::Rational;

/// A piece of a formula.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// A number: digits, or a fraction of numbers.
    Number(Rational),
    /// A number too long for exact arithmetic: its digits without padding zeros.
    Digits(String),
    /// A letter, operator or other sign.
    Char(char),
    /// A command without arguments, such as `pi`.
    Name(String),
    /// A run of letters that may be a unit: upright, or known as one.
    Word(String),
    /// The separator of a list's elements.
    Comma,
    /// `and` or `or`: a separator too, one with a comma before it.
    Conjunction,
    /// A command with arguments; `/` is a fraction, `^` and `_` are scripts on the argument before them.
    Apply(String, Vec<Vec<Node>>),
    /// A bracketed list: opening bracket, elements, closing bracket.
    List(char, Vec<Element>, char),
}

/// An element of a list, or a whole answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Element {
    /// The name before the `=` or `∈` (`x` in `x = 5`), if there is one.
    pub label: Option<Vec<Node>>,
    /// The value.
    pub value: Vec<Node>,
    /// The unit behind the value, or the base of a numeral, in one spelling.
    pub unit: Option<String>,
}

impl Node {
    /// Whether it can be a factor of a product, which a `/` after it divides.
    pub fn is_factor(&self) -> bool {
        match self {
            Node::Char(c) => c.is_alphanumeric() || matches!(c, '!' | '\''),
            Node::Word(_) | Node::Comma | Node::Conjunction => false,
            // The end of a matrix's row, and its beginning.
            Node::Name(name) => name != "\\",
            Node::Apply(name, _) => name != "begin",
            Node::Number(_) | Node::Digits(_) | Node::List(..) => true,
        }
    }
}
