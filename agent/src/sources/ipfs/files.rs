//! The files of a node, as entries: folders, and for each file a link to `/ipfs/` and its CID.
//!
//! The content is among the blocks; what is here shows where it belongs, in a list and in a restored folder.

use formats::ipfs::{Cid, Directory, Node, Verdict, codec, held_by_name, verify};
use repository::archive::path::EntryPath;

use super::rpc::{Rpc, Trouble};

/// Names in one folder; more are not shown one by one.
const MOST_NAMES: usize = 1 << 20;
/// Folders within folders; what lies deeper is not shown.
const DEEPEST: usize = 1_000;

/// What is shown of a name.
pub(super) enum Shown {
    Folder(EntryPath),
    /// The path, and what it links to.
    File(EntryPath, Cid),
    /// Why something is not shown.
    Not(EntryPath, &'static str),
}

/// Goes through the files in path order.
pub(super) struct Files {
    /// Names that are still to be shown, the next one last; one list for each folder on the way down.
    levels: Vec<Vec<(EntryPath, Cid)>>,
    /// A folder with names that no file system takes, of which is told next.
    odd: Option<EntryPath>,
}

impl Files {
    /// Those below `root`, shown below `at`.
    pub(super) fn new(at: EntryPath, root: Cid) -> Self {
        Self { levels: vec![vec![(at, root)]], odd: None }
    }

    /// The next one; `None` at the end. A folder whose blocks are not there is shown empty: its blocks were told.
    pub(super) fn next(&mut self, rpc: &Rpc) -> Result<Option<Shown>, Trouble> {
        if let Some(path) = self.odd.take() {
            return Ok(Some(Shown::Not(path, "names in it cannot be shown; their blocks are there")));
        }
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            let Some((path, cid)) = level.pop() else {
                self.levels.pop();
                continue;
            };
            if cid.codec() != codec::DAG_PB {
                return Ok(Some(Shown::File(path, cid)));
            }
            let Some(names) = list(rpc, &cid)? else { return Ok(Some(Shown::File(path, cid))) };
            if self.levels.len() > DEEPEST || names.len() > MOST_NAMES {
                return Ok(Some(Shown::Not(
                    path,
                    "there is too much below it to be shown; its blocks are there",
                )));
            }
            let mut below = Vec::with_capacity(names.len());
            for (name, cid) in names {
                match path.join(&name) {
                    Ok(path) => below.push((path, cid)),
                    Err(_) => self.odd = Some(path.clone()),
                }
            }
            // The order of names is another than that of the links in a shard.
            below.sort_by(|one, other| other.0.cmp(&one.0));
            below.dedup_by(|one, other| one.0 == other.0);
            self.levels.push(below);
            return Ok(Some(Shown::Folder(path)));
        }
    }
}

/// The names in a folder, and what each is.
pub(crate) type Names = Vec<(Vec<u8>, Cid)>;

/// What a folder holds; `None` if it is none.
pub(crate) fn list(rpc: &Rpc, folder: &Cid) -> Result<Option<Names>, Trouble> {
    let (mut names, mut left) = (Vec::new(), vec![*folder]);
    while let Some(cid) = left.pop() {
        let bytes = match held_by_name(&cid) {
            Some(bytes) => bytes.to_vec().into(),
            None => match rpc.runtime().block_on(rpc.block(&cid)) {
                Ok(bytes) => bytes,
                Err(trouble) if trouble.is_connection => return Err(trouble),
                Err(_) => continue,
            },
        };
        if verify(&cid, &bytes) == Verdict::Wrong {
            continue;
        }
        match Node::read(&bytes).ok().and_then(|node| node.directory()) {
            Some(Directory::Plain(found)) => names.extend(found),
            Some(Directory::Shard(found, shards)) => {
                names.extend(found);
                left.extend(shards);
            }
            None if cid == *folder => return Ok(None),
            None => {}
        }
        if names.len() + left.len() > MOST_NAMES {
            break;
        }
    }
    Ok(Some(names))
}
