//! The flags of `kill`. Their doc comments are the text of `--help`.

use crate::units::parse_duration_above_zero;
use crate::wire::frames::TIMED_STAMP_SIZE;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args, Debug, Clone)]
pub struct KillArguments {
    /// Command line of the server with {port} and {store} in it
    #[arg(long, value_name = "COMMAND")]
    pub server: String,
    /// Number of kills
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000), value_name = "N")]
    pub rounds: u16,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=60), value_name = "N")]
    pub publishers: u16,
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=60), value_name = "N")]
    pub consumers: u16,
    /// Streams, shared out among publishers and consumers
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=60), value_name = "N")]
    pub streams: u16,
    /// Messages of each publisher without an acknowledgement
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "N")]
    pub in_flight: u32,
    /// Bytes of a payload
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(TIMED_STAMP_SIZE as i64..), value_name = "N")]
    pub payload: u32,
    /// Longest time between the first message and the kill; the time is random
    #[arg(long, default_value = "1s", value_parser = parse_duration_above_zero, value_name = "TIME")]
    pub alive: Duration,
    /// Folder on a disk in which {store} is made; default: the system's for temporary files
    #[arg(long, value_name = "DIR")]
    pub store_root: Option<PathBuf>,
    /// Seed of the moments; default: a random one
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// No progress on standard error
    #[arg(long)]
    pub quiet: bool,
}
