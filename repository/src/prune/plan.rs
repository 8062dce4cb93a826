//! What is garbage, and what is worth copying: decided from facts alone, domain by domain.
//!
//! Every blob that a committed backup needs gets a place to stay. A pack that is no blob's place is unused,
//! be it that nothing needs what is in it or that all of it lies elsewhere too. Must stay true: a blob is
//! never without a place that it had before; whatever is not understood is left alone.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use crate::ids::{BlobId, PackId, SegmentId};
use crate::index::IndexedPack;
use crate::pack::blob::Class;
use crate::pack::file;
use crate::pack::segment::SegmentTable;
use crate::refs::{BlobAddress, Refs};

use super::Amount;

/// A pack shorter than this is small: worth merging with others.
const SMALL: u64 = 4 << 20;
/// Copies are made about as long as packs are.
const TARGET: u64 = 16 << 20;
/// So many small packs are worth a copy of them together.
const MERGE_AT_LEAST: usize = 4;

/// How a pack of the index stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is there.
    Sound,
    /// It is there and was found damaged.
    Damaged,
    /// It is not there, or has another length.
    Gone,
}

/// What to do in one domain.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// All packs that are there.
    pub(super) total: Amount,
    /// Packs of which nothing is needed.
    pub(super) dead: Vec<(PackId, u64)>,
    /// Packs all of whose needed blobs have a place in others.
    pub(super) spare: Vec<(PackId, u64)>,
    /// What is worth copying.
    pub(super) copies: Vec<Copying>,
    /// Needed blobs that no pack has.
    pub(super) lost: Vec<BlobAddress>,
    /// Needed blobs that only packs have that were found damaged.
    pub(super) doubtful: Vec<BlobAddress>,
}

impl Decision {
    /// Every pack that nothing would miss.
    pub(super) fn unused(&self) -> impl Iterator<Item = (PackId, u64)> {
        self.dead.iter().chain(&self.spare).copied()
    }
}

/// Packs of one domain and class whose survivors are to lie together in a new one.
#[derive(Debug, Default)]
pub(super) struct Copying {
    pub(super) sources: Vec<Source>,
    /// How long the new pack gets.
    pub(super) length: u64,
}

impl Copying {
    /// Bytes that are taken away.
    pub(super) fn holes(&self) -> u64 {
        let sources: u64 = self.sources.iter().map(|source| source.length).sum();
        sources.saturating_sub(self.length)
    }
}

/// A pack that is copied from.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) pack: PackId,
    pub(super) length: u64,
    /// Which of its segments survive, and the tables that they get.
    pub(super) survivors: Vec<(usize, SegmentTable)>,
    /// What survives, in bytes.
    pub(super) left: u64,
    pub(super) is_half_dead: bool,
}

/// Decides for one domain: `live` is every blob that a committed backup needs.
pub(super) fn decide(
    packs: &[IndexedPack],
    live: &Refs,
    standing: impl Fn(&IndexedPack) -> Standing,
) -> Decision {
    let standings: Vec<Standing> = packs.iter().map(standing).collect();
    let healed = with_copies_of_the_unsound(packs, &standings, live);
    let facts = Facts::new(packs, &standings, healed.as_ref().unwrap_or(live));
    let mut decision = Decision::default();
    let mut stays: Vec<Vec<usize>> = vec![Vec::new(); packs.len()];
    for (segment, _) in facts.live.segments() {
        let Cover { places, doubtful, lost } = facts.cover(&segment);
        places.into_iter().for_each(|(pack, nth)| stays[pack].push(nth));
        let address = |ordinal| BlobAddress { segment, ordinal };
        decision.doubtful.extend(doubtful.into_iter().map(address));
        decision.lost.extend(lost.into_iter().map(address));
    }
    let mut sources = Vec::new();
    for (at, pack) in packs.iter().enumerate().filter(|(at, _)| standings[*at] != Standing::Gone) {
        decision.total.add(pack.length);
        match (stays[at].is_empty(), facts.live_bytes[at]) {
            (true, 0) => decision.dead.push((pack.id, pack.length)),
            (true, _) => decision.spare.push((pack.id, pack.length)),
            (false, _) if standings[at] == Standing::Sound => {
                stays[at].sort_unstable();
                sources.extend(facts.worth_copying(at, &stays[at]));
            }
            (false, _) => {}
        }
    }
    decision.copies = group(sources);
    decision
}

struct Facts<'a> {
    packs: &'a [IndexedPack],
    standings: &'a [Standing],
    live: &'a Refs,
    /// Where each needed segment lies.
    places: HashMap<SegmentId, Vec<(usize, usize)>>,
    /// For each pack, the bytes of blobs in it that are needed.
    live_bytes: Vec<u64>,
    /// And of those that are not.
    dead_bytes: Vec<u64>,
}

/// Where a segment's needed blobs are kept.
struct Cover {
    /// Places that have all of them between them, as few as can be.
    places: Vec<(usize, usize)>,
    /// Those that no sound pack has.
    doubtful: Vec<u32>,
    /// Those that none has.
    lost: Vec<u32>,
}

impl<'a> Facts<'a> {
    fn new(packs: &'a [IndexedPack], standings: &'a [Standing], live: &'a Refs) -> Self {
        let zero = vec![0; packs.len()];
        let (places, live_bytes, dead_bytes) = (HashMap::new(), zero.clone(), zero);
        let mut facts = Self { packs, standings, live, places, live_bytes, dead_bytes };
        for (at, pack) in packs.iter().enumerate().filter(|(at, _)| standings[*at] != Standing::Gone) {
            for (nth, placed) in pack.segments.iter().enumerate() {
                let segment = placed.table.header.context.segment;
                facts.dead_bytes[at] += placed.table.header.body_length;
                if live.shape(&segment) == Some(placed.table.header.blobs) {
                    facts.places.entry(segment).or_default().push((at, nth));
                    let bytes: u64 = needed(&placed.table, live).map(|(_, bytes)| bytes).sum();
                    facts.live_bytes[at] += bytes;
                    facts.dead_bytes[at] -= bytes;
                }
            }
        }
        facts
    }

    fn table(&self, (pack, nth): (usize, usize)) -> &'a SegmentTable {
        &self.packs[pack].segments[nth].table
    }

    /// A segment that is needed keeps one place in any case: its table says which blobs were in it.
    fn cover(&self, segment: &SegmentId) -> Cover {
        let mut wanted: Vec<u32> = self.live.ordinals(segment).collect();
        let mut places = self.places.get(segment).cloned().unwrap_or_default();
        places.sort_by(|a, b| self.compare(a.0, b.0));
        let has = |place: (usize, usize), ordinal: u32| !self.table(place).lines[ordinal as usize].absent;
        let (mut chosen, mut doubtful) = (Vec::new(), Vec::new());
        for standing in [Standing::Sound, Standing::Damaged] {
            if standing == Standing::Damaged {
                doubtful.clone_from(&wanted);
            }
            let standing_so = || places.iter().filter(|place| self.standings[place.0] == standing);
            while !wanted.is_empty() {
                let gain = |place: (usize, usize)| wanted.iter().filter(|blob| has(place, **blob)).count();
                // Of equal ones the first, which is the better place: `min_by_key` keeps it.
                let best =
                    standing_so().map(|place| (Reverse(gain(*place)), *place)).min_by_key(|(gain, _)| *gain);
                let Some((_, best)) = best.filter(|(gain, _)| gain.0 > 0) else { break };
                chosen.push(best);
                wanted.retain(|ordinal| !has(best, *ordinal));
            }
        }
        if chosen.is_empty() {
            chosen.extend(places.first());
        }
        doubtful.retain(|ordinal| !wanted.contains(ordinal));
        Cover { places: chosen, doubtful, lost: wanted }
    }

    /// Which of two packs is the better place to stay: sound, with little in it that is dead, long; and
    /// always the same one.
    fn compare(&self, a: usize, b: usize) -> std::cmp::Ordering {
        let (left, right) = (&self.packs[a], &self.packs[b]);
        let dead = |at: usize| u128::from(self.dead_bytes[at]);
        let is_damaged = |at: usize| self.standings[at] != Standing::Sound;
        (is_damaged(a).cmp(&is_damaged(b)))
            .then((dead(a) * u128::from(right.length)).cmp(&(dead(b) * u128::from(left.length))))
            .then(right.length.cmp(&left.length))
            .then(left.id.cmp(&right.id))
    }

    /// The pack as a source, if it is small or less than half of it would survive.
    fn worth_copying(&self, at: usize, stays: &[usize]) -> Option<Source> {
        let pack = &self.packs[at];
        let survivors: Vec<(usize, SegmentTable)> =
            stays.iter().map(|nth| (*nth, surviving(self.table((at, *nth)), self.live))).collect();
        let left: u64 = survivors.iter().map(|(_, table)| table.segment_length()).sum();
        let is_half_dead = (left + file::HEADER as u64) * 2 < pack.length;
        (is_half_dead || pack.length < SMALL).then_some(Source {
            pack: pack.id,
            length: pack.length,
            survivors,
            left,
            is_half_dead,
        })
    }
}

/// The blobs of a table that are there and needed: ordinal and bytes.
fn needed<'a>(table: &'a SegmentTable, live: &'a Refs) -> impl Iterator<Item = (usize, u64)> + 'a {
    let ordinals = live.ordinals(&table.header.context.segment).map(|ordinal| ordinal as usize);
    let there = ordinals.filter(|ordinal| table.lines.get(*ordinal).is_some_and(|line| !line.absent));
    there.map(|ordinal| (ordinal, u64::from(table.lines[ordinal].stored_length)))
}

/// The table with what is not needed taken out. Its ids stay: healing asks for them.
fn surviving(table: &SegmentTable, live: &Refs) -> SegmentTable {
    let mut left = table.clone();
    left.lines.iter_mut().for_each(|line| line.absent = true);
    left.header.body_length = 0;
    for (ordinal, bytes) in needed(table, live) {
        left.lines[ordinal].absent = false;
        left.header.body_length += bytes;
    }
    left
}

/// Blobs that cannot be had at their address are read from any other address of the same id, so that all
/// copies of them are needed too. `None` if all is sound.
fn with_copies_of_the_unsound(packs: &[IndexedPack], standings: &[Standing], live: &Refs) -> Option<Refs> {
    let tables = |is_wanted: fn(Standing) -> bool| {
        let wanted = packs.iter().zip(standings).filter(move |(_, standing)| is_wanted(**standing));
        wanted.flat_map(|(pack, _)| pack.segments.iter().map(|placed| &placed.table))
    };
    let (mut sound, mut unsound) = (Refs::new(live.domain()), HashSet::<BlobId>::new());
    for table in tables(|standing| standing == Standing::Sound) {
        let (segment, blobs) = (table.header.context.segment, table.header.blobs);
        if live.shape(&segment) == Some(blobs) {
            needed(table, live)
                .for_each(|(ordinal, _)| sound.add(BlobAddress { segment, ordinal: ordinal as u32 }, blobs));
        }
    }
    if sound.blobs() == live.blobs() {
        return None;
    }
    for table in tables(|_| true) {
        let segment = table.header.context.segment;
        for ordinal in live.ordinals(&segment) {
            let line = table.lines.get(ordinal as usize);
            let is_sound = sound.contains(&BlobAddress { segment, ordinal });
            unsound.extend(line.filter(|_| !is_sound).map(|line| line.id));
        }
    }
    let mut healed = live.clone();
    for table in tables(|standing| standing == Standing::Sound) {
        let segment = table.header.context.segment;
        let shape = live.shape(&segment);
        if shape.is_some_and(|blobs| blobs != table.header.blobs) {
            continue;
        }
        for (line, ordinal) in table.lines.iter().zip(0u32..) {
            if !line.absent && unsound.contains(&line.id) {
                healed.add(BlobAddress { segment, ordinal }, table.header.blobs);
            }
        }
    }
    Some(healed)
}

/// Puts sources together that make one pack, data and metadata apart, and leaves out what does not pay.
fn group(sources: Vec<Source>) -> Vec<Copying> {
    let mut open: HashMap<Class, Copying> = HashMap::new();
    let mut closed = Vec::new();
    for source in sources {
        let class = source.survivors.first().map_or(Class::Data, |(_, table)| table.header.class);
        let copying = open.entry(class).or_default();
        if !copying.sources.is_empty() && copying.length + source.left > TARGET {
            closed.push(std::mem::take(copying));
        }
        if copying.sources.is_empty() {
            copying.length = file::HEADER as u64;
        }
        copying.length += source.left;
        copying.sources.push(source);
    }
    let mut last: Vec<(Class, Copying)> = open.into_iter().collect();
    last.sort_by_key(|(class, _)| class.code());
    closed.extend(last.into_iter().map(|(_, copying)| copying));
    let pays = |copying: &Copying| {
        copying.sources.len() >= MERGE_AT_LEAST || copying.sources.iter().any(|source| source.is_half_dead)
    };
    closed.retain(pays);
    closed
}

/// More than a fifth needs a person's word.
pub(super) fn is_braked(part: u64, whole: u64) -> bool {
    u128::from(part) * 5 > u128::from(whole)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
