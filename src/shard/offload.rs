//! Helper threads of the process for work that would stall a shard: bcrypt.
//!
//! A job goes to a helper through the ring of a shard and that helper; its outcome comes back to
//! the shard as an order. No lock is shared with threads that run below the shards' priority. Jobs
//! that find no room in the rings wait on their shard, up to a bound: one per connection that is
//! logging in, and those of clients that are gone, which are skipped when their turn comes.
//!
//! Helpers stay out of the shards' way. If the process has cores that no shard is pinned to, there
//! is one thread on each of these (four at most), and none elsewhere. If shards have every core,
//! there is one thread that runs wherever there is idle time, at a lower priority: a shard with
//! work takes its core back, and one that never rests leaves the helper a tenth of it.

use std::collections::VecDeque;
use std::io;
use std::thread::Thread;

use super::order::{ShardHandle, ShardOrder};
use super::pinning;
use crate::auth::password::PasswordJob;
use crate::base::ids::LoginId;
use crate::base::limits::{
    HELPER_NICE, OFFLOAD_RING_SLOTS, OFFLOAD_THREADS_MAX, PASSWORD_CHECKS_MAX,
    PASSWORD_CHECKS_SWEEP_MIN,
};
use crate::base::ring::{RingSource, RingTarget, ring};

struct Job {
    password: PasswordJob,
    login: LoginId,
    shard: ShardHandle,
}

/// One shard's access to the helper threads, which end once every shard has dropped its own.
pub(crate) struct Offload {
    helpers: Vec<Helper>,
    /// Jobs that found no room in the rings, oldest first.
    waiting: VecDeque<Job>,
    /// The number of waiting jobs at which those that nobody waits for are dropped.
    sweep_at: usize,
    shard: ShardHandle,
}

struct Helper {
    jobs: RingSource<Job>,
    thread: Thread,
}

impl Offload {
    /// Starts the helper threads; returns one `Offload` per shard, in order. `free_cores` are the
    /// cores that no shard is pinned to; empty if shards may use all.
    ///
    /// # Errors
    /// If no thread can be made.
    pub(crate) fn start(free_cores: &[usize], shards: &[ShardHandle]) -> io::Result<Vec<Self>> {
        let cores: Vec<Option<usize>> = match free_cores {
            [] => vec![None],
            some => some.iter().copied().take(OFFLOAD_THREADS_MAX).map(Some).collect(),
        };
        let mut ends: Vec<Self> = shards
            .iter()
            .map(|shard| Self {
                helpers: Vec::new(),
                waiting: VecDeque::new(),
                sweep_at: PASSWORD_CHECKS_SWEEP_MIN,
                shard: shard.clone(),
            })
            .collect();
        for core in cores {
            let (sources, targets): (Vec<_>, Vec<_>) =
                shards.iter().map(|_| ring(OFFLOAD_RING_SLOTS)).unzip();
            let helper = std::thread::Builder::new().name("midge-offload".into());
            let helper = helper.spawn(move || {
                settle(core);
                help(targets);
            })?;
            for (end, jobs) in ends.iter_mut().zip(sources) {
                end.helpers.push(Helper { jobs, thread: helper.thread().clone() });
            }
        }
        Ok(ends)
    }

    /// Starts a password check, whose outcome comes as an order. Beyond the bound no check is made.
    pub(crate) fn check_password(&mut self, password: PasswordJob, login: LoginId) {
        if self.waiting.len() >= self.sweep_at {
            self.waiting.retain(|job| job.password.is_wanted());
            self.waiting.shrink_to(PASSWORD_CHECKS_SWEEP_MIN);
            self.sweep_at =
                (2 * self.waiting.len()).clamp(PASSWORD_CHECKS_SWEEP_MIN, PASSWORD_CHECKS_MAX);
        }
        if self.waiting.len() < PASSWORD_CHECKS_MAX {
            let shard = self.shard.clone();
            self.waiting.push_back(Job { password, login, shard });
            self.hand_on();
        }
    }

    /// Gives waiting jobs to helpers that have room. Called after each outcome, too.
    pub(crate) fn hand_on(&mut self) {
        while let Some(job) = self.waiting.front() {
            if !job.password.is_wanted() {
                self.waiting.pop_front();
                continue;
            }
            let Some(helper) =
                self.helpers.iter_mut().max_by_key(|helper| helper.jobs.free_slots())
            else {
                return;
            };
            if helper.jobs.free_slots() == 0 {
                return;
            }
            if let Some(job) = self.waiting.pop_front() {
                // It cannot fail: there is room, and nobody else pushes.
                drop(helper.jobs.push(job));
                helper.thread.unpark();
            }
        }
        if self.waiting.is_empty() {
            // Frees the memory that a burst of logins left behind.
            self.waiting = VecDeque::new();
            self.sweep_at = PASSWORD_CHECKS_SWEEP_MIN;
        }
    }
}

impl Drop for Offload {
    fn drop(&mut self) {
        for Helper { jobs, thread } in self.helpers.drain(..) {
            drop(jobs);
            thread.unpark();
        }
    }
}

/// A helper thread: takes jobs of all shards in turn, until there is no shard left.
fn help(mut shards: Vec<RingTarget<Job>>) {
    loop {
        let mut idle = true;
        for jobs in &mut shards {
            let Some(job) = jobs.pop() else { continue };
            idle = false;
            let outcome = job.password.is_wanted().then(|| job.password.run());
            job.shard.give(ShardOrder::PasswordChecked(job.login, outcome));
        }
        if idle {
            if shards.iter().all(|jobs| jobs.is_abandoned() && jobs.is_empty()) {
                return;
            }
            // No wake-up is missed: a shard pushes before it unparks.
            std::thread::park();
        }
    }
}

/// Pins this thread, or lowers its priority. If the kernel refuses, it runs like any other.
fn settle(core: Option<usize>) {
    match core {
        Some(core) => {
            pinning::run_on(&[core]);
        }
        None => {
            let _ = rustix::process::setpriority_process(None, HELPER_NICE);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;
    use crate::config::auth_options::Secret;
    use crate::net::doorbell::doorbell;

    fn job() -> PasswordJob {
        // A malformed hash is refused at once.
        PasswordJob::new(Secret::new("x"), "y")
    }

    #[test]
    fn every_check_has_its_outcome_however_many_wait() {
        const COUNT: u64 = 50;
        let (sender, orders) = channel();
        let (_doorbell, bell) = doorbell().unwrap();
        let handle = ShardHandle::new(sender, bell);
        let mut ends = Offload::start(&[], std::slice::from_ref(&handle)).unwrap();
        let end = &mut ends[0];
        (0..COUNT).for_each(|login| end.check_password(job(), LoginId::new(login)));
        let mut told = Vec::new();
        while told.len() < COUNT as usize {
            let order = orders.recv_timeout(Duration::from_secs(30)).expect("a helper answers");
            let ShardOrder::PasswordChecked(login, outcome) = order else {
                panic!("another order")
            };
            assert!(!outcome.expect("somebody waits").matches);
            told.push(login.number());
            end.hand_on();
        }
        assert_eq!(told, (0..COUNT).collect::<Vec<_>>());
        assert!(end.waiting.is_empty());
    }

    fn without_helpers(shard: ShardHandle) -> Offload {
        let sweep_at = PASSWORD_CHECKS_SWEEP_MIN;
        Offload { helpers: Vec::new(), waiting: VecDeque::new(), sweep_at, shard }
    }

    #[test]
    fn jobs_of_clients_that_went_do_not_take_the_place_of_others() {
        let (sender, _orders) = channel();
        let (_doorbell, bell) = doorbell().unwrap();
        let mut end = without_helpers(ShardHandle::new(sender, bell));
        let stays = Arc::new(());
        // The job at the front is wanted, so that nothing behind it is looked at when it waits.
        end.check_password(job().for_waiter(&stays), LoginId::new(0));
        for login in 1..=2 * PASSWORD_CHECKS_MAX as u64 {
            end.check_password(job().for_waiter(&Arc::new(())), LoginId::new(login));
            assert!(end.waiting.len() <= PASSWORD_CHECKS_SWEEP_MIN);
        }
        end.check_password(job().for_waiter(&stays), LoginId::new(1));
        assert_eq!(end.waiting.iter().filter(|job| job.password.is_wanted()).count(), 2);
    }

    #[test]
    fn waiting_jobs_have_a_bound_and_unwanted_ones_are_dropped() {
        let (sender, _orders) = channel();
        let (_doorbell, bell) = doorbell().unwrap();
        let shard = ShardHandle::new(sender, bell);
        let mut end = without_helpers(shard);
        let waiter = Arc::new(());
        for login in 0..PASSWORD_CHECKS_MAX as u64 + 1 {
            end.check_password(job().for_waiter(&waiter), LoginId::new(login));
        }
        assert_eq!(end.waiting.len(), PASSWORD_CHECKS_MAX);
        drop(waiter);
        end.hand_on();
        assert!(end.waiting.is_empty());
    }
}
