//! Keeps garbage collection away from what is read or written: one folder of ours among the node's files, whose
//! blocks link to all of it.
//!
//! The root of the files is a root of garbage collection, as far as blocks are there: nothing is walked when the
//! folder comes, and nothing is fetched for what it lacks. A pin would be walked, and a pin that is there must not be
//! added once more: where its graph lacks a block, Kubo removes it. The blocks of the folder come by `dag/import`
//! without a pin, so they are looked for once the folder is there.
//!
//! The blocks of a restore come by a `dag/import` with a pin on one block of ours that links to nothing, the anchor:
//! for the time of such an import Kubo collects nothing.
//!
//! Must stay true: a hold is on record in the agent's state before the node hears of it, and off record after it is
//! gone for sure; so whatever dies, the next start of the agent, or the next run, takes it away ([`reap`]). One under
//! which files are being replaced stays until that has ended.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use formats::ipfs::{Cid, codec, header, named, node, section_head};
use runtime::atomic_file;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::files;
use super::node::{file, files_root};
use super::rpc::{Call, Rpc, SentFile, Trouble};

/// How the names of our folders begin.
pub(crate) const PLACE: &str = ".neurashield-hold-";
/// What a block of UnixFS says of itself that is a folder.
const FOLDER_DATA: &[u8] = &[8, 1];
/// Links in one block of a hold: about 250 KB, below what any node takes.
const LINKS: usize = 4_000;
/// Where holds are on record, in the agent's state.
const FOLDER: &str = "ipfs-holds";
/// What holds leave in a node for garbage collection: so much of it is remembered.
const MOST_LEFT: usize = 20_000;
/// How often it is tried, where garbage collection has come between.
const TRIES: usize = 3;

/// Holds of this process: not for [`reap`]. One process has the state, so the others are of dead ones.
static LIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn live() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// True of a name among a node's files that is a hold's.
pub(crate) fn is_ours(name: &[u8]) -> bool {
    name.starts_with(PLACE.as_bytes())
}

/// The blocks of the folder that links to all of `roots`, its root first. The same roots make the same blocks, so
/// that they do not pile up where nobody collects garbage.
fn blocks(roots: &[Cid]) -> Vec<(Cid, Vec<u8>)> {
    let block = |links: &[Cid]| {
        let names: Vec<String> = (0..links.len()).map(|at| format!("{at:05}")).collect();
        let links: Vec<(&str, Cid)> = names.iter().map(String::as_str).zip(links.iter().copied()).collect();
        let bytes = node(&links, FOLDER_DATA);
        (named(codec::DAG_PB, &bytes), bytes)
    };
    let (mut blocks, mut level) = (Vec::new(), roots.to_vec());
    loop {
        let mut made: Vec<(Cid, Vec<u8>)> = level.chunks(LINKS).map(block).collect();
        if made.is_empty() {
            made.push(block(&[]));
        }
        level = made.iter().map(|(cid, _)| *cid).collect();
        blocks.extend(made);
        if level.len() == 1 {
            break;
        }
    }
    blocks.reverse();
    blocks
}

/// A name of the same block under which nothing below it is held: of what is pinned directly the rest need not be
/// there.
pub(crate) fn alone(cid: &Cid) -> Cid {
    Cid::new_v1(codec::RAW, *cid.hash())
}

/// The block that is pinned for the time of an import.
fn anchor(id: &str) -> (Cid, Vec<u8>) {
    let bytes = format!("neurashield: pinned while blocks come in, {id}\n").into_bytes();
    (named(codec::RAW, &bytes), bytes)
}

/// What is on record of a hold.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Record {
    /// It has an anchor.
    imports: bool,
    /// How far a restore is that replaces files under it.
    swap: Option<Value>,
}

/// Where a hold is, and what is on record of it.
#[derive(Debug)]
pub(crate) struct Hold {
    rpc: Arc<Rpc>,
    id: String,
    file: PathBuf,
    record: Mutex<Record>,
    /// The node was told something whose answer is not known: it may still come about.
    is_unsure: AtomicBool,
}

impl Hold {
    /// Holds all of `roots`; `imports` says that there will be an import. Blocks.
    pub(crate) fn take(
        rpc: &Arc<Rpc>,
        (state, source): (&Path, &str),
        roots: &[Cid],
        imports: bool,
    ) -> Result<Self, Trouble> {
        let mut id = [0; 8];
        aws_lc_rs::rand::fill(&mut id).expect("the operating system's random source answers");
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let no_record = |error: io::Error| {
            tracing::error!(%error, "what is to be held at an IPFS node cannot be put on record");
            Trouble::new("the agent cannot keep on record what it holds there")
        };
        let folder = state.join(FOLDER);
        std::fs::create_dir_all(&folder).map_err(no_record)?;
        let file = folder.join(format!("{source}+{id}"));
        live().insert(file.clone());
        let record = Mutex::new(Record { imports, swap: None });
        let hold = Self { rpc: Arc::clone(rpc), id, file, record, is_unsure: AtomicBool::new(false) };
        hold.keep(None).map_err(no_record)?;
        let blocks = blocks(roots);
        let mut put = hold.put(&blocks);
        for _ in 1..TRIES {
            match &put {
                Err(trouble) if !trouble.is_of_each() && !trouble.is_not_known() => put = hold.put(&blocks),
                _ => break,
            }
        }
        if put.as_ref().is_err_and(Trouble::is_gone) {
            hold.is_unsure();
        }
        put?;
        // The root of the files is another one as long as the folder is there.
        let left = blocks.iter().map(|(cid, _)| *cid).chain(files_root(rpc).ok());
        remember(state, source, self::left(state, source).into_iter().chain(left));
        Ok(hold)
    }

    fn put(&self, blocks: &[(Cid, Vec<u8>)]) -> Result<(), Trouble> {
        let (root, _) = blocks.first().expect("there is a root");
        let mut car = header(&[*root]);
        for (cid, block) in blocks {
            car.extend(section_head(cid, block.len()));
            car.extend(block);
        }
        self.rpc.runtime().block_on(import(&self.rpc, SentFile::whole(&car), false))?;
        let place = self.place();
        if file(&self.rpc, &place).is_ok_and(|there| there == *root) {
            return Ok(());
        }
        self.rpc.done(Call::new("files/cp").arg(&format!("/ipfs/{root}")).arg(&place))?;
        // Nothing kept them before.
        for (cid, _) in blocks {
            self.rpc.done(Call::new("block/stat").arg(&cid.to_string()).with("timeout", "10s"))?;
        }
        Ok(())
    }

    fn place(&self) -> String {
        place(&self.id)
    }

    /// The anchor, as the beginning of a file of blocks that has it as its root.
    pub(crate) fn car(&self) -> Vec<u8> {
        let (cid, bytes) = anchor(&self.id);
        let mut car = header(&[cid]);
        car.extend(section_head(&cid, bytes.len()));
        car.extend(bytes);
        car
    }

    /// The node may still do what it was told.
    pub(crate) fn is_unsure(&self) {
        self.is_unsure.store(true, Ordering::Relaxed);
    }

    /// Puts on record how far files are replaced under it: with that it outlives its process, and this value. Durable
    /// when it returns.
    pub(crate) fn keep(&self, swap: Option<Value>) -> io::Result<()> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Record { swap, ..record.clone() };
        let json = serde_json::to_vec(&new)?;
        atomic_file::write(&self.file, &json, atomic_file::PRIVATE).map_err(io::Error::other)?;
        *record = new;
        Ok(())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Record { imports, swap } = self.record.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if swap.is_none() {
            match release(&self.rpc, &self.id, imports) {
                Err(error) => {
                    tracing::warn!(%error, "a hold at an IPFS node is not gone yet: the next run, or start, sees to it");
                }
                Ok(()) if self.is_unsure.load(Ordering::Relaxed) => {}
                Ok(()) => off_record(&self.file),
            }
        }
        live().remove(&self.file);
    }
}

fn place(id: &str) -> String {
    format!("/{PLACE}{id}")
}

fn off_record(file: &Path) {
    if let Err(error) = std::fs::remove_file(file) {
        tracing::warn!(%error, "the record of a hold at an IPFS node stays");
    }
}

/// Sends blocks. With `pins`, their root is pinned by that.
pub(crate) async fn import(rpc: &Rpc, file: SentFile, pins: bool) -> Result<(), Trouble> {
    let mut pinned = 0;
    let call = Call::new("dag/import")
        .with("pin-roots", if pins { "true" } else { "false" })
        .with("stats", "false")
        .with("allow-big-block", "true");
    rpc.sent_lines(call, Some(file), |line| {
        let Some(root) = line.get("Root") else { return Ok(()) };
        match root.get("PinErrorMsg").and_then(Value::as_str).unwrap_or_default() {
            "" => pinned += 1,
            message => {
                tracing::debug!(message, "an IPFS node does not pin");
                return Err(Trouble::new("it does not pin what it was given"));
            }
        }
        Ok(())
    })
    .await?;
    match pins && pinned == 0 {
        true => Err(Trouble::new("it has not pinned what it was given")),
        false => Ok(()),
    }
}

/// Takes the folder away, and the pin. The blocks are left for garbage collection: to remove them, Kubo would walk
/// all that is pinned.
fn release(rpc: &Rpc, id: &str, imports: bool) -> Result<(), Trouble> {
    remove(rpc, &place(id))?;
    if imports {
        unpin(rpc, &anchor(id).0)?;
    }
    Ok(())
}

/// Removes what is at the path of a name in the root of the files; fine if nothing is.
pub(crate) fn remove(rpc: &Rpc, path: &str) -> Result<(), Trouble> {
    let call = Call::new("files/rm").arg(path).with("recursive", "true").with("force", "true");
    match rpc.done(call) {
        Err(trouble) if !trouble.is_of_each() => {
            let mut blocks = rpc;
            let names = files::list(&mut blocks, &files_root(rpc)?)?;
            match names.iter().any(|(name, _)| name == &path.as_bytes()[1..]) {
                true => Err(trouble),
                false => Ok(()),
            }
        }
        removed => removed,
    }
}

fn unpin(rpc: &Rpc, root: &Cid) -> Result<(), Trouble> {
    match rpc.done(Call::new("pin/rm").arg(&root.to_string())) {
        Err(trouble) if !trouble.is_of_each() => {
            let mut is_pinned = false;
            rpc.lines(Call::new("pin/ls").with("type", "recursive").with("stream", "true"), |line| {
                is_pinned |= super::node::pin(&line).is_some_and(|pin| pin.cid.hash() == root.hash());
                Ok(())
            })?;
            if is_pinned { Err(trouble) } else { Ok(()) }
        }
        unpinned => unpinned,
    }
}

/// The holds of `source` on record, those of this process aside.
fn of_dead(state: &Path, source: &str) -> Vec<(String, PathBuf, Record)> {
    let records = std::fs::read_dir(state.join(FOLDER)).into_iter().flatten().flatten();
    let of_dead = |file: PathBuf| {
        let (of, id) = file.file_name()?.to_str()?.rsplit_once('+')?;
        if of != source || live().contains(&file) {
            return None;
        }
        let id = id.to_owned();
        let record = std::fs::read(&file).map_err(io::Error::other);
        match record.and_then(|json| Ok(serde_json::from_slice(&json)?)) {
            Ok(record) => Some((id, file, record)),
            Err(error) => {
                tracing::error!(file = %file.display(), %error, "the record of a hold at an IPFS node cannot be read");
                None
            }
        }
    };
    records.map(|entry| entry.path()).filter_map(of_dead).collect()
}

/// Takes away what dead processes have left at the node of `source`; gives how many holds that were.
pub(crate) fn reap(rpc: &Rpc, state: &Path, source: &str) -> Result<usize, Trouble> {
    let mut reaped = 0;
    for (id, file, record) in of_dead(state, source) {
        if record.swap.is_none() {
            release(rpc, &id, record.imports)?;
            off_record(&file);
            reaped += 1;
        }
    }
    Ok(reaped)
}

/// The holds of dead processes under which files were being replaced, and how far that is.
pub(crate) fn unfinished(rpc: &Arc<Rpc>, state: &Path, source: &str) -> Vec<(Hold, Value)> {
    let mut unfinished = Vec::new();
    for (id, file, record) in of_dead(state, source) {
        let Some(swap) = record.swap.clone() else { continue };
        if live().insert(file.clone()) {
            let (rpc, record) = (Arc::clone(rpc), Mutex::new(record));
            unfinished.push((Hold { rpc, id, file, record, is_unsure: AtomicBool::new(false) }, swap));
        }
    }
    unfinished
}

/// True if a dead process has left something at the node of `source`.
pub(crate) fn is_any_left(state: &Path, source: &str) -> bool {
    !of_dead(state, source).is_empty()
}

/// True if it was replacing files there.
pub(crate) fn is_unfinished(state: &Path, source: &str) -> bool {
    of_dead(state, source).iter().any(|(.., record)| record.swap.is_some())
}

/// The pins of holds that are on record at the node of `source`: nobody's to keep.
pub(crate) fn anchors(state: &Path, source: &str) -> Vec<Cid> {
    let records = std::fs::read_dir(state.join(FOLDER)).into_iter().flatten().flatten();
    let names = records.filter_map(|entry| entry.file_name().into_string().ok());
    let anchor = |name: String| {
        let (of, id) = name.rsplit_once('+')?;
        (of == source).then(|| anchor(id).0)
    };
    names.filter_map(anchor).collect()
}

fn left_file(state: &Path, source: &str) -> PathBuf {
    state.join(FOLDER).join(format!("{}.left", source.replace('+', "=")))
}

/// Blocks of holds that are gone, which the node may still have: they are not somebody's content.
pub(crate) fn left(state: &Path, source: &str) -> Vec<Cid> {
    let text = std::fs::read_to_string(left_file(state, source)).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Puts on record what holds have left, the newest last.
pub(crate) fn remember(state: &Path, source: &str, left: impl Iterator<Item = Cid>) {
    let mut seen = BTreeSet::new();
    let left: Vec<Cid> = left.filter(|cid| seen.insert(*cid)).collect();
    let kept = &left[left.len().saturating_sub(MOST_LEFT)..];
    let text: String = kept.iter().map(|cid| format!("{cid}\n")).collect();
    let written = atomic_file::write(&left_file(state, source), text.as_bytes(), atomic_file::PRIVATE);
    if let Err(error) = written {
        tracing::warn!(%error, "it is not remembered which blocks at an IPFS node are left of holds");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use formats::ipfs::{Directory, Node, links};
    use std::collections::HashSet;

    #[test]
    fn a_hold_links_to_every_root_however_many_there_are() {
        for count in [0, 1, LINKS, LINKS + 1, 2 * LINKS + 5] {
            let roots: Vec<Cid> = (0..count).map(|n| named(codec::RAW, &n.to_le_bytes())).collect();
            let blocks = blocks(&roots);
            let linked: HashSet<Cid> =
                blocks.iter().flat_map(|(cid, block)| links(cid, block).expect("links")).collect();
            assert!(roots.iter().all(|root| linked.contains(root)), "{count}");
            let not_linked: Vec<&Cid> =
                blocks.iter().map(|(cid, _)| cid).filter(|cid| !linked.contains(*cid)).collect();
            assert_eq!(not_linked, [&blocks[0].0], "{count}");
            for (_, block) in &blocks {
                let directory = Node::read(block).expect("DAG-PB").directory();
                assert!(matches!(directory, Some(Directory::Plain(_))), "a node takes it as a folder");
                assert!(block.len() < 256 << 10, "{}", block.len());
            }
            assert_eq!(self::blocks(&roots), blocks, "they do not pile up");
        }
    }

    #[test]
    fn what_holds_have_left_is_remembered_up_to_a_limit_the_newest_last() {
        let state = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(state.path().join(FOLDER)).expect("made");
        let cid = |n: usize| named(codec::RAW, &n.to_le_bytes());
        assert_eq!(left(state.path(), "ipfs+a"), []);
        remember(state.path(), "ipfs+a", (0..MOST_LEFT + 2).chain([5, 7]).map(cid));
        let left = left(state.path(), "ipfs+a");
        assert_eq!(
            (left.len(), left.first(), left.last()),
            (MOST_LEFT, Some(&cid(2)), Some(&cid(MOST_LEFT + 1)))
        );
        assert_eq!(anchors(state.path(), "ipfs+a"), [], "it is no record of a hold");
        assert!(!is_any_left(state.path(), "ipfs+a"));
    }
}
