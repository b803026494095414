//! The tokenizer of the synthetic set, as a Hugging Face `tokenizer.json`.
//!
//! A tokenizer of a real model would need a hundred thousand embedding rows for a set of sixty words.
//! This one has a fixed vocabulary of about two hundred tokens, made for short sequences:
//!
//! - 0 … 59 are single tokens, the same one in question, step and answer, so that nothing about a
//!   number is learned twice; longer numbers fall into digits, which are the tokens 0 … 9;
//! - a word carries the blank before it, and before a number also the blank behind it (` buys `),
//!   since the number has none of its own;
//! - the fixed parts of the prompt layout (spec section 1) are one token each;
//! - other words are spelled in letters, so that any English question can be asked; characters other than
//!   printable ASCII become `<|unk|>`.
//!
//! Decoding puts the tokens' texts together and nothing else, hence gives back the text exactly.
//! Technically it is a BPE model without merges: whole pieces are looked up first (`ignore_merges`, as in
//! Llama 3's tokenizer), and the rest falls apart into characters.

use serde_json::{Value, json};

/// The end-of-sequence token.
pub const EOS: &str = "<|end_of_text|>";
/// The token of characters outside the vocabulary.
pub const UNK: &str = "<|unk|>";

/// The fixed parts of the prompt layout, one token each wherever they occur.
const LAYOUT: [&str; 4] = ["###", "Question: ", " Let's think step by step:(Thinking speed: ", "Answer:"];

/// The words of the stories, with the blanks that belong to them, and `auto`, the thinking speed.
#[rustfmt::skip] // one word a line otherwise
const WORDS: &[&str] = &[
    "auto", ", ", " Ann", "Ann", " Ben", "Ben", " Eva", "Eva", " How", " Leo", "Leo", " Mia", "Mia", " Tom",
    "Tom", " a", " added", " and", " and ", " apples", " are", " away ", " bag", " bags", " boat", " books",
    " box", " bus", " buys ", " cards", " carries ", " coins", " day", " days", " does", " doubles",
    " earns ", " eggs", " evenly", " fifth", " finds ", " for ", " friends", " get", " gets ", " gives",
    " half", " has", " has ", " have", " holds ", " is", " jar", " keeps", " left", " loses ", " many",
    " now", " number", " of", " of ", " off", " on", " one", " only", " pens", " people", " quadruples",
    " quarter", " sells ", " share ", " stay", " taken", " the", " them", " then", " then ", " there",
    " third", " train", " triples", " wins ",
];

/// Numbers below this are single tokens.
const WHOLE_NUMBERS: u32 = 60;

/// Regular expression that cuts text into pieces before the look-up; see the module's description.
const PIECES: &str = concat!(
    r"(?<![0-9])[1-5]?[0-9](?![0-9])", // a number below 60
    r"|<<|>>",
    r"| ?[A-Za-z]+(?: (?=[0-9]))?", // a word with its blanks
    r"|, (?=[0-9])",
    r"|[\s\S]", // any other character
);

/// All tokens, in the order of their ids: special ones, layout, numbers, brackets, words, characters.
///
/// The list does not depend on any seed or configuration; ids are stable.
pub fn vocabulary() -> Vec<String> {
    let numbers = (0..WHOLE_NUMBERS).map(|n| n.to_string());
    let characters = ('\n'..='\n').chain(' '..='~').filter(|c| !c.is_ascii_digit()).map(String::from);
    let mut tokens: Vec<String> = [EOS, UNK].into_iter().chain(LAYOUT).map(str::to_owned).collect();
    tokens.extend(numbers);
    tokens.extend(["<<", ">>"].map(str::to_owned));
    tokens.extend(WORDS.iter().map(|&word| word.to_owned()));
    tokens.extend(characters);
    tokens
}

/// The `tokenizer.json` of the synthetic set, for the `tokenizers` crate or Python package.
pub fn tokenizer_json() -> String {
    let tokens = vocabulary();
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let added = |(id, content): (usize, &String)| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": id < 2,
        })
    };
    let added: Vec<Value> = tokens.iter().enumerate().take(2 + LAYOUT.len()).map(added).collect();
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {
            "type": "Split", "pattern": { "Regex": PIECES }, "behavior": "Isolated", "invert": false,
        },
        "post_processor": null,
        "decoder": { "type": "Fuse" },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": UNK, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
            "vocab": vocab, "merges": [],
        },
    });
    format!("{tokenizer:#}\n")
}

/// The `tokenizer_config.json` beside it: names the end token and keeps Python from tidying up blanks.
pub fn tokenizer_config_json() -> String {
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "unk_token": UNK,
        "clean_up_tokenization_spaces": false,
    });
    format!("{config:#}\n")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use tokenizers::Tokenizer;

    use super::*;
    use crate::data::synth::{SynthConfig, generate};

    fn load() -> Tokenizer {
        Tokenizer::from_bytes(tokenizer_json()).unwrap()
    }

    /// As the engine itself loads a model directory, with the checks it makes there.
    #[test]
    fn the_engine_accepts_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), tokenizer_json()).unwrap();
        std::fs::write(dir.path().join("tokenizer_config.json"), tokenizer_config_json()).unwrap();
        let tokenizer = crate::model::tokenizer::Tokenizer::load(dir.path()).unwrap();
        assert_eq!(tokenizer.separator("###").unwrap(), 2);
        assert_eq!(tokenizer.vocab_size(), vocabulary().len());
    }

    fn pieces(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
        tokenizer.encode(text, false).unwrap().get_tokens().to_vec()
    }

    #[test]
    fn ids_are_positions_and_no_token_is_there_twice() {
        let (tokenizer, tokens) = (load(), vocabulary());
        assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), tokens.len());
        assert_eq!(tokenizer.get_vocab_size(true), tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            assert_eq!(tokenizer.token_to_id(token), Some(id as u32), "{token:?}");
        }
        assert_eq!(tokens.len(), 236);
    }

    #[test]
    fn the_layout_costs_a_token_a_part() {
        let tokenizer = load();
        let question =
            "Question: Tom has 12 apples, then buys 7. Let's think step by step:(Thinking speed: 2)";
        let expected = [
            "Question: ",
            "Tom",
            " has ",
            "12",
            " apples",
            ",",
            " then",
            " buys ",
            "7",
            ".",
            " Let's think step by step:(Thinking speed: ",
            "2",
            ")",
        ];
        assert_eq!(pieces(&tokenizer, question), expected);
        assert_eq!(pieces(&tokenizer, &format!("{question}###")), [&expected[..], &["###"]].concat());
        assert_eq!(
            pieces(&tokenizer, "###<<12+7=19>>\n<<19-4=15>>"),
            ["###", "<<", "12", "+", "7", "=", "19", ">>", "\n", "<<", "19", "-", "4", "=", "15", ">>"]
        );
        assert_eq!(pieces(&tokenizer, "###Answer:15<|end_of_text|>"), ["###", "Answer:", "15", EOS]);
        assert_eq!(pieces(&tokenizer, "(Thinking speed: auto)").last().unwrap(), ")");
    }

    #[test]
    fn numbers_from_60_on_are_digits() {
        let tokenizer = load();
        for (text, expected) in [
            ("59", vec!["59"]),
            ("60", vec!["6", "0"]),
            ("123=7", vec!["1", "2", "3", "=", "7"]),
            ("1.5", vec!["1", ".", "5"]),
            ("07", vec!["0", "7"]),
        ] {
            assert_eq!(pieces(&tokenizer, text), expected);
        }
    }

    #[test]
    fn every_problem_is_in_the_vocabulary_and_every_word_is_used() {
        let tokenizer = load();
        let letters =
            |token: &String| token.len() == 1 && token.chars().all(char::is_alphabetic) && token != "A";
        let mut used = HashSet::new();
        let splits = generate(&SynthConfig { train: 5_000, ..SynthConfig::default() }).unwrap();
        for sample in splits.train.iter().chain(&splits.val).chain(&splits.test) {
            let text =
                format!("{}###{}###Answer:{}", sample.question, sample.steps.join("\n"), sample.answer);
            let encoding = tokenizer.encode(text.as_str(), false).unwrap();
            let tokens = encoding.get_tokens();
            assert!(!tokens.iter().any(|token| token == UNK || token == " " || letters(token)), "{tokens:?}");
            assert_eq!(tokenizer.decode(encoding.get_ids(), false).unwrap(), text);
            used.extend(tokens.iter().cloned());
        }
        let unused: Vec<&&str> =
            WORDS.iter().filter(|word| !used.contains(**word) && **word != "auto").collect();
        assert!(unused.is_empty(), "{unused:?}");
    }

    proptest! {
        #[test]
        fn printable_text_comes_back_exactly(text in "[ -~\n]{0,80}") {
            let tokenizer = load();
            let encoding = tokenizer.encode(text.as_str(), false).unwrap();
            prop_assert_eq!(tokenizer.decode(encoding.get_ids(), false).unwrap(), text);
        }

        #[test]
        fn any_text_can_be_fed(text in any::<String>()) {
            let vocabulary = vocabulary().len() as u32;
            let encoding = load().encode(text.as_str(), false).unwrap();
            prop_assert!(encoding.get_ids().iter().all(|&id| id < vocabulary));
        }
    }
}
