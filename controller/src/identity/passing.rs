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

/// Somebody who signs in more often than that ends what they began first. Who may sign in is a handful of settings,
/// so that there are few in all.
const MOST_OF_ONE: usize = 20;

/// Each token and the SHA-256 of its secret.
type Held = HashMap<TokenId, (ApiTokenRecord, [u8; 32])>;

/// The tokens. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Passing(Arc<Mutex<Held>>);

impl Passing {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a token; which one it has put out.
    pub(super) fn add(&self, record: ApiTokenRecord, hash: [u8; 32], now: Timestamp) -> Option<TokenId> {
        let mut all = self.lock();
        all.retain(|_, (record, _)| record.counts(now));
        let same = || all.values().map(|(other, _)| other).filter(|other| other.name == record.name);
        let first =
            (same().count() >= MOST_OF_ONE).then(|| same().min_by_key(|other| other.ends_at)).flatten();
        let first = first.map(|first| first.id);
        first.iter().for_each(|first| drop(all.remove(first)));
        all.insert(record.id, (record, hash));
        first
    }

    pub(super) fn find(&self, id: TokenId) -> Option<(ApiTokenRecord, [u8; 32])> {
        self.lock().get(&id).cloned()
    }

    pub(super) fn all(&self) -> Vec<ApiTokenRecord> {
        self.lock().values().map(|(record, _)| record.clone()).collect()
    }

    /// Lets one count no more; false if there is no such one.
    pub(super) fn revoke(&self, id: TokenId, now: Timestamp) -> bool {
        let mut all = self.lock();
        let found = all.get_mut(&id);
        found.map(|(record, _)| record.revoked_at = record.revoked_at.or(Some(now))).is_some()
    }

    /// False if there is no such one.
    pub(super) fn remove(&self, id: TokenId) -> bool {
        self.lock().remove(&id).is_some()
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::identity::Role;

    fn record(name: &str, at: i64) -> ApiTokenRecord {
        let created_at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(at);
        ApiTokenRecord {
            id: TokenId::fresh(),
            name: name.to_owned(),
            role: Role::Viewer,
            created_at,
            ends_at: created_at + SignedDuration::from_hours(12),
            revoked_at: None,
            last_used_at: None,
            created_by: String::new(),
        }
    }

    #[test]
    fn who_signs_in_again_and_again_puts_out_their_own_first_and_nobody_else() {
        let (passing, now) = (Passing::default(), Timestamp::UNIX_EPOCH);
        let other = record("lee", 0);
        assert_eq!(passing.add(other.clone(), [0; 32], now), None);
        let mine: Vec<ApiTokenRecord> = (1..=25).map(|at| record("kim", at)).collect();
        let put_out: Vec<TokenId> =
            mine.iter().filter_map(|record| passing.add(record.clone(), [0; 32], now)).collect();
        assert_eq!(put_out, mine[..5].iter().map(|record| record.id).collect::<Vec<_>>());
        assert!(passing.find(other.id).is_some() && passing.find(mine[5].id).is_some());
        assert!(
            passing.revoke(other.id, now) && passing.find(other.id).is_some_and(|(it, _)| !it.counts(now))
        );
        passing.add(record("kim", 26), [0; 32], now);
        assert!(passing.find(other.id).is_none() && !passing.remove(other.id));
    }
}
