//! Log lines, levels and the bounds of the queue.

use std::sync::mpsc::{self, Receiver, SyncSender};

use super::*;

const PLAIN: LogSettings = LogSettings {
    debug: false,
    trace: false,
    timestamp: true,
    utc: true,
    colors: false,
    json: false,
};

/// 2026-11-22 23:21:50.345044 UTC.
fn moment() -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(1_795_389_710_345_044)
}

fn format_with(settings: LogSettings) -> LineFormat {
    LineFormat { pid: 77, settings: AtomicU8::new(settings.to_bits()), time_zone: TimeZone::utc() }
}

/// Hands lines to the test; blocks until somebody takes them.
struct ChannelWriter(SyncSender<String>);

impl Write for ChannelWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.send(String::from_utf8_lossy(line).into_owned()).map_err(io::Error::other)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logger_with(settings: LogSettings, room: usize) -> (Logger, Receiver<String>) {
    let (sender, receiver) = mpsc::sync_channel(room);
    (Logger::start(Arc::new(format_with(settings)), ChannelWriter(sender)), receiver)
}

fn next(lines: &Receiver<String>) -> String {
    lines.recv_timeout(Duration::from_secs(10)).expect("a line within the deadline")
}

fn with_logger<T>(logger: &Logger, body: impl FnOnce() -> T) -> T {
    tracing::subscriber::with_default(tracing_subscriber::registry().with(logger.layer()), body)
}

#[test]
fn settings_survive_their_bits() {
    for bits in 0..64 {
        assert_eq!(LogSettings::from_bits(bits).to_bits(), bits);
    }
}

#[test]
fn line_is_the_one_nats_server_writes() {
    let format = format_with(PLAIN);
    for (severity, label) in [
        (Severity::Info, "INF"),
        (Severity::Warn, "WRN"),
        (Severity::Error, "ERR"),
        (Severity::Fatal, "FTL"),
        (Severity::Debug, "DBG"),
        (Severity::Trace, "TRC"),
    ] {
        let expected = format!("[77] 2026/11/22 23:21:50.345044 [{label}] Server is ready\n");
        assert_eq!(format.line(severity, moment(), "Server is ready"), expected);
    }
}

#[test]
fn line_without_timestamp_and_with_colours() {
    let format = format_with(LogSettings { timestamp: false, colors: true, ..PLAIN });
    assert_eq!(format.line(Severity::Info, moment(), "a"), "[77] [\x1b[32mINF\x1b[0m] a\n");
    assert_eq!(format.line(Severity::Warn, moment(), "a"), "[77] [\x1b[0;93mWRN\x1b[0m] a\n");
}

#[test]
fn local_time_follows_daylight_saving_unless_utc_is_asked_for() {
    let berlin = TimeZone::from_posix_tz("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let settings = AtomicU8::new(LogSettings { utc: false, ..PLAIN }.to_bits());
    let format = LineFormat { pid: 1, settings, time_zone: berlin };
    assert!(format.line(Severity::Info, moment(), "winter").contains("2026/11/23 00:21:50.345044"));
    let summer = UNIX_EPOCH + Duration::from_secs(1_782_864_000); // 2026-07-01 00:00:00 UTC
    assert!(format.line(Severity::Info, summer, "summer").contains("2026/07/01 02:00:00.000000"));
    format.settings.store(PLAIN.to_bits(), Ordering::Relaxed);
    assert!(format.line(Severity::Info, summer, "utc").contains("2026/07/01 00:00:00.000000"));
}

#[test]
fn json_line_has_time_level_pid_message_and_fields() {
    let format = format_with(LogSettings { json: true, ..PLAIN });
    let mut fields = Map::new();
    fields.insert("cid".into(), 5.into());
    fields.insert("level".into(), "forged".into());
    fields.insert("user".into(), "".into());
    let line = format.line_with_fields(Severity::Fatal, moment(), "a \"b\"\n", &fields);
    let value: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["time"], "2026-11-22T23:21:50.345044Z");
    assert_eq!(value["level"], "fatal");
    assert_eq!(value["pid"], 77);
    assert_eq!(value["message"], "a \"b\"\n");
    assert_eq!(value["cid"], 5);
    assert_eq!(value.get("user"), None);
    assert_eq!(line.matches('\n').count(), 1);
}

#[test]
fn text_cannot_forge_a_second_line_or_drive_a_terminal() {
    let line = format_with(PLAIN).line(Severity::Info, moment(), "a\r\n[1] [FTL] b\x1b[2J\tc");
    assert!(line.ends_with("[INF] a\\r\\n[1] [FTL] b\\u{1b}[2J\tc\n"), "{line}");
}

/// The second C1 character begins an escape sequence on some terminals.
const DECEPTIVE: &str = "a\u{85}\u{9b}2J\u{7f}\u{2028}\u{2029}\u{202e}txt\u{2066}\u{200b}\u{feff}\u{e0041}b\u{fc}\u{1f600}";

#[test]
fn text_cannot_deceive_by_characters_that_are_not_seen() {
    let line = format_with(PLAIN).line(Severity::Info, moment(), DECEPTIVE);
    let expected = "a\\u{85}\\u{9b}2J\\u{7f}\\u{2028}\\u{2029}\\u{202e}txt\\u{2066}\\u{200b}\\u{feff}\\u{e0041}b\u{fc}\u{1f600}\n";
    assert!(line.ends_with(expected), "{line}");
    let line =
        format_with(LogSettings { json: true, ..PLAIN }).line(Severity::Info, moment(), DECEPTIVE);
    assert!(!line.trim_end().contains(is_harmful), "{line}");
    assert!(
        line.contains("\\u202etxt") && line.contains("\\udb40\\udc41b\u{fc}\u{1f600}"),
        "{line}"
    );
    let value: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["message"], DECEPTIVE);
}

#[test]
fn longest_line_is_cut_at_its_limit() {
    let format = format_with(PLAIN);
    let escaped = "\x01".repeat(limits::LOG_LINE_BYTES_MAX);
    assert_eq!(format.line(Severity::Info, moment(), &escaped).len(), limits::LOG_LINE_BYTES_MAX);
    let plain = "x".repeat(limits::LOG_LINE_BYTES_MAX / 2);
    assert!(format.line(Severity::Info, moment(), &plain).ends_with(&format!("{plain}\n")));
    let line = format.line(Severity::Info, moment(), &format!("{plain}y"));
    assert!(line.ends_with("x\n"));
    assert!(!line.ends_with(&format!("{plain}y\n")));
}

#[test]
fn events_become_lines_with_their_label_and_fields() {
    let (logger, lines) = logger_with(LogSettings { timestamp: false, ..PLAIN }, 16);
    with_logger(&logger, || {
        tracing::info!("Server is {}", "ready");
        tracing::error!(shard = 7, path = "a\nb", "gone");
        tracing::error!(
            cid = 7,
            address = "a:1",
            name = "n",
            user = "",
            account = "A",
            "a:1 - cid:7"
        );
        fatal!("Could not write pidfile: {}", 1);
        tracing::info!(target: "rustls::client", "not ours");
        tracing::warn!(target: "rustls::client", "but this is");
    });
    assert_eq!(next(&lines), "[77] [INF] Server is ready\n");
    assert_eq!(next(&lines), "[77] [ERR] gone path=a\\nb shard=7\n");
    // Whom it is about is in the text already.
    assert_eq!(next(&lines), "[77] [ERR] a:1 - cid:7\n");
    assert_eq!(next(&lines), "[77] [FTL] Could not write pidfile: 1\n");
    assert_eq!(next(&lines), "[77] [WRN] but this is\n");
}

#[test]
fn debug_and_trace_switch_while_running_and_apart() {
    let (logger, lines) = logger_with(LogSettings { timestamp: false, ..PLAIN }, 16);
    let both = |round: u32| {
        tracing::debug!("debug {round}");
        tracing::trace!("trace {round}");
        tracing::info!("end {round}");
    };
    with_logger(&logger, || {
        both(1);
        logger.set_settings(LogSettings { debug: true, ..logger.settings() });
        both(2);
        logger.set_settings(LogSettings { debug: false, trace: true, ..logger.settings() });
        both(3);
        logger.set_settings(LogSettings { trace: false, ..logger.settings() });
        both(4);
    });
    let seen: Vec<String> = (0..6).map(|_| next(&lines)).collect();
    let expected =
        ["INF] end 1", "DBG] debug 2", "INF] end 2", "TRC] trace 3", "INF] end 3", "INF] end 4"];
    for (line, end) in seen.iter().zip(expected) {
        assert_eq!(line, &format!("[77] [{end}\n"));
    }
}

#[test]
fn full_queue_drops_counts_and_says_so() {
    // The writer blocks until the test takes lines, so the queue fills.
    let (logger, lines) = logger_with(LogSettings { timestamp: false, ..PLAIN }, 0);
    let excess = 100;
    for _ in 0..limits::LOG_QUEUED_LINES_MAX + excess {
        logger.write(Severity::Info, "x");
    }
    let dropped = logger.dropped_lines();
    assert_eq!(dropped, excess as u64);
    let mut infos = 0;
    let mut reports = 0;
    while infos + reports < limits::LOG_QUEUED_LINES_MAX + 1 {
        match next(&lines).as_str() {
            "[77] [INF] x\n" => infos += 1,
            report => {
                assert_eq!(report, "[77] [WRN] Log lines lost: 100 (the log could not keep up)\n");
                reports += 1;
            }
        }
    }
    assert_eq!((infos, reports), (limits::LOG_QUEUED_LINES_MAX, 1));
}

#[test]
fn queued_bytes_are_bounded() {
    let (logger, lines) = logger_with(PLAIN, 0);
    let long = "x".repeat(limits::LOG_LINE_BYTES_MAX / 2);
    let fit = limits::LOG_QUEUED_BYTES_MAX / long.len();
    for _ in 0..fit {
        logger.write(Severity::Info, &long);
    }
    // Each line is its text and the head of the line, so one fewer than `fit` finds room.
    assert_eq!(logger.dropped_lines(), 1);
    drop(lines);
}

#[test]
fn stop_writes_what_is_queued_and_then_drops() {
    let (logger, lines) = logger_with(PLAIN, 2000);
    for _ in 0..1000 {
        logger.write(Severity::Info, "x");
    }
    logger.stop();
    assert_eq!(lines.try_iter().count(), 1000);
    logger.write(Severity::Info, "late");
    assert_eq!(logger.dropped_lines(), 1);
    logger.stop();
}
