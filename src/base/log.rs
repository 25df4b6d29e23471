//! The log: turns `tracing` events into nats-server's log lines (or JSON) on a bounded queue.
//!
//! Holds the format of lines, the switchable levels and the queue in front of the writer's thread.
//! A shard that logs never waits: a full queue drops the line and counts it, and the writer reports
//! how many were lost. What lines are written to (stderr, a file that rotates) is in
//! `server::host::log_writer`.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tz::{DateTime, TimeZone, TimeZoneRef};

use crate::base::limits;
use crate::base::time_zone;

/// The target that turns an error event into a fatal one; use `fatal!`.
pub(crate) const FATAL_TARGET: &str = "midge::fatal";

/// How long `Logger::stop` waits for queued lines to reach the writer.
const STOP_WAIT_MAX: Duration = Duration::from_secs(2);

/// Least time between two reports of lost lines.
const LOSS_REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Logs one line labelled FTL. It does not end the process: `log::exit` does.
#[macro_export]
macro_rules! fatal {
    ($($argument:tt)+) => { tracing::error!(target: $crate::base::log::FATAL_TARGET, $($argument)+) };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Info,
    Warn,
    Error,
    Fatal,
    Debug,
    Trace,
}

impl Severity {
    fn of(metadata: &Metadata<'_>) -> Self {
        match *metadata.level() {
            Level::ERROR if metadata.target() == FATAL_TARGET => Self::Fatal,
            Level::ERROR => Self::Error,
            Level::WARN => Self::Warn,
            Level::INFO => Self::Info,
            Level::DEBUG => Self::Debug,
            Level::TRACE => Self::Trace,
        }
    }

    /// Returns nats-server's label, the label's colour on a terminal, and the name in JSON.
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Info => ("INF", "32", "info"),
            Self::Warn => ("WRN", "0;93", "warn"),
            Self::Error => ("ERR", "31", "error"),
            Self::Fatal => ("FTL", "31", "fatal"),
            Self::Debug => ("DBG", "36", "debug"),
            Self::Trace => ("TRC", "33", "trace"),
        }
    }
}

/// Settings that can change while the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    pub debug: bool,
    pub trace: bool,
    pub timestamp: bool,
    pub utc: bool,
    pub colors: bool,
    pub json: bool,
}

impl LogSettings {
    fn to_bits(self) -> u8 {
        [self.debug, self.trace, self.timestamp, self.utc, self.colors, self.json]
            .iter()
            .enumerate()
            .fold(0, |bits, (index, &set)| bits | u8::from(set) << index)
    }

    fn from_bits(bits: u8) -> Self {
        let set = |index: u8| bits & (1 << index) != 0;
        Self {
            debug: set(0),
            trace: set(1),
            timestamp: set(2),
            utc: set(3),
            colors: set(4),
            json: set(5),
        }
    }
}

/// Formats a severity and a text as one line, for events and for the writer's own remarks.
pub struct LineFormat {
    pid: u32,
    /// `LogSettings` as bits. Relaxed: it does no harm if a thread sees a change one line late, and
    /// no other data depends on it.
    settings: AtomicU8,
    time_zone: TimeZone,
}

impl LineFormat {
    /// Reads the local time zone: `TZ`, else the system's, else UTC.
    pub fn new(settings: LogSettings) -> Self {
        let time_zone = time_zone::local();
        Self { pid: std::process::id(), settings: AtomicU8::new(settings.to_bits()), time_zone }
    }

    pub fn settings(&self) -> LogSettings {
        LogSettings::from_bits(self.settings.load(Ordering::Relaxed))
    }

    /// Returns the calendar time of `now` in the zone used for timestamps.
    pub fn local_time(&self, now: SystemTime) -> DateTime {
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
        let utc = TimeZoneRef::utc();
        let zone = if self.settings().utc { utc } else { self.time_zone.as_ref() };
        DateTime::from_timespec(seconds, since_epoch.subsec_nanos(), zone)
            .or_else(|_| DateTime::from_timespec(0, 0, utc))
            .expect("the epoch is a valid UTC time")
    }

    /// Formats one line, with its newline, at most `LOG_LINE_BYTES_MAX` bytes long.
    pub fn line(&self, severity: Severity, now: SystemTime, text: &str) -> String {
        self.line_with_fields(severity, now, text, &Map::new())
    }

    fn line_with_fields(
        &self,
        severity: Severity,
        now: SystemTime,
        text: &str,
        fields: &Map<String, Value>,
    ) -> String {
        let text = cut(text, limits::LOG_LINE_BYTES_MAX / 2);
        let mut line = if self.settings().json {
            self.json_line(severity, now, text, fields)
        } else {
            self.nats_line(severity, now, text, fields)
        };
        if line.len() >= limits::LOG_LINE_BYTES_MAX {
            line.truncate(cut(&line, limits::LOG_LINE_BYTES_MAX - 1).len());
        }
        line.push('\n');
        line
    }

    fn nats_line(
        &self,
        severity: Severity,
        now: SystemTime,
        text: &str,
        fields: &Map<String, Value>,
    ) -> String {
        let settings = self.settings();
        let mut line = String::with_capacity(48 + text.len());
        push(&mut line, format_args!("[{}] ", self.pid));
        if settings.timestamp {
            let time = self.local_time(now);
            push(&mut line, format_args!("{} ", nats_timestamp(&time)));
        }
        let (label, color, _) = severity.names();
        if settings.colors {
            push(&mut line, format_args!("[\x1b[{color}m{label}\x1b[0m] "));
        } else {
            push(&mut line, format_args!("[{label}] "));
        }
        push_escaped(&mut line, text);
        let others = fields.iter().filter(|field| !WHO_FIELDS.contains(&field.0.as_str()));
        for (name, value) in others {
            line.push(' ');
            push_escaped(&mut line, name);
            line.push('=');
            match value {
                Value::String(text) => push_escaped(&mut line, text),
                other => push(&mut line, format_args!("{other}")),
            }
        }
        line
    }

    fn json_line(
        &self,
        severity: Severity,
        now: SystemTime,
        text: &str,
        fields: &Map<String, Value>,
    ) -> String {
        let mut object = Map::new();
        if self.settings().timestamp {
            object.insert("time".into(), rfc3339(&self.local_time(now)).into());
        }
        object.insert("level".into(), severity.names().2.into());
        object.insert("pid".into(), self.pid.into());
        object.insert("message".into(), text.into());
        let told = fields.iter().filter(|(_, value)| value.as_str() != Some(""));
        for (name, value) in told {
            // The line's own four keys take precedence over fields of the same name.
            object.entry(name.clone()).or_insert_with(|| value.clone());
        }
        let line = Value::Object(object).to_string();
        if !line.contains(is_harmful) {
            return line;
        }
        // Outside of texts JSON has none of them.
        let mut escaped = String::with_capacity(line.len() + 64);
        for character in line.chars() {
            match is_harmful(character) {
                false => escaped.push(character),
                true => {
                    let units = character.encode_utf16(&mut [0; 2]).to_vec();
                    units.iter().for_each(|unit| push(&mut escaped, format_args!("\\u{unit:04x}")));
                }
            }
        }
        escaped
    }
}

/// Fields that say whom a line is about. Only JSON shows them: the plain text says so already, in
/// nats-server's words.
const WHO_FIELDS: [&str; 5] = ["cid", "address", "name", "user", "account"];

fn nats_timestamp(time: &DateTime) -> String {
    format!(
        "{:04}/{:02}/{:02} {:02}:{:02}:{:02}.{:06}",
        time.year(),
        time.month(),
        time.month_day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.nanoseconds() / 1000
    )
}

fn rfc3339(time: &DateTime) -> String {
    let offset_minutes = time.local_time_type().ut_offset() / 60;
    let zone = if offset_minutes == 0 {
        "Z".to_owned()
    } else {
        let sign = if offset_minutes < 0 { '-' } else { '+' };
        format!("{sign}{:02}:{:02}", offset_minutes.abs() / 60, offset_minutes.abs() % 60)
    };
    format!("{}{zone}", nats_timestamp(time).replace('/', "-").replace(' ', "T"))
}

/// Returns at most `bytes_max` bytes of the text, cut between characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    let fits = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=bytes_max.min(text.len())).rev().find(fits).expect("0 is a boundary");
    &text[..end]
}

fn push(line: &mut String, arguments: fmt::Arguments<'_>) {
    line.write_fmt(arguments).expect("writing to a string cannot fail");
}

/// True for a character that must not be written as it is: text given by a client must not be able
/// to forge a line, drive a terminal, or look like another. Control characters (C0 and C1) are
/// harmful, and so are those that end a line, change the direction of writing, or cannot be seen.
fn is_harmful(character: char) -> bool {
    if character.is_ascii() {
        return character.is_ascii_control() && character != '\t';
    }
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Appends text, escaping what is harmful.
fn push_escaped(line: &mut String, text: &str) {
    if !text.contains(is_harmful) {
        return line.push_str(text);
    }
    for character in text.chars() {
        if is_harmful(character) {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
}

/// A cheap handle to the queue between threads that log and the thread that writes.
#[derive(Clone)]
pub struct Logger {
    shared: Arc<Shared>,
}

struct Shared {
    format: Arc<LineFormat>,
    queue: NonBlocking,
    counts: Arc<QueueCounts>,
    stopped: AtomicBool,
    /// Dropping it writes everything queued. The lock is taken only to stop.
    guard: Mutex<Option<WorkerGuard>>,
}

/// Relaxed throughout: these are counts against a bound, and the queue itself orders the lines.
#[derive(Default)]
struct QueueCounts {
    queued_lines: AtomicUsize,
    queued_bytes: AtomicUsize,
    dropped_lines: AtomicU64,
}

impl Logger {
    /// Starts the writer's thread. `writer` gets one whole line per `write` and must not log
    /// anything itself.
    pub fn start(format: Arc<LineFormat>, writer: impl Write + Send + 'static) -> Self {
        let counts = Arc::new(QueueCounts::default());
        let drain = Drain {
            writer,
            format: format.clone(),
            counts: counts.clone(),
            reported_drops: 0,
            reported_at: None,
        };
        let (queue, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(limits::LOG_QUEUED_LINES_MAX)
            .thread_name("midge-log")
            .finish(drain);
        let stopped = AtomicBool::new(false);
        let guard = Mutex::new(Some(guard));
        Self { shared: Arc::new(Shared { format, queue, counts, stopped, guard }) }
    }

    /// Makes this the process's logger, which receives every event of every thread. False if there
    /// is one already.
    pub fn install(&self) -> bool {
        let subscriber = tracing_subscriber::registry().with(self.layer());
        if tracing::subscriber::set_global_default(subscriber).is_err() {
            return false;
        }
        INSTALLED.set(self.clone()).is_ok()
    }

    pub fn layer(&self) -> LogLayer {
        LogLayer { logger: self.clone() }
    }

    pub fn settings(&self) -> LogSettings {
        self.shared.format.settings()
    }

    /// Changes levels and format of all lines from now on.
    pub fn set_settings(&self, settings: LogSettings) {
        self.shared.format.settings.store(settings.to_bits(), Ordering::Relaxed);
        // tracing caches per call site whether anybody listens.
        tracing::callsite::rebuild_interest_cache();
    }

    /// Returns the number of lines lost since the start because the queue was full or could not be
    /// written.
    pub fn dropped_lines(&self) -> u64 {
        self.shared.counts.dropped_lines.load(Ordering::Relaxed)
    }

    /// Queues one line without `tracing`: for the panic hook, which may run inside of it.
    pub fn write(&self, severity: Severity, text: &str) {
        self.submit(self.shared.format.line(severity, SystemTime::now(), text));
    }

    fn submit(&self, line: String) {
        let counts = &self.shared.counts;
        let lines = counts.queued_lines.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = counts.queued_bytes.fetch_add(line.len(), Ordering::Relaxed) + line.len();
        let fits = lines <= limits::LOG_QUEUED_LINES_MAX && bytes <= limits::LOG_QUEUED_BYTES_MAX;
        if !fits || self.shared.stopped.load(Ordering::Relaxed) {
            counts.queued_lines.fetch_sub(1, Ordering::Relaxed);
            counts.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            counts.dropped_lines.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // The queue has as many places as our own count allows, so it never refuses a line while
        // the writer runs.
        self.shared
            .queue
            .clone()
            .write_all(line.as_bytes())
            .expect("a lossy queue takes every line");
    }

    /// Writes everything queued (waiting at most `STOP_WAIT_MAX`) and ends the writer; later lines
    /// are dropped and counted. The second call does nothing.
    pub fn stop(&self) {
        let guard = self.shared.guard.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(guard) = guard else { return };
        let deadline = Instant::now() + STOP_WAIT_MAX;
        while self.shared.counts.queued_lines.load(Ordering::Relaxed) > 0
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.shared.stopped.store(true, Ordering::Relaxed);
        drop(guard);
    }
}

/// The writer's side of the queue: counts lines out and reports how many were lost.
struct Drain<W> {
    writer: W,
    format: Arc<LineFormat>,
    counts: Arc<QueueCounts>,
    reported_drops: u64,
    reported_at: Option<Instant>,
}

impl<W: Write> Drain<W> {
    fn report_drops(&mut self) {
        let dropped = self.counts.dropped_lines.load(Ordering::Relaxed);
        if dropped == self.reported_drops
            || self.reported_at.is_some_and(|at| at.elapsed() < LOSS_REPORT_INTERVAL)
        {
            return;
        }
        let text = format!(
            "Log lines lost: {} (the log could not keep up)",
            dropped - self.reported_drops
        );
        let line = self.format.line(Severity::Warn, SystemTime::now(), &text);
        if self.writer.write_all(line.as_bytes()).is_ok() {
            self.reported_drops = dropped;
            self.reported_at = Some(Instant::now());
        }
    }
}

impl<W: Write> Write for Drain<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.writer.write_all(line).is_err() {
            // A full disk or a closed stderr: there is nowhere to report it but in the count.
            self.counts.dropped_lines.fetch_add(1, Ordering::Relaxed);
        }
        self.report_drops();
        // Last, so that a waiting `stop` finds the line written.
        self.counts.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
        self.counts.queued_lines.fetch_sub(1, Ordering::Relaxed);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.report_drops();
        self.writer.flush()
    }
}

/// The subscriber for `tracing`: picks the events that are logged and formats them.
pub struct LogLayer {
    logger: Logger,
}

impl LogLayer {
    /// Returns true for our own events by level, and for events of dependencies if they are
    /// warnings or errors.
    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let settings = self.logger.settings();
        match *metadata.level() {
            Level::ERROR | Level::WARN => true,
            Level::INFO => metadata.target().starts_with("midge"),
            Level::DEBUG => settings.debug && metadata.target().starts_with("midge"),
            Level::TRACE => settings.trace && metadata.target().starts_with("midge"),
        }
    }
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.is_event() && self.wants(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.is_event() && self.wants(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let settings = self.logger.settings();
        Some(match (settings.trace, settings.debug) {
            (true, _) => LevelFilter::TRACE,
            (false, true) => LevelFilter::DEBUG,
            (false, false) => LevelFilter::INFO,
        })
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let format = &self.logger.shared.format;
        let severity = Severity::of(event.metadata());
        let line =
            format.line_with_fields(severity, SystemTime::now(), &fields.message, &fields.others);
        self.logger.submit(line);
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            push(&mut self.message, format_args!("{value:?}"));
        } else {
            self.others.insert(field.name().to_owned(), format!("{value:?}").into());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.others.insert(field.name().to_owned(), value.into());
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.others.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.others.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.others.insert(field.name().to_owned(), value.into());
    }
}

static INSTALLED: OnceLock<Logger> = OnceLock::new();
static EXITING: OnceLock<ThreadId> = OnceLock::new();

/// Returns the process's logger, once `Logger::install` has been called.
pub(crate) fn installed() -> Option<&'static Logger> {
    INSTALLED.get()
}

/// Ends the process after the log is written; use it in place of `std::process::exit`. A second
/// thread that calls it waits for the first to end the process.
pub(crate) fn exit(code: i32) -> ! {
    let this_thread = std::thread::current().id();
    let first = *EXITING.get_or_init(|| this_thread);
    if first != this_thread {
        loop {
            std::thread::park();
        }
    }
    if let Some(logger) = installed() {
        logger.stop();
    }
    std::process::exit(code)
}

#[cfg(test)]
mod tests;
