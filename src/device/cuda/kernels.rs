//! The list of kernels, by file of `cuda/`.
//!
//! On `cuda-host` a kernel is a function of the linked library, so a name that no file declares fails the
//! build; on a GPU the driver looks it up in the file's fatbin when it is first launched.

use crate::device::Dtype;
use crate::{Error, Result};

/// What a kernel declares on the CPU: `shim::Signature`.
#[cfg(cuda_host)]
#[repr(C)]
pub struct Signature {
    pub(super) threads: u32,
    pub(super) codes: *const std::ffi::c_char,
}

/// Runs one thread of a kernel on the CPU or, without arguments, gives its signature.
#[cfg(cuda_host)]
pub(super) type Entry = unsafe extern "C" fn(args: *const *mut std::ffi::c_void) -> *const Signature;

/// A kernel of `cuda/`.
pub struct Kernel {
    /// The file that declares it, without its extension.
    pub file: &'static str,
    /// Its name there.
    pub name: &'static str,
    /// Runs one thread of it on the CPU.
    #[cfg(cuda_host)]
    pub(super) entry: Entry,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.name)
    }
}

/// Declares statics of the kernels' names.
macro_rules! kernels {
    ($($file:literal: $($name:ident)*;)*) => {
        #[cfg(cuda_host)]
        mod entries {
            unsafe extern "C" {
                $($(
                    #[link_name = concat!("colar_host_", stringify!($name))]
                    pub(super) fn $name(
                        args: *const *mut std::ffi::c_void,
                    ) -> *const crate::device::cuda::kernels::Signature;
                )*)*
            }
        }

        $($(
            #[allow(non_upper_case_globals, missing_docs)]
            pub static $name: $crate::device::cuda::kernels::Kernel = $crate::device::cuda::kernels::Kernel {
                file: $file,
                name: stringify!($name),
                #[cfg(cuda_host)]
                entry: entries::$name,
            };
        )*)*

        /// Every kernel.
        pub static ALL: &[&$crate::device::cuda::kernels::Kernel] = &[$($(&$name,)*)*];
    };
}
#[cfg(cuda_host)]
pub(super) use kernels;

kernels! {
    "rows": gather_merge_f32_f32 gather_merge_bf16_f32 gather_merge_f16_f32
        gather_merge_f32_bf16 gather_merge_bf16_bf16 gather_merge_f16_bf16
        gather_rows_f32_f32 gather_rows_bf16_f32 gather_rows_f16_f32
        gather_rows_f32_bf16 gather_rows_bf16_bf16 gather_rows_f16_bf16
        convert_f32_f32 convert_bf16_f32 convert_f16_f32
        convert_f32_bf16 convert_bf16_bf16 convert_f16_bf16
        scatter_rows_f32 scatter_rows_bf16 add_bias_f32 add_bias_bf16 add_f32 add_bf16
        gather_merge_backward_f32 gather_merge_backward_bf16 column_sums_f32 column_sums_bf16 add_partials;
    "norm": rms_norm_f32 rms_norm_bf16 layer_norm_f32 layer_norm_bf16
        rms_norm_backward_f32 rms_norm_backward_bf16 layer_norm_backward_f32 layer_norm_backward_bf16 norm_weights;
    "rotary": rotary_f32 rotary_bf16 rotary_append_f32 rotary_append_bf16;
    "activation": swiglu_f32 swiglu_bf16 gelu_f32 gelu_bf16
        swiglu_backward_f32 swiglu_backward_bf16 gelu_backward_f32 gelu_backward_bf16;
    "attention": attention_f32 attention_bf16 attention_merge_f32 attention_merge_bf16;
    "attention_backward": attention_dots_f32 attention_dots_bf16
        attention_dq_f32 attention_dq_bf16 attention_dkv_f32 attention_dkv_bf16;
    "flash": flash_64_64 flash_64_128 flash_128_64 flash_128_128;
    "flash_backward": flash_dq_64 flash_dkv_64 flash_dq_128 flash_dkv_128;
    "latent": normal_f32 normal_bf16 reparameterise_f32 reparameterise_bf16 latent_loss_f32 latent_loss_bf16
        reparameterise_backward_f32 reparameterise_backward_bf16 latent_logprob_f32 latent_logprob_bf16;
    "gemv": gemv_f32_f32_1 gemv_f32_f32_4 gemv_f32_f32_16 gemv_f32_bf16_1 gemv_f32_bf16_4 gemv_f32_bf16_16
        gemv_f32_f16_1 gemv_f32_f16_4 gemv_f32_f16_16 gemv_bf16_f32_1 gemv_bf16_f32_4 gemv_bf16_f32_16
        gemv_bf16_bf16_1 gemv_bf16_bf16_4 gemv_bf16_bf16_16 gemv_bf16_f16_1 gemv_bf16_f16_4 gemv_bf16_f16_16;
    "decode": decode_f32_1 decode_f32_2 decode_f32_4 decode_f32_8
        decode_bf16_1 decode_bf16_2 decode_bf16_4 decode_bf16_8;
    "cross_entropy": label_loss label_gradient_f32 label_gradient_bf16;
    "optimizer": chunk_squares total_squares adamw;
    "sampling": choose_token event_decide
        event_own_f32_f32 event_own_f32_bf16 event_own_f32_f16
        event_own_bf16_f32 event_own_bf16_bf16 event_own_bf16_f16
        event_scan_f32_f32 event_scan_f32_bf16 event_scan_f32_f16
        event_scan_bf16_f32 event_scan_bf16_bf16 event_scan_bf16_f16;
}

/// A kernel in its forms for activations of float32 and bf16.
pub(super) type ByActivation = [&'static Kernel; 2];

/// A kernel in its forms for weights of float32, bf16 and f16, for activations of float32 and bf16.
pub(super) type ByWeight = [[&'static Kernel; 3]; 2];

/// The form for activations of this dtype.
pub(super) fn by_activation(op: &'static str, dtype: Dtype, forms: ByActivation) -> Result<&'static Kernel> {
    match dtype {
        Dtype::F32 => Ok(forms[0]),
        Dtype::Bf16 => Ok(forms[1]),
        Dtype::F16 => Err(Error::Shape { op, what: "an F16 operand where float32 or bf16 is needed".into() }),
    }
}

/// The form for activations and weights of these dtypes.
pub(super) fn by_weight(
    op: &'static str,
    activation: Dtype,
    weight: Dtype,
    forms: ByWeight,
) -> Result<&'static Kernel> {
    let which = match weight {
        Dtype::F32 => 0,
        Dtype::Bf16 => 1,
        Dtype::F16 => 2,
    };
    by_activation(op, activation, [forms[0][which], forms[1][which]])
}
