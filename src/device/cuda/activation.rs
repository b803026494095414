//! Launches of `cuda/activation.cu`.

use super::driver::{Arg, Driver};
use super::kernels::{by_activation, kernels};
use super::{CudaDevice, CudaTensor};
use crate::Result;
use crate::device::activation::{
    ActivationOps, check_gelu, check_gelu_backward, check_swiglu, check_swiglu_backward,
};
use crate::device::shape::TensorInfo;

kernels! {
    "activation":
    swiglu_f32 swiglu_bf16 gelu_f32 gelu_bf16 swiglu_backward_f32 swiglu_backward_bf16 gelu_backward_f32
    gelu_backward_bf16
}

impl<R: Driver> ActivationOps for CudaDevice<R> {
    fn swiglu(&self, gate: &CudaTensor<R>, up: &CudaTensor<R>, out: &mut CudaTensor<R>) -> Result<()> {
        let checked = check_swiglu(gate, up, out)?;
        let (op, count, dtype) = (checked.op, checked.count(), gate.dtype());
        let kernel = by_activation(op, dtype, [&swiglu_f32, &swiglu_bf16])?;
        let args = [
            Arg::from(&gate.memory),
            Arg::from(up.read(op, "up", dtype)?),
            (count as u64).into(),
            out.write(op, "out", dtype)?.into(),
        ];
        // SAFETY: all three have `count` elements of one dtype. A thread takes 16 bytes at a time.
        unsafe { self.launch_elements(kernel, count.div_ceil(16 / dtype.size()), &args) }
    }

    fn swiglu_backward(
        &self,
        dout: &CudaTensor<R>,
        gate: &mut CudaTensor<R>,
        up: &mut CudaTensor<R>,
    ) -> Result<()> {
        let checked = check_swiglu_backward(dout, gate, up)?;
        let (op, count, dtype) = (checked.op, checked.count(), gate.dtype());
        let kernel = by_activation(op, dtype, [&swiglu_backward_f32, &swiglu_backward_bf16])?;
        let args = [
            Arg::from(dout.read(op, "dout", dtype)?),
            (count as u64).into(),
            Arg::from(gate.write(op, "gate", dtype)?),
            Arg::from(up.write(op, "up", dtype)?),
        ];
        // SAFETY: all three have `count` elements of one dtype. A thread takes 16 bytes at a time.
        unsafe { self.launch_elements(kernel, count.div_ceil(16 / dtype.size()), &args) }
    }

    fn gelu(&self, x: &CudaTensor<R>, out: &mut CudaTensor<R>) -> Result<()> {
        let checked = check_gelu(x, out)?;
        let (op, count, dtype) = (checked.op, checked.count(), x.dtype());
        let kernel = by_activation(op, dtype, [&gelu_f32, &gelu_bf16])?;
        let args = [Arg::from(&x.memory), (count as u64).into(), out.write(op, "out", dtype)?.into()];
        // SAFETY: both have `count` elements of one dtype.
        unsafe { self.launch_elements(kernel, count, &args) }
    }

    fn gelu_backward(&self, dout: &CudaTensor<R>, x: &CudaTensor<R>, dx: &mut CudaTensor<R>) -> Result<()> {
        let checked = check_gelu_backward(dout, x, dx)?;
        let (op, count, dtype) = (checked.op, checked.count(), x.dtype());
        let kernel = by_activation(op, dtype, [&gelu_backward_f32, &gelu_backward_bf16])?;
        let args = [
            Arg::from(dout.read(op, "dout", dtype)?),
            Arg::from(&x.memory),
            (count as u64).into(),
            Arg::from(dx.write(op, "dx", dtype)?),
        ];
        // SAFETY: all three have `count` elements of one dtype.
        unsafe { self.launch_elements(kernel, count, &args) }
    }
}
