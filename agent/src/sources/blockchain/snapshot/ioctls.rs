//! The calls by which Btrfs makes and removes subvolumes, numbers and structures as `linux/btrfs.h` has them.
//!
//! Must stay true: a structure has the size that the kernel copies, and a name in it ends with a zero byte.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::{Errno, Result};
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

const MAGIC: u8 = 0x94;
/// A subvolume that nobody can write into.
const READ_ONLY: u64 = 1 << 1;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolumeArgs {
    fd: i64,
    name: [u8; 4_088],
}

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct VolumeArgs2 {
    fd: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4_040],
}

const _: () = assert!(size_of::<VolumeArgs>() == 4_096 && size_of::<VolumeArgs2>() == 4_096);

/// `BTRFS_IOC_SNAP_DESTROY`
const DESTROY: Opcode = opcode::write::<VolumeArgs>(MAGIC, 15);
/// `BTRFS_IOC_SNAP_CREATE_V2`
const SNAPSHOT: Opcode = opcode::write::<VolumeArgs2>(MAGIC, 23);
/// `BTRFS_IOC_SUBVOL_CREATE_V2`
const CREATE: Opcode = opcode::write::<VolumeArgs2>(MAGIC, 24);
/// `BTRFS_IOC_SUBVOL_GETFLAGS`
const GET_FLAGS: Opcode = opcode::read::<u64>(MAGIC, 25);
/// `BTRFS_IOC_SUBVOL_SETFLAGS`
const SET_FLAGS: Opcode = opcode::write::<u64>(MAGIC, 26);

/// Makes the snapshot `name` in the folder `into`, read-only, of the subvolume whose root is open.
pub(super) fn snapshot(into: impl AsFd, name: &CStr, of: impl AsFd) -> Result<()> {
    let fd = i64::from(of.as_fd().as_raw_fd());
    let args = VolumeArgs2 { fd, transaction: 0, flags: READ_ONLY, unused: [0; 4], name: name_of(name)? };
    #[expect(
        unsafe_code,
        reason = "rustix has no such call; the kernel copies the structure and keeps nothing"
    )]
    unsafe {
        ioctl(into, Setter::<SNAPSHOT, VolumeArgs2>::new(args))
    }
}

/// Makes the empty subvolume `name` in the folder `into`.
pub(super) fn create(into: impl AsFd, name: &CStr) -> Result<()> {
    let args = VolumeArgs2 { fd: 0, transaction: 0, flags: 0, unused: [0; 4], name: name_of(name)? };
    #[expect(
        unsafe_code,
        reason = "rustix has no such call; the kernel copies the structure and keeps nothing"
    )]
    unsafe {
        ioctl(into, Setter::<CREATE, VolumeArgs2>::new(args))
    }
}

/// Removes the subvolume `name` from the folder `above`, with all that is in it.
pub(super) fn destroy(above: impl AsFd, name: &CStr) -> Result<()> {
    let args = VolumeArgs { fd: 0, name: name_of(name)? };
    #[expect(
        unsafe_code,
        reason = "rustix has no such call; the kernel copies the structure and keeps nothing"
    )]
    unsafe {
        ioctl(above, Setter::<DESTROY, VolumeArgs>::new(args))
    }
}

/// Lets its owner write into the subvolume whose root is open.
pub(super) fn make_writable(root: impl AsFd) -> Result<()> {
    #[expect(
        unsafe_code,
        reason = "rustix has no such calls; each reads or writes the one number that is given"
    )]
    unsafe {
        let flags = ioctl(&root, Getter::<GET_FLAGS, u64>::new())?;
        ioctl(&root, Setter::<SET_FLAGS, u64>::new(flags & !READ_ONLY))
    }
}

fn name_of<const LENGTH: usize>(name: &CStr) -> Result<[u8; LENGTH]> {
    let bytes = name.to_bytes_with_nul();
    let mut field = [0; LENGTH];
    field.get_mut(..bytes.len()).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(bytes);
    Ok(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_kernels_header() {
        // As a C compiler has them from <linux/btrfs.h>, on x86-64 and arm64.
        let numbers = [DESTROY, SNAPSHOT, CREATE, GET_FLAGS, SET_FLAGS];
        assert_eq!(numbers, [0x5000_940f, 0x5000_9417, 0x5000_9418, 0x8008_9419, 0x4008_941a]);
        assert_eq!(name_of::<4>(c"abc"), Ok(*b"abc\0"));
        assert_eq!(name_of::<4>(c"abcd"), Err(Errno::NAMETOOLONG));
    }
}
