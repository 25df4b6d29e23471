//! The command: parses the flags, runs what they ask for, and turns the outcome into an exit
//! status.

#![forbid(unsafe_code)]

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    midge_bench::run_command_line(std::env::args_os())
}
