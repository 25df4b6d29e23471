//! Allows and forbids huge pages for the memory of this process.
//!
//! A huge page is resident as a whole from the first byte on: the few that a small server touches
//! would be most of its memory. A large subject table wants them: nearly each of its lookups would
//! wait for the page tables otherwise. So they are off at first, and a shard that has become large
//! lets them come.
//!
//! Where the kernel refuses, what it does by itself stands: this is about figures, not about
//! function.

/// For the start of the process, before anything is allocated, and for when nothing is worth a huge
/// page any more: freed memory would be merged into huge pages again and stay.
pub fn avoid() {
    // A kernel or sandbox without this call decides by itself.
    let _ = nix::sys::prctl::set_thp_disable(true);
}

/// From now on new memory may come in huge pages; what is there may be merged into some.
pub fn allow() {
    // As above.
    let _ = nix::sys::prctl::set_thp_disable(false);
}
