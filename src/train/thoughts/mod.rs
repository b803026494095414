//! The objectives of models that think in continuous thoughts (spec section 11): Coconut and distillation, forward and
//! backward.
//!
//! A sample is a question that ends in the separator, thoughts, and a tail; every token of the tail is a label, and
//! so is the separator, each predicted from the row before it. That is all of Coconut (Hao et al., arXiv 2412.06769),
//! whose tail holds the steps that the thoughts have not yet replaced.
//!
//! Under distillation (the baseline of the CoLaR paper, after CODI: Shen et al., arXiv 2502.21074) the tail holds
//! the answer alone, and the same weights read the same sample with all its steps in words: the teacher. It is
//! trained on its labels, and the student's hidden states are drawn to its own, detached, at the colon
//! of `Answer:` in every layer:
//!
//! ```text
//! total = teacher_weight · CE_teacher + student_weight · CE_student + distill_weight · D
//! D = mean over samples, layers and H of smooth-L1 (beta 1) of student − teacher
//! ```
//!
//! Implicit chain of thought (Deng et al., arXiv 2405.14838) has no thoughts: it is trained as chain of thought is.

mod batch;
mod distill;
mod objective;
mod pass;

pub use batch::{Lesson, ThoughtBatch, ThoughtExample};
pub use objective::{ThoughtCounts, ThoughtLosses, ThoughtObjective, ThoughtSums};
pub use pass::{PendingThoughts, Taught, begin, run, student_pass, teacher_pass};
