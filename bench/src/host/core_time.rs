//! Finds out how much of a window threads were ready to run while programs other than the server
//! and the load ran on their cores.
//!
//! The kernel counts for each thread how long it ran and how long it was ready and waited. Threads
//! of one program also wait for each other, and on a shared core the load waits for the server:
//! that is not the host's fault and does not count. The rest is a lower bound, so that a host that
//! did nothing is never accused.

use crate::host::clock::now_ns;
use crate::units::CoreList;

/// One thread's use of a window, as shares of it.
#[derive(Clone, Debug)]
pub struct ThreadUse {
    /// Share during which it ran.
    pub ran: f64,
    /// Share during which it was ready and waited for a core.
    pub waited: f64,
    /// The cores it may use.
    pub cores: CoreList,
}

/// The state of the calling thread when the watch began.
pub struct Watch {
    began_ns: u64,
    times_ns: Option<(u64, u64)>,
}

impl Watch {
    pub fn start() -> Watch {
        Watch { began_ns: now_ns(), times_ns: own_times_ns() }
    }

    /// To be called by the thread that started it. `None` if the kernel does not count.
    pub fn finish(self) -> Option<ThreadUse> {
        let (ran_before_ns, waited_before_ns) = self.times_ns?;
        let (ran_ns, waited_ns) = own_times_ns()?;
        let took_ns = (now_ns() - self.began_ns).max(1) as f64;
        Some(ThreadUse {
            ran: ran_ns.saturating_sub(ran_before_ns) as f64 / took_ns,
            waited: waited_ns.saturating_sub(waited_before_ns) as f64 / took_ns,
            cores: allowed_cores("thread-self")?,
        })
    }
}

fn own_times_ns() -> Option<(u64, u64)> {
    times_ns(&std::fs::read_to_string("/proc/thread-self/schedstat").ok()?)
}

/// Parses a schedstat (`time on a core, time waiting for one, number of turns`) and returns the
/// times.
pub fn times_ns(schedstat: &str) -> Option<(u64, u64)> {
    let mut fields = schedstat.split_whitespace();
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Returns the cores of a thread or process, given by its path below /proc.
pub fn allowed_cores(process: &str) -> Option<CoreList> {
    let content = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = content.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    CoreList::parse(line.trim()).ok()
}

/// Returns a lower bound for the share of the window in which `own` threads were ready and neither
/// they nor the `partner`, which is measured with them, had the core. `None` without threads.
///
/// Of threads with the same n cores any m up to n could have run at once. What those m waited, less
/// everything that the two programs ran on these cores beside them, was taken by others.
pub fn taken_share(own: &[ThreadUse], partner: &[ThreadUse]) -> Option<f64> {
    let mut most: Option<f64> = None;
    for thread in own {
        let cores = &thread.cores;
        let meets = |other: &&ThreadUse| other.cores.0.iter().any(|core| cores.0.contains(core));
        let explained: f64 =
            own.iter().chain(partner).filter(meets).map(|other| other.ran).sum::<f64>();
        let mut ready: Vec<f64> = own
            .iter()
            .filter(|other| other.cores == *cores)
            .map(|other| other.ran + other.waited)
            .collect();
        ready.sort_by(|a, b| b.total_cmp(a));
        let mut sum = 0.0;
        for (index, ready) in ready.iter().take(cores.0.len()).enumerate() {
            sum += ready;
            let taken = (sum - explained) / (index + 1) as f64;
            most = Some(most.unwrap_or(0.0).max(taken));
        }
    }
    most.map(|share| share.min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(ran: f64, waited: f64, cores: &str) -> ThreadUse {
        ThreadUse { ran, waited, cores: CoreList::parse(cores).unwrap() }
    }

    fn share(own: &[ThreadUse], partner: &[ThreadUse]) -> f64 {
        (1e6 * taken_share(own, partner).unwrap()).round() / 1e6
    }

    #[test]
    fn threads_that_only_wait_for_each_other_lost_nothing() {
        assert_eq!(share(&[thread(0.6, 0.4, "1"), thread(0.4, 0.6, "1")], &[]), 0.0);
        let eight = vec![thread(0.125, 0.875, "1"); 8];
        assert_eq!(share(&eight, &[]), 0.0);
        // Pinned to two cores in turn: three threads wait on one, two on the other.
        let third = 1.0 / 3.0;
        let mut pinned = vec![thread(third, 1.0 - third, "1"); 3];
        pinned.extend(vec![thread(0.5, 0.5, "2"); 2]);
        assert_eq!(share(&pinned, &[]), 0.0);
    }

    #[test]
    fn what_others_took_of_one_core_is_found_among_several_threads() {
        assert_eq!(share(&[thread(0.014, 0.986, "1")], &[]), 0.986);
        // A third program has half of the core.
        assert_eq!(share(&[thread(0.3, 0.7, "1"), thread(0.2, 0.5, "1")], &[]), 0.5);
        // Two threads on two cores, each with half of its time.
        assert_eq!(share(&[thread(0.5, 0.5, "0-1"), thread(0.5, 0.5, "0-1")], &[]), 0.5);
        assert_eq!(share(&[thread(0.9, 0.0, "0"), thread(0.2, 0.8, "1")], &[]), 0.8);
    }

    #[test]
    fn the_server_on_the_loads_cores_is_not_another_program() {
        let load = [thread(0.5, 0.5, "0-1"), thread(0.5, 0.5, "0-1")];
        assert_eq!(share(&load, &[thread(1.0, 0.0, "0-1")]), 0.0);
        assert_eq!(share(&load, &[thread(1.0, 0.0, "2")]), 0.5);
        assert_eq!(taken_share(&[], &load), None);
    }

    #[test]
    fn a_thread_that_shares_its_core_with_another_program_sees_it() {
        // The other program is played by a thread of this process that is not watched.
        let core = allowed_cores("thread-self").unwrap().0[0];
        let spin = move |until_ns: u64| {
            crate::host::pin::pin_thread_to_set(&CoreList(vec![core])).unwrap();
            let watch = Watch::start();
            while now_ns() < until_ns {
                std::hint::spin_loop();
            }
            watch.finish()
        };
        let until_ns = now_ns() + 600_000_000;
        let stranger = std::thread::spawn(move || spin(until_ns));
        let watched = std::thread::spawn(move || spin(until_ns));
        let stranger = stranger.join().unwrap().unwrap();
        let watched = watched.join().unwrap().unwrap();
        let alone = taken_share(std::slice::from_ref(&watched), &[]).unwrap();
        assert!(alone > 0.2, "{watched:?} {stranger:?}");
        let together = taken_share(std::slice::from_ref(&watched), &[stranger]).unwrap();
        assert!(together < alone, "{together} {alone}");
    }
}
