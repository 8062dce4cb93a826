//! Whether a snapshot can be made of a chain's folder, and of which subvolume: facts in, a decision out.
//!
//! Must stay true: what is mounted below the folder is not in a snapshot, so there is none then; nobody goes up beyond
//! the mount that the folder lies in, since what lies above it is another folder.

use std::io;
use std::path::{Path, PathBuf};

use repository::archive::path::EntryPath;

use crate::mounts::Mounted;

/// `BTRFS_FIRST_FREE_OBJECTID`: the number of a subvolume's root.
pub(super) const ROOT: u64 = 256;
/// `BTRFS_EMPTY_SUBVOL_DIR_OBJECTID`: what stands in a snapshot where a subvolume lay.
pub(super) const STAND_IN: u64 = 2;
/// Before, who may not destroy a subvolume could not remove an empty one either.
const KERNEL: (u32, u32) = (4, 18);

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub(super) enum Why {
    #[error("it does not lie on Btrfs")]
    Elsewhere,
    #[error("the kernel is older than {}.{}", KERNEL.0, KERNEL.1)]
    OldKernel,
    #[error(
        "the root of its subvolume cannot be reached from it: make the folder a subvolume of its own (btrfs subvolume \
         create), or mount the whole subvolume"
    )]
    NoRoot,
    #[error("its subvolume {} belongs to another user: give that to the agent's, or make the folder one of its own", .subvolume.display())]
    NotOurs { subvolume: PathBuf },
    #[error("something is mounted at {} in it, which a snapshot would not have", .at.display())]
    Mount { at: PathBuf },
    #[error("{at} in it is a subvolume of its own, which a snapshot of the one around it does not have")]
    Nested { at: EntryPath },
    #[error(
        "the agent could not remove one again: {what}; mount the file system with user_subvol_rm_allowed, or give the \
         agent CAP_SYS_ADMIN"
    )]
    WouldStay { what: String },
    #[error(
        "what was written last came to the disk in another order than it was written, {attempts} times, or it was cancelled"
    )]
    Torn { attempts: u32 },
    #[error("the folder was replaced meanwhile")]
    Replaced,
    #[error("{what}: {source}")]
    Io {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

impl Why {
    pub(super) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    /// True for what people should hear of who have asked for no snapshot by name: what changes what is in the backup
    /// by another way, too, and what is broken or full.
    pub(super) fn is_trouble(&self) -> bool {
        matches!(self, Self::Mount { .. } | Self::Nested { .. } | Self::Replaced | Self::Io { .. })
    }
}

/// What is known of a folder.
pub(super) struct Facts<'a> {
    /// As `/proc/sys/kernel/osrelease` has it.
    pub(super) kernel: &'a str,
    /// The folder, through no link, and those above it on the same device, outwards, with their inodes.
    pub(super) upwards: &'a [(PathBuf, u64)],
    pub(super) mounted: &'a Mounted,
    /// True for a path in the folder that no backup takes.
    pub(super) is_left_out: &'a dyn Fn(&Path) -> bool,
}

/// A subvolume's root, and where in it the folder lies.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Subvolume {
    pub(super) root: PathBuf,
    pub(super) below: PathBuf,
}

/// The subvolume of which a snapshot would have the whole folder.
pub(super) fn choose(facts: &Facts<'_>) -> Result<Subvolume, Why> {
    let Some((folder, _)) = facts.upwards.first() else { return Err(Why::NoRoot) };
    if version(facts.kernel).is_some_and(|kernel| kernel < KERNEL) {
        return Err(Why::OldKernel);
    }
    if let Some(at) = facts.mounted.below(folder).find(|at| !(facts.is_left_out)(at)) {
        return Err(Why::Mount { at: at.to_owned() });
    }
    for (path, inode) in facts.upwards {
        if *inode == ROOT {
            let below = folder.strip_prefix(path).unwrap_or(Path::new("")).to_owned();
            return Ok(Subvolume { root: path.clone(), below });
        }
        if facts.mounted.is_at(path) {
            break;
        }
    }
    Err(Why::NoRoot)
}

/// The first two numbers of a kernel's version.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &[u8] = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
        23 22 0:5 /@data /srv rw - btrfs /dev/sdb rw\n\
        24 23 0:5 /@data/inner /srv/bound rw - btrfs /dev/sdb rw\n\
        25 22 0:6 / /over/left/out rw - tmpfs tmpfs rw\n";

    fn choose_from(kernel: &str, upwards: &[(&str, u64)]) -> Result<Subvolume, String> {
        let upwards: Vec<_> = upwards.iter().map(|(path, inode)| (PathBuf::from(path), *inode)).collect();
        let (mounted, is_left_out) = (&Mounted::read(MOUNTS), &|at: &Path| at == Path::new("left/out"));
        choose(&Facts { kernel, upwards: &upwards, mounted, is_left_out }).map_err(|why| why.to_string())
    }

    #[test]
    fn the_nearest_root_within_the_folders_mount_is_taken() {
        let found = |root: &str, below: &str| Ok(Subvolume { root: root.into(), below: below.into() });
        let kernel = "6.18.44-x";
        assert_eq!(choose_from(kernel, &[("/srv/node", 256), ("/srv", 256)]), found("/srv/node", ""));
        let deep = [("/srv/a/node", 300), ("/srv/a", 299), ("/srv", 256)];
        assert_eq!(choose_from(kernel, &deep), found("/srv", "a/node"));
        // A folder of a subvolume that is mounted elsewhere in the same one: what lies above is not what is around it.
        let bound = [("/srv/bound/node", 300), ("/srv/bound", 299), ("/srv", 256)];
        assert!(choose_from(kernel, &bound).unwrap_err().contains("cannot be reached"));
        assert!(choose_from(kernel, &[("/x", 300)]).unwrap_err().contains("cannot be reached"));
        // Mounted itself, and a root: nothing has to be gone up to.
        assert_eq!(choose_from(kernel, &[("/srv/bound", 256)]), found("/srv/bound", ""));
    }

    #[test]
    fn there_is_none_on_an_old_kernel_nor_over_a_mount_that_is_not_left_out() {
        let node = [("/srv/node", 256)];
        assert!(choose_from("4.17.0", &node).unwrap_err().contains("older than 4.18"));
        assert!(choose_from("3.19", &node).unwrap_err().contains("older than 4.18"));
        assert!(choose_from("4.18.0-80.el8", &node).is_ok() && choose_from("10.0", &node).is_ok());
        assert!(choose_from("unknown", &node).is_ok());
        let above = choose_from("6.1", &[("/srv", 256)]).unwrap_err();
        assert!(above.contains("something is mounted at bound in it"), "{above}");
        assert!(choose_from("6.1", &[("/over", 256)]).is_ok());
    }
}
