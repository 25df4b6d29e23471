//! The `midge` binary: allocator, arguments, exit code; nothing else.
//!
//! The server's only unsafe code is here: three things that have no safe form. Each saves memory,
//! as its comment says.

use std::alloc::{GlobalAlloc, Layout};
use std::process::ExitCode;

use mimalloc::MiMalloc;

/// mimalloc, without requests for an alignment that it provides anyway. Its version 3 serves any
/// request that names an alignment, even that of a pointer, from a block with room to shift the
/// data: 80 bytes then take a block of 96, 320 one of 384, a seventh of all memory.
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Every block of mimalloc begins at a multiple of this number of bytes.
const BLOCK_ALIGNMENT: usize = 8;

/// Returns the pointer, after checking in debug builds that it has the alignment that was not asked
/// for.
#[inline]
fn aligned(pointer: *mut u8, layout: Layout) -> *mut u8 {
    debug_assert!(
        pointer.addr().is_multiple_of(layout.align()),
        "a block of mimalloc's is misaligned"
    );
    pointer
}

#[inline]
fn without_alignment(layout: Layout) -> Layout {
    match layout.align() {
        ..=BLOCK_ALIGNMENT => Layout::from_size_align(layout.size(), 1).unwrap_or(layout),
        _ => layout,
    }
}

// SAFETY: mimalloc keeps the contract of an allocator, and all calls are handed on to it. The
// alignment that is left out is one it gives anyway: its blocks are multiples of eight bytes, in
// pages that begin at multiples of sixteen (`mi_bin`, `MI_PAGE_MIN_START_BLOCK_ALIGN`). A block is
// freed by its address alone.
#[expect(unsafe_code, reason = "a seventh of the memory of connections and subscriptions")]
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: The size is the caller's, who guarantees that it is not zero.
        aligned(unsafe { MiMalloc.alloc(without_alignment(layout)) }, layout)
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: As above.
        aligned(unsafe { MiMalloc.alloc_zeroed(without_alignment(layout)) }, layout)
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: The caller's pointer is one that `alloc` gave, so it is mimalloc's.
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: As above, and the new size is the caller's.
        let moved = unsafe { MiMalloc.realloc(pointer, without_alignment(layout), new_size) };
        aligned(moved, layout)
    }
}

/// Called before `main`, and so before the first allocation: otherwise the allocator's own tables,
/// four megabytes of which a small server touches a few hundred kilobytes, would be in two huge
/// pages.
// SAFETY: The section is a list of pointers to C functions that the C library calls once each,
// after its own initialisation. This is one; it needs nothing of Rust's runtime, and does not read
// any arguments.
#[used]
#[expect(unsafe_code, reason = "a third of the memory of an idle server")]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    midge::avoid_huge_pages();
}

#[expect(unsafe_code, reason = "a sixth of the memory that a burst of connections leaves behind")]
// SAFETY: mimalloc's own declaration. It may be called at any time, on any thread, with either
// argument.
unsafe extern "C" {
    /// Gives back memory that the calling thread, or others on its behalf, have freed; with `force`
    /// all of it, without the usual delay.
    safe fn mi_collect(force: bool);
}

fn main() -> ExitCode {
    midge::main(std::env::args_os(), || mi_collect(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE_MAX: usize = 4096;

    /// The version that the C library reports: another one has to be examined before this number is
    /// changed.
    const MIMALLOC_VERSION: i32 = 30_302;

    #[expect(unsafe_code, reason = "mimalloc's own declaration")]
    // SAFETY: It reads a constant.
    unsafe extern "C" {
        safe fn mi_version() -> std::ffi::c_int;
    }

    #[test]
    fn the_library_is_the_version_that_was_examined() {
        assert_eq!(mi_version(), MIMALLOC_VERSION);
    }

    /// Every alignment, however a block comes about. Blocks are kept for a while, so that all
    /// blocks of a page are covered.
    #[test]
    #[expect(unsafe_code, reason = "the allocator under test is called directly")]
    fn blocks_of_every_size_are_aligned() {
        for align in [1, 2, 4, BLOCK_ALIGNMENT, 16, 64] {
            let mut blocks = Vec::new();
            for size in 1..=SIZE_MAX {
                let layout = Layout::from_size_align(size, align).expect("a power of two");
                for _ in 0..3 {
                    // SAFETY: The size is not zero.
                    let (plain, zeroed) =
                        unsafe { (ALLOCATOR.alloc(layout), ALLOCATOR.alloc_zeroed(layout)) };
                    for block in [plain, zeroed] {
                        assert!(!block.is_null() && block.addr().is_multiple_of(align), "{size}");
                        blocks.push((block, layout));
                    }
                }
            }
            for (index, (block, layout)) in blocks.into_iter().enumerate() {
                // Smaller, larger, and much larger.
                let new_size =
                    [layout.size().div_ceil(2), layout.size() + 8, SIZE_MAX * 3][index % 3];
                // SAFETY: The block is the allocator's, of this layout, and the new size is not
                // zero.
                let moved = unsafe { ALLOCATOR.realloc(block, layout, new_size) };
                assert!(!moved.is_null() && moved.addr().is_multiple_of(align), "{layout:?}");
                let layout = Layout::from_size_align(new_size, align).expect("a power of two");
                // SAFETY: As above; nobody uses it any more.
                unsafe { ALLOCATOR.dealloc(moved, layout) };
            }
        }
    }
}
