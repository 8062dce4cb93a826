//! The blocks of an archive, into a node.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use formats::ipfs::{CarReader, Cid, Key, Verdict, held_by_name, is_leaf, key, links, section_head, verify};
use tokio::sync::mpsc::{Sender, channel};

use super::{NodeError, Tools, Wanted, archive};
use crate::sources::ipfs::hold::{self, HoldBlocks};
use crate::sources::ipfs::node::local_blocks;
use crate::sources::ipfs::rpc::{Rpc, SentFile, Trouble, around_file};
use crate::targets::BlobReader;

/// Parts that wait for the node.
const WAITING: usize = 4;
/// How much is sent at once.
const PART: usize = 1 << 20;

/// The blocks that the node has, and whether some are lacking.
pub(super) struct Imported {
    secret: [u8; 32],
    /// The node's own; asked for only where the archive lacks something.
    lacks_some: bool,
    local: HashSet<Key>,
    pub(super) bytes: u64,
}

/// Sends all of them, with those of the hold before. Then all are there, or there is an error.
pub(super) fn import(
    wanted: &Wanted,
    ours: &HoldBlocks,
    blobs: &mut dyn BlobReader,
    tools: &Tools<'_>,
) -> Result<Imported, NodeError> {
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret).expect("the operating system's random source answers");
    let (sender, receiver) = channel(WAITING);
    let rpc = Arc::clone(tools.rpc);
    let importing =
        tools.rpc.runtime().spawn(async move { hold::import(&rpc, SentFile::parts(receiver)).await });
    let mut sending = Sending { sender, part: around_file().0.to_vec() };
    sending.part.extend(ours.car());
    let (mut reader, mut sent, mut linked) = (CarReader::default(), HashSet::new(), HashSet::new());
    let mut bytes = 0;
    let content = wanted.blocks.as_ref().expect("it was read with its blocks");
    let read = archive::read(content, blobs, tools.id_key, tools.cancel, |part| {
        tools.progress.bytes_written(part.len() as u64);
        let mut fault = None;
        reader
            .read(part, |section| {
                if verify(&section.cid, &section.block) == Verdict::Wrong {
                    fault = Some(NodeError::Archive(format!("the block {} is false", section.cid)));
                    return false;
                }
                sent.insert(key(&secret, &section.cid));
                let below = links(&section.cid, &section.block).unwrap_or_default();
                linked.extend(below.iter().map(|link| key(&secret, link)));
                bytes += section.block.len() as u64;
                sending.part.extend(section_head(&section.cid, section.block.len()));
                sending.part.extend(&section.block);
                true
            })
            .map_err(|error| NodeError::Archive(error.to_string()))?;
        fault.map_or(Ok(()), Err)?;
        sending.pass_on(PART)
    });
    let ended = read.and_then(|()| reader.end().map_err(|error| NodeError::Archive(error.to_string())));
    let ended = ended.and_then(|()| {
        sending.part.extend(around_file().1);
        sending.pass_on(0)
    });
    if ended.is_err() {
        // The node must not take for whole what is not. It may have ended the request itself.
        let _ = sending.sender.blocking_send(Err(io::ErrorKind::Interrupted.into()));
    }
    drop(sending);
    let imported = tools.rpc.runtime().block_on(importing).expect("an import does not panic");
    match ended {
        // Why the node has ended it is for the node's answer to say.
        Ok(()) | Err(NodeError::Node(_)) => imported?,
        Err(error) => return Err(error),
    }
    let mut local = HashSet::new();
    let mut left = sent.clone();
    let needed = wanted.recursive.iter().map(|pin| pin.cid).chain([wanted.files]);
    linked.extend(needed.map(|cid| key(&secret, &cid)));
    let lacks_some = linked.iter().any(|link| !sent.contains(link));
    local_blocks(tools.rpc, |cid| {
        let its_key = key(&secret, &cid);
        left.remove(&its_key);
        if lacks_some {
            local.insert(its_key);
        }
        Ok(())
    })?;
    match left.len() {
        0 => Ok(Imported { secret, lacks_some, local, bytes }),
        missing => {
            Err(Trouble::new(format!("{missing} of {} blocks are not there after the import", sent.len()))
                .into())
        }
    }
}

struct Sending {
    sender: Sender<Result<Bytes, io::Error>>,
    part: Vec<u8>,
}

impl Sending {
    /// Sends what has gathered, if it is more than `least`.
    fn pass_on(&mut self, least: usize) -> Result<(), NodeError> {
        if self.part.len() > least {
            let part = Bytes::from(std::mem::take(&mut self.part));
            let sent = self.sender.blocking_send(Ok(part));
            sent.map_err(|_| Trouble::new("it has ended the import"))?;
        }
        Ok(())
    }
}

impl Imported {
    /// True if every block below `root` is there.
    pub(super) fn is_whole(&self, rpc: &Arc<Rpc>, root: &Cid) -> Result<bool, Trouble> {
        if !self.lacks_some {
            return Ok(true);
        }
        let (mut seen, mut left) = (HashSet::new(), vec![*root]);
        while let Some(cid) = left.pop() {
            let its_key = key(&self.secret, &cid);
            if !seen.insert(its_key) {
                continue;
            }
            let bytes = match held_by_name(&cid) {
                Some(bytes) => Bytes::copy_from_slice(bytes),
                None if !self.local.contains(&its_key) => return Ok(false),
                None if is_leaf(&cid) => continue,
                None => rpc.runtime().block_on(rpc.block(&cid))?,
            };
            left.extend(links(&cid, &bytes).unwrap_or_default());
        }
        Ok(true)
    }
}
