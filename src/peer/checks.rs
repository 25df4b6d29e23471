//! Logins of one shard whose password is being checked on another thread: a bcrypt comparison would
//! stall the shard.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashMap;

use crate::auth::authenticator::{Identity, PendingLogin, Refusal};
use crate::auth::password::{PasswordJob, PasswordOutcome};
use crate::base::gate::Gate;
use crate::base::ids::LoginId;
use crate::base::limits::PASSWORD_CHECK_WAIT_MAX;

/// The password checks in progress for the sessions of one shard.
pub struct PasswordChecks {
    /// Starts a check off the shard; its outcome comes back through `checked`.
    check: Box<dyn Fn(LoginId, PasswordJob)>,
    /// By id, until their session takes the outcome or gives up.
    waiting: RefCell<HashMap<LoginId, LoginWait>>,
    /// The id of the last check.
    last: Cell<LoginId>,
}

/// A login whose password is being checked.
struct LoginWait {
    /// Reaches 1 when the outcome is there.
    gate: Rc<Gate>,
    outcome: Option<PasswordOutcome>,
    pending: PendingLogin,
    /// Dropped with the login: the helper thread then skips the check, as its client is gone.
    _waiter: Arc<()>,
    /// The time by which the check must be done.
    deadline: Instant,
}

impl PasswordChecks {
    pub fn new(check: impl Fn(LoginId, PasswordJob) + 'static) -> Self {
        Self { check: Box::new(check), waiting: RefCell::default(), last: Cell::default() }
    }

    /// Stores the outcome of a check. Ignored if the client is gone, or if a reload requires
    /// another check.
    pub fn checked(&self, id: LoginId, outcome: PasswordOutcome) {
        if let Some(wait) = self.waiting.borrow_mut().get_mut(&id) {
            wait.outcome = Some(outcome);
            wait.gate.advance_to(1);
        }
    }

    pub(super) fn begin(&self, job: PasswordJob, pending: PendingLogin) -> LoginId {
        let id = LoginId(self.last.get().0 + 1);
        self.last.set(id);
        let waiter = Arc::new(());
        let job = job.for_waiter(&waiter);
        let deadline = Instant::now() + PASSWORD_CHECK_WAIT_MAX;
        let wait =
            LoginWait { gate: Rc::default(), outcome: None, pending, _waiter: waiter, deadline };
        self.waiting.borrow_mut().insert(id, wait);
        (self.check)(id, job);
        id
    }

    /// Drops a check whose outcome is no longer wanted; a reader that waits for it continues.
    pub(super) fn give_up(&self, id: LoginId) {
        if let Some(wait) = self.waiting.borrow_mut().remove(&id) {
            wait.gate.open_for_good();
        }
    }

    /// Returns the gate that reaches 1 when the outcome is there.
    pub(super) fn gate(&self, id: LoginId) -> Option<Rc<Gate>> {
        self.waiting.borrow().get(&id).map(|wait| wait.gate.clone())
    }

    pub(super) fn deadline(&self, id: LoginId) -> Option<Instant> {
        self.waiting.borrow().get(&id).map(|wait| wait.deadline)
    }

    /// Returns the account that the login leads to if the password is right; None if it is refused
    /// in any case.
    pub(super) fn account_name(&self, id: LoginId) -> Option<Arc<str>> {
        self.waiting.borrow().get(&id)?.pending.account_name().cloned()
    }

    /// Continues to wait for the same comparison, for the user's present identity. Returns
    /// `pending` if another comparison is needed.
    pub(super) fn go_on_for(&self, id: LoginId, pending: PendingLogin) -> Option<PendingLogin> {
        match self.waiting.borrow_mut().get_mut(&id) {
            Some(wait) if wait.pending.asks_the_same(&pending) => {
                wait.pending = pending;
                None
            }
            _ => Some(pending),
        }
    }

    /// Returns the result once the outcome is there. Returned only once.
    pub(super) fn take_result(&self, id: LoginId) -> Option<Result<Identity, Refusal>> {
        let mut waiting = self.waiting.borrow_mut();
        let outcome = waiting.get(&id)?.outcome?;
        Some(waiting.remove(&id)?.pending.resume(outcome))
    }
}
