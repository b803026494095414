//! The fields of a request that its interface shares with others.

use serde::Deserialize;
use utoipa::ToSchema;

/// The fields of a body that every interface has, beside its own.
macro_rules! body {
    ($(#[$meta:meta])* $name:ident { $($(#[$about:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name {
            $($(#[$about])* pub $field: $kind,)*
            /// The model's name in `/v1/models`; it can be left out where there is one alone.
            pub model: Option<String>,
            /// Whether the answer comes in events as it is made.
            pub stream: Option<bool>,
            /// Temperature of tokens; 0 takes the likeliest.
            #[schema(minimum = 0)]
            pub temperature: Option<f32>,
            /// Nucleus of tokens: the likeliest that make up this mass, above 0 and at most 1.
            #[schema(maximum = 1)]
            pub top_p: Option<f32>,
            /// Key of all draws: the same seed gives the same answer. The second of several answers has the next number.
            #[schema(minimum = 0)]
            pub seed: Option<u64>,
        }

        impl $name {
            /// How tokens are drawn.
            pub(super) fn drawing(&self) -> $crate::serve::fields::Drawing {
                let (temperature, top_p, seed) = (self.temperature, self.top_p, self.seed);
                $crate::serve::fields::Drawing { temperature, top_p, seed }
            }
        }
    };
}

/// As `body`, with the fields of an interface that reasons.
macro_rules! reasoning_body {
    ($(#[$meta:meta])* $name:ident { $($(#[$about:meta])* $field:ident: $kind:ty,)* }) => {
        $crate::serve::fields::body! {
            $(#[$meta])*
            $name {
                $($(#[$about])* $field: $kind,)*
                /// How many tokens of reasoning a latent stands for: a number, or `auto`.
                compression_factor: Option<$crate::serve::fields::CompressionFactor>,
                /// Most latents.
                #[schema(minimum = 1)]
                max_latents: Option<usize>,
                /// Most tokens of a reasoning in words.
                #[schema(minimum = 1)]
                max_cot_tokens: Option<usize>,
                /// Factor on the latents' standard deviation; 0 takes the mean.
                #[schema(minimum = 0)]
                latent_temperature: Option<f32>,
                /// Temperature of the draw that ends the latents; 0 takes the likeliest.
                #[schema(minimum = 0)]
                eol_temperature: Option<f32>,
                /// Whether the tokens nearest to each latent are told as the reasoning's text.
                trace: Option<bool>,
            }
        }

        impl $name {
            /// How it reasons.
            pub(super) fn reasoning(&self) -> $crate::serve::fields::Reasoning<'_> {
                $crate::serve::fields::Reasoning {
                    compression_factor: self.compression_factor.as_ref(),
                    max_latents: self.max_latents,
                    max_cot_tokens: self.max_cot_tokens,
                    latent_temperature: self.latent_temperature,
                    eol_temperature: self.eol_temperature,
                    trace: self.trace,
                }
            }
        }
    };
}
pub(super) use {body, reasoning_body};

/// How tokens are drawn.
pub(super) struct Drawing {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub seed: Option<u64>,
}

/// How a question is reasoned about.
pub(super) struct Reasoning<'a> {
    pub compression_factor: Option<&'a CompressionFactor>,
    pub max_latents: Option<usize>,
    pub max_cot_tokens: Option<usize>,
    pub latent_temperature: Option<f32>,
    pub eol_temperature: Option<f32>,
    pub trace: Option<bool>,
}

/// A compression factor.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a number, or `auto`")]
pub(super) enum CompressionFactor {
    Number(f64),
    Text(String),
}

/// One text, or several.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a string, or a list of strings")]
pub(super) enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Texts::One(text) => vec![text],
            Texts::Many(texts) => texts,
        }
    }
}
