//! A scripted peer: it answers as a member of a replica set of MongoDB 7 would, or as another server that it is told
//! to be, as far as a backup asks, and keeps what it was asked. For what no engine here can do.

mod answers;
mod locks;
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use mongodb::bson::Document;

/// The server no longer knows the instant.
pub(crate) const TOO_OLD: i32 = 239;
const JOURNALS: &str = "neurashield_restore";

/// What a peer is.
#[derive(Debug, Clone, Default)]
pub(crate) enum Role {
    /// The only member of a set of MongoDB 7.
    #[default]
    Set,
    /// No member of a set.
    Alone,
    /// The router of a cluster of MongoDB 4.4.
    Router,
    /// A member of a set of MongoDB 4.4 with these ports, of which the first is the primary.
    Old(Vec<u16>),
}

/// What becomes of a lock that is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) enum Lock {
    #[default]
    Taken,
    /// Somebody else has locked it just before.
    Shared,
    /// The connection goes, and it does not come to it yet.
    Unanswered,
    /// It is held back until something else is said, and taken then, whoever has left meanwhile.
    Late,
}

/// What becomes of an unlock.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) enum Unlock {
    #[default]
    Answered,
    /// It is carried out, and the connection goes.
    Lost,
    /// The connection goes, and it never comes.
    Dropped,
    /// The connection goes, and it is worked on until something else is said, and carried out then.
    Late,
    /// The connection goes; it is begun with when unlocks are counted next, and goes on like a late one.
    AtCount,
    /// Somebody else had unlocked it; it is refused without a number, and somebody else locks it once more.
    Unnumbered,
}

/// The peer, with two collections of one document each.
pub(crate) struct Peer {
    pub(crate) port: u16,
    script: Arc<Script>,
}

#[derive(Default)]
struct Script {
    port: u16,
    /// Collections that are not given, with the code of the error; `TOO_OLD` where they are asked for as of an
    /// instant alone.
    refused: Mutex<BTreeMap<String, i32>>,
    /// Commands that change something and are not carried out, with the code of the error.
    refused_changes: Mutex<BTreeMap<&'static str, i32>>,
    /// It has users, a view and a time series, too.
    has_all: AtomicBool,
    /// What it has in `shop` each time that it is asked, by name and identity; the last one stays.
    lists: Mutex<VecDeque<Vec<(&'static str, u8)>>>,
    role: Mutex<Role>,
    /// How often it is locked, and by which number its process is known.
    locks: Mutex<i64>,
    process: AtomicU8,
    lock: Mutex<Lock>,
    unlock: Mutex<Unlock>,
    /// With how many unlocks it has begun, and how many it has refused.
    unlocks: AtomicI64,
    refused_unlocks: AtomicI64,
    /// An unlock has come that is begun with when they are counted.
    begins_at_count: AtomicBool,
    /// It says nothing of its process.
    is_nameless: AtomicBool,
    /// The locks and unlocks that it works on.
    pending: Mutex<Vec<&'static str>>,
    /// A client's operation has been in the way of a lock for long.
    is_held_up: AtomicBool,
    /// So many looks are not answered for long.
    hanging: AtomicI64,
    /// How long a ping takes, in milliseconds, and how many have begun.
    ping_ms: AtomicU64,
    pings: AtomicU64,
    /// While it is locked, nobody is let in anew.
    lets_nobody_in: AtomicBool,
    /// The way to it stands still.
    is_frozen: AtomicBool,
    /// What its user may not be told of it.
    is_silent: AtomicBool,
    /// What its user may do to it; none: it has no users.
    rights: Mutex<Option<Vec<&'static str>>>,
    /// When its set's primary has written last, in milliseconds; it has written itself at 0.
    written: AtomicI64,
    /// So many members of its set are hidden.
    hidden: AtomicU8,
    /// It wants to know who asks, and refuses every password.
    wants_users: AtomicBool,
    /// What reads wait for.
    holds_finds: AtomicBool,
    /// Locks, unlocks, and what was read of `shop`, in their order.
    sequence: Mutex<Vec<String>>,
    /// Of the last journal of a restore.
    head: Mutex<Option<Document>>,
    finds: Mutex<Vec<Document>>,
    changes: Mutex<Vec<Document>>,
}

impl Peer {
    pub(crate) fn start() -> Self {
        Self::start_by(|script, stream| script.serve(stream))
    }

    /// One that speaks TLS.
    pub(crate) fn start_with_tls(config: Arc<rustls::ServerConfig>) -> Self {
        Self::start_by(move |script, stream| {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).expect("a connection");
            script.serve(rustls::StreamOwned::new(connection, stream));
        })
    }

    fn start_by(serve: impl Fn(&Arc<Script>, TcpStream) + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its number").port();
        let script = Arc::new(Script { port, ..Script::default() });
        let shared = Arc::clone(&script);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, script) = (stream.expect("a connection"), Arc::clone(&shared));
                let serve = serve.clone();
                thread::spawn(move || serve(&script, stream));
            }
        });
        Self { port, script }
    }

    /// From now on it is this.
    pub(crate) fn be(&self, role: Role) {
        *self.script.role.lock().expect("nobody panics with it") = role;
    }

    /// From now on it refuses every password.
    pub(crate) fn refuse_passwords(&self) {
        self.script.wants_users.store(true, Ordering::Relaxed);
    }

    /// How often it is locked.
    pub(crate) fn locks(&self) -> i64 {
        *self.script.locks.lock().expect("nobody panics with it")
    }

    /// Somebody else locks it.
    pub(crate) fn lock(&self) {
        *self.script.locks.lock().expect("nobody panics with it") += 1;
    }

    /// From now on this becomes of a lock that is asked for.
    pub(crate) fn at_lock(&self, lock: Lock) {
        *self.script.lock.lock().expect("nobody panics with it") = lock;
    }

    /// From now on this becomes of an unlock.
    pub(crate) fn at_unlock(&self, unlock: Unlock) {
        *self.script.unlock.lock().expect("nobody panics with it") = unlock;
    }

    /// From now on an operation of a client is in the way of a lock.
    pub(crate) fn be_held_up(&self, is_held_up: bool) {
        self.script.is_held_up.store(is_held_up, Ordering::SeqCst);
    }

    /// The next looks, so many, are not answered for a minute.
    pub(crate) fn hang_looks(&self, looks: i64) {
        self.script.hanging.store(looks, Ordering::SeqCst);
    }

    /// How many of these are still to come.
    pub(crate) fn hanging(&self) -> i64 {
        self.script.hanging.load(Ordering::SeqCst)
    }

    /// From now on a ping takes so long.
    pub(crate) fn slow_pings(&self, ms: u64) {
        self.script.ping_ms.store(ms, Ordering::SeqCst);
    }

    /// How many pings have begun.
    pub(crate) fn pings(&self) -> u64 {
        self.script.pings.load(Ordering::SeqCst)
    }

    /// From now on nobody is let in anew while it is locked: a new connection waits until it is not.
    pub(crate) fn let_nobody_in(&self, lets_nobody_in: bool) {
        self.script.lets_nobody_in.store(lets_nobody_in, Ordering::SeqCst);
    }

    /// From now on nothing comes back, or no longer; nothing is lost.
    pub(crate) fn freeze(&self, is_frozen: bool) {
        self.script.is_frozen.store(is_frozen, Ordering::SeqCst);
    }

    /// From now on it does not say which process it is.
    pub(crate) fn be_nameless(&self, is_nameless: bool) {
        self.script.is_nameless.store(is_nameless, Ordering::SeqCst);
    }

    /// From now on its user may not ask how it is.
    pub(crate) fn be_silent(&self, is_silent: bool) {
        self.script.is_silent.store(is_silent, Ordering::SeqCst);
    }

    /// From now on it has a user who may do this to it, and nothing else.
    pub(crate) fn give_rights(&self, rights: &[&'static str]) {
        *self.script.rights.lock().expect("nobody panics with it") = Some(rights.to_vec());
    }

    /// From now on its set has so many hidden members.
    pub(crate) fn hide_members(&self, count: u8) {
        self.script.hidden.store(count, Ordering::SeqCst);
    }

    /// From now on its set's primary is so far ahead of it.
    pub(crate) fn be_behind(&self, ms: i64) {
        self.script.written.store(ms, Ordering::SeqCst);
    }

    /// Somebody else takes one lock away.
    pub(crate) fn unlock(&self) {
        self.script.unlock();
    }

    /// Somebody else takes one lock away and locks it once more: no look sees that.
    pub(crate) fn unlock_and_lock(&self) {
        self.script.unlocks.fetch_add(1, Ordering::SeqCst);
    }

    /// As if its process had been started anew: nothing is locked.
    pub(crate) fn restart(&self) {
        self.script.process.fetch_add(1, Ordering::SeqCst);
        self.script.unlocks.store(0, Ordering::SeqCst);
        self.script.refused_unlocks.store(0, Ordering::SeqCst);
        *self.script.locks.lock().expect("nobody panics with it") = 0;
    }

    /// While this is so, what is read of `shop` is not answered.
    pub(crate) fn hold_finds(&self, holds: bool) {
        self.script.holds_finds.store(holds, Ordering::SeqCst);
    }

    /// Locks, unlocks, and what was read of `shop`, in their order, since this was last asked.
    pub(crate) fn sequence(&self) -> Vec<String> {
        std::mem::take(&mut self.script.sequence.lock().expect("nobody panics with it"))
    }

    /// From now on this collection is refused, and no other.
    pub(crate) fn refuse(&self, collection: &str, code: i32) {
        *self.script.refused.lock().expect("nobody panics with it") = [(collection.to_owned(), code)].into();
    }

    /// From now on this command, in lower case, is refused where it is not about a trial, and no other.
    pub(crate) fn refuse_change(&self, command: &'static str, code: i32) {
        *self.script.refused_changes.lock().expect("nobody panics with it") = [(command, code)].into();
    }

    /// From now on it has users, a view and a time series as well.
    pub(crate) fn have_all(&self) {
        self.script.has_all.store(true, Ordering::Relaxed);
    }

    /// From now on it says that it has these collections in `shop`, one list after the other; the last one stays.
    pub(crate) fn list(&self, lists: impl IntoIterator<Item = Vec<(&'static str, u8)>>) {
        *self.script.lists.lock().expect("nobody panics with it") = lists.into_iter().collect();
    }

    /// The commands that change something since this was last asked.
    pub(crate) fn changes(&self) -> Vec<Document> {
        std::mem::take(&mut self.script.changes.lock().expect("nobody panics with it"))
    }

    /// The `find` commands since this was last asked.
    pub(crate) fn finds(&self) -> Vec<Document> {
        std::mem::take(&mut self.script.finds.lock().expect("nobody panics with it"))
    }
}

impl Script {
    fn note(&self, what: &str) {
        self.sequence.lock().expect("nobody panics with it").push(what.to_owned());
    }
}
