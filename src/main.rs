//! The `raftyard` program. Everything it does is in [`cli`] and below; this file only starts it.

#![forbid(unsafe_code)]

mod bench;
mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(std::env::args_os())
}
