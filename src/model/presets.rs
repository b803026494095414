//! The shapes of published models, for models with random weights.
//!
//! Benchmarks and tests need a model of a real shape, not its weights. The numbers are those of the
//! models' own `config.json` on the Hugging Face hub; the test below compares the number of weights
//! that follows from them with the published one.

use super::config::{Architecture, ModelConfig};
use super::rope::{RopeConfig, RopeScaling};
use crate::files::safetensors::Dtype;

/// A model shape with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Llama-3.2-1B.
    Llama32_1b,
    /// Llama-3.2-3B.
    Llama32_3b,
    /// Llama-3.1-8B.
    Llama31_8b,
    /// Qwen2.5-0.5B.
    Qwen25_0_5b,
    /// Qwen2.5-1.5B.
    Qwen25_1_5b,
    /// DeepSeek-R1-Distill-Qwen-1.5B.
    R1DistillQwen1_5b,
    /// Qwen3-0.6B.
    Qwen3_0_6b,
    /// SmolLM2-135M.
    SmolLm2_135m,
    /// A Llama of less than a million weights, for tests and the embedded default.
    Tiny,
}

impl Preset {
    /// All presets.
    pub const ALL: [Preset; 9] = [
        Preset::Llama32_1b,
        Preset::Llama32_3b,
        Preset::Llama31_8b,
        Preset::Qwen25_0_5b,
        Preset::Qwen25_1_5b,
        Preset::R1DistillQwen1_5b,
        Preset::Qwen3_0_6b,
        Preset::SmolLm2_135m,
        Preset::Tiny,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Llama32_1b => "llama-3.2-1b",
            Preset::Llama32_3b => "llama-3.2-3b",
            Preset::Llama31_8b => "llama-3.1-8b",
            Preset::Qwen25_0_5b => "qwen2.5-0.5b",
            Preset::Qwen25_1_5b => "qwen2.5-1.5b",
            Preset::R1DistillQwen1_5b => "deepseek-r1-distill-qwen-1.5b",
            Preset::Qwen3_0_6b => "qwen3-0.6b",
            Preset::SmolLm2_135m => "smollm2-135m",
            Preset::Tiny => "tiny",
        }
    }

    /// All names, for messages.
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// The inverse of [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.name() == name)
    }

    /// The shape.
    pub fn config(self) -> ModelConfig {
        match self {
            Preset::Llama32_1b => ModelConfig {
                tie_word_embeddings: true,
                rope: llama3_rope(32.0),
                ..llama3([2048, 8192], 16, [32, 8, 64])
            },
            Preset::Llama32_3b => ModelConfig {
                tie_word_embeddings: true,
                rope: llama3_rope(32.0),
                ..llama3([3072, 8192], 28, [24, 8, 128])
            },
            Preset::Llama31_8b => llama3([4096, 14336], 32, [32, 8, 128]),
            Preset::Qwen25_0_5b => {
                ModelConfig { max_position_embeddings: 32_768, ..qwen2([896, 4864], 24, [14, 2, 64]) }
            }
            Preset::Qwen25_1_5b => qwen2([1536, 8960], 28, [12, 2, 128]),
            Preset::R1DistillQwen1_5b => ModelConfig {
                rope: RopeConfig { theta: 10_000.0, scaling: RopeScaling::None },
                tie_word_embeddings: false,
                ..qwen2([1536, 8960], 28, [12, 2, 128])
            },
            Preset::Qwen3_0_6b => ModelConfig {
                model_type: Architecture::Qwen3,
                attention_bias: false,
                qk_norm: true,
                max_position_embeddings: 40_960,
                eos_token_ids: vec![151_645],
                ..qwen2([1024, 3072], 28, [16, 8, 128])
            },
            Preset::SmolLm2_135m => ModelConfig {
                vocab_size: 49_152,
                rope: RopeConfig { theta: 100_000.0, scaling: RopeScaling::None },
                tie_word_embeddings: true,
                max_position_embeddings: 8192,
                bos_token_id: Some(0),
                eos_token_ids: vec![0],
                ..llama3([576, 1536], 30, [9, 3, 64])
            },
            Preset::Tiny => ModelConfig {
                vocab_size: 512,
                rope: RopeConfig { theta: 10_000.0, scaling: RopeScaling::None },
                tie_word_embeddings: true,
                max_position_embeddings: 1024,
                bos_token_id: None,
                eos_token_ids: vec![0],
                torch_dtype: Some(Dtype::F32),
                ..llama3([128, 384], 4, [4, 4, 32])
            },
        }
    }
}

/// The settings common to the Llama 3 models; sizes `[hidden, intermediate]`, heads `[query, key-value, width]`.
fn llama3(sizes: [usize; 2], layers: usize, heads: [usize; 3]) -> ModelConfig {
    ModelConfig {
        model_type: Architecture::Llama,
        hidden_size: sizes[0],
        intermediate_size: sizes[1],
        num_hidden_layers: layers,
        num_attention_heads: heads[0],
        num_key_value_heads: heads[1],
        head_dim: heads[2],
        vocab_size: 128_256,
        rms_norm_eps: 1e-5,
        rope: llama3_rope(8.0),
        tie_word_embeddings: false,
        attention_bias: false,
        qk_norm: false,
        max_position_embeddings: 131_072,
        bos_token_id: Some(128_000),
        eos_token_ids: vec![128_001],
        torch_dtype: Some(Dtype::Bf16),
    }
}

/// The rotary embedding of Llama 3.1 (factor 8) and 3.2 (factor 32).
fn llama3_rope(factor: f64) -> RopeConfig {
    RopeConfig {
        theta: 500_000.0,
        scaling: RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        },
    }
}

/// The common settings of the Qwen models; sizes and heads as of [`llama3`].
fn qwen2(sizes: [usize; 2], layers: usize, heads: [usize; 3]) -> ModelConfig {
    ModelConfig {
        model_type: Architecture::Qwen2,
        hidden_size: sizes[0],
        intermediate_size: sizes[1],
        num_hidden_layers: layers,
        num_attention_heads: heads[0],
        num_key_value_heads: heads[1],
        head_dim: heads[2],
        vocab_size: 151_936,
        rms_norm_eps: 1e-6,
        rope: RopeConfig { theta: 1_000_000.0, scaling: RopeScaling::None },
        tie_word_embeddings: true,
        attention_bias: true,
        qk_norm: false,
        max_position_embeddings: 131_072,
        bos_token_id: Some(151_643),
        eos_token_ids: vec![151_643],
        torch_dtype: Some(Dtype::Bf16),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_the_published_number_of_weights() {
        let weights = |preset: Preset| preset.config().num_parameters();
        assert_eq!(weights(Preset::Llama32_1b), 1_235_814_400);
        assert_eq!(weights(Preset::Llama32_3b), 3_212_749_824);
        assert_eq!(weights(Preset::Llama31_8b), 8_030_261_248);
        assert_eq!(weights(Preset::Qwen25_0_5b), 494_032_768);
        assert_eq!(weights(Preset::Qwen25_1_5b), 1_543_714_304);
        assert_eq!(weights(Preset::R1DistillQwen1_5b), 1_777_088_000);
        // The hub shows 751,632,384: its file holds the tied output head a second time.
        assert_eq!(weights(Preset::Qwen3_0_6b), 596_049_920);
        assert_eq!(weights(Preset::SmolLm2_135m), 134_515_008);
        assert!(weights(Preset::Tiny) < 1_000_000);
    }

    #[test]
    fn every_preset_is_a_valid_config_file() {
        for preset in Preset::ALL {
            assert_eq!(Preset::from_name(preset.name()), Some(preset));
            let config = preset.config();
            let json = config.to_json();
            let read = ModelConfig::from_map(std::path::Path::new("x"), json.as_object().unwrap()).unwrap();
            assert_eq!(read, config);
        }
    }

    /// The files of tests/fixtures/configs are the models' own, as the hub has them.
    #[test]
    fn published_files_are_read_as_these_shapes() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/configs");
        let mut read = 0;
        for preset in Preset::ALL {
            let file = dir.join(format!("{}.json", preset.name()));
            if file.exists() {
                assert_eq!(ModelConfig::load_file(&file).unwrap(), preset.config(), "{}", preset.name());
                read += 1;
            }
        }
        assert_eq!(read, std::fs::read_dir(dir).unwrap().count());
    }
}
