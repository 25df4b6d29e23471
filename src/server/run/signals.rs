//! Turns signals into events: one thread waits for them, the main thread handles them one at a
//! time. Other signals do what they do to nats-server, a Go program.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use signal_hook::consts::signal::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM,
    SIGXCPU, SIGXFSZ,
};
use signal_hook::iterator::{Handle, Signals};

use crate::server::order::ServerEvent;

/// Ends the waiting thread when dropped; the handlers stay, so that a late signal does nothing.
pub(crate) struct SignalThread {
    handle: Handle,
    is_served: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl SignalThread {
    /// Declares that events are handled from now on.
    pub(crate) fn serve(&self) {
        self.is_served.store(true, Ordering::Relaxed);
    }
}

/// Signals that have an effect.
const HANDLED: [i32; 6] = [SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGQUIT];

/// Signals that would end the process if nobody took them.
const IGNORED: [i32; 7] = [SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGPWR, SIGXCPU, SIGXFSZ];

const SIGPWR: i32 = 30;

/// Signals without a meaning of their own, ignored as well. The C library keeps those before them
/// for itself, or begins with 34, which ends nats-server.
const REAL_TIME: std::ops::RangeInclusive<i32> = 35..=64;

/// Takes over the signals that have an effect, sends each as an event, and ignores others that
/// would end the process. To be called before the shards start: from then on none of them ends the
/// process by itself. Those that ask for its end call `end` as long as events are not served yet,
/// since a start may wait for a name server or a port. SIGQUIT calls `quit` at any time, since it
/// is for a server that does nothing any more.
///
/// # Errors
/// If the kernel refuses a handler or a thread; the server cannot start then.
pub(crate) fn start<E: From<ServerEvent> + Send + 'static>(
    events: Sender<E>,
    end: impl Fn() + Send + 'static,
    quit: impl Fn() + Send + 'static,
) -> io::Result<SignalThread> {
    let mut signals = Signals::new(HANDLED.into_iter().chain(IGNORED).chain(REAL_TIME))?;
    let handle = signals.handle();
    let is_served = Arc::new(AtomicBool::new(false));
    let served = is_served.clone();
    let thread = std::thread::Builder::new().name("midge-signals".into()).spawn(move || {
        for signal in signals.forever() {
            if signal == SIGQUIT {
                quit();
            }
            let Some(event) = ServerEvent::from_signal(signal) else { continue };
            tracing::info!("Trapped {:?} signal", event.signal_text());
            let is_end = matches!(event, ServerEvent::Interrupt | ServerEvent::Terminate);
            if is_end && !served.load(Ordering::Relaxed) {
                end();
            }
            if events.send(event.into()).is_err() {
                // Nobody listens any more: the process is ending.
                return;
            }
        }
    })?;
    Ok(SignalThread { handle, is_served, thread: Some(thread) })
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            // It can only have panicked, and then the panic hook has ended the process.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[test]
    fn each_signal_arrives_as_its_event_and_ends_a_start() {
        let (sender, events) = std::sync::mpsc::channel();
        let (ended, ends) = std::sync::mpsc::channel();
        let (quitting, quits) = std::sync::mpsc::channel();
        let quit = move || quitting.send(()).unwrap();
        let thread = start::<ServerEvent>(sender, move || ended.send(()).unwrap(), quit).unwrap();
        let ends_start = |signal: Signal| {
            kill_process(getpid(), signal).unwrap();
            events.recv_timeout(Duration::from_secs(10)).unwrap();
            ends.try_recv().is_ok()
        };
        assert!(ends_start(Signal::INT) && ends_start(Signal::TERM));
        assert!(!ends_start(Signal::HUP) && !ends_start(Signal::USR1) && !ends_start(Signal::USR2));
        // Taken in the order in which they come: had one of these ended the process, nothing would.
        for signal in IGNORED.into_iter().chain(REAL_TIME) {
            signal_hook::low_level::raise(signal).unwrap();
        }
        kill_process(getpid(), Signal::QUIT).unwrap();
        quits.recv_timeout(Duration::from_secs(10)).unwrap();
        thread.serve();
        let cases = [
            (Signal::INT, ServerEvent::Interrupt, "interrupt"),
            (Signal::TERM, ServerEvent::Terminate, "terminated"),
            (Signal::HUP, ServerEvent::Reload, "hangup"),
            (Signal::USR1, ServerEvent::ReopenLog, "user defined signal 1"),
            (Signal::USR2, ServerEvent::LameDuck, "user defined signal 2"),
        ];
        for (signal, expected, text) in cases {
            kill_process(getpid(), signal).unwrap();
            let event = events.recv_timeout(Duration::from_secs(10)).unwrap();
            assert_eq!(event, expected);
            assert_eq!(event.signal_text(), text);
        }
        assert!(ends.try_recv().is_err(), "whoever serves the events decides");
        drop(thread);
        assert!(events.recv().is_err(), "the thread ended and dropped its end");
    }
}
