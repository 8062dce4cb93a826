//! Creating an object under a name that nobody has.
//!
//! The condition `If-None-Match: *` does it where the server keeps its word. Whether it does is tried with
//! two puts of one name before it is relied on. Where it does not, the name is looked at before the put and
//! again after it: right for one writer, which the lease sees to.

use std::sync::PoisonError;

use jiff::Timestamp;
use object_store::{
    Attribute, Attributes, Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};

use super::failure::{Outcome, failure, outcome, status};
use super::runtime::wait;
use super::{S3Store, StoreError, TRIES};
use crate::store::{ObjectPath, Store};
use crate::{ids, random};

/// The header that tells one write of a name from another: `x-amz-meta-neurashield-write`.
const MARK: &str = "neurashield-write";

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    size: u64,
    mark: Option<String>,
    /// When it was written, as the server has it.
    pub(super) written: Timestamp,
}

impl Found {
    /// A copy keeps the mark.
    pub(super) fn is_copy_of(&self, other: &Found) -> bool {
        self.mark.is_some() && (&self.mark, self.size) == (&other.mark, other.size)
    }
}

pub(super) fn fresh_mark() -> String {
    ids::hex(&random::bytes::<16>())
}

impl S3Store {
    /// Writes a new object; the name must be free.
    pub(super) fn put_new(&self, path: &ObjectPath, bytes: PutPayload) -> Result<(), StoreError> {
        let taken = || StoreError::AlreadyExists { path: path.clone() };
        let mark = fresh_mark();
        let conditional = self.keeps_conditions()?;
        let mut last = None;
        for _ in 0..TRIES {
            let mode = match conditional {
                true => PutMode::Create,
                false if self.look(path)?.is_some() => {
                    return self.own(path, &mark)?.then_some(()).ok_or_else(taken);
                }
                false => PutMode::Overwrite,
            };
            match self.put_marked(path, bytes.clone(), mode, &mark) {
                Ok(()) if conditional => return Ok(()),
                // Somebody may have looked at the same moment.
                Ok(()) => return self.own(path, &mark)?.then_some(()).ok_or_else(taken),
                Err(error) if outcome(&error) == Outcome::Refused => {
                    return Err(failure("write", path, &error));
                }
                Err(error) => last = Some(error),
            }
            match self.look(path)? {
                Some(found) if found.mark.as_ref() == Some(&mark) => return Ok(()),
                Some(_) => return Err(taken()),
                // Nothing was done, or it was refused for the sake of one that is being deleted.
                None => {}
            }
        }
        let error = last.expect("a try that neither succeeded nor returned has failed");
        match outcome(&error) {
            Outcome::Taken => Err(taken()),
            _ => Err(failure("write", path, &error)),
        }
    }

    fn put_marked(
        &self,
        path: &ObjectPath,
        bytes: PutPayload,
        mode: PutMode,
        mark: &str,
    ) -> Result<(), Error> {
        let (client, key) = (self.client(bytes.content_length() as u64), self.key(path));
        let attributes = Attributes::from_iter([(Attribute::Metadata(MARK.into()), mark.to_owned())]);
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        wait(async move { client.put_opts(&key, bytes, options).await.map(drop) })
    }

    fn own(&self, path: &ObjectPath, mark: &str) -> Result<bool, StoreError> {
        Ok(self.look(path)?.is_some_and(|found| found.mark.as_deref() == Some(mark)))
    }

    /// An object as it is now; `None` if there is none.
    pub(super) fn look(&self, path: &ObjectPath) -> Result<Option<Found>, StoreError> {
        let found = self.repeated(|| {
            let (client, key) = (self.clients.small.clone(), self.key(path));
            let options = GetOptions { head: true, ..GetOptions::default() };
            async move { client.get_opts(&key, options).await }
        });
        match found {
            Ok(found) => Ok(Some(Found {
                size: found.meta.size,
                mark: found.attributes.get(&Attribute::Metadata(MARK.into())).map(|mark| mark.to_string()),
                written: Timestamp::from_second(found.meta.last_modified.timestamp())
                    .unwrap_or(Timestamp::MAX),
            })),
            Err(error) if outcome(&error) == Outcome::Missing => Ok(None),
            Err(error) => Err(failure("look at", path, &error)),
        }
    }

    /// A copy made by the server.
    pub(super) fn copy(&self, from: &ObjectPath, to: &ObjectPath) -> Result<(), StoreError> {
        let (source, target) = (self.key(from), self.key(to));
        let copied = self.repeated(|| {
            let (client, source, target) = (self.clients.large.clone(), source.clone(), target.clone());
            async move { client.copy(&source, &target).await }
        });
        copied.map_err(|error| failure("copy", from, &error))
    }

    /// Whether the server keeps its word about conditions, if that was tried already.
    pub(super) fn known_conditions(&self) -> Option<bool> {
        *self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, tried now if it was not before.
    pub(super) fn keeps_conditions(&self) -> Result<bool, StoreError> {
        let mut known = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = *known {
            return Ok(known);
        }
        let path = ObjectPath::new(format!(".neurashield-condition-{}", fresh_mark()));
        let kept = self.try_conditions(&path)?;
        self.delete(&path)?;
        *known = Some(kept);
        Ok(kept)
    }

    fn try_conditions(&self, path: &ObjectPath) -> Result<bool, StoreError> {
        self.replace(path, b"first")?;
        let mark = fresh_mark();
        let mut last = None;
        for _ in 0..TRIES {
            let second = PutPayload::from_static(b"second");
            let error = match self.put_marked(path, second, PutMode::Create, &mark) {
                Ok(()) => return Ok(false),
                Err(error) if status(&error) == Some(501) => return Ok(false),
                Err(error) if outcome(&error) == Outcome::Taken => return Ok(true),
                Err(error) if outcome(&error) == Outcome::Refused => {
                    return Err(failure("write", path, &error));
                }
                Err(error) => error,
            };
            if self.own(path, &mark)? {
                return Ok(false);
            }
            last = Some(error);
        }
        let error = last.expect("a try that did not return has failed");
        Err(failure("write", path, &error))
    }
}
