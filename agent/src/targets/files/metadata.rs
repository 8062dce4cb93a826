//! Gives an entry its owner, attributes, mode and time, in the order in which none undoes another.
//!
//! A new owner takes away setuid bits and capabilities, so it comes first. An ACL sets bits of the mode,
//! so attributes come before the mode, which has the last word. Anything changes the time, so it is set
//! last.

use std::io;
use std::os::fd::AsFd;

use repository::archive::entry::Metadata;
use repository::archive::path::EntryPath;
use rustix::fs::AtFlags;

use super::allowance::{Privilege, SET_GID, SET_UID};
use super::disk::{Disk, Subject};
use super::error::{RestoreError, failed};

/// What could not be restored as it was.
#[derive(Debug, Default)]
pub(super) struct Notes {
    ownership: Count,
    xattrs: Count,
    sockets: Count,
    devices: Count,
    privileges: Count,
    foreign: Count,
    signers: Count,
    keys: Count,
}

/// How often something happened, and where first.
#[derive(Debug, Default)]
struct Count {
    times: u64,
    first: String,
}

impl Count {
    fn add(&mut self, path: &EntryPath, cause: &str) {
        if self.times == 0 {
            self.first = format!("{path}{cause}");
        }
        self.times += 1;
    }
}

impl Notes {
    pub(super) fn socket(&mut self, path: &EntryPath) {
        self.sockets.add(path, "");
    }

    pub(super) fn signer(&mut self, path: &EntryPath, backup: Option<i64>, height: i64) {
        let backup = backup.map_or_else(|| "a link".to_owned(), |backup| backup.to_string());
        self.signers.add(path, &format!(": height {height}, and {backup} in the backup"));
    }

    pub(super) fn key(&mut self, path: &EntryPath) {
        self.keys.add(path, "");
    }

    pub(super) fn device(&mut self, path: &EntryPath) {
        self.devices.add(path, "");
    }

    pub(super) fn not_granted(&mut self, path: &EntryPath, privilege: Privilege) {
        self.privileges.add(path, &format!(", {}", privilege.word()));
    }

    /// One line for each kind of thing that happened.
    pub(super) fn lines(&self) -> Vec<String> {
        let lines = [
            ("owner or group not restored, which only root may: {}", &self.ownership),
            ("extended attributes not restored: {}", &self.xattrs),
            ("sockets left out, their program makes them anew: {}", &self.sockets),
            ("devices left out, which only root may make: {}", &self.devices),
            ("privileges that were not granted left out: {}", &self.privileges),
            ("validators' states that are ahead of the backup's kept: {}", &self.signers),
            ("validators' keys left out of a copy, unless named or --signer-height is given: {}", &self.keys),
            ("mode or time left as it is, which only its owner may set: {}", &self.foreign),
        ];
        let happened = lines.into_iter().filter(|(_, count)| count.times > 0);
        happened
            .map(|(text, Count { times, first })| text.replace("{}", &format!("{times} (first {first})")))
            .collect()
    }
}

/// Gives `subject` its metadata. What only root may do is noted, not an error; so is what only the owner may do
/// where the subject was there before and is somebody else's: the folder of a volume is root's and lets the
/// agent's group write.
pub(super) fn apply(
    disk: &Disk<'_>,
    subject: Subject<'_>,
    is_symlink: bool,
    path: &EntryPath,
    metadata: &Metadata,
    notes: &mut Notes,
) -> Result<(), RestoreError> {
    let mut mode = metadata.mode;
    mode &= !bits_lost(disk, subject, path, metadata, notes)?;
    for (name, value) in &metadata.xattrs {
        match disk.set_xattr(subject, name, value) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                return Err(failed("set the attributes of", path)(error));
            }
            Err(error) => {
                let name = repository::archive::path::ShowBytes(name);
                notes.xattrs.add(path, &format!(", {name}: {error}"));
            }
        }
    }
    let present = stat_of(subject).map_err(failed("read the owner of", path))?;
    let is_foreign = present.st_uid != rustix::process::geteuid().as_raw();
    // What everybody may do beyond what was backed up is no matter for a note.
    let is_more_open = present.st_mode & !mode & 0o007 != 0;
    let mut is_left = false;
    if !is_symlink {
        match disk.set_mode(subject, mode) {
            Err(error) if is_foreign && !is_more_open && is_not_permitted(&error) => {
                is_left = present.st_mode & 0o7777 != mode;
            }
            done => done.map_err(failed("set the mode of", path))?,
        }
    }
    match disk.set_mtime(subject, metadata.mtime) {
        Err(error) if is_foreign && is_not_permitted(&error) => is_left = true,
        done => done.map_err(failed("set the time of", path))?,
    }
    if is_left {
        notes.foreign.add(path, "");
    }
    Ok(())
}

/// The kernel's word to somebody who is not the owner.
fn is_not_permitted(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::PERM.raw_os_error())
}

fn stat_of(subject: Subject<'_>) -> rustix::io::Result<rustix::fs::Stat> {
    match subject {
        Subject::Handle(handle) => rustix::fs::fstat(handle),
        Subject::Name(folder, name) => rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW),
    }
}

/// Sets owner and group; returns the bits that the mode loses where that was not allowed.
fn bits_lost(
    disk: &Disk<'_>,
    subject: Subject<'_>,
    path: &EntryPath,
    metadata: &Metadata,
    notes: &mut Notes,
) -> Result<u32, RestoreError> {
    let stat = stat_of(subject).map_err(failed("read the owner of", path))?;
    let mut lost = 0;
    let owner = (stat.st_uid != metadata.uid).then_some(metadata.uid);
    let group = (stat.st_gid != metadata.gid).then_some(metadata.gid);
    for (owner, group, bit) in [(None, group, SET_GID), (owner, None, SET_UID)] {
        if owner.is_none() && group.is_none() {
            continue;
        }
        match disk.set_owner(subject, owner, group) {
            Ok(()) => {}
            Err(error) if is_not_allowed(&error) => lost |= bit,
            Err(error) => return Err(failed("set the owner of", path)(error)),
        }
    }
    if lost != 0 {
        notes.ownership.add(path, "");
    }
    Ok(lost)
}

/// Not for us to do, here: not root, or an id that this user namespace does not know.
fn is_not_allowed(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let refused = [Errno::PERM, Errno::ACCESS, Errno::INVAL, Errno::NOTSUP, Errno::ROFS];
    error.raw_os_error().is_some_and(|code| refused.iter().any(|errno| errno.raw_os_error() == code))
}

/// Takes away what a new folder has inherited from the one that it lies in, so that nothing below it
/// inherits it either.
pub(super) fn disinherit(disk: &Disk<'_>, folder: impl AsFd) -> io::Result<()> {
    disk.remove_xattr(&folder, b"system.posix_acl_default")?;
    disk.remove_xattr(&folder, b"system.posix_acl_access")
}
