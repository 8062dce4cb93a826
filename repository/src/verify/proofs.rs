//! What was proven when: kept by whoever asks for verifications, so that not everything is read each time.
//!
//! Must stay true: the memory is trusted and losing it only means to read again; nothing is ever taken for
//! proven that no reading has proven.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::Depth;
use crate::ids::{BlobId, PackId};

/// When a pack was last found sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackProof {
    /// Its SHA-256 was its name.
    pub hashed: Timestamp,
    /// And every blob in it opened and had its id.
    pub opened: Option<Timestamp>,
}

impl PackProof {
    /// When it was proven to `depth`.
    pub fn to(&self, depth: Depth) -> Option<Timestamp> {
        if depth == Depth::Opened { self.opened } else { Some(self.hashed) }
    }
}

/// What was proven before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proofs {
    /// Packs.
    pub packs: HashMap<PackId, PackProof>,
    /// Pages all of whose entries were well-formed and had the contents that their ids say.
    pub pages: HashMap<BlobId, Timestamp>,
}

/// Hears of each proof as it is made: who writes them down loses little when the process is killed.
pub trait Witness {
    /// The pack's SHA-256 is its name.
    fn hashed(&self, pack: &PackId);
    /// Every blob of the pack opened and had its id.
    fn opened(&self, pack: &PackId);
    /// Every entry of the page had its content.
    fn page(&self, page: &BlobId);
}

/// Lets every proof be forgotten.
#[derive(Debug)]
pub struct NoWitness;

impl Witness for NoWitness {
    fn hashed(&self, _: &PackId) {}
    fn opened(&self, _: &PackId) {}
    fn page(&self, _: &BlobId) {}
}

/// What a verification relies on, and whom it tells.
pub struct Memory<'a> {
    /// What need not be proven again.
    pub earlier: &'a Proofs,
    /// What was proven since then belongs to this very run, which was interrupted.
    pub since: Timestamp,
    /// Hears of what is proven now.
    pub witness: &'a dyn Witness,
    /// Packs may be mended from their parity: only for the one writer.
    pub may_mend: bool,
    /// What is read at all.
    pub reach: Reach<'a>,
}

/// What a verification reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach<'a> {
    /// Whatever was not proven before.
    All,
    /// No pack: what is there is taken for right, and only what is lost is looked for, so that its entries can
    /// be named at little cost. Proves nothing.
    Losses,
    /// No pack, either: what was proven before and which packs are known to be bad, and why, says how much of
    /// an archive is proven. Its pages are read, and the entries that bad packs cost.
    Known(&'a BTreeMap<PackId, String>),
}

impl Memory<'static> {
    /// Relies on nothing, tells nobody, mends nothing.
    pub fn none() -> Self {
        static NOTHING: std::sync::LazyLock<Proofs> = std::sync::LazyLock::new(Proofs::default);
        Self {
            earlier: &NOTHING,
            since: Timestamp::MAX,
            witness: &NoWitness,
            may_mend: false,
            reach: Reach::All,
        }
    }

    /// Only looks for what is lost.
    pub fn losses() -> Self {
        Self { reach: Reach::Losses, ..Self::none() }
    }
}

impl Memory<'_> {
    pub(super) fn is_hashed(&self, pack: &PackId) -> bool {
        self.reach != Reach::All || self.earlier.packs.contains_key(pack)
    }

    pub(super) fn is_opened(&self, pack: &PackId) -> bool {
        let is_opened = |proof: &PackProof| proof.opened.is_some();
        self.reach != Reach::All || self.earlier.packs.get(pack).is_some_and(is_opened)
    }

    /// Why this pack is known to be bad.
    pub(super) fn known_bad(&self, pack: &PackId) -> Option<&str> {
        match self.reach {
            Reach::Known(bad) => bad.get(pack).map(String::as_str),
            Reach::All | Reach::Losses => None,
        }
    }

    pub(super) fn page(&self, page: &BlobId) -> Option<Timestamp> {
        self.earlier.pages.get(page).copied().or((self.reach != Reach::All).then_some(Timestamp::MIN))
    }
}

/// How much of what was asked for is proven, in bytes of packs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Proven now.
    pub now: u64,
    /// Proven earlier and not read again.
    pub earlier: u64,
    /// Not proven yet: nothing is claimed of it.
    pub unread: u64,
    /// When the oldest of those was proven.
    pub oldest: Option<Timestamp>,
}

impl Coverage {
    pub(super) fn count(&mut self, memory: &Memory<'_>, depth: Depth, pack: &PackId, length: u64) {
        if depth == Depth::Listed {
            return;
        }
        match memory.earlier.packs.get(pack).and_then(|proof| proof.to(depth)) {
            None if matches!(memory.reach, Reach::Known(bad) if !bad.contains_key(pack)) => {
                self.unread += length;
            }
            Some(at) if at < memory.since => {
                self.earlier += length;
                self.oldest = Some(self.oldest.map_or(at, |oldest| oldest.min(at)));
            }
            _ => self.now += length,
        }
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            now: self.now + other.now,
            earlier: self.earlier + other.earlier,
            unread: self.unread + other.unread,
            oldest: self.oldest.into_iter().chain(other.oldest).min(),
        }
    }
}
