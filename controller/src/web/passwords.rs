//! Names and passwords at the sign-in: one guess at a time.
//!
//! A token cannot be guessed, so its failures are only answered later. A password that somebody has chosen can:
//! here a network waits before anything is compared, longer with every failure. Must stay true: from one network
//! one guess is looked at at a time, whatever connections it opens and gives up; from all of them together only
//! some; no thread that serves others waits for a file.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use proto::Failure;
use proto::failure::reason;
use tonic::Code;
use zeroize::Zeroizing;

use crate::identity::{User, Users};
use crate::rpc::attempts::{Attempts, network_of};

/// Networks whose guesses are looked at at one moment.
const MOST: usize = 32;

/// Who signs in by name and password, and who tries to.
#[derive(Debug)]
pub(super) struct Passwords {
    users: Users,
    failed: Attempts,
    busy: Mutex<HashSet<IpAddr>>,
}

/// The place of a network; free again when it is dropped.
#[derive(Debug)]
struct Place {
    passwords: Arc<Passwords>,
    network: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.passwords.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.network);
    }
}

impl Passwords {
    pub(super) fn new(users: Users) -> Arc<Self> {
        users.tell_what_does_not_count();
        Arc::new(Self { users, failed: Attempts::default(), busy: Mutex::default() })
    }

    /// True if nobody can sign in so.
    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// True if somebody has this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.users.has(name)
    }

    /// Who it is; `None` if name and password are not those of anybody. Goes to its end though nobody waits for it.
    pub(super) async fn check(
        self: &Arc<Self>,
        name: String,
        password: Zeroizing<String>,
        from: IpAddr,
    ) -> Result<Option<User>, Failure> {
        let place = self.begin(network_of(from))?;
        let passwords = self.clone();
        let task = tokio::spawn(async move {
            let _place = place;
            tokio::time::sleep(passwords.failed.due(from)).await;
            let looking = passwords.clone();
            let found =
                tokio::task::spawn_blocking(move || looking.users.find(&name, &password).cloned()).await;
            if let Ok(None) = &found {
                passwords.failed.note(from);
            }
            found
        });
        let failed =
            |error: tokio::task::JoinError| Failure::internal("the sign-in has ended").caused_by(&error);
        task.await.map_err(failed)?.map_err(failed)
    }

    fn begin(self: &Arc<Self>, network: IpAddr) -> Result<Place, Failure> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if busy.len() >= MOST || !busy.insert(network) {
            let what = "somebody else is signing in from this address at this moment";
            return Err(Failure::new(Code::Unavailable, reason::BUSY, what)
                .because(
                    "passwords from one address are looked at one by one, and later with every wrong one",
                )
                .hint("try again in some seconds"));
        }
        Ok(Place { passwords: self.clone(), network })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use runtime::config::{Secret, SecretSource};
    use tokio::time::Instant;

    use super::*;
    use crate::identity::Role;

    fn passwords() -> Arc<Passwords> {
        let password = SecretSource::Value(Secret::new("correct horse"));
        Passwords::new(Users::new(vec![User { name: "kim".to_owned(), role: Role::Viewer, password }]))
    }

    async fn check(passwords: &Arc<Passwords>, password: &str, from: &str) -> Result<bool, Code> {
        let from = from.parse().expect("an address");
        let checked = passwords.check("kim".to_owned(), Zeroizing::new(password.to_owned()), from).await;
        checked.map(|user| user.is_some()).map_err(|failure| failure.code)
    }

    #[tokio::test]
    async fn a_guess_waits_before_it_is_compared_and_the_right_one_too() {
        let passwords = passwords();
        assert_eq!(check(&passwords, "correct horse", "10.0.0.1").await, Ok(true), "at once");
        for _ in 0..3 {
            assert_eq!(check(&passwords, "wrong horse 1", "10.0.0.1").await, Ok(false));
        }
        let begun = Instant::now();
        assert_eq!(check(&passwords, "correct horse", "10.0.0.1").await, Ok(true));
        assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
        let other = "10.0.0.2".parse().expect("an address");
        assert_eq!(passwords.failed.due(other), Duration::ZERO, "another one is not concerned");
        assert_eq!(check(&passwords, "correct horse", "10.0.0.2").await, Ok(true));
    }

    #[tokio::test]
    async fn guesses_side_by_side_are_refused_and_one_that_is_given_up_counts() {
        let passwords = passwords();
        for _ in 0..3 {
            assert_eq!(check(&passwords, "wrong horse 1", "10.0.0.1").await, Ok(false));
        }
        // 0.4 s from now; whoever asked is gone at once.
        let given_up =
            tokio::time::timeout(Duration::from_millis(20), check(&passwords, "wrong", "10.0.0.1"));
        given_up.await.expect_err("it waits");
        assert_eq!(check(&passwords, "correct horse", "10.0.0.1").await, Err(Code::Unavailable));
        let from = "10.0.0.1".parse().expect("an address");
        let begun = Instant::now();
        while passwords.failed.due(from) < Duration::from_millis(800) {
            assert!(begun.elapsed() < Duration::from_secs(20), "the guess that was given up counts");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
