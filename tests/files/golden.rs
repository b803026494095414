//! The golden models' files: everything in them is found, and nothing else.

use std::collections::BTreeSet;

use colar_engine::files::json::read_object;
use colar_engine::files::safetensors::Dtype;
use colar_engine::files::weights::Weights;
use colar_engine::model::config::{Architecture, ModelConfig};
use colar_engine::model::rope::RopeScaling;
use colar_engine::model::tokenizer::Tokenizer;
use colar_engine::model::weight_spec::WeightSpec;
use serde_json::Value;

use crate::common::golden;

#[test]
fn configs_say_what_the_models_are() {
    let llama = ModelConfig::load(&golden("llama-tiny")).unwrap();
    assert_eq!(llama.model_type, Architecture::Llama);
    assert_eq!((llama.hidden_size, llama.num_key_value_heads, llama.head_dim), (64, 2, 16));
    assert!(matches!(llama.rope.scaling, RopeScaling::Llama3 { factor: 8.0, .. }));
    assert!(!llama.tie_word_embeddings && !llama.attention_bias);
    assert_eq!((llama.bos_token_id, llama.eos_token_ids), (Some(0), vec![1]));
    assert_eq!(llama.torch_dtype, Some(Dtype::F32));
    let qwen2 = ModelConfig::load(&golden("qwen2-tiny")).unwrap();
    assert_eq!(qwen2.model_type, Architecture::Qwen2);
    assert!(qwen2.tie_word_embeddings && qwen2.attention_bias);
}

#[test]
fn weights_are_exactly_those_of_the_config() {
    for model in ["llama-tiny", "qwen2-tiny"] {
        let config = ModelConfig::load(&golden(model)).unwrap();
        let weights = Weights::open(&golden(model)).unwrap();
        let expected = config.weights();
        for WeightSpec { name, shape, .. } in &expected {
            let tensor = weights.get(name, shape).unwrap();
            assert!(tensor.as_f32().is_some_and(|x| x.iter().all(|x| x.is_finite())), "{name}");
        }
        let expected: BTreeSet<&str> = expected.iter().map(|w| w.name.as_str()).collect();
        assert_eq!(weights.names().collect::<BTreeSet<_>>(), expected);
    }
}

#[test]
fn prompts_tokenise_as_the_reference_does() {
    for model in ["llama-tiny", "qwen2-tiny"] {
        let dir = golden(model);
        let config = ModelConfig::load(&dir).unwrap();
        let tokenizer = Tokenizer::load(&dir).unwrap();
        tokenizer.check_fits(config.vocab_size).unwrap();
        assert_eq!(tokenizer.vocab_size(), 512);
        let separator = tokenizer.separator("###").unwrap();
        let eos = tokenizer.eos(&config).unwrap();
        assert_eq!(eos.stop, [eos.append]);

        let sft = Value::Object(read_object(&dir.join("sft.json")).unwrap());
        let generate = Value::Object(read_object(&dir.join("generate.json")).unwrap());
        let sample = |row: &Value| sft["samples"][row["sample"].as_u64().unwrap() as usize].clone();
        let question = |row: &Value| {
            let question = sample(row)["question"].as_str().unwrap().to_owned();
            format!("Question: {question} Let's think step by step:(Thinking speed: {})", row["cf"])
        };
        let rows = generate["rows"].as_array().unwrap();
        assert!(!rows.is_empty());
        for row in rows {
            let ids = tokenizer.encode(&format!("{}###", question(row))).unwrap();
            let want: Vec<u32> = serde_json::from_value(row["prompt_ids"].clone()).unwrap();
            assert_eq!(ids, want);
            assert_eq!(ids.last(), Some(&separator));
        }
        for case in sft["cases"].as_array().unwrap().iter().filter(|case| case["question_tokens"].is_u64()) {
            let count = |text: String| tokenizer.encode(&text).unwrap().len() as u64;
            assert_eq!(count(question(case)), case["question_tokens"], "{case}");
            let eos = tokenizer.token_text(eos.append);
            let answer = format!("###Answer:{}{eos}", sample(case)["answer"].as_str().unwrap());
            assert_eq!(count(answer), case["answer_tokens"], "{case}");
        }
        let text = "Tom has 3 boxes with 24 pens each: <<3*24=72>>\n<<72-10=62>>###Answer:62";
        assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap(), true).unwrap(), text);
    }
}
