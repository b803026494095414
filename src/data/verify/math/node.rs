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
    /// The unit behind the value, in one spelling.
    pub unit: Option<String>,
}

impl Node {
    /// Whether it can be a factor of a product, which a `/` after it divides.
    pub fn is_factor(&self) -> bool {
        match self {
            Node::Char(c) => c.is_alphanumeric() || matches!(c, '!' | '\''),
            Node::Word(_) | Node::Comma => false,
            Node::Number(_) | Node::Digits(_) | Node::Name(_) | Node::Apply(..) | Node::List(..) => true,
        }
    }
}

/// Whether two lists of elements are the same, one by one and in order.
pub fn same_elements(a: &[Element], b: &[Element]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_element(a, b))
}

/// The values must agree. A name or a unit need not be given, but where both give one it must be the same.
fn same_element(a: &Element, b: &Element) -> bool {
    same_nodes(&a.value, &b.value)
        && a.label.as_ref().zip(b.label.as_ref()).is_none_or(|(a, b)| same_nodes(a, b))
        && a.unit.as_ref().zip(b.unit.as_ref()).is_none_or(|(a, b)| a == b)
}

fn same_nodes(a: &[Node], b: &[Node]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_node(a, b))
}

fn same_node(a: &Node, b: &Node) -> bool {
    match (a, b) {
        (Node::Apply(a, from), Node::Apply(b, to)) => {
            a == b && from.len() == to.len() && from.iter().zip(to).all(|(a, b)| same_nodes(a, b))
        }
        (Node::List(a, inner, z), Node::List(b, other, y)) => a == b && z == y && same_elements(inner, other),
        _ => a == b,
    }
}
