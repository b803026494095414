//! The examples do what they say, whatever they are linked with.

use std::process::Command;

use crate::toolchain::{Program, has, libraries, model, root, run, shared_library};

const QUESTION: &str = "Tom has 3 boxes of 24 pens. How many pens has he?";

/// The lines of `generate.c`, but for times.
fn shown(out: &str) -> Vec<String> {
    out.lines().map(|line| line.split(" in ").next().unwrap().to_owned()).collect()
}

#[test]
fn generate_shows_what_the_engine_gives() {
    let program = Program::new(&root().join("examples/c/generate.c"), &[]);
    let [model, checkpoint] = model();
    let (out, err) = run(&mut program.command(&[&model, &checkpoint, QUESTION]), 0);

    let engine = engine::Engine::load(&model, Some(&checkpoint)).unwrap();
    let sampling = engine::Sampling::default().temperature(0.0).seed(7);
    let request = engine::Request::question(QUESTION, "2").sampling(sampling).trace(true);
    let made = engine.generate(&request).unwrap();

    assert!(err.contains("loading: 100 %") && err.contains(&engine.loaded()), "{err}");
    let begin = format!("{}{}\n{} latents in ", ".".repeat(made.n_latents), made.text, made.n_latents);
    assert!(out.starts_with(&begin), "{out:?}, not {begin:?}");
    let nearest = &made.trace[0][0];
    assert!(out.contains(&format!("\nlatent 1:  {} {:.2}  ", nearest.text, nearest.cosine)), "{out}");
    assert_eq!(out.matches("\nlatent ").count(), made.n_latents);
}

#[test]
fn generate_says_what_is_wrong() {
    let program = Program::new(&root().join("examples/c/generate.c"), &[]);
    let (_, err) = run(&mut program.command(&["no-such-model", "none", QUESTION]), 1);
    assert!(err.ends_with("error: no-such-model: no such directory\n"), "{err}");
    run(&mut program.command(&[]), 2);
}

#[test]
fn threads_agree_and_one_is_cancelled() {
    let program = Program::new(&root().join("examples/c/threads.c"), &[]);
    let [model, checkpoint] = model();
    run(&mut program.command(&[&model, &checkpoint]), 0);
}

#[test]
fn the_static_library_has_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("program");
    let mut cc = Command::new("cc");
    cc.arg("-I").arg(root().join("capi/include")).arg(root().join("examples/c/generate.c"));
    cc.arg(libraries().join("libcolar_engine.a")).arg("-o").arg(&program);
    cc.args(["-lpthread", "-ldl", "-lm"]);
    run(&mut cc, 0);
    let [model, checkpoint] = model();
    let args = [model.as_str(), &checkpoint, QUESTION];
    let (out, _) = run(Command::new(&program).args(args), 0);
    let shared = Program::new(&root().join("examples/c/generate.c"), &[]);
    assert_eq!(shown(&out), shown(&run(&mut shared.command(&args), 0).0));
}

#[test]
fn the_header_is_one_of_cpp_too() {
    if !has("c++") {
        return;
    }
    let mut cpp = Command::new("c++");
    cpp.args(["-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-pedantic", "-x", "c++"]);
    run(cpp.arg(root().join("capi/include/colar_engine.h")), 0);
}

#[test]
fn python_calls_it_by_ctypes() {
    if !has("python3") {
        return;
    }
    let [model, checkpoint] = model();
    let mut python = Command::new("python3");
    python.env("PYTHONIOENCODING", "utf-8").arg(root().join("examples/python_ctypes.py"));
    let (out, _) = run(python.arg(shared_library()).args([&model, &checkpoint, QUESTION]), 0);
    let engine = engine::Engine::load(&model, Some(&checkpoint)).unwrap();
    let made = engine.generate(&engine.request(QUESTION, None, None).unwrap()).unwrap();
    assert_eq!(out, format!("{}{}\n", "·".repeat(made.n_latents), made.text));
}
