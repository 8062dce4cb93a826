//! Are the blocks of an archive what their names say, and are all there that its pins need?

use std::collections::HashSet;

use cid::multibase::Base;
use multihash_codetable::Multihash;
use repository::check::{CheckedFile, ContentCheck, Finding, Severity};

use super::block::{Cid, Key, Verdict, key, verify};
use super::car::CarReader;
use super::links::links;
use super::{BLOCKS, DIRECT, MAX_BLOCK, RECURSIVE};

/// Blocks that are remembered, to see whether one is missing: 16 bytes for each one.
const MOST_BLOCKS: usize = 8 << 20;
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
    is_whole: bool,
}

#[derive(Default)]
enum Now {
    #[default]
    Nothing,
    Blocks(Box<Blocks>),
    /// A file of a repository: one block, which the file's name names.
    Block(Vec<u8>, Multihash, Vec<u8>),
}

struct Blocks {
    reader: CarReader,
    path: Vec<u8>,
    findings: Vec<Finding>,
    wrong: u64,
    ended: bool,
}

impl Default for IpfsCheck {
    fn default() -> Self {
        Self { now: Now::Nothing, seen: HashSet::new(), wanted: HashSet::new(), is_whole: true }
    }
}

/// The hash in the path of a block in a repository: `blocks/XX/CIQ….data`.
fn named_by(path: &[u8]) -> Option<Multihash> {
    let name = path.strip_prefix(b"blocks/")?.rsplit(|byte| *byte == b'/').next()?.strip_suffix(b".data")?;
    let bytes = Base::Base32Upper.decode(std::str::from_utf8(name).ok()?).ok()?;
    Multihash::from_bytes(&bytes).ok()
}

impl ContentCheck for IpfsCheck {
    fn file(&mut self, file: CheckedFile<'_>) -> bool {
        if file.path == BLOCKS.as_bytes() {
            let path = file.path.to_vec();
            let blocks =
                Blocks { reader: CarReader::default(), path, findings: Vec::new(), wrong: 0, ended: false };
            self.now = Now::Blocks(Box::new(blocks));
            return true;
        }
        if let Some(hash) = named_by(file.path).filter(|_| file.length <= MAX_BLOCK as u64) {
            self.now = Now::Block(file.path.to_vec(), hash, Vec::with_capacity(file.length as usize));
            return true;
        }
        let below =
            |folder: &str| file.path.strip_prefix(folder.as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
        let pinned = below(RECURSIVE).or(below(DIRECT)).and_then(|name| std::str::from_utf8(name).ok());
        if let Some(Ok(cid)) = pinned.map(str::parse::<Cid>)
            && !self.seen.contains(&key(&SECRET, &cid))
        {
            self.wanted.insert(key(&SECRET, &cid));
        }
        false
    }

    fn bytes(&mut self, bytes: &[u8]) -> bool {
        let Self { now, seen, wanted, is_whole } = self;
        let Blocks { reader, path, findings, wrong, ended } = match now {
            Now::Blocks(blocks) => &mut **blocks,
            Now::Block(.., held) => {
                held.extend_from_slice(bytes);
                return held.len() <= MAX_BLOCK;
            }
            Now::Nothing => return false,
        };
        let read = reader.read(bytes, |section| {
            let verdict = verify(&section.cid, &section.block);
            if verdict == Verdict::Wrong {
                *wrong += 1;
                if findings.len() < MOST_TOLD {
                    let what = format!("the block {} is not what its name says", section.cid);
                    findings.push(Finding { path: path.clone(), what, severity: Severity::Broken });
                }
                return true;
            }
            *is_whole &= seen.len() + wanted.len() < MOST_BLOCKS;
            if *is_whole {
                let its_key = key(&SECRET, &section.cid);
                wanted.remove(&its_key);
                seen.insert(its_key);
                let linked = links(&section.cid, &section.block).unwrap_or_default();
                wanted.extend(linked.iter().map(|cid| key(&SECRET, cid)).filter(|link| !seen.contains(link)));
            }
            true
        });
        if let Err(error) = read {
            let what = error.to_string();
            findings.push(Finding { path: path.clone(), what, severity: Severity::Broken });
            *ended = true;
            return false;
        }
        true
    }

    fn file_end(&mut self) -> Vec<Finding> {
        let Blocks { reader, path, mut findings, wrong, ended } = match std::mem::take(&mut self.now) {
            Now::Blocks(blocks) => *blocks,
            Now::Block(path, hash, held) => {
                // How it is read does not matter for what its bytes are.
                let verdict = verify(&Cid::new_v1(super::codec::RAW, hash), &held);
                let what = "the block is not what its name says".to_owned();
                let wrong = Finding { path, what, severity: Severity::Broken };
                return (verdict == Verdict::Wrong).then_some(wrong).into_iter().collect();
            }
            Now::Nothing => return Vec::new(),
        };
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

    /// What the node lacked is lacking here; that the backup is incomplete was told when it was made.
    fn end(&mut self) -> Vec<Finding> {
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
    use crate::ipfs::{codec, dag_pb, header, section_head};
    use multihash_codetable::{Code, MultihashDigest};

    fn found(car: &[u8], pins: &[Cid]) -> Vec<String> {
        let mut check = IpfsCheck::default();
        let file = |path| CheckedFile { path, length: 0, is_proven: false };
        assert!(check.file(file(BLOCKS.as_bytes())));
        let _ = car.chunks(7).all(|part| check.bytes(part));
        let mut findings = check.file_end();
        for pin in pins {
            assert!(!check.file(file(format!("{RECURSIVE}/{pin}").as_bytes())));
        }
        findings.extend(check.end());
        findings.iter().map(|finding| format!("{:?} {finding}", finding.severity)).collect()
    }

    #[test]
    fn false_and_missing_blocks_and_a_cut_file_are_told() {
        let raw = |bytes: &[u8]| (Cid::new_v1(codec::RAW, Code::Sha2_256.digest(bytes)), bytes.to_vec());
        let (one, two) = (raw(b"one"), raw(b"two"));
        let root = dag_pb::node(&[("1", one.0), ("2", two.0)], &[8, 1]);
        let root = (Cid::new_v1(codec::DAG_PB, Code::Sha2_256.digest(&root)), root);
        let car = |blocks: &[&(Cid, Vec<u8>)]| {
            let mut car = header(&[root.0]);
            for (cid, bytes) in blocks {
                car.extend(section_head(cid, bytes.len()));
                car.extend(bytes);
            }
            car
        };
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
        // In a repository's folder each block is a file.
        let hash = Base::Base32Upper.encode(one.0.hash().to_bytes());
        let path = format!("blocks/XX/{hash}.data");
        for (bytes, told) in [(&b"one"[..], 0), (b"onE", 1), (b"", 1)] {
            let mut check = IpfsCheck::default();
            assert!(check.file(CheckedFile { path: path.as_bytes(), length: 3, is_proven: false }));
            check.bytes(bytes);
            assert_eq!(check.file_end().len(), told);
        }
        assert!(found(b"no car", &[])[0].contains("it is no file of blocks"));
    }
}
