//! Services on one shard: what reaches their mailbox, and whom they reach.

use std::cell::Cell;

use super::*;
use crate::base::gate::Gate;
use crate::base::ids::{ClientKey, ConnectionId, LinkId};
use crate::base::limits::{
    CHUNK_BYTES, LATE_LETTER_BYTES_MAX, LATE_LETTERS_MAX, LETTER_BYTES_MAX, LETTERS_MAX,
    TURN_WORK_MAX,
};
use crate::base::pool::BufferPool;
use crate::broker::byte_queue::{RemotePublisher, Resumable};
use crate::broker::link::{InterestChange, LinkSink, Source, Unheard};
use crate::broker::message_trace::Ingress;
use crate::broker::outbox::Outbox;

const ACCOUNT: AccountId = AccountId(1);
const CONNECTION: ConnectionId = ConnectionId(9);

/// A link that writes down what it is told, and may be full.
#[derive(Default)]
pub(in crate::broker) struct Recorder {
    interest: RefCell<Vec<(Vec<u8>, u32)>>,
    /// What was routed by, and what was shown.
    forwarded: RefCell<Vec<(Vec<u8>, Vec<u8>)>>,
    unheard: Cell<u32>,
    is_full: Cell<bool>,
    room: Rc<Gate>,
}

impl Recorder {
    pub(in crate::broker) fn shared() -> Rc<Self> {
        Rc::default()
    }
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

    fn forward(&self, _source: &Source, target: &Target<'_>, run: &MessageRun<'_>) {
        self.forwarded.borrow_mut().push((target.route.to_vec(), run.subject().to_vec()));
    }

    fn note_work(&self, _work: usize) {}

    fn fence(&self) -> Option<Congestion> {
        None
    }

    fn unheard(&self, unheard: Unheard) -> bool {
        self.unheard.set(self.unheard.get() + unheard.share);
        true
    }

    fn is_tight(&self) -> bool {
        self.is_full.get()
    }

    fn message_congestion(&self, _message_bytes: usize) -> Option<Congestion> {
        self.is_full.get().then(|| Congestion { gate: self.room.clone(), until: 1 })
    }
}

struct Setting {
    broker: Broker,
    link: LinkId,
    recorder: Rc<Recorder>,
    client: ClientKey,
    outbox: Rc<Outbox>,
    mailbox: Rc<Mailbox>,
    publisher: ServicePublisher,
    /// Of the client's next publish.
    turn: Turn,
}

impl Setting {
    fn new() -> Self {
        let mut broker = Broker::new(1);
        let recorder = Rc::new(Recorder::default());
        let link = broker.link_open(Box::new(recorder.clone()));
        let pool = Rc::new(BufferPool::new(&CHUNK_BYTES, 1 << 20));
        let outbox = Rc::new(Outbox::new(CONNECTION, pool, 64 << 20));
        let client = broker.attach(AccountId::GLOBAL, outbox.clone());
        broker.set_account(client, ACCOUNT);
        let mut turn = Turn::default();
        turn.publisher = Some(CONNECTION);
        let (mailbox, publisher) = (Rc::default(), ServicePublisher::default());
        Self { broker, link, recorder, client, outbox, mailbox, publisher, turn }
    }

    /// Publishes as the client; whether anybody got it.
    fn publish(&mut self, subject: &str, payload: &[u8]) -> bool {
        let origin = Origin::client(ACCOUNT, self.client, None, true);
        let run = MessageRun::one(message(subject, payload));
        self.turn.begin(usize::MAX);
        let cache = &mut RouteCache::default();
        self.broker.publish(&origin, &run, cache, &mut self.turn) == Routed::Delivered
    }

    /// A message from another shard, where somebody waits for an answer.
    fn arrive(&mut self, subject: &str, target: Target<'_>) -> bool {
        let publisher = Some(ClientKey(7));
        let source = Source { account: ACCOUNT, publisher, no_echo: None, share: 5 };
        let target = Target { home: Some(self.link), ..target };
        let origin = Origin::link(self.link, &source, &target);
        let run = MessageRun::one(message(subject, b"far"));
        let cache = &mut RouteCache::default();
        self.broker.publish(&origin, &run, cache, &mut Turn::default()) == Routed::Delivered
    }

    fn serve(&mut self, filter: &str, reach: Reach) -> ServiceSubscription {
        let interest = ServiceInterest::all(ACCOUNT, filter.as_bytes(), reach);
        self.broker.subscribe_service(interest, &self.mailbox)
    }

    fn tell(&mut self, subject: &str) -> Published {
        let message = message(subject, b"news");
        self.broker.publish_service(&mut self.publisher, ACCOUNT, &message)
    }

    fn heard(&self) -> Vec<String> {
        let mut heard = Vec::new();
        if let Some(mut letters) = self.mailbox.take() {
            while let Some(letter) = letters.next_letter() {
                heard.push(String::from_utf8_lossy(letter.message.subject).into_owned());
            }
        }
        heard
    }

    fn queued(&self) -> String {
        use std::future::Future;
        use std::task::{Context, Poll, Waker};
        let mut bytes = Vec::new();
        while let Poll::Ready(Some(chunk)) =
            std::pin::pin!(self.outbox.next_chunk()).poll(&mut Context::from_waker(Waker::noop()))
        {
            bytes.extend_from_slice(&chunk);
        }
        String::from_utf8(bytes).expect("payloads are text")
    }
}

fn message<'a>(subject: &'a str, payload: &'a [u8]) -> Message<'a> {
    Message::without_headers(subject.as_bytes(), b"reply", payload, b"4")
}

fn is_delivered(published: &Published) -> bool {
    matches!(published, Published::Delivered)
}

#[test]
fn a_service_of_every_shard_hears_its_own_clients_alone_and_no_shard_hears_of_it() {
    let mut setting = Setting::new();
    let _subscription = setting.serve("ask.*", Reach::OwnShard);
    assert!(setting.publish("ask.me", b"near"));
    assert!(!setting.publish("ask", b"near"));
    assert!(!setting.arrive("ask.me", Target::PLAIN));
    let mut letters = setting.mailbox.take().expect("a letter");
    let letter = letters.next_letter().expect("a letter");
    assert_eq!((letter.account, letter.publisher), (ACCOUNT, Some(CONNECTION)));
    assert_eq!((letter.message.subject, letter.message.reply), (&b"ask.me"[..], &b"reply"[..]));
    assert_eq!((letter.message.headers, letter.message.payload()), (&b""[..], &b"near"[..]));
    assert!(letters.next_letter().is_none() && setting.mailbox.take().is_none());
    assert!(setting.recorder.interest.borrow().is_empty());
    assert_eq!(setting.broker.table_counts(ACCOUNT).subscriptions, 0, "monitoring counts clients");
}

#[test]
fn a_service_of_one_shard_hears_the_whole_server_until_its_handle_is_dropped() {
    let mut setting = Setting::new();
    let subscription = setting.serve("ask.*", Reach::Server);
    assert_eq!(*setting.recorder.interest.borrow(), [(b"ask.*".to_vec(), 1)]);
    assert!(setting.arrive("ask.far", Target::PLAIN));
    let mut letters = setting.mailbox.take().expect("a letter");
    let letter = letters.next_letter().expect("a letter");
    assert_eq!((letter.publisher, letter.message.payload()), (None, &b"far"[..]));
    drop((letters, subscription));
    assert!(!setting.publish("ask.me", b""), "at once, whatever the tables still hold");
    assert!(setting.broker.has_ready_work());
    while setting.broker.work_off() {}
    assert_eq!(setting.broker.table_total(), 0);
    assert_eq!(setting.recorder.interest.borrow()[1..], [(b"ask.*".to_vec(), 0)]);
}

#[test]
fn accounts_stay_apart() {
    let mut setting = Setting::new();
    let interest = ServiceInterest::all(AccountId(2), b"ask", Reach::OwnShard);
    let _subscription = setting.broker.subscribe_service(interest, &setting.mailbox);
    assert!(!setting.publish("ask", b""));
    assert!(setting.mailbox.take().is_none());
}

#[test]
fn the_work_of_a_services_subscription_counts_in_the_turn_of_it() {
    const CACHED: usize = 100;
    let mut setting = Setting::new();
    (0..CACHED).for_each(|number| assert!(!setting.publish(&format!("cached.{number}"), b"")));
    let before = setting.broker.backlog.turn_left;
    // It is compared with every cached subject.
    let _subscription = setting.serve("*.new", Reach::OwnShard);
    let work = before - setting.broker.backlog.turn_left;
    let expected = crate::base::limits::SUBSCRIPTION_WORK + CACHED;
    assert!(work >= expected, "{work} of {expected}");
    assert_eq!(setting.broker.take_change_work(), 0, "nothing is left for another turn");
}

#[test]
fn a_queue_group_of_services_and_clients_gets_each_message_once() {
    let mut setting = Setting::new();
    let mailboxes: [Rc<Mailbox>; 2] = Default::default();
    let subscriptions: Vec<_> = mailboxes
        .iter()
        .map(|mailbox| {
            let all = ServiceInterest::all(ACCOUNT, b"job", Reach::Server);
            let interest = ServiceInterest { queue: b"crew", ..all };
            setting.broker.subscribe_service(interest, mailbox)
        })
        .collect();
    setting.broker.subscribe(setting.client, b"job", b"crew", b"1", None);
    assert_eq!(setting.recorder.interest.borrow().last(), Some(&(b"job".to_vec(), 3)));
    for _ in 0..300 {
        assert!(setting.publish("job", b"1234"));
    }
    let count = |mailbox: &Rc<Mailbox>| {
        let mut letters = mailbox.take().expect("letters");
        std::iter::from_fn(|| letters.next_letter().map(|_| ())).count() as u64
    };
    let shares = [count(&mailboxes[0]), count(&mailboxes[1]), setting.outbox.out_messages.get()];
    assert_eq!(shares.iter().sum::<u64>(), 300);
    assert!(shares.iter().all(|share| (50..150).contains(share)), "{shares:?}");
    let named = Target { plain: false, queues: &[b"crew"], ..Target::PLAIN };
    assert!(setting.arrive("job", named), "picked by another shard");
    drop(subscriptions);
    assert!(setting.publish("job", b"1234"), "the client is left");
}

#[test]
fn a_full_mailbox_has_its_publishers_wait_and_takes_what_is_late() {
    let mut setting = Setting::new();
    let _subscription = setting.serve("ask", Reach::Server);
    for number in 1..=LETTERS_MAX {
        assert!(setting.publish("ask", b"1234"));
        assert_eq!(setting.turn.is_over(), number == LETTERS_MAX, "{number}");
    }
    let mailbox = setting.turn.take_full().expect("it is full");
    let Congestion { gate, until } = mailbox.congestion().expect("it is full");
    // What was under way still comes, up to the bound.
    for _ in 0..LATE_LETTERS_MAX {
        assert!(setting.arrive("ask", Target::PLAIN));
    }
    assert!(!setting.publish("ask", b"1234"), "the requester is told that nobody answers");
    assert!(!setting.arrive("ask", Target::PLAIN));
    assert_eq!((setting.mailbox.dropped(), setting.recorder.unheard.get()), (2, 5));
    // A publisher on another shard goes on once half was taken, as those of this one.
    let (resumable, publisher) = (Rc::<Resumable>::default(), ClientKey(3));
    let paced = RemotePublisher { link: setting.link, client: publisher };
    assert!(mailbox.note_paced(paced, &resumable) && !mailbox.note_paced(paced, &resumable));
    let mut letters = setting.mailbox.take().expect("letters");
    for left in (0..LETTERS_MAX + LATE_LETTERS_MAX).rev() {
        assert!(letters.next_letter().is_some());
        let may_go_on = left <= LETTERS_MAX / 2;
        assert_eq!((gate.value() >= until, mailbox.is_full()), (may_go_on, !may_go_on), "{left}");
        assert_eq!(!resumable.borrow().is_empty(), may_go_on);
    }
    assert!(letters.next_letter().is_none());
}

#[test]
fn a_service_may_answer_requests_that_find_no_room() {
    let mut setting = Setting::new();
    let _subscription = setting.serve("ask", Reach::Server);
    setting.mailbox.note_refusals();
    for _ in 0..LETTERS_MAX {
        assert!(setting.publish("ask", b"1234"));
    }
    for _ in 0..LATE_LETTERS_MAX {
        assert!(setting.arrive("ask", Target::PLAIN));
    }
    assert!(setting.mailbox.take_refused().is_empty());
    assert!(setting.publish("ask", b"1234"), "the service answers it");
    let refused = setting.mailbox.take_refused();
    assert!(refused.len() == 1 && refused[0].0 == ACCOUNT && !refused[0].1.is_empty());
    assert!(setting.mailbox.dropped() == 1 && setting.mailbox.take_refused().is_empty());
}

#[test]
fn the_bytes_of_a_mailbox_are_bounded_too() {
    let mut setting = Setting::new();
    let _subscription = setting.serve("ask", Reach::OwnShard);
    let payload = vec![b'x'; 1 << 20];
    let mut count = 0;
    while !setting.mailbox.is_full() {
        assert!(setting.publish("ask", &payload));
        count += 1;
    }
    assert!(count == LETTER_BYTES_MAX >> 20, "{count}");
    while setting.publish("ask", &payload) {
        count += 1;
    }
    assert!(count << 20 <= LETTER_BYTES_MAX + LATE_LETTER_BYTES_MAX, "{count}");
    assert!((count + 2) << 20 > LETTER_BYTES_MAX + LATE_LETTER_BYTES_MAX, "{count}");
    // What a service gives up makes room as what it reads.
    drop(setting.mailbox.take());
    assert!(!setting.mailbox.is_full() && setting.publish("ask", &payload));
}

#[test]
fn letters_are_the_messages_that_were_put_in() {
    let mut random = fastrand::Rng::with_seed(21);
    let mailbox = Rc::<Mailbox>::default();
    let mut waiting = std::collections::VecDeque::new();
    for round in 0..200 {
        for number in 0..random.usize(..40) {
            let subject = format!("s.{}", number % 3);
            let route = ["", "r"][random.usize(..2)];
            let body = vec![b'a' + (number % 26) as u8; random.usize(..3000)];
            let headers = random.usize(..=body.len());
            let whole = Message {
                headers: &body[..headers],
                header_size_text: b"01",
                size_text: b"002",
                ..message(&subject, &body)
            };
            let connection = random.bool().then_some(ConnectionId(5 + round));
            assert!(mailbox.put(ACCOUNT, connection, route.as_bytes(), &whole));
            waiting.push_back(format!("{connection:?} {route} {whole:?}"));
        }
        if random.bool() {
            continue;
        }
        let Some(mut letters) = mailbox.take() else { continue };
        while let Some(letter) = letters.next_letter() {
            let route = String::from_utf8_lossy(letter.route);
            let found = format!("{:?} {route} {:?}", letter.publisher, letter.message);
            assert_eq!(Some(found), waiting.pop_front());
        }
        assert!(waiting.is_empty() && mailbox.bytes() == 0);
    }
}

#[test]
fn services_hear_each_other_in_their_next_turn() {
    let mut setting = Setting::new();
    let _subscription = setting.serve("news.*", Reach::OwnShard);
    assert!(is_delivered(&setting.tell("news.1")));
    assert!(!setting.broker.is_wanted(ACCOUNT, b"news.1"), "nobody else does");
    let mut letters = setting.mailbox.take().expect("a letter");
    assert_eq!(letters.next_letter().map(|letter| letter.publisher), Some(None));
    // What it says now is no part of what it reads now.
    assert!(is_delivered(&setting.tell("news.2")));
    assert!(letters.next_letter().is_none());
    drop(letters);
    assert_eq!(setting.heard(), ["news.2"]);
}

#[test]
fn the_server_tells_clients_and_links() {
    let mut setting = Setting::new();
    assert!(matches!(setting.tell("news"), Published::NoInterest));
    setting.broker.subscribe(setting.client, b"news", b"", b"1", None);
    assert!(setting.broker.is_wanted(ACCOUNT, b"news"));
    assert!(is_delivered(&setting.tell("news")));
    assert_eq!(setting.outbox.out_messages.get(), 1);
    let change = InterestChange::new(ACCOUNT, b"far", b"", 1);
    setting.broker.link_interest(setting.link, &change);
    assert!(is_delivered(&setting.tell("far")));
    assert_eq!(*setting.recorder.forwarded.borrow(), [(b"".to_vec(), b"far".to_vec())]);
}

#[test]
fn a_service_is_told_to_wait_for_whoever_does_not_keep_up() {
    // Another shard.
    let mut setting = Setting::new();
    let change = InterestChange::new(ACCOUNT, b"news", b"", 1);
    setting.broker.link_interest(setting.link, &change);
    setting.recorder.is_full.set(true);
    let Published::Congested(wait) = setting.tell("news") else { panic!("there is no room") };
    assert!(Rc::ptr_eq(&wait.gate, &setting.recorder.room));
    assert!(setting.recorder.forwarded.borrow().is_empty());
    setting.recorder.is_full.set(false);
    assert!(is_delivered(&setting.tell("news")));
    assert_eq!(setting.recorder.forwarded.borrow().len(), 1);
    // Another service.
    let mut setting = Setting::new();
    let _subscription = setting.serve("news", Reach::OwnShard);
    let mut told = 0;
    let wait = loop {
        match setting.tell("news") {
            Published::Delivered => told += 1,
            Published::NoInterest | Published::ReadFirst => panic!("it is wanted"),
            Published::Congested(wait) => break wait,
        }
    };
    assert_eq!((told, setting.mailbox.dropped()), (LETTERS_MAX, 0));
    assert!(wait.gate.value() < wait.until);
    assert_eq!(setting.heard().len(), LETTERS_MAX);
    assert!(wait.gate.value() >= wait.until && is_delivered(&setting.tell("news")));
    // What came from other shards before.
    let mut setting = Setting::new();
    setting.broker.subscribe(setting.client, b"news", b"", b"1", None);
    let gate = Rc::new(Gate::new());
    setting.broker.set_arrivals(Some(Congestion { gate: gate.clone(), until: 1 }));
    assert!(matches!(setting.tell("news"), Published::Congested(_)));
    gate.advance_by(1);
    // What comes later is another matter.
    setting.broker.set_arrivals(Some(Congestion { gate, until: 2 }));
    assert!(is_delivered(&setting.tell("news")));
    assert!(matches!(setting.tell("news"), Published::Congested(_)));
}

#[test]
fn a_service_with_a_full_mailbox_of_its_own_reads_it_first() {
    let mut setting = Setting::new();
    let _subscription = setting.serve("news", Reach::OwnShard);
    let other = Rc::new(Mailbox::default());
    let interest = ServiceInterest::all(ACCOUNT, b"others", Reach::OwnShard);
    let _other = setting.broker.subscribe_service(interest, &other);
    setting.publisher = ServicePublisher::of(&setting.mailbox);
    let fill = |setting: &mut Setting, subject| {
        while is_delivered(&setting.tell(subject)) {}
        setting.broker.backlog.turn_left = TURN_WORK_MAX;
    };
    fill(&mut setting, "others");
    assert!(matches!(setting.tell("others"), Published::Congested(_)), "it may wait for another");
    fill(&mut setting, "news");
    assert!(matches!(setting.tell("news"), Published::ReadFirst), "it would wait for itself");
    assert!(matches!(setting.tell("others"), Published::ReadFirst), "that one may wait for it");
    assert_eq!(setting.heard().len(), LETTERS_MAX);
    assert!(is_delivered(&setting.tell("news")));
    assert!(matches!(setting.tell("others"), Published::Congested(_)));
    assert_eq!((setting.mailbox.dropped(), other.dropped()), (0, 0));
}

/// What is looked at counts, and is bounded.
#[test]
fn a_look_at_who_wants_a_subject_counts_as_work() {
    let mut setting = Setting::new();
    let handles: Vec<_> = (0..2_000).map(|_| setting.serve("ask.*", Reach::OwnShard)).collect();
    while setting.broker.work_off() {}
    assert!(!setting.broker.is_wanted(ACCOUNT, b"ask.me"), "by services alone");
    assert!(setting.broker.backlog.turn_left <= TURN_WORK_MAX - 2_000);
    let more: Vec<_> = (0..3_000).map(|_| setting.serve("ask.*", Reach::OwnShard)).collect();
    setting.broker.backlog.turn_left = TURN_WORK_MAX;
    assert!(setting.broker.is_wanted(ACCOUNT, b"ask.me"), "there are too many to be sure");
    let least = TURN_WORK_MAX - TURN_WORK_MAX / WHOLE_WORK_SHARE;
    assert!((least..TURN_WORK_MAX).contains(&setting.broker.backlog.turn_left));
    drop((handles, more));
}

#[test]
fn a_request_that_is_only_traced_is_answered_if_a_service_declines_it() {
    let mut setting = Setting::new();
    let all = ServiceInterest::all(ACCOUNT, b"ask.*", Reach::Server);
    let declines: Declines = Box::new(|message| message.payload() == b"no");
    let interest = ServiceInterest { declines: Some(declines), ..all };
    let _subscription = setting.broker.subscribe_service(interest, &setting.mailbox);
    setting.broker.subscribe(setting.client, b"reply", b"", b"1", None);
    let origin = Origin::client(ACCOUNT, setting.client, None, true);
    for (payload, turn_work_max) in [("yes", 1_000), ("no", 1_000), ("yes", 1), ("no", 1)] {
        setting.broker.set_turn_work_max(turn_work_max);
        let mut turn = Turn::new(turn_work_max);
        let message = message("ask.me", payload.as_bytes());
        let ingress = Ingress::only(ACCOUNT, &message);
        let mut routed = setting.broker.publish_traced(&origin, &message, ingress, &mut turn);
        while routed == Routed::Unfinished {
            turn.begin(turn_work_max);
            let left = turn.unfinished.take().expect("it is unfinished");
            routed = setting.broker.resume(left, &mut turn);
        }
        assert_eq!(setting.queued().contains("NATS/1.0 503"), payload == "no", "{payload}");
        assert!(setting.heard().is_empty());
    }
}

#[test]
fn a_message_shows_another_subject_than_it_is_routed_by() {
    let mut setting = Setting::new();
    setting.broker.subscribe(setting.client, b"inner.*", b"", b"1", None);
    setting.broker.subscribe(setting.client, b"inner.1", b"crew", b"2", None);
    setting.broker.subscribe(setting.client, b"shown", b"", b"3", None);
    let change = InterestChange::new(ACCOUNT, b"inner.1", b"", 1);
    setting.broker.link_interest(setting.link, &change);
    let _subscription = setting.serve("inner.1", Reach::Server);
    let message = message("shown", b"news");
    let Setting { broker, publisher, .. } = &mut setting;
    let published = broker.publish_service_as(publisher, ACCOUNT, b"inner.1", &message);
    assert!(is_delivered(&published));
    assert_eq!(setting.queued(), "MSG shown 1 reply 4\r\nnews\r\nMSG shown 2 reply 4\r\nnews\r\n");
    let expected = [(b"inner.1".to_vec(), b"shown".to_vec())];
    assert_eq!(*setting.recorder.forwarded.borrow(), expected);
    let mut letters = setting.mailbox.take().expect("a letter");
    let letter = letters.next_letter().expect("a letter");
    assert_eq!((letter.route, letter.message.subject), (&b"inner.1"[..], &b"shown"[..]));
    drop(letters);
    // From another shard, and in parts.
    let target = Target { route: b"inner.1", ..Target::PLAIN };
    assert!(setting.arrive("shown", target));
    assert_eq!(
        (setting.queued(), setting.heard()),
        ("MSG shown 1 reply 4\r\nfar\r\n".into(), vec!["shown".into()])
    );
    setting.broker.set_turn_work_max(1);
    let Setting { broker, publisher, .. } = &mut setting;
    let published = broker.publish_service_as(publisher, ACCOUNT, b"inner.1", &message);
    assert!(is_delivered(&published));
    while setting.broker.work_off() {}
    assert_eq!(setting.queued().matches("MSG shown").count(), 2);
    // By another name it goes nowhere.
    assert!(!setting.arrive("inner.1", Target { route: b"nobody", ..Target::PLAIN }));
}

#[test]
fn a_service_that_declines_is_as_good_as_none() {
    let mut setting = Setting::new();
    let all = ServiceInterest::all(ACCOUNT, b"ask.*", Reach::Server);
    let declines: Declines = Box::new(|message| message.subject.ends_with(b"no"));
    let interest = ServiceInterest { declines: Some(declines), ..all };
    let _subscription = setting.broker.subscribe_service(interest, &setting.mailbox);
    let all = ServiceInterest::all(ACCOUNT, b"ask.*", Reach::Server);
    let interest = ServiceInterest { queue: b"crew", declines: Some(Box::new(|_| true)), ..all };
    let _member = setting.broker.subscribe_service(interest, &setting.mailbox);
    setting.broker.subscribe(setting.client, b"reply", b"", b"1", None);
    assert!(setting.publish("ask.yes", b"1234"));
    assert_eq!((setting.heard(), setting.queued()), (vec!["ask.yes".into()], String::new()));
    assert!(!setting.publish("ask.no", b"1234"));
    assert!(setting.queued().starts_with("HMSG reply 1 ") && setting.heard().is_empty());
    // A request of another shard: its share goes back.
    let named = Target { queues: &[b"crew"], ..Target::PLAIN };
    assert!(setting.arrive("ask.yes", named));
    assert_eq!(setting.recorder.unheard.get(), 0);
    assert!(!setting.arrive("ask.no", named));
    assert_eq!(setting.recorder.unheard.get(), 5);
    // Another member takes it.
    setting.broker.subscribe(setting.client, b"ask.no", b"crew", b"2", None);
    assert!(setting.publish("ask.no", b"1234"));
    assert!(setting.queued().starts_with("MSG ask.no 2 reply"));
}

#[test]
fn a_subscription_with_a_maximum_ends_with_the_news_it_waited_for() {
    let mut setting = Setting::new();
    setting.broker.subscribe(setting.client, b"news", b"", b"1", None);
    setting.broker.unsubscribe(setting.client, b"1", 1);
    assert!(is_delivered(&setting.tell("news")));
    assert!(matches!(setting.tell("news"), Published::NoInterest));
}
