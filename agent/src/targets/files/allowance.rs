//! What a confirmed plan allows a restore to write, and which entries give somebody rights.
//!
//! Must stay true: a restore writes no more entries and bytes than its plan has counted, and gives no more
//! entries a privilege than its plan has shown. What was not granted is restored without it, and told.

use std::borrow::Cow;
use std::collections::BTreeMap;

use repository::archive::entry::{Entry, EntryKind, Metadata};
use repository::archive::path::EntryPath;

use super::error::RestoreError;
use super::metadata::Notes;
use super::plan::RestorePlan;

/// The mode bits that give a program its owner's or its group's rights.
pub(super) const SET_UID: u32 = 0o4000;
pub(super) const SET_GID: u32 = 0o2000;

/// What an entry can have that gives somebody rights, beyond those to the entry itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Privilege {
    /// A file that runs with its owner's rights.
    SetUid,
    /// A file that runs with its group's rights. The bit of a folder only passes on the group: no privilege.
    SetGid,
    /// A block or character device.
    Device,
    /// A file that runs with capabilities.
    Capability,
    /// Another attribute in `security.*` or `trusted.*`, which only root may set.
    Attribute,
}

impl Privilege {
    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Privilege::SetUid => "setuid",
            Privilege::SetGid => "setgid",
            Privilege::Device => "device",
            Privilege::Capability => "capability",
            Privilege::Attribute => "attribute",
        }
    }
}

/// The privileges that an entry has, each once.
pub(super) fn privileges(entry: &Entry) -> Vec<Privilege> {
    let mut found = Vec::new();
    match entry.kind {
        // It has none of its own, or is not restored.
        EntryKind::HardLink { .. } | EntryKind::Socket => return found,
        EntryKind::Device { .. } => found.push(Privilege::Device),
        _ => {}
    }
    found.extend(of_metadata(&entry.metadata, has_mode_bits(&entry.kind)));
    found
}

/// Whether the bits of the mode make a program of it.
fn has_mode_bits(kind: &EntryKind) -> bool {
    !matches!(kind, EntryKind::Folder | EntryKind::Symlink { .. })
}

fn of_metadata(metadata: &Metadata, mode_bits: bool) -> Vec<Privilege> {
    let mut found = Vec::new();
    let bits = [(SET_UID, Privilege::SetUid), (SET_GID, Privilege::SetGid)];
    found.extend(bits.into_iter().filter(|(bit, _)| mode_bits && metadata.mode & bit != 0).map(|(_, of)| of));
    for attribute in [Privilege::Capability, Privilege::Attribute] {
        if metadata.xattrs.iter().any(|(name, _)| of_attribute(name) == Some(attribute)) {
            found.push(attribute);
        }
    }
    found
}

fn of_attribute(name: &[u8]) -> Option<Privilege> {
    match name {
        b"security.capability" => Some(Privilege::Capability),
        _ if name.starts_with(b"security.") || name.starts_with(b"trusted.") => Some(Privilege::Attribute),
        _ => None,
    }
}

/// What a confirmed plan allows. Of itself it allows nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allowance {
    /// Entries that may be written.
    pub entries: u64,
    /// Bytes of content that may be written.
    pub bytes: u64,
    /// How many entries may have each privilege.
    pub privileges: BTreeMap<Privilege, u64>,
    /// What a restore that is taken back has made, and goes: [`RestorePlan::strays`].
    pub takes_away: Vec<EntryPath>,
}

impl Allowance {
    /// All that the plan says.
    pub fn all(plan: &RestorePlan) -> Self {
        let privileges = plan.privileges.iter().map(|(privilege, held)| (*privilege, held.count)).collect();
        let takes_away = plan.strays.clone();
        Self { entries: plan.entries, bytes: plan.bytes_to_write, privileges, takes_away }
    }

    /// All that the plan says, without the privileges.
    pub fn without_privileges(plan: &RestorePlan) -> Self {
        Self { privileges: BTreeMap::new(), ..Self::all(plan) }
    }

    /// One more entry, whose content has `bytes`, is about to be written.
    pub(super) fn spend(&mut self, path: &EntryPath, bytes: u64) -> Result<(), RestoreError> {
        let rest = self.entries.checked_sub(1).zip(self.bytes.checked_sub(bytes));
        let more = || RestoreError::archive(path, "the archive holds more than the confirmed plan says");
        (self.entries, self.bytes) = rest.ok_or_else(more)?;
        Ok(())
    }

    /// True if one more entry may have this privilege.
    pub(super) fn grants(&mut self, privilege: Privilege) -> bool {
        let left = self.privileges.get_mut(&privilege).filter(|left| **left > 0);
        left.map(|left| *left -= 1).is_some()
    }

    /// The metadata of what lies at `path`, without the privileges that were not granted.
    pub(super) fn permitted<'m>(
        &mut self,
        path: &EntryPath,
        kind: &EntryKind,
        metadata: &'m Metadata,
        notes: &mut Notes,
    ) -> Cow<'m, Metadata> {
        let mut permitted = Cow::Borrowed(metadata);
        for privilege in of_metadata(metadata, has_mode_bits(kind)) {
            if self.grants(privilege) {
                continue;
            }
            notes.not_granted(path, privilege);
            let metadata = permitted.to_mut();
            match privilege {
                Privilege::SetUid => metadata.mode &= !SET_UID,
                Privilege::SetGid => metadata.mode &= !SET_GID,
                _ => metadata.xattrs.retain(|(name, _)| of_attribute(name) != Some(privilege)),
            }
        }
        permitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(mode: u32, names: &[&str]) -> Metadata {
        let xattrs = names.iter().map(|name| (name.as_bytes().to_vec(), b"x".to_vec())).collect();
        Metadata { mode, xattrs, ..Metadata::default() }
    }

    fn entry(kind: EntryKind, mode: u32, names: &[&str]) -> Entry {
        Entry { path: EntryPath::new(b"a").expect("a path"), metadata: metadata(mode, names), kind }
    }

    #[test]
    fn what_gives_rights_is_seen_and_what_does_not_is_not() {
        use Privilege::{Attribute, Capability, Device, SetGid, SetUid};
        let names = ["security.capability", "security.ima", "system.posix_acl_access", "user.x"];
        let device = EntryKind::Device { block: true, major: 8, minor: 0 };
        assert_eq!(
            privileges(&entry(EntryKind::Fifo, 0o6755, &names)),
            [SetUid, SetGid, Capability, Attribute]
        );
        assert_eq!(privileges(&entry(device, 0o600, &[])), [Device]);
        assert_eq!(privileges(&entry(EntryKind::Folder, 0o3755, &["trusted.overlay.opaque"])), [Attribute]);
        assert_eq!(privileges(&entry(EntryKind::Fifo, 0o1777, &["user.security.capability"])), []);
        assert_eq!(privileges(&entry(EntryKind::Socket, 0o4755, &[])), []);
    }

    #[test]
    fn as_many_as_were_granted_keep_theirs_and_no_more() {
        let mut allowance = Allowance::default();
        allowance.privileges.insert(Privilege::SetUid, 1);
        let full = metadata(0o6755, &["security.capability", "user.x"]);
        let path = EntryPath::new(b"a").expect("a path");
        let mut notes = Notes::default();
        let mut next = || allowance.permitted(&path, &EntryKind::Fifo, &full, &mut notes).into_owned();
        assert_eq!(next(), metadata(0o4755, &["user.x"]));
        assert_eq!(next(), metadata(0o755, &["user.x"]));
        assert_eq!(notes.lines(), ["privileges that were not granted left out: 5 (first a, setgid)"]);
    }

    #[test]
    fn more_than_was_planned_is_an_error() {
        let mut allowance = Allowance { entries: 2, bytes: 10, ..Allowance::default() };
        let path = EntryPath::new(b"a").expect("a path");
        assert!(allowance.spend(&path, 10).is_ok());
        assert!(allowance.spend(&path, 1).is_err());
        assert!(allowance.spend(&path, 0).is_ok());
        assert!(allowance.spend(&path, 0).is_err());
    }
}
