//! Inequalities and intervals, in one form.

use super::node::{Element, Node};

/// Two or three formulas of which each is less than the next, or at most as large.
#[derive(Debug, PartialEq)]
pub struct Inequality<'a> {
    /// The formulas, the smallest first.
    pub sides: Vec<&'a [Node]>,
    /// Whether each is less than the next, and cannot be equal.
    pub strict: Vec<bool>,
}

/// The ends of an interval; `None` is infinity.
#[derive(Debug, PartialEq)]
pub struct Bounds<'a> {
    /// The lower end.
    pub low: Option<&'a [Node]>,
    /// The upper end.
    pub high: Option<&'a [Node]>,
    /// Whether each end belongs to it.
    pub closed: [bool; 2],
}

/// The direction of a sign of comparison, and whether it is strict.
fn comparison(node: &Node) -> Option<(bool, bool)> {
    match node {
        Node::Char('<') => Some((true, true)),
        Node::Char('≤') => Some((true, false)),
        Node::Char('>') => Some((false, true)),
        Node::Char('≥') => Some((false, false)),
        _ => None,
    }
}

impl<'a> Inequality<'a> {
    /// The inequality that `nodes` spell, with one sign or two of the same direction.
    pub fn read(nodes: &'a [Node]) -> Option<Self> {
        let signs: Vec<(bool, bool)> = nodes.iter().filter_map(comparison).collect();
        let rising = match signs.as_slice() {
            [(rising, _)] => *rising,
            [(rising, _), (then, _)] if rising == then => *rising,
            _ => return None,
        };
        let mut sides: Vec<&[Node]> = nodes.split(|node| comparison(node).is_some()).collect();
        let mut strict: Vec<bool> = signs.iter().map(|sign| sign.1).collect();
        if sides.iter().any(|side| side.is_empty()) {
            return None;
        }
        if !rising {
            sides.reverse();
            strict.reverse();
        }
        Some(Self { sides, strict })
    }

    /// The variable that it bounds, and where it holds.
    pub fn solved(&self) -> Option<(&'a [Node], Bounds<'a>)> {
        let closed = |end: usize| self.strict.get(end).is_some_and(|strict| !strict);
        match *self.sides.as_slice() {
            [low, variable, high] if is_variable(variable) => {
                Some((variable, Bounds { low: Some(low), high: Some(high), closed: [closed(0), closed(1)] }))
            }
            [low, variable] if is_variable(variable) && !is_variable(low) => {
                Some((variable, Bounds { low: Some(low), high: None, closed: [closed(0), false] }))
            }
            [variable, high] if is_variable(variable) && !is_variable(high) => {
                Some((variable, Bounds { low: None, high: Some(high), closed: [false, closed(0)] }))
            }
            _ => None,
        }
    }
}

/// Whether this is one letter or command, perhaps with an index or an argument.
fn is_variable(nodes: &[Node]) -> bool {
    let named = |node: &Node| match node {
        Node::Char(c) => c.is_alphabetic(),
        Node::Name(name) => name != "infty" && name != "pi",
        _ => false,
    };
    match nodes {
        [name] => named(name),
        [name, Node::Apply(script, _)] => named(name) && script == "_",
        [name, Node::List('(', ..)] => named(name),
        _ => false,
    }
}

impl<'a> Bounds<'a> {
    /// Those of the interval that `nodes` are.
    pub fn of_interval(nodes: &'a [Node]) -> Option<Self> {
        let [Node::List(open @ ('(' | '['), items, close @ (')' | ']'))] = nodes else { return None };
        let [low, high] = items.as_slice() else { return None };
        let plain = |element: &'a Element| {
            (element.label.is_none() && element.unit.is_none()).then_some(&element.value)
        };
        let infinite = |node: &Node| *node == Node::Name("infty".into());
        let (low, high) = (plain(low)?, plain(high)?);
        let low = match low.as_slice() {
            [Node::Char('-'), end] if infinite(end) => None,
            low => Some(low),
        };
        let high = match high.as_slice() {
            [end] if infinite(end) => None,
            high => Some(high),
        };
        let closed = [*open == '[', *close == ']'];
        // The infinite belongs to no interval.
        if closed[0] && low.is_none() || closed[1] && high.is_none() {
            return None;
        }
        Some(Self { low, high, closed })
    }
}
