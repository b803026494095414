//! Weights files, mapped into memory.
//!
//! A model's weights are most of the engine's memory, and are read and never written, so they stay
//! where they are: the file is mapped, the operating system loads pages as they are touched and shares
//! them between processes. Under [`Access::Read`] they are read into memory instead, and the file may go.
//!
//! Layout (spec section 8): `model.safetensors`, or shards listed in `model.safetensors.index.json`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::Mmap;
use serde_json::Value;

use super::json::{one_line, read_limited};
use super::mapped::MappedTensor;
use super::safetensors::{Dtype, Entry, Header, show_shape};
use crate::{Error, Result};

/// The name of an unsharded weights file.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The name of the list of shards.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// An index of a million tensors stays below this.
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// How tensors come out of a weights file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Access {
    /// As views of its mapping, whose pages are read when they are first touched.
    #[default]
    Map,
    /// Read into memory when they are asked for. What becomes of the file afterwards does not matter.
    Read,
}

impl Access {
    /// [`Read`](Access::Read) where `no_mmap` is set.
    pub fn unless(no_mmap: bool) -> Self {
        if no_mmap { Access::Read } else { Access::Map }
    }
}

/// One mapped file.
#[derive(Clone)]
struct Shard {
    path: PathBuf,
    map: Arc<Mmap>,
    /// The file that is mapped, though its name may since have been given to another. Readers take turns, as they
    /// share its position.
    file: Arc<Mutex<File>>,
    metadata: Vec<(String, String)>,
}

/// Where a tensor is.
#[derive(Clone)]
enum Place {
    /// In the shard of this number.
    Shard(usize, Entry),
    /// In memory, read from a file of another format.
    Memory(MappedTensor),
}

impl Place {
    fn shape(&self) -> &[usize] {
        match self {
            Place::Shard(_, entry) => &entry.shape,
            Place::Memory(tensor) => tensor.shape(),
        }
    }
}

/// The tensors of one safetensors file, of a set of shards, or of a file of another format that was read.
pub struct Weights {
    /// The file that lists the tensors: the only one, or the index.
    path: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Place>,
    access: Access,
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weights({}, {} tensors)", self.path.display(), self.tensors.len())
    }
}

impl Weights {
    /// Maps the weights of the model directory `dir`: `model.safetensors` or, without it, the shards.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] naming the file that is missing, truncated or malformed.
    pub fn open(dir: &Path) -> Result<Self> {
        let single = dir.join(WEIGHTS_FILE);
        if single.exists() {
            return Self::open_file(&single);
        }
        let index = dir.join(INDEX_FILE);
        if index.exists() {
            return Self::open_index(&index);
        }
        let what = if dir.join("pytorch_model.bin").exists() {
            "has weights in PyTorch's own format only; convert them to safetensors"
        } else if dir.is_dir() {
            "holds neither model.safetensors nor model.safetensors.index.json"
        } else {
            "is not a directory"
        };
        Err(Error::file(dir, what))
    }

    /// Maps one safetensors file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::File`] or [`Error::Tensor`] naming the file.
    pub fn open_file(path: &Path) -> Result<Self> {
        let (shard, entries) = map_file(path)?;
        let tensors = entries.into_iter().map(|entry| (entry.name.clone(), Place::Shard(0, entry))).collect();
        Ok(Self { path: path.to_owned(), shards: vec![shard], tensors, access: Access::Map })
    }

    /// Tensors in memory, by their names, which were read from the file `path`.
    pub fn in_memory(path: &Path, tensors: impl IntoIterator<Item = (String, MappedTensor)>) -> Self {
        let tensors = tensors.into_iter().map(|(name, tensor)| (name, Place::Memory(tensor))).collect();
        Self { path: path.to_owned(), shards: Vec::new(), tensors, access: Access::Map }
    }

    /// Maps the shards that `model.safetensors.index.json` lists.
    fn open_index(path: &Path) -> Result<Self> {
        let invalid = |what: String| Error::file(path, what);
        let bytes = read_limited(path, MAX_INDEX_BYTES)?;
        let index: Value = serde_json::from_slice(&bytes)
            .map_err(|e| invalid(format!("is not valid JSON: {}", one_line(&e.to_string()))))?;
        let listed = index
            .get("weight_map")
            .and_then(Value::as_object)
            .ok_or_else(|| invalid("weight_map: must be an object of tensor names and file names".into()))?;
        let dir = path.parent().unwrap_or(Path::new("."));

        // The tensors wanted of every shard.
        let mut by_shard: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, shard) in listed {
            let shard = shard
                .as_str()
                .ok_or_else(|| invalid(format!("weight_map: {}: must be a file name", one_line(tensor))))?;
            by_shard.entry(shard).or_default().push(tensor);
        }
        let mut weights =
            Self { path: path.to_owned(), shards: Vec::new(), tensors: BTreeMap::new(), access: Access::Map };
        for (name, wanted) in by_shard {
            if !is_bare_name(name) {
                let what = format!("weight_map: \"{}\" is not a plain file name", one_line(name));
                return Err(invalid(what));
            }
            let shard_path = dir.join(name);
            if !shard_path.exists() {
                return Err(invalid(format!("names the shard {}, which is missing", one_line(name))));
            }
            let (shard, entries) = map_file(&shard_path)?;
            let mut entries: BTreeMap<String, Entry> =
                entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
            for tensor in wanted {
                let Some(entry) = entries.remove(tensor) else {
                    let what = "is not in this file, though model.safetensors.index.json says so";
                    return Err(Error::tensor(&shard_path, one_line(tensor), what));
                };
                weights.tensors.insert(tensor.to_owned(), Place::Shard(weights.shards.len(), entry));
            }
            weights.shards.push(shard);
        }
        Ok(weights)
    }

    /// The same, whose tensors come out in the way of `access`; without it they are views of the mapping.
    #[must_use]
    pub fn accessed(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// The file that lists the tensors, for messages: the weights file itself, or the index.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The shape of `name`, outermost dimension first, if there is such a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(Place::shape)
    }

    /// The free text `key` of the header (of the first shard that has it).
    pub fn metadata(&self, key: &str) -> Option<&str> {
        let mut pairs = self.shards.iter().flat_map(|shard| &shard.metadata);
        pairs.find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// Bytes of all tensors together.
    pub fn total_bytes(&self) -> u64 {
        let bytes = |place: &Place| match place {
            Place::Shard(_, entry) => entry.range.len() as u64,
            Place::Memory(tensor) => tensor.bytes().len() as u64,
        };
        self.tensors.values().map(bytes).sum()
    }

    /// Lets the tensor `stored` of another file stand in the place of `name`, or beside the others.
    ///
    /// # Errors
    /// [`Error::Tensor`] naming the other file if it has no such tensor.
    pub fn replace(&mut self, name: &str, other: &Weights, stored: &str) -> Result<()> {
        let place = match other.tensors.get(stored) {
            None => return Err(Error::tensor(&other.path, stored, "is missing")),
            Some(Place::Shard(shard, entry)) => {
                self.shards.push(Shard { metadata: Vec::new(), ..other.shards[*shard].clone() });
                Place::Shard(self.shards.len() - 1, entry.clone())
            }
            Some(memory) => memory.clone(),
        };
        self.tensors.insert(name.to_owned(), place);
        Ok(())
    }

    /// Gives the tensor `name`, if there is one, the second name `also`, in the place of another of that name.
    pub fn alias(&mut self, name: &str, also: &str) {
        if let Some(place) = self.tensors.get(name).cloned() {
            self.tensors.insert(also.to_owned(), place);
        }
    }

    /// The tensor `name`, which must have exactly `shape`.
    ///
    /// # Errors
    /// [`Error::Tensor`] naming file and tensor if it is missing, of another shape, or of a dtype
    /// other than float32, bfloat16 and float16.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<MappedTensor> {
        self.opt(name, shape)?.ok_or_else(|| Error::tensor(&self.path, name, "is missing"))
    }

    /// The tensor `name` if there is one; it must then have `shape`.
    ///
    /// # Errors
    /// As [`get`](Self::get), but for a missing tensor.
    pub fn opt(&self, name: &str, shape: &[usize]) -> Result<Option<MappedTensor>> {
        let Some(place) = self.tensors.get(name) else { return Ok(None) };
        if place.shape() != shape {
            let what = format!("has shape {}, not {}", show_shape(place.shape()), show_shape(shape));
            let path =
                if let Place::Shard(shard, _) = place { &self.shards[*shard].path } else { &self.path };
            return Err(Error::tensor(path, name, what));
        }
        self.tensor(name).map(Some)
    }

    /// The tensor `name` in whatever shape it has.
    ///
    /// # Errors
    /// As [`get`](Self::get), but for the shape.
    pub fn tensor(&self, name: &str) -> Result<MappedTensor> {
        let (shard, entry) = match self.tensors.get(name) {
            Some(Place::Shard(shard, entry)) => (shard, entry),
            Some(Place::Memory(tensor)) => return Ok(tensor.clone()),
            None => return Err(Error::tensor(&self.path, name, "is missing")),
        };
        let shard = &self.shards[*shard];
        let Some(dtype) = Dtype::from_stored(entry.stored) else {
            let what = format!("is {}, not one of float32, bfloat16 and float16", entry.stored);
            return Err(Error::tensor(&shard.path, name, what));
        };
        match self.access {
            Access::Map => Ok(MappedTensor::new(dtype, entry.shape.clone(), &shard.map, entry.range.clone())),
            Access::Read => {
                let file = shard.file.lock().unwrap_or_else(PoisonError::into_inner);
                MappedTensor::read(dtype, entry.shape.clone(), &file, &entry.range)
                    .map_err(|e| Error::tensor(&shard.path, name, format!("cannot be read: {e}")))
            }
        }
    }
}

/// Maps the file `path` and checks its header.
fn map_file(path: &Path) -> Result<(Shard, Vec<Entry>)> {
    let file = File::open(path).map_err(Error::io(path))?;
    let is_file = file.metadata().map_err(Error::io(path))?.is_file();
    if !is_file {
        return Err(Error::file(path, "is not a regular file"));
    }
    // SAFETY: the mapping is read-only and private to this type, so no Rust code writes through it.
    // Another process that writes to the file could change bytes under a shared reference, or by
    // truncating it make an access fault, which ends the process (`files::faults` says of which file); files are replaced by rename everywhere in this crate
    // (`files::atomic`), which leaves an existing mapping on the old content. Every bit pattern is a
    // valid number of the dtypes offered, so even changed bytes give wrong numbers at worst.
    let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
    #[cfg(all(target_os = "linux", feature = "cli"))]
    super::faults::watch(&map, path);
    let Header { entries, metadata } = Header::parse(path, &map)?;
    let (map, file) = (Arc::new(map), Arc::new(Mutex::new(file)));
    Ok((Shard { path: path.to_owned(), map, file, metadata }, entries))
}

/// Whether `name` is one path component that stays in its directory.
fn is_bare_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let first = components.next();
    // Backslashes and colons are separators on some systems and legal letters on others: refuse them
    // on all. A trailing slash would vanish in `components`.
    matches!(first, Some(std::path::Component::Normal(_)))
        && components.next().is_none()
        && !name.contains(['/', '\\', ':', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::safetensors::{TensorData, save_safetensors};
    use half::{bf16, f16};
    use std::fs;

    fn save(path: &Path, tensors: &[(&str, &[f32])]) {
        let tensors: Vec<_> =
            tensors.iter().map(|&(n, x)| (n.to_owned(), vec![x.len()], TensorData::F32(x))).collect();
        save_safetensors(path, &tensors, &[]).unwrap();
    }

    fn fault(dir: &Path) -> String {
        let message = Weights::open(dir).unwrap_err().to_string();
        assert!(message.starts_with(&dir.display().to_string()) && !message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn misaligned_data_is_copied_and_equal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(WEIGHTS_FILE);
        let mut header = br#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#.to_vec();
        while header.len() % 4 != 1 {
            header.push(b' ');
        }
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.extend([1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()));
        fs::write(&path, bytes).unwrap();
        let tensor = Weights::open(dir.path()).unwrap().get("a", &[2]).unwrap();
        assert!(!tensor.is_mapped());
        assert_eq!(tensor.as_f32().unwrap(), [1.5, -2.0]);
        assert!(tensor.as_bf16().is_none() && tensor.as_f16().is_none());
    }

    #[test]
    fn every_dtype_is_read_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let x = [0.5f32, -3.0, 65504.0];
        let b = x.map(bf16::from_f32);
        let h = x.map(f16::from_f32);
        let tensors = [
            ("f".to_owned(), vec![3, 1], TensorData::F32(&x)),
            ("b".to_owned(), vec![3], TensorData::Bf16(&b)),
            ("h".to_owned(), vec![1, 3], TensorData::F16(&h)),
        ];
        save_safetensors(&dir.path().join(WEIGHTS_FILE), &tensors, &[("format", "pt")]).unwrap();
        let weights = Weights::open(dir.path()).unwrap();
        assert_eq!(weights.names().collect::<Vec<_>>(), ["b", "f", "h"]);
        assert_eq!(weights.metadata("format"), Some("pt"));
        assert_eq!(weights.total_bytes(), 24);
        let (f, b, h) = ("f", "b", "h");
        assert_eq!(weights.get(f, &[3, 1]).unwrap().as_f32().unwrap(), x);
        assert_eq!(weights.get(b, &[3]).unwrap().to_f32_vec(), [0.5, -3.0, 65536.0]);
        assert_eq!(weights.get(h, &[1, 3]).unwrap().to_f32_vec(), x);
        assert!(weights.get(f, &[3, 1]).unwrap().is_mapped());
        assert!(weights.opt("none", &[1]).unwrap().is_none());
        let error = weights.get(f, &[1, 3]).unwrap_err().to_string();
        assert!(error.ends_with("model.safetensors, tensor f: has shape [3, 1], not [1, 3]"), "{error}");
    }

    /// Tensors that were read are those of the file that was opened, whatever becomes of it and its name; one that is no
    /// longer there is named.
    #[test]
    fn read_tensors_outlive_their_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(WEIGHTS_FILE);
        save(&path, &[("a", &[1.5, -2.0, 3.0]), ("b", &[4.0])]);
        let weights = Weights::open(dir.path()).unwrap().accessed(Access::Read);
        let a = weights.get("a", &[3]).unwrap();
        assert!(!a.is_mapped());
        save(&path, &[("a", &[7.0, 7.0, 7.0])]);
        assert_eq!(weights.get("b", &[1]).unwrap().to_f32_vec(), [4.0]);

        let weights = Weights::open(dir.path()).unwrap().accessed(Access::Read);
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(9).unwrap();
        assert_eq!(a.to_f32_vec(), [1.5, -2.0, 3.0]);
        let error = weights.get("a", &[3]).unwrap_err().to_string();
        assert!(error.contains("model.safetensors, tensor a: cannot be read: "), "{error}");
    }

    #[test]
    fn shards_are_found_through_their_index() {
        let dir = tempfile::tempdir().unwrap();
        save(&dir.path().join("s1.safetensors"), &[("a", &[1.0]), ("unlisted", &[9.0])]);
        save(&dir.path().join("s2.safetensors"), &[("b", &[2.0, 3.0])]);
        let index = |text: &str| fs::write(dir.path().join(INDEX_FILE), text).unwrap();
        index(r#"{"metadata": {}, "weight_map": {"a": "s1.safetensors", "b": "s2.safetensors"}}"#);
        let weights = Weights::open(dir.path()).unwrap();
        assert_eq!(weights.get("b", &[2]).unwrap().as_f32().unwrap(), [2.0, 3.0]);
        assert!(!weights.contains("unlisted"));

        index(r#"{"weight_map": {"a": "s2.safetensors"}}"#);
        assert!(fault(dir.path()).contains("s2.safetensors, tensor a: is not in this file"));
        index(r#"{"weight_map": {"a": "s3.safetensors"}}"#);
        assert!(fault(dir.path()).ends_with("names the shard s3.safetensors, which is missing"));
        for name in ["../x", "/etc/passwd", "..", ".", "", "a/", "a\\\\b", "c:x"] {
            index(&format!(r#"{{"weight_map": {{"a": "{name}"}}}}"#));
            assert!(fault(dir.path()).contains("is not a plain file name"), "{name}");
        }
        index(r#"{"weight_map": {"a": 1}}"#);
        assert!(fault(dir.path()).contains("weight_map: a: must be a file name"));
        index("[]");
        assert!(fault(dir.path()).contains("weight_map: must be an object"));
    }

    #[test]
    fn tensors_of_other_files_take_the_place_of_ones_own() {
        let dir = tempfile::tempdir().unwrap();
        save(&dir.path().join(WEIGHTS_FILE), &[("a", &[1.0]), ("b", &[2.0])]);
        let other = dir.path().join("other.safetensors");
        save(&other, &[("x", &[3.0, 4.0])]);
        let mut weights = Weights::open(dir.path()).unwrap();
        let other = Weights::open_file(&other).unwrap();
        weights.alias("a", "c");
        weights.alias("absent", "b");
        weights.replace("a", &other, "x").unwrap();
        let values = |name: &str| weights.tensor(name).unwrap().to_f32_vec();
        assert_eq!((values("a"), values("b"), values("c")), (vec![3.0, 4.0], vec![2.0], vec![1.0]));
        // The file at fault is the other one.
        let error = weights.get("a", &[1]).unwrap_err().to_string();
        assert!(error.contains("other.safetensors, tensor a: has shape [2], not [1]"), "{error}");
        let error = weights.replace("a", &other, "y").unwrap_err().to_string();
        assert!(error.contains("other.safetensors, tensor y: is missing"), "{error}");
    }

    #[test]
    fn what_is_not_there_is_said() {
        let dir = tempfile::tempdir().unwrap();
        assert!(fault(dir.path()).contains("holds neither"));
        fs::write(dir.path().join("pytorch_model.bin"), b"").unwrap();
        assert!(fault(dir.path()).contains("convert them"));
        assert!(fault(&dir.path().join("absent")).contains("is not a directory"));
        fs::write(dir.path().join(WEIGHTS_FILE), b"").unwrap();
        assert!(fault(dir.path()).contains("is empty"));
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 269060552\n";
        fs::write(dir.path().join(WEIGHTS_FILE), pointer).unwrap();
        assert!(fault(dir.path()).ends_with("not the file itself: run `git lfs pull`"));
        fs::write(dir.path().join(WEIGHTS_FILE), b"1234").unwrap();
        assert!(fault(dir.path()).contains("truncated"));
        fs::remove_file(dir.path().join(WEIGHTS_FILE)).unwrap();
        fs::create_dir(dir.path().join(WEIGHTS_FILE)).unwrap();
        assert!(fault(dir.path()).contains("not a regular file"));
    }
}
