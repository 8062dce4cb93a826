//! Copies of a controller's catalog: `catalog.sealed` beside a backup, and the files of `history/`.
//!
//! What is in one is the controller's affair. Must stay true: only the repository's private key opens a copy, so
//! that neither an agent nor a thief of the storage reads it; only the holder of the signing key can have
//! written it, so that nobody who writes to the storage brings a catalog of his own under the next controller;
//! it is bound to its place, so that no copy can be put where another one belongs.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::codec::{Decoder, Encoder, Malformed};
use crate::error::RepositoryError;
use crate::ids::RepositoryId;
use crate::keys::KeyRing;
use crate::layout;
use crate::names::BackupName;
use crate::pack::seal::{SealedKey, SealingPublicKey, SegmentKey};
use crate::repo::Repository;
use crate::signed::{SIGNATURE, SignedError, SigningKey, VerifyingKey};
use crate::store::{ListedKind, ObjectPath, StoreError};

const MAGIC: &[u8; 8] = b"NScatlog";
const VERSION: u16 = 1;
const WHAT: &str = "copy of the catalog";
const INFO: &[u8] = b"neurashield catalog v1";
const LEVEL: i32 = 3;
/// The longest copy, sealed, in bytes.
pub const MAX_SEALED: u64 = 64 << 20;
/// The longest copy, opened, in bytes.
pub const MAX_PLAIN: u64 = 256 << 20;
/// A place is a short path within the repository.
const MAX_PLACE: usize = 128;

/// What a copy holds. Never shown: the authority's key is in it.
#[derive(Clone)]
pub struct CatalogCopy(Zeroizing<Vec<u8>>);

impl CatalogCopy {
    /// A copy of these bytes; `None` if they are too many for one.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Option<Self> {
        (bytes.len() as u64 <= MAX_PLAIN).then_some(Self(bytes))
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The file that lies at `place`.
    pub(crate) fn seal(
        &self,
        place: &ObjectPath,
        repository: RepositoryId,
        public: &SealingPublicKey,
        signing: &SigningKey,
    ) -> Vec<u8> {
        let packed = zstd::bulk::compress(&self.0, LEVEL).expect("the buffer has zstd's own bound");
        let mut packed = Zeroizing::new(packed);
        let mut file = Encoder::new();
        file.raw(MAGIC);
        file.u16(VERSION);
        file.u16(0);
        file.u32(public.epoch);
        file.raw(repository.as_bytes());
        file.bytes(place.as_str().as_bytes());
        file.u64(self.0.len() as u64);
        let mut file = file.finish();
        let key = SegmentKey::random();
        let sealed = key.seal_for(INFO, public, &file);
        file.extend_from_slice(&sealed.encapsulated);
        file.extend_from_slice(&sealed.sealed);
        let tag = cipher(&key)
            .seal_in_place_separate_tag(only_nonce(), Aad::from(&file), &mut packed)
            .expect("a copy is far below AES-GCM's limit");
        file.extend_from_slice(&packed);
        file.extend_from_slice(tag.as_ref());
        let signature = signing.sign_bytes(&file);
        file.extend_from_slice(&signature);
        file
    }
}

impl fmt::Debug for CatalogCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CatalogCopy(..)")
    }
}

/// What may be known of a copy without the private key.
struct Head<'a> {
    epoch: u32,
    repository: RepositoryId,
    place: &'a [u8],
    plain_length: u64,
    /// What the key is bound to.
    bound: &'a [u8],
    key: SealedKey,
    /// What the body is bound to.
    covered: &'a [u8],
    body: &'a [u8],
}

impl<'a> Head<'a> {
    fn decode(file: &'a [u8]) -> Result<Self, Malformed> {
        let mut decoder = Decoder::new(WHAT, file);
        if &decoder.array()? != MAGIC {
            return Err(decoder.malformed("it does not begin like one"));
        }
        if decoder.u16()? != VERSION || decoder.u16()? != 0 {
            return Err(decoder.malformed("its version is not known to this program"));
        }
        let (epoch, repository) = (decoder.u32()?, RepositoryId::new(decoder.array()?));
        let place = decoder.bytes(MAX_PLACE)?;
        let plain_length = decoder.u64()?;
        let bound = &file[..file.len() - decoder.remaining()];
        let key = SealedKey { epoch, encapsulated: decoder.array()?, sealed: decoder.array()? };
        let covered = &file[..file.len() - decoder.remaining()];
        let body = decoder.raw(decoder.remaining())?;
        if plain_length > MAX_PLAIN {
            return Err(Malformed::new(WHAT, "its length is out of bounds"));
        }
        Ok(Self { epoch, repository, place, plain_length, bound, key, covered, body })
    }
}

/// The content of `file`, once its signature is found right and its place its own.
fn signed<'a>(file: &'a [u8], signer: &VerifyingKey) -> Result<&'a [u8], SignedError> {
    let end = file.len().checked_sub(SIGNATURE).ok_or(SignedError::Unsigned)?;
    let (content, signature) = file.split_at(end);
    signer.verify_bytes(content, signature)?;
    Ok(content)
}

fn opened(head: &Head<'_>, keys: &KeyRing) -> Result<Zeroizing<Vec<u8>>, Malformed> {
    let wrong = || Malformed::new(WHAT, "it does not open: wrong key or changed bytes");
    let private = keys.sealing_private(head.epoch).ok_or_else(wrong)?;
    let key = SegmentKey::open_for(INFO, private, &head.key, head.bound).map_err(|_| wrong())?;
    let mut body = Zeroizing::new(head.body.to_vec());
    let packed =
        cipher(&key).open_in_place(only_nonce(), Aad::from(head.covered), &mut body).map_err(|_| wrong())?;
    let length = usize::try_from(head.plain_length).map_err(|_| wrong())?;
    let plain = zstd::bulk::decompress(packed, length).map(Zeroizing::new);
    plain.ok().filter(|plain| plain.len() == length).ok_or(Malformed::new(WHAT, "it cannot be decompressed"))
}

fn cipher(key: &SegmentKey) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.expose()).expect("AES-256 keys have 32 bytes"))
}

/// Each copy has a key of its own, which seals this once.
fn only_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

impl Repository {
    /// The copy of the catalog beside a backup; `None` if it was made without one.
    pub fn catalog_beside(
        &self,
        backup: &BackupName,
        keys: &KeyRing,
    ) -> Result<Option<CatalogCopy>, RepositoryError> {
        match self.read_copy(&layout::catalog_beside(backup), keys) {
            Err(RepositoryError::Store(StoreError::NotFound { .. })) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Makes sure, without the private key, that the copy beside a backup is what was written there; false if
    /// the backup was made without one.
    pub fn check_catalog_beside(&self, backup: &BackupName) -> Result<bool, RepositoryError> {
        let path = layout::catalog_beside(backup);
        match self.store.read(&path, MAX_SEALED) {
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
            Ok(file) => self.head_of(&path, &file).map(|_| true),
        }
    }

    /// Adds a file of history. Its number is higher than all before.
    pub fn add_history(
        &self,
        number: u64,
        copy: &CatalogCopy,
        keys: &KeyRing,
    ) -> Result<(), RepositoryError> {
        let path = layout::history(number);
        let file = copy.seal(&path, self.config.id, &self.sealing_key(), keys.signing());
        Ok(self.store.create(&path, &file)?)
    }

    /// The numbers of the files of history, the oldest first.
    pub fn history(&self) -> Result<Vec<u64>, RepositoryError> {
        let listed = self.store.list(Some(&layout::histories()))?;
        let files = listed.iter().filter(|listed| matches!(listed.kind, ListedKind::Object { .. }));
        let mut numbers: Vec<u64> = files.filter_map(|listed| layout::history_named(&listed.name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// A file of history.
    pub fn read_history(&self, number: u64, keys: &KeyRing) -> Result<CatalogCopy, RepositoryError> {
        self.read_copy(&layout::history(number), keys)
    }

    /// Removes a file of history whose time is over.
    pub fn remove_history(&self, number: u64) -> Result<(), RepositoryError> {
        Ok(self.store.delete(&layout::history(number))?)
    }

    fn read_copy(&self, path: &ObjectPath, keys: &KeyRing) -> Result<CatalogCopy, RepositoryError> {
        let file = self.store.read(path, MAX_SEALED)?;
        let head = self.head_of(path, &file)?;
        let damaged = |source| RepositoryError::Damaged { path: path.clone(), source };
        opened(&head, keys).map(CatalogCopy).map_err(damaged)
    }

    fn head_of<'a>(&self, path: &ObjectPath, file: &'a [u8]) -> Result<Head<'a>, RepositoryError> {
        let content = signed(file, &self.config.signing_key)
            .map_err(|source| RepositoryError::Signature { path: path.clone(), source })?;
        let head = Head::decode(content)
            .map_err(|source| RepositoryError::Damaged { path: path.clone(), source })?;
        // Whole, and of another place or repository: somebody has put it here.
        if head.repository != self.config.id || head.place != path.as_str().as_bytes() {
            return Err(RepositoryError::Checksum { path: path.clone() });
        }
        Ok(head)
    }
}

/// Reads what anybody may have written: for those who throw bytes at it (`tests/decoders`).
pub fn look_at(file: &[u8]) -> Result<(), Malformed> {
    Head::decode(file).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(bytes: &[u8]) -> CatalogCopy {
        CatalogCopy::new(Zeroizing::new(bytes.to_vec())).expect("short enough")
    }

    #[test]
    fn a_copy_opens_with_the_private_key_and_no_changed_byte_is_taken_for_signed() {
        let (keys, id) = (KeyRing::generate(), RepositoryId::random());
        let place = layout::catalog_beside(&"20260101_010000".parse().expect("a name"));
        let public = *keys.sealing_public().last().expect("one");
        let file = copy(b"who is who").seal(&place, id, &public, keys.signing());
        let content = signed(&file, &keys.signing().public()).expect("signed");
        let head = Head::decode(content).expect("well formed");
        assert_eq!((head.repository, head.place), (id, place.as_str().as_bytes()));
        assert_eq!(opened(&head, &keys).expect("opened").as_slice(), b"who is who");
        assert!(opened(&head, &KeyRing::generate()).is_err(), "another key opens nothing");
        assert!(!file.windows(10).any(|part| part == b"who is who"));
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert!(signed(&changed, &keys.signing().public()).is_err(), "byte {at}");
            assert!(signed(&file[..at], &keys.signing().public()).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_copy_that_somebody_else_has_sealed_is_refused() {
        let (keys, forger) = (KeyRing::generate(), KeyRing::generate());
        let public = *keys.sealing_public().last().expect("one");
        let file = copy(b"my own authority").seal(
            &layout::history(1),
            RepositoryId::random(),
            &public,
            forger.signing(),
        );
        assert!(signed(&file, &keys.signing().public()).is_err());
    }
}
