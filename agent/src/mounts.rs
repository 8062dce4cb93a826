//! What is mounted, and where, as this process sees it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::ops::Bound;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Every mount point.
pub(crate) struct Mounted(BTreeSet<PathBuf>);

impl Mounted {
    /// As it is now; where that cannot be seen, nothing.
    pub(crate) fn now() -> Self {
        Self::seen().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look for what is mounted");
            Self(BTreeSet::new())
        })
    }

    pub(crate) fn seen() -> io::Result<Self> {
        Ok(Self::read(&std::fs::read("/proc/self/mountinfo")?))
    }

    pub(crate) fn read(text: &[u8]) -> Self {
        let fifth = |line: &[u8]| line.split(|byte| *byte == b' ').nth(4).map(unescaped);
        Self(text.split(|byte| *byte == b'\n').filter_map(fifth).map(PathBuf::from).collect())
    }

    /// True if something is mounted at the folder `at`.
    pub(crate) fn is_at(&self, at: &Path) -> bool {
        self.0.contains(at)
    }

    /// Where something is mounted in the folder `at`, which does not count itself, as paths from there.
    pub(crate) fn below(&self, at: &Path) -> impl Iterator<Item = &Path> {
        let after = self.0.range::<Path, _>((Bound::Excluded(at), Bound::Unbounded));
        after.map_while(move |mount| mount.strip_prefix(at).ok())
    }
}

/// `\040` stands for a space.
fn unescaped(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let octal = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_below_a_folder_is_read_as_the_kernel_tells_it() {
        let text = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            23 22 0:5 / /data/a\\040b/c\\134d rw,relatime shared:1 - tmpfs tmpfs rw\n\
            24 22 0:6 / /data rw - tmpfs tmpfs rw\n\
            25 22 0:7 / /data.old/x rw - tmpfs tmpfs rw\n\
            26 22 0:8 / /data/z rw - tmpfs tmpfs rw\n";
        let mounted = Mounted::read(text);
        let below = |at: &str| mounted.below(Path::new(at)).map(Path::to_owned).collect::<Vec<_>>();
        assert_eq!(below("/data"), [Path::new("a b/c\\d"), Path::new("z")]);
        assert_eq!(below("/data/a b"), [Path::new("c\\d")]);
        assert_eq!(below("/data/z"), [""; 0].map(PathBuf::from));
        assert_eq!(below("/dat"), [""; 0].map(PathBuf::from));
    }
}
