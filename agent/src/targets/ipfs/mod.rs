//! Puts an archive of what a node keeps back into a running node.
//!
//! 1. Every block goes in by one `dag/import`, which pins a block of ours that links to all of them
//!    ([`crate::sources::ipfs::hold`]): from then on nothing takes them away. Then the node is asked whether it
//!    has them all.
//! 2. Pins that are not there are added. One that is there is left as it is, and none is removed.
//! 3. The files become those of the archive, name by name. Where that fails, they are put back.
//! 4. Keys whose names are free are imported.
//! 5. The node is asked again, and what it lacks is told.
//!
//! Must stay true: nothing that the node keeps has changed before all blocks are there; whatever step a crash
//! cuts off, doing it once more ends it.

mod archive;
mod blocks;
mod keys;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use formats::ipfs::Cid;
use repository::content::IdKey;

use super::{BlobError, BlobReader, CancelFlag, Progress};
use crate::sources::ipfs::files;
use crate::sources::ipfs::hold::{self, Hold, HoldBlocks};
use crate::sources::ipfs::node::{Kept, Pin, files_root};
use crate::sources::ipfs::rpc::{Call, Rpc, Trouble};
use archive::Key;
pub(crate) use archive::Wanted;
use blocks::Imported;

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
    /// The files are as they were; pins that were added stay.
    #[error("{0}")]
    TakenBack(String),
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
    hold::reap(rpc, state, source)?;
    let now = Kept::look(rpc)?;
    let single = wanted.direct.iter().map(|pin| hold::alone(&pin.cid));
    let pinned = wanted.recursive.iter().map(|pin| pin.cid).chain(single);
    // What is replaced is held, too, until it is sure that it is not put back.
    let roots: Vec<Cid> = [wanted.files, now.files].into_iter().chain(pinned).collect();
    let ours = HoldBlocks::of(&roots);
    let _hold = Hold::announce(rpc, state, source, ours.root())
        .map_err(|error| NodeError::NotStopped(format!("the agent cannot keep a record: {error}")))?;
    let imported = blocks::import(wanted, &ours, blobs, tools)?;
    tools.progress.staged().map_err(NodeError::NotStopped)?;
    if tools.cancel.is_cancelled() {
        return Err(NodeError::Cancelled);
    }
    tools.progress.swap_begins();
    let Changes { recursive, direct, files, remarks } = changes(wanted, &now);
    let mut done = Done { bytes: imported.bytes, notes: remarks, ..Done::default() };
    for (pin, is_recursive) in
        recursive.iter().map(|pin| (pin, true)).chain(direct.iter().map(|pin| (pin, false)))
    {
        match add_pin(rpc, pin, is_recursive, &imported) {
            Ok(()) => {
                done.pins += 1;
                tools.progress.entry_written();
            }
            Err(trouble) if trouble.is_connection => return Err(trouble.into()),
            Err(trouble) => note(&mut done.notes, format!("{} is not pinned: {trouble}", pin.cid)),
        }
    }
    done.former = format!("/ipfs/{}", now.files);
    if files {
        if let Err(trouble) = replace_files(rpc, &wanted.files, id) {
            let back = replace_files(rpc, &now.files, id);
            let state = match back {
                Ok(()) => "they are as they were".to_owned(),
                Err(_) => format!("and could not be put back: they were /ipfs/{}", now.files),
            };
            return Err(NodeError::TakenBack(format!(
                "the files could not be replaced ({trouble}); {state}"
            )));
        }
        done.files = true;
        tools.progress.entry_written();
    }
    keys::import(wanted, rpc, blobs, tools, &mut done)?;
    if let Err(cause) = tools.progress.swapped() {
        if done.files && replace_files(rpc, &now.files, id).is_err() {
            return Err(NodeError::TakenBack(format!(
                "{cause}; the files could not be put back: they were /ipfs/{}",
                now.files
            )));
        }
        return Err(NodeError::TakenBack(cause));
    }
    compare(wanted, &Kept::look(rpc)?, &mut done.notes);
    Ok(done)
}

fn note(notes: &mut Vec<String>, text: String) {
    if notes.len() < MOST_NOTES {
        notes.push(text);
    }
}

/// Adds a pin that is not there. The node is not asked where it would look for what is missing.
fn add_pin(rpc: &Arc<Rpc>, pin: &Pin, is_recursive: bool, imported: &Imported) -> Result<(), Trouble> {
    if is_recursive && !imported.is_whole(rpc, &pin.cid)? {
        return Err(Trouble::new("a block that it needs is neither in the backup nor in the node"));
    }
    let recursive = if is_recursive { "true" } else { "false" };
    let mut call = Call::new("pin/add").arg(&pin.cid.to_string()).with("recursive", recursive);
    if !pin.name.is_empty() {
        call = call.with("name", &pin.name);
    }
    rpc.done(call)
}

/// Makes the files those below `root`, whose blocks are there. What is the same stays.
fn replace_files(rpc: &Arc<Rpc>, root: &Cid, id: &str) -> Result<(), Trouble> {
    let not_listed = || Trouble::new("it does not give the root of its files");
    let wanted = files::list(rpc, root)?.ok_or_else(not_listed)?;
    let now = files::list(rpc, &files_root(rpc)?)?.ok_or_else(not_listed)?;
    let text = |name: &[u8]| {
        String::from_utf8(name.to_vec()).map_err(|_| Trouble::new("a name of its files is no text"))
    };
    let staged = format!("/.neurashield-{id}");
    // Whether it can be had at all, before anything goes.
    let remove = |path: &str| {
        rpc.done(Call::new("files/rm").arg(path).with("recursive", "true").with("force", "true"))
    };
    if now.iter().any(|(name, _)| name == staged.as_bytes()[1..]) {
        remove(&staged)?;
    }
    rpc.done(Call::new("files/cp").arg(&format!("/ipfs/{root}")).arg(&staged))?;
    let same = |one: &(Vec<u8>, Cid), others: &[(Vec<u8>, Cid)]| others.contains(one);
    for old in now.iter().filter(|old| old.0 != staged.as_bytes()[1..] && !same(old, &wanted)) {
        remove(&format!("/{}", text(&old.0)?))?;
    }
    for new in wanted.iter().filter(|new| !same(new, &now)) {
        let path = format!("/{}", text(&new.0)?);
        rpc.done(Call::new("files/cp").arg(&format!("/ipfs/{}", new.1)).arg(&path))?;
    }
    remove(&staged)?;
    rpc.json(Call::new("files/flush").arg("/")).map(drop)?;
    let mut became = files::list(rpc, &files_root(rpc)?)?.ok_or_else(not_listed)?;
    let mut wanted = wanted;
    became.sort();
    wanted.sort();
    match became == wanted {
        true => Ok(()),
        false => Err(Trouble::new("its files are others than those that were put there")),
    }
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
