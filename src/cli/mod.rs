//! The command line: one file a subcommand.

pub mod bench;
pub mod common;
pub mod data;
mod embedded;
pub mod eval;
pub mod experiment;
pub mod generate;
pub mod init;
pub mod score;
pub mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::Result;

/// Train and run language models that reason in compressed latent vectors (CoLaR)
#[derive(Debug, Parser)]
#[command(name = "colar-engine", version, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::TrainArgs),
    Generate(generate::GenerateArgs),
    Eval(eval::EvalArgs),
    Score(score::ScoreArgs),
    Experiment(experiment::ExperimentArgs),
    Init(init::InitArgs),
    Data(data::DataArgs),
    Bench(bench::BenchArgs),
}

/// Parses the process's arguments, runs the command, and says in one line what went wrong: exit code 2
/// for bad usage, 1 for anything else.
pub fn main() -> ExitCode {
    let started = std::time::Instant::now();
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("COLAR_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
    match dispatch(cli, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

fn dispatch(cli: Cli, started: std::time::Instant) -> Result<()> {
    match cli.command {
        Command::Train(args) => train::run(args),
        Command::Generate(args) => generate::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Score(args) => score::run(&args),
        Command::Experiment(args) => experiment::run(args),
        Command::Init(args) => init::run(&args),
        Command::Data(args) => data::run(args),
        Command::Bench(args) => bench::run(&args, started),
    }
}
