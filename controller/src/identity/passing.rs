//! Tokens of people who signed in to the web page by name and password.
//!
//! The page acts with a token like everybody else; whoever has none gets one for as long as a session can last.
//! Must stay true: such a token is in memory alone, shown to nobody, and gone with the sign-out or the process;
//! their number is bounded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::catalog::ApiTokenRecord;
use crate::ids::TokenId;

/// With more, the one that would end first ends.
const MOST: usize = 1_000;

/// The tokens and the SHA-256 of their secrets. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Passing(Arc<Mutex<HashMap<TokenId, (ApiTokenRecord, [u8; 32])>>>);

impl Passing {
    fn lock(&self) -> MutexGuard<'_, HashMap<TokenId, (ApiTokenRecord, [u8; 32])>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, record: ApiTokenRecord, hash: [u8; 32], now: Timestamp) {
        let mut all = self.lock();
        all.retain(|_, (record, _)| record.counts(now));
        if all.len() >= MOST
            && let Some(first) =
                all.values().min_by_key(|(record, _)| record.ends_at).map(|(record, _)| record.id)
        {
            all.remove(&first);
        }
        all.insert(record.id, (record, hash));
    }

    pub(super) fn find(&self, id: TokenId) -> Option<(ApiTokenRecord, [u8; 32])> {
        self.lock().get(&id).cloned()
    }

    /// False if there is no such one.
    pub(super) fn remove(&self, id: TokenId) -> bool {
        self.lock().remove(&id).is_some()
    }
}
