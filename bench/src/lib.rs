//! The bundled harness: measures any NATS server from outside, over plain NATS.
//!
//! It depends on no part of the server. `wire` is its own small client, `host` reads the machine
//! underneath, `load` makes the load and counts it into `findings`, `jetstream` that of streams. `workload` holds the flags of a
//! workload, `setting` runs one as they say, `compare` runs two servers in turns, `stalls` provokes
//! stalls, `kill` kills servers, `output` shows and stores the findings.

#![forbid(unsafe_code)]
#![warn(unreachable_pub)]

pub mod cli;
pub mod commands;
pub mod compare;
pub mod failure;
pub mod findings;
pub mod host;
pub mod jetstream;
pub mod kill;
pub mod load;
pub mod login;
pub mod output;
pub mod progress;
pub mod relay;
pub mod setting;
pub mod stalls;
pub mod suite;
pub mod units;
pub mod wire;
pub mod workload;

pub use failure::Failure;

use clap::Parser;

/// Parses and runs a command line. The exit status is 0 for a valid result, 1 for a failure or a
/// wrong flag, 2 for an invalid run or a figure worse than the baseline, 130 after an interrupt.
pub fn run_command_line(
    arguments: impl IntoIterator<Item = std::ffi::OsString>,
) -> std::process::ExitCode {
    let line = match cli::CommandLine::try_parse_from(arguments) {
        Ok(line) => line,
        // Help and version are not failures; a wrong flag is one, and must not have the 2 of an
        // invalid run.
        Err(error) => {
            let failed = error.use_stderr();
            // If the terminal is closed there is nobody to tell.
            let _ = error.print();
            return std::process::ExitCode::from(u8::from(failed));
        }
    };
    match commands::run(line) {
        Ok(commands::Verdict::Good) => std::process::ExitCode::SUCCESS,
        Ok(commands::Verdict::Bad) => std::process::ExitCode::from(2),
        Ok(commands::Verdict::Interrupted) => std::process::ExitCode::from(host::interrupt::STATUS),
        Err(failure) => {
            eprintln!("midge-bench: {failure}");
            std::process::ExitCode::FAILURE
        }
    }
}
