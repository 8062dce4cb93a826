//! The log of LevelDB, of which both its write-ahead log and its MANIFEST are made: blocks of 32 KiB, in them
//! chunks with a checksum each, of which a record is put together.

use super::masked;

const BLOCK: usize = 32 << 10;
const HEADER: usize = 7;
/// A log that is used again has its number in each chunk: what has another one is of an earlier use.
const NUMBER: usize = 4;
/// A longer record is no longer put together.
const MAX_RECORD: usize = 16 << 20;

/// Reads a log as it goes by.
#[derive(Debug, Default)]
pub(super) struct Log {
    block: Vec<u8>,
    /// Where `block` begins.
    at: u64,
    record: Vec<u8>,
    is_within_record: bool,
    damage: Option<Damage>,
    /// Its own, where chunks with numbers are followed.
    number: Option<u32>,
    has_numbers: bool,
    /// Somewhere in it room was made that was never written.
    has_room: bool,
}

/// Where a log can be read no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    /// A chunk has other bytes than were written, or has no place where it is.
    Chunk(u64),
    /// The end of the last record was never written, as after a crash.
    CutOff,
    /// A record is longer than any that is looked at.
    TooLong(u64),
    /// Another engine uses the file again and again: what follows the last record is an older one, and nothing
    /// tells it from damage.
    Reused,
}

impl Log {
    /// The log with this number, which may have been used for others before. Where its records end, or what was left
    /// there begins, is [`Damage::Reused`]: as the engine does, nothing tells these apart.
    pub(super) fn numbered(number: u64) -> Self {
        Self { number: Some(number as u32), ..Self::default() }
    }

    /// The next bytes; each record that they complete is given to `take`. False once there is damage.
    pub(super) fn bytes(&mut self, mut bytes: &[u8], take: &mut impl FnMut(&[u8])) -> bool {
        while !bytes.is_empty() && self.damage.is_none() {
            let now = bytes.len().min(BLOCK - self.block.len());
            self.block.extend_from_slice(&bytes[..now]);
            bytes = &bytes[now..];
            if self.block.len() == BLOCK {
                self.chunks(false, take);
            }
        }
        self.damage.is_none()
    }

    /// The log has ended.
    pub(super) fn end(mut self, take: &mut impl FnMut(&[u8])) -> Option<Damage> {
        if self.damage.is_none() {
            self.chunks(true, take);
        }
        match self.damage.or(self.is_within_record.then_some(Damage::CutOff)) {
            Some(Damage::Chunk(_) | Damage::CutOff) if self.has_numbers => Some(Damage::Reused),
            other => other,
        }
    }

    /// The log has ended: true if it ends as its writer ends it, with a whole record and no room.
    pub(super) fn ends_whole(mut self, take: &mut impl FnMut(&[u8])) -> bool {
        if self.damage.is_none() {
            self.chunks(true, take);
        }
        self.damage.is_none() && !self.is_within_record && !self.has_room
    }

    fn chunks(&mut self, is_last: bool, take: &mut impl FnMut(&[u8])) {
        let block = std::mem::take(&mut self.block);
        let mut rest = block.as_slice();
        while let Some((header, after)) = rest.split_first_chunk::<HEADER>() {
            let at = self.at + (block.len() - rest.len()) as u64;
            let [c0, c1, c2, c3, l0, l1, kind] = *header;
            let length = usize::from(u16::from_le_bytes([l0, l1]));
            if kind == 0 && length == 0 {
                // Room that was made before it was written; a record in the midst of it would be lost.
                if !after.iter().all(|byte| *byte == 0) {
                    self.damage = Some(Damage::Chunk(at));
                    return;
                }
                self.has_room = true;
                rest = &[];
                break;
            }
            let (mut kind, mut after, mut header) = (kind, after, HEADER);
            if let 5..=8 = kind {
                let own = after.split_first_chunk::<NUMBER>();
                let own = own.filter(|(number, _)| self.number == Some(u32::from_le_bytes(**number)));
                let Some((_, payload)) = own else {
                    self.damage = Some(Damage::Reused);
                    return;
                };
                self.has_numbers = true;
                (kind, after, header) = (kind - 4, payload, HEADER + NUMBER);
            }
            let Some((payload, next)) = after.split_at_checked(length) else {
                self.damage = Some(if is_last { Damage::CutOff } else { Damage::Chunk(at) });
                return;
            };
            let summed = &rest[HEADER - 1..header + length];
            if u32::from_le_bytes([c0, c1, c2, c3]) != masked(summed) || !self.chunk(kind, payload, at, take)
            {
                self.damage.get_or_insert(Damage::Chunk(at));
                return;
            }
            rest = next;
        }
        if rest.iter().any(|byte| *byte != 0) {
            let at = self.at + (block.len() - rest.len()) as u64;
            self.damage = Some(if is_last { Damage::CutOff } else { Damage::Chunk(at) });
        }
        self.at += block.len() as u64;
    }

    /// False if the chunk has no place after the one before it.
    fn chunk(&mut self, kind: u8, payload: &[u8], at: u64, take: &mut impl FnMut(&[u8])) -> bool {
        let (begins, ends) = match kind {
            1 => (true, true),
            2 => (true, false),
            3 => (false, false),
            4 => (false, true),
            _ => return false,
        };
        if begins == self.is_within_record {
            return false;
        }
        if self.record.len() + payload.len() > MAX_RECORD {
            self.damage = Some(Damage::TooLong(at));
            return false;
        }
        self.record.extend_from_slice(payload);
        self.is_within_record = !ends;
        if ends {
            take(&self.record);
            self.record.clear();
        }
        true
    }
}
