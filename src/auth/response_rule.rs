//! How many responses a client may send to a message it received, and for how long.

use std::time::Duration;

use crate::config::auth_options::ResponsePermissionOptions;

/// The rule for responses to subjects that no list allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseRule {
    /// Responses per delivered message; None = unlimited.
    pub max: Option<u32>,
    /// From delivery; None = forever.
    pub expires: Option<Duration>,
}

impl From<&ResponsePermissionOptions> for ResponseRule {
    /// Zero means the default.
    fn from(options: &ResponsePermissionOptions) -> Self {
        let default = ResponsePermissionOptions::default();
        Self {
            max: match options.messages_max {
                Some(0) => default.messages_max,
                given => given,
            },
            expires: match options.expires {
                Some(Duration::ZERO) => default.expires,
                given => given,
            },
        }
    }
}
