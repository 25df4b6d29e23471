//! Requests about consumers: create, describe, list, delete, pause, unpin, reset.

use std::rc::Rc;

use serde::Serialize;

use super::super::consumer::output::UnpinReason;
use super::super::consumer_checks::{
    ConsumerRules, CreateSubject, check, check_existing, check_names, check_new,
    complete_threshold, prepare, set_defaults,
};
use super::super::consumer_config::{ConsumerConfig, CreateConsumerRequest, DeliverPolicy};
use super::super::consumer_ledger::state_of;
use super::super::consumers::{Consumer, name_of};
use super::super::directory::Directory;
use super::super::engine::Engine;
use super::super::error::ApiError;
use super::super::json::decode::{Decoded, Object, Reader, decode, decode_request};
use super::super::json::encode::is_default;
use super::super::json::timestamp::Timestamp;
use super::super::stream::StreamHandle;
use super::super::stream_config::Retention;
use super::consumer_info::ConsumerJson;
use super::streams::{Success, bad_json, store_error};
use super::{Refusal, Reply, Request, reply_of};
use crate::storage::disk::Disk;
use crate::storage::position::CommitNumber;
use crate::storage::store::StoreError;

/// Names and consumers of one page.
const NAMES_PER_PAGE: usize = 1024;
const CONSUMERS_PER_PAGE: usize = 256;

/// The length of a name that the server makes.
const RANDOM_NAME_LENGTH: usize = 8;

#[derive(Default, Serialize)]
struct Described {
    #[serde(flatten)]
    consumer: Option<ConsumerJson>,
}

#[derive(Default, Serialize)]
struct Names {
    total: usize,
    offset: usize,
    limit: usize,
    consumers: Option<Vec<String>>,
}

#[derive(Default, Serialize)]
struct Listed {
    total: usize,
    offset: usize,
    limit: usize,
    consumers: Option<Vec<ConsumerJson>>,
}

#[derive(Serialize)]
struct Paused {
    paused: bool,
    pause_until: Timestamp,
    #[serde(skip_serializing_if = "is_default")]
    pause_remaining: i64,
}

impl Default for Paused {
    fn default() -> Self {
        Self { paused: false, pause_until: Timestamp::ZERO, pause_remaining: 0 }
    }
}

#[derive(Default, Serialize)]
struct Reset {
    #[serde(flatten)]
    consumer: Option<ConsumerJson>,
    reset_seq: u64,
}

/// The consumers of a stream that clients see, and the place where a page of them begins.
struct Page {
    stream: Rc<StreamHandle>,
    all: Vec<Rc<Consumer>>,
    offset: usize,
}

#[derive(Default)]
struct OffsetRequest {
    offset: i64,
}

impl Object for OffsetRequest {
    const GO_NAME: &'static str = "JSApiConsumersRequest";
    const FIELDS: &'static [&'static str] = &["offset"];

    fn read_field(&mut self, _: &'static str, reader: &mut Reader<'_>) -> Decoded {
        reader.int(&mut self.offset)
    }
}

#[derive(Default)]
struct PauseRequest {
    pause_until: Option<Timestamp>,
}

impl Object for PauseRequest {
    const GO_NAME: &'static str = "JSApiConsumerPauseRequest";
    const FIELDS: &'static [&'static str] = &["pause_until"];

    fn read_field(&mut self, _: &'static str, reader: &mut Reader<'_>) -> Decoded {
        Timestamp::read_optional(&mut self.pause_until, reader)
    }
}

#[derive(Default)]
struct UnpinRequest {
    group: String,
}

impl Object for UnpinRequest {
    const GO_NAME: &'static str = "JSApiConsumerUnpinRequest";
    const FIELDS: &'static [&'static str] = &["group"];

    fn read_field(&mut self, _: &'static str, reader: &mut Reader<'_>) -> Decoded {
        reader.string(&mut self.group)
    }
}

#[derive(Default)]
struct ResetRequest {
    sequence: u64,
}

impl Object for ResetRequest {
    const GO_NAME: &'static str = "JSApiConsumerResetRequest";
    const FIELDS: &'static [&'static str] = &["seq"];

    fn read_field(&mut self, _: &'static str, reader: &mut Reader<'_>) -> Decoded {
        reader.uint64(&mut self.sequence)
    }
}

impl<D: Disk> Engine<D> {
    /// A consumer of a stream, both by name.
    fn find_consumer(
        &self,
        directory: &Directory,
        stream: &str,
        name: &str,
    ) -> Result<(Rc<StreamHandle>, Rc<Consumer>), Refusal> {
        let stream = self.find_stream(directory, stream)?;
        let after = self.told_after(&stream);
        let refusal = || Refusal { error: ApiError::CONSUMER_NOT_FOUND, after };
        let consumer = stream.consumers.get(name).ok_or_else(refusal)?;
        Ok((stream, consumer))
    }

    /// The commit that an answer about the state of consumers waits for: changes that only ride
    /// along are told, too.
    fn told_of_consumers(&self) -> CommitNumber {
        let store = self.store.borrow();
        store.lane().flush();
        store.lane().last_commit()
    }

    /// Answers a request about consumers; `None` where there is no answer.
    pub(super) async fn answer_consumers(
        self: &Rc<Self>,
        directory: &Directory,
        tokens: &[&str],
        request: &Request,
    ) -> Option<Reply> {
        Some(match *tokens {
            ["CONSUMER", "DURABLE", "CREATE", stream, name] => {
                let subject = CreateSubject::Durable(name);
                self.create_consumer(directory, stream, subject, request).await
            }
            ["CONSUMER", "CREATE", stream] => {
                let subject = CreateSubject::Ephemeral;
                self.create_consumer(directory, stream, subject, request).await
            }
            ["CONSUMER", "CREATE", stream, name, ref filter @ ..] => {
                let filter = filter.join(".");
                let subject = CreateSubject::Named(name, &filter);
                self.create_consumer(directory, stream, subject, request).await
            }
            ["CONSUMER", "INFO", stream, name] => {
                self.consumer_info(directory, stream, name, request).await
            }
            ["CONSUMER", "NAMES", stream] => self.consumer_names(directory, stream, request),
            ["CONSUMER", "LIST", stream] => self.consumer_list(directory, stream, request).await,
            ["CONSUMER", "DELETE", stream, name] => {
                self.delete_consumer(directory, stream, name, request)
            }
            ["CONSUMER", "PAUSE", stream, name] => {
                self.pause_consumer(directory, stream, name, request)
            }
            ["CONSUMER", "UNPIN", stream, name] => {
                self.unpin_consumer(directory, stream, name, request)
            }
            ["CONSUMER", "RESET", stream, name] => {
                return self.reset_consumer(directory, stream, name, request).await;
            }
            _ => return None,
        })
    }

    async fn create_consumer(
        self: &Rc<Self>,
        directory: &Directory,
        stream: &str,
        subject: CreateSubject<'_>,
        request: &Request,
    ) -> Reply {
        let created = async {
            let strict = self.settings().is_strict;
            let asked = CreateConsumerRequest::from_json(&request.payload, strict);
            let mut asked = asked.map_err(bad_json)?;
            check_names(&mut asked, stream, subject)?;
            let stream = self.find_stream(directory, stream)?;
            let (consumer, after) = self.create_or_update(&stream, asked).await?;
            let described = self.describe_consumer(&stream, &consumer, false).await;
            let after = after.max(self.told_after(&stream));
            Ok((Described { consumer: described }, after))
        };
        reply_of("consumer_create_response", created.await)
    }

    async fn create_or_update(
        self: &Rc<Self>,
        stream: &Rc<StreamHandle>,
        asked: CreateConsumerRequest,
    ) -> Result<(Rc<Consumer>, CommitNumber), Refusal> {
        let CreateConsumerRequest { mut config, action, is_pedantic, .. } = asked;
        let stream_config = stream.config();
        let existing = stream.consumers.get(name_of(&config));
        let old = existing.as_ref().map(|consumer| consumer.config());
        prepare(&mut config, old.as_deref());
        let (settings, limits) = (self.settings(), stream.account.limits.borrow().clone());
        let limits = limits.unwrap_or_default();
        let rules = ConsumerRules {
            server_ack_pending_max: settings.ack_pending_max,
            account_ack_pending_max: limits.ack_pending_max,
            request_batch_max: settings.request_batch_max,
        };
        set_defaults(&mut config, &stream_config, &rules, is_pedantic)?;
        check(&config, &stream_config, &rules)?;
        let name = name_of(&config);
        let others: Vec<Rc<ConsumerConfig>> = match stream_config.retention {
            Retention::WorkQueue => {
                let all = stream.consumers.all();
                let shown = all.iter().filter(|one| !one.is_hidden() && *one.name != *name);
                shown.map(|consumer| consumer.config()).collect()
            }
            // Only their number matters.
            _ => {
                let own = usize::from(existing.is_some());
                vec![Rc::default(); stream.consumers.shown().saturating_sub(own)]
            }
        };
        let others = others.iter().map(Rc::as_ref);
        let Some((consumer, old)) = existing.zip(old) else {
            let (most, default) = (limits.consumers_max, settings.default_consumers_max);
            check_new(&config, action, &stream_config, others, most, default)?;
            complete_threshold(&mut config, None);
            let name = match name_of(&config) {
                "" => random_name(),
                name => name.to_owned(),
            };
            let made = self.make_consumer(stream, &name, config).await;
            let (consumer, after) = made.map_err(|error| consumer_error(&error))?;
            self.advise_creation(stream, &consumer, after);
            return Ok((consumer, after));
        };
        let has_interest =
            old.is_push() && self.has_interest(stream, old.deliver_subject.as_bytes());
        check_existing(&old, &mut config, action, &stream_config, others, has_interest)?;
        complete_threshold(&mut config, Some(&old));
        let after = self.change_consumer(stream, &consumer, config);
        Ok((consumer, after.map_err(|error| consumer_error(&error))?))
    }

    async fn consumer_info(
        &self,
        directory: &Directory,
        stream: &str,
        name: &str,
        request: &Request,
    ) -> Reply {
        let described = async {
            if !request.is_empty() {
                return Err(ApiError::NOT_EMPTY_REQUEST.into());
            }
            let (stream, consumer) = self.find_consumer(directory, stream, name)?;
            let described = self.describe_consumer(&stream, &consumer, false).await;
            let consumer = Some(described.ok_or(ApiError::CONSUMER_NOT_FOUND)?);
            Ok((Described { consumer }, self.told_of_consumers()))
        };
        reply_of("consumer_info_response", described.await)
    }

    /// The consumers of a stream that clients see, and the place where a page of them begins.
    fn listed_consumers(
        &self,
        directory: &Directory,
        stream: &str,
        request: &Request,
    ) -> Result<Page, Refusal> {
        let mut asked = OffsetRequest::default();
        if let Some(body) = request.optional_body() {
            decode_request(body, self.settings().is_strict, &mut asked).map_err(bad_json)?;
        }
        let stream = self.find_stream(directory, stream)?;
        let mut all = stream.consumers.all();
        all.retain(|consumer| !consumer.is_hidden());
        let offset = usize::try_from(asked.offset).unwrap_or(0).min(all.len());
        Ok(Page { stream, all, offset })
    }

    fn consumer_names(&self, directory: &Directory, stream: &str, request: &Request) -> Reply {
        let listed = self.listed_consumers(directory, stream, request);
        let names = listed.map(|Page { stream, all, offset }| {
            let page = all.iter().skip(offset).take(NAMES_PER_PAGE);
            let consumers = Some(page.map(|consumer| consumer.name.to_string()).collect());
            let names = Names { total: all.len(), offset, limit: NAMES_PER_PAGE, consumers };
            (names, self.told_after(&stream))
        });
        reply_of("consumer_names_response", names)
    }

    async fn consumer_list(&self, directory: &Directory, stream: &str, request: &Request) -> Reply {
        let listed = async {
            let Page { stream, all, offset } = self.listed_consumers(directory, stream, request)?;
            let mut consumers = Vec::new();
            for consumer in all.iter().skip(offset).take(CONSUMERS_PER_PAGE) {
                consumers.extend(self.describe_consumer(&stream, consumer, true).await);
                self.host.yield_turn().await;
            }
            let consumers = Some(consumers);
            let limit = CONSUMERS_PER_PAGE;
            Ok((Listed { total: all.len(), offset, limit, consumers }, self.told_of_consumers()))
        };
        reply_of("consumer_list_response", listed.await)
    }

    fn delete_consumer(
        self: &Rc<Self>,
        directory: &Directory,
        stream: &str,
        name: &str,
        request: &Request,
    ) -> Reply {
        let deleted = || {
            if !request.is_empty() {
                return Err(ApiError::NOT_EMPTY_REQUEST.into());
            }
            let (stream, consumer) = self.find_consumer(directory, stream, name)?;
            let after = self.remove_consumer(&stream, &consumer);
            Ok((Success { success: true }, after))
        };
        reply_of("consumer_delete_response", deleted())
    }

    fn pause_consumer(
        &self,
        directory: &Directory,
        stream: &str,
        name: &str,
        request: &Request,
    ) -> Reply {
        let paused = || {
            let mut asked = PauseRequest::default();
            if let Some(body) = request.optional_body() {
                decode_request(body, self.settings().is_strict, &mut asked).map_err(bad_json)?;
            }
            let (stream, consumer) = self.find_consumer(directory, stream, name)?;
            let until = asked.pause_until.filter(|until| !until.is_zero()).map(Timestamp::to_utc);
            let mut config = ConsumerConfig::clone(&consumer.config());
            config.pause_until = until;
            super::super::consumer_checks::prepare(&mut config, None);
            let after = self.change_consumer(&stream, &consumer, config);
            let after = after.map_err(|error| store_error(&error))?;
            let now_ns = self.host.now_ns();
            let remaining = until.map_or(0, |until| until.unix_ns().saturating_sub(now_ns).max(0));
            let body = Paused {
                paused: remaining > 0,
                pause_until: until.unwrap_or(Timestamp::ZERO),
                pause_remaining: remaining,
            };
            Ok((body, after))
        };
        reply_of("consumer_pause_response", paused())
    }

    fn unpin_consumer(
        &self,
        directory: &Directory,
        stream: &str,
        name: &str,
        request: &Request,
    ) -> Reply {
        let unpinned = || {
            let mut asked = UnpinRequest::default();
            decode(&request.payload, &mut asked).map_err(bad_json)?;
            if asked.group.is_empty() {
                return Err(ApiError::INVALID_PRIORITY_GROUP.into());
            }
            let (stream, consumer) = self.find_consumer(directory, stream, name)?;
            if !consumer.config().priority_groups.contains(&asked.group) {
                return Err(ApiError::INVALID_PRIORITY_GROUP.into());
            }
            consumer.part.borrow_mut().machine.unpin(UnpinReason::Admin);
            stream.consumers.make_ready(&consumer);
            Ok((super::Nothing {}, CommitNumber(0)))
        };
        reply_of("consumer_unpin_response", unpinned())
    }

    /// Lets a consumer begin anew; no answer if there is none. Source: nats-server
    /// server/consumer.go resetStartingSeqLocked.
    async fn reset_consumer(
        &self,
        directory: &Directory,
        stream: &str,
        name: &str,
        request: &Request,
    ) -> Option<Reply> {
        let (stream, consumer) = self.find_consumer(directory, stream, name).ok()?;
        let reset = async {
            let mut asked = ResetRequest::default();
            if !request.payload.is_empty() {
                decode(&request.payload, &mut asked).map_err(bad_json)?;
            }
            let sequence = self.reset_sequence(&stream, &consumer, asked.sequence).await?;
            let after = self.restart_consumer(&stream, &consumer, sequence - 1).await;
            let described = self.describe_consumer(&stream, &consumer, false).await;
            let consumer = Some(described.ok_or(ApiError::CONSUMER_NOT_FOUND)?);
            Ok((Reset { consumer, reset_seq: sequence }, after.max(self.told_of_consumers())))
        };
        Some(reply_of("consumer_reset_response", reset.await))
    }

    /// The sequence from which a consumer that is reset goes on.
    async fn reset_sequence(
        &self,
        stream: &StreamHandle,
        consumer: &Consumer,
        asked: u64,
    ) -> Result<u64, Refusal> {
        let config = consumer.config();
        if asked == 0 {
            let part = consumer.part.borrow();
            let store = self.store.borrow();
            let state = state_of(&store, stream.id, consumer.id, &part.memory);
            return Ok(state.floor().stream + 1);
        }
        let first = match config.deliver_policy {
            DeliverPolicy::All => 1,
            DeliverPolicy::ByStartSequence if asked < config.start_sequence => {
                return Err(ApiError::invalid_reset("below start seq").into());
            }
            DeliverPolicy::ByStartSequence => 1,
            DeliverPolicy::ByStartTime => {
                let begin = self.begin_of(stream, &config).await;
                begin.map_err(|error| store_error(&error))?.after + 1
            }
            _ => return Err(ApiError::invalid_reset("not allowed").into()),
        };
        match asked < first {
            true => Err(ApiError::invalid_reset("below start time").into()),
            false => Ok(asked),
        }
    }
}

/// The error of a change of a consumer that the store does not make.
fn consumer_error(error: &StoreError) -> ApiError {
    store_error(error)
}

fn random_name() -> String {
    (0..RANDOM_NAME_LENGTH).map(|_| fastrand::alphanumeric()).collect()
}
