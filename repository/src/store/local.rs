//! A repository in a folder of a disk or a PVC.
//!
//! Must stay true: of what lies under the root only our own paths are ever written, moved or deleted;
//! foreign things are listed and left alone. How folders are reached without following links stands in
//! `root.rs`, how things are made durable in `durable.rs`.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::durable::{self, Draft, Existing};
use super::root::{self, Root};
use super::{Listed, ListedKind, ObjectPath, Store, StoreError, Upload};

/// The root of a repository could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {} as a repository's storage; it must be a folder that this user may use", root.display())]
pub struct OpenError {
    /// Which folder.
    pub root: PathBuf,
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// A store in a folder. What it makes is its owner's alone (files 0600, folders 0700). Clones are handles
/// of the same store.
#[derive(Debug, Clone)]
pub struct LocalStore {
    root: Arc<Root>,
}

impl LocalStore {
    /// The store in the folder `root`, which must exist. Writes nothing; the first write clears away what
    /// killed processes left.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        let opened = Root::open(root).map_err(|source| OpenError { root: root.to_owned(), source })?;
        Ok(Self { root: Arc::new(opened) })
    }

    /// Like [`LocalStore::open`], but makes the folder, and those above it, where they are missing.
    pub fn open_or_make(root: &Path) -> Result<Self, OpenError> {
        root::make(root).map_err(|source| OpenError { root: root.to_owned(), source })?;
        Self::open(root)
    }

    fn begin(&self, path: &ObjectPath) -> Result<Draft, StoreError> {
        self.root.begin().map_err(failure("write", path))
    }

    fn place(&self, draft: Draft, path: &ObjectPath, existing: Existing) -> Result<(), StoreError> {
        let folder = self.root.make_folder(path.parent().as_ref()).map_err(failure("write", path))?;
        draft.finish(&folder, path.name(), existing).map_err(|error| taken_or_failure("write", path, error))
    }

    fn write_whole(&self, path: &ObjectPath, bytes: &[u8], existing: Existing) -> Result<(), StoreError> {
        let mut draft = self.begin(path)?;
        draft.write(bytes).map_err(failure("write", path))?;
        self.place(draft, path, existing)
    }

    /// Opens an object and says its size.
    fn open_object(&self, path: &ObjectPath) -> io::Result<(File, u64)> {
        let folder = self.root.open_folder(path.parent().as_ref())?;
        // Not blocking, or a FIFO of that name would hold us for ever.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&folder, path.name(), flags, Mode::empty())?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a file"));
        }
        Ok((file, metadata.len()))
    }

    fn exists(&self, path: &ObjectPath) -> io::Result<bool> {
        let found = self
            .root
            .open_folder(path.parent().as_ref())
            .and_then(|folder| Ok(rustix::fs::statat(&folder, path.name(), AtFlags::SYMLINK_NOFOLLOW)?));
        match found {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The answer to `publish` where there is nothing to publish: done before, or never there.
    fn published_before(&self, from: &ObjectPath, to: &ObjectPath) -> Result<(), StoreError> {
        if !self.exists(to).map_err(failure("publish", to))? {
            return Err(StoreError::NotFound { path: from.clone() });
        }
        let parent = self.root.open_folder(to.parent().as_ref()).map_err(failure("publish", to))?;
        durable::sync_folder(&parent).map_err(failure("publish", to))?;
        Err(StoreError::AlreadyExists { path: to.clone() })
    }
}

impl Store for LocalStore {
    fn location(&self) -> String {
        self.root.path.display().to_string()
    }

    fn create(&self, path: &ObjectPath, bytes: &[u8]) -> Result<(), StoreError> {
        self.write_whole(path, bytes, Existing::Keep)
    }

    fn replace(&self, path: &ObjectPath, bytes: &[u8]) -> Result<(), StoreError> {
        self.write_whole(path, bytes, Existing::Replace)
    }

    fn upload(&self) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(LocalUpload { draft: self.begin(&an_upload())?, store: self.clone() }))
    }

    fn read(&self, path: &ObjectPath, limit: u64) -> Result<Vec<u8>, StoreError> {
        let (file, size) = self.open_object(path).map_err(missing_or_failure("read", path))?;
        let mut bytes = Vec::with_capacity(usize::try_from(size.min(limit)).unwrap_or(0));
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failure("read", path))?;
        if bytes.len() as u64 > limit {
            let reason = format!("it has more than {limit} bytes");
            return Err(failure("read", path)(io::Error::new(io::ErrorKind::FileTooLarge, reason)));
        }
        Ok(bytes)
    }

    fn read_range(&self, path: &ObjectPath, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        let (file, size) = self.open_object(path).map_err(missing_or_failure("read", path))?;
        let ends_within = offset.checked_add(length).is_some_and(|end| end <= size);
        let Some(length) = usize::try_from(length).ok().filter(|_| ends_within) else {
            let reason = format!("{length} bytes from {offset} are wanted, but it has only {size} bytes");
            return Err(failure("read", path)(io::Error::new(io::ErrorKind::UnexpectedEof, reason)));
        };
        read_exactly(&file, offset, length).map_err(failure("read", path))
    }

    fn size(&self, path: &ObjectPath) -> Result<u64, StoreError> {
        let (_, size) = self.open_object(path).map_err(missing_or_failure("look at", path))?;
        Ok(size)
    }

    fn modified(&self, path: &ObjectPath) -> Result<Timestamp, StoreError> {
        let (file, _) = self.open_object(path).map_err(missing_or_failure("look at", path))?;
        let written = file.metadata().and_then(|metadata| metadata.modified());
        let written = written.map_err(failure("look at", path))?;
        Timestamp::try_from(written).map_err(|error| failure("look at", path)(io::Error::other(error)))
    }

    fn list(&self, folder: Option<&ObjectPath>) -> Result<Vec<Listed>, StoreError> {
        let named = folder.cloned().unwrap_or_else(the_root);
        let handle = match self.root.open_folder(folder) {
            Ok(handle) => handle,
            Err(error) if error.kind() == io::ErrorKind::NotFound && folder.is_some() => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(failure("list", &named)(error)),
        };
        let mut listed = list_folder(&handle).map_err(failure("list", &named))?;
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    fn stage(&self, from: &ObjectPath, _: &ObjectPath, _: &str, _: &str) -> Result<ObjectPath, StoreError> {
        self.delete_folder(from)?;
        Ok(from.clone())
    }

    fn publish(&self, from: &ObjectPath, to: &ObjectPath, last: &str) -> Result<(), StoreError> {
        let parent_and_folder = self.root.open_folder(from.parent().as_ref()).and_then(|parent| {
            let folder = durable::open_folder(&parent, from.name())?;
            Ok((parent, folder))
        });
        let (from_parent, folder) = match parent_and_folder {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.published_before(from, to),
            Err(error) => return Err(failure("publish", from)(error)),
        };
        self.size(&from.join(last))?;
        durable::sync_tree(&folder).map_err(failure("publish", from))?;
        let to_parent = self.root.make_folder(to.parent().as_ref()).map_err(failure("publish", to))?;
        self.root.forget(from);
        let moved = durable::move_folder(&from_parent, from.name(), &to_parent, to.name());
        // Synced also where the name was taken: whoever took it may not have lived to do so.
        durable::sync_folder(&to_parent).map_err(failure("publish", to))?;
        durable::sync_folder(&from_parent).map_err(failure("publish", from))?;
        moved.map_err(|error| taken_or_failure("publish", to, error))
    }

    fn withdraw(&self, from: &ObjectPath, to: &ObjectPath, last: &str) -> Result<(), StoreError> {
        let from_parent = match self.root.open_folder(from.parent().as_ref()) {
            Ok(parent) => parent,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failure("withdraw", from)(error)),
        };
        if !self.exists(from).map_err(failure("withdraw", from))? {
            // Whoever moved it may have died before that was durable.
            return durable::sync_folder(&from_parent).map_err(failure("withdraw", from));
        }
        self.size(&from.join(last))?;
        let to_parent = self.root.make_folder(to.parent().as_ref()).map_err(failure("withdraw", to))?;
        self.root.forget(from);
        let moved = durable::move_folder(&from_parent, from.name(), &to_parent, to.name());
        durable::sync_folder(&to_parent).map_err(failure("withdraw", to))?;
        durable::sync_folder(&from_parent).map_err(failure("withdraw", from))?;
        moved.map_err(|error| taken_or_failure("withdraw", to, error))
    }

    fn rename(&self, from: &ObjectPath, to: &ObjectPath) -> Result<(), StoreError> {
        self.size(from)?;
        let from_folder =
            self.root.open_folder(from.parent().as_ref()).map_err(missing_or_failure("move", from))?;
        let to_folder = self.root.make_folder(to.parent().as_ref()).map_err(failure("move", to))?;
        let moved = durable::move_file(&from_folder, from.name(), &to_folder, to.name());
        durable::sync_folder(&to_folder).map_err(failure("move", to))?;
        durable::sync_folder(&from_folder).map_err(failure("move", from))?;
        moved.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::NotFound { path: from.clone() },
            _ => taken_or_failure("move", to, error),
        })
    }

    fn delete(&self, path: &ObjectPath) -> Result<(), StoreError> {
        let folder = match self.root.open_folder(path.parent().as_ref()) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failure("delete", path)(error)),
        };
        durable::remove_file(&folder, path.name()).map_err(failure("delete", path))
    }

    fn delete_folder(&self, path: &ObjectPath) -> Result<(), StoreError> {
        let parent = match self.root.open_folder(path.parent().as_ref()) {
            Ok(parent) => parent,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failure("delete", path)(error)),
        };
        self.root.forget(path);
        match durable::remove_tree(&parent, path.name()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failure("delete", path)(error)),
        }
        durable::sync_folder(&parent).map_err(failure("delete", path))
    }

    fn free_space(&self) -> Result<Option<u64>, StoreError> {
        let stat = rustix::fs::fstatvfs(&self.root.handle)
            .map_err(|errno| failure("measure", &the_root())(errno.into()))?;
        Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
    }

    fn warnings(&self) -> Vec<String> {
        // A file system that cannot be asked cannot be warned of; the probe still tries what matters.
        rustix::fs::fstatfs(&self.root.handle)
            .ok()
            .and_then(|stat| warning(stat.f_type as u64))
            .into_iter()
            .collect()
    }
}

#[derive(Debug)]
struct LocalUpload {
    store: LocalStore,
    draft: Draft,
}

impl Upload for LocalUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.draft.write(bytes).map_err(failure("write", &an_upload()))
    }

    fn finish(self: Box<Self>, path: &ObjectPath) -> Result<(), StoreError> {
        let Self { store, draft } = *self;
        store.place(draft, path, Existing::Keep)
    }
}

/// Without writing zeros first: what is read is most of what there is.
fn read_exactly(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let at = offset + bytes.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

fn list_folder(folder: &OwnedFd) -> io::Result<Vec<Listed>> {
    let mut listed = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if durable::is_dot(name.to_bytes()) || durable::is_draft(name.to_bytes()) {
            continue;
        }
        let found = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue, // deleted since its name was read
            // What the file system knows of this one is damaged: the others are listed all the same. Reading it
            // will say what is wrong with it; its size is none that anything of ours has. EIO is no answer: a disk
            // that is gone says it of everything.
            Err(Errno::UCLEAN | Errno::BADMSG) => (entry.file_type(), 0),
            answer => {
                answer.map(|stat| (FileType::from_raw_mode(stat.st_mode), stat.st_size.unsigned_abs()))?
            }
        };
        let kind = match found {
            (FileType::RegularFile, size) => ListedKind::Object { size },
            (FileType::Directory, _) => ListedKind::Folder,
            _ => ListedKind::Other,
        };
        listed.push(Listed { name: name.to_string_lossy().into_owned(), kind });
    }
    Ok(listed)
}

/// What stands for a path in errors about the root itself.
fn the_root() -> ObjectPath {
    ObjectPath::new("the root folder")
}

/// What stands for a path in errors about an object without a name.
fn an_upload() -> ObjectPath {
    ObjectPath::new("an upload")
}

fn failure(verb: &'static str, path: &ObjectPath) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.clone();
    move |source| match Errno::from_io_error(&source) {
        Some(Errno::NOSPC | Errno::DQUOT) => StoreError::Full { path, source },
        // A link where a folder or an object should be gives these two.
        Some(Errno::NOTDIR | Errno::LOOP) => {
            let reason = format!("{source} (symbolic links inside a repository are not followed)");
            StoreError::Failed { verb, path, source: io::Error::new(io::ErrorKind::InvalidData, reason) }
        }
        _ => StoreError::Failed { verb, path, source },
    }
}

fn missing_or_failure(verb: &'static str, path: &ObjectPath) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.clone();
    move |source| match source.kind() {
        io::ErrorKind::NotFound => StoreError::NotFound { path },
        _ => failure(verb, &path)(source),
    }
}

fn taken_or_failure(verb: &'static str, path: &ObjectPath, source: io::Error) -> StoreError {
    match source.kind() {
        io::ErrorKind::AlreadyExists => StoreError::AlreadyExists { path: path.clone() },
        _ => failure(verb, path)(source),
    }
}

/// What to say of a file system, by its magic number (`statfs(2)`).
fn warning(magic: u64) -> Option<String> {
    let (name, reason) = match magic {
        0x0102_1994 | 0x8584_58f6 => ("in memory (tmpfs)", "everything in it is gone after a restart"),
        0x794c_7630 => {
            ("an overlay", "in a container it goes away with the container; mount a volume instead")
        }
        0x6969 => {
            ("NFS", "a stale server or the option `async` can lose acknowledged backups; export it `sync`")
        }
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => {
            ("SMB", "whether it keeps what it acknowledged is up to its server")
        }
        0x4d44 | 0x2011_bab0 => ("FAT or exFAT", "it has no journal and no permissions; use ext4 or xfs"),
        0x6573_5546 => ("FUSE", "whether it keeps what it acknowledged is up to the program behind it"),
        _ => return None,
    };
    Some(format!("the storage is {name}: {reason}"))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;
    use crate::store::{conformance, probe};

    fn path(text: &str) -> ObjectPath {
        ObjectPath::new(text)
    }

    #[test]
    fn keeps_what_every_store_promises() {
        let scratch = RefCell::new(Vec::new());
        conformance::check(|| {
            let folder = tempfile::tempdir().unwrap();
            let store = LocalStore::open(folder.path()).unwrap();
            scratch.borrow_mut().push(folder);
            Box::new(store)
        });
    }

    #[test]
    fn passes_the_probe_and_is_left_as_it_was() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("lost+found")).unwrap();
        probe::probe(&LocalStore::open(scratch.path()).unwrap()).unwrap();
        let left: Vec<_> =
            fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["lost+found"]);
    }

    #[test]
    fn a_link_inside_the_repository_is_an_error_and_never_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let (root, outside) = (scratch.path().join("root"), scratch.path().join("outside"));
        fs::create_dir_all(&root).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("secret"), b"secret").unwrap();
        symlink(&outside, root.join("packs")).unwrap();
        symlink(outside.join("secret"), root.join("object")).unwrap();
        let store = LocalStore::open(&root).unwrap();

        let refused = store.read(&path("object"), 100).unwrap_err();
        assert!(matches!(refused, StoreError::Failed { .. }), "{refused:?}");
        assert!(matches!(store.list(Some(&path("packs"))), Err(StoreError::Failed { .. })));
        assert!(matches!(store.create(&path("packs/new"), b"x"), Err(StoreError::Failed { .. })));
        assert!(matches!(store.delete(&path("packs/secret")), Err(StoreError::Failed { .. })));
        assert!(store.delete_folder(&path("packs")).is_err());
        assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
        let kinds: Vec<ListedKind> =
            store.list(None).unwrap().into_iter().map(|listed| listed.kind).collect();
        assert_eq!(kinds, [ListedKind::Other, ListedKind::Other]);
    }

    #[test]
    fn what_it_makes_is_its_owners_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let store = LocalStore::open(scratch.path()).unwrap();
        store.create(&path("repository/packs/object"), b"x").unwrap();
        let mode = |name: &str| fs::metadata(scratch.path().join(name)).unwrap().mode() & 0o777;
        assert_eq!(mode("repository"), 0o700);
        assert_eq!(mode("repository/packs"), 0o700);
        assert_eq!(mode("repository/packs/object"), 0o600);
    }

    #[test]
    fn a_missing_root_is_an_error_unless_it_is_to_be_made() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("a/b");
        assert!(LocalStore::open(&root).unwrap_err().to_string().contains("a/b"));
        let store = LocalStore::open_or_make(&root).unwrap();
        store.create(&path("object"), b"x").unwrap();
        assert_eq!(fs::read(root.join("object")).unwrap(), b"x");
        LocalStore::open_or_make(&root).unwrap();
    }

    #[test]
    fn an_unfinished_upload_is_not_listed_while_it_runs() {
        let scratch = tempfile::tempdir().unwrap();
        let store = LocalStore::open(scratch.path()).unwrap();
        let mut upload = store.upload().unwrap();
        upload.write(b"part").unwrap();
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
        assert_eq!(store.list(None).unwrap(), []);
    }

    #[test]
    fn a_folder_that_was_published_away_can_be_made_anew() {
        let scratch = tempfile::tempdir().unwrap();
        let store = LocalStore::open(scratch.path()).unwrap();
        for round in ["one", "two"] {
            store.create(&path("staging/work/deep/last"), round.as_bytes()).unwrap();
            store.publish(&path("staging/work"), &path(round), "deep/last").unwrap();
            assert_eq!(store.read(&path(round).join("deep/last"), 9).unwrap(), round.as_bytes());
        }
    }

    #[test]
    fn a_folder_that_was_never_published_is_not_withdrawn() {
        let scratch = tempfile::tempdir().unwrap();
        let store = LocalStore::open(scratch.path()).unwrap();
        fs::create_dir(scratch.path().join("20200101_000000")).unwrap();
        fs::write(scratch.path().join("20200101_000000/dump.tar"), b"old").unwrap();
        let refused = store.withdraw(&path("20200101_000000"), &path("trash/old"), "backup.json");
        assert!(matches!(refused, Err(StoreError::NotFound { .. })), "{refused:?}");
        assert_eq!(fs::read(scratch.path().join("20200101_000000/dump.tar")).unwrap(), b"old");
    }

    #[test]
    fn a_pipe_in_place_of_an_object_does_not_hold_the_reader() {
        let scratch = tempfile::tempdir().unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, scratch.path().join("pipe"), FileType::Fifo, Mode::RWXU, 0)
            .unwrap();
        let store = LocalStore::open(scratch.path()).unwrap();
        assert!(matches!(store.read(&path("pipe"), 9), Err(StoreError::Failed { .. })));
    }

    #[test]
    fn file_systems_that_forget_are_warned_of() {
        assert!(warning(0x0102_1994).unwrap().contains("restart"));
        assert!(warning(0x6969).unwrap().contains("NFS"));
        assert_eq!(warning(0xef53), None, "ext4");
    }
}
