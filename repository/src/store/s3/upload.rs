//! An object whose name is known only at its end: a pack, named by its hash.
//!
//! Up to 24 MiB are held in memory and put in one request under their name: so nearly every pack goes, at
//! the price of one request. What grows beyond goes in parts to a name of its own in the staging folder
//! and is copied by the server to its place, since an upload in parts has to be begun under a name. A
//! note beside it says how to end it: parts of an upload that was never ended cost money and are in no
//! list.

use jiff::{SignedDuration, Timestamp};
use object_store::multipart::{MultipartStore, PartId};
use object_store::{Error, ObjectStoreExt, PutPayload, PutPayloadMut};
use serde::{Deserialize, Serialize};

use super::failure::{Outcome, failure, outcome};
use super::put::fresh_mark;
use super::runtime::{leave, wait};
use super::{S3Store, below};
use crate::store::{ObjectPath, Store, StoreError, Upload};

/// So much is held: a pack of the usual size with room to spare. All parts but the last have this size, as
/// some servers want it.
const HELD: usize = 24 << 20;
/// Memory is taken in blocks of this size.
const BLOCK: usize = 1 << 20;

/// An unfinished upload whose note is older than this belongs to nobody.
pub(super) const LEFT: SignedDuration = SignedDuration::from_hours(24);

fn uploads() -> ObjectPath {
    ObjectPath::new("repository/staging/uploads")
}

/// An upload.
pub(super) struct S3Upload {
    store: S3Store,
    held: PutPayloadMut,
    parts: Option<InParts>,
}

/// One that has outgrown memory.
struct InParts {
    /// Where it is until it has its name.
    staged: ObjectPath,
    id: String,
    parts: Vec<PartId>,
    length: u64,
}

/// What has to be known to end an upload in parts.
#[derive(Serialize, Deserialize)]
struct Note {
    upload: String,
}

fn note_of(staged: &ObjectPath) -> ObjectPath {
    ObjectPath::new(format!("{staged}.json"))
}

fn nothing() -> PutPayloadMut {
    PutPayloadMut::new().with_block_size(BLOCK)
}

impl S3Upload {
    pub(super) fn new(store: S3Store) -> Self {
        Self { store, held: nothing(), parts: None }
    }

    fn take_held(&mut self) -> PutPayload {
        std::mem::replace(&mut self.held, nothing()).freeze()
    }

    fn begin_parts(&self) -> Result<InParts, StoreError> {
        let staged = uploads().join(fresh_mark());
        let key = self.store.key(&staged);
        let begun = self.store.repeated(|| {
            let (client, key) = (self.store.clients.small.clone(), key.clone());
            async move { client.create_multipart(&key).await }
        });
        let id = begun.map_err(|error| failure("write", &staged, &error))?;
        let note = serde_json::to_vec(&Note { upload: id.clone() }).expect("a note has a JSON form");
        self.store.replace(&note_of(&staged), &note)?;
        Ok(InParts { staged, id, parts: Vec::new(), length: 0 })
    }

    fn put_part(&mut self) -> Result<(), StoreError> {
        let payload = self.take_held();
        if self.parts.is_none() {
            self.parts = Some(self.begin_parts()?);
        }
        let parts = self.parts.as_mut().expect("begun just now, or before");
        let (client, key) = (self.store.clients.large.clone(), self.store.key(&parts.staged));
        let (id, nth, length) = (parts.id.clone(), parts.parts.len(), payload.content_length() as u64);
        let part = wait(async move { client.put_part(&key, &id, nth, payload).await });
        parts.parts.push(part.map_err(|error| failure("write", &parts.staged, &error))?);
        parts.length += length;
        Ok(())
    }

    /// Makes the parts one object.
    fn complete(&mut self) -> Result<(), StoreError> {
        let parts = self.parts.as_mut().expect("only called once it goes in parts");
        let (client, key) = (self.store.clients.large.clone(), self.store.key(&parts.staged));
        let (id, given) = (parts.id.clone(), std::mem::take(&mut parts.parts));
        let completed = wait(async move { client.complete_multipart(&key, &id, given).await });
        match completed {
            Ok(_) => Ok(()),
            // The first answer was lost, and now the server knows no such upload.
            Err(error) => match self.store.size(&parts.staged) {
                Ok(size) if size == parts.length => Ok(()),
                _ => Err(failure("write", &parts.staged, &error)),
            },
        }
    }
}

impl Upload for S3Upload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let mut rest = bytes;
        while rest.len() > HELD - self.held.content_length() {
            let (fits, more) = rest.split_at(HELD - self.held.content_length());
            self.held.extend_from_slice(fits);
            self.put_part()?;
            rest = more;
        }
        self.held.extend_from_slice(rest);
        Ok(())
    }

    fn finish(mut self: Box<Self>, path: &ObjectPath) -> Result<(), StoreError> {
        if self.parts.is_none() {
            let whole = self.take_held();
            return self.store.put_new(path, whole);
        }
        if self.held.content_length() > 0 {
            self.put_part()?;
        }
        self.complete()?;
        let staged = self.parts.as_ref().map(|parts| parts.staged.clone()).expect("it goes in parts");
        self.store.copy_new(&staged, path)?;
        // What is left of it now is a staged object, which `drop` takes away.
        Ok(())
    }
}

impl Drop for S3Upload {
    fn drop(&mut self) {
        let Some(parts) = self.parts.take() else { return };
        let small = self.store.clients.small.clone();
        let (staged, note) = (self.store.key(&parts.staged), self.store.key(&note_of(&parts.staged)));
        // What cannot be cleared away now is cleared away by the next writer, by its note.
        leave(async move {
            let aborted = small.abort_multipart(&staged, &parts.id).await;
            let is_over = aborted.as_ref().map_or_else(|error| outcome(error) == Outcome::Missing, |()| true);
            if is_over && small.delete(&staged).await.is_ok() {
                drop(small.delete(&note).await);
            }
        });
    }
}

impl S3Store {
    /// A copy made by the server, to a name that must be free.
    fn copy_new(&self, from: &ObjectPath, to: &ObjectPath) -> Result<(), StoreError> {
        if self.look(to)?.is_some() {
            return Err(StoreError::AlreadyExists { path: to.clone() });
        }
        self.copy(from, to)
    }

    /// Clears away uploads in parts that nobody ended. The parts themselves go by the upload's id.
    pub(super) fn sweep_uploads(&self, now: Timestamp) -> Result<u64, StoreError> {
        let mut swept = 0;
        for (name, _) in self.list_all(&uploads())? {
            let Some(note) = below(&uploads(), &name) else { continue };
            let Some(staged) = name.strip_suffix(".json").and_then(|name| below(&uploads(), name)) else {
                continue;
            };
            if self.look(&note)?.is_none_or(|found| now.duration_since(found.written) <= LEFT) {
                continue;
            }
            if let Ok(Note { upload }) = serde_json::from_slice(&self.read(&note, 4096)?) {
                let (client, key) = (self.clients.small.clone(), self.key(&staged));
                let aborted: Result<(), Error> =
                    wait(async move { client.abort_multipart(&key, &upload).await });
                match aborted {
                    Err(error) if outcome(&error) != Outcome::Missing => {
                        return Err(failure("delete", &staged, &error));
                    }
                    _ => {}
                }
            }
            self.delete_all(vec![staged, note])?;
            swept += 1;
        }
        Ok(swept)
    }
}
