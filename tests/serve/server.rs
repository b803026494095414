//! The server as a process.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::client::Client;
use crate::common::golden;

/// The longest that a server may take for anything.
pub const LONG: Duration = Duration::from_secs(60);

/// A server, which is killed when it is dropped.
pub struct Server {
    child: Child,
    stderr: BufReader<ChildStderr>,
    pub address: String,
    pub client: Client,
}

impl Server {
    /// Starts a server of a golden model with its latent head, and waits until it answers.
    pub fn start(flags: &[&str]) -> Self {
        let model = golden("llama-tiny");
        let adapter = model.join("adapter");
        Self::of(&model, &[&["--adapter", adapter.to_str().unwrap()], flags].concat())
    }

    /// The same of a model directory.
    pub fn of(model: &Path, flags: &[&str]) -> Self {
        let server = Self::begin(model, flags);
        let begun = Instant::now();
        while server.client.get("/health").status != 200 {
            assert!(begun.elapsed() < LONG, "it does not load");
            sleep(Duration::from_millis(5));
        }
        server
    }

    /// The same, not yet loaded.
    pub fn begin(model: &Path, flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_colar-engine"));
        command.args([
            "serve",
            "--model",
            model.to_str().unwrap(),
            "--port",
            "0",
            "--device",
            "cpu",
            "--threads",
            "1",
        ]);
        command
            .args(flags)
            .arg("--allow-long")
            .env_remove("COLAR_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let address =
            line.trim_end().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Server { child, stderr, client: Client::new(address.clone()), address }
    }

    pub fn id(&self) -> i32 {
        self.child.id() as i32
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap(), said)
    }

    /// Waits until a number of `/metrics` is `want`.
    pub fn until(&self, name: &str, want: f64) {
        let begun = Instant::now();
        loop {
            let is = self.client.metric(name);
            if is == want {
                return;
            }
            assert!(begun.elapsed() < LONG, "{name} stays at {is}");
            sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
