//! What of a list of blobs is new to whoever has an earlier one.
//!
//! A domain's blobs are listed for each archive, and there are more of them with every backup, nearly all of
//! which the agent was told the time before. Must stay true: an earlier list counts only where everything in
//! it would be listed now as well. An index in memory grows at its end for as long as its [`Generation`] is the
//! same, and whatever is left out of a list by now (packs that are gone, damaged or marked) is in the mark:
//! any difference, and the whole list comes anew.

use std::collections::BTreeSet;

use crate::ids::PackId;
use crate::ingest::BlobTable;

/// Tells one index in memory from any other, those of other processes included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation([u8; 16]);

impl Default for Generation {
    fn default() -> Self {
        Self(crate::random::bytes())
    }
}

/// How far a list went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListMark {
    generation: Generation,
    left_out: [u8; 16],
    packs: u64,
}

/// A list without what is known already.
#[derive(Debug, PartialEq, Eq)]
pub struct RestOfList {
    /// What was listed up to the mark still counts.
    pub goes_on: bool,
    /// The rest; all if it does not.
    pub tables: Vec<BlobTable>,
    /// How far it goes now.
    pub mark: ListMark,
}

impl ListMark {
    const LEN: usize = 40;

    /// A list of the first `packs` packs of an index, without those that are `left_out`.
    pub(crate) fn new(generation: Generation, left_out: &BTreeSet<PackId>, packs: usize) -> Self {
        let mut hasher = blake3::Hasher::new();
        left_out.iter().for_each(|pack| {
            hasher.update(pack.as_bytes());
        });
        let mut digest = [0; 16];
        hasher.finalize_xof().fill(&mut digest);
        Self { generation, left_out: digest, packs: packs as u64 }
    }

    /// The mark as bytes, for whoever keeps it.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..16].copy_from_slice(&self.generation.0);
        bytes[16..32].copy_from_slice(&self.left_out);
        bytes[32..].copy_from_slice(&self.packs.to_le_bytes());
        bytes
    }

    /// The mark that these bytes are; `None` if they are none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (generation, rest) = bytes.split_first_chunk()?;
        let (left_out, packs) = rest.split_first_chunk()?;
        let packs = u64::from_le_bytes(packs.try_into().ok()?);
        Some(Self { generation: Generation(*generation), left_out: *left_out, packs })
    }

    /// How many packs of the list that `now` marks came with an earlier one; 0 if that does not count.
    pub(crate) fn known_from(&self, earlier: Option<&ListMark>) -> usize {
        let counts = |earlier: &&ListMark| {
            earlier.generation == self.generation
                && earlier.left_out == self.left_out
                && earlier.packs <= self.packs
        };
        earlier.filter(counts).map_or(0, |earlier| usize::try_from(earlier.packs).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_counts_for_the_same_index_with_the_same_left_out_and_no_other() {
        let (one, other) = (Generation::default(), Generation::default());
        let out = |packs: &[u8]| packs.iter().map(|pack| PackId::new([*pack; 32])).collect::<BTreeSet<_>>();
        let earlier = ListMark::new(one, &out(&[1, 2]), 5);
        let earlier = ListMark::decode(&earlier.encode()).expect("a mark");
        let known = |now: ListMark| now.known_from(Some(&earlier));
        assert_eq!(known(ListMark::new(one, &out(&[2, 1]), 7)), 5);
        assert_eq!(known(ListMark::new(one, &out(&[1, 2]), 5)), 5);
        assert_eq!(known(ListMark::new(one, &out(&[1, 2]), 4)), 0, "the index is shorter");
        assert_eq!(known(ListMark::new(one, &out(&[1]), 7)), 0, "a pack came back");
        assert_eq!(known(ListMark::new(one, &out(&[1, 2, 3]), 7)), 0, "a pack went away");
        assert_eq!(known(ListMark::new(other, &out(&[1, 2]), 7)), 0, "another index");
        assert_eq!(ListMark::new(one, &out(&[]), 7).known_from(None), 0);
    }

    #[test]
    fn what_is_no_mark_is_none() {
        assert_eq!(ListMark::decode(b""), None);
        assert_eq!(ListMark::decode(&[1; 39]), None);
        assert_eq!(ListMark::decode(&[1; 41]), None);
    }
}
