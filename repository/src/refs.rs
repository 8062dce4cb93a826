//! Refs: which blobs of which segments an archive needs.
//!
//! They are what keeps blobs alive, so they can be read without a key, are written twice, and name
//! segments, never packs: prune may move segments about and no refs change.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use aws_lc_rs::digest;

use crate::codec::{Decoder, Encoder, Malformed};
use crate::ids::{DomainId, SegmentId};
use crate::pack::segment::MAX_BLOBS;

const MAGIC: &[u8; 8] = b"NSrefs01";
const VERSION: u16 = 1;
const WHAT: &str = "refs";

/// Where a blob lies for ever: the ordinal within its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobAddress {
    /// The segment.
    pub segment: SegmentId,
    /// Which blob of it.
    pub ordinal: u32,
}

/// A set of blobs of one domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refs {
    domain: DomainId,
    segments: BTreeMap<SegmentId, SegmentRefs>,
}

/// Which blobs of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SegmentRefs {
    blobs: u32,
    bitmap: Vec<u8>,
}

impl Refs {
    /// No blobs of this domain.
    pub fn new(domain: DomainId) -> Self {
        Self { domain, segments: BTreeMap::new() }
    }

    /// The domain that all of them are in.
    pub fn domain(&self) -> DomainId {
        self.domain
    }

    /// Adds a blob of a segment that has `blobs` lines in its table. Adding one twice is fine.
    pub fn add(&mut self, address: BlobAddress, blobs: u32) {
        assert!(address.ordinal < blobs && blobs as usize <= MAX_BLOBS, "an ordinal lies within its segment");
        let refs =
            self.segments.entry(address.segment).or_insert_with(|| SegmentRefs { blobs, bitmap: Vec::new() });
        debug_assert_eq!(refs.blobs, blobs);
        refs.bitmap.resize((blobs as usize).div_ceil(8), 0);
        refs.bitmap[address.ordinal as usize / 8] |= 1 << (address.ordinal % 8);
    }

    /// Adds all blobs of `other`, which is of the same domain. False if the two do not agree about the
    /// length of a segment's table; what they agree about is added all the same.
    pub fn merge(&mut self, other: &Refs) -> bool {
        debug_assert_eq!(self.domain, other.domain);
        let mut agree = true;
        for (id, refs) in &other.segments {
            match self.segments.entry(*id) {
                Entry::Vacant(slot) => {
                    slot.insert(refs.clone());
                }
                Entry::Occupied(mut known) if known.get().blobs == refs.blobs => {
                    let bits = known.get_mut().bitmap.iter_mut().zip(&refs.bitmap);
                    bits.for_each(|(byte, other)| *byte |= other);
                }
                Entry::Occupied(_) => agree = false,
            }
        }
        agree
    }

    /// True if it names this blob.
    pub fn contains(&self, address: &BlobAddress) -> bool {
        let byte = |refs: &SegmentRefs| refs.bitmap.get(address.ordinal as usize / 8).copied();
        let byte = self.segments.get(&address.segment).and_then(byte);
        byte.is_some_and(|byte| byte & 1 << (address.ordinal % 8) != 0)
    }

    /// How many lines the table of `segment` must have; `None` if none of its blobs is named.
    pub fn shape(&self, segment: &SegmentId) -> Option<u32> {
        self.segments.get(segment).map(|refs| refs.blobs)
    }

    /// Every segment with the number of lines that its table must have.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = (SegmentId, u32)> {
        self.segments.iter().map(|(id, refs)| (*id, refs.blobs))
    }

    /// The ordinals needed of `segment`, rising.
    pub fn ordinals(&self, segment: &SegmentId) -> impl Iterator<Item = u32> {
        let refs = self.segments.get(segment);
        refs.into_iter().flat_map(|refs| {
            (0..refs.blobs).filter(|ordinal| refs.bitmap[*ordinal as usize / 8] & 1 << (ordinal % 8) != 0)
        })
    }

    /// How many blobs.
    pub fn blobs(&self) -> u64 {
        self.segments.values().flat_map(|refs| &refs.bitmap).map(|byte| u64::from(byte.count_ones())).sum()
    }

    /// The refs file.
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Encoder::new();
        payload.raw(self.domain.as_bytes());
        payload.varint(self.segments.len() as u64);
        for (id, refs) in &self.segments {
            payload.raw(id.as_bytes());
            payload.varint(u64::from(refs.blobs));
            payload.raw(&refs.bitmap);
        }
        let payload = payload.finish();
        let mut file = Encoder::new();
        file.raw(MAGIC);
        file.u16(VERSION);
        file.u16(0);
        file.u64(payload.len() as u64);
        file.raw(digest::digest(&digest::SHA256, &payload).as_ref());
        file.raw(&payload);
        file.raw(&payload);
        file.finish()
    }

    /// Reads a refs file; one damaged copy of the payload costs nothing.
    pub fn decode(file: &[u8]) -> Result<Self, Malformed> {
        let mut decoder = Decoder::new(WHAT, file);
        if &decoder.array()? != MAGIC {
            return Err(Malformed::new(WHAT, "they do not begin like refs"));
        }
        if decoder.u16()? != VERSION || decoder.u16()? != 0 {
            return Err(Malformed::new(WHAT, "their version is not known to this program"));
        }
        let length = decoder.u64()?;
        let sum: [u8; 32] = decoder.array()?;
        let length = usize::try_from(length).map_err(|_| Malformed::new(WHAT, "they end too early"))?;
        let intact = [decoder.raw(length), decoder.raw(length)]
            .into_iter()
            .flatten()
            .find(|copy| digest::digest(&digest::SHA256, copy).as_ref() == sum);
        Self::decode_payload(intact.ok_or(Malformed::new(WHAT, "both copies are damaged"))?)
    }

    pub(crate) fn decode_payload(payload: &[u8]) -> Result<Self, Malformed> {
        let mut decoder = Decoder::new(WHAT, payload);
        let domain = DomainId::new(decoder.array()?);
        let mut segments = BTreeMap::new();
        for _ in 0..decoder.count(SegmentId::LEN + 2)? {
            let id = SegmentId::new(decoder.array()?);
            let blobs = decoder.varint_u32()?;
            if blobs == 0 || blobs as usize > MAX_BLOBS {
                return Err(Malformed::new(WHAT, "a segment's size is out of bounds"));
            }
            let bitmap = decoder.raw((blobs as usize).div_ceil(8))?.to_vec();
            let spare = blobs.next_multiple_of(8) - blobs;
            let last = bitmap[bitmap.len() - 1];
            if last & !(0xff >> spare) != 0 || bitmap.iter().all(|byte| *byte == 0) {
                return Err(Malformed::new(WHAT, "a bitmap does not fit its segment"));
            }
            if segments.last_key_value().is_some_and(|(last, _)| *last >= id) {
                return Err(Malformed::new(WHAT, "the segments are out of order"));
            }
            segments.insert(id, SegmentRefs { blobs, bitmap });
        }
        decoder.end()?;
        Ok(Self { domain, segments })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Refs {
        let mut refs = Refs::new(DomainId::new([9; 16]));
        for (segment, ordinal, blobs) in [(1, 0, 9), (1, 8, 9), (2, 3, 4), (1, 8, 9)] {
            refs.add(BlobAddress { segment: SegmentId::new([segment; 16]), ordinal }, blobs);
        }
        refs
    }

    #[test]
    fn they_round_trip() {
        let refs = sample();
        assert_eq!(Refs::decode(&refs.encode()), Ok(refs.clone()));
        assert_eq!(refs.blobs(), 3);
        assert_eq!(refs.ordinals(&SegmentId::new([1; 16])).collect::<Vec<_>>(), [0, 8]);
    }

    #[test]
    fn merged_they_name_what_either_named() {
        let (mut all, mut other) = (sample(), Refs::new(DomainId::new([9; 16])));
        other.add(BlobAddress { segment: SegmentId::new([1; 16]), ordinal: 3 }, 9);
        other.add(BlobAddress { segment: SegmentId::new([3; 16]), ordinal: 0 }, 1);
        assert!(all.merge(&other));
        assert_eq!(all.blobs(), 5);
        for (refs, ordinal, named) in
            [(&all, 3, true), (&all, 4, false), (&all, 99, false), (&other, 8, false)]
        {
            let address = BlobAddress { segment: SegmentId::new([1; 16]), ordinal };
            assert_eq!(refs.contains(&address), named, "{ordinal}");
        }
        let mut misshapen = Refs::new(DomainId::new([9; 16]));
        misshapen.add(BlobAddress { segment: SegmentId::new([2; 16]), ordinal: 0 }, 5);
        assert!(!all.merge(&misshapen), "segment 2 has four blobs and not five");
    }

    #[test]
    fn one_damaged_copy_costs_nothing_two_are_an_error() {
        let (refs, mut file) = (sample(), sample().encode());
        let half = (file.len() - 52) / 2;
        file[60] ^= 0xff;
        assert_eq!(Refs::decode(&file), Ok(refs));
        file[60 + half] ^= 0xff;
        assert!(Refs::decode(&file).is_err());
    }
}
