//! The `midge` binary: allocator, arguments, exit code; nothing else.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    midge::server::process::main(std::env::args_os())
}
