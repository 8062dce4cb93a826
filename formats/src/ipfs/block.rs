//! A block's name says what its bytes are.

use multihash_codetable::{Code, MultihashDigest};

use super::codec;

/// A block's name. Kubo takes names that hold up to 128 bytes themselves; hashes are shorter.
pub type Cid = cid::CidGeneric<128>;

/// A hash with its kind: a name without how the bytes are read.
pub(super) type Hash = cid::multihash::Multihash<128>;

/// The multihash code of names that hold their bytes themselves.
const IDENTITY: u64 = 0;
/// Hashes that the table of codes does not have, or not of each length.
const TWICE_SHA2_256: u64 = 0x56;
const BLAKE3: u64 = 0x1e;
const BLAKE2B: u64 = 0xb200;
const BLAKE2S: u64 = 0xb240;
/// A name may hold the beginning of a hash alone; less than this names nothing.
const SHORTEST: usize = 16;

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
    let given = cid.hash().digest();
    if held_by_name(cid).is_some() {
        return if given == bytes { Verdict::Right } else { Verdict::Wrong };
    }
    let Some(right) = hash(cid.hash().code(), given.len(), bytes) else { return Verdict::Unknown };
    match given.len() >= SHORTEST && right.starts_with(given) {
        true => Verdict::Right,
        false => Verdict::Wrong,
    }
}

/// The hash of some bytes, of at least `length` bytes where there is so much of it.
fn hash(code: u64, length: usize, bytes: &[u8]) -> Option<Vec<u8>> {
    let of_table = |code: Code, bytes: &[u8]| code.digest(bytes).digest().to_vec();
    Some(match code {
        TWICE_SHA2_256 => of_table(Code::Sha2_256, &of_table(Code::Sha2_256, bytes)),
        BLAKE3 => {
            let mut hash = vec![0; length];
            blake3::Hasher::new().update(bytes).finalize_xof().fill(&mut hash);
            hash
        }
        // The code says how long the hash is, and each length is a hash of its own.
        0xb201..=0xb240 => {
            let length = (code - BLAKE2B) as usize;
            blake2b_simd::Params::new().hash_length(length).hash(bytes).as_bytes().to_vec()
        }
        0xb241..=0xb260 => {
            let length = (code - BLAKE2S) as usize;
            blake2s_simd::Params::new().hash_length(length).hash(bytes).as_bytes().to_vec()
        }
        _ => of_table(Code::try_from(code).ok()?, bytes),
    })
}

/// The usual name of a block that is read as `codec`.
pub fn named(codec: u64, bytes: &[u8]) -> Cid {
    let hash = Code::Sha2_256.digest(bytes);
    Cid::new_v1(codec, hash.resize().expect("it has 32 bytes"))
}

/// Stands for one block: 16 bytes of a hash whose secret nobody knows who makes blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; 16]);

/// The key of the block `cid`, however it is read, among those that were made with the same `secret`.
pub fn key(secret: &[u8; 32], cid: &Cid) -> Key {
    keyed(secret, u64::MAX, cid)
}

/// The key of the block `cid`, read as `cid` says. One that is read in another way links to something else: a
/// folder that is named as raw bytes links to nothing.
pub fn reading(secret: &[u8; 32], cid: &Cid) -> Key {
    keyed(secret, cid.codec(), cid)
}

fn keyed(secret: &[u8; 32], codec: u64, cid: &Cid) -> Key {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    hasher.update(&codec.to_le_bytes());
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
    matches!(cid.codec(), codec::RAW | codec::LIBP2P_KEY | codec::CBOR | codec::JSON)
}

/// True if what such a block links to is known here.
pub fn is_followed(cid: &Cid) -> bool {
    matches!(cid.codec(), codec::DAG_PB | codec::DAG_CBOR | codec::DAG_JSON)
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
        assert_eq!(named(codec::RAW, b"hi\n"), raw);
        let base58: Cid = "zb2rhgwCVg3iEfvDBxYToAHjm9CXPvZus7Sc9JbjUKuL327yu".parse().expect("a CID");
        assert_eq!(base58, raw);
        let old: Cid = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn".parse().expect("a CID");
        assert_eq!(verify(&old, &[0x0a, 2, 8, 1]), Verdict::Right);
        let new = Cid::new_v1(codec::DAG_PB, *old.hash());
        let as_raw = Cid::new_v1(codec::RAW, *old.hash());
        assert_eq!(key(&[1; 32], &old), key(&[1; 32], &new));
        assert_eq!(key(&[1; 32], &old), key(&[1; 32], &as_raw));
        assert_eq!(reading(&[1; 32], &old), reading(&[1; 32], &new));
        assert_ne!(reading(&[1; 32], &old), reading(&[1; 32], &as_raw));
        assert_ne!(key(&[1; 32], &old), key(&[1; 32], &raw));
        assert_ne!(key(&[1; 32], &old), key(&[2; 32], &old));
    }

    #[test]
    fn each_hash_that_a_node_takes_is_checked_and_another_one_is_not_taken_for_right() {
        // Of "abc", as their makers publish them.
        let hashes = [
            (0x12, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (0x56, "4f8b42c22dd3729b519ba6f68d2da7cc5b2d606d05daed5ad5128cc03e6c6358"),
            (0x16, "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"),
            (0x1b, "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"),
            (0x1e, "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"),
            (0xb220, "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319"),
            (0xb260, "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"),
        ];
        for (code, hex) in hashes {
            let digest: Vec<u8> = (0..hex.len() / 2)
                .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex"))
                .collect();
            for length in [digest.len(), 20] {
                let cid = Cid::new_v1(codec::RAW, Hash::wrap(code, &digest[..length]).expect("short"));
                assert_eq!(verify(&cid, b"abc"), Verdict::Right, "{code:x} {length}");
                assert_eq!(verify(&cid, b"abd"), Verdict::Wrong, "{code:x} {length}");
            }
        }
        // BLAKE3 has as many bytes as are asked for, and BLAKE2b is another one for each length.
        let mut long = [0; 64];
        blake3::Hasher::new().update(b"abc").finalize_xof().fill(&mut long);
        let long = Cid::new_v1(codec::RAW, Hash::wrap(0x1e, &long).expect("short"));
        assert_eq!(verify(&long, b"abc"), Verdict::Right);
        let short = blake2b_simd::Params::new().hash_length(20).hash(b"abc");
        let short = Cid::new_v1(codec::RAW, Hash::wrap(0xb214, short.as_bytes()).expect("short"));
        assert_eq!((verify(&short, b"abc"), verify(&short, b"abd")), (Verdict::Right, Verdict::Wrong));
        let murmur = Cid::new_v1(codec::RAW, Hash::wrap(0x22, &[1; 16]).expect("short"));
        assert_eq!(verify(&murmur, b"abc"), Verdict::Unknown);
        let too_short = Cid::new_v1(codec::RAW, named(codec::RAW, b"abc").hash().truncate(8));
        assert_eq!(verify(&too_short, b"abc"), Verdict::Wrong);
    }

    #[test]
    fn a_name_may_hold_as_many_bytes_as_kubo_takes() {
        let bytes = [7; 128];
        let cid = Cid::new_v1(codec::RAW, Hash::wrap(IDENTITY, &bytes).expect("128 bytes"));
        let read: Cid = cid.to_string().parse().expect("a CID");
        assert_eq!((held_by_name(&read), verify(&read, &bytes)), (Some(&bytes[..]), Verdict::Right));
    }
}
