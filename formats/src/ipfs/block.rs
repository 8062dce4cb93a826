//! A block's name says what its bytes are.

pub use cid::Cid;
use multihash_codetable::{Code, MultihashDigest};

use super::codec;

/// The multihash code of names that hold their bytes themselves.
const IDENTITY: u64 = 0;

/// What a block's bytes are, measured by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The name is theirs.
    Right,
    /// They are not what the name says.
    Wrong,
    /// The hash is none that is known here.
    Unknown,
}

/// Compares the bytes with the name.
pub fn verify(cid: &Cid, bytes: &[u8]) -> Verdict {
    let hash = cid.hash();
    if hash.code() == IDENTITY {
        return if hash.digest() == bytes { Verdict::Right } else { Verdict::Wrong };
    }
    let Ok(code) = Code::try_from(hash.code()) else { return Verdict::Unknown };
    let right = code.digest(bytes);
    // A name may hold the beginning of a hash alone; less than 16 bytes name nothing.
    let given = hash.digest();
    match given.len() >= 16 && right.digest().starts_with(given) {
        true => Verdict::Right,
        false => Verdict::Wrong,
    }
}

/// Stands for one block, however it is read: 16 bytes of a hash whose secret nobody knows who makes blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; 16]);

/// The key of the block `cid`, among those that were made with the same `secret`.
pub fn key(secret: &[u8; 32], cid: &Cid) -> Key {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    hasher.update(&cid.hash().code().to_le_bytes());
    hasher.update(cid.hash().digest());
    let mut key = [0; 16];
    hasher.finalize_xof().fill(&mut key);
    Key(key)
}

/// The bytes, if the name holds them: then there is no block.
pub fn held_by_name(cid: &Cid) -> Option<&[u8]> {
    (cid.hash().code() == IDENTITY).then(|| cid.hash().digest())
}

/// True if nothing is linked to from such a block.
pub fn is_leaf(cid: &Cid) -> bool {
    matches!(cid.codec(), codec::RAW | codec::LIBP2P_KEY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_known_by_its_name() {
        // `ipfs add --raw-leaves` and plain `ipfs add` of "hi\n", by Kubo.
        let raw: Cid = "bafkreiey5jxe6ilpf62lnh77tm5ejbbmhbugzjuf6p2v3remlu73ced34q".parse().expect("a CID");
        assert_eq!(verify(&raw, b"hi\n"), Verdict::Right);
        assert_eq!(verify(&raw, b"ho\n"), Verdict::Wrong);
        let base58: Cid = "zb2rhgwCVg3iEfvDBxYToAHjm9CXPvZus7Sc9JbjUKuL327yu".parse().expect("a CID");
        assert_eq!(base58, raw);
        let old: Cid = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn".parse().expect("a CID");
        assert_eq!(verify(&old, &[0x0a, 2, 8, 1]), Verdict::Right);
        let new = Cid::new_v1(codec::DAG_PB, *old.hash());
        assert_eq!(key(&[1; 32], &old), key(&[1; 32], &new));
        assert_ne!(key(&[1; 32], &old), key(&[1; 32], &raw));
        assert_ne!(key(&[1; 32], &old), key(&[2; 32], &old));
    }
}
