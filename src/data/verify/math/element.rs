//! The elements of a list: name, value, unit; and the value in one form.

use super::node::{Element, Node};
use super::rational::Rational;
use super::units;

/// The elements of a list, split at its commas; an empty list for no nodes.
pub fn elements(nodes: Vec<Node>) -> Vec<Element> {
    if nodes.is_empty() {
        return Vec::new();
    }
    let mut elements = Vec::new();
    let mut current = Vec::new();
    let mut after_comma = false;
    for node in nodes {
        // `1, 2, and 3`
        let separates = node == Node::Comma || node == Node::Conjunction && !after_comma;
        after_comma = node == Node::Comma;
        if separates {
            elements.push(element(std::mem::take(&mut current)));
        } else if node != Node::Conjunction {
            current.push(node);
        }
    }
    elements.push(element(current));
    elements
}

fn element(mut nodes: Vec<Node>) -> Element {
    let currency = take_currency(&mut nodes);
    let (label, mut nodes) = split_label(nodes);
    let unit = split_unit(&mut nodes).or(currency);
    let mut value = settle(nodes);
    let unit = unit.or_else(|| split_base(&mut value));
    // A value in round brackets of its own is that value; the brackets may also hold its name and unit.
    match alone_in_brackets(value) {
        Ok(inner) => Element { label: label.or(inner.label), value: inner.value, unit: unit.or(inner.unit) },
        Err(value) => Element { label, value, unit },
    }
}

/// The element of `(element)`, or the nodes as they were.
fn alone_in_brackets(mut nodes: Vec<Node>) -> Result<Element, Vec<Node>> {
    match nodes.as_mut_slice() {
        [Node::List('(', items, ')')] if items.len() == 1 => Ok(items.remove(0)),
        _ => Err(nodes),
    }
}

/// Removes a currency sign at either end, or after a minus sign, and returns it.
fn take_currency(nodes: &mut Vec<Node>) -> Option<String> {
    let is_currency = |node: Option<&Node>| matches!(node, Some(Node::Char('$' | '€' | '£')));
    let first = usize::from(nodes.first() == Some(&Node::Char('-')));
    let at = [first, nodes.len().saturating_sub(1)].into_iter().find(|&at| is_currency(nodes.get(at)))?;
    match nodes.remove(at) {
        Node::Char(c) => Some(c.to_string()),
        _ => None,
    }
}

/// Splits `name = value` and `name ∈ value`. A name is a letter, command or word, perhaps with an index
/// or arguments (`x_1`, `f(x)`); with more than one `=` there is none.
fn split_label(mut nodes: Vec<Node>) -> (Option<Vec<Node>>, Vec<Node>) {
    let mut signs = nodes.iter().enumerate().filter(|(_, n)| matches!(n, Node::Char('=' | '∈')));
    let (Some((at, _)), None) = (signs.next(), signs.next()) else {
        return (None, nodes);
    };
    let is_name = match &nodes[..at] {
        [Node::Char(c), rest @ ..] if c.is_alphabetic() => is_suffix(rest),
        [Node::Name(_) | Node::Word(_), rest @ ..] => is_suffix(rest),
        _ => false,
    };
    if !is_name || at + 1 == nodes.len() {
        return (None, nodes);
    }
    let value = nodes.split_off(at + 1);
    nodes.pop();
    (Some(settle(nodes)), value)
}

/// Whether nothing but scripts and arguments follows a name.
fn is_suffix(nodes: &[Node]) -> bool {
    nodes.len() <= 2 && nodes.iter().all(|n| matches!(n, Node::Apply(..) | Node::List('(', ..)))
}

/// Removes the unit after a value and returns it.
fn split_unit(nodes: &mut Vec<Node>) -> Option<String> {
    let mut start = None;
    for (at, node) in nodes.iter().enumerate().rev() {
        match node {
            Node::Word(word) if units::may_be(word) => start = Some(at),
            Node::Char('%' | '°') => start = Some(at),
            // Inside of a unit only: km/h, cm^2, sq. ft
            Node::Char('/' | '.' | '-') => {}
            Node::Apply(script, _) if script == "^" => {}
            _ => break,
        }
    }
    let start = start?;
    // Nodes that begin with a word are a text, not a value; if they end in an operator, its operand is missing.
    let ends_in_value = match &nodes[..start] {
        [.., Node::Word(word)] => units::is_numeral(word),
        [.., last] => last.is_factor(),
        [] => false,
    };
    if !ends_in_value || matches!(nodes.first(), Some(Node::Word(_))) {
        return None;
    }
    Some(units::canonical(&nodes.split_off(start)))
}

/// Removes the base after a numeral (`204_5`) and returns it: like a unit it may be left out, but not differ.
fn split_base(value: &mut Vec<Node>) -> Option<String> {
    let [Node::Number(numeral), Node::Apply(script, args)] = value.as_slice() else { return None };
    let [index] = args.as_slice() else { return None };
    let [Node::Number(base)] = index.as_slice() else { return None };
    let is_base = base.is_whole() && (2..=36).contains(&base.terms().0);
    if script != "_" || !numeral.is_whole() || !is_base {
        return None;
    }
    let unit = format!("base {}", base.terms().0);
    value.pop();
    Some(unit)
}

/// Nodes in one form: signs joined to their numbers and drawn out of numerators, words as letters.
pub fn settle(nodes: Vec<Node>) -> Vec<Node> {
    let mut out: Vec<Node> = Vec::with_capacity(nodes.len());
    for node in nodes {
        match node {
            Node::Word(word) => out.extend(word.chars().map(Node::Char)),
            Node::Number(number) => {
                let negative = is_sign(&out).then(|| number.checked_neg()).flatten();
                if let Some(negative) = negative {
                    out.pop();
                    out.push(Node::Number(negative));
                } else {
                    out.push(node);
                }
            }
            Node::Apply(name, mut args) if name == "/" && out.is_empty() => {
                if let Some(numerator) = args.first_mut()
                    && take_sign(numerator)
                {
                    out.push(Node::Char('-'));
                }
                out.push(Node::Apply(name, args));
            }
            Node::Char('+') if out.is_empty() => {}
            _ => out.push(node),
        }
    }
    out
}

/// Whether `out` ends in a minus sign that belongs to the number that follows it.
fn is_sign(out: &[Node]) -> bool {
    match out {
        [Node::Char('-')] => true,
        [.., before, Node::Char('-')] => {
            !before.is_factor() && !matches!(before, Node::Char(')' | ']' | '|'))
        }
        _ => false,
    }
}

/// Removes the minus sign before a product; returns whether there was one.
fn take_sign(product: &mut Vec<Node>) -> bool {
    let Some((first, rest)) = product.split_first_mut() else {
        return false;
    };
    if !rest.iter().all(Node::is_factor) {
        return false;
    }
    match first {
        Node::Char('-') if !rest.is_empty() => {
            product.remove(0);
            true
        }
        Node::Number(number) if number.is_negative() => match number.checked_neg() {
            Some(positive) => {
                *number = positive;
                true
            }
            None => false,
        },
        _ => false,
    }
}

/// The nodes of an argument in one form, without round brackets around the whole of it.
pub fn argument(nodes: Vec<Node>) -> Vec<Node> {
    match alone_in_brackets(settle(nodes)) {
        Ok(Element { label: None, value, unit: None }) => value,
        Ok(element) => vec![Node::List('(', vec![element], ')')],
        Err(nodes) => nodes,
    }
}

/// `numerator / denominator`: a number if both are, and the denominator is not 0.
pub fn fraction(numerator: Vec<Node>, denominator: Vec<Node>) -> Node {
    let (numerator, denominator) = (argument(numerator), argument(denominator));
    let number = match (numerator.as_slice(), denominator.as_slice()) {
        (&[Node::Number(a)], &[Node::Number(b)]) => Rational::checked_div(a, b),
        _ => None,
    };
    number.map_or_else(|| Node::Apply("/".to_owned(), vec![numerator, denominator]), Node::Number)
}
