//! Pages: how entries are written as bytes, and how an archive's stream of entries is cut into them.
//!
//! Must stay true: the same entries give the same pages, byte for byte, so that an unchanged part of a
//! tree costs nothing; and a decoded page holds only entries that are well-formed and in order, whatever
//! the bytes were.

use std::collections::HashMap;

use super::entry::{
    Entry, EntryKind, Extent, FileContent, Layout, MAX_EXTENTS, MAX_INLINE_PIECES, Metadata, Piece, Pieces,
    Timestamp,
};
use super::path::{EntryPath, MAX_PATH};
use crate::codec::{Decoder, Encoder, Malformed};
use crate::content::IdKey;
use crate::ids::{BlobId, ContentId};

const MIN_PAGE: usize = 64 << 10;
const MAX_PAGE: usize = 1 << 20;
/// No entry takes fewer bytes than this.
const LEAST_ENTRY: usize = 8;
/// The most entries of a page.
const MAX_ENTRIES: usize = MAX_PAGE / LEAST_ENTRY + 1;
/// The most bytes of its entries' paths, written out: a path that shares all but a few bytes with the one
/// before costs nearly nothing in the page, and all of it in memory.
const MAX_PATHS: usize = 32 << 20;
const MAX_XATTRS: usize = 4_096;
const MAX_XATTR_NAME: usize = 255;
const MAX_XATTR_VALUE: usize = 64 << 10;
const MAX_LINK_TARGET: usize = 65_535;

/// Collects entries into pages.
pub struct PageBuilder {
    key: IdKey,
    blobs: Vec<BlobId>,
    places: HashMap<BlobId, u64>,
    entries: Encoder,
    count: u64,
    /// Bytes of the paths, written out.
    paths: usize,
    first: EntryPath,
    last: EntryPath,
}

/// A finished page: the plaintext of a blob of kind `Page`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The plaintext.
    pub bytes: Vec<u8>,
    /// The path of its first entry.
    pub first: EntryPath,
    /// How many entries it holds.
    pub entries: u64,
}

impl PageBuilder {
    /// A builder for an archive of the domain that has this key.
    pub fn new(key: &IdKey) -> Self {
        Self {
            key: key.clone(),
            blobs: Vec::new(),
            places: HashMap::new(),
            entries: Encoder::new(),
            count: 0,
            paths: 0,
            first: EntryPath::root(),
            last: EntryPath::root(),
        }
    }

    /// Adds the next entry, in path order, and returns the page that it ends, if it ends one.
    pub fn add(&mut self, entry: &Entry) -> Option<Page> {
        if self.count == 0 {
            self.first = entry.path.clone();
        } else {
            assert!(self.last < entry.path, "entries come in path order: {} after {}", entry.path, self.last);
        }
        self.write(entry);
        self.count += 1;
        self.paths += entry.path.as_bytes().len();
        self.last = entry.path.clone();
        let length = self.entries.len() + self.blobs.len() * BlobId::LEN;
        let ends = length >= MAX_PAGE
            || self.paths >= MAX_PATHS
            || length >= MIN_PAGE && self.is_boundary(&entry.path);
        ends.then(|| self.take())
    }

    /// The last page; `None` if every entry is in a page already.
    pub fn finish(mut self) -> Option<Page> {
        (self.count > 0).then(|| self.take())
    }

    fn is_boundary(&self, path: &EntryPath) -> bool {
        let hash = *blake3::Hasher::new_keyed(self.key.expose())
            .update(b"page\0")
            .update(path.as_bytes())
            .finalize()
            .as_bytes();
        u16::from_le_bytes([hash[0], hash[1]]) & 0x3ff == 0
    }

    fn take(&mut self) -> Page {
        let mut page = Encoder::new();
        page.varint(self.blobs.len() as u64);
        self.blobs.drain(..).for_each(|id| page.raw(id.as_bytes()));
        page.varint(self.count);
        page.raw(&std::mem::take(&mut self.entries).finish());
        self.places.clear();
        self.paths = 0;
        Page { bytes: page.finish(), first: self.first.clone(), entries: std::mem::take(&mut self.count) }
    }

    fn place(&mut self, id: BlobId) -> u64 {
        *self.places.entry(id).or_insert_with(|| {
            self.blobs.push(id);
            self.blobs.len() as u64 - 1
        })
    }

    fn write(&mut self, entry: &Entry) {
        let path = entry.path.as_bytes();
        let before: &[u8] = if self.count == 0 { b"" } else { self.last.as_bytes() };
        let shared = path.iter().zip(before).take_while(|(a, b)| a == b).count();
        self.entries.varint(shared as u64);
        self.entries.bytes(&path[shared..]);
        self.entries.u8(kind_code(&entry.kind));
        self.write_metadata(&entry.metadata);
        match &entry.kind {
            EntryKind::File(content) => self.write_content(content),
            EntryKind::Symlink { target } => self.entries.bytes(target),
            EntryKind::HardLink { to } => self.entries.bytes(to.as_bytes()),
            EntryKind::Device { major, minor, .. } => {
                self.entries.varint(u64::from(*major));
                self.entries.varint(u64::from(*minor));
            }
            EntryKind::Folder | EntryKind::Fifo | EntryKind::Socket => {}
        }
    }

    fn write_metadata(&mut self, metadata: &Metadata) {
        let out = &mut self.entries;
        out.varint(u64::from(metadata.mode));
        out.varint(u64::from(metadata.uid));
        out.varint(u64::from(metadata.gid));
        out.signed(metadata.mtime.seconds);
        out.varint(u64::from(metadata.mtime.nanoseconds));
        out.varint(metadata.xattrs.len() as u64);
        for (name, value) in &metadata.xattrs {
            out.bytes(name);
            out.bytes(value);
        }
    }

    fn write_content(&mut self, content: &FileContent) {
        self.entries.varint(content.size);
        self.entries.raw(content.id.as_bytes());
        write_layout(&mut self.entries, &content.layout);
        match &content.pieces {
            Pieces::Inline(pieces) => {
                assert!(pieces.len() <= MAX_INLINE_PIECES, "more pieces are listed in blobs of their own");
                self.entries.u8(0);
                self.entries.varint(pieces.len() as u64);
                for piece in pieces {
                    let place = self.place(piece.blob);
                    write_piece(&mut self.entries, place, piece);
                }
            }
            Pieces::Listed(lists) => {
                self.entries.u8(1);
                self.entries.varint(lists.len() as u64);
                for id in lists {
                    let place = self.place(*id);
                    self.entries.varint(place);
                }
            }
        }
    }
}

fn kind_code(kind: &EntryKind) -> u8 {
    match kind {
        EntryKind::Folder => 1,
        EntryKind::File(_) => 2,
        EntryKind::Symlink { .. } => 3,
        EntryKind::HardLink { .. } => 4,
        EntryKind::Fifo => 5,
        EntryKind::Socket => 6,
        EntryKind::Device { block: false, .. } => 7,
        EntryKind::Device { block: true, .. } => 8,
    }
}

fn write_layout(out: &mut Encoder, layout: &Layout) {
    let Layout::Sparse(extents) = layout else { return out.varint(0) };
    assert!(extents.len() <= MAX_EXTENTS, "a file with more extents is stored as a dense one");
    out.varint(extents.len() as u64 + 1);
    let mut end = 0;
    for extent in extents {
        out.varint(extent.offset - end);
        out.varint(extent.length);
        end = extent.offset + extent.length;
    }
}

fn write_piece(out: &mut Encoder, place: u64, piece: &Piece) {
    out.varint(place);
    out.varint(u64::from(piece.offset));
    out.varint(u64::from(piece.length));
}

/// The plaintext of a blob of kind `Pieces`.
pub fn encode_pieces(pieces: &[Piece]) -> Vec<u8> {
    let (mut blobs, mut places) = (Vec::new(), HashMap::new());
    let mut lines = Encoder::new();
    for piece in pieces {
        let place = *places.entry(piece.blob).or_insert_with(|| {
            blobs.push(piece.blob);
            blobs.len() as u64 - 1
        });
        write_piece(&mut lines, place, piece);
    }
    let mut out = Encoder::new();
    out.varint(blobs.len() as u64);
    blobs.iter().for_each(|id| out.raw(id.as_bytes()));
    out.varint(pieces.len() as u64);
    out.raw(&lines.finish());
    out.finish()
}

/// The pieces that a blob of kind `Pieces` lists.
pub fn decode_pieces(plaintext: &[u8]) -> Result<Vec<Piece>, Malformed> {
    let mut decoder = Decoder::new("list of pieces", plaintext);
    let blobs = decode_blobs(&mut decoder)?;
    let count = decoder.count(3)?;
    if count > MAX_INLINE_PIECES {
        return Err(decoder.malformed("it holds too many pieces"));
    }
    let pieces = (0..count).map(|_| decode_piece(&mut decoder, &blobs)).collect::<Result<_, _>>()?;
    decoder.end()?;
    Ok(pieces)
}

/// The entries of a page, in order, each checked.
pub fn decode_page(plaintext: &[u8]) -> Result<Vec<Entry>, Malformed> {
    let mut decoder = Decoder::new("page", plaintext);
    let blobs = decode_blobs(&mut decoder)?;
    let count = decoder.count(LEAST_ENTRY)?;
    if count > MAX_ENTRIES {
        return Err(decoder.malformed("it holds too many entries"));
    }
    // Every entry but the last began before the page was full.
    let mut paths = 0;
    let mut entries: Vec<Entry> = Vec::with_capacity(count);
    for _ in 0..count {
        let before = entries.last().map(|entry| &entry.path);
        let entry = decode_entry(&mut decoder, before, &blobs)?;
        if before.is_some_and(|before| *before >= entry.path) {
            return Err(decoder.malformed("its entries are out of order"));
        }
        if paths >= MAX_PATHS {
            return Err(decoder.malformed("its paths are too long together"));
        }
        paths += entry.path.as_bytes().len();
        entries.push(entry);
    }
    decoder.end()?;
    Ok(entries)
}

fn decode_blobs(decoder: &mut Decoder<'_>) -> Result<Vec<BlobId>, Malformed> {
    let count = decoder.count(BlobId::LEN)?;
    (0..count).map(|_| decoder.array().map(BlobId::new)).collect()
}

fn decode_piece(decoder: &mut Decoder<'_>, blobs: &[BlobId]) -> Result<Piece, Malformed> {
    let blob = decode_place(decoder, blobs)?;
    let (offset, length) = (decoder.varint_u32()?, decoder.varint_u32()?);
    if length == 0 || offset.checked_add(length).is_none() {
        return Err(decoder.malformed("a piece is empty or too long"));
    }
    Ok(Piece { blob, offset, length })
}

fn decode_place(decoder: &mut Decoder<'_>, blobs: &[BlobId]) -> Result<BlobId, Malformed> {
    let place = decoder.varint()?;
    let place = usize::try_from(place).ok().and_then(|place| blobs.get(place));
    place.copied().ok_or_else(|| decoder.malformed("a piece names a blob that is not in its table"))
}

fn decode_entry(
    decoder: &mut Decoder<'_>,
    before: Option<&EntryPath>,
    blobs: &[BlobId],
) -> Result<Entry, Malformed> {
    let before = before.map_or(&b""[..], EntryPath::as_bytes);
    let shared = decoder.varint()?;
    let shared = usize::try_from(shared).ok().and_then(|shared| before.get(..shared));
    let shared = shared.ok_or_else(|| decoder.malformed("a path shares more than there is"))?;
    let path = EntryPath::new(&[shared, decoder.bytes(MAX_PATH)?].concat())?;
    let code = decoder.u8()?;
    let metadata = decode_metadata(decoder)?;
    let kind = match code {
        1 => EntryKind::Folder,
        2 => EntryKind::File(decode_content(decoder, blobs)?),
        3 => EntryKind::Symlink { target: decode_target(decoder)? },
        4 => {
            let to = EntryPath::new(decoder.bytes(MAX_PATH)?)?;
            if to >= path || to.is_root() {
                return Err(decoder.malformed("a hard link does not lead to an earlier entry"));
            }
            EntryKind::HardLink { to }
        }
        5 => EntryKind::Fifo,
        6 => EntryKind::Socket,
        7 | 8 => {
            EntryKind::Device { block: code == 8, major: decoder.varint_u32()?, minor: decoder.varint_u32()? }
        }
        _ => return Err(decoder.malformed("an entry's kind is not known")),
    };
    if path.is_root() && kind != EntryKind::Folder {
        return Err(decoder.malformed("the root is not a folder"));
    }
    Ok(Entry { path, metadata, kind })
}

fn decode_target(decoder: &mut Decoder<'_>) -> Result<Vec<u8>, Malformed> {
    let target = decoder.bytes(MAX_LINK_TARGET)?;
    if target.is_empty() || target.contains(&0) {
        return Err(decoder.malformed("a link's target is empty or holds NUL"));
    }
    Ok(target.to_vec())
}

fn decode_metadata(decoder: &mut Decoder<'_>) -> Result<Metadata, Malformed> {
    let (mode, uid, gid) = (decoder.varint_u32()?, decoder.varint_u32()?, decoder.varint_u32()?);
    let mtime = Timestamp { seconds: decoder.signed()?, nanoseconds: decoder.varint_u32()? };
    if mode & !0o7777 != 0 || mtime.nanoseconds > 999_999_999 {
        return Err(decoder.malformed("a mode or a time is out of bounds"));
    }
    let count = decoder.count(2)?;
    if count > MAX_XATTRS {
        return Err(decoder.malformed("an entry has too many extended attributes"));
    }
    let mut xattrs: Vec<(Vec<u8>, Vec<u8>)> = Vec::with_capacity(count);
    for _ in 0..count {
        let name = decoder.bytes(MAX_XATTR_NAME)?.to_vec();
        let value = decoder.bytes(MAX_XATTR_VALUE)?.to_vec();
        if name.is_empty() || name.contains(&0) || xattrs.last().is_some_and(|(last, _)| *last >= name) {
            return Err(decoder.malformed("an extended attribute's name is wrong"));
        }
        xattrs.push((name, value));
    }
    Ok(Metadata { mode, uid, gid, mtime, xattrs })
}

fn decode_content(decoder: &mut Decoder<'_>, blobs: &[BlobId]) -> Result<FileContent, Malformed> {
    let size = decoder.varint()?;
    if size > i64::MAX as u64 {
        return Err(decoder.malformed("a file is longer than any file can be"));
    }
    let id = ContentId::new(decoder.array()?);
    let layout = decode_layout(decoder, size)?;
    let pieces = match decoder.u8()? {
        0 => {
            let count = decoder.count(3)?;
            if count > MAX_INLINE_PIECES {
                return Err(decoder.malformed("an entry lists too many pieces"));
            }
            Pieces::Inline((0..count).map(|_| decode_piece(decoder, blobs)).collect::<Result<_, _>>()?)
        }
        1 => {
            let count = decoder.count(1)?;
            Pieces::Listed((0..count).map(|_| decode_place(decoder, blobs)).collect::<Result<_, _>>()?)
        }
        _ => return Err(decoder.malformed("a content's form is not known")),
    };
    let content = FileContent { size, id, layout, pieces };
    if let Pieces::Inline(pieces) = &content.pieces {
        let length: u64 = pieces.iter().map(|piece| u64::from(piece.length)).sum();
        if length != content.data_length() {
            return Err(decoder.malformed("a file's pieces do not add up to its data"));
        }
    }
    Ok(content)
}

fn decode_layout(decoder: &mut Decoder<'_>, size: u64) -> Result<Layout, Malformed> {
    let Some(count) = decoder.varint()?.checked_sub(1) else { return Ok(Layout::Dense) };
    if count > MAX_EXTENTS as u64 || count > decoder.remaining() as u64 / 2 {
        return Err(decoder.malformed("a file has too many extents"));
    }
    let mut extents = Vec::with_capacity(count as usize);
    let mut end = 0u64;
    for _ in 0..count {
        let (gap, length) = (decoder.varint()?, decoder.varint()?);
        let offset = end.checked_add(gap).ok_or_else(|| decoder.malformed("an extent is out of bounds"))?;
        let touches = gap == 0 && !extents.is_empty();
        end = offset.checked_add(length).ok_or_else(|| decoder.malformed("an extent is out of bounds"))?;
        if length == 0 || touches || end > size {
            return Err(decoder.malformed("an extent is out of bounds"));
        }
        extents.push(Extent { offset, length });
    }
    Ok(Layout::Sparse(extents))
}

/// The table of an archive's pages: the plaintext of its `root` blob.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PageTable {
    /// The pages, in order.
    pub pages: Vec<PageLine>,
}

/// One page of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageLine {
    /// The path of its first entry.
    pub first: EntryPath,
    /// The page.
    pub id: BlobId,
    /// How many entries it holds.
    pub entries: u64,
}

impl PageTable {
    /// The plaintext.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.varint(self.pages.len() as u64);
        for page in &self.pages {
            out.bytes(page.first.as_bytes());
            out.raw(page.id.as_bytes());
            out.varint(page.entries);
        }
        out.finish()
    }

    /// Reads the plaintext; the pages must be in order.
    pub fn decode(plaintext: &[u8]) -> Result<Self, Malformed> {
        let mut decoder = Decoder::new("page table", plaintext);
        let count = decoder.count(BlobId::LEN + 2)?;
        let mut pages: Vec<PageLine> = Vec::with_capacity(count);
        for _ in 0..count {
            let first = EntryPath::new(decoder.bytes(MAX_PATH)?)?;
            let line = PageLine { first, id: BlobId::new(decoder.array()?), entries: decoder.varint()? };
            if pages.last().is_some_and(|last| last.first >= line.first) {
                return Err(decoder.malformed("its pages are out of order"));
            }
            if line.entries > MAX_ENTRIES as u64 {
                return Err(decoder.malformed("a page is said to hold more entries than a page can"));
            }
            pages.push(line);
        }
        decoder.end()?;
        Ok(Self { pages })
    }

    /// How many entries the archive has.
    pub fn entries(&self) -> u64 {
        self.pages.iter().fold(0, |sum, page| sum.saturating_add(page.entries))
    }

    /// The pages that may hold `from` or what follows it: an index into `pages`.
    pub fn page_of(&self, from: &EntryPath) -> usize {
        self.pages.partition_point(|page| page.first <= *from).saturating_sub(1)
    }
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
