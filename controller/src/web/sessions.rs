//! Who is signed in.
//!
//! A session is a random number in the browser's cookie; here its SHA-256 leads to the API token that was
//! shown, or that a name and a password have brought. The token itself is asked about at every call, so a revoked
//! one ends its sessions at once.
//! Sessions are in memory alone: after a restart of the controller one signs in again, and is back where
//! one was.
//!
//! Must stay true: the number of sessions is bounded; a session ends after its idle and its absolute time, and with
//! it the token that a password has brought;
//! neither a cookie nor a token is ever logged.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::{constant_time, digest, rand};
use jiff::{SignedDuration, Timestamp};
use repository::ids::hex;
use zeroize::Zeroizing;

use crate::identity::{ApiTokens, Role};

/// Without a request for this long, a session ends.
const IDLE: SignedDuration = SignedDuration::from_mins(60);
/// However much it is used, it ends after this time.
pub(super) const LONGEST: SignedDuration = SignedDuration::from_hours(12);
/// With more, the one that was not used for the longest time ends.
const MOST: usize = 1_000;

type Key = [u8; 32];

/// Somebody who is signed in.
#[derive(Clone)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) token: Arc<Zeroizing<String>>,
    /// Has to be in every form.
    pub(super) form_key: String,
}

impl fmt::Debug for User {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("User").field("name", &self.name).field("role", &self.role).finish_non_exhaustive()
    }
}

impl User {
    /// True if a form is of this session.
    pub(super) fn has_form_key(&self, key: &str) -> bool {
        constant_time::verify_slices_are_equal(self.form_key.as_bytes(), key.as_bytes()).is_ok()
    }
}

struct Session {
    user: User,
    begun: Timestamp,
    used: Timestamp,
}

impl Session {
    fn counts(&self, now: Timestamp) -> bool {
        now.duration_since(self.used) < IDLE && now.duration_since(self.begun) < LONGEST
    }
}

/// All sessions.
pub(super) struct Sessions {
    all: Mutex<HashMap<Key, Session>>,
    /// Ends what a password has brought.
    tokens: Option<ApiTokens>,
}

impl Sessions {
    pub(super) fn new(tokens: ApiTokens) -> Self {
        Self { all: Mutex::default(), tokens: Some(tokens) }
    }

    fn ended(&self, session: &Session) {
        self.tokens.iter().for_each(|tokens| tokens.end_passing(&session.user.token));
    }

    /// Begins a session; what its cookie has to hold.
    pub(super) fn begin(&self, name: String, role: Role, token: Zeroizing<String>, now: Timestamp) -> String {
        let (cookie, form_key) = (random(), random());
        let user = User { name, role, token: Arc::new(token), form_key };
        let mut all = self.lock();
        all.extract_if(|_, session| !session.counts(now)).for_each(|(_, session)| self.ended(&session));
        if all.len() >= MOST
            && let Some(oldest) = all.iter().min_by_key(|(_, session)| session.used).map(|(key, _)| *key)
        {
            all.remove(&oldest).iter().for_each(|session| self.ended(session));
        }
        all.insert(key_of(&cookie), Session { user, begun: now, used: now });
        cookie
    }

    /// Whose session it is; it is used by that.
    pub(super) fn find(&self, cookie: &str, now: Timestamp) -> Option<User> {
        let (mut all, key) = (self.lock(), key_of(cookie));
        let session = all.get_mut(&key)?;
        if !session.counts(now) {
            all.remove(&key).iter().for_each(|session| self.ended(session));
            return None;
        }
        session.used = now;
        Some(session.user.clone())
    }

    /// Ends a session.
    pub(super) fn end(&self, cookie: &str) {
        self.lock().remove(&key_of(cookie)).iter().for_each(|session| self.ended(session));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Session>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random() -> String {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).expect("the system gives random bytes");
    hex(&bytes)
}

fn key_of(cookie: &str) -> Key {
    let digest = digest::digest(&digest::SHA256, cookie.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions() -> Sessions {
        Sessions { all: Mutex::default(), tokens: None }
    }

    fn begin(sessions: &Sessions, now: Timestamp) -> String {
        sessions.begin("kim".to_owned(), Role::Operator, Zeroizing::new("secret".to_owned()), now)
    }

    #[test]
    fn a_session_ends_when_it_is_idle_when_it_is_old_and_when_it_is_told_to() {
        let (sessions, start) = (sessions(), Timestamp::UNIX_EPOCH);
        let minutes = |minutes| start + SignedDuration::from_mins(minutes);
        let cookie = begin(&sessions, start);
        assert!(sessions.find("another", start).is_none());
        assert!(sessions.find(&cookie, minutes(59)).is_some());
        assert!(sessions.find(&cookie, minutes(118)).is_some(), "it was used");
        assert!(sessions.find(&cookie, minutes(178)).is_none(), "idle for an hour");
        let cookie = begin(&sessions, start);
        for used in (0..720).step_by(30) {
            assert!(sessions.find(&cookie, minutes(used)).is_some());
        }
        assert!(sessions.find(&cookie, minutes(720)).is_none(), "twelve hours old");
        let cookie = begin(&sessions, start);
        sessions.end(&cookie);
        assert!(sessions.find(&cookie, start).is_none());
    }

    #[test]
    fn there_are_so_many_sessions_at_most_and_the_one_unused_for_longest_goes() {
        let (sessions, start) = (sessions(), Timestamp::UNIX_EPOCH);
        let first = begin(&sessions, start);
        let later = start + SignedDuration::from_secs(1);
        let others: Vec<String> = (0..MOST).map(|_| begin(&sessions, later)).collect();
        assert_eq!(sessions.lock().len(), MOST);
        assert!(sessions.find(&first, later).is_none());
        assert!(others.iter().all(|cookie| sessions.find(cookie, later).is_some()));
    }

    #[test]
    fn a_form_of_another_session_is_not_taken_and_nothing_shows_a_token() {
        let (sessions, now) = (sessions(), Timestamp::UNIX_EPOCH);
        let [one, other] = [(); 2].map(|()| {
            let cookie = begin(&sessions, now);
            sessions.find(&cookie, now).expect("signed in")
        });
        assert!(one.has_form_key(&one.form_key) && !one.has_form_key(&other.form_key));
        assert!(!one.has_form_key("") && !format!("{one:?}").contains("secret"));
    }
}
