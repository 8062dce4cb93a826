//! The folder of a Kubo repository: blocks as files that are called by their hashes, and the index that says which of
//! them are to be kept.
//!
//! What a block links to depends on how it is read, which its file does not say: it is tried each way, and a way
//! counts once something that is kept leads to it so.
//!
//! Must stay true: what is held has a limit, whatever the folder is; beyond it that nothing is missing is not claimed.

use std::collections::{HashMap, HashSet};

use cid::multibase::Base;
use repository::check::{CheckedFile, ContentCheck, Finding, Severity};

use super::block::{Cid, Hash, Key, Verdict, held_by_name, is_leaf, key, reading, verify};
use super::index::{IndexReader, MAX_INDEX_FILE};
use super::links::linked;
use super::{MAX_BLOCK, codec};
use crate::leveldb::LeveldbCheck;

/// Blocks that are remembered: 16 bytes for each one.
const MOST_BLOCKS: usize = 8 << 20;
/// Bytes of the CIDs that they link to.
const MOST_LINKS: usize = 256 << 20;
/// What is told of each kind.
const MOST_TOLD: usize = 100;
const SECRET: [u8; 32] = [0; 32];
const INDEX: &[u8] = b"datastore/";
/// How a block with links may be read.
const WAYS: [u64; 3] = [codec::DAG_PB, codec::DAG_CBOR, codec::DAG_JSON];

/// The check of a repository's folder.
#[derive(Default)]
pub(super) struct FolderCheck {
    now: Now,
    stores: LeveldbCheck,
    index: IndexReader,
    has_index: bool,
    is_of_store: bool,
    /// The blocks that are there, and in which of [`WAYS`] each can be read: a bit for each.
    seen: HashMap<Key, u8>,
    /// By how a block is read, the CIDs that it links to, each after its length.
    links: HashMap<Key, Box<[u8]>>,
    link_bytes: usize,
    is_too_much: bool,
}

#[derive(Default)]
enum Now {
    #[default]
    Nothing,
    Block(Vec<u8>, Hash, Vec<u8>),
    /// A file of the index: its name, its bytes if they are looked at, and true if the store's check wants it.
    Index(Vec<u8>, Option<Vec<u8>>, bool),
}

/// The hash in the path of a block: `blocks/XX/CIQ….data`, or in another folder, as `datastore_spec` may have it.
fn named_by(path: &[u8]) -> Option<Hash> {
    let mut parts = path.rsplit(|byte| *byte == b'/');
    let name = parts.next()?.strip_suffix(b".data")?;
    // The folder of its shard, in that of all.
    parts.next().zip(parts.next())?;
    let bytes = Base::Base32Upper.decode(std::str::from_utf8(name).ok()?).ok()?;
    // A name that holds its bytes needs no file.
    Hash::from_bytes(&bytes).ok().filter(|hash| hash.code() != 0 && hash.digest().len() >= 16)
}

/// The block at this path of a repository's folder, as raw bytes.
pub fn block_at(path: &[u8]) -> Option<Cid> {
    named_by(path).map(|hash| Cid::new_v1(codec::RAW, hash))
}

/// The CIDs of the block with this hash that people look for: as raw bytes, and as `ipfs add` names it.
fn called(hash: &Hash) -> String {
    const SHA2_256: u64 = 0x12;
    let raw = Cid::new_v1(codec::RAW, *hash);
    match (hash.code(), Cid::new_v0(*hash)) {
        (SHA2_256, Ok(old)) => format!("{raw} ({old})"),
        _ => raw.to_string(),
    }
}

impl FolderCheck {
    /// One that looks at each file and remembers none.
    pub(super) fn of_each_alone() -> Self {
        Self { is_too_much: true, ..Self::default() }
    }

    /// True if a file at this path is of such a folder.
    pub(super) fn is_of(path: &[u8]) -> bool {
        named_by(path).is_some() || path.starts_with(INDEX)
    }

    pub(super) fn file(&mut self, file: CheckedFile<'_>) -> bool {
        self.is_of_store = false;
        self.now = if let Some(hash) = named_by(file.path) {
            Now::Block(
                file.path.to_vec(),
                hash,
                Vec::with_capacity(file.length.min(MAX_BLOCK as u64) as usize),
            )
        } else if let Some(name) = file.path.strip_prefix(INDEX) {
            let is_of_store = self.stores.file(file);
            let held = IndexReader::wants(name) && file.length <= MAX_INDEX_FILE && !self.is_too_much;
            if IndexReader::wants(name) {
                self.has_index = true;
                if !held {
                    self.index.unclear("a file of it is too long to be looked at");
                }
            }
            self.is_of_store = is_of_store;
            Now::Index(name.to_vec(), held.then(Vec::new), is_of_store)
        } else {
            Now::Nothing
        };
        match &self.now {
            Now::Nothing => false,
            Now::Block(..) => true,
            Now::Index(_, held, is_of_store) => held.is_some() || *is_of_store,
        }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> bool {
        match &mut self.now {
            Now::Nothing => false,
            Now::Block(.., held) => {
                // One byte more than may be tells that there is more.
                held.extend_from_slice(&bytes[..bytes.len().min(MAX_BLOCK + 1 - held.len())]);
                held.len() <= MAX_BLOCK
            }
            Now::Index(_, held, is_of_store) => {
                *is_of_store = *is_of_store && self.stores.bytes(bytes);
                if let Some(held) = held {
                    held.extend_from_slice(bytes);
                    if held.len() as u64 <= MAX_INDEX_FILE {
                        return true;
                    }
                    self.index.unclear("a file of it is too long to be looked at");
                }
                *is_of_store
            }
        }
    }

    pub(super) fn file_end(&mut self) -> Vec<Finding> {
        match std::mem::take(&mut self.now) {
            Now::Nothing => Vec::new(),
            Now::Index(name, held, _) => {
                if let Some(held) = held {
                    self.index.file(&name, &held);
                }
                if self.is_of_store { self.stores.file_end() } else { Vec::new() }
            }
            Now::Block(path, hash, block) => {
                let told = |what, severity| vec![Finding { path: path.clone(), what, severity }];
                if block.len() > MAX_BLOCK {
                    let what = format!("the block {} is too long to be checked", called(&hash));
                    // It is there; what it links to is not looked at.
                    if self.seen.len() < MOST_BLOCKS {
                        self.seen.insert(key(&SECRET, &Cid::new_v1(codec::RAW, hash)), 0);
                    }
                    return told(what, Severity::Told);
                }
                // How it is read does not matter for what its bytes are.
                match verify(&Cid::new_v1(codec::RAW, hash), &block) {
                    Verdict::Right => {
                        self.came(&hash, &block);
                        Vec::new()
                    }
                    Verdict::Wrong => told(
                        format!("the block {} is not what its name says", called(&hash)),
                        Severity::Broken,
                    ),
                    Verdict::Unknown => {
                        self.came(&hash, &block);
                        let what =
                            format!("the block {} is not checked: its hash is not known here", called(&hash));
                        told(what, Severity::Told)
                    }
                }
            }
        }
    }

    pub(super) fn is_undecided(&self) -> bool {
        self.is_of_store && self.stores.is_undecided()
    }

    pub(super) fn held_back(&mut self) -> Vec<Finding> {
        self.stores.held_back()
    }

    fn came(&mut self, hash: &Hash, block: &[u8]) {
        self.is_too_much |= self.seen.len() >= MOST_BLOCKS || self.link_bytes > MOST_LINKS;
        if self.is_too_much {
            return;
        }
        let mut ways = 0;
        for (at, way) in WAYS.into_iter().enumerate() {
            let cid = Cid::new_v1(way, *hash);
            let Ok(mut linked) = linked(&cid, block) else { continue };
            ways |= 1 << at;
            // Whoever makes a block may link to the same as often as there is room.
            linked.sort_unstable();
            linked.dedup();
            if linked.is_empty() {
                continue;
            }
            let mut held = Vec::new();
            for link in linked {
                let bytes = link.to_bytes();
                // A CID is shorter: its hash has 128 bytes at most.
                held.push(u8::try_from(bytes.len()).unwrap_or(0));
                held.extend(bytes);
            }
            self.link_bytes += held.len();
            self.links.insert(reading(&SECRET, &cid), held.into_boxed_slice());
        }
        self.seen.insert(key(&SECRET, &Cid::new_v1(codec::RAW, *hash)), ways);
    }

    /// What is missing of what is kept.
    pub(super) fn end(&mut self) -> Vec<Finding> {
        let mut found = self.stores.end();
        if !self.has_index && self.seen.is_empty() {
            return found;
        }
        let told = |what: String| Finding { path: Vec::new(), what, severity: Severity::Told };
        if self.is_too_much {
            found.push(told("it was not checked that no block is missing: there are too many".to_owned()));
            return found;
        }
        let pinned = match std::mem::take(&mut self.index).finish() {
            Ok(pinned) => {
                if pinned.is_cut_off {
                    let what = "the end of its index is cut off: what was pinned last may lack".to_owned();
                    found.push(told(what));
                }
                pinned
            }
            Err(why) => {
                let what =
                    format!("it was not checked that no block is missing: its pins cannot be read: {why}");
                found.push(told(what));
                return found;
            }
        };
        let mut walk = Walk { check: self, met: HashSet::new(), missing: Vec::new(), count: 0, unknown: 0 };
        pinned.recursive.iter().for_each(|pin| walk.below(pin));
        pinned.direct.iter().for_each(|pin| walk.alone(pin));
        let (unknown, pins) = (walk.unknown, walk.told("a pin"));
        let mut walk = Walk { check: self, met: HashSet::new(), missing: Vec::new(), count: 0, unknown: 0 };
        pinned.files.iter().for_each(|root| walk.below(root));
        let files = walk.told("the files");
        found.extend(pins.into_iter().map(|what| Finding {
            path: Vec::new(),
            what,
            severity: Severity::Broken,
        }));
        // Kubo fetches what is among the files when somebody reads it: that it is not there is no damage.
        found.extend(files.into_iter().map(told));
        if unknown > 0 {
            let what =
                format!("what {unknown} of its blocks link to is not known here, and was not looked for");
            found.push(told(what));
        }
        found
    }
}

/// Goes over all that something needs.
struct Walk<'a> {
    check: &'a FolderCheck,
    met: HashSet<Key>,
    missing: Vec<Cid>,
    count: u64,
    unknown: u64,
}

impl<'a> Walk<'a> {
    fn alone(&mut self, cid: &Cid) {
        if held_by_name(cid).is_none() && !self.check.seen.contains_key(&key(&SECRET, cid)) {
            self.count += 1;
            if self.missing.len() < MOST_TOLD {
                self.missing.push(*cid);
            }
        }
    }

    /// What waits is as deep as the graph, never as wide.
    fn below(&mut self, root: &Cid) {
        let mut left = Vec::new();
        // A name that holds its bytes leads on like a block.
        match held_by_name(root).map(|bytes| linked(root, bytes)) {
            None => left.push(self.visit(root)),
            Some(Err(_)) => self.unknown += 1,
            Some(Ok(links)) => left.extend(links.iter().map(|link| self.visit(link))),
        }
        while let Some(rest) = left.last_mut() {
            let Some((length, after)) = rest.split_first() else {
                left.pop();
                continue;
            };
            let (link, after) = after.split_at(usize::from(*length).min(after.len()));
            *rest = after;
            if let Ok(link) = Cid::try_from(link) {
                let links = self.visit(&link);
                left.push(links);
            }
        }
    }

    /// The links of a block that was not met, or none.
    fn visit(&mut self, cid: &Cid) -> &'a [u8] {
        let read = reading(&SECRET, cid);
        if !self.met.insert(read) {
            return &[];
        }
        self.alone(cid);
        let way = WAYS.iter().position(|way| *way == cid.codec());
        let is_read = match (way, self.check.seen.get(&key(&SECRET, cid))) {
            (Some(way), Some(ways)) => ways & 1 << way != 0,
            // It was told.
            (Some(_), None) => true,
            (None, _) => is_leaf(cid),
        };
        self.unknown += u64::from(!is_read);
        let check = self.check;
        check.links.get(&read).map_or(&[], |links| links)
    }

    fn told(self, who: &str) -> Vec<String> {
        let more = self.count - self.missing.len() as u64;
        let each = self.missing.iter().map(|cid| format!("the block {cid}, which {who} needs, is not in it"));
        let more = (more > 0).then(|| format!("{more} more blocks that {who} needs are not in it"));
        each.chain(more).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipfs::{Sharding, block_file, named, node};

    #[test]
    fn a_false_block_and_one_that_a_pin_needs_are_named() {
        let leaf = named(codec::RAW, b"one");
        let path = |cid: &Cid| format!("blocks/XX/{}", block_file(cid, Sharding::USUAL).1);
        let mut check = FolderCheck::default();
        let mut give = |path: &str, bytes: &[u8]| {
            let wants = check.file(CheckedFile { path: path.as_bytes(), length: 3, is_proven: false });
            assert!(wants, "{path}");
            check.bytes(bytes);
            check.file_end()
        };
        assert_eq!(give(&path(&leaf), b"one"), []);
        for bytes in [&b"onE"[..], b""] {
            let found = give(&path(&leaf), bytes);
            assert_eq!(found.len(), 1);
            assert!(found[0].what.contains(&leaf.to_string()) && found[0].severity == Severity::Broken);
        }
        let long = vec![0; MAX_BLOCK + 7];
        assert_eq!(give(&path(&leaf), &long)[0].severity, Severity::Told);
        // In another folder, too; what is called otherwise is none.
        let name = block_file(&leaf, Sharding::USUAL).1;
        assert!(FolderCheck::is_of(format!("other/XX/{name}").as_bytes()));
        for none in
            [format!("XX/{name}"), "blocks/XX/AAAA.data".to_owned(), "blocks/XX/table.data".to_owned()]
        {
            assert!(!FolderCheck::is_of(none.as_bytes()), "{none}");
        }
        // Links are those of the way in which something leads to it.
        let other = named(codec::RAW, b"two");
        let above = node(&[("1", leaf), ("2", other)], &[8, 1]);
        let above_cid = named(codec::DAG_PB, &above);
        let mut check = FolderCheck::default();
        check.came(leaf.hash(), b"one");
        check.came(above_cid.hash(), &above);
        let mut walk = Walk { check: &check, met: HashSet::new(), missing: Vec::new(), count: 0, unknown: 0 };
        walk.below(&Cid::new_v1(codec::RAW, *above_cid.hash()));
        assert_eq!(walk.count, 0);
        walk.below(&above_cid);
        let missing = [format!("the block {other}, which a pin needs, is not in it")];
        assert_eq!(walk.told("a pin"), missing);
        // A name that holds its bytes leads on, among links and as a pin.
        let inner = node(&[("2", other)], b"");
        let identity = Cid::new_v1(codec::DAG_PB, Hash::wrap(0, &inner).expect("short"));
        let above = node(&[("i", identity)], b"");
        let above_cid = named(codec::DAG_PB, &above);
        check.came(above_cid.hash(), &above);
        // A block that is there and cannot be read in the way in which it is linked.
        let unread = named(codec::RAW, b"\xff\xff");
        check.came(unread.hash(), b"\xff\xff");
        let mut walk = Walk { check: &check, met: HashSet::new(), missing: Vec::new(), count: 0, unknown: 0 };
        walk.below(&Cid::new_v1(codec::DAG_PB, *unread.hash()));
        assert_eq!((walk.unknown, walk.count), (1, 0));
        for root in [identity, above_cid] {
            let mut walk =
                Walk { check: &check, met: HashSet::new(), missing: Vec::new(), count: 0, unknown: 0 };
            walk.below(&root);
            assert_eq!((walk.unknown, walk.told("a pin")), (0, missing.to_vec()), "{root}");
        }
    }
}
