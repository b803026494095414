//! The command line: one file a subcommand.

pub mod bench;
pub mod common;
pub mod compare;
pub mod data;
mod defaults;
pub mod doctor;
mod embedded;
pub mod eval;
pub mod experiment;
pub mod export;
mod flags;
pub mod generate;
pub mod import;
pub mod init;
mod questions;
mod ranges;
mod reasoning_page;
mod sampling;
pub mod score;
#[cfg(feature = "serve")]
pub mod serve;
mod shown;
mod signals;
mod sparkline;
pub mod status;
mod terminal;
pub mod train;
mod typos;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::device::cpu::level::level;
use crate::{Error, Result};

/// The environment variables that every command reads.
const ENVIRONMENT: &str = "\
Environment:
  COLAR_SIMD  the instruction set of the CPU's loops: scalar, avx2 or avx512 (the widest that the processor has)
  COLAR_LOG   what is logged: error, warn, info, debug or trace (warn)";

/// Train and run language models that reason in compressed latent vectors (CoLaR)
#[derive(Debug, Parser)]
#[command(name = "colar-engine", version, arg_required_else_help = true, max_term_width = 100, after_help = ENVIRONMENT)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::TrainArgs),
    Generate(generate::GenerateArgs),
    #[cfg(feature = "serve")]
    Serve(serve::ServeArgs),
    Eval(eval::EvalArgs),
    Status(status::StatusArgs),
    Compare(compare::CompareArgs),
    Score(score::ScoreArgs),
    Experiment(experiment::ExperimentArgs),
    Import(import::ImportArgs),
    Export(export::ExportArgs),
    Init(init::InitArgs),
    Data(data::DataArgs),
    Bench(bench::BenchArgs),
    Doctor(doctor::DoctorArgs),
}

/// Runs the command of the process's arguments.
pub fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os().collect()))
}

/// Runs the command of these arguments, of which the first is the program, and says in one line what went wrong: the exit code
/// is 2 for bad usage, 1 for anything else. It takes over the process: signals, faults in mapped files, and what is logged.
pub fn run(args: Vec<OsString>) -> u8 {
    let started = std::time::Instant::now();
    #[cfg(target_os = "linux")]
    crate::files::faults::install();
    let cli = match parse(&args) {
        Ok(cli) => cli,
        Err(said) => return unparsed(&said),
    };
    // Where there is one already, the program around the command has chosen it.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("COLAR_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // A line that cannot be written is lost; reporting that would panic where standard error is gone.
        .log_internal_errors(false)
        .without_time()
        .with_target(false)
        .try_init();
    match level().and_then(|_| dispatch(cli, started)) {
        Ok(()) => 0,
        Err(e) if terminal::is_unread(&e) => 0,
        // How to go on was said where the run ended.
        Err(Error::Interrupted { .. }) => signals::exit_code(),
        Err(e) => {
            terminal::note(format!("error: {}", flags::spelled(&e, &Cli::command())));
            e.exit_code()
        }
    }
}

/// The command line, with all that is said of flags in tables.
fn command() -> clap::Command {
    let stated = |name: &str, command| ranges::stated(name, flags::conditioned(name, command));
    flags::each(Cli::command(), &stated).mut_subcommand("train", defaults::shown)
}

/// The command that arguments mean.
fn parse(args: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = command();
    let matches = command
        .clone()
        .try_get_matches_from_mut(args)
        .map_err(|e| typos::hinted(e, &command, &args[args.len().min(1)..]))?;
    Cli::from_arg_matches(&matches).map_err(|e| e.format(&mut command))
}

/// Prints the help or the fault of a command line; the exit code.
fn unparsed(said: &clap::Error) -> u8 {
    let printed = said.print().and_then(|()| std::io::stdout().flush()).map_err(terminal::unprinted);
    match printed {
        // A fault that cannot be printed is told by the exit code alone.
        _ if said.use_stderr() => u8::try_from(said.exit_code()).unwrap_or(2),
        Ok(()) => 0,
        Err(e) if terminal::is_unread(&e) => 0,
        Err(e) => {
            terminal::note(format!("error: {e}"));
            e.exit_code()
        }
    }
}

fn dispatch(cli: Cli, started: std::time::Instant) -> Result<()> {
    match cli.command {
        Command::Train(args) => train::run(args),
        Command::Generate(args) => generate::run(&args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::run(args),
        Command::Eval(args) => eval::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Score(args) => score::run(&args),
        Command::Experiment(args) => experiment::run(args),
        Command::Import(args) => import::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Data(args) => data::run(args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Bench(args) => bench::run(&args, started),
    }
}
