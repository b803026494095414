//! The tokens of samples in which thoughts stand for steps (Coconut, distillation).

use super::recipe::Recipe;
use super::thoughts::{Lesson, ThoughtExample};
use crate::data::Sample;
use crate::data::answer::ANSWER_MARK;
use crate::model::prompt::question_text;
use crate::model::tokenizer::Tokenizer;
use crate::{Error, Result};

impl Recipe<'_> {
    /// A sample of Coconut: after the thoughts come the steps that the stage has left, the separator, the answer.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn coconut(&self, sample: &Sample) -> Result<ThoughtExample> {
        let removed = self.stages.removed(self.stage, sample.steps.len());
        let mut tail = self.reasoning(&sample.steps[removed..])?;
        tail.extend(self.answer(sample)?);
        Ok(ThoughtExample { question: self.question(sample)?, tail, distill: None })
    }

    /// A sample of distillation: after the thoughts comes the answer, and the teacher has all steps before it.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn distilled(&self, sample: &Sample) -> Result<ThoughtExample> {
        let answer = self.answer(sample)?;
        let colon = colon(self.tokenizer, &answer)?;
        let mut teacher_tail = self.reasoning(&sample.steps)?;
        let mut tail = vec![self.separator];
        let (teacher_colon, student_colon) = (teacher_tail.len() + colon, tail.len() + colon);
        teacher_tail.extend(&answer);
        tail.extend(&answer);
        let distill = Some(Lesson { teacher_tail, teacher_colon, student_colon });
        Ok(ThoughtExample { question: self.question(sample)?, tail, distill })
    }

    /// The question and the separator after it.
    fn question(&self, sample: &Sample) -> Result<Vec<u32>> {
        let mut ids =
            self.tokenizer.encode_prompt(&question_text(&sample.question, self.prompt_compression_factor))?;
        ids.push(self.separator);
        Ok(ids)
    }

    /// Steps and the separator after them.
    fn reasoning(&self, steps: &[String]) -> Result<Vec<u32>> {
        let mut ids = self.tokenizer.encode(&steps.join("\n"))?;
        ids.push(self.separator);
        Ok(ids)
    }

    /// The answer and the end of sequence.
    fn answer(&self, sample: &Sample) -> Result<Vec<u32>> {
        let mut ids = self.tokenizer.encode(&format!("{ANSWER_MARK}{}", sample.answer))?;
        ids.push(self.eos);
        Ok(ids)
    }
}

/// The place of the answer's token that holds the colon.
fn colon(tokenizer: &Tokenizer, answer: &[u32]) -> Result<usize> {
    let mark = tokenizer.encode(ANSWER_MARK)?;
    if !mark.is_empty() && answer.starts_with(&mark) {
        return Ok(mark.len() - 1);
    }
    for last in 0..answer.len() {
        if tokenizer.decode(&answer[..=last], false)?.contains(':') {
            return Ok(last);
        }
    }
    Err(Error::other(format!("{}: no token holds the colon of {ANSWER_MARK}", tokenizer.path().display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::synth;
    use crate::model::merge::Merge;
    use crate::model::prompt::{Method, SEPARATOR};
    use crate::train::batch::Packing;
    use crate::train::stages::Stages;

    fn tokenizer() -> (tempfile::TempDir, Tokenizer) {
        let dir = tempfile::tempdir().unwrap();
        synth::write_tokenizer(dir.path()).unwrap();
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        (dir, tokenizer)
    }

    fn sample() -> Sample {
        let steps = vec!["<<3*24=72>>".to_owned(), "<<72-10=62>>".to_owned()];
        Sample { question: "How many?".into(), steps, answer: "62".into() }
    }

    fn recipe(tokenizer: &Tokenizer, method: Method, stage: u64) -> Recipe<'_> {
        Recipe {
            tokenizer,
            eos: 1,
            separator: tokenizer.separator(SEPARATOR).unwrap(),
            packing: Packing { method, compression_factor: 1, merge: Merge::Sqrt },
            prompt_compression_factor: "auto",
            stages: Stages { count: 3, updates: None },
            stage,
        }
    }

    #[test]
    fn thoughts_stand_before_the_steps_that_are_left() {
        let (_dir, tokenizer) = tokenizer();
        let encode = |text: &str| tokenizer.encode(text).unwrap();
        let question = encode("Question: How many? Let's think step by step:(Thinking speed: auto)###");
        for (stage, reasoning) in [(1, "<<72-10=62>>###"), (2, "###"), (3, "###")] {
            let example = recipe(&tokenizer, Method::Coconut, stage).coconut(&sample()).unwrap();
            assert_eq!(example.question, question);
            assert_eq!(example.tail, [encode(reasoning), encode("Answer:62"), vec![1]].concat());
            assert_eq!(example.distill, None);
        }
    }

    #[test]
    fn both_colons_are_the_answers() {
        let (_dir, tokenizer) = tokenizer();
        let encode = |text: &str| tokenizer.encode(text).unwrap();
        // The embedded tokenizer has `Answer:` as one token.
        let mark = encode("Answer:");
        let example = recipe(&tokenizer, Method::Distill, 1).distilled(&sample()).unwrap();
        let lesson = example.distill.unwrap();
        let written = encode("###<<3*24=72>>\n<<72-10=62>>###");
        assert_eq!(lesson.teacher_tail, [&written[1..], &encode("Answer:62"), &[1]].concat());
        assert_eq!(example.tail, [encode("###"), encode("Answer:62"), vec![1]].concat());
        let (student, teacher) = (lesson.student_colon + 1, lesson.teacher_colon + 1);
        assert_eq!(example.tail[1..student], mark);
        assert_eq!(lesson.teacher_tail[teacher - mark.len()..teacher], mark);
        // An answer with a colon of its own, and no steps at all.
        let bare = Sample { steps: Vec::new(), answer: "1:30".into(), ..sample() };
        let example = recipe(&tokenizer, Method::Distill, 1).distilled(&bare).unwrap();
        let lesson = example.distill.unwrap();
        assert_eq!(lesson.teacher_tail, example.tail);
        assert_eq!(lesson.student_colon, mark.len());
    }

    /// Where a token goes on from the colon into the answer, it is that token.
    #[test]
    fn the_colon_is_found_in_whatever_token_holds_it() {
        let (_dir, tokenizer) = tokenizer();
        let ids = tokenizer.encode("Then buys: 5").unwrap();
        let at = super::colon(&tokenizer, &ids).unwrap();
        assert!(tokenizer.decode(&ids[at..=at], false).unwrap().contains(':'));
        let ids = tokenizer.encode("buys 5").unwrap();
        assert!(super::colon(&tokenizer, &ids).unwrap_err().to_string().contains("no token holds the colon"));
    }
}
