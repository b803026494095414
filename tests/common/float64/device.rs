//! The device, and the families of operations that no forward pass of training has.

use colar_engine::Result;
use colar_engine::device::decoder::{DecoderModel, NoDecoder};
use colar_engine::device::prelude::*;
use colar_engine::device::{AdamW, AdamWTensor, Description, Dtype, TokenChoice};

use super::{Float64, Float64Tensor, refused};

impl Device for Float64 {
    fn name(&self) -> &'static str {
        "float64"
    }

    fn description(&self) -> Description {
        Description { hardware: "float64 reference".into(), driver: None }
    }

    fn scope<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        f()
    }

    fn compute_dtype(&self) -> Dtype {
        Dtype::F32
    }
}

impl SamplingOps for Float64 {
    fn choose_tokens(
        &self,
        _: &Float64Tensor,
        _: &Float64Tensor,
        _: &[TokenChoice],
        _: Option<(u32, f32)>,
    ) -> Result<Vec<u32>> {
        refused("choose_tokens")
    }

    fn token_event(
        &self,
        _: &Float64Tensor,
        _: &Float64Tensor,
        _: u32,
        _: &[TokenChoice],
        _: f32,
    ) -> Result<Vec<bool>> {
        refused("token_event")
    }

    fn choose_tokens_bytes(&self, _: usize, _: usize) -> usize {
        0
    }
}

impl OptimizerOps for Float64 {
    type Late = f64;

    fn sum_squares(&self, _: &[&Float64Tensor]) -> Result<f64> {
        refused("sum_squares")
    }

    fn adamw(&self, _: &AdamW, _: &mut [AdamWTensor<'_, Self>]) -> Result<()> {
        refused("adamw")
    }

    fn adamw_clipped(
        &self,
        _: &AdamW,
        _: f32,
        _: &[&Float64Tensor],
        _: &mut [AdamWTensor<'_, Self>],
    ) -> Result<f64> {
        refused("adamw_clipped")
    }

    fn late(&self, number: &f64) -> Result<f64> {
        Ok(*number)
    }
}

impl DecoderOps for Float64 {
    type Decoder<'a> = NoDecoder;

    fn decoder<'a>(&'a self, _: DecoderModel<'a, Self>, _: usize) -> Result<Option<NoDecoder>> {
        Ok(None)
    }
}
