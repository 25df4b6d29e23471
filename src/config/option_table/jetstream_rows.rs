//! Rows: JetStream.

use super::*;
use crate::config::read_jetstream::{read_jetstream, read_store_dir};
use Kind::{Structure, Text, Toggle};

/// A part of the `jetstream` block.
const fn part(shape: &'static str) -> Kind {
    Kind::Part { shape, flag: PartFlag::None }
}

pub(super) static JETSTREAM: &[Row] = &[
    hidden_row!(
        "jetstream",
        "JetStream",
        Structure { shape: "true, false, `enabled`, `disabled` or a block", read: read_jetstream },
        "false",
        Restart,
        |options| options.jetstream.is_enabled,
        "Streams, consumers, key-value and object stores. Options of the block follow."
    ),
    entry_row!("", Toggle(|options, on| options.jetstream.is_enabled = on), "Turn on JetStream.")
        .flag(&["js", "jetstream"], ""),
    row!(
        "store_dir",
        "jetstream storage directory",
        Structure { shape: "text", read: read_store_dir },
        "`nats/jetstream` in the folder for temporary files",
        Restart,
        jetstream.store_dir,
        "Folder for JetStream; its store lies in `midge` below it. Also `store_dir`, `storedir` or \
         `store` in the block."
    )
    .aliases(&["storedir"]),
    entry_row!(
        "",
        Text(|options, text| {
            options.jetstream.store_dir = path_or_none(text);
            Ok(())
        }),
        "Folder for JetStream."
    )
    .flag(&["sd", "store_dir"], "<dir>"),
    hidden_row!(
        "jetstream.max_memory_store",
        "jetstream max memory and store",
        part("bytes, or text such as \"10G\""),
        "3/4 of the memory",
        Restart,
        |options| options.jetstream.memory_bytes_max,
        "Bytes of all streams in memory."
    )
    .aliases(&["max_mem_store", "max_mem"]),
    hidden_row!(
        "jetstream.max_file_store",
        "jetstream max memory and store",
        part("bytes, or text such as \"10G\""),
        "3/4 of the free space",
        Restart,
        |options| options.jetstream.store_bytes_max,
        "Bytes of all streams on disk."
    )
    .aliases(&["max_file"]),
    hidden_row!(
        "jetstream.sync_interval",
        "SyncInterval",
        part("duration or `always`"),
        "always",
        Restart,
        |options| options.jetstream.sync,
        "With a duration, messages are acknowledged before they are on disk, as by nats-server."
    )
    .aliases(&["sync"]),
    row!(
        "jetstream.domain",
        "JetStreamDomain",
        part("text"),
        "",
        Restart,
        jetstream.domain,
        "Domain of this server's streams."
    ),
    hidden_row!(
        "jetstream.strict",
        "NoJetStreamStrict",
        part("true or false"),
        "true",
        Restart,
        |options| options.jetstream.is_strict,
        "Refuse requests with unknown fields."
    ),
    row!(
        "jetstream.unique_tag",
        "JetStreamUniqueTag",
        part("text"),
        "",
        Restart,
        jetstream.unique_tag,
        "Shown in monitoring."
    ),
    hidden_row!(
        "jetstream.limits",
        "JetStreamLimits",
        part("block"),
        "",
        Restart,
        |options| &options.jetstream.limits,
        "`max_ack_pending`, `max_request_batch`, `default_max_consumers`, `duplicate_window` for all \
         accounts; `max_ha_assets` and `batch` have no effect yet."
    ),
];
