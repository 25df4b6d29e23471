//! Chooses the cores on which the load and the started servers run.

use crate::Failure;
use crate::units::CoreList;
use rustix::thread::CpuSet;

/// Restricts the calling thread, and every thread or process that it starts from now on, to
/// `cores`.
///
/// # Errors
/// If the kernel refuses: a core does not exist, or is outside the allowed set.
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

/// Pins the calling load thread to one core of the list, round robin by `thread_index`. With an
/// empty list the scheduler decides.
pub fn pin_load_thread(cores: &CoreList, thread_index: usize) {
    if cores.0.is_empty() {
        return;
    }
    let id = cores.0[thread_index % cores.0.len()];
    // The whole set was accepted for the process before, so each of its cores is; if a core has
    // gone offline since, the thread still runs within the set.
    let _ = core_affinity::set_for_current(core_affinity::CoreId { id });
}
