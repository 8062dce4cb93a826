//! What hostile archives are made of: entries written as bytes with nothing checked, so that they can say
//! what an honest writer cannot, and a canary tree whose every change shows.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use repository::codec::Encoder;
use repository::ids::BlobId;

/// An entry as somebody who wants harm would write it.
#[derive(Debug, Clone)]
pub struct Raw {
    pub path: Vec<u8>,
    pub mode: u64,
    pub owner: (u64, u64),
    pub mtime: (i64, u64),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub body: Body,
}

/// What the entry claims to be.
#[derive(Debug, Clone)]
pub enum Body {
    Folder,
    File(Content),
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Fifo,
    Socket,
    Device {
        block: bool,
        major: u64,
        minor: u64,
    },
    /// A kind that does not exist.
    Unknown(u8),
}

/// A file's content, true or not.
#[derive(Debug, Clone)]
pub struct Content {
    pub size: u64,
    pub id: [u8; 32],
    /// Gaps and lengths; none: dense.
    pub extents: Option<Vec<(u64, u64)>>,
    pub pieces: Pieces,
}

/// Where its data is said to lie: a blob of the page's table, offset, length.
#[derive(Debug, Clone)]
pub enum Pieces {
    Inline(Vec<(u64, u64, u64)>),
    Listed(Vec<u64>),
}

impl Raw {
    pub fn new(path: impl AsRef<[u8]>, body: Body) -> Self {
        let mode = if matches!(body, Body::Folder) { 0o755 } else { 0o644 };
        let path = path.as_ref().to_vec();
        Self { path, mode, owner: (0, 0), mtime: (1_700_000_000, 0), xattrs: Vec::new(), body }
    }

    pub fn folder(path: &str) -> Self {
        Self::new(path, Body::Folder)
    }

    pub fn link(path: &str, target: impl AsRef<[u8]>) -> Self {
        Self::new(path, Body::Symlink(target.as_ref().to_vec()))
    }

    pub fn hard(path: &str, to: impl AsRef<[u8]>) -> Self {
        Self::new(path, Body::HardLink(to.as_ref().to_vec()))
    }

    pub fn mode(self, mode: u64) -> Self {
        Self { mode, ..self }
    }

    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.push((name.as_bytes().to_vec(), value.to_vec()));
        self
    }
}

/// The plaintext of a page that says it holds `count` entries.
pub fn page(blobs: &[BlobId], entries: &[Raw], count: u64) -> Vec<u8> {
    let mut out = Encoder::new();
    out.varint(blobs.len() as u64);
    blobs.iter().for_each(|id| out.raw(id.as_bytes()));
    out.varint(count);
    let mut before = &b""[..];
    for entry in entries {
        let shared = entry.path.iter().zip(before).take_while(|(one, other)| one == other).count();
        out.varint(shared as u64);
        out.bytes(&entry.path[shared..]);
        before = &entry.path;
        out.u8(match &entry.body {
            Body::Folder => 1,
            Body::File(_) => 2,
            Body::Symlink(_) => 3,
            Body::HardLink(_) => 4,
            Body::Fifo => 5,
            Body::Socket => 6,
            Body::Device { block, .. } => 7 + u8::from(*block),
            Body::Unknown(code) => *code,
        });
        for number in [entry.mode, entry.owner.0, entry.owner.1] {
            out.varint(number);
        }
        out.signed(entry.mtime.0);
        out.varint(entry.mtime.1);
        out.varint(entry.xattrs.len() as u64);
        for (name, value) in &entry.xattrs {
            out.bytes(name);
            out.bytes(value);
        }
        match &entry.body {
            Body::File(content) => file(&mut out, content),
            Body::Symlink(target) | Body::HardLink(target) => out.bytes(target),
            Body::Device { major, minor, .. } => {
                out.varint(*major);
                out.varint(*minor);
            }
            _ => {}
        }
    }
    out.finish()
}

fn file(out: &mut Encoder, content: &Content) {
    out.varint(content.size);
    out.raw(&content.id);
    match &content.extents {
        None => out.varint(0),
        Some(extents) => {
            out.varint(extents.len() as u64 + 1);
            for (gap, length) in extents {
                out.varint(*gap);
                out.varint(*length);
            }
        }
    }
    match &content.pieces {
        Pieces::Inline(pieces) => {
            out.u8(0);
            out.varint(pieces.len() as u64);
            for (place, offset, length) in pieces {
                [*place, *offset, *length].into_iter().for_each(|number| out.varint(number));
            }
        }
        Pieces::Listed(lists) => {
            out.u8(1);
            out.varint(lists.len() as u64);
            lists.iter().for_each(|place| out.varint(*place));
        }
    }
}

/// Makes the tree that nothing may touch, and returns where it lies: the names are those that archives use.
pub fn make_canary(home: &Path) -> PathBuf {
    let canary = home.join("canary");
    for folder in ["a/b", "b", "d0/inner", "d1/inner", "new", "old", "late"] {
        fs::create_dir_all(canary.join(folder)).expect("made");
    }
    for file in ["a/x", "a/b/x", "b/x", "x", "passwd", "d0/x", "d0/inner/x", "d1/x", "journal", "new/x"] {
        fs::write(canary.join(file), format!("canary {file}")).expect("written");
    }
    fs::set_permissions(canary.join("passwd"), fs::Permissions::from_mode(0o640)).expect("set");
    symlink("passwd", canary.join("link")).expect("made");
    canary
}

/// All that can be seen of a tree, a line for each entry, the inode's own time of change among it: what was
/// only touched or linked to shows, too.
pub fn fingerprint(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let stat = path.symlink_metadata().expect("lstat");
        let kind = stat.file_type();
        let content = match kind {
            _ if kind.is_file() => fs::read(&path).expect("read"),
            _ if kind.is_symlink() => path.read_link().expect("read").as_os_str().as_bytes().to_vec(),
            _ => Vec::new(),
        };
        lines.push(format!(
            "{path:?} {:o} {}:{} {} {} {} {}.{} {}.{} {:?} {}",
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.nlink(),
            stat.ino(),
            stat.size(),
            stat.mtime(),
            stat.mtime_nsec(),
            stat.ctime(),
            stat.ctime_nsec(),
            xattr_names(&path),
            String::from_utf8_lossy(&content),
        ));
        if kind.is_dir() {
            waiting.extend(path.read_dir().expect("list").map(|entry| entry.expect("an entry").path()));
        }
    }
    lines.sort();
    lines
}

fn xattr_names(path: &Path) -> String {
    let mut names = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    String::from_utf8_lossy(&names[..length]).into_owned()
}

#[track_caller]
pub fn assert_untouched(canary: &Path, before: &[String], what: &str) {
    let after = fingerprint(canary);
    let changed: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    assert!(after == before, "{what}: outside of the target there changed: {changed:#?}");
}

/// A folder on a file system in memory, where there is one: thousands of restores make all durable each time.
pub fn home() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let at = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("neurashield-hostile-").tempdir_in(at).expect("a folder")
}
