//! Tensors of PyTorch's own files (`.ckpt`, `.pt`, `.bin`), without running anything that is in them.
//!
//! `torch.save` writes a zip archive: a pickle, which is a program for Python's unpickler, and beside it the bytes of
//! each tensor, uncompressed. The crate `pytorch-reader` interprets the pickle as data: of the calls in it it knows
//! those that build tensors and plain containers, and every other is a value that it does not look into. It bounds nesting and
//! copies; what it does not bound is checked here first. An entry that is compressed may unpack to a thousand times its size,
//! a pickle of small instructions is up to some 250 times its size once it is read, and a view of a tensor with a stride of 0
//! may have any number of elements.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pytorch_reader::{DType, PytorchReader, Tensor};
use zip::{CompressionMethod, ZipArchive};

use super::json::one_line;
use super::mapped::MappedTensor;
use super::safetensors::Dtype;
use super::stand_in;
use crate::{Error, Result};

/// The largest pickle that is read. That of a model of 300 weights, with an optimiser's state, has some 200 kB.
const MAX_PICKLE_BYTES: u64 = 2 << 20;

/// How many times the file all tensors together may be, since some are others by another name.
const MOST_SHARED: u64 = 8;

/// Bytes of the beginning that say what a file is.
const HEAD: u64 = 512;

/// The most entries of an archive: as many tensors as no model has.
const MAX_ENTRIES: usize = 1 << 17;

/// The named tensors of a file. None is read before it is asked for.
#[derive(Debug)]
pub struct PytorchFile {
    path: PathBuf,
    tensors: std::collections::HashMap<String, Tensor>,
}

impl PytorchFile {
    /// Opens a file that `torch.save` wrote (PyTorch 1.6 or later) from a dictionary, of which `key` holds the tensors, or the
    /// whole of it.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::File`] in one line for a file of another kind, a compressed or damaged archive, a pickle that
    /// is too large or malformed, no `key`, and tensors with more elements than the file has room for.
    pub fn open(path: &Path, key: Option<&str>) -> Result<Self> {
        let bytes = check_archive(path)?;
        let fault = |e: pytorch_reader::PytorchError| Error::file(path, one_line(&e.to_string()));
        let reader = match key {
            Some(key) => PytorchReader::with_top_level_key(path, key),
            None => PytorchReader::new(path),
        };
        let tensors = reader.map_err(fault)?.into_tensors();
        // Views may share a storage, as an output head does that is the embedding, but not many of one.
        let size = |tensor: &Tensor| {
            let each = tensor.dtype().size() as u64;
            tensor.shape().iter().try_fold(each, |size, &n| size.checked_mul(n as u64))
        };
        let mut total = 0u64;
        let fits = tensors.values().all(|tensor| match size(tensor) {
            Some(size) => {
                total = total.saturating_add(size);
                size <= bytes && total <= bytes.saturating_mul(MOST_SHARED)
            }
            None => false,
        });
        if !fits {
            let what = "its tensors have more elements than the file has room for";
            return Err(Error::file(path, what));
        }
        Ok(Self { path: path.to_owned(), tensors })
    }

    /// All names, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of the tensor `name`, outermost dimension first, if there is one.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(Tensor::shape)
    }

    /// Reads the tensor `name` into memory.
    ///
    /// # Errors
    /// [`Error::Tensor`] if there is none, its dtype is not one of float32, bfloat16 and float16, or its bytes are damaged.
    pub fn read(&self, name: &str) -> Result<MappedTensor> {
        let fault = |what: String| Error::tensor(&self.path, one_line(name), what);
        let tensor = self.tensors.get(name).ok_or_else(|| fault("is missing".into()))?;
        let dtype = match tensor.dtype() {
            DType::F32 => Dtype::F32,
            DType::BF16 => Dtype::Bf16,
            DType::F16 => Dtype::F16,
            other => {
                let what = format!("is {other:?}, not one of float32, bfloat16 and float16");
                return Err(fault(what));
            }
        };
        let bytes = tensor.read().map_err(|e| fault(format!("is damaged: {}", one_line(&e.to_string()))))?;
        let mut words = vec![0u64; bytes.len().div_ceil(size_of::<u64>())];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(&bytes);
        MappedTensor::in_memory(dtype, tensor.shape(), Arc::from(words))
    }
}

/// Fails unless the file is an archive as `torch.save` writes them, whose reading costs no more than its size; returns that.
fn check_archive(path: &Path) -> Result<u64> {
    let file = File::open(path).map_err(Error::io(path))?;
    let metadata = file.metadata().map_err(Error::io(path))?;
    if !metadata.is_file() {
        return Err(Error::file(path, "is not a regular file"));
    }
    let fault = |what: String| Error::file(path, what);
    let damaged = |e: &dyn std::fmt::Display| fault(format!("is damaged: {}", one_line(&e.to_string())));
    let mut head = Vec::new();
    (&file).take(HEAD).read_to_end(&mut head).map_err(Error::io(path))?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|e| {
        let e = one_line(&e.to_string());
        // A damaged archive is still an archive.
        let other = if head.starts_with(b"PK") { None } else { stand_in::recognise(&head) };
        fault(other.map_or_else(
            || format!("is no checkpoint of PyTorch 1.6 or later, which would be a zip archive: {e}"),
            str::to_owned,
        ))
    })?;
    if archive.len() > MAX_ENTRIES {
        return Err(fault(format!("has {} entries, more than {MAX_ENTRIES}", archive.len())));
    }
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|e| damaged(&e))?;
        let name = one_line(&String::from_utf8_lossy(entry.name_raw()));
        if entry.compression() != CompressionMethod::Stored || entry.compressed_size() != entry.size() {
            return Err(fault(format!("its entry {name} is compressed, which torch.save does not do")));
        }
        if entry.size() > metadata.len() {
            return Err(fault(format!("its entry {name} would be larger than the file")));
        }
        if name.ends_with("data.pkl") && entry.size() > MAX_PICKLE_BYTES {
            let what = format!("its pickle has {} bytes, more than {MAX_PICKLE_BYTES}", entry.size());
            return Err(fault(what));
        }
    }
    Ok(metadata.len())
}
