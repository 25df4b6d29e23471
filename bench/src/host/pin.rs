//! Which cores the load and the started servers run on.

use crate::Failure;
use crate::units::CoreList;
use rustix::thread::CpuSet;

/// Lets the calling thread, and every thread or process it starts from now on, run on `cores` only.
///
/// # Errors
/// When the kernel refuses: a core does not exist, or is outside the allowed set.
pub fn pin_thread_to_set(cores: &CoreList) -> Result<(), Failure> {
    let mut set = CpuSet::new();
    for &core in &cores.0 {
        set.set(core);
    }
    rustix::thread::sched_setaffinity(None, &set).map_err(|error| {
        let usable: Vec<String> = core_affinity::get_core_ids()
            .unwrap_or_default()
            .iter()
            .map(|core| core.id.to_string())
            .collect();
        Failure::new(format!("cannot pin to cores {cores}: {error} (usable: {})", usable.join(",")))
    })
}

/// Fixes the calling load thread to one core of the list, round robin by `thread_index`.
/// With an empty list the thread stays where the scheduler puts it.
pub fn pin_load_thread(cores: &CoreList, thread_index: usize) {
    if cores.0.is_empty() {
        return;
    }
    let id = cores.0[thread_index % cores.0.len()];
    // The set was accepted for the whole process before, so each core of it is too; if a core went
    // offline since, the thread still runs inside the set.
    let _ = core_affinity::set_for_current(core_affinity::CoreId { id });
}
