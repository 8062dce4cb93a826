//! How it is locked and unlocked, and what it says of that.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use mongodb::bson::{Document, doc};

use super::{Lock, Script, Unlock};

impl Script {
    /// Takes a lock away; how many stay. None: it is not locked.
    pub(super) fn unlock(&self) -> Option<i64> {
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

    /// To `fsync` with `lock`.
    pub(super) fn answer_lock(&self) -> Document {
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

    /// To `fsyncUnlock`.
    pub(super) fn answer_unlock(self: &Arc<Self>) -> Document {
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

    /// To `serverStatus`: how many unlocks it has begun with.
    pub(super) fn answer_count(self: &Arc<Self>) -> Document {
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

    /// To `currentOp`: what it works on, and whether it is locked.
    pub(super) fn answer_looks(&self) -> Document {
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
}
