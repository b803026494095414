//! Texts that mean something in the prompt layout, inside questions and data.
//!
//! The separator ends the reasoning, `Answer:` begins the answer, the end of sequence ends the text, and the other special
//! tokens of a tokenizer begin and end what its chat template says, wherever they stand: a model that is trained on a step
//! such as `### Step 1` stops before it, and a question that closes its own turn of a chat has the model read on in another.
//! So no text of a sample, and no question that is asked, may hold one.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use aho_corasick::AhoCorasick;

use super::prompt::SEPARATOR;
use super::tokenizer::Tokenizer;
use crate::data::Sample;
use crate::data::answer::ANSWER_MARK;
use crate::{Error, Result};

/// A mark, and how an error calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    text: String,
    name: &'static str,
    /// Whether a question may hold it: it is looked for in written text alone.
    in_questions: bool,
}

/// Its name, and its text in quotes.
impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.name, self.text)
    }
}

/// The part of a sample that a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Question,
    Reasoning,
    Answer,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Question => "question",
            Part::Reasoning => "reasoning",
            Part::Answer => "answer",
        }
    }
}

/// The marks of a model's layout.
pub struct Marks {
    marks: Vec<Mark>,
    /// Finds all of them in one pass: a tokenizer may have some hundred special tokens, and a data set some hundred thousand
    /// texts.
    finder: AhoCorasick,
}

impl Marks {
    /// Those of a tokenizer whose texts end with the token `end`.
    ///
    /// # Errors
    /// Errors of the tokenizer, and more special tokens than can be looked for.
    pub(super) fn new(tokenizer: &Tokenizer, end: u32) -> Result<Self> {
        let special = tokenizer.special_texts();
        let named = [
            Mark { text: SEPARATOR.to_owned(), name: "the separator", in_questions: false },
            Mark { text: ANSWER_MARK.to_owned(), name: "the mark of the answer", in_questions: true },
            Mark { text: tokenizer.decode(&[end], false)?, name: "the end of sequence", in_questions: false },
        ];
        let special = special.map(|text| Mark { text, name: "the special token", in_questions: false });
        let mut marks: Vec<Mark> = Vec::new();
        for mark in named.into_iter().chain(special) {
            // A single letter that is a token of its own, such as a line feed, is a text that people write.
            if mark.text.trim().chars().count() > 1 && marks.iter().all(|known| known.text != mark.text) {
                marks.push(mark);
            }
        }
        Self::of(marks)
    }

    fn of(marks: Vec<Mark>) -> Result<Self> {
        let finder = AhoCorasick::new(marks.iter().map(|mark| &mark.text))
            .map_err(|e| Error::other(format!("the special tokens of the tokenizer: {e}")))?;
        Ok(Marks { marks, finder })
    }

    /// A question as it may be asked: with `escape`, a blank stands in every mark, before its last letter.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the mark, without `escape`.
    pub fn of_question<'a>(&self, question: &'a str, escape: bool) -> Result<Cow<'a, str>> {
        match self.first(Part::Question, question) {
            None => Ok(Cow::Borrowed(question)),
            Some(_) if escape => Ok(Cow::Owned(self.escaped(Part::Question, question.to_owned()))),
            Some(mark) => Err(Error::usage(format!(
                "{:?}: the question holds {mark}, which means something else in the prompt; with `escape_marks` a blank \
                 parts it",
                beginning(question)
            ))),
        }
    }

    /// [`settle`](Marks::settle) for the samples of the file `path`.
    ///
    /// # Errors
    /// As [`settle`](Marks::settle), naming the file too.
    pub fn guard(&self, mut samples: Vec<Sample>, path: &Path, escape: bool) -> Result<Vec<Sample>> {
        self.settle(&mut samples, escape).map_err(|e| Error::usage(format!("{}, {e}", path.display())))?;
        Ok(samples)
    }

    /// Puts a blank into every mark with `escape`, before its last letter.
    ///
    /// # Errors
    /// Without `escape`, [`Error::Usage`] naming the first sample with a mark, and how many more there are.
    pub fn settle(&self, samples: &mut [Sample], escape: bool) -> Result<()> {
        if escape {
            for Sample { question, steps, answer } in samples {
                let steps = steps.iter_mut().map(|step| (Part::Reasoning, step));
                for (part, text) in
                    [(Part::Question, question), (Part::Answer, answer)].into_iter().chain(steps)
                {
                    *text = self.escaped(part, std::mem::take(text));
                }
            }
            return Ok(());
        }
        self.refuse(samples, |_| true)
    }

    /// Fails for samples whose question holds a mark.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the first such sample, and how many more there are.
    pub fn check_questions(&self, samples: &[Sample]) -> Result<()> {
        self.refuse(samples, |part| part == Part::Question)
    }

    /// Fails for samples that hold a mark in one of their `looked_at` parts.
    fn refuse(&self, samples: &[Sample], looked_at: impl Fn(Part) -> bool) -> Result<()> {
        let looked_at = |sample| texts(sample).filter(|&(part, _)| looked_at(part));
        let first = |sample| looked_at(sample).find_map(|(part, text)| Some((part, self.first(part, text)?)));
        let mut found = samples.iter().enumerate().filter_map(|(i, sample)| Some((i, first(sample)?)));
        let Some((sample, (part, mark))) = found.next() else { return Ok(()) };
        let more = match found.count() {
            0 => String::new(),
            n => format!(", and {n} more samples hold such"),
        };
        Err(Error::usage(format!(
            "sample {}: its {} holds {mark}, which means something else in the prompt{more}; with `escape_marks` a blank \
             parts them",
            sample + 1,
            part.name()
        )))
    }

    /// The first mark that does harm in a text.
    fn first(&self, part: Part, text: &str) -> Option<&Mark> {
        self.harmful(part, text).next().map(|(mark, _)| &self.marks[mark])
    }

    /// The marks that do harm in a text, by their index, each with the place of its end.
    fn harmful(&self, part: Part, text: &str) -> impl Iterator<Item = (usize, usize)> {
        let found = self.finder.find_overlapping_iter(text);
        let found = found.map(|found| (found.pattern().as_usize(), found.end()));
        found.filter(move |&(mark, _)| !(self.marks[mark].in_questions && part == Part::Question))
    }

    /// The text with a blank before the last letter of every mark that does harm.
    fn escaped(&self, part: Part, mut text: String) -> String {
        // Of overlapping ones, as in `####`, a blank may leave another.
        loop {
            let Some((_, end)) = self.harmful(part, &text).next() else { return text };
            let last = text[..end].char_indices().next_back().map_or(0, |(at, _)| at);
            text.insert(last, ' ');
        }
    }
}

/// The texts of a sample, in their order.
fn texts(sample: &Sample) -> impl Iterator<Item = (Part, &str)> {
    let steps = sample.steps.iter().map(|step| (Part::Reasoning, step.as_str()));
    [(Part::Question, sample.question.as_str())]
        .into_iter()
        .chain(steps)
        .chain([(Part::Answer, sample.answer.as_str())])
}

/// The first words of a text, for messages.
pub fn beginning(text: &str) -> String {
    const MOST: usize = 40;
    let more = if text.chars().nth(MOST).is_some() { "…" } else { "" };
    text.chars().take(MOST).collect::<String>() + more
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks() -> Marks {
        let marks = [("###", false), ("</s>", false), ("Answer:", true), ("<|im_end|>", false)]
            .map(|(text, in_questions)| Mark { text: text.to_owned(), name: "it", in_questions });
        Marks::of(marks.into()).unwrap()
    }

    fn sample(question: &str, step: &str, answer: &str) -> Sample {
        Sample { question: question.into(), steps: vec!["1+1=2".into(), step.into()], answer: answer.into() }
    }

    #[test]
    fn marks_are_found_where_they_do_harm() {
        let marks = marks();
        let said = |sample: Sample| marks.settle(&mut [sample], false).err().map(|e| e.to_string());
        assert_eq!(said(sample("How many?", "2*3=6", "6")), None);
        assert_eq!(said(sample("Answer: how many?", "2*3=6", "6")), None);
        for (sample, part, mark) in [
            (sample("a ### b", "", "6"), "question", "###"),
            (sample("Answer: a<|im_end|>", "", "6"), "question", "<|im_end|>"),
            (sample("q", "### Step 1: 2*3=6", "6"), "reasoning", "###"),
            (sample("q", "so Answer: 6", "6"), "reasoning", "Answer:"),
            (sample("q", "", "6</s>"), "answer", "</s>"),
        ] {
            // Only the question is asked.
            assert_eq!(marks.check_questions(std::slice::from_ref(&sample)).is_err(), part == "question");
            let said = said(sample).unwrap();
            assert!(said.starts_with(&format!("sample 1: its {part} holds it {mark:?}, ")), "{said}");
        }
        let mut three = [sample("q", "", "6"), sample("q", "", "###"), sample("q", "###", "")];
        let error = marks.settle(&mut three, false).unwrap_err().to_string();
        assert!(error.starts_with("sample 2: its answer") && error.contains("and 1 more samples"), "{error}");
        marks.settle(&mut three, true).unwrap();
        marks.settle(&mut three, false).unwrap();
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
            assert_eq!(marks().escaped(Part::Answer, text.to_owned()), escaped);
        }
    }

    #[test]
    fn questions_are_refused_or_escaped() {
        let marks = marks();
        let error = marks.of_question("a ### b", false).unwrap_err();
        let said = error.to_string();
        assert!(
            error.exit_code() == 2 && said.contains("\"a ### b\": the question holds it \"###\""),
            "{said}"
        );
        assert_eq!(marks.of_question("a ### b", true).unwrap(), "a ## # b");
        for harmless in ["Answer: a b", "How many?", ""] {
            for escape in [false, true] {
                assert_eq!(marks.of_question(harmless, escape).unwrap(), harmless);
            }
        }
    }

    /// The end of sequence and every special token is a mark, each once; letters that are tokens of their own are none.
    #[test]
    fn special_tokens_of_a_tokenizer_are_marks() {
        let added = |id: u32, content: &str, special: bool| {
            serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special})
        };
        let json = serde_json::json!({
            "version": "1.0", "pre_tokenizer": {"type": "Whitespace"},
            "added_tokens": [added(3, "<|im_start|>", true), added(4, "<|im_end|>", true), added(5, "\n", true),
                added(6, "word", false)],
            "model": {"type": "WordLevel", "vocab": {"###": 0, "a": 1, "?": 2}, "unk_token": "?"},
        });
        let path = std::path::Path::new("m/tokenizer.json");
        let tokenizer = Tokenizer::from_bytes(path, json.to_string().as_bytes()).unwrap();
        let marks = Marks::new(&tokenizer, 4).unwrap();
        let named: Vec<String> = marks.marks.iter().map(ToString::to_string).collect();
        let wanted = [
            "the separator \"###\"",
            "the mark of the answer \"Answer:\"",
            "the end of sequence \"<|im_end|>\"",
            "the special token \"<|im_start|>\"",
        ];
        assert_eq!(named, wanted);
    }
}
