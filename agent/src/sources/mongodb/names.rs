//! Names of files in a dump, of servers for people, and of what a restore has in a server for a while.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A longer name is cut, so that the longest ending still fits into a file's name.
const LONGEST: usize = 238;
/// What is kept of a name that is cut, before its hash.
const KEPT: usize = 208;

/// The database in which a restore keeps its journal.
pub(crate) const JOURNALS: &str = "neurashield_restore";
/// The document of a journal that says as its `phase` how far the restore is.
pub(crate) const HEAD: &str = "head";
/// It says so once nothing but collections to drop is left of a restore.
pub(crate) const BUILT: &str = "built";
/// What it may say.
pub(crate) const PHASES: [&str; 5] = ["loading", "swapping", "undoing", "live", BUILT];
/// What the names of a restore's collections begin with, beside those that they replace.
const STAGED: &str = "neurashield-restore.";

/// What a collection of a restore is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Staged {
    /// Loaded, and not yet live.
    New,
    /// It was live.
    Old,
    /// It came while the restore was between two renames.
    Came,
}

impl Staged {
    const ALL: [Self; 3] = [Self::New, Self::Old, Self::Came];

    fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Old => "old",
            Self::Came => "came",
        }
    }

    /// The short name that the restore `id` gives to its collection with this number.
    pub(crate) fn name(self, id: &str, number: i32) -> String {
        format!("{STAGED}{id}.{}.{number}", self.word())
    }

    /// Whose collection it is, and which.
    pub(crate) fn of(name: &str) -> Option<(&str, Self, i32)> {
        let mut parts = name.strip_prefix(STAGED)?.split('.');
        let (id, word, number) = (parts.next()?, parts.next()?, parts.next()?);
        let staged = Self::ALL.into_iter().find(|staged| staged.word() == word)?;
        parts.next().is_none().then_some((id, staged, number.parse().ok()?))
    }
}

/// The collection whose files are called so, unless the name was cut.
pub(crate) fn of_file(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// What `mongodump` calls the files of a collection, without their ending.
pub(crate) fn file_name(collection: &str) -> String {
    let mut name = String::with_capacity(collection.len());
    for byte in collection.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                name.push(char::from(byte))
            }
            b' ' => name.push('+'),
            other => name.push_str(&format!("%{other:02X}")),
        }
    }
    if name.len() > LONGEST {
        // Names what nobody has to trust; the whole name stands in the metadata.
        let algorithm = &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY;
        let hash = aws_lc_rs::digest::digest(algorithm, collection.as_bytes());
        name.truncate(KEPT);
        name.push_str("%24");
        name.push_str(&URL_SAFE_NO_PAD.encode(hash));
    }
    name
}

/// The servers that a connection string names, without user, password and options.
pub(crate) fn without_user(uri: &str) -> String {
    let (scheme, rest) = uri.split_once("://").unwrap_or(("mongodb", ""));
    // A user or a password may hold any letter that somebody forgot to escape: what comes after the last `@`
    // is the hosts at most.
    let hosts = rest.rsplit('@').next().unwrap_or_default();
    let hosts = hosts.split(['/', '?']).next().unwrap_or_default();
    format!("{scheme}://{hosts}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_called_what_mongodump_calls_them() {
        assert_eq!(file_name("a.b-c_d~E9"), "a.b-c_d~E9");
        assert_eq!(file_name("sp ace/ü$x"), "sp+ace%2F%C3%BC%24x");
        let long = "x".repeat(239);
        let name = file_name(&long);
        // The hash is that of `sha1sum`, in base64 for addresses.
        let expected = format!("{}%24{}", "x".repeat(208), "Nq75d-cu3iRxNs-ce3Tvf9gagoU");
        assert_eq!((name.len(), name), (238, expected));
        assert_eq!(file_name(&"x".repeat(238)), "x".repeat(238));
    }

    #[test]
    fn a_collection_is_known_by_the_name_of_its_file() {
        for name in ["a.b-c_d~E9", "sp ace/ü$x", "x%y", "a+b"] {
            assert_eq!(of_file(&file_name(name)).as_deref(), Some(name));
        }
        assert_eq!((of_file("a%2"), of_file("%ff"), of_file("%é")), (None, None, None));
    }

    #[test]
    fn what_a_restore_has_in_a_server_is_known_by_its_name() {
        let name = Staged::Old.name("ab12-0", 7);
        assert_eq!(Staged::of(&name), Some(("ab12-0", Staged::Old, 7)));
        for other in
            ["neurashield-restore.a.old", "neurashield-restore.a.old.x", "neurashield.a.old.1", "old"]
        {
            assert_eq!(Staged::of(other), None, "{other}");
        }
        assert_eq!(Staged::of(&format!("{name}.1")), None);
    }

    #[test]
    fn a_server_is_named_without_who_reads_it() {
        assert_eq!(without_user("mongodb://u:p@a:1,b:2/admin?tls=true"), "mongodb://a:1,b:2");
        assert_eq!(without_user("mongodb://a"), "mongodb://a");
        assert_eq!(without_user("mongodb://u:p/w@x@a:1/?authSource=admin"), "mongodb://a:1");
        assert_eq!(without_user("secret"), "mongodb://");
    }
}
