//! Pack files: a short header and whole segments, one after the other.

use super::segment::SegmentTable;
use crate::codec::{Decoder, Encoder, Malformed};

/// The longest pack, in bytes.
pub const MAX_PACK: u64 = 1 << 30;
/// Bytes before the first segment.
pub const HEADER: usize = 16;

const MAGIC: &[u8; 8] = b"NSpack01";
const VERSION: u16 = 1;
const MAX_SEGMENTS: u32 = 65_536;
const WHAT: &str = "pack";

/// The header of a pack of `segments` segments.
pub fn header(segments: u32) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.raw(MAGIC);
    encoder.u16(VERSION);
    encoder.u16(0);
    encoder.u32(segments);
    encoder.finish()
}

/// How many segments follow this header.
pub fn decode_header(bytes: &[u8]) -> Result<u32, Malformed> {
    let mut decoder = Decoder::new(WHAT, bytes);
    if &decoder.array()? != MAGIC {
        return Err(Malformed::new(WHAT, "it does not begin like one"));
    }
    if decoder.u16()? != VERSION || decoder.u16()? != 0 {
        return Err(Malformed::new(WHAT, "its version is not known to this program"));
    }
    let segments = decoder.u32()?;
    decoder.end()?;
    if segments == 0 || segments > MAX_SEGMENTS {
        return Err(Malformed::new(WHAT, "its number of segments is out of bounds"));
    }
    Ok(segments)
}

/// A segment within a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedSegment {
    /// Bytes from the pack's start to the segment's header.
    pub offset: u64,
    /// Its header and table.
    pub table: SegmentTable,
}

impl PlacedSegment {
    /// Bytes from the pack's start to the segment's body.
    pub fn body_offset(&self) -> u64 {
        self.offset + self.table.encoded_length()
    }
}

/// What a pack of `length` bytes holds; `read(offset, length)` gives its bytes. Reads headers and tables
/// only. The segments must fill the pack exactly.
pub fn survey<E: From<Malformed>>(
    length: u64,
    mut read: impl FnMut(u64, u64) -> Result<Vec<u8>, E>,
) -> Result<Vec<PlacedSegment>, E> {
    use super::blob::BlobLine;
    use super::segment::SegmentHeader;

    let count = decode_header(&read(0, HEADER as u64)?)?;
    let mut offset = HEADER as u64;
    let mut segments = Vec::new();
    for _ in 0..count {
        let mut bytes = read(offset, SegmentHeader::LEN as u64)?;
        let header = SegmentHeader::decode(&mut Decoder::new(WHAT, &bytes))?;
        let lines = u64::from(header.blobs) * BlobLine::LEN as u64;
        bytes.extend(read(offset + SegmentHeader::LEN as u64, lines)?);
        let mut decoder = Decoder::new(WHAT, &bytes);
        let table = SegmentTable::decode(&mut decoder)?;
        let next = offset + table.segment_length();
        segments.push(PlacedSegment { offset, table });
        offset = next;
    }
    if offset != length {
        return Err(Malformed::new(WHAT, "its segments do not fill it").into());
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::IdKey;
    use crate::ids::{DomainId, RepositoryId};
    use crate::pack::blob::{BlobKind, Class, Codec, blob_id};
    use crate::pack::seal::{BlobCipher, SealingPrivateKey, SealingPublicKey, SegmentKey};
    use crate::pack::segment::{SealedSegment, SegmentBuilder, SegmentHeader};

    fn sealed(texts: &[&[u8]]) -> (SealedSegment, SealingPrivateKey) {
        let (public, private) = SealingPrivateKey::generate();
        let public = SealingPublicKey { epoch: 1, key: public };
        let mut builder =
            SegmentBuilder::new(Class::Data, RepositoryId::random(), DomainId::new([2; 16]), &public);
        for text in texts {
            let id = blob_id(&IdKey::new([1; 32]), BlobKind::Data, text);
            builder.add(id, BlobKind::Data, Codec::Raw, text.len() as u32, text);
        }
        (builder.finish(), private)
    }

    fn opener(segment: &SealedSegment, private: &SealingPrivateKey) -> BlobCipher {
        let header = &segment.table.header;
        let bound = SegmentHeader::bound(header.class, header.key.epoch, &header.context);
        BlobCipher::new(&SegmentKey::open(private, &header.key, &bound).expect("the right key"))
    }

    #[test]
    fn what_was_sealed_opens_and_is_found_by_survey() {
        let (segment, private) = sealed(&[b"one", b"two two"]);
        let pack = [header(1), segment.head.to_vec(), segment.body.to_vec()].concat();
        let found = survey::<Malformed>(pack.len() as u64, |at, length| {
            Ok(pack[at as usize..][..length as usize].to_vec())
        })
        .expect("a sound pack");
        assert_eq!(found[0].table, segment.table);
        let (offset, length) = found[0].table.body_range(1).expect("there are two");
        let at = (found[0].body_offset() + offset) as usize;
        let stored = pack[at..at + length as usize].to_vec();
        let context = &segment.table.header.context;
        let opened = context.open(&opener(&segment, &private), 1, &segment.table.lines[1], stored);
        assert_eq!(opened.as_deref(), Ok(&b"two two"[..]));
    }

    #[test]
    fn a_blob_cannot_be_moved_retyped_or_resized() {
        let (segment, private) = sealed(&[b"same length 1", b"same length 2"]);
        let (context, cipher) = (segment.table.header.context, opener(&segment, &private));
        let (line, stored) = (segment.table.lines[0], segment.body[..29].to_vec());
        assert!(context.open(&cipher, 0, &line, stored.clone()).is_ok());
        let attempts = [
            context.open(&cipher, 1, &line, stored.clone()),
            context.open(&cipher, 0, &segment.table.lines[1], stored.clone()),
            context.open(&cipher, 0, &BlobLine { kind: BlobKind::Page, ..line }, stored.clone()),
            context.open(&cipher, 0, &BlobLine { codec: Codec::Zstd, ..line }, stored.clone()),
            context.open(&cipher, 0, &BlobLine { plain_length: 12, ..line }, stored.clone()),
            SegmentContext { domain: DomainId::new([3; 16]), ..context }.open(
                &cipher,
                0,
                &line,
                stored.clone(),
            ),
            SegmentContext { repository: RepositoryId::random(), ..context }.open(&cipher, 0, &line, stored),
        ];
        assert!(attempts.iter().all(Result::is_err));
    }

    #[test]
    fn the_wrong_private_key_opens_nothing() {
        let (segment, _) = sealed(&[b"x"]);
        let (_, other) = SealingPrivateKey::generate();
        let header = &segment.table.header;
        let bound = SegmentHeader::bound(header.class, header.key.epoch, &header.context);
        assert!(SegmentKey::open(&other, &header.key, &bound).is_err());
    }

    #[test]
    fn every_flipped_byte_of_a_pack_is_noticed_or_fails_to_open() {
        let (segment, private) = sealed(&[b"content"]);
        let pack = [header(1), segment.head.to_vec(), segment.body.to_vec()].concat();
        for at in 0..pack.len() {
            let mut damaged = pack.clone();
            damaged[at] ^= 1;
            let read = |at: u64, length: u64| {
                let range = at as usize..(at + length) as usize;
                damaged.get(range).map(<[u8]>::to_vec).ok_or(Malformed::new("pack", "it ends too early"))
            };
            let Ok(found) = survey::<Malformed>(damaged.len() as u64, read) else { continue };
            let (placed, header) = (&found[0], &found[0].table.header);
            let bound = SegmentHeader::bound(header.class, header.key.epoch, &header.context);
            let Ok(key) = SegmentKey::open(&private, &header.key, &bound) else { continue };
            let (offset, length) = placed.table.body_range(0).expect("one blob");
            let start = (placed.body_offset() + offset) as usize;
            let stored = damaged[start..start + length as usize].to_vec();
            let opened = header.context.open(&BlobCipher::new(&key), 0, &placed.table.lines[0], stored);
            assert!(opened.is_err(), "byte {at}");
        }
    }

    use crate::pack::blob::BlobLine;
    use crate::pack::seal::SegmentContext;
}
