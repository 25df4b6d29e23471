//! Service imports: requests that cross to another account, and their answers.
//!
//! Each shard has a subscription for each service import in the importing account's table. It is
//! not announced to other shards: a request crosses on the shard where it is published. It gets the
//! exporting account's subject, a reply subject of the server's (`_R_.…`) and a header that
//! describes the requester, and is then published in the exporting account like any message.
//! Answers arrive through one announced subscription per exporting account and shard.
//!
//! A message that crossed is not passed on by stream imports, on any shard. A request passes no
//! export twice, and at most `SERVICE_HOPS_MAX` in all. Only the server itself writes
//! `Nats-Request-Info`, and no import lets messages on `_R_.…` through in either direction.
//!
//! Source of the behaviour: nats-server server/client.go processServiceImport.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::Broker;
use super::crossing_sink::{AnswerSink, RequestSink};
use super::fan_out::{CrossingEnd, FanOut, Stage, UnfinishedCrossing};
use super::latency::Ending;
use super::link::{PASSED_ELSEWHERE, Source, Target, Unheard};
use super::match_list::MatchList;
use super::message_trace;
use super::passage::{Origin, Passage, Progress, Routed};
use super::responses::{self, Request, Responses};
use super::route_cache::RouteCache;
use super::subscription::{Sink, Subscription};
use super::turn::Turn;
use crate::auth::account_imports::AccountImports;
use crate::auth::mapping::Mapped;
use crate::base::ids::{AccountId, ClientKey};
use crate::base::limits::{
    CROSSING_WORK, HEADER_BYTES_PER_UNIT, JSON_BYTES_PER_UNIT, RESPONSE_LOOKS_PER_TRIM,
    SERVICE_HOPS_MAX, TOKEN_BYTES_PER_UNIT, WORK_UNIT_BYTES,
};
use crate::config::import_options::ResponseType;
use crate::protocol::headers::{self, AnyCaseName, HeaderName};
use crate::protocol::message::{Message, MessageRun};
use crate::protocol::nats::encode::decimal;

/// The header that describes the requester; a requester's own header of this name is removed.
pub(crate) const REQUEST_INFO: &str = "Nats-Request-Info";

/// Marks an answer in `Target::passed`; no export has this id.
const ANSWER: u32 = u32::MAX;

/// The time within which an answer may itself be answered.
const ANSWER_THRESHOLD: Duration = Duration::from_secs(120);

/// Accounts whose expired requests one call of `forget_expired_requests` looks for.
const ACCOUNTS_PER_TRIM: usize = 1024;

/// Rewritten messages whose memory is kept for reuse, and the most bytes of each.
const SPARE_MESSAGES_MAX: usize = 4;
const SPARE_BODY_BYTES_MAX: usize = 64 << 10;

/// Returns true for a request that crossed before, whose header is therefore the server's. Answers
/// do not count: their headers are what a client wrote.
pub(super) fn is_chained(passed: &[u32]) -> bool {
    !passed.is_empty() && !passed.contains(&ANSWER) && passed != PASSED_ELSEWHERE
}

/// Units of work for looking through the headers of a message and copying it.
fn copy_work(message: &Message<'_>) -> usize {
    message.headers.len() / HEADER_BYTES_PER_UNIT + message.body.len() / WORK_UNIT_BYTES
}

/// The service imports of one account, as its table has them.
pub(super) struct Services {
    /// The configuration that they are from.
    imports: Arc<AccountImports>,
    subscriptions: Vec<Rc<Subscription>>,
    /// The route of each one's last request.
    caches: Vec<RouteCache>,
}

/// A request that nobody got, as it was in the importing account.
struct EndedRequest {
    importer: AccountId,
    requester: Option<ClientKey>,
    subject: Vec<u8>,
    reply: Vec<u8>,
}

/// Names the route cache for a message that crosses.
#[derive(Clone, Copy)]
enum LastRoute {
    Request { importer: AccountId, index: usize },
    Answer { exporter: AccountId },
}

/// A message as the other account gets it.
#[derive(Default)]
pub(super) struct Rewritten {
    subject: Vec<u8>,
    reply: Vec<u8>,
    body: Vec<u8>,
    headers_size: usize,
    header_size_text: Vec<u8>,
    size_text: Vec<u8>,
}

impl Rewritten {
    fn message(&self) -> Message<'_> {
        Message {
            subject: &self.subject,
            reply: &self.reply,
            headers: &self.body[..self.headers_size],
            body: &self.body,
            header_size_text: &self.header_size_text,
            size_text: &self.size_text,
            tail: b"",
        }
    }

    /// Sets a header in place of the first of its name.
    fn set_header(&mut self, name: &HeaderName, value: &[u8]) {
        let payload = self.body.split_off(self.headers_size);
        name.set(&mut self.body, value);
        self.headers_size = self.body.len();
        self.body.extend_from_slice(&payload);
        self.write_sizes();
    }

    fn copy_body(&mut self, message: &Message<'_>) {
        self.body.clear();
        self.body.extend_from_slice(message.body);
        self.headers_size = message.headers.len();
        self.write_sizes();
    }

    fn write_sizes(&mut self) {
        self.header_size_text.clear();
        decimal(&mut self.header_size_text, self.headers_size);
        self.size_text.clear();
        decimal(&mut self.size_text, self.body.len());
    }

    /// Copies headers and payload, and sets one header, which replaces those of its name in any
    /// case.
    fn take_body(&mut self, message: &Message<'_>, header: (&AnyCaseName, &[u8], &[u8])) {
        let (any_case, name, value) = header;
        self.body.clear();
        any_case.copy_without(message.headers, &mut self.body);
        headers::append(&mut self.body, name, value);
        self.headers_size = self.body.len();
        self.body.extend_from_slice(message.payload());
        self.write_sizes();
    }
}

impl Broker {
    /// Brings an account's service imports in its table up to date.
    pub(super) fn ensure_services(&mut self, account: AccountId) {
        let state = &mut self.accounts[account.index()];
        let is_known = match &mut state.services {
            Some(services) if Arc::ptr_eq(&services.imports, &self.imports) => true,
            Some(services) => {
                let is_same = services.imports.has_services_of(&self.imports, account);
                if is_same {
                    services.imports = self.imports.clone();
                }
                is_same
            }
            None => self.imports.services_of(account).is_empty(),
        };
        if !is_known {
            self.renew_services(account);
        }
    }

    #[cold]
    fn renew_services(&mut self, account: AccountId) {
        if let Some(services) = self.accounts[account.index()].services.take() {
            for subscription in services.subscriptions {
                self.remove_from_table(account, &subscription);
            }
        }
        let imports = self.imports.clone();
        let routes = imports.services_of(account);
        if routes.is_empty() {
            return;
        }
        let subscriptions = routes.iter().enumerate().map(|(index, route)| {
            let name = serde_json::Value::from(&*route.import.importer);
            let sink = RequestSink {
                importer: account,
                route: route.clone(),
                account_json: name.to_string(),
                index,
            };
            let filter = route.import.subject.local();
            Rc::new(Subscription::new(filter, b"", b"", Sink::Request(Rc::new(sink)), 1))
        });
        let subscriptions: Vec<Rc<Subscription>> = subscriptions.collect();
        for subscription in &subscriptions {
            self.add_to_table(account, subscription);
        }
        let caches = subscriptions.iter().map(|_| RouteCache::default()).collect();
        let services = Box::new(Services { imports, subscriptions, caches });
        self.accounts[account.index()].services = Some(services);
    }

    /// Returns the pending requests to an account, and subscribes to their answers the first time.
    fn ensure_responses(&mut self, account: AccountId) -> &mut Responses {
        if self.accounts[account.index()].responses.is_none() {
            self.subscribe_to_answers(account);
        }
        self.accounts[account.index()].responses.as_mut().expect("there are some now")
    }

    #[cold]
    fn subscribe_to_answers(&mut self, account: AccountId) {
        let responses = Responses::new(&mut self.random);
        let sink = AnswerSink { exporter: account };
        let sink = Sink::Answers(Rc::new(sink));
        let subscription = Rc::new(Subscription::new(&responses.filter(), b"", b"", sink, 1));
        self.accounts[account.index()].responses = Some(Box::new(responses));
        self.add_to_table(account, &subscription);
        self.count_interest(account, &subscription, true);
    }

    /// Forgets some expired requests; to be called periodically.
    pub(super) fn forget_expired_requests(&mut self) {
        let now = Instant::now();
        let count = self.accounts.len();
        for _ in 0..ACCOUNTS_PER_TRIM.min(count) {
            self.trimmed = (self.trimmed + 1) % count;
            let mut tracked: Vec<(u64, AccountId, Vec<u8>)> = Vec::new();
            if let Some(state) = self.accounts.get_mut(self.trimmed)
                && let Some(responses) = &mut state.responses
            {
                responses.look(RESPONSE_LOOKS_PER_TRIM, now, |response| {
                    tracked.push((response.number, response.importer, response.reply().to_vec()));
                });
                for request in responses.take_timed_out() {
                    self.latencies.push(Box::new(request), Ending::TimedOut);
                }
            }
            for (number, importer, reply) in tracked {
                self.end_if_unwanted(self.trimmed, number, importer, &reply);
            }
        }
    }

    /// Ends a tracked request whose requester no longer waits for the answer.
    fn end_if_unwanted(&mut self, exporter: usize, number: u64, importer: AccountId, reply: &[u8]) {
        let (mut account, mut reply) = (importer, reply.to_vec());
        // The reply of a request that crossed before leads to that of the first, if that is there.
        while reply.starts_with(responses::PREFIX) {
            let state = self.accounts.get_mut(account.index());
            let responses = state.and_then(|state| state.responses.as_mut());
            let before = responses.and_then(|responses| responses.find(&reply, Instant::now()));
            let Some((_, before)) = before else { break };
            (account, reply) = (before.importer, before.reply().to_vec());
        }
        if !reply.starts_with(responses::PREFIX) && self.is_wanted(account, &reply) {
            return;
        }
        let state = self.accounts.get_mut(exporter);
        let responses = state.and_then(|state| state.responses.as_mut());
        if let Some(request) = responses.and_then(|responses| responses.remove(number)) {
            self.latencies.push(request, Ending::InterestLost);
        }
    }

    /// Passes a message on to the accounts that it crosses to. False = the turn is over, or holds
    /// what to wait for.
    #[cold]
    pub(super) fn serve_crossings(
        &mut self,
        passage: &Passage<'_>,
        list: &MatchList,
        progress: &mut Progress,
        turn: &mut Turn,
    ) -> bool {
        if let Some(crossing) = turn.crossing.take() {
            let UnfinishedCrossing { fan_out, end } = *crossing;
            let routed = self.resume(fan_out, turn);
            if !self.crossed(routed, end, progress, turn) {
                return false;
            }
        }
        while let Some(subscription) = list.crossings.get(progress.crossed) {
            progress.crossed += 1;
            turn.spend(CROSSING_WORK);
            let is_only = list.crossings.len() == 1
                && !progress.delivered
                && list.links.is_empty()
                && list.groups.is_empty();
            let crossing = match &subscription.sink {
                _ if subscription.is_removed() => None,
                // A request from another shard has crossed there.
                Sink::Request(sink) if passage.origin.from.is_none() => {
                    self.cross_request(sink, passage, is_only, turn)
                }
                Sink::Answers(sink) => self.cross_answer(sink, passage, turn),
                _ => None,
            };
            if let Some((routed, end)) = crossing
                && !self.crossed(routed, end, progress, turn)
            {
                return false;
            }
        }
        true
    }

    /// Records the outcome of a crossing. False = it is unfinished.
    fn crossed(
        &mut self,
        routed: Routed,
        end: CrossingEnd,
        progress: &mut Progress,
        turn: &mut Turn,
    ) -> bool {
        let delivered = match routed {
            Routed::Unfinished => {
                let fan_out = turn.unfinished.take().expect("an unfinished message is left");
                turn.crossing = Some(Box::new(UnfinishedCrossing { fan_out, end }));
                return false;
            }
            Routed::Delivered => true,
            Routed::Nobody => false,
        };
        progress.delivered |= delivered;
        match end {
            CrossingEnd::Request { exporter, number: Some(number) } if !delivered => {
                if let Some(request) = self.ensure_responses(exporter).remove(number) {
                    self.latencies.push(request, Ending::Nobody);
                }
            }
            CrossingEnd::Request { .. } => {}
            CrossingEnd::Answer { exporter, number, is_last } => {
                let responses = self.ensure_responses(exporter);
                match is_last || !delivered {
                    true => drop(responses.remove(number)),
                    false => responses.prolong(number, Instant::now()),
                }
            }
        }
        true
    }

    /// Publishes a request in the exporting account. None = it does not cross.
    fn cross_request(
        &mut self,
        sink: &RequestSink,
        passage: &Passage<'_>,
        is_only: bool,
        turn: &mut Turn,
    ) -> Option<(Routed, CrossingEnd)> {
        let import = &sink.route.import;
        let (exporter, export) = (sink.route.exporter, &import.export);
        let passed = passage.origin.target.passed;
        if passed.len() >= SERVICE_HOPS_MAX || passed.contains(&export.id) {
            return None;
        }
        self.ensure_account(exporter);
        self.ensure_services(exporter);
        let message = &passage.message;
        let mut rewritten = self.rewritten.pop().unwrap_or_default();
        let asked = passage.origin.routed_by(message);
        turn.spend(asked.len() / TOKEN_BYTES_PER_UNIT);
        import.subject.to_remote(asked, &mut rewritten.subject);
        let mut mapped = std::mem::take(&mut self.mapped);
        let mappings = &sink.route.account.mappings;
        let outcome = match mappings.is_empty() {
            true => Mapped::Unchanged,
            false => mappings.map(&rewritten.subject, &mut self.random, &mut mapped),
        };
        if outcome == Mapped::Changed {
            std::mem::swap(&mut rewritten.subject, &mut mapped);
        }
        self.mapped = mapped;
        if rewritten.subject.starts_with(responses::PREFIX) {
            // Only the account that was asked may answer.
            self.keep_spare(rewritten);
            return None;
        }
        let mut end = CrossingEnd::Request { exporter, number: None };
        if outcome == Mapped::Lost {
            // The weights of the mapping dropped it, which does not mean that nobody listens.
            self.keep_spare(rewritten);
            return Some((Routed::Delivered, end));
        }
        let tracked = match &export.latency {
            Some(_) => self.track(sink, passage),
            None => None,
        };
        rewritten.reply.clear();
        if message.reply.is_empty() {
            if let Some(request) = tracked {
                self.latencies.push(request, Ending::NoReply);
            }
        } else {
            let request = Request {
                importer: sink.importer,
                requester: passage.origin.source.publisher,
                subject: asked,
                reply: message.reply,
                threshold: export.threshold,
                is_streamed: export.response_type != ResponseType::Singleton,
            };
            let mut random = fastrand::Rng::with_seed(self.random.u64(..));
            let responses = self.ensure_responses(exporter);
            let number =
                responses.insert(&request, Instant::now(), &mut random, &mut rewritten.reply);
            let Some(number) = number else {
                self.counters.requests_refused += 1;
                self.keep_spare(rewritten);
                return None;
            };
            if let Some(tracked) = tracked {
                responses.track(number, tracked, &mut rewritten.reply);
            }
            let number = Some(number);
            end = CrossingEnd::Request { exporter, number };
        }
        let mut info = std::mem::take(&mut self.request_info);
        self.write_request_info(sink, passage, &mut info);
        let any_case = &self.request_info_in_any_case;
        rewritten.take_body(message, (any_case, REQUEST_INFO.as_bytes(), &info));
        turn.spend(copy_work(message) + info.len() / JSON_BYTES_PER_UNIT);
        self.request_info = info;
        let mut trace = passage.origin.target.trace;
        if let Some(traced) = trace {
            let target = &passage.origin.target;
            self.note_crossing(target, exporter, asked, &rewritten.subject);
            if !export.allow_trace && traced.only {
                self.keep_spare(rewritten);
                return Some((Routed::Nobody, end));
            }
            trace = trace.filter(|_| export.allow_trace);
            self.rename_trace(sink, message, trace.is_some(), &mut rewritten);
        }
        let mut passed: SmallVec<[u32; 8]> = SmallVec::from_slice(passed);
        passed.push(export.id);
        let origin = Origin {
            source: Source { account: exporter, share: 0, ..passage.origin.source },
            from: None,
            target: Target { passed: &passed, trace, ..Target::PLAIN },
            tells_nobody: passage.origin.tells_nobody && is_only,
        };
        let last = LastRoute::Request { importer: sink.importer, index: sink.index };
        let routed = self.publish_crossed(&rewritten.message(), &origin, last, turn);
        self.keep_spare(rewritten);
        if trace.is_some_and(|traced| traced.only)
            && let CrossingEnd::Request { number: Some(number), .. } = end
        {
            // Nobody has the request, so nobody answers it.
            self.ensure_responses(exporter).remove(number);
        }
        Some((routed, end))
    }

    /// Sets the subject for the trace of a request that crosses: none, or one that hides that of
    /// the requester. Nobody on this server publishes there, so it is not kept.
    #[cold]
    fn rename_trace(
        &mut self,
        sink: &RequestSink,
        message: &Message<'_>,
        goes_on: bool,
        rewritten: &mut Rewritten,
    ) {
        let mut shown = message_trace::DISABLED.to_vec();
        if goes_on {
            let request = Request {
                importer: sink.importer,
                requester: None,
                subject: message.subject,
                reply: b"",
                threshold: sink.route.import.export.threshold,
                is_streamed: false,
            };
            let mut random = fastrand::Rng::with_seed(self.random.u64(..));
            let responses = self.ensure_responses(sink.route.exporter);
            if let Some(number) =
                responses.insert(&request, Instant::now(), &mut random, &mut shown)
            {
                responses.remove(number);
            }
        }
        rewritten.set_header(&self.trace_destination, &shown);
    }

    /// Publishes an answer in the requester's account. None = no request is pending for it.
    fn cross_answer(
        &mut self,
        sink: &AnswerSink,
        passage: &Passage<'_>,
        turn: &mut Turn,
    ) -> Option<(Routed, CrossingEnd)> {
        let Origin { source, from, target, .. } = passage.origin;
        // The key of a client of another shard would name somebody else here.
        let source = Source { publisher: source.publisher.filter(|_| from.is_none()), ..source };
        if target.passed.len() >= SERVICE_HOPS_MAX {
            return None;
        }
        let (message, now) = (&passage.message, Instant::now());
        let mut rewritten = self.rewritten.pop().unwrap_or_default();
        let exporter = sink.exporter;
        let responses = self.ensure_responses(exporter);
        let Some((number, response)) = responses.find(passage.origin.routed_by(message), now)
        else {
            self.keep_spare(rewritten);
            return None;
        };
        let (importer, is_streamed) = (response.importer, response.is_streamed);
        rewritten.subject.clear();
        rewritten.subject.extend_from_slice(response.reply());
        if !is_streamed {
            // At most one answer is accepted, even while its delivery is unfinished.
            if let Some(request) = responses.remove(number) {
                self.end_tracked(request, target.home, passage.origin.source.publisher);
            }
        }
        let end = CrossingEnd::Answer {
            exporter,
            number,
            is_last: !is_streamed || message.body.is_empty(),
        };
        rewritten.reply.clear();
        if !message.reply.is_empty() {
            let request = Request {
                importer: exporter,
                requester: source.publisher,
                subject: message.subject,
                reply: message.reply,
                threshold: ANSWER_THRESHOLD,
                is_streamed: false,
            };
            let mut random = fastrand::Rng::with_seed(self.random.u64(..));
            self.ensure_account(importer);
            let responses = self.ensure_responses(importer);
            if responses.insert(&request, now, &mut random, &mut rewritten.reply).is_none() {
                self.counters.requests_refused += 1;
            }
        }
        if target.trace.is_some() {
            // The trace of an answer ends here.
            let from = passage.origin.routed_by(message);
            self.note_crossing(&target, importer, from, &rewritten.subject);
            if target.trace.is_some_and(|traced| traced.only) {
                self.keep_spare(rewritten);
                return Some((Routed::Nobody, end));
            }
            rewritten.copy_body(message);
            rewritten.set_header(&self.trace_destination, message_trace::DISABLED);
        }
        let mut passed: SmallVec<[u32; 8]> = SmallVec::from_slice(target.passed);
        passed.push(ANSWER);
        let origin = Origin {
            source: Source { account: importer, share: 0, ..source },
            from: None,
            target: Target { passed: &passed, ..Target::PLAIN },
            tells_nobody: false,
        };
        let answer = match target.trace {
            None => Message {
                subject: &rewritten.subject,
                reply: &rewritten.reply,
                tail: b"",
                ..*message
            },
            Some(_) => rewritten.message(),
        };
        let last = LastRoute::Answer { exporter };
        let routed = match from {
            None => self.publish_crossed(&answer, &origin, last, turn),
            Some(_) => self.publish_from_drain(&answer, &origin, last, turn),
        };
        self.keep_spare(rewritten);
        Some((routed, end))
    }

    fn keep_spare(&mut self, rewritten: Rewritten) {
        if self.rewritten.len() < SPARE_MESSAGES_MAX
            && rewritten.body.capacity() <= SPARE_BODY_BYTES_MAX
        {
            self.rewritten.push(rewritten);
        }
    }

    /// Publishes a rewritten message. If a lane has no room, the publisher's turn waits for it.
    fn publish_crossed(
        &mut self,
        message: &Message<'_>,
        origin: &Origin<'_>,
        last: LastRoute,
        turn: &mut Turn,
    ) -> Routed {
        let account = origin.source.account;
        if self.accounts.get(account.index()).is_none() {
            return Routed::Nobody;
        }
        if let Some(congestion) =
            self.message_congestion(account, message.subject, message.size(), turn)
        {
            let passage = Passage::new(message, origin, turn.publisher);
            turn.unfinished = Some(FanOut::new(&passage, Stage::Matching(None), self.cuts.token()));
            turn.congestion = Some(congestion);
            return Routed::Unfinished;
        }
        if origin.target.trace.is_some() {
            return self.route_traced(origin, message, turn);
        }
        let run = MessageRun::one(*message);
        // Taken out, because the message may cross again.
        let mut cache = self.last_route(last).map(std::mem::take).unwrap_or_default();
        let routed = self.publish(origin, &run, &mut cache, turn);
        cache.end_batch();
        if let Some(place) = self.last_route(last) {
            *place = cache;
        }
        routed
    }

    fn last_route(&mut self, last: LastRoute) -> Option<&mut RouteCache> {
        match last {
            LastRoute::Request { importer, index } => {
                let services = self.accounts.get_mut(importer.index())?.services.as_mut()?;
                services.caches.get_mut(index)
            }
            LastRoute::Answer { exporter } => {
                let responses = self.accounts.get_mut(exporter.index())?.responses.as_mut()?;
                Some(&mut responses.last_route)
            }
        }
    }

    /// Publishes an answer from another shard, like `publish_crossed`. A drain must not wait: what
    /// cannot be delivered at once is left to the backlog, in order; if that is full, the answer is
    /// dropped and counted.
    fn publish_from_drain(
        &mut self,
        message: &Message<'_>,
        origin: &Origin<'_>,
        last: LastRoute,
        turn: &mut Turn,
    ) -> Routed {
        let left = match self.backlog.has_fan_outs() {
            true => {
                let passage = Passage::new(message, origin, None);
                FanOut::new(&passage, Stage::Matching(None), self.cuts.token())
            }
            false => match self.publish_crossed(message, origin, last, turn) {
                Routed::Unfinished => {
                    turn.congestion = None;
                    turn.unfinished.take().expect("an unfinished message is left")
                }
                routed => return routed,
            },
        };
        if !self.backlog.has_room(&left) {
            self.counters.answers_dropped += 1;
            return Routed::Nobody;
        }
        self.backlog.push_fan_out(left);
        Routed::Delivered
    }

    /// Sends the no-responders status for a request that crossed and that nobody on another shard
    /// got. Returns true if it was one.
    pub(super) fn tell_requester(&mut self, unheard: &Unheard, turn: &mut Turn) -> bool {
        let Unheard { account, reply, .. } = unheard;
        if !reply.starts_with(responses::PREFIX) {
            return false;
        }
        let (mut account, mut reply) = (*account, reply.clone());
        let mut is_request = false;
        for _ in 0..SERVICE_HOPS_MAX {
            let Some(ended) = self.end_request(account, &reply) else { break };
            let EndedRequest { importer, requester, subject, reply: asked_with } = ended;
            is_request = true;
            if !asked_with.starts_with(responses::PREFIX) {
                let client = requester.filter(|client| self.is_of(*client, importer));
                if let Some(client) = client {
                    self.tell_no_responders(importer, client, &subject, &asked_with, turn);
                }
                break;
            }
            (account, reply) = (importer, asked_with);
        }
        is_request
    }

    fn is_of(&self, client: ClientKey, account: AccountId) -> bool {
        self.client(client).is_some_and(|client| client.account == account)
    }

    /// Forgets a pending request and returns it.
    fn end_request(&mut self, exporter: AccountId, reply: &[u8]) -> Option<EndedRequest> {
        let state = self.accounts.get_mut(exporter.index())?;
        let responses = state.responses.as_mut()?;
        let (number, response) = responses.find(reply, Instant::now())?;
        let ended = EndedRequest {
            importer: response.importer,
            requester: response.requester,
            subject: response.subject().to_vec(),
            reply: response.reply().to_vec(),
        };
        if let Some(request) = responses.remove(number) {
            self.latencies.push(request, Ending::Nobody);
        }
        Some(ended)
    }
}

#[cfg(test)]
#[path = "crossing/tests.rs"]
mod tests;
