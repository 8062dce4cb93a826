//! A repository in a bucket of object storage (S3 and what speaks its protocol).
//!
//! Must stay true:
//! - *A name means whole content*: an object appears by one request. A name is taken by a conditional put
//!   where the server keeps its word about conditions, which is tried before the first one is relied on;
//!   else it is looked at first, which holds for one writer (`put.rs`).
//! - *An answer may be lost*: every object that is created carries a random mark, so that a write which is
//!   tried again knows its own work.
//! - *Nothing moves*: a folder is written in its place, and exists from the put of its last object on. What
//!   never came to that is hidden, and can be ended for good (`folder.rs`).
//! - *Lists may lag*: what was made a moment ago may be missing from one. Reads by name never lag.
//! - Memory is bounded: 24 MiB for an upload, then it goes on in parts (`upload.rs`).

mod config;
mod failure;
mod folder;
mod put;
mod runtime;
mod upload;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use object_store::aws::AmazonS3;
use object_store::client::HttpErrorKind;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

use self::config::Clients;
pub(super) use self::failure::Said;
use self::failure::{Outcome, failure, outcome, transport};
use self::runtime::wait;
use super::location::Bucket;
use super::{Listed, ListedKind, ObjectPath, Store, StoreError, Upload};

pub use config::{ConnectError, Credentials, Patience, S3Options};

/// So many requests of one call are under way at once.
const AT_ONCE: usize = 16;

/// A request whose fate is unclear is made so often, beside the tries of the library.
const TRIES: usize = 3;

/// Beyond this a request gets the longer patience.
const LARGE: u64 = 256 << 10;

/// How long a name may still go to somebody else where the server ignores conditions: as long as a request
/// that was begun before may take.
const SETTLING: Duration = Duration::from_secs(2);

/// A store in a bucket. Clones are handles of the same store.
#[derive(Debug, Clone)]
pub struct S3Store {
    clients: Clients,
    bucket: Arc<Bucket>,
    /// Whether the server keeps its word about conditions; not known before the first creation.
    conditions: Arc<Mutex<Option<bool>>>,
}

impl S3Store {
    /// The store in this part of a bucket. Asks nothing of the server yet.
    pub fn open(bucket: &Bucket, options: &S3Options) -> Result<Self, ConnectError> {
        let clients = options.connect(bucket)?;
        Ok(Self { clients, bucket: Arc::new(bucket.clone()), conditions: Arc::default() })
    }

    /// The server's address, for people.
    pub fn endpoint(&self) -> &str {
        &self.clients.endpoint
    }

    fn key(&self, path: &ObjectPath) -> Path {
        let key = match &self.bucket.prefix {
            Some(prefix) => format!("{prefix}/{path}"),
            None => path.as_str().to_owned(),
        };
        Path::parse(key).expect("the parts of an object path are those of a key")
    }

    fn folder_key(&self, folder: Option<&ObjectPath>) -> Path {
        match (folder, &self.bucket.prefix) {
            (Some(folder), _) => self.key(folder),
            (None, Some(prefix)) => Path::parse(prefix.as_str()).expect("a prefix is an object path"),
            (None, None) => Path::default(),
        }
    }

    /// The client for a request that moves so many bytes.
    fn client(&self, bytes: u64) -> AmazonS3 {
        if bytes > LARGE { self.clients.large.clone() } else { self.clients.small.clone() }
    }

    /// Makes a request that may be repeated, again where its answer broke off: the library tries again what
    /// fails in other ways.
    fn repeated<T, F>(&self, request: impl Fn() -> F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        for _ in 1..TRIES {
            match wait(request()) {
                Err(error) if broke_off(&error) => {}
                answer => return answer,
            }
        }
        wait(request())
    }

    /// The same from within the requests of one call.
    async fn asked<T, F: Future<Output = Result<T, Error>>>(request: impl Fn() -> F) -> Result<T, Error> {
        for _ in 1..TRIES {
            match request().await {
                Err(error) if broke_off(&error) => {}
                answer => return answer,
            }
        }
        request().await
    }

    /// Reads up to `limit` bytes of `range`, or of all of it, with the object's whole size.
    fn get(
        &self,
        path: &ObjectPath,
        range: Option<GetRange>,
        limit: u64,
    ) -> Result<(Bytes, u64), StoreError> {
        let got = self.repeated(|| {
            let (client, key, range) = (self.clients.large.clone(), self.key(path), range.clone());
            async move {
                let got = client.get_opts(&key, GetOptions { range, ..GetOptions::default() }).await?;
                let (size, wanted) = (got.meta.size, got.range.end - got.range.start);
                if wanted > limit {
                    return Ok((Bytes::new(), size, wanted));
                }
                got.bytes().await.map(|bytes| (bytes, size, wanted))
            }
        });
        let (bytes, size, wanted) = got.map_err(|error: Error| failure("read", path, &error))?;
        if wanted > limit {
            let reason = format!("it has more than {limit} bytes");
            return Err(failed("read", path, io::ErrorKind::FileTooLarge, reason));
        }
        if bytes.len() as u64 != wanted {
            let reason = format!("{} of {wanted} bytes arrived", bytes.len());
            return Err(failed("read", path, io::ErrorKind::ConnectionAborted, reason));
        }
        Ok((bytes, size))
    }

    fn delete_all(&self, paths: Vec<ObjectPath>) -> Result<(), StoreError> {
        let store = self.clone();
        wait(async move {
            let (mut running, mut left) = (JoinSet::new(), paths.into_iter());
            loop {
                while running.len() < AT_ONCE
                    && let Some(path) = left.next()
                {
                    let (client, key) = (store.clients.small.clone(), store.key(&path));
                    running.spawn(async move { (Self::asked(|| client.delete(&key)).await, path) });
                }
                let Some(deleted) = running.join_next().await else { return Ok(()) };
                match deleted.expect("a request does not panic") {
                    (Ok(()), _) => {}
                    (Err(error), _) if outcome(&error) == Outcome::Missing => {}
                    (Err(error), path) => return Err(failure("delete", &path, &error)),
                }
            }
        })
    }
}

/// The answer of a request, or its end, did not arrive.
fn broke_off(error: &Error) -> bool {
    !matches!(transport(error), None | Some(HttpErrorKind::Connect | HttpErrorKind::Timeout))
}

fn failed(verb: &'static str, path: &ObjectPath, kind: io::ErrorKind, reason: String) -> StoreError {
    StoreError::Failed { verb, path: path.clone(), source: io::Error::new(kind, Said(reason)) }
}

/// What stands for a path in errors about the whole.
fn the_root() -> ObjectPath {
    ObjectPath::new("the bucket")
}

impl Store for S3Store {
    fn location(&self) -> String {
        self.bucket.to_string()
    }

    fn create(&self, path: &ObjectPath, bytes: &[u8]) -> Result<(), StoreError> {
        self.put_new(path, Bytes::copy_from_slice(bytes).into())
    }

    fn replace(&self, path: &ObjectPath, bytes: &[u8]) -> Result<(), StoreError> {
        let (client, key) = (self.client(bytes.len() as u64), self.key(path));
        let bytes = Bytes::copy_from_slice(bytes);
        let put = wait(async move { client.put(&key, bytes.into()).await });
        put.map(drop).map_err(|error| failure("write", path, &error))
    }

    fn upload(&self) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(upload::S3Upload::new(self.clone())))
    }

    fn read(&self, path: &ObjectPath, limit: u64) -> Result<Vec<u8>, StoreError> {
        self.get(path, None, limit).map(|(bytes, _)| bytes.into())
    }

    fn read_range(&self, path: &ObjectPath, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        let ends_too_early = |size: u64| {
            let reason = format!("{length} bytes from {offset} are wanted, but it has only {size} bytes");
            failed("read", path, io::ErrorKind::UnexpectedEof, reason)
        };
        // A range of nothing cannot be asked for; one that overflows is answered differently everywhere.
        let end = offset.checked_add(length).filter(|end| i64::try_from(*end).is_ok());
        let Some(end) = end.filter(|_| length > 0) else {
            let size = self.size(path)?;
            return if end.is_some_and(|end| end <= size) {
                Ok(Vec::new())
            } else {
                Err(ends_too_early(size))
            };
        };
        match self.get(path, Some(GetRange::Bounded(offset..end)), length) {
            Ok((bytes, _)) if bytes.len() as u64 == length => Ok(bytes.into()),
            Ok((_, size)) => Err(ends_too_early(size)),
            Err(error) => Err(error),
        }
    }

    fn size(&self, path: &ObjectPath) -> Result<u64, StoreError> {
        let found = self.repeated(|| {
            let (client, key) = (self.clients.small.clone(), self.key(path));
            async move { client.head(&key).await }
        });
        found.map(|found| found.size).map_err(|error| failure("look at", path, &error))
    }

    fn modified(&self, path: &ObjectPath) -> Result<Timestamp, StoreError> {
        let found = self.look(path)?.ok_or_else(|| StoreError::NotFound { path: path.clone() })?;
        Ok(found.written)
    }

    fn sizes(&self, paths: &[ObjectPath]) -> Vec<Result<u64, StoreError>> {
        let (store, paths) = (self.clone(), paths.to_vec());
        let sizes: BTreeMap<usize, Result<u64, StoreError>> = wait(async move {
            let (mut running, mut found) = (JoinSet::new(), BTreeMap::new());
            for (nth, path) in paths.into_iter().enumerate() {
                if running.len() >= AT_ONCE
                    && let Some(one) = running.join_next().await
                {
                    found.extend([one.expect("a request does not panic")]);
                }
                let (client, key) = (store.clients.small.clone(), store.key(&path));
                running.spawn(async move {
                    let size = Self::asked(|| client.head(&key)).await.map(|found| found.size);
                    (nth, size.map_err(|error| failure("look at", &path, &error)))
                });
            }
            while let Some(one) = running.join_next().await {
                found.extend([one.expect("a request does not panic")]);
            }
            found
        });
        sizes.into_values().collect()
    }

    fn list(&self, folder: Option<&ObjectPath>) -> Result<Vec<Listed>, StoreError> {
        let key = self.folder_key(folder);
        let listed = self.repeated(|| {
            let (client, key) = (self.clients.small.clone(), key.clone());
            async move { client.list_with_delimiter(Some(&key)).await }
        });
        let listed = listed.map_err(|error| failure("list", folder.unwrap_or(&the_root()), &error))?;
        let name = |path: &Path| Some(path.prefix_match(&key)?.next()?.as_ref().to_owned());
        let objects = listed.objects.iter().filter_map(|object| {
            Some(Listed { name: name(&object.location)?, kind: ListedKind::Object { size: object.size } })
        });
        let folders = listed
            .common_prefixes
            .iter()
            .filter_map(|folder| Some(Listed { name: name(folder)?, kind: ListedKind::Folder }));
        let mut listed: Vec<Listed> = objects.chain(folders).collect();
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    fn list_all(&self, folder: &ObjectPath) -> Result<Vec<(String, u64)>, StoreError> {
        let key = self.key(folder);
        let names = self.repeated(|| {
            let (client, key) = (self.clients.small.clone(), key.clone());
            async move {
                let (mut names, mut listed) = (Vec::new(), client.list(Some(&key)));
                while let Some(object) = listed.next().await {
                    let object = object?;
                    let Some(parts) = object.location.prefix_match(&key) else { continue };
                    let parts: Vec<_> = parts.collect();
                    let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
                    names.push((parts.join("/"), object.size));
                }
                Ok(names)
            }
        });
        let mut names = names.map_err(|error: Error| failure("list", folder, &error))?;
        names.sort();
        Ok(names)
    }

    fn stage(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        last: &str,
        owner: &str,
    ) -> Result<ObjectPath, StoreError> {
        self.begin_folder(from, to, last, owner)
    }

    fn publish(&self, from: &ObjectPath, to: &ObjectPath, last: &str) -> Result<(), StoreError> {
        self.end_folder(from, to, last)
    }

    fn withdraw(&self, from: &ObjectPath, _: &ObjectPath, last: &str) -> Result<(), StoreError> {
        self.delete(&from.join(last))?;
        self.delete_folder(from)
    }

    fn abandon(&self, from: &ObjectPath, to: &ObjectPath, last: &str) -> Result<bool, StoreError> {
        self.abandon_folder(from, to, last)
    }

    fn sweep(&self) -> Result<u64, StoreError> {
        self.sweep_uploads(self.server_time()?)
    }

    fn rename(&self, from: &ObjectPath, to: &ObjectPath) -> Result<(), StoreError> {
        let source = self.look(from)?.ok_or_else(|| StoreError::NotFound { path: from.clone() })?;
        match self.look(to)? {
            None => self.copy(from, to)?,
            // The same object: an earlier call came so far.
            Some(there) if there.is_copy_of(&source) => {}
            Some(_) => return Err(StoreError::AlreadyExists { path: to.clone() }),
        }
        self.delete(from)
    }

    fn delete(&self, path: &ObjectPath) -> Result<(), StoreError> {
        self.delete_all(vec![path.clone()])
    }

    fn delete_folder(&self, path: &ObjectPath) -> Result<(), StoreError> {
        let names = self.list_all(path)?;
        self.delete_all(names.into_iter().filter_map(|(name, _)| below(path, &name)).collect())
    }

    fn free_space(&self) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }

    fn lists_may_lag(&self) -> bool {
        true
    }

    fn settling(&self) -> Result<Duration, StoreError> {
        Ok(if self.keeps_conditions()? { Duration::ZERO } else { SETTLING })
    }

    fn warnings(&self) -> Vec<String> {
        let ignores = "the server ignores conditional writes (If-None-Match): that one controller alone writes \
                       this bucket has to be seen to by you";
        match self.known_conditions() {
            Some(false) => vec![ignores.to_owned()],
            _ => Vec::new(),
        }
    }
}

/// The object `name` of a folder; keys that are no paths of ours are nobody's to touch.
fn below(folder: &ObjectPath, name: &str) -> Option<ObjectPath> {
    ObjectPath::parse(&format!("{folder}/{name}"))
}
