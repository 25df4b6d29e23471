//! Requests to a server's JetStream API, one at a time: for what surrounds the measured time.

use crate::Failure;
use crate::wire::connection::{Connection, Dialer};
use crate::wire::message::{Head, status_text};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Time for one answer: a server may take long to delete a large stream.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);
/// Bytes of the largest answer.
const ANSWER_SIZE_MAX: usize = 1 << 20;

pub struct JetStreamApi {
    connection: Connection,
    inbox: String,
    request_count: u64,
}

/// A stream's state, as far as the harness checks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamState {
    pub messages: u64,
    pub last_sequence: u64,
}

impl JetStreamApi {
    /// Connects, and asks for the account's JetStream.
    ///
    /// # Errors
    /// If the server cannot be reached or has no JetStream.
    pub fn connect(dialer: &Dialer) -> Result<JetStreamApi, Failure> {
        let tag: String = std::iter::repeat_with(fastrand::alphanumeric).take(12).collect();
        let inbox = format!("_INBOX.bench.api.{tag}");
        let mut connection = dialer.connect("midge-bench api", ANSWER_SIZE_MAX)?;
        connection.subscribe(&format!("{inbox}.*"), None, 1)?;
        let mut api = JetStreamApi { connection, inbox, request_count: 0 };
        api.request("INFO", &Value::Null)?;
        Ok(api)
    }

    pub fn server_name(&self) -> String {
        self.connection.info.name.clone()
    }

    pub fn server_version(&self) -> String {
        self.connection.info.version.clone()
    }

    pub fn payload_size_max(&self) -> usize {
        self.connection.info.payload_size_max
    }

    /// Sends a request to `$JS.API.` and `operation`; `Null` is an empty body.
    ///
    /// # Errors
    /// If no answer comes, or it is an error.
    pub fn request(&mut self, operation: &str, body: &Value) -> Result<Value, Failure> {
        let failed = |why: String| Failure::new(format!("JetStream request {operation}: {why}"));
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.request_count += 1;
        let reply = format!("{}.{}", self.inbox, self.request_count);
        let size = body.len();
        let frame = format!("PUB $JS.API.{operation} {reply} {size}\r\n{body}\r\n");
        self.connection.stream.write_all(frame.as_bytes())?;
        let until = Instant::now() + ANSWER_WAIT_MAX;
        let mut answer = None;
        while answer.is_none() {
            if Instant::now() > until {
                return Err(failed(format!("no answer in {} s", ANSWER_WAIT_MAX.as_secs())));
            }
            self.connection.pump(|line, payload| {
                if let Some(head) =
                    Head::parse(line).filter(|head| head.subject == reply.as_bytes())
                {
                    let (headers, body) = payload.split_at(head.header_size);
                    answer = Some((status_text(headers), body.to_vec()));
                }
            })?;
        }
        let (status, body) = answer.unwrap_or_default();
        if body.is_empty() {
            return Err(failed(match status.starts_with("503") {
                true => {
                    "nobody answers: this server, or this account, has no JetStream".to_string()
                }
                false => format!("an empty answer, status '{status}'"),
            }));
        }
        let answer: Value = serde_json::from_slice(&body)
            .map_err(|error| failed(format!("the answer is not readable: {error}")))?;
        match answer.get("error") {
            Some(error) => Err(failed(error.to_string())),
            None => Ok(answer),
        }
    }

    /// # Errors
    /// If the server refuses.
    pub fn create_stream(&mut self, config: &Value) -> Result<(), Failure> {
        let name = config["name"].as_str().unwrap_or_default();
        self.request(&format!("STREAM.CREATE.{name}"), config).map(drop)
    }

    /// # Errors
    /// If the server refuses.
    pub fn delete_stream(&mut self, name: &str) -> Result<(), Failure> {
        self.request(&format!("STREAM.DELETE.{name}"), &Value::Null).map(drop)
    }

    /// # Errors
    /// If the server refuses.
    pub fn stream_state(&mut self, name: &str) -> Result<StreamState, Failure> {
        let info = self.request(&format!("STREAM.INFO.{name}"), &Value::Null)?;
        let number = |key: &str| info["state"][key].as_u64();
        match (number("messages"), number("last_seq")) {
            (Some(messages), Some(last_sequence)) => Ok(StreamState { messages, last_sequence }),
            _ => Err(Failure::new(format!("STREAM.INFO.{name} has no state: {info}"))),
        }
    }

    /// Creates a consumer from the body of a request that names its stream.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn create_consumer(&mut self, request: &Value) -> Result<(), Failure> {
        let stream = request["stream_name"].as_str().unwrap_or_default();
        let name = request["config"]["name"].as_str().unwrap_or_default();
        self.request(&format!("CONSUMER.CREATE.{stream}.{name}"), request).map(drop)
    }

    /// Returns how many messages a consumer has not delivered, and how many of the delivered ones
    /// were not acknowledged.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn consumer_backlog(&mut self, stream: &str, name: &str) -> Result<(u64, u64), Failure> {
        let info = self.request(&format!("CONSUMER.INFO.{stream}.{name}"), &json!({}))?;
        let number = |key: &str| info[key].as_u64();
        number("num_pending").zip(number("num_ack_pending")).ok_or_else(|| {
            Failure::new(format!("CONSUMER.INFO.{stream}.{name} has no numbers: {info}"))
        })
    }
}
