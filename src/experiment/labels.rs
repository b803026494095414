//! Placement of labels: beside their point, where they cover the least.

use std::ops::Range;

/// A place in pixels, from the upper left.
pub(super) type Pixel = (i32, i32);

/// Half a mark's width.
pub(super) const MARK: i32 = 5;
/// Pixels between a mark and its label.
const GAP: i32 = 3;
/// Pixels between the samples of a drawn line: below the size of a letter.
const STEP: i32 = 3;

/// Samples of everything that is drawn on a panel, which a label should not cover.
pub(super) struct Labels {
    drawn: Vec<Pixel>,
    frame: (Range<i32>, Range<i32>),
    letters: i32,
}

impl Labels {
    /// An empty panel within `frame` (columns, rows), with labels in letters of so many pixels.
    pub fn new(frame: (Range<i32>, Range<i32>), letters: u32) -> Self {
        Labels { drawn: Vec::new(), frame, letters: letters as i32 }
    }

    /// Notes a straight line that is drawn.
    pub fn line(&mut self, from: Pixel, to: Pixel) {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let n = (dx.abs().max(dy.abs()) / STEP).max(1);
        self.drawn.extend((0..=n).map(|i| (from.0 + dx * i / n, from.1 + dy * i / n)));
    }

    /// Notes a mark that is drawn.
    pub fn mark(&mut self, at: Pixel) {
        self.fill((at.0 - MARK, at.1 - MARK), (2 * MARK, 2 * MARK));
    }

    fn fill(&mut self, corner: Pixel, size: Pixel) {
        for y in (0..=size.1).step_by(STEP as usize) {
            self.line((corner.0, corner.1 + y), (corner.0 + size.0, corner.1 + y));
        }
    }

    /// Chooses and takes the place of the label of the mark at `at`; returns the upper left corner of its text.
    pub fn place(&mut self, at: Pixel, text: &str) -> Pixel {
        // Letters are about 0.6 of their height wide.
        let size = (text.chars().count() as i32 * self.letters * 6 / 10, self.letters);
        let away = MARK + GAP;
        let (right, left) = (at.0 + away, at.0 - away - size.0);
        let (below, above) = (at.1 + GAP, at.1 - GAP - size.1);
        let middle = (at.0 - size.0 / 2, at.1 - size.1 / 2);
        let places = [
            (right, below),
            (right, above),
            (left, below),
            (left, above),
            (right, middle.1),
            (left, middle.1),
            (middle.0, at.1 + away),
            (middle.0, at.1 - away - size.1),
        ];
        let least = places.into_iter().min_by_key(|&corner| self.cost(corner, size)).unwrap_or(places[0]);
        self.fill(least, size);
        least
    }

    /// The number of samples that a label there would cover; much more where it leaves the frame.
    fn cost(&self, (x, y): Pixel, (width, height): Pixel) -> usize {
        let (columns, rows) = (x - 1..x + width + 2, y - 1..y + height + 2);
        let covers = self.drawn.iter().filter(|(x, y)| columns.contains(x) && rows.contains(y)).count();
        let inside = self.frame.0.start <= x
            && x + width < self.frame.0.end
            && self.frame.1.start <= y
            && y + height < self.frame.1.end;
        covers + if inside { 0 } else { self.drawn.len() + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Labels {
        Labels::new((0..400, 0..300), 12)
    }

    #[test]
    fn a_lone_point_has_its_label_below_on_the_right() {
        let mut l = labels();
        l.mark((200, 150));
        assert_eq!(l.place((200, 150), "c = 2"), (208, 153));
    }

    #[test]
    fn labels_keep_off_lines_points_labels_and_the_edge() {
        let mut l = labels();
        for at in [(200, 150), (225, 160), (390, 150)] {
            l.mark(at);
        }
        // The neighbour's mark stands below on the right, a line goes up on the right.
        l.line((200, 150), (260, 90));
        let first = l.place((200, 150), "c = 2");
        assert!(first.0 + 36 < 200, "{first:?}");
        // Where a label stands no other does.
        let second = l.place((200, 150), "c = 3");
        assert!(first.0 != second.0 || (first.1 - second.1).abs() > 12, "{first:?} {second:?}");
        assert!(l.place((390, 150), "c = 1").0 < 390 - 36);
    }
}
