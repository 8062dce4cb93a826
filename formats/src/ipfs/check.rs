//! Are the blocks of an archive what their names say, and are all there that its pins need?

use std::collections::{HashMap, HashSet};

use repository::check::{CheckedFile, ContentCheck, Finding, Severity};

use super::block::{Cid, Key, Verdict, held_by_name, key, reading, verify};
use super::car::CarReader;
use super::folder::FolderCheck;
use super::links::linked;
use super::{BLOCKS, DIRECT, RECURSIVE};

/// Blocks that are remembered, to see whether one is missing: 16 bytes for each one.
const MOST_BLOCKS: usize = 8 << 20;
/// Links of blocks that come before the first root: 32 bytes for each one.
const MOST_SINGLE: usize = 1 << 20;
/// What is told of each kind.
const MOST_TOLD: usize = 100;

/// Blocks are told apart by a hash. Whoever makes two with the same has only kept a remark from being made.
const SECRET: [u8; 32] = [0; 32];

/// The check of the archives of IPFS nodes, and of the folders of their repositories.
pub struct IpfsCheck {
    now: Now,
    seen: HashSet<Key>,
    /// What something links to that has not come by.
    wanted: HashSet<Key>,
    /// Blocks before the first root, by how they are read. They are pinned alone: what they link to need not be
    /// there, unless something else links to them.
    single: HashMap<Key, Single>,
    single_links: usize,
    is_whole: bool,
    folder: FolderCheck,
}

#[derive(Default)]
struct Single {
    is_followed: bool,
    /// Each by its block, and by how that is read.
    links: Vec<(Key, Key)>,
}

#[derive(Default)]
enum Now {
    #[default]
    Nothing,
    Blocks(Box<Blocks>),
    /// A file of a repository's folder.
    Folder,
}

struct Blocks {
    reader: CarReader,
    path: Vec<u8>,
    findings: Vec<Finding>,
    wrong: u64,
    ended: bool,
    /// The first root has come: all from here on is there with what it links to.
    is_after_root: bool,
}

impl Default for IpfsCheck {
    fn default() -> Self {
        Self {
            now: Now::Nothing,
            seen: HashSet::new(),
            wanted: HashSet::new(),
            single: HashMap::new(),
            single_links: 0,
            is_whole: true,
            folder: FolderCheck::default(),
        }
    }
}

impl IpfsCheck {
    /// One that compares blocks with their names, and remembers none of them: for who does not ask what is missing.
    pub fn of_each_alone() -> Self {
        Self { is_whole: false, folder: FolderCheck::of_each_alone(), ..Self::default() }
    }

    /// Something that is kept with all below it needs this block.
    fn needs(&mut self, cid: &Cid) {
        if let Some(single) = self.single.get_mut(&reading(&SECRET, cid)) {
            single.is_followed = true;
        }
        let block = key(&SECRET, cid);
        if !self.seen.contains(&block) {
            self.wanted.insert(block);
        }
    }

    /// A block that is what its name says has come.
    fn came(&mut self, cid: &Cid, block: &[u8], is_single: bool) {
        let held = self.seen.len() + self.wanted.len();
        self.is_whole &= held < MOST_BLOCKS && self.single_links < MOST_SINGLE;
        if !self.is_whole {
            return;
        }
        let its_key = key(&SECRET, cid);
        self.wanted.remove(&its_key);
        self.seen.insert(its_key);
        let linked = linked(cid, block).unwrap_or_default();
        if is_single {
            let links: Vec<_> =
                linked.iter().map(|link| (key(&SECRET, link), reading(&SECRET, link))).collect();
            self.single_links += links.len();
            self.single.insert(reading(&SECRET, cid), Single { is_followed: false, links });
        } else {
            linked.iter().for_each(|link| self.needs(link));
        }
    }

    /// Single blocks to which something else leads are there with what they link to.
    fn follow_single(&mut self) {
        let followed = self.single.iter().filter(|(_, single)| single.is_followed);
        let mut left: Vec<Key> = followed.map(|(its_key, _)| *its_key).collect();
        while let Some(its_key) = left.pop() {
            let links = self.single.get_mut(&its_key).map(|single| std::mem::take(&mut single.links));
            for (block, read) in links.unwrap_or_default() {
                if !self.seen.contains(&block) {
                    self.wanted.insert(block);
                }
                if let Some(single) = self.single.get_mut(&read).filter(|single| !single.is_followed) {
                    single.is_followed = true;
                    left.push(read);
                }
            }
        }
    }
}

impl ContentCheck for IpfsCheck {
    fn file(&mut self, file: CheckedFile<'_>) -> bool {
        self.now = Now::Nothing;
        if file.path == BLOCKS.as_bytes() {
            let blocks = Blocks {
                reader: CarReader::default(),
                path: file.path.to_vec(),
                findings: Vec::new(),
                wrong: 0,
                ended: false,
                is_after_root: false,
            };
            self.now = Now::Blocks(Box::new(blocks));
            return true;
        }
        if FolderCheck::is_of(file.path) {
            self.now = Now::Folder;
            return self.folder.file(file);
        }
        let below = |folder: &str| {
            let name = file.path.strip_prefix(folder.as_bytes())?.strip_prefix(b"/")?;
            std::str::from_utf8(name).ok()?.parse::<Cid>().ok()
        };
        if let Some(cid) = below(RECURSIVE) {
            match held_by_name(&cid) {
                Some(bytes) => linked(&cid, bytes).unwrap_or_default().iter().for_each(|cid| self.needs(cid)),
                None => self.needs(&cid),
            }
        } else if let Some(block) =
            below(DIRECT).filter(|cid| held_by_name(cid).is_none()).map(|cid| key(&SECRET, &cid))
            && !self.seen.contains(&block)
        {
            self.wanted.insert(block);
        }
        false
    }

    fn bytes(&mut self, bytes: &[u8]) -> bool {
        let mut blocks = match &mut self.now {
            Now::Blocks(_) => match std::mem::take(&mut self.now) {
                Now::Blocks(blocks) => blocks,
                _ => return false,
            },
            Now::Folder => return self.folder.bytes(bytes),
            Now::Nothing => return false,
        };
        let Blocks { reader, path, findings, wrong, ended, is_after_root } = &mut *blocks;
        let read = reader.read(bytes, |section| {
            if section.is_root && !*is_after_root {
                *is_after_root = true;
                self.needs(&section.cid);
            }
            if verify(&section.cid, &section.block) == Verdict::Wrong {
                *wrong += 1;
                if findings.len() < MOST_TOLD {
                    let what = format!("the block {} is not what its name says", section.cid);
                    findings.push(Finding { path: path.clone(), what, severity: Severity::Broken });
                }
                return true;
            }
            self.came(&section.cid, &section.block, !*is_after_root);
            true
        });
        if let Err(error) = read {
            let what = error.to_string();
            findings.push(Finding { path: path.clone(), what, severity: Severity::Broken });
            *ended = true;
        }
        let goes_on = !*ended;
        self.now = Now::Blocks(blocks);
        goes_on
    }

    fn file_end(&mut self) -> Vec<Finding> {
        let Blocks { reader, path, mut findings, wrong, ended, .. } = match std::mem::take(&mut self.now) {
            Now::Blocks(blocks) => *blocks,
            Now::Folder => {
                self.now = Now::Folder;
                return self.folder.file_end();
            }
            Now::Nothing => return Vec::new(),
        };
        if let Some(root) = reader.root().copied() {
            self.needs(&root);
        }
        if let (false, Err(error)) = (ended, reader.end()) {
            let what = error.to_string();
            findings.push(Finding { path: path.clone(), what, severity: Severity::Broken });
        }
        if wrong > MOST_TOLD as u64 {
            let what = format!("{} more blocks are not what their names say", wrong - MOST_TOLD as u64);
            findings.push(Finding { path, what, severity: Severity::Broken });
        }
        findings
    }

    fn is_undecided(&self) -> bool {
        matches!(self.now, Now::Folder) && self.folder.is_undecided()
    }

    fn makes_incomplete(&self) -> bool {
        true
    }

    fn held_back(&mut self) -> Vec<Finding> {
        self.folder.held_back()
    }

    /// What the node lacked is lacking here; that the backup is incomplete was told when it was made.
    fn end(&mut self) -> Vec<Finding> {
        let of_folder = self.folder.end();
        if !of_folder.is_empty() {
            return of_folder;
        }
        self.follow_single();
        let what = match (self.is_whole, self.wanted.len()) {
            (true, 0) => return Vec::new(),
            (true, missing) => format!("{missing} blocks that its pins or files need are not in it"),
            (false, _) => {
                format!("it was not checked that no block is missing: there are more than {MOST_BLOCKS}")
            }
        };
        vec![Finding { path: Vec::new(), what, severity: Severity::Told }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipfs::{codec, dag_pb, header, named, section_head};

    type Block = (Cid, Vec<u8>);

    fn raw(bytes: &[u8]) -> Block {
        (named(codec::RAW, bytes), bytes.to_vec())
    }

    fn folder(links: &[(&str, Cid)]) -> Block {
        let block = dag_pb::node(links, &[8, 1]);
        (named(codec::DAG_PB, &block), block)
    }

    fn car(root: &Cid, blocks: &[&Block]) -> Vec<u8> {
        let mut car = header(&[*root]);
        for (cid, bytes) in blocks {
            car.extend(section_head(cid, bytes.len()));
            car.extend(bytes);
        }
        car
    }

    fn found(car: &[u8], pins: &[Cid]) -> Vec<String> {
        let mut check = IpfsCheck::default();
        assert!(check.file(CheckedFile { path: BLOCKS.as_bytes(), length: 0, is_proven: false }));
        let _ = car.chunks(7).all(|part| check.bytes(part));
        let mut findings = check.file_end();
        for pin in pins {
            let path = format!("{RECURSIVE}/{pin}");
            assert!(!check.file(CheckedFile { path: path.as_bytes(), length: 0, is_proven: false }));
        }
        findings.extend(check.end());
        findings.iter().map(|finding| format!("{:?} {finding}", finding.severity)).collect()
    }

    #[test]
    fn false_and_missing_blocks_and_a_cut_file_are_told() {
        let (one, two) = (raw(b"one"), raw(b"two"));
        let root = folder(&[("1", one.0), ("2", two.0)]);
        let car = |blocks: &[&Block]| car(&root.0, blocks);
        let whole = car(&[&root, &one, &two]);
        assert_eq!(found(&whole, &[root.0]), [""; 0]);
        let missing = "Told 1 blocks that its pins or files need are not in it";
        assert_eq!(found(&car(&[&root, &one]), &[root.0]), [missing]);
        assert_eq!(found(&whole, &[root.0, raw(b"pinned").0]), [missing]);
        let false_one = (two.0, b"twO".to_vec());
        let wrong = format!("Broken blocks.car: the block {} is not what its name says", two.0);
        assert_eq!(found(&car(&[&root, &one, &false_one]), &[]), [wrong.as_str(), missing]);
        let cut = format!(
            "Broken blocks.car: it is no file of blocks: its end in the middle of something at byte {}",
            car(&[&root, &one]).len()
        );
        assert_eq!(found(&whole[..whole.len() - 1], &[]), [cut.as_str(), missing]);
        assert!(found(b"no car", &[])[0].contains("it is no file of blocks"));
    }

    #[test]
    fn what_is_pinned_alone_needs_nothing_unless_something_else_leads_to_it() {
        let missing = "Told 1 blocks that its pins or files need are not in it";
        let (leaf, empty) = (raw(b"leaf"), folder(&[]));
        let alone = folder(&[("leaf", leaf.0)]);
        // Pinned alone: only itself.
        assert_eq!(found(&car(&empty.0, &[&alone, &empty]), &[]), [""; 0]);
        // Pinned with all below it, too; or among the files; or below another one that is.
        assert_eq!(found(&car(&empty.0, &[&alone, &empty]), &[alone.0]), [missing]);
        let files = folder(&[("alone", alone.0)]);
        assert_eq!(found(&car(&files.0, &[&alone, &files]), &[]), [missing]);
        assert_eq!(found(&car(&files.0, &[&alone, &files, &leaf]), &[]), [""; 0]);
        let above = folder(&[("above", files.0)]);
        assert_eq!(found(&car(&above.0, &[&alone, &files, &above]), &[]), [missing]);
        // The root of the files is needed, too.
        assert_eq!(found(&car(&files.0, &[&alone]), &[]), [missing]);
        assert_eq!(found(&car(&empty.0, &[]), &[]), [missing]);
    }

    #[test]
    fn a_folder_that_came_as_raw_bytes_first_is_followed_when_it_comes_as_a_folder() {
        let leaf = raw(b"leaf");
        let folder = self::folder(&[("leaf", leaf.0)]);
        let as_raw = (Cid::new_v1(codec::RAW, *folder.0.hash()), folder.1.clone());
        let missing = "Told 1 blocks that its pins or files need are not in it";
        let root = self::folder(&[("1", as_raw.0), ("2", folder.0)]);
        assert_eq!(found(&car(&root.0, &[&root, &as_raw, &folder]), &[]), [missing]);
        assert_eq!(found(&car(&root.0, &[&root, &as_raw, &folder, &leaf]), &[]), [""; 0]);
    }
}
