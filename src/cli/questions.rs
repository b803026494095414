//! Questions on standard input, a line each: as text, or as the records of a data set.

use serde_json::Value;
use serde_json::error::Category;

/// The question of a line: the field `question` of a record, or the line itself.
///
/// A line of other JSON is no question that anybody asks; `plain` takes it all the same, as a text to continue.
///
/// # Errors
/// The fault of a line of JSON that holds no question.
pub(super) fn of_line(line: &str, plain: bool) -> Result<String, String> {
    match serde_json::from_str::<Value>(line) {
        Ok(Value::Object(record)) => match record.get("question") {
            Some(Value::String(question)) if !question.trim().is_empty() => Ok(question.clone()),
            _ if plain => Ok(line.to_owned()),
            Some(_) => Err("the field `question` must be a text that is not empty".to_owned()),
            None => Err("a JSON record without the field `question`".to_owned()),
        },
        Ok(Value::Array(_)) if !plain => Err(of_array()),
        // A value that goes on in the next line; a question may begin with a bracket, but is then no beginning of JSON.
        Err(e) if e.classify() == Category::Eof && line.trim_start().starts_with(['{', '[']) && !plain => {
            Err(of_array())
        }
        Err(e) if line.trim_start().starts_with("{\"") && !plain => {
            Err(format!("a malformed JSON record: {e}"))
        }
        _ => Ok(line.to_owned()),
    }
}

fn of_array() -> String {
    "JSON over several lines, or a list: give a record a line, as `data convert` writes them".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_taken_and_other_json_is_refused() {
        let record = r#"{"question": "What is 1+1?", "steps": [], "answer": "2"}"#;
        for plain in [false, true] {
            assert_eq!(of_line(record, plain).unwrap(), "What is 1+1?");
            for text in ["What is 1+1?", "[Easy] What is 1+1?", "{1, 2} is a set. How many?", "12"] {
                assert_eq!(of_line(text, plain).unwrap(), text);
            }
        }
        for (line, fault) in [
            (r#"{"problem": "1+1?"}"#, "without the field `question`"),
            (r#"{"question": 7}"#, "must be a text"),
            (r#"{"question": " "}"#, "must be a text"),
            ("[", "a record a line"),
            ("[1, 2]", "a record a line"),
            ("{", "a record a line"),
            (r#"{"question": "1+1?" "answer": 2}"#, "malformed"),
        ] {
            let said = of_line(line, false).unwrap_err();
            assert!(said.contains(fault), "{line}: {said}");
            assert_eq!(of_line(line, true).unwrap(), line);
        }
    }
}
