//! The flags of `jetstream`. Their doc comments are the text of `--help`.

use super::TimeArguments;
use crate::Failure;
use crate::jetstream::work::{AckPolicy, JetStreamPlan, Storage, Work};
use crate::load::event_loop::Pacer;
use crate::load::schedule::Arrival;
use crate::units::{CoreList, parse_duration, parse_rate, parse_size};
use crate::wire::frames::TIMED_STAMP_SIZE;
use clap::Args;
use std::time::Duration;

/// Keys of a bucket unless --subjects says otherwise.
const KEYS: u32 = 1000;
/// Messages without an acknowledgement that a consumer allows at least; nats-server's own default.
const ACK_PENDING: u64 = 1000;

#[derive(Args, Debug, Clone)]
pub struct JetStreamArguments {
    #[arg(value_enum, value_name = "WORK")]
    pub work: Work,
    /// Publishers, consuming clients, or clients of a bucket
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    pub clients: u16,
    /// Consuming clients of `mixed`
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    pub consumers: u16,
    /// Streams or buckets, shared out among the clients
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "N")]
    pub streams: u32,
    /// Subjects of each stream [default: 1], or keys of each bucket [default: 1000]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    pub subjects: Option<u32>,
    /// Bytes per message: 128, 1k, 64KiB
    #[arg(long, default_value = "128", value_parser = parse_size, value_name = "SIZE")]
    pub payload: usize,
    /// Messages of each publisher without an acknowledgement, in `publish` and `mixed`
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    pub in_flight: u32,
    /// Messages per second of all publishers together, in `publish-open`
    #[arg(long, default_value = "10k", value_parser = parse_rate, value_name = "RATE")]
    pub rate: f64,
    #[arg(long, value_enum, default_value = "constant")]
    pub arrival: Arrival,
    /// Messages stored, in all streams together, before they are consumed
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    pub messages: u64,
    /// Messages that a pull request asks for; `consume` asks again when half of them are there
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    pub batch: u64,
    /// Acknowledgements of `consume`, `fetch`, `push` and `mixed`
    #[arg(long, value_enum, default_value = "explicit")]
    pub ack: AckPolicy,
    /// Messages that a consumer delivers without an acknowledgement [default: twice the batches of
    /// all its clients, 1000 at least]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    pub max_ack_pending: Option<u64>,
    #[arg(long, value_enum, default_value = "file")]
    pub storage: Storage,
    /// Read everything back after publishing, and check each message
    #[arg(long)]
    pub verify: bool,
    #[arg(long, value_enum, default_value = "spin")]
    pub pacer: Pacer,
    /// Load threads, each with its share of the clients; default: one per core of --pin-load, or
    /// one
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    pub load_threads: Option<u16>,
    /// A send later than this counts against the generator, in `publish-open` [default: 100us
    /// spinning, 1ms sleeping]
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub late_limit: Option<Duration>,
    /// Share of late sends above which a run of `publish-open` is invalid
    #[arg(long, default_value_t = 0.01, value_name = "SHARE")]
    pub late_share_max: f64,
    #[command(flatten)]
    pub time: TimeArguments,
}

impl JetStreamArguments {
    /// Checks for contradictions that the parser cannot see.
    ///
    /// # Errors
    /// If there is one.
    pub fn check(&self) -> Result<(), Failure> {
        if self.payload < TIMED_STAMP_SIZE {
            return Err(Failure::new(format!(
                "JetStream's messages are counted one by one: they need {TIMED_STAMP_SIZE} bytes or more"
            )));
        }
        if self.verify
            && !matches!(self.work, Work::Publish | Work::PublishSync | Work::PublishOpen)
        {
            return Err(Failure::new("--verify is for publish, publish-sync and publish-open"));
        }
        if self.work == Work::Ordered && u32::from(self.clients) < self.streams {
            return Err(Failure::new(
                "every stream needs a client that reads it in order: give at least as many --clients \
                 as --streams",
            ));
        }
        let readers = match self.work {
            Work::Mixed => u32::from(self.consumers),
            Work::Consume | Work::Fetch | Work::Push => u32::from(self.clients),
            _ => u32::MAX,
        };
        if readers < self.streams {
            return Err(Failure::new(
                "every stream needs a consuming client: give at least as many as --streams",
            ));
        }
        Ok(())
    }

    pub fn plan(&self, pin_load: &CoreList) -> JetStreamPlan {
        let pin_load = self.time.pin_load.clone().unwrap_or_else(|| pin_load.clone());
        let consumers = match self.work {
            Work::Mixed => self.consumers,
            _ => self.clients,
        };
        let ack_pending = ACK_PENDING.max(2 * self.batch * u64::from(consumers));
        JetStreamPlan {
            work: self.work,
            client_count: usize::from(self.clients),
            consumer_count: usize::from(self.consumers),
            stream_count: self.streams as usize,
            subject_count: self.subjects.unwrap_or(match self.work.is_key_value() {
                true => KEYS,
                false => 1,
            }) as usize,
            payload_size: self.payload,
            in_flight: self.in_flight as usize,
            rate: self.rate,
            arrival: self.arrival,
            message_count: self.messages,
            batch: self.batch,
            ack: self.ack,
            ack_pending_max: self.max_ack_pending.unwrap_or(ack_pending),
            storage: self.storage,
            verify: self.verify,
            pacer: self.pacer,
            warmup: self.time.warmup,
            duration: self.time.duration,
            load_threads: self.load_threads.map_or(pin_load.0.len().max(1), usize::from),
            pin_load,
            late_limit: self.late_limit.unwrap_or(match self.pacer {
                Pacer::Spin => Duration::from_micros(100),
                Pacer::Sleep => Duration::from_millis(1),
            }),
            late_share_max: self.late_share_max,
            seed: self.time.seed,
        }
    }
}
