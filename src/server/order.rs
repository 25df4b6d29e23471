//! What the main thread is asked to do, by the operator's signals and by requests in the system account.

use std::sync::mpsc::Sender;

use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

/// What the operator asked for. Source: nats-server server/signal.go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerEvent {
    /// SIGINT: shut down, in lame duck mode too.
    Interrupt,
    /// SIGTERM: shut down, but ignored in lame duck mode.
    Terminate,
    /// SIGHUP: reload the configuration.
    Reload,
    /// SIGUSR1: reopen the log file.
    ReopenLog,
    /// SIGUSR2: enter lame duck mode.
    LameDuck,
}

impl ServerEvent {
    pub(super) fn from_signal(signal: i32) -> Option<Self> {
        match signal {
            SIGINT => Some(Self::Interrupt),
            SIGTERM => Some(Self::Terminate),
            SIGHUP => Some(Self::Reload),
            SIGUSR1 => Some(Self::ReopenLog),
            SIGUSR2 => Some(Self::LameDuck),
            _ => None,
        }
    }

    /// The name in nats-server's line `Trapped "…" signal`.
    pub(crate) fn signal_text(self) -> &'static str {
        match self {
            Self::Interrupt => "interrupt",
            Self::Terminate => "terminated",
            Self::Reload => "hangup",
            Self::ReopenLog => "user defined signal 1",
            Self::LameDuck => "user defined signal 2",
        }
    }
}

/// What the main thread is asked to do.
pub(crate) enum Order {
    Signal(ServerEvent),
    /// To reload the configuration, and to say there what came of it.
    Reload(Sender<Result<(), String>>),
}

impl From<ServerEvent> for Order {
    fn from(event: ServerEvent) -> Self {
        Self::Signal(event)
    }
}
