//! The files of a node become others, under a hold that has on record how far that is; and what a dead process has
//! left of that.
//!
//! Must stay true: a step is on record before it is taken; a name goes only if it is still what it was when the swap
//! began; what was changed after the plan is in no backup and is put aside first.

use std::path::Path;
use std::sync::Arc;

use formats::ipfs::Cid;
use runtime::steps;

use super::NodeError;
use super::swap::{Phase, Step as Change, Swap, Tree};
use crate::sources::ipfs::files::list;
use crate::sources::ipfs::hold::{self, Hold};
use crate::sources::ipfs::node::{file, files_root, flush};
use crate::sources::ipfs::rpc::{Call, Rpc, Trouble};
use crate::steps::Step;

/// A swap goes no further.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Node(#[from] Trouble),
    #[error("{0} was changed meanwhile")]
    Changed(String),
    #[error("the agent cannot keep on record how far it is: {0}")]
    Record(std::io::Error),
}

/// How a swap that a dead process has left has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Recovered {
    /// The files are the new ones; and what there is to say.
    Finished(Vec<String>),
    /// The files are the old ones, for this reason.
    TakenBack(String),
    /// It had not begun.
    Dropped,
}

fn tree(rpc: &Rpc, root: &Cid) -> Result<Result<Tree, String>, Trouble> {
    let mut blocks = rpc;
    match list(&mut blocks, root) {
        Ok(names) => Ok(Tree::of(names)),
        Err(trouble) if trouble.is_of_each() => Err(trouble),
        Err(trouble) => Ok(Err(trouble.to_string())),
    }
}

fn tree_now(rpc: &Rpc) -> Result<Tree, Fault> {
    flush(rpc)?;
    Ok(tree(rpc, &files_root(rpc)?)?.map_err(Trouble::new)?)
}

/// What has to become of the files for those below `wanted`, whose blocks are all there. `planned` was their root when
/// that was confirmed, and it is held. Says so if they have to stay as they are.
pub(super) fn begin(
    rpc: &Rpc,
    wanted: &Cid,
    planned: &Cid,
    restore: &str,
) -> Result<Result<Swap, String>, Trouble> {
    flush(rpc)?;
    let to = match tree(rpc, wanted)? {
        Ok(to) => to,
        Err(why) => return Ok(Err(format!("those of the backup cannot be put there: {why}"))),
    };
    if let Some(name) = to.odd() {
        return Ok(Err(format!("those of the backup cannot be put there: {name:?} is no file")));
    }
    let from = match tree(rpc, &files_root(rpc)?)? {
        Ok(from) => from,
        Err(why) => return Ok(Err(format!("those that are there cannot be replaced: {why}"))),
    };
    // Without a list of those that were confirmed, every one is new.
    let earlier = tree(rpc, planned)?.unwrap_or_default();
    let kept = from.changed_since(&earlier, &to).into();
    Ok(Ok(Swap { restore: restore.to_owned(), from, to, kept, phase: Phase::Keeping }))
}

/// Replaces them; or they are as they were, or it is on record that they are not.
pub(super) fn replace(rpc: &Rpc, hold: &Hold, swap: &mut Swap) -> Result<(), NodeError> {
    if let Err(error) = record(hold, swap, Phase::Keeping) {
        return Err(NodeError::TakenBack(format!("the files are as they were: {error}")));
    }
    steps::reach(Step::SwapBegun);
    let replaced = put_aside(rpc, swap)
        .and_then(|()| record(hold, swap, Phase::Swapping))
        .and_then(|()| forward(rpc, swap))
        .and_then(|()| record(hold, swap, Phase::Swapped));
    replaced
        .map_err(|fault| take_back(rpc, hold, swap, &format!("the files could not be replaced ({fault})")))?;
    steps::reach(Step::SwapDurable);
    Ok(())
}

/// It is done, and is not taken back any more.
pub(super) fn settle(hold: &Hold) {
    if let Err(error) = hold.keep(None) {
        tracing::warn!(%error, "it stays on record that an IPFS node's files are replaced: the next start sees to it");
    }
}

/// Makes the files what they were.
pub(super) fn take_back(rpc: &Rpc, hold: &Hold, swap: &mut Swap, cause: &str) -> NodeError {
    if let Err(error) = record(hold, swap, Phase::Undoing) {
        tracing::error!(%error, "the files of an IPFS node are taken back");
    }
    steps::reach(Step::UndoBegun);
    match back(rpc, swap) {
        Ok(left) => {
            settle(hold);
            steps::reach(Step::UndoDone);
            let left = match left.as_slice() {
                [] => String::new(),
                left => format!("; changed by others meanwhile, and left so: {}", left.join(", ")),
            };
            NodeError::TakenBack(format!("{cause}; they are as they were{left}"))
        }
        Err(error) => {
            NodeError::Interrupted(format!("{cause}; and they could not be put back yet ({error})"))
        }
    }
}

/// Ends the swaps that dead processes have left at the node of `source`. `holds` starts what uses the node, or says why
/// a swap has to be taken back.
pub(crate) fn recover(
    rpc: &Arc<Rpc>,
    (state, source): (&Path, &str),
    holds: &dyn Fn(&str) -> Result<(), String>,
) -> Result<Vec<(String, Recovered)>, NodeError> {
    let mut ended = Vec::new();
    for (hold, value) in hold::unfinished(rpc, state, source) {
        let mut swap: Swap = serde_json::from_value(value).map_err(|error| {
            NodeError::Interrupted(format!("the record of a swap cannot be read: {error}"))
        })?;
        steps::reach(Step::RecoveryBegun);
        let how = end(rpc, &hold, &mut swap, holds)?;
        steps::reach(Step::RecoveryEnded);
        ended.push((swap.restore, how));
    }
    Ok(ended)
}

fn end(
    rpc: &Rpc,
    hold: &Hold,
    swap: &mut Swap,
    holds: &dyn Fn(&str) -> Result<(), String>,
) -> Result<Recovered, NodeError> {
    let mut fault = match swap.phase {
        Phase::Keeping | Phase::Undoing => Some("the agent was stopped before they were replaced".to_owned()),
        Phase::Swapped => None,
        Phase::Swapping => match forward(rpc, swap).and_then(|()| record(hold, swap, Phase::Swapped)) {
            Err(Fault::Node(trouble)) if trouble.is_gone() => return Err(trouble.into()),
            ended => ended.err().map(|fault| format!("the files could not be replaced ({fault})")),
        },
    };
    if fault.is_none() {
        fault = holds(&swap.restore).err();
    }
    let Some(cause) = fault else {
        settle(hold);
        return Ok(Recovered::Finished(notes(swap)));
    };
    let has_begun = swap.phase != Phase::Keeping;
    match take_back(rpc, hold, swap, &cause) {
        NodeError::TakenBack(cause) if has_begun => Ok(Recovered::TakenBack(cause)),
        NodeError::TakenBack(_) => Ok(Recovered::Dropped),
        error => Err(error),
    }
}

/// What somebody has put there meanwhile, if anything, as a report says it.
pub(super) fn appeared(rpc: &Rpc, swap: &Swap) -> Option<String> {
    let Ok(now) = tree_now(rpc) else { return None };
    let aside = swap.aside();
    let names = now.changed_since(&swap.from, &swap.to);
    let names: Vec<String> = names
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| *name != aside)
        .map(|name| path(&name))
        .collect();
    match names.len() {
        0 => None,
        1..=20 => Some(format!("these appeared among the files meanwhile, and stay: {}", names.join(", "))),
        count => Some(format!("{count} names appeared among the files meanwhile, and stay")),
    }
}

/// What a report says of it.
pub(super) fn notes(swap: &Swap) -> Vec<String> {
    let kept = (&swap.kept).into_iter().count();
    let note = || {
        format!(
            "{kept} of the files were changed after the plan: as they were they lie in /{}, until you remove it",
            swap.aside()
        )
    };
    (kept > 0).then(note).into_iter().collect()
}

fn record(hold: &Hold, swap: &mut Swap, phase: Phase) -> Result<(), Fault> {
    swap.phase = phase;
    let value = serde_json::to_value(&*swap).map_err(|error| Fault::Record(error.into()))?;
    hold.keep(Some(value)).map_err(Fault::Record)
}

fn path(name: &str) -> String {
    format!("/{name}")
}

fn put_aside(rpc: &Rpc, swap: &Swap) -> Result<(), Fault> {
    let kept = (&swap.kept).into_iter();
    if kept.len() == 0 {
        return Ok(());
    }
    let aside = path(&swap.aside());
    rpc.done(Call::new("files/mkdir").arg(&aside).with("parents", "true"))?;
    for (name, cid) in kept {
        rpc.done(Call::new("files/cp").arg(&format!("/ipfs/{cid}")).arg(&format!("{aside}/{name}")))?;
    }
    Ok(flush(rpc)?)
}

/// Goes on to the new files; stops where somebody else has changed one of them.
fn forward(rpc: &Rpc, swap: &Swap) -> Result<(), Fault> {
    let (changes, foreign) = super::swap::steps(&tree_now(rpc)?, &swap.from, &swap.to);
    if let Some(name) = foreign.into_iter().next() {
        return Err(Fault::Changed(path(&name)));
    }
    let last = changes.len();
    for (at, change) in changes.iter().enumerate() {
        make(rpc, change)?;
        match (at, change) {
            (0, Change::Remove(..)) => steps::reach(Step::FirstOldAway),
            (at, _) if at + 1 == last => steps::reach(Step::LastSwapped),
            (at, _) if at == last / 2 => steps::reach(Step::MiddleSwapped),
            _ => {}
        }
    }
    // What the node says of each step is not believed.
    match super::swap::steps(&tree_now(rpc)?, &swap.from, &swap.to) {
        (left, foreign) if left.is_empty() && foreign.is_empty() => Ok(()),
        _ => Err(Trouble::new("its files are others than those that were put there").into()),
    }
}

/// Goes back to the old files; gives the names that somebody else has changed, which stay.
fn back(rpc: &Rpc, swap: &Swap) -> Result<Vec<String>, Fault> {
    let (changes, mut left) = super::swap::steps(&tree_now(rpc)?, &swap.to, &swap.from);
    for change in &changes {
        match make(rpc, change) {
            Err(Fault::Changed(name)) => left.push(name),
            made => made?,
        }
    }
    if left.is_empty() && (&swap.kept).into_iter().len() > 0 {
        hold::remove(rpc, &path(&swap.aside()))?;
    }
    let (again, foreign) = super::swap::steps(&tree_now(rpc)?, &swap.to, &swap.from);
    match again.is_empty() && foreign.len() <= left.len() {
        true => Ok(left),
        false => Err(Trouble::new("its files are others than those that were put there").into()),
    }
}

fn make(rpc: &Rpc, change: &Change) -> Result<(), Fault> {
    match change {
        Change::Remove(name, cid) => {
            let path = path(name);
            match file(rpc, &path) {
                Ok(now) if now == *cid => hold::remove(rpc, &path)?,
                Err(trouble) if trouble.is_of_each() => return Err(trouble.into()),
                _ => return Err(Fault::Changed(path)),
            }
        }
        Change::Put(name, cid) => {
            rpc.done(Call::new("files/cp").arg(&format!("/ipfs/{cid}")).arg(&path(name)))?;
        }
    }
    Ok(())
}
