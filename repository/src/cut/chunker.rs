//! Where a large file is cut: content-defined, so that an insertion moves two cuts and not all.
//!
//! The gear table is secret and its own for each domain: lengths of chunks under a public table would
//! tell which known file was cut. The cut points are part of the format (`docs/FORMAT.md`, "Archive");
//! `tests::the_cuts_are_those_of_the_format` holds them.

use fastcdc::v2020::{Normalization, cut_gear, select_masks};

/// The smallest chunk that is not a file's last, in bytes.
pub const MIN_CHUNK: usize = 256 << 10;
const AVERAGE_CHUNK: usize = 1 << 20;
/// The largest chunk, in bytes.
pub const MAX_CHUNK: usize = 4 << 20;
/// Files of at most this many bytes are bundled, not cut.
pub const SMALL_FILE: u64 = MIN_CHUNK as u64;

/// The secret that a domain's gear table is made from.
#[derive(Clone, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct GearKey([u8; 32]);

impl GearKey {
    /// The key with these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes: for the wire to the agent that serves the domain, and nowhere else.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for GearKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GearKey(..)")
    }
}

/// Finds the cuts of one domain.
pub struct Chunker {
    gear: Box<[u64; 256]>,
    gear_shifted: Box<[u64; 256]>,
    mask_small: u64,
    mask_large: u64,
}

impl Chunker {
    /// The chunker of the domain with this key.
    pub fn new(key: &GearKey) -> Self {
        let mut bytes = [0; 2048];
        blake3::Hasher::new_keyed(key.expose()).update(b"gear\0").finalize_xof().fill(&mut bytes);
        let mut gear = Box::new([0; 256]);
        for (value, bytes) in gear.iter_mut().zip(bytes.chunks_exact(8)) {
            *value = u64::from_le_bytes(bytes.try_into().expect("chunks of 8"));
        }
        let gear_shifted = Box::new(gear.map(|value| value << 1));
        let (mask_small, mask_large) = select_masks(AVERAGE_CHUNK, Normalization::Level1);
        Self { gear, gear_shifted, mask_small, mask_large }
    }

    /// Length in bytes of the first chunk of `data`. A caller passes [`MAX_CHUNK`] bytes or all that is
    /// left of the file; the cut depends on nothing else.
    pub fn cut(&self, data: &[u8]) -> usize {
        let (small, large) = (self.mask_small, self.mask_large);
        let (_, cut) = cut_gear(
            data,
            MIN_CHUNK,
            AVERAGE_CHUNK,
            MAX_CHUNK,
            small,
            large,
            small << 1,
            large << 1,
            &self.gear[..],
            &self.gear_shifted[..],
        );
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 24 MiB that anybody can make again: BLAKE3's extended output of "neurashield".
    fn sample() -> Vec<u8> {
        let mut data = vec![0; 24 << 20];
        blake3::Hasher::new().update(b"neurashield").finalize_xof().fill(&mut data);
        data
    }

    fn cuts(chunker: &Chunker, mut data: &[u8]) -> Vec<usize> {
        let mut cuts = Vec::new();
        while !data.is_empty() {
            let length = chunker.cut(&data[..data.len().min(MAX_CHUNK)]);
            assert!(length > 0 && length <= MAX_CHUNK && (length >= MIN_CHUNK || length == data.len()));
            cuts.push(length);
            data = &data[length..];
        }
        cuts
    }

    #[test]
    fn the_cuts_are_those_of_the_format() {
        let found = cuts(&Chunker::new(&GearKey::new([7; 32])), &sample());
        assert_eq!(&found[..6], GOLDEN, "a change here makes every repository send everything again");
    }

    const GOLDEN: [usize; 6] = [1889010, 1220257, 843963, 1284301, 1005579, 808047];

    #[test]
    fn an_insertion_moves_few_cuts() {
        let chunker = Chunker::new(&GearKey::new([7; 32]));
        let mut data = sample();
        let before: std::collections::HashSet<_> = chunks(&chunker, &data);
        data.splice(5_000_000..5_000_000, *b"inserted");
        let new = chunks(&chunker, &data).into_iter().filter(|chunk| !before.contains(chunk)).count();
        assert!(new <= 2, "{new} new chunks");
    }

    fn chunks(chunker: &Chunker, data: &[u8]) -> std::collections::HashSet<blake3::Hash> {
        let mut at = 0;
        cuts(chunker, data)
            .into_iter()
            .map(|length| {
                at += length;
                blake3::hash(&data[at - length..at])
            })
            .collect()
    }

    #[test]
    fn two_domains_cut_differently() {
        let data = sample();
        let one = cuts(&Chunker::new(&GearKey::new([7; 32])), &data);
        assert_ne!(one, cuts(&Chunker::new(&GearKey::new([8; 32])), &data));
    }
}
