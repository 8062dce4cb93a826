//! The files of a node, as entries: folders, and for each file a link to `/ipfs/` and its CID.
//!
//! The content is among the blocks; what is here shows where it belongs, in a list and in a restored folder.
//!
//! Must stay true: folders may hold one another many times over, so what is listed of them all together has a limit;
//! a restore takes a list for a list only if each block of it was there and right.

use std::collections::HashSet;

use bytes::Bytes;
use formats::ipfs::{Cid, Directory, Node, Verdict, codec, held_by_name, verify};
use repository::archive::path::EntryPath;

use super::hold;
use super::rpc::{Rpc, Trouble};

/// Names in one folder; more are not shown one by one.
const MOST_NAMES: usize = 1 << 20;
/// Blocks that one large folder is made of.
const MOST_SHARDS: usize = 1 << 18;
/// Names that are shown in all.
const MOST_SHOWN: usize = 4 << 20;
/// Folders within folders; what lies deeper is not shown.
const DEEPEST: usize = 1_000;

/// Gives blocks that a node has. Whether they are right is for others to say.
pub(crate) trait Blocks {
    /// The bytes under this name.
    fn get(&mut self, cid: &Cid) -> Result<Bytes, Trouble>;

    /// This one is asked for soon.
    fn soon(&mut self, cid: &Cid) {
        let _ = cid;
    }
}

impl Blocks for &Rpc {
    fn get(&mut self, cid: &Cid) -> Result<Bytes, Trouble> {
        self.runtime().block_on(self.block(cid))
    }
}

/// What is shown of a name.
#[derive(Debug)]
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
    /// Names that may still be listed.
    left: usize,
}

impl Files {
    /// Those below `root`, shown below `at`.
    pub(super) fn new(at: EntryPath, root: Cid) -> Self {
        Self { levels: vec![vec![(at, root)]], odd: None, left: MOST_SHOWN }
    }

    /// The next one; `None` at the end. A folder whose blocks are not there is shown empty: its blocks were told.
    pub(super) fn next(&mut self, blocks: &mut dyn Blocks) -> Result<Option<Shown>, Trouble> {
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
            const TOO_MUCH: &str = "there is too much below it to be shown; its blocks are there";
            if self.levels.len() > DEEPEST || self.left == 0 {
                return Ok(Some(Shown::Not(path, TOO_MUCH)));
            }
            let names = match read(blocks, &cid, self.left.min(MOST_NAMES), true)? {
                Listed::Names(names) => names,
                Listed::NoFolder => return Ok(Some(Shown::File(path, cid))),
                Listed::TooMuch => {
                    // What was listed in vain has cost as much.
                    self.left = self.left.saturating_sub(MOST_NAMES);
                    return Ok(Some(Shown::Not(path, TOO_MUCH)));
                }
            };
            self.left -= names.len();
            let is_root = self.levels.len() == 1;
            let mut below = Vec::with_capacity(names.len());
            for (name, cid) in names.into_iter().filter(|(name, _)| !(is_root && hold::is_ours(name))) {
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

enum Listed {
    Names(Names),
    NoFolder,
    TooMuch,
}

/// What a folder holds, all of it.
pub(crate) fn list(blocks: &mut dyn Blocks, folder: &Cid) -> Result<Names, Trouble> {
    match read(blocks, folder, MOST_NAMES, false)? {
        Listed::Names(names) => Ok(names),
        Listed::NoFolder => Err(Trouble::new("what should be a folder of its files is none")),
        Listed::TooMuch => Err(Trouble::new("a folder of its files holds too much to be listed")),
    }
}

/// Lists a folder, with or without the names in blocks that are not there.
fn read(blocks: &mut dyn Blocks, folder: &Cid, most: usize, leaves_out: bool) -> Result<Listed, Trouble> {
    let (mut names, mut left, mut seen) = (Names::new(), vec![*folder], HashSet::from([*folder]));
    while let Some(cid) = left.pop() {
        let part = match block(blocks, &cid) {
            Ok(part) => part,
            Err(trouble) if trouble.is_of_each() || !leaves_out => return Err(trouble),
            Err(_) => continue,
        };
        match part {
            Some(Directory::Plain(found)) => names.extend(found),
            Some(Directory::Shard(found, shards)) => {
                names.extend(found);
                // Each name has one place only: a part that comes twice lists nothing new.
                left.extend(shards.into_iter().filter(|shard| seen.insert(*shard)));
            }
            None if cid == *folder => return Ok(Listed::NoFolder),
            None if leaves_out => {}
            None => return Err(Trouble::new("a part of a folder of its files is none")),
        }
        if names.len() > most || seen.len() > MOST_SHARDS {
            return Ok(Listed::TooMuch);
        }
    }
    Ok(Listed::Names(names))
}

/// A block that is right, as a part of a folder if it is one.
fn block(blocks: &mut dyn Blocks, cid: &Cid) -> Result<Option<Directory>, Trouble> {
    if cid.codec() != codec::DAG_PB {
        return Ok(None);
    }
    let bytes = match held_by_name(cid) {
        Some(bytes) => Bytes::copy_from_slice(bytes),
        None => blocks.get(cid)?,
    };
    if verify(cid, &bytes) != Verdict::Right {
        return Err(Trouble::new("it gives a false block of a folder of its files"));
    }
    let node = Node::read(&bytes).map_err(|_| Trouble::new("a folder of its files cannot be read"))?;
    Ok(node.directory())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::HashMap;

    use formats::ipfs::{named, node};

    use super::*;

    /// A node's blocks, and how often each was asked for.
    #[derive(Debug, Default)]
    pub(crate) struct Held {
        pub(crate) blocks: HashMap<Cid, Bytes>,
        pub(crate) asked: HashMap<Cid, usize>,
    }

    impl Held {
        pub(crate) fn add(&mut self, codec: u64, bytes: &[u8]) -> Cid {
            let cid = named(codec, bytes);
            self.blocks.insert(cid, Bytes::copy_from_slice(bytes));
            cid
        }

        pub(crate) fn folder(&mut self, links: &[(&str, Cid)]) -> Cid {
            self.add(codec::DAG_PB, &node(links, &[8, 1]))
        }

        /// A part of a large folder; the names of further parts are two letters.
        pub(crate) fn shard(&mut self, links: &[(&str, Cid)]) -> Cid {
            self.add(codec::DAG_PB, &node(links, &[8, 5, 0x30, 0x80, 2]))
        }
    }

    impl Blocks for Held {
        fn get(&mut self, cid: &Cid) -> Result<Bytes, Trouble> {
            *self.asked.entry(*cid).or_default() += 1;
            let held = self.blocks.iter().find(|(held, _)| held.hash() == cid.hash());
            held.map(|(_, bytes)| bytes.clone()).ok_or_else(|| Trouble::new("it is not here"))
        }
    }

    #[test]
    fn a_restore_takes_no_list_that_lacks_a_part() {
        let mut held = Held::default();
        let leaf = held.add(codec::RAW, b"leaf");
        let part = held.shard(&[("01b", leaf)]);
        let folder = held.shard(&[("00a", leaf), ("01", part)]);
        let names: Vec<Vec<u8>> =
            list(&mut held, &folder).expect("whole").into_iter().map(|one| one.0).collect();
        assert_eq!(names, [b"a", b"b"]);
        let whole = held.blocks.insert(part, Bytes::from_static(b"\x0a\x02\x08\x01"));
        assert!(list(&mut held, &folder).expect_err("it is false").to_string().contains("false"));
        held.blocks.remove(&part);
        assert!(list(&mut held, &folder).is_err(), "a part is not there");
        // For a look, what is there will do.
        assert!(matches!(read(&mut held, &folder, 10, true), Ok(Listed::Names(names)) if names.len() == 1));
        held.blocks.insert(part, whole.expect("it was there"));
        held.blocks.remove(&folder);
        assert!(list(&mut held, &folder).is_err(), "nothing of it is there");
        assert!(list(&mut held, &leaf).is_err(), "it is no folder");
    }

    #[test]
    fn parts_that_list_one_another_many_times_over_are_read_once() {
        let mut held = Held::default();
        let leaf = held.add(codec::RAW, b"leaf");
        let mut part = held.shard(&[("00name", leaf)]);
        for _ in 0..40 {
            let twice: Vec<(String, Cid)> = (0..100).map(|at| (format!("{at:02X}"), part)).collect();
            let twice: Vec<(&str, Cid)> = twice.iter().map(|(name, cid)| (name.as_str(), *cid)).collect();
            part = held.shard(&twice);
        }
        assert_eq!(list(&mut held, &part).expect("listed").len(), 1);
        assert!(held.asked.values().all(|asked| *asked == 1));
    }

    #[test]
    fn folders_that_hold_one_another_many_times_over_come_to_an_end() {
        let mut held = Held::default();
        let leaf = held.add(codec::RAW, b"leaf");
        let mut folder = held.folder(&[("a", leaf)]);
        for _ in 0..60 {
            folder = held.folder(&[("a", folder), ("b", folder)]);
        }
        let mut files = Files::new(EntryPath::new(b"mfs").expect("a path"), folder);
        files.left = 500;
        let (mut shown, mut not) = (0, 0);
        while let Some(one) = files.next(&mut held).expect("it is listed") {
            match one {
                Shown::Not(..) => not += 1,
                _ => shown += 1,
            }
        }
        assert!((250..=501).contains(&(shown + not)) && not > 0, "{shown} shown, {not} not");
    }

    #[test]
    fn what_holds_the_blocks_is_no_file_of_the_node() {
        let mut held = Held::default();
        let leaf = held.add(codec::RAW, b"leaf");
        let ours = format!("{}0011", hold::PLACE);
        let root = held.folder(&[("a", leaf), (&ours, leaf)]);
        let mut files = Files::new(EntryPath::new(b"mfs").expect("a path"), root);
        let mut shown = Vec::new();
        while let Some(one) = files.next(&mut held).expect("it is listed") {
            shown.push(format!("{one:?}"));
        }
        assert!(shown.len() == 2 && !format!("{shown:?}").contains("neurashield"), "{shown:?}");
    }
}
