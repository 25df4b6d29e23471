//! Allows and forbids huge pages for the memory of this process.
//!
//! A huge page is resident as a whole from its first byte on, and the few that a small server
//! touches would be most of its memory. A large subject table does want them: otherwise nearly each
//! of its lookups waits for the page tables. So they are off at first, and a shard turns them on
//! once its tables are large.
//!
//! If the kernel refuses, its own default stays in force: only figures depend on it, not function.

/// Turns huge pages off: at the start of the process, before anything is allocated, and again when
/// nothing is worth a huge page any more, since freed memory would otherwise be merged into huge
/// pages and stay.
pub fn avoid() {
    // A kernel or sandbox without this call decides by itself.
    let _ = nix::sys::prctl::set_thp_disable(true);
}

/// Turns huge pages on: new memory may come in huge pages, and present pages may be merged into
/// some.
pub(crate) fn allow() {
    // Ignored as in `avoid`.
    let _ = nix::sys::prctl::set_thp_disable(false);
}
