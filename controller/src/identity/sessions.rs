//! Which tokens are in use at this moment, so that a revocation ends what their holders have open.
//!
//! Must stay true: whoever enters before it asks the catalog whether the token counts misses no revocation;
//! an entry lives only as long as a call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::ids::TokenId;

/// The calls of each token that are open now. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Sessions {
    open: Arc<Mutex<HashMap<TokenId, (usize, CancellationToken)>>>,
}

/// One open call of a token.
#[derive(Debug)]
pub struct Session {
    sessions: Sessions,
    token: TokenId,
    cut: CancellationToken,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<TokenId, (usize, CancellationToken)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call of this token begins.
    pub(super) fn enter(&self, token: TokenId) -> Session {
        let cut = {
            let mut open = self.lock();
            let (calls, cut) = open.entry(token).or_default();
            *calls += 1;
            cut.clone()
        };
        Session { sessions: self.clone(), token, cut }
    }

    /// Ends everything that this token has open.
    pub(super) fn cut(&self, token: TokenId) {
        if let Some((_, cut)) = self.lock().get(&token) {
            cut.cancel();
        }
    }
}

impl Session {
    /// Cancelled when the token is revoked.
    pub fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut open = self.sessions.lock();
        if let Some((calls, _)) = open.get_mut(&self.token) {
            *calls -= 1;
            if *calls == 0 {
                open.remove(&self.token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_ends_the_calls_of_its_token_and_of_no_other() {
        let sessions = Sessions::default();
        let (one, two) = (TokenId::fresh(), TokenId::fresh());
        let (first, second, other) = (sessions.enter(one), sessions.enter(one), sessions.enter(two));
        sessions.cut(one);
        assert!(first.cut().is_cancelled() && second.cut().is_cancelled() && !other.cut().is_cancelled());
        drop((first, second, other));
        assert!(sessions.lock().is_empty(), "nothing stays behind");
    }
}
