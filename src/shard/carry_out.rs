//! Carries out each order on a shard.

use std::rc::Rc;

use super::core::Shard;
use super::order::ShardOrder;
use crate::peer::checks::LoginOutcome;

impl ShardOrder {
    pub(super) fn carry_out(self, shard: &Rc<Shard>) {
        match self {
            Self::Serve(accepted, purpose) => {
                shard.wake_up();
                shard.serve_accepted(accepted, purpose);
            }
            Self::Move(moving) => shard.arrive(*moving),
            Self::Host(from, guest) => shard.host(from, *guest),
            Self::Withdraw(id) => shard.withdraw(id),
            Self::Arrived(id) => shard.arrived(id),
            Self::PasswordChecked(login, outcome) => {
                if let Some(outcome) = outcome {
                    shard.clients.checks.checked(login, LoginOutcome::Password(outcome));
                }
                shard.offload.borrow_mut().hand_on();
            }
            Self::AccountLookedUp(login, why) => {
                shard.clients.checks.checked(login, LoginOutcome::Account(why));
            }
            Self::ApplyAccounts { auth, review } => shard.take_accounts(auth, review),
            Self::Reload(generation, done) => shard.take_generation(&generation, done),
            Self::CloseSurplusOfAccounts(done) => shard.close_surplus_of_accounts(done),
            Self::ClientsOf { account, answer } => shard.list_clients_of(account, answer),
            Self::CloseClientsOf { account, from, done } => {
                shard.close_clients_of(account, from, done);
            }
            Self::CloseSurplus { count, staying, max, done } => {
                shard.close_surplus(count, staying, max, done)
            }
            Self::StopListening(done) => {
                shard.stop_listening();
                done.give(());
            }
            Self::Announce(info, done) => shard.announce(info, done),
            Self::CloseAllOver(window) => shard.close_all_over(window),
            Self::CloseAll => {
                shard.stop_listening();
                shard.close_all();
            }
            Self::Stop => shard.stop(),
            Self::Publish { account, subject, payload, done } => {
                shard.publish_system(account, &subject, &payload);
                done.give(());
            }
            Self::Describe(client, answer) => answer.give(shard.describe(client)),
            Self::HandOver(done) => {
                shard.hand_over();
                done.give(());
            }
            Self::IsAnyWanted(subjects, answer) => answer.give(shard.is_any_wanted(&subjects)),
            // A client that has just left is found on the shard it went to, after the order that
            // brings it there.
            Self::Kick(connection, answer) => match shard.went_to(connection) {
                None => answer.give(shard.kick(connection)),
                Some(peer) => peer.give(Self::Kick(connection, answer)),
            },
            Self::AnnounceTo(connection, answer) => match shard.went_to(connection) {
                None => answer.give(shard.announce_to(connection)),
                Some(peer) => peer.give(Self::AnnounceTo(connection, answer)),
            },
            Self::Alive(answer) => answer.give(()),
            Self::JetStream(options, answer) => shard.report_jetstream(options, answer),
            Self::Summary(answer) => answer.give(shard.summary()),
            Self::Tables { with_fanout, from, answer } => {
                answer.give(shard.table_page(with_fanout, from));
            }
            Self::Connections { filter, from, answer } => {
                answer.give(shard.connection_page(&filter, from));
            }
            Self::Details { wanted, from, answer } => {
                answer.give(shard.details_page(&wanted, from));
            }
            Self::Lists { wanted, from, answer } => answer.give(shard.list_page(&wanted, from)),
            Self::Subscriptions { filter, from, answer } => {
                answer.give(shard.subscription_page(&filter, from));
            }
            Self::Closed { from, answer } => answer.give(shard.closed_page(from)),
            Self::Accounts { from, answer } => answer.give(shard.account_page(from)),
        }
    }
}
