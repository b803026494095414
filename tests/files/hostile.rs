//! Damaged and hostile files: no panic, no hang, and one line that names the file.
//!
//! Each test takes a good file, changes it at random (a byte, its length, a value somewhere in its JSON)
//! and reads it. A file that is still accepted must also be usable. Panics are counted by a hook, since
//! some are caught on the way.

use std::cell::Cell;
use std::fs;
use std::panic;
use std::path::Path;
use std::sync::Once;

use colar_engine::Error;
use colar_engine::files::weights::Weights;
use colar_engine::model::adapter::AdapterConfig;
use colar_engine::model::colar_config::ColarConfig;
use colar_engine::model::config::ModelConfig;
use colar_engine::model::tokenizer::Tokenizer;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::common::golden;

thread_local! {
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// Runs `f`; also returns whether anything panicked on this thread meanwhile, even if it was caught.
pub fn panicked<T>(f: impl FnOnce() -> T) -> (T, bool) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            print(info);
        }));
    });
    let before = PANICS.get();
    let value = f();
    (value, PANICS.get() != before)
}

/// Checks a message: one line that names the file.
pub fn check_message(error: &Error, path: &Path) -> Result<(), TestCaseError> {
    let message = error.to_string();
    prop_assert!(message.starts_with(&path.display().to_string()), "{message}");
    prop_assert!(!message.chars().any(char::is_control), "{message:?}");
    prop_assert!(message.chars().count() < 700, "{message}");
    Ok(())
}

fn golden_json(name: &str) -> Value {
    serde_json::from_slice(&fs::read(golden(name)).unwrap()).unwrap()
}

/// A change to a file's bytes. Places are fractions of its length, in 1/2^16.
#[derive(Debug, Clone)]
enum Damage {
    Truncate(u16),
    Flip(u16, u8),
    /// As `Flip`, but near the beginning, where the headers are.
    FlipEarly(u8, u8),
    Insert(u16, Vec<u8>),
    Length(u64),
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let one = prop_oneof![
        any::<u16>().prop_map(Damage::Truncate),
        (any::<u16>(), 1u8..).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        (any::<u8>(), 1u8..).prop_map(|(at, bits)| Damage::FlipEarly(at, bits)),
        (any::<u16>(), proptest::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        prop_oneof![any::<u64>(), 0u64..5000, Just(u64::MAX), Just(u64::MAX - 8)].prop_map(Damage::Length),
    ];
    proptest::collection::vec(one, 1..4)
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    let place = |at: u16| (bytes.len() * at as usize) >> 16;
    match damage {
        Damage::Truncate(at) => bytes.truncate(place(*at)),
        Damage::Flip(at, bits) => {
            let at = place(*at);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= bits;
            }
        }
        Damage::FlipEarly(at, bits) => {
            if let Some(byte) = bytes.get_mut(*at as usize) {
                *byte ^= bits;
            }
        }
        Damage::Insert(at, new) => {
            let at = place(*at);
            bytes.splice(at..at, new.iter().copied());
        }
        Damage::Length(length) => {
            if let Some(first) = bytes.first_chunk_mut() {
                *first = length.to_le_bytes();
            }
        }
    }
}

/// Values that are wrong wherever they are put.
fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-2i64..70).prop_map(Value::from),
        Just(json!(u64::MAX)),
        any::<f64>().prop_map(|x| json!(x)),
        prop_oneof![Just(0.0), Just(-0.0), Just(1e308), Just(1e-308), Just(1.5)].prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[ -~]{0,6}\n\u{7}[ -~]{0,6}".prop_map(Value::from),
        prop_oneof![
            Just("llama3"),
            Just("default"),
            Just("yarn"),
            Just("ByteLevel"),
            Just("Sequence"),
            Just("Strip"),
            Just("Replace"),
            Just("BPE"),
            Just("WordLevel"),
            Just("Unigram"),
            Just("###")
        ]
        .prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        proptest::collection::vec(-2i64..600, 0..4).prop_map(|ids| json!(ids)),
        Just(json!({"rope_type": "llama3", "factor": 1e308, "low_freq_factor": 1e-308,
            "high_freq_factor": 1e308, "original_max_position_embeddings": 1})),
        Just(
            json!({"type": "Sequence", "normalizers": [{"type": "Strip", "strip_left": true, "strip_right": true}]})
        ),
        Just(json!({"type": "Strip", "content": "a", "start": 9, "stop": 9})),
    ]
}

/// A change to a JSON value: its place (the child at every level), and the new value.
type Edit = (Vec<u16>, Option<Value>);

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let place = proptest::collection::vec(any::<u16>(), 1..5);
    proptest::collection::vec((place, proptest::option::weighted(0.8, odd_value())), 1..4)
}

/// Replaces the value at the place of `edit`, or removes it if there is nothing to put there.
fn edit(value: &mut Value, (place, new): &Edit) {
    let Some((&first, rest)) = place.split_first() else {
        *value = new.clone().unwrap_or_default();
        return;
    };
    match value {
        Value::Object(map) if !map.is_empty() => {
            let key = map.keys().nth(first as usize % map.len()).unwrap().clone();
            let leaf = rest.is_empty() || !(map[&key].is_object() || map[&key].is_array());
            match new {
                None if leaf => drop(map.shift_remove(&key)),
                _ if leaf => drop(map.insert(key, new.clone().unwrap_or_default())),
                _ => edit(&mut map[&key], &(rest.to_vec(), new.clone())),
            }
        }
        Value::Array(list) if !list.is_empty() => {
            let index = first as usize % list.len();
            match new {
                None if rest.is_empty() => drop(list.remove(index)),
                _ => edit(&mut list[index], &(rest.to_vec(), new.clone())),
            }
        }
        other => *other = new.clone().unwrap_or_default(),
    }
}

fn as_map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => Map::from_iter([("hidden_size".to_owned(), other)]),
    }
}

/// A config that was accepted must be one that sizes can be computed from.
fn check_config(config: &ModelConfig) -> Result<(), TestCaseError> {
    let frequencies = config.rope_inv_freq();
    prop_assert_eq!(frequencies.len(), config.head_dim / 2);
    prop_assert!(frequencies.iter().all(|f| f.is_finite() && *f >= 0.0));
    prop_assert!(config.num_parameters() > 0);
    prop_assert_eq!(config.num_attention_heads % config.num_key_value_heads, 0);
    let json = config.to_json();
    let again = ModelConfig::from_map(Path::new("again"), json.as_object().unwrap());
    prop_assert_eq!(&again.unwrap(), config);
    Ok(())
}

/// A tokenizer that was accepted must take any text, or say that it cannot.
fn check_tokenizer(tokenizer: &Tokenizer, path: &Path) -> Result<(), TestCaseError> {
    for text in ["", "###Answer:12", "Tom's  3\u{301} \u{1f600}\0pens<|spare_412|><|end_of_text|>"] {
        match tokenizer.encode(text) {
            Ok(ids) => {
                prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
                if let Err(error) = tokenizer.decode(&ids, true) {
                    check_message(&error, path)?;
                }
            }
            Err(error) => check_message(&error, path)?,
        }
    }
    prop_assert!(!tokenizer.token_text(u32::MAX).is_empty());
    Ok(())
}

/// Four times the usual number of cases; `PROPTEST_CASES` changes it.
fn config() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: 4 * usual.cases, failure_persistence: None, ..usual }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn config_values(qwen in any::<bool>(), edits in edits()) {
        let mut json = golden_json(if qwen { "qwen2-tiny/config.json" } else { "llama-tiny/config.json" });
        edits.iter().for_each(|change| edit(&mut json, change));
        let path = Path::new("m/config.json");
        let (read, bad) = panicked(|| ModelConfig::from_map(path, &as_map(json)));
        prop_assert!(!bad);
        match read {
            Ok(config) => check_config(&config)?,
            Err(error) => check_message(&error, path)?,
        }
    }

    #[test]
    fn adapter_and_colar_values(edits in edits()) {
        let mut json = golden_json("llama-tiny/adapter/adapter_config.json");
        edits.iter().for_each(|change| edit(&mut json, change));
        let path = Path::new("a/adapter_config.json");
        match AdapterConfig::from_map(path, &as_map(json)) {
            Ok(config) => prop_assert!(config.scale() > 0.0 && !config.target_modules.is_empty()),
            Err(error) => check_message(&error, path)?,
        }
        let mut json = golden_json("llama-tiny/adapter/colar.json");
        edits.iter().for_each(|change| edit(&mut json, change));
        let path = Path::new("a/colar.json");
        match ColarConfig::from_map(path, &as_map(json)) {
            Ok(config) => prop_assert!(config.embeds_std > 0.0 && config.embeds_std.is_finite()),
            Err(error) => check_message(&error, path)?,
        }
    }

    #[test]
    fn safetensors_bytes(damage in damage()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let mut bytes = fs::read(golden("qwen2-tiny/adapter/adapter_model.safetensors")).unwrap();
        damage.iter().for_each(|change| apply(&mut bytes, change));
        fs::write(&path, &bytes).unwrap();
        let (read, bad) = panicked(|| Weights::open(dir.path()));
        prop_assert!(!bad);
        match read {
            Ok(weights) => {
                for name in weights.names() {
                    let Ok(tensor) = weights.tensor(name) else { continue };
                    prop_assert_eq!(tensor.numel() * tensor.dtype().size(), tensor.bytes().len());
                    prop_assert_eq!(tensor.to_f32_vec().len(), tensor.shape().iter().product::<usize>());
                }
            }
            Err(error) => check_message(&error, &path)?,
        }
    }

    /// A header whose numbers are changed, in a file of the right length.
    #[test]
    fn safetensors_headers(edits in edits()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let bytes = fs::read(golden("llama-tiny/adapter/latent_head.safetensors")).unwrap();
        let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let mut json: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        edits.iter().for_each(|change| edit(&mut json, change));
        let header = json.to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(&bytes[8 + length..]);
        fs::write(&path, &file).unwrap();
        let (read, bad) = panicked(|| Weights::open(dir.path()));
        prop_assert!(!bad);
        if let Err(error) = read {
            check_message(&error, &path)?;
        }
    }

    #[test]
    fn tokenizer_values(edits in edits()) {
        let mut json = golden_json("llama-tiny/tokenizer.json");
        edits.iter().for_each(|change| edit(&mut json, change));
        let path = Path::new("m/tokenizer.json");
        let text = json.to_string();
        let (checked, bad) = panicked(|| match Tokenizer::from_bytes(path, text.as_bytes()) {
            Ok(tokenizer) => check_tokenizer(&tokenizer, path),
            Err(error) => check_message(&error, path),
        });
        prop_assert!(!bad);
        checked?;
    }

    #[test]
    fn bytes_of_every_json_file(damage in damage(), which in 0usize..4) {
        let name = ["config.json", "tokenizer.json", "adapter_config.json", "colar.json"][which];
        let from = if which < 2 { golden("llama-tiny") } else { golden("llama-tiny/adapter") };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        let mut bytes = fs::read(from.join(name)).unwrap();
        damage.iter().for_each(|change| apply(&mut bytes, change));
        fs::write(&path, &bytes).unwrap();
        let (checked, bad) = panicked(|| {
            let read = match which {
                0 => ModelConfig::load(dir.path()).map(|config| check_config(&config)),
                1 => Tokenizer::load(dir.path()).map(|tokenizer| check_tokenizer(&tokenizer, &path)),
                2 => AdapterConfig::load(dir.path()).map(|_| Ok(())),
                _ => ColarConfig::load(dir.path()).map(|_| Ok(())),
            };
            read.unwrap_or_else(|error| check_message(&error, &path))
        });
        prop_assert!(!bad);
        checked?;
    }
}

/// Deeply nested JSON must not exhaust the stack.
#[test]
fn nesting_has_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let deep = format!("{{\"decoder\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for name in ["config.json", "tokenizer.json"] {
        fs::write(dir.path().join(name), &deep).unwrap();
    }
    let config = ModelConfig::load(dir.path()).unwrap_err().to_string();
    let tokenizer = Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(
        config.contains("recursion limit") && tokenizer.contains("recursion limit"),
        "{config} {tokenizer}"
    );
}
