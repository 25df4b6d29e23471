//! Opens the connections of the load threads: publishers and subscribers, or requesters and
//! responders.

use crate::Failure;
use crate::findings::result::RunResult;
use crate::load::event_loop::{Outgoing, Receiver, ReceiverRole, Sender};
use crate::load::layout::Layout;
use crate::load::tracker::OrderTracker;
use crate::wire::connection::{Dialer, Role};
use crate::wire::frames::frame;

/// Bytes per read; a larger payload gets room for several of its size.
const READ_SIZE: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Publisher to subscriber, both in this process, on one clock
    OneWay,
    /// Requester to responder and back; the responder is in this process too
    Request,
}

/// Opens the receiving connections of each load thread: subscribers, or the responders of requests.
pub fn open_receivers(
    dialer: &Dialer,
    layout: &Layout,
    mode: Mode,
    thread_count: usize,
) -> Result<Vec<Vec<Receiver>>, Failure> {
    let read_size = READ_SIZE.max(4 * layout.payload_size);
    let mut threads: Vec<Vec<Receiver>> = (0..thread_count).map(|_| Vec::new()).collect();
    for index in 0..layout.subscriber_count {
        let mut connection =
            dialer.connect_as(Role::Subscriber, index, "midge-bench receiver", read_size)?;
        let (subjects, queue, role) = match mode {
            Mode::OneWay => {
                let tracker = OrderTracker::new(layout.publisher_count, &layout.subscribed(index));
                (layout.subscription_subjects(index), None, ReceiverRole::Measure(tracker))
            }
            Mode::Request if layout.paired => {
                let role = ReceiverRole::Respond(Outgoing::default());
                (layout.subscription_subjects(index), None, role)
            }
            // Responders share the requests: each is answered once.
            Mode::Request => {
                let role = ReceiverRole::Respond(Outgoing::default());
                (layout.subjects(), Some("responders"), role)
            }
        };
        for (sid, subject) in subjects.iter().enumerate() {
            connection.subscribe(subject, queue, sid as u64 + 1)?;
        }
        connection.fence()?;
        // Receivers fill the threads from the far end, so that with two threads and one pair the
        // sender and the receiver have a thread each.
        threads[thread_count - 1 - index % thread_count].push(Receiver { connection, role });
    }
    Ok(threads)
}

/// Opens the sending connections of each load thread: publishers, or requesters with their inboxes.
pub fn open_senders(
    dialer: &Dialer,
    layout: &Layout,
    mode: Mode,
    seed: u64,
    thread_count: usize,
    result: &mut RunResult,
) -> Result<Vec<Vec<Sender>>, Failure> {
    let mut threads: Vec<Vec<Sender>> = (0..thread_count).map(|_| Vec::new()).collect();
    for index in 0..layout.publisher_count {
        let read_size = READ_SIZE.max(4 * layout.payload_size);
        let mut connection =
            dialer.connect_as(Role::Publisher, index, "midge-bench sender", read_size)?;
        result.server_name = connection.info.name.clone();
        result.server_version = connection.info.version.clone();
        let inbox = format!("{}.inbox.{index}", layout.subject_prefix);
        let reply = (mode == Mode::Request).then_some(inbox.as_str());
        let mut tracker = None;
        if let Some(inbox) = reply {
            connection.subscribe(inbox, None, 1)?;
            connection.fence()?;
            tracker = Some(OrderTracker::new(layout.publisher_count, &[true]));
        }
        let frames = layout
            .subjects()
            .iter()
            .map(|subject| frame(subject, reply, layout.payload_size, seed))
            .collect();
        threads[index % thread_count].push(Sender {
            connection,
            index: index as u16,
            frames,
            sequence: 0,
            outgoing: Outgoing::default(),
            held_back: false,
            due_ns: Vec::new(),
            tracker,
        });
    }
    Ok(threads)
}
