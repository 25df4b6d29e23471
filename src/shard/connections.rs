//! Connections of a shard from their first turn to their last.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use super::core::Shard;
use super::order::ShardOrder;
use super::speaker::{Entry, Speaker};
use crate::base::shrink;
use crate::client::session::ClientSession;
use crate::config::options::{Balance, WriteTimeoutPolicy};
use crate::net::congestion;
use crate::net::connection::{ConnectionControl, serve};
use crate::net::listener::{Accepted, Purpose};
use crate::net::session::Session;
use crate::protocol::nats::error::CloseReason;

impl Shard {
    /// Takes an accepted socket, or hands it to the shard with the fewest connections where that is wanted.
    /// It counts there at once, so that a burst is spread too.
    pub(super) fn accept(self: &Rc<Self>, accepted: Accepted, purpose: Purpose) {
        let balance = self.clients.options.borrow().shards.balance;
        let target = match (purpose, balance) {
            (Purpose::ShardPort, _) | (Purpose::Client, Balance::Hash) => self.id,
            (Purpose::Client, Balance::LeastConnections) => self.loads.least(self.id),
        };
        self.loads.of(target).add();
        if target == self.id {
            self.serve_accepted(accepted);
        } else {
            self.peers[target.index()].give(ShardOrder::Serve(accepted));
        }
    }

    /// Starts serving an accepted socket, which is counted already.
    pub(super) fn serve_accepted(self: &Rc<Self>, accepted: Accepted) {
        if let Some(name) = &self.local_congestion {
            congestion::set_for_local_peer(&accepted, name);
        }
        let count = self.server.connection_opened();
        let refused = count > self.clients.options.borrow().limits.connections_max;
        let id = self.server.next_connection_id();
        let session =
            ClientSession::new(id, accepted.peer, self.clients.clone(), refused, Instant::now());
        session.outbox().set_totals(self.recorded.outboxes.clone());
        if refused {
            session.say_refused();
        }
        let session = Rc::new(RefCell::new(session));
        let policy = self.clients.options.borrow().limits.write_timeout;
        let control = Rc::new(ConnectionControl::new(policy == WriteTimeoutPolicy::Retry));
        let speaker = Speaker::Client(session.clone());
        let entry = Entry { speaker, control: control.clone() };
        let key = self.registry.borrow_mut().insert(entry);
        self.places.borrow_mut().insert(id, key);
        let connections = self.connections.clone();
        let (shard, served) = (self.clone(), session.clone());
        let ended = move || shard.connection_ended(key, &served);
        if let Err(error) = serve(accepted.stream, session.clone(), control, connections, ended) {
            tracing::error!("cid:{id} - the socket cannot be served: {error}");
            session.borrow_mut().close(CloseReason::ReadError);
            session.borrow().outbox().close(CloseReason::ReadError);
            self.connection_ended(key, &session);
        }
    }

    fn connection_ended(&self, key: usize, session: &RefCell<ClientSession>) {
        self.record_closed(&session.borrow());
        self.registry.borrow_mut().remove(key);
        let mut places = self.places.borrow_mut();
        places.remove(&session.borrow().id());
        shrink::map(&mut places);
        self.server.connection_closed();
        self.loads.of(self.id).subtract();
    }
}
