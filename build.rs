//! Compiles the kernels of `cuda/`, twice.
//!
//! * By the C++ compiler for the device `cuda-host`, together with the shim that stands in for CUDA. Sets
//!   `cfg(cuda_host)`.
//! * By nvcc for the GPU, where there is an nvcc: one fatbin a file, of machine code for sm_80 (which runs on
//!   all of 8.x) and sm_90a, and PTX that the driver compiles for later ones. Sets `cfg(cuda_kernels)`.
//!
//! Either may be missing: the crate builds without, and the device concerned says at run time what to install. The
//! features `cuda-host` and `cuda` say whether they are looked for at all.
//!
//! Nothing is written outside of OUT_DIR, and cargo is told to watch only what is there: it would run this again at
//! every call for a path that is missing, or that a build writes to.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The targets that nvcc compiles the kernels for.
const TARGETS: [&str; 3] =
    ["arch=compute_80,code=sm_80", "arch=compute_90a,code=sm_90a", "arch=compute_90,code=compute_90"];

/// nvcc's other flags. A fatbin takes a quarter of the room when compressed for size, and every binary embeds them all.
/// What the assembler says of registers and spills stands beside it, for scripts/kernel-report.
const FLAGS: [&str; 6] = ["-std=c++17", "-O3", "--compress-mode=size", "-Xptxas", "-v", "-fatbin"];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(cuda_host)");
    println!("cargo::rustc-check-cfg=cfg(cuda_kernels)");
    // The last is what `scripts/fetch-nvcc` touches when it has brought a compiler.
    for path in ["build.rs", "cuda", "scripts/nvcc-requirements.txt"] {
        watch(Path::new(path));
    }
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    #[cfg(feature = "cuda-host")]
    if env::var_os("CARGO_CFG_UNIX").is_some() {
        compile_for_host();
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        compile_for_gpu();
    }
}

/// Has cargo run this again when what is at `path` changes.
fn watch(path: &Path) {
    if path.exists() {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}

/// The files of a directory with one of these extensions, in order.
fn files(dir: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let wanted = |path: &PathBuf| path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x));
    let mut paths: Vec<PathBuf> = entries.filter(wanted).collect();
    paths.sort();
    paths
}

#[cfg(feature = "cuda-host")]
fn compile_for_host() {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(2).warnings(false).cargo_warnings(false);
    // Products that nvcc's __fmul_rn keeps apart must stay apart here, whatever the target can fuse.
    build.flag("-ffp-contract=off").flag("-x").flag("c++");
    build.include("cuda");
    build.files(files("cuda", &["cu"])).files(files("cuda/host", &["cu", "cpp"]));
    match build.try_compile("colar_cuda_host") {
        Ok(()) => println!("cargo::rustc-cfg=cuda_host"),
        Err(e) => {
            println!("cargo::warning=building without --device cuda-host: no C++ compiler: {}", one_line(&e))
        }
    }
}

fn one_line(text: &impl ToString) -> String {
    text.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn compile_for_gpu() {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let Some(nvcc) = find_nvcc(&out) else {
        println!("cargo::warning=building without --device cuda: no nvcc (scripts/fetch-nvcc gets one)");
        return;
    };
    watch(&nvcc);
    let sources = files("cuda", &["cu"]);
    let headers: Vec<Vec<u8>> = files("cuda", &["cuh"]).iter().filter_map(|p| fs::read(p).ok()).collect();
    let compile = |source: &PathBuf| compile_fatbin(&nvcc, source, &headers, &out);
    let results: Vec<Result<PathBuf, String>> = std::thread::scope(|scope| {
        let jobs: Vec<_> = sources.iter().map(|source| scope.spawn(move || compile(source))).collect();
        jobs.into_iter().map(|job| job.join().unwrap_or_else(|_| Err("a thread failed".into()))).collect()
    });
    let mut list = String::from("&[\n");
    for (source, result) in sources.iter().zip(results) {
        match result {
            Ok(fatbin) => {
                let stem = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let _ = writeln!(list, "    ({stem:?}, include_bytes!({:?})),", fatbin.display().to_string());
            }
            Err(e) => {
                println!("cargo::warning=building without --device cuda: {}: {e}", source.display());
                return;
            }
        }
    }
    list.push_str("]\n");
    if fs::write(out.join("fatbins.rs"), list).is_ok() {
        println!("cargo::rustc-cfg=cuda_kernels");
        let codes = TARGETS.map(|target| target.rsplit('=').next().unwrap_or(target));
        println!("cargo::rustc-env=COLAR_GPU_TARGETS={}", codes.join(" "));
    }
}

/// NVCC, CUDA_HOME, PATH, the usual place, and where `scripts/fetch-nvcc` puts it.
fn find_nvcc(out: &Path) -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = env::var_os("NVCC").map(PathBuf::from).into_iter().collect();
    for home in ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os) {
        places.push(Path::new(&home).join("bin/nvcc"));
    }
    places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()).map(|dir| dir.join("nvcc")));
    places.push("/usr/local/cuda/bin/nvcc".into());
    // OUT_DIR is TARGET_DIR/PROFILE/build/PACKAGE/out, with the target's triple after TARGET_DIR if one was given.
    let triple = env::var_os("TARGET").unwrap_or_default();
    if let Some(dir) = out.ancestors().skip(4).find(|dir| dir.file_name().is_some_and(|name| name != triple))
    {
        places.push(dir.join("nvcc/nvidia/cu13/bin/nvcc"));
    }
    places.into_iter().find(|path| path.is_file())
}

/// Compiles one file, unless neither it nor a header, the compiler or its flags changed since the last time.
fn compile_fatbin(nvcc: &Path, source: &Path, headers: &[Vec<u8>], out: &Path) -> Result<PathBuf, String> {
    let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let (fatbin, stamp) = (out.join(format!("{name}.fatbin")), out.join(format!("{name}.stamp")));
    let text = fs::read(source).map_err(|e| e.to_string())?;
    let modified = fs::metadata(nvcc).and_then(|m| m.modified()).ok();
    let mut hasher = DefaultHasher::new();
    (nvcc, modified, &text, headers, TARGETS, FLAGS).hash(&mut hasher);
    let key = format!("{:016x}", hasher.finish());
    if fatbin.exists() && fs::read_to_string(&stamp).is_ok_and(|old| old == key) {
        return Ok(fatbin);
    }
    let mut command = Command::new(nvcc);
    command.args(FLAGS).arg("-o").arg(&fatbin);
    command.args(TARGETS.iter().map(|target| format!("-gencode={target}")));
    let output = command.arg(source).output().map_err(|e| format!("{}: {e}", nvcc.display()))?;
    if !output.status.success() {
        return Err(one_line(&String::from_utf8_lossy(&output.stderr)));
    }
    fs::write(out.join(format!("{name}.ptxas")), &output.stderr).map_err(|e| e.to_string())?;
    fs::write(&stamp, key).map_err(|e| e.to_string())?;
    Ok(fatbin)
}
