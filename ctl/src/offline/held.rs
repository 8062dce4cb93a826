//! The writer's lease for as long as a command works on a repository: no controller may hold it meanwhile.

use std::sync::{Mutex, PoisonError};

use jiff::SignedDuration;
use repository::repo::Repository;
use repository::store::lease::{DEFAULT_TTL, Holder, Lease, LeaseError};
use runtime::clock::{Clock, SystemClock};

use crate::output::exit::Trouble;

/// A lease that is renewed while it is used.
pub(super) struct Held(Mutex<Lease>);

impl Held {
    /// Takes the lease, unless somebody holds it.
    pub(super) fn take(repository: &Repository) -> Result<Self, Trouble> {
        let holder = Holder { id: uuid::Uuid::now_v7(), host: runtime::host::hostname() };
        let lease = Lease::acquire(repository.store().clone(), &holder, SystemClock.now(), DEFAULT_TTL);
        Ok(Self(Mutex::new(lease.map_err(|error| trouble(&error))?)))
    }

    /// Makes sure that it is still held, and that it lasts; to be called before each change.
    pub(super) fn keep(&self) -> Result<(), LeaseError> {
        let mut lease = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemClock.now();
        let half = SignedDuration::from_secs(DEFAULT_TTL.as_secs() / 2);
        if lease.expires().duration_since(now) < half { lease.renew(now, DEFAULT_TTL) } else { lease.check() }
    }

    /// Gives it back.
    pub(super) fn release(self) -> Result<(), Trouble> {
        let lease = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        lease.release().map_err(|error| trouble(&error))
    }
}

fn trouble(error: &LeaseError) -> Trouble {
    Trouble::failed("the repository cannot be written")
        .caused_by(error)
        .hint("stop the controller that uses it; after a crash its lease ends by itself within two minutes")
}
