//! Writes log lines to stderr, or to a file that is reopened on demand and rotated by size.
//!
//! `LogWriter` runs on the log's own thread; `ServerLog` is the handle that the rest of the process
//! holds. Files are opened on the caller's thread, so that a bad path is the caller's error, and
//! then handed over. Source: nats-server logger/log.go, server/log.go.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::base::files::{self, Patience};
use crate::base::log::{LineFormat, LogSettings, Logger, Severity};
use crate::config::options::{LogFormat, LogOptions};
use crate::server::host::error_text::os_error_text;

/// Permission bits of a new log file, before the umask. Source: nats-server logger/log.go.
const LOG_FILE_MODE: u32 = 0o640;

/// The process's log. Dropping it writes what is queued, and so does `base::log::exit`.
pub(crate) struct ServerLog {
    logger: Logger,
    handover: Arc<Handover>,
}

/// A new target on its way to the writer.
#[derive(Default)]
struct Handover {
    /// Set (release) after `next` was filled, and read (acquire) by the writer before each line, so
    /// that it takes the lock only if there is something to take.
    waiting: AtomicBool,
    next: Mutex<Option<Target>>,
}

impl ServerLog {
    /// Opens the log that the options ask for and makes it the process's logger.
    ///
    /// # Errors
    /// The text with which nats-server ends if its log file cannot be opened. To be printed to
    /// stderr before exiting with 1.
    pub(crate) fn start(options: &LogOptions) -> Result<Self, String> {
        let log = Self::start_uninstalled(options)?;
        assert!(log.logger.install(), "one logger per process");
        Ok(log)
    }

    fn start_uninstalled(options: &LogOptions) -> Result<Self, String> {
        let target = Target::open(options, Patience::Any)?;
        let format = Arc::new(LineFormat::new(settings(options)));
        let handover = Arc::new(Handover::default());
        let writer = LogWriter { target, format: format.clone(), handover: handover.clone() };
        Ok(Self { logger: Logger::start(format, writer), handover })
    }

    /// Applies changed options to the running log: levels, format, file, limits.
    ///
    /// # Errors
    /// If the new file cannot be opened; nothing has changed then.
    pub(crate) fn reconfigure(&self, options: &LogOptions) -> Result<(), String> {
        self.hand_over(Target::open(options, Patience::None)?);
        self.logger.set_settings(settings(options));
        Ok(())
    }

    /// Reopens the file under its name, after another program has moved it away, and logs that
    /// (SIGUSR1). If it cannot be opened, the old file stays in use.
    pub(crate) fn reopen(&self, options: &LogOptions) {
        if options.file.is_none() {
            self.logger.write(Severity::Info, "File log re-open ignored, not a file logger");
            return;
        }
        match Target::open(options, Patience::None) {
            Ok(target) => {
                self.hand_over(target);
                self.logger.write(Severity::Info, "File log re-opened");
            }
            Err(text) => self.logger.write(Severity::Error, &text),
        }
    }

    fn hand_over(&self, target: Target) {
        *self.handover.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(target);
        self.handover.waiting.store(true, Ordering::Release);
    }
}

impl Drop for ServerLog {
    fn drop(&mut self) {
        self.logger.stop();
    }
}

fn settings(options: &LogOptions) -> LogSettings {
    let json = options.format == LogFormat::Json;
    LogSettings {
        debug: options.debug,
        trace: options.trace,
        timestamp: options.timestamp,
        utc: options.timestamp_utc,
        colors: options.file.is_none() && !json && io::stderr().is_terminal(),
        json,
    }
}

enum Target {
    Stderr,
    File(LogFile),
}

impl Target {
    fn open(options: &LogOptions, patience: Patience) -> Result<Self, String> {
        let Some(path) = &options.file else { return Ok(Self::Stderr) };
        let file = LogFile::open(path, options.file_bytes_max, options.file_count_max, patience)
            .map_err(|error| {
                format!("error opening file: open {}: {}", path.display(), os_error_text(&error))
            })?;
        Ok(Self::File(file))
    }
}

struct LogFile {
    path: PathBuf,
    file: File,
    /// The file's present size in bytes.
    size: u64,
    /// Bytes past which it is rotated; 0 = never.
    bytes_max: u64,
    /// `bytes_max`, doubled after each failed rotation, so that a broken directory is not tried for
    /// every line.
    bytes_rotate: u64,
    /// Files kept, including this one; 0 = all.
    count_max: usize,
}

impl LogFile {
    fn open(path: &Path, bytes_max: u64, count_max: usize, patience: Patience) -> io::Result<Self> {
        let file = open_appending(path, patience)?;
        let size = file.metadata()?.len();
        let path = path.to_path_buf();
        Ok(Self { path, file, size, bytes_max, bytes_rotate: bytes_max, count_max })
    }

    fn write(&mut self, line: &[u8], format: &LineFormat) -> io::Result<()> {
        self.file.write_all(line)?;
        self.size += line.len() as u64;
        if self.bytes_max == 0 || self.size <= self.bytes_rotate {
            return Ok(());
        }
        match self.rotate(format) {
            Ok(backup) => {
                self.bytes_rotate = self.bytes_max;
                let text =
                    format!("Rotated log, backup saved as {:?}", backup.display().to_string());
                self.remark(format, Severity::Info, &text)?;
                if self.count_max > 0 { self.purge(format) } else { Ok(()) }
            }
            Err(error) => {
                self.bytes_rotate = self.bytes_rotate.saturating_mul(2);
                let text = format!(
                    "Unable to rotate the logfile ({}), will attempt next rotation at size {}",
                    os_error_text(&error),
                    self.bytes_rotate
                );
                self.remark(format, Severity::Error, &text)
            }
        }
    }

    /// Moves the file aside under a name with the time, and starts a new one. After an error the
    /// old file is still written to, whatever its name is by then.
    fn rotate(&mut self, format: &LineFormat) -> io::Result<PathBuf> {
        let mut backup = self.path.clone().into_os_string();
        backup.push(format!(".{}", backup_stamp(format, SystemTime::now())));
        let backup = PathBuf::from(backup);
        std::fs::rename(&self.path, &backup)?;
        self.file = open_appending(&self.path, Patience::None)?;
        self.size = 0;
        Ok(backup)
    }

    /// Removes the oldest backups until `count_max` files are left, including the file itself.
    fn purge(&mut self, format: &LineFormat) -> io::Result<()> {
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let mut backups = match self.backups(&directory) {
            Ok(backups) => backups,
            Err(error) => {
                let text = format!(
                    "Unable to read directory {:?} for log purge ({}), will attempt next rotation",
                    directory.display().to_string(),
                    os_error_text(&error)
                );
                return self.remark(format, Severity::Error, &text);
            }
        };
        // Stamps sort by time.
        backups.sort();
        let excess = backups.len().saturating_sub(self.count_max - 1);
        for name in &backups[..excess] {
            if let Err(error) = std::fs::remove_file(directory.join(name)) {
                let text = format!(
                    "Unable to remove backup log file {name:?} ({}), will attempt next rotation",
                    os_error_text(&error)
                );
                return self.remark(format, Severity::Error, &text);
            }
            self.remark(format, Severity::Info, &format!("Purged log file {name:?}"))?;
        }
        Ok(())
    }

    fn backups(&self, directory: &Path) -> io::Result<Vec<String>> {
        let base = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut backups = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let stamp = name.strip_prefix(&base).and_then(|rest| rest.strip_prefix('.'));
            if stamp.is_some_and(is_backup_stamp) && entry.file_type()?.is_file() {
                backups.push(name);
            }
        }
        Ok(backups)
    }

    /// Writes the log's own line about itself, which must not start another rotation.
    fn remark(&mut self, format: &LineFormat, severity: Severity, text: &str) -> io::Result<()> {
        let line = format.line(severity, SystemTime::now(), text);
        self.file.write_all(line.as_bytes())?;
        self.size += line.len() as u64;
        Ok(())
    }
}

/// Opens a file for appending. If it is a pipe, writing waits for a slow reader, which holds up
/// only the log's own thread; opening waits for a reader only with `Patience::Any`.
fn open_appending(path: &Path, patience: Patience) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(LOG_FILE_MODE);
    let file = files::open(&mut options, path, patience)?;
    if patience == Patience::None {
        fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    }
    Ok(file)
}

/// Returns a stamp such as `2026.11.22.23.21.50.345044123`, as in nats-server's names of backups.
fn backup_stamp(format: &LineFormat, now: SystemTime) -> String {
    let time = format.local_time(now);
    format!(
        "{:04}.{:02}.{:02}.{:02}.{:02}.{:02}.{:09}",
        time.year(),
        time.month(),
        time.month_day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.nanoseconds()
    )
}

fn is_backup_stamp(text: &str) -> bool {
    let widths = [4, 2, 2, 2, 2, 2, 9];
    let mut parts = text.split('.');
    let fits = |width: &usize, part: Option<&str>| {
        part.is_some_and(|part| {
            part.len() == *width && part.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    widths.iter().all(|width| fits(width, parts.next())) && parts.next().is_none()
}

struct LogWriter {
    target: Target,
    format: Arc<LineFormat>,
    handover: Arc<Handover>,
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.handover.waiting.swap(false, Ordering::Acquire) {
            let next = self.handover.next.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(target) = next {
                self.target = target;
            }
        }
        match &mut self.target {
            Target::Stderr => io::stderr().write_all(line)?,
            Target::File(file) => file.write(line, &self.format)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // Both targets are unbuffered.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::host::temporary::TemporaryDirectory;

    fn options(path: &Path) -> LogOptions {
        LogOptions { file: Some(path.to_path_buf()), ..LogOptions::default() }
    }

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    /// Returns the backups of `path`, oldest first.
    fn backups(path: &Path) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = std::fs::read_dir(path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|entry| entry != path)
            .collect();
        found.sort();
        found
    }

    #[test]
    fn a_file_is_appended_to_and_flushed_on_drop() {
        let directory = TemporaryDirectory::new();
        let path = directory.path().join("a.log");
        for text in ["first", "second"] {
            let log = ServerLog::start_uninstalled(&options(&path)).unwrap();
            log.logger.write(Severity::Info, text);
        }
        let lines: Vec<String> = read(&path).lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with(&format!("[{}] ", std::process::id())), "{}", lines[0]);
        assert!(lines[0].ends_with(" [INF] first"), "{}", lines[0]);
        assert!(lines[1].ends_with(" [INF] second"));
    }

    #[test]
    fn a_missing_directory_is_reported_as_by_nats_server() {
        let path = Path::new("/nonexistent/midge.log");
        let error = ServerLog::start_uninstalled(&options(path)).err();
        let expected = "error opening file: open /nonexistent/midge.log: no such file or directory";
        assert_eq!(error.as_deref(), Some(expected));
    }

    #[test]
    fn a_reopen_after_a_move_writes_to_a_new_file() {
        let directory = TemporaryDirectory::new();
        let path = directory.path().join("a.log");
        let moved = directory.path().join("moved.log");
        let log = ServerLog::start_uninstalled(&options(&path)).unwrap();
        log.logger.write(Severity::Info, "before");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !read(&path).contains("before") {
            assert!(std::time::Instant::now() < deadline, "the line was never written");
            std::thread::yield_now();
        }
        std::fs::rename(&path, &moved).unwrap();
        log.reopen(&options(&path));
        log.logger.write(Severity::Info, "after");
        drop(log);
        assert!(read(&moved).ends_with("[INF] before\n"));
        let lines = read(&path);
        assert!(lines.contains("[INF] File log re-opened\n"));
        assert!(lines.ends_with("[INF] after\n"));
    }

    #[test]
    fn a_failed_reopen_keeps_the_old_file() {
        let directory = TemporaryDirectory::new();
        let path = directory.path().join("a.log");
        let log = ServerLog::start_uninstalled(&options(&path)).unwrap();
        log.reopen(&options(Path::new("/nonexistent/a.log")));
        log.reopen(&LogOptions::default());
        drop(log);
        let lines = read(&path);
        assert!(lines.contains("[ERR] error opening file: open /nonexistent/a.log: no such file"));
        assert!(lines.ends_with("[INF] File log re-open ignored, not a file logger\n"));
    }

    #[test]
    fn reconfigure_switches_file_and_format() {
        let directory = TemporaryDirectory::new();
        let (first, second) = (directory.path().join("a.log"), directory.path().join("b.log"));
        let log = ServerLog::start_uninstalled(&options(&first)).unwrap();
        let changed = LogOptions { format: LogFormat::Json, debug: true, ..options(&second) };
        log.reconfigure(&changed).unwrap();
        assert!(log.logger.settings().debug);
        assert!(log.reconfigure(&options(Path::new("/nonexistent/a.log"))).is_err());
        log.logger.write(Severity::Warn, "here");
        drop(log);
        assert_eq!(read(&first), "");
        let value: serde_json::Value = serde_json::from_str(&read(&second)).unwrap();
        assert_eq!((&value["level"], &value["message"]), (&"warn".into(), &"here".into()));
    }

    #[test]
    fn a_file_past_its_limit_is_rotated_and_old_backups_are_removed() {
        let directory = TemporaryDirectory::new();
        let path = directory.path().join("a.log");
        let bystander = directory.path().join("a.log.notes");
        std::fs::write(&bystander, "mine").unwrap();
        let format = LineFormat::new(settings(&LogOptions::default()));
        let mut file = LogFile::open(&path, 1000, 3, Patience::None).unwrap();
        file.write(&[b'x'; 1000], &format).unwrap();
        assert_eq!(backups(&path).len(), 1, "the limit itself still fits");
        file.write(b"y", &format).unwrap();
        let rotated: Vec<PathBuf> =
            backups(&path).into_iter().filter(|p| *p != bystander).collect();
        assert_eq!(rotated.len(), 1);
        assert_eq!(read(&rotated[0]).len(), 1001);
        let expected =
            format!("[INF] Rotated log, backup saved as {:?}\n", rotated[0].display().to_string());
        assert!(read(&path).ends_with(&expected), "{}", read(&path));

        for _ in 0..4 {
            file.write(&[b'z'; 1001], &format).unwrap();
        }
        let kept: Vec<PathBuf> = backups(&path).into_iter().filter(|p| *p != bystander).collect();
        assert_eq!(kept.len(), 2, "three files with the log itself");
        assert!(!kept.contains(&rotated[0]), "the oldest went first");
        assert!(read(&path).contains("[INF] Purged log file \"a.log.2"));
        assert_eq!(read(&bystander), "mine");
    }

    #[test]
    fn a_file_already_past_its_limit_is_rotated_at_the_first_line() {
        let directory = TemporaryDirectory::new();
        let path = directory.path().join("a.log");
        std::fs::write(&path, [b'x'; 100]).unwrap();
        let format = LineFormat::new(settings(&LogOptions::default()));
        let mut file = LogFile::open(&path, 50, 0, Patience::None).unwrap();
        file.write(b"y\n", &format).unwrap();
        assert_eq!(backups(&path).len(), 1);
        assert_eq!(read(&backups(&path)[0]).len(), 102);
    }

    #[test]
    fn a_failed_rotation_keeps_writing_and_tries_later() {
        let directory = TemporaryDirectory::new();
        let path = directory.path().join("a.log");
        let format = LineFormat::new(settings(&LogOptions::default()));
        let mut file = LogFile::open(&path, 1000, 0, Patience::None).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.write(&[b'x'; 1001], &format).unwrap();
        assert_eq!(file.bytes_rotate, 2000);
        file.write(b"still", &format).unwrap();
        assert!(backups(&path).is_empty());
    }

    #[test]
    fn backup_stamps_are_distinguished_from_other_endings() {
        assert!(is_backup_stamp("2026.11.22.23.21.50.345044123"));
        for other in [
            "",
            "gz",
            "2026.11.22.23.21.50",
            "2026.11.22.23.21.50.345044123.gz",
            "2026.1.2.3.4.5.6",
        ] {
            assert!(!is_backup_stamp(other), "{other}");
        }
    }
}
