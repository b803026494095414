//! The terms of the objective, and their sums over an optimiser step.

use super::batch::ThoughtBatch;

/// The weights of the objective's terms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ThoughtObjective {
    /// Factor of the cross-entropy of the tokens after the thoughts.
    pub student_weight: f32,
    /// Factor of the teacher's cross-entropy.
    pub teacher_weight: f32,
    /// Factor of the distance between the hidden states of the two.
    pub distill_weight: f32,
}

impl Default for ThoughtObjective {
    /// The paper's: 1, 1 and 20. Without a teacher only the first counts.
    fn default() -> Self {
        ThoughtObjective { student_weight: 1.0, teacher_weight: 1.0, distill_weight: 20.0 }
    }
}

/// Numbers of positions over all batches of an optimiser step: the divisors of its means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThoughtCounts {
    /// Labelled positions of the student.
    pub student: usize,
    /// Labelled positions of the teacher.
    pub teacher: usize,
    /// Samples whose hidden states are compared.
    pub distill: usize,
}

impl ThoughtCounts {
    /// The counts of these batches together.
    pub fn of<'a>(batches: impl IntoIterator<Item = &'a ThoughtBatch>) -> Self {
        let examples = batches.into_iter().flat_map(ThoughtBatch::examples);
        examples.fold(ThoughtCounts::default(), |c, e| ThoughtCounts {
            student: c.student + e.student_labels(),
            teacher: c.teacher + e.teacher_labels(),
            distill: c.distill + usize::from(e.distill.is_some()),
        })
    }
}

/// Losses of a batch, one by one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ThoughtLosses {
    /// Cross-entropy of each label of the student, sample by sample: of the separator that ends the question, then
    /// of the tail's tokens.
    pub student: Vec<f32>,
    /// The same of the teacher, of the samples that have one.
    pub teacher: Vec<f32>,
    /// Per such sample, the smooth-L1 distance of the hidden states, mean over layers and hidden size.
    pub distill: Vec<f32>,
}

/// Sums of the losses of an optimiser step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ThoughtSums {
    /// Positions seen.
    pub counts: ThoughtCounts,
    /// Sum of the student's cross-entropy over positions.
    pub student: f64,
    /// Sum of the teacher's cross-entropy over positions.
    pub teacher: f64,
    /// Sum of the distances over samples.
    pub distill: f64,
}

impl ThoughtSums {
    /// Adds a batch.
    pub fn add(&mut self, batch: &ThoughtLosses) {
        let sum = |x: &[f32]| x.iter().map(|&x| f64::from(x)).sum::<f64>();
        self.counts.student += batch.student.len();
        self.counts.teacher += batch.teacher.len();
        self.counts.distill += batch.distill.len();
        self.student += sum(&batch.student);
        self.teacher += sum(&batch.teacher);
        self.distill += sum(&batch.distill);
    }

    /// Mean cross-entropy of the student.
    pub fn mean_student(&self) -> f64 {
        self.student / self.counts.student.max(1) as f64
    }

    /// Mean cross-entropy of the teacher.
    pub fn mean_teacher(&self) -> f64 {
        self.teacher / self.counts.teacher.max(1) as f64
    }

    /// Mean distance of the hidden states.
    pub fn mean_distill(&self) -> f64 {
        self.distill / self.counts.distill.max(1) as f64
    }

    /// The weighted total.
    pub fn total(&self, o: &ThoughtObjective) -> f64 {
        f64::from(o.student_weight) * self.mean_student()
            + f64::from(o.teacher_weight) * self.mean_teacher()
            + f64::from(o.distill_weight) * self.mean_distill()
    }
}
