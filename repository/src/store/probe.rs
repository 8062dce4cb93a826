//! Tries every promise that the repository builds on, on the storage at hand, before `init` trusts it.
//!
//! Must stay true: only the probe's own folder is touched, and it is gone afterwards, whatever happened.
//! That written bytes survive a power cut cannot be tried; where a kind of storage is known to be weak
//! there, the store says so in [`Store::warnings`].

use super::{ObjectPath, Store, StoreError, Upload};
use crate::{ids, random};

/// The storage cannot hold a repository.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It answers, but not as promised.
    #[error(
        "{location} cannot hold a repository: {finding}. Use storage that keeps its word here: a local disk \
         (ext4, xfs, btrfs, zfs), a volume backed by one, or an S3 bucket"
    )]
    BrokenPromise {
        /// Where.
        location: String,
        /// What it did.
        finding: &'static str,
    },
    /// It refused one of the operations that a repository needs.
    #[error("{location} cannot hold a repository: it refuses to {step}. Check permissions, space and mount")]
    Refused {
        /// Where.
        location: String,
        /// What was tried.
        step: &'static str,
        /// The cause.
        #[source]
        source: StoreError,
    },
    /// There is no room for anything.
    #[error("{location} has no free space; make room or choose another place")]
    NoSpace {
        /// Where.
        location: String,
    },
}

/// Tries the storage; gives what people should know of it though it passed ([`Store::warnings`]).
pub fn probe(store: &dyn Store) -> Result<Vec<String>, ProbeError> {
    // Beside, not inside, the repository's own folder: a refused root is left as it was.
    let folder = ObjectPath::new(format!(".neurashield-probe-{}", ids::hex(&random::bytes::<8>())));
    let probe = Probe { store, folder };
    let found = probe.run();
    let cleaned = probe.refused("delete a folder", probe.clear());
    found.and(cleaned)?;
    let is_listed = probe.list(None)?.iter().any(|name| name == probe.folder.name());
    probe.expect(!is_listed || store.lists_may_lag(), "a deleted folder is still listed")?;
    Ok(store.warnings())
}

struct Probe<'a> {
    store: &'a dyn Store,
    folder: ObjectPath,
}

const FIRST: &[u8] = b"the first content";
const SECOND: &[u8] = b"another content";
const LIMIT: u64 = 1024;

/// All that the probe may leave where folders are written in their place.
const OBJECTS: [&str; 13] = [
    "created",
    "replaced",
    "uploaded",
    "from",
    "taken",
    "free",
    "first/last",
    "first/claim",
    "second/last",
    "second/claim",
    "published/last",
    "published/first/object",
    "published/second/object",
];

impl Probe<'_> {
    fn clear(&self) -> Result<(), StoreError> {
        if self.store.lists_may_lag() {
            OBJECTS.iter().try_for_each(|name| self.store.delete(&self.folder.join(name)))?;
        }
        self.store.delete_folder(&self.folder)
    }

    fn run(&self) -> Result<(), ProbeError> {
        if self.refused("tell its free space", self.store.free_space())? == Some(0) {
            return Err(ProbeError::NoSpace { location: self.store.location() });
        }
        self.creates_exclusively()?;
        self.replaces()?;
        self.uploads_exclusively()?;
        self.renames_exclusively()?;
        self.publishes_exclusively()?;
        self.deletes()
    }

    fn creates_exclusively(&self) -> Result<(), ProbeError> {
        let object = self.folder.join("created");
        self.refused("create a file", self.store.create(&object, FIRST))?;
        self.reads(&object, FIRST, "a file that was just written reads back differently")?;
        let listed = self.list(Some(&self.folder))?;
        let is_right = listed == ["created"] || self.store.lists_may_lag();
        self.expect(is_right, "a file that was just written is not listed, or not alone")?;
        self.exists_already(
            "refuse an existing name",
            self.store.create(&object, SECOND),
            "a file was created under a name that existed (exclusive creation)",
        )?;
        self.reads(&object, FIRST, "a refused creation changed the existing file")
    }

    fn replaces(&self) -> Result<(), ProbeError> {
        let object = self.folder.join("replaced");
        for content in [FIRST, SECOND] {
            self.refused("replace a file", self.store.replace(&object, content))?;
            self.reads(&object, content, "a file that was just replaced reads back differently")?;
        }
        Ok(())
    }

    fn uploads_exclusively(&self) -> Result<(), ProbeError> {
        let object = self.folder.join("uploaded");
        let upload = |content: &[u8]| {
            let mut upload = self.store.upload()?;
            upload.write(content)?;
            Upload::finish(upload, &object)
        };
        self.refused("upload a file", upload(FIRST))?;
        self.reads(&object, FIRST, "an upload reads back differently")?;
        self.exists_already(
            "refuse an upload to an existing name",
            upload(SECOND),
            "an upload took a name that existed (exclusive creation)",
        )?;
        self.reads(&object, FIRST, "a refused upload changed the existing file")
    }

    fn renames_exclusively(&self) -> Result<(), ProbeError> {
        let (from, taken, free) =
            (self.folder.join("from"), self.folder.join("taken"), self.folder.join("free"));
        self.refused("create a file", self.store.create(&from, FIRST))?;
        self.refused("create a file", self.store.create(&taken, SECOND))?;
        self.exists_already(
            "refuse a rename onto an existing name",
            self.store.rename(&from, &taken),
            "a rename replaced an existing file (rename without replacing)",
        )?;
        self.reads(&taken, SECOND, "a refused rename changed the existing file")?;
        self.refused("rename a file", self.store.rename(&from, &free))?;
        self.reads(&free, FIRST, "a renamed file reads back differently")?;
        self.is_gone(&from, "a renamed file is still there under its old name")
    }

    fn publishes_exclusively(&self) -> Result<(), ProbeError> {
        let [first, second, to] = ["first", "second", "published"].map(|name| self.folder.join(name));
        for (folder, content) in [(&first, FIRST), (&second, SECOND)] {
            let place = self.refused("begin a folder", self.store.stage(folder, &to, "last", "probe"))?;
            let inner = place.join(folder.name()).join("object");
            self.refused("create a file", self.store.create(&inner, content))?;
            self.refused("create a file", self.store.create(&folder.join("last"), content))?;
        }
        self.is_gone(&to.join("last"), "a folder is there before it was renamed to its place")?;
        self.refused("rename a folder", self.store.publish(&first, &to, "last"))?;
        self.reads(&to.join("first/object"), FIRST, "a file in a renamed folder reads back differently")?;
        self.is_gone(&first.join("last"), "a renamed folder is still there under its old name")?;
        self.exists_already(
            "refuse to rename a folder onto an existing one",
            self.store.publish(&second, &to, "last"),
            "a folder was renamed onto an existing one (rename without replacing)",
        )?;
        self.reads(&to.join("last"), FIRST, "a refused rename changed the existing folder")
    }

    fn deletes(&self) -> Result<(), ProbeError> {
        let object = self.folder.join("created");
        self.refused("delete a file", self.store.delete(&object))?;
        self.is_gone(&object, "a deleted file can still be read")?;
        let is_listed = self.list(Some(&self.folder))?.iter().any(|name| name == object.name());
        self.expect(!is_listed || self.store.lists_may_lag(), "a deleted file is still listed")
    }

    fn list(&self, folder: Option<&ObjectPath>) -> Result<Vec<String>, ProbeError> {
        let listed = self.refused("list a folder", self.store.list(folder))?;
        Ok(listed.into_iter().map(|listed| listed.name).collect())
    }

    fn reads(&self, object: &ObjectPath, content: &[u8], finding: &'static str) -> Result<(), ProbeError> {
        let whole = self.refused("read a file that was just written", self.store.read(object, LIMIT))?;
        let size = self.refused("tell a file's size", self.store.size(object))?;
        let tail = self
            .refused("read a part of a file", self.store.read_range(object, 1, content.len() as u64 - 1))?;
        self.expect(whole == content && size == content.len() as u64 && tail == content[1..], finding)
    }

    fn is_gone(&self, object: &ObjectPath, finding: &'static str) -> Result<(), ProbeError> {
        match self.store.read(object, LIMIT) {
            Err(StoreError::NotFound { .. }) => Ok(()),
            answer => {
                self.refused("tell that a file is missing", answer)?;
                self.expect(false, finding)
            }
        }
    }

    fn exists_already(
        &self,
        step: &'static str,
        answer: Result<(), StoreError>,
        finding: &'static str,
    ) -> Result<(), ProbeError> {
        match answer {
            Err(StoreError::AlreadyExists { .. }) => Ok(()),
            answer => {
                self.refused(step, answer)?;
                self.expect(false, finding)
            }
        }
    }

    fn expect(&self, holds: bool, finding: &'static str) -> Result<(), ProbeError> {
        if holds {
            return Ok(());
        }
        Err(ProbeError::BrokenPromise { location: self.store.location(), finding })
    }

    fn refused<T>(&self, step: &'static str, answer: Result<T, StoreError>) -> Result<T, ProbeError> {
        answer.map_err(|source| ProbeError::Refused { location: self.store.location(), step, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::faulty::{Effect, Fault, FaultyStore, Operation};
    use crate::store::memory::MemoryStore;
    use crate::store::{Listed, Store};

    /// Breaks exactly one promise.
    #[derive(Debug)]
    struct Liar {
        honest: MemoryStore,
        lie: Lie,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Lie {
        CreateReplaces,
        RenameReplaces,
        PublishMerges,
        DeleteForgets,
        ListIsStale,
        Full,
    }

    impl Store for Liar {
        fn location(&self) -> String {
            "/a/liar".to_owned()
        }
        fn create(&self, path: &ObjectPath, bytes: &[u8]) -> Result<(), StoreError> {
            match self.lie {
                Lie::CreateReplaces => self.honest.replace(path, bytes),
                _ => self.honest.create(path, bytes),
            }
        }
        fn replace(&self, path: &ObjectPath, bytes: &[u8]) -> Result<(), StoreError> {
            self.honest.replace(path, bytes)
        }
        fn upload(&self) -> Result<Box<dyn Upload>, StoreError> {
            self.honest.upload()
        }
        fn read(&self, path: &ObjectPath, limit: u64) -> Result<Vec<u8>, StoreError> {
            self.honest.read(path, limit)
        }
        fn read_range(&self, path: &ObjectPath, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
            self.honest.read_range(path, offset, length)
        }
        fn size(&self, path: &ObjectPath) -> Result<u64, StoreError> {
            self.honest.size(path)
        }
        fn list(&self, folder: Option<&ObjectPath>) -> Result<Vec<Listed>, StoreError> {
            if self.lie == Lie::ListIsStale { Ok(Vec::new()) } else { self.honest.list(folder) }
        }
        fn stage(
            &self,
            from: &ObjectPath,
            to: &ObjectPath,
            last: &str,
            owner: &str,
        ) -> Result<ObjectPath, StoreError> {
            self.honest.stage(from, to, last, owner)
        }
        fn publish(&self, from: &ObjectPath, to: &ObjectPath, last: &str) -> Result<(), StoreError> {
            if self.lie == Lie::PublishMerges {
                self.honest.delete_folder(to)?;
            }
            self.honest.publish(from, to, last)
        }
        fn modified(&self, path: &ObjectPath) -> Result<jiff::Timestamp, StoreError> {
            self.honest.modified(path)
        }
        fn withdraw(&self, from: &ObjectPath, to: &ObjectPath, last: &str) -> Result<(), StoreError> {
            self.honest.withdraw(from, to, last)
        }
        fn rename(&self, from: &ObjectPath, to: &ObjectPath) -> Result<(), StoreError> {
            if self.lie == Lie::RenameReplaces {
                self.honest.delete(to)?;
            }
            self.honest.rename(from, to)
        }
        fn delete(&self, path: &ObjectPath) -> Result<(), StoreError> {
            if self.lie == Lie::DeleteForgets { Ok(()) } else { self.honest.delete(path) }
        }
        fn delete_folder(&self, path: &ObjectPath) -> Result<(), StoreError> {
            self.honest.delete_folder(path)
        }
        fn free_space(&self) -> Result<Option<u64>, StoreError> {
            Ok((self.lie == Lie::Full).then_some(0))
        }
    }

    #[test]
    fn each_broken_promise_is_named_and_nothing_is_left_behind() {
        let cases = [
            (Lie::CreateReplaces, "exclusive creation"),
            (Lie::RenameReplaces, "a rename replaced an existing file"),
            (Lie::PublishMerges, "renamed onto an existing one"),
            (Lie::DeleteForgets, "a deleted file can still be read"),
            (Lie::ListIsStale, "not listed"),
            (Lie::Full, "no free space"),
        ];
        for (lie, words) in cases {
            let honest = MemoryStore::new();
            honest.create(&ObjectPath::new("foreign"), b"kept").unwrap();
            let refused = probe(&Liar { honest: honest.clone(), lie }).unwrap_err().to_string();
            assert!(refused.contains(words) && refused.contains("/a/liar"), "{lie:?}: {refused}");
            let names: Vec<String> =
                honest.list(None).unwrap().into_iter().map(|listed| listed.name).collect();
            assert_eq!(names, ["foreign"], "{lie:?}");
        }
    }

    #[test]
    fn a_flipped_bit_on_reading_back_is_noticed() {
        let faulty = FaultyStore::new(MemoryStore::new());
        faulty.fail(Fault::new(Effect::FlippedBit { bit: 9 }).on(Operation::Read));
        let refused = probe(&faulty).unwrap_err().to_string();
        assert!(refused.contains("reads back differently"), "{refused}");
    }

    #[test]
    fn an_operation_that_the_storage_refuses_is_named() {
        let faulty = FaultyStore::new(MemoryStore::new());
        faulty.fail(Fault::new(Effect::Refused).on(Operation::Publish));
        let refused = probe(&faulty).unwrap_err();
        assert!(matches!(refused, ProbeError::Refused { step: "rename a folder", .. }), "{refused:?}");
        assert_eq!(faulty.inner().list(None).unwrap(), []);
    }
}
