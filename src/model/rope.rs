//! Rotary position embedding: its settings and its frequencies.
//!
//! Position p turns the pair `(x[j], x[j + head_dim/2])` of every query and key head by the angle
//! `p · inv_freq[j]`, with `inv_freq[j] = theta^(−2j / head_dim)` (Su et al., arXiv 2104.09864). Llama 3
//! stretches this to longer texts: a frequency whose wavelength exceeds the original context is
//! divided by `factor`, one far shorter is left alone, and between the two bounds the result goes over
//! smoothly ("The Llama 3 Herd of Models", arXiv 2407.21783).

use serde_json::{Value, json};

use crate::Result;
use crate::files::json::{Fields, one_line};

/// Settings of the rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeConfig {
    /// The base of the frequencies, `rope_theta`.
    pub theta: f64,
    /// How they are changed for longer texts.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are changed for texts longer than those of pre-training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all (`rope_type` "default").
    None,
    /// The smooth stretch of Llama 3 (`rope_type` "llama3").
    Llama3 {
        /// By how much long wavelengths are stretched.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are stretched whole.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are left alone.
        high_freq_factor: f64,
        /// The context length of pre-training, in positions.
        original_max_position_embeddings: f64,
    },
}

impl RopeConfig {
    /// Reads `rope_theta` with `rope_scaling`, or `rope_parameters`.
    pub(crate) fn from_fields(fields: &Fields<'_>) -> Result<Self> {
        let outer = fields.opt_positive("rope_theta")?;
        let new = fields.opt_object("rope_parameters", |inner| {
            Ok((inner.opt_positive("rope_theta")?, RopeScaling::from_fields(inner)?))
        })?;
        let old = fields.opt_object("rope_scaling", |inner| {
            Ok((inner.opt_positive("rope_theta")?, RopeScaling::from_fields(inner)?))
        })?;
        // Files that serve old and new readers carry both; they must then mean the same.
        if let (Some((_, new)), Some((_, old))) = (&new, &old)
            && new != old
        {
            return Err(fields.error("rope_parameters", "contradicts rope_scaling"));
        }
        let (inner, scaling) = new.or(old).unwrap_or((None, RopeScaling::None));
        if let (Some(inner), Some(outer)) = (inner, outer)
            && inner != outer
        {
            return Err(fields.error("rope_theta", format!("{outer} contradicts rope_parameters, {inner}")));
        }
        let theta = inner.or(outer).unwrap_or(10_000.0);
        if theta < 1.0 {
            return Err(fields.error("rope_theta", format!("must be at least 1, not {theta}")));
        }
        Ok(Self { theta, scaling })
    }

    /// `rope_scaling` as `config.json` holds it: null or an object.
    pub(crate) fn scaling_json(&self) -> Value {
        match self.scaling {
            RopeScaling::None => Value::Null,
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                // Readers in Python insist on an integer.
                "original_max_position_embeddings": original_max_position_embeddings as u64,
            }),
        }
    }

    /// The angle per position of each pair of a head of width `head_dim`: `head_dim / 2` values in
    /// radians, computed in float64 and rounded once.
    pub fn inv_freq(&self, head_dim: usize) -> Vec<f32> {
        (0..head_dim / 2)
            .map(|j| {
                let frequency = libm::pow(self.theta, -((2 * j) as f64 / head_dim as f64));
                self.scaling.apply(frequency) as f32
            })
            .collect()
    }
}

impl RopeScaling {
    /// Reads the object `rope_scaling` or `rope_parameters`.
    fn from_fields(fields: &Fields<'_>) -> Result<Self> {
        let kind = match fields.opt_str("rope_type")? {
            Some(kind) => Some(kind),
            // The name of the field in older files.
            None => fields.opt_str("type")?,
        };
        if fields.opt_positive("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
            return Err(fields.error("partial_rotary_factor", "only 1 is supported"));
        }
        match kind {
            // Without a type nothing is scaled, if there is nothing to scale by.
            Some("default") => Ok(RopeScaling::None),
            Some("llama3") => {
                let low_freq_factor = fields.positive("low_freq_factor")?;
                let high_freq_factor = fields.positive("high_freq_factor")?;
                if low_freq_factor >= high_freq_factor {
                    let what = format!("{high_freq_factor} must exceed low_freq_factor, {low_freq_factor}");
                    return Err(fields.error("high_freq_factor", what));
                }
                let factor = fields.positive("factor")?;
                if factor < 1.0 {
                    return Err(fields.error("factor", format!("must be at least 1, not {factor}")));
                }
                Ok(RopeScaling::Llama3 {
                    factor,
                    low_freq_factor,
                    high_freq_factor,
                    original_max_position_embeddings: fields
                        .size("original_max_position_embeddings", 1 << 30)?
                        as f64,
                })
            }
            Some(other) => {
                let what = format!("\"{}\" is not supported (default and llama3 are)", one_line(other));
                Err(fields.error("rope_type", what))
            }
            None => match fields.other_than(&["rope_theta", "partial_rotary_factor"]) {
                None => Ok(RopeScaling::None),
                Some(other) => {
                    Err(fields.error("rope_type", format!("is missing beside {}", one_line(other))))
                }
            },
        }
    }

    /// The scaled form of one frequency in radians per position.
    fn apply(&self, frequency: f64) -> f64 {
        match *self {
            RopeScaling::None => frequency,
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: context,
            } => {
                let wavelength = std::f64::consts::TAU / frequency;
                if wavelength > context / low_freq_factor {
                    frequency / factor
                } else if wavelength < context / high_freq_factor {
                    frequency
                } else {
                    let smooth =
                        (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: &[f32], want: &[f32]) {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= 1e-7 * want.abs(), "{got:e} {want:e}");
        }
    }

    /// Values of an independent computation in Python, rounded to float32.
    #[test]
    fn llama3_frequencies() {
        let tiny = RopeConfig {
            theta: 10_000.0,
            scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 64.0,
            },
        };
        // The second lies between the two bounds.
        let want = [1.0, 2.443846e-1, 1.3042256e-2, 3.952847e-3, 1.25e-3, 3.952847e-4, 1.25e-4, 3.952847e-5];
        close(&tiny.inv_freq(16), &want);

        let llama_3_2 = RopeConfig {
            theta: 500_000.0,
            scaling: RopeScaling::Llama3 {
                factor: 32.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192.0,
            },
        };
        let got = llama_3_2.inv_freq(64);
        let want = [3.211446e-3, 1.2905479e-3, 4.295568e-4, 9.708288e-5, 1.9461639e-5];
        close(&got[14..19], &want);
        close(&got[31..], &[9.4183065e-8]);
    }

    #[test]
    fn without_a_type_nothing_is_scaled() {
        let read = |json: serde_json::Value| {
            let map = json.as_object().unwrap().clone();
            RopeConfig::from_fields(&Fields::new(std::path::Path::new("c"), &map)).map_err(|e| e.to_string())
        };
        let plain = Ok(RopeConfig { theta: 1e6, scaling: RopeScaling::None });
        assert_eq!(read(json!({"rope_parameters": {"rope_theta": 1e6}})), plain);
        assert_eq!(read(json!({"rope_theta": 1e6, "rope_scaling": {}})), plain);
        assert_eq!(read(json!({"rope_theta": 1e6, "rope_parameters": {"rope_type": null}})), plain);
        let error = read(json!({"rope_scaling": {"factor": 4.0}})).unwrap_err();
        assert_eq!(error, "c: rope_scaling.rope_type: is missing beside factor");
    }

    #[test]
    fn unscaled_frequencies_are_powers_of_theta() {
        let plain = RopeConfig { theta: 16.0, scaling: RopeScaling::None };
        close(&plain.inv_freq(8), &[1.0, 0.5, 0.25, 0.125]);
    }
}
