//! Every published form, read from a file as it is published.

use std::path::{Path, PathBuf};

use colar_engine::data::{Format, Sample, load, write_jsonl};
use proptest::prelude::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data").join(name)
}

/// Loads a fixture by its named form and by detection, which must agree.
fn read(name: &str, format: Format) -> Vec<Sample> {
    let named = load(fixture(name), Some(format)).unwrap();
    assert_eq!(named, load(fixture(name), None).unwrap(), "{name}: detection reads it differently");
    named
}

fn sample(question: &str, steps: &[&str], answer: &str) -> Sample {
    Sample {
        question: question.to_owned(),
        steps: steps.iter().map(|&step| step.to_owned()).collect(),
        answer: answer.to_owned(),
    }
}

#[test]
fn own_form_as_array_and_as_lines() {
    let expected = [
        sample(
            "A tray holds 6 rolls. A baker fills 3 trays and sells 4 rolls. How many rolls are left?",
            &["<<6*3=18>>", "<<18-4=14>>"],
            "14",
        ),
        sample("A rope of 20 m is cut into 4 equal pieces. How long is each?", &["<<20/4=5>>"], "5"),
    ];
    assert_eq!(read("colar.json", Format::Colar), expected);
    assert_eq!(read("colar.jsonl", Format::Colar), expected);
}

#[test]
fn gsm8k() {
    assert_eq!(
        read("gsm8k.jsonl", Format::Gsm8k),
        [
            sample(
                "A ferry makes 12 crossings a day with 75 passengers each. How many passengers does it carry in 2 days?",
                &[
                    "In a day it carries 12*75 = 900 passengers.",
                    "In 2 days it carries 900*2 = 1,800 passengers."
                ],
                "1,800",
            ),
            sample(
                "Nadia reads 15 pages before lunch and twice as many after. How many pages does she read?",
                &["After lunch she reads 15*2 = 30 pages.", "Together that is 15+30 = 45 pages."],
                "45",
            ),
        ]
    );
}

#[test]
fn gsm8k_aug() {
    assert_eq!(
        read("gsm8k_aug.txt", Format::Gsm8kAug),
        [
            sample(
                "A ferry makes 12 crossings a day with 75 passengers each. How many passengers does it carry in 2 days?",
                &["<<12*75=900>>", "<<900*2=1800>>"],
                "1800",
            ),
            sample("Of 80 seeds 25% sprout. How many sprout?", &["<<80*25/100=20>>"], "20"),
        ]
    );
}

#[test]
fn gsm_hard() {
    assert_eq!(
        read("gsm_hard.jsonl", Format::GsmHard),
        [
            sample(
                "A quarry ships 4821337 bricks and 12 more every day. How many after 9 days?",
                &[
                    "bricks_initial = 4821337",
                    "bricks_per_day = 12",
                    "days = 9",
                    "bricks_total = bricks_initial + bricks_per_day * days",
                    "result = bricks_total",
                ],
                "4821445",
            ),
            sample(
                "Half of a 7 l can is poured out. How much stays?",
                &["can = 7", "result = can / 2"],
                "3.5"
            ),
        ]
    );
}

#[test]
fn svamp() {
    assert_eq!(
        read("svamp.json", Format::Svamp),
        [
            sample(
                "Iris planted 17 tulips and 8 roses. How many more tulips than roses did she plant?",
                &["( 17.0 - 8.0 )"],
                "9",
            ),
            sample("Each of 6 crates holds 14 jars. How many jars are there?", &["( 6.0 * 14.0 )"], "84"),
        ]
    );
}

#[test]
fn multiarith() {
    assert_eq!(
        read("multiarith.json", Format::Multiarith),
        [
            sample(
                "Omar had 21 marbles, lost 9 and put the rest into 3 equal bags. How many marbles are in a bag?",
                &["X=((21.0-9.0)/3.0)"],
                "4",
            ),
            sample(
                "Lena earns 5 dollars an hour and works 2 hours on Monday and 3 on Tuesday. How much does she earn?",
                &["X=(5.0*(2.0+3.0))"],
                "25",
            ),
        ]
    );
}

#[test]
fn math_as_a_tree_of_files_and_as_one_file() {
    let samples = read("math", Format::Math);
    assert_eq!(
        samples,
        [
            sample(
                "Solve $2x + 1 = 4$ for $x$.",
                &["Subtracting $1$ gives $2x = 3$.", "Hence $x = \\boxed{\\frac{3}{2}}$."],
                "\\frac{3}{2}",
            ),
            sample(
                "What is the remainder of $7^2$ modulo $5$?",
                &["We have $7^2 = 49 = 9 \\cdot 5 + 4$, so the remainder is $\\boxed{4}$."],
                "4",
            ),
        ]
    );
    assert_eq!(read("math/algebra/1.json", Format::Math), samples[..1]);
}

#[test]
fn what_is_written_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.jsonl");
    let samples = [sample("a \"q\"\n\u{2028}é", &["one", "two\nlines", ""], "1"), sample("q", &[], "x")];
    write_jsonl(&path, &samples).unwrap();
    assert_eq!(load(&path, None).unwrap(), samples);
    write_jsonl(&path, &samples[1..]).unwrap();
    assert_eq!(load(&path, None).unwrap(), samples[1..]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "something was left beside the file");
}

/// The message for a file of the given bytes, without the directory.
fn error_of(name: &str, bytes: &[u8], format: Option<Format>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let message = load(&path, format).unwrap_err().to_string();
    message.replace(&format!("{}/", dir.path().display()), "")
}

#[test]
fn bad_files_are_named_with_their_line() {
    let good = "{\"question\":\"q\",\"steps\":\"s\",\"answer\":\"a\"}\n";
    for (text, format, expected) in [
        ("", None, "d: the data set is empty"),
        ("\u{feff} \r\n", None, "d: the data set is empty"),
        ("[]", None, "d: the data set is empty"),
        ("", Some(Format::Gsm8kAug), "d: the data set is empty"),
        (&format!("{good}{good}{{\"question\":"), None, "d, line 3: EOF while parsing a value (column 12)"),
        (&format!("{good}\n[1]"), None, "d, line 3: invalid type: integer `1`, expected a string (column 2)"),
        (
            "{\"question\":\"q\",\"answer\":\"7\"}",
            Some(Format::Gsm8k),
            "d, line 1: there is no `####` before the answer",
        ),
        (
            "{\"problem\":\"p\",\"solution\":\"s\"}",
            None,
            "d, line 1: the solution has no complete \\boxed{…}",
        ),
        (
            "[{\"sQuestion\":\"q\",\"lEquations\":[],\"lSolutions\":[]}]",
            None,
            "d, line 1: lSolutions is empty",
        ),
        ("a||b\n", None, "d, line 1: there is no `####` before the answer"),
        ("a||<<1=1>> ####\n", None, "d, line 1: the answer is empty"),
    ] {
        assert_eq!(error_of("d", text.as_bytes(), format), expected, "{text}");
    }
    let mut latin = good.as_bytes().to_vec();
    latin.extend(b"{\"question\":\"caf\xe9\"}");
    assert_eq!(error_of("d", &latin, None), "d, line 2: the text is not UTF-8");
}

#[test]
fn bad_directories() {
    let dir = tempfile::tempdir().unwrap();
    let message = load(dir.path(), None).unwrap_err().to_string();
    assert!(message.ends_with("the data set is empty"), "{message}");
    let message = load(dir.path(), Some(Format::Svamp)).unwrap_err().to_string();
    assert!(message.ends_with("is a directory; only the MATH form is read from one"), "{message}");
    let message = load(dir.path().join("none"), None).unwrap_err().to_string();
    assert!(message.contains("none: "), "{message}");
    std::fs::create_dir(dir.path().join("a")).unwrap();
    std::fs::write(dir.path().join("a/3.json"), "{\n\"problem\": \"p\"\n}").unwrap();
    let message = load(dir.path(), None).unwrap_err().to_string();
    assert!(message.ends_with("a/3.json, line 3: missing field `solution` (column 1)"), "{message}");
    #[cfg(unix)]
    {
        std::fs::write(dir.path().join("a/3.json"), "{\"problem\": \"p\", \"solution\": \"\\\\boxed{1}\"}")
            .unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("a/loop")).unwrap();
        assert_eq!(load(dir.path(), None).unwrap().len(), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), start in "(\\[?\\{?\"?|q\\|\\|)") {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        std::fs::write(&path, [start.as_bytes(), &bytes].concat()).unwrap();
        let _ = load(&path, None);
        let _ = load(&path, Some(Format::Gsm8kAug));
    }
}
