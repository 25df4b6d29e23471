//! The process from its arguments to its exit code.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::base::log;
use crate::server::command::args::{self, Invocation, Start};
use crate::server::command::argv_secrets::{self, Arguments};
use crate::server::command::signal_command;
use crate::server::command::store_command;
use crate::server::host::files::program_name;
use crate::server::host::log_writer::ServerLog;
use crate::server::host::panic_hook;
use crate::server::run::lifetime::run;

/// Runs the whole process. `collect` makes the allocator give back what the calling thread no
/// longer needs.
pub fn main(arguments: impl Iterator<Item = OsString>, collect: fn()) -> ExitCode {
    let Arguments { arguments, warning } = argv_secrets::hide(arguments);
    if let Some(warning) = warning {
        eprintln!("{warning}");
    }
    let mut arguments = arguments.into_iter();
    let argv0 = arguments.next().unwrap_or_default();
    if arguments.as_slice().first().is_some_and(|first| first == store_command::COMMAND) {
        let outcome = store_command::run(&arguments.as_slice()[1..]);
        print!("{}", outcome.stdout);
        eprint!("{}", outcome.stderr);
        return ExitCode::from(outcome.exit_code);
    }
    match args::parse(&argv0, arguments) {
        Invocation::Run(start) => match args::check_usable(&start.options) {
            Ok(()) => serve(*start, collect),
            Err(reason) => {
                eprintln!("{}: {reason}", program_name());
                ExitCode::FAILURE
            }
        },
        Invocation::Version(text) | Invocation::Help(text) | Invocation::HelpTls(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Invocation::TestConfig(text) => {
            eprint!("{text}");
            ExitCode::SUCCESS
        }
        Invocation::Signal { parameters, program } => {
            match signal_command::run(&parameters, &program_name()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(text) => {
                    eprintln!("{program}: {text}");
                    ExitCode::FAILURE
                }
            }
        }
        Invocation::Refused(refusal) => {
            print!("{}", refusal.stdout);
            eprint!("{}", refusal.stderr);
            ExitCode::from(refusal.exit_code)
        }
    }
}

fn serve(start: Start, collect: fn()) -> ExitCode {
    panic_hook::install();
    let log = match ServerLog::start(&start.options.log) {
        Ok(log) => log,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::FAILURE;
        }
    };
    let code = match run(start, &log, collect) {
        Ok(()) => 0,
        Err(text) => {
            crate::fatal!("{text}");
            1
        }
    };
    log::exit(code)
}
