//! Features of nats-server that Midge does not have yet, and the texts for files that ask for one.

/// A feature of nats-server that Midge does not have yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    Clustering,
    Gateways,
    Leafnodes,
    Mqtt,
    Resolvers,
    AuthCallout,
    TrustedProxies,
    OcspStapling,
    OcspPeers,
    Syslog,
    Profiling,
    Flags,
}

impl Feature {
    pub fn name(self) -> &'static str {
        match self {
            Self::Clustering => "Clustering",
            Self::Gateways => "Gateways",
            Self::Leafnodes => "Leafnodes",
            Self::Mqtt => "MQTT",
            Self::Resolvers => "The account resolver URL",
            Self::AuthCallout => "Auth callout",
            Self::TrustedProxies => "Trusted proxies",
            Self::OcspStapling => "OCSP stapling",
            Self::OcspPeers => "OCSP for client certificates",
            Self::Syslog => "Syslog",
            Self::Profiling => "Profiling",
            Self::Flags => "Feature flags",
        }
    }

    fn is_plural(self) -> bool {
        matches!(self, Self::Gateways | Self::Leafnodes | Self::TrustedProxies | Self::Flags)
    }

    /// Returns true for a feature that keeps somebody out: a server without it would let them in,
    /// so no flag makes one start.
    pub fn decides_who_enters(self) -> bool {
        match self {
            Self::Resolvers | Self::AuthCallout | Self::TrustedProxies | Self::OcspPeers => true,
            Self::Clustering
            | Self::Gateways
            | Self::Leafnodes
            | Self::Mqtt
            | Self::OcspStapling
            | Self::Syslog
            | Self::Profiling
            | Self::Flags => false,
        }
    }

    /// Returns the sentence for a warning.
    pub fn not_supported(self) -> String {
        let is = if self.is_plural() { "are" } else { "is" };
        format!("{} {is} not supported yet", self.name())
    }

    /// Returns the sentence for an error, with a workaround if there is one.
    pub fn refusal(self) -> String {
        let it = if self.is_plural() { "them" } else { "it" };
        if self.decides_who_enters() {
            let decides = if self.is_plural() { "they decide" } else { "it decides" };
            let text = self.not_supported();
            format!("{text}; {decides} who may connect, so no flag starts a server without {it}")
        } else {
            format!("{} (--allow-unsupported starts without {it})", self.not_supported())
        }
    }
}

/// What an option of a later feature asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// Switched off, empty, or without effect by itself: nats-server starts without the feature,
    /// too. Also returned for a value that was already refused.
    Nothing,
    /// A port for other servers, but no server to connect to. A warning is enough: connections to
    /// it are refused.
    PortForOthers,
    Feature,
}
