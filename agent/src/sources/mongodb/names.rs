//! Names of files in a dump, and of servers for people.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A longer name is cut, so that the longest ending still fits into a file's name.
const LONGEST: usize = 238;
/// What is kept of a name that is cut, before its hash.
const KEPT: usize = 208;

/// What `mongodump` calls the files of a collection, without their ending.
pub(super) fn file_name(collection: &str) -> String {
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
    fn a_server_is_named_without_who_reads_it() {
        assert_eq!(without_user("mongodb://u:p@a:1,b:2/admin?tls=true"), "mongodb://a:1,b:2");
        assert_eq!(without_user("mongodb://a"), "mongodb://a");
        assert_eq!(without_user("mongodb://u:p/w@x@a:1/?authSource=admin"), "mongodb://a:1");
        assert_eq!(without_user("secret"), "mongodb://");
    }
}
