//! The verifier for answers written in LaTeX.
//!
//! The data set MATH (Hendrycks et al. 2021) gives its answers as their authors typeset them, and its
//! graders, those of Minerva (Lewkowycz et al. 2022) and PRM800K (Lightman et al. 2023) after them,
//! agree on differences that do not matter: which command draws a fraction, brackets' sizes, spaces, units, the name
//! before an `=`. Those graders edit strings, one replacement after another, and so take `1 1/2` for
//! `11/2`. Here the text is read once, into numbers, signs, scripts, fractions and lists, and these
//! are compared:
//!
//! - numbers are fractions without rounding (i128; longer ones compare digit by digit): `\frac{1}{2}`,
//!   `\frac12`, `2/4` and `.5` are equal, 1/3 and 0.333 are not; a whole number followed by a proper
//!   fraction is a mixed number;
//! - formulas of numbers, roots, logarithms, factorials, binomial coefficients, π and variables are quotients of polynomials,
//!   compared exactly;
//! - an inequality may have its sides exchanged or brought to one side, and is the interval in which its variable lies;
//! - lists, tuples and intervals are equal when their brackets are and their elements one by one,
//!   in order; sets, unions and the two values of a `±` in any order; matrices cell by cell; `and` and `or` separate like a comma.
//!   Round brackets around a single value do not count;
//! - a unit, a currency, a percent or degree sign, the base of a numeral, and a name as in `x = 5` need not be given; but if
//!   both answers give one, it must be the same;
//! - everything else (other functions, words) is equal when it is spelled the same, once
//!   fonts, sizes and spaces are gone; case counts.

mod brackets;
mod element;
mod equality;
mod formula;
mod inequality;
mod lexer;
mod node;
mod parser;
mod quotient;
mod rational;
mod units;

use super::Verifier;
use crate::data::answer;

/// Equal by [`answer::matches`], or as LaTeX, as the graders of the data set MATH compare.
///
/// Numbers and formulas are compared exactly, lists element by element;
/// units and names may be left out, but not differ. Answers longer than 4096 bytes, or nested more than
/// some 30 levels deep, are compared by [`answer::matches`] alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MathVerifier;

impl Verifier for MathVerifier {
    fn name(&self) -> &'static str {
        "math"
    }

    fn is_correct(&self, predicted: &str, gold: &str) -> bool {
        answer::matches(predicted, gold) || same(predicted, gold)
    }
}

/// The longest answer that is read, in bytes; those of MATH have at most some hundred.
const MAX_LENGTH: usize = 4096;

/// Whether two answers are the same when read as LaTeX. Two empty answers are not.
fn same(a: &str, b: &str) -> bool {
    match (read(a), read(b)) {
        (Some(a), Some(b)) => {
            !a.is_empty() && equality::same_elements(&a, &b) && a.iter().all(|e| !e.value.is_empty())
        }
        _ => false,
    }
}

fn read(text: &str) -> Option<Vec<node::Element>> {
    if text.len() > MAX_LENGTH {
        return None;
    }
    parser::parse(&lexer::lex(text.trim()))
}

#[cfg(test)]
mod tests;
