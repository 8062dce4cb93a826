//! How cache records are written as bytes.
//!
//! A block's payload is a run of records, each complete but for one thing: a piece that lies in the same
//! blob as the piece before it says so instead of repeating the id, because the files of a bundle follow
//! one another.

use repository::archive::entry::{Extent, Layout, MAX_EXTENTS, Piece, Timestamp};
use repository::archive::path::{EntryPath, MAX_PATH};
use repository::codec::{Decoder, Encoder, Malformed};
use repository::ids::{BlobId, ContentId};

use super::{Day, Record, StoredContent};
use crate::sources::Stamp;

const SAME_BLOB: u8 = 0;
const OTHER_BLOB: u8 = 1;
const DENSE: u8 = 0;
const SPARSE: u8 = 1;

/// Writes the records of one block.
#[derive(Debug, Default)]
pub(super) struct RecordEncoder {
    encoder: Encoder,
    blob: Option<BlobId>,
}

impl RecordEncoder {
    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.encoder.len()
    }

    pub(super) fn push(&mut self, record: &Record) {
        let encoder = &mut self.encoder;
        encoder.bytes(record.path.as_bytes());
        encoder.varint(record.stamp.inode);
        encoder.varint(record.stamp.size);
        timestamp(encoder, record.stamp.mtime);
        timestamp(encoder, record.stamp.ctime);
        encoder.u8(u8::from(record.trusted));
        encoder.u32(record.read_on.0);
        encoder.raw(record.content.id.as_bytes());
        layout(encoder, &record.content.layout);
        encoder.varint(record.content.lists.len() as u64);
        for list in &record.content.lists {
            encoder.raw(list.as_bytes());
        }
        encoder.varint(record.content.pieces.len() as u64);
        for piece in &record.content.pieces {
            if self.blob == Some(piece.blob) {
                encoder.u8(SAME_BLOB);
            } else {
                encoder.u8(OTHER_BLOB);
                encoder.raw(piece.blob.as_bytes());
                self.blob = Some(piece.blob);
            }
            encoder.varint(u64::from(piece.offset));
            encoder.varint(u64::from(piece.length));
        }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.encoder.finish()
    }
}

fn timestamp(encoder: &mut Encoder, time: Timestamp) {
    encoder.signed(time.seconds);
    encoder.varint(u64::from(time.nanoseconds));
}

fn layout(encoder: &mut Encoder, layout: &Layout) {
    match layout {
        Layout::Dense => encoder.u8(DENSE),
        Layout::Sparse(extents) => {
            encoder.u8(SPARSE);
            encoder.varint(extents.len() as u64);
            for extent in extents {
                encoder.varint(extent.offset);
                encoder.varint(extent.length);
            }
        }
    }
}

/// The records of one block.
pub(crate) fn decode_records(payload: &[u8]) -> Result<Vec<Record>, Malformed> {
    let mut decoder = Decoder::new("cache block", payload);
    let mut records = Vec::new();
    let mut blob = None;
    while decoder.remaining() > 0 {
        records.push(decode_record(&mut decoder, &mut blob)?);
    }
    Ok(records)
}

fn decode_record(decoder: &mut Decoder<'_>, blob: &mut Option<BlobId>) -> Result<Record, Malformed> {
    let path = EntryPath::new(decoder.bytes(MAX_PATH)?)?;
    let stamp = Stamp {
        inode: decoder.varint()?,
        size: decoder.varint()?,
        mtime: decode_timestamp(decoder)?,
        ctime: decode_timestamp(decoder)?,
    };
    let trusted = match decoder.u8()? {
        0 => false,
        1 => true,
        _ => return Err(decoder.malformed("a flag is neither 0 nor 1")),
    };
    let read_on = Day(decoder.u32()?);
    let id = ContentId::new(decoder.array()?);
    let layout = decode_layout(decoder)?;
    let count = decoder.count(BlobId::LEN)?;
    let lists = (0..count).map(|_| Ok(BlobId::new(decoder.array()?))).collect::<Result<_, Malformed>>()?;
    let count = decoder.count(3)?;
    let pieces = (0..count).map(|_| decode_piece(decoder, blob)).collect::<Result<_, _>>()?;
    Ok(Record { path, stamp, trusted, read_on, content: StoredContent { id, layout, pieces, lists } })
}

fn decode_timestamp(decoder: &mut Decoder<'_>) -> Result<Timestamp, Malformed> {
    Ok(Timestamp { seconds: decoder.signed()?, nanoseconds: decoder.varint_u32()? })
}

fn decode_layout(decoder: &mut Decoder<'_>) -> Result<Layout, Malformed> {
    match decoder.u8()? {
        DENSE => Ok(Layout::Dense),
        SPARSE => {
            let count = decoder.count(2)?;
            if count > MAX_EXTENTS {
                return Err(decoder.malformed("a file has too many extents"));
            }
            let extent = |_| Ok(Extent { offset: decoder.varint()?, length: decoder.varint()? });
            Ok(Layout::Sparse((0..count).map(extent).collect::<Result<_, Malformed>>()?))
        }
        _ => Err(decoder.malformed("a layout is neither dense nor sparse")),
    }
}

fn decode_piece(decoder: &mut Decoder<'_>, blob: &mut Option<BlobId>) -> Result<Piece, Malformed> {
    match decoder.u8()? {
        SAME_BLOB => {}
        OTHER_BLOB => *blob = Some(BlobId::new(decoder.array()?)),
        _ => return Err(decoder.malformed("a piece is in neither the same nor another blob")),
    }
    let blob = blob.ok_or_else(|| decoder.malformed("the first piece names no blob"))?;
    Ok(Piece { blob, offset: decoder.varint_u32()?, length: decoder.varint_u32()? })
}
