//! Helper threads of the process for work that would stall a shard: bcrypt.
//!
//! An outcome comes back to the shard as an order. The queue holds one job per connection that is logging in,
//! and those of connections that went meanwhile, which are left out when their turn comes; it has a bound.
//!
//! They stay out of the shards' way: where this process has cores that no shard is pinned to, there is one
//! thread on each of those (four at most) and on no other. Where shards have every core there is one thread
//! that goes wherever there is idle time, below the shards: one that has something to do takes its core back, and
//! one that never rests leaves it a tenth.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::thread::{CpuSet, sched_setaffinity};

use super::{ShardHandle, ShardOrder};
use crate::auth::password::PasswordJob;
use crate::base::ids::LoginId;
use crate::base::limits::{HELPER_NICE, OFFLOAD_THREADS_MAX, PASSWORD_CHECKS_MAX};

struct Job {
    password: PasswordJob,
    login: LoginId,
    shard: ShardHandle,
}

/// How shards reach the helper threads, which end with the last of these.
#[derive(Clone)]
pub struct Offload {
    jobs: Sender<Job>,
    /// Jobs in the queue. Only a count: the channel orders what the jobs hold.
    waiting: Arc<AtomicUsize>,
}

impl Offload {
    /// `free_cores` are those that no shard is pinned to; empty where shards have or may use all.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn start(free_cores: &[usize]) -> io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let cores: Vec<Option<usize>> = match free_cores {
            [] => vec![None],
            some => some.iter().copied().take(OFFLOAD_THREADS_MAX).map(Some).collect(),
        };
        let waiting = Arc::new(AtomicUsize::new(0));
        for core in cores {
            let (queue, waiting) = (queue.clone(), waiting.clone());
            std::thread::Builder::new().name("midge-offload".into()).spawn(move || {
                settle(core);
                while let Some(job) = next(&queue) {
                    waiting.fetch_sub(1, Ordering::Relaxed);
                    if !job.password.is_wanted() {
                        continue;
                    }
                    let outcome = job.password.run();
                    job.shard.give(ShardOrder::PasswordChecked(job.login, outcome));
                }
            })?;
        }
        Ok(Self { jobs, waiting })
    }

    pub fn check_password(&self, password: PasswordJob, login: LoginId, shard: ShardHandle) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= PASSWORD_CHECKS_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let job = Job { password, login, shard };
        assert!(self.jobs.send(job).is_ok(), "the helper threads live as long as this");
    }
}

/// Gives this thread its place. Where the kernel does not let it, it runs as any other.
fn settle(core: Option<usize>) {
    match core {
        Some(core) => {
            let mut set = CpuSet::new();
            set.set(core);
            let _ = sched_setaffinity(None, &set);
        }
        None => {
            let _ = rustix::process::setpriority_process(None, HELPER_NICE);
        }
    }
}

/// The next job; None when no shard is left. One thread waits, the others wait for it.
fn next(queue: &Mutex<Receiver<Job>>) -> Option<Job> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}
