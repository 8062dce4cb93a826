//! Sealing: what makes an agent blind to history and a stolen bucket worthless.
//!
//! A segment has a key of its own, sealed to the repository's public key: whoever writes a segment cannot
//! open another one, and not this one either once the process has ended. Must stay true: a segment key
//! seals each ordinal once (only [`super::segment::SegmentBuilder`] seals, and it counts); everything that
//! gives a blob its meaning is associated data, so that no blob can be moved, retyped or resized.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as HPKE_SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::blob::{BlobLine, TAG};
use crate::ids::{DomainId, RepositoryId, SegmentId};
use crate::random;

const HPKE_INFO: &[u8] = b"neurashield segment v1";

/// Something did not open: wrong key, or bytes that are not those that were sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it does not open: wrong key or changed bytes")]
pub struct SealBroken;

/// The public half of the repository's sealing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SealingPublicKey {
    /// Which key; newer ones have higher numbers.
    pub epoch: u32,
    /// X25519.
    #[serde(rename = "public_key", with = "crate::hex_array")]
    pub key: [u8; 32],
}

/// The private half. Never leaves the keyring.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SealingPrivateKey([u8; 32]);

impl SealingPrivateKey {
    /// The key with these bytes.
    pub(crate) fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A fresh pair.
    pub(crate) fn generate() -> ([u8; 32], Self) {
        let (public, private) = HPKE_SUITE.generate_key_pair().expect("the random source answers");
        let public = public.0.as_slice().try_into().expect("X25519 keys have 32 bytes");
        (public, Self(private.secret_bytes().try_into().expect("X25519 keys have 32 bytes")))
    }

    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A segment's key, as it lies in the segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedKey {
    /// Which of the repository's keys opens it.
    pub epoch: u32,
    /// HPKE's encapsulated key.
    pub encapsulated: [u8; 32],
    /// The 32 bytes and their tag.
    pub sealed: [u8; 48],
}

/// Opens and seals the blobs of one segment.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SegmentKey([u8; 32]);

impl std::fmt::Debug for SegmentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SegmentKey(..)")
    }
}

impl SegmentKey {
    /// A fresh key.
    pub(crate) fn random() -> Self {
        Self(random::bytes())
    }

    /// The key with these bytes, as the controller gave it to a restoring agent.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes: for the wire to the agent that restores, and nowhere else.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Seals this key to the repository; `header` is the segment header's first 64 bytes.
    pub(crate) fn seal_to(&self, public: &SealingPublicKey, header: &[u8]) -> SealedKey {
        self.seal_for(HPKE_INFO, public, header)
    }

    /// The same for another purpose than a segment, which `info` names.
    pub(crate) fn seal_for(&self, info: &[u8], public: &SealingPublicKey, header: &[u8]) -> SealedKey {
        let (encapsulated, sealed) = HPKE_SUITE
            .seal(info, header, &self.0, &HpkePublicKey(public.key.to_vec()))
            .expect("a checked X25519 key can be sealed to");
        SealedKey {
            epoch: public.epoch,
            encapsulated: encapsulated.0.as_slice().try_into().expect("X25519 keys have 32 bytes"),
            sealed: sealed.as_slice().try_into().expect("32 bytes and a tag of 16"),
        }
    }

    /// Opens a sealed key with the repository's private key of the same epoch.
    pub(crate) fn open(
        private: &SealingPrivateKey,
        sealed: &SealedKey,
        header: &[u8],
    ) -> Result<Self, SealBroken> {
        Self::open_for(HPKE_INFO, private, sealed, header)
    }

    /// The same for another purpose than a segment, which `info` names.
    pub(crate) fn open_for(
        info: &[u8],
        private: &SealingPrivateKey,
        sealed: &SealedKey,
        header: &[u8],
    ) -> Result<Self, SealBroken> {
        let encapsulated = EncapsulatedSecret(sealed.encapsulated.to_vec());
        let private = HpkePrivateKey::from(private.expose().to_vec());
        let mut opened =
            HPKE_SUITE.open(&encapsulated, info, header, &sealed.sealed, &private).map_err(|_| SealBroken)?;
        let key = opened.as_slice().try_into().map(Self).map_err(|_| SealBroken);
        opened.zeroize();
        key
    }

    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &self.0).expect("AES-256 keys have 32 bytes"))
    }
}

/// Where a segment belongs: part of what its blobs are bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentContext {
    /// The repository.
    pub repository: RepositoryId,
    /// The domain.
    pub domain: DomainId,
    /// The segment.
    pub segment: SegmentId,
}

impl SegmentContext {
    fn associated_data(&self, ordinal: u32, line: &BlobLine) -> [u8; 99] {
        let mut data = [0; 99];
        let parts: [&[u8]; 9] = [
            b"blob\0",
            self.repository.as_bytes(),
            self.domain.as_bytes(),
            self.segment.as_bytes(),
            &ordinal.to_le_bytes(),
            &[line.kind.code(), line.codec.code()],
            &line.plain_length.to_le_bytes(),
            &line.stored_length.to_le_bytes(),
            line.id.as_bytes(),
        ];
        let mut at = 0;
        for part in parts {
            data[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        debug_assert_eq!(at, data.len());
        data
    }

    /// Appends `compressed`, sealed, to `body`.
    pub(crate) fn seal(
        &self,
        cipher: &BlobCipher,
        ordinal: u32,
        line: &BlobLine,
        compressed: &[u8],
        body: &mut Vec<u8>,
    ) {
        let start = body.len();
        body.extend_from_slice(compressed);
        let tag = cipher
            .0
            .seal_in_place_separate_tag(
                nonce(ordinal),
                Aad::from(self.associated_data(ordinal, line)),
                &mut body[start..],
            )
            .expect("a blob is far below AES-GCM's limit");
        body.extend_from_slice(tag.as_ref());
    }

    /// Opens a sealed blob: still compressed, `stored_length` minus the tag long.
    pub fn open(
        &self,
        cipher: &BlobCipher,
        ordinal: u32,
        line: &BlobLine,
        mut sealed: Vec<u8>,
    ) -> Result<Vec<u8>, SealBroken> {
        if sealed.len() != line.stored_length as usize {
            return Err(SealBroken);
        }
        let opened = cipher
            .0
            .open_in_place(nonce(ordinal), Aad::from(self.associated_data(ordinal, line)), &mut sealed)
            .map_err(|_| SealBroken)?
            .len();
        debug_assert_eq!(opened + TAG as usize, sealed.len());
        sealed.truncate(opened);
        Ok(sealed)
    }
}

/// A segment key made ready for many blobs.
pub struct BlobCipher(LessSafeKey);

impl BlobCipher {
    /// The cipher with this key.
    pub fn new(key: &SegmentKey) -> Self {
        Self(key.cipher())
    }
}

impl std::fmt::Debug for BlobCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlobCipher(..)")
    }
}

fn nonce(ordinal: u32) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&u64::from(ordinal).to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}
