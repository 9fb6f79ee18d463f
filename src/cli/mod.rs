//! The command line: parses it, starts the chosen command, and turns how it ended into an exit code.
//!
//! A refusal is one clear line on standard error and a non-zero code; nothing here panics on what a person typed.

pub(crate) mod interrupt;
pub(crate) mod progress;
pub(crate) mod stdout;
mod wal;

use crate::bench::{self, BenchArgs, BenchError};
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;
use wal::{ProbeError, Wal, WalCommandError};

/// Exit code: a failure while running.
const EXIT_FAILED: u8 = 1;
/// Exit code: the command line was not understood.
const EXIT_USAGE: u8 = 2;
/// Exit code: the benchmark ran, and the cluster did not keep its word.
const EXIT_UNVERIFIED: u8 = 3;
/// Exit code: a log was read whole, and something in it is damaged.
const EXIT_DAMAGED: u8 = 4;
/// Exit code: interrupted by a signal, as shells count it (128 + SIGINT).
const EXIT_INTERRUPTED: u8 = 130;

/// Hosts thousands of durable Raft groups on one node.
#[derive(Debug, Parser)]
#[command(name = "raftyard", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a whole cluster in this process, drives load, verifies every answer, and prints what it measured.
    Bench(BenchArgs),
    /// Tools for logs and their disks.
    #[command(subcommand)]
    Wal(Wal),
}

/// Runs the program with these arguments, the first being its own name.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && !is_bare_help(&error) => {
            complain(&one_line(&error));
            return ExitCode::from(EXIT_USAGE);
        }
        Err(help) => {
            let code = if help.use_stderr() { EXIT_USAGE } else { 0 };
            // A closed pipe on the other side of `--help` is nobody's problem.
            let _ = help.print();
            return ExitCode::from(code);
        }
    };
    start_log();
    match cli.command {
        Command::Bench(args) => ended("bench", bench::run(args), |error| match error {
            BenchError::Interrupted => EXIT_INTERRUPTED,
            BenchError::Unverified { .. } => EXIT_UNVERIFIED,
            _ => EXIT_FAILED,
        }),
        Command::Wal(command) => ended(command.name(), wal::run(&command), |error| match error {
            WalCommandError::Damaged { .. } => EXIT_DAMAGED,
            WalCommandError::Probe(ProbeError::Interrupted) => EXIT_INTERRUPTED,
            _ => EXIT_FAILED,
        }),
    }
}

/// How a command ended: one line of complaint, if any, and its exit code.
fn ended<E: Display>(command: &str, result: Result<(), E>, code: impl Fn(&E) -> u8) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("raftyard {command}: {error}"));
            ExitCode::from(code(&error))
        }
    }
}

/// One line on standard error. Where nobody takes it, the exit code still tells.
fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn is_bare_help(error: &clap::Error) -> bool {
    error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// What clap has to say, up to its first empty line, as one line: scripts and people grep it.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let words = first.split_whitespace().collect::<Vec<_>>().join(" ");
    words.replacen("error:", "raftyard:", 1)
}

/// Warnings go to standard error; `RAFTYARD_LOG` (error, warn, info, debug, trace, off) changes how much.
fn start_log() {
    let wanted = std::env::var("RAFTYARD_LOG").ok().and_then(|level| level.parse().ok());
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // Telling on standard error that standard error fails would panic.
        .log_internal_errors(false)
        .with_max_level(wanted.unwrap_or(tracing_subscriber::filter::LevelFilter::WARN))
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(arguments: &[&str]) -> String {
        let arguments = ["raftyard"].iter().chain(arguments);
        one_line(&Cli::try_parse_from(arguments).expect_err("must be refused"))
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_bad_flag_is_refused_in_one_line_that_names_it() {
        for (arguments, names) in [
            (&["bench", "--value-bytes", "7"][..], "--value-bytes"),
            (&["bench", "--groups", "0"], "--groups"),
            (&["bench", "--groups", "many"], "--groups"),
            (&["bench", "--nodes", "0"], "--nodes"),
            (&["bench", "--concurrency", "0"], "--concurrency"),
            (&["bench", "--duration", "10"], "--duration"),
            (&["bench", "--duration", "0s"], "--duration"),
            (&["bench", "--durability", "maybe"], "--durability"),
            (&["bench", "--wrong"], "--wrong"),
            (&["bunch"], "bunch"),
            (&["wal", "prove"], "prove"),
            (&["wal", "probe", "--seconds", "1"], "--seconds"),
            (&["wal", "probe", "--seconds", "soon"], "--seconds"),
            (&["wal", "probe", "--dirs", "."], "--dirs"),
            (&["wal", "inspekt", "."], "inspekt"),
            (&["wal", "verify"], "<DIRECTORY>"),
            (&["wal", "dump", ".", "--from-seq", "first"], "--from-seq"),
            (&["wal", "dump", ".", "--entries=-1"], "--entries"),
        ] {
            let line = refusal(arguments);
            assert!(line.contains(names) && !line.contains('\n'), "{arguments:?}: {line}");
            assert!(line.starts_with("raftyard: "), "{line}");
        }
    }
}
