//! The samples of one batch, and how their rows are packed.

use crate::train::batch::Batch;
use crate::{Error, Result};

/// One sample as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThoughtExample {
    /// The question; its last token is the separator.
    pub question: Vec<u32>,
    /// Tokens after the thoughts: the steps that remain, the separator, the answer, the end of sequence.
    pub tail: Vec<u32>,
    /// The teacher's text, under distillation.
    pub distill: Option<Lesson>,
}

/// The teacher's side of a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lesson {
    /// The teacher's tokens after the question: the steps, the separator, the answer, the end of sequence.
    pub teacher_tail: Vec<u32>,
    /// Place of the token of `teacher_tail` that ends `Answer:`.
    pub teacher_colon: usize,
    /// Place of the same token in the student's tail.
    pub student_colon: usize,
}

impl ThoughtExample {
    /// Labelled positions of a tail after this question: its tokens, and the separator that ends the question
    /// unless it is all of it.
    fn labels(&self, tail: &[u32]) -> usize {
        tail.len() + usize::from(self.question.len() > 1)
    }

    /// Packed positions with `thoughts` thoughts, the teacher's among them.
    pub fn rows(&self, thoughts: usize) -> usize {
        self.student_rows(thoughts) + self.teacher_rows()
    }

    /// Packed positions of the student, with `thoughts` thoughts.
    pub fn student_rows(&self, thoughts: usize) -> usize {
        self.question.len() + thoughts + self.tail.len()
    }

    /// Packed positions of the teacher, 0 without one.
    pub fn teacher_rows(&self) -> usize {
        self.distill.as_ref().map_or(0, |lesson| self.question.len() + lesson.teacher_tail.len())
    }

    /// Labelled positions of the student.
    pub fn student_labels(&self) -> usize {
        self.labels(&self.tail)
    }

    /// Labelled positions of the teacher, 0 without one.
    pub fn teacher_labels(&self) -> usize {
        self.distill.as_ref().map_or(0, |lesson| self.labels(&lesson.teacher_tail))
    }

    /// The sample with its teacher's side, where it has one.
    fn lesson(&self) -> Option<(&Self, &Lesson)> {
        Some((self, self.distill.as_ref()?))
    }
}

/// The samples of one forward and backward pass.
#[derive(Debug, Clone, Default)]
pub struct ThoughtBatch {
    examples: Vec<ThoughtExample>,
}

impl ThoughtBatch {
    /// An empty batch.
    pub fn new() -> Self {
        ThoughtBatch::default()
    }

    /// Adds a sample.
    ///
    /// # Errors
    /// An empty question or tail, or a colon that is not in its tail.
    pub fn push(&mut self, example: &ThoughtExample) -> Result<()> {
        let empty_lesson = example.distill.as_ref().is_some_and(|lesson| lesson.teacher_tail.is_empty());
        if example.question.is_empty() || example.tail.is_empty() || empty_lesson {
            return Err(Error::other("a sample with thoughts has an empty question or nothing after it"));
        }
        if let Some(Lesson { teacher_tail, teacher_colon, student_colon }) = &example.distill
            && (*teacher_colon >= teacher_tail.len() || *student_colon >= example.tail.len())
        {
            return Err(Error::other("the colon to distil at is not in the answer"));
        }
        self.examples.push(example.clone());
        Ok(())
    }

    /// The samples.
    pub fn examples(&self) -> &[ThoughtExample] {
        &self.examples
    }

    /// The samples that have a teacher.
    pub(super) fn lessons(&self) -> impl Iterator<Item = (&ThoughtExample, &Lesson)> {
        self.examples.iter().filter_map(ThoughtExample::lesson)
    }

    /// The student's rows, with `thoughts` rows after each question.
    pub(super) fn student(&self, thoughts: usize) -> Batch {
        let mut batch = Batch::new();
        self.examples.iter().for_each(|e| batch.push_thoughts(&e.question, thoughts, &e.tail));
        batch
    }

    /// Rows of question and tail of every sample.
    pub(super) fn lens(&self) -> Vec<[usize; 2]> {
        self.examples.iter().map(|e| [e.question.len(), e.tail.len()]).collect()
    }

    /// The rows of the student's colons, counted over all tails.
    pub(super) fn student_colons(&self) -> Vec<u32> {
        let mut start = 0;
        let mut rows = Vec::new();
        for example in &self.examples {
            rows.extend(example.distill.as_ref().map(|lesson| (start + lesson.student_colon) as u32));
            start += example.tail.len();
        }
        rows
    }

    /// The teacher's rows, and those of its colons.
    pub(super) fn teacher(&self) -> (Batch, Vec<u32>) {
        let mut batch = Batch::new();
        let mut colons = Vec::new();
        for (example, lesson) in self.lessons() {
            colons.push((batch.rows() + example.question.len() + lesson.teacher_colon) as u32);
            batch.push_thoughts(&example.question, 0, &lesson.teacher_tail);
        }
        (batch, colons)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> ThoughtExample {
        let lesson = Lesson { teacher_tail: vec![1, 2, 5, 20, 21, 9], teacher_colon: 3, student_colon: 1 };
        ThoughtExample { question: vec![10, 11, 5], tail: vec![5, 20, 21, 9], distill: Some(lesson) }
    }

    #[test]
    fn rows_and_labels() {
        let mut batch = ThoughtBatch::new();
        batch.push(&example()).unwrap();
        batch.push(&ThoughtExample { distill: None, ..example() }).unwrap();
        batch.push(&ThoughtExample { question: vec![5], ..example() }).unwrap();
        let student = batch.student(2);
        assert_eq!(student.lens, [9, 9, 7]);
        // The separator is predicted from the row before it; the row before the tail predicts its first token.
        assert_eq!(student.ce_rows, [1, 4, 5, 6, 7, 10, 13, 14, 15, 16, 20, 21, 22, 23]);
        assert_eq!(student.label_ids[..5], [5, 5, 20, 21, 9]);
        assert_eq!(student.counts, [(5, 0), (5, 0), (4, 0)]);
        let labels: Vec<usize> = batch.examples().iter().map(ThoughtExample::student_labels).collect();
        assert_eq!(labels, [5, 5, 4]);
        // Thoughts have no tokens.
        assert_eq!(student.offsets[..7], [0, 1, 2, 3, 3, 3, 4]);
        assert_eq!(batch.student_colons(), [1, 9]);
        let (teacher, colons) = batch.teacher();
        assert_eq!(teacher.lens, [9, 7]);
        assert_eq!(colons, [6, 13]);
        assert_eq!(teacher.ce_rows[..7], [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(teacher.label_ids[..7], [5, 1, 2, 5, 20, 21, 9]);
        assert_eq!(batch.examples().iter().map(|e| e.rows(2)).collect::<Vec<_>>(), [18, 9, 14]);
        let labels: Vec<usize> = batch.examples().iter().map(ThoughtExample::teacher_labels).collect();
        assert_eq!(labels, [7, 0, 6]);
    }

    #[test]
    fn what_makes_no_sample() {
        let broken = |change: &dyn Fn(&mut ThoughtExample)| {
            let mut example = example();
            change(&mut example);
            ThoughtBatch::new().push(&example).unwrap_err().to_string()
        };
        assert!(broken(&|e| e.question.clear()).contains("empty question"));
        assert!(broken(&|e| e.tail.clear()).contains("empty question"));
        assert!(broken(&|e| e.distill.as_mut().unwrap().teacher_tail.clear()).contains("empty question"));
        assert!(broken(&|e| e.distill.as_mut().unwrap().teacher_colon = 6).contains("colon"));
        assert!(broken(&|e| e.distill.as_mut().unwrap().student_colon = 4).contains("colon"));
    }
}
