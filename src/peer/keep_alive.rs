//! Decides when a peer is pinged and when it is given up, and measures its round-trip time.
//!
//! Source of behaviour: nats-server server/client.go processPingTimer.

use std::time::{Duration, Instant};

use crate::config::options::KeepAliveOptions;

/// Age of a round-trip time at which a busy connection is pinged for a fresh one.
const RTT_AGE_MAX: Duration = Duration::from_secs(3600);

/// A client's first PING comes early, to measure its round-trip time.
const FIRST_PING: Duration = Duration::from_secs(2);

/// The state of the PINGs to one peer.
#[derive(Debug)]
pub(crate) struct KeepAlive {
    ping_at: Instant,
    /// None = no PING yet; a round-trip time is then an estimate.
    ping_sent: Option<Instant>,
    rtt: Option<Duration>,
    /// The tick that last saw bytes from the peer.
    active_at: Instant,
    pings_outstanding: u32,
    /// Set by any bytes; read and cleared by a tick.
    pub active: bool,
}

/// What a tick has to do about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Ping,
    /// The peer has left as many PINGs unanswered as it may: it is gone.
    Close,
}

impl KeepAlive {
    pub(crate) fn new(now: Instant, ping_interval: Duration) -> Self {
        Self {
            ping_at: now + ping_interval,
            ping_sent: None,
            rtt: None,
            active_at: now,
            pings_outstanding: 0,
            active: false,
        }
    }

    /// Returns the time between a PING and its PONG, or an estimate. None = unknown.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Sets an estimate, used until a PONG gives a measurement.
    pub(crate) fn estimate_rtt(&mut self, rtt: Duration) {
        self.rtt = Some(rtt.max(Duration::from_nanos(1)));
    }

    /// Called when the peer has logged in: its first PING comes early, but not at the same time as
    /// everybody else's.
    pub(crate) fn begin(&mut self, now: Instant, ping_interval: Duration) {
        let first = ping_interval.min(FIRST_PING);
        self.ping_at = now + first + first.mul_f64(fastrand::f64() * 0.2);
    }

    /// Called at each tick: records whether anything came since the last one.
    pub(crate) fn note_tick(&mut self, now: Instant) {
        if std::mem::take(&mut self.active) {
            self.active_at = now;
        }
    }

    /// Returns true if the timer of the PINGs runs out now.
    pub(crate) fn fires(&self, now: Instant) -> bool {
        now >= self.ping_at
    }

    /// Returns what is to be done now. After `Ping` one counts as sent.
    pub(crate) fn due(&mut self, now: Instant, options: &KeepAliveOptions) -> Due {
        if !self.fires(now) {
            return Due::Nothing;
        }
        self.ping_at = now + options.ping_interval;
        let quiet = now.saturating_duration_since(self.active_at) >= options.ping_interval;
        let age = |sent| now.saturating_duration_since(sent);
        let rtt_known = self.ping_sent.is_some_and(|sent| age(sent) < RTT_AGE_MAX);
        if !quiet && rtt_known {
            return Due::Nothing;
        }
        if self.pings_outstanding + 1 > options.ping_max {
            return Due::Close;
        }
        self.pings_outstanding += 1;
        self.ping_sent = Some(now);
        Due::Ping
    }

    /// Pings the peer for another reason than its silence, unless it owes an answer. True if a PING
    /// is to be sent. It does not count among those that the peer may leave unanswered.
    pub(crate) fn ask(&mut self, now: Instant) -> bool {
        let is_free = self.pings_outstanding == 0;
        if is_free {
            self.ping_sent = Some(now);
        }
        is_free
    }

    /// Called when the peer answered a PING.
    pub(crate) fn pong(&mut self) {
        self.pings_outstanding = 0;
        if let Some(sent) = self.ping_sent {
            self.rtt = Some(sent.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(120);

    fn options() -> KeepAliveOptions {
        KeepAliveOptions { ping_interval: INTERVAL, ping_max: 2 }
    }

    #[test]
    fn a_silent_peer_is_pinged_as_often_as_it_may_miss_and_then_given_up() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(start, INTERVAL);
        let mut due = |intervals| {
            let now = start + INTERVAL * intervals;
            keep_alive.note_tick(now);
            keep_alive.due(now, &options())
        };
        assert_eq!([0, 1, 2, 3].map(&mut due), [Due::Nothing, Due::Ping, Due::Ping, Due::Close]);
    }

    #[test]
    fn an_answer_restarts_the_count() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(start, INTERVAL);
        for interval in 1..10 {
            assert_eq!(keep_alive.due(start + INTERVAL * interval, &options()), Due::Ping);
            keep_alive.pong();
        }
        assert!(keep_alive.rtt().is_some());
    }

    #[test]
    fn a_busy_peer_is_pinged_only_for_a_round_trip_time() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(start, INTERVAL);
        let mut due = |now| {
            keep_alive.active = true;
            keep_alive.note_tick(now);
            keep_alive.due(now, &options())
        };
        assert_eq!(
            [1, 2, 3].map(|n| due(start + INTERVAL * n)),
            [Due::Ping, Due::Nothing, Due::Nothing]
        );
        assert_eq!(due(start + INTERVAL + RTT_AGE_MAX), Due::Ping);
    }

    #[test]
    fn the_first_ping_after_a_login_comes_early() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(start, INTERVAL);
        keep_alive.begin(start, INTERVAL);
        assert_eq!(
            keep_alive.due(start + FIRST_PING - Duration::from_millis(1), &options()),
            Due::Nothing
        );
        assert_eq!(keep_alive.due(start + FIRST_PING.mul_f64(1.2), &options()), Due::Ping);
    }
}
