//! The walk over all that is pinned or among the files: each block once, from the roots on, as one file of blocks.
//!
//! The order depends on nothing but what there is, so that the same blocks lie side by side in the next backup,
//! too, and are not stored again. What comes next is fetched ahead, a few blocks at a time.
//!
//! Must stay true: a block that goes into the file is what its name says; one that does not is told by its name.
//! Memory: about 40 bytes for each block that the node has, and the blocks that are fetched ahead.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use formats::ipfs::{Cid, Key, Verdict, header, held_by_name, is_leaf, key, links, section_head, verify};
use tokio::task::JoinHandle;

use super::node::{self, Kept};
use super::rpc::{Rpc, Trouble};
use crate::sources::ProblemKind;

/// Blocks that are fetched ahead: at most so many MiB are held, with blocks as Kubo makes them.
const AHEAD: usize = 8;
/// What is fetched ahead and not wanted yet.
const MOST_AHEAD: usize = 16;
/// Blocks of which is told one by one.
const MOST_TOLD: u64 = 1_000;
/// The most blocks that a node may have.
const MOST_BLOCKS: usize = 64 << 20;

/// What has been done about a block that the node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Local,
    Written,
    /// And its links were followed.
    Followed,
    /// Told of.
    Told,
}

/// Something about a block.
pub(super) struct Told {
    pub(super) cid: Cid,
    pub(super) kind: ProblemKind,
    pub(super) cause: String,
}

/// What came of a walk.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) blocks: u64,
    pub(super) bytes: u64,
    /// Missing, false, or leading where nobody can follow.
    pub(super) wrong: u64,
    /// In the node, and nothing that is kept needs them.
    pub(super) unprotected: u64,
}

/// A walk that goes on.
pub(super) struct Walk {
    rpc: Arc<Rpc>,
    secret: [u8; 32],
    blocks: HashMap<Key, State>,
    /// Still to be done, the next one last; and whether its links are followed.
    stack: Vec<(Cid, bool)>,
    roots: std::vec::IntoIter<(Cid, bool)>,
    ahead: HashMap<Key, JoinHandle<Result<Bytes, Trouble>>>,
    pub(super) told: Vec<Told>,
    pub(super) tally: Tally,
}

impl Walk {
    /// Begins: what the node has is listed. Blocks that are `ours` are of no account.
    pub(super) fn begin<'a>(
        rpc: &Arc<Rpc>,
        kept: &Kept,
        ours: impl Iterator<Item = &'a Cid>,
    ) -> Result<Self, Trouble> {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).expect("the operating system's random source answers");
        let mut blocks = HashMap::new();
        node::local_blocks(rpc, |cid| {
            blocks.insert(key(&secret, &cid), State::Local);
            match blocks.len() {
                ..=MOST_BLOCKS => Ok(()),
                _ => Err(Trouble::new(format!("it has more than {MOST_BLOCKS} blocks"))),
            }
        })?;
        for cid in ours {
            blocks.remove(&key(&secret, cid));
        }
        // Single blocks first: nothing but their own pins may hold them.
        let roots: Vec<(Cid, bool)> = (kept.direct.iter().map(|pin| (pin.cid, false)))
            .chain([(kept.files, true)])
            .chain(kept.recursive.iter().map(|pin| (pin.cid, true)))
            .collect();
        Ok(Self {
            rpc: Arc::clone(rpc),
            secret,
            blocks,
            stack: Vec::new(),
            roots: roots.into_iter(),
            ahead: HashMap::new(),
            told: Vec::new(),
            tally: Tally::default(),
        })
    }

    /// What the file begins with.
    pub(super) fn header(kept: &Kept) -> Vec<u8> {
        let pinned = kept.recursive.iter().map(|pin| pin.cid);
        header(&std::iter::once(kept.files).chain(pinned).collect::<Vec<_>>())
    }

    /// Adds the next block to `file`; false at the end.
    pub(super) fn next(&mut self, file: &mut Vec<u8>) -> Result<bool, Trouble> {
        let Some((cid, follows)) = self.stack.pop().or_else(|| self.roots.next()) else {
            self.ahead.drain().for_each(|(_, fetch)| fetch.abort());
            let left = self.blocks.values().filter(|state| **state == State::Local).count();
            self.tally.unprotected = left as u64;
            return Ok(false);
        };
        let follows = follows && !is_leaf(&cid);
        if let Some(bytes) = held_by_name(&cid) {
            if follows {
                self.follow(&cid, bytes);
            }
            return Ok(true);
        }
        let its_key = key(&self.secret, &cid);
        let state = match self.blocks.get(&its_key).copied() {
            Some(State::Followed | State::Told) => return Ok(true),
            Some(State::Written) if !follows => return Ok(true),
            Some(state) => state,
            None => {
                self.wrong(&cid, "the node does not have this block");
                return Ok(true);
            }
        };
        let rpc = Arc::clone(&self.rpc);
        let fetch = self.ahead.remove(&its_key);
        self.fetch_ahead();
        let fetched = match fetch {
            Some(fetch) => rpc.runtime().block_on(fetch).expect("a fetch does not panic"),
            None => rpc.runtime().block_on(rpc.block(&cid)),
        };
        let bytes = match fetched {
            Ok(bytes) => bytes,
            Err(trouble) if trouble.is_connection => return Err(trouble),
            Err(trouble) => {
                self.wrong(&cid, &format!("the node does not give this block: {trouble}"));
                return Ok(true);
            }
        };
        match verify(&cid, &bytes) {
            Verdict::Right => {}
            Verdict::Wrong => {
                self.wrong(&cid, "the node gives bytes for this block that are not what its name says");
                return Ok(true);
            }
            Verdict::Unknown => {
                let cause = "nobody here knows its hash: its bytes are taken as they are".to_owned();
                self.told.push(Told { cid, kind: ProblemKind::Suspect, cause });
            }
        }
        if state == State::Local {
            file.extend(section_head(&cid, bytes.len()));
            file.extend_from_slice(&bytes);
            self.tally.blocks += 1;
            self.tally.bytes += bytes.len() as u64;
        }
        // A leaf has no links to follow.
        let state = if follows || is_leaf(&cid) { State::Followed } else { State::Written };
        self.blocks.insert(its_key, state);
        if follows {
            self.follow(&cid, &bytes);
        }
        Ok(true)
    }

    fn follow(&mut self, cid: &Cid, bytes: &[u8]) {
        match links(cid, bytes) {
            Ok(linked) => self.stack.extend(linked.into_iter().rev().map(|link| (link, true))),
            Err(why) => self.wrong(cid, &format!("what this block links to is not known: {why}")),
        }
    }

    fn wrong(&mut self, cid: &Cid, cause: &str) {
        self.blocks.insert(key(&self.secret, cid), State::Told);
        self.tally.wrong += 1;
        let (cid, kind) = (*cid, ProblemKind::Unreadable);
        if self.tally.wrong <= MOST_TOLD {
            self.told.push(Told { cid, kind, cause: cause.to_owned() });
        }
    }

    /// How many blocks are wrong and were not told of one by one.
    pub(super) fn untold(&self) -> u64 {
        self.tally.wrong.saturating_sub(MOST_TOLD)
    }

    /// Asks for what is next.
    fn fetch_ahead(&mut self) {
        for (cid, _) in self.stack.iter().rev().take(AHEAD) {
            let its_key = key(&self.secret, cid);
            let is_due = self.blocks.get(&its_key) == Some(&State::Local) && held_by_name(cid).is_none();
            if !is_due || self.ahead.len() >= MOST_AHEAD || self.ahead.contains_key(&its_key) {
                continue;
            }
            let (rpc, cid) = (Arc::clone(&self.rpc), *cid);
            let fetch = self.rpc.runtime().spawn(async move { rpc.block(&cid).await });
            self.ahead.insert(its_key, fetch);
        }
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        self.ahead.drain().for_each(|(_, fetch)| fetch.abort());
    }
}
