//! The thread that answers `$SYS` requests and publishes the server's state.
//!
//! Shards pass requests on through the queue and publish the answers by order. The thread waits
//! until each answer has been published, so no more than one waits on any shard. It runs below the
//! shards' priority.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::auth::account::Account;
use crate::base::counters::ServerCounters;
use crate::base::ids::{AccountId, ConnectionId, ShardId};
use crate::base::limits::HELPER_NICE;
use crate::broker::REQUEST_INFO;
use crate::monitor::endpoints::Ask;
use crate::monitor::requested::{self, Arguments, Refusal};
use crate::monitor::varz::ServerFacts;
use crate::protocol::headers::HeaderName;
use crate::protocol::json_fields::JsonFields;
use crate::protocol::subject;
use crate::server::answers::endpoints::{Answers, Fixed, Live};
use crate::server::answers::system_queue::{Stopper, SystemQueue, Work};
use crate::server::answers::traces::{Traces, WholeTrace};
use crate::server::host::process_usage::SAMPLE_INTERVAL;
use crate::server::order::Order;
use crate::shard::records::{LatencyOutcome, LatencyRecord, Responder, TraceBegun};
use crate::shard::system_door::Record;
use crate::shard::system_request::SystemRequest;
use crate::shard::{ShardHandle, ShardOrder};
use crate::system::answer::{self, Outcome, UserInfo};
use crate::system::claims::{self, ClaimsRequest};
use crate::system::events;
use crate::system::filter::ServerFilter;
use crate::system::latency::{self, Metric};
use crate::system::request::{Asked, Service, USER_INFO, understand};
use crate::system::schedule::Schedule;
use crate::system::server_info::ServerInfo;
use crate::system::trace;

/// Time for a shard to publish an answer. Past it the fate of the answer is unknown.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(1);

/// Time for a reload before its answer is given up.
const RELOAD_DEADLINE: Duration = Duration::from_secs(10);

/// A running service. Dropping it ends its thread.
pub(crate) struct SystemService {
    stopper: Stopper,
    /// Set to end an answer that is being gathered.
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SystemService {
    /// Starts the service's thread.
    ///
    /// # Errors
    /// If no thread can be made.
    pub(crate) fn start(
        queue: SystemQueue,
        fixed: Fixed,
        live: Arc<Mutex<Live>>,
        orders: Sender<Order>,
    ) -> io::Result<Self> {
        let stopper = queue.stopper();
        let stopping = fixed.stopping.clone();
        let service = Loop {
            stopper: stopper.clone(),
            queue,
            shards: fixed.shards.clone(),
            counters: fixed.counters.clone(),
            answers: Answers::new(fixed, live),
            schedule: Schedule::new(Instant::now()),
            traces: Traces::default(),
            orders,
        };
        let thread = std::thread::Builder::new().name("midge-system".into()).spawn(move || {
            // Without the right to lower its priority the thread runs like any other.
            let _ = rustix::process::setpriority_process(None, HELPER_NICE);
            service.run();
        })?;
        Ok(Self { stopper, stopping, thread: Some(thread) })
    }
}

impl Drop for SystemService {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has ended the process already.
            let _ = thread.join();
        }
    }
}

struct Loop {
    queue: SystemQueue,
    stopper: Stopper,
    shards: Vec<ShardHandle>,
    counters: ServerCounters,
    answers: Answers,
    schedule: Schedule,
    /// Traces of which parts are missing.
    traces: Traces,
    orders: Sender<Order>,
}

impl Loop {
    fn run(mut self) {
        self.stopper.listen();
        loop {
            let now = Instant::now();
            self.answers.tick(now);
            let parts_due = self.traces.next_deadline().unwrap_or(now + SAMPLE_INTERVAL);
            let due = self.schedule.next().min(parts_due).min(now + SAMPLE_INTERVAL);
            match self.queue.next(due) {
                Work::Stop => return,
                Work::Request(request) => self.answer(&request),
                Work::Record(record) => self.publish_record(record, now),
                Work::AccountsChanged(names) => {
                    names.iter().for_each(|name| self.tell_account(name));
                }
                Work::TimeIsUp => {}
            }
            let now = Instant::now();
            while let Some(trace) = self.traces.next_late(now) {
                self.publish_trace(trace);
            }
            if self.schedule.take_stats(now) {
                self.tell_stats();
            }
            for name in self.schedule.accounts_due(now) {
                self.tell_account(&name);
            }
        }
    }

    /// Publishes what a shard recorded, once all of it is there. Without a system account nothing is
    /// published.
    fn publish_record(&mut self, record: Record, now: Instant) {
        match record {
            Record::Trace(part) => {
                if let Some(trace) = self.traces.add(*part, now) {
                    self.publish_trace(trace);
                }
            }
            Record::Latency(record) => self.publish_latency(*record),
        }
    }

    fn publish_trace(&mut self, trace: WholeTrace) {
        let facts = self.answers.facts();
        if facts.auth.authenticator.accounts().system().is_none() {
            return;
        }
        let WholeTrace { shard, begun, steps } = trace;
        let TraceBegun { account, destination, ingress } = *begun;
        let event = trace::traced(&self.server_info(&facts), &ingress, &steps);
        // A subject that was checked as a client's is text of the client's.
        if let Ok(destination) = String::from_utf8(destination) {
            self.publish(shard, account, &destination, event);
        }
    }

    fn publish_latency(&mut self, record: LatencyRecord) {
        if self.answers.facts().auth.authenticator.accounts().system().is_none() {
            return;
        }
        let LatencyRecord { shard, request, outcome } = record;
        let (status, round_trip, responder) = match outcome {
            LatencyOutcome::Failed(code, text) => ((code, text), Duration::ZERO, None),
            LatencyOutcome::Answered { round_trip, responder } => {
                let responder = match responder {
                    Responder::Unknown => None,
                    Responder::Known(client) => Some(client),
                    Responder::Elsewhere(shard, client) => {
                        let shard = &self.shards[shard.index()];
                        let asked = shard.ask(|answer| ShardOrder::Describe(client, answer));
                        asked.wait(Instant::now() + PUBLISH_DEADLINE).flatten()
                    }
                };
                ((200, ""), round_trip, responder)
            }
        };
        let metric = Metric {
            status,
            requestor: &request.requestor,
            responder: responder.as_ref().map(|client| &*client.json),
            headers: &request.headers,
            at: request.at,
            requestor_rtt: request.requestor_rtt,
            responder_rtt: responder.as_ref().map_or(Duration::ZERO, |client| client.rtt),
            round_trip,
        };
        let payload = latency::metric(&metric, SystemTime::now());
        self.publish(shard, request.exporter, request.subject(), payload);
    }

    fn server_info(&self, facts: &ServerFacts) -> ServerInfo {
        let sequence = self.counters.next_system_sequence();
        ServerInfo::new(&facts.info, &facts.options, sequence, SystemTime::now())
    }

    fn publish(&self, shard: ShardId, account: AccountId, subject: &str, payload: Vec<u8>) {
        let subject = subject.to_owned();
        let shard = &self.shards[shard.index()];
        let published = shard.ask(|done| ShardOrder::Publish { account, subject, payload, done });
        // Published at most once, even if the shard is in trouble: there is no second try.
        let _ = published.wait(Instant::now() + PUBLISH_DEADLINE);
    }

    /// Publishes in the system account, on any shard.
    fn tell(&self, system: AccountId, subject: &str, payload: Vec<u8>) {
        self.publish(ShardId(0), system, subject, payload);
    }

    /// Returns true if somebody wants one of these subjects in the system account.
    fn is_any_wanted(&self, subjects: &[String]) -> bool {
        let subjects = subjects.to_vec();
        let wanted = self.shards[0].ask(|answer| ShardOrder::IsAnyWanted(subjects, answer));
        wanted.wait(Instant::now() + PUBLISH_DEADLINE).unwrap_or(false)
    }

    fn tell_stats(&mut self) {
        let facts = self.answers.facts();
        let Some(system) = facts.auth.authenticator.accounts().system() else { return };
        let system = facts.auth.id(system);
        let subject = events::stats_subject(&facts.info.server_id);
        if !self.is_any_wanted(std::slice::from_ref(&subject)) {
            return;
        }
        let stats = self.answers.stats();
        let event = answer::stats(&self.server_info(&facts), &stats);
        self.tell(system, &subject, event);
    }

    /// Publishes the number of an account's clients, if somebody wants it.
    fn tell_account(&mut self, name: &str) {
        let facts = self.answers.facts();
        let accounts = facts.auth.authenticator.accounts();
        let Some(system) = accounts.system() else { return };
        let system = facts.auth.id(system);
        let connections =
            accounts.get(name).map_or(0, |account| facts.auth.connections(account).value());
        self.schedule.note_account(name, connections, Instant::now());
        let subjects = events::account_connections_subjects(name);
        if !self.is_any_wanted(&subjects) {
            return;
        }
        for subject in subjects {
            if let Some(event) = self.account_connections(&facts, name) {
                self.tell(system, &subject, event);
            }
        }
    }

    fn account_connections(&mut self, facts: &ServerFacts, name: &str) -> Option<Vec<u8>> {
        let (account, _) = self.answers.accstatz(true, &[name.to_owned()]).0.into_first()?;
        let server = self.server_info(facts);
        Some(events::account_connections(&server, &account, SystemTime::now()))
    }

    fn answer(&mut self, request: &SystemRequest) {
        let facts = self.answers.facts();
        let Ok(subject) = std::str::from_utf8(&request.subject) else { return };
        let other = request.other_account.as_deref();
        if other.is_none()
            && let Some(asked) = claims::understand(subject)
        {
            return self.answer_claims(&facts, asked, request);
        }
        let Some(asked) = understand(subject, &facts.info.server_id, other) else { return };
        let Ok(reply) = std::str::from_utf8(&request.reply) else { return };
        let payload = match asked.service {
            // Without a reply subject it asks for the event.
            Service::Statsz if reply.is_empty() => return self.tell_stats(),
            _ if reply.is_empty() => return,
            Service::Idz => answer::identity(&facts.info),
            Service::AccountConns => match self.account_conns(&facts, &asked, &request.payload) {
                Some(payload) => payload,
                None => return,
            },
            Service::DebugSubscribers => match self.debug_subscribers(&facts, request) {
                Some(count) => count.to_string().into_bytes(),
                None => return,
            },
            Service::CountSubscribers => match self.count_subscribers(&facts, &request.payload) {
                Some(count) => count.to_string().into_bytes(),
                None => return,
            },
            _ => match self.outcome(&facts, &asked, request) {
                Answer::Enveloped(outcome) => answer::envelope(&self.server_info(&facts), &outcome),
                Answer::Stats => {
                    let stats = self.answers.stats();
                    answer::stats(&self.server_info(&facts), &stats)
                }
                Answer::None => return,
            },
        };
        self.publish(request.shard, request.account, reply, payload);
    }

    /// Reads the request's options and carries it out.
    fn outcome(&mut self, facts: &ServerFacts, asked: &Asked, request: &SystemRequest) -> Answer {
        let service = asked.service;
        if service == Service::UserInfo {
            return Answer::Enveloped(user_info(request));
        }
        let (type_name, part) = service.options_type();
        let unreadable = |text| Answer::Enveloped(Outcome::BadRequest(text));
        // nats-server does not answer an unreadable request of these.
        let names_client = matches!(service, Service::Kick | Service::LameDuck);
        let unanswered = |text: &str| {
            // The same word for both, as in nats-server.
            tracing::error!("SYSTEM - Error unmarshalling kick client request: {text}");
            Answer::None
        };
        if names_client && request.payload.is_empty() {
            return unanswered("unexpected end of JSON input");
        }
        let fields = match JsonFields::parse(&request.payload, type_name) {
            Ok(fields) => fields,
            Err(text) if names_client => return unanswered(&text),
            Err(text) => return unreadable(text),
        };
        match ServerFilter::read(&fields, service.filter_part()) {
            Err(text) => return unreadable(text),
            Ok(filter) if !filter.admits(&facts.info, &facts.options) => return Answer::None,
            Ok(_) => {}
        }
        let arguments = Arguments { fields: &fields, part };
        match self.serve(asked, arguments, request) {
            Ok(answer) => answer,
            Err(Refusal::Unreadable(text)) if names_client => unanswered(&text),
            Err(Refusal::Unreadable(text)) => unreadable(text),
            Err(Refusal::Senseless(text)) => Answer::Enveloped(Outcome::failed(text)),
            Err(Refusal::Silent) => Answer::None,
        }
    }

    fn serve(
        &mut self,
        asked: &Asked,
        arguments: Arguments<'_>,
        request: &SystemRequest,
    ) -> Result<Answer, Refusal> {
        let account = asked.account.as_str();
        let fields = arguments.fields;
        let ask = match asked.service {
            Service::Statsz => return Ok(Answer::Stats),
            Service::Varz => Ask::Varz,
            Service::Connz => requested::connz(arguments, None)?,
            Service::AccountConnz => requested::connz(arguments, Some(account))?,
            Service::Subsz => requested::subsz(arguments, None)?,
            Service::AccountSubsz => requested::subsz(arguments, Some(account))?,
            Service::Routez => requested::routez(arguments)?,
            Service::Gatewayz => requested::gatewayz(arguments)?,
            Service::Leafz | Service::AccountLeafz => requested::leafz(arguments)?,
            Service::Accountz => Ask::Accountz(arguments.given("account")?),
            Service::Jsz => requested::jsz(arguments)?,
            Service::AccountJsz => {
                requested::jsz(arguments)?;
                return Err(Refusal::Senseless("jetstream not enabled".into()));
            }
            Service::Healthz => requested::healthz(arguments)?,
            Service::Ipqueuesz => Ask::Ipqueuesz,
            Service::Raftz => return Ok(Answer::Enveloped(Outcome::Data(b"{}".to_vec()))),
            Service::AccountInfo => {
                let detail = self.answers.account_info(account);
                return detail.map(Answer::Enveloped).map_err(Refusal::Senseless);
            }
            Service::AccountStatz | Service::EveryAccountStatz => {
                let account = (asked.service == Service::AccountStatz).then_some(account);
                let ask = requested::accstatz(arguments, account)?;
                let Ask::Accstatz { unused, accounts } = ask else { return Ok(Answer::None) };
                let (statz, _) = self.answers.accstatz(unused, &accounts);
                // An account without clients here is left to other servers.
                return Ok(match statz.is_empty() && !unused {
                    true => Answer::None,
                    false => Answer::Enveloped(Outcome::data(&statz)),
                });
            }
            Service::Profilez => {
                let name = arguments.given("name")?.unwrap_or_default();
                return Ok(Answer::Enveloped(answer::profile(&name)));
            }
            Service::Expvarz => Ask::Variables,
            Service::Kick => return Ok(self.kick(fields.unsigned("", "cid")?)),
            Service::LameDuck => return Ok(self.lame_duck(fields.unsigned("", "cid")?)),
            Service::Reload => return Ok(Answer::Enveloped(self.reload())),
            Service::Idz
            | Service::UserInfo
            | Service::AccountConns
            | Service::DebugSubscribers
            | Service::CountSubscribers => return Ok(Answer::None),
        };
        debug_assert!(request.other_account.is_none() || asked.service == Service::AccountConnz);
        let is_health = asked.service == Service::Healthz;
        let response = self.answers.respond(ask);
        // A server that is not healthy says so in the answer's data.
        Ok(Answer::Enveloped(match response.status {
            200 => Outcome::Data(response.body),
            _ if is_health => Outcome::Data(response.body),
            _ => Outcome::failed(String::from_utf8_lossy(&response.body)),
        }))
    }

    fn kick(&mut self, id: u64) -> Answer {
        let kicked = self.answers.ask_shards(|answer| ShardOrder::Kick(ConnectionId(id), answer));
        Answer::Enveloped(match kicked.contains(&true) {
            true => Outcome::Done,
            false => Outcome::refused("no such client or leafnode id"),
        })
    }

    fn lame_duck(&mut self, id: u64) -> Answer {
        let told =
            self.answers.ask_shards(|answer| ShardOrder::AnnounceTo(ConnectionId(id), answer));
        let text = match told.into_iter().flatten().next() {
            Some(true) => return Answer::Enveloped(Outcome::Done),
            Some(false) => {
                "client does not support Lame Duck Mode or is not ready to receive the notification"
            }
            None => "no such client id",
        };
        Answer::Enveloped(Outcome::refused(text))
    }

    /// Lets the main thread reload the configuration.
    fn reload(&self) -> Outcome {
        let (sender, result) = channel();
        let is_ending = || Outcome::refused("the server is shutting down");
        if self.orders.send(Order::Reload(sender)).is_err() {
            return is_ending();
        }
        let deadline = Instant::now() + RELOAD_DEADLINE;
        loop {
            match result.recv_timeout(Duration::from_millis(100)) {
                Ok(Ok(())) => return Outcome::Done,
                Ok(Err(text)) => return Outcome::refused(text),
                Err(RecvTimeoutError::Disconnected) => return is_ending(),
                Err(RecvTimeoutError::Timeout) if self.stopper.is_stopping() => return is_ending(),
                Err(RecvTimeoutError::Timeout) if Instant::now() > deadline => {
                    return Outcome::refused("the reload takes too long; see the log");
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Has the main thread answer a request about the JWTs of accounts.
    fn answer_claims(&self, facts: &ServerFacts, asked: ClaimsRequest, request: &SystemRequest) {
        let (sender, result) = channel();
        let order = Order::Claims(asked, request.payload.clone(), sender);
        if self.orders.send(order).is_err() {
            return;
        }
        let Ok(answer) = result.recv_timeout(RELOAD_DEADLINE) else { return };
        let Ok(reply) = std::str::from_utf8(&request.reply) else { return };
        if reply.is_empty() {
            return;
        }
        for payload in answer.payloads(&self.server_info(facts)) {
            if self.stopper.is_stopping() {
                return;
            }
            self.publish(request.shard, request.account, reply, payload);
        }
    }

    /// Returns None if nats-server does not answer: for an account without clients, or a request
    /// about another one.
    fn account_conns(
        &mut self,
        facts: &ServerFacts,
        asked: &Asked,
        payload: &[u8],
    ) -> Option<Vec<u8>> {
        let fields = JsonFields::parse(payload, asked.service.options_type().0).ok()?;
        let named = fields.text("", "acc").ok()?;
        if named.is_some_and(|name| name != asked.account) {
            return None;
        }
        let account = facts.auth.authenticator.accounts().get(&asked.account)?;
        if facts.auth.connections(account).value() == 0 {
            return None;
        }
        self.account_connections(facts, &asked.account)
    }

    /// Counts the clients of the requester's account that want a subject; only those in a queue
    /// group, if one is named. Returns None if nats-server does not answer.
    fn debug_subscribers(&mut self, facts: &ServerFacts, request: &SystemRequest) -> Option<usize> {
        let accounts = facts.auth.authenticator.accounts();
        let account: &Arc<Account> = match request_info(request) {
            Some(info) => {
                let passed = info["svc"].as_str().filter(|name| !name.is_empty());
                accounts.get(passed.or_else(|| info["acc"].as_str())?)?
            }
            None => accounts.system()?,
        };
        let text = String::from_utf8_lossy(&request.payload).into_owned();
        let mut words = text.trim().split(' ');
        let filter = words.next().filter(|filter| !filter.is_empty());
        let (Some(filter), queue) = (filter, words.next()) else { return Some(0) };
        if queue == Some("") && !subject::has_wildcard(filter.as_bytes()) {
            // A group without a name, as nats-server reads two blanks.
            return Some(0);
        }
        Some(self.answers.subscriber_count(&account.name, filter, queue))
    }

    /// Returns None if nats-server does not answer: for an account that has no clients here.
    fn count_subscribers(&mut self, facts: &ServerFacts, payload: &[u8]) -> Option<usize> {
        let fields = JsonFields::parse(payload, Service::CountSubscribers.options_type().0).ok()?;
        let text = |name| Some(fields.text("", name).ok()?.unwrap_or_default());
        let (name, filter, queue) = (text("acc")?, text("subject")?, text("queue")?);
        // nats-server's field is bytes, hence Base64 in JSON.
        let queue = data_encoding::BASE64.decode(queue.as_bytes()).ok()?;
        let queue = String::from_utf8_lossy(&queue);
        let queue = Some(&*queue).filter(|queue| !queue.is_empty());
        let account = facts.auth.authenticator.accounts().get(&name)?;
        if facts.auth.connections(account).value() == 0 {
            return None;
        }
        Some(match filter.is_empty() {
            true => 0,
            false => self.answers.subscriber_count(&name, &filter, queue),
        })
    }
}

/// The kind of answer to a request.
enum Answer {
    Enveloped(Outcome),
    Stats,
    None,
}

/// Returns what the server wrote about a requester of another account.
fn request_info(request: &SystemRequest) -> Option<Value> {
    let value = HeaderName::new(REQUEST_INFO).find(&request.headers)?;
    serde_json::from_slice(value).ok()
}

fn user_info(request: &SystemRequest) -> Outcome {
    // nats-server knows nobody who asks on another subject without crossing to the system account.
    let is_direct = request.other_account.is_none() && request.subject != USER_INFO.as_bytes();
    let is_unknown = is_direct && request_info(request).is_none();
    let info = match &request.requester {
        Some(requester) if !is_unknown => {
            let permissions = requester.permissions.as_deref();
            UserInfo::new(
                &requester.user,
                (&requester.account, &requester.account_name),
                permissions,
            )
        }
        // Or the client left meanwhile.
        _ => UserInfo::new("", ("", ""), None),
    };
    Outcome::data(&info)
}
