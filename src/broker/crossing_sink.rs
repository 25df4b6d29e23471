//! Sinks of the subscriptions through which messages cross between accounts.

use crate::auth::account_imports::ServiceRoute;
use crate::auth::imports::ServiceImport;
use crate::base::ids::AccountId;

/// The sink of a service import: takes requests.
pub struct RequestSink {
    pub(super) importer: AccountId,
    pub(super) route: ServiceRoute,
    /// The importing account's name as JSON.
    pub(super) account_json: String,
    /// Its index among the service imports of its account.
    pub(super) index: usize,
}

impl RequestSink {
    pub(super) fn import(&self) -> &ServiceImport {
        &self.route.import
    }

    /// Returns true if the exporting account is the system account.
    pub(super) fn goes_to_system(&self) -> bool {
        self.route.account.is_system
    }
}

/// The sink of answers to requests that crossed to an account.
pub struct AnswerSink {
    pub(super) exporter: AccountId,
}
