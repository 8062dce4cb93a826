//! A server that is locked by `fsync` while it is read: nobody writes to it, so all of it is of one moment.
//!
//! Must stay true: only where the configuration allows it, never a router, never longer than it says. A record lies in
//! the agent's state before the lock is asked for ([`record`]); a process of its own has the lock and lets it go
//! whatever becomes of the agent ([`mod@guard`]); where that process dies, the agent unlocks at once; where both die, the
//! agent's next start does ([`unlock_left`]). What the machine of the agent takes down with it, or a network that does
//! not come back, nobody can unlock but a person: decision 41.

mod guard;
mod member;
mod record;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use runtime::config::SecretSource;

use super::events;
use super::server::Server;
pub(crate) use guard::guard;
use record::{Owned, Record};

/// How long it may take until a server is locked or says why not, and until it is unlocked again.
const BEGIN: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(60);
/// How long a drop waits for that.
const GLANCE: Duration = Duration::from_secs(5);
/// How long after a try in vain the next one comes.
const AGAIN: Duration = Duration::from_secs(1);

/// What a server may be locked for.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The agent's folder.
    pub state: PathBuf,
    /// What the source's own files are called.
    pub source: String,
    /// For no longer than this.
    pub longest: Duration,
}

/// How far a lock is.
#[derive(Debug, Clone, PartialEq)]
enum Now {
    Beginning,
    Refused(String),
    Held,
    /// For so long; and whether it was let go because it was asked to be.
    Over(Duration, bool),
    /// It is not known to be unlocked.
    Stuck,
}

/// Told by the guard, heard by who reads.
struct Shared {
    now: Mutex<Now>,
    changed: Condvar,
}

impl Shared {
    fn set(&self, now: Now) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = now;
        self.changed.notify_all();
    }

    fn get(&self) -> Now {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it is once `is_awaited` says so, or after so long.
    fn await_that(&self, longest: Duration, is_awaited: impl Fn(&Now) -> bool) -> Now {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(now, longest, |now| !is_awaited(now));
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

/// A member that is locked for as long as this lives, or as long as it may be.
pub(super) struct Locked {
    server: Arc<Server>,
    shared: Arc<Shared>,
    /// The guard ends when this does.
    input: Option<ChildStdin>,
    address: String,
}

impl Locked {
    /// Locks a member of the server's set. Else this says why not.
    pub(super) fn begin(server: &Server, uri: &SecretSource, terms: &Terms) -> Result<Self, String> {
        if Record::all(&terms.state).iter().any(|(_, record)| record.source == terms.source) {
            return Err("an earlier lock of it may not have been let go".to_owned());
        }
        let member = member::choose(server, uri)?;
        if member::is_locked(&member.server).map_err(|trouble| trouble.to_string())? {
            return Err("somebody else has locked it".to_owned());
        }
        let (address, process) = (member.address, member.process);
        let record =
            Record { source: terms.source.clone(), member: address.clone(), process: process.clone() };
        let unwritten = |error| format!("the record of a lock cannot be written: {error}");
        let record = record.write(&terms.state).map_err(unwritten)?;
        let secret = uri.read().map_err(|error| error.to_string())?;
        let orders = guard::Orders {
            uri: &secret,
            member: &address,
            process: &process,
            record: record.clone(),
            longest: terms.longest,
        };
        let started = guard::start(orders).inspect_err(|_| drop(std::fs::remove_file(&record)));
        let mut guard = started.map_err(|error| format!("the guard of a lock does not start: {error}"))?;
        let input = guard.stdin.take();
        let server = Arc::new(member.server);
        let shared = Arc::new(Shared { now: Mutex::new(Now::Beginning), changed: Condvar::new() });
        let watched = Watched {
            shared: Arc::clone(&shared),
            server: Arc::clone(&server),
            record,
            process,
            began: Instant::now(),
        };
        thread::spawn(move || watched.watch(guard));
        let locked = Self { server, shared, input, address };
        match locked.shared.await_that(BEGIN, |now| *now != Now::Beginning) {
            Now::Held => {
                tracing::info!(member = locked.address, "a MongoDB server is locked while it is read");
                Ok(locked)
            }
            Now::Refused(why) => Err(why),
            _ => Err("it was not locked in time".to_owned()),
        }
    }

    /// The member, and no other.
    pub(super) fn server(&self) -> Arc<Server> {
        Arc::clone(&self.server)
    }

    /// False once somebody may have written there.
    pub(super) fn still_holds(&self) -> bool {
        self.shared.get() == Now::Held
    }

    /// Lets it go; for how long it was held. None: it was let go before, and somebody may have written since. An error
    /// says what to do.
    pub(super) fn end(mut self) -> Result<Option<Duration>, String> {
        if !self.still_holds() {
            return Ok(None);
        }
        drop(self.input.take());
        match self.shared.await_that(END, |now| *now != Now::Held) {
            Now::Over(held, true) => Ok(Some(held)),
            Now::Over(_, false) => Ok(None),
            _ => Err(format!(
                "{} may still be locked, though it is tried on: look there, and run db.fsyncUnlock()",
                self.address
            )),
        }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        drop(self.input.take());
        self.shared.await_that(GLANCE, |now| !matches!(now, Now::Beginning | Now::Held));
    }
}

/// What a thread listens to a guard with.
struct Watched {
    shared: Arc<Shared>,
    server: Arc<Server>,
    record: PathBuf,
    process: String,
    began: Instant,
}

impl Watched {
    /// Until the guard has ended. If it has left anything locked, it is unlocked here.
    fn watch(self, mut guard: Child) {
        let said = BufReader::new(guard.stdout.take().expect("piped"));
        for line in said.lines().map_while(Result::ok) {
            if let Some(command) = line.strip_prefix(guard::SENT) {
                events::sent_by_guard(command);
            } else if line == guard::LOCKED {
                self.shared.set(Now::Held);
            } else if let Some(why) = line.strip_prefix(guard::REFUSED) {
                self.shared.set(Now::Refused(why.to_owned()));
            } else if let Some((held, why)) =
                line.strip_prefix(guard::UNLOCKED).and_then(|rest| rest.split_once(' '))
            {
                let held = Duration::from_millis(held.parse().unwrap_or_default());
                self.shared.set(Now::Over(held, why == guard::ASKED));
            } else {
                tracing::warn!("the guard of a locked MongoDB server {line}");
            }
        }
        let _ = guard.wait();
        if self.record.exists() {
            tracing::warn!("the guard of a locked MongoDB server has died: unlocks it");
            let freed = release(&self.server, &self.record, &self.process, guard::TRIES);
            let held = self.began.elapsed();
            self.shared.set(if freed { Now::Over(held, false) } else { Now::Stuck });
        } else if matches!(self.shared.get(), Now::Beginning | Now::Held) {
            self.shared.set(Now::Refused("its guard has died".to_owned()));
        }
    }
}

/// Unlocks what a record is of, and ends the record; false if that was not had in time.
#[expect(clippy::disallowed_methods, reason = "a thread that does nothing else; it has an end")]
fn release(server: &Server, record: &Path, process: &str, longest: Duration) -> bool {
    let began = Instant::now();
    loop {
        match Owned::take(record) {
            Ok(None) => return true,
            Ok(Some(owned)) => match member::unlock(server, process) {
                Ok(()) => {
                    owned.end();
                    return true;
                }
                Err(trouble) => tracing::error!("a locked MongoDB server cannot be unlocked: {trouble}"),
            },
            // Its guard is at it.
            Err(_) => {}
        }
        if began.elapsed() > longest {
            return false;
        }
        thread::sleep(AGAIN);
    }
}

/// Unlocks what earlier runs have left locked, of the source `source` alone if it is given. `uri_of` says how a source's
/// server is reached. False if something may still be locked. Blocks, within the runtime.
pub(crate) fn unlock_left(
    state: &Path,
    source: Option<&str>,
    uri_of: &dyn Fn(&str) -> Option<SecretSource>,
) -> bool {
    let mut is_all = true;
    for (path, record) in Record::all(state) {
        if source.is_some_and(|source| source != record.source) {
            continue;
        }
        let Record { source, member, process } = record;
        let server = match uri_of(&source) {
            Some(uri) => member::connect(&uri, &member),
            None => Err("the agent's configuration no longer has its source".to_owned()),
        };
        let freed = server.map(|server| release(&server, &path, &process, GLANCE));
        match freed {
            Ok(true) => {
                tracing::warn!(source, member, "a MongoDB server is no longer locked by an earlier run")
            }
            Ok(false) => is_all = false,
            Err(why) => {
                is_all = false;
                tracing::error!(
                    source,
                    member,
                    "an earlier run may have left a MongoDB server locked, and it cannot be looked at ({why}): run \
                     db.fsyncUnlock() there if nobody can write to it, then remove {}",
                    path.display()
                );
            }
        }
    }
    is_all
}
