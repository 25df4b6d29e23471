//! Runs against the same messages one by one.

use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::auth::permissions::{Permissions, SubscribeRight};
use crate::base::ids::{ClientKey, ConnectionId};
use crate::base::limits::{CHUNK_BYTES, LEFTOVERS_MAX, RUN_MESSAGES_MAX, TURN_WORK_MAX};
use crate::base::pool::BufferPool;
use crate::broker::mailbox::Mailbox;
use crate::broker::outbox::Outbox;
use crate::broker::service::{Reach, ServiceInterest, ServiceSubscription};
use crate::config::auth_options::{PermissionOptions, SubjectPermissionOptions};
use crate::protocol::message::Tail;
use crate::protocol::nats::parser::ParserLimits;
use crate::protocol::nats::plain::{extend_run, repeated_publish};

const LIMITS: ParserLimits =
    ParserLimits { control_line_bytes_max: 4096, payload_bytes_max: 1 << 20, headers: true };

const KNOWN: &[u8] = b"PUB a.b ";

/// Lists that are not needed any more wait within a bound, however fast new ones are made.
#[test]
fn what_long_lists_leave_behind_is_bounded() {
    const RECEIVERS: usize = 4_000;
    let mut broker = Broker::new(1);
    let pool = Rc::new(BufferPool::new(&CHUNK_BYTES, 1 << 20));
    let client =
        broker.attach(AccountId::GLOBAL, Rc::new(Outbox::new(ConnectionId(5), pool, 1 << 20)));
    for sid in 0..RECEIVERS {
        broker.subscribe(client, b"many.*", b"", sid.to_string().as_bytes(), None);
    }
    let mut most = 0;
    for number in 0..3_000 {
        let subject = format!("many.{number}");
        let account = &mut broker.accounts[0];
        let mut found =
            account.matched(AccountId::GLOBAL, subject.as_bytes(), &mut (TURN_WORK_MAX / 3));
        while let Err(builder) = found {
            found = builder.go_on(account, &mut TURN_WORK_MAX.clone());
        }
        most = most.max(broker.shared.leftovers.count());
    }
    let bound = LEFTOVERS_MAX - 2 * RECEIVERS..LEFTOVERS_MAX + 2 * RECEIVERS;
    assert!(bound.contains(&most), "{most}");
    while broker.work_off() {}
    assert_eq!(broker.shared.leftovers.count(), 0);
}

/// One client's subscription of a random setting.
#[derive(Clone, Debug)]
struct Wish {
    client: usize,
    filter: &'static str,
    queue: &'static str,
    sid: String,
    /// Deliveries after which it ends; 0 = never.
    max: u64,
    denies: bool,
}

#[derive(Clone, Debug)]
struct Plan {
    pending_max: Vec<usize>,
    wishes: Vec<Wish>,
    echo: bool,
    has_service: bool,
}

fn random_plan(random: &mut fastrand::Rng) -> Plan {
    let clients = random.usize(1..6);
    let wishes = (0..random.usize(0..7)).map(|number| Wish {
        client: random.usize(..clients),
        filter: ["a.b", "a.*", ">", "a.c"][random.usize(..4)],
        queue: if random.usize(..12) == 0 { "q" } else { "" },
        sid: if random.bool() { "1".into() } else { number.to_string() },
        max: if random.usize(..4) == 0 { random.u64(1..20) } else { 0 },
        denies: random.usize(..8) == 0,
    });
    Plan {
        wishes: wishes.collect(),
        pending_max: (0..clients)
            .map(|_| if random.usize(..4) == 0 { random.usize(1..2000) } else { 1 << 20 })
            .collect(),
        echo: random.bool(),
        has_service: random.usize(..10) == 0,
    }
}

struct Setting {
    broker: Broker,
    clients: Vec<(ClientKey, Rc<Outbox>)>,
    origin: Origin<'static>,
    mailbox: Rc<Mailbox>,
    _service: Option<ServiceSubscription>,
}

impl Setting {
    /// The first client is the publisher.
    fn new(plan: &Plan) -> Self {
        let mut broker = Broker::new(3);
        let pool = Rc::new(BufferPool::new(&CHUNK_BYTES, 1 << 20));
        let clients: Vec<_> = plan
            .pending_max
            .iter()
            .zip(5..)
            .map(|(pending_max, number)| {
                let id = ConnectionId(number);
                let outbox = Rc::new(Outbox::new(id, pool.clone(), *pending_max));
                (broker.attach(AccountId::GLOBAL, outbox.clone()), outbox)
            })
            .collect();
        for wish in &plan.wishes {
            let key = clients[wish.client].0;
            let sid = wish.sid.as_bytes();
            let deny = wish.denies.then(|| match denying().may_subscribe(b">", None) {
                SubscribeRight::AllowedWithDeliveryFilter(deny) => deny,
                _ => panic!("the filter reaches what is denied"),
            });
            broker.subscribe(key, wish.filter.as_bytes(), wish.queue.as_bytes(), sid, deny);
            if wish.max > 0 {
                broker.unsubscribe(key, sid, wish.max);
            }
        }
        let mailbox = Rc::<Mailbox>::default();
        let service = plan.has_service.then(|| {
            let interest = ServiceInterest::all(AccountId::GLOBAL, b"a.*", Reach::OwnShard);
            broker.subscribe_service(interest, &mailbox)
        });
        let no_echo = (!plan.echo).then_some(clients[0].1.id);
        let origin = Origin::client(AccountId::GLOBAL, clients[0].0, no_echo, false);
        Self { broker, clients, origin, mailbox, _service: service }
    }

    /// All there is to see of what happened.
    fn outcome(&mut self, turn: &Turn) -> Vec<String> {
        assert!(turn.unfinished.is_none());
        let mut seen = Vec::new();
        for (key, outbox) in &self.clients {
            let counts = (outbox.out_messages.get(), outbox.out_bytes.get());
            seen.push(format!(
                "{counts:?} {} {:?} {:?} {} subscriptions",
                outbox.pending_bytes(),
                outbox.close_reason(),
                queued(outbox),
                self.broker.subscription_count(*key),
            ));
        }
        let served = self.mailbox.len();
        seen.push(format!("{served} for the service"));
        seen
    }
}

/// Takes all that waits to be sent.
fn queued(outbox: &Outbox) -> String {
    let mut bytes = Vec::new();
    while let Poll::Ready(Some(chunk)) =
        std::pin::pin!(outbox.next_chunk()).poll(&mut Context::from_waker(Waker::noop()))
    {
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).expect("payloads are text")
}

fn denying() -> Permissions {
    let deny = SubjectPermissionOptions { allow: None, deny: Some(vec!["a.b".into()]) };
    let options = PermissionOptions { subscribe: Some(deny), ..PermissionOptions::default() };
    Permissions::compile(&options, false).expect("a subject")
}

/// The bytes one connection sends: plain PUBs on one subject.
fn random_input(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut input = Vec::new();
    for _ in 0..random.usize(1..40) {
        let size = [0, 3, 16, 16, 16, 900, 3000][random.usize(..7)];
        input.extend_from_slice(format!("PUB a.b {size}\r\n").as_bytes());
        input.extend((0..size).map(|_| random.alphanumeric() as u8));
        input.extend_from_slice(b"\r\n");
    }
    input
}

/// Publishes all of `input`; in runs, or one by one.
fn publish_all(setting: &mut Setting, input: &[u8], in_runs: bool) -> (Turn, usize) {
    let (mut cache, mut turn) = (RouteCache::default(), Turn::default());
    let (mut at, mut longest) = (0, 0);
    let mut tails: Vec<Tail> = Vec::new();
    while at < input.len() {
        let rest = &input[at..];
        let (message, consumed) = repeated_publish(rest, KNOWN, &LIMITS).expect("a plain PUB");
        let Setting { broker, origin, .. } = setting;
        let run = MessageRun::one(message);
        if at == 0 || !in_runs {
            let _: Routed = broker.publish(origin, &run, &mut cache, &mut turn);
            at += consumed;
            continue;
        }
        let messages_max = broker.run_max(AccountId::GLOBAL, &cache, &turn);
        if messages_max < 2 {
            let _: Routed = broker.publish(origin, &run.repeated(), &mut cache, &mut turn);
            at += consumed;
            continue;
        }
        at += extend_run(rest, KNOWN, &message, consumed, messages_max, &LIMITS, &mut tails);
        let run = MessageRun::new(message.subject, rest, &tails);
        longest = longest.max(run.len());
        let _: Routed = broker.publish(origin, &run.repeated(), &mut cache, &mut turn);
    }
    (turn, longest)
}

#[test]
fn a_run_does_to_everybody_what_its_messages_do_one_by_one() {
    let mut random = fastrand::Rng::with_seed(11);
    let (mut in_runs, mut overflowed, mut ended) = (0, 0, 0);
    for _ in 0..4000 {
        let plan = random_plan(&mut random);
        let input = random_input(&mut random);
        let mut one_by_one = Setting::new(&plan);
        let (turn, _) = publish_all(&mut one_by_one, &input, false);
        let expected = one_by_one.outcome(&turn);
        let mut together = Setting::new(&plan);
        let (turn, longest) = publish_all(&mut together, &input, true);
        assert_eq!(together.outcome(&turn), expected, "{plan:?}");
        in_runs += usize::from(longest > 5);
        overflowed += usize::from(together.clients.iter().any(|(_, outbox)| outbox.is_closing()));
        ended += usize::from(plan.wishes.iter().any(|wish| wish.max > 0));
    }
    assert!(in_runs > 1000 && overflowed > 200 && ended > 200, "{in_runs} {overflowed} {ended}");
}

#[test]
fn what_stands_in_the_way_of_runs() {
    let wish = |client, queue, sid: &str| Wish {
        client,
        filter: "a.b",
        queue,
        sid: sid.into(),
        max: 0,
        denies: false,
    };
    let run_max = |wishes: &[Wish], has_service| {
        let pending_max = vec![1 << 20; 3];
        let plan = Plan { pending_max, wishes: wishes.to_vec(), echo: true, has_service };
        let mut setting = Setting::new(&plan);
        let (mut cache, turn) = (RouteCache::default(), &mut Turn::default());
        let (message, _) = repeated_publish(b"PUB a.b 0\r\n\r\n", KNOWN, &LIMITS).expect("plain");
        let run = MessageRun::one(message);
        let _: Routed = setting.broker.publish(&setting.origin, &run, &mut cache, turn);
        *turn = Turn::default();
        let fresh = setting.broker.run_max(AccountId::GLOBAL, &cache, turn);
        turn.spend(TURN_WORK_MAX - 6);
        (fresh, setting.broker.run_max(AccountId::GLOBAL, &cache, turn))
    };
    assert_eq!(run_max(&[], false), (RUN_MESSAGES_MAX, 6));
    let two = [wish(1, "", "1"), wish(2, "", "1")];
    assert_eq!(run_max(&two, false), (RUN_MESSAGES_MAX, 2));
    // One client hears each message on both of its subscriptions before the next.
    assert_eq!(run_max(&[wish(1, "", "1"), wish(1, "", "2")], false), (1, 1));
    assert_eq!(run_max(&[wish(1, "q", "1")], false), (1, 1));
    assert_eq!(run_max(&[], true), (1, 1));
}
