//! Secrets: values that must not be seen, and the files they lie in.
//!
//! Must stay true: a secret's text leaves this module by [`Secret::expose`] only. `Debug` and `Serialize`
//! (which `config show` uses) give a placeholder, and the memory is wiped when the value is dropped.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

const REDACTED: &str = "(redacted)";
/// Longer than any password, token or webhook address.
const LIMIT_BYTES: u64 = 64 * 1024;

/// A text that must not be seen.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Reads the secret in `file`, up to 64 KiB of UTF-8; line ends at its end are not part of it.
    pub fn read_from(file: &Path) -> Result<Self, SecretError> {
        let unreadable = |source| SecretError::Read { file: file.to_owned(), source };
        let mut text = Zeroizing::new(String::new());
        let opened = std::fs::File::open(file).map_err(unreadable)?;
        opened.take(LIMIT_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > LIMIT_BYTES {
            return Err(SecretError::TooLong { file: file.to_owned() });
        }
        let trimmed = text.trim_end_matches(['\r', '\n']);
        if trimmed.is_empty() {
            return Err(SecretError::Empty { file: file.to_owned() });
        }
        Ok(Self::new(trimmed))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretVisitor)
    }
}

struct SecretVisitor;

impl SecretVisitor {
    /// A number in the place of a secret is most likely a password without quotes: it is not repeated.
    fn refuse<E: de::Error>() -> Result<Secret, E> {
        Err(E::custom("a secret is text: write it in quotes"))
    }
}

impl Visitor<'_> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a secret text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret::new(text))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Secret, E> {
        Self::refuse()
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
        Self::refuse()
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Secret, E> {
        Self::refuse()
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
        Self::refuse()
    }
}

/// Where a secret is: given, or in a file that is read when it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// Given as a value.
    Value(Secret),
    /// In this file.
    File(PathBuf),
}

impl SecretSource {
    /// From the pair of keys `x` and `x_file`; `None` where neither is set. The value wins where both are,
    /// which a program's `check` refuses.
    pub fn from_pair(value: Option<&Secret>, file: Option<&PathBuf>) -> Option<Self> {
        value.cloned().map(Self::Value).or_else(|| file.cloned().map(Self::File))
    }

    /// The secret, as it is now.
    pub fn read(&self) -> Result<Secret, SecretError> {
        match self {
            Self::Value(secret) => Ok(secret.clone()),
            Self::File(file) => Secret::read_from(file),
        }
    }
}

/// A file does not give a secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It could not be read, or is not UTF-8.
    #[error("cannot read the secret in {}", file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// There is nothing in it.
    #[error("the secret in {} is empty", file.display())]
    Empty {
        /// Which file.
        file: PathBuf,
    },
    /// It is longer than 64 KiB.
    #[error("the secret in {} is longer than 64 KiB", file.display())]
    TooLong {
        /// Which file.
        file: PathBuf,
    },
}
