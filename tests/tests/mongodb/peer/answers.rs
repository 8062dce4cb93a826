//! What it answers to each command.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, DateTime, Document, Timestamp, doc, oid::ObjectId};

use super::{JOURNALS, Role, Script, TOO_OLD};

impl Script {
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
    pub(super) fn answer(self: &Arc<Self>, asked: &Document) -> Document {
        while self.is_frozen.load(Ordering::SeqCst) {
            tests::pause(20);
        }
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
            "fsync" if asked.get_bool("lock").unwrap_or_default() => self.answer_lock(),
            "fsyncunlock" => self.answer_unlock(),
            "serverstatus" if self.is_silent.load(Ordering::SeqCst) => {
                doc! { "ok": 0, "code": 13, "codeName": "Unauthorized", "errmsg": "as scripted" }
            }
            "serverstatus" => self.answer_count(),
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
            "currentop" => self.answer_looks(),
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
