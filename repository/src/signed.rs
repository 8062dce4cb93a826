//! Signed JSON: an object that people can read, and one last line that proves who wrote it.
//!
//! The signature covers the very bytes, not a canonical form: whoever checks it needs no JSON library.

use std::marker::PhantomData;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::hex_array;
use crate::random;

/// The longest signed JSON file, in bytes.
pub const MAX_JSON: u64 = 16 << 20;
/// Bytes of a signature.
pub(crate) const SIGNATURE: usize = 64;

/// What is wrong with a signed file.
#[derive(Debug, thiserror::Error)]
pub enum SignedError {
    /// There is no signature line, or it is not one.
    #[error("it carries no signature")]
    Unsigned,
    /// The bytes are not those that were signed.
    #[error("its signature does not match its content: it was changed or damaged")]
    Broken,
    /// Somebody else signed it.
    #[error("it is signed by another key than this repository's")]
    Stranger,
    /// The signature is right and the content is not what this program knows.
    #[error("it cannot be understood")]
    Content(#[source] serde_json::Error),
}

/// The public half of the signing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct VerifyingKey(#[serde(with = "hex_array")] pub [u8; 32]);

/// The private half: an Ed25519 seed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SigningKey([u8; 32]);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

#[derive(Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct SignatureLine {
    ed25519: VerifyingKey,
    #[serde(with = "hex_array")]
    signature: [u8; 64],
}

impl SigningKey {
    pub(crate) fn generate() -> Self {
        Self(random::bytes())
    }

    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self(seed)
    }

    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// A secret for `purpose`, from which this key cannot be learnt.
    pub fn derived(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        let message = [b"derived\0", purpose.as_bytes()].concat();
        Zeroizing::new(*blake3::keyed_hash(&self.0, &message).as_bytes())
    }

    fn pair(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&self.0).expect("any 32 bytes are an Ed25519 seed")
    }

    /// The public half.
    pub fn public(&self) -> VerifyingKey {
        VerifyingKey(self.pair().public_key().as_ref().try_into().expect("Ed25519 public keys have 32 bytes"))
    }

    /// The signature of `bytes`.
    pub(crate) fn sign_bytes(&self, bytes: &[u8]) -> [u8; SIGNATURE] {
        self.pair().sign(bytes).as_ref().try_into().expect("Ed25519 signatures have 64 bytes")
    }

    /// `value` as signed JSON.
    pub fn sign<T: Serialize>(&self, value: &T) -> SignedJson<T> {
        let mut bytes = serde_json::to_vec_pretty(value).expect("our own types have a JSON form");
        bytes.push(b'\n');
        let line = SignatureLine { ed25519: self.public(), signature: self.sign_bytes(&bytes) };
        bytes.extend(serde_json::to_vec(&line).expect("a signature line has a JSON form"));
        bytes.push(b'\n');
        SignedJson { bytes, content: PhantomData }
    }
}

/// The bytes of a signed `T`.
pub struct SignedJson<T> {
    bytes: Vec<u8>,
    content: PhantomData<T>,
}

impl<T> SignedJson<T> {
    /// The file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-256 of the file.
    pub fn digest(&self) -> Sha256 {
        Sha256::of(&self.bytes)
    }
}

impl VerifyingKey {
    /// Makes sure that this key signed these bytes.
    pub(crate) fn verify_bytes(&self, bytes: &[u8], signature: &[u8]) -> Result<(), SignedError> {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(bytes, signature).map_err(|_| SignedError::Broken)
    }

    /// The content of a file that this key signed.
    pub fn verify<T: DeserializeOwned>(&self, file: &[u8]) -> Result<T, SignedError> {
        let (content, line) = split(file)?;
        if line.ed25519 != *self {
            return Err(SignedError::Stranger);
        }
        check(content, &line)?;
        serde_json::from_slice(content).map_err(SignedError::Content)
    }
}

/// The content of a file that is signed by whichever key it names, and that key: for the one file that
/// introduces the key.
pub(crate) fn verify_introduction<T: DeserializeOwned>(
    file: &[u8],
) -> Result<(T, VerifyingKey), SignedError> {
    let (content, line) = split(file)?;
    check(content, &line)?;
    Ok((serde_json::from_slice(content).map_err(SignedError::Content)?, line.ed25519))
}

fn split(file: &[u8]) -> Result<(&[u8], SignatureLine), SignedError> {
    let body = file.strip_suffix(b"\n").ok_or(SignedError::Unsigned)?;
    let end = body.iter().rposition(|byte| *byte == b'\n').ok_or(SignedError::Unsigned)? + 1;
    let line = serde_json::from_slice(&body[end..]).map_err(|_| SignedError::Unsigned)?;
    Ok((&body[..end], line))
}

fn check(content: &[u8], line: &SignatureLine) -> Result<(), SignedError> {
    UnparsedPublicKey::new(&ED25519, &line.ed25519.0)
        .verify(content, &line.signature)
        .map_err(|_| SignedError::Broken)
}

/// A SHA-256, as JSON and `sha256sum` show it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Sha256(#[serde(with = "hex_array")] pub [u8; 32]);

impl Sha256 {
    /// The SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(digest::digest(&digest::SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl std::fmt::Display for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&crate::ids::hex(&self.0))
    }
}

impl std::fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sha256({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_signed_verifies_and_nothing_else_does() {
        let (key, other) = (SigningKey::generate(), SigningKey::generate());
        let file = key.sign(&vec!["a", "b"]).bytes;
        assert_eq!(key.public().verify::<Vec<String>>(&file).expect("signed"), ["a", "b"]);
        assert!(matches!(other.public().verify::<Vec<String>>(&file), Err(SignedError::Stranger)));
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert!(key.public().verify::<Vec<String>>(&changed).is_err(), "byte {at}");
            assert!(key.public().verify::<Vec<String>>(&file[..at]).is_err(), "cut at {at}");
        }
    }
}
