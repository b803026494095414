//! The safetensors format: eight bytes with the header's length, a JSON header, then the data.
//!
//! Names, dtypes and offsets in a header come from an unknown writer and are not trusted: every range is checked
//! against the file's length with checked arithmetic, names may not repeat, and ranges must tile the data without gap
//! or overlap, as the format demands. The `safetensors` crate's types describe an entry; the checks stand here
//! because an error must name the tensor at fault, and because that crate keeps the last of two equal names silently.
//!
//! Writing streams: the header is made from shapes alone, then each tensor's bytes follow, so that a
//! file larger than memory can be written.

use std::fmt;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype as Stored;
use safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::atomic::write_atomic;
use super::json::one_line;
use super::stand_in;
use crate::{Error, Result};

// Tensor data is little-endian in the file and used in place.
const _: () = assert!(cfg!(target_endian = "little"), "only little-endian targets are supported");

/// Bytes before the header: its length as a little-endian u64.
const LENGTH_BYTES: usize = 8;
/// The format's own bound on a header.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The element types that weights are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE 754 single precision.
    F32,
    /// The upper half of an [`F32`](Dtype::F32).
    Bf16,
    /// IEEE 754 half precision.
    F16,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 | Dtype::F16 => 2,
        }
    }

    /// The name configuration files use: `float32`, `bfloat16`, `float16`.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "float32",
            Dtype::Bf16 => "bfloat16",
            Dtype::F16 => "float16",
        }
    }

    /// The inverse of [`name`](Dtype::name).
    pub fn from_name(name: &str) -> Option<Self> {
        [Dtype::F32, Dtype::Bf16, Dtype::F16].into_iter().find(|dtype| dtype.name() == name)
    }

    /// The name in a safetensors header.
    fn stored(self) -> Stored {
        match self {
            Dtype::F32 => Stored::F32,
            Dtype::Bf16 => Stored::BF16,
            Dtype::F16 => Stored::F16,
        }
    }

    /// The dtype of an entry, if it is one the engine reads.
    pub(crate) fn from_stored(stored: Stored) -> Option<Self> {
        [Dtype::F32, Dtype::Bf16, Dtype::F16].into_iter().find(|dtype| dtype.stored() == stored)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One tensor of a header, checked.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The tensor's name.
    pub name: String,
    /// The stored dtype; may be one that only other programs use.
    pub stored: Stored,
    /// The dimensions, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Position of the data, in bytes from the beginning of the file.
    pub range: Range<usize>,
}

/// A header as it stands in the file, order and repetitions kept.
struct RawHeader {
    tensors: Vec<(String, TensorInfo)>,
    metadata: Vec<(String, String)>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader { tensors: Vec::new(), metadata: Vec::new() };
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        let pairs: std::collections::BTreeMap<String, String> = map.next_value()?;
                        header.metadata.extend(pairs);
                    } else {
                        let info = map
                            .next_value::<TensorInfo>()
                            .map_err(|e| A::Error::custom(format_args!("tensor {name}: {e}")))?;
                        header.tensors.push((name, info));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// The checked header of a safetensors file.
#[derive(Debug, Clone)]
pub struct Header {
    /// The tensors, in the order of their data.
    pub entries: Vec<Entry>,
    /// The free text pairs that a writer left, sorted by key.
    pub metadata: Vec<(String, String)>,
}

impl Header {
    /// Reads and checks the header of a whole file's bytes; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Tensor`], one line, if the header is not valid JSON, describes
    /// more or less data than there is, repeats a name, or has ranges that overlap, leave gaps or do
    /// not fit their shapes.
    pub fn parse(path: &Path, file: &[u8]) -> Result<Self> {
        if let Some(what) = stand_in::recognise(file) {
            return Err(Error::file(path, what));
        }
        let truncated = |what: &str| Error::file(path, format!("is truncated: {what}"));
        let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
            return Err(truncated(&format!("{} bytes are no safetensors file", file.len())));
        };
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER_BYTES {
            return Err(Error::file(path, format!("is no safetensors file: a header of {length} bytes")));
        }
        // At most 10^8, so it fits any usize.
        let length = length as usize;
        let Some((json, data)) = rest.split_at_checked(length) else {
            return Err(truncated(&format!("the header has {length} bytes, the file {} in all", file.len())));
        };
        let RawHeader { mut tensors, metadata } = serde_json::from_slice(json).map_err(|e| {
            Error::file(path, format!("has an invalid safetensors header: {}", one_line(&e.to_string())))
        })?;

        let mut names: Vec<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::tensor(path, one_line(pair[0]), "occurs twice"));
        }
        tensors.sort_by_key(|(_, info)| info.data_offsets);
        let mut entries = Vec::with_capacity(tensors.len());
        let mut end = 0;
        for (name, TensorInfo { dtype: stored, shape, data_offsets: (from, to) }) in tensors {
            let fault = |what: String| Error::tensor(path, one_line(&name), what);
            if from != end || to < from {
                return Err(fault(format!("occupies bytes {from}..{to}, where data up to {end} is taken")));
            }
            let bytes = shape
                .iter()
                .try_fold(1usize, |product, &n| product.checked_mul(n))
                .and_then(|n| n.checked_mul(stored.bitsize()))
                .filter(|bits| bits % 8 == 0)
                .map(|bits| bits / 8);
            if bytes != Some(to - from) {
                return Err(fault(format!(
                    "has {} bytes, which is not what shape {} of {stored} takes",
                    to - from,
                    show_shape(&shape)
                )));
            }
            if to > data.len() {
                return Err(fault(format!(
                    "ends at byte {to} of the data, but the file is truncated to {} bytes of data",
                    data.len()
                )));
            }
            end = to;
            let start = LENGTH_BYTES + length;
            entries.push(Entry { name, stored, shape, range: start + from..start + to });
        }
        if end != data.len() {
            let excess = data.len() - end;
            return Err(Error::file(path, format!("has {excess} bytes that no tensor accounts for")));
        }
        Ok(Header { entries, metadata })
    }
}

/// A shape as messages show it: `[512, 64]`, cut short after eight dimensions.
pub(crate) fn show_shape(shape: &[usize]) -> String {
    match shape {
        [first @ .., _] if shape.len() > 8 => format!("{:?} and more", &first[..8]),
        _ => format!("{shape:?}"),
    }
}

/// Borrowed elements to be written.
#[derive(Debug, Clone, Copy)]
pub enum TensorData<'a> {
    /// float32 elements.
    F32(&'a [f32]),
    /// bfloat16 elements.
    Bf16(&'a [bf16]),
    /// float16 elements.
    F16(&'a [f16]),
}

impl TensorData<'_> {
    /// The element type.
    pub fn dtype(&self) -> Dtype {
        match self {
            TensorData::F32(_) => Dtype::F32,
            TensorData::Bf16(_) => Dtype::Bf16,
            TensorData::F16(_) => Dtype::F16,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            TensorData::F32(x) => bytemuck::cast_slice(x),
            TensorData::Bf16(x) => bytemuck::cast_slice(x),
            TensorData::F16(x) => bytemuck::cast_slice(x),
        }
    }
}

/// Name, shape and dtype of a tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The tensor's name.
    pub name: String,
    /// The dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The element type.
    pub dtype: Dtype,
}

impl TensorSpec {
    /// Bytes of data, `None` if that overflows.
    pub fn bytes(&self) -> Option<usize> {
        self.shape.iter().try_fold(self.dtype.size(), |product, &n| product.checked_mul(n))
    }
}

/// Writes `tensors` (name, shape, elements), in this order, to the file `path`: atomically, and
/// without another copy of the data.
///
/// `metadata` becomes the header's `__metadata__`; readers in Python expect `("format", "pt")`.
///
/// # Errors
/// [`Error::Tensor`] if elements and shape disagree or a name repeats, [`Error::Io`] if writing fails.
pub fn save_safetensors(
    path: &Path,
    tensors: &[(String, Vec<usize>, TensorData<'_>)],
    metadata: &[(&str, &str)],
) -> Result<()> {
    let mut specs = Vec::with_capacity(tensors.len());
    for (name, shape, data) in tensors {
        let spec = TensorSpec { name: name.clone(), shape: shape.clone(), dtype: data.dtype() };
        if spec.bytes() != Some(data.bytes().len()) {
            let given = data.bytes().len() / data.dtype().size();
            let what = format!("{given} elements do not fill shape {}", show_shape(shape));
            return Err(Error::tensor(path, name, what));
        }
        specs.push(spec);
    }
    write_safetensors(path, &specs, metadata, |index, out| out.write_all(tensors[index].2.bytes()))
}

/// Writes a safetensors file whose data is made on the way, atomically.
///
/// `fill(i, out)` is called once for every tensor, in order, and must write exactly the bytes of
/// `specs[i]`, little-endian and row-major.
///
/// # Errors
/// [`Error::Tensor`] if a shape is too large, a name repeats or `fill` writes another number of bytes,
/// [`Error::Io`] if writing fails.
pub fn write_safetensors(
    path: &Path,
    specs: &[TensorSpec],
    metadata: &[(&str, &str)],
    mut fill: impl FnMut(usize, &mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let (header, sizes) = header_of(path, specs, metadata)?;
    let mut wrong = None;
    let written = write_atomic(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for (index, &size) in sizes.iter().enumerate() {
            let mut counted = Counted { out: &mut *out, written: 0 };
            fill(index, &mut counted)?;
            if counted.written != size as u64 {
                wrong = Some((index, counted.written));
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(())
    });
    if let Some((index, got)) = wrong {
        let what = format!("{got} bytes were written where its shape takes {}", sizes[index]);
        return Err(Error::tensor(path, &specs[index].name, what));
    }
    written
}

/// The header, padded so that the data begins at a multiple of 8, and the tensors' sizes in bytes.
fn header_of(path: &Path, specs: &[TensorSpec], metadata: &[(&str, &str)]) -> Result<(Vec<u8>, Vec<usize>)> {
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        let pairs = metadata.iter().map(|&(key, value)| (key.to_owned(), value.into()));
        header.insert("__metadata__".into(), serde_json::Value::Object(pairs.collect()));
    }
    let mut sizes = Vec::with_capacity(specs.len());
    let mut at = 0usize;
    for spec in specs {
        let end = spec.bytes().and_then(|size| {
            sizes.push(size);
            at.checked_add(size)
        });
        let Some(end) = end else {
            let what = format!("shape {} is too large", show_shape(&spec.shape));
            return Err(Error::tensor(path, &spec.name, what));
        };
        let entry = serde_json::json!({
            "dtype": spec.dtype.stored().to_string(),
            "shape": spec.shape,
            "data_offsets": [at, end],
        });
        if spec.name == "__metadata__" || header.insert(spec.name.clone(), entry).is_some() {
            return Err(Error::tensor(path, &spec.name, "a second tensor of this name"));
        }
        at = end;
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok((header, sizes))
}

/// A writer that counts the bytes passing through it.
struct Counted<'a> {
    out: &'a mut dyn Write,
    written: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        bytes
    }

    fn fault(bytes: &[u8]) -> String {
        let message = Header::parse(Path::new("w.safetensors"), bytes).unwrap_err().to_string();
        assert!(message.starts_with("w.safetensors") && !message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn what_is_written_is_read_by_the_reference_crate_and_by_us() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let a: Vec<f32> = (0..6).map(|x| x as f32 / 3.0).collect();
        let b: Vec<bf16> = a.iter().map(|&x| bf16::from_f32(x)).collect();
        let tensors = [
            ("b".to_owned(), vec![3], TensorData::Bf16(&b[..3])),
            ("a".to_owned(), vec![2, 3], TensorData::F32(&a)),
            ("none".to_owned(), vec![0, 3], TensorData::F16(&[])),
        ];
        save_safetensors(&path, &tensors, &[("format", "pt")]).unwrap();
        let bytes = std::fs::read(&path).unwrap();

        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(theirs.tensor("a").unwrap().data(), bytemuck::cast_slice::<f32, u8>(&a));
        let (_, meta) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(meta.metadata().as_ref().unwrap()["format"], "pt");

        let ours = Header::parse(&path, &bytes).unwrap();
        assert_eq!(ours.metadata, [("format".to_owned(), "pt".to_owned())]);
        for entry in &ours.entries {
            let view = theirs.tensor(&entry.name).unwrap();
            assert_eq!((view.shape(), view.data()), (&entry.shape[..], &bytes[entry.range.clone()]));
        }
        assert_eq!(ours.entries.len(), 3);
    }

    #[test]
    fn the_writer_refuses_what_would_not_be_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let one = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec(), TensorData::F32(&[1.0]));
        let error = save_safetensors(&path, &[one("a", &[2])], &[]).unwrap_err().to_string();
        assert!(error.ends_with("tensor a: 1 elements do not fill shape [2]"), "{error}");
        let error = save_safetensors(&path, &[one("a", &[1]), one("a", &[1])], &[]).unwrap_err().to_string();
        assert!(error.ends_with("tensor a: a second tensor of this name"), "{error}");
        let spec = TensorSpec { name: "a".into(), shape: vec![2], dtype: Dtype::F32 };
        let error = write_safetensors(&path, &[spec], &[], |_, out| out.write_all(b"123")).unwrap_err();
        assert!(error.to_string().ends_with("3 bytes were written where its shape takes 8"), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn faults_of_a_header_are_named() {
        assert!(fault(b"1234").contains("truncated"));
        assert!(fault(&[0xff; 16]).contains("no safetensors file"));
        assert!(fault(&[9, 0, 0, 0, 0, 0, 0, 0, b'{']).contains("the header has 9 bytes"));
        assert!(fault(&file("[]", b"")).contains("invalid safetensors header"));
        let f32x2 = r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
        let message = fault(&file(&format!("{{\"a\":{f32x2}}}"), &[0; 4]));
        assert!(
            message.contains("tensor a: ends at byte 8") && message.contains("truncated to 4"),
            "{message}"
        );
        assert!(fault(&file(&format!("{{\"a\":{f32x2}}}"), &[0; 9])).contains("1 bytes that no tensor"));
        assert!(fault(&file(&format!("{{\"a\":{f32x2},\"b\":{f32x2}}}"), &[0; 8])).contains("tensor"));
        let empty = r#"{"dtype":"F32","shape":[0],"data_offsets":[0,0]}"#;
        assert!(fault(&file(&format!("{{\"a\":{empty},\"a\":{empty}}}"), b"")).ends_with("occurs twice"));
        let huge = format!(r#"{{"a":{{"dtype":"U8","shape":[{0}],"data_offsets":[0,{0}]}}}}"#, usize::MAX);
        assert!(fault(&file(&huge, b"")).contains("not what shape"));
        let long = huge.replace(&usize::MAX.to_string(), &(1usize << 60).to_string());
        assert!(fault(&file(&long, b"")).contains("truncated to 0"));
        let overflow = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#;
        assert!(fault(&file(overflow, b"")).contains("not what shape"));
        let odd = r#"{"a":{"dtype":"X9","shape":[0],"data_offsets":[0,0]}}"#;
        assert!(fault(&file(odd, b"")).contains("tensor a: "));
        let hole = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
        assert!(fault(&file(hole, b"ab")).contains("occupies bytes 1..2"));
    }
}
