//! A blob: the piece of plaintext that is compressed, sealed, stored and found again by its id.

use crate::codec::{Decoder, Encoder, Malformed};
use crate::content::IdKey;
use crate::ids::BlobId;

/// The largest plaintext of a blob, in bytes.
pub const MAX_PLAIN: u32 = 64 << 20;
/// What sealing adds to a blob, in bytes.
pub const TAG: u32 = 16;

/// What a blob holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlobKind {
    /// Part of one file, or a bundle of small ones.
    Data,
    /// A page of entries.
    Page,
    /// The table of an archive's pages.
    PageTable,
    /// Pieces of a file that has too many for its entry.
    Pieces,
    /// What a source could not give.
    Problems,
}

impl BlobKind {
    /// As stored.
    pub const fn code(self) -> u8 {
        match self {
            BlobKind::Data => 1,
            BlobKind::Page => 2,
            BlobKind::PageTable => 3,
            BlobKind::Pieces => 4,
            BlobKind::Problems => 5,
        }
    }

    /// The kind that is stored as `code`.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => BlobKind::Data,
            2 => BlobKind::Page,
            3 => BlobKind::PageTable,
            4 => BlobKind::Pieces,
            5 => BlobKind::Problems,
            _ => return None,
        })
    }

    /// Which class of segment it goes to.
    pub const fn class(self) -> Class {
        match self {
            BlobKind::Data => Class::Data,
            _ => Class::Metadata,
        }
    }
}

/// Data and metadata lie in segments of their own, so that browsing does not read past data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Contents of files.
    Data,
    /// Everything else.
    Metadata,
}

impl Class {
    /// As stored.
    pub const fn code(self) -> u8 {
        match self {
            Class::Data => 0,
            Class::Metadata => 1,
        }
    }

    /// The class that is stored as `code`.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Class::Data),
            1 => Some(Class::Metadata),
            _ => None,
        }
    }
}

/// How a blob's plaintext is written before it is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// As it is.
    Raw,
    /// One zstd frame.
    Zstd,
}

impl Codec {
    /// As stored.
    pub const fn code(self) -> u8 {
        match self {
            Codec::Raw => 0,
            Codec::Zstd => 1,
        }
    }

    /// The codec that is stored as `code`.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Codec::Raw),
            1 => Some(Codec::Zstd),
            _ => None,
        }
    }
}

/// The id of `plaintext` in the domain that has this key.
pub fn blob_id(key: &IdKey, kind: BlobKind, plaintext: &[u8]) -> BlobId {
    let mut state = blake3::Hasher::new_keyed(key.expose());
    state.update(b"blob\0");
    state.update(&[kind.code()]);
    state.update(plaintext);
    BlobId::new(*state.finalize().as_bytes())
}

/// One line of a segment's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobLine {
    /// The blob's content.
    pub id: BlobId,
    /// What it holds.
    pub kind: BlobKind,
    /// How it is compressed.
    pub codec: Codec,
    /// Prune took it out; its ordinal stays taken.
    pub absent: bool,
    /// Bytes of the plaintext.
    pub plain_length: u32,
    /// Bytes as sealed, tag included.
    pub stored_length: u32,
}

impl BlobLine {
    /// Bytes of a line in the table.
    pub const LEN: usize = 44;
    const ABSENT: u16 = 1;

    /// Appends the line.
    pub fn encode(&self, encoder: &mut Encoder) {
        encoder.raw(self.id.as_bytes());
        encoder.u8(self.kind.code());
        encoder.u8(self.codec.code());
        encoder.u16(if self.absent { Self::ABSENT } else { 0 });
        encoder.u32(self.plain_length);
        encoder.u32(self.stored_length);
    }

    /// Takes a line; checks every field.
    pub fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let id = BlobId::new(decoder.array()?);
        let kind = BlobKind::from_code(decoder.u8()?)
            .ok_or_else(|| decoder.malformed("a blob's kind is not known"))?;
        let codec = Codec::from_code(decoder.u8()?)
            .ok_or_else(|| decoder.malformed("a blob's codec is not known"))?;
        let flags = decoder.u16()?;
        let (plain_length, stored_length) = (decoder.u32()?, decoder.u32()?);
        if flags & !Self::ABSENT != 0 {
            return Err(decoder.malformed("a blob has flags that are not known"));
        }
        let line = Self { id, kind, codec, absent: flags & Self::ABSENT != 0, plain_length, stored_length };
        line.check().map_err(|why| decoder.malformed(why))?;
        Ok(line)
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.plain_length == 0 || self.plain_length > MAX_PLAIN {
            return Err("a blob's length is out of bounds");
        }
        // zstd's own bound on what incompressible input grows by, so that a line cannot claim memory that
        // no honest writer would need.
        let largest = self.plain_length + (self.plain_length >> 8) + 512 + TAG;
        match self.codec {
            Codec::Raw if self.stored_length != self.plain_length + TAG => {
                Err("a blob's two lengths do not fit")
            }
            Codec::Zstd if self.stored_length <= TAG || self.stored_length > largest => {
                Err("a blob's two lengths do not fit")
            }
            _ => Ok(()),
        }
    }
}
