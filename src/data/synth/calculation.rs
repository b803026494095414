//! The arithmetic under a story: a number and the operations done to it, one after the other.

use crate::random::Stream;

/// One of the four operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Add,
    Sub,
    Mul,
    Div,
}

impl Op {
    /// The operations as often as they are drawn: sums and differences somewhat more than the rest,
    /// since products below a bound are soon all known by heart.
    const DRAWN: [Op; 10] = {
        use Op::*;
        [Add, Add, Add, Sub, Sub, Sub, Mul, Mul, Div, Div]
    };

    fn symbol(self) -> char {
        match self {
            Op::Add => '+',
            Op::Sub => '-',
            Op::Mul => '*',
            Op::Div => '/',
        }
    }

    /// The operation that undoes this one.
    fn inverse(self) -> Op {
        match self {
            Op::Add => Op::Sub,
            Op::Sub => Op::Add,
            Op::Mul => Op::Div,
            Op::Div => Op::Mul,
        }
    }

    fn apply(self, value: u32, operand: u32) -> u32 {
        match self {
            Op::Add => value + operand,
            Op::Sub => value - operand,
            Op::Mul => value * operand,
            Op::Div => value / operand,
        }
    }
}

/// The largest factor or divisor of a first step, which a story can spell as a number ("4 bags of 6").
const MAX_OPENING_FACTOR: u32 = 9;
/// The largest factor of a later step; stories say "doubles", "triples" and "quadruples".
pub const MAX_FACTOR: u32 = 4;
/// The largest divisor of a later step; stories say "half", "a third", "a quarter" and "a fifth".
pub const MAX_DIVISOR: u32 = 5;

/// A start value and the steps done to it. Every result, the last included, is from 1 to the bound
/// it was drawn under; operands are 2 or more, so that "7 get on" never has to be "1 gets on".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calculation {
    pub start: u32,
    pub operations: Vec<(Op, u32)>,
}

impl Calculation {
    /// Draws a calculation of `steps` ≥ 1 steps whose numbers all lie in `1..=max_value`, `max_value` ≥ 8.
    pub fn draw(draw: &mut Stream, steps: u32, max_value: u32) -> Self {
        let (start, first) = opening(draw, max_value);
        let mut operations = vec![first];
        let mut value = first.0.apply(start, first.1);
        while operations.len() < steps as usize {
            // Adding 2 or taking away 2 is always possible, so this ends.
            if let Some((op, operand)) = continuation(draw, value, max_value) {
                value = op.apply(value, operand);
                operations.push((op, operand));
            }
        }
        Calculation { start, operations }
    }

    /// The value after the last step.
    pub fn result(&self) -> u32 {
        self.operations.iter().fold(self.start, |value, (op, operand)| op.apply(value, *operand))
    }

    /// The steps as the data set writes them: `<<12+7=19>>;<<19-4=15>>;`. With `checked`, the last is
    /// followed by its inverse, `<<15+4=19>>;`.
    ///
    /// Every step ends in the same tokens: nothing before the last one may tell whether a check
    /// follows.
    pub fn steps(&self, checked: bool) -> String {
        let (mut value, mut text) = (self.start, String::new());
        let mut write = |a: u32, op: Op, b: u32, result: u32| {
            text += &format!("<<{a}{}{b}={result}>>;", op.symbol());
        };
        let mut last = None;
        for &(op, operand) in &self.operations {
            let result = op.apply(value, operand);
            write(value, op, operand, result);
            last = Some((result, op.inverse(), operand, value));
            value = result;
        }
        if let (true, Some((result, op, operand, before))) = (checked, last) {
            write(result, op, operand, before);
        }
        text
    }

    /// A key that is equal for two calculations exactly when they are the same problem in other words: numbers and
    /// operations, the first two numbers of a sum or product in ascending order.
    pub fn key(&self) -> String {
        let mut numbers = self.clone();
        if let Some((Op::Add | Op::Mul, operand)) = numbers.operations.first_mut()
            && *operand < numbers.start
        {
            std::mem::swap(operand, &mut numbers.start);
        }
        let parts = numbers.operations.iter().map(|(op, operand)| format!("{}{operand}", op.symbol()));
        std::iter::once(numbers.start.to_string()).chain(parts).collect()
    }
}

/// A number from `low..=high`.
fn between(draw: &mut Stream, low: u32, high: u32) -> u32 {
    low + draw.below(u64::from(high.saturating_sub(low)) + 1) as u32
}

/// One of the operations, by [`Op::DRAWN`].
fn operation(draw: &mut Stream) -> Op {
    draw.choose(&Op::DRAWN).copied().unwrap_or(Op::Add)
}

/// The largest number added or taken away: a sixth of the bound. No single step uses up the room that
/// the others need, and a model of a million weights meets every sum often enough to know it.
fn max_operand(max_value: u32) -> u32 {
    (max_value / 6).max(2)
}

/// A start value and a first step.
fn opening(draw: &mut Stream, max_value: u32) -> (u32, (Op, u32)) {
    let op = operation(draw);
    let factor = |draw: &mut Stream| between(draw, 2, MAX_OPENING_FACTOR.min(max_value / 2));
    let (start, operand) = match op {
        Op::Add => {
            let start = between(draw, 2, max_value - 2);
            (start, between(draw, 2, max_operand(max_value).min(max_value - start)))
        }
        Op::Sub => {
            let start = between(draw, 3, max_value);
            (start, between(draw, 2, max_operand(max_value).min(start - 1)))
        }
        Op::Mul => {
            let factor = factor(draw);
            (between(draw, 2, max_value / factor), factor)
        }
        Op::Div => {
            let divisor = factor(draw);
            (divisor * between(draw, 2, max_value / divisor), divisor)
        }
    };
    (start, (op, operand))
}

/// A step from `value`; `None` if the operation drawn is not possible there.
fn continuation(draw: &mut Stream, value: u32, max_value: u32) -> Option<(Op, u32)> {
    let op = operation(draw);
    let one_of = |draw: &mut Stream, choices: Vec<u32>| draw.choose(&choices).copied();
    let operand = match op {
        Op::Add if value + 2 <= max_value => between(draw, 2, max_operand(max_value).min(max_value - value)),
        Op::Sub if value > 2 => between(draw, 2, max_operand(max_value).min(value - 1)),
        Op::Mul => one_of(draw, (2..=MAX_FACTOR).filter(|factor| value * factor <= max_value).collect())?,
        Op::Div => {
            one_of(draw, (2..=MAX_DIVISOR).filter(|divisor| value.is_multiple_of(*divisor)).collect())?
        }
        Op::Add | Op::Sub => return None,
    };
    Some((op, operand))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_result_and_key() {
        let calculation = Calculation {
            start: 12,
            operations: vec![(Op::Add, 7), (Op::Sub, 4), (Op::Mul, 2), (Op::Div, 5)],
        };
        assert_eq!(calculation.steps(false), "<<12+7=19>>;<<19-4=15>>;<<15*2=30>>;<<30/5=6>>;");
        assert_eq!(calculation.steps(true), "<<12+7=19>>;<<19-4=15>>;<<15*2=30>>;<<30/5=6>>;<<6*5=30>>;");
        assert_eq!(calculation.result(), 6);
        assert_eq!(calculation.key(), "7+12-4*2/5");
        let swapped = Calculation {
            start: 7,
            operations: vec![(Op::Add, 12), (Op::Sub, 4), (Op::Mul, 2), (Op::Div, 5)],
        };
        assert_eq!(swapped.key(), calculation.key());
        let divided = Calculation { start: 12, operations: vec![(Op::Div, 4)] };
        assert_eq!(divided.key(), "12/4");
    }

    #[test]
    fn every_operation_is_drawn_at_every_place() {
        let mut draw = Stream::new(5, 0);
        let mut seen = [[0u32; 4]; 4];
        for _ in 0..4_000 {
            for (place, (op, _)) in Calculation::draw(&mut draw, 4, 59).operations.iter().enumerate() {
                seen[place][*op as usize] += 1;
            }
        }
        assert!(seen.iter().flatten().all(|&count| count > 400), "{seen:?}");
    }
}
