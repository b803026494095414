//! Several adapters over one model, chosen by the name that a request states.

use std::process::{Command, Stdio};
use std::sync::OnceLock;

use colar_engine::{Engine, Generation, Method, Prompt, Request, Sampling};
use serde_json::{Value, json};

use super::client::endless;
use super::server::Server;
use crate::common::adapters::Adapters;
use crate::common::golden;

const QUESTION: &str = "Tom has 3 boxes of 24 pens. How many pens has he?";

fn adapters() -> &'static Adapters {
    static ADAPTERS: OnceLock<Adapters> = OnceLock::new();
    ADAPTERS.get_or_init(|| Adapters::over("llama-tiny"))
}

fn server() -> Server {
    let named: Vec<String> =
        adapters().all.iter().map(|(name, dir)| format!("--adapter={name}={}", dir.display())).collect();
    Server::of(&adapters().model, &named.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The fields of a question to a model.
fn fields(name: &str, seed: u64) -> Value {
    json!({"model": name, "seed": seed, "max_tokens": 7})
}

/// The generation of that question by an engine that has the one adapter alone, under the server's defaults.
fn alone(name: &str, seed: u64) -> Generation {
    let checkpoint = (name != "llama-tiny").then(|| adapters().dir(name));
    let engine = Engine::load(&adapters().model, checkpoint).unwrap();
    let method = engine.default_method().unwrap_or(Method::Cot);
    let factor = if method == Method::Colar { "2" } else { "1" };
    let request = engine.request(QUESTION, Some(method.name()), (method == Method::Colar).then_some(factor));
    let request = request.unwrap().sampling(Sampling::default().seed(seed).max_new_tokens(7));
    engine.generate(&request).unwrap()
}

/// Asserts that an answer is the engine's.
fn assert_answer(reply: &Value, want: &Generation) {
    let message = &reply["choices"][0]["message"];
    let words = message.get("reasoning_content").map_or("", |words| words.as_str().unwrap());
    let rest = want.text.strip_prefix(words).unwrap_or_else(|| panic!("{words:?} begins {:?}", want.text));
    // The separator stands between a reasoning in words and the answer, where it came to one.
    let answer = if words.is_empty() { rest } else { rest.strip_prefix("###").unwrap_or(rest) };
    assert_eq!(message["content"], answer);
    let usage = &reply["usage"];
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], want.n_latents);
    assert_eq!(usage["prompt_tokens"], want.prompt_tokens);
}

#[test]
fn models_are_listed() {
    let server = server();
    let client = &server.client;
    let list = client.get("/v1/models").ok();
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    let want: Vec<&str> =
        std::iter::once("llama-tiny").chain(adapters().all.iter().map(|(name, _)| name.as_str())).collect();
    assert_eq!(ids, want);
    assert_eq!(list["data"][0].get("parent"), None);
    assert_eq!(list["data"][1]["parent"], "llama-tiny");
    assert_eq!(client.get("/v1/models/every").ok()["id"], "every");
    let props = client.get("/props").ok();
    assert_eq!((&props["model_alias"], &props["method"]), (&json!("llama-tiny"), &json!("cot")));
    for (told, (name, dir)) in props["adapters"].as_array().unwrap().iter().zip(&adapters().all) {
        assert_eq!((&told["name"], &told["method"]), (&json!(name), &json!(Adapters::method(name).name())));
        assert!(told["model"].as_str().unwrap().contains(dir.to_str().unwrap()), "{told}");
    }
}

#[test]
fn another_model_is_refused_with_the_names_there_are() {
    let server = server();
    let names = "\"llama-tiny\", \"golden\", \"every\", \"head\", \"words\", \"coconut\", \"distill\"";
    for said in [
        server.client.get("/v1/models/gpt-4").fails(404, Some("model")),
        server.client.ask(QUESTION, fields("gpt-4", 1)).fails(404, Some("model")),
        server.client.ask(QUESTION, json!({})).fails(400, Some("model")),
        server
            .client
            .post("/v1/completions", &json!({"prompt": "a", "model": "Golden"}))
            .fails(404, Some("model")),
        server.client.post("/v1/responses", &json!({"input": "a"})).fails(400, Some("model")),
    ] {
        assert!(said.ends_with(names), "{said}");
    }
    // Fields without effect are refused by the method of the model that was asked.
    let reasoned = |name: &str| {
        let mut fields = fields(name, 1);
        fields["max_latents"] = json!(3);
        server.client.ask(QUESTION, fields)
    };
    reasoned("every").ok();
    assert!(reasoned("words").fails(400, Some("max_latents")).contains("method is cot"));
    assert!(reasoned("coconut").fails(400, Some("max_latents")).contains("method is coconut"));
}

/// In the company of all others an answer is that of an engine that has nothing but its adapter.
#[test]
fn an_answer_is_that_of_its_adapter_alone() {
    let server = server();
    let mut company = endless();
    company["model"] = json!("golden");
    let mut running = server.client.stream("And on?", company);
    running.next().unwrap();
    let names: Vec<&str> =
        std::iter::once("llama-tiny").chain(adapters().all.iter().map(|(name, _)| name.as_str())).collect();
    let replies: Vec<(&str, u64, Value)> = std::thread::scope(|scope| {
        let ask = |name, seed| {
            let client = &server.client;
            scope.spawn(move || (name, seed, client.ask(QUESTION, fields(name, seed)).ok()))
        };
        let asked: Vec<_> = (0..2).flat_map(|seed| names.iter().map(move |name| (*name, seed))).collect();
        let asked: Vec<_> = asked.into_iter().map(|(name, seed)| ask(name, seed)).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    drop(running);
    for (name, seed, reply) in replies {
        assert_eq!(reply["model"], name);
        assert_answer(&reply, &alone(name, seed));
    }
    // Texts that are continued, and the newer interface.
    let plain = json!({"model": "every", "prompt": "Tom has", "max_tokens": 6, "seed": 2});
    let plain = server.client.post("/v1/completions", &plain).ok();
    let engine = Engine::load(&adapters().model, Some(adapters().dir("every"))).unwrap();
    let sampling = Sampling::default().seed(2).max_new_tokens(6);
    let want =
        engine.generate(&Request::new(Prompt::Plain("Tom has".to_owned())).sampling(sampling)).unwrap();
    assert_eq!((&plain["model"], &plain["choices"][0]["text"]), (&json!("every"), &json!(want.text)));
    let asked = json!({"model": "head", "input": QUESTION, "seed": 1, "max_output_tokens": 7});
    let response = server.client.post("/v1/responses", &asked).ok();
    assert_eq!(response["model"], "head");
    assert_eq!(response["output"][0]["content"][0]["text"], alone("head", 1).text);
}

/// Runs `serve` of adapters that do not go together; its exit code and what it says.
fn fails(adapters: &[String], more: &[&str]) -> (i32, String) {
    let model = golden("llama-tiny");
    let mut command = Command::new(env!("CARGO_BIN_EXE_colar-engine"));
    command.args(["serve", "--model", model.to_str().unwrap(), "--port", "0", "--device", "cpu"]).args(more);
    adapters.iter().for_each(|adapter| {
        command.args(["--adapter", adapter]);
    });
    let ended = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    (ended.status.code().unwrap(), said.lines().last().unwrap_or_default().to_owned())
}

#[test]
fn adapters_that_do_not_go_together_are_refused_at_the_start() {
    let dir = |model: &str| golden(model).join("adapter").display().to_string();
    let named = |name: &str, model: &str| format!("{name}={}", dir(model));
    for (adapters, more, code, words) in [
        (
            vec![named("a", "llama-tiny"), named("a", "llama-tiny")],
            &[][..],
            2,
            "--adapter: two have the name \"a\"",
        ),
        (vec![named("a", "llama-tiny"), dir("llama-tiny")], &[], 2, "of several each has a name: NAME="),
        (vec![named("", "llama-tiny")], &[], 2, "--adapter: \"\" is no name"),
        (vec![named("llama-tiny", "llama-tiny")], &[], 2, "\"llama-tiny\" is the name of the model itself"),
        (vec![named("a", "llama-tiny")], &["--alias", "a"], 2, "\"a\" is the name of the model itself"),
        (vec![named("a", "llama-tiny")], &["--lora", "merge"], 2, "--lora merge: adapters"),
        (
            vec![named("a", "llama-tiny"), named("b", "qwen2-tiny")],
            &[],
            1,
            "qwen2-tiny/adapter/adapter_model.safetensors",
        ),
        (vec!["a=/nowhere".to_owned()], &[], 1, "/nowhere: no such directory"),
        (vec![format!("a={}", golden("qwen3-tiny").display())], &[], 2, "the weights of a whole model"),
    ] {
        let (got, said) = fails(&adapters, more);
        assert!(got == code && said.contains(words), "{adapters:?}: {got}: {said}");
    }
}

/// One that has a name is an adapter like several; a path in which there is the sign is a path.
#[test]
fn one_may_have_a_name() {
    let adapter = golden("llama-tiny").join("adapter");
    let server = Server::of(&golden("llama-tiny"), &["--adapter", &format!("pens={}", adapter.display())]);
    assert_eq!(server.client.get("/v1/models").ok()["data"][1]["id"], "pens");
    assert_answer(&server.client.ask(QUESTION, fields("pens", 1)).ok(), &alone("golden", 1));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lr=1e-4");
    std::os::unix::fs::symlink(&adapter, &path).unwrap();
    let server = Server::of(&golden("llama-tiny"), &["--adapter", path.to_str().unwrap()]);
    let list = server.client.get("/v1/models").ok();
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
    assert_answer(
        &server.client.ask(QUESTION, json!({"seed": 1, "max_tokens": 7})).ok(),
        &alone("golden", 1),
    );
}
