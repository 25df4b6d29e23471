//! The `midge` binary: allocator, arguments, exit code; nothing else.
//!
//! The server's only unsafe code is here, three things that have no safe form. Each saves a user memory: see
//! their words.

use std::alloc::{GlobalAlloc, Layout};
use std::process::ExitCode;

use mimalloc::MiMalloc;

/// mimalloc, asked for no more alignment than it gives by itself. Its version 3 answers each request that
/// names one, be it that of a pointer, from blocks large enough to be moved into place: 80 bytes then take a
/// block of 96, 320 one of 384, a seventh of all memory.
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Every block of mimalloc's begins at a multiple of this.
const BLOCK_ALIGNMENT: usize = 8;

#[inline]
fn without_alignment(layout: Layout) -> Layout {
    match layout.align() {
        ..=BLOCK_ALIGNMENT => Layout::from_size_align(layout.size(), 1).unwrap_or(layout),
        _ => layout,
    }
}

// SAFETY: mimalloc keeps the contract of an allocator, and all calls are handed on to it. The alignment that
// is left out is one it gives anyway: its blocks are multiples of eight bytes, in pages that begin at multiples
// of sixteen (`mi_bin`, `MI_PAGE_MIN_START_BLOCK_ALIGN`). A block is freed by its address alone.
#[expect(unsafe_code, reason = "a seventh of the memory of connections and subscriptions")]
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: The size is the caller's, who asks for more than nothing.
        unsafe { MiMalloc.alloc(without_alignment(layout)) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: As above.
        unsafe { MiMalloc.alloc_zeroed(without_alignment(layout)) }
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: The caller's pointer is one that `alloc` gave, so it is mimalloc's.
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: As above, and the new size is the caller's.
        unsafe { MiMalloc.realloc(pointer, without_alignment(layout), new_size) }
    }
}

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

#[expect(unsafe_code, reason = "a sixth of the memory that a burst of connections leaves behind")]
// SAFETY: mimalloc's own declaration. It may be called at any time, on any thread, with either argument.
unsafe extern "C" {
    /// Looks through what the calling thread has freed, and others for it, for memory to give back; `force`: all
    /// there is, without the usual delay.
    safe fn mi_collect(force: bool);
}

fn main() -> ExitCode {
    midge::server::run::process::main(std::env::args_os(), || mi_collect(false))
}
