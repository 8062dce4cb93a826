//! A repository in memory, for tests and simulations: the promises of a store without a disk.
//!
//! Must stay true: it is no more forgiving than the local store. A fake that allows what the disk refuses
//! hides faults.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::{Listed, ListedKind, ObjectPath, Store, StoreError, Upload};

#[derive(Debug, Clone)]
struct Object {
    bytes: Arc<[u8]>,
    written: Timestamp,
}

#[derive(Debug, Default)]
struct Objects {
    by_name: BTreeMap<String, Object>,
    time: Option<Timestamp>,
    capacity: Option<u64>,
    /// All that lists show, if they lag.
    shown: Option<BTreeSet<String>>,
}

/// Objects in memory. Clones are handles of the same store, so that a test can "restart" what uses it.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    objects: Arc<Mutex<Objects>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the storage's own clock, which stands still from then on; until then it is the machine's.
    pub fn set_time(&self, time: Timestamp) {
        self.lock().time = Some(time);
    }

    /// From now on there is room for so many bytes of contents, and no more.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = Some(bytes);
    }

    /// From now on no list shows what is made, until it is set back to `false`.
    pub fn set_lag(&self, lists_lag: bool) {
        let mut objects = self.lock();
        objects.shown = lists_lag.then(|| objects.by_name.keys().cloned().collect());
    }

    /// Bytes of all contents.
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self, path: &ObjectPath) -> Result<Object, StoreError> {
        let found = self.lock().by_name.get(path.as_str()).cloned();
        found.ok_or_else(|| StoreError::NotFound { path: path.clone() })
    }
}

impl Objects {
    fn used(&self) -> u64 {
        self.by_name.values().map(|object| object.bytes.len() as u64).sum()
    }

    /// Writes beside what has the name until then, as a disk does.
    fn write(&mut self, path: &ObjectPath, bytes: &[u8]) -> Result<(), StoreError> {
        if self.capacity.is_some_and(|capacity| self.used() + bytes.len() as u64 > capacity) {
            return Err(StoreError::Full { path: path.clone(), source: io::ErrorKind::StorageFull.into() });
        }
        #[expect(clippy::disallowed_methods, reason = "this stands for the clock of a storage")]
        let written = self.time.unwrap_or_else(Timestamp::now);
        self.by_name.insert(path.as_str().to_owned(), Object { bytes: bytes.into(), written });
        Ok(())
    }

    fn move_folder(&mut self, names: Vec<String>, from: &ObjectPath, to: &ObjectPath) {
        for name in names {
            let object = self.by_name.remove(&name).expect("the name was just listed under the same lock");
            self.by_name.insert(format!("{to}{}", &name[from.as_str().len()..]), object);
        }
    }
}

fn failed(verb: &'static str, path: &ObjectPath, kind: io::ErrorKind, reason: String) -> StoreError {
    StoreError::Failed { verb, path: path.clone(), source: io::Error::new(kind, reason) }
}

/// The names in the folder `folder`, whole.
fn names_in(objects: &Objects, folder: &ObjectPath) -> Vec<String> {
    let prefix = format!("{folder}/");
    objects
        .by_name
        .range(prefix.clone()..)
        .map(|(name, _)| name)
        .take_while(|name| name.starts_with(&prefix))
        .cloned()
        .collect()
}

fn is_taken(objects: &Objects, path: &ObjectPath) -> bool {
    objects.by_name.contains_key(path.as_str()) || !names_in(objects, path).is_empty()
}

/// Refuses a path that leads through an object as if that were a folder.
fn check_folders_above(objects: &Objects, verb: &'static str, path: &ObjectPath) -> Result<(), StoreError> {
    let mut above = path.parent();
    while let Some(folder) = above {
        if objects.by_name.contains_key(folder.as_str()) {
            return Err(failed(verb, path, io::ErrorKind::NotADirectory, format!("{folder} is no folder")));
        }
        above = folder.parent();
    }
    Ok(())
}

impl Store for MemoryStore {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn create(&self, path: &ObjectPath, bytes: &[u8]) -> Result<(), StoreError> {
        let mut objects = self.lock();
        check_folders_above(&objects, "write", path)?;
        if is_taken(&objects, path) {
            return Err(StoreError::AlreadyExists { path: path.clone() });
        }
        objects.write(path, bytes)
    }

    fn replace(&self, path: &ObjectPath, bytes: &[u8]) -> Result<(), StoreError> {
        let mut objects = self.lock();
        check_folders_above(&objects, "write", path)?;
        if !names_in(&objects, path).is_empty() {
            return Err(failed("write", path, io::ErrorKind::IsADirectory, "it is a folder".to_owned()));
        }
        objects.write(path, bytes)
    }

    fn upload(&self) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(MemoryUpload { store: self.clone(), bytes: Vec::new() }))
    }

    fn read(&self, path: &ObjectPath, limit: u64) -> Result<Vec<u8>, StoreError> {
        let object = self.object(path)?;
        let object = object.bytes;
        if object.len() as u64 > limit {
            let reason = format!("it has more than {limit} bytes");
            return Err(failed("read", path, io::ErrorKind::FileTooLarge, reason));
        }
        Ok(object.to_vec())
    }

    fn read_range(&self, path: &ObjectPath, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        let object = self.object(path)?.bytes;
        let range = usize::try_from(offset).ok().zip(usize::try_from(length).ok());
        let bytes = range.and_then(|(from, length)| object.get(from..from.checked_add(length)?));
        bytes.map(<[u8]>::to_vec).ok_or_else(|| {
            let reason =
                format!("{length} bytes from {offset} are wanted, but it has only {} bytes", object.len());
            failed("read", path, io::ErrorKind::UnexpectedEof, reason)
        })
    }

    fn size(&self, path: &ObjectPath) -> Result<u64, StoreError> {
        Ok(self.object(path)?.bytes.len() as u64)
    }

    fn modified(&self, path: &ObjectPath) -> Result<Timestamp, StoreError> {
        Ok(self.object(path)?.written)
    }

    fn list(&self, folder: Option<&ObjectPath>) -> Result<Vec<Listed>, StoreError> {
        let objects = self.lock();
        let prefix = folder.map(|folder| format!("{folder}/")).unwrap_or_default();
        if let Some(folder) = folder
            && objects.by_name.contains_key(folder.as_str())
        {
            return Err(failed("list", folder, io::ErrorKind::NotADirectory, "it is no folder".to_owned()));
        }
        let mut listed = BTreeMap::new();
        for (name, object) in objects.by_name.range(prefix.clone()..) {
            let Some(rest) = name.strip_prefix(&prefix) else { break };
            if objects.shown.as_ref().is_some_and(|shown| !shown.contains(name)) {
                continue;
            }
            match rest.split_once('/') {
                None => listed.insert(rest, ListedKind::Object { size: object.bytes.len() as u64 }),
                Some((folder, _)) => listed.insert(folder, ListedKind::Folder),
            };
        }
        Ok(listed.into_iter().map(|(name, kind)| Listed { name: name.to_owned(), kind }).collect())
    }

    fn stage(&self, from: &ObjectPath, _: &ObjectPath, _: &str, _: &str) -> Result<ObjectPath, StoreError> {
        self.delete_folder(from)?;
        Ok(from.clone())
    }

    fn lists_may_lag(&self) -> bool {
        self.lock().shown.is_some()
    }

    fn publish(&self, from: &ObjectPath, to: &ObjectPath, last: &str) -> Result<(), StoreError> {
        let mut objects = self.lock();
        let names = names_in(&objects, from);
        let last = from.join(last);
        match (names.is_empty(), is_taken(&objects, to)) {
            (false, _) if !objects.by_name.contains_key(last.as_str()) => {
                return Err(StoreError::NotFound { path: last });
            }
            (_, true) => return Err(StoreError::AlreadyExists { path: to.clone() }),
            (true, false) => return Err(StoreError::NotFound { path: from.clone() }),
            (false, false) => {}
        }
        check_folders_above(&objects, "publish", to)?;
        objects.move_folder(names, from, to);
        Ok(())
    }

    fn withdraw(&self, from: &ObjectPath, to: &ObjectPath, last: &str) -> Result<(), StoreError> {
        let mut objects = self.lock();
        let names = names_in(&objects, from);
        let last = from.join(last);
        if names.is_empty() {
            return Ok(());
        }
        if !objects.by_name.contains_key(last.as_str()) {
            return Err(StoreError::NotFound { path: last });
        }
        check_folders_above(&objects, "withdraw", to)?;
        if is_taken(&objects, to) {
            return Err(StoreError::AlreadyExists { path: to.clone() });
        }
        objects.move_folder(names, from, to);
        Ok(())
    }

    fn rename(&self, from: &ObjectPath, to: &ObjectPath) -> Result<(), StoreError> {
        let mut objects = self.lock();
        if !objects.by_name.contains_key(from.as_str()) {
            return Err(StoreError::NotFound { path: from.clone() });
        }
        check_folders_above(&objects, "move", to)?;
        if is_taken(&objects, to) {
            return Err(StoreError::AlreadyExists { path: to.clone() });
        }
        let object = objects.by_name.remove(from.as_str()).expect("it was just found under the same lock");
        objects.by_name.insert(to.as_str().to_owned(), object);
        Ok(())
    }

    fn delete(&self, path: &ObjectPath) -> Result<(), StoreError> {
        let mut objects = self.lock();
        if objects.by_name.remove(path.as_str()).is_none() && !names_in(&objects, path).is_empty() {
            return Err(failed("delete", path, io::ErrorKind::IsADirectory, "it is a folder".to_owned()));
        }
        Ok(())
    }

    fn delete_folder(&self, path: &ObjectPath) -> Result<(), StoreError> {
        let mut objects = self.lock();
        if objects.by_name.contains_key(path.as_str()) {
            return Err(failed("delete", path, io::ErrorKind::NotADirectory, "it is no folder".to_owned()));
        }
        for name in names_in(&objects, path) {
            objects.by_name.remove(&name);
        }
        Ok(())
    }

    fn free_space(&self) -> Result<Option<u64>, StoreError> {
        let objects = self.lock();
        Ok(objects.capacity.map(|capacity| capacity.saturating_sub(objects.used())))
    }
}

struct MemoryUpload {
    store: MemoryStore,
    bytes: Vec<u8>,
}

impl Upload for MemoryUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>, path: &ObjectPath) -> Result<(), StoreError> {
        self.store.create(path, &self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{conformance, probe};

    #[test]
    fn keeps_what_every_store_promises() {
        conformance::check(|| Box::new(MemoryStore::new()));
    }

    #[test]
    fn passes_the_probe_and_is_left_as_it_was() {
        let store = MemoryStore::new();
        probe::probe(&store).unwrap();
        assert!(store.lock().by_name.is_empty());
    }

    #[test]
    fn a_full_store_takes_nothing_until_something_goes() {
        let store = MemoryStore::new();
        let (one, two) = (ObjectPath::new("one"), ObjectPath::new("two"));
        store.set_capacity(5);
        store.create(&one, b"1234").unwrap();
        assert!(matches!(store.create(&two, b"12"), Err(StoreError::Full { .. })));
        assert!(matches!(store.replace(&one, b"12"), Err(StoreError::Full { .. })));
        assert_eq!(store.free_space().unwrap(), Some(1));
        store.delete(&one).unwrap();
        store.create(&two, b"12").unwrap();
    }

    #[test]
    fn an_object_is_no_folder() {
        let store = MemoryStore::new();
        store.create(&ObjectPath::new("object"), b"x").unwrap();
        assert!(matches!(
            store.create(&ObjectPath::new("object/below"), b"x"),
            Err(StoreError::Failed { .. })
        ));
        assert!(store.delete_folder(&ObjectPath::new("object")).is_err());
        assert!(store.list(Some(&ObjectPath::new("object"))).is_err());
    }
}
