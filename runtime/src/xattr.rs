//! The names of an entry's extended attributes by the handle of its folder.
//!
//! Whoever walks folders by handles has no path, and before Linux 6.13 these names were to be had by a path alone:
//! one through `/proc/self/fd`, which the kernel walks through for every file.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// `listxattrat`, the same number on every architecture.
const LISTXATTRAT: libc::c_long = 465;

static IS_UNKNOWN: AtomicBool = AtomicBool::new(false);

/// The names of the attributes of `name` in `folder` (`.` for the folder itself), each with a NUL at its end, into
/// `names`: their length, or the kernel's error number. A link is not followed. `None`: this kernel, or a sandbox
/// around us, does not know the call.
pub fn list_at(folder: BorrowedFd<'_>, name: &CStr, names: &mut [u8]) -> Option<Result<usize, i32>> {
    if IS_UNKNOWN.load(Ordering::Relaxed) {
        return None;
    }
    #[expect(unsafe_code, reason = "neither the standard library nor rustix has this call")]
    // SAFETY: the name ends with a NUL, and the kernel writes at most `names.len()` bytes into `names`, which we
    // have for ourselves; both live until it returns.
    let length = unsafe {
        libc::syscall(
            LISTXATTRAT,
            folder.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            names.as_mut_ptr(),
            names.len(),
        )
    };
    if let Ok(length) = usize::try_from(length) {
        return Some(Ok(length));
    }
    let error = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    // A sandbox of before the call says EPERM, which the call itself never does.
    if error == libc::ENOSYS || error == libc::EPERM {
        IS_UNKNOWN.store(true, Ordering::Relaxed);
        return None;
    }
    Some(Err(error))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_is_not_there_is_told_and_what_has_none_has_none() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("file"), "x").expect("written");
        let handle = std::fs::File::open(folder.path()).expect("opened");
        let mut names = [0; 4096];
        // On a kernel of before 6.13 there is nothing to see.
        for (name, least) in [(c"file", Ok(())), (c".", Ok(())), (c"nothing", Err(libc::ENOENT))] {
            if let Some(listed) = list_at(handle.as_fd(), name, &mut names) {
                assert_eq!(listed.map(|_| ()), least, "{name:?}");
            }
        }
    }
}
