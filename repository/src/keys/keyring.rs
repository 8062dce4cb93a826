//! The keyring: every private key of the repository, and what is derived from it.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::slots::{RootKey, Sealed};
use crate::content::IdKey;
use crate::cut::GearKey;
use crate::hex_array;
use crate::ids::{DomainId, RepositoryId};
use crate::names::SourceId;
use crate::pack::seal::{SealBroken, SealingPrivateKey, SealingPublicKey, SegmentKey};
use crate::pack::segment::SegmentHeader;
use crate::random;
use crate::signed::SigningKey;

/// All private keys of a repository.
#[derive(Clone)]
pub struct KeyRing {
    sealing: Vec<(SealingPublicKey, SealingPrivateKey)>,
    signing: SigningKey,
    domain_secret: DomainSecret,
}

#[derive(Clone, Zeroize, ZeroizeOnDrop)]
struct DomainSecret([u8; 32]);

/// What the blobs of one domain are made with: all that an agent needs to write them, and nothing that
/// opens them.
#[derive(Debug, Clone)]
pub struct DomainKeys {
    /// The domain.
    pub domain: DomainId,
    /// Makes blob ids and content ids.
    pub id_key: IdKey,
    /// Makes the gear table.
    pub gear_key: GearKey,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyRing(..)")
    }
}

impl KeyRing {
    pub(crate) fn generate() -> Self {
        let (key, private) = SealingPrivateKey::generate();
        Self {
            sealing: vec![(SealingPublicKey { epoch: 1, key }, private)],
            signing: SigningKey::generate(),
            domain_secret: DomainSecret(random::bytes()),
        }
    }

    /// The key that signs backups.
    pub fn signing(&self) -> &SigningKey {
        &self.signing
    }

    /// The public keys, oldest first; new segments use the last.
    pub fn sealing_public(&self) -> Vec<SealingPublicKey> {
        self.sealing.iter().map(|(public, _)| *public).collect()
    }

    /// The keys of a source's own domain.
    pub fn domain_keys(&self, source: &SourceId) -> DomainKeys {
        let name = [b"domain\0", source.component.as_str().as_bytes(), b"/", source.name.as_str().as_bytes()]
            .concat();
        let id = keyed(&self.domain_secret.0, &name);
        let domain = DomainId::try_from(&id[..DomainId::LEN]).expect("16 of 32 bytes");
        domain_keys_of(&self.domain_secret.0, domain)
    }

    /// The keys of a domain that is known by its id.
    pub fn domain_keys_by_id(&self, domain: DomainId) -> DomainKeys {
        domain_keys_of(&self.domain_secret.0, domain)
    }

    /// By what manifests name a validator: they can be read without a key, and its address is public.
    pub fn signer_id(&self, address: &str) -> String {
        let id = keyed(&self.domain_secret.0, &[b"signer\0", address.as_bytes()].concat());
        id[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The private half of the sealing key of this epoch.
    pub(crate) fn sealing_private(&self, epoch: u32) -> Option<&SealingPrivateKey> {
        self.sealing.iter().find(|(public, _)| public.epoch == epoch).map(|(_, private)| private)
    }

    /// Opens the key of a segment.
    pub fn segment_key(&self, header: &SegmentHeader) -> Result<SegmentKey, SealBroken> {
        let private = self.sealing_private(header.key.epoch).ok_or(SealBroken)?;
        let bound = SegmentHeader::bound(header.class, header.key.epoch, &header.context);
        SegmentKey::open(private, &header.key, &bound)
    }
}

fn domain_keys_of(secret: &[u8; 32], domain: DomainId) -> DomainKeys {
    let derive = |word: &[u8]| keyed(secret, &[word, domain.as_bytes()].concat());
    DomainKeys {
        domain,
        id_key: IdKey::new(derive(b"id key\0")),
        gear_key: GearKey::new(derive(b"gear key\0")),
    }
}

fn keyed(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(key, message).as_bytes()
}

/// The keyring as it lies in `keys/keyring.*.json`.
#[derive(Serialize, Deserialize)]
pub(crate) struct SealedKeyRing(Sealed);

/// The keyring's plaintext.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Plain {
    sealing: Vec<PlainSealing>,
    #[serde(with = "hex_array")]
    signing: [u8; 32],
    #[serde(with = "hex_array")]
    domain_secret: [u8; 32],
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct PlainSealing {
    epoch: u32,
    #[serde(with = "hex_array")]
    private: [u8; 32],
    #[serde(with = "hex_array")]
    public: [u8; 32],
}

impl SealedKeyRing {
    pub(crate) fn seal(ring: &KeyRing, root: &RootKey, repository: RepositoryId) -> Self {
        let sealing = ring.sealing.iter().map(|(public, private)| PlainSealing {
            epoch: public.epoch,
            private: *private.expose(),
            public: public.key,
        });
        let plain = Plain {
            sealing: sealing.collect(),
            signing: *ring.signing.expose(),
            domain_secret: ring.domain_secret.0,
        };
        let json = Zeroizing::new(serde_json::to_vec(&plain).expect("a keyring has a JSON form"));
        Self(root.seal(&associated_data(repository), &json))
    }

    pub(crate) fn open(&self, root: &RootKey, repository: RepositoryId) -> Option<KeyRing> {
        let json = root.open(&associated_data(repository), &self.0)?;
        let plain: Plain = serde_json::from_slice(&json).ok()?;
        let sealing = plain.sealing.iter().map(|pair| {
            (SealingPublicKey { epoch: pair.epoch, key: pair.public }, SealingPrivateKey::new(pair.private))
        });
        Some(KeyRing {
            sealing: sealing.collect(),
            signing: SigningKey::new(plain.signing),
            domain_secret: DomainSecret(plain.domain_secret),
        })
    }
}

fn associated_data(repository: RepositoryId) -> Vec<u8> {
    [b"keyring\0", &repository.as_bytes()[..]].concat()
}
