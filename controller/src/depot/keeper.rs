//! Keeps the writer's lease for as long as the controller runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use repository::store::lease::{DEFAULT_TTL, Holder, Lease, LeaseError};
use runtime::clock::Clock;
use tokio_util::sync::CancellationToken;

use crate::state::StateFolder;

/// A third of the lease's life: two renewals may fail.
const RENEW_EVERY: Duration = Duration::from_secs(30);

/// The lease, renewed in the background.
#[derive(Debug)]
pub struct LeaseKeeper {
    lease: Mutex<Option<Lease>>,
    lost: AtomicBool,
}

impl LeaseKeeper {
    pub(super) fn new(lease: Lease) -> Self {
        Self { lease: Mutex::new(Some(lease)), lost: AtomicBool::new(false) }
    }

    /// True once another controller has taken over; final.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Makes sure that nobody has taken over. Blocks.
    pub fn check(&self) -> Result<(), LeaseError> {
        self.with(|lease| lease.check())
    }

    /// Renews until `stop`, then gives the lease back.
    pub async fn keep(self: Arc<Self>, clock: Arc<dyn Clock>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(RENEW_EVERY)).await.is_some() {
            let (keeper, now) = (self.clone(), clock.now());
            let renewed =
                tokio::task::spawn_blocking(move || keeper.with(|lease| lease.renew(now, DEFAULT_TTL)));
            match renewed.await {
                Ok(Err(error)) if self.is_lost() => {
                    tracing::error!(error = proto::failure::chain(&error), "nothing is written any more");
                    return;
                }
                Ok(Err(error)) => {
                    tracing::warn!(
                        error = proto::failure::chain(&error),
                        "the lease was not renewed; it is tried again"
                    );
                }
                Ok(Ok(())) => {}
                Err(error) => tracing::error!(%error, "renewing the lease ended unexpectedly"),
            }
        }
    }

    /// Gives the lease back, so that another controller need not wait. Blocks.
    pub fn release(&self) {
        let lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = lease.map(Lease::release) {
            tracing::warn!(
                error = proto::failure::chain(&error),
                "the lease was not given back; it expires by itself"
            );
        }
    }

    fn with(&self, act: impl FnOnce(&mut Lease) -> Result<(), LeaseError>) -> Result<(), LeaseError> {
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        let lease = lease.as_mut().ok_or(LeaseError::Lost { fence: 0 })?;
        let result = act(lease);
        if matches!(result, Err(LeaseError::Lost { .. })) {
            self.lost.store(true, Ordering::Release);
        }
        result
    }
}

/// This controller, as the lease names it.
pub(super) fn holder(state: &StateFolder) -> Holder {
    Holder { id: state.controller().as_uuid(), host: runtime::host::hostname() }
}
