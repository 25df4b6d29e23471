//! A JetStream run: streams are made, filled and read, counted, and deleted again.

use crate::Failure;
use crate::findings::counts::Counts;
use crate::findings::kinds;
use crate::findings::result::RunResult;
use crate::host::clock::now_ns;
use crate::host::core_time::ThreadUse;
use crate::host::{interrupt, pin};
use crate::jetstream::api::{JetStreamApi, StreamState};
use crate::jetstream::asker::{Answer, Asker, AskerSettings, RequestFrame};
use crate::jetstream::durability;
use crate::jetstream::layout::{self, CONSUMER, StreamLayout};
use crate::jetstream::reader::{Check, Reader, Style, shared_checks};
use crate::jetstream::report::{self, Sums};
use crate::jetstream::threads::{Common, LoadThread, Measured};
use crate::jetstream::work::{AckPolicy, JetStreamPlan, Work};
use crate::load::cores;
use crate::load::run::{Look, Run, Times, Window};
use crate::load::schedule::Schedule;
use crate::load::shared::{Counter, total};
use crate::load::tracker::GroupTracker;
use crate::progress::Progress;
use crate::wire::connection::{Dialer, Role};
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

/// Time from the start of the threads to the first request.
const START_DELAY_NS: u64 = 50_000_000;
/// Time for work that ends by itself: filling a stream, reading it.
const WORK_TIME_MAX: Duration = Duration::from_secs(3600);
/// Requests in flight of a client that fills streams.
const FILL_IN_FLIGHT: usize = 1000;
/// Clients that fill streams.
const FILL_CLIENTS_MAX: usize = 16;
/// Streams that are read back at a time.
const VERIFY_STREAMS_MAX: usize = 64;
/// Messages of a pull request that reads back.
const VERIFY_BATCH: u64 = 1000;
/// Bytes per read of a client; a larger payload gets room for several of its size.
const READ_SIZE: usize = 256 * 1024;
/// Time for the last acknowledgements to be counted by the server.
const BACKLOG_WAIT_MAX: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Everything that a run's steps need.
struct Stage<'a> {
    dialer: Dialer,
    plan: &'a JetStreamPlan,
    layout: StreamLayout,
    api: JetStreamApi,
    progress: &'a Progress,
}

/// Makes one run against the server behind `dialer`.
///
/// # Errors
/// If the server has no JetStream, refuses a stream or a consumer, or cannot be reached.
pub fn run(
    dialer: &Dialer,
    plan: &JetStreamPlan,
    server: Result<u32, String>,
    progress: &Progress,
) -> Result<RunResult, Failure> {
    let mut run = Run::begin(kinds::JETSTREAM, &plan.label(), server, progress).with_generator();
    let dialer = Dialer { headers: true, ..dialer.clone() };
    let api = JetStreamApi::connect(&dialer)?;
    let size_max = api.payload_size_max();
    if size_max > 0 && plan.payload_size > size_max {
        return Err(Failure::new(format!(
            "the server takes payloads up to {size_max} bytes, not {}",
            plan.payload_size
        )));
    }
    run.result.server_name = api.server_name();
    run.result.server_version = api.server_version();
    run.result.durability = durability::text(plan.storage, dialer.monitor_port);
    run.result.warnings.extend(durability::advice(&run.result.durability));
    let mut stage = Stage { dialer, plan, layout: StreamLayout::new(plan), api, progress };
    let outcome = stage.perform(&mut run);
    if let Err(failure) = stage.delete_streams() {
        run.result.warn(format!("streams are left behind: {failure}"));
    }
    outcome?;
    Ok(run.finish())
}

impl Stage<'_> {
    fn perform(&mut self, run: &mut Run<'_>) -> Result<(), Failure> {
        for index in 0..self.layout.stream_count {
            self.api.create_stream(&self.layout.stream_config(index))?;
        }
        let plan = self.plan;
        let mut stored = Vec::new();
        if plan.work.reads_stored() || plan.work == Work::KvGet {
            stored = self.fill()?;
        }
        let askers = match plan.work.reads_stored() {
            true => Vec::new(),
            false => self.open_askers(&mut run.result)?,
        };
        let publisher_count = askers.len().max(stored.len());
        let readers = match plan.work {
            Work::Mixed => self.open_readers(plan.consumer_count, publisher_count)?,
            work if work.reads_stored() => self.open_readers(plan.client_count, publisher_count)?,
            _ => Vec::new(),
        };
        let target = self.target(&readers)?;
        let (window, measured) = self.measure(run, askers, readers, target);
        if !plan.work.reads_stored() && plan.work != Work::KvGet {
            stored = sent_counts(&measured);
        }
        let outcome = report::report(run, plan, &window, measured, &stored, target);
        if outcome.usable {
            self.check(&mut run.result, &outcome, &stored)?;
        }
        Ok(())
    }

    /// Stores what is to be read. Returns the number of messages of each publisher.
    fn fill(&mut self) -> Result<Vec<u64>, Failure> {
        let plan = self.plan;
        let streams = self.layout.stream_count;
        let client_count = match plan.work.is_key_value() {
            true => 1,
            false => streams.min(FILL_CLIENTS_MAX),
        };
        let message_count = match plan.work.is_key_value() {
            true => (streams * plan.subject_count) as u64,
            false => plan.message_count,
        };
        let mut askers = Vec::new();
        for index in 0..client_count {
            let share = message_count / client_count as u64;
            let more = u64::from((index as u64) < message_count % client_count as u64);
            let settings = AskerSettings {
                index: index as u16,
                first_frame: 0,
                window_max: FILL_IN_FLIGHT,
                left: share + more,
                answer: Answer::PubAck,
            };
            let frames = self.publish_frames(&format!("fill{index}"), index, client_count);
            askers.push(self.asker(&format!("fill{index}"), frames, settings)?);
        }
        let times = Times::from_now(START_DELAY_NS, Duration::ZERO, WORK_TIME_MAX);
        let common = self.common(times, 1, Some(0));
        let progress = self.progress;
        let ((), measured) = self.launch(&common, askers, Vec::new(), |common, ended| {
            while !ended() && !interrupt::requested() {
                progress.show("storing", total(&common.answered), message_count);
                std::thread::sleep(LOOK_INTERVAL);
            }
        });
        let stored = sent_counts(&measured);
        for thread in measured {
            if let Some(failure) = thread.failure {
                return Err(Failure::new(format!("storing what is to be read: {failure}")));
            }
            if let Some(refusal) = thread.refusals.first() {
                return Err(Failure::new(format!("storing what is to be read: {refusal}")));
            }
            if !thread.counts.all_good() && !interrupt::requested() {
                return Err(Failure::new(format!(
                    "storing what is to be read: {} messages have no acknowledgement",
                    thread.counts.lost
                )));
            }
        }
        Ok(stored)
    }

    /// Returns the frames of publisher `index` of `count`, with `name` in their replies.
    fn publish_frames(&self, name: &str, index: usize, count: usize) -> Vec<RequestFrame> {
        let inbox = self.layout.inbox(name);
        let seed = self.plan.seed + index as u64;
        let streams = self.layout.streams_of(index, count).into_iter();
        let subjects = streams.flat_map(|stream| self.layout.subjects(stream));
        subjects
            .map(|subject| RequestFrame::new(&subject, &inbox, self.plan.payload_size, seed))
            .collect()
    }

    /// Returns the frames of a client that gets the values of keys.
    fn get_frames(&self, name: &str, index: usize, count: usize) -> Vec<RequestFrame> {
        let inbox = self.layout.inbox(name);
        let keys = self.plan.subject_count as u64;
        let streams = self.layout.streams_of(index, count).into_iter();
        streams
            .flat_map(|stream| {
                let subjects = self.layout.subjects(stream).into_iter().enumerate();
                subjects.map(move |(key, subject)| (stream, key, subject))
            })
            .map(|(stream, key, subject)| {
                let subject = self.layout.direct_get_subject(stream, &subject);
                // One client stored all keys of all buckets in order.
                let stored = stream as u64 * keys + key as u64;
                RequestFrame::new(&subject, &inbox, 0, 0).expecting(stored)
            })
            .collect()
    }

    fn asker(
        &self,
        name: &str,
        frames: Vec<RequestFrame>,
        settings: AskerSettings,
    ) -> Result<Asker, Failure> {
        let read_size = READ_SIZE.max(4 * self.plan.payload_size);
        let place = usize::from(settings.index);
        let connection =
            self.dialer.connect_as(Role::Publisher, place, "midge-bench publisher", read_size)?;
        Asker::new(connection, &self.layout.inbox(name), frames, settings)
    }

    fn open_askers(&self, result: &mut RunResult) -> Result<Vec<Asker>, Failure> {
        let plan = self.plan;
        let count = plan.client_count;
        if plan.stream_count > count && plan.work != Work::Mixed {
            let each = plan.stream_count.div_ceil(count);
            result.warn(format!("each client goes over up to {each} streams"));
        }
        let mut askers = Vec::new();
        for index in 0..count {
            let name = format!("client{index}");
            let frames = match plan.work {
                Work::KvGet => self.get_frames(&name, index, count),
                _ => self.publish_frames(&name, index, count),
            };
            let settings = AskerSettings {
                index: index as u16,
                first_frame: index * frames.len() / count,
                window_max: plan.window(),
                left: u64::MAX,
                answer: match plan.work {
                    Work::KvGet => Answer::Value,
                    _ => Answer::PubAck,
                },
            };
            askers.push(self.asker(&name, frames, settings)?);
        }
        Ok(askers)
    }

    /// Opens the consuming clients, and makes the consumers once somebody hears them.
    fn open_readers(&mut self, count: usize, publishers: usize) -> Result<Vec<Reader>, Failure> {
        let plan = self.plan;
        let mut readers = Vec::new();
        let mut requests = Vec::new();
        let mut made = vec![false; self.layout.stream_count];
        for index in 0..count {
            let place = self.layout.streams_of(index, count)[0];
            let stream = self.layout.stream(place);
            let first = !std::mem::replace(&mut made[place], true);
            let mut inbox = self.layout.inbox(&format!("reader{index}"));
            let mut queue = None;
            let mut consumer = CONSUMER.to_string();
            let mut check = Check::Shared(GroupTracker::new(publishers));
            let style = match plan.work {
                Work::Fetch => Style::InTurn { batch: plan.batch },
                Work::Push => Style::Push,
                _ => Style::Overlapping { batch: plan.batch },
            };
            match plan.work {
                Work::Ordered => {
                    consumer = format!("ordered{index}");
                    check = Check::Ordered { next: 1, counts: Counts::default() };
                    requests.push(layout::ordered_consumer(&stream, &consumer));
                }
                Work::Push => {
                    inbox = self.layout.inbox(&format!("push{place}"));
                    queue = (plan.client_count > 1).then_some("group");
                    if first {
                        requests.push(layout::push_consumer(&stream, &inbox, plan));
                    }
                }
                _ if first => requests.push(layout::pull_consumer(&stream, plan)),
                _ => {}
            }
            let acknowledges = plan.ack == AckPolicy::Explicit && plan.work != Work::Ordered;
            readers.push(self.reader(
                (index, &consumer),
                &stream,
                (&inbox, queue),
                (style, acknowledges),
                check,
            )?);
        }
        for request in &requests {
            self.api.create_consumer(request)?;
        }
        Ok(readers)
    }

    fn reader(
        &self,
        (index, consumer): (usize, &str),
        stream: &str,
        subscription: (&str, Option<&str>),
        manner: (Style, bool),
        check: Check,
    ) -> Result<Reader, Failure> {
        let read_size = READ_SIZE.max(4 * self.plan.payload_size);
        let connection =
            self.dialer.connect_as(Role::Subscriber, index, "midge-bench consumer", read_size)?;
        let pull_subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        Reader::new(connection, subscription, &pull_subject, manner, check)
    }

    /// Returns the number of messages that all readers together have to get, if it is known.
    fn target(&mut self, readers: &[Reader]) -> Result<Option<u64>, Failure> {
        match self.plan.work {
            Work::Mixed => Ok(None),
            Work::Ordered => {
                let mut target = 0;
                for index in 0..readers.len() {
                    let stream = self.layout.streams_of(index, readers.len())[0];
                    target += self.api.stream_state(&self.layout.stream(stream))?.messages;
                }
                Ok(Some(target))
            }
            work if work.reads_stored() => Ok(Some(self.plan.message_count)),
            _ => Ok(Some(0)),
        }
    }

    fn common(&self, times: Times, asking_threads: usize, target: Option<u64>) -> Common {
        let counters = || (0..self.plan.load_threads).map(|_| Counter::default()).collect();
        Common {
            times,
            pacer: self.plan.pacer,
            answered: counters(),
            consumed: counters(),
            asking_threads: AtomicUsize::new(asking_threads),
            target,
        }
    }

    /// Runs the load threads, and meanwhile `during`, which is told whether a thread has ended.
    fn launch<T>(
        &self,
        common: &Common,
        askers: Vec<Asker>,
        readers: Vec<Reader>,
        during: impl FnOnce(&Common, &dyn Fn() -> bool) -> T,
    ) -> (T, Vec<Measured>) {
        let plan = self.plan;
        let thread_count = plan.load_threads;
        let asker_count = askers.len();
        let mut shares: Vec<(Vec<Asker>, Vec<Reader>)> =
            (0..thread_count).map(|_| (Vec::new(), Vec::new())).collect();
        for (index, asker) in askers.into_iter().enumerate() {
            shares[index % thread_count].0.push(asker);
        }
        for (index, reader) in readers.into_iter().enumerate() {
            // From the far end, so that one publisher and one consumer have a thread each.
            shares[thread_count - 1 - index % thread_count].1.push(reader);
        }
        let asking = shares.iter().filter(|(askers, _)| !askers.is_empty()).count();
        common.asking_threads.store(asking, std::sync::atomic::Ordering::Release);
        let open_loop = plan.work == Work::PublishOpen;
        std::thread::scope(|scope| {
            let threads: Vec<_> = shares
                .into_iter()
                .enumerate()
                .map(|(index, clients)| {
                    let share = clients.0.len() as f64 / asker_count.max(1) as f64;
                    let schedule = (open_loop && share > 0.0).then(|| {
                        let phase_ns = (1e9 / plan.rate * index as f64) as u64;
                        let start_ns = common.times.start_ns + phase_ns;
                        let seed = plan.seed + index as u64;
                        Schedule::new(plan.arrival, plan.rate * share, start_ns, seed)
                    });
                    scope.spawn(move || {
                        pin::pin_load_thread(&plan.pin_load, index);
                        LoadThread::new(common, index, clients, schedule).run()
                    })
                })
                .collect();
            let outcome = during(common, &|| threads.iter().all(|thread| thread.is_finished()));
            let measured = threads.into_iter().filter_map(|thread| thread.join().ok()).collect();
            (outcome, measured)
        })
    }

    fn measure(
        &self,
        run: &mut Run<'_>,
        askers: Vec<Asker>,
        readers: Vec<Reader>,
        target: Option<u64>,
    ) -> (Window<Sums>, Vec<Measured>) {
        let plan = self.plan;
        let reads_stored = plan.work.reads_stored();
        let times = match reads_stored {
            true => Times::from_now(START_DELAY_NS, Duration::ZERO, WORK_TIME_MAX),
            false => Times::from_now(START_DELAY_NS, plan.warmup, plan.duration),
        };
        let common = self.common(times, 0, target);
        let progress = self.progress;
        let (window, measured) = self.launch(&common, askers, readers, |common, ended| {
            let sums =
                || Sums { answered: total(&common.answered), consumed: total(&common.consumed) };
            if !reads_stored {
                return run.measure(&times, sums, ended);
            }
            while now_ns() < times.start_ns {
                std::thread::sleep(LOOK_INTERVAL);
            }
            let from: Look<Sums> = run.look(sums);
            while !common.all_consumed() && !ended() && !interrupt::requested() {
                progress.show("consuming", total(&common.consumed), target.unwrap_or(0));
                std::thread::sleep(LOOK_INTERVAL);
            }
            Window { from, until: run.look(sums) }
        });
        let load: Vec<ThreadUse> =
            measured.iter().filter_map(|thread| thread.core_use.clone()).collect();
        let (of_generator, of_server) = run.cores_taken(&window, load.clone(), load);
        cores::report(&mut run.result, of_generator, of_server);
        (window, measured)
    }

    /// Compares what the server says it holds with what was acknowledged and consumed.
    fn check(
        &mut self,
        result: &mut RunResult,
        outcome: &report::Outcome,
        sent: &[u64],
    ) -> Result<(), Failure> {
        let plan = self.plan;
        if plan.work.stores() {
            let mut held = StreamState { messages: 0, last_sequence: 0 };
            for index in 0..self.layout.stream_count {
                let state = self.api.stream_state(&self.layout.stream(index))?;
                held.messages += state.messages;
                held.last_sequence += state.last_sequence;
            }
            let stored = match plan.work.is_key_value() {
                true => held.last_sequence,
                false => held.messages,
            };
            if let Some(fault) = stored_fault(stored, outcome.answered, outcome.unanswered) {
                result.invalidate(fault);
            }
            if plan.verify && outcome.unanswered == 0 {
                self.verify(result, sent, held.messages)?;
            }
        }
        let shared = matches!(plan.work, Work::Consume | Work::Fetch | Work::Push | Work::Mixed);
        if shared {
            for index in 0..self.layout.stream_count {
                let (stream, until) =
                    (self.layout.stream(index), Instant::now() + BACKLOG_WAIT_MAX);
                let mut backlog = self.api.consumer_backlog(&stream, CONSUMER)?;
                while backlog != (0, 0) && Instant::now() < until && !interrupt::requested() {
                    std::thread::sleep(LOOK_INTERVAL);
                    backlog = self.api.consumer_backlog(&stream, CONSUMER)?;
                }
                if backlog != (0, 0) {
                    let (pending, unacknowledged) = backlog;
                    result.invalidate(format!(
                        "everything was consumed, but the consumer of {stream} has {pending} messages \
                         pending and {unacknowledged} without an acknowledgement"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Reads every stream back and checks each message. `sent`: by publisher; all are acknowledged.
    fn verify(
        &mut self,
        result: &mut RunResult,
        sent: &[u64],
        message_count: u64,
    ) -> Result<(), Failure> {
        let mut checks = Vec::new();
        let all: Vec<usize> = (0..self.layout.stream_count).collect();
        for part in all.chunks(VERIFY_STREAMS_MAX) {
            let mut readers = Vec::new();
            let mut part_count = 0;
            for &index in part {
                let stream = self.layout.stream(index);
                self.api.create_consumer(&layout::ordered_consumer(&stream, "verify"))?;
                part_count += self.api.stream_state(&stream)?.messages;
                let inbox = self.layout.inbox(&format!("verify{index}"));
                let check = Check::Shared(GroupTracker::new(sent.len()));
                let manner = (Style::Overlapping { batch: VERIFY_BATCH }, false);
                readers.push(self.reader(
                    (index, "verify"),
                    &stream,
                    (&inbox, None),
                    manner,
                    check,
                )?);
            }
            let times = Times::from_now(START_DELAY_NS, Duration::ZERO, WORK_TIME_MAX);
            let common = self.common(times, 0, Some(part_count));
            let progress = self.progress;
            let ((), measured) = self.launch(&common, Vec::new(), readers, |common, ended| {
                while !ended() && !interrupt::requested() {
                    progress.show("reading back", total(&common.consumed), part_count);
                    std::thread::sleep(LOOK_INTERVAL);
                }
            });
            checks.extend(measured.into_iter().flat_map(|thread| thread.checks));
        }
        let counts = GroupTracker::finish_group(shared_checks(checks), sent);
        if !counts.all_good() || counts.received != message_count {
            result.invalidate(format!(
                "of {message_count} acknowledged messages {} were read back; {} lost, {} doubled, {} out \
                 of order, {} foreign",
                counts.received, counts.lost, counts.doubled, counts.out_of_order, counts.foreign
            ));
        }
        Ok(())
    }

    fn delete_streams(&mut self) -> Result<(), Failure> {
        let mut outcome = Ok(());
        for index in 0..self.layout.stream_count {
            let deleted = self.api.delete_stream(&self.layout.stream(index));
            if deleted.is_err() {
                outcome = deleted;
                // A server that is gone answers none of the others either.
                break;
            }
        }
        outcome
    }
}

/// Returns what is wrong if a server that acknowledged `answered` messages, and was sent another
/// `unanswered`, holds `stored`.
fn stored_fault(stored: u64, answered: u64, unanswered: u64) -> Option<String> {
    if stored < answered {
        return Some(format!(
            "{answered} messages were acknowledged, and the server holds {stored}: {} are lost",
            answered - stored
        ));
    }
    (stored > answered + unanswered).then(|| {
        format!(
            "the server holds {stored} messages, {} more than it was sent",
            stored - answered - unanswered
        )
    })
}

/// Returns the number of requests that each asker sent, by its index.
fn sent_counts(measured: &[Measured]) -> Vec<u64> {
    let mut sent: Vec<(u16, u64)> =
        measured.iter().flat_map(|thread| thread.sent.iter().copied()).collect();
    sent.sort_unstable();
    sent.into_iter().map(|(_, count)| count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_holds_what_it_acknowledged_and_at_most_what_it_was_sent() {
        assert_eq!(stored_fault(100, 100, 0), None);
        assert_eq!(stored_fault(103, 100, 5), None);
        assert!(stored_fault(99, 100, 5).unwrap().ends_with("1 are lost"));
        assert!(stored_fault(106, 100, 5).unwrap().contains("1 more than it was sent"));
    }
}
