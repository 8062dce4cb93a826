//! A scripted peer: it answers as a member of a replica set of MongoDB 7 would, or as another server that it is told
//! to be, as far as a backup asks, and keeps what it was asked. For what no engine here can do.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, DateTime, Document, RawDocumentBuf, Timestamp, doc, oid::ObjectId};

const OP_REPLY: i32 = 1;
const OP_QUERY: i32 = 2004;
const OP_MSG: i32 = 2013;
/// The server no longer knows the instant.
pub(crate) const TOO_OLD: i32 = 239;
const HEADER: usize = 16;
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
    /// Until the driver hangs up.
    fn serve(self: &Arc<Self>, mut stream: impl Read + Write) {
        loop {
            let mut header = [0; HEADER];
            if stream.read_exact(&mut header).is_err() {
                return;
            }
            let number = |at: usize| i32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
            let (length, id, code) = (number(0), number(4), number(12));
            let mut body = vec![0; usize::try_from(length).expect("a length") - HEADER];
            if stream.read_exact(&mut body).is_err() {
                return;
            }
            // The one document that is asked with: behind flags and a kind, or flags, a name and two numbers.
            let from = match code {
                OP_MSG => 5,
                OP_QUERY => 4 + body[4..].iter().position(|byte| *byte == 0).expect("a name") + 1 + 8,
                other => panic!("no driver asks by {other}"),
            };
            let end =
                from + u32::from_le_bytes(body[from..from + 4].try_into().expect("four bytes")) as usize;
            let asked = RawDocumentBuf::from_bytes(body[from..end].to_vec()).expect("a document");
            let asked = Document::try_from(&*asked).expect("a document");
            let answer = self.answer(&asked);
            if answer.is_empty() {
                return;
            }
            let answer = RawDocumentBuf::try_from(answer).expect("a document").into_bytes();
            let (code, before): (i32, Vec<u8>) = match code {
                OP_MSG => (OP_MSG, vec![0; 5]),
                _ => (OP_REPLY, [&[0; 16][..], &1_i32.to_le_bytes()].concat()),
            };
            let length = i32::try_from(HEADER + before.len() + answer.len()).expect("short");
            let header = [length, 1, id, code].map(i32::to_le_bytes).concat();
            if stream.write_all(&[header, before, answer].concat()).and_then(|()| stream.flush()).is_err() {
                return;
            }
        }
    }

    /// Takes a lock away; how many stay. None: it is not locked.
    fn unlock(&self) -> Option<i64> {
        self.unlocks.fetch_add(1, Ordering::SeqCst);
        self.carry_out()
    }

    /// Takes a lock away by an unlock that it has begun with.
    fn carry_out(&self) -> Option<i64> {
        let mut locks = self.locks.lock().expect("nobody panics with it");
        if *locks == 0 {
            self.refused_unlocks.fetch_add(1, Ordering::SeqCst);
            return None;
        }
        *locks -= 1;
        Some(*locks)
    }

    /// Begins with an unlock, and carries it out once something else is said.
    fn unlock_late(self: &Arc<Self>) {
        let script = Arc::clone(self);
        script.unlocks.fetch_add(1, Ordering::SeqCst);
        script.pending.lock().expect("nobody panics with it").push("fsyncUnlock");
        thread::spawn(move || {
            while *script.unlock.lock().expect("nobody panics with it") == Unlock::Late {
                tests::pause(20);
            }
            let mut pending = script.pending.lock().expect("nobody panics with it");
            script.carry_out();
            pending.retain(|one| *one != "fsyncUnlock");
        });
    }

    fn note(&self, what: &str) {
        self.sequence.lock().expect("nobody panics with it").push(what.to_owned());
    }

    /// What it says of itself.
    fn hello(&self, asked: &Document) -> Document {
        let me = format!("127.0.0.1:{}", self.port);
        let mut told = doc! {
            "ismaster": true, "isWritablePrimary": true, "helloOk": true, "minWireVersion": 0, "maxWireVersion": 21,
            "logicalSessionTimeoutMinutes": 30, "maxBsonObjectSize": 16 << 20,
            "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000, "ok": 1,
        };
        // The driver is not told, since it would ask without an end.
        let is_asked = asked.contains_key("isMaster") && asked.contains_key("$db");
        if is_asked && !asked.contains_key("client") && !self.is_nameless.load(Ordering::SeqCst) {
            let id = ObjectId::from_bytes([self.process.load(Ordering::SeqCst); 12]);
            told.insert("topologyVersion", doc! { "processId": id, "counter": 1_i64 });
        }
        match &*self.role.lock().expect("nobody panics with it") {
            Role::Set => told.extend(doc! {
                "setName": "rs0", "setVersion": 1, "hosts": [&me], "me": &me, "primary": &me,
            }),
            Role::Alone => {}
            Role::Router => told.extend(doc! { "msg": "isdbgrid", "maxWireVersion": 9 }),
            Role::Old(ports) => {
                let hosts: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
                let is_primary = ports[0] == self.port;
                told.extend(doc! {
                    "setName": "rs0", "setVersion": 1, "hosts": &hosts, "me": &me, "primary": &hosts[0],
                    "ismaster": is_primary, "isWritablePrimary": is_primary, "secondary": !is_primary,
                    "maxWireVersion": 9, "lastWrite": { "lastWriteDate": DateTime::from_millis(0) },
                });
            }
        }
        told
    }

    /// What it says of its collections.
    fn listed(&self, database: &str) -> Vec<Document> {
        let collection = |name: &str| doc! { "name": name, "type": "collection", "options": {} };
        let has_all = self.has_all.load(Ordering::Relaxed);
        let mut lists = self.lists.lock().expect("nobody panics with it");
        if database == "shop"
            && let Some(list) = lists.front().cloned()
        {
            if lists.len() > 1 {
                lists.pop_front();
            }
            let known = |(name, uuid): (&str, u8)| {
                let uuid = Binary { subtype: BinarySubtype::Uuid, bytes: vec![uuid; 16] };
                doc! { "name": name, "type": "collection", "options": {}, "info": { "uuid": uuid } }
            };
            return list.into_iter().map(known).collect();
        }
        match database {
            "shop" if has_all => vec![
                collection("a"),
                collection("b"),
                collection("system.buckets.t"),
                collection("system.views"),
                doc! { "name": "t", "type": "timeseries", "options": { "timeseries": { "timeField": "at" } } },
                doc! { "name": "v", "type": "view", "options": { "viewOn": "a", "pipeline": [] } },
            ],
            "shop" => vec![collection("a"), collection("b")],
            "admin" if has_all => ["system.users", "system.roles", "system.keys"].map(collection).to_vec(),
            _ => Vec::new(),
        }
    }

    /// What it answers; nothing: the connection goes.
    fn answer(self: &Arc<Self>, asked: &Document) -> Document {
        let (command, of) = asked.iter().next().expect("a command");
        let database = asked.get_str("$db").unwrap_or("admin");
        let cursor = |documents: Vec<Document>| {
            doc! { "cursor": { "id": 0_i64, "ns": format!("{database}.x"), "firstBatch": documents }, "ok": 1 }
        };
        match command.to_lowercase().as_str() {
            "hello" | "ismaster" => {
                let is_locked = || *self.locks.lock().expect("nobody panics with it") > 0;
                while asked.contains_key("client")
                    && self.lets_nobody_in.load(Ordering::SeqCst)
                    && is_locked()
                {
                    tests::pause(20);
                }
                self.hello(asked)
            }
            "fsync" if asked.get_bool("lock").unwrap_or_default() => {
                self.note("fsync");
                if let Some(code) = self.refused_changes.lock().expect("nobody panics with it").get("fsync") {
                    return doc! { "ok": 0, "code": code, "codeName": "Scripted", "errmsg": "as scripted" };
                }
                let becomes = || *self.lock.lock().expect("nobody panics with it");
                let mut by = 1;
                match becomes() {
                    Lock::Taken => {}
                    Lock::Shared => by = 2,
                    Lock::Unanswered => return Document::new(),
                    Lock::Late => {
                        self.pending.lock().expect("nobody panics with it").push("fsync");
                        while becomes() == Lock::Late {
                            tests::pause(20);
                        }
                        self.pending.lock().expect("nobody panics with it").retain(|one| *one != "fsync");
                    }
                }
                let mut locks = self.locks.lock().expect("nobody panics with it");
                *locks += by;
                doc! { "info": "now locked against writes", "lockCount": *locks, "ok": 1 }
            }
            "fsyncunlock" => {
                self.note("fsyncUnlock");
                let becomes = *self.unlock.lock().expect("nobody panics with it");
                match becomes {
                    Unlock::Dropped => return Document::new(),
                    Unlock::Late => {
                        self.unlock_late();
                        return Document::new();
                    }
                    Unlock::AtCount => {
                        self.begins_at_count.store(true, Ordering::SeqCst);
                        return Document::new();
                    }
                    Unlock::Unnumbered => {
                        self.unlocks.fetch_add(1, Ordering::SeqCst);
                        self.refused_unlocks.fetch_add(1, Ordering::SeqCst);
                        return doc! { "ok": 0, "errmsg": "fsyncUnlock called when not locked" };
                    }
                    Unlock::Answered | Unlock::Lost => {}
                }
                let Some(locks) = self.unlock() else {
                    return doc! { "ok": 0, "code": 20, "codeName": "IllegalOperation", "errmsg": "not locked" };
                };
                if becomes == Unlock::Lost {
                    return Document::new();
                }
                doc! { "info": "fsyncUnlock completed", "lockCount": locks, "ok": 1 }
            }
            "serverstatus" if self.is_silent.load(Ordering::SeqCst) => {
                doc! { "ok": 0, "code": 13, "codeName": "Unauthorized", "errmsg": "as scripted" }
            }
            "serverstatus" => {
                if self.begins_at_count.swap(false, Ordering::SeqCst) {
                    *self.unlock.lock().expect("nobody panics with it") = Unlock::Late;
                    self.unlock_late();
                }
                // Those that were refused are among all of them.
                let failed = self.refused_unlocks.load(Ordering::SeqCst) + 2;
                let total = self.unlocks.load(Ordering::SeqCst) + 2;
                let commands = doc! { "fsyncUnlock": { "total": total, "failed": failed } };
                doc! { "metrics": { "commands": commands }, "ok": 1 }
            }
            "connectionstatus" => {
                let rights = self.rights.lock().expect("nobody panics with it").clone();
                let users = rights.iter().map(|_| doc! { "user": "backup", "db": "admin" });
                let users = users.collect::<Vec<_>>();
                let privileges =
                    doc! { "resource": { "cluster": true }, "actions": rights.unwrap_or_default() };
                let info = doc! { "authenticatedUsers": users, "authenticatedUserPrivileges": [privileges] };
                doc! { "authInfo": info, "ok": 1 }
            }
            name @ "replsetgetstatus"
                if self.refused_changes.lock().expect("nobody panics with it").contains_key(name) =>
            {
                doc! { "ok": 0, "code": 13, "codeName": "Unauthorized", "errmsg": "as scripted" }
            }
            "replsetgetstatus" => {
                let written = DateTime::from_millis(self.written.load(Ordering::SeqCst));
                let members = (0..=i32::from(self.hidden.load(Ordering::SeqCst)))
                    .map(|n| doc! { "_id": n, "state": if n == 0 { 1 } else { 2 }, "optimeDate": written });
                doc! { "set": "rs0", "members": members.collect::<Vec<_>>(), "ok": 1 }
            }
            "currentop" if asked.contains_key("$or") => {
                let long = doc! {
                    "op": "update", "client": "10.0.0.1:1", "secs_running": 60_i64, "locks": { "Global": "w" },
                };
                let long = if self.is_held_up.load(Ordering::SeqCst) { vec![long] } else { Vec::new() };
                doc! { "inprog": long, "ok": 1 }
            }
            "currentop" => {
                if self.hanging.load(Ordering::SeqCst) > 0 {
                    self.hanging.fetch_sub(1, Ordering::SeqCst);
                    tests::pause(60_000);
                    return Document::new();
                }
                let pending = self.pending.lock().expect("nobody panics with it").clone();
                let one = |name: &&str| doc! { "appName": "neurashield-agent", "command": { *name: 1 } };
                let inprog: Vec<Document> = pending.iter().map(one).collect();
                let mut told = doc! { "inprog": inprog, "ok": 1 };
                // One that waits for its writers says already that it is locked.
                if *self.locks.lock().expect("nobody panics with it") > 0 || pending.contains(&"fsync") {
                    told.insert("fsyncLock", true);
                }
                told
            }
            // By SCRAM, as a server does that knows the user: it shows its salt, and then the proof is wrong.
            "saslstart" if self.wants_users.load(Ordering::Relaxed) => {
                let said = asked.get_binary_generic("payload").expect("a payload");
                let said = String::from_utf8_lossy(said);
                let nonce = said.split("r=").nth(1).expect("a nonce");
                let payload = format!("r={nonce}more,s=c2FsdHNhbHRzYWx0c2FsdHNhbHRzYWx0c2E=,i=4096");
                let payload = Binary { subtype: BinarySubtype::Generic, bytes: payload.into_bytes() };
                doc! { "conversationId": 1, "done": false, "payload": payload, "ok": 1 }
            }
            "saslcontinue" if self.wants_users.load(Ordering::Relaxed) => {
                self.note("saslContinue");
                doc! { "ok": 0, "code": 18, "codeName": "AuthenticationFailed", "errmsg": "Authentication failed." }
            }
            // By a certificate: whose it is, TLS has seen.
            "authenticate" => {
                let mechanism = asked.get_str("mechanism").expect("a word");
                self.note(&format!("{mechanism} of {database}"));
                doc! { "dbname": "$external", "user": "CN=backup", "ok": 1 }
            }
            "buildinfo" => doc! { "version": "7.0.0", "ok": 1 },
            name @ ("listdatabases" | "listcollections")
                if self.refused_changes.lock().expect("nobody panics with it").contains_key(name) =>
            {
                doc! { "ok": 0, "code": 13, "codeName": "Unauthorized", "errmsg": "as scripted" }
            }
            "listdatabases" => doc! { "databases": [{ "name": "admin" }, { "name": "shop" }], "ok": 1 },
            "listcollections" => cursor(self.listed(database)),
            "listindexes" => cursor(vec![doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" }]),
            // A journal is kept, as far as it is asked for: its head.
            "find" if database == JOURNALS && asked.contains_key("filter") => {
                cursor(self.head.lock().expect("nobody panics with it").clone().into_iter().collect())
            }
            "find" => {
                self.finds.lock().expect("nobody panics with it").push(asked.clone());
                if database == "shop" {
                    self.note(of.as_str().unwrap_or_default());
                    while self.holds_finds.load(Ordering::SeqCst) {
                        tests::pause(20);
                    }
                }
                let is_fixed = asked
                    .get_document("readConcern")
                    .is_ok_and(|of| of.get_str("level").is_ok_and(|level| level == "snapshot"));
                let refused = self.refused.lock().expect("nobody panics with it");
                match refused.get(of.as_str().unwrap_or_default()) {
                    Some(code) if is_fixed || *code != TOO_OLD => {
                        return doc! { "ok": 0, "code": code, "codeName": "Scripted", "errmsg": "as scripted" };
                    }
                    _ => {}
                }
                let mut answer = cursor(vec![doc! { "_id": 1, "of": of }]);
                if is_fixed {
                    let instant = Timestamp { time: 7, increment: 3 };
                    answer.get_document_mut("cursor").expect("a cursor").insert("atClusterTime", instant);
                }
                answer
            }
            "ping" => {
                self.pings.fetch_add(1, Ordering::SeqCst);
                tests::pause(self.ping_ms.load(Ordering::SeqCst));
                doc! { "ok": 1 }
            }
            "endsessions" | "killcursors" => doc! { "ok": 1 },
            name @ ("create" | "insert" | "update" | "createindexes" | "dropindexes" | "renamecollection"
            | "drop") => {
                self.changes.lock().expect("nobody panics with it").push(asked.clone());
                let documents =
                    asked.get_array("documents").into_iter().flatten().filter_map(Bson::as_document);
                let head = documents.filter(|_| database == JOURNALS).find(|one| one.contains_key("phase"));
                if let Some(head) = head {
                    *self.head.lock().expect("nobody panics with it") = Some(head.clone());
                }
                let is_trial = of.as_str().is_some_and(|of| of.contains(".trial."));
                let refused = self.refused_changes.lock().expect("nobody panics with it");
                match refused.get(name) {
                    Some(code) if !is_trial => {
                        doc! { "ok": 0, "code": code, "codeName": "Scripted", "errmsg": "as scripted" }
                    }
                    _ => {
                        doc! { "ok": 1, "n": asked.get_array("documents").map_or(1, |all| all.len() as i32) }
                    }
                }
            }
            other => {
                doc! { "ok": 0, "code": 59, "codeName": "CommandNotFound", "errmsg": format!("no {other}") }
            }
        }
    }
}
