//! The index: in which pack each segment lies, and what is in it.
//!
//! One set of files per domain, so that a job loads no more than its own. Must stay true: an index file
//! refers only to packs that are durable, says nothing that the packs do not say themselves, and can be
//! made again from them without a key.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::OnceLock;

use crate::codec::{Decoder, Encoder, Malformed};
use crate::ids::{BlobId, DomainId, PackId, SegmentId};
use crate::listed::Generation;
use crate::pack::blob::BlobLine;
use crate::pack::file::PlacedSegment;
use crate::pack::segment::SegmentTable;
use crate::refs::{BlobAddress, Refs};
use crate::signed::Sha256;

/// The longest index file, in bytes.
pub const MAX_INDEX_FILE: u64 = 256 << 20;

const MAGIC: &[u8; 8] = b"NSindex1";
const VERSION: u16 = 1;
const WHAT: &str = "index file";

/// One pack and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedPack {
    /// The pack.
    pub id: PackId,
    /// Its length in bytes.
    pub length: u64,
    /// Its segments.
    pub segments: Vec<PlacedSegment>,
}

impl IndexedPack {
    /// About how many bytes of an index file it takes.
    pub(crate) fn encoded_length(&self) -> u64 {
        self.segments.iter().map(|placed| placed.table.encoded_length()).sum()
    }
}

/// One index file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexFile {
    /// The domain of all packs in it.
    pub domain: DomainId,
    /// Index files that this one stands for.
    pub replaces: Vec<Sha256>,
    /// The packs.
    pub packs: Vec<IndexedPack>,
}

impl IndexFile {
    /// The file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.raw(MAGIC);
        out.u16(VERSION);
        out.u16(0);
        out.raw(self.domain.as_bytes());
        out.varint(self.replaces.len() as u64);
        self.replaces.iter().for_each(|name| out.raw(&name.0));
        out.varint(self.packs.len() as u64);
        for pack in &self.packs {
            out.raw(pack.id.as_bytes());
            out.varint(pack.length);
            out.varint(pack.segments.len() as u64);
            for segment in &pack.segments {
                out.varint(segment.offset);
                segment.table.encode(&mut out);
            }
        }
        out.finish()
    }

    /// Reads an index file; checks that it is of one domain.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut decoder = Decoder::new(WHAT, bytes);
        if &decoder.array()? != MAGIC {
            return Err(Malformed::new(WHAT, "it does not begin like one"));
        }
        if decoder.u16()? != VERSION || decoder.u16()? != 0 {
            return Err(Malformed::new(WHAT, "its version is not known to this program"));
        }
        let domain = DomainId::new(decoder.array()?);
        let replaced = decoder.count(32)?;
        let replaces = (0..replaced).map(|_| decoder.array().map(Sha256)).collect::<Result<_, _>>()?;
        let count = decoder.count(PackId::LEN)?;
        let mut packs = Vec::with_capacity(count);
        for _ in 0..count {
            packs.push(Self::decode_pack(&mut decoder, domain)?);
        }
        decoder.end()?;
        Ok(Self { domain, replaces, packs })
    }

    fn decode_pack(decoder: &mut Decoder<'_>, domain: DomainId) -> Result<IndexedPack, Malformed> {
        let id = PackId::new(decoder.array()?);
        let length = decoder.varint()?;
        let count = decoder.count(SegmentId::LEN)?;
        let mut segments = Vec::with_capacity(count);
        for _ in 0..count {
            let offset = decoder.varint()?;
            let table = SegmentTable::decode(decoder)?;
            let fits = offset.checked_add(table.segment_length()).is_some_and(|end| end <= length);
            if !fits || table.header.context.domain != domain {
                return Err(Malformed::new(WHAT, "a segment does not fit its pack or its domain"));
            }
            segments.push(PlacedSegment { offset, table });
        }
        Ok(IndexedPack { id, length, segments })
    }
}

/// A domain's index in memory: the union of its files.
///
/// A segment may lie in several packs, each with other blobs left out: prune copies what lives before it
/// takes the old pack away. A blob is there if any of them has it. A blob that cannot be had at its address
/// is had from any other address of the same id: that is how an old backup becomes whole again when a new
/// one has sent the blob anew.
#[derive(Debug, Default, Clone)]
pub struct DomainIndex {
    /// The same for as long as packs are only added.
    generation: Generation,
    packs: Vec<IndexedPack>,
    known: HashSet<PackId>,
    /// Pack and place in it: sound ones first, then those with the most blobs.
    places: HashMap<SegmentId, Vec<(usize, usize)>>,
    /// Packs that are damaged or gone: read only where nothing else has the same.
    unsound: HashSet<PackId>,
    /// Every blob that lies in a sound pack; made when the first one is asked for.
    sound: OnceLock<Copies>,
}

/// Where blobs lie, by id: 16 bytes for each, since a repository has millions.
#[derive(Debug, Clone)]
struct Copies {
    segments: Vec<SegmentId>,
    /// What the id begins with, the segment's place above, the ordinal; in this order.
    lines: Vec<(u64, u32, u32)>,
}

impl Copies {
    fn new(tables: impl Iterator<Item = (SegmentId, Vec<BlobLine>)>) -> Self {
        let (mut segments, mut lines) = (Vec::new(), Vec::new());
        for (at, (segment, table)) in (0..).zip(tables) {
            segments.push(segment);
            let there = (0..).zip(&table).filter(|(_, line)| !line.absent);
            lines.extend(there.map(|(ordinal, line)| (beginning(&line.id), at, ordinal)));
        }
        lines.sort_unstable();
        lines.shrink_to_fit();
        Self { segments, lines }
    }

    /// Every address at which this blob may lie: ids that begin alike are not told apart.
    fn of(&self, id: &BlobId) -> impl Iterator<Item = BlobAddress> {
        let begins = beginning(id);
        let first = self.lines.partition_point(|(of, ..)| *of < begins);
        let alike = self.lines[first..].iter().take_while(move |(of, ..)| *of == begins);
        alike.map(|(_, at, ordinal)| BlobAddress { segment: self.segments[*at as usize], ordinal: *ordinal })
    }
}

fn beginning(id: &BlobId) -> u64 {
    let (begins, _) = id.as_bytes().split_first_chunk().expect("an id has 32 bytes");
    u64::from_be_bytes(*begins)
}

/// Where a blob's sealed bytes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobPlace {
    /// The address that it is sealed for. Not always the one that was asked for: another one holds the
    /// same blob where that one is damaged or gone.
    pub address: BlobAddress,
    /// The pack.
    pub pack: PackId,
    /// Bytes from the pack's start.
    pub offset: u64,
    /// The blob's line in its segment's table.
    pub line: BlobLine,
}

impl DomainIndex {
    /// The union of these packs.
    pub fn new(packs: impl IntoIterator<Item = IndexedPack>) -> Self {
        let mut index = Self::default();
        packs.into_iter().for_each(|pack| index.add(pack));
        index
    }

    /// Adds a pack; one that is known already changes nothing.
    pub fn add(&mut self, pack: IndexedPack) {
        if !self.known.insert(pack.id) {
            return;
        }
        self.packs.push(pack);
        self.settle(self.packs.len() - 1);
        self.sound = OnceLock::new();
    }

    /// Takes these packs, and no others, for damaged or gone.
    pub fn set_unsound(&mut self, unsound: HashSet<PackId>) {
        if unsound != self.unsound {
            self.unsound = unsound;
            self.places.clear();
            (0..self.packs.len()).for_each(|at| self.settle(at));
            self.sound = OnceLock::new();
        }
    }

    /// Takes these packs for damaged or gone, too.
    pub fn avoid(&mut self, packs: impl IntoIterator<Item = PackId>) {
        let mut unsound = self.unsound.clone();
        unsound.extend(packs);
        self.set_unsound(unsound);
    }

    /// True unless a pack is known to be damaged or gone.
    pub fn is_sound(&self, pack: &PackId) -> bool {
        !self.unsound.contains(pack)
    }

    /// Puts a pack among those that hold its segments.
    fn settle(&mut self, at: usize) {
        for (nth, segment) in self.packs[at].segments.iter().enumerate() {
            let places = self.places.entry(segment.table.header.context.segment).or_default();
            let rank = |(pack, nth): &(usize, usize)| {
                let pack = &self.packs[*pack];
                (!self.unsound.contains(&pack.id), present(&pack.segments[*nth].table))
            };
            let own = rank(&(at, nth));
            places.insert(places.partition_point(|place| rank(place) >= own), (at, nth));
        }
    }

    /// Every pack.
    pub fn packs(&self) -> &[IndexedPack] {
        &self.packs
    }

    /// True if this pack is in it.
    pub fn knows(&self, pack: &PackId) -> bool {
        self.known.contains(pack)
    }

    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    /// Every segment once that lies in other packs than the first `from`, in the order in which those became
    /// known, with the lines of its table; a line is absent where none of the packs that `is_usable` accepts
    /// has the blob. Segments in none of them are left out.
    pub(crate) fn tables(
        &self,
        from: usize,
        is_usable: impl Fn(&IndexedPack) -> bool,
    ) -> impl Iterator<Item = (SegmentId, Vec<BlobLine>)> {
        let packs = self.packs.iter().enumerate().skip(from);
        let ids = packs.flat_map(move |(at, pack)| {
            let here = pack.segments.iter().map(|placed| placed.table.header.context.segment);
            here.zip(0..).filter(move |(id, nth)| self.first_place(id, from) == Some((at, *nth)))
        });
        ids.filter_map(move |(id, _)| Some((id, self.lines_from(&id, &is_usable)?)))
    }

    /// The first place of a segment in other packs than the first `from`.
    fn first_place(&self, id: &SegmentId, from: usize) -> Option<(usize, usize)> {
        self.places.get(id)?.iter().filter(|(pack, _)| *pack >= from).min().copied()
    }

    /// A segment's best pack and its place in it.
    pub fn segment(&self, id: &SegmentId) -> Option<(&IndexedPack, &PlacedSegment)> {
        self.copies_of(id).next()
    }

    /// The lines of a segment's table; one is absent if no pack holds the blob.
    pub fn lines(&self, id: &SegmentId) -> Option<Vec<BlobLine>> {
        self.lines_from(id, |_| true)
    }

    /// The same, of those packs alone that `is_usable` accepts.
    fn lines_from(&self, id: &SegmentId, is_usable: impl Fn(&IndexedPack) -> bool) -> Option<Vec<BlobLine>> {
        let mut usable = self.copies_of(id).filter(|(pack, _)| is_usable(pack));
        let mut lines = usable.next()?.1.table.lines.clone();
        usable.for_each(|(_, placed)| fill(&mut lines, &placed.table.lines));
        Some(lines)
    }

    fn copies_of(&self, id: &SegmentId) -> impl Iterator<Item = (&IndexedPack, &PlacedSegment)> {
        let places = self.places.get(id);
        places
            .into_iter()
            .flatten()
            .map(|(pack, nth)| (&self.packs[*pack], &self.packs[*pack].segments[*nth]))
    }

    /// Where a blob lies: at its address, else at another one of the same id, else in a pack that is known
    /// to be damaged; `None` if no pack holds it.
    pub fn place(&self, address: &BlobAddress) -> Option<BlobPlace> {
        let own = |address: &BlobAddress, is_sound: bool| {
            let mut copies = self.copies_of(&address.segment);
            copies.find_map(|(pack, placed)| {
                (self.is_sound(&pack.id) == is_sound).then(|| place_in(pack, placed, address)).flatten()
            })
        };
        let elsewhere = || own(self.copies(address).first()?, true);
        own(address, true).or_else(elsewhere).or_else(|| own(address, false))
    }

    /// Every place at which a blob lies under its own address, the better ones first.
    pub(crate) fn places(&self, address: &BlobAddress) -> Vec<BlobPlace> {
        let copies = self.copies_of(&address.segment);
        let mut places: Vec<BlobPlace> =
            copies.filter_map(|(pack, placed)| place_in(pack, placed, address)).collect();
        places.sort_by_key(|place| !self.is_sound(&place.pack));
        places
    }

    /// Every other address at which a sound pack holds the same blob. Where an address is not to be had,
    /// these keep its blob alive.
    pub fn copies(&self, address: &BlobAddress) -> Vec<BlobAddress> {
        let line = self
            .segment(&address.segment)
            .and_then(|(_, placed)| placed.table.lines.get(address.ordinal as usize));
        let Some(id) = line.map(|line| line.id) else { return Vec::new() };
        let sound = self.sound.get_or_init(|| Copies::new(self.tables(0, |pack| self.is_sound(&pack.id))));
        let mut copies: Vec<BlobAddress> =
            sound.of(&id).filter(|copy| copy != address && self.is_had(copy, &id)).collect();
        copies.sort_unstable();
        copies
    }

    /// Whether a sound pack has the blob at this address.
    fn is_had(&self, address: &BlobAddress, id: &BlobId) -> bool {
        self.copies_of(&address.segment).any(|(pack, placed)| {
            let line = placed.table.lines.get(address.ordinal as usize);
            self.is_sound(&pack.id) && line.is_some_and(|line| !line.absent && line.id == *id)
        })
    }

    /// Every blob of `refs` that no sound pack holds, or whose segment has another shape than the refs say.
    pub fn missing(&self, refs: &Refs) -> Vec<BlobAddress> {
        let is_had =
            |address: &BlobAddress| self.place(address).is_some_and(|place| self.is_sound(&place.pack));
        let mut missing = self.missing_from(refs, |pack| self.is_sound(&pack.id));
        let shape = |segment: &SegmentId| self.segment(segment).map(|(_, placed)| placed.table.lines.len());
        let said: HashMap<SegmentId, u32> = refs.segments().collect();
        missing.retain(|address| {
            let blobs = said.get(&address.segment).map(|blobs| *blobs as usize);
            shape(&address.segment) != blobs || !is_had(address)
        });
        missing
    }

    /// Every blob of `refs` that is not at its own address in a pack that `is_usable` accepts.
    pub fn missing_from(&self, refs: &Refs, is_usable: impl Fn(&IndexedPack) -> bool) -> Vec<BlobAddress> {
        let mut missing = Vec::new();
        for (segment, blobs) in refs.segments() {
            let tables: Vec<&SegmentTable> = self
                .copies_of(&segment)
                .filter(|(pack, placed)| placed.table.lines.len() == blobs as usize && is_usable(pack))
                .map(|(_, placed)| &placed.table)
                .collect();
            let gone = |ordinal: &u32| tables.iter().all(|table| table.lines[*ordinal as usize].absent);
            missing
                .extend(refs.ordinals(&segment).filter(gone).map(|ordinal| BlobAddress { segment, ordinal }));
        }
        missing
    }

    /// The packs that the blobs of `refs` are read from, with their lengths.
    pub fn packs_of(&self, refs: &Refs) -> BTreeMap<PackId, u64> {
        let mut packs = BTreeMap::new();
        for (segment, _) in refs.segments() {
            let mut left: Vec<u32> = refs.ordinals(&segment).collect();
            for (pack, placed) in self.copies_of(&segment).filter(|(pack, _)| self.is_sound(&pack.id)) {
                let before = left.len();
                let is_absent =
                    |ordinal: &u32| placed.table.lines.get(*ordinal as usize).is_none_or(|line| line.absent);
                left.retain(is_absent);
                if left.len() < before {
                    packs.insert(pack.id, pack.length);
                }
            }
            for ordinal in left {
                let place = self.place(&BlobAddress { segment, ordinal });
                let found = place.and_then(|place| self.packs.iter().find(|pack| pack.id == place.pack));
                packs.extend(found.map(|pack| (pack.id, pack.length)));
            }
        }
        packs
    }

    /// The blobs of `refs` by id, each with the address that it is read from. Blobs that no pack holds are
    /// left out.
    pub fn by_id(&self, refs: &Refs) -> HashMap<BlobId, BlobAddress> {
        let mut found = HashMap::new();
        for (segment, _) in refs.segments() {
            let Some(known) = self.lines(&segment) else { continue };
            let sound = self.lines_from(&segment, |pack| self.is_sound(&pack.id)).unwrap_or_default();
            for ordinal in refs.ordinals(&segment) {
                let Some(line) = known.get(ordinal as usize) else { continue };
                let own = BlobAddress { segment, ordinal };
                let address = match sound.get(ordinal as usize).is_some_and(|line| !line.absent) {
                    true => Some(own),
                    false => self.place(&own).map(|place| place.address),
                };
                found.extend(address.map(|address| (line.id, address)));
            }
        }
        found
    }
}

fn place_in(pack: &IndexedPack, placed: &PlacedSegment, address: &BlobAddress) -> Option<BlobPlace> {
    let (offset, _) = placed.table.body_range(address.ordinal)?;
    let line = placed.table.lines[address.ordinal as usize];
    Some(BlobPlace { address: *address, pack: pack.id, offset: placed.body_offset() + offset, line })
}

fn present(table: &SegmentTable) -> usize {
    table.lines.iter().filter(|line| !line.absent).count()
}

/// Takes over what `lines` lack from another copy of the same table.
fn fill(lines: &mut [BlobLine], other: &[BlobLine]) {
    for (line, other) in lines.iter_mut().zip(other) {
        if line.absent && !other.absent && line.id == other.id {
            *line = *other;
        }
    }
}
