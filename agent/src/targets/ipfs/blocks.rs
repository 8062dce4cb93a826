//! The blocks of an archive, into a node.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use formats::ipfs::{
    CarReader, Cid, Key, Next, Trail, Verdict, held_by_name, is_leaf, key, links, reading, section_head,
    verify,
};
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinHandle;

use super::{NodeError, Tools, Wanted, archive};
use crate::sources::ipfs::files::Blocks;
use crate::sources::ipfs::hold::{self, Hold};
use crate::sources::ipfs::node::local_blocks;
use crate::sources::ipfs::rpc::{SentFile, Trouble};
use crate::sources::ipfs::walk::MOST_BLOCKS;
use crate::targets::BlobReader;

/// Parts that wait for the node.
const WAITING: usize = 4;
/// How much is sent at once.
const PART: usize = 1 << 20;
/// How often a cancel is looked for while the node ends an import.
const LOOK: Duration = Duration::from_secs(1);

/// What is known of a block: it was sent, something that was sent links to it, the node has it.
const SENT: u8 = 1;
const LINKED: u8 = 2;
const LOCAL: u8 = 4;

/// The blocks that the archive has brought, and what is lacking. Memory: about 40 bytes for each block of the archive,
/// and of the node where the archive lacks something.
#[derive(Debug)]
pub(super) struct Imported {
    secret: [u8; 32],
    blocks: HashMap<Key, u8>,
    /// The archive does not hold all that it needs, or nobody knows.
    lacks_some: bool,
    pub(super) bytes: u64,
}

/// Sends all of them. Then all are there, or there is an error.
pub(super) fn import(
    wanted: &Wanted,
    hold: &Hold,
    blobs: &mut dyn BlobReader,
    tools: &Tools<'_>,
) -> Result<Imported, NodeError> {
    let mut imported = Imported::new();
    let (sender, receiver) = channel(WAITING);
    let (file, frame) = SentFile::parts(receiver);
    let rpc = Arc::clone(tools.rpc);
    let importing = tools.rpc.runtime().spawn(async move { hold::import(&rpc, file, true).await });
    let mut sending = Sending { sender, part: frame.before.to_vec() };
    sending.part.extend(hold.car());
    let mut reader = CarReader::default();
    let content = wanted.blocks.as_ref().expect("it was read with its blocks");
    // The header is another one now: of the archive's file there are the sections.
    let read = archive::read(content, blobs, tools.id_key, tools.cancel, |part| {
        tools.progress.bytes_written(part.len() as u64);
        let mut fault = None;
        reader
            .read(part, |section| {
                if let Err(error) = imported.sends(&section.cid, &section.block) {
                    fault = Some(error);
                    return false;
                }
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
        sending.part.extend(&frame.after);
        sending.pass_on(0)
    });
    if ended.is_err() {
        // The node must not take for whole what is not. It may have ended the request itself.
        let _ = sending.sender.blocking_send(Err(io::ErrorKind::Interrupted.into()));
    }
    drop(sending);
    let answer = answer(tools, importing);
    if ended.is_err() || !matches!(&answer, Ok(Ok(()))) {
        hold.is_unsure();
    }
    match (ended, answer?) {
        (Ok(()), answer) => answer?,
        // Why the node has ended it is for the node's answer to say.
        (Err(NodeError::Node(_)), Err(trouble)) => return Err(trouble.into()),
        (Err(error), _) => return Err(error),
    }
    let needed = wanted.recursive.iter().map(|pin| pin.cid).chain([wanted.files]);
    needed.for_each(|cid| imported.mark(&cid, LINKED));
    let is_lacking = |known: &u8| known & LINKED != 0 && known & SENT == 0;
    imported.lacks_some |= imported.blocks.values().any(is_lacking);
    local_blocks(tools.rpc, |cid| imported.is_local(&cid))?;
    let missing = imported.blocks.values().filter(|known| *known & (SENT | LOCAL) == SENT).count();
    match missing {
        0 => Ok(imported),
        missing => {
            Err(Trouble::new(format!("{missing} of the blocks are not there after the import")).into())
        }
    }
}

/// What the node says in the end, unless that is cancelled.
fn answer(
    tools: &Tools<'_>,
    mut importing: JoinHandle<Result<(), Trouble>>,
) -> Result<Result<(), Trouble>, NodeError> {
    loop {
        let waited = tools.rpc.runtime().block_on(async { tokio::time::timeout(LOOK, &mut importing).await });
        match waited {
            Ok(answer) => return Ok(answer.expect("an import does not panic")),
            Err(_) if tools.cancel.is_cancelled() => {
                importing.abort();
                return Err(NodeError::Cancelled);
            }
            Err(_) => {}
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
    fn new() -> Self {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).expect("the operating system's random source answers");
        Self { secret, blocks: HashMap::new(), lacks_some: false, bytes: 0 }
    }

    fn mark(&mut self, cid: &Cid, known: u8) {
        if held_by_name(cid).is_none() {
            *self.blocks.entry(key(&self.secret, cid)).or_default() |= known;
        }
    }

    /// A block of the archive, which is sent if it is right.
    fn sends(&mut self, cid: &Cid, block: &[u8]) -> Result<(), NodeError> {
        if verify(cid, block) == Verdict::Wrong {
            return Err(NodeError::Archive(format!("the block {cid} is false")));
        }
        self.mark(cid, SENT);
        self.bytes += block.len() as u64;
        match links(cid, block) {
            Ok(below) => below.iter().for_each(|link| self.mark(link, LINKED)),
            Err(_) => self.lacks_some = true,
        }
        match self.blocks.len() {
            ..=MOST_BLOCKS => Ok(()),
            _ => Err(NodeError::Archive(format!("it names more than {MOST_BLOCKS} blocks"))),
        }
    }

    /// A block that the node has.
    fn is_local(&mut self, cid: &Cid) -> Result<(), Trouble> {
        let its_key = key(&self.secret, cid);
        if let Some(known) = self.blocks.get_mut(&its_key) {
            *known |= LOCAL;
        } else if self.lacks_some {
            self.blocks.insert(its_key, LOCAL);
        }
        match self.blocks.len() {
            ..=MOST_BLOCKS => Ok(()),
            _ => Err(Trouble::new(format!("it has more than {MOST_BLOCKS} blocks"))),
        }
    }

    /// Why not every block below `root` is there; `None`: they are.
    pub(super) fn lacks(&self, blocks: &mut dyn Blocks, root: &Cid) -> Result<Option<String>, Trouble> {
        if !self.lacks_some {
            return Ok(None);
        }
        let (mut seen, mut trail, mut next) = (HashSet::new(), Trail::default(), Some(*root));
        loop {
            let (cid, is_again) = match next.take() {
                Some(cid) => (cid, false),
                None => match trail.go_on() {
                    Next::Link(cid) => (cid, false),
                    Next::Again(cid) => (cid, true),
                    Next::End => return Ok(None),
                },
            };
            let its_bytes = held_by_name(&cid);
            if !is_again {
                if its_bytes.is_none() && !seen.insert(reading(&self.secret, &cid)) {
                    continue;
                }
                let known = self.blocks.get(&key(&self.secret, &cid)).copied().unwrap_or_default();
                if its_bytes.is_none() && known & LOCAL == 0 {
                    return Ok(Some(format!("the block {cid} is neither in the backup nor in the node")));
                }
                if is_leaf(&cid) {
                    continue;
                }
            }
            let bytes = match its_bytes {
                Some(bytes) => Ok(Bytes::copy_from_slice(bytes)),
                None => blocks.get(&cid),
            };
            let below = match bytes {
                Err(trouble) if trouble.is_of_each() => return Err(trouble),
                Err(trouble) => {
                    return Ok(Some(format!("the node does not give the block {cid}: {trouble}")));
                }
                Ok(bytes) if verify(&cid, &bytes) == Verdict::Wrong => {
                    return Ok(Some(format!("the node has false bytes for the block {cid}")));
                }
                Ok(bytes) => links(&cid, &bytes),
            };
            match below {
                Err(why) => return Ok(Some(format!("what the block {cid} needs is not known: {why}"))),
                Ok(below) if is_again => trail.again(below),
                Ok(below) => {
                    if !trail.enter(cid, below) {
                        return Ok(Some(format!("what the block {cid} needs lies too deep")));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::ipfs::files::tests::Held;
    use formats::ipfs::{codec, named};

    /// What a restore knows that has brought these, at a node that has these.
    fn imported(held: &Held, sent: &[Cid], local: &[Cid]) -> Imported {
        let mut imported = Imported::new();
        for cid in sent {
            imported.sends(cid, &held.blocks[cid]).expect("right");
        }
        imported.lacks_some |= imported.blocks.values().any(|known| known & (LINKED | SENT) == LINKED);
        local.iter().for_each(|cid| imported.is_local(cid).expect("not too many"));
        imported
    }

    #[test]
    fn a_pin_is_whole_when_each_block_below_it_is_there_however_it_is_named() {
        let mut held = Held::default();
        let leaf = held.add(codec::RAW, b"leaf");
        let folder = held.folder(&[("leaf", leaf)]);
        let as_raw = Cid::new_v1(codec::RAW, *folder.hash());
        let root = held.folder(&[("1", as_raw), ("2", folder)]);
        let all = [root, folder, leaf];
        let why = |held: &mut Held, sent: &[Cid], local: &[Cid], root: &Cid| {
            imported(held, sent, local).lacks(held, root).expect("the node answers")
        };
        assert_eq!(why(&mut held, &all, &all, &root), None);
        // What the archive lacks, and the node has.
        assert_eq!(why(&mut held, &[root, folder], &all, &root), None);
        let lacks = why(&mut held, &[root, folder], &[root, folder], &root).expect("the leaf is not there");
        assert!(lacks.contains(&leaf.to_string()), "{lacks}");
        // Under its raw name it needs nothing.
        assert_eq!(why(&mut held, &[root, folder], &[root, folder], &as_raw), None);
        // Nobody knows what it needs.
        let odd = held.add(0x78, b"a tree of git");
        assert!(why(&mut held, &[odd], &[odd], &odd).expect("not known").contains("not known"));
        let broken = held.add(codec::DAG_PB, b"\xff\xff");
        assert!(why(&mut held, &[broken], &[broken], &broken).is_some());
        // A node that gives something else.
        held.blocks.insert(folder, Bytes::from_static(b"false"));
        let local = imported_local(&held, &all);
        assert!(local.lacks(&mut held, &root).expect("it answers").expect("false").contains("false"));
    }

    fn imported_local(held: &Held, local: &[Cid]) -> Imported {
        let mut imported = imported(held, &[], &[]);
        imported.lacks_some = true;
        local.iter().for_each(|cid| imported.is_local(cid).expect("not too many"));
        imported
    }

    #[test]
    fn folders_that_hold_one_another_many_times_over_are_looked_at_once() {
        let mut held = Held::default();
        let mut folder = held.add(codec::RAW, b"leaf");
        let mut all = vec![folder];
        for _ in 0..100 {
            folder = held.folder(&[("a", folder), ("b", folder), ("c", folder)]);
            all.push(folder);
        }
        let local = imported_local(&held, &all);
        assert_eq!(local.lacks(&mut held, &folder).expect("it answers"), None);
        assert!(held.asked.values().all(|asked| *asked == 1) && held.asked.len() == 100);
        let missing = named(codec::RAW, b"leaf");
        let local = imported_local(&held, &all[1..]);
        let lacks = local.lacks(&mut held, &folder).expect("it answers").expect("the leaf");
        assert!(lacks.contains(&missing.to_string()));
    }
}
