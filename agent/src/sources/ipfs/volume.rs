//! The folder of a node's repository, also of one that runs: its index first, held at one moment, its blocks after.
//!
//! Blocks never change, so links keep them, whatever garbage collection does to their names. They are linked before
//! the index is held, so that little is left to do after it, and what is new is linked then. A look at the index
//! behind that tells whether all that it had kept is kept still: then nothing that it needs can have been collected
//! before it was linked.
//!
//! Must stay true: `bracketed` is claimed for that alone. What could not be held, or looked at, is told.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use formats::ipfs::{IndexReader, MAX_INDEX_FILE, NoPins, Pinned};
use repository::archive::path::EntryPath;
use repository::backup::manifest::{Consistency, Quiesce, QuiescedBy};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::parts::{Stamps, elsewhere, stamps};
use super::shards::{Shards, is_block_at, is_there, lacking};
use super::spec::Spec;
use crate::sources::blockchain::hold::{Hold, names};
use crate::sources::blockchain::ladder::{Climbed, Ladder};
use crate::sources::blockchain::look::{Looked, Part, is_store, open};
use crate::sources::blockchain::{HeldFolder, Way};
use crate::sources::files::{FilesSource, Rules};
use crate::sources::{Item, Problem, ProblemKind, Source, SourceError};

/// So often the index is held until all that it keeps is kept behind the blocks, too.
const ATTEMPTS: usize = 5;
/// An index with more bytes is not looked through for its pins.
const MAX_INDEX: u64 = 2 << 30;
/// Where Kubo keeps the index.
const INDEX: &str = "datastore";
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Reads a repository's folder.
pub(crate) struct VolumeSource {
    files: FilesSource,
    /// Where blocks are written.
    temp: Option<EntryPath>,
    /// What is looked at once all was read.
    after: Option<(OwnedFd, After)>,
    quiesce: Option<Quiesce>,
    // After the files, which are read from there.
    _holds: Vec<Hold>,
}

impl Source for VolumeSource {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        loop {
            match self.files.next()? {
                Some(Item::Entry(entry)) if self.is_running(&entry.path) => {}
                Some(Item::Problem(problem)) if self.is_running(&problem.path) => {}
                None => {
                    let told = self.after.take().and_then(|(folder, after)| after.told(&folder));
                    return Ok(told.map(Item::Problem));
                }
                other => return Ok(other),
            }
        }
    }

    fn consistency(&self) -> Consistency {
        match self.quiesce.map(|quiesce| quiesce.by) {
            None => Consistency::Fuzzy,
            Some(QuiescedBy::Bracket) => Consistency::Bracketed,
            Some(QuiescedBy::Pause | QuiescedBy::Container | QuiescedBy::Lock | QuiescedBy::Other) => {
                Consistency::Quiesced
            }
        }
    }

    fn quiesce(&self) -> Option<Quiesce> {
        self.quiesce
    }
}

/// What is not held and has to be the same when all was read.
enum After {
    /// The files of an index that is read where it is.
    Index(EntryPath, Stamps),
    /// Pins whose blocks may be collected meanwhile: the folder of those, the index, what it kept.
    Pins(EntryPath, EntryPath, Box<Pinned>),
}

impl After {
    fn told(self, folder: &OwnedFd) -> Option<Problem> {
        let (path, cause) = match self {
            Self::Index(path, before) => match stamps(folder, &path) {
                Ok(now) if now == before => return None,
                _ => (
                    path,
                    "it was written to while it was read, and could not be held: a copy that lacks pins opens without \
                     a word; let the agent make folders there, or stop the node for its backup, by hooks",
                ),
            },
            Self::Pins(path, index, before) => match pins_in(folder, &index) {
                Ok(now) if before.is_kept_by(&now) => return None,
                _ => (
                    path,
                    "pins of the index that is in the backup went while their blocks were read, which could not be \
                     linked before: some may have been collected",
                ),
            },
        };
        Some(Problem { path, kind: ProblemKind::Unreadable, cause: cause.to_owned() })
    }
}

/// What was held, and what is to be told.
#[derive(Default)]
struct Kept {
    holds: Vec<Hold>,
    temp: Option<EntryPath>,
    after: Option<After>,
    held: BTreeMap<EntryPath, HeldFolder>,
    quiesce: Option<Quiesce>,
    told: Vec<Problem>,
}

impl VolumeSource {
    /// True for what a node keeps while it runs: it tells of nothing that a backup could bring back, and a node does
    /// not start where some of it is left.
    fn is_running(&self, path: &EntryPath) -> bool {
        let path = path.as_bytes();
        let is_below = |folder: &[u8]| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with(b"/"));
        let is_written = self.temp.as_ref().is_some_and(|temp| is_below(temp.as_bytes()));
        matches!(path, b"repo.lock" | b"api" | b"gateway") || is_below(b"repo.lock") || is_written
    }

    /// Holds what has to fit together in the folder `root`, which is then read by `rules`. `is_new`: no backup holds
    /// anything of it yet. Blocks.
    pub(crate) fn open(
        root: &Path,
        mut rules: Rules,
        way: &Way<'_>,
        is_new: bool,
        cancel: &CancellationToken,
    ) -> Result<Self, SourceError> {
        let failed =
            |error: io::Error| SourceError::Open { folder: root.display().to_string(), source: error };
        let flags = FOLDER.difference(OFlags::NOFOLLOW);
        let folder = rustix::fs::open(root, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let one_file_system = rules.one_file_system;
        let mut kept =
            Repository { folder: &folder, way, one_file_system, is_new, cancel }.keep().map_err(failed)?;
        let after = kept.after.take().map(|after| (folder, after));
        tracing::info!(folder = %root.display(), quiesce = ?kept.quiesce, "looked at the node's folder");
        rules.held = Arc::new(kept.held);
        let mut files = FilesSource::folder(root, rules)?;
        files.tell(kept.told);
        Ok(Self { files, temp: kept.temp, after, quiesce: kept.quiesce, _holds: kept.holds })
    }
}

struct Repository<'a> {
    folder: &'a OwnedFd,
    way: &'a Way<'a>,
    one_file_system: bool,
    is_new: bool,
    cancel: &'a CancellationToken,
}

/// The blocks of a repository.
enum Blocks {
    /// They are in a store.
    InStore,
    Linked(Shards),
    /// They are there and cannot be linked.
    Live(OwnedFd),
    /// They are not there.
    Lost,
}

impl Repository<'_> {
    fn keep(&self) -> io::Result<Kept> {
        let mut kept = Kept::default();
        if !self.is_repository() {
            let (kind, cause) = match (self.is_empty()?, self.is_new) {
                (false, _) => (
                    ProblemKind::Suspect,
                    "there is no repository of an IPFS node in it: it is read as it is",
                ),
                (true, true) => (
                    ProblemKind::Suspect,
                    "it is empty, and no backup holds anything of it: no node has been here yet, or its volume is not \
                     mounted",
                ),
                // Where a node's folder was, nothing of it is left, or nothing is mounted.
                (true, false) => (
                    ProblemKind::Damaged,
                    "it is empty, and there was something in it when it was backed up before: is its volume mounted?",
                ),
            };
            kept.tell(EntryPath::root(), kind, cause.to_owned());
            return Ok(kept);
        }
        let spec = Spec::of(self.folder);
        kept.temp = spec.blocks.as_ref().and_then(|flat| flat.path.join(b".temp").ok());
        kept.told.extend(spec.told());
        let stores = self.stores(&spec, &mut kept)?;
        let mut looked = Looked::default();
        looked.parts.extend(stores.iter().map(|store| (store.clone(), Part::Store)));
        let index =
            || Ladder { folder: self.folder, looked: &looked, way: self.way, cancel: self.cancel }.climb();
        let mut blocks = self.blocks(&spec, &mut kept);
        // What is not of the whole repository is of no moment.
        let elsewhere = elsewhere(self.folder, &spec, self.one_file_system);
        let mut is_whole =
            elsewhere.is_empty() && spec.is_known() && spec.stores.iter().all(|store| stores.contains(store));
        kept.told.extend(elsewhere);
        is_whole &= !stores.is_empty() && matches!(blocks, Blocks::InStore | Blocks::Linked(_));
        let mut climbed = Climbed::default();
        let mut first = Err(NoPins { why: String::new(), is_damage: false });
        let mut why = None;
        for _ in 0..ATTEMPTS {
            why = None;
            climbed = index();
            if let Blocks::Linked(shards) = &mut blocks
                && let Err(error) = shards.link_new(self.cancel)
            {
                // What is not linked is not in it: those that are there are read from their links alone.
                let cause = format!("blocks that have just come could not be linked: {error}");
                kept.tell(shards.path().clone(), ProblemKind::Unreadable, cause);
                is_whole = false;
            }
            is_whole &= climbed.quiesce.is_some();
            first = self.pinned(&climbed, &spec);
            // What is in a store is of the index's own moment.
            let is_damaged = matches!(&first, Err(error) if error.is_damage);
            if !is_damaged && (!is_whole || matches!(blocks, Blocks::InStore)) {
                break;
            }
            match &first {
                Err(error) => {
                    why = Some(format!("its pins cannot be looked at ({error})"));
                    if !error.is_damage {
                        break;
                    }
                }
                // One that is being written may have its end in the next moment.
                Ok(first) if first.is_cut_off => {
                    why = Some("its index ends in the midst of a record".to_owned())
                }
                Ok(first) => match self.pinned(&index(), &spec) {
                    Ok(second) if first.is_kept_by(&second) => {
                        why = None;
                        break;
                    }
                    Ok(_) => why = Some("pins or files of it were taken away meanwhile".to_owned()),
                    Err(error) => why = Some(format!("its pins cannot be looked at again ({error})")),
                },
            }
        }
        if let Blocks::Linked(shards) = &blocks
            && let Some(odd) = shards.oddities()
        {
            kept.told.push(odd);
            is_whole = false;
        }
        let unheld = stores.iter().find(|store| !climbed.held.contains_key(*store)).cloned();
        kept.take(climbed);
        if !is_whole || why.is_some() {
            kept.quiesce = None;
        }
        let is_loose = matches!(blocks, Blocks::Live(_)) || why.is_some();
        kept.after = match (unheld, &first, &spec.blocks, spec.stores.first()) {
            (Some(index), ..) => {
                let stamps = stamps(self.folder, &index).unwrap_or_default();
                Some(After::Index(index, stamps))
            }
            (None, Ok(pinned), Some(flat), Some(index)) if is_loose => {
                Some(After::Pins(flat.path.clone(), index.clone(), Box::new(pinned.clone())))
            }
            _ => None,
        };
        let Some(flat) = &spec.blocks else { return Ok(kept) };
        let unread = || first.as_ref().err().map(|error| format!("its pins cannot be looked at ({error})"));
        if let Some(why) = why.or_else(unread) {
            let why = format!("{why}, so it is not known whether some of the blocks that it keeps are gone");
            kept.suspect(flat.path.clone(), &why);
        }
        let damage = match &first {
            // However often it is looked at: it is what the node itself would find.
            Err(error) if error.is_damage => Some(format!("no pins of it can be read: {error}")),
            Ok(first) if first.is_cut_off => Some(
                "its last record is cut off, as by a crash or by damage: what was pinned last may lack; start the node \
                 and stop it, which writes it anew"
                    .to_owned(),
            ),
            _ => None,
        };
        if let (Some(damage), Some(index)) = (damage, spec.stores.first()) {
            kept.tell(index.clone(), ProblemKind::Damaged, damage);
        }
        if let Ok(pinned) = &first {
            kept.told.extend(match &blocks {
                Blocks::Linked(shards) => lacking(pinned, flat, |folder, file| shards.has(folder, file)),
                Blocks::Live(live) => {
                    lacking(pinned, flat, |folder, file| is_block_at(live, &format!("{folder}/{file}")))
                }
                Blocks::Lost | Blocks::InStore => lacking(pinned, flat, |_, _| false),
            });
        }
        if let Blocks::Linked(shards) = blocks {
            kept.with(shards)?;
        }
        Ok(kept)
    }

    /// True if something of a node's is in it: else a node has never been here, and there is nothing to claim.
    fn is_repository(&self) -> bool {
        let names = ["datastore_spec", "version", "config", "keystore", INDEX, "blocks"];
        names.iter().any(|name| is_there(self.folder, *name))
    }

    fn is_empty(&self) -> io::Result<bool> {
        Ok(names(self.folder.as_fd())?.iter().all(|name| name.to_bytes() == b"lost+found"))
    }

    /// Links the blocks, or tells why not.
    fn blocks(&self, spec: &Spec, kept: &mut Kept) -> Blocks {
        let Some(flat) = &spec.blocks else { return Blocks::InStore };
        let live = match open(self.folder, &flat.path) {
            Ok(live) => live,
            Err(error) => {
                kept.lacks(&flat.path, "the folder of its blocks", &error);
                return Blocks::Lost;
            }
        };
        let linked =
            live.try_clone().and_then(|live| Shards::link(self.folder, &flat.path, live, self.cancel));
        linked.map_or_else(
            |error| {
                let why = format!(
                    "its blocks cannot be linked, so garbage collection may take some meanwhile: {error}"
                );
                kept.suspect(flat.path.clone(), &why);
                Blocks::Live(live)
            },
            Blocks::Linked,
        )
    }

    /// The folders in it that are stores; of one that should be there it is told if it is not.
    fn stores(&self, spec: &Spec, kept: &mut Kept) -> io::Result<Vec<EntryPath>> {
        let mut stores = Vec::new();
        for path in spec.stores.iter().cloned() {
            match open(self.folder, &path) {
                Err(error) => kept.lacks(&path, "its index", &error),
                Ok(store) if is_store(&store)? => stores.push(path),
                Ok(_) => {
                    let cause = "it is the node's index and no store of LevelDB or Pebble: no node opens it";
                    kept.tell(path, ProblemKind::Damaged, cause.to_owned());
                }
            }
        }
        Ok(stores)
    }

    /// What the index keeps, as it is held.
    fn pinned(&self, climbed: &Climbed, spec: &Spec) -> Result<Pinned, NoPins> {
        let unclear = |why: &str| NoPins { why: why.to_owned(), is_damage: false };
        let store = match spec.stores.as_slice() {
            [store] if store.as_bytes() == INDEX.as_bytes() && !spec.has_pebble => store,
            _ => return Err(unclear("they are not where Kubo keeps them")),
        };
        if self.cancel.is_cancelled() {
            return Err(unclear("it was cancelled"));
        }
        match climbed.held.get(store) {
            Some(held) => read_pins(&*held.open().map_err(|error| unclear(&error.to_string()))?),
            // One that is damaged is not held: then it is looked at where it is.
            None => pins_in(self.folder, store),
        }
    }
}

/// What the index at `path` keeps, read where it is.
fn pins_in(root: &OwnedFd, path: &EntryPath) -> Result<Pinned, NoPins> {
    let folder = open(root, path).map_err(|error| NoPins { why: error.to_string(), is_damage: false })?;
    read_pins(&folder)
}

fn read_pins(folder: &OwnedFd) -> Result<Pinned, NoPins> {
    let read = || -> io::Result<IndexReader> {
        let (mut reader, mut total) = (IndexReader::default(), 0);
        for name in names(folder.as_fd())?.iter().filter(|name| IndexReader::wants(name.to_bytes())) {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = File::from(rustix::fs::openat(folder, &**name, flags, Mode::empty())?);
            let length = file.metadata()?.len();
            total += length;
            if length > MAX_INDEX_FILE || total > MAX_INDEX {
                reader.unclear("its index is too large to be looked through");
                break;
            }
            let mut bytes = Vec::new();
            file.take(MAX_INDEX_FILE).read_to_end(&mut bytes)?;
            reader.file(name.to_bytes(), &bytes);
        }
        Ok(reader)
    };
    read().map_err(|error| NoPins { why: error.to_string(), is_damage: false })?.finish()
}

impl Kept {
    fn tell(&mut self, path: EntryPath, kind: ProblemKind, cause: String) {
        self.told.push(Problem { path, kind, cause });
    }

    fn suspect(&mut self, path: EntryPath, cause: &str) {
        self.tell(path, ProblemKind::Suspect, cause.to_owned());
    }

    /// A folder that the repository needs cannot be opened.
    fn lacks(&mut self, path: &EntryPath, what: &str, error: &io::Error) {
        let (kind, cause) = match Errno::from_io_error(error) {
            Some(Errno::NOENT) => (ProblemKind::Damaged, format!("{what} is not there")),
            // Where a link leads to may be anywhere.
            Some(Errno::NOTDIR | Errno::LOOP) => {
                let cause = format!(
                    "{what} is a link or a file, and what it leads to is not in the backup: move the folder itself \
                     there, or back up by the RPC (`rpc`)"
                );
                (ProblemKind::Unreadable, cause)
            }
            _ => (ProblemKind::Unreadable, format!("{what} cannot be read: {error}")),
        };
        self.tell(path.clone(), kind, cause);
    }

    fn take(&mut self, climbed: Climbed) {
        let Climbed { hold, held, quiesce, told } = climbed;
        self.holds.extend(hold);
        self.held.extend(held.iter().map(|(path, held)| (path.clone(), held.clone())));
        self.quiesce = quiesce;
        if let Some(told) = told {
            self.suspect(EntryPath::root(), &told);
        }
    }

    fn with(&mut self, shards: Shards) -> io::Result<()> {
        let (hold, held) = shards.into_held()?;
        self.holds.push(hold);
        self.held.extend(held);
        Ok(())
    }
}
