//! The record: each change of the file system, in its order, with marks for what was acknowledged between.
//!
//! Must stay true: nothing that the store does is missing in it. [`Recorder::finish`] compares what the
//! record amounts to with what lies on the disk, so a call past the watcher fails every test.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use repository::store::calls::Call;
use repository::store::calls::watch::{Verdict, Watcher};
use rustix::fs::AtFlags;

use super::states::{Kept, Tree};
use crate::watchers::Forgets;

/// A file or a folder, whatever its names. The root is the first.
pub type Node = usize;
pub const ROOT: Node = 0;

/// A name in a folder.
pub type Place = (Node, String);

#[derive(Debug, Clone)]
pub enum Op {
    CreateFile {
        at: Place,
        file: Node,
    },
    MakeFolder {
        at: Place,
        folder: Node,
    },
    Append {
        file: Node,
        offset: usize,
        bytes: Vec<u8>,
    },
    SyncFile {
        file: Node,
    },
    SyncFolder {
        folder: Node,
    },
    Rename {
        node: Node,
        is_folder: bool,
        from: Place,
        to: Place,
    },
    Link {
        node: Node,
        to: Place,
    },
    Remove {
        at: Place,
    },
    /// Said by the test: what it expects from here on.
    Mark(usize),
}

#[derive(Debug)]
pub struct Recorder {
    root: PathBuf,
    forgets: Forgets,
    live: RefCell<Live>,
}

#[derive(Debug, Default)]
struct Live {
    ops: Vec<Op>,
    /// Numbers of inodes are used again: a creation gives a number a new meaning.
    by_inode: HashMap<u64, Node>,
    lengths: Vec<Option<usize>>,
    names: BTreeMap<Place, Node>,
}

impl Recorder {
    /// For the repository in the folder `root`, which is still empty.
    pub fn new(root: &Path, forgets: Forgets) -> Rc<Self> {
        let mut live = Live::default();
        let inode = rustix::fs::stat(root).expect("the root is there").st_ino;
        live.new_node(inode, None);
        Rc::new(Self { root: root.to_owned(), forgets, live: RefCell::new(live) })
    }

    pub fn mark(&self, number: usize) {
        self.live.borrow_mut().ops.push(Op::Mark(number));
    }

    pub fn finish(&self) -> Vec<Op> {
        let ops = self.live.take().ops;
        let amounts_to = Tree::after(&ops, ops.len(), |_| Kept::Whole);
        assert!(amounts_to == Tree::read(&self.root), "the record is not what was done to the disk");
        ops
    }
}

impl Live {
    fn new_node(&mut self, inode: u64, length: Option<usize>) -> Node {
        let node = self.lengths.len();
        self.lengths.push(length);
        self.by_inode.insert(inode, node);
        node
    }

    fn node(&self, handle: BorrowedFd<'_>) -> Node {
        let inode = rustix::fs::fstat(handle).expect("an open handle").st_ino;
        *self.by_inode.get(&inode).expect("a file or folder whose creation was seen")
    }

    fn place(&self, folder: BorrowedFd<'_>, name: &[u8]) -> Place {
        (self.node(folder), String::from_utf8(name.to_vec()).expect("our names are ASCII"))
    }

    fn created(&mut self, folder: BorrowedFd<'_>, name: &[u8], length: Option<usize>) -> (Place, Node) {
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).expect("it was just made");
        let place = self.place(folder, name);
        let node = self.new_node(stat.st_ino, length);
        self.names.insert(place.clone(), node);
        (place, node)
    }
}

impl Watcher for Recorder {
    fn verdict(&self, call: &Call<'_>) -> Verdict {
        self.forgets.verdict(call)
    }

    fn made(&self, call: &Call<'_>) {
        let live = &mut *self.live.borrow_mut();
        let op = match *call {
            Call::CreateFile { folder, name } => {
                let (at, file) = live.created(folder, name, Some(0));
                Op::CreateFile { at, file }
            }
            Call::MakeFolder { parent, name } => {
                let (at, folder) = live.created(parent, name, None);
                Op::MakeFolder { at, folder }
            }
            Call::Append { file, bytes } => {
                let file = live.node(file);
                let length = live.lengths[file].as_mut().expect("a file");
                let offset = *length;
                *length += bytes.len();
                Op::Append { file, offset, bytes: bytes.to_vec() }
            }
            Call::SyncFile { file } => Op::SyncFile { file: live.node(file) },
            Call::SyncFolder { folder } => Op::SyncFolder { folder: live.node(folder) },
            Call::Rename { from, from_name, to, to_name, .. } => {
                let (from, to) = (live.place(from, from_name), live.place(to, to_name));
                let node = live.names.remove(&from).expect("what is renamed has a name");
                live.names.insert(to.clone(), node);
                Op::Rename { node, is_folder: live.lengths[node].is_none(), from, to }
            }
            Call::Link { from, from_name, to, to_name } => {
                let (from, to) = (live.place(from, from_name), live.place(to, to_name));
                let node = live.names[&from];
                live.names.insert(to.clone(), node);
                Op::Link { node, to }
            }
            Call::Remove { folder, name } => {
                let at = live.place(folder, name);
                live.names.remove(&at);
                Op::Remove { at }
            }
        };
        live.ops.push(op);
    }
}
