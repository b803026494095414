//! One request, on the thread that makes it.

use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use engine::{Engine, Error, Request, Result, Sampling};

use crate::error::guard;
use crate::event::{EventCallback, News, Teller};
use crate::generation::{Ending, Generation, hand_out};
use crate::model::{Model, UserData};
use crate::params::{self, RequestParams};
use crate::text;

/// The request that C means.
///
/// # Safety
/// Texts are NULL or end in a NUL; `params` is NULL or whole.
pub unsafe fn given(engine: &Engine, prompt: *const c_char, params: *const RequestParams) -> Result<Request> {
    // SAFETY: the same contract.
    let params = unsafe { params::read(params) }?;
    // SAFETY: the same contract, for each.
    let (prompt, method, factor) = unsafe {
        (
            text::given(prompt, "text")?,
            text::optional(params.method, "method")?,
            text::optional(params.compression_factor, "compression_factor")?,
        )
    };
    let sampling = Sampling::default()
        .latent_temperature(params.latent_temperature)
        .eol_temperature(params.eol_temperature)
        .temperature(params.temperature)
        .top_p(params.top_p)
        .separator_bias(params.separator_bias)
        .max_latents(params.max_latents as usize)
        .max_cot_tokens(params.max_cot_tokens as usize)
        .max_new_tokens(params.max_new_tokens as usize)
        .seed(params.seed);
    Ok(engine.request(prompt, method, factor)?.sampling(sampling).trace(params.trace))
}

/// Answers a question, or continues a text where the method is "plain", and returns when it is done. The caller owns the
/// generation; NULL on error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn colar_generate(
    model: *const Model,
    text: *const c_char,
    params: *const RequestParams,
) -> *mut Generation {
    // SAFETY: the caller keeps to the header, and without a callback there is none to call.
    unsafe { colar_generate_stream(model, text, params, None, ptr::null_mut()) }
}

/// As colar_generate(); `callback` hears of each event. A request that it cancels gives what there is, with the ending
/// COLAR_ENDING_CANCELLED. The callback must not generate with the same model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn colar_generate_stream(
    model: *const Model,
    text: *const c_char,
    params: *const RequestParams,
    callback: EventCallback,
    user_data: *mut c_void,
) -> *mut Generation {
    let user_data = UserData::new(user_data);
    guard(ptr::null_mut(), || {
        // SAFETY: the caller keeps to the header: the model is there, texts end in a NUL, parameters are whole.
        let (engine, request) = unsafe {
            let engine = &Model::given(model)?.engine;
            (engine, given(engine, text, params)?)
        };
        let (cancelled, mut teller, mut failure) = (AtomicBool::new(false), Teller::default(), None);
        let made = engine.generate_cancellable(&[request], &cancelled, |event| {
            let (Some(callback), false) = (callback, cancelled.load(Ordering::Relaxed)) else { return };
            let news = match event {
                engine::Event::Prefilled { .. } => News::Prefilled,
                engine::Event::Latent { number, .. } => News::Latent { number },
                engine::Event::Token { id, .. } => News::Token { id },
                engine::Event::Done { .. } => News::Done,
                _ => return,
            };
            let goes_on = match teller.event(engine, &news) {
                // SAFETY: by the header it may be called, with the pointer that came with it; the event lives until it returns.
                Ok(event) => unsafe { callback(&raw const event, user_data.pointer()) },
                Err(error) => {
                    failure = Some(error);
                    false
                }
            };
            if !goes_on {
                cancelled.store(true, Ordering::Relaxed);
            }
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        let made = made.into_iter().next().ok_or_else(|| Error::other("the batch came back empty"))?;
        let ending = match (made.finished, cancelled.into_inner()) {
            (true, _) => Ending::Finished,
            (false, true) => Ending::Cancelled,
            (false, false) => Ending::Limit,
        };
        Ok(hand_out(made, ending, None))
    })
}
