//! Files that stand in the place of others: what a clone without Git LFS, a download of a page's address or one that was cut
//! off leave behind, and forms in which the same things are published elsewhere. A parser would call them malformed; what
//! happened, and what to do, is another sentence.

/// Letters from the beginning that are looked at.
const HEAD: usize = 512;

/// The kind of file that stands in for the one wanted, by its first bytes or all of them; `None` if it may be the real one.
pub fn recognise(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return Some("is empty: was its download cut off?");
    }
    if bytes.starts_with(b"PAR1") {
        return Some(
            "is a Parquet file: convert it to JSON lines, for instance with pandas' read_parquet and to_json",
        );
    }
    if bytes.starts_with(b"\x1f\x8b") {
        return Some("is compressed with gzip: decompress it");
    }
    if bytes.starts_with(b"PK\x03\x04") {
        return Some("is a zip archive, as PyTorch's own format is: unpack or convert it");
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let head = bytes[..bytes.len().min(HEAD)].to_ascii_lowercase();
    let begins = |with: &[u8]| head.starts_with(with);
    if begins(b"version https://git-lfs.github.com/spec/") {
        Some("is a Git LFS pointer and not the file itself: run `git lfs pull`")
    } else if begins(b"<!doctype html") || begins(b"<html") || begins(b"<head") {
        Some(
            "is a web page and not the file itself: it was downloaded from the address of a page, or is one that tells an error",
        )
    } else if begins(b"<?xml") {
        Some(
            "is an XML document and not the file itself: it may tell an error of the server that it was downloaded from",
        )
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_is_told_from_what_is_meant() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 269060552\n";
        assert!(recognise(pointer).unwrap().contains("git lfs pull"));
        for page in ["\n <!DOCTYPE html><html>", "<html lang=en>", "\u{feff}<HTML>"] {
            assert!(recognise(page.as_bytes()).unwrap().contains("web page"), "{page}");
        }
        assert!(recognise(b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>").unwrap().contains("XML"));
        assert!(recognise(b"").unwrap().contains("empty"));
        for (start, what) in
            [(&b"PAR1\x15\x04"[..], "Parquet"), (b"\x1f\x8b\x08", "gzip"), (b"PK\x03\x04\0", "zip")]
        {
            assert!(recognise(start).unwrap().contains(what), "{what}");
        }
        for file in [
            &b"{}"[..],
            b"[]",
            b"q||<<1+1=2>> #### 2",
            b"\x40\0\0\0\0\0\0\0{\"a\"",
            b"\xef\xbb\xbf{}",
            b"<",
            b" ",
        ] {
            assert_eq!(recognise(file), None);
        }
    }
}
