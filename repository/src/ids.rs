//! Every kind of id has its own type, so that no two can be swapped.
//!
//! Shapes: fixed byte arrays, written as lower-case hex wherever people or JSON see them. What each
//! one is computed from stands in `docs/FORMAT.md`, "Ids".

use std::fmt;
use std::str::FromStr;

/// A hex string did not have the length or the digits of the id it should be.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{kind} must be {expected} hex digits, not {found:?}")]
pub struct InvalidId {
    kind: &'static str,
    expected: usize,
    found: String,
}

/// Lower-case hex of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)] as char);
        text.push(DIGITS[usize::from(byte & 15)] as char);
    }
    text
}

/// The bytes that `text` writes in lower-case hex; `None` for anything else, upper case included, so
/// that an id has exactly one spelling.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $bytes;

            /// The id with these bytes.
            pub const fn new(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The bytes, in the order in which they are stored.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                unhex(text).as_deref().and_then(|bytes| Self::try_from(bytes).ok()).ok_or_else(|| InvalidId {
                    kind: $kind,
                    expected: $bytes * 2,
                    found: text.chars().take(80).collect(),
                })
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = InvalidId;
            fn try_from(bytes: &[u8]) -> Result<Self, InvalidId> {
                let found = || InvalidId { kind: $kind, expected: $bytes * 2, found: format!("{} bytes", bytes.len()) };
                Ok(Self(bytes.try_into().map_err(|_| found())?))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// One repository: random, made at `init`.
    RepositoryId, 16, "a repository id"
);
id!(
    /// Sources that deduplicate against each other; nothing is shared across two domains.
    DomainId, 16, "a domain id"
);
id!(
    /// A segment: random, chosen by the agent that seals it.
    SegmentId, 16, "a segment id"
);
id!(
    /// A blob's content within its domain: keyed BLAKE3 of its plaintext.
    BlobId, 32, "a blob id"
);
id!(
    /// A pack: the SHA-256 of its bytes, and its file name.
    PackId, 32, "a pack id"
);
id!(
    /// A file's whole content within its domain, however it was cut.
    ContentId, 32, "a content id"
);

impl SegmentId {
    /// A fresh random id.
    pub fn random() -> Self {
        Self(crate::random::bytes())
    }
}

impl RepositoryId {
    /// A fresh random id.
    pub fn random() -> Self {
        Self(crate::random::bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_has_one_spelling() {
        let id: SegmentId = "00112233445566778899aabbccddeeff".parse().expect("valid");
        assert_eq!(id.to_string(), "00112233445566778899aabbccddeeff");
        for wrong in ["00112233445566778899AABBCCDDEEFF", "0011", "", "zz112233445566778899aabbccddeeff"] {
            assert!(wrong.parse::<SegmentId>().is_err(), "{wrong}");
        }
    }
}
