//! Where an entry lies in its archive: names joined by `/`, relative, as bytes.
//!
//! Must stay true: an [`EntryPath`] that exists is harmless. Each name is 1 to 255 bytes without `/`
//! and NUL and is neither `.` nor `..`; so a decoded path can never climb out of a target or stand for
//! an absolute one. Names are bytes, never text: a file system does not promise UTF-8.

use std::cmp::Ordering;
use std::fmt;

use crate::codec::Malformed;

/// The longest path, in bytes.
pub const MAX_PATH: usize = 65_535;
/// The longest name, in bytes: what Linux file systems allow.
pub const MAX_NAME: usize = 255;

/// A relative path of an entry. The empty path is the archive's root folder.
///
/// Order: name by name, each compared as bytes. A folder is directly followed by all that is in it.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct EntryPath(Box<[u8]>);

impl EntryPath {
    /// The archive's root folder.
    pub fn root() -> Self {
        Self::default()
    }

    /// The path written as `bytes`, e.g. `b"blocks/AB/x.data"`; `b""` is the root.
    pub fn new(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_PATH {
            return Err(Malformed::new("path", "it is longer than 65,535 bytes"));
        }
        if !bytes.is_empty() {
            bytes.split(|b| *b == b'/').try_for_each(check_name)?;
        }
        Ok(Self(bytes.into()))
    }

    /// The entry `name` inside this folder.
    pub fn join(&self, name: &[u8]) -> Result<Self, Malformed> {
        check_name(name)?;
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self::new(&bytes)
    }

    /// As stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// True for the archive's root folder.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The names from the root down; none for the root.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|name| !name.is_empty())
    }

    /// The last name; `None` for the root.
    pub fn name(&self) -> Option<&[u8]> {
        self.names().next_back()
    }

    /// The folder that this entry is in; `None` for the root.
    pub fn parent(&self) -> Option<EntryPath> {
        let name = self.name()?;
        let length = self.0.len() - name.len();
        Some(Self(self.0[..length.saturating_sub(1)].into()))
    }

    /// True if this is `folder` itself or lies below it.
    pub fn is_within(&self, folder: &EntryPath) -> bool {
        folder.is_root()
            || self.0.strip_prefix(folder.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }
}

fn check_name(name: &[u8]) -> Result<(), Malformed> {
    let wrong = |why| Err(Malformed::new("path", why));
    match name {
        b"" => wrong("a name is empty"),
        b"." | b".." => wrong("a name is `.` or `..`"),
        _ if name.len() > MAX_NAME => wrong("a name is longer than 255 bytes"),
        _ if name.iter().any(|b| matches!(b, 0 | b'/')) => wrong("a name holds NUL or `/`"),
        _ => Ok(()),
    }
}

impl Ord for EntryPath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.names().cmp(other.names())
    }
}

impl PartialOrd for EntryPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// For people and logs: not UTF-8 and control characters are escaped, so that a name cannot forge a
/// line or drive a terminal.
impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        fmt_bytes(&self.0, f)
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryPath({self})")
    }
}

fn fmt_bytes(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    use fmt::Write;
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
        }
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

/// Shows bytes that are a name or a link's target, escaped like an [`EntryPath`].
#[derive(Debug, Clone, Copy)]
pub struct ShowBytes<'a>(
    /// What to show.
    pub &'a [u8],
);

impl fmt::Display for ShowBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_bytes(self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text.as_bytes()).expect(text)
    }

    #[test]
    fn a_path_that_could_escape_does_not_exist() {
        for wrong in ["/etc", "..", "a/../b", "a//b", "a/", ".", "a/.", "a\0b"] {
            assert!(EntryPath::new(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
        assert!(EntryPath::new(&[b'x'; 256]).is_err());
        assert!(path("a").join(b"..").is_err());
        assert!(path("a").join(b"b/c").is_err());
    }

    #[test]
    fn a_folder_is_directly_followed_by_what_is_in_it() {
        let mut paths = ["a-b", "a", "b", "a/z", "a/b/c", "", "a/b"].map(path);
        paths.sort();
        assert_eq!(paths.map(|p| p.to_string()), [".", "a", "a/b", "a/b/c", "a/z", "a-b", "b"]);
    }

    #[test]
    fn parents_and_prefixes_go_by_names_not_by_bytes() {
        assert_eq!(path("a/b").parent(), Some(path("a")));
        assert_eq!(path("a").parent(), Some(EntryPath::root()));
        assert_eq!(EntryPath::root().parent(), None);
        assert!(path("a/b").is_within(&path("a")));
        assert!(!path("ab").is_within(&path("a")));
        assert!(path("a").is_within(&EntryPath::root()));
    }

    #[test]
    fn a_hostile_name_cannot_forge_a_log_line() {
        assert_eq!(EntryPath::new(b"a\nb\x1b[0m\xff").expect("valid").to_string(), "a\\nb\\u{1b}[0m\\xff");
    }
}
