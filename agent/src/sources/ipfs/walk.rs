//! The walk over all that is pinned or among the files: each block once, from the roots on, as one file of blocks.
//!
//! The order depends on nothing but what there is, so that the same blocks lie side by side in the next backup,
//! too, and are not stored again. What comes next is fetched ahead, a few blocks at a time.
//!
//! Must stay true: a block that goes into the file is what its name says; one that does not, or of which that cannot
//! be said, is told by its name. The same block may be named as raw bytes and as a folder: it is written once for each
//! way in which it links to something, and followed in each. Memory: about 80 bytes for each block that the node has,
//! the blocks that are fetched ahead, and the way ([`Trail`]).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use formats::ipfs::{
    Cid, Key, Next, Trail, Verdict, header, held_by_name, is_followed, is_leaf, key, links, reading,
    section_head, verify,
};
use tokio::task::JoinHandle;

use super::files::Blocks;
use super::node::{self, Kept};
use super::rpc::{Rpc, Trouble};

/// Blocks that are fetched ahead: at most so many MiB are held, with blocks as Kubo makes them.
const AHEAD: usize = 8;
/// What is fetched ahead and not wanted yet.
const MOST_AHEAD: usize = 16;
/// Blocks of which is told one by one.
const MOST_TOLD: usize = 1_000;
/// Blocks that are not there and are remembered, so that each is told once.
const MOST_MISSING: u64 = 1 << 20;
/// The most blocks that a node may have.
pub(crate) const MOST_BLOCKS: usize = 64 << 20;

/// What has been done about a block that the node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Local,
    /// It is left of a hold: not somebody's content.
    Ours,
    /// Under a name with this codec, if its links are known; zero: under another one.
    Written(u16),
    /// Told of.
    Told,
}

/// Something about a block; the archive is incomplete.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) cid: Cid,
    pub(super) cause: String,
    /// It is damaged or missing at the node itself, as far as the node can be believed.
    pub(super) is_damage: bool,
}

/// How many blocks are wrong and were not told of one by one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Untold {
    /// As [`Told::is_damage`].
    pub(super) damaged: u64,
    pub(super) others: u64,
}

/// What came of a walk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) blocks: u64,
    pub(super) bytes: u64,
    /// Missing, false, not to be checked, or leading where nobody can follow.
    pub(super) wrong: u64,
    /// In the node, and nothing that is kept needs them.
    pub(super) unprotected: u64,
}

/// A walk that goes on.
pub(super) struct Walk<B = Ahead> {
    fetch: B,
    secret: [u8; 32],
    blocks: HashMap<Key, State>,
    /// What was followed, as it is read.
    followed: HashSet<Key>,
    trail: Trail,
    /// And whether its links are followed.
    roots: std::vec::IntoIter<(Cid, bool)>,
    pub(super) told: Vec<Told>,
    pub(super) untold: Untold,
    pub(super) tally: Tally,
}

impl Walk {
    /// Begins: what the node has is listed. Blocks that are `ours` are no content; gives those that are there.
    pub(super) fn begin(rpc: &Arc<Rpc>, kept: &Kept, ours: Vec<Cid>) -> Result<(Self, Vec<Cid>), Trouble> {
        let mut walk = Self::over(Ahead::of(rpc), kept);
        node::local_blocks(rpc, |cid| walk.has(&cid))?;
        let there = ours.into_iter().filter(|cid| walk.is_ours(cid)).collect();
        Ok((walk, there))
    }
}

impl<B: Blocks> Walk<B> {
    /// Over blocks of which it has to be told yet that they are there ([`Walk::has`]).
    pub(super) fn over(fetch: B, kept: &Kept) -> Self {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).expect("the operating system's random source answers");
        // Single blocks first, before the root that the header names: who reads the file knows them by that.
        let single = kept.direct.iter().map(|pin| pin.cid).filter(|cid| *cid != kept.files);
        let roots: Vec<(Cid, bool)> = (single.map(|cid| (cid, false)))
            .chain([(kept.files, true)])
            .chain(kept.recursive.iter().map(|pin| (pin.cid, true)))
            .collect();
        Self {
            fetch,
            secret,
            blocks: HashMap::new(),
            followed: HashSet::new(),
            trail: Trail::default(),
            roots: roots.into_iter(),
            told: Vec::new(),
            untold: Untold::default(),
            tally: Tally::default(),
        }
    }

    /// The node has this block.
    pub(super) fn has(&mut self, cid: &Cid) -> Result<(), Trouble> {
        self.blocks.insert(key(&self.secret, cid), State::Local);
        match self.blocks.len() {
            ..=MOST_BLOCKS => Ok(()),
            _ => Err(Trouble::new(format!("it has more than {MOST_BLOCKS} blocks"))),
        }
    }

    /// This block is left of a hold. True if it is there.
    fn is_ours(&mut self, cid: &Cid) -> bool {
        let state = self.blocks.get_mut(&key(&self.secret, cid));
        state.map(|state| *state = State::Ours).is_some()
    }

    /// What the file begins with. More roots than this one, and readers would refuse it one day.
    pub(super) fn header(kept: &Kept) -> Vec<u8> {
        header(&[kept.files])
    }

    /// Adds the next block to `file`; false at the end.
    pub(super) fn next(&mut self, file: &mut Vec<u8>) -> Result<bool, Trouble> {
        let (cid, follows) = match self.trail.go_on() {
            Next::Link(cid) => (cid, true),
            Next::Again(cid) => return self.again(&cid).map(|()| true),
            Next::End => match self.roots.next() {
                Some(root) => root,
                None => {
                    let left = self.blocks.values().filter(|state| **state == State::Local).count();
                    self.tally.unprotected = left as u64;
                    return Ok(false);
                }
            },
        };
        self.visit(&cid, follows && !is_leaf(&cid), file).map(|()| true)
    }

    fn visit(&mut self, cid: &Cid, follows: bool, file: &mut Vec<u8>) -> Result<(), Trouble> {
        if let Some(bytes) = held_by_name(cid) {
            // It is a part of the name that holds it, so this ends soon; what it links to is followed once.
            if follows {
                self.follow(cid, bytes);
            }
            return Ok(());
        }
        let block = key(&self.secret, cid);
        let Some(state) = self.blocks.get(&block).copied() else {
            self.lost(cid, "the node does not have this block", true);
            return Ok(());
        };
        // How it links, where that is known.
        let kind = if is_followed(cid) { cid.codec() as u16 } else { 0 };
        match state {
            State::Told => return Ok(()),
            State::Written(_) if !follows => return Ok(()),
            _ => {}
        }
        if follows {
            if self.followed.len() >= 4 * MOST_BLOCKS {
                return Err(Trouble::new("its blocks link to one another in too many ways"));
            }
            if !self.followed.insert(reading(&self.secret, cid)) {
                return Ok(());
            }
            if matches!(state, State::Written(_)) && kind == 0 {
                // Its bytes are there; nobody here knows what they lead to.
                self.follow(cid, &[]);
                return Ok(());
            }
        }
        self.fetch_ahead();
        let Some(bytes) = self.right(cid)? else { return Ok(()) };
        let is_new = !matches!(state, State::Written(_));
        if is_new || state != State::Written(kind) {
            file.extend(section_head(cid, bytes.len()));
            file.extend_from_slice(&bytes);
            self.blocks.insert(block, State::Written(kind));
        }
        if is_new {
            self.tally.blocks += 1;
            self.tally.bytes += bytes.len() as u64;
        }
        if follows {
            self.follow(cid, &bytes);
        }
        Ok(())
    }

    /// The bytes of a block that the node has, if they are what its name says.
    fn right(&mut self, cid: &Cid) -> Result<Option<Bytes>, Trouble> {
        let bytes = match self.fetch.get(cid) {
            Ok(bytes) => bytes,
            Err(trouble) if trouble.is_of_each() => return Err(trouble),
            Err(trouble) => {
                // As Kubo says it where it looks at the hash itself (`HashOnRead`).
                let is_false = trouble.to_string().contains("different hash than requested");
                self.lost(cid, &format!("the node does not give this block: {trouble}"), is_false);
                return Ok(None);
            }
        };
        match verify(cid, &bytes) {
            Verdict::Right => Ok(Some(bytes)),
            Verdict::Wrong => {
                self.lost(cid, "the node gives bytes for this block that are not what its name says", true);
                Ok(None)
            }
            Verdict::Unknown => {
                self.tell(cid, "nobody here knows its hash: its bytes are taken as they are");
                Ok(Some(bytes))
            }
        }
    }

    /// Follows what a block links to.
    fn follow(&mut self, cid: &Cid, bytes: &[u8]) {
        match links(cid, bytes) {
            Ok(linked) => {
                if !self.trail.enter(*cid, linked) {
                    self.tell(cid, "what this block links to is not backed up: it lies too deep");
                }
            }
            Err(why) => self.tell(cid, &format!("what this block links to is not known: {why}")),
        }
    }

    /// A block's links are not held any more.
    fn again(&mut self, cid: &Cid) -> Result<(), Trouble> {
        let bytes = match held_by_name(cid) {
            Some(bytes) => Some(Bytes::copy_from_slice(bytes)),
            None => self.right(cid)?,
        };
        match bytes.map(|bytes| links(cid, &bytes)) {
            Some(Ok(linked)) => self.trail.again(linked),
            // It was told.
            _ => self.trail.leave(),
        }
        Ok(())
    }

    /// The block is not to be had.
    fn lost(&mut self, cid: &Cid, cause: &str, is_damage: bool) {
        if self.tally.wrong < MOST_MISSING {
            self.blocks.insert(key(&self.secret, cid), State::Told);
        }
        self.note(cid, cause, is_damage);
    }

    fn tell(&mut self, cid: &Cid, cause: &str) {
        self.note(cid, cause, false);
    }

    fn note(&mut self, cid: &Cid, cause: &str, is_damage: bool) {
        self.tally.wrong += 1;
        if self.told.len() < MOST_TOLD {
            self.told.push(Told { cid: *cid, cause: cause.to_owned(), is_damage });
        } else if is_damage {
            self.untold.damaged += 1;
        } else {
            self.untold.others += 1;
        }
    }

    /// Asks for what is next.
    fn fetch_ahead(&mut self) {
        for cid in self.trail.upcoming().take(AHEAD) {
            let is_due = self.blocks.get(&key(&self.secret, cid)) == Some(&State::Local);
            if is_due && held_by_name(cid).is_none() {
                self.fetch.soon(cid);
            }
        }
    }
}

/// Blocks that are fetched while others are written.
pub(super) struct Ahead {
    rpc: Arc<Rpc>,
    under_way: HashMap<Cid, JoinHandle<Result<Bytes, Trouble>>>,
}

impl Ahead {
    fn of(rpc: &Arc<Rpc>) -> Self {
        Self { rpc: Arc::clone(rpc), under_way: HashMap::new() }
    }
}

impl Blocks for Ahead {
    fn get(&mut self, cid: &Cid) -> Result<Bytes, Trouble> {
        match self.under_way.remove(cid) {
            Some(fetch) => self.rpc.runtime().block_on(fetch).expect("a fetch does not panic"),
            None => self.rpc.runtime().block_on(self.rpc.block(cid)),
        }
    }

    fn soon(&mut self, cid: &Cid) {
        if self.under_way.len() < MOST_AHEAD && !self.under_way.contains_key(cid) {
            let (rpc, cid) = (Arc::clone(&self.rpc), *cid);
            let fetch = self.rpc.runtime().spawn(async move { rpc.block(&cid).await });
            self.under_way.insert(cid, fetch);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.under_way.drain().for_each(|(_, fetch)| fetch.abort());
    }
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
