//! The header is that of the source.

use std::path::Path;
use std::{env, fs};

/// Files in the order in which the header has what they define.
const FILES: [&str; 9] =
    ["error", "log", "params", "model", "event", "generation", "request", "scheduler", "handle"];

#[test]
fn the_header_is_that_of_the_source() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    for file in FILES {
        builder = builder.with_src(root.join(format!("src/{file}.rs")));
    }
    let mut made = Vec::new();
    builder.generate().unwrap().write(&mut made);
    let made = String::from_utf8(made).unwrap();

    let header = root.join("include/colar_engine.h");
    if env::var_os("COLAR_RENEW").is_some() {
        fs::write(&header, &made).unwrap();
    }
    let committed = fs::read_to_string(&header).unwrap_or_default();
    assert!(
        committed == made,
        "capi/include/colar_engine.h is not that of capi/src; `COLAR_RENEW=1 cargo test --release -p colar-engine-capi header` \
         writes it:\n{made}"
    );
}

/// A file that is not in the list would be missing from the header without a word.
#[test]
fn every_file_with_a_function_is_in_the_list() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut with_functions: Vec<String> = fs::read_dir(src)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let text = fs::read_to_string(path).unwrap();
            text.contains("no_mangle") || text.contains("#[repr(C)]")
        })
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    with_functions.sort_unstable();
    let mut listed = FILES;
    listed.sort_unstable();
    assert_eq!(with_functions, listed);
}
