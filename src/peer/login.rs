//! A peer's login: its stage, the identity found, and the account it counts for.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::checks::{Checked, PasswordChecks};
use crate::auth::account::Account;
use crate::auth::authenticator::{
    CertificateLookup, ConnectionFacts, ConnectionType, Credentials, Decision, Given, Identity,
    PendingLogin,
};
use crate::auth::certificate::CertificateNames;
use crate::auth::password::PasswordJob;
use crate::auth::state::AuthState;
use crate::base::counters::Gauge;
use crate::base::gate::Gate;
use crate::base::ids::LoginId;
use crate::net::listener::Peer;
use crate::protocol::nats::handshake::{ConnectOptions, Text};

/// The stage of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing has come yet; any verb is accepted.
    Fresh,
    /// Only CONNECT is accepted, before a deadline.
    Unauthenticated,
    /// Waits for the offload thread.
    CheckingPassword,
    Connected,
    /// Refused at accept: told so, and closed.
    Refused,
}

/// Where a login comes from.
#[derive(Clone, Copy)]
pub(crate) struct LoginSource<'a> {
    pub certificate: Option<&'a CertificateNames>,
    pub connection_type: ConnectionType,
    pub peer: &'a Peer,
    /// Present once its account was looked up: why that found none.
    pub account_lookup: Option<&'a str>,
}

/// Returns the time in seconds since 1970.
pub(crate) fn unix_seconds() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// One peer's login.
pub(crate) struct Login {
    stage: Stage,
    /// The reload whose rules apply to the peer, as the shard counts reloads.
    pub generation: u32,
    /// The changes of accounts that were applied to the peer, as the shard counts them.
    pub account_changes: u32,
    /// The nonce that the peer was asked to sign; empty = none.
    nonce: Text,
    /// Boxed: absent on servers without authentication until CONNECT.
    identity: Option<Box<Identity>>,
    /// The account's count that includes this connection.
    counted: Option<Gauge>,
    /// True while the server's count of clients includes it.
    stays: bool,
    /// The check of its password, while in progress.
    check: Option<LoginId>,
}

impl Login {
    /// Returns the login of a peer that is refused at accept; all others use `begin`.
    pub(crate) fn refused(generation: u32) -> Self {
        Self {
            stage: Stage::Refused,
            generation,
            account_changes: 0,
            nonce: Text::default(),
            identity: None,
            counted: None,
            stays: false,
            check: None,
        }
    }

    /// Decides what a peer will be asked for, and what it may do without answering.
    pub(crate) fn begin(&mut self, auth: &AuthState, way: ConnectionType) {
        self.stage = match auth.authenticator.is_required(way) {
            true => Stage::Unauthenticated,
            false => Stage::Fresh,
        };
        self.nonce = match auth.authenticator.needs_nonce() {
            true => new_nonce().into(),
            false => Text::default(),
        };
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// Requires the peer to log in from now on.
    pub(crate) fn require(&mut self) {
        self.stage = Stage::Unauthenticated;
    }

    /// Marks the peer as let in.
    pub(crate) fn connected(&mut self) {
        self.stage = Stage::Connected;
    }

    pub(crate) fn nonce(&self) -> Option<&str> {
        (!self.nonce.is_empty()).then_some(&*self.nonce)
    }

    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.identity.as_deref()
    }

    pub(crate) fn set_identity(&mut self, identity: Identity) {
        self.identity = Some(Box::new(identity));
    }

    /// Decides who the peer is, by what it has sent so far; `lookup` gets what its certificate
    /// contributed.
    pub(crate) fn decide(
        &self,
        auth: &AuthState,
        connect: &ConnectOptions,
        from: LoginSource<'_>,
        lookup: &mut CertificateLookup,
    ) -> Decision {
        let credentials = Credentials {
            user: &connect.user,
            password: Given(&connect.pass),
            token: Given(&connect.auth_token),
            nkey: &connect.nkey,
            jwt: Given(&connect.jwt),
            signature: &connect.sig,
            account: &connect.account,
            new_account: connect.new_account,
        };
        let nonce = self.nonce.as_bytes();
        let LoginSource { certificate, connection_type, peer, account_lookup } = from;
        let address = match peer {
            Peer::Tcp(address) => Some(address.ip()),
            Peer::Unix => None,
        };
        let now = unix_seconds();
        let facts =
            ConnectionFacts { nonce, certificate, connection_type, address, now, account_lookup };
        auth.authenticator.decide_noting(&credentials, &facts, lookup)
    }

    /// Starts to look up an account; the peer waits for it.
    pub(crate) fn begin_lookup(&mut self, checks: &PasswordChecks, account: Arc<str>) {
        self.give_up_check(checks);
        self.stage = Stage::CheckingPassword;
        self.check = Some(checks.look_up(account));
    }

    /// Starts a check of a password; the peer waits for it.
    pub(crate) fn begin_check(
        &mut self,
        checks: &PasswordChecks,
        job: PasswordJob,
        pending: PendingLogin,
    ) {
        self.give_up_check(checks);
        self.stage = Stage::CheckingPassword;
        self.check = Some(checks.begin(job, pending));
    }

    /// Gives up the check in progress, if any; the reader continues.
    pub(crate) fn give_up_check(&mut self, checks: &PasswordChecks) {
        if let Some(check) = self.check.take() {
            checks.give_up(check);
        }
    }

    /// Returns the gate that reaches 1 when the check in progress is over.
    pub(crate) fn check_gate(&self, checks: &PasswordChecks) -> Option<Rc<Gate>> {
        checks.gate(self.check?)
    }

    /// Returns the result once the password has been checked. Returned only once.
    pub(crate) fn take_checked(&mut self, checks: &PasswordChecks) -> Option<Checked> {
        let result = checks.take_result(self.check?)?;
        self.check = None;
        Some(result)
    }

    /// Returns the account that the check in progress leads to. None = there is no check, or the
    /// peer is refused whatever its outcome.
    pub(crate) fn checked_account(&self, checks: &PasswordChecks) -> Option<Arc<str>> {
        checks.account_name(self.check?)
    }

    /// Returns true while a password is being checked.
    pub(crate) fn is_checking(&self) -> bool {
        self.check.is_some()
    }

    /// Makes the check in progress count for the user's present identity, or starts another if one
    /// is needed.
    pub(crate) fn check_again(
        &mut self,
        checks: &PasswordChecks,
        job: PasswordJob,
        pending: PendingLogin,
    ) {
        let pending = match self.check {
            Some(check) => checks.go_on_for(check, pending),
            None => Some(pending),
        };
        if let Some(pending) = pending {
            self.begin_check(checks, job, pending);
        }
    }

    /// Returns true once the peer's time is up: `timeout` from `opened_at` on to log in, and a
    /// separate time for the password check.
    pub(crate) fn is_late(
        &self,
        now: Instant,
        opened_at: Instant,
        timeout: Duration,
        checks: &PasswordChecks,
    ) -> bool {
        let deadline = opened_at + timeout;
        match self.stage {
            Stage::Unauthenticated => now > deadline,
            Stage::CheckingPassword => {
                let of_check = self.check.and_then(|check| checks.deadline(check));
                now > of_check.map_or(deadline, |of_check| deadline.max(of_check))
            }
            Stage::Fresh | Stage::Connected | Stage::Refused => false,
        }
    }

    /// Counts the connection among the server's clients.
    pub(crate) fn come(&mut self, clients: &Gauge) {
        clients.add();
        self.stays = true;
    }

    /// Stops counting the connection: for its account, and among the server's clients.
    pub(crate) fn leave(&mut self, clients: &Gauge) {
        self.leave_account();
        if std::mem::take(&mut self.stays) {
            clients.subtract();
        }
    }

    /// Stops counting the connection if the server has more clients than `max`. True if it did.
    pub(crate) fn leave_full_server(&mut self, clients: &Gauge, max: usize) -> bool {
        let leaves = self.stays && clients.subtract_above(max);
        if leaves {
            self.stays = false;
            self.leave_account();
        }
        leaves
    }

    /// Counts the connection for this account, and no longer for another. False = the account has
    /// more connections than it may.
    pub(crate) fn join(&mut self, auth: &AuthState, account: &Account) -> bool {
        self.leave_account();
        let connections = auth.connections(account);
        let count = connections.add();
        self.counted = Some(connections);
        account.limits.connections_max.is_none_or(|max| count <= max)
    }

    /// Stops counting the connection for its account.
    pub(crate) fn leave_account(&mut self) {
        if let Some(connections) = self.counted.take() {
            connections.subtract();
        }
    }

    /// Stops counting the connection for its account if that has more connections than it may. True
    /// if it did.
    pub(crate) fn leave_full_account(&mut self) -> bool {
        let Some(identity) = &self.identity else { return false };
        let Some(max) = identity.account.limits.connections_max else { return false };
        let leaves =
            self.counted.as_ref().is_some_and(|connections| connections.subtract_above(max));
        if leaves {
            self.counted = None;
        }
        leaves
    }
}

/// Returns 11 random bytes in base64url, like nats-server's nonce.
fn new_nonce() -> String {
    let mut bytes = [0u8; 11];
    // Must not be predictable: a signature over it is a login.
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
        panic!("the kernel has no random bytes");
    }
    data_encoding::BASE64URL_NOPAD.encode(&bytes)
}
