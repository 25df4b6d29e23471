//! Consumers deliver, redeliver and end messages as the reference says, and any history keeps the
//! invariants.

use super::acks::Ack;
use super::*;
use crate::jetstream::consumer::count::PendingCount;
use crate::jetstream::consumer::filters::{Filters, Lookup};
use crate::jetstream::consumer::request::PriorityRequest;
use crate::jetstream::consumer::rules::PushRules;
use crate::storage::stream::{NewMessage, Stream, StreamLimits};

const MS: i64 = 1_000_000;
const S: i64 = 1_000_000_000;

/// A consumer with a stream, a clock and listeners.
struct Bench {
    stream: Stream,
    state: ConsumerState,
    machine: Machine,
    filters: Filters,
    count: PendingCount,
    now_ns: i64,
    /// Reply subjects at which nobody listens.
    deaf: Vec<Vec<u8>>,
}

fn explicit() -> Rules {
    Rules {
        ack_policy: AckPolicy::Explicit,
        ack_wait_ns: 30 * S,
        waiting_max: 512,
        ..Rules::default()
    }
}

fn push_rules(rules: Rules) -> Rules {
    let push = PushRules { deliver_subject: b"to"[..].into(), ..PushRules::default() };
    Rules { push: Some(push), ..rules }
}

impl Bench {
    fn new(rules: Rules, messages: u64) -> Self {
        Self::with_filters(rules, messages, &[])
    }

    fn with_filters(rules: Rules, messages: u64, filters: &[&str]) -> Self {
        let mut stream = Stream::new(StreamLimits::default(), 1, 1);
        for _ in 0..messages {
            stream.take(NewMessage { time_ns: S, subject: b"s", headers: b"", payload: b"m" });
        }
        let state = ConsumerState::default();
        let start = Start {
            stream: b"S",
            consumer: b"c",
            rules,
            state: &state,
            listed: Listed::default(),
            last_sequence: messages,
            now_ns: S,
            seed: 1,
        };
        let machine = Machine::new(start);
        let filters = Filters::new(filters.iter().map(|it| it.as_bytes().into()).collect());
        let count = PendingCount::default();
        let mut bench = Self { stream, state, machine, filters, count, now_ns: S, deaf: vec![] };
        bench.catch_up();
        bench
    }

    fn catch_up(&mut self) {
        let Self { machine, filters, stream, count, .. } = self;
        while !count.catch_up(machine, filters, stream).unwrap() {}
    }

    fn append(&mut self, subject: &str, payload: &[u8]) {
        let time_ns = self.now_ns;
        let subject = subject.as_bytes();
        self.stream.take(NewMessage { time_ns, subject, headers: b"", payload });
    }

    fn pull(&mut self, reply: &str, request: PullRequest) {
        self.catch_up();
        let deaf = self.deaf.clone();
        let is_wanted = |subject: &[u8]| !deaf.iter().any(|it| it == subject);
        let Self { machine, state, now_ns, .. } = self;
        machine.request(reply.as_bytes(), request, *now_ns, state, is_wanted);
    }

    fn flush(&mut self, said: &mut Vec<String>) {
        said.extend(self.machine.outputs().drain(..).map(|output| text_of(&output)));
    }

    /// Delivers all that can be delivered now, and returns what left.
    fn serve(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        for _ in 0..100_000 {
            self.flush(&mut said);
            self.catch_up();
            let Self { machine, state, stream, filters, now_ns, deaf, count, .. } = self;
            let want = machine.want(*now_ns, state);
            let found = match want {
                Want::Nothing => {
                    self.flush(&mut said);
                    self.check();
                    return said;
                }
                Want::Again(sequence) | Want::Listed(sequence) => stream.get(sequence).unwrap(),
                Want::Next(from) => {
                    let last = stream.totals().last_sequence;
                    match filters.find(stream, from, last).unwrap() {
                        Lookup::Found(message) => Some(message),
                        Lookup::Passed(sequence, is_end) => {
                            machine.passed(sequence, is_end, *now_ns, state);
                            count.moved(machine);
                            if is_end {
                                self.flush(&mut said);
                                self.check();
                                return said;
                            }
                            continue;
                        }
                    }
                }
            };
            let Some(message) = found else {
                machine.gone(want, *now_ns, state);
                continue;
            };
            let Some(envelope) = machine.offer(&message, *now_ns, state) else {
                self.flush(&mut said);
                if self.machine.is_ready(self.now_ns) && self.machine.waiting.is_empty() {
                    continue;
                }
                return said;
            };
            if deaf.iter().any(|it| *it == envelope.to) {
                machine.nobody(*now_ns);
                continue;
            }
            let reply = String::from_utf8_lossy(envelope.reply).into_owned();
            let tokens: Vec<&str> = reply.split('.').collect();
            let to = String::from_utf8_lossy(envelope.to);
            said.push(format!(
                "{to}: {}/{} #{} left {}",
                tokens[5], tokens[4], tokens[6], tokens[8]
            ));
            machine.delivered(*now_ns, state);
            count.moved(machine);
        }
        panic!("it never ends: {said:?}");
    }

    /// Acknowledges a message by its stream sequence, as the delivery whose number is given.
    fn ack(&mut self, stream_sequence: u64, consumer_sequence: u64, ack: Ack<'_>) -> bool {
        let delivery = Delivery { consumer_sequence, stream_sequence, deliveries: 1 };
        self.machine.ack(&delivery, ack, self.now_ns, Urgency::Rides, &mut self.state)
    }

    /// Lets time pass, and returns what leaves meanwhile.
    fn wait(&mut self, nanoseconds: i64) -> Vec<String> {
        let until_ns = self.now_ns + nanoseconds;
        let mut said = Vec::new();
        loop {
            let deadline_ns = self.machine.deadline_ns(self.now_ns);
            if deadline_ns > until_ns {
                break;
            }
            self.now_ns = self.now_ns.max(deadline_ns);
            let deaf = self.deaf.clone();
            let is_wanted = |subject: &[u8]| !deaf.iter().any(|it| it == subject);
            self.machine.tick(self.now_ns, &mut self.state, is_wanted);
            said.extend(self.serve());
        }
        self.now_ns = until_ns;
        said
    }

    fn check(&self) {
        self.state.check_invariants();
        self.machine.redelivery.check_invariants(&self.state, &self.machine.rules);
        self.machine.waiting.check_invariants(&self.machine.rules);
    }

    fn facts(&mut self) -> times::Facts {
        self.catch_up();
        self.machine.facts(&self.state)
    }
}

fn text_of(output: &Output) -> String {
    match output {
        Output::Status { to, headers, .. } => {
            let (to, headers) = (String::from_utf8_lossy(to), String::from_utf8_lossy(headers));
            let lines = headers.trim_start_matches("NATS/1.0 ").trim_end();
            format!("{to}: {}", lines.replace("\r\n", "|"))
        }
        other => format!("{other:?}"),
    }
}

fn batch(batch: i64) -> PullRequest {
    PullRequest::of(batch)
}

#[test]
fn requests_are_served_one_message_each_in_turn() {
    let mut bench = Bench::new(explicit(), 4);
    bench.pull("a", batch(2));
    bench.pull("b", batch(2));
    let expected = ["a: 1/1 #1 left 3", "b: 2/1 #2 left 2", "a: 3/1 #3 left 1", "b: 4/1 #4 left 0"];
    assert_eq!(bench.serve(), expected);
    assert_eq!(bench.facts().waiting, 0);
    assert_eq!(bench.facts().ack_pending, 4);
}

#[test]
fn requests_end_with_the_status_that_fits() {
    let no_wait = |count| PullRequest { no_wait: true, ..batch(count) };
    let expires = |count, ns| PullRequest { expires_ns: ns, ..batch(count) };
    let bytes = |count, bytes_max| PullRequest { bytes_max, expires_ns: S, ..batch(count) };
    // Messages in the stream, the request, what leaves at once, and within two seconds.
    let cases: [(u64, PullRequest, &[&str], &[&str]); 9] = [
        (0, no_wait(1), &["i: 404 No Messages"], &[]),
        (1, no_wait(2), &["i: 1/1 #1 left 0", "i: 404 No Messages"], &[]),
        (
            0,
            expires(5, 200 * MS),
            &[],
            &["i: 408 Request Timeout|Nats-Pending-Messages: 5|Nats-Pending-Bytes: 0"],
        ),
        (
            0,
            PullRequest { no_wait: true, ..expires(5, 200 * MS) },
            &[],
            &["i: 408 Request Timeout|Nats-Pending-Messages: 5|Nats-Pending-Bytes: 0"],
        ),
        (
            1,
            PullRequest { no_wait: true, ..expires(5, 200 * MS) },
            &["i: 1/1 #1 left 0", "i: 404 No Messages"],
            &[],
        ),
        (
            2,
            bytes(10, 40),
            &[
                "i: 1/1 #1 left 1",
                "i: 409 Message Size Exceeds MaxBytes|Nats-Pending-Messages: 9|Nats-Pending-Bytes: 8",
            ],
            &[],
        ),
        (
            2,
            bytes(1, 1000),
            &[
                "i: 1/1 #1 left 1",
                "i: 409 Batch Completed|Nats-Pending-Messages: 0|Nats-Pending-Bytes: 968",
            ],
            &[],
        ),
        (
            0,
            expires(0, 200 * MS),
            &[],
            &["i: 408 Request Timeout|Nats-Pending-Messages: 0|Nats-Pending-Bytes: 0"],
        ),
        (
            0,
            PullRequest { heartbeat_ns: 300 * MS, ..expires(1, S) },
            &[],
            &[
                "i: 100 Idle Heartbeat|Nats-Last-Consumer: 0|Nats-Last-Stream: 0",
                "i: 100 Idle Heartbeat|Nats-Last-Consumer: 0|Nats-Last-Stream: 0",
                "i: 100 Idle Heartbeat|Nats-Last-Consumer: 0|Nats-Last-Stream: 0",
                "i: 408 Request Timeout|Nats-Pending-Messages: 1|Nats-Pending-Bytes: 0",
            ],
        ),
    ];
    for (messages, request, at_once, later) in cases {
        let mut bench = Bench::new(explicit(), messages);
        bench.pull("i", request.clone());
        assert_eq!(bench.serve(), at_once, "{messages} messages, {request:?}");
        assert_eq!(bench.wait(2 * S), later, "{messages} messages, {request:?}");
        assert_eq!(bench.facts().waiting, 0);
    }
}

#[test]
fn a_request_without_room_is_refused_unless_it_has_heartbeats() {
    let mut bench = Bench::new(Rules { waiting_max: 2, ..explicit() }, 0);
    for reply in ["a", "b", "c"] {
        bench.pull(reply, batch(1));
    }
    assert_eq!(bench.serve(), ["c: 409 Exceeded MaxWaiting"]);
    bench.pull("d", PullRequest { heartbeat_ns: S, expires_ns: 3 * S, ..batch(1) });
    assert_eq!(bench.serve(), [""; 0]);
    // Requests that nobody waits for any more make room, looked for once a second.
    bench.deaf = vec![b"a".to_vec()];
    bench.wait(2 * S);
    bench.pull("e", batch(1));
    assert_eq!(bench.serve(), [""; 0]);
    bench.append("s", b"m");
    assert_eq!(bench.serve(), ["b: 1/1 #1 left 0"]);
}

#[test]
fn a_request_that_does_not_wait_is_told_if_others_wait_for_what_there_is() {
    let mut bench = Bench::new(explicit(), 2);
    bench.machine.pause(i64::MAX);
    bench.pull("a", batch(5));
    bench.pull("b", PullRequest { no_wait: true, ..batch(1) });
    assert_eq!(bench.serve(), ["b: 408 Requests Pending"]);
    // A paused consumer has nothing for it.
    bench.machine.pause(0);
    bench.serve();
    bench.machine.pause(i64::MAX);
    bench.append("s", b"m");
    bench.machine.sweep(|_| false);
    bench.pull("c", PullRequest { no_wait: true, ..batch(1) });
    assert_eq!(bench.serve(), ["c: 404 No Messages"]);
}

#[test]
fn requests_of_clients_that_left_are_passed_over() {
    let mut bench = Bench::new(explicit(), 1);
    bench.deaf = vec![b"a".to_vec()];
    bench.pull("a", batch(1));
    bench.pull("b", batch(1));
    assert_eq!(bench.serve(), ["b: 1/1 #1 left 0"]);
    assert_eq!(bench.facts().waiting, 0);
}

#[test]
fn messages_are_delivered_again_until_they_are_acknowledged() {
    let mut bench = Bench::new(Rules { ack_wait_ns: S, ..explicit() }, 3);
    bench.pull("i", batch(100));
    bench.serve();
    assert!(bench.ack(2, 2, Ack::Done));
    assert_eq!(bench.wait(S), ["i: 1/2 #4 left 0", "i: 3/2 #5 left 0"]);
    assert!(bench.ack(1, 1, Ack::Done));
    assert!(bench.ack(1, 1, Ack::Done), "a second one is answered");
    let facts = bench.facts();
    assert_eq!((facts.ack_pending, facts.redelivered), (1, 1));
    assert_eq!(facts.floor, SequencePair { consumer: 2, stream: 2 });
    assert!(bench.ack(3, 3, Ack::Progress));
    assert_eq!(bench.wait(S), ["i: 3/3 #6 left 0"]);
    assert!(bench.ack(3, 3, Ack::Nak(None)));
    let nak = "Advisory(Nak(Delivery { consumer_sequence: 3, stream_sequence: 3, deliveries: 1 }))";
    assert_eq!(bench.serve(), [nak, "i: 3/4 #7 left 0"]);
    assert!(bench.ack(3, 3, Ack::Nak(Some(5 * S))));
    assert_eq!(bench.serve(), [nak]);
    assert_eq!(bench.wait(5 * S - 1), [""; 0]);
    assert_eq!(bench.wait(1), ["i: 3/5 #8 left 0"]);
    assert!(bench.ack(3, 3, Ack::Nothing), "unknown ones are answered");
    assert!(bench.ack(3, 3, Ack::Term(b"why")));
    let facts = bench.facts();
    assert_eq!((facts.ack_pending, facts.redelivered), (0, 0));
    assert_eq!(facts.floor, facts.delivered);
    assert!(!bench.ack(4, 4, Ack::Done), "not delivered yet");
    assert_eq!(bench.serve().len(), 1, "the advisory");
    assert_eq!(bench.wait(10 * S), [""; 0]);
}

#[test]
fn a_backoff_gives_each_wait_and_the_last_delivery_is_the_last() {
    let backoff_ns = vec![300 * MS, 900 * MS];
    let mut bench = Bench::new(Rules { backoff_ns, deliveries_max: 4, ..explicit() }, 1);
    bench.pull("i", batch(100));
    assert_eq!(bench.serve(), ["i: 1/1 #1 left 0"]);
    for (wait_ns, said) in [
        (300 * MS, "i: 1/2 #2 left 0"),
        (900 * MS, "i: 1/3 #3 left 0"),
        (900 * MS, "i: 1/4 #4 left 0"),
        (900 * MS, "Advisory(MaxDeliveries { stream_sequence: 1, deliveries: 4 })"),
    ] {
        assert_eq!(bench.wait(wait_ns - 1), [""; 0]);
        assert_eq!(bench.wait(1), [said]);
    }
    assert_eq!(bench.wait(9 * S), [""; 0]);
    let facts = bench.facts();
    assert_eq!((facts.ack_pending, facts.redelivered), (0, 1));
    assert!(bench.machine.needs(1, &bench.state), "a work queue keeps it");
}

#[test]
fn too_many_pending_acks_stop_new_messages_and_not_those_delivered_again() {
    let rules = Rules { pending_acks_max: 2, ack_wait_ns: S, ..explicit() };
    let mut bench = Bench::new(rules, 4);
    bench.pull("i", batch(2));
    assert_eq!(bench.serve().len(), 2);
    bench.pull("j", PullRequest { no_wait: true, ..batch(1) });
    assert_eq!(bench.serve(), [""; 0], "it waits");
    bench.pull("k", batch(2));
    assert_eq!(bench.wait(S).len(), 2, "both again");
    assert!(bench.ack(1, 1, Ack::Done));
    assert_eq!(bench.serve(), ["k: 3/1 #5 left 1"]);
}

#[test]
fn one_ack_ends_all_before_it() {
    let rules =
        Rules { ack_policy: AckPolicy::All, ack_wait_ns: S, tells_done: true, ..explicit() };
    let mut bench = Bench::new(rules, 5);
    bench.pull("i", batch(100));
    bench.serve();
    bench.wait(S);
    assert!(bench.ack(3, 3, Ack::Done));
    assert_eq!(bench.serve(), ["DoneThrough { after: 0, through: 3 }"]);
    assert_eq!(bench.facts().floor, SequencePair { consumer: 3, stream: 3 });
    assert!(bench.ack(2, 2, Ack::Done), "an older one changes nothing");
    assert_eq!(bench.wait(S), ["i: 4/3 #11 left 0", "i: 5/3 #12 left 0"]);
    bench.check();
}

#[test]
fn without_acks_the_floor_follows_and_nothing_comes_again() {
    let rules = Rules { ack_policy: AckPolicy::None, tells_done: true, ..explicit() };
    let mut bench = Bench::new(rules, 2);
    bench.pull("i", batch(100));
    let done = |stream_sequence| format!("{:?}", Output::Done { stream_sequence });
    assert_eq!(
        bench.serve(),
        ["i: 1/1 #1 left 1".into(), done(1), "i: 2/1 #2 left 0".into(), done(2)]
    );
    assert!(!bench.ack(1, 1, Ack::Done));
    assert_eq!(bench.facts().floor, SequencePair { consumer: 2, stream: 2 });
    assert_eq!(bench.wait(99 * S), [""; 0]);
}

#[test]
fn messages_that_were_deleted_meanwhile_end() {
    let mut bench = Bench::new(Rules { ack_wait_ns: S, ..explicit() }, 3);
    bench.pull("i", batch(2));
    bench.serve();
    bench.stream.delete(1).unwrap();
    bench.pull("i", batch(2));
    let said = bench.wait(S);
    assert!(said[0].contains("Terminated"), "{said:?}");
    assert_eq!(said[1..], ["i: 2/2 #3 left 1", "i: 3/1 #4 left 0"]);
    // A purge ends all before it.
    assert!(bench.machine.purged(4, 100, &mut bench.state));
    assert_eq!(bench.facts().ack_pending, 0);
    bench.check();
}

#[test]
fn filters_choose_messages_and_the_count_of_those_left_is_exact() {
    let mut bench = Bench::with_filters(explicit(), 0, &["a", "b.*"]);
    for subject in ["a", "x", "b.1", "a", "y", "b.2", "a"] {
        bench.append(subject, b"m");
    }
    assert_eq!(bench.facts().pending, 5);
    bench.pull("i", batch(2));
    assert_eq!(bench.serve(), ["i: 1/1 #1 left 4", "i: 3/1 #2 left 3"]);
    bench.stream.delete(6).unwrap();
    bench.append("a", b"m");
    bench.append("x", b"m");
    assert_eq!(bench.facts().pending, 3);
    // Messages behind the position may go.
    bench.stream.delete(1).unwrap();
    bench.pull("i", batch(9));
    assert_eq!(bench.serve(), ["i: 4/1 #3 left 2", "i: 7/1 #4 left 1", "i: 8/1 #5 left 0"]);
}

#[test]
fn the_last_by_subject_come_first_and_then_what_is_new() {
    let mut bench = Bench::new(explicit(), 6);
    let listed = Listed { sequences: [2, 5, 6].into(), resume_after: 6 };
    bench.machine.restart(1, listed, &mut bench.state);
    bench.count.forget();
    bench.append("s", b"new");
    bench.stream.delete(5).unwrap();
    bench.pull("i", batch(9));
    assert_eq!(bench.serve(), ["i: 2/1 #1 left 3", "i: 6/1 #2 left 1", "i: 7/1 #3 left 0"]);
}

#[test]
fn a_restart_numbers_from_one() {
    let mut bench = Bench::new(explicit(), 4);
    bench.pull("i", batch(3));
    bench.serve();
    bench.machine.restart(1, Listed::default(), &mut bench.state);
    bench.count.forget();
    bench.filters.forget();
    let facts = bench.facts();
    assert_eq!((facts.delivered.consumer, facts.delivered.stream, facts.pending), (0, 1, 3));
    bench.pull("i", batch(1));
    assert_eq!(bench.serve(), ["i: 2/1 #1 left 2"]);
}

#[test]
fn a_push_consumer_delivers_while_somebody_listens() {
    let mut bench = Bench::new(push_rules(explicit()), 2);
    assert_eq!(bench.serve(), [""; 0]);
    bench.machine.bind(true, bench.now_ns);
    assert_eq!(bench.serve(), ["to: 1/1 #1 left 1", "to: 2/1 #2 left 0"]);
    bench.pull("i", batch(1));
    assert_eq!(bench.serve(), ["i: 409 Consumer is push based"]);
    bench.machine.bind(false, bench.now_ns);
    bench.append("s", b"m");
    assert_eq!(bench.wait(60 * S), [""; 0]);
    bench.machine.bind(true, bench.now_ns);
    assert_eq!(bench.serve(), ["to: 1/2 #3 left 1", "to: 2/2 #4 left 1", "to: 3/1 #5 left 0"]);
}

#[test]
fn heartbeats_come_while_nothing_else_does() {
    let mut rules = push_rules(explicit());
    rules.push.as_mut().unwrap().heartbeat_ns = S;
    let mut bench = Bench::new(rules, 0);
    assert_eq!(bench.wait(5 * S), [""; 0], "nobody listens");
    bench.machine.bind(true, bench.now_ns);
    bench.wait(900 * MS);
    bench.append("s", b"m");
    assert_eq!(bench.serve().len(), 1);
    let heartbeat = "to: 100 Idle Heartbeat|Nats-Last-Consumer: 1|Nats-Last-Stream: 1";
    assert_eq!(bench.wait(2 * S), [heartbeat, heartbeat]);
}

#[test]
fn flow_control_asks_at_half_a_window_and_stops_at_all_of_it() {
    let mut rules = push_rules(Rules { ack_policy: AckPolicy::None, ..explicit() });
    let push = rules.push.as_mut().unwrap();
    (push.has_flow_control, push.heartbeat_ns) = (true, S);
    let mut bench = Bench::new(rules, 0);
    for _ in 0..200 {
        bench.append("s", &[0; 20_000]);
    }
    bench.machine.bind(true, bench.now_ns);
    let said = bench.serve();
    assert_eq!(said.len(), 106);
    let asked = said.iter().position(|it| it == "to: 100 FlowControl Request").unwrap();
    assert_eq!(asked, 53);
    let question = bench.machine.flow.as_ref().unwrap().question().to_vec();
    assert!(question.starts_with(b"$JS.FC.S.c.") && question.len() == 15);
    let stalled = bench.wait(S);
    assert!(
        stalled[0]
            .ends_with(&format!("Nats-Consumer-Stalled: {}", String::from_utf8_lossy(&question)))
    );
    let (now_ns, state) = (bench.now_ns, &mut bench.state);
    assert!(!bench.machine.flow_answer(b"other", None, now_ns, state));
    assert!(bench.machine.flow_answer(&question, None, now_ns, state));
    assert!(bench.serve().len() >= 95);
}

#[test]
fn answers_to_flow_control_acknowledge() {
    let mut rules = push_rules(Rules {
        ack_policy: AckPolicy::FlowControl,
        ack_wait_ns: 0,
        pending_acks_max: 10,
        ..explicit()
    });
    let push = rules.push.as_mut().unwrap();
    (push.has_flow_control, push.heartbeat_ns) = (true, S);
    let mut bench = Bench::new(rules, 25);
    bench.machine.bind(true, bench.now_ns);
    for round in 1..=2 {
        let said = bench.serve();
        assert_eq!(said.len(), 11, "{said:?}");
        assert_eq!(said[10], "to: 100 FlowControl Request");
        let question = bench.machine.flow.as_ref().unwrap().question().to_vec();
        let last = Some((round * 10, round * 10));
        assert!(bench.machine.flow_answer(&question, last, bench.now_ns, &mut bench.state));
        assert_eq!(bench.facts().floor.stream, round * 10);
    }
    assert_eq!(bench.serve().len(), 5);
    // At rest each heartbeat asks.
    let said = bench.wait(S);
    assert_eq!(said.last().unwrap(), "to: 100 FlowControl Request");
}

#[test]
fn a_rate_and_a_rhythm_hold_messages_back() {
    let mut rules = push_rules(Rules { ack_policy: AckPolicy::None, ..explicit() });
    let push = rules.push.as_mut().unwrap();
    (push.bytes_per_second, push.burst_bytes) = (10_000.0, 1200);
    let mut bench = Bench::new(rules, 0);
    for _ in 0..20 {
        bench.append("s", &[0; 1000]);
    }
    bench.machine.bind(true, bench.now_ns);
    assert_eq!(bench.serve().len(), 1);
    let said = bench.wait(3 * S / 2).len();
    assert!((13..=15).contains(&said), "{said}");

    let mut bench = Bench::new(Rules { replays_original: true, ..explicit() }, 0);
    for _ in 0..3 {
        bench.append("s", b"m");
        bench.now_ns += 400 * MS;
    }
    bench.machine.replay.as_mut().unwrap().through = 3;
    bench.pull("i", batch(9));
    assert_eq!(bench.serve(), ["i: 1/1 #1 left 2"]);
    assert_eq!(bench.wait(400 * MS - 1), [""; 0]);
    assert_eq!(bench.wait(1), ["i: 2/1 #2 left 1"]);
    assert_eq!(bench.wait(400 * MS), ["i: 3/1 #3 left 0"]);
    assert!(bench.machine.replay.is_none());
}

#[test]
fn a_pause_stops_deliveries_and_ends_by_itself() {
    let mut bench = Bench::new(explicit(), 1);
    bench.machine.pause(bench.now_ns + S);
    bench.pull("i", PullRequest { expires_ns: 500 * MS, ..batch(1) });
    assert_eq!(bench.serve(), [""; 0]);
    assert_eq!(bench.wait(600 * MS).len(), 1, "the request ends");
    bench.pull("j", batch(1));
    assert_eq!(bench.wait(S), ["Resumed", "j: 1/1 #1 left 0"]);
}

fn priority(group: PriorityRequest, count: i64) -> PullRequest {
    let priority = Some(PriorityRequest { group: b"A"[..].into(), ..group });
    PullRequest { priority, expires_ns: S, ..batch(count) }
}

fn group_rules(policy: PriorityPolicy) -> Rules {
    let groups = vec![b"A"[..].into()];
    Rules { priority: policy, groups, pin_ns: 120 * S, ..explicit() }
}

#[test]
fn an_overflow_request_is_served_while_enough_waits() {
    let pending = |min_pending| PriorityRequest { min_pending, ..Default::default() };
    let acks = |min_ack_pending| PriorityRequest { min_ack_pending, ..Default::default() };
    for (group, served) in [(pending(10), 0), (pending(5), 1), (acks(5), 0), (acks(1), 4)] {
        let mut bench = Bench::new(group_rules(PriorityPolicy::Overflow), 5);
        if group.min_ack_pending == 1 {
            bench.pull("first", priority(PriorityRequest::default(), 1));
            bench.serve();
        }
        bench.pull("i", priority(group.clone(), 9));
        let said = bench.serve().iter().filter(|it| it.starts_with("i: ")).count();
        assert_eq!(said, served, "{group:?}");
    }
}

#[test]
fn lower_priorities_go_first_and_equal_ones_take_turns() {
    let of = |priority| PriorityRequest { priority, ..Default::default() };
    let mut bench = Bench::new(group_rules(PriorityPolicy::Prioritized), 5);
    bench.pull("p4", priority(of(5), 2));
    bench.pull("p0", priority(of(1), 2));
    bench.pull("p1", priority(of(1), 2));
    let order: Vec<String> = bench.serve().iter().map(|it| it[..2].to_owned()).collect();
    assert_eq!(order, ["p0", "p1", "p0", "p1", "p4"]);
}

#[test]
fn one_client_at_a_time_is_pinned() {
    let with = |id: &str| PriorityRequest { id: id.as_bytes().into(), ..Default::default() };
    let mut bench = Bench::new(group_rules(PriorityPolicy::PinnedClient), 4);
    bench.pull("a", priority(with(""), 1));
    let said = bench.serve();
    assert!(said[0].starts_with("Advisory(Pinned") || said[1].starts_with("Advisory(Pinned"));
    let (id, _) = bench.facts().pinned.unwrap();
    assert_eq!(id.len(), 22);
    bench.pull("b", priority(with(""), 1));
    assert_eq!(bench.serve(), [""; 0], "it is not its turn");
    bench.pull("c", priority(with("wrong"), 1));
    assert_eq!(bench.serve(), ["c: 423 Nats-Pin-Id mismatch"]);
    bench.pull("a", priority(with(&id), 1));
    assert_eq!(bench.serve(), ["a: 2/1 #2 left 2"]);
    assert!(bench.machine.unpin(UnpinReason::Admin));
    let said = bench.serve();
    assert!(said[0].contains("Unpinned") && said[0].contains("Admin"));
    assert!(said.contains(&"b: 3/1 #3 left 1".to_owned()), "{said:?}");
    bench.machine.unpin(UnpinReason::Admin);
    bench.pull("a", priority(with(&id), 1));
    let said = bench.serve();
    assert!(said.iter().any(|it| it.starts_with("a: 423 Nats-Wrong-Pin-Id|")), "{said:?}");
    bench.pull("d", priority(with(""), 1));
    bench.serve();
    let said = bench.wait(121 * S);
    assert!(said.iter().any(|it| it.contains("Timeout")), "{said:?}");
    assert!(bench.facts().pinned.is_none());
}

#[test]
fn a_consumer_that_nobody_uses_ends() {
    let rules = Rules { inactive_ns: 5 * S, ack_wait_ns: 10 * S, ..explicit() };
    let mut bench = Bench::new(rules.clone(), 0);
    assert_eq!(bench.wait(5 * S), ["Inactive"]);

    let mut bench = Bench::new(rules.clone(), 1);
    bench.pull("i", batch(2));
    bench.serve();
    assert_eq!(bench.wait(4 * S), [""; 0]);
    assert_eq!(bench.wait(6 * S), ["i: 1/2 #2 left 0"], "a request waits");
    // The last acknowledgement may come in ten seconds, and then five more pass.
    bench.deaf = vec![b"i".to_vec()];
    assert_eq!(bench.wait(14 * S), [""; 0]);
    assert_eq!(bench.wait(6 * S), ["Inactive"]);

    let mut bench = Bench::new(push_rules(rules), 0);
    bench.machine.bind(true, bench.now_ns);
    assert_eq!(bench.wait(60 * S), [""; 0]);
    bench.machine.bind(false, bench.now_ns);
    assert_eq!(bench.wait(5 * S), ["Inactive"]);
}

#[test]
fn a_million_pending_acks_cost_one_look_each() {
    let rules = Rules { ack_wait_ns: S, ..explicit() };
    let mut bench = Bench::new(rules, 3000);
    bench.pull("i", batch(i64::MAX));
    assert_eq!(bench.serve().len(), 3000);
    bench.machine.sweep(|_| false);
    bench.now_ns += S;
    let mut ticks = 1;
    while !bench.machine.tick(bench.now_ns, &mut bench.state, |_| true) {
        ticks += 1;
        assert!(bench.machine.redelivery.queued() <= ticks * ACKS_EXPIRED_AT_ONCE_MAX);
    }
    assert_eq!(ticks, 3000_usize.div_ceil(ACKS_EXPIRED_AT_ONCE_MAX));
    assert_eq!(bench.machine.redelivery.queued(), 3000);
}

#[test]
fn any_history_delivers_everything_and_the_floor_never_falls() {
    for seed in 0..18 {
        let mut random = Rng::with_seed(seed);
        let policy = [AckPolicy::Explicit, AckPolicy::All, AckPolicy::None][seed as usize % 3];
        let rules = Rules {
            ack_policy: policy,
            ack_wait_ns: 2 * S,
            pending_acks_max: 20,
            deliveries_max: if seed % 2 == 0 { 0 } else { 6 },
            backoff_ns: if seed % 5 == 0 { vec![S, 3 * S] } else { vec![] },
            ..explicit()
        };
        let mut bench = Bench::new(rules, 0);
        let mut delivered = std::collections::BTreeSet::new();
        let mut note = |said: Vec<String>| {
            for it in said.iter().filter_map(|it| it.strip_prefix("i: ")) {
                if let Some((sequence, _)) = it.split_once('/') {
                    delivered.extend(sequence.parse::<u64>());
                }
            }
        };
        for _ in 0..300 {
            let floor = bench.state.floor();
            match random.u8(0..8) {
                0 | 1 => bench.append("s", b"m"),
                2 => bench.pull("i", batch(random.i64(0..5))),
                3 => note(bench.wait(random.i64(0..S))),
                _ => {
                    let pending: Vec<(u64, u64)> = bench
                        .state
                        .pending()
                        .iter()
                        .map(|(sequence, message)| (*sequence, message.consumer_sequence))
                        .collect();
                    if let Some((sequence, number)) = random.choice(pending) {
                        let ack = random.choice([
                            Ack::Done,
                            Ack::Done,
                            Ack::Nak(None),
                            Ack::Nak(Some(S)),
                            Ack::Progress,
                        ]);
                        bench.ack(sequence, number, ack.unwrap());
                    }
                }
            }
            note(bench.serve());
            bench.check();
            let now = bench.state.floor();
            assert!(now.stream >= floor.stream && now.consumer >= floor.consumer, "seed {seed}");
        }
        // In the end all of them come.
        for _ in 0..400 {
            bench.pull("i", batch(50));
            note(bench.serve());
            note(bench.wait(S));
            let pending: Vec<u64> = bench.state.pending().keys().copied().collect();
            for sequence in pending {
                let number =
                    bench.state.pending().get(&sequence).map_or(0, |it| it.consumer_sequence);
                bench.ack(sequence, number, Ack::Done);
            }
        }
        let last = bench.stream.totals().last_sequence;
        assert_eq!(
            delivered.into_iter().collect::<Vec<_>>(),
            (1..=last).collect::<Vec<_>>(),
            "seed {seed}"
        );
        assert_eq!(bench.facts().pending, 0);
        assert_eq!(bench.facts().floor.stream, last, "seed {seed}");
    }
}
