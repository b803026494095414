//! Kernels by name: each file of launches declares those of its file of `cuda/`.
//!
//! A kernel has the name of its operation, or of an algorithm where an operation has several (`gemv`, `flash`), then
//! that of its part in the operation, and last the dtypes and sizes that it is compiled for.
//! On `cuda-host` a kernel is a function of the linked library, so a name that no file of `cuda/` declares fails the
//! build; on a GPU the driver looks it up in the file's fatbin when it is first launched.

use crate::device::Dtype;
use crate::{Error, Result};

/// A kernel's declaration on the CPU: `shim::Signature`.
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

/// Declares the kernels of a file of `cuda/`, as statics of their names.
macro_rules! kernels {
    ($file:literal: $($name:ident)*) => {
        #[cfg(cuda_host)]
        mod entries {
            unsafe extern "C" {
                $(
                    #[link_name = concat!("colar_host_", stringify!($name))]
                    pub(super) fn $name(
                        args: *const *mut std::ffi::c_void,
                    ) -> *const crate::device::cuda::kernels::Signature;
                )*
            }
        }

        /// All of them.
        #[cfg(cuda_host)]
        #[allow(dead_code, reason = "of those that exist on the host alone there is no machine code to look at")]
        pub(in crate::device::cuda) const KERNELS: &[&$crate::device::cuda::kernels::Kernel] = &[$(&$name),*];

        $(
            #[allow(non_upper_case_globals, missing_docs)]
            pub static $name: $crate::device::cuda::kernels::Kernel = $crate::device::cuda::kernels::Kernel {
                file: $file,
                name: stringify!($name),
                #[cfg(cuda_host)]
                entry: entries::$name,
            };
        )*
    };
}
pub(super) use kernels;

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
