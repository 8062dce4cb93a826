//! What opens the repository's private key: as configured, or a key file in the state folder.

use std::io;
use std::path::{Path, PathBuf};

use repository::keys::SlotSecret;
use runtime::config::SecretError as PassphraseError;
use zeroize::Zeroizing;

use crate::config::{Key, KeySource};
use crate::state::{StateError, StateFolder};

pub(crate) const DEFAULT_KEY_FILE: &str = "repository.key";
const KEY_BYTES: usize = 32;
const MAX_KEY_BYTES: u64 = 64 * 1024;

/// The secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The key file cannot be read.
    #[error("cannot read the key file {file}")]
    Read {
        /// Which file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The key file is too short to be one.
    #[error("the key file {file} holds {length} bytes; a key file has 32 or more random ones")]
    TooShort {
        /// Which file.
        file: PathBuf,
        /// How many bytes it has.
        length: usize,
    },
    /// The default key file is gone.
    #[error("no key is configured, and the key file {file} that was made with the repository is gone")]
    Gone {
        /// Which file.
        file: PathBuf,
    },
    /// The passphrase cannot be read.
    #[error("cannot read the passphrase")]
    Passphrase(#[from] PassphraseError),
    /// The state folder failed.
    #[error(transparent)]
    State(#[from] StateError),
}

/// The secret of a repository that exists.
pub(super) fn existing(key: &Key, state: &StateFolder) -> Result<SlotSecret, SecretError> {
    match configured(key)? {
        Some(secret) => Ok(secret),
        None => match state.read(DEFAULT_KEY_FILE)? {
            Some(bytes) => checked(bytes, &state.path(DEFAULT_KEY_FILE)),
            None => Err(SecretError::Gone { file: state.path(DEFAULT_KEY_FILE) }),
        },
    }
}

/// The secret for a repository that is about to be made: where none is configured, a fresh key file.
pub(super) fn existing_or_new(key: &Key, state: &StateFolder) -> Result<SlotSecret, SecretError> {
    match existing(key, state) {
        Err(SecretError::Gone { file }) => {
            let mut bytes = Zeroizing::new(vec![0; KEY_BYTES]);
            aws_lc_rs::rand::fill(&mut bytes).expect("the operating system's random source answers");
            state.write(DEFAULT_KEY_FILE, &bytes)?;
            tracing::warn!(file = %file.display(), "no key is configured: the repository's key lies in this file");
            Ok(SlotSecret::KeyFile(bytes))
        }
        other => other,
    }
}

fn configured(key: &Key) -> Result<Option<SlotSecret>, SecretError> {
    Ok(match key.source() {
        None => None,
        Some(KeySource::File(file)) => Some(checked(read(&file)?, &file)?),
        Some(KeySource::Passphrase(source)) => {
            Some(SlotSecret::Passphrase(Zeroizing::new(source.read()?.expose().to_owned())))
        }
    })
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let failed = |source| SecretError::Read { file: file.to_owned(), source };
    let mut bytes = Zeroizing::new(Vec::new());
    let opened = std::fs::File::open(file).map_err(failed)?;
    io::Read::read_to_end(&mut io::Read::take(opened, MAX_KEY_BYTES), &mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn checked(bytes: Zeroizing<Vec<u8>>, file: &Path) -> Result<SlotSecret, SecretError> {
    if bytes.len() < KEY_BYTES {
        return Err(SecretError::TooShort { file: file.to_owned(), length: bytes.len() });
    }
    Ok(SlotSecret::KeyFile(bytes))
}
