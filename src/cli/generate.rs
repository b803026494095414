//! `generate`: answers questions.

use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::common::ModelArgs;
use super::sampling::SamplingArgs;
use super::{questions, reasoning_page, terminal};
use crate::eval::table::compression_factor_value;
use crate::files::atomic::write_atomic;
use crate::infer::{Event, Generation, Prompt, Request, Sampling};
use crate::model::prompt::{DEFAULT_COMPRESSION_FACTOR, FACTORS, Method};
use crate::{Detokenizer, Engine, Error, Result};

/// Answer questions, thinking in compressed latent vectors or in words
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  colar-engine generate \"Tom has 3 boxes of 24 pens and gives 10 away. How many are left?\"
  colar-engine generate --model Llama-3.2-1B --adapter runs/gsm/best --cf 5 --json < questions.txt
  colar-engine generate --run runs/colar --json < test.jsonl
  colar-engine generate --trace --greedy \"What is 12 + 7?\"
  colar-engine generate --html reasoning.html --greedy \"What is 12 + 7?\"
  colar-engine generate --model SmolLM2-135M --method plain --greedy \"The capital of France is\"")]
pub struct GenerateArgs {
    /// Questions, or under `plain` texts to continue; from standard input, a line each, when none is given. A line may be
    /// a record of a data set, whose field `question` is asked
    #[arg(value_name = "QUESTION")]
    questions: Vec<String>,
    #[command(flatten)]
    model: ModelArgs,
    /// Compression factor of colar: a number above 0 (2, 1.5) or `auto`
    #[arg(long, value_name = "C", value_parser = crate::model::prompt::parse_compression_factor,
          allow_hyphen_values = true, help = format!(
              "Compression factor of colar: `auto`, or {FACTORS} (2, 1.5) [default: {DEFAULT_COMPRESSION_FACTOR}]; cot has 1, \
               and icot, coconut and distill have auto"
          ))]
    cf: Option<String>,
    /// How to reason [default: as the checkpoint's colar.json says, else colar if there is a latent head,
    /// else plain]
    #[arg(long, value_enum)]
    method: Option<Mode>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Questions that run together
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch_size: usize,
    /// Print a JSON object a question
    #[arg(long)]
    json: bool,
    /// Show the tokens nearest to each latent or thought, by cosine to the embedding matrix
    #[arg(long)]
    trace: bool,
    /// Write a page that shows the reasoning: latents with the tokens near to them and the probability that they end, or
    /// words
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// The values of `--method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Written steps, then the answer
    Cot,
    /// Latent vectors, then the answer
    Colar,
    /// Steps of which training left the first out, then the answer
    Icot,
    /// Hidden states fed back, then the steps left to write and the answer
    Coconut,
    /// Projected hidden states fed back, then the answer
    Distill,
    /// The raw text continued, without template: for checking a base model
    Plain,
}

impl Mode {
    fn of(engine: &Engine) -> Self {
        match engine.default_method() {
            Some(Method::Colar) => Mode::Colar,
            Some(Method::Cot) => Mode::Cot,
            Some(Method::Icot) => Mode::Icot,
            Some(Method::Coconut) => Mode::Coconut,
            Some(Method::Distill) => Mode::Distill,
            None => Mode::Plain,
        }
    }

    /// The method of a question; `None` for a raw text.
    fn method(self) -> Option<Method> {
        match self {
            Mode::Colar => Some(Method::Colar),
            Mode::Cot => Some(Method::Cot),
            Mode::Icot => Some(Method::Icot),
            Mode::Coconut => Some(Method::Coconut),
            Mode::Distill => Some(Method::Distill),
            Mode::Plain => None,
        }
    }
}

/// Runs `generate`; results go to standard output, timings to standard error if that is a terminal.
///
/// # Errors
/// [`Error::Usage`] without a question, for values out of range or for a factor where nothing is compressed;
/// errors of reading the model; a method that the model has no head or thoughts for.
pub fn run(args: &GenerateArgs) -> Result<()> {
    let sampling = args.sampling.sampling()?;
    let engine = args.model.open()?;
    let mode = args.method.unwrap_or_else(|| Mode::of(&engine));
    if args.method.is_none() && mode == Mode::Plain {
        tracing::warn!("the model has no latent head: the text is continued as it is (--method plain)");
    }
    if args.model.load.template.is_some() && mode == Mode::Plain {
        return Err(Error::usage(
            "--template: a text that is continued has none; ask a question, with --method cot",
        ));
    }
    args.sampling.check(&[mode.method().map_or("plain", Method::name)], args.trace)?;
    let compression_factor = compression_factor(mode, args.cf.as_deref())?;
    if let (Some(_), Mode::Plain) = (&args.html, mode) {
        return Err(Error::usage("--html shows reasoning, and --method plain has none"));
    }
    // The page has the tokens near to vectors; words need none.
    let trace = args.trace || args.html.is_some() && mode.method().is_some_and(Method::has_vectors);
    let request = |text: String| request(text, mode, compression_factor, sampling, trace);
    let mut shown = Shown { engine: &engine, args, generations: Vec::new() };
    if args.questions.is_empty() {
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            terminal::note("questions, a line each; end with Ctrl-D:");
        }
        // On a terminal each question is answered at once; a file is answered in batches.
        let batch = if stdin.is_terminal() { 1 } else { args.batch_size };
        from_lines(&mut shown, batch, stdin.lock(), mode == Mode::Plain, request)?;
        return shown.write_page();
    }
    let requests: Vec<Request> = args.questions.iter().cloned().map(request).collect();
    if requests.len() == 1 && !args.json && !trace && args.html.is_none() && std::io::stdout().is_terminal() {
        return stream(&engine, &requests[0]);
    }
    let titled = requests.len() > 1;
    for batch in requests.chunks(args.batch_size) {
        shown.answer(batch, titled)?;
    }
    shown.write_page()
}

/// The compression factor that prompts state, given `--cf`.
fn compression_factor(mode: Mode, cf: Option<&str>) -> Result<&str> {
    match mode.method() {
        Some(method) => method.compression_factor(cf),
        None if cf.is_some() => Err(Error::usage("--cf goes with --method colar")),
        None => Ok(DEFAULT_COMPRESSION_FACTOR),
    }
}

fn request(text: String, mode: Mode, compression_factor: &str, sampling: Sampling, trace: bool) -> Request {
    let prompt = match mode.method() {
        None => Prompt::Plain(text),
        Some(method) => Prompt::Question { text, method, compression_factor: compression_factor.to_owned() },
    };
    Request { prompt, sampling, trace, adapter: None }
}

/// The lines of what was read up to a line feed: a carriage return ends one too.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes).split(|&b| b == b'\r')
}

/// Answers the lines of `input` as they come, `batch` at a time. Before it fails for a line, those before that are
/// answered.
fn from_lines(
    shown: &mut Shown<'_>,
    batch: usize,
    mut input: impl BufRead,
    plain: bool,
    request: impl Fn(String) -> Request,
) -> Result<()> {
    const STDIN: &str = "standard input";
    let (mut waiting, mut any, mut number) = (Vec::with_capacity(batch), false, 0);
    let mut bytes = Vec::new();
    while input.read_until(b'\n', &mut bytes).map_err(Error::io(STDIN))? > 0 {
        // Editors of Windows begin a text with a byte-order mark, which is no part of the question.
        let mark: &[u8] = if number == 0 { b"\xef\xbb\xbf" } else { b"" };
        for line in lines(bytes.strip_prefix(mark).unwrap_or(&bytes)) {
            number += 1;
            let fault = |what| Error::Line { path: STDIN.into(), line: number, what };
            let Ok(line) = std::str::from_utf8(line) else {
                // The questions before it are good.
                shown.answer(&waiting, true)?;
                return Err(fault("the text is not UTF-8".to_owned()));
            };
            if line.trim().is_empty() {
                continue;
            }
            any = true;
            waiting.push(request(questions::of_line(line, plain).map_err(fault)?));
            if waiting.len() == batch {
                shown.answer(&waiting, true)?;
                waiting.clear();
            }
        }
        bytes.clear();
    }
    if !any {
        return Err(Error::usage("no question: give one as an argument, or a line each on standard input"));
    }
    shown.answer(&waiting, true)
}

/// Answers on their way to standard output, and into the page.
struct Shown<'a> {
    engine: &'a Engine,
    args: &'a GenerateArgs,
    /// Kept for the page alone.
    generations: Vec<Generation>,
}

impl Shown<'_> {
    /// Runs a batch and prints the answers; `titled` puts each question before its answer.
    fn answer(&mut self, batch: &[Request], titled: bool) -> Result<()> {
        let mut out = String::new();
        for mut g in self.engine.generate_batch(batch)? {
            if self.args.html.is_some() {
                self.generations.push(g.clone());
            }
            if !self.args.trace {
                g.trace.clear();
                g.end_probabilities.clear();
            }
            if self.args.json {
                out += &line(&g)?;
            } else {
                if titled {
                    let _ = writeln!(out, "> {}", g.question);
                }
                out += &trace(&g);
                let _ = writeln!(out, "{}", g.text.trim_end());
                if titled {
                    out.push('\n');
                }
            }
            if std::io::stderr().is_terminal() && !self.args.json && !titled {
                terminal::print(&std::mem::take(&mut out))?;
                terminal::note(timings(&g));
            }
        }
        terminal::print(&out)
    }

    /// Writes the page, if one is wanted.
    fn write_page(&self) -> Result<()> {
        let Some(path) = &self.args.html else { return Ok(()) };
        let page = reasoning_page::page(self.engine, &self.generations)?;
        write_atomic(path, |out| out.write_all(page.as_bytes()))
    }
}

/// One line of JSON; the factor is a number where it is one, and null for a raw text.
fn line(g: &Generation) -> Result<String> {
    let mut value = serde_json::to_value(g).map_err(|e| Error::other(format!("a generation: {e}")))?;
    if let Some(cf) = value.get_mut("cf") {
        *cf = if g.compression_factor.is_empty() {
            Value::Null
        } else {
            compression_factor_value(&g.compression_factor)
        };
    }
    Ok(format!("{value}\n"))
}

/// A line a latent: its nearest tokens and their cosines, and the probability that reasoning ends after it.
fn trace(g: &Generation) -> String {
    let mut out = String::new();
    for (i, tokens) in g.trace.iter().enumerate() {
        let _ = write!(out, "latent {:>3}", i + 1);
        for t in tokens {
            let _ = write!(out, "  {t}");
        }
        if let Some(end) = g.end_probabilities.get(i) {
            let _ = write!(out, "  ends {end:.2}");
        }
        out.push('\n');
    }
    out
}

fn timings(g: &Generation) -> String {
    let latents = match (g.compression_factor.is_empty(), g.n_latents) {
        (true, _) => String::new(),
        (false, n) => format!(", {n} latents in {:.0} ms", g.latents_ms),
    };
    format!(
        "[prompt of {} tokens in {:.0} ms{latents}, answer of {} tokens in {:.0} ms]",
        g.prompt_tokens, g.prefill_ms, g.answer_tokens, g.answer_ms
    )
}

/// Answers one question on a terminal: a dot a latent, then the text as it is written.
fn stream(engine: &Engine, request: &Request) -> Result<()> {
    let mut out = std::io::stdout();
    let (mut detokenizer, mut dots, mut failure) = (Detokenizer::default(), false, None);
    let mut show = |event: Event| -> Result<()> {
        let text = match event {
            Event::Latent { .. } => {
                dots = true;
                "·".to_owned()
            }
            Event::Token { id, .. } => {
                let new = detokenizer.push(engine, id)?;
                if std::mem::take(&mut dots) { format!("\n{new}") } else { new }
            }
            Event::Done { .. } => detokenizer.finish(engine)? + "\n",
            Event::Prefilled { .. } => return Ok(()),
        };
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::io("standard output"))
    };
    let generations = engine.generate_streaming(std::slice::from_ref(request), |event| {
        if failure.is_none() {
            failure = show(event).err();
        }
    })?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    if std::io::stderr().is_terminal() {
        for g in &generations {
            terminal::note(timings(g));
        }
    }
    Ok(())
}
