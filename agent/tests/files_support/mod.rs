//! What the tests of the files driver share: an archive in memory, a look at a tree by other means than
//! the driver's, and faults.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]

pub mod live;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use agent::sources::files::{Excludes, FilesSource};
use agent::sources::{Body, Content, Item, Problem, ProblemKind, ReadError, Source};
use agent::targets::files::{
    Allowance, NoFaults, PathPatterns, Place, RestoreError, RestoreReport, RestoreRequest, Selection, Steps,
    Tools, plan, restore, survey,
};
use agent::targets::{BlobError, BlobReader, CancelFlag};
use bytes::Bytes;
use repository::archive::entry::{Entry, EntryKind, FileContent, Layout, Piece, Pieces};
use repository::archive::page::encode_pieces;
use repository::codec::Malformed;
use repository::content::{ContentHasher, IdKey};
use repository::ids::BlobId;

pub const KEY: IdKey = IdKey::new([7; 32]);
/// Pieces of large files; a small file is a slice of a bundle.
const PIECE: usize = 300_000;
const BUNDLE: usize = 100_000;
/// More pieces than this are listed in blobs of their own.
const INLINE: usize = 4;

/// A restore of all that an archive holds.
pub fn request(restore_id: &str, place: Place) -> RestoreRequest {
    RestoreRequest {
        restore_id: restore_id.to_owned(),
        place,
        selection: Selection::Whole,
        keeps_older: false,
        stays: None,
        signer_height: None,
        signer_seen: None,
        signer_seen_here: None,
        leaves_keys: false,
    }
}

/// The same over what is live.
pub fn in_place(root: &Path, restore_id: &str) -> RestoreRequest {
    request(restore_id, Place::InPlace { root: root.to_owned() })
}

/// The same of what these patterns name.
pub fn paths(root: &Path, restore_id: &str, patterns: &[&str]) -> RestoreRequest {
    let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    let selection = Selection::Paths(PathPatterns::new(&patterns).expect("patterns"));
    RestoreRequest { selection, ..in_place(root, restore_id) }
}

/// A whole archive in memory.
#[derive(Default, Clone)]
pub struct Archive {
    pub entries: Vec<Entry>,
    pub blobs: HashMap<BlobId, Bytes>,
    pub problems: Vec<Problem>,
    bundle: Vec<u8>,
}

impl Archive {
    pub fn of(root: &Path) -> Self {
        Self::read(FilesSource::folder(root, Excludes::none()).expect("the folder opens"))
    }

    /// Reads a source to its end, much as the pipeline does.
    pub fn read(mut source: FilesSource) -> Self {
        let mut archive = Self::default();
        while let Some(item) = source.next().expect("the source goes on") {
            match item {
                Item::Problem(problem) => archive.problems.push(problem),
                Item::Entry(entry) => {
                    let kind = match entry.body {
                        Body::Plain(kind) => kind,
                        Body::File { mut content, .. } => match archive.file(&mut *content) {
                            Ok((content, false)) => EntryKind::File(content),
                            Ok((content, true)) => {
                                archive.tell(&entry.path, ProblemKind::Changed);
                                EntryKind::File(content)
                            }
                            Err(error) => {
                                let gone = error.vanished;
                                let kind = if gone { ProblemKind::Vanished } else { ProblemKind::Unreadable };
                                archive.tell(&entry.path, kind);
                                continue;
                            }
                        },
                    };
                    archive.entries.push(Entry { path: entry.path, metadata: entry.metadata, kind });
                }
            }
        }
        archive.close_bundle();
        archive
    }

    fn tell(&mut self, path: &repository::archive::path::EntryPath, kind: ProblemKind) {
        self.problems.push(Problem { path: path.clone(), kind, cause: "while it was read".into() });
    }

    /// Reads one file; true if it changed meanwhile.
    pub fn file(&mut self, content: &mut dyn Content) -> Result<(FileContent, bool), ReadError> {
        let opened = content.open()?;
        let mut data = Vec::new();
        let mut buffer = vec![0; 64 * 1024 + 7];
        loop {
            match content.read(&mut buffer)? {
                0 => break,
                count => data.extend_from_slice(&buffer[..count]),
            }
        }
        let changed = content.close()? != opened.stamp;
        let expected: u64 = opened.layout.extents(opened.stamp.size).iter().map(|extent| extent.length).sum();
        // What became shorter is archived as what was read of it.
        let (size, layout) = match data.len() as u64 {
            read if read < expected => (read, Layout::Dense),
            _ => (opened.stamp.size, opened.layout),
        };
        let mut hasher = ContentHasher::new(&KEY);
        let mut rest = &data[..];
        for extent in layout.extents(size) {
            let (part, after) = rest.split_at((extent.length as usize).min(rest.len()));
            hasher.data(part);
            hasher.extent_ends(extent);
            rest = after;
        }
        let id = hasher.finish(size);
        let pieces = self.pieces(&data);
        Ok((FileContent { size, id, layout, pieces }, changed))
    }

    pub fn pieces(&mut self, data: &[u8]) -> Pieces {
        if data.len() < PIECE {
            if self.bundle.len() + data.len() > BUNDLE {
                self.close_bundle();
            }
            let piece = Piece {
                blob: blob_id(self.blobs.len()),
                offset: self.bundle.len() as u32,
                length: data.len() as u32,
            };
            self.bundle.extend_from_slice(data);
            return Pieces::Inline(if data.is_empty() { Vec::new() } else { vec![piece] });
        }
        self.close_bundle();
        let pieces: Vec<Piece> = data
            .chunks(PIECE)
            .map(|chunk| Piece { blob: self.add(chunk), offset: 0, length: chunk.len() as u32 })
            .collect();
        if pieces.len() <= INLINE {
            return Pieces::Inline(pieces);
        }
        Pieces::Listed(pieces.chunks(INLINE).map(|list| self.add(&encode_pieces(list))).collect())
    }

    fn add(&mut self, bytes: &[u8]) -> BlobId {
        let id = blob_id(self.blobs.len());
        self.blobs.insert(id, Bytes::copy_from_slice(bytes));
        id
    }

    fn close_bundle(&mut self) {
        if !self.bundle.is_empty() {
            let bundle = std::mem::take(&mut self.bundle);
            self.add(&bundle);
        }
    }

    pub fn entry(&self, path: &str) -> &Entry {
        self.find(path).unwrap_or_else(|| panic!("{path} is in the archive"))
    }

    pub fn find(&self, path: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.path.as_bytes() == path.as_bytes())
    }

    pub fn entry_mut(&mut self, path: &str) -> &mut Entry {
        self.entries.iter_mut().find(|entry| entry.path.as_bytes() == path.as_bytes()).expect("it is there")
    }

    pub fn restore(&self, request: &RestoreRequest) -> Result<RestoreReport, RestoreError> {
        self.restore_with(request, &NoFaults)
    }

    pub fn restore_with(
        &self,
        request: &RestoreRequest,
        steps: &dyn Steps,
    ) -> Result<RestoreReport, RestoreError> {
        self.restore_within(request, self.planned(request), steps)
    }

    /// What the plan of this restore allows; nothing where it cannot be planned, since it fails alike.
    pub fn planned(&self, request: &RestoreRequest) -> Allowance {
        let facts = survey(request, &KEY, self.entries.iter().cloned().map(Ok::<_, Malformed>));
        facts.map(|facts| Allowance::all(&plan(&facts))).unwrap_or_default()
    }

    pub fn restore_within(
        &self,
        request: &RestoreRequest,
        allowance: Allowance,
        steps: &dyn Steps,
    ) -> Result<RestoreReport, RestoreError> {
        let cancel = CancelFlag::default();
        let tools = Tools { id_key: &KEY, progress: &(), cancel: &cancel, steps };
        let mut blobs = Blobs { blobs: &self.blobs, hinted: Vec::new() };
        let entries = self.entries.iter().cloned().map(Ok::<_, Malformed>);
        restore(request, allowance, entries, &mut blobs, tools)
    }
}

/// Demands that every blob was hinted at before it is asked for.
pub struct Blobs<'a> {
    pub blobs: &'a HashMap<BlobId, Bytes>,
    pub hinted: Vec<BlobId>,
}

impl BlobReader for Blobs<'_> {
    fn hint(&mut self, upcoming: &[BlobId]) {
        assert!(upcoming.len() <= 64, "a hint is bounded");
        self.hinted = upcoming.to_vec();
    }

    fn blob(&mut self, id: &BlobId) -> Result<Bytes, BlobError> {
        assert_eq!(self.hinted.first(), Some(id), "the hint starts with what is asked for next");
        self.blobs.get(id).cloned().ok_or(BlobError::Missing(*id))
    }
}

fn blob_id(number: usize) -> BlobId {
    let mut bytes = [0; BlobId::LEN];
    bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
    BlobId::new(bytes)
}

/// A dense file's content for hand-made entries.
pub fn dense(archive: &mut Archive, data: &[u8]) -> EntryKind {
    let mut hasher = ContentHasher::new(&KEY);
    let layout = Layout::Dense;
    hasher.data(data);
    layout.extents(data.len() as u64).into_iter().for_each(|extent| hasher.extent_ends(extent));
    let pieces = archive.pieces(data);
    archive.close_bundle();
    EntryKind::File(FileContent {
        size: data.len() as u64,
        id: hasher.finish(data.len() as u64),
        layout,
        pieces,
    })
}

/// All that can be seen of one entry, as `lstat` and its friends give it.
#[derive(Clone, PartialEq, Eq)]
pub struct Fact {
    pub kind: String,
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, i64),
    pub size: u64,
    pub content: Vec<u8>,
    pub data: Vec<(u64, u64)>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The first name of the same inode.
    pub same_as: Option<PathBuf>,
}

impl fmt::Debug for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fact { kind, mode, owner, mtime, size, content, data, xattrs, same_as } = self;
        let head = String::from_utf8_lossy(&content[..content.len().min(20)]).into_owned();
        write!(f, "{kind} {mode:o} {owner:?} {mtime:?} {size} {head:?} {data:?} {xattrs:?} {same_as:?}")
    }
}

pub type Tree = BTreeMap<PathBuf, Fact>;

/// What is in `root`, staging folders left out.
pub fn look(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut first_names = HashMap::new();
    look_into(root, Path::new(""), &mut tree, &mut first_names);
    tree
}

fn look_into(root: &Path, path: &Path, tree: &mut Tree, first: &mut HashMap<(u64, u64), PathBuf>) {
    let full = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(path) };
    let stat = full.symlink_metadata().expect("lstat");
    let kind = stat.file_type();
    let inode = (stat.dev(), stat.ino());
    let same_as = (!kind.is_dir() && stat.nlink() > 1)
        .then(|| first.entry(inode).or_insert_with(|| path.to_owned()).clone());
    let mut fact = Fact {
        kind: format!("{}", stat.mode() & 0o170_000),
        mode: stat.mode() & 0o7777,
        owner: (stat.uid(), stat.gid()),
        mtime: (stat.mtime(), stat.mtime_nsec()),
        size: if kind.is_dir() { 0 } else { stat.size() },
        content: Vec::new(),
        data: Vec::new(),
        xattrs: xattrs(&full),
        same_as,
    };
    if kind.is_file() {
        fact.content = std::fs::read(&full).expect("read");
        fact.data = data_extents(&full);
    } else if kind.is_symlink() {
        fact.content = full.read_link().expect("readlink").into_os_string().into_vec();
    } else if kind.is_char_device() || kind.is_block_device() {
        fact.content = stat.rdev().to_le_bytes().to_vec();
    }
    tree.insert(path.to_owned(), fact);
    if kind.is_dir() {
        let mut names: Vec<_> =
            full.read_dir().expect("list").map(|entry| entry.expect("entry").file_name()).collect();
        names.sort();
        for name in names.iter().filter(|name| !name.as_bytes().starts_with(b".neurashield-")) {
            look_into(root, &path.join(name), tree, first);
        }
    }
}

fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).expect("the attributes can be listed");
    let mut found: Vec<_> = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 65_536];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).expect("an attribute");
            (name.to_vec(), value[..length].to_vec())
        })
        .collect();
    found.sort();
    found
}

fn data_extents(path: &Path) -> Vec<(u64, u64)> {
    let file = std::fs::File::open(path).expect("open");
    let (mut extents, mut at) = (Vec::new(), 0);
    while let Ok(start) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
        let end = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(start)).expect("a hole follows");
        extents.push((start, end));
        at = end;
    }
    extents
}

/// Compares with a message that names what differs and not the whole trees.
pub fn differences(one: &Tree, other: &Tree) -> Vec<String> {
    let mut paths: Vec<_> = one.keys().chain(other.keys()).collect();
    paths.sort();
    paths.dedup();
    let differing = paths.into_iter().filter(|path| one.get(*path) != other.get(*path));
    differing.map(|path| format!("{path:?}: {:?} and {:?}", one.get(path), other.get(path))).collect()
}

#[track_caller]
pub fn assert_same(one: &Tree, other: &Tree) {
    let differences = differences(one, other);
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}

/// The tree without the time of its root, which cannot be kept where staging folders come and go.
pub fn without_root_time(mut tree: Tree) -> Tree {
    tree.get_mut(Path::new("")).expect("it has a root").mtime = (0, 0);
    tree
}

/// Staging folders that lie in `root`.
pub fn staging(root: &Path) -> Vec<String> {
    let names = root.read_dir().expect("list").map(|entry| entry.expect("entry").file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with(".neurashield-"))
        .collect()
}

/// Lets the change with this number fail, or all from it on, as if the process had been killed.
pub struct Faults {
    pub at: u64,
    pub for_good: bool,
    count: Cell<u64>,
}

impl Faults {
    pub fn crash(at: u64) -> Self {
        Self { at, for_good: true, count: Cell::new(0) }
    }

    pub fn once(at: u64) -> Self {
        Self { at, for_good: false, count: Cell::new(0) }
    }

    /// True if the fault has happened.
    pub fn happened(&self) -> bool {
        self.count.get() > self.at
    }
}

impl Steps for Faults {
    fn before(&self, what: &'static str) -> io::Result<()> {
        // A failure to set an attribute is only noted, by intent.
        if what == "set an attribute" && !self.for_good {
            return Ok(());
        }
        let n = self.count.get();
        self.count.set(n + 1);
        if n == self.at || (self.for_good && n > self.at) {
            return Err(io::Error::other(format!("fault at step {n}, {what}")));
        }
        Ok(())
    }
}
