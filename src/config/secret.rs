//! Values of a configuration that are compared in a way of their own: secrets, and places in a file.

use std::fmt;

use crate::base::constant_time;

/// A password, a hash of one, or a token. `Debug` never shows it, and `==` does not tell by its
/// time how much was equal.
#[derive(Clone, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the secret itself. Never for a log line, an error text or an endpoint.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        constant_time::equal(self.0.as_bytes(), other.0.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[REDACTED]")
    }
}

/// `file:line:column`. All places compare equal: moving a line does not change the configuration.
#[derive(Clone, Debug, Default)]
pub struct Place(pub String);

impl PartialEq for Place {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}
