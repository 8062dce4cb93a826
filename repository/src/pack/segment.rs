//! Segments: blobs sealed under one key, as an agent sends them.
//!
//! A segment is made in memory by [`SegmentBuilder`], at most [`FULL_BODY`] and a blob long, and never
//! changes afterwards. Its header and table are plain, so that the controller and prune can work without
//! a key; what they say is bound to each blob by its seal.

use bytes::Bytes;

use super::blob::{BlobLine, Class, Codec, TAG};
use super::seal::{BlobCipher, SealedKey, SealingPublicKey, SegmentContext, SegmentKey};
use crate::codec::{Decoder, Encoder, Malformed};
use crate::ids::{BlobId, DomainId, RepositoryId, SegmentId};
use crate::pack::blob::BlobKind;

/// A segment with a body of this many bytes is full.
pub const FULL_BODY: usize = 16 << 20;
/// The most blobs in a segment.
pub const MAX_BLOBS: usize = 65_536;
/// The longest body, in bytes.
pub const MAX_BODY: u64 = 1 << 30;

const MAGIC: &[u8; 8] = b"NSsegmnt";
const VERSION: u16 = 1;
const WHAT: &str = "segment";

/// The 160 bytes that a segment begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Data or metadata.
    pub class: Class,
    /// Where it belongs.
    pub context: SegmentContext,
    /// Its key, sealed.
    pub key: SealedKey,
    /// Lines in the table.
    pub blobs: u32,
    /// Bytes of the body.
    pub body_length: u64,
}

impl SegmentHeader {
    /// Bytes of a header.
    pub const LEN: usize = 160;
    /// The first 64 bytes: what the sealed key is bound to.
    pub(crate) fn bound(class: Class, epoch: u32, context: &SegmentContext) -> Vec<u8> {
        let mut encoder = Encoder::new();
        encoder.raw(MAGIC);
        encoder.u16(VERSION);
        encoder.u8(class.code());
        encoder.u8(0);
        encoder.u32(epoch);
        encoder.raw(context.repository.as_bytes());
        encoder.raw(context.domain.as_bytes());
        encoder.raw(context.segment.as_bytes());
        encoder.finish()
    }

    /// Appends the header.
    pub fn encode(&self, encoder: &mut Encoder) {
        encoder.raw(&Self::bound(self.class, self.key.epoch, &self.context));
        encoder.raw(&self.key.encapsulated);
        encoder.raw(&self.key.sealed);
        encoder.u32(self.blobs);
        encoder.u32(0);
        encoder.u64(self.body_length);
    }

    /// Takes a header; checks every field.
    pub fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        if &decoder.array()? != MAGIC {
            return Err(Malformed::new(WHAT, "it does not begin like one"));
        }
        if decoder.u16()? != VERSION {
            return Err(Malformed::new(WHAT, "its version is not known to this program"));
        }
        let class = Class::from_code(decoder.u8()?).ok_or(Malformed::new(WHAT, "its class is not known"))?;
        let reserved = decoder.u8()?;
        let epoch = decoder.u32()?;
        let context = SegmentContext {
            repository: RepositoryId::new(decoder.array()?),
            domain: DomainId::new(decoder.array()?),
            segment: SegmentId::new(decoder.array()?),
        };
        let key = SealedKey { epoch, encapsulated: decoder.array()?, sealed: decoder.array()? };
        let (blobs, reserved_too, body_length) = (decoder.u32()?, decoder.u32()?, decoder.u64()?);
        if reserved != 0 || reserved_too != 0 {
            return Err(Malformed::new(WHAT, "its reserved bytes are not zero"));
        }
        if blobs == 0 || blobs as usize > MAX_BLOBS || body_length > MAX_BODY {
            return Err(Malformed::new(WHAT, "its sizes are out of bounds"));
        }
        Ok(Self { class, context, key, blobs, body_length })
    }
}

/// A segment's header and table: all of it but the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentTable {
    /// The header.
    pub header: SegmentHeader,
    /// One line for each ordinal.
    pub lines: Vec<BlobLine>,
}

impl SegmentTable {
    /// Bytes of header and table.
    pub fn encoded_length(&self) -> u64 {
        (SegmentHeader::LEN + self.lines.len() * BlobLine::LEN) as u64
    }

    /// Bytes of the whole segment.
    pub fn segment_length(&self) -> u64 {
        self.encoded_length() + self.header.body_length
    }

    /// Appends header and table.
    pub fn encode(&self, encoder: &mut Encoder) {
        self.header.encode(encoder);
        self.lines.iter().for_each(|line| line.encode(encoder));
    }

    /// Takes header and table; the lines must add up to the body and fit the segment's class.
    pub fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let header = SegmentHeader::decode(decoder)?;
        let mut table = Decoder::new(WHAT, decoder.raw(header.blobs as usize * BlobLine::LEN)?);
        let mut lines = Vec::with_capacity(header.blobs as usize);
        let mut body_length = 0;
        while table.remaining() > 0 {
            let line = BlobLine::decode(&mut table)?;
            if line.kind.class() != header.class {
                return Err(Malformed::new(WHAT, "it mixes data and metadata"));
            }
            body_length += if line.absent { 0 } else { u64::from(line.stored_length) };
            lines.push(line);
        }
        if body_length != header.body_length {
            return Err(Malformed::new(WHAT, "its table does not add up to its body"));
        }
        Ok(Self { header, lines })
    }

    /// Where the blob of `ordinal` lies within the body: offset and length. `None` if there is none.
    pub fn body_range(&self, ordinal: u32) -> Option<(u64, u64)> {
        let line = self.lines.get(ordinal as usize).filter(|line| !line.absent)?;
        let before = self.lines[..ordinal as usize].iter().filter(|line| !line.absent);
        Some((before.map(|line| u64::from(line.stored_length)).sum(), u64::from(line.stored_length)))
    }
}

/// Fills one segment.
pub struct SegmentBuilder {
    class: Class,
    context: SegmentContext,
    public: SealingPublicKey,
    key: SegmentKey,
    cipher: BlobCipher,
    lines: Vec<BlobLine>,
    body: Vec<u8>,
}

impl SegmentBuilder {
    /// An empty segment with a fresh id and key.
    pub fn new(class: Class, repository: RepositoryId, domain: DomainId, public: &SealingPublicKey) -> Self {
        Self::in_memory(Vec::new(), class, repository, domain, public)
    }

    /// The same in the memory of an empty buffer that is there already.
    pub fn in_memory(
        body: Vec<u8>,
        class: Class,
        repository: RepositoryId,
        domain: DomainId,
        public: &SealingPublicKey,
    ) -> Self {
        assert!(body.is_empty(), "what was in it has gone");
        let key = SegmentKey::random();
        Self {
            class,
            context: SegmentContext { repository, domain, segment: SegmentId::random() },
            public: *public,
            cipher: BlobCipher::new(&key),
            key,
            lines: Vec::new(),
            body,
        }
    }

    /// The segment's id.
    pub fn id(&self) -> SegmentId {
        self.context.segment
    }

    /// True while there is no blob in it.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// True when the next blob should go to another segment.
    pub fn is_full(&self) -> bool {
        self.body.len() >= FULL_BODY || self.lines.len() == MAX_BLOBS
    }

    /// Seals a blob and returns its ordinal. `stored` is the plaintext written in `codec`.
    pub fn add(&mut self, id: BlobId, kind: BlobKind, codec: Codec, plain_length: u32, stored: &[u8]) -> u32 {
        assert!(kind.class() == self.class && !self.is_full(), "the caller looks before it adds");
        let stored_length = u32::try_from(stored.len()).expect("a blob is at most 64 MiB") + TAG;
        let line = BlobLine { id, kind, codec, absent: false, plain_length, stored_length };
        let ordinal = self.lines.len() as u32;
        self.context.seal(&self.cipher, ordinal, &line, stored, &mut self.body);
        self.lines.push(line);
        ordinal
    }

    /// The segment, ready to be sent. It must hold a blob.
    pub fn finish(self) -> SealedSegment {
        let bound = SegmentHeader::bound(self.class, self.public.epoch, &self.context);
        let header = SegmentHeader {
            class: self.class,
            context: self.context,
            key: self.key.seal_to(&self.public, &bound),
            blobs: self.lines.len() as u32,
            body_length: self.body.len() as u64,
        };
        let table = SegmentTable { header, lines: self.lines };
        let mut encoder = Encoder::new();
        table.encode(&mut encoder);
        SealedSegment { table, head: Bytes::from(encoder.finish()), body: Bytes::from(self.body) }
    }
}

/// A finished segment: `head` and then `body` are its bytes.
#[derive(Debug, Clone)]
pub struct SealedSegment {
    /// What is in it.
    pub table: SegmentTable,
    /// Header and table as bytes.
    pub head: Bytes,
    /// The sealed blobs.
    pub body: Bytes,
}

impl SealedSegment {
    /// The segment's id.
    pub fn id(&self) -> SegmentId {
        self.table.header.context.segment
    }

    /// Bytes of the whole.
    pub fn length(&self) -> u64 {
        (self.head.len() + self.body.len()) as u64
    }
}
