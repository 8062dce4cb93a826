//! The heights of a CometBFT node: its blocks, its state, its log, its signer.
//!
//! A block is stored, its height is ended in the log, then it is run and the state goes on: so the blocks are at the
//! state's height or one above, and the log ends no height whose block is not there. The signer may have signed for
//! the block that comes next.

use std::collections::BTreeSet;

use repository::check::Finding;

use crate::leveldb::{Seek, proto_number};

use super::broken;
use super::seams::{Seam, Stores, seek, told};
use super::wal::{Wal, number};

const BLOCKS: &[u8] = b"blockStore";
const STATE: &[u8] = b"stateKey";
/// So many parts of a log are looked at, the newest: one in each round of a verification.
const MAX_LOGS: usize = 16;
/// Longer is no signer's state.
const MAX_SIGNER: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Cometbft {
    /// With a slash at its end, where it is not the top.
    folder: Vec<u8>,
    blocks: Seek,
    state: Seek,
    /// Parts of its log, the newest last.
    logs: Vec<Vec<u8>>,
    finished: Option<u64>,
    signer: Option<Vec<u8>>,
    signed: Option<u64>,
    reading: Reading,
}

#[derive(Debug, Default)]
enum Reading {
    #[default]
    Nothing,
    Blocks,
    State,
    Log(Box<Wal>),
    Signer(Vec<u8>),
}

/// What was found of a height.
type Height<'a> = Result<Option<u64>, &'a str>;

impl Cometbft {
    /// The node whose data lie in `folder`, if they do.
    pub(super) fn of(folder: &[u8], stores: &Stores<'_>, seen: &BTreeSet<Vec<u8>>) -> Option<Self> {
        let within = |name: &[u8]| [folder, name].concat();
        let blocks = seek(&within(b"blockstore.db/"), stores, [BLOCKS.to_vec()])?;
        let state = seek(&within(b"state.db/"), stores, [STATE.to_vec()])?;
        let log = within(b"cs.wal/");
        // A folder within may be another node's.
        let is_part = |path: &&Vec<u8>| path.strip_prefix(&log[..]).is_some_and(|name| !name.contains(&b'/'));
        let mut logs: Vec<&Vec<u8>> = seen.iter().filter(is_part).collect();
        logs.sort_by_key(|path| number(path));
        let logs = logs[logs.len().saturating_sub(MAX_LOGS)..].iter().map(|path| path.to_vec()).collect();
        let signer = Some(within(b"priv_validator_state.json")).filter(|path| seen.contains(path));
        Some(Self {
            folder: folder.to_vec(),
            blocks,
            state,
            logs,
            finished: None,
            signer,
            signed: None,
            reading: Reading::default(),
        })
    }

    fn heights(&self) -> (Height<'_>, Height<'_>) {
        let height = |seek, key, field| -> Height<'_> {
            let seek: &Seek = seek;
            let Some(value) = seek.value(key)? else { return Ok(None) };
            proto_number(value, field).map(Some).ok_or("what it says of its height cannot be read")
        };
        (height(&self.blocks, BLOCKS, 2), height(&self.state, STATE, 3))
    }

    fn name(&self, name: &str) -> Vec<u8> {
        [&self.folder, name.as_bytes()].concat()
    }
}

impl Seam for Cometbft {
    fn wants(&mut self) -> Vec<Vec<u8>> {
        let mut paths = self.blocks.wants();
        paths.extend(self.state.wants());
        // An older part is of interest only where no newer one ends a height.
        paths.extend(self.finished.is_none().then(|| self.logs.last().cloned()).flatten());
        paths.extend(self.signer.clone());
        paths
    }

    fn file(&mut self, path: &[u8], length: u64) -> bool {
        self.reading = if path.starts_with(self.blocks.folder()) && self.blocks.file(path, length) {
            Reading::Blocks
        } else if path.starts_with(self.state.folder()) && self.state.file(path, length) {
            Reading::State
        } else if self.logs.pop_if(|log| log == path).is_some() {
            Reading::Log(Box::default())
        } else if self.signer.take_if(|signer| signer == path).is_some() {
            Reading::Signer(Vec::new())
        } else {
            Reading::Nothing
        };
        !matches!(self.reading, Reading::Nothing)
    }

    fn bytes(&mut self, bytes: &[u8]) -> bool {
        match &mut self.reading {
            Reading::Nothing => false,
            Reading::Blocks => self.blocks.bytes(bytes),
            Reading::State => self.state.bytes(bytes),
            Reading::Log(wal) => wal.bytes(bytes),
            Reading::Signer(state) => {
                state.extend_from_slice(&bytes[..bytes.len().min(MAX_SIGNER - state.len())]);
                state.len() < MAX_SIGNER
            }
        }
    }

    fn file_end(&mut self) {
        match std::mem::take(&mut self.reading) {
            Reading::Nothing => {}
            Reading::Blocks => self.blocks.file_end(),
            Reading::State => self.state.file_end(),
            Reading::Log(wal) => self.finished = wal.finished(),
            Reading::Signer(state) => self.signed = signed(&state),
        }
    }

    fn held(&self) -> usize {
        self.blocks.held() + self.state.held()
    }

    fn give_up(&mut self, why: &str) {
        self.blocks.give_up(why);
        self.state.give_up(why);
    }

    fn judge(&self) -> Vec<Finding> {
        let (blocks, state) = match self.heights() {
            (Ok(blocks), Ok(state)) => (blocks.unwrap_or(0), state.unwrap_or(0)),
            (Err(why), _) => {
                let what = format!("the height of its blocks was not looked at: {why}");
                return vec![told(self.blocks.folder(), what)];
            }
            (_, Err(why)) => {
                let what = format!("the height of its state was not looked at: {why}");
                return vec![told(self.state.folder(), what)];
            }
        };
        let mut found = Vec::new();
        let moments = "the two are not of one moment, and the node does not start on them";
        // After it has fetched a state from others a node has no block yet.
        if blocks == 0 && state > 0 {
            let what = format!(
                "it has no block, and the state is at height {state}: right only if the node had just fetched that state \
                 from others"
            );
            found.push(told(self.blocks.folder(), what));
        } else if blocks < state {
            let what = format!("its blocks end at height {blocks}, and the state is at {state}: {moments}");
            found.push(broken(&self.name("blockstore.db"), what));
        } else if blocks > state + 1 {
            let what = format!("it is at height {state}, and the blocks go on to {blocks}: {moments}");
            found.push(broken(&self.name("state.db"), what));
        }
        if let Some(finished) = self.finished.filter(|finished| *finished > blocks) {
            let what = format!(
                "it has ended height {finished}, and the blocks end at {blocks}: they are not of one moment, or blocks were \
                 taken back (rollback --hard)"
            );
            found.push(broken(&self.name("cs.wal/wal"), what));
        }
        let signer = || self.name("priv_validator_state.json");
        match self.signed {
            Some(signed) if signed > blocks + 1 => {
                let what = format!(
                    "its validator has signed up to height {signed}, and the blocks end at {blocks}: it signs again once \
                     the node is above that"
                );
                found.push(told(&signer(), what));
            }
            Some(signed) if signed > 0 && signed < state => {
                let what = format!(
                    "its validator has signed up to height {signed}, and the state is at {state}: if it has signed since, \
                     this file is too old, and it could sign a height twice"
                );
                found.push(told(&signer(), what));
            }
            _ => {}
        }
        found
    }
}

/// The height that a signer's state says.
fn signed(state: &[u8]) -> Option<u64> {
    let state: serde_json::Value = serde_json::from_slice(state).ok()?;
    match state.get("height")? {
        serde_json::Value::String(text) => text.parse().ok(),
        number => number.as_u64(),
    }
}
