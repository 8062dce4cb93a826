//! Slots: each wraps the one root key under one secret, so that a passphrase can change and a recovery
//! key can be added without touching anything else.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use jiff::Timestamp;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::recovery::RecoveryKey;
use crate::hex_array;
use crate::ids::RepositoryId;
use crate::random;

const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 4;
/// The most that a slot may ask of Argon2, so that a hostile one cannot eat the machine.
const MAX_MEMORY_KIB: u32 = 1 << 20;
const MAX_PASSES: u32 = 64;

/// What opens a slot.
pub enum SlotSecret {
    /// The bytes of a key file: 32 or more, random.
    KeyFile(Zeroizing<Vec<u8>>),
    /// What a person remembers.
    Passphrase(Zeroizing<String>),
    /// What a person wrote down at `init`.
    Recovery(RecoveryKey),
}

impl SlotSecret {
    /// Which kind of slot it opens.
    pub fn kind(&self) -> SlotKind {
        match self {
            SlotSecret::KeyFile(_) => SlotKind::KeyFile,
            SlotSecret::Passphrase(_) => SlotKind::Passphrase,
            SlotSecret::Recovery(_) => SlotKind::Recovery,
        }
    }
}

impl fmt::Debug for SlotSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotSecret::{:?}(..)", self.kind())
    }
}

/// What kind of secret a slot has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotKind {
    /// A key file.
    KeyFile,
    /// A passphrase, stretched by Argon2id.
    Passphrase,
    /// A recovery key.
    Recovery,
}

impl SlotKind {
    const fn as_str(self) -> &'static str {
        match self {
            SlotKind::KeyFile => "key_file",
            SlotKind::Passphrase => "passphrase",
            SlotKind::Recovery => "recovery",
        }
    }
}

impl fmt::Display for SlotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What all slots wrap, and what seals the keyring.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct RootKey([u8; 32]);

impl RootKey {
    pub(crate) fn random() -> Self {
        Self(random::bytes())
    }

    pub(crate) fn seal(&self, associated: &[u8], plaintext: &[u8]) -> Sealed {
        Sealed::seal(&self.0, associated, plaintext)
    }

    pub(crate) fn open(&self, associated: &[u8], sealed: &Sealed) -> Option<Zeroizing<Vec<u8>>> {
        sealed.open(&self.0, associated)
    }
}

/// Bytes sealed with AES-256-GCM under a key that is used a handful of times, so a random nonce is safe.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Sealed {
    #[serde(with = "hex_array")]
    nonce: [u8; 12],
    sealed: String,
}

impl Sealed {
    fn seal(key: &[u8; 32], associated: &[u8], plaintext: &[u8]) -> Self {
        let nonce: [u8; 12] = random::bytes();
        let mut bytes = plaintext.to_vec();
        cipher(key)
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated), &mut bytes)
            .expect("a keyring is far below AES-GCM's limit");
        Self { nonce, sealed: crate::ids::hex(&bytes) }
    }

    fn open(&self, key: &[u8; 32], associated: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(crate::ids::unhex(&self.sealed)?);
        let nonce = Nonce::assume_unique_for_key(self.nonce);
        let length = cipher(key).open_in_place(nonce, Aad::from(associated), &mut bytes).ok()?.len();
        bytes.truncate(length);
        Some(bytes)
    }
}

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("AES-256 keys have 32 bytes"))
}

/// A wrapped root key, as it lies in `keys/slots`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Slot {
    /// Its id: 16 hex digits.
    pub slot: String,
    /// What opens it.
    pub kind: SlotKind,
    /// When it was made.
    pub created_at: Timestamp,
    #[serde(with = "hex_array")]
    salt: [u8; 16],
    #[serde(skip_serializing_if = "Option::is_none", default)]
    argon2: Option<Stretching>,
    #[serde(flatten)]
    root: Sealed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Stretching {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Slot {
    pub(crate) fn wrap(
        root: &RootKey,
        secret: &SlotSecret,
        repository: RepositoryId,
        now: Timestamp,
    ) -> Self {
        let slot = crate::ids::hex(&random::bytes::<8>());
        let salt = random::bytes();
        let stretching = Stretching { memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES };
        let argon2 = matches!(secret, SlotSecret::Passphrase(_)).then_some(stretching);
        let key = slot_key(secret, &salt, argon2).expect("our own parameters are valid");
        let associated = associated_data(repository, &slot, secret.kind());
        let root = Sealed::seal(&key, &associated, &root.0);
        Self { slot, kind: secret.kind(), created_at: now, salt, argon2, root }
    }

    /// The root key, if `secret` is this slot's.
    pub(crate) fn unwrap(&self, secret: &SlotSecret, repository: RepositoryId) -> Option<RootKey> {
        if secret.kind() != self.kind {
            return None;
        }
        let key = slot_key(secret, &self.salt, self.argon2)?;
        let root = self.root.open(&key, &associated_data(repository, &self.slot, self.kind))?;
        root.as_slice().try_into().ok().map(RootKey)
    }
}

fn associated_data(repository: RepositoryId, slot: &str, kind: SlotKind) -> Vec<u8> {
    [b"slot\0", &repository.as_bytes()[..], slot.as_bytes(), b"\0", kind.as_str().as_bytes()].concat()
}

fn slot_key(secret: &SlotSecret, salt: &[u8; 16], argon2: Option<Stretching>) -> Option<Zeroizing<[u8; 32]>> {
    let derive = |context, secret: &[u8]| {
        let material = Zeroizing::new([secret, salt].concat());
        Some(Zeroizing::new(blake3::derive_key(context, &material)))
    };
    match secret {
        SlotSecret::KeyFile(bytes) => derive("neurashield backup 2026 key file slot", bytes),
        SlotSecret::Recovery(key) => derive("neurashield backup 2026 recovery slot", key.secret()),
        SlotSecret::Passphrase(text) => stretch(text.as_bytes(), salt, argon2?),
    }
}

fn stretch(passphrase: &[u8], salt: &[u8; 16], with: Stretching) -> Option<Zeroizing<[u8; 32]>> {
    if with.memory_kib > MAX_MEMORY_KIB || with.passes > MAX_PASSES || with.lanes > 64 {
        return None;
    }
    let params = Params::new(with.memory_kib, with.passes, with.lanes, Some(32)).ok()?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, salt, &mut *key)
        .ok()?;
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> SlotSecret {
        SlotSecret::Passphrase(Zeroizing::new(text.to_owned()))
    }

    #[test]
    fn each_kind_of_secret_opens_its_slot_and_no_other() {
        let (root, repository) = (RootKey::random(), RepositoryId::random());
        let recovery = RecoveryKey::generate();
        let secrets = [
            passphrase("correct horse"),
            SlotSecret::KeyFile(Zeroizing::new(vec![7; 32])),
            SlotSecret::Recovery(recovery.clone()),
        ];
        let slots: Vec<Slot> = secrets
            .iter()
            .map(|secret| Slot::wrap(&root, secret, repository, Timestamp::UNIX_EPOCH))
            .map(|slot| serde_json::to_vec(&slot).expect("JSON"))
            .map(|json| serde_json::from_slice(&json).expect("reads back"))
            .collect();
        for (i, slot) in slots.iter().enumerate() {
            for (j, secret) in secrets.iter().enumerate() {
                assert_eq!(slot.unwrap(secret, repository).is_some_and(|found| found.0 == root.0), i == j);
            }
            assert!(slot.unwrap(&secrets[i], RepositoryId::random()).is_none(), "bound to its repository");
        }
        assert!(slots[0].unwrap(&passphrase("wrong"), repository).is_none());
    }

    #[test]
    fn a_slot_cannot_ask_for_all_memory() {
        let secret = passphrase("x");
        let mut slot = Slot::wrap(&RootKey::random(), &secret, RepositoryId::random(), Timestamp::UNIX_EPOCH);
        slot.argon2 = Some(Stretching { memory_kib: u32::MAX, passes: 1, lanes: 1 });
        assert!(slot.unwrap(&secret, RepositoryId::random()).is_none());
    }
}
