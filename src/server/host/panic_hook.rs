//! Ends the process when any thread panics: half a server, with a dead shard behind its listener,
//! is worse than none.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write};
use std::panic::PanicHookInfo;

use crate::base::log::{self, Severity};

/// The exit code after a panic: EX_SOFTWARE of sysexits.h. Failures to start exit with 1.
pub(crate) const EXIT_CODE_PANIC: i32 = 70;

/// Makes every panic write one FTL line with thread and place (and the backtrace if RUST_BACKTRACE
/// asks for it), flush the log and exit.
pub(crate) fn install() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        report(thread.name().unwrap_or("unnamed"), panic);
        log::exit(EXIT_CODE_PANIC)
    }));
}

fn report(thread_name: &str, panic: &PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let cause = text.unwrap_or("a value that is no text");
    write(&format!("Thread {thread_name:?} panicked at {place}: {cause}"));
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        for line in backtrace.to_string().lines() {
            write(line);
        }
    }
}

/// Bypasses `tracing`, in which the panic may have happened.
fn write(text: &str) {
    match log::installed() {
        Some(logger) => logger.write(Severity::Fatal, text),
        None => {
            // Before the log is set up; if stderr is closed too, there is nowhere left to report
            // to.
            let _ = writeln!(io::stderr(), "[FTL] {text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::config::options::LogOptions;
    use crate::server::host::log_writer::ServerLog;
    use crate::server::host::temporary::TemporaryDirectory;

    const CHILD: &str = "MIDGE_TEST_PANIC_CHILD";
    const NAME: &str =
        "server::host::panic_hook::tests::a_panic_on_any_thread_is_logged_and_ends_the_process";

    /// In the child: the log goes to the file that the variable names; empty = no log at all.
    fn panic_in_child(log_path: &str) {
        install();
        let file = (!log_path.is_empty()).then(|| log_path.into());
        let options = LogOptions { file, ..LogOptions::default() };
        let _log = (!log_path.is_empty()).then(|| ServerLog::start(&options).unwrap());
        tracing::info!("running");
        let shard = std::thread::Builder::new().name("midge-shard-3".into());
        let thread = shard.spawn(|| panic!("the table lost {}\nmembers", 2)).unwrap();
        let _ = thread.join();
        std::process::exit(0);
    }

    fn run_child(log_path: &str) -> std::process::Output {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(CHILD, log_path)
            .env_remove("RUST_BACKTRACE")
            .output()
            .unwrap()
    }

    #[test]
    fn a_panic_on_any_thread_is_logged_and_ends_the_process() {
        if let Ok(log_path) = std::env::var(CHILD) {
            return panic_in_child(&log_path);
        }
        let directory = TemporaryDirectory::new();
        let path = directory.path().join("server.log");
        let output = run_child(path.to_str().unwrap());
        assert_eq!(output.status.code(), Some(EXIT_CODE_PANIC));
        let lines: Vec<String> =
            std::fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].ends_with("[INF] running"));
        assert!(
            lines[1].contains(
                "[FTL] Thread \"midge-shard-3\" panicked at src/server/host/panic_hook.rs:"
            )
        );
        assert!(lines[1].ends_with(": the table lost 2\\nmembers"), "{}", lines[1]);

        let output = run_child("");
        assert_eq!(output.status.code(), Some(EXIT_CODE_PANIC));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(stderr.contains("[FTL] Thread \"midge-shard-3\" panicked at "), "{stderr}");
    }
}
