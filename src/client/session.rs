//! One NATS client: the state that its session keeps between two batches of bytes.
//!
//! Here is only the state, with what every other file in this folder needs of it; `receive` parses
//! commands, and the files between execute them.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::context::{ClientContext, Report};
use super::publishing::Publishing;
use super::rights::Rights;
use crate::auth::authenticator::ConnectionType;
use crate::base::ids::{AccountId, ClientKey, ConnectionId};
use crate::broker::Broker;
use crate::broker::outbox::Outbox;
use crate::broker::trace::Trace;
use crate::config::auth_options::PermissionOptions;
use crate::net::listener::Peer;
use crate::peer::facts::{LastSubscriptions, SessionFacts, Traffic};
use crate::peer::keep_alive::KeepAlive;
use crate::peer::login::{Login, Stage};
use crate::peer::opening::{Entrance, Opening};
use crate::peer::state::PeerState;
use crate::peer::who::Who;
use crate::protocol::nats::encode;
use crate::protocol::nats::handshake::ConnectOptions;
use crate::protocol::nats::parser::{Parser, ParserLimits};

/// One client's session.
pub struct ClientSession {
    pub(super) context: Rc<ClientContext>,
    pub(super) peer: PeerState,
    pub(super) outbox: Rc<Outbox>,
    /// Its key in the broker, and its account there.
    pub(super) key: ClientKey,
    pub(super) account: AccountId,
    pub(super) rights: Rights,
    pub(super) limits: ParserLimits,
    pub(super) parser: Parser,
    /// Present from the first message on, or once it was asked to move to another shard.
    pub(super) publishing: Option<Box<Publishing>>,
    pub(super) trace: Option<Rc<Trace>>,
    /// True once it may be told of changes.
    pub(super) first_pong_sent: bool,
    /// True if it was told that the server is in lame duck mode.
    pub(super) knows_of_lame_duck: bool,
    /// True if its first subscription or message has decided about its shard, or placement is off.
    pub(super) is_settled: bool,
    /// True if it is served here for good.
    pub(super) is_bound: bool,
    /// Present once it has left the broker: kept for monitoring when the connection ends.
    pub(super) last_subscriptions: Option<Box<LastSubscriptions>>,
}

const _: () = assert!(
    size_of::<RefCell<ClientSession>>() + 2 * size_of::<usize>() <= 512,
    "with the counts of its Rc it fills one of the allocator's sizes: every connection has one"
);

impl ClientSession {
    /// Returns the session of a connection just accepted. `refused` is true if the server already
    /// has as many clients as it may.
    pub fn new(
        id: ConnectionId,
        address: Peer,
        context: Rc<ClientContext>,
        refused: bool,
        now: Instant,
    ) -> Self {
        Self::of_way(ConnectionType::Standard, id, address, context, refused, now)
    }

    /// The same, for a connection of that kind.
    pub fn of_way(
        way: ConnectionType,
        id: ConnectionId,
        address: Peer,
        context: Rc<ClientContext>,
        refused: bool,
        now: Instant,
    ) -> Self {
        let options = context.options.borrow().clone();
        let auth = context.auth.borrow().clone();
        let entrance = match (way, &*context.websocket.borrow()) {
            (ConnectionType::Websocket, Some(server)) => Entrance::WebSocket(server.clone()),
            _ => Entrance::Client {
                tls: context.tls.borrow().clone(),
                proxied: options.listen.proxy_protocol && matches!(address, Peer::Tcp(_)),
            },
        };
        let opening = Opening::new(entrance, &address, now);
        let mut login = Login::refused(context.generation.get());
        login.account_changes = context.account_changes.get();
        if !refused {
            login.begin(&auth, way);
            login.come(&context.staying);
        }
        let peer = PeerState {
            id,
            address,
            connect: ConnectOptions::default(),
            opening,
            login,
            keep_alive: KeepAlive::new(now, options.keep_alive.ping_interval),
            traffic: Traffic::new(now),
        };
        let outbox =
            Rc::new(Outbox::new(id, context.chunk_pool.clone(), options.limits.pending_bytes_max));
        let key = context.broker.borrow_mut().attach(AccountId::GLOBAL, outbox.clone());
        let global = auth.authenticator.accounts().global();
        Self {
            peer,
            outbox,
            key,
            account: AccountId::GLOBAL,
            rights: Rights::open(context.open_permissions.clone(), &options.limits, global),
            limits: ParserLimits {
                control_line_bytes_max: options.limits.control_line_bytes_max,
                payload_bytes_max: options.limits.payload_bytes_max,
                headers: false,
            },
            parser: Parser::default(),
            publishing: None,
            trace: None,
            first_pong_sent: false,
            knows_of_lame_duck: false,
            is_settled: refused || context.place.is_none(),
            is_bound: refused,
            last_subscriptions: None,
            context,
        }
    }

    /// Makes the client stay where it is, whatever placement would decide.
    pub fn stay(&mut self) {
        self.is_settled = true;
        self.is_bound = true;
    }

    pub fn id(&self) -> ConnectionId {
        self.peer.id
    }

    pub fn outbox(&self) -> &Rc<Outbox> {
        &self.outbox
    }

    /// Returns its description for log lines.
    pub fn who(&self) -> Who<'_> {
        self.peer.who()
    }

    /// Returns its account in the broker.
    pub fn account(&self) -> AccountId {
        self.account
    }

    /// Returns its key in the broker.
    pub fn key(&self) -> ClientKey {
        self.key
    }

    /// Returns true once it has left the broker and is about to end.
    pub fn is_detached(&self) -> bool {
        self.last_subscriptions.is_some()
    }

    /// Returns true if it counts for the limit of connections: it is neither refused nor about to
    /// end.
    pub fn is_staying(&self) -> bool {
        let is_refused = self.peer.login.stage() == Stage::Refused;
        !is_refused && !self.is_detached() && !self.outbox.is_closing()
    }

    /// Returns true if it came to a WebSocket listener and has not asked for an upgrade: it is no
    /// client yet.
    pub fn is_not_upgraded(&self) -> bool {
        self.peer.opening.is_not_upgraded()
    }

    /// Returns the subscriptions that it had when it left the broker.
    pub fn last_subscriptions(&self) -> Option<&LastSubscriptions> {
        self.last_subscriptions.as_deref()
    }

    /// Returns its user's configured permissions, if any.
    pub fn permission_options(&self) -> Option<Arc<PermissionOptions>> {
        self.rights.permissions.options().cloned()
    }

    /// Returns the facts about it for monitoring.
    pub fn facts(&self) -> SessionFacts<'_> {
        let (PeerState { opening, traffic, .. }, outbox) = (&self.peer, &self.outbox);
        SessionFacts {
            id: self.peer.id,
            key: self.key,
            peer: &self.peer.address,
            way: self.peer.way(),
            connect: &self.peer.connect,
            account: self.who().account(),
            user: self.who().user(),
            tls: opening.tls(),
            tls_first: opening.is_tls_first(),
            started: traffic.started,
            last_activity: traffic.last_activity(outbox.delivered_at()),
            rtt: self.peer.keep_alive.rtt(),
            in_messages: traffic.in_messages,
            in_bytes: traffic.in_bytes,
            out_messages: outbox.out_messages.get(),
            out_bytes: outbox.out_bytes.get(),
            pending_bytes: outbox.pending_bytes(),
            stalls: outbox.stalls(),
        }
    }

    /// Returns when the bytes being handled were read, as far as the turn tells.
    #[inline]
    pub(super) fn read_at(&self) -> Instant {
        self.outbox.turn_began().unwrap_or_else(Instant::now)
    }

    /// Reports the outcome of its login.
    pub(super) fn report(&self, broker: &mut Broker, report: Report) {
        (self.context.report)(broker, &self.context, &self.facts(), report);
    }

    /// Drops what was decided or matched for the last subject, in another account or with other
    /// rights.
    pub(super) fn forget_answers(&mut self) {
        if let Some(publishing) = &mut self.publishing {
            publishing.forget_answers();
        }
    }

    /// Confirms a command, if the client wants each one confirmed.
    #[inline]
    pub(super) fn ok(&self) {
        if self.peer.connect.verbose {
            self.outbox.push_bytes(encode::OK);
        }
    }
}
