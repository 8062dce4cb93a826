//! An independent look at folders: everything about every entry, and every byte, compared with a copy that
//! was put aside. Shares no code with what makes backups.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const PIECE: usize = 1 << 20;
/// Room for all names and for a value of one entry's extended attributes; Linux allows no more.
const XATTR_BYTES: usize = 64 << 10;

/// A folder as it was at one moment.
pub(super) struct Snapshot {
    root: PathBuf,
    entries: BTreeMap<PathBuf, Facts>,
    /// Copies of all files' bytes, by number.
    copies: PathBuf,
}

/// Everything about an entry but its bytes.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    /// Type and permissions.
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    /// Of a regular file.
    size: Option<u64>,
    /// Of a symbolic link.
    target: Option<PathBuf>,
    /// The first name of the same file, where it has several.
    same_as: Option<PathBuf>,
    attributes: BTreeMap<OsString, Vec<u8>>,
    /// Whether a large part of it takes no room.
    is_sparse: bool,
}

/// How much was compared.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extent {
    pub(super) files: u64,
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

impl Snapshot {
    /// Looks at everything below `root` and puts copies of all bytes into the new folder `copies`.
    pub(super) fn take(root: &Path, copies: &Path) -> io::Result<Self> {
        fs::create_dir(copies)?;
        let entries = look(root)?;
        for (number, (path, facts)) in entries.iter().enumerate() {
            if facts.size.is_some() {
                fs::copy(root.join(path), copies.join(number.to_string()))?;
            }
        }
        Ok(Self { root: root.to_owned(), entries, copies: copies.to_owned() })
    }

    pub(super) fn extent(&self) -> Extent {
        let sizes = || self.entries.values().filter_map(|facts| facts.size);
        let (files, entries) = (sizes().count() as u64, self.entries.len() as u64);
        Extent { files, entries, bytes: sizes().sum() }
    }

    /// What is different now, a line each; none if nothing is.
    pub(super) fn differences(&self) -> io::Result<Vec<String>> {
        let now = look(&self.root)?;
        let mut lines = Vec::new();
        for path in now.keys().filter(|path| !self.entries.contains_key(*path)) {
            lines.push(format!("{} is new", path.display()));
        }
        for (number, (path, before)) in self.entries.iter().enumerate() {
            match now.get(path) {
                None => lines.push(format!("{} is missing", path.display())),
                Some(after) if after != before => {
                    lines.push(format!("{} was {before:?} and is {after:?}", path.display()));
                }
                Some(_) if before.size.is_some() => {
                    if !same_bytes(&self.root.join(path), &self.copies.join(number.to_string()))? {
                        lines.push(format!("{} has other bytes", path.display()));
                    }
                }
                Some(_) => {}
            }
        }
        Ok(lines)
    }
}

/// All entries below `root`; not itself, and not the components' folders, which stay in place.
fn look(root: &Path) -> io::Result<BTreeMap<PathBuf, Facts>> {
    let mut entries = BTreeMap::new();
    let mut links: BTreeMap<(u64, u64), Vec<PathBuf>> = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let path = folder.join(entry?.file_name());
            // What a restore put aside is not the data.
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".neurashield-")) {
                continue;
            }
            let stat = root.join(&path).symlink_metadata()?;
            if stat.is_dir() {
                open.push(path.clone());
            } else if stat.nlink() > 1 {
                links.entry((stat.dev(), stat.ino())).or_default().push(path.clone());
            }
            if path.components().count() > 1 {
                entries.insert(path.clone(), facts(&root.join(&path), &stat)?);
            }
        }
    }
    for mut names in links.into_values() {
        names.sort();
        for name in &names {
            let facts = entries.get_mut(name).expect("every link was looked at");
            facts.same_as = Some(names[0].clone());
        }
    }
    Ok(entries)
}

fn facts(path: &Path, stat: &Metadata) -> io::Result<Facts> {
    Ok(Facts {
        mode: stat.mode(),
        owner: (stat.uid(), stat.gid()),
        modified: (stat.mtime(), stat.mtime_nsec()),
        size: stat.is_file().then_some(stat.len()),
        target: stat.is_symlink().then(|| fs::read_link(path)).transpose()?,
        same_as: None,
        attributes: attributes(path)?,
        is_sparse: stat.is_file() && stat.len() > stat.blocks() * 512 + (1 << 16),
    })
}

fn attributes(path: &Path) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    use std::os::unix::ffi::OsStrExt;
    let mut room = vec![0; XATTR_BYTES];
    let length = match rustix::fs::llistxattr(path, &mut room[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error.into()),
    };
    let names = room[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut found = BTreeMap::new();
    for name in names.map(std::ffi::OsStr::from_bytes) {
        let mut value = vec![0; XATTR_BYTES];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        value.truncate(length);
        found.insert(name.to_owned(), value);
    }
    Ok(found)
}

fn same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut a, mut b) = (Vec::with_capacity(PIECE), Vec::with_capacity(PIECE));
    loop {
        a.clear();
        b.clear();
        one.by_ref().take(PIECE as u64).read_to_end(&mut a)?;
        other.by_ref().take(PIECE as u64).read_to_end(&mut b)?;
        if a != b {
            return Ok(false);
        }
        if a.is_empty() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::SystemTime;

    use super::*;

    /// Makes a small tree, lets `change` change it, and returns the differences.
    fn differences_after(change: impl FnOnce(&Path)) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        fs::create_dir_all(data.join("models/sub")).expect("made");
        fs::write(data.join("models/a"), b"bytes").expect("written");
        fs::write(data.join("models/sub/b"), vec![7; 3 << 20]).expect("written");
        fs::hard_link(data.join("models/a"), data.join("models/c")).expect("linked");
        symlink("a", data.join("models/link")).expect("linked");
        let snapshot = Snapshot::take(&data, &folder.path().join("copies")).expect("taken");
        assert_eq!(snapshot.extent().files, 3);
        change(&data.join("models"));
        snapshot.differences().expect("compared")
    }

    /// Changes a file and sets its old time again.
    fn secretly(path: &Path, change: impl FnOnce()) {
        let before: SystemTime = path.metadata().expect("is there").modified().expect("has a time");
        change();
        File::options().write(true).open(path).and_then(|file| file.set_modified(before)).expect("set");
    }

    #[test]
    fn nothing_changed_is_no_difference() {
        assert_eq!(differences_after(|_| {}), Vec::<String>::new());
    }

    #[test]
    fn each_kind_of_change_is_seen() {
        let one = |change: fn(&Path)| {
            let lines = differences_after(change);
            assert!(!lines.is_empty(), "a change was not seen");
            lines.join("\n")
        };
        let flip = |folder: &Path| {
            let path = folder.join("sub/b");
            let mut bytes = fs::read(&path).expect("read");
            bytes[2_000_000] ^= 1;
            secretly(&path, || fs::write(&path, bytes).expect("written"));
        };
        assert!(one(flip).contains("models/sub/b has other bytes"));
        assert!(
            one(|folder| fs::remove_file(folder.join("link")).expect("removed")).contains("link is missing")
        );
        assert!(one(|folder| fs::write(folder.join("new"), "").expect("written")).contains("new is new"));
        let chmod = |folder: &Path| {
            fs::set_permissions(folder.join("sub/b"), fs::Permissions::from_mode(0o600)).expect("set");
        };
        assert!(one(chmod).contains("models/sub/b was"));
        let unlink = |folder: &Path| {
            let path = folder.join("c");
            secretly(&path, || {
                fs::remove_file(&path).expect("removed");
                fs::write(&path, b"bytes").expect("written");
            });
        };
        assert!(one(unlink).contains("models/a was"));
    }
}
