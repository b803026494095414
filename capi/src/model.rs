//! Models: loading, and what there is to know of one.

use std::ffi::{CString, c_char, c_void};
use std::ops::ControlFlow;
use std::ptr;

use engine::{Engine, EngineOptions, Error, Result};

use crate::error::guard;
use crate::params::{self, ModelParams};
use crate::text;

/// A loaded model.
pub struct Model {
    pub engine: Engine,
    description: CString,
    method: Option<CString>,
}

/// A pointer that is handed back to C, on whichever thread.
#[derive(Clone, Copy)]
pub struct UserData(*mut c_void);

// SAFETY: it is never followed here. The header tells callers that callbacks may run on another thread, one at a time, while
// the function that was given them waits.
unsafe impl Send for UserData {}
// SAFETY: as above; shared, it is only copied.
unsafe impl Sync for UserData {}

impl UserData {
    pub fn new(pointer: *mut c_void) -> Self {
        UserData(pointer)
    }

    pub fn pointer(self) -> *mut c_void {
        self.0
    }
}

impl Model {
    /// The model that C means.
    ///
    /// # Safety
    /// `model` is NULL, or of colar_model_load() and not freed during the call.
    pub unsafe fn given<'a>(model: *const Model) -> Result<&'a Model> {
        // SAFETY: the same contract; models are only ever shared.
        unsafe { model.as_ref() }.ok_or_else(|| Error::usage("`model` is NULL"))
    }

    /// # Safety
    /// Texts of `params` are NULL or end in a NUL; its callback may be called.
    unsafe fn load(path: &str, params: &ModelParams) -> Result<Self> {
        let mut options = EngineOptions::new(path);
        // SAFETY: the same contract, for each.
        let (adapter, device, dtype, lora, template) = unsafe {
            (
                text::optional(params.adapter, "adapter")?,
                text::optional(params.device, "device")?,
                text::optional(params.dtype, "dtype")?,
                text::optional(params.lora, "lora")?,
                text::optional(params.prompt_template, "prompt_template")?,
            )
        };
        options.adapter = adapter.map(Into::into);
        options.device = device.map(str::parse).transpose()?.unwrap_or_default();
        options.dtype = dtype.map(str::parse).transpose()?;
        options.lora = lora.map(str::parse).transpose()?;
        options.template = template.map(str::parse).transpose()?;
        options.threads = params.threads as usize;
        options.allow_long = params.allow_long;
        options.escape_marks = params.escape_marks;
        let (progress, user_data) = (params.progress, UserData::new(params.user_data));
        let engine = Engine::with_progress(&options, move |loading| {
            let Some(hear) = progress else { return ControlFlow::Continue(()) };
            let (bytes, total) = (loading.bytes as u64, loading.total as u64);
            // SAFETY: by the contract it may be called, with the pointer that came with it.
            let goes_on = unsafe { hear(bytes, total, user_data.pointer()) };
            if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        let description = engine.loaded();
        tracing::info!("loaded {description}");
        let description = text::c_string(description);
        let method = engine.default_method().map(|method| text::c_string(method.name().to_owned()));
        Ok(Model { engine, description, method })
    }
}

/// Loads a model directory (config.json, weights, tokenizer.json), which takes a while. The caller owns the model; NULL on
/// error, also where the progress callback stopped it. The files must not be overwritten while the model lives: on the CPU
/// the weights stay in them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn colar_model_load(path: *const c_char, params: *const ModelParams) -> *mut Model {
    guard(ptr::null_mut(), || {
        // SAFETY: the caller keeps to the header: texts end in a NUL, and parameters are whole.
        let model = unsafe { Model::load(text::given(path, "path")?, &params::read(params)?) }?;
        Ok(Box::into_raw(Box::new(model)))
    })
}

/// Frees a model. Schedulers that were started on it, and requests in them, keep what they need and go on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn colar_model_free(model: *mut Model) {
    guard((), || {
        if !model.is_null() {
            // SAFETY: it is of colar_model_load(), and by the header nobody uses it any more.
            drop(unsafe { Box::from_raw(model) });
        }
        Ok(())
    });
}

/// A line on what was loaded: model, checkpoint and its method, device and arithmetic. It belongs to the model; NULL on error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn colar_model_description(model: *const Model) -> *const c_char {
    // SAFETY: the caller keeps to the header: the model is there.
    guard(ptr::null(), || Ok(unsafe { Model::given(model) }?.description.as_ptr()))
}

/// How it reasons unless a request says otherwise, as "colar" or "cot". It belongs to the model; NULL for a bare model, which
/// only continues texts (method "plain"), and on error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn colar_model_method(model: *const Model) -> *const c_char {
    guard(ptr::null(), || {
        // SAFETY: the caller keeps to the header: the model is there.
        let model = unsafe { Model::given(model) }?;
        Ok(model.method.as_ref().map_or(ptr::null(), |method| method.as_ptr()))
    })
}

/// Writes the text of a token into `buffer` as snprintf does: at most size - 1 bytes and a NUL. Returns the bytes of the whole
/// text without its NUL, or -1 on error. A character may be spread over several tokens; events have whole ones.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn colar_model_token_text(
    model: *const Model,
    token: u32,
    buffer: *mut c_char,
    size: usize,
) -> i64 {
    guard(-1, || {
        // SAFETY: the caller keeps to the header: the model is there, and `buffer` has `size` bytes.
        unsafe { Ok(text::write(&Model::given(model)?.engine.token_text(token)?, buffer, size)) }
    })
}
