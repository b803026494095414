//! The libraries that computing on a GPU needs, and how to get those that are missing.

use serde::Serialize;

/// A library that the device `cuda` loads, or would.
#[derive(Serialize)]
pub struct GpuLibrary {
    /// Its name, as the loader has it.
    pub name: &'static str,
    /// Whether the loader finds it.
    pub found: bool,
    /// Where it comes from, or why nobody needs it.
    pub source: &'static str,
}

/// Name and source of each.
const LIBRARIES: [(&str, &str); 3] = [
    ("libcuda.so.1", "comes with the NVIDIA driver, 580 or newer"),
    (
        "libcublasLt.so.13",
        "comes with CUDA 13, or with the Python package nvidia-cublas; its folder goes into LD_LIBRARY_PATH",
    ),
    ("libnccl.so.2", "not needed: a run takes one GPU"),
];

/// Looks for each library as the loader would.
pub fn gpu_libraries() -> Vec<GpuLibrary> {
    LIBRARIES.map(|(name, source)| GpuLibrary { name, found: is_found(name), source }).into()
}

fn is_found(name: &str) -> bool {
    // SAFETY: loading runs the library's own initialisers, and these are libraries that the engine loads in order to
    // compute. Nothing in it is called, so unloading it again leaves nothing behind.
    unsafe { libloading::Library::new(name) }.is_ok()
}
