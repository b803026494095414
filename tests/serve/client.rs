//! A client of the server.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::Response;

/// A response whose body was read.
pub struct Reply {
    pub status: u16,
    pub body: String,
    pub retry_after: Option<u64>,
}

impl Reply {
    fn of(mut response: Response<ureq::Body>) -> Self {
        let retry_after = response.headers().get("retry-after").map(|v| v.to_str().unwrap().parse().unwrap());
        let body = response.body_mut().read_to_string().unwrap();
        Reply { status: response.status().as_u16(), body, retry_after }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    /// The body of a request that succeeded.
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.json()
    }

    /// Checks an error in OpenAI's form; gives its message.
    pub fn fails(&self, status: u16, param: Option<&str>) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        let error = &self.json()["error"];
        assert_eq!(error["param"], json!(param), "{}", self.body);
        assert!(error["type"].is_string(), "{}", self.body);
        error["message"].as_str().unwrap().to_owned()
    }
}

/// A client of the server at an address.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    base: String,
    key: Option<&'static str>,
}

impl Client {
    pub fn new(base: String) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(120)));
        Client { agent: config.build().into(), base, key: None }
    }

    pub fn with_key(&self, key: &'static str) -> Self {
        Client { key: Some(key), ..self.clone() }
    }

    pub fn get(&self, path: &str) -> Reply {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(key) = self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        Reply::of(request.call().unwrap())
    }

    fn send(&self, path: &str, kind: &str, body: &str) -> Response<ureq::Body> {
        let mut request = self.agent.post(format!("{}{path}", self.base)).header("content-type", kind);
        if let Some(key) = self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        request.send(body).unwrap()
    }

    pub fn post_as(&self, path: &str, kind: &str, body: &str) -> Reply {
        Reply::of(self.send(path, kind, body))
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_as(path, "application/json", &body.to_string())
    }

    /// Asks a question, with further fields.
    pub fn ask(&self, question: &str, fields: Value) -> Reply {
        self.post("/v1/chat/completions", &asked(question, fields))
    }

    /// The events of a question, as they come.
    pub fn stream(&self, question: &str, mut fields: Value) -> Events {
        fields["stream"] = json!(true);
        self.events("/v1/chat/completions", &asked(question, fields))
    }

    /// The events of a request, as they come.
    pub fn events(&self, path: &str, body: &Value) -> Events {
        let response = self.send(path, "application/json", &body.to_string());
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events { lines: BufReader::new(Box::new(response.into_body().into_reader())) }
    }

    /// A number of `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        match line {
            Some(line) => line.rsplit(' ').next().unwrap().parse().unwrap(),
            // A label that has not been met yet.
            None if name.contains('{') => 0.0,
            None => panic!("no {name} in {text}"),
        }
    }
}

/// The body of a question with further fields.
pub fn asked(question: &str, mut fields: Value) -> Value {
    fields["messages"] = json!([{"role": "user", "content": question}]);
    fields
}

/// The fields of a question whose latents take seconds: its likeliest token is never the separator.
pub fn endless() -> Value {
    json!({"eol_temperature": 0, "max_latents": 7000, "max_tokens": 8, "seed": 1})
}

/// Events of a response: the next waits for it. Dropped, it closes the connection.
pub struct Events {
    lines: BufReader<Box<dyn std::io::Read + Send>>,
}

impl Iterator for Events {
    type Item = String;

    /// The data of the next event.
    fn next(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            if let Some(data) = line.strip_prefix("data:") {
                return Some(data.trim().to_owned());
            }
            line.clear();
        }
        None
    }
}

impl Events {
    /// The rest as JSON, and whether it ended as OpenAI's streams do.
    pub fn rest(self) -> (Vec<Value>, bool) {
        let mut all: Vec<String> = self.collect();
        let done = all.last().is_some_and(|last| last == "[DONE]");
        if done {
            all.pop();
        }
        (all.iter().map(|data| serde_json::from_str(data).unwrap()).collect(), done)
    }
}
