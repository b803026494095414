//! `serve`: answers questions over HTTP.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::common::{LoadArgs, place};
use super::{signals, terminal};
use crate::serve::{ServeOptions, Server, TlsFiles, api_keys};
use crate::{Error, Result};

/// Answer questions over HTTP, by OpenAI's interface
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  colar-engine serve --run runs/colar
  colar-engine serve --model Llama-3.2-1B --adapter runs/gsm/best --alias gsm --max-concurrency 8
  colar-engine serve --model Llama-3.2-1B --adapter gsm=runs/gsm/best --adapter math=runs/math/best
  colar-engine serve --model SmolLM2-135M --host 0.0.0.0 --api-key-file keys.txt --tls-cert cert.pem --tls-key key.pem")]
pub struct ServeArgs {
    /// Model directory: config.json, weights, tokenizer.json [default: that of the newest run in runs/]
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    model: Option<PathBuf>,
    /// Checkpoint over it, as `train` writes them, or a .ckpt of the authors' code. With names there may be several, which
    /// share the model's weights: a request has that of its `model`, or the model without any by its own name
    #[arg(long, value_name = "[NAME=]DIR|FILE", requires = "model", help_heading = "Model")]
    adapter: Vec<String>,
    /// A run of `train`: its model, and its best checkpoint
    #[arg(long, value_name = "DIR", conflicts_with_all = ["model", "adapter"], help_heading = "Model")]
    run: Option<PathBuf>,
    #[command(flatten)]
    load: LoadArgs,
    /// Address or name to listen on
    #[arg(long, value_name = "HOST", default_value_t = ServeOptions::default().host)]
    host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = ServeOptions::default().port)]
    port: u16,
    /// The model's name in /v1/models [default: that of its directory]
    #[arg(long, value_name = "NAME")]
    alias: Option<String>,
    /// File with the keys that let requests in, a line each; without it all are let in
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Certificate in PEM, for HTTPS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Most answers that are computed at the same time
    #[arg(long, value_name = "N", default_value_t = ServeOptions::default().max_concurrency)]
    max_concurrency: usize,
    /// Most answers that wait; beyond it requests are refused (429)
    #[arg(long, value_name = "N", default_value_t = ServeOptions::default().max_queued_requests)]
    max_queued_requests: usize,
    /// Most tokens of prompts that wait; beyond it requests are refused (429)
    #[arg(long, value_name = "N", default_value_t = ServeOptions::default().max_queued_tokens)]
    max_queued_tokens: usize,
    /// Positions of the cache; a request takes as many as it can need
    #[arg(long, value_name = "N", default_value_t = ServeOptions::default().cache_positions)]
    cache_positions: usize,
    /// Seconds after which a request ends with an error, waiting included [default: none]
    #[arg(long, value_name = "S")]
    request_timeout: Option<f64>,
    /// Seconds that requests have to end when the server is asked to stop
    #[arg(long, value_name = "S", default_value_t = ServeOptions::default().grace_period.as_secs_f64())]
    grace_period: f64,
}

/// Runs `serve` until a signal stops it.
///
/// # Errors
/// Bad key or certificate files, an address that cannot be listened on, and errors of reading the model.
pub fn run(args: ServeArgs) -> Result<()> {
    let (adapter, adapters) = adapters(&args.adapter)?;
    let keys = args.api_key_file.as_deref().map(api_keys).transpose()?.unwrap_or_default();
    let tls = args.tls_cert.clone().zip(args.tls_key.clone());
    let options = ServeOptions::default()
        .host(args.host.clone())
        .port(args.port)
        .model_name(name(&args))
        .tls(tls.map(|(certificate, key)| TlsFiles { certificate, key }))
        .max_concurrency(args.max_concurrency)
        .max_queued_requests(args.max_queued_requests)
        .max_queued_tokens(args.max_queued_tokens)
        .cache_positions(args.cache_positions)
        .request_timeout(args.request_timeout.map(Duration::from_secs_f64))
        .grace_period(Duration::from_secs_f64(args.grace_period));
    let (open, scheme) = (keys.is_empty(), if options.tls.is_some() { "https" } else { "http" });
    let server = Server::bind(options.api_keys(keys))?;
    let stopper = server.stopper();
    signals::watch("stopping when all requests have ended; once more stops at once", move || stopper.stop())?;
    let address = server.address();
    terminal::note(format!("listening on {scheme}://{address}"));
    if open && !is_loopback(address.ip()) {
        tracing::warn!("everybody who reaches {address} is let in: --api-key-file asks for a key");
    }
    server.run(move || {
        let (model, checkpoint) = place(args.model.as_deref(), args.run.as_deref())?;
        args.load.open(model, adapter.or(checkpoint), adapters)
    })
}

/// The only checkpoint of a command line, or those that have names.
type Adapters = (Option<PathBuf>, Vec<(String, PathBuf)>);

/// Parts the values of `--adapter` into names and paths. A value that is a path is no name and a path, whatever it holds.
fn adapters(given: &[String]) -> Result<Adapters> {
    let named = |value: &str| {
        let (name, path) = value.split_once('=').filter(|_| !Path::new(value).exists())?;
        (!name.contains('/')).then(|| (name.to_owned(), PathBuf::from(path)))
    };
    if let [only] = given
        && named(only).is_none()
    {
        return Ok((Some(only.into()), Vec::new()));
    }
    let part = |value: &String| {
        named(value).ok_or_else(|| {
            let message = format!("`adapter` {value}: of several each has a name: NAME={value}");
            Error::usage(message)
        })
    };
    Ok((None, given.iter().map(part).collect::<Result<_>>()?))
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// The model's name: as given, or that of its directory or run.
fn name(args: &ServeArgs) -> String {
    let directory = args.model.as_ref().or(args.run.as_ref());
    let of_directory = || {
        let whole = directory?.canonicalize().ok()?;
        Some(whole.file_name()?.to_string_lossy().into_owned())
    };
    args.alias.clone().or_else(of_directory).unwrap_or_else(|| ServeOptions::default().model_name)
}
