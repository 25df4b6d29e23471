//! Logins of one shard whose password is being checked elsewhere: a bcrypt comparison would stall the shard.

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

/// The password checks under way for the sessions of one shard.
pub struct PasswordChecks {
    /// Has a password checked off the shard; the outcome comes back by `checked`.
    check: Box<dyn Fn(LoginId, PasswordJob)>,
    waiting: RefCell<HashMap<LoginId, Rc<LoginWait>>>,
    /// The number of the last one.
    last: Cell<LoginId>,
}

/// A login whose password is being checked.
pub(super) struct LoginWait {
    id: LoginId,
    /// Reaches 1 when the outcome is there.
    pub gate: Rc<Gate>,
    outcome: Cell<Option<PasswordOutcome>>,
    pending: RefCell<Option<PendingLogin>>,
    /// The helper thread leaves out the check of a client that is gone.
    waiter: Arc<()>,
    /// When the check has to be done.
    pub deadline: Instant,
}

impl PasswordChecks {
    pub fn new(check: impl Fn(LoginId, PasswordJob) + 'static) -> Self {
        Self { check: Box::new(check), waiting: RefCell::default(), last: Cell::default() }
    }

    /// The outcome of a check. Nobody waits for it any more if the client went away, or if a reload asks for another
    /// one.
    pub fn checked(&self, id: LoginId, outcome: PasswordOutcome) {
        if let Some(wait) = self.waiting.borrow_mut().remove(&id) {
            wait.outcome.set(Some(outcome));
            wait.gate.advance_to(1);
        }
    }

    pub(super) fn begin(&self, job: PasswordJob, pending: PendingLogin) -> Rc<LoginWait> {
        let id = LoginId(self.last.get().0 + 1);
        self.last.set(id);
        let wait = Rc::new(LoginWait {
            id,
            gate: Rc::new(Gate::new()),
            outcome: Cell::new(None),
            pending: RefCell::new(Some(pending)),
            waiter: Arc::new(()),
            deadline: Instant::now() + PASSWORD_CHECK_WAIT_MAX,
        });
        self.waiting.borrow_mut().insert(id, wait.clone());
        (self.check)(id, job.for_waiter(&wait.waiter));
        wait
    }

    /// Nobody waits for this outcome any more; a reader that does goes on.
    pub(super) fn give_up(&self, wait: &LoginWait) {
        self.waiting.borrow_mut().remove(&wait.id);
        wait.gate.open_for_good();
    }
}

impl LoginWait {
    /// The account that the login leads to, if the password is right and matters.
    pub(super) fn account_name(&self) -> Option<Arc<str>> {
        self.pending.borrow().as_ref()?.account_name().cloned()
    }

    /// Goes on waiting for the same comparison, on behalf of who the user is now. Gives `pending` back where another
    /// comparison is needed.
    pub(super) fn go_on_for(&self, pending: PendingLogin) -> Option<PendingLogin> {
        let mut waiting = self.pending.borrow_mut();
        if !waiting.as_ref().is_some_and(|waiting| waiting.asks_the_same(&pending)) {
            return Some(pending);
        }
        *waiting = Some(pending);
        None
    }

    /// Who it is, once the outcome is there. Told once.
    pub(super) fn take_result(&self) -> Option<Result<Identity, Refusal>> {
        let outcome = self.outcome.get()?;
        Some(self.pending.take()?.resume(outcome))
    }
}
