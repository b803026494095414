//! When two parsed answers are the same: spelled so, or equal as what they stand for.

use super::element::settle;
use super::formula;
use super::inequality::{Bounds, Inequality};
use super::node::{Element, Node};

/// The longest set, union or pair of signs whose parts are compared in any order.
const MAX_UNORDERED: usize = 16;

/// Environments of LaTeX that are matrices; that of bars is a determinant.
const MATRICES: &[&str] = &["matrix", "pmatrix", "bmatrix"];

/// Whether two lists of elements are the same, one by one and in order; where there is a `±`, its two values in any order.
pub fn same_elements(a: &[Element], b: &[Element]) -> bool {
    if a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_element(a, b)) {
        return true;
    }
    let signs = |list: &[Element]| list.iter().any(|e| e.value.contains(&Node::Char('±')));
    (signs(a) || signs(b)) && {
        let (a, b) = (both_signs(a), both_signs(b));
        unordered(&a, &b, same_element)
    }
}

/// The values must agree. A name or a unit need not be given, but where both give one it must be the same.
fn same_element(a: &Element, b: &Element) -> bool {
    let labels = a.label.as_ref().zip(b.label.as_ref());
    let units = a.unit.as_ref().zip(b.unit.as_ref());
    labels.is_none_or(|(a, b)| same_nodes(a, b))
        && units.is_none_or(|(a, b)| a == b)
        && (same_value(&a.value, &b.value) || is_range(a, b) || is_range(b, a))
}

/// Whether `a` is the interval in which the inequality `b` holds: `(3,\infty)`, or `x\in(3,\infty)`, and `x>3`.
fn is_range(a: &Element, b: &Element) -> bool {
    let (Some(interval), Some(inequality)) = (Bounds::of_interval(&a.value), Inequality::read(&b.value))
    else {
        return false;
    };
    let Some((variable, bounds)) = inequality.solved() else { return false };
    let same_end = |a: Option<&[Node]>, b: Option<&[Node]>| match (a, b) {
        (Some(a), Some(b)) => same_value(a, b),
        (a, b) => a.is_none() && b.is_none(),
    };
    b.label.is_none()
        && a.label.as_ref().is_none_or(|label| same_nodes(label, variable))
        && interval.closed == bounds.closed
        && same_end(interval.low, bounds.low)
        && same_end(interval.high, bounds.high)
}

/// Whether two values are the same: as spelled, as matrices, unions, equations or formulas.
fn same_value(a: &[Node], b: &[Node]) -> bool {
    if same_nodes(a, b) {
        return true;
    }
    if let (Some(a), Some(b)) = (cells(a), cells(b)) {
        let rows = |a: &Vec<&[Node]>, b: &Vec<&[Node]>| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_value(a, b))
        };
        return a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| rows(a, b));
    }
    let [a_parts, b_parts] = [a, b].map(|nodes| split(nodes, '∪'));
    if a_parts.len() > 1 || b_parts.len() > 1 {
        return unordered(&a_parts, &b_parts, |a, b| same_value(a, b));
    }
    let [a_sides, b_sides] = [a, b].map(|nodes| split(nodes, '='));
    match (a_sides.as_slice(), b_sides.as_slice()) {
        ([a], [b]) => match (Inequality::read(a), Inequality::read(b)) {
            (Some(a), Some(b)) => same_inequality(&a, &b),
            _ => matches!((formula::read(a), formula::read(b)), (Some(a), Some(b)) if a.equals(&b)),
        },
        (&[a, zero], &[b, nought]) => same_equation(a, zero, b, nought).unwrap_or(false),
        _ => false,
    }
}

/// Whether `a = b` says what `c = d` does: the differences of their sides are the same or opposite.
fn same_equation(a: &[Node], b: &[Node], c: &[Node], d: &[Node]) -> Option<bool> {
    let first = formula::read(a)?.minus(&formula::read(b)?)?;
    let second = formula::read(c)?.minus(&formula::read(d)?)?;
    Some(first.equals(&second) || first.equals(&second.negative()?))
}

/// Whether two inequalities, each with its smaller side first, are the same: side by side, or when everything is brought to
/// one side.
fn same_inequality(a: &Inequality<'_>, b: &Inequality<'_>) -> bool {
    let difference = |sides: &[&[Node]]| match sides {
        [low, high] => formula::read(high)?.minus(&formula::read(low)?),
        _ => None,
    };
    let side_by_side =
        || a.sides.len() == b.sides.len() && a.sides.iter().zip(&b.sides).all(|(a, b)| same_value(a, b));
    let by_difference =
        || matches!((difference(&a.sides), difference(&b.sides)), (Some(a), Some(b)) if a.equals(&b));
    a.strict == b.strict && (side_by_side() || by_difference())
}

/// The elements with each that has one `±` replaced by its two values.
fn both_signs(list: &[Element]) -> Vec<Element> {
    let with = |element: &Element, sign: char| {
        let nodes = element.value.iter().cloned();
        let nodes = nodes.map(|node| if node == Node::Char('±') { Node::Char(sign) } else { node });
        Element { value: settle(nodes.collect()), ..element.clone() }
    };
    let signs = |element: &Element| element.value.iter().filter(|&node| *node == Node::Char('±')).count();
    let values = list.iter().flat_map(|element| match signs(element) {
        1 => vec![with(element, '+'), with(element, '-')],
        _ => vec![element.clone()],
    });
    values.collect()
}

/// The parts of `nodes` between the signs `at`.
fn split(nodes: &[Node], at: char) -> Vec<&[Node]> {
    nodes.split(|node| *node == Node::Char(at)).collect()
}

/// The cells of a matrix, row by row.
fn cells(nodes: &[Node]) -> Option<Vec<Vec<&[Node]>>> {
    let environment = |node: &Node, command: &str| {
        let Node::Apply(name, args) = node else { return false };
        let letters = args.first().into_iter().flatten().map(|node| match node {
            Node::Char(c) => *c,
            _ => ' ',
        });
        name == command && MATRICES.contains(&letters.collect::<String>().as_str())
    };
    let [first, inner @ .., last] = nodes else { return None };
    if !environment(first, "begin") || !environment(last, "end") {
        return None;
    }
    let is_end = |node: &Node| matches!(node, Node::Name(name) if name == "\\");
    let mut rows: Vec<_> = inner.split(is_end).map(|row| split(row, '&')).collect();
    // A row may be ended without another after it.
    rows.pop_if(|row| row.iter().all(|cell| cell.is_empty()));
    Some(rows)
}

/// Whether every part of `a` has one of `b` for its own. A matching is looked for, since parts that lack a unit are the same as
/// parts that differ from each other.
fn unordered<T>(a: &[T], b: &[T], same: impl Fn(&T, &T) -> bool) -> bool {
    if a.len() != b.len() || a.len() > MAX_UNORDERED {
        return false;
    }
    let fits: Vec<Vec<bool>> = a.iter().map(|a| b.iter().map(|b| same(a, b)).collect()).collect();
    let mut taken = vec![None; b.len()];
    (0..a.len()).all(|part| assign(part, &fits, &mut taken, &mut vec![false; b.len()]))
}

/// Gives `part` one of its fits, moving those that have it where they have another.
fn assign(part: usize, fits: &[Vec<bool>], taken: &mut [Option<usize>], tried: &mut [bool]) -> bool {
    for to in 0..taken.len() {
        if !fits[part][to] || std::mem::replace(&mut tried[to], true) {
            continue;
        }
        if taken[to].is_none_or(|holder| assign(holder, fits, taken, tried)) {
            taken[to] = Some(part);
            return true;
        }
    }
    false
}

/// Whether nodes are spelled the same, but for formulas within brackets.
fn same_nodes(a: &[Node], b: &[Node]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_node(a, b))
}

fn same_node(a: &Node, b: &Node) -> bool {
    match (a, b) {
        (Node::Apply(a, from), Node::Apply(b, to)) => {
            a == b && from.len() == to.len() && from.iter().zip(to).all(|(a, b)| same_nodes(a, b))
        }
        (Node::List('{', inner, '}'), Node::List('{', other, '}')) => {
            same_elements(inner, other) || unordered(inner, other, same_element)
        }
        (Node::List(a, inner, z), Node::List(b, other, y)) => a == b && z == y && same_elements(inner, other),
        _ => a == b,
    }
}
