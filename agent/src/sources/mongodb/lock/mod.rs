//! A server that is locked by `fsync` while it is read: nobody writes to it, so all of it is of one moment.
//!
//! Must stay true: only where the configuration allows it, never a router, never longer than it says. A record lies in
//! the agent's state before the lock is asked for ([`record`]); a process of its own has the lock and lets it go
//! whatever becomes of the agent ([`mod@guard`]); where that process dies, the agent unlocks at once; where both die, the
//! agent's next start does ([`unlock_left`]), by the same rules ([`release`]). What the machine of the agent takes down
//! with it, or a network that does not come back, nobody can unlock but a person: decision 41.

mod container;
mod guard;
mod member;
mod now;
mod record;
mod release;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use runtime::config::SecretSource;

use super::events;
use super::server::Server;
pub(crate) use guard::guard;
pub(super) use now::{Ended, Lost};
use now::{Now, Shared, unsure};
use record::{Owned, Record, Stage};
use release::{Came, Ways};

/// How long it may take until a server is locked or says why not, and until it is unlocked again: as long as one try.
const BEGIN: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(150);
/// How long a drop waits for that.
const GLANCE: Duration = Duration::from_secs(5);

/// For how long a backup waits for somebody else who is at a record.
const TAKEN: Duration = Duration::from_secs(10);

/// What is left of earlier locks, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Left {
    /// Nothing that is known to be locked.
    Nothing,
    /// Somebody is at it.
    Taken,
    /// Something that may be locked, and could not be unlocked.
    Person,
}

/// The records that locks of this process look after themselves.
static LOOKED_AFTER: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A record that is looked after, for as long as this lives.
struct LookedAfter(PathBuf);

impl LookedAfter {
    fn begin(record: PathBuf) -> Self {
        LOOKED_AFTER.lock().unwrap_or_else(PoisonError::into_inner).insert(record.clone());
        Self(record)
    }

    fn has(record: &Path) -> bool {
        LOOKED_AFTER.lock().unwrap_or_else(PoisonError::into_inner).contains(record)
    }
}

impl Drop for LookedAfter {
    fn drop(&mut self) {
        LOOKED_AFTER.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

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
        container::outlives()?;
        if Record::all(&terms.state).iter().any(|(_, record)| record.source == terms.source) {
            return Err("an earlier lock of it may not have been let go".to_owned());
        }
        let member = member::choose(server, uri)?;
        if member::is_locked(&member.server).map_err(|trouble| trouble.to_string())? {
            return Err("somebody else has locked it".to_owned());
        }
        let (address, process) = (member.address, member.process);
        let secret = uri.read().map_err(|error| error.to_string())?;
        let intended = Record {
            source: terms.source.clone(),
            member: address.clone(),
            process: process.clone(),
            stage: Stage::Intended,
            unlocks: None,
            unanswered: None,
        };
        let looked_after = LookedAfter::begin(Record::place(&terms.state));
        let record = looked_after.0.clone();
        let unwritten = |error| format!("the record of a lock cannot be written: {error}");
        drop(intended.write(&record).map_err(unwritten)?);
        let orders = guard::Orders {
            uri: &secret,
            member: &address,
            process: &process,
            record,
            longest: terms.longest,
        };
        let started = guard::start(orders).inspect_err(|_| drop(std::fs::remove_file(&looked_after.0)));
        let mut guard = started.map_err(|error| format!("the guard of a lock does not start: {error}"))?;
        let input = guard.stdin.take();
        let server = Arc::new(member.server);
        let shared = Arc::new(Shared::new());
        let watched =
            Watched { shared: Arc::clone(&shared), server: Arc::clone(&server), record: looked_after };
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

    /// Why somebody may have written there; none: nobody.
    pub(super) fn lost(&self) -> Option<Lost> {
        match self.shared.get() {
            Now::Held => None,
            Now::Over(Err(lost)) => Some(lost),
            Now::Refused(why) => Some(Lost::Once(why)),
            Now::Beginning | Now::Over(Ok(_)) | Now::Stuck => Some(unsure()),
        }
    }

    /// Lets it go.
    pub(super) fn end(mut self) -> Ended {
        if let Some(lost) = self.lost() {
            return Ended::Lost(lost);
        }
        drop(self.input.take());
        match self.shared.await_that(END, |now| *now != Now::Held) {
            Now::Over(Ok(held)) => Ended::Held(held),
            Now::Over(Err(lost)) => Ended::Lost(lost),
            _ if self.shared.is_unsure() => Ended::Lost(unsure()),
            _ => Ended::Stuck(format!(
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
    record: LookedAfter,
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
                self.shared.set(Now::Over(match why {
                    guard::ASKED => Ok(held),
                    guard::LATE => Err(Lost::Late),
                    _ => Err(Lost::Once("its guard was told to end".to_owned())),
                }));
            } else if let Some(why) = line.strip_prefix(guard::LOST) {
                self.lost(why);
            } else if let Some(what) = line.strip_prefix(guard::STUCK) {
                self.stuck(what);
            } else {
                if [guard::NOT_SEEN, guard::UNASKED, release::UNSURE, release::UNCOUNTED]
                    .contains(&line.as_str())
                {
                    self.shared.be_unsure();
                }
                tracing::warn!("the guard of a locked MongoDB server {line}");
            }
        }
        let _ = guard.wait();
        let record = &self.record.0;
        if record.exists() && self.shared.get() != Now::Stuck {
            tracing::warn!("the guard of a locked MongoDB server has died: sees that it is unlocked");
            if self.shared.get() == Now::Beginning {
                // What it has asked for may take long to come.
                self.shared.set(Now::Refused("its guard has died".to_owned()));
            }
            self.shared.be_unsure();
            let tell = |what: &str| tracing::error!("a locked MongoDB server: the agent {what}");
            let ways = Ways { unlocks: &self.server, looks: &self.server };
            match release::after(ways, record, guard::TRIES, &tell) {
                Some(Came::Released(stays)) => {
                    if stays {
                        tracing::warn!("a MongoDB server stays locked: somebody else has locked it, too");
                    }
                    self.over(Lost::Once("its guard has died".to_owned()));
                }
                Some(Came::Lost(why)) => self.lost(why),
                Some(Came::Person(what)) => self.stuck(&what),
                Some(Came::Waits | Came::Works) | None => self.stuck("that was tried for too long"),
            }
        } else if matches!(self.shared.get(), Now::Beginning | Now::Held) {
            self.shared.set(Now::Refused("its guard has died".to_owned()));
        }
    }

    /// It is let go, and was not asked to be.
    fn over(&self, lost: Lost) {
        if !matches!(self.shared.get(), Now::Refused(_)) {
            self.shared.set(Now::Over(Err(lost)));
        }
    }

    fn lost(&self, why: &str) {
        tracing::warn!("a MongoDB server that was to be locked while it is read was not, to the end: {why}");
        self.over(match why {
            release::FOREIGN => Lost::Foreign,
            _ => Lost::Once(why.to_owned()),
        });
    }

    fn stuck(&self, what: &str) {
        tracing::error!("a MongoDB server may stay locked: {what}; then remove {}", self.record.0.display());
        self.shared.set(Now::Stuck);
    }
}

/// Unlocks what earlier runs have left locked, of the source `source` alone if it is given. `uri_of` says how a source's
/// server is reached. Blocks, within the runtime.
pub(crate) fn unlock_left(
    state: &Path,
    source: Option<&str>,
    uri_of: &dyn Fn(&str) -> Option<SecretSource>,
) -> Left {
    let left = Record::all(state).into_iter();
    let left = left.filter(|(_, record)| source.is_none_or(|source| source == record.source));
    // Each is tried, whatever comes of one.
    left.fold(Left::Nothing, |all, (path, record)| all.max(unlock_one(&path, &record, uri_of)))
}

/// The same for a backup of `source`, which waits for a while where somebody else is at it. What it returns is to be told
/// by the backup: a server that is locked is read well.
#[expect(clippy::disallowed_methods, reason = "a thread that does nothing else; it has an end")]
pub(crate) fn unlock_before(state: &Path, source: &str, uri: &SecretSource) -> Option<String> {
    let began = Instant::now();
    loop {
        return match unlock_left(state, Some(source), &|_| Some(uri.clone())) {
            Left::Nothing => None,
            Left::Taken if began.elapsed() < TAKEN => {
                thread::sleep(release::AGAIN);
                continue;
            }
            Left::Taken => Some("an earlier lock of it is still being undone".to_owned()),
            Left::Person => Some(
                "an earlier lock of it may not have been undone, and nobody but a person can say whether it has: if nobody \
                 can write to it, do what the agent's log says"
                    .to_owned(),
            ),
        };
    }
}

fn unlock_one(path: &Path, record: &Record, uri_of: &dyn Fn(&str) -> Option<SecretSource>) -> Left {
    // It is nothing to wait for where it is only seen that no late lock comes.
    let taken = if matches!(record.stage, Stage::Asked(_)) { Left::Nothing } else { Left::Taken };
    if LookedAfter::has(path) {
        return taken;
    }
    let mut owned = match Owned::take(path) {
        Ok(Some(owned)) => owned,
        Ok(None) => return Left::Nothing,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return taken,
        Err(error) => {
            tracing::error!(file = %path.display(), %error, "the record of a lock cannot be read");
            return Left::Person;
        }
    };
    let Record { source, member, stage, .. } = owned.record().clone();
    if stage == Stage::Intended {
        owned.end();
        return Left::Nothing;
    }
    let server = match uri_of(&source) {
        Some(uri) => member::connect(&uri, &member, member::FIND_LOCKED, None),
        None => Err("the agent's configuration no longer has its source".to_owned()),
    };
    let tell = |what: &str| {
        tracing::warn!(source, member, "a MongoDB server that an earlier run has locked: {what}")
    };
    let tried = server.and_then(|server| {
        let ways = Ways { unlocks: &server, looks: &server };
        release::once(ways, &mut owned, &tell).map_err(|trouble| format!("it is not unlocked: {trouble}"))
    });
    match tried {
        Ok(Came::Released(stays)) => {
            tracing::warn!(
                source,
                member,
                stays_locked_by_another = stays,
                "unlocked what an earlier run has locked"
            );
            owned.end();
            Left::Nothing
        }
        Ok(Came::Lost(why)) => {
            tracing::warn!(
                source,
                member,
                "a MongoDB server is not locked by an earlier run any more: {why}"
            );
            owned.end();
            Left::Nothing
        }
        // Nothing of it is there to unlock, and no second lock is asked for while its record is there.
        Ok(Came::Waits) => Left::Nothing,
        Ok(Came::Works) => Left::Taken,
        Ok(Came::Person(why)) | Err(why) => {
            if is_news(path, &why) {
                tracing::error!(
                    source,
                    member,
                    "an earlier run may have left a MongoDB server locked ({why}): run db.fsyncUnlock() there if nobody \
                     can write to it, then remove {}",
                    path.display()
                );
            }
            Left::Person
        }
    }
}

/// What was told of records that are still there: it is tried every few seconds, and told once.
static TOLD: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());

fn is_news(path: &Path, why: &str) -> bool {
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    told.retain(|path, _| path.exists());
    told.insert(path.to_owned(), why.to_owned()).is_none_or(|before| before != why)
}
