//! Services on one shard: what reaches their mailbox, and whom they reach.

use super::*;
use crate::base::ids::{ClientKey, LinkId};
use crate::base::limits::CHUNK_BYTES;
use crate::base::pool::BufferPool;
use crate::broker::link::{Congestion, InterestChange, LinkSink, Source, Target, Unheard};
use crate::broker::outbox::Outbox;
use crate::broker::route_cache::RouteCache;

const ACCOUNT: AccountId = AccountId(1);
const CONNECTION: ConnectionId = ConnectionId(9);

/// A link that writes down what it is told, and may be full.
#[derive(Default)]
struct Recorder {
    interest: RefCell<Vec<(Vec<u8>, u32)>>,
    forwarded: RefCell<Vec<Vec<u8>>>,
    is_full: Cell<bool>,
}

impl LinkSink for Rc<Recorder> {
    fn interest_changed(&self, change: &InterestChange) {
        self.interest.borrow_mut().push((change.filter().to_vec(), change.weight));
    }

    fn interest_congestion(&self) -> Option<Congestion> {
        None
    }

    fn has_interest_reserve(&self) -> bool {
        true
    }

    fn forward(&self, _source: &Source, _target: &Target<'_>, run: &MessageRun<'_>) {
        self.forwarded.borrow_mut().push(run.subject().to_vec());
    }

    fn note_work(&self, _work: usize) {}

    fn fence(&self) -> Option<Congestion> {
        None
    }

    fn unheard(&self, _unheard: Unheard) {}

    fn is_tight(&self) -> bool {
        self.is_full.get()
    }

    fn message_congestion(&self, _message_bytes: usize) -> Option<Congestion> {
        self.is_full.get().then(|| Congestion { gate: Rc::default(), until: 1 })
    }
}

struct Setting {
    broker: Broker,
    link: LinkId,
    recorder: Rc<Recorder>,
    client: ClientKey,
    outbox: Rc<Outbox>,
    mailbox: Rc<Mailbox>,
}

impl Setting {
    fn new() -> Self {
        let mut broker = Broker::new(1);
        let recorder = Rc::new(Recorder::default());
        let link = broker.link_open(Box::new(recorder.clone()));
        let pool = Rc::new(BufferPool::new(&CHUNK_BYTES, 1 << 20));
        let outbox = Rc::new(Outbox::new(CONNECTION, pool, 1 << 20));
        let client = broker.attach(AccountId::GLOBAL, outbox.clone());
        broker.set_account(client, ACCOUNT);
        Self { broker, link, recorder, client, outbox, mailbox: Rc::default() }
    }

    fn publish(&mut self, subject: &str, payload: &[u8]) -> bool {
        let origin = Origin::client(ACCOUNT, self.client, None, true);
        let mut turn = Turn::default();
        turn.publisher = Some(CONNECTION);
        let run = MessageRun::one(message(subject, payload));
        let routed = self.broker.publish(&origin, &run, &mut RouteCache::default(), &mut turn);
        routed == Routed::Delivered
    }

    fn arrive(&mut self, subject: &str) {
        let source = Source { account: ACCOUNT, publisher: None, no_echo: None, share: 0 };
        let origin = Origin::link(self.link, &source, &Target::PLAIN);
        let run = MessageRun::one(message(subject, b"far"));
        let mut cache = RouteCache::default();
        let _: Routed = self.broker.publish(&origin, &run, &mut cache, &mut Turn::default());
    }

    fn serve(&mut self, filter: &str, reach: Reach) {
        self.broker.subscribe_internal(ACCOUNT, filter.as_bytes(), reach, &self.mailbox);
    }

    fn tell(&mut self, subject: &str) -> Published {
        self.broker.publish_internal(ACCOUNT, &message(subject, b"news"))
    }
}

fn message<'a>(subject: &'a str, payload: &'a [u8]) -> Message<'a> {
    Message {
        subject: subject.as_bytes(),
        reply: b"reply",
        headers: b"",
        body: payload,
        header_size_text: b"",
        size_text: b"4",
        tail: b"",
    }
}

#[test]
fn a_service_of_every_shard_hears_its_own_clients_alone_and_no_shard_hears_of_it() {
    let mut setting = Setting::new();
    setting.serve("ask.*", Reach::OwnShard);
    assert!(setting.publish("ask.me", b"near"));
    assert!(!setting.publish("ask", b"near"));
    setting.arrive("ask.me");
    let expected = Delivery {
        account: ACCOUNT,
        publisher: Some(CONNECTION),
        subject: b"ask.me".to_vec(),
        reply: b"reply".to_vec(),
        headers: Vec::new(),
        payload: b"near".to_vec(),
    };
    assert_eq!(setting.mailbox.take(), Some(expected));
    assert_eq!(setting.mailbox.take(), None);
    assert!(setting.recorder.interest.borrow().is_empty());
    assert_eq!(setting.broker.table_counts(ACCOUNT).subscriptions, 0, "monitoring counts clients");
}

#[test]
fn a_service_of_one_shard_hears_the_whole_server() {
    let mut setting = Setting::new();
    setting.serve("ask.*", Reach::Server);
    assert_eq!(*setting.recorder.interest.borrow(), [(b"ask.*".to_vec(), 1)]);
    setting.arrive("ask.far");
    let delivery = setting.mailbox.take().unwrap();
    assert_eq!((delivery.publisher, &*delivery.payload), (None, &b"far"[..]));
}

#[test]
fn accounts_stay_apart() {
    let mut setting = Setting::new();
    let other = AccountId(2);
    setting.broker.subscribe_internal(other, b"ask", Reach::OwnShard, &setting.mailbox);
    assert!(!setting.publish("ask", b""));
    assert_eq!(setting.mailbox.take(), None);
}

#[test]
fn a_full_mailbox_takes_nothing_and_counts_it() {
    let mut setting = Setting::new();
    setting.serve("ask", Reach::OwnShard);
    for _ in 0..MAILBOX_MESSAGES_MAX {
        assert!(setting.publish("ask", b"1234"));
    }
    assert!(!setting.publish("ask", b"1234"), "the requester is told that nobody answers");
    assert_eq!(setting.mailbox.dropped(), 1);
    assert!(setting.mailbox.take().is_some());
    assert!(setting.publish("ask", b"1234"));
    while setting.mailbox.take().is_some() {}
    let rest = "ask".len() + "reply".len();
    assert!(setting.publish("ask", &vec![0; MAILBOX_BYTES_MAX - rest]));
    assert!(!setting.publish("ask", b""), "and its bytes are bounded");
    assert!(setting.mailbox.take().is_some());
    assert!(setting.publish("ask", b""));
}

#[test]
fn the_server_tells_clients_and_links_but_not_its_own_services() {
    let mut setting = Setting::new();
    setting.serve("news", Reach::OwnShard);
    assert_eq!(setting.tell("news"), Published::NoInterest);
    assert!(!setting.broker.is_wanted(ACCOUNT, b"news"));
    setting.broker.subscribe(setting.client, b"news", b"", b"1", None);
    assert!(setting.broker.is_wanted(ACCOUNT, b"news"));
    assert_eq!(setting.tell("news"), Published::Delivered);
    assert_eq!(setting.outbox.out_messages.get(), 1);
    let change = InterestChange::new(ACCOUNT, b"far", b"", 1);
    setting.broker.link_interest(setting.link, &change);
    assert_eq!(setting.tell("far"), Published::Delivered);
    assert_eq!(*setting.recorder.forwarded.borrow(), [b"far".to_vec()]);
}

#[test]
fn news_for_a_shard_that_does_not_keep_up_are_dropped_and_counted() {
    let mut setting = Setting::new();
    let change = InterestChange::new(ACCOUNT, b"news", b"", 1);
    setting.broker.link_interest(setting.link, &change);
    setting.recorder.is_full.set(true);
    assert_eq!(setting.tell("news"), Published::Congested);
    assert!(setting.recorder.forwarded.borrow().is_empty());
    assert_eq!(setting.broker.counters.internal_dropped, 1);
    setting.recorder.is_full.set(false);
    assert_eq!(setting.tell("news"), Published::Delivered);
}

#[test]
fn a_subscription_with_a_maximum_ends_with_the_news_it_waited_for() {
    let mut setting = Setting::new();
    setting.broker.subscribe(setting.client, b"news", b"", b"1", None);
    setting.broker.unsubscribe(setting.client, b"1", 1);
    assert_eq!(setting.tell("news"), Published::Delivered);
    assert_eq!(setting.tell("news"), Published::NoInterest);
}
