//! `nsctl export --format car`: the blocks of an IPFS node as one CAR, which `ipfs dag import` reads. Its header names
//! what is pinned with all below it, and the root of the files.
//!
//! An archive by a node's RPC has its blocks in one CAR already, whose header names the root of the files alone. In
//! one of a repository's folder each block is a file that is called by its hash: how it is read is known from what
//! links to it, so the archive is gone over twice.
//!
//! Must stay true: no block is written that is not what its name says; what is left out is told, and the command does
//! not end as if it were done.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use formats::ipfs::{
    BLOCKS, CarReader, Cid, DIRECT, IndexReader, IpfsCheck, Key, MAX_BLOCK, MAX_INDEX_FILE, RECURSIVE,
    Verdict, block_at, codec, header, held_by_name, key, linked, section_head, verify,
};
use proto::v1;
use repository::check::{CheckedFile, ContentCheck};

use super::dump::{Pieces, blocking};
use super::export::{cannot_write, create};
use crate::client::Client;
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::words::size;
use crate::output::{Voice, warn};

/// A header with more bytes is refused by readers.
const MOST_ROOTS: usize = 30 << 20;
/// Blocks of which is remembered how they are read; further ones are given as raw bytes.
const MOST_BLOCKS: usize = 8 << 20;
const INDEX: &[u8] = b"datastore/";
const SECRET: [u8; 32] = [0; 32];
const WAYS: [u64; 3] = [codec::DAG_PB, codec::DAG_CBOR, codec::DAG_JSON];

pub(super) async fn run(
    client: Client,
    request: v1::ExportArchiveRequest,
    output: &Path,
    voice: Voice,
) -> Ended {
    let first = Pieces::of(client.clone(), request.clone()).await?;
    let second = Pieces::of(client, request).await?;
    if output == Path::new("-") {
        let written = blocking(move || write(first, second, &mut io::stdout().lock())).await;
        return ended(&written.map_err(|error| cannot_write("stdout", &error))?);
    }
    let (name, file) = (output.display().to_string(), create(output)?);
    let written = blocking(move || {
        let mut to = BufWriter::new(&file);
        let written = write(first, second, &mut to)?;
        to.flush()?;
        drop(to);
        file.sync_all().map(|()| written)
    });
    match written.await {
        Ok(written) => {
            let (blocks, bytes) = (written.blocks, size(written.bytes));
            voice.say(format!("{name}: {blocks} blocks, {bytes}, for `ipfs dag import {name}`"));
            ended(&written)
        }
        Err(error) => {
            fs::remove_file(output).ok();
            Err(cannot_write(&name, &error))
        }
    }
}

fn ended(written: &Written) -> Ended {
    for what in &written.left_out {
        warn(what);
    }
    match written.untold + written.left_out.len() as u64 {
        0 => Ok(Exit::Done),
        count => Err(Trouble::new(
            Exit::Incomplete,
            format!("the CAR lacks {count} things that the backup should hold"),
        )
        .because("they are damaged or missing in the backup, see above")
        .hint(
            "`nsctl verify --depth opened` names all damage; take another backup for them. A pin of which a block is \
             missing is not imported",
        )),
    }
}

/// What came of it.
#[derive(Debug, Default)]
struct Written {
    bytes: u64,
    blocks: u64,
    left_out: Vec<String>,
    untold: u64,
}

impl Written {
    fn lacks(&mut self, what: String) {
        match self.left_out.len() {
            ..100 => self.left_out.push(what),
            _ => self.untold += 1,
        }
    }
}

/// In which of [`WAYS`] something links to a block, a bit for each; anybody's block may link to any other in any way.
#[derive(Debug, Clone, Copy, Default)]
struct ReadAs {
    ways: u8,
    /// By a name of version 0, too.
    is_old: bool,
}

/// What the first look at an archive gives.
#[derive(Debug, Default)]
struct Known {
    roots: BTreeSet<Cid>,
    /// How blocks are read that something links to.
    read_as: HashMap<Key, ReadAs>,
    /// The blocks of a folder that are there.
    there: HashSet<Key>,
    has_car: bool,
    has_folder: bool,
}

/// Writes the CAR to `to`, from the tar file of one archive that is given twice.
fn write(first: impl Read, second: impl Read, to: &mut dyn Write) -> io::Result<Written> {
    let mut written = Written::default();
    let known = look(first, &mut written)?;
    if !known.has_car && !known.has_folder {
        return Err(io::Error::other("the archive is none of an IPFS node"));
    }
    let (mut roots, mut length) = (Vec::new(), 0);
    for root in &known.roots {
        length += root.to_bytes().len() + 5;
        match length {
            ..=MOST_ROOTS => roots.push(*root),
            _ => {
                written.lacks(format!("the pin {root} is not named in the header: there is no room for more"))
            }
        }
    }
    let mut put = |written: &mut Written, bytes: &[u8]| {
        written.bytes += bytes.len() as u64;
        to.write_all(bytes)
    };
    put(&mut written, &header(&roots))?;
    let mut tar = tar::Archive::new(second);
    for entry in tar.entries()? {
        let mut entry = entry?;
        let path = entry.path_bytes().into_owned();
        if path == BLOCKS.as_bytes() {
            let mut reader = CarReader::default();
            let mut buffer = vec![0; 1 << 20];
            loop {
                let count = entry.read(&mut buffer)?;
                if count == 0 {
                    break;
                }
                let mut came = Vec::new();
                reader
                    .read(&buffer[..count], |section| {
                        came.push((section.cid, section.block));
                        true
                    })
                    .map_err(io::Error::other)?;
                for (cid, block) in came {
                    section(&mut written, &cid, &block, &mut put)?;
                }
            }
            reader.end().map_err(io::Error::other)?;
        } else if let Some(raw) = block_at(&path).filter(|_| !known.has_car) {
            let block = whole(&mut entry)?;
            let read_as = known.read_as.get(&key(&SECRET, &raw)).copied();
            section(&mut written, &called(&raw, read_as.unwrap_or_default(), &block), &block, &mut put)?;
        }
    }
    Ok(written)
}

fn section(
    written: &mut Written,
    cid: &Cid,
    block: &[u8],
    put: &mut impl FnMut(&mut Written, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    if block.len() > MAX_BLOCK {
        written.lacks(format!("the block {cid} is longer than any that a node takes"));
        return Ok(());
    }
    if verify(cid, block) == Verdict::Wrong {
        written.lacks(format!("the block {cid} is not what its name says"));
        return Ok(());
    }
    put(written, &section_head(cid, block.len()))?;
    put(written, block)?;
    written.blocks += 1;
    Ok(())
}

/// The name of a block that is linked to so: a node that imports it reads each block as it is named, and ends at one
/// that it cannot read, so a way that it cannot be read in does not count.
fn called(raw: &Cid, ReadAs { ways, is_old }: ReadAs, block: &[u8]) -> Cid {
    let linked_so = WAYS.iter().enumerate().filter(|(at, _)| ways & 1 << at != 0);
    let names = linked_so.map(|(_, way)| Cid::new_v1(*way, *raw.hash()));
    match names.into_iter().find(|name| linked(name, block).is_ok()) {
        Some(name) if is_old && name.codec() == codec::DAG_PB => Cid::new_v0(*raw.hash()).unwrap_or(name),
        Some(name) => name,
        None => *raw,
    }
}

/// Learns what is pinned and how blocks are read; what a verification would miss is told.
fn look(tar: impl Read, written: &mut Written) -> io::Result<Known> {
    let (mut known, mut index, mut has_index) = (Known::default(), IndexReader::default(), false);
    let mut check = IpfsCheck::default();
    let mut tar = tar::Archive::new(tar);
    for entry in tar.entries()? {
        let mut entry = entry?;
        let path = entry.path_bytes().into_owned();
        if path == BLOCKS.as_bytes() {
            known.has_car = true;
            // The root of the files is what its header names.
            let (mut reader, mut buffer) = (CarReader::default(), vec![0; 2 << 20]);
            let mut wants = check.file(CheckedFile { path: &path, length: entry.size(), is_proven: false });
            loop {
                let count = entry.read(&mut buffer)?;
                if count == 0 {
                    break;
                }
                if reader.root().is_none() {
                    reader.read(&buffer[..count], |_| false).map_err(io::Error::other)?;
                }
                wants = wants && check.bytes(&buffer[..count]);
            }
            check.file_end();
            known.roots.extend(reader.root());
        } else if let Some(name) = path.strip_prefix(RECURSIVE.as_bytes()) {
            given(&mut check, &path, &[]);
            let name = name.strip_prefix(b"/").and_then(|name| std::str::from_utf8(name).ok());
            known.roots.extend(name.and_then(|name| name.parse::<Cid>().ok()));
        } else if let Some(raw) = block_at(&path) {
            known.has_folder = true;
            let block = whole(&mut entry)?;
            given(&mut check, &path, &block);
            if known.there.len() < MOST_BLOCKS {
                known.there.insert(key(&SECRET, &raw));
            }
            if verify(&raw, &block) != Verdict::Wrong {
                let ways = WAYS.iter().filter_map(|way| linked(&Cid::new_v1(*way, *raw.hash()), &block).ok());
                ways.flatten().for_each(|link| known.link(&link));
            }
        } else if let Some(name) = path.strip_prefix(INDEX).filter(|name| IndexReader::wants(name)) {
            has_index = true;
            let mut bytes = Vec::new();
            if entry.size() > MAX_INDEX_FILE {
                index.unclear("a file of it is too long to be looked at");
            } else {
                entry.read_to_end(&mut bytes)?;
                index.file(name, &bytes);
                given(&mut check, &path, &bytes);
            }
        } else if path.starts_with(DIRECT.as_bytes()) {
            given(&mut check, &path, &[]);
        }
    }
    for finding in check.end() {
        written.lacks(finding.to_string());
    }
    if known.has_folder && !known.has_car {
        match if has_index {
            index.finish().map_err(|error| error.why)
        } else {
            Err("it has no index".to_owned())
        } {
            Ok(pinned) => {
                for cid in pinned.roots() {
                    known.link(cid);
                    let within = held_by_name(cid).and_then(|bytes| linked(cid, bytes).ok());
                    within.into_iter().flatten().for_each(|cid| known.link(&cid));
                }
                known.roots.extend(pinned.recursive);
                let is_there =
                    |cid: &Cid| held_by_name(cid).is_some() || known.there.contains(&key(&SECRET, cid));
                let files = pinned.files.filter(is_there);
                known.roots.extend(files);
            }
            Err(why) => {
                written.lacks(format!("its pins, which cannot be read ({why}): the header names none"))
            }
        }
    }
    Ok(known)
}

/// A whole file for the check. What it says of a false block is said when the block is left out.
fn given(check: &mut IpfsCheck, path: &[u8], bytes: &[u8]) {
    if check.file(CheckedFile { path, length: bytes.len() as u64, is_proven: false }) {
        check.bytes(bytes);
        check.file_end();
    }
}

impl Known {
    /// Something leads to this block in this way.
    fn link(&mut self, cid: &Cid) {
        let its_key = key(&SECRET, cid);
        let Some(at) = WAYS.iter().position(|way| *way == cid.codec()) else { return };
        if self.read_as.len() < MOST_BLOCKS || self.read_as.contains_key(&its_key) {
            let held = self.read_as.entry(its_key).or_default();
            held.ways |= 1 << at;
            held.is_old |= cid.version() == formats::ipfs::Version::V0;
        }
    }
}

/// The bytes of a block's file, up to one more than a block may have.
fn whole(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut block = Vec::new();
    entry.take(MAX_BLOCK as u64 + 1).read_to_end(&mut block)?;
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use formats::ipfs::{named, node};

    #[test]
    fn a_block_is_named_in_no_way_in_which_it_cannot_be_read() {
        let folder = node(&[("a", named(codec::RAW, b"a"))], &[8, 1]);
        let right = named(codec::DAG_PB, &folder);
        let raw = Cid::new_v1(codec::RAW, *right.hash());
        let mut known = Known::default();
        let now = |known: &Known| {
            let read_as = known.read_as.get(&key(&SECRET, &raw)).copied().unwrap_or_default();
            called(&raw, read_as, &folder)
        };
        // Somebody's block links to it as something that it is not.
        for codec in [codec::RAW, codec::DAG_JSON, codec::DAG_CBOR] {
            known.link(&Cid::new_v1(codec, *right.hash()));
            assert_eq!(now(&known), raw);
        }
        known.link(&right);
        assert_eq!(now(&known), right);
        let old = Cid::new_v0(*right.hash()).expect("of SHA-256");
        known.link(&old);
        assert_eq!(now(&known), old);
    }
}
