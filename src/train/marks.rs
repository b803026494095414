//! Texts that mean something in the prompt layout, inside the data.
//!
//! The separator ends the reasoning, `Answer:` begins the answer and the end of sequence ends the text, wherever they
//! stand: a model that is trained on a step such as `### Step 1` stops before it. So no text of a training sample may hold
//! one.

use std::path::Path;

use crate::data::Sample;
use crate::data::answer::ANSWER_MARK;
use crate::device::Device;
use crate::model::open::Opened;
use crate::model::prompt::SEPARATOR;
use crate::{Error, Result};

/// A mark, and how an error calls it.
struct Mark {
    text: String,
    name: &'static str,
    /// Whether a question may hold it: it is looked for in written text alone.
    in_questions: bool,
}

/// Takes the samples of `path` for a model. Those that hold a mark of its layout are refused, or with `escape` get a blank
/// before the mark's last letter.
///
/// # Errors
/// [`Error::Usage`] naming the first sample with a mark, and how many more there are.
pub(super) fn guard<D: Device>(
    mut samples: Vec<Sample>,
    path: &Path,
    opened: &Opened<D>,
    escape: bool,
) -> Result<Vec<Sample>> {
    settle(&mut samples, opened, escape).map_err(|e| Error::usage(format!("{}, {e}", path.display())))?;
    Ok(samples)
}

/// Puts a blank into every mark of the model's layout with `escape`, and fails without it for samples that hold one.
///
/// # Errors
/// As [`guard`], without the file's name.
pub(super) fn settle<D: Device>(samples: &mut [Sample], opened: &Opened<D>, escape: bool) -> Result<()> {
    let marks = marks(opened)?;
    if escape {
        samples.iter_mut().for_each(|sample| texts(sample).for_each(|(_, text)| escape_all(text, &marks)));
        return Ok(());
    }
    let found = find(samples, &marks).map(|found| format!("{found}; with `escape_marks` a blank parts them"));
    found.map_or(Ok(()), |found| Err(Error::usage(found)))
}

/// The marks of a model's layout.
fn marks<D: Device>(opened: &Opened<D>) -> Result<Vec<Mark>> {
    let end = opened.tokenizer.decode(&[opened.eos.append], false)?;
    let marks = [
        Mark { text: SEPARATOR.to_owned(), name: "the separator", in_questions: false },
        Mark { text: end, name: "the end of sequence", in_questions: false },
        Mark { text: ANSWER_MARK.to_owned(), name: "the mark of the answer", in_questions: true },
    ];
    Ok(marks.into_iter().filter(|mark| mark.text.trim().chars().count() > 1).collect())
}

/// The first sample with a mark, and how many more there are.
fn find(samples: &mut [Sample], marks: &[Mark]) -> Option<String> {
    let mut found = samples.iter_mut().enumerate().filter_map(|(i, sample)| Some((i, first(sample, marks)?)));
    let (sample, (part, mark)) = found.next()?;
    let more = match found.count() {
        0 => String::new(),
        n => format!(", and {n} more samples hold such"),
    };
    Some(format!(
        "sample {}: its {part} holds {} {:?}, which means something else in the prompt{more}",
        sample + 1,
        mark.name,
        mark.text
    ))
}

/// The texts of a sample with their names.
fn texts(sample: &mut Sample) -> impl Iterator<Item = (&'static str, &mut String)> {
    let Sample { question, steps, answer } = sample;
    [("question", question)]
        .into_iter()
        .chain(steps.iter_mut().map(|step| ("reasoning", step)))
        .chain([("answer", answer)])
}

/// The first mark in a sample, and the part that holds it.
fn first<'a>(sample: &mut Sample, marks: &'a [Mark]) -> Option<(&'static str, &'a Mark)> {
    texts(sample).find_map(|(part, text)| {
        let held = |mark: &&Mark| text.contains(&mark.text) && !(mark.in_questions && part == "question");
        marks.iter().find(held).map(|mark| (part, mark))
    })
}

/// Puts a blank before the last letter of every mark.
fn escape_all(text: &mut String, marks: &[Mark]) {
    for Mark { text: mark, .. } in marks {
        let last = mark.char_indices().next_back().map_or(0, |(at, _)| at);
        // Of overlapping ones, as in `####`, a blank may leave another.
        while let Some(at) = text.find(mark.as_str()) {
            text.insert(at + last, ' ');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks() -> Vec<Mark> {
        [("###", false), ("</s>", false), ("Answer:", true)]
            .map(|(text, in_questions)| Mark { text: text.to_owned(), name: "it", in_questions })
            .into()
    }

    fn sample(question: &str, step: &str, answer: &str) -> Sample {
        Sample { question: question.into(), steps: vec!["1+1=2".into(), step.into()], answer: answer.into() }
    }

    #[test]
    fn marks_are_found_where_they_do_harm() {
        let found =
            |mut sample: Sample| first(&mut sample, &marks()).map(|(part, mark)| (part, mark.text.clone()));
        assert_eq!(found(sample("How many?", "2*3=6", "6")), None);
        assert_eq!(found(sample("Answer: how many?", "2*3=6", "6")), None);
        for (sample, part, mark) in [
            (sample("a ### b", "", "6"), "question", "###"),
            (sample("q", "### Step 1: 2*3=6", "6"), "reasoning", "###"),
            (sample("q", "so Answer: 6", "6"), "reasoning", "Answer:"),
            (sample("q", "", "6</s>"), "answer", "</s>"),
        ] {
            assert_eq!(found(sample), Some((part, mark.to_owned())));
        }
    }

    #[test]
    fn an_escaped_text_holds_none() {
        for (text, escaped) in [
            ("### Step 1", "## # Step 1"),
            ("####", "## ##"),
            ("#####", "## ## #"),
            ("Answer: 6</s>", "Answer : 6</s >"),
            ("2 # 3", "2 # 3"),
        ] {
            let mut text = text.to_owned();
            escape_all(&mut text, &marks());
            assert_eq!(text, escaped);
        }
    }
}
