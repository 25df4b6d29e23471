//! Start, load, kill, start again, compare: round by round over one store.

use crate::Failure;
use crate::host::certificates::TemporaryFolder;
use crate::host::interrupt;
use crate::host::spawn::{STORE, StartedServer, store_folder};
use crate::jetstream::api::JetStreamApi;
use crate::kill::arguments::KillArguments;
use crate::kill::clients::{self, Consumed, Published, Publisher};
use crate::kill::ledger::{Ledger, MessageName, sentence};
use crate::progress::Progress;
use crate::units::CoreList;
use crate::wire::address::ServerUrl;
use crate::wire::connection::Dialer;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

const CONSUMER: &str = "readers";
/// Time after which the server delivers a message again whose acknowledgement did not come.
const ACK_WAIT: Duration = Duration::from_secs(10);
/// Longest wait for the first acknowledgement of a round.
const FIRST_WAIT_MAX: Duration = Duration::from_secs(20);
/// Longest time in which everything must be consumed in the end: some messages have to be delivered
/// again first.
const DRAIN_WAIT_MAX: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The findings of all rounds together.
#[derive(Debug, Default)]
pub struct Report {
    pub seed: u64,
    pub kills: u16,
    pub acknowledged: usize,
    pub confirmed: usize,
    /// Broken promises, each with its round.
    pub faults: Vec<String>,
}

struct House<'a> {
    arguments: &'a KillArguments,
    command_line: String,
    /// Holds the store over all rounds.
    _folder: TemporaryFolder,
    ledgers: Vec<Ledger>,
    /// Consumers that read back, so far.
    reader_count: u32,
    report: Report,
}

/// Runs all rounds. The store is removed in the end unless a promise was broken.
///
/// # Errors
/// If the server cannot be started or refuses what it is asked for.
pub fn run(arguments: &KillArguments, progress: &Progress) -> Result<Report, Failure> {
    if !arguments.server.contains(STORE) {
        return Err(Failure::new(format!(
            "'{}' does not say where {STORE} goes",
            arguments.server
        )));
    }
    let folder = store_folder(arguments.store_root.as_deref())?;
    let store = PathBuf::from(folder.file("store"));
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    let mut house = House {
        arguments,
        command_line: arguments.server.replace(STORE, &format!("'{}'", store.display())),
        _folder: folder,
        ledgers: (0..arguments.streams).map(|_| Ledger::default()).collect(),
        reader_count: 0,
        report: Report { seed, ..Report::default() },
    };
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..arguments.rounds {
        if interrupt::requested() || !house.report.faults.is_empty() {
            break;
        }
        progress.say(&format!("round {} of {}", round + 1, arguments.rounds));
        let alive = arguments.alive.mul_f64(random.f64());
        house.live_and_die(round, alive)?;
    }
    house.end(progress)?;
    let House { ledgers, mut report, .. } = house;
    report.acknowledged = ledgers.iter().map(Ledger::stored_count).sum();
    report.confirmed = ledgers.iter().map(Ledger::confirmed_count).sum();
    Ok(report)
}

fn stream(index: usize) -> String {
    format!("kill_{index}")
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T, Failure>>) -> Result<T, Failure> {
    thread.join().unwrap_or_else(|_| Err(Failure::new("a client panicked")))
}

fn dialer_of(server: &StartedServer) -> Dialer {
    let url = ServerUrl { address: server.address.clone(), user: None, password: None };
    Dialer { headers: true, ..Dialer::for_url(&url) }
}

impl House<'_> {
    fn start(&self) -> Result<(StartedServer, Dialer), Failure> {
        let server = StartedServer::start(&self.command_line, &CoreList::default(), None)?;
        let dialer = dialer_of(&server);
        Ok((server, dialer))
    }

    /// One round: the server starts on the store, is compared with the promises, loaded and killed.
    fn live_and_die(&mut self, round: u16, alive: Duration) -> Result<(), Failure> {
        let (mut server, dialer) = self.start()?;
        let outcome = self.live(round, alive, &dialer, &mut server);
        outcome.map_err(|failure| server.explain(failure))
    }

    fn live(
        &mut self,
        round: u16,
        alive: Duration,
        dialer: &Dialer,
        server: &mut StartedServer,
    ) -> Result<(), Failure> {
        let mut api = JetStreamApi::connect(dialer)?;
        match round {
            0 => self.make_streams(&mut api)?,
            _ => drop(self.compare(&mut api, dialer, &format!("after kill {round}"))?),
        }
        let stop = AtomicBool::new(false);
        let total = AtomicU64::new(0);
        let mut failure = None;
        let (published, consumed) = std::thread::scope(|scope| {
            let arguments = self.arguments;
            let publishers: Vec<_> = (0..arguments.publishers)
                .map(|client| {
                    let publisher = self.publisher(round, client);
                    let (stop, total) = (&stop, &total);
                    scope.spawn(move || clients::publish(dialer, &publisher, (stop, total)))
                })
                .collect();
            let consumers: Vec<_> = (0..arguments.consumers)
                .map(|client| {
                    let place = usize::from(client % arguments.streams);
                    let inbox = format!("_INBOX.kill.{round}.consumer{client}");
                    let (stop, confirmed) = (&stop, self.ledgers[place].confirmed());
                    scope.spawn(move || {
                        let names = (stream(place), CONSUMER, inbox);
                        let names = (names.0.as_str(), names.1, names.2.as_str());
                        clients::consume(dialer, names, confirmed, stop)
                    })
                })
                .collect();
            let until = Instant::now() + FIRST_WAIT_MAX;
            while total.load(Ordering::Relaxed) == 0 && Instant::now() < until {
                std::thread::sleep(LOOK_INTERVAL);
            }
            if total.load(Ordering::Relaxed) == 0 {
                failure = Some(Failure::new("no message was acknowledged"));
            }
            std::thread::sleep(alive);
            server.kill();
            stop.store(true, Ordering::Relaxed);
            let published: Vec<Result<Published, Failure>> =
                publishers.into_iter().map(|thread| joined(thread)).collect();
            let consumed: Vec<Result<Consumed, Failure>> =
                consumers.into_iter().map(|thread| joined(thread)).collect();
            (published, consumed)
        });
        if let Some(failure) = failure {
            return Err(failure);
        }
        self.report.kills += 1;
        for (client, life) in published.into_iter().enumerate() {
            self.note_published(round, client as u16, life?);
        }
        for (client, life) in consumed.into_iter().enumerate() {
            self.note_consumed(client % usize::from(self.arguments.streams), life?);
        }
        Ok(())
    }

    fn publisher(&self, round: u16, client: u16) -> Publisher {
        let place = client % self.arguments.streams;
        Publisher {
            index: round * self.arguments.publishers + client,
            subject: format!("kill.{place}.{client}"),
            inbox: format!("_INBOX.kill.{round}.publisher{client}"),
            payload_size: self.arguments.payload as usize,
            in_flight: u64::from(self.arguments.in_flight),
        }
    }

    fn note_published(&mut self, round: u16, client: u16, life: Published) {
        let index = self.publisher(round, client).index;
        let ledger = &mut self.ledgers[usize::from(client % self.arguments.streams)];
        ledger.note_sent(index, life.sent);
        for (id, sequence) in life.stored {
            ledger.note_stored((index, id), sequence);
        }
        self.report.faults.extend(sentence("messages were refused", &life.refused));
    }

    fn note_consumed(&mut self, place: usize, life: Consumed) {
        let again: Vec<String> = life.again.iter().map(u64::to_string).collect();
        let what = "messages were delivered again after their confirmed acknowledgement";
        let fault = sentence(what, &again).map(|text| format!("{}: {text}", stream(place)));
        self.report.faults.extend(fault);
        for sequence in life.acknowledged {
            self.ledgers[place].note_acknowledged(sequence);
        }
        for sequence in life.confirmed {
            self.ledgers[place].note_confirmed(sequence);
        }
    }

    fn make_streams(&self, api: &mut JetStreamApi) -> Result<(), Failure> {
        for place in 0..self.ledgers.len() {
            let name = stream(place);
            api.create_stream(&json!({
                "name": name,
                "subjects": [format!("kill.{place}.*")],
                "storage": "file",
                "num_replicas": 1,
            }))?;
            api.create_consumer(&consumer(
                &name,
                json!({
                    "name": CONSUMER,
                    "durable_name": CONSUMER,
                    "ack_policy": "explicit",
                    "ack_wait": ACK_WAIT.as_nanos() as u64,
                    "max_ack_pending": 10_000,
                }),
            ))?;
        }
        Ok(())
    }

    /// Compares every stream with its ledger, and returns what the streams hold.
    fn compare(
        &mut self,
        api: &mut JetStreamApi,
        dialer: &Dialer,
        when: &str,
    ) -> Result<Vec<Vec<(u64, MessageName)>>, Failure> {
        let mut all = Vec::new();
        for place in 0..self.ledgers.len() {
            self.reader_count += 1;
            let (name, reader) = (stream(place), format!("back{}", self.reader_count));
            let config = json!({ "name": reader, "ack_policy": "none", "mem_storage": true });
            api.create_consumer(&consumer(&name, config))?;
            let count = api.stream_state(&name)?.messages;
            let inbox = format!("_INBOX.kill.{reader}");
            let held = clients::read_back(dialer, (&name, &reader, &inbox), count)?;
            api.request(&format!("CONSUMER.DELETE.{name}.{reader}"), &Value::Null)?;
            let wrongs = self.ledgers[place].wrongs(&held);
            let wrongs = wrongs.into_iter().map(|wrong| format!("{when}: {name}: {wrong}"));
            self.report.faults.extend(wrongs);
            all.push(held);
        }
        Ok(all)
    }

    /// The last start: everything is compared, and consumed to the end.
    fn end(&mut self, progress: &Progress) -> Result<(), Failure> {
        let (mut server, dialer) = self.start()?;
        let outcome = self.drain(&dialer, progress);
        outcome.map_err(|failure| server.explain(failure))
    }

    fn drain(&mut self, dialer: &Dialer, progress: &Progress) -> Result<(), Failure> {
        let mut api = JetStreamApi::connect(dialer)?;
        let held = self.compare(&mut api, dialer, "in the end")?;
        if self.arguments.consumers == 0 || !self.report.faults.is_empty() {
            return Ok(());
        }
        progress.say("consuming what is left");
        for (place, held) in held.iter().enumerate() {
            let name = stream(place);
            let stop = AtomicBool::new(false);
            let inbox = format!("_INBOX.kill.end.{place}");
            let confirmed: BTreeSet<u64> = self.ledgers[place].confirmed().clone();
            let life = std::thread::scope(|scope| {
                let names = (name.as_str(), CONSUMER, inbox.as_str());
                let (stop, confirmed) = (&stop, &confirmed);
                let thread = scope.spawn(move || clients::consume(dialer, names, confirmed, stop));
                let until = Instant::now() + DRAIN_WAIT_MAX;
                let mut outcome = Ok(());
                while Instant::now() < until && !interrupt::requested() {
                    match api.consumer_backlog(&name, CONSUMER) {
                        Ok((0, 0)) => break,
                        Ok(_) => std::thread::sleep(LOOK_INTERVAL * 10),
                        Err(failure) => {
                            outcome = Err(failure);
                            break;
                        }
                    }
                }
                stop.store(true, Ordering::Relaxed);
                let life = joined(thread);
                outcome.and(life)
            })?;
            self.note_consumed(place, life);
            let fault = self.ledgers[place].unconsumed(held);
            self.report.faults.extend(fault.map(|text| format!("in the end: {name}: {text}")));
        }
        Ok(())
    }
}

fn consumer(stream: &str, config: Value) -> Value {
    json!({ "stream_name": stream, "config": config, "action": "create" })
}
