//! One helper thread of the process for work that would stall a shard: bcrypt.
//!
//! Its outcome comes back to the shard as a task. The queue holds at most one job per connection that is
//! logging in, so connections bound it.

use std::io;
use std::sync::mpsc::{Sender, channel};

use super::ShardHandle;
use crate::auth::password::PasswordJob;
use crate::base::ids::ConnectionId;

/// The helper thread's priority: logins wait for messages, not the other way round.
const NICE: i32 = 10;

struct Job {
    password: PasswordJob,
    connection: ConnectionId,
    shard: ShardHandle,
}

/// How shards reach the helper thread, which ends with the last of these.
#[derive(Clone)]
pub struct Offload {
    jobs: Sender<Job>,
}

impl Offload {
    /// # Errors
    /// No thread can be made.
    pub fn start() -> io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        std::thread::Builder::new().name("midge-offload".into()).spawn(move || {
            // Without the right to lower it the thread runs as any other.
            let _ = rustix::process::setpriority_process(None, NICE);
            for job in queue {
                let outcome = job.password.run();
                job.shard.run(move |shard| shard.clients.password_checked(job.connection, outcome));
            }
        })?;
        Ok(Self { jobs })
    }

    pub fn check_password(
        &self,
        password: PasswordJob,
        connection: ConnectionId,
        shard: ShardHandle,
    ) {
        let job = Job { password, connection, shard };
        assert!(self.jobs.send(job).is_ok(), "the helper thread lives as long as this");
    }
}
