//! The process from its arguments to its exit code.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use crate::server::args::{self, Invocation};
use crate::server::bootstrap::{self, Placement};

/// The whole process, from its arguments to its exit code.
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let argv0 = arguments.next().unwrap_or_default();
    match args::parse(&argv0, arguments) {
        Invocation::Run(start) => serve(*start),
        Invocation::Version(text) | Invocation::Help(text) | Invocation::HelpTls(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Invocation::TestConfig(text) => {
            eprint!("{text}");
            ExitCode::SUCCESS
        }
        Invocation::Refused(refusal) => {
            print!("{}", refusal.stdout);
            eprint!("{}", refusal.stderr);
            ExitCode::from(refusal.exit_code)
        }
        Invocation::Signal { .. } => ExitCode::FAILURE,
    }
}

fn serve(start: args::Start) -> ExitCode {
    let options = Arc::new(start.options);
    let count = options.shards.count.unwrap_or(2);
    let placement =
        Placement { driver: crate::net::runtime::Driver::IoUring, cores: vec![None; count] };
    let info = |address: std::net::SocketAddr| crate::protocol::nats::handshake::Info {
        server_id: "NTEMP".into(),
        server_name: "temp".into(),
        version: "2.14.5".into(),
        proto: 1,
        go: "go1.26".into(),
        host: options.listen.host.clone(),
        port: address.port(),
        headers: !options.limits.no_header_support,
        max_payload: options.limits.payload_bytes_max,
        ..Default::default()
    };
    match bootstrap::start(&options, placement, info, None) {
        Ok(shards) => {
            eprintln!(
                "[1] 2026/11/22 23:21:50.345044 [INF] Listening for client connections on {}",
                shards.address
            );
            eprintln!("[1] 2026/11/22 23:21:50.345044 [INF] Server is ready");
            for thread in shards.threads {
                if thread.join().is_err() {
                    return ExitCode::FAILURE;
                }
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
