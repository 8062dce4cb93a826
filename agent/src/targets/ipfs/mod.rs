//! Puts an archive of what a node keeps back into a running node.
//!
//! 1. A folder of ours among the node's files links to all that comes ([`crate::sources::ipfs::hold`]): nothing takes
//!    it away then. Every block goes in by one `dag/import`; then the node is asked whether it has them all.
//! 2. Pins that are not there are added, if each block below them is there. One that is there is left as it is, and
//!    none is removed. Keys whose names are free are imported.
//! 3. The files become those of the archive, name by name, if each block below them is there ([`files`]). Where that
//!    fails, they are put back.
//! 4. The node is asked again, and what it lacks is told.
//!
//! Must stay true: nothing that the node keeps has changed before all blocks are there; whatever step a crash
//! cuts off, doing it once more ends it, and files that were being replaced are the old ones or the new ones after the
//! next start; what somebody else writes meanwhile stays, or is put aside.

mod archive;
mod blocks;
mod files;
mod keys;
mod swap;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use formats::ipfs::Cid;
use repository::content::IdKey;
use runtime::steps;

use super::{BlobError, BlobReader, CancelFlag, Progress};
use crate::sources::ipfs::hold::{self, Hold};
use crate::sources::ipfs::node::{Kept, Pin, flush};
use crate::sources::ipfs::rpc::{Call, Rpc, Trouble};
use crate::steps::Step;
use archive::Key;
pub(crate) use archive::Wanted;
use blocks::Imported;
pub(crate) use files::{Recovered, recover};

/// Notes that are made one by one.
const MOST_NOTES: usize = 50;

/// A restore into a node did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    #[error("it was cancelled")]
    Cancelled,
    #[error("the archive cannot be read: {0}")]
    Archive(String),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("the node does not take it")]
    Node(#[from] Trouble),
    #[error("{0}")]
    NotStopped(String),
    /// Some pins and keys are there, and the files are as they were.
    #[error("{pins} pins and {keys} keys were added, then: {trouble}")]
    Partly { pins: u64, keys: u64, trouble: Trouble },
    /// The files are as they were; pins and keys that were added stay.
    #[error("{0}")]
    TakenBack(String),
    /// The files are in between. That is on record.
    #[error("{0}")]
    Interrupted(String),
}

/// What a restore into a node works with.
pub(crate) struct Tools<'a> {
    pub(crate) rpc: &'a Arc<Rpc>,
    pub(crate) id_key: &'a IdKey,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) cancel: &'a CancelFlag,
}

/// What would change at the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) recursive: Vec<Pin>,
    pub(crate) direct: Vec<Pin>,
    /// The files have another root.
    pub(crate) files: bool,
    /// What is there under another name, or in another way, and stays so.
    pub(crate) remarks: Vec<String>,
}

/// Compares; pure.
pub(crate) fn changes(wanted: &Wanted, now: &Kept) -> Changes {
    let of = |pins: &[Pin]| pins.iter().map(|pin| pin.cid).collect::<HashSet<Cid>>();
    let (recursive, direct) = (of(&now.recursive), of(&now.direct));
    let missing = |pins: &[Pin], is_there: &dyn Fn(&Cid) -> bool| {
        pins.iter().filter(|pin| !is_there(&pin.cid)).cloned().collect::<Vec<Pin>>()
    };
    let mut remarks = Vec::new();
    let names = wanted.recursive.iter().chain(&wanted.direct).filter(|pin| !pin.name.is_empty());
    let there = now.recursive.iter().chain(&now.direct).map(|pin| (pin.cid, pin.name.as_str()));
    let there: std::collections::HashMap<Cid, &str> = there.collect();
    let renamed = names.filter(|pin| there.get(&pin.cid).is_some_and(|name| *name != pin.name)).count();
    if renamed > 0 {
        remarks.push(format!("{renamed} pins are there under other names, which they keep"));
    }
    Changes {
        recursive: missing(&wanted.recursive, &|cid| recursive.contains(cid)),
        // What is pinned with all below it is pinned.
        direct: missing(&wanted.direct, &|cid| direct.contains(cid) || recursive.contains(cid)),
        files: wanted.files != now.files,
        remarks,
    }
}

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) pins: u64,
    pub(crate) keys: u64,
    pub(crate) files: bool,
    pub(crate) bytes: u64,
    /// The root that the files had.
    pub(crate) former: String,
    pub(crate) notes: Vec<String>,
}

/// Restores. Blocks, within the runtime. `state` and `source` say where the hold is on record.
pub(crate) fn restore(
    wanted: &Wanted,
    blobs: &mut dyn BlobReader,
    tools: &Tools<'_>,
    (state, source, id): (&Path, &str, &str),
) -> Result<Done, NodeError> {
    let rpc = tools.rpc;
    if let Err(trouble) = hold::reap(rpc, state, source) {
        match trouble.is_gone() {
            true => return Err(trouble.into()),
            false => tracing::warn!(source, error = %trouble, "holds of earlier runs are still there"),
        }
    }
    let keys = keys::read(wanted, blobs, tools)?;
    flush(rpc)?;
    let now = Kept::look(rpc)?;
    let single = wanted.direct.iter().map(|pin| hold::alone(&pin.cid));
    let pinned = wanted.recursive.iter().map(|pin| pin.cid).chain(single);
    // What is replaced is held, too, until it is sure that it is not put back.
    let roots: Vec<Cid> = [wanted.files, now.files].into_iter().chain(pinned).collect();
    let hold = Hold::take(rpc, (state, source), &roots, true)?;
    steps::reach(Step::StagingBegun);
    let imported = blocks::import(wanted, &hold, blobs, tools)?;
    steps::reach(Step::AllStaged);
    tools.progress.staged().map_err(NodeError::NotStopped)?;
    if tools.cancel.is_cancelled() {
        return Err(NodeError::Cancelled);
    }
    tools.progress.swap_begins();
    let mut done = Done { bytes: imported.bytes, former: format!("/ipfs/{}", now.files), ..Done::default() };
    let partly = |done: &Done, trouble| NodeError::Partly { pins: done.pins, keys: done.keys, trouble };
    let changes = changes(wanted, &now);
    add_pins(&changes, &imported, tools, &mut done).map_err(|trouble| partly(&done, trouble))?;
    keys::import(&keys, rpc, &mut done).map_err(|trouble| partly(&done, trouble))?;
    let mut swap = None;
    if changes.files {
        let mut blocks = &**rpc;
        let begun = match imported.lacks(&mut blocks, &wanted.files) {
            Ok(None) => files::begin(rpc, &wanted.files, &now.files, id),
            Ok(Some(why)) => Ok(Err(why)),
            Err(trouble) => Err(trouble),
        };
        match begun.map_err(|trouble| partly(&done, trouble))? {
            Ok(begun) => swap = Some(begun),
            Err(why) => done.notes.insert(0, format!("the files are left as they are: {why}")),
        }
    }
    if let Some(swap) = &mut swap {
        files::replace(rpc, &hold, swap)?;
        done.files = true;
        done.notes.extend(files::notes(swap));
        done.notes.extend(files::appeared(rpc, swap));
        tools.progress.entry_written();
    }
    if let Err(cause) = tools.progress.swapped() {
        return Err(match &mut swap {
            Some(swap) => files::take_back(rpc, &hold, swap, &cause),
            None => NodeError::TakenBack(cause),
        });
    }
    files::settle(&hold);
    steps::reach(Step::SwapDone);
    match Kept::look(rpc) {
        Ok(now) => compare(wanted, &now, &mut done.notes),
        Err(trouble) => note(&mut done.notes, format!("the node was not asked once more: {trouble}")),
    }
    Ok(done)
}

fn note(notes: &mut Vec<String>, text: String) {
    if notes.len() < MOST_NOTES {
        notes.push(text);
    }
}

/// Adds the pins that are not there.
fn add_pins(
    changes: &Changes,
    imported: &Imported,
    tools: &Tools<'_>,
    done: &mut Done,
) -> Result<(), Trouble> {
    changes.remarks.iter().for_each(|remark| note(&mut done.notes, remark.clone()));
    let recursive = changes.recursive.iter().map(|pin| (pin, true));
    for (pin, is_recursive) in recursive.chain(changes.direct.iter().map(|pin| (pin, false))) {
        match add_pin(tools.rpc, pin, is_recursive, imported) {
            Ok(()) => {
                done.pins += 1;
                tools.progress.entry_written();
            }
            Err(trouble) if trouble.is_gone() => return Err(trouble),
            Err(trouble) => note(&mut done.notes, format!("{} is not pinned: {trouble}", pin.cid)),
        }
    }
    Ok(())
}

/// Adds a pin that is not there. The node is not asked where it would look for what is missing.
fn add_pin(rpc: &Arc<Rpc>, pin: &Pin, is_recursive: bool, imported: &Imported) -> Result<(), Trouble> {
    if is_recursive {
        let mut blocks = &**rpc;
        if let Some(why) = imported.lacks(&mut blocks, &pin.cid)? {
            return Err(Trouble::new(why));
        }
    }
    let recursive = if is_recursive { "true" } else { "false" };
    // With progress it says every moment that it goes on: it walks over all that is below the pin.
    let mut call =
        Call::new("pin/add").arg(&pin.cid.to_string()).with("recursive", recursive).with("progress", "true");
    if !pin.name.is_empty() {
        call = call.with("name", &pin.name);
    }
    let mut is_added = false;
    rpc.lines(call, |line| {
        is_added |= line.get("Pins").and_then(|pins| pins.as_array()).is_some_and(|pins| !pins.is_empty());
        Ok(())
    })?;
    if is_added { Ok(()) } else { Err(Trouble::new("it does not say that it has pinned it")) }
}

/// What the archive has and the node does not.
fn compare(wanted: &Wanted, now: &Kept, notes: &mut Vec<String>) {
    let left = changes(wanted, now);
    let missing = left.recursive.len() + left.direct.len();
    if missing > 0 {
        notes.insert(0, format!("{missing} pins of the backup are not at the node"));
    }
}

/// A key that the archive holds, by the name that it has at a node.
pub(crate) fn key_names(keys: &[Key]) -> impl Iterator<Item = &str> {
    keys.iter().map(|key| key.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cid(text: &str) -> Cid {
        text.parse().expect("a CID")
    }

    fn pin(text: &str, name: &str) -> Pin {
        Pin { cid: cid(text), name: name.to_owned() }
    }

    const ONE: &str = "bafkreiey5jxe6ilpf62lnh77tm5ejbbmhbugzjuf6p2v3remlu73ced34q";
    const TWO: &str = "QmcaxaTaE3wyf7m3yBV1ddQmjg1ZtaoZuPkTMP64CQSNtP";
    const EMPTY: &str = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn";

    #[test]
    fn only_what_is_not_there_is_added_and_what_is_there_stays() {
        let wanted = Wanted {
            recursive: vec![pin(ONE, "a"), pin(TWO, "")],
            direct: vec![pin(EMPTY, ""), pin(TWO, "")],
            ..Wanted::empty(cid(EMPTY))
        };
        let now = Kept { recursive: vec![pin(ONE, "b")], direct: vec![pin(TWO, "")], files: cid(TWO) };
        let changes = changes(&wanted, &now);
        assert_eq!((changes.recursive, changes.direct), (vec![pin(TWO, "")], vec![pin(EMPTY, "")]));
        assert!(changes.files);
        assert_eq!(changes.remarks, ["1 pins are there under other names, which they keep"]);
    }
}
