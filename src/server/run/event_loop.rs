//! The main thread's events: signals and requests are carried out until the server has to end.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::base::limits::LOOKUPS_PER_STATE_MAX;
use crate::protocol::nats::handshake::Info;
use crate::server::order::{Order, ServerEvent};
use crate::server::run::all_shards::order_all;
use crate::server::run::running::Server;
use crate::shard::ShardOrder;
use crate::system::events;

impl Server<'_> {
    /// Handles events until the server has to end.
    pub(super) fn wait(&mut self, orders: &Receiver<Order>) {
        let mut waiting = None;
        loop {
            let next = self.heartbeat.borrow_mut().beat(Instant::now());
            self.recheck_accounts();
            let next = self.account_source.patience(next);
            let order = match waiting.take() {
                Some(order) => Ok(order),
                None => orders.recv_timeout(next),
            };
            match order {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Order::Account(first)) => {
                    // Those that wait already share the work for one new state.
                    let mut requests = vec![first];
                    while requests.len() < LOOKUPS_PER_STATE_MAX && waiting.is_none() {
                        match orders.try_recv() {
                            Ok(Order::Account(request)) => requests.push(request),
                            Ok(other) => waiting = Some(other),
                            Err(_) => break,
                        }
                    }
                    self.look_up_accounts(requests);
                }
                Ok(Order::Signal(ServerEvent::Interrupt | ServerEvent::Terminate))
                | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Order::Signal(ServerEvent::ReopenLog)) => self.log.reopen(&self.options.log),
                Ok(Order::Signal(ServerEvent::Reload)) => {
                    // The outcome is in the log.
                    let _ = self.reload_and_say();
                }
                Ok(Order::Reload(asked)) => {
                    let outcome = self.reload_and_say();
                    // The requester may have given up.
                    let _ = asked.send(outcome);
                }
                Ok(Order::Claims(request, body, asked)) => {
                    let answer = self.answer_claims(request, &body);
                    // The requester may have given up.
                    let _ = asked.send(answer);
                }
                Ok(Order::Signal(ServerEvent::LameDuck)) => return self.lame_duck(orders),
            }
        }
    }

    fn reload_and_say(&mut self) -> Result<(), String> {
        let outcome = self.reload();
        match &outcome {
            Ok(()) => {
                tracing::info!("Reloaded server configuration ({})", self.options.config_digest);
            }
            Err(text) => {
                let mut lines = text.lines();
                let first = lines.next().unwrap_or_default();
                tracing::error!("Failed to reload server configuration: {first}");
                lines.for_each(|line| tracing::error!("{line}"));
            }
        }
        outcome
    }

    /// Closes the listeners, tells clients, and closes them one by one. Source: nats-server
    /// lameDuckMode.
    fn lame_duck(&self, orders: &Receiver<Order>) {
        tracing::info!("Entering lame duck mode, stop accepting new clients");
        self.live.lock().unwrap_or_else(PoisonError::into_inner).is_leaving = true;
        self.tell(events::lame_duck_subject);
        let shards = &self.shards;
        order_all(shards, ShardOrder::StopListening);
        if shards.counters.connections() == 0 {
            return;
        }
        let info = Arc::new(Info { lame_duck: true, ..Info::clone(&shards.info) });
        order_all(shards, |done| ShardOrder::Announce(info.clone(), done));
        let grace = self.options.lame_duck.grace_period;
        let window = self.options.lame_duck.duration.saturating_sub(grace);
        if !self.pause(orders, Instant::now() + grace, || false) {
            return;
        }
        tracing::info!("Closing existing clients");
        shards.handles.iter().for_each(|shard| shard.give(ShardOrder::CloseAllOver(window)));
        let gone = || shards.counters.connections() == 0;
        self.pause(orders, Instant::now() + window + Duration::from_secs(1), gone);
    }

    /// Waits until `deadline` or `done`; false if SIGINT asks for the end. SIGTERM is ignored here,
    /// as in nats-server.
    fn pause(&self, orders: &Receiver<Order>, deadline: Instant, done: impl Fn() -> bool) -> bool {
        /// Interval at which `done` is checked.
        const LOOK: Duration = Duration::from_millis(100);
        while Instant::now() < deadline && !done() {
            self.heartbeat.borrow_mut().beat(Instant::now());
            let left = deadline.saturating_duration_since(Instant::now());
            match orders.recv_timeout(left.min(LOOK)) {
                Ok(Order::Signal(ServerEvent::Interrupt)) | Err(RecvTimeoutError::Disconnected) => {
                    return false;
                }
                Ok(Order::Signal(ServerEvent::ReopenLog)) => self.log.reopen(&self.options.log),
                Ok(Order::Reload(asked)) => {
                    // The requester may have given up.
                    let _ = asked.send(Err("the server is shutting down".into()));
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
        true
    }
}
