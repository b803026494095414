//! The stories told around a calculation.
//!
//! Questions are short because every token of them costs training time, and the words are few because
//! each is a row of the embedding. Variety is spent where it makes the model read: in the
//! person and the things, in the verb for an operation, and in first steps that the opening hides ("4 bags of 6").

use super::calculation::{Calculation, MAX_DIVISOR, MAX_FACTOR, Op};
use crate::random::Stream;

/// Names of the persons in the stories.
const NAMES: [&str; 6] = ["Ann", "Ben", "Eva", "Leo", "Mia", "Tom"];
/// Things that a person, a holder or a group of friends has.
const THINGS: [&str; 6] = ["apples", "books", "cards", "coins", "eggs", "pens"];
/// Holders of things.
const HOLDERS: [&str; 3] = ["bag", "box", "jar"];
/// Vehicles that carry people.
const VEHICLES: [&str; 3] = ["boat", "bus", "train"];

/// Multiplying by 2, 3, … up to [`MAX_FACTOR`].
const TIMES: [&str; MAX_FACTOR as usize - 1] = ["doubles", "triples", "quadruples"];
/// Dividing by 2, 3, … up to [`MAX_DIVISOR`].
const PARTS: [&str; MAX_DIVISOR as usize - 1] = ["half", "a third", "a quarter", "a fifth"];

/// The kinds of stories; the opening decides the clauses that can follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Story {
    /// A person has things.
    Person,
    /// A person buys bags of things: the first step is a product.
    Bags,
    /// A person earns so much a day: the first step is a product.
    Wages,
    /// Friends share things: the first step is a quotient.
    Share,
    /// A vehicle carries people.
    Vehicle,
    /// A box holds things.
    Holder,
}

impl Story {
    /// The stories that can tell `calculation`. Later steps fit all of them; the first may be told by the
    /// opening only, if its factor has no word.
    fn fitting(calculation: &Calculation) -> Vec<Story> {
        let mut stories = match calculation.operations.first() {
            Some((Op::Mul, _)) => vec![Story::Bags, Story::Wages],
            Some((Op::Div, _)) => vec![Story::Share],
            _ => vec![],
        };
        let has_word = match calculation.operations.first() {
            Some((Op::Mul, factor)) => *factor <= MAX_FACTOR,
            Some((Op::Div, divisor)) => *divisor <= MAX_DIVISOR,
            _ => true,
        };
        if has_word {
            stories.extend([Story::Person, Story::Vehicle, Story::Holder]);
        }
        stories
    }
}

/// A question that `calculation` answers. Its wording is drawn from `draw`.
pub fn tell(calculation: &Calculation, draw: &mut Stream) -> String {
    let story = pick(draw, &Story::fitting(calculation), Story::Person);
    let name = pick(draw, &NAMES, NAMES[0]);
    let thing = pick(draw, &THINGS, THINGS[0]);
    let start = calculation.start;
    let first = calculation.operations.first().map_or(1, |&(_, operand)| operand);
    let (opening, told) = match story {
        Story::Person => (format!("{name} has {start} {thing}"), 0),
        Story::Bags => (format!("{name} buys {start} bags of {first} {thing}"), 1),
        Story::Wages => (format!("{name} earns {start} coins a day for {first} days"), 1),
        Story::Share => (format!("{first} friends share {start} {thing} evenly. {name} is one of them"), 1),
        Story::Vehicle => (format!("A {} carries {start} people", pick(draw, &VEHICLES, VEHICLES[0])), 0),
        Story::Holder => (format!("A {} holds {start} {thing}", pick(draw, &HOLDERS, HOLDERS[0])), 0),
    };
    let rest = &calculation.operations[told..];
    let in_sequence = draw.below(2) == 0;
    let mut text = opening;
    for (place, &(op, operand)) in rest.iter().enumerate() {
        text += match (in_sequence, place + 1 == rest.len()) {
            (true, _) => ", then ",
            (false, true) => " and ",
            (false, false) => ", ",
        };
        text += &deed(story, op, operand, draw);
    }
    text + ". " + &ask(story, name, draw)
}

/// The clause for one operation, told of the person or of the story's objects.
fn deed(story: Story, op: Op, n: u32, draw: &mut Stream) -> String {
    let word = |words: &[&'static str]| words.get(n.saturating_sub(2) as usize).copied().unwrap_or_default();
    match (story, op) {
        (Story::Vehicle, Op::Add) => format!("{n} get on"),
        (Story::Vehicle, Op::Sub) => format!("{n} get off"),
        (Story::Holder, Op::Add) => format!("{n} are added"),
        (Story::Holder, Op::Sub) => format!("{n} are taken"),
        (Story::Vehicle | Story::Holder, Op::Mul) => format!("the number {}", word(&TIMES)),
        (Story::Vehicle | Story::Holder, Op::Div) => format!("only {} stay", word(&PARTS)),
        (_, Op::Add) => match draw.below(3) {
            0 => format!("gets {n}"),
            1 => format!("finds {n}"),
            _ => format!("wins {n}"),
        },
        (_, Op::Sub) => match draw.below(3) {
            0 => format!("loses {n}"),
            1 => format!("sells {n}"),
            _ => format!("gives away {n}"),
        },
        (_, Op::Mul) => format!("{} them", word(&TIMES)),
        (_, Op::Div) => format!("keeps {}", word(&PARTS)),
    }
}

/// The question at the end.
fn ask(story: Story, name: &str, draw: &mut Stream) -> String {
    match (story, draw.below(2)) {
        (Story::Vehicle | Story::Holder, 0) => "How many are there now?".to_owned(),
        (Story::Vehicle | Story::Holder, _) => "How many are left?".to_owned(),
        (_, 0) => format!("How many does {name} have?"),
        (_, _) => format!("How many has {name} now?"),
    }
}

/// One of `items`; `default` if there is none.
fn pick<T: Copy>(draw: &mut Stream, items: &[T], default: T) -> T {
    draw.choose(items).copied().unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_factor_has_a_word_or_an_opening() {
        let mut draw = Stream::new(8, 0);
        for _ in 0..5_000 {
            let calculation = Calculation::draw(&mut draw, 3, 59);
            let text = tell(&calculation, &mut draw);
            assert!(!text.contains("  ") && !text.contains(" ."), "a word is missing in {text:?}");
        }
    }

    #[test]
    fn a_lone_step_is_a_whole_story() {
        let mut draw = Stream::new(1, 0);
        let share = Calculation { start: 24, operations: vec![(Op::Div, 8)] };
        let text = tell(&share, &mut draw);
        assert!(text.starts_with("8 friends share 24 "), "{text}");
        assert!(text.contains(" is one of them. How many "), "{text}");
    }
}
