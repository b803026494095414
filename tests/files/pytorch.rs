//! PyTorch's files: what is read of them, that nothing in them is run, and that no file of a few kilobytes takes memory
//! of gigabytes.

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use colar_engine::files::pytorch::PytorchFile;
use proptest::prelude::*;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::common::golden;
use crate::hostile::{check_message, panicked};

/// An archive with this pickle and these storages.
fn archive(pickle: &[u8], storages: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut out = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    let entries = [("archive/data.pkl", pickle), ("archive/byteorder", b"little"), ("archive/version", b"3")];
    let storages = storages.iter().map(|&(name, bytes)| (format!("archive/data/{name}"), bytes));
    for (name, bytes) in entries.map(|(name, bytes)| (name.to_owned(), bytes)).into_iter().chain(storages) {
        out.start_file(name, options).unwrap();
        out.write_all(bytes).unwrap();
    }
    out.finish().unwrap().into_inner()
}

fn stored(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    archive(pickle, storages, CompressionMethod::Stored)
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn int(n: i64) -> Vec<u8> {
    [&b"\x8a\x08"[..], &n.to_le_bytes()].concat()
}

fn ints(list: &[i64]) -> Vec<u8> {
    [b"(".to_vec(), list.iter().flat_map(|&n| int(n)).collect(), b"t".to_vec()].concat()
}

/// The instructions that build a float32 tensor over storage `0`, which has `len` elements by its own account.
fn tensor(shape: &[i64], stride: &[i64], offset: i64, len: i64) -> Vec<u8> {
    let storage = [
        b"(".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        int(len),
    ];
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec(),
        storage.concat(),
        b"tQ".to_vec(),
        int(offset),
        ints(shape),
        ints(stride),
        b"\x89ccollections\nOrderedDict\n)RtR".to_vec(),
    ]
    .concat()
}

/// A pickle of {"state_dict": {NAME: VALUE …}}.
fn state_dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let inner: Vec<u8> =
        entries.iter().flat_map(|(name, value)| [text(name), value.clone()].concat()).collect();
    [b"\x80\x02}(".to_vec(), text("state_dict"), b"}(".to_vec(), inner, b"uu.".to_vec()].concat()
}

const FOUR: [u8; 16] = [0, 0, 128, 63, 0, 0, 0, 64, 0, 0, 64, 64, 0, 0, 128, 64];

/// The message that a file of these bytes is refused with.
fn refused(dir: &Path, bytes: &[u8]) -> String {
    let path = dir.join("x.ckpt");
    fs::write(&path, bytes).unwrap();
    let (opened, panics) = panicked(|| PytorchFile::open(&path, Some("state_dict")));
    assert!(!panics);
    let error = opened.expect_err("refused");
    check_message(&error, &path).unwrap();
    error.to_string()
}

#[test]
fn tensors_are_read_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ckpt");
    let entries = [("a", tensor(&[2, 2], &[2, 1], 0, 4)), ("t", tensor(&[2], &[2], 1, 4))];
    fs::write(&path, stored(&state_dict(&entries), &[("0", &FOUR)])).unwrap();
    let file = PytorchFile::open(&path, Some("state_dict")).unwrap();
    assert_eq!(file.shape("a"), Some(&[2, 2][..]));
    assert_eq!(file.read("a").unwrap().to_f32_vec(), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(file.read("t").unwrap().to_f32_vec(), [2.0, 4.0], "a view with strides");
    let error = file.read("b").unwrap_err().to_string();
    assert!(error.ends_with("x.ckpt, tensor b: is missing"), "{error}");
    let error = PytorchFile::open(&path, Some("model")).unwrap_err();
    check_message(&error, &path).unwrap();
}

#[test]
fn nothing_in_a_pickle_is_run() {
    let dir = tempfile::tempdir().unwrap();
    let proof = dir.path().join("proof");
    let touch = text(&format!("touch {}", proof.display()));
    for call in ["cos\nsystem\n", "cposix\nsystem\n", "c__builtin__\nexec\n", "csubprocess\ngetoutput\n"] {
        let evil = [call.as_bytes(), b"(", &touch, b"tR"].concat();
        // In the place of the dictionary, of a tensor, and of a tensor's argument.
        let whole = [b"\x80\x02".as_slice(), &evil, b"."].concat();
        refused(dir.path(), &stored(&whole, &[("0", &FOUR)]));
        let path = dir.path().join("beside.ckpt");
        let entries = [("a", tensor(&[4], &[1], 0, 4)), ("evil", evil.clone())];
        fs::write(&path, stored(&state_dict(&entries), &[("0", &FOUR)])).unwrap();
        // An object that is no tensor counts as no weight; a caller that needs one there is told that it is missing.
        if let Ok(file) = PytorchFile::open(&path, Some("state_dict")) {
            assert!(file.shape("evil").is_none() && file.read("evil").is_err());
        }
        let around = [b"ctorch._utils\n_rebuild_tensor_v2\n(".as_slice(), &evil, b"tR"].concat();
        refused(dir.path(), &stored(&state_dict(&[("a", around)]), &[("0", &FOUR)]));
    }
    assert!(!proof.exists());
}

#[test]
fn what_would_unpack_to_more_than_the_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let says = |bytes: &[u8], what: &str| {
        let message = refused(dir.path(), bytes);
        assert!(message.contains(what), "{what}: {message}");
    };
    let good = state_dict(&[("a", tensor(&[4], &[1], 0, 4))]);
    let zeros = vec![0u8; 64 << 20];
    let bomb = archive(&good, &[("0", &zeros)], CompressionMethod::Deflated);
    assert!(bomb.len() < 1 << 20);
    says(&bomb, "is compressed");
    says(&archive(&zeros, &[], CompressionMethod::Deflated), "is compressed");
    says(&stored(&vec![b'N'; (2 << 20) + 1], &[]), "its pickle has 2097153 bytes");
    let more = "its tensors have more elements than the file has room for";
    // A stride of 0 makes any shape of one element.
    says(&stored(&state_dict(&[("a", tensor(&[1 << 20, 1 << 8], &[0, 0], 0, 4))]), &[("0", &FOUR)]), more);
    let many: Vec<_> = (0..64).map(|i| (format!("t{i}"), tensor(&[1 << 10], &[0], 0, 4))).collect();
    let many: Vec<_> = many.iter().map(|(name, t)| (name.as_str(), t.clone())).collect();
    let size = stored(&state_dict(&many), &[("0", &FOUR)]).len();
    assert!(4 << 10 < size && 8 * size < 64 * (4 << 10), "each fits, and all together do not");
    says(&stored(&state_dict(&many), &[("0", &FOUR)]), more);
    for (shape, stride, offset, len) in [
        (&[i64::MAX, i64::MAX][..], &[0, 0][..], 0, 4),
        (&[5], &[1], 0, 4),
        (&[2], &[1 << 40], 0, 4),
        (&[4], &[1], 1, 4),
        (&[4], &[1], i64::MAX, 4),
        (&[-1], &[1], 0, 4),
        (&[4], &[-1], 0, 4),
        (&[2, 2], &[1], 0, 4),
    ] {
        says(&stored(&state_dict(&[("a", tensor(shape, stride, offset, len))]), &[("0", &FOUR)]), "x.ckpt");
    }
    // A storage that claims to be longer than it is, or is not there.
    for (len, storages) in [(1 << 10, &[("0", &FOUR[..])][..]), (4, &[])] {
        let path = dir.path().join("short.ckpt");
        fs::write(&path, stored(&state_dict(&[("a", tensor(&[8], &[1], 0, len.max(8)))]), storages)).unwrap();
        if let Ok(file) = PytorchFile::open(&path, Some("state_dict")) {
            check_message(&file.read("a").unwrap_err(), &path).unwrap();
        }
    }
}

#[test]
fn a_pickle_that_multiplies_itself_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    // Each list holds the one before it twice: 2^60 elements if they were copies.
    let mut doubling = b"\x80\x02]q\x00".to_vec();
    for i in 0..60u8 {
        doubling.extend([b']', b'q', i + 1, b'(', b'h', i, b'h', i, b'e']);
    }
    doubling.push(b'.');
    refused(dir.path(), &stored(&doubling, &[]));
    // As deep as the file is long.
    let deep = [b"\x80\x02".to_vec(), vec![b']'; 1 << 19], vec![b'a'; (1 << 19) - 1], b".".to_vec()].concat();
    refused(dir.path(), &stored(&deep, &[]));
    for junk in [&b"."[..], b"", b"\x80\x02", b"\x80\x02(", b"\x80\x02X\xff\xff\xff\xff.", b"\x80\xff."] {
        refused(dir.path(), &stored(junk, &[]));
    }
}

#[test]
fn other_files_are_named_as_such() {
    let dir = tempfile::tempdir().unwrap();
    for (bytes, what) in [
        (&b""[..], "is empty"),
        (b"PK", "is no checkpoint of PyTorch 1.6 or later"),
        (b"\x80\x02}.", "is no checkpoint of PyTorch 1.6 or later"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
    ] {
        let message = refused(dir.path(), bytes);
        assert!(message.contains(what), "{message}");
    }
    let error = PytorchFile::open(dir.path(), Some("state_dict")).unwrap_err().to_string();
    assert!(error.ends_with("is not a regular file"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damage_is_one_line(cut in any::<u16>(), at in any::<u16>(), byte in any::<u8>(), truncate in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.ckpt");
        let mut bytes = fs::read(golden("lightning").join("cot/checkpoints/last.ckpt")).unwrap();
        let place = |x: u16| (usize::from(x) * bytes.len()) >> 16;
        let (cut, at) = (place(cut), place(at));
        if truncate {
            bytes.truncate(cut);
        } else {
            bytes[at] = byte;
        }
        fs::write(&path, &bytes).unwrap();
        let (result, panics) = panicked(|| {
            let file = PytorchFile::open(&path, Some("state_dict"))?;
            let names: Vec<String> = file.names().map(str::to_owned).collect();
            names.iter().try_for_each(|name| file.read(name).map(drop))
        });
        prop_assert!(!panics);
        if let Err(error) = result {
            check_message(&error, &path)?;
        }
    }
}
