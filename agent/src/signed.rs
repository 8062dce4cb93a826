//! How far a validator's key has signed, as `priv_validator_state.json` of CometBFT says it, and whose key lies there.
//!
//! Must stay true: of a key nothing is kept but its address; one that is there and cannot be read is not none.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use repository::archive::path::EntryPath;
use repository::ids::hex;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde_json::Value;
use zeroize::Zeroizing;

/// Longer is no state.
pub(crate) const MAX_STATE: u64 = 64 << 10;

/// How far a key has signed: height, round, step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signed(pub(crate) i64, pub(crate) i64, pub(crate) i64);

impl Signed {
    pub(crate) fn new(height: i64, round: i64, step: i32) -> Self {
        Self(height, round, step.into())
    }

    /// Height, round and step.
    pub(crate) fn parts(self) -> (i64, i64, i32) {
        (self.0, self.1, i32::try_from(self.2).unwrap_or(i32::MAX))
    }

    /// What a state's file says; none if it says nothing.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        Self::of(&read(path)?)
    }

    pub(crate) fn of(state: &[u8]) -> Option<Self> {
        let state: Value = serde_json::from_slice(state).ok()?;
        // CometBFT writes 64 bits as text.
        let number = |name: &str| match state.get(name) {
            None => Some(0),
            Some(Value::String(text)) => text.parse::<i64>().ok(),
            Some(value) => value.as_i64(),
        };
        state.get("height")?;
        let signed = Self(number("height")?, number("round")?, number("step")?);
        (signed.0 >= 0 && signed.1 >= 0 && signed.2 >= 0).then_some(signed)
    }
}

/// A validator's key, `priv_validator_key.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// None lies there.
    Absent,
    /// One lies there, and whose it is cannot be told.
    Unreadable,
    /// One with this address: 40 hex digits.
    Of(String),
}

impl Key {
    /// The one at `path` in the folder `root`. A link is followed as long as it stays in that folder.
    pub(crate) fn at(root: &Path, path: &EntryPath) -> Self {
        let bytes = match open_beneath(root, path) {
            Ok(file) => read_file(file.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let name = root.join(std::ffi::OsStr::from_bytes(path.as_bytes()));
                return match name.symlink_metadata() {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Absent,
                    _ => Self::Unreadable,
                };
            }
            Err(_) => None,
        };
        let address = bytes.map(Zeroizing::new).and_then(|key| address_of(&key));
        address.map_or(Self::Unreadable, Self::Of)
    }
}

/// The address of a key's file. That of an Ed25519 key is computed from the key itself, as CometBFT does when it loads
/// it, whatever the file says.
fn address_of(key: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct File {
        address: Option<String>,
        pub_key: Option<Half>,
        priv_key: Option<Half>,
    }
    #[derive(serde::Deserialize)]
    struct Half {
        #[serde(rename = "type", default)]
        kind: String,
        #[serde(default)]
        value: String,
    }
    impl Half {
        fn bytes<const LENGTH: usize>(self, kind: &str) -> Option<Zeroizing<[u8; LENGTH]>> {
            let value = Zeroizing::new(self.value);
            let bytes = Zeroizing::new(STANDARD.decode(value.as_bytes()).ok()?);
            let bytes = <[u8; LENGTH]>::try_from(bytes.as_slice()).ok().map(Zeroizing::new);
            bytes.filter(|_| self.kind.ends_with(kind))
        }
    }
    let File { address, pub_key, priv_key } = serde_json::from_slice(key).ok()?;
    // Its second half is the public key.
    let of_private = priv_key.and_then(|key| key.bytes::<64>("/PrivKeyEd25519"));
    let of_private = of_private.map(|key| digest::digest(&digest::SHA256, &key[32..]));
    let of_public = || Some(digest::digest(&digest::SHA256, &*pub_key?.bytes::<32>("/PubKeyEd25519")?));
    if let Some(digest) = of_private.or_else(of_public) {
        return Some(hex(&digest.as_ref()[..20]).to_ascii_uppercase());
    }
    let is_one = |text: &String| text.len() == 40 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    address.filter(is_one).map(|address| address.to_ascii_uppercase())
}

/// A file for reading, through links that do not leave `root`.
fn open_beneath(root: &Path, path: &EntryPath) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(&folder, path.as_bytes(), flags, Mode::empty(), resolve) {
            // A rename elsewhere came between.
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Older than Linux 5.6, or forbidden: no link is followed.
            Err(Errno::NOSYS | Errno::PERM) => {
                let path = root.join(std::ffi::OsStr::from_bytes(path.as_bytes()));
                return Ok(rustix::fs::open(path, flags | OFlags::NOFOLLOW, Mode::empty())?);
            }
            done => return Ok(done?),
        }
    }
}

/// A plain file, as far as it is of a length that makes sense.
fn read(path: &Path) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    read_file(File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?))
}

fn read_file(file: File) -> Option<Vec<u8>> {
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX_STATE).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_that_of_the_key_and_not_what_its_file_says() {
        // Ed25519 of RFC 8032, test 1: the public key, and the address that CometBFT gives it (SHA-256, 20 bytes).
        const PUBLIC: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
        const ADDRESS: &str = "21FE31DFA154A261626BF854046FD2271B7BED4B";
        let seed = [0x9d_u8, 0x61];
        let mut private = [0; 64];
        private[..2].copy_from_slice(&seed);
        private[32..].copy_from_slice(&STANDARD.decode(PUBLIC).expect("base64"));
        let private = STANDARD.encode(private);
        let stale = "00112233445566778899aabbccddeeff00112233";
        let file = |public: &str, private: &str| {
            let text = format!(
                r#"{{"address":"{stale}","pub_key":{{"type":"tendermint/PubKeyEd25519","value":"{public}"}},
                    "priv_key":{{"type":"tendermint/PrivKeyEd25519","value":"{private}"}}}}"#
            );
            address_of(text.as_bytes())
        };
        let other = STANDARD.encode([7; 32]);
        assert_eq!(file(PUBLIC, &private).as_deref(), Some(ADDRESS));
        assert_eq!(file(&other, &private).as_deref(), Some(ADDRESS), "CometBFT takes the private one");
        assert_eq!(file(PUBLIC, "").as_deref(), Some(ADDRESS));
        assert_eq!(file("", ""), Some(stale.to_ascii_uppercase()), "of a kind that is not known here");
        assert_eq!(address_of(b"{}"), None);
        assert_eq!(address_of(br#"{"address":"5F"}"#), None);
    }

    #[test]
    fn a_link_to_a_key_is_followed_within_the_folder_and_what_cannot_be_read_is_not_none() {
        let home = tempfile::tempdir().expect("a folder");
        let node = home.path().join("node");
        let path = EntryPath::new(b"config/priv_validator_key.json").expect("a path");
        std::fs::create_dir_all(node.join("config/..2026")).expect("made");
        let file = node.join("config/priv_validator_key.json");
        assert_eq!(Key::at(&node, &path), Key::Absent);
        let address = "00112233445566778899AABBCCDDEEFF00112233";
        let bytes = format!(r#"{{"address":"{address}"}}"#);
        // As Kubernetes lays a secret out.
        std::fs::write(node.join("config/..2026/priv_validator_key.json"), &bytes).expect("written");
        std::os::unix::fs::symlink("..2026", node.join("config/..data")).expect("made");
        std::os::unix::fs::symlink("..data/priv_validator_key.json", &file).expect("made");
        assert_eq!(Key::at(&node, &path), Key::Of(address.to_owned()));
        std::fs::remove_file(&file).expect("removed");
        std::fs::write(home.path().join("elsewhere"), &bytes).expect("written");
        for target in ["../../elsewhere", "nowhere"] {
            std::os::unix::fs::symlink(target, &file).expect("made");
            assert_eq!(Key::at(&node, &path), Key::Unreadable, "{target}");
            std::fs::remove_file(&file).expect("removed");
        }
        std::fs::write(&file, "{").expect("written");
        assert_eq!(Key::at(&node, &path), Key::Unreadable);
    }
}
