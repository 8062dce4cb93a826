//! Keeps garbage collection away from what is read or written: one pin of ours on a block that links to all of
//! it.
//!
//! A pin that is there must not be added once more: where its graph lacks a block, Kubo removes it. The block is
//! of our own making, with a random part, so nobody else has pinned it. It comes by `dag/import`, which pins
//! its roots without walking, and holds Kubo's lock of pins meanwhile.
//!
//! Must stay true: a hold is on record in the agent's state before the node hears of it, and off record after it
//! is gone; so whatever dies, the next start of the agent, or the next run, takes it away ([`reap`]).

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use formats::ipfs::{Cid, codec, header, node, section_head};
use multihash_codetable::{Code, MultihashDigest};
use tokio_util::sync::CancellationToken;

use super::rpc::{Call, Rpc, SentFile, Trouble};

/// Links in one block of a hold: about 250 KB, below what any node takes.
const LINKS: usize = 4_000;
/// Where holds are on record, in the agent's state.
const FOLDER: &str = "ipfs-holds";

/// How long after a start in vain the next one is tried.
const AGAIN: Duration = Duration::from_secs(20);

/// Holds of this process: not for [`reap`]. One process has the state, so the others are of dead ones.
static LIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn live() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The blocks that a hold is made of: its root first.
pub(crate) struct HoldBlocks {
    blocks: Vec<(Cid, Vec<u8>)>,
}

impl HoldBlocks {
    /// Of a hold that links to all of `roots`.
    pub(crate) fn of(roots: &[Cid]) -> Self {
        let mut nonce = [0; 16];
        aws_lc_rs::rand::fill(&mut nonce).expect("the operating system's random source answers");
        let mut data = b"neurashield: held while it is read or written ".to_vec();
        data.extend(nonce);
        let (mut blocks, mut level) = (Vec::new(), roots.to_vec());
        loop {
            let mut made: Vec<(Cid, Vec<u8>)> =
                level.chunks(LINKS).map(|links| block(links, &data)).collect();
            if made.is_empty() {
                made.push(block(&[], &data));
            }
            level = made.iter().map(|(cid, _)| *cid).collect();
            blocks.extend(made);
            if level.len() == 1 {
                break;
            }
        }
        blocks.reverse();
        Self { blocks }
    }

    /// What is pinned.
    pub(crate) fn root(&self) -> Cid {
        self.blocks.first().expect("there is a root").0
    }

    /// Their names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Cid> {
        self.blocks.iter().map(|(cid, _)| cid)
    }

    /// As the beginning of a file of blocks, with the hold as its root.
    pub(crate) fn car(&self) -> Vec<u8> {
        let mut car = header(&[self.root()]);
        for (cid, block) in &self.blocks {
            car.extend(section_head(cid, block.len()));
            car.extend(block);
        }
        car
    }
}

fn block(links: &[Cid], data: &[u8]) -> (Cid, Vec<u8>) {
    let names: Vec<String> = (0..links.len()).map(|at| format!("{at:05}")).collect();
    let links: Vec<(&str, Cid)> = names.iter().map(String::as_str).zip(links.iter().copied()).collect();
    let bytes = node(&links, data);
    (Cid::new_v1(codec::DAG_PB, Code::Sha2_256.digest(&bytes)), bytes)
}

/// A name of the same block under which nothing below it is held: of what is pinned directly the rest need not be
/// there.
pub(crate) fn alone(cid: &Cid) -> Cid {
    Cid::new_v1(codec::RAW, *cid.hash())
}

/// A pin of ours. It goes when this is dropped.
pub(crate) struct Hold {
    rpc: Arc<Rpc>,
    record: PathBuf,
    root: Cid,
}

impl Hold {
    /// Puts a hold on record, which from now on is taken away by whatever comes after this process.
    pub(crate) fn announce(rpc: &Arc<Rpc>, state: &Path, source: &str, root: Cid) -> io::Result<Self> {
        let folder = state.join(FOLDER);
        std::fs::create_dir_all(&folder)?;
        let record = folder.join(format!("{source}+{root}"));
        live().insert(record.clone());
        let hold = Self { rpc: Arc::clone(rpc), record, root };
        runtime::atomic_file::write(&hold.record, b"", runtime::atomic_file::PRIVATE)
            .map_err(io::Error::other)?;
        Ok(hold)
    }

    /// Holds all of `roots`. Blocks.
    pub(crate) fn take(
        rpc: &Arc<Rpc>,
        state: &Path,
        source: &str,
        blocks: &HoldBlocks,
    ) -> Result<Self, Trouble> {
        let hold = Self::announce(rpc, state, source, blocks.root()).map_err(|error| {
            tracing::error!(%error, "a temporary pin cannot be put on record");
            Trouble::new("the agent cannot keep on record what it pins")
        })?;
        let import = import(rpc, SentFile::whole(&blocks.car()));
        rpc.runtime().block_on(import)?;
        Ok(hold)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Err(error) = release(&self.rpc, &self.root) {
            tracing::warn!(%error, "a temporary pin is not gone yet: the next backup, or start, sees to it");
        } else if let Err(error) = std::fs::remove_file(&self.record) {
            tracing::warn!(%error, "the record of a temporary pin stays");
        }
        live().remove(&self.record);
    }
}

/// Sends blocks, whose roots are pinned by that.
pub(crate) async fn import(rpc: &Rpc, file: SentFile) -> Result<(), Trouble> {
    let mut pinned = 0;
    let call = Call::new("dag/import").with("pin-roots", "true").with("stats", "false");
    rpc.sent_lines(call, Some(file), |line| {
        let Some(root) = line.get("Root") else { return Ok(()) };
        match root.get("PinErrorMsg").and_then(|message| message.as_str()).unwrap_or_default() {
            "" => pinned += 1,
            message => {
                tracing::debug!(message, "an IPFS node does not pin");
                return Err(Trouble::new("it does not pin what it was given"));
            }
        }
        Ok(())
    })
    .await?;
    match pinned {
        0 => Err(Trouble::new("it has not pinned what it was given")),
        _ => Ok(()),
    }
}

/// Unpins, and removes the block that is of no use to anybody. One that is not pinned is fine.
fn release(rpc: &Rpc, root: &Cid) -> Result<(), Trouble> {
    let cid = root.to_string();
    if is_pinned(rpc, root)? {
        rpc.done(Call::new("pin/rm").arg(&cid))?;
    }
    if let Err(error) = rpc.done(Call::new("block/rm").arg(&cid).with("force", "true")) {
        tracing::debug!(%error, "the block of a temporary pin is left for garbage collection");
    }
    Ok(())
}

fn is_pinned(rpc: &Rpc, root: &Cid) -> Result<bool, Trouble> {
    let mut is_pinned = false;
    rpc.lines(Call::new("pin/ls").with("type", "recursive").with("stream", "true"), |line| {
        is_pinned |= super::node::pin(&line).is_some_and(|pin| pin.cid.hash() == root.hash());
        Ok(())
    })?;
    Ok(is_pinned)
}

/// Takes away what dead processes have left at the node of `source`; gives how many holds that were.
pub(crate) fn reap(rpc: &Rpc, state: &Path, source: &str) -> Result<usize, Trouble> {
    let Ok(records) = std::fs::read_dir(state.join(FOLDER)) else { return Ok(0) };
    let mut reaped = 0;
    for record in records.flatten().map(|entry| entry.path()) {
        let name = record.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((of, cid)) = name.rsplit_once('+') else { continue };
        let Ok(root) = cid.parse::<Cid>() else { continue };
        if of != source || live().contains(&record) {
            continue;
        }
        release(rpc, &root)?;
        if let Err(error) = std::fs::remove_file(&record) {
            tracing::warn!(%error, "the record of a temporary pin stays");
        }
        reaped += 1;
    }
    Ok(reaped)
}

/// The roots of all holds that are on record at the node of `source`.
pub(crate) fn on_record(state: &Path, source: &str) -> Vec<Cid> {
    let records = std::fs::read_dir(state.join(FOLDER)).into_iter().flatten().flatten();
    let names = records.filter_map(|entry| entry.file_name().into_string().ok());
    let root = |name: String| {
        let (of, cid) = name.rsplit_once('+')?;
        cid.parse().ok().filter(|_| of == source)
    };
    names.filter_map(root).collect()
}

/// Takes away what the last process has left at each node of `nodes` (the name of a source, and the address),
/// as soon as that answers.
pub(crate) async fn reap_at_start(state: PathBuf, nodes: Vec<(String, String)>, stop: CancellationToken) {
    let mut left: Vec<(String, String)> =
        nodes.into_iter().filter(|(source, _)| !on_record(&state, source).is_empty()).collect();
    while !left.is_empty() {
        let state = state.clone();
        let tried = tokio::task::spawn_blocking(move || {
            left.retain(|(source, address)| match reap(&Rpc::new(address), &state, source) {
                Ok(reaped) => {
                    tracing::info!(source, reaped, "temporary pins of the last run are gone");
                    false
                }
                Err(error) => {
                    tracing::warn!(source, %error, "temporary pins of the last run are still there");
                    true
                }
            });
            left
        });
        left = tried.await.expect("looking for temporary pins does not panic");
        if !left.is_empty() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use formats::ipfs::{CarReader, links};
    use std::collections::HashSet;

    #[test]
    fn a_hold_links_to_every_root_however_many_there_are() {
        for count in [0, 1, LINKS, LINKS + 1, 2 * LINKS + 5] {
            let roots: Vec<Cid> = (0..count)
                .map(|n| Cid::new_v1(codec::RAW, Code::Sha2_256.digest(&n.to_le_bytes())))
                .collect();
            let hold = HoldBlocks::of(&roots);
            let (mut reader, mut linked, mut named) = (CarReader::default(), HashSet::new(), HashSet::new());
            let read = reader.read(&hold.car(), |section| {
                named.insert(section.cid);
                linked.extend(links(&section.cid, &section.block).expect("links"));
                true
            });
            read.expect("a file of blocks");
            assert!(roots.iter().all(|root| linked.contains(root)), "{count}");
            let not_linked: Vec<&Cid> = named.iter().filter(|cid| !linked.contains(*cid)).collect();
            assert_eq!(not_linked, [&hold.root()], "{count}");
        }
        assert_ne!(HoldBlocks::of(&[]).root(), HoldBlocks::of(&[]).root());
    }
}
