//! Products with many rows, by cuBLASLt.
//!
//! The library's matrices are column-major: our row-major `a[m,k]` is `[k,m]` to it. So it is asked for
//! `yᵀ[n,m]`, of the operands in the other order, and no element moves. It proposes an algorithm for a shape, which
//! is kept; a shape has the same algorithm every time, and so the same bits.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::result as driver;
use cudarc::driver::sys::{CUdeviceptr, CUstream};

use super::super::driver::{Memory, Operand, Product, ProductForm};
use crate::device::Dtype;
use crate::{Error, Result};

/// Scratch memory that an algorithm may use: as much as cuBLAS itself takes on Hopper.
const WORKSPACE: usize = 32 << 20;

/// The most that an algorithm can ask of an operand's address: it begins at a multiple of it.
const MOST_ALIGNED: u64 = 256;

/// The key that an algorithm is chosen by: form, rows, columns, inner width, dtypes of operands and result, and the
/// alignment of all three.
type Shape = (ProductForm, [usize; 3], [Dtype; 2], u32);

/// A handle of cuBLASLt with its scratch memory.
pub(super) struct Library {
    handle: sys::cublasLtHandle_t,
    stream: CUstream,
    workspace: CUdeviceptr,
    algorithms: Mutex<HashMap<Shape, sys::cublasLtMatmulAlgo_t>>,
}

fn failed(e: CublasError) -> Error {
    Error::other(format!("cuda: cuBLASLt: {e}"))
}

fn data_type(dtype: Dtype) -> Result<sys::cudaDataType> {
    match dtype {
        Dtype::F32 => Ok(sys::cudaDataType::CUDA_R_32F),
        Dtype::Bf16 => Ok(sys::cudaDataType::CUDA_R_16BF),
        Dtype::F16 => Err(Error::other("cuda: no products in half precision")),
    }
}

/// A description that is destroyed when dropped.
struct Description(sys::cublasLtMatmulDesc_t);

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: created by `create_matmul_desc`, destroyed once.
        let _ = unsafe { lt::destroy_matmul_desc(self.0) };
    }
}

/// A column-major matrix's description, destroyed when dropped.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(dtype: sys::cudaDataType, rows: usize, cols: usize) -> Result<Self> {
        lt::create_matrix_layout(dtype, rows as u64, cols as u64, rows as i64).map(Layout).map_err(failed)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: created by `create_matrix_layout`, destroyed once.
        let _ = unsafe { lt::destroy_matrix_layout(self.0) };
    }
}

/// Limits of the choice of an algorithm, destroyed when dropped.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: created by `create_matmul_pref`, destroyed once.
        let _ = unsafe { lt::destroy_matmul_pref(self.0) };
    }
}

impl Library {
    /// Fails where libcublasLt is not there.
    pub(super) fn check_present() -> Result<()> {
        // SAFETY: it only tries to load the library.
        if unsafe { sys::is_culib_present() } {
            return Ok(());
        }
        Err(Error::other(
            "cuda: libcublasLt is not there; install cuBLAS 13 and name its folder in LD_LIBRARY_PATH",
        ))
    }

    /// A handle whose products go to `stream`; the context is current.
    pub(super) fn new(stream: CUstream) -> Result<Self> {
        let handle = lt::create_handle().map_err(failed)?;
        // SAFETY: a live stream; the memory is freed by `close`.
        let workspace = unsafe { driver::malloc_async(stream, WORKSPACE) }
            .map_err(|e| super::error::failed("scratch memory for cuBLASLt", e))?;
        Ok(Library { handle, stream, workspace, algorithms: Mutex::default() })
    }

    /// Frees the memory and the handle that `new` took.
    ///
    /// # Safety
    /// No product may follow.
    pub(super) unsafe fn close(&mut self) {
        // SAFETY: both were made by `new`, and the caller promises that this is their end.
        unsafe {
            let _ = driver::free_async(self.workspace, self.stream);
            let _ = lt::destroy_handle(self.handle);
        }
    }

    pub(super) fn product<M: Memory>(&self, p: &Product<'_, M>) -> Result<()> {
        let (dtype, out) = (data_type(p.dtype)?, data_type(p.out)?);
        // Not TF32: in float32 this device must agree with the others.
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let scale = sys::cudaDataType::CUDA_R_32F;
        let description = Description(lt::create_matmul_desc(compute, scale).map_err(failed)?);
        // The library's first operand is `b`.
        use sys::cublasLtMatmulDescAttributes_t::{
            CUBLASLT_MATMUL_DESC_TRANSA as FIRST, CUBLASLT_MATMUL_DESC_TRANSB as SECOND,
        };
        let transposed = match p.form {
            ProductForm::Nt => Some(FIRST),
            ProductForm::Nn => None,
            ProductForm::Tn => Some(SECOND),
        };
        if let Some(which) = transposed {
            // CUBLAS_OP_T of cublas_api.h, whose type the bindings of cuBLASLt leave out.
            let transpose: i32 = 1;
            // SAFETY: the attribute is an operation, an int, read during the call.
            unsafe {
                lt::set_matmul_desc_attribute(
                    description.0,
                    which,
                    (&raw const transpose).cast(),
                    size_of_val(&transpose),
                )
            }
            .map_err(failed)?;
        }
        let b = if p.form == ProductForm::Nt { [p.k, p.n] } else { [p.n, p.k] };
        let a = if p.form == ProductForm::Tn { [p.m, p.k] } else { [p.k, p.m] };
        let (b, a) = (Layout::new(dtype, b[0], b[1])?, Layout::new(dtype, a[0], a[1])?);
        let y = Layout::new(out, p.n, p.m)?;
        let at =
            |part: Operand<'_, M>, dtype: Dtype| part.memory.address() + (part.from * dtype.size()) as u64;
        let (b_at, a_at, y_at) = (at(p.b, p.dtype), at(p.a, p.dtype), at(p.y, p.out));
        // The lowest bit that is set in any of them.
        let aligned = 1u32 << (b_at | a_at | y_at | MOST_ALIGNED).trailing_zeros();
        let shape = (p.form, [p.m, p.n, p.k], [p.dtype, p.out], aligned);
        let algorithm = self.algorithm(shape, &description, [&b, &a, &y])?;
        // SAFETY: the layouts are those of the buffers, as the operation has checked; factors are read
        // during the call; the scratch memory is this library's, whose products follow one another.
        unsafe {
            lt::matmul(
                self.handle,
                description.0,
                (&raw const p.alpha).cast(),
                (&raw const p.beta).cast(),
                b_at as *mut c_void,
                b.0,
                a_at as *mut c_void,
                a.0,
                y_at as *mut c_void,
                y.0,
                y_at as *mut c_void,
                y.0,
                &raw const algorithm,
                self.workspace as *mut c_void,
                WORKSPACE,
                self.stream.cast(),
            )
        }
        .map_err(failed)
    }

    /// The algorithm for a shape, chosen when it is first met.
    fn algorithm(
        &self,
        shape: Shape,
        description: &Description,
        [b, a, y]: [&Layout; 3],
    ) -> Result<sys::cublasLtMatmulAlgo_t> {
        let mut algorithms = self.algorithms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&algorithm) = algorithms.get(&shape) {
            return Ok(algorithm);
        }
        let preference = Preference(lt::create_matmul_pref().map_err(failed)?);
        use sys::cublasLtMatmulPreferenceAttributes_t as P;
        let set = |which: P, value: *const c_void, bytes: usize| {
            // SAFETY: a live preference; the attribute is of `bytes` bytes, read during the call.
            unsafe { lt::set_matmul_pref_attribute(preference.0, which, value, bytes) }.map_err(failed)
        };
        let (workspace, aligned) = (WORKSPACE, shape.3);
        let which = P::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        set(which, (&raw const workspace).cast(), size_of_val(&workspace))?;
        for which in [
            P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            set(which, (&raw const aligned).cast(), size_of_val(&aligned))?;
        }
        // SAFETY: all descriptions are live.
        let found = unsafe {
            lt::get_matmul_algo_heuristic(self.handle, description.0, b.0, a.0, y.0, y.0, preference.0)
        }
        .map_err(failed)?;
        algorithms.insert(shape, found.algo);
        Ok(found.algo)
    }
}
