//! The flags of `stalls`, and the plan that they make.

use crate::stalls::cases::Case;
use crate::stalls::rounds::StallsPlan;
use crate::stalls::stage::Contender;
use crate::units::{CoreList, parse_duration_above_zero};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args, Debug)]
pub struct StallsArguments {
    /// Midge's program: a path, or a name on PATH
    #[arg(long, value_name = "PROGRAM")]
    pub midge: PathBuf,
    /// nats-server's program, with which Midge is compared: a path, or a name on PATH
    #[arg(long, value_name = "PROGRAM")]
    pub nats: PathBuf,
    /// Numbers of shards; a Midge is started for each
    #[arg(long, default_value = "1,2,4", value_delimiter = ',', value_name = "LIST", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub shards: Vec<u16>,
    /// Rounds; each runs every server once, in turning order. Medians are reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub rounds: u32,
    /// Only this case; may be repeated
    #[arg(long = "case", value_enum, value_name = "CASE")]
    pub cases: Vec<Case>,
    /// A longest PING up to this is good, whatever nats-server's is
    #[arg(long, default_value = "25ms", value_parser = parse_duration_above_zero, value_name = "TIME")]
    pub aim: Duration,
    /// Multiplies the numbers of subscriptions, connections and accounts of every case
    #[arg(long, default_value_t = 1.0, value_parser = parse_scale, value_name = "FACTOR")]
    pub scale: f64,
    /// Cores the servers may use; one core also sets GOMAXPROCS=1
    #[arg(long, value_parser = CoreList::parse, value_name = "CORES")]
    pub pin_server: Option<CoreList>,
    /// Cores of the load and of the probes
    #[arg(long, value_parser = CoreList::parse, value_name = "CORES")]
    pub pin_load: Option<CoreList>,
    /// JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// No progress on standard error
    #[arg(long)]
    pub quiet: bool,
}

impl StallsArguments {
    pub fn plan(&self) -> StallsPlan {
        let midge = |&count: &u16| Contender {
            name: match count {
                1 => "midge, 1 shard".to_string(),
                count => format!("midge, {count} shards"),
            },
            program: self.midge.to_string_lossy().into_owned(),
            shard_count: Some(usize::from(count)),
        };
        let mut contenders: Vec<Contender> = self.shards.iter().map(midge).collect();
        contenders.push(Contender {
            name: "nats-server".to_string(),
            program: self.nats.to_string_lossy().into_owned(),
            shard_count: None,
        });
        StallsPlan {
            contenders,
            cases: match self.cases.is_empty() {
                true => Case::all().to_vec(),
                false => self.cases.clone(),
            },
            rounds: self.rounds,
            pin_server: self.pin_server.clone().unwrap_or_default(),
            scale: self.scale,
        }
    }
}

fn parse_scale(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 10.0 => Ok(value),
        _ => Err(format!("'{text}' is no factor above 0 and up to 10")),
    }
}
