//! Chooses the cores that a thread runs on.

use core_affinity::CoreId;
use rustix::thread::{CpuSet, sched_setaffinity};

/// Restricts the calling thread to these cores; a single one pins it. An empty list changes
/// nothing. False if the kernel grants none of them.
pub(super) fn run_on(cores: &[usize]) -> bool {
    let exists = |core: &usize| *core < CpuSet::MAX_CPU;
    match cores {
        [] => true,
        [core] => exists(core) && core_affinity::set_for_current(CoreId { id: *core }),
        several => {
            // core_affinity cannot set several cores.
            let mut mask = CpuSet::new();
            several.iter().filter(|core| exists(core)).for_each(|core| mask.set(*core));
            sched_setaffinity(None, &mask).is_ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::thread::sched_getaffinity;

    use super::*;

    fn own_cores() -> Vec<usize> {
        let mask = sched_getaffinity(None).expect("the kernel tells");
        (0..CpuSet::MAX_CPU).filter(|core| mask.is_set(*core)).collect()
    }

    /// Returns the outcome, and the cores that a new thread may run on after it asked for these.
    fn after(cores: Vec<usize>) -> (bool, Vec<usize>) {
        let thread = std::thread::spawn(move || (run_on(&cores), own_cores()));
        thread.join().expect("it only asks")
    }

    #[test]
    fn a_thread_runs_on_the_cores_it_asked_for_and_on_no_other() {
        let all = own_cores();
        for core in &all {
            assert_eq!(after(vec![*core]), (true, vec![*core]));
        }
        assert_eq!(after(all.clone()), (true, all.clone()));
        assert_eq!(after(Vec::new()), (true, all));
    }

    #[test]
    fn cores_that_do_not_exist_are_refused() {
        let all = own_cores();
        let absent = (0..CpuSet::MAX_CPU).rev().find(|core| !all.contains(core));
        for core in [absent.expect("no machine has as many"), CpuSet::MAX_CPU, usize::MAX] {
            assert_eq!(after(vec![core]), (false, all.clone()), "{core}");
        }
        assert!(!after(vec![CpuSet::MAX_CPU, usize::MAX]).0);
    }
}
