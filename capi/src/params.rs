//! Parameters: structs that begin with their size, and their defaults.

use std::ffi::{c_char, c_void};
use std::ptr;

use engine::{Error, Result, Sampling, SchedulerOptions};

/// Hears how far a model is loaded: so many bytes of its weights, of so many in all. Returns false to stop loading. It may
/// run on another thread than colar_model_load(), which waits meanwhile.
pub type ProgressCallback =
    Option<unsafe extern "C" fn(bytes: u64, total: u64, user_data: *mut c_void) -> bool>;

/// How a model is loaded. Names are those of the command line.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ModelParams {
    /// sizeof(colar_model_params), which colar_model_default_params() sets.
    pub size: usize,
    /// A checkpoint over the model: a directory, or a .ckpt file of the authors' code. NULL: none.
    pub adapter: *const c_char,
    /// "auto", "cpu", "cuda" or "cuda-host". NULL: auto.
    pub device: *const c_char,
    /// "f32" or "bf16", on CUDA devices. NULL: bf16 on a GPU, else f32.
    pub dtype: *const c_char,
    /// "merge" or "apart": whether a LoRA adapter goes into the weights. NULL: what suits the device.
    pub lora: *const c_char,
    /// "paper" or "chat": the layout around questions of a model without a checkpoint. NULL: the checkpoint's, or paper.
    pub prompt_template: *const c_char,
    /// CPU threads, at most 1024; 0: one a core.
    pub threads: u32,
    /// Whether requests may take more positions than the model was made for.
    pub allow_long: bool,
    /// Whether a blank is put into texts of questions that mean something in the prompt (`###`, special tokens); else a request
    /// with such a question fails.
    pub escape_marks: bool,
    /// Hears of the loading. NULL: nobody.
    pub progress: ProgressCallback,
    /// Handed to `progress`.
    pub user_data: *mut c_void,
}

/// A request beside its text. Names are those of the command line.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RequestParams {
    /// sizeof(colar_request_params), which colar_request_default_params() sets.
    pub size: usize,
    /// "colar", "cot", "icot", "coconut" or "distill": how a question is answered; "plain": the text is continued as it is,
    /// without template or reasoning. NULL: as the checkpoint was trained.
    pub method: *const c_char,
    /// How many words of reasoning a latent stands for: above 0 to 1024, in decimals, or "auto". NULL: 2, or the method's own.
    pub compression_factor: *const c_char,
    /// Factor on the latents' standard deviation, 0 or more; 0: their mean.
    pub latent_temperature: f32,
    /// Temperature of the draw that may end the latents, 0 or more; 0: the likelier.
    pub eol_temperature: f32,
    /// Temperature of tokens, 0 or more; 0: the likeliest.
    pub temperature: f32,
    /// Nucleus mass of tokens, above 0 to 1.
    pub top_p: f32,
    /// Added to the logit of the separator, which ends the reasoning.
    pub separator_bias: f32,
    /// Most latents, from 1 to 1048576, as of the two below.
    pub max_latents: u32,
    /// Most tokens of a reasoning in words.
    pub max_cot_tokens: u32,
    /// Most tokens of the answer, the end of sequence included.
    pub max_new_tokens: u32,
    /// Key of all draws: the same gives the same output.
    pub seed: u64,
    /// Whether to report the tokens nearest to each latent.
    pub trace: bool,
}

/// How much a scheduler takes on.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SchedulerParams {
    /// sizeof(colar_scheduler_params), which colar_scheduler_default_params() sets.
    pub size: usize,
    /// Most requests that run at the same time; the others wait. At least 1.
    pub max_running: u32,
    /// Most requests that wait; one more is refused with COLAR_STATUS_QUEUE_FULL.
    pub max_queued: u32,
    /// Positions of the cache, at least 16. A request runs when there is room for all that it can need: its prompt,
    /// max_latents or max_cot_tokens, the separator and max_new_tokens.
    pub cache_positions: u32,
    /// Most tokens of prompts that are read between two steps of the requests that run. At least 1.
    pub prefill_tokens: u32,
    /// Most steps that new prompts wait, while others run, to be read together.
    pub gather_steps: u32,
    /// Most prompts that stay in the cache when their requests have left, for others that begin alike.
    pub kept_prompts: u32,
}

/// Parameters that C hands over by pointer.
pub trait Params: Copy + Default {
    /// Their name in the header.
    const NAME: &str;
}

impl Params for ModelParams {
    const NAME: &str = "colar_model_params";
}

impl Params for RequestParams {
    const NAME: &str = "colar_request_params";
}

impl Params for SchedulerParams {
    const NAME: &str = "colar_scheduler_params";
}

impl Default for ModelParams {
    fn default() -> Self {
        ModelParams {
            size: size_of::<Self>(),
            adapter: ptr::null(),
            device: ptr::null(),
            dtype: ptr::null(),
            lora: ptr::null(),
            prompt_template: ptr::null(),
            threads: 0,
            allow_long: false,
            escape_marks: false,
            progress: None,
            user_data: ptr::null_mut(),
        }
    }
}

impl Default for RequestParams {
    fn default() -> Self {
        let sampling = Sampling::default();
        RequestParams {
            size: size_of::<Self>(),
            method: ptr::null(),
            compression_factor: ptr::null(),
            latent_temperature: sampling.latent_temperature,
            eol_temperature: sampling.eol_temperature,
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            separator_bias: sampling.separator_bias,
            max_latents: sampling.max_latents as u32,
            max_cot_tokens: sampling.max_cot_tokens as u32,
            max_new_tokens: sampling.max_new_tokens as u32,
            seed: sampling.seed,
            trace: false,
        }
    }
}

impl Default for SchedulerParams {
    fn default() -> Self {
        let options = SchedulerOptions::default();
        SchedulerParams {
            size: size_of::<Self>(),
            max_running: options.max_running as u32,
            max_queued: options.max_queued as u32,
            cache_positions: options.cache_positions as u32,
            prefill_tokens: options.prefill_tokens as u32,
            gather_steps: options.gather_steps as u32,
            kept_prompts: options.kept_prompts as u32,
        }
    }
}

/// The parameters that C gave, or their defaults for NULL.
///
/// # Safety
/// `given` is NULL, or points to a size and, where that is the size of `P`, to a `P`.
pub unsafe fn read<P: Params>(given: *const P) -> Result<P> {
    if given.is_null() {
        return Ok(P::default());
    }
    // SAFETY: all parameters begin with their size, and are `repr(C)`; no more is read before it is known to be right.
    let size = unsafe { given.cast::<usize>().read() };
    if size != size_of::<P>() {
        return Err(Error::usage(format!(
            "`size` of {name} is {size}, and {own} in version {version} of the library: begin with {name_default}, and compile \
             with the header of that version",
            name = P::NAME,
            own = size_of::<P>(),
            version = env!("CARGO_PKG_VERSION"),
            name_default = P::NAME.replace("_params", "_default_params()"),
        )));
    }
    // SAFETY: the size is that of `P`, and so there is one.
    Ok(unsafe { given.read() })
}

/// Parameters of colar_model_load() as they are without a wish.
#[unsafe(no_mangle)]
pub extern "C" fn colar_model_default_params() -> ModelParams {
    ModelParams::default()
}

/// Parameters of a request as they are without a wish.
#[unsafe(no_mangle)]
pub extern "C" fn colar_request_default_params() -> RequestParams {
    RequestParams::default()
}

/// Parameters of colar_scheduler_start() as they are without a wish.
#[unsafe(no_mangle)]
pub extern "C" fn colar_scheduler_default_params() -> SchedulerParams {
    SchedulerParams::default()
}
