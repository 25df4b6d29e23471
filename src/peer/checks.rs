//! Logins of one shard that wait for another thread: a bcrypt comparison would stall the shard, and
//! an account may have to be fetched.

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

/// What another thread does for a login.
pub enum LoginJob {
    Password(PasswordJob),
    /// Look up an account by its key.
    Account(Arc<str>),
}

/// What came of a `LoginJob`.
pub enum LoginOutcome {
    Password(PasswordOutcome),
    /// The account may be there now; else the text says why it was not found.
    Account(Arc<str>),
}

/// What a login does next.
pub(crate) enum Checked {
    Decided(Result<Identity, Refusal>),
    /// It is to be decided again, as an account was looked up.
    LookedUp(Arc<str>),
}

/// The jobs in progress for the sessions of one shard.
pub struct PasswordChecks {
    /// Starts a job off the shard; its outcome comes back through `checked`.
    check: Box<dyn Fn(LoginId, LoginJob)>,
    /// By id, until their session takes the outcome or gives up.
    waiting: RefCell<HashMap<LoginId, LoginWait>>,
    /// The id of the last check.
    last: Cell<LoginId>,
}

/// A login that waits.
struct LoginWait {
    /// Reaches 1 when the outcome is there.
    gate: Rc<Gate>,
    outcome: Option<LoginOutcome>,
    /// Present if a password is being checked.
    pending: Option<PendingLogin>,
    /// Dropped with the login: the helper thread then skips the check, as its client is gone.
    _waiter: Arc<()>,
    /// The time by which the check must be done.
    deadline: Instant,
}

impl PasswordChecks {
    pub fn new(check: impl Fn(LoginId, LoginJob) + 'static) -> Self {
        Self { check: Box::new(check), waiting: RefCell::default(), last: Cell::default() }
    }

    /// Stores the outcome of a check. Ignored if the client is gone, or if a reload requires
    /// another check.
    pub fn checked(&self, id: LoginId, outcome: LoginOutcome) {
        if let Some(wait) = self.waiting.borrow_mut().get_mut(&id) {
            wait.outcome = Some(outcome);
            wait.gate.advance_to(1);
        }
    }

    pub(super) fn begin(&self, job: PasswordJob, pending: PendingLogin) -> LoginId {
        let waiter = Arc::new(());
        let job = LoginJob::Password(job.for_waiter(&waiter));
        self.start(job, Some(pending), waiter)
    }

    /// Starts to look up an account.
    pub(super) fn look_up(&self, account: Arc<str>) -> LoginId {
        self.start(LoginJob::Account(account), None, Arc::default())
    }

    fn start(&self, job: LoginJob, pending: Option<PendingLogin>, waiter: Arc<()>) -> LoginId {
        let id = self.last.get().next();
        self.last.set(id);
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
        self.waiting.borrow().get(&id)?.pending.as_ref()?.account_name().cloned()
    }

    /// Continues to wait for the same comparison, for the user's present identity. Returns
    /// `pending` if another comparison is needed.
    pub(super) fn go_on_for(&self, id: LoginId, pending: PendingLogin) -> Option<PendingLogin> {
        match self.waiting.borrow_mut().get_mut(&id) {
            Some(LoginWait { pending: Some(known), .. }) if known.asks_the_same(&pending) => {
                *known = pending;
                None
            }
            _ => Some(pending),
        }
    }

    /// Returns the result once the outcome is there. Returned only once.
    pub(super) fn take_result(&self, id: LoginId) -> Option<Checked> {
        let mut waiting = self.waiting.borrow_mut();
        waiting.get(&id)?.outcome.as_ref()?;
        let LoginWait { outcome, pending, .. } = waiting.remove(&id)?;
        match (outcome?, pending) {
            (LoginOutcome::Password(outcome), Some(pending)) => {
                Some(Checked::Decided(pending.resume(outcome)))
            }
            (LoginOutcome::Account(why), None) => Some(Checked::LookedUp(why)),
            // An outcome of the job that this one has replaced.
            _ => None,
        }
    }
}
