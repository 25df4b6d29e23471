//! A shard's connections, from their first turn to their last.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use super::core::Shard;
use super::order::{Moving, ShardHandle, ShardOrder};
use super::placement;
use super::speaker::{Entry, Speaker};
use crate::auth::authenticator::ConnectionType;
use crate::base::ids::{ConnectionId, ShardId};
use crate::base::limits::MOVED_REST_TICKS;
use crate::base::shrink;
use crate::broker::link::link_to;
use crate::client::guest::Guest;
use crate::client::hosted::{Hosted, HostedStep};
use crate::client::session::ClientSession;
use crate::config::options::{Balance, WriteTimeoutPolicy};
use crate::net::congestion;
use crate::net::connection::{ConnectionControl, Ended, MovedConnection, go_on, serve};
use crate::net::listener::{Accepted, Listener, Purpose, Readiness};
use crate::net::runtime::spawn;
use crate::net::session::Session;
use crate::protocol::nats::error::CloseReason;

/// A session in the registry, and its place there.
type Registered = (Rc<RefCell<ClientSession>>, Rc<ConnectionControl>, usize);

impl Shard {
    /// Takes an accepted socket, or hands it to another shard where that is wanted. It counts there at once, so that a
    /// burst is spread too.
    pub(super) fn accept(self: &Rc<Self>, accepted: Accepted, purpose: Purpose) {
        let balance = self.clients.options.borrow().shards.balance;
        let target = match (purpose, balance) {
            (Purpose::ShardPort, _) | (_, Balance::Hash | Balance::NextShard | Balance::Wander) => {
                self.id
            }
            (Purpose::Client | Purpose::WebSocket, Balance::Auto) => {
                placement::place_accepted(self.id, &self.loads)
            }
            (Purpose::Client | Purpose::WebSocket, Balance::LeastConnections) => {
                self.loads.least(self.id)
            }
        };
        self.loads.of(target).add();
        if target == self.id {
            self.serve_accepted(accepted, purpose);
        } else {
            self.peers[target.index()].give(ShardOrder::Serve(accepted, purpose));
        }
    }

    /// Starts to serve an accepted socket that has been counted already.
    pub(super) fn serve_accepted(self: &Rc<Self>, accepted: Accepted, purpose: Purpose) {
        if let Some(name) = &self.local_congestion {
            congestion::set_for_local_peer(&accepted, name);
        }
        let count = self.server.connection_opened();
        let refused = count > self.clients.options.borrow().limits.connections_max;
        let id = self.server.next_connection_id();
        let now = Instant::now();
        let way = match purpose {
            Purpose::Client | Purpose::ShardPort => ConnectionType::Standard,
            Purpose::WebSocket => ConnectionType::Websocket,
        };
        let mut session =
            ClientSession::of_way(way, id, accepted.peer, self.clients.clone(), refused, now);
        session.outbox().set_totals(self.recorded.outboxes.clone());
        if refused {
            session.say_refused();
        }
        let is_bound = purpose == Purpose::ShardPort || refused;
        let may_move = self.clients.place.is_some() && !is_bound;
        if !may_move {
            session.stay();
        }
        if self.closing.get() {
            session.outbox().close(CloseReason::ServerShutdown);
        }
        let (session, control, key) = self.register(session);
        let connections = self.connections.clone();
        let ended = self.when_ended(key, &session);
        if let Err(error) = serve(accepted.stream, session.clone(), control, connections, ended) {
            self.cannot_serve(key, &session, &error);
        }
    }

    /// Continues to serve a client that another shard served until now.
    pub(super) fn arrive(self: &Rc<Self>, moving: Moving) {
        self.wake_up();
        let Moving { generation, client, connection, from } = moving;
        let is_later = client.is_later();
        if let Some(generation) = &generation {
            self.adopt_generation(generation);
        }
        let hosted = self.hosted.borrow_mut().remove(&client.id());
        let rights = hosted.as_ref().map(|hosted| hosted.permissions().clone());
        let mut session = ClientSession::put_together(client, hosted, self.clients.clone());
        session.catch_up_with_reload();
        session.catch_up_with_accounts();
        if let Some(rights) = rights {
            session.close_unless_rights_are(&rights);
        }
        let surplus = self.surplus.get();
        if surplus.of_accounts {
            session.close_if_account_is_full();
        }
        if let Some(max) = surplus.max {
            session.close_as_surplus(max);
        }
        session.outbox().set_totals(self.recorded.outboxes.clone());
        let id = session.id();
        if self.closing.get() {
            session.outbox().close(CloseReason::ServerShutdown);
        }
        let (session, control, key) = self.register(session);
        if is_later {
            control.rest(MOVED_REST_TICKS);
            self.recorded.moved_in.set(self.recorded.moved_in.get() + 1);
        }
        let connections = self.connections.clone();
        let ended = self.when_ended(key, &session);
        if let Err(error) = go_on(connection, session.clone(), control, connections, ended) {
            self.cannot_serve(key, &session, &error);
        }
        let account = session.borrow().who().account().to_owned();
        self.system.serve_account_of(&mut self.broker.borrow_mut(), &self.clients, &account);
        self.peers[from.index()].give(ShardOrder::Arrived(id));
    }

    /// Receives messages for a client that is to come from another shard.
    pub(super) fn host(self: &Rc<Self>, from: ShardId, guest: Guest) {
        let id = guest.id;
        let link = link_to(from, self.id).expect("it comes from another shard");
        let hosted = Hosted::new(guest, link, &self.clients);
        hosted.outbox().set_totals(self.recorded.outboxes.clone());
        self.hosted.borrow_mut().insert(id, hosted);
        let shard = self.clone();
        spawn(async move {
            loop {
                let step = match shard.hosted.borrow_mut().get_mut(&id) {
                    Some(hosted) => hosted.step(&mut shard.broker.borrow_mut()),
                    None => return,
                };
                shard.hook.request();
                match step {
                    HostedStep::Again => shard.hook.yield_turn().await,
                    HostedStep::WaitFor(room) => room.gate.reached(room.until).await,
                    HostedStep::Switched => break,
                }
            }
            shard.drop_hosted(id);
        });
    }

    /// Gives up a client that was to come.
    pub(super) fn withdraw(&self, id: ConnectionId) {
        if let Some(hosted) = self.hosted.borrow_mut().get_mut(&id) {
            hosted.withdraw();
        }
        self.drop_hosted(id);
    }

    /// Drops a client that was to come, once nothing of it is needed.
    fn drop_hosted(&self, id: ConnectionId) {
        let mut all = self.hosted.borrow_mut();
        if all.get(&id).is_some_and(Hosted::is_over)
            && let Some(hosted) = all.remove(&id)
        {
            let publishers = hosted.leave(&mut self.broker.borrow_mut());
            self.connections.resumable.borrow_mut().extend(publishers);
            self.hook.request();
        }
        shrink::map(&mut all);
    }

    /// Begins to listen, if this shard was not needed until now. A listening socket is not closed
    /// here: connections may be in its queue.
    pub(super) fn wake_up(self: &Rc<Self>) {
        self.loads.set_awake(self.id);
        let dormant = self.dormant.take();
        if self.refusing.get() {
            return;
        }
        for listener in dormant {
            match listener.listen().and_then(|()| listener.readiness()) {
                Ok(readiness) => {
                    spawn(accept_loop(self.clone(), listener, readiness));
                }
                Err(error) => tracing::error!("shard {} does not listen: {error}", self.id.0),
            }
        }
    }

    /// Records that a client which left this shard has arrived.
    pub(super) fn arrived(&self, id: ConnectionId) {
        let mut leaving = self.leaving.borrow_mut();
        leaving.remove(&id);
        shrink::map(&mut leaving);
    }

    /// Returns the shard that a client went to but has not arrived at yet.
    pub(super) fn went_to(&self, id: ConnectionId) -> Option<&ShardHandle> {
        let target = self.leaving.borrow().get(&id).copied()?;
        Some(&self.peers[target.index()])
    }

    fn register(&self, session: ClientSession) -> Registered {
        let id = session.id();
        let session = Rc::new(RefCell::new(session));
        let policy = self.clients.options.borrow().limits.write_timeout;
        let control = Rc::new(ConnectionControl::new(policy == WriteTimeoutPolicy::Retry));
        let speaker = Speaker::Client(session.clone());
        let entry = Entry { speaker, control: control.clone() };
        let key = self.registry.borrow_mut().insert(entry);
        self.places.borrow_mut().insert(id, key);
        self.arrivals.advance_by(1);
        (session, control, key)
    }

    fn when_ended(
        self: &Rc<Self>,
        key: usize,
        session: &Rc<RefCell<ClientSession>>,
    ) -> impl FnOnce(Ended) + use<> {
        let (shard, session) = (self.clone(), session.clone());
        move |ended| match ended {
            Ended::Closed => shard.connection_ended(key, &session),
            Ended::Moved(target, connection) => shard.leave(key, session, target, connection),
        }
    }

    fn cannot_serve(&self, key: usize, session: &RefCell<ClientSession>, error: &io::Error) {
        let id = session.borrow().id();
        tracing::error!("cid:{id} - the socket cannot be served: {error}");
        session.borrow_mut().close(CloseReason::ReadError);
        session.borrow().outbox().close(CloseReason::ReadError);
        self.connection_ended(key, session);
    }

    /// Sends a client to another shard.
    fn leave(
        &self,
        key: usize,
        session: Rc<RefCell<ClientSession>>,
        target: ShardId,
        connection: MovedConnection,
    ) {
        let id = session.borrow().id();
        self.forget(key, id);
        let session =
            Rc::try_unwrap(session).ok().expect("its tasks have ended, and it is in no list");
        let client = session.into_inner().take_apart();
        // What it has published is in the lanes, and other shards may take it, before any other
        // shard hears of it again.
        self.mesh.flush();
        self.loads.of(target).add();
        self.loads.set_awake(target);
        self.leaving.borrow_mut().insert(id, target);
        let generation = self.generation.borrow().clone();
        let moving = Moving { generation, client, connection, from: self.id };
        self.peers[target.index()].give(ShardOrder::Move(Box::new(moving)));
        self.hook.request();
    }

    fn connection_ended(&self, key: usize, session: &RefCell<ClientSession>) {
        self.record_closed(&session.borrow());
        self.forget(key, session.borrow().id());
        self.server.connection_closed();
    }

    fn forget(&self, key: usize, id: ConnectionId) {
        self.registry.borrow_mut().remove(key);
        let mut places = self.places.borrow_mut();
        places.remove(&id);
        shrink::map(&mut places);
        self.loads.of(self.id).subtract();
    }
}

/// Accepts connections of a listener, until this shard refuses them.
pub(super) async fn accept_loop(shard: Rc<Shard>, listener: Rc<Listener>, readiness: Readiness) {
    let who = listener.purpose.who();
    listener
        .serve(
            readiness,
            |accepted| shard.accept(accepted, listener.purpose),
            |error| tracing::error!("Temporary {who} Accept Error ({error}), sleeping"),
            || shard.refusing.get(),
            &shard.connections.operations.polls,
        )
        .await;
}
