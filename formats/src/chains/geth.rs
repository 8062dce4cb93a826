//! The seam between geth's freezer and its store: the freezer has the blocks up to a number, and the store goes on
//! with the next one. geth does not open a folder with a gap between the two (`core/rawdb/database.go`, of which this
//! is the same test); that both have some blocks is none.

use repository::check::Finding;

use crate::leveldb::{Seek, StoreFiles};

use super::broken;
use super::freezer::FrozenBlocks;
use super::seams::{Seam, Stores, told};

const HEAD: &[u8] = b"LastHeader";
/// By which BSC says from which block on its freezer counts, where those before were cut off.
const OFFSETS: [&[u8]; 2] = [b"offSetOfCurrentAncientFreezer", b"FrozenOfAncientDB"];
/// The hash of a block.
const HASH: usize = 32;

#[derive(Debug)]
pub(super) struct Geth {
    store: Vec<u8>,
    files: StoreFiles,
    freezer: Vec<u8>,
    /// So many blocks are in the freezer.
    frozen: u64,
    missing: Vec<&'static str>,
    first: Seek,
    /// The number of the head, whose hash is known then.
    second: Option<Seek>,
    /// Where the freezer has the hash of the first block, and what stands there.
    genesis_file: Option<Vec<u8>>,
    genesis: Vec<u8>,
    reading: Reading,
}

#[derive(Debug, Clone, Copy, Default)]
enum Reading {
    #[default]
    Nothing,
    First,
    Second,
    Genesis,
}

impl Geth {
    /// The node whose freezer this is, if its store is there.
    pub(super) fn of(frozen: &FrozenBlocks, stores: &Stores<'_>) -> Option<Self> {
        let folder = &frozen.folder;
        let mut above = [&b"ancient/chain/"[..], b"ancient/"].into_iter();
        let store =
            above.find_map(|end| folder.strip_suffix(end).filter(|store| stores.contains_key(store)))?;
        let files = stores.get(store)?;
        let keys = [hash_of(0), hash_of(1), hash_of(frozen.count), HEAD.to_vec()].into_iter();
        let keys = keys.chain(OFFSETS.map(<[u8]>::to_vec));
        Some(Self {
            store: store.to_vec(),
            files: files.clone(),
            freezer: folder.clone(),
            frozen: frozen.count,
            missing: frozen.missing.clone(),
            first: Seek::new(store, files, keys),
            second: None,
            genesis_file: (frozen.count > 0).then(|| [folder, &b"hashes.0000.rdat"[..]].concat()),
            genesis: Vec::new(),
            reading: Reading::default(),
        })
    }

    /// What the seam is, or why it is not known.
    fn seam(&self) -> Result<Option<String>, &str> {
        let Some(genesis) = self.first.value(&hash_of(0))? else { return Ok(None) };
        let Some(head) = self.first.value(HEAD)? else { return Ok(None) };
        for offset in OFFSETS {
            if self.first.value(offset)?.is_some_and(|from| from.iter().any(|byte| *byte != 0)) {
                return Err("its first blocks were cut off, and the freezer counts from a later one on");
            }
        }
        let frozen = self.frozen;
        if frozen == 0 {
            let is_gone = head != genesis && self.first.value(&hash_of(1))?.is_none();
            let what = "its first blocks are not in it, and the freezer has none: they were moved into one that is not in \
                        the backup, and geth does not open it";
            return Ok(is_gone.then(|| what.to_owned()));
        }
        if self.genesis.len() == HASH && self.genesis != genesis {
            return Ok(Some("it is of another chain than its freezer: geth does not open it".to_owned()));
        }
        if self.first.value(&hash_of(frozen))?.is_some() {
            return Ok(None);
        }
        let Some(second) = &self.second else { return Err("what it says of its head cannot be read") };
        let number = second.value(&number_of(head))?.and_then(|number| number.first_chunk::<8>());
        let number = number.map(|number| u64::from_be_bytes(*number));
        let number = number.ok_or("its head's number is not in it")?;
        Ok((number >= frozen).then(|| {
            format!(
                "a gap: the freezer has blocks up to {}, and block {frozen} is not in the store, whose head is {number}: \
                 geth does not open it",
                frozen - 1
            )
        }))
    }
}

impl Seam for Geth {
    fn wants(&mut self) -> Vec<Vec<u8>> {
        let mut paths = self.first.wants();
        paths.extend(self.genesis_file.clone());
        if !paths.is_empty() {
            return paths;
        }
        if self.second.is_none()
            && let Ok(Some(head)) = self.first.value(HEAD)
            && head.len() == HASH
            && let Ok(None) = self.first.value(&hash_of(self.frozen))
        {
            self.second = Some(Seek::new(&self.store, &self.files, [number_of(head)]));
        }
        self.second.as_mut().map(Seek::wants).unwrap_or_default()
    }

    fn file(&mut self, path: &[u8], length: u64) -> bool {
        let is_in_store = path.starts_with(&self.store);
        self.reading = if self.genesis_file.take_if(|file| file == path).is_some() {
            Reading::Genesis
        } else if is_in_store && self.first.file(path, length) {
            Reading::First
        } else if is_in_store && self.second.as_mut().is_some_and(|second| second.file(path, length)) {
            Reading::Second
        } else {
            Reading::Nothing
        };
        !matches!(self.reading, Reading::Nothing)
    }

    fn bytes(&mut self, bytes: &[u8]) -> bool {
        match self.reading {
            Reading::Nothing => false,
            Reading::First => self.first.bytes(bytes),
            Reading::Second => self.second.as_mut().is_some_and(|second| second.bytes(bytes)),
            Reading::Genesis => {
                self.genesis.extend_from_slice(&bytes[..bytes.len().min(HASH - self.genesis.len())]);
                self.genesis.len() < HASH
            }
        }
    }

    fn file_end(&mut self) {
        match std::mem::take(&mut self.reading) {
            Reading::Nothing | Reading::Genesis => {}
            Reading::First => self.first.file_end(),
            Reading::Second => self.second.iter_mut().for_each(Seek::file_end),
        }
    }

    fn held(&self) -> usize {
        self.first.held() + self.second.as_ref().map_or(0, Seek::held)
    }

    fn give_up(&mut self, why: &str) {
        self.first.give_up(why);
        self.second.iter_mut().for_each(|second| second.give_up(why));
    }

    fn judge(&self) -> Vec<Finding> {
        if !self.missing.is_empty() {
            let what = format!("its freezer lacks {}, which every geth has", self.missing.join(", "));
            return vec![broken(&self.freezer[..self.freezer.len() - 1], what)];
        }
        match self.seam() {
            Ok(None) => Vec::new(),
            Ok(Some(what)) => vec![broken(self.store.strip_suffix(b"/").unwrap_or_default(), what)],
            Err(why) => {
                vec![told(&self.store, format!("the seam to its freezer was not looked at: {why}"))]
            }
        }
    }
}

/// The key of the hash of a block.
fn hash_of(block: u64) -> Vec<u8> {
    [&b"h"[..], &block.to_be_bytes(), b"n"].concat()
}

/// The key of the number of a block.
fn number_of(hash: &[u8]) -> Vec<u8> {
    [&b"H"[..], hash].concat()
}
