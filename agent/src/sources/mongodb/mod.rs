//! Reads what a MongoDB server holds, in the layout that `mongodump` writes and `mongorestore` reads:
//! `prelude.json`, `<db>/<collection>.bson` and `<db>/<collection>.metadata.json`.
//!
//! Must stay true: documents go into the archive as the bytes that the server gave; an index or an option is
//! never left out for being unknown here; what is skipped is told with the reason; the connection string and
//! what stands in documents reach no error and no log. Memory is that of a few batches of documents, however
//! large a collection is and however many there are ([`ahead`]).
//!
//! A replica set, or a cluster, is read as of one instant, by sessions of snapshots: `snapshot`. Any other server, and
//! one whose history was too short the last time, is locked meanwhile where the configuration allows that ([`lock`]):
//! `quiesced`. Else the collections are read one after the other while they may be in use: `fuzzy`, and a problem says
//! what remedies it (decisions 26 and 41). Where nothing but the data
//! folder of a server is given, it is read as files while the server is stopped ([`folder`]).

mod ahead;
mod archived;
mod catalog;
mod changes;
mod collection;
pub(crate) mod dump;
mod events;
mod extjson;
pub(crate) mod folder;
pub(crate) mod lock;
pub(crate) mod names;
pub(crate) mod server;
mod stream;
mod trouble;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use repository::archive::entry::{EntryKind, Metadata, Timestamp};
use repository::archive::path::EntryPath;
use repository::backup::manifest::{Consistency, Quiesce, QuiescedBy};
use runtime::config::SecretSource;

use super::{Body, Content, Item, Problem, ProblemKind, Source, SourceEntry, SourceError, Stamp, StampClock};
use ahead::Ahead;
use catalog::{Planned, What};
use changes::Collections;
use collection::{Documents, Text};
pub use lock::Terms;
use lock::{Ended, Locked, Lost};
pub(crate) use names::without_user;
use server::{Listing, Server};

/// Permissions of what a dump holds: it may be secret, and it is nobody's but its owner's.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

const TOO_SHORT: &str = "its history was too short the last time: give the server a \
                         `minSnapshotHistoryWindowInSeconds` that is longer than a backup takes, and restart the agent";

/// Why it is not locked this time.
const LOCK_TOO_SHORT: &str = "its lock was let go the last time before all was read: give `fsync_lock` more time, and \
                              restart the agent";
const LOCK_FOREIGN: &str = "somebody else has unlocked it the last time before all was read: see who does, then restart \
                            the agent";
const SEE_TO_LOCK: &str = "the next attempt reads it fuzzy; to have it of one moment, give `fsync_lock` of the source more \
                           time, then restart the agent";
const SEE_TO_OTHERS: &str = "the next attempt reads it fuzzy; to have it of one moment, see who unlocks it, then restart \
                             the agent";
const ANEW: &str = "the next attempt reads it fuzzy, and the next backup locks it again";

/// What did not last for a backup of this server, since the agent has started.
#[derive(Debug, Clone, Default)]
pub struct History(Arc<TooShort>);

#[derive(Debug, Default)]
struct TooShort {
    /// The server's history.
    history: AtomicBool,
    /// Its lock.
    lock: Mutex<Option<Lost>>,
}

impl TooShort {
    /// Why it is not locked this time; none: it may be.
    fn unlocked(&self) -> Option<String> {
        let mut lost = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        match &*lost {
            None => None,
            Some(Lost::Late) => Some(LOCK_TOO_SHORT.to_owned()),
            Some(Lost::Foreign) => Some(LOCK_FOREIGN.to_owned()),
            Some(Lost::Once(why)) => {
                let told = format!("its lock did not hold the last time before all was read: {why}");
                *lost = None;
                Some(told)
            }
        }
    }
}

/// So many instants are tried where collections go or are renamed around each.
const INSTANTS: usize = 4;
/// So many entries are asked for in advance: collections and their descriptions take turns.
const AHEAD: usize = 8;

/// What is asked for before its turn.
enum Begun {
    Nothing,
    Documents(Ahead),
    Indexes(Listing),
}

/// The databases of one server.
pub struct MongoSource {
    server: Arc<Server>,
    /// Why it is read fuzzy, until it is told.
    fuzzy: Option<String>,
    is_fixed: bool,
    /// None once it was let go.
    locked: Option<Locked>,
    quiesce: Option<Quiesce>,
    history: History,
    planned: std::vec::IntoIter<Planned>,
    /// The collections that are read; none once what came and went meanwhile is known.
    collections: Option<Collections>,
    /// Told before what comes next.
    told: Vec<Problem>,
    /// What comes next, asked for already.
    begun: VecDeque<(Planned, Begun)>,
    metadata: Metadata,
}

impl MongoSource {
    /// Connects to the server that `uri` names and lists what it holds, as of `now`; locks it, if it may by `lock`. Blocks;
    /// belongs on a thread on which the runtime can be waited for.
    pub fn open(
        uri: &SecretSource,
        now: jiff::Timestamp,
        history: &History,
        lock: Option<&Terms>,
    ) -> Result<Self, SourceError> {
        let mut server = Arc::new(Server::connect(uri)?);
        let (mut planned, mut collections) = catalog::plan(&server)?;
        let mut told = Vec::new();
        let mut fixed = match history.0.history.load(Ordering::Relaxed) {
            true => Err(TOO_SHORT.to_owned()),
            false => server.fix_instant(),
        };
        if fixed.is_ok() {
            // What the server lists is as of now, before the instant and after it: where nothing has gone between the
            // two, all that was there at the instant is listed. What came is read as of the instant: it may be empty.
            for attempt in 1.. {
                let (now_planned, now) = catalog::plan(&server)?;
                let changes = now.since(&collections);
                (planned, collections) = (now_planned, now);
                if changes.renamed.is_empty() && changes.went.is_empty() {
                    break;
                }
                if attempt == INSTANTS {
                    told = changes.problems(true);
                    break;
                }
                server.fix_instant().map_err(|why| SourceError::Server {
                    hint: "see to the server, then back up again",
                    source: why.into(),
                })?;
            }
        }
        let is_fixed = fixed.is_ok();
        let mut locked = None;
        if let (Err(why), Some(terms)) = (&fixed, lock) {
            let begun = history.0.unlocked().map_or_else(|| Locked::begin(&server, uri, terms), Err);
            match begun {
                Ok(begun) => {
                    server = begun.server();
                    (planned, collections) = catalog::plan(&server)?;
                    (locked, fixed) = (Some(begun), Ok(()));
                }
                Err(no) => fixed = Err(format!("{why}; and it was not locked: {no}")),
            }
        }
        let planned = planned.into_iter();
        let (quiesce, history) = (None, history.clone());
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let mtime = Timestamp { seconds: now.as_second(), nanoseconds: 0 };
        let metadata = Metadata { mode: FILE_MODE, uid, gid, mtime, xattrs: Vec::new() };
        let begun = VecDeque::new();
        let (fuzzy, collections) = (fixed.err(), Some(collections));
        Ok(Self {
            server,
            fuzzy,
            is_fixed,
            locked,
            quiesce,
            history,
            planned,
            collections,
            told,
            begun,
            metadata,
        })
    }

    /// Tells this of the server, whatever is read of it.
    pub(crate) fn tell(&mut self, cause: Option<String>) {
        let problem = |cause| Problem { path: EntryPath::root(), kind: ProblemKind::Suspect, cause };
        self.told.extend(cause.map(problem));
    }

    /// Asks for what comes soon, and gives what comes next.
    fn next_begun(&mut self) -> Option<(Planned, Begun)> {
        while self.begun.len() < AHEAD
            && let Some(planned) = self.planned.next()
        {
            let begun = match &planned.what {
                What::Documents { database, collection } => {
                    Begun::Documents(Documents::begin(&self.server, database, collection))
                }
                What::Metadata { database, listed } => match catalog::indexes(&self.server, database, listed)
                {
                    Some(listing) => Begun::Indexes(listing),
                    None => Begun::Nothing,
                },
                What::Folder | What::Text(_) | What::Unread { .. } => Begun::Nothing,
            };
            self.begun.push_back((planned, begun));
        }
        self.begun.pop_front()
    }

    /// All was read: who writes goes on.
    fn let_go(&mut self) -> Result<(), SourceError> {
        let Some(locked) = self.locked.take() else { return Ok(()) };
        let held = match locked.end() {
            Ended::Held(held) => held,
            Ended::Lost(lost) => return Err(self.was_written_to(lost)),
            // All was read while it was locked.
            Ended::Stuck(cause) => {
                self.told.push(Problem { path: EntryPath::root(), kind: ProblemKind::Suspect, cause });
                return Ok(());
            }
        };
        let held_ms = u64::try_from(held.as_millis()).unwrap_or(u64::MAX);
        self.quiesce = Some(Quiesce { by: QuiescedBy::Lock, held_ms });
        Ok(())
    }

    /// The lock was let go too early.
    fn was_written_to(&self, lost: Lost) -> SourceError {
        let (hint, source) = match &lost {
            Lost::Late => (SEE_TO_LOCK, "its lock was let go before all was read".into()),
            Lost::Foreign => (SEE_TO_OTHERS, "somebody else has unlocked it before all was read".into()),
            Lost::Once(why) => (ANEW, format!("its lock may not have held until all was read: {why}").into()),
        };
        *self.history.0.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(lost);
        SourceError::Again { hint, source }
    }

    fn file(&self, path: EntryPath, content: Box<dyn Content>) -> Item {
        let body = Body::File { stamp: self.stamp(0), clock: StampClock::Nobodys, content };
        Item::Entry(SourceEntry { path, metadata: self.metadata.clone(), body })
    }

    fn stamp(&self, size: u64) -> Stamp {
        Stamp { inode: 0, size, mtime: self.metadata.mtime, ctime: self.metadata.mtime }
    }
}

impl Source for MongoSource {
    fn consistency(&self) -> Consistency {
        match (self.is_fixed, self.locked.is_some() || self.quiesce.is_some()) {
            (true, _) => Consistency::Snapshot,
            (false, true) => Consistency::Quiesced,
            (false, false) => Consistency::Fuzzy,
        }
    }

    fn quiesce(&self) -> Option<Quiesce> {
        self.quiesce
    }

    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        if let Some(trouble) = self.server.gone() {
            if trouble.code == Some(server::TOO_OLD) {
                self.history.0.history.store(true, Ordering::Relaxed);
            }
            return Err(trouble.into());
        }
        if let Some(lost) = self.locked.as_ref().and_then(Locked::lost) {
            return Err(self.was_written_to(lost));
        }
        if let Some(why) = self.fuzzy.take() {
            tracing::warn!("a MongoDB server is read fuzzy: {why}");
            let cause = format!(
                "it is read fuzzy, one collection after the other: {why}, or stop the writers by `hooks`"
            );
            return Ok(Some(Item::Problem(Problem {
                path: EntryPath::root(),
                kind: ProblemKind::Suspect,
                cause,
            })));
        }
        if let Some(problem) = self.told.pop() {
            return Ok(Some(Item::Problem(problem)));
        }
        let Some((Planned { path, what }, begun)) = self.next_begun() else {
            let Some(before) = self.collections.take() else { return Ok(None) };
            // While it was locked nothing came or went.
            if self.locked.is_some() {
                self.let_go()?;
                return Ok(self.told.pop().map(Item::Problem));
            }
            self.told = catalog::collections(&self.server)?.since(&before).problems(self.is_fixed);
            return Ok(self.told.pop().map(Item::Problem));
        };
        let problem = |path, kind, cause| Item::Problem(Problem { path, kind, cause });
        Ok(Some(match what {
            What::Folder => {
                let metadata = Metadata { mode: FOLDER_MODE, ..self.metadata.clone() };
                Item::Entry(SourceEntry { path, metadata, body: Body::Plain(EntryKind::Folder) })
            }
            What::Text(bytes) => {
                let stamp = self.stamp(bytes.len() as u64);
                self.file(path, Box::new(Text::new(bytes, stamp)))
            }
            What::Metadata { listed, .. } => {
                let indexes = match begun {
                    Begun::Indexes(listing) => self.server.listed(listing),
                    _ => Ok(Vec::new()),
                };
                match indexes.and_then(|indexes| catalog::metadata_json(&listed, &indexes)) {
                    Ok(bytes) => {
                        let stamp = self.stamp(bytes.len() as u64);
                        self.file(path, Box::new(Text::new(bytes, stamp)))
                    }
                    Err(trouble) if trouble.is_connection => return Err(trouble.into()),
                    Err(trouble) => problem(path, ProblemKind::Unreadable, trouble.to_string()),
                }
            }
            What::Documents { database, collection } => {
                let ahead = match begun {
                    Begun::Documents(ahead) => ahead,
                    _ => Documents::begin(&self.server, &database, &collection),
                };
                let documents = Documents::new(&self.server, database, collection, self.stamp(0), ahead);
                self.file(path, Box::new(documents))
            }
            What::Unread { kind, cause } => problem(path, kind, cause.to_owned()),
        }))
    }
}
