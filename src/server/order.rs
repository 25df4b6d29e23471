//! What the main thread may be asked to do, by signals and by requests in the system account.

use std::sync::mpsc::Sender;

use crate::shard::AccountRequest;
use crate::system::claims::{ClaimsAnswer, ClaimsRequest};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

/// A signal's meaning. Source: nats-server server/signal.go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerEvent {
    /// SIGINT: shut down, even in lame duck mode.
    Interrupt,
    /// SIGTERM: shut down; ignored in lame duck mode.
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

    /// Returns the name in nats-server's line `Trapped "…" signal`.
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

/// A request to the main thread.
pub(crate) enum Order {
    Signal(ServerEvent),
    /// Reload the configuration, and send the outcome.
    Reload(Sender<Result<(), String>>),
    /// Answer a request about the JWTs of accounts, with its body.
    Claims(ClaimsRequest, Vec<u8>, Sender<ClaimsAnswer>),
    /// Look an account up for a login.
    Account(AccountRequest),
}

impl From<ServerEvent> for Order {
    fn from(event: ServerEvent) -> Self {
        Self::Signal(event)
    }
}
