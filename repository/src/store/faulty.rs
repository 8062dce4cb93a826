//! A store that fails on command, for tests: before the work, after it, in the middle of it.
//!
//! ```
//! use repository::store::{ObjectPath, Store};
//! use repository::store::faulty::{Effect, Fault, FaultyStore, Operation};
//! use repository::store::memory::MemoryStore;
//!
//! let faulty = FaultyStore::new(MemoryStore::new());
//! faulty.fail(Fault::new(Effect::AnswerLost).on(Operation::Create).path("lease/").nth(1));
//! faulty.create(&ObjectPath::new("repository/lease/1"), b"x").unwrap_err();
//! assert_eq!(faulty.read(&ObjectPath::new("repository/lease/1"), 9).unwrap(), b"x");
//! assert_eq!(faulty.unfired(), 0);
//! ```
//!
//! Must stay true: a fault is never silently inapplicable (a torn read does not count as a match), and a
//! test can ask whether every fault it ordered happened.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::{Listed, ObjectPath, Store, StoreError, Upload};

/// What was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the method of that name")]
pub enum Operation {
    Create,
    Replace,
    /// The start of an upload; its path is empty.
    Upload,
    /// [`Upload::write`]; its path is empty.
    Write,
    /// [`Upload::finish`].
    Finish,
    Read,
    ReadRange,
    Size,
    Modified,
    List,
    Stage,
    Publish,
    Withdraw,
    Rename,
    Delete,
    DeleteFolder,
    FreeSpace,
}

/// One call that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What.
    pub operation: Operation,
    /// On which path; `from -> to` for `stage`, `publish`, `withdraw` and `rename`, empty where there is none (the
    /// root).
    pub path: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.operation, self.path)
    }
}

/// What a fault does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing is done; an error is the answer.
    Refused,
    /// Nothing is done; the answer is that no space is left.
    Full,
    /// The medium does not give the bytes. For what reads.
    Unreadable,
    /// All is done; an error is the answer.
    AnswerLost,
    /// Half of the bytes are there under the name; an error is the answer. For what writes.
    Torn,
    /// All is well but for this bit (counted from the first, modulo the length). For what reads.
    FlippedBit {
        /// Which bit.
        bit: u64,
    },
}

impl Effect {
    fn fits(self, operation: Operation) -> bool {
        use Operation::{Create, Finish, List, Modified, Read, ReadRange, Replace, Size, Write};
        match self {
            Effect::Refused | Effect::AnswerLost => true,
            Effect::Full => !matches!(operation, Read | ReadRange | Size | Modified | List),
            Effect::Torn => matches!(operation, Create | Replace | Write | Finish),
            Effect::FlippedBit { .. } | Effect::Unreadable => matches!(operation, Read | ReadRange),
        }
    }
}

/// One ordered failure: by default of the first call of any operation that `effect` fits.
#[derive(Debug, Clone)]
pub struct Fault {
    effect: Effect,
    operation: Option<Operation>,
    path: String,
    nth: u64,
    lasting: bool,
}

impl Fault {
    /// A fault with this effect.
    pub fn new(effect: Effect) -> Self {
        Self { effect, operation: None, path: String::new(), nth: 1, lasting: false }
    }

    /// The process dies at its `nth` call (from 1): that one and all later ones do nothing.
    pub fn crash_at(nth: u64) -> Self {
        Self::new(Effect::Refused).nth(nth).and_all_later()
    }

    /// Only calls of this operation.
    pub fn on(self, operation: Operation) -> Self {
        assert!(self.effect.fits(operation), "{:?} does not fit {operation:?}", self.effect);
        Self { operation: Some(operation), ..self }
    }

    /// Only calls whose path contains `part`.
    pub fn path(self, part: impl Into<String>) -> Self {
        Self { path: part.into(), ..self }
    }

    /// The `nth` matching call from now, counted from 1.
    pub fn nth(self, nth: u64) -> Self {
        assert!(nth > 0, "calls are counted from 1");
        Self { nth, ..self }
    }

    /// That call and every matching one after it.
    pub fn and_all_later(self) -> Self {
        Self { lasting: true, ..self }
    }

    fn matches(&self, call: &Call) -> bool {
        self.operation.is_none_or(|operation| operation == call.operation)
            && self.effect.fits(call.operation)
            && call.path.contains(&self.path)
    }
}

#[derive(Debug, Default)]
struct Script {
    faults: Vec<(Fault, u64)>,
    calls: Vec<Call>,
}

/// Any store, with faults on command and a record of what was called. Clones share both.
#[derive(Debug, Clone)]
pub struct FaultyStore<S> {
    inner: S,
    script: Arc<Mutex<Script>>,
}

impl<S> FaultyStore<S> {
    /// The store `inner`, without faults so far.
    pub fn new(inner: S) -> Self {
        Self { inner, script: Arc::default() }
    }

    /// Orders a failure.
    pub fn fail(&self, fault: Fault) {
        self.script().faults.push((fault, 0));
    }

    /// Takes back every order: the storage is well again, or the process has been started anew.
    pub fn heal(&self) {
        self.script().faults.clear();
    }

    /// How many ordered faults have not happened yet. A test that ends with some has tested nothing.
    pub fn unfired(&self) -> usize {
        self.script().faults.iter().filter(|(fault, seen)| *seen < fault.nth).count()
    }

    /// What was called since the last time this was asked, in order, failed calls included.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.script().calls)
    }

    /// The store behind, for looking past the faults.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        lock(&self.script)
    }

    fn run<T>(
        &self,
        operation: Operation,
        path: &ObjectPath,
        act: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        run(&self.script, operation, path.as_str().to_owned(), path, act)
    }

    fn write_whole(
        &self,
        operation: Operation,
        path: &ObjectPath,
        bytes: &[u8],
        write: impl Fn(&[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match admit(&self.script, operation, path.as_str().to_owned()) {
            Some(Effect::Torn) => {
                write(&bytes[..bytes.len() / 2])?;
                Err(injected(path))
            }
            effect => with_effect(effect, path, || write(bytes)),
        }
    }

    fn read_bytes(
        &self,
        operation: Operation,
        path: &ObjectPath,
        read: impl FnOnce() -> Result<Vec<u8>, StoreError>,
    ) -> Result<Vec<u8>, StoreError> {
        match admit(&self.script, operation, path.as_str().to_owned()) {
            Some(Effect::FlippedBit { bit }) => {
                let mut bytes = read()?;
                assert!(!bytes.is_empty(), "{path} has no bit to flip");
                let bit = bit % (bytes.len() as u64 * 8);
                bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
                Ok(bytes)
            }
            effect => with_effect(effect, path, read),
        }
    }
}

fn lock(script: &Mutex<Script>) -> MutexGuard<'_, Script> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records the call and says which fault, if any, is due: the first ordered of those that are.
fn admit(script: &Mutex<Script>, operation: Operation, path: String) -> Option<Effect> {
    let call = Call { operation, path };
    let mut script = lock(script);
    let mut due = None;
    for (fault, seen) in script.faults.iter_mut().filter(|(fault, _)| fault.matches(&call)) {
        *seen += 1;
        if *seen == fault.nth || (fault.lasting && *seen > fault.nth) {
            due = due.or(Some(fault.effect));
        }
    }
    script.calls.push(call);
    due
}

fn run<T>(
    script: &Mutex<Script>,
    operation: Operation,
    called: String,
    path: &ObjectPath,
    act: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    with_effect(admit(script, operation, called), path, act)
}

fn with_effect<T>(
    effect: Option<Effect>,
    path: &ObjectPath,
    act: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    match effect {
        None => act(),
        Some(Effect::Refused) => Err(injected(path)),
        Some(Effect::Full) => {
            Err(StoreError::Full { path: path.clone(), source: io::ErrorKind::StorageFull.into() })
        }
        Some(Effect::Unreadable) => {
            let source = io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error());
            Err(StoreError::Failed { verb: "read", path: path.clone(), source })
        }
        Some(Effect::AnswerLost) => {
            act()?;
            Err(injected(path))
        }
        Some(Effect::Torn | Effect::FlippedBit { .. }) => {
            unreachable!("`fits` admits these only where they are handled before")
        }
    }
}

fn injected(path: &ObjectPath) -> StoreError {
    StoreError::Failed { verb: "use", path: path.clone(), source: io::Error::other("a fault was ordered") }
}

/// What stands for a path in errors where there is none.
fn no_path() -> ObjectPath {
    ObjectPath::new("something")
}

impl<S: Store> Store for FaultyStore<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn create(&self, path: &ObjectPath, bytes: &[u8]) -> Result<(), StoreError> {
        self.write_whole(Operation::Create, path, bytes, |bytes| self.inner.create(path, bytes))
    }

    fn replace(&self, path: &ObjectPath, bytes: &[u8]) -> Result<(), StoreError> {
        self.write_whole(Operation::Replace, path, bytes, |bytes| self.inner.replace(path, bytes))
    }

    fn upload(&self) -> Result<Box<dyn Upload>, StoreError> {
        let inner = run(&self.script, Operation::Upload, String::new(), &no_path(), || self.inner.upload())?;
        Ok(Box::new(FaultyUpload {
            inner,
            script: Arc::clone(&self.script),
            held: Vec::new(),
            failed: false,
        }))
    }

    fn read(&self, path: &ObjectPath, limit: u64) -> Result<Vec<u8>, StoreError> {
        self.read_bytes(Operation::Read, path, || self.inner.read(path, limit))
    }

    fn read_range(&self, path: &ObjectPath, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        self.read_bytes(Operation::ReadRange, path, || self.inner.read_range(path, offset, length))
    }

    fn size(&self, path: &ObjectPath) -> Result<u64, StoreError> {
        self.run(Operation::Size, path, || self.inner.size(path))
    }

    fn modified(&self, path: &ObjectPath) -> Result<Timestamp, StoreError> {
        self.run(Operation::Modified, path, || self.inner.modified(path))
    }

    fn list(&self, folder: Option<&ObjectPath>) -> Result<Vec<Listed>, StoreError> {
        let called = folder.map(ToString::to_string).unwrap_or_default();
        let path = folder.cloned().unwrap_or_else(no_path);
        run(&self.script, Operation::List, called, &path, || self.inner.list(folder))
    }

    fn stage(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        last: &str,
        owner: &str,
    ) -> Result<ObjectPath, StoreError> {
        let called = format!("{from} -> {to}");
        run(&self.script, Operation::Stage, called, to, || self.inner.stage(from, to, last, owner))
    }

    fn publish(&self, from: &ObjectPath, to: &ObjectPath, last: &str) -> Result<(), StoreError> {
        let called = format!("{from} -> {to}");
        run(&self.script, Operation::Publish, called, to, || self.inner.publish(from, to, last))
    }

    fn withdraw(&self, from: &ObjectPath, to: &ObjectPath, last: &str) -> Result<(), StoreError> {
        let called = format!("{from} -> {to}");
        run(&self.script, Operation::Withdraw, called, from, || self.inner.withdraw(from, to, last))
    }

    fn rename(&self, from: &ObjectPath, to: &ObjectPath) -> Result<(), StoreError> {
        let called = format!("{from} -> {to}");
        run(&self.script, Operation::Rename, called, to, || self.inner.rename(from, to))
    }

    fn delete(&self, path: &ObjectPath) -> Result<(), StoreError> {
        self.run(Operation::Delete, path, || self.inner.delete(path))
    }

    fn delete_folder(&self, path: &ObjectPath) -> Result<(), StoreError> {
        self.run(Operation::DeleteFolder, path, || self.inner.delete_folder(path))
    }

    fn free_space(&self) -> Result<Option<u64>, StoreError> {
        run(&self.script, Operation::FreeSpace, String::new(), &no_path(), || self.inner.free_space())
    }

    fn lists_may_lag(&self) -> bool {
        self.inner.lists_may_lag()
    }

    fn settling(&self) -> Result<Duration, StoreError> {
        self.inner.settling()
    }

    fn warnings(&self) -> Vec<String> {
        self.inner.warnings()
    }
}

struct FaultyUpload {
    inner: Box<dyn Upload>,
    script: Arc<Mutex<Script>>,
    /// The last bytes written, held back so that a torn `finish` has something to lose.
    held: Vec<u8>,
    failed: bool,
}

impl FaultyUpload {
    fn pass_on(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let held = std::mem::replace(&mut self.held, bytes.to_vec());
        self.inner.write(&held)
    }
}

impl Upload for FaultyUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        assert!(!self.failed, "an upload was written to after a failed write");
        let script = Arc::clone(&self.script);
        let answer = match admit(&script, Operation::Write, String::new()) {
            Some(Effect::Torn) => self.pass_on(&bytes[..bytes.len() / 2]).and(Err(injected(&no_path()))),
            effect => with_effect(effect, &no_path(), || self.pass_on(bytes)),
        };
        self.failed = answer.is_err();
        answer
    }

    fn finish(mut self: Box<Self>, path: &ObjectPath) -> Result<(), StoreError> {
        assert!(!self.failed, "an upload was finished after a failed write");
        match admit(&self.script, Operation::Finish, path.as_str().to_owned()) {
            Some(Effect::Torn) => {
                self.inner.write(&self.held[..self.held.len() / 2])?;
                self.inner.finish(path)?;
                Err(injected(path))
            }
            effect => with_effect(effect, path, || {
                self.inner.write(&self.held)?;
                self.inner.finish(path)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;
    use crate::store::memory::MemoryStore;

    fn path(text: &str) -> ObjectPath {
        ObjectPath::new(text)
    }

    fn faulty() -> FaultyStore<MemoryStore> {
        FaultyStore::new(MemoryStore::new())
    }

    #[test]
    fn without_faults_it_keeps_what_every_store_promises() {
        conformance::check(|| Box::new(faulty()));
    }

    #[test]
    fn only_the_nth_matching_call_fails() {
        let store = faulty();
        store.fail(Fault::new(Effect::Refused).on(Operation::Create).path("packs/").nth(2));
        for (name, works) in [("packs/a", true), ("index/a", true), ("packs/b", false), ("packs/c", true)] {
            assert_eq!(store.unfired(), usize::from(name != "packs/c"), "{name}");
            assert_eq!(store.create(&path(name), b"x").is_ok(), works, "{name}");
        }
        assert!(store.read(&path("packs/b"), 9).unwrap_err().is_not_found());
    }

    #[test]
    fn a_lost_answer_means_done_and_a_torn_write_means_half() {
        let store = faulty();
        store.fail(Fault::new(Effect::AnswerLost).on(Operation::Create));
        store.fail(Fault::new(Effect::Torn).on(Operation::Create).nth(2));
        store.create(&path("lost"), b"whole").unwrap_err();
        store.create(&path("torn"), b"whole!").unwrap_err();
        assert_eq!(store.read(&path("lost"), 9).unwrap(), b"whole");
        assert_eq!(store.read(&path("torn"), 9).unwrap(), b"who");
    }

    #[test]
    fn a_torn_finish_loses_half_of_the_last_write() {
        let store = faulty();
        store.fail(Fault::new(Effect::Torn).on(Operation::Finish));
        let mut upload = store.upload().unwrap();
        upload.write(b"first ").unwrap();
        upload.write(b"second").unwrap();
        upload.finish(&path("object")).unwrap_err();
        assert_eq!(store.read(&path("object"), 99).unwrap(), b"first sec");
    }

    #[test]
    fn a_full_store_says_so_and_takes_nothing() {
        let store = faulty();
        store.fail(Fault::new(Effect::Full).and_all_later());
        for _ in 0..2 {
            assert!(matches!(store.create(&path("object"), b"x"), Err(StoreError::Full { .. })));
        }
        assert_eq!(store.list(None).unwrap(), []);
        store.heal();
        store.create(&path("object"), b"x").unwrap();
    }

    #[test]
    fn a_flipped_bit_changes_one_read_only() {
        let store = faulty();
        store.create(&path("object"), &[0, 0]).unwrap();
        store.fail(Fault::new(Effect::FlippedBit { bit: 9 }));
        assert_eq!(store.read(&path("object"), 9).unwrap(), [0, 2]);
        assert_eq!(store.read(&path("object"), 9).unwrap(), [0, 0]);
    }

    #[test]
    fn after_a_crash_nothing_is_done_and_calls_are_recorded() {
        let store = faulty();
        store.fail(Fault::crash_at(2));
        store.create(&path("a"), b"x").unwrap();
        store.create(&path("b"), b"x").unwrap_err();
        store.rename(&path("a"), &path("c")).unwrap_err();
        store.list(None).unwrap_err();
        let calls: Vec<String> = store.take_calls().iter().map(ToString::to_string).collect();
        assert_eq!(calls, ["Create a", "Create b", "Rename a -> c", "List "]);
        assert_eq!(store.inner().size(&path("a")).unwrap(), 1);
        assert!(store.inner().size(&path("b")).unwrap_err().is_not_found());
    }
}
