//! INFO as sent to one client: at first, after its first PONG, and when something changes.

use super::session::ClientSession;
use crate::peer::login::Stage;
use crate::peer::opening::TlsWords;
use crate::peer::state::PeerState;
use crate::protocol::nats::encode;
use crate::protocol::nats::handshake::Info;

impl ClientSession {
    /// Returns INFO with this connection's own parts.
    fn own_info(&self) -> Info {
        let shared = self.context.info.borrow().clone();
        let auth = self.context.auth.borrow().clone();
        let PeerState { id, address, opening, login, .. } = &self.peer;
        let info = Info {
            client_id: Some(id.0),
            // A proxy's own address is not the client's.
            client_ip: (!opening.awaits_proxy()).then(|| address.host()),
            nonce: login.nonce().map(str::to_owned),
            auth_required: auth.authenticator.is_announced(self.peer.way()),
            ..Info::clone(&shared)
        };
        let info = match opening.tls_words(address) {
            None => info,
            Some(TlsWords { is_required, is_available, verifies }) => Info {
                tls_required: is_required,
                tls_available: is_available,
                tls_verify: verifies,
                ..info
            },
        };
        match opening.web_server() {
            None => info,
            Some(server) => Info { host: server.host.clone(), port: server.port, ..info },
        }
    }

    pub(super) fn push_info(&self) {
        self.outbox.push_bytes(&self.own_info().line());
    }

    /// In lame duck mode, tells a client that reads later INFOs so, once, whichever shards it has
    /// been on.
    pub fn tell_of_lame_duck(&mut self) {
        let is_news = self.context.info.borrow().lame_duck && !self.knows_of_lame_duck;
        if is_news && self.reads_async_info() {
            self.outbox.push_bytes(&self.own_info().line());
            self.knows_of_lame_duck = true;
        }
    }

    /// Tells this client alone to look for another server; false if it would not understand.
    pub fn push_lame_duck_info(&self) -> bool {
        if self.reads_async_info() {
            self.outbox.push_bytes(&Info { lame_duck: true, ..self.own_info() }.line());
        }
        self.reads_async_info()
    }

    fn reads_async_info(&self) -> bool {
        self.peer.connect.protocol >= 1 && self.first_pong_sent
    }

    /// Sends PONG, and after the first one to a client that was let in, what it is told about its
    /// account.
    pub(super) fn pong(&mut self) {
        self.outbox.push_bytes(encode::PONG);
        if self.first_pong_sent || self.peer.login.stage() != Stage::Connected {
            return;
        }
        self.first_pong_sent = true;
        if self.peer.connect.protocol >= 1 {
            let identity = self.peer.login.identity();
            let info = Info {
                connect_info: true,
                remote_account: Some(self.who().account().to_owned()),
                acc_is_sys: identity.is_some_and(|identity| identity.account.is_system),
                max_payload: self.limits.payload_bytes_max,
                ..self.own_info()
            };
            self.outbox.push_bytes(&info.line());
            self.knows_of_lame_duck = info.lame_duck;
        }
    }
}
