//! Rows: Midge's own options, unknown to nats-server.

use std::time::Duration;

use super::*;
use crate::config::go_text::quoted;
use Kind::{Integer, Structure, Text, Toggle};

/// Bytes of a name: the kernel's TCP_CA_NAME_MAX without the terminating zero.
const CONGESTION_NAME_BYTES_MAX: usize = 15;

pub(super) static MIDGE: &[Row] = &[
    entry_row!(
        "midge",
        Structure {
            shape: "block",
            read: |reader, value| {
                reader.read_table_block("midge", value);
            }
        },
        "Midge's own options, which nats-server does not know. They follow."
    ),
    row!(
        "midge.shards",
        "midge.shards",
        Integer {
            min: 1,
            max: 1024,
            set: |options, value| {
                options.shards.count = usize::try_from(value).ok();
            }
        },
        "one per core",
        Restart,
        shards.count,
        "Number of shards: threads with their own listener."
    )
    .flag(&["shards"], "<number>"),
    row!(
        "midge.cores",
        "midge.cores",
        Text(|options, text| {
            options.shards.cores = Some(parse_cores(text)?);
            Ok(())
        }),
        "all this process may use",
        Restart,
        shards.cores,
        "Cores for the shards, as `2-5,8`: one each, in this order; without pinning, all for all."
    )
    .flag(&["cores"], "<list>"),
    row!(
        "midge.pin",
        "midge.pin",
        Toggle(|options, on| options.shards.pin = Some(on)),
        "where --cores is given or the cores are isolated",
        Restart,
        shards.pin,
        "Pin each shard to its core."
    )
    .flag(&["pin"], ""),
    entry_row!(
        "",
        Toggle(|options, on| options.shards.pin = Some(on)),
        "Do not pin shards to cores; with --cores they stay on those cores."
    )
    .inverse_flag(&["no-pin"], ""),
    row!(
        "midge.busy_poll",
        "midge.busy_poll",
        Integer {
            min: 0,
            max: 1_000_000,
            set: |options, value| {
                options.shards.busy_poll = u64::try_from(value).ok().map(Duration::from_micros);
            }
        },
        "at most 100, while that brings messages sooner",
        Restart,
        shards.busy_poll,
        "Microseconds a shard spins before it sleeps; 0 = never."
    )
    .flag(&["busy-poll"], "<microseconds>"),
    row!(
        "midge.io_driver",
        "midge.io_driver",
        Text(|options, text| {
            options.shards.io_driver = match text {
                "auto" => IoDriver::Auto,
                "io_uring" => IoDriver::IoUring,
                "epoll" => IoDriver::Epoll,
                _ => return Err("io_driver must be 'auto', 'io_uring' or 'epoll'".into()),
            };
            Ok(())
        }),
        "auto",
        Restart,
        shards.io_driver,
        "auto, io_uring or epoll; auto prefers io_uring."
    )
    .flag(&["io-driver"], "<driver>"),
    row!(
        "midge.unix",
        "midge.unix",
        Text(|options, text| {
            options.listen.unix.get_or_insert_with(empty_unix).path = PathBuf::from(text);
            Ok(())
        }),
        "",
        Restart,
        listen.unix,
        "Unix domain socket to listen on as well."
    )
    .flag(&["unix"], "<path>"),
    entry_row!(
        "midge.unix_mode",
        Text(set_unix_mode),
        "Permission bits of that socket, octal, as \"0660\"."
    )
    .default("0660")
    .flag(&["unix-mode"], "<octal>"),
    row!(
        "midge.shard_ports",
        "midge.shard_ports",
        Integer {
            min: 0,
            max: PORT_MAX,
            set: |options, value| {
                options.shards.ports_base = u16::try_from(value).ok().filter(|&port| port > 0);
            }
        },
        "",
        Restart,
        shards.ports_base,
        "First of one extra port per shard, so that a client can choose its shard."
    )
    .flag(&["shard-ports"], "<port>"),
    row!(
        "midge.balance",
        "midge.balance",
        Text(|options, text| {
            options.shards.balance = match text {
                "hash" => Balance::Hash,
                "least-connections" => Balance::LeastConnections,
                "auto" => Balance::Auto,
                // For tests only: not mentioned in the error.
                "next-shard" => Balance::NextShard,
                "wander" => Balance::Wander,
                _ => return Err("balance must be 'hash', 'least-connections' or 'auto'".into()),
            };
            Ok(())
        }),
        "hash",
        Restart,
        shards.balance,
        "How new connections find their shard: hash, least-connections or auto; auto decides at their first subscription or message, keeps to few shards while those have room, and moves connections from busy shards to idle ones."
    )
    .flag(&["balance"], "<way>"),
    row!(
        "midge.local_congestion",
        "midge.local_congestion",
        Text(|options, text| {
            options.listen.local_congestion = parse_congestion(text)?;
            Ok(())
        }),
        "auto",
        Restart,
        listen.local_congestion,
        "Congestion control of sockets to peers on this host: auto, host or a name of the kernel's; auto takes one that does not pace where the host's is BBR."
    )
    .flag(&["local-congestion"], "<name>"),
    row!(
        "midge.log_format",
        "midge.log_format",
        Text(|options, text| {
            options.log.format = match text {
                "nats" => LogFormat::Nats,
                "json" => LogFormat::Json,
                _ => return Err("log_format must be 'nats' or 'json'".into()),
            };
            Ok(())
        }),
        "nats",
        Restart,
        log.format,
        "Log lines as nats-server writes them, or as JSON objects."
    )
    .flag(&["log-format"], "<format>"),
];

/// Parses `2-5,8` as cores, in the order given.
///
/// # Errors
/// If the text is not such a list, or names a core twice.
pub(crate) fn parse_cores(text: &str) -> Result<Vec<usize>, String> {
    let bad = || format!("cores {} is not a list such as 2-5,8", quoted(text));
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            // `parse` would accept a sign.
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| text.parse::<usize>().ok()).flatten().ok_or_else(bad)
        };
        let (first, last) = (number(first.trim())?, number(last.trim())?);
        if last < first || last > 4095 {
            return Err(bad());
        }
        cores.extend(first..=last);
    }
    let mut seen = cores.clone();
    seen.sort_unstable();
    seen.dedup();
    if seen.len() != cores.len() {
        return Err(format!("cores {} names a core twice", quoted(text)));
    }
    Ok(cores)
}

fn parse_congestion(text: &str) -> Result<LocalCongestion, String> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    match text {
        "auto" => Ok(LocalCongestion::Auto),
        "host" => Ok(LocalCongestion::Host),
        name if (1..=CONGESTION_NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(is_name) =>
        {
            Ok(LocalCongestion::Named(name.to_owned()))
        }
        _ => Err("local_congestion must be 'auto', 'host' or a name as 'cubic'".into()),
    }
}

fn set_unix_mode(options: &mut Options, text: &str) -> Result<(), String> {
    let mode = u32::from_str_radix(text.trim_start_matches("0o"), 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| format!("unix_mode {} is not an octal mode such as 0660", quoted(text)))?;
    let unix = options.listen.unix.get_or_insert_with(empty_unix);
    unix.mode = mode;
    Ok(())
}

fn empty_unix() -> UnixListenOptions {
    UnixListenOptions { path: PathBuf::new(), mode: 0o660 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn congestion_is_auto_the_hosts_or_a_name_known_to_the_kernel() {
        assert_eq!(parse_congestion("auto"), Ok(LocalCongestion::Auto));
        assert_eq!(parse_congestion("host"), Ok(LocalCongestion::Host));
        assert_eq!(parse_congestion("cubic"), Ok(LocalCongestion::Named("cubic".into())));
        let longest = "a".repeat(CONGESTION_NAME_BYTES_MAX);
        assert_eq!(parse_congestion(&longest), Ok(LocalCongestion::Named(longest.clone())));
        for text in ["", "a b", "a\0", "\u{e9}", &(longest + "a")] {
            assert!(parse_congestion(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn core_lists_parse() {
        assert_eq!(parse_cores("2-5,8"), Ok(vec![2, 3, 4, 5, 8]));
        assert_eq!(parse_cores("8, 0 ,3-3"), Ok(vec![8, 0, 3]));
        assert_eq!(parse_cores("0-4095").map(|cores| cores.len()), Ok(4096));
        for text in [
            "",
            ",",
            "a",
            "1,",
            "-1",
            "+1",
            "1-",
            "5-2",
            "1-2-3",
            "0x1",
            "99999999999999999999",
            "0-4096",
            "0-4294967295",
        ] {
            let expected = format!("cores {} is not a list such as 2-5,8", quoted(text));
            assert_eq!(parse_cores(text), Err(expected));
        }
        assert_eq!(parse_cores("1-3,2"), Err("cores \"1-3,2\" names a core twice".into()));
    }
}
