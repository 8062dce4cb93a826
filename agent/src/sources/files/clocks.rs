//! Whose clock the times of a file system are of.

use std::os::fd::AsFd;

use crate::sources::StampClock;

/// File systems whose times this machine's kernel sets. Of any other it is not known.
const LOCAL: [u32; 11] = [
    0x0000_ef53, // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x2fc1_2fc1, // zfs
    0xca45_1a4e, // bcachefs
    0xf2f5_2010, // f2fs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x794c_7630, // overlayfs
    0x7371_7368, // squashfs
    0x3153_464a, // jfs
];

/// Asks once for each file system that a walk comes to, the last one remembered.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    last: Option<(u64, StampClock)>,
}

impl Clocks {
    /// The clock of the file system `device`, in which the open `folder` lies.
    #[allow(clippy::unnecessary_cast, reason = "the width of a field of `statfs` differs by architecture")]
    pub(super) fn of(&mut self, folder: impl AsFd, device: u64) -> StampClock {
        if let Some((last, clock)) = self.last
            && last == device
        {
            return clock;
        }
        let kind = rustix::fs::fstatfs(folder).map(|stat| stat.f_type as u32);
        let is_local = kind.is_ok_and(|kind| LOCAL.contains(&kind));
        let clock = if is_local { StampClock::Ours } else { StampClock::Foreign };
        self.last = Some((device, clock));
        clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_is_not_known_to_use_our_clock_is_not_believed_to() {
        let of = |path| Clocks::default().of(std::fs::File::open(path).expect(path), 1);
        assert_eq!(of("/proc"), StampClock::Foreign);
        assert_eq!(of("/dev/shm"), StampClock::Ours);
    }
}
