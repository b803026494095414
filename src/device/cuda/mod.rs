//! The CUDA device: hand-written kernels and what launches them, over any [`Driver`].
//!
//! One implementation of [`Device`] serves the GPU and [`host`], which runs the same kernels on the CPU. Each
//! file of operations here stands beside a file of `cuda/` and does what a kernel cannot: it checks shapes and
//! dtypes, chooses the form of the kernel and cuts the work into blocks. The cut depends on shapes alone, so
//! equal inputs give equal bits.

#[cfg_attr(not(cuda_kernels), allow(dead_code, reason = "memory on the host is guarded, buffer by buffer"))]
mod arena;
mod attention;
mod attention_backward;
mod cross_entropy;
mod decode;
pub mod driver;
mod flash;
mod flash_backward;
#[cfg(cuda_kernels)]
pub mod gpu;
#[cfg(cuda_host)]
pub mod host;
pub mod kernels;
mod latent;
mod layers;
mod optimizer;
mod output;
mod product;
mod rope;
mod rows;
mod tensor;
mod tiles;

pub(crate) use cross_entropy::CHUNK_FLOATS as CROSS_ENTROPY_FLOATS;
pub use decode::CudaDecoder;
pub(crate) use output::LOGITS_BYTES;
pub use tensor::{CudaIndex, CudaTensor};

use driver::{Arg, Driver, Launch};
use kernels::Kernel;
use tensor::{Rounded, upload};

use std::time::Duration;

use super::decoder::DecoderModel;
use super::need::check_room;
use super::{
    AdamW, AdamWTensor, CrossEntropyGrads, Description, Device, Draw, Dtype, HeadShape, LatentPolicyGrads,
    LatentWeights, Need, Span, Stay, TokenChoice, check, check_len, elements,
};
use crate::files::mapped::MappedTensor;
use crate::{Error, Result};

/// Most threads of a block that takes one row.
const ROW_THREADS: usize = 256;

/// Most blocks of an elementwise loop: some for every multiprocessor, which then go round.
const ELEMENT_BLOCKS: usize = 2048;

/// A device that runs the kernels of `cuda/` by way of a driver.
#[derive(Debug, Clone)]
pub struct CudaDevice<R: Driver> {
    driver: R,
    compute: Dtype,
    /// Floats of logits that a chunk of the cross-entropy may take.
    loss_floats: usize,
}

/// The kernels on the CPU.
#[cfg(cuda_host)]
pub type CudaHostDevice = CudaDevice<host::HostDriver>;

#[cfg(cuda_host)]
impl CudaHostDevice {
    /// `cuda-host` with activations of float32, `threads` threads of the operating system (0: one a core), and
    /// `seed` for the order in which the threads of a block run.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn on_host(threads: usize, seed: u64) -> Result<Self> {
        Ok(CudaDevice::new(host::HostDriver::new(threads, seed)?, Dtype::F32))
    }
}

/// The kernels on a GPU.
#[cfg(cuda_kernels)]
pub type GpuDevice = CudaDevice<gpu::GpuDriver>;

#[cfg(cuda_kernels)]
impl GpuDevice {
    /// The first GPU, with activations of bf16.
    ///
    /// # Errors
    /// As [`GpuDriver::new`](gpu::GpuDriver::new).
    pub fn on_gpu() -> Result<Self> {
        Ok(CudaDevice::new(gpu::GpuDriver::new()?, Dtype::Bf16))
    }
}

/// How many blocks or rows, as launches count them.
fn count32(op: &'static str, n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| Error::Shape { op, what: format!("{n} is more than a launch can count") })
}

impl<R: Driver> CudaDevice<R> {
    /// A device over a driver, with activations of `compute`: float32, or bf16 with float32 accumulation.
    pub fn new(driver: R, compute: Dtype) -> Self {
        let compute = if compute == Dtype::Bf16 { Dtype::Bf16 } else { Dtype::F32 };
        CudaDevice { driver, compute, loss_floats: cross_entropy::CHUNK_FLOATS }
    }

    /// The device with other chunks of the cross-entropy: as many rows of logits at once as fit `floats` float32
    /// numbers, or one.
    pub fn with_loss_chunks(self, floats: usize) -> Self {
        CudaDevice { loss_floats: floats, ..self }
    }

    fn tensor(&self, op: &'static str, rows: usize, cols: usize, dtype: Dtype) -> Result<CudaTensor<R>> {
        let n = elements(op, rows, cols)?;
        let memory = self.driver.alloc(n * dtype.size())?;
        Ok(CudaTensor { rows, cols, dtype, memory, frozen: false, rounded: None })
    }

    /// As `tensor`, for what outlives runs.
    fn kept(&self, op: &'static str, rows: usize, cols: usize, dtype: Dtype) -> Result<CudaTensor<R>> {
        let n = elements(op, rows, cols)?;
        let memory = self.driver.keep(n * dtype.size())?;
        Ok(CudaTensor { rows, cols, dtype, memory, frozen: false, rounded: Some(Rounded::default()) })
    }

    /// Launches a kernel unless there is nothing to do.
    ///
    /// # Safety
    /// As [`Driver::launch`].
    unsafe fn launch(
        &self,
        kernel: &'static Kernel,
        grid: [u32; 2],
        block: u32,
        shared: u32,
        args: &[Arg],
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        // SAFETY: the caller's promise is the same.
        unsafe { self.driver.launch(&Launch { kernel, grid, block, shared, args, together: false }) }
    }

    /// Launches a kernel of which each block takes one of `rows` rows of `cols` columns.
    ///
    /// # Safety
    /// As [`Driver::launch`].
    unsafe fn launch_rows(
        &self,
        op: &'static str,
        kernel: &'static Kernel,
        rows: usize,
        cols: usize,
        args: &[Arg],
    ) -> Result<()> {
        let threads = cols.next_multiple_of(32).clamp(32, ROW_THREADS);
        // SAFETY: the caller's promise is the same.
        unsafe { self.launch(kernel, [count32(op, rows)?, 1], threads as u32, 0, args) }
    }

    /// Launches a kernel whose threads go round over `n` elements.
    ///
    /// # Safety
    /// As [`Driver::launch`].
    unsafe fn launch_elements(&self, kernel: &'static Kernel, n: usize, args: &[Arg]) -> Result<()> {
        let blocks = n.div_ceil(ROW_THREADS).min(ELEMENT_BLOCKS) as u32;
        // SAFETY: the caller's promise is the same.
        unsafe { self.launch(kernel, [blocks, 1], ROW_THREADS as u32, 0, args) }
    }
}

impl<R: Driver> Device for CudaDevice<R> {
    type Tensor = CudaTensor<R>;
    type Index = CudaIndex<R>;
    /// The sum of squares whose root it is, in float64.
    type Late = R::Memory;
    type Decoder<'a> = CudaDecoder<'a, R>;

    fn name(&self) -> &'static str {
        self.driver.name()
    }

    fn description(&self) -> Description {
        self.driver.description()
    }

    fn time(&self, lead: impl FnOnce() -> Result<()>, f: impl FnOnce() -> Result<()>) -> Result<Duration> {
        self.driver.time(lead, f)
    }

    fn peak_bytes(&self) -> Result<Option<usize>> {
        self.driver.peak_bytes().map(Some)
    }

    fn scope<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.driver.scope(f)
    }

    fn compute_dtype(&self) -> Dtype {
        self.compute
    }

    fn maps_weights(&self) -> bool {
        false
    }

    fn reserve(&self, needs: &[Need]) -> Result<()> {
        if let Some(room) = self.driver.room()? {
            check_room(self, needs, room)?;
        }
        let run =
            needs.iter().filter(|n| n.stay == Stay::Run).fold(0usize, |n, need| n.saturating_add(need.bytes));
        if run > 0 { self.driver.reserve(run) } else { Ok(()) }
    }

    fn empty(&self, rows: usize, cols: usize) -> Result<CudaTensor<R>> {
        self.tensor("empty", rows, cols, self.compute)
    }

    fn zeros(&self, rows: usize, cols: usize) -> Result<CudaTensor<R>> {
        let t = self.tensor("zeros", rows, cols, Dtype::F32)?;
        self.driver.zero(&t.memory)?;
        Ok(t)
    }

    fn upload(&self, rows: usize, cols: usize, values: &[f32]) -> Result<CudaTensor<R>> {
        // Weights that are not of a file, mostly: no part of what a run has set aside.
        let mut t = self.kept("upload", rows, cols, Dtype::F32)?;
        self.write(&mut t, values)?;
        Ok(t)
    }

    fn adopt(&self, tensor: MappedTensor) -> Result<CudaTensor<R>> {
        let (rows, cols) = match *tensor.shape() {
            [n] => (1, n),
            [r, c] => (r, c),
            _ => {
                let what = format!("shape {:?} is neither a vector nor a matrix", tensor.shape());
                return Err(Error::Shape { op: "adopt", what });
            }
        };
        if rows == 1 {
            // Norm weights and biases: small, and their kernels take float32.
            return self.upload(rows, cols, &tensor.to_f32_vec());
        }
        let mut t = self.kept("adopt", rows, cols, tensor.dtype())?;
        self.driver.upload(&t.memory, tensor.bytes())?;
        t.frozen = true;
        Ok(t)
    }

    fn widen(&self, mut t: CudaTensor<R>) -> Result<CudaTensor<R>> {
        if t.dtype != Dtype::F32 {
            let mut wide = self.kept("widen", t.rows, t.cols, Dtype::F32)?;
            self.convert_into(&t, &mut wide)?;
            return Ok(wide);
        }
        // The file's bytes were copied when it was adopted.
        t.frozen = false;
        Ok(t)
    }

    fn freeze(&self, t: CudaTensor<R>) -> Result<CudaTensor<R>> {
        let mut out = t;
        if out.dtype != self.compute {
            let mut converted = self.kept("freeze", out.rows, out.cols, self.compute)?;
            self.convert_into(&out, &mut converted)?;
            out = converted;
        }
        out.frozen = true;
        Ok(out)
    }

    fn index(&self, values: &[u32]) -> Result<CudaIndex<R>> {
        Ok(CudaIndex { values: values.to_vec(), memory: upload(&self.driver, values)? })
    }

    fn read(&self, t: &CudaTensor<R>) -> Result<Vec<f32>> {
        self.read_floats(t)
    }

    fn write(&self, t: &mut CudaTensor<R>, values: &[f32]) -> Result<()> {
        check_len("write", "values", values.len(), t.count())?;
        self.driver.upload(t.write("write", "the tensor", Dtype::F32)?, bytemuck::cast_slice(values))
    }

    fn copy(&self, from: &CudaTensor<R>, to: &mut CudaTensor<R>) -> Result<()> {
        check("copy", "to", to, from.rows, from.cols)?;
        let bytes = from.count() * from.dtype.size();
        self.driver.copy(&from.memory, to.write("copy", "to", from.dtype)?, bytes)
    }

    fn clear(&self, t: &mut CudaTensor<R>) -> Result<()> {
        let dtype = t.dtype;
        self.driver.zero(t.write("clear", "the tensor", dtype)?)
    }

    fn matmul_nt(
        &self,
        alpha: f32,
        x: &CudaTensor<R>,
        w: &CudaTensor<R>,
        beta: f32,
        y: &mut CudaTensor<R>,
    ) -> Result<()> {
        self.product(alpha, x, w, beta, y)
    }

    fn matmul_nn(
        &self,
        alpha: f32,
        dy: &CudaTensor<R>,
        w: &CudaTensor<R>,
        beta: f32,
        dx: &mut CudaTensor<R>,
    ) -> Result<()> {
        self.input_gradient(alpha, dy, w, beta, dx)
    }

    fn matmul_tn(
        &self,
        alpha: f32,
        dy: &CudaTensor<R>,
        x: &CudaTensor<R>,
        beta: f32,
        dw: &mut CudaTensor<R>,
    ) -> Result<()> {
        self.weight_gradient(alpha, dy, x, beta, dw)
    }

    fn add_bias(&self, y: &mut CudaTensor<R>, bias: &CudaTensor<R>) -> Result<()> {
        self.bias(y, bias)
    }

    fn add_bias_backward(&self, dy: &CudaTensor<R>, db: &mut CudaTensor<R>) -> Result<()> {
        self.bias_gradient(dy, db)
    }

    fn gather_merge(
        &self,
        table: &CudaTensor<R>,
        ids: &CudaIndex<R>,
        offsets: &CudaIndex<R>,
        scale: &CudaTensor<R>,
        out: &mut CudaTensor<R>,
    ) -> Result<()> {
        self.merge(table, ids, offsets, scale, out)
    }

    fn gather_merge_backward(
        &self,
        dout: &CudaTensor<R>,
        ids: &CudaIndex<R>,
        offsets: &CudaIndex<R>,
        scale: &CudaTensor<R>,
        dtable: &mut CudaTensor<R>,
    ) -> Result<()> {
        self.merge_gradient(dout, ids, offsets, scale, dtable)
    }

    fn gather_rows(
        &self,
        alpha: f32,
        src: &CudaTensor<R>,
        rows: &CudaIndex<R>,
        out: &mut CudaTensor<R>,
    ) -> Result<()> {
        self.gather(alpha, src, rows, out)
    }

    fn scatter_add_rows(
        &self,
        alpha: f32,
        src: &CudaTensor<R>,
        rows: &CudaIndex<R>,
        dst: &mut CudaTensor<R>,
    ) -> Result<()> {
        self.scatter("scatter_add_rows", alpha, src, rows, true, dst)
    }

    fn scatter_rows(
        &self,
        alpha: f32,
        src: &CudaTensor<R>,
        rows: &CudaIndex<R>,
        dst: &mut CudaTensor<R>,
    ) -> Result<()> {
        self.scatter("scatter_rows", alpha, src, rows, false, dst)
    }

    fn add(&self, x: &CudaTensor<R>, y: &mut CudaTensor<R>) -> Result<()> {
        self.add_to(x, y)
    }

    fn rms_norm(
        &self,
        x: &CudaTensor<R>,
        w: &CudaTensor<R>,
        eps: f32,
        out: &mut CudaTensor<R>,
    ) -> Result<()> {
        self.norm("rms_norm", x, None, w, eps, out)
    }

    fn add_rms_norm(
        &self,
        x: &CudaTensor<R>,
        delta: &CudaTensor<R>,
        w: &CudaTensor<R>,
        eps: f32,
        sum: &mut CudaTensor<R>,
        out: &mut CudaTensor<R>,
    ) -> Result<()> {
        self.norm("add_rms_norm", x, Some((delta, sum)), w, eps, out)
    }

    fn rms_norm_backward(
        &self,
        dout: &CudaTensor<R>,
        x: &CudaTensor<R>,
        w: &CudaTensor<R>,
        eps: f32,
        dx: &mut CudaTensor<R>,
        dw: Option<&mut CudaTensor<R>>,
    ) -> Result<()> {
        self.norm_backward(dout, x, w, eps, dx, dw)
    }

    fn rotary(
        &self,
        x: &mut CudaTensor<R>,
        positions: &CudaIndex<R>,
        inv_freq: &CudaTensor<R>,
        direction: f32,
    ) -> Result<()> {
        self.rotate(x, positions, inv_freq, direction)
    }

    fn rotary_append(
        &self,
        qkv: [&mut CudaTensor<R>; 3],
        biases: [Option<&CudaTensor<R>>; 3],
        positions: &CudaIndex<R>,
        inv_freq: &CudaTensor<R>,
        rows: &CudaIndex<R>,
        cache: [&mut CudaTensor<R>; 2],
    ) -> Result<()> {
        self.rotate_and_append(qkv, biases, positions, inv_freq, rows, cache)
    }

    fn attention(
        &self,
        shape: HeadShape,
        spans: &[Span],
        q: &CudaTensor<R>,
        k: &CudaTensor<R>,
        v: &CudaTensor<R>,
        out: &mut CudaTensor<R>,
        lse: Option<&mut CudaTensor<R>>,
    ) -> Result<()> {
        self.attend(shape, spans, [q, k, v], out, lse)
    }

    fn attention_backward(
        &self,
        shape: HeadShape,
        spans: &[Span],
        q: &CudaTensor<R>,
        k: &CudaTensor<R>,
        v: &CudaTensor<R>,
        out: &CudaTensor<R>,
        lse: &CudaTensor<R>,
        dout: &CudaTensor<R>,
        dq: &mut CudaTensor<R>,
        dk: &mut CudaTensor<R>,
        dv: &mut CudaTensor<R>,
    ) -> Result<()> {
        self.attend_backward(shape, spans, [q, k, v, out], lse, dout, [dq, dk, dv])
    }

    fn swiglu(&self, gate: &CudaTensor<R>, up: &CudaTensor<R>, out: &mut CudaTensor<R>) -> Result<()> {
        self.gated(gate, up, out)
    }

    fn swiglu_backward(
        &self,
        dout: &CudaTensor<R>,
        gate: &mut CudaTensor<R>,
        up: &mut CudaTensor<R>,
    ) -> Result<()> {
        self.gated_backward(dout, gate, up)
    }

    fn gelu(&self, x: &CudaTensor<R>, out: &mut CudaTensor<R>) -> Result<()> {
        self.exact_gelu(x, out)
    }

    fn gelu_backward(&self, dout: &CudaTensor<R>, x: &CudaTensor<R>, dx: &mut CudaTensor<R>) -> Result<()> {
        self.exact_gelu_backward(dout, x, dx)
    }

    fn layer_norm(
        &self,
        x: &CudaTensor<R>,
        w: &CudaTensor<R>,
        b: &CudaTensor<R>,
        out: &mut CudaTensor<R>,
    ) -> Result<()> {
        self.affine_norm(x, w, b, out)
    }

    fn layer_norm_backward(
        &self,
        dout: &CudaTensor<R>,
        x: &CudaTensor<R>,
        w: &CudaTensor<R>,
        dx: &mut CudaTensor<R>,
        params: Option<(&mut CudaTensor<R>, &mut CudaTensor<R>)>,
    ) -> Result<()> {
        self.affine_norm_backward(dout, x, w, dx, params)
    }

    fn normal(&self, draws: &[Draw], out: &mut CudaTensor<R>) -> Result<()> {
        self.noise(draws, out)
    }

    fn reparameterise(
        &self,
        mu: &CudaTensor<R>,
        log_sigma: Option<&CudaTensor<R>>,
        eps: &CudaTensor<R>,
        temperature: f32,
        out: &mut CudaTensor<R>,
    ) -> Result<()> {
        self.sample(mu, log_sigma, eps, temperature, out)
    }

    fn latent_loss(
        &self,
        weights: LatentWeights,
        mu: &CudaTensor<R>,
        log_sigma: Option<&CudaTensor<R>>,
        eps: Option<&CudaTensor<R>>,
        target: &CudaTensor<R>,
        per_row: &mut CudaTensor<R>,
        grads: Option<(&mut CudaTensor<R>, Option<&mut CudaTensor<R>>)>,
    ) -> Result<()> {
        self.loss_of_latents(weights, mu, [log_sigma, eps], target, per_row, grads)
    }

    fn latent_logprob(
        &self,
        mu: &CudaTensor<R>,
        log_sigma: &CudaTensor<R>,
        latents: &CudaTensor<R>,
        per_row: &mut CudaTensor<R>,
        grads: Option<LatentPolicyGrads<'_, Self>>,
    ) -> Result<()> {
        self.logprobs_of_latents(mu, log_sigma, latents, per_row, grads)
    }

    fn reparameterise_backward(
        &self,
        dz: &CudaTensor<R>,
        log_sigma: Option<&CudaTensor<R>>,
        eps: &CudaTensor<R>,
        dmu: &mut CudaTensor<R>,
        dlog_sigma: Option<&mut CudaTensor<R>>,
    ) -> Result<()> {
        self.sample_gradient(dz, log_sigma, eps, dmu, dlog_sigma)
    }

    fn cross_entropy(
        &self,
        h: &CudaTensor<R>,
        w: &CudaTensor<R>,
        ids: &CudaIndex<R>,
        offsets: &CudaIndex<R>,
        loss: &mut CudaTensor<R>,
        grads: Option<CrossEntropyGrads<'_, Self>>,
    ) -> Result<()> {
        self.label_losses(h, w, ids, offsets, loss, grads)
    }

    fn choose_tokens(
        &self,
        h: &CudaTensor<R>,
        w: &CudaTensor<R>,
        choices: &[TokenChoice],
        bias: Option<(u32, f32)>,
    ) -> Result<Vec<u32>> {
        self.tokens(h, w, choices, bias)
    }

    fn token_event(
        &self,
        h: &CudaTensor<R>,
        w: &CudaTensor<R>,
        token: u32,
        choices: &[TokenChoice],
        bias: f32,
    ) -> Result<Vec<bool>> {
        self.event(h, w, token, choices, bias)
    }

    fn decoder<'a>(
        &'a self,
        model: DecoderModel<'a, Self>,
        rows: usize,
    ) -> Result<Option<CudaDecoder<'a, R>>> {
        self.make_decoder(model, rows)
    }

    fn decoder_bytes(&self, model: &DecoderModel<'_, Self>, rows: usize, steps: usize) -> usize {
        self.decoder_memory(model, rows, steps)
    }

    fn sum_squares(&self, tensors: &[&CudaTensor<R>]) -> Result<f64> {
        self.squares(tensors)
    }

    fn adamw(&self, hyper: &AdamW, tensors: &mut [AdamWTensor<'_, Self>]) -> Result<()> {
        self.optimizer_step(hyper, tensors)
    }

    fn adamw_clipped(
        &self,
        hyper: &AdamW,
        clip: f32,
        watched: &[&CudaTensor<R>],
        tensors: &mut [AdamWTensor<'_, Self>],
    ) -> Result<R::Memory> {
        self.clipped_step(hyper, clip, watched, tensors)
    }

    fn late(&self, number: &R::Memory) -> Result<f64> {
        Ok(self.number(number)?.sqrt())
    }
}
