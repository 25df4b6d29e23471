//! The `midge` binary: allocator, arguments, exit code; nothing else.
//!
//! The server's only unsafe code is here, for what has to happen before `main`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Called before `main`, and so before the first allocation: the allocator's own tables, four megabytes of
/// which a small server touches a few hundred kilobytes, would come in two huge pages otherwise.
// SAFETY: The section is a list of pointers to C functions that the C library calls once each, when it is set
// up itself. This is one; it needs nothing of Rust's runtime, and arguments it may be given are not read.
#[used]
#[expect(unsafe_code, reason = "a third of the memory of an idle server")]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    midge::base::huge_pages::avoid();
}

fn main() -> ExitCode {
    midge::server::process::main(std::env::args_os())
}
