//! Refs: from their two copies, or with the key from the archive's own pages.
//!
//! The SHA-256 in `backup.json` says whether they came out right; what does not have it is not written.

use std::collections::{BTreeSet, HashMap};

use super::bytes::merged;
use super::{Repair, Repaired};
use crate::archive::entry::{EntryKind, Pieces};
use crate::backup::listing::MAX_REFS;
use crate::backup::manifest::BackupRecord;
use crate::error::RepositoryError;
use crate::ids::{BlobId, SegmentId};
use crate::index::DomainIndex;
use crate::keys::KeyRing;
use crate::layout;
use crate::names::SourceId;
use crate::read::ArchiveReader;
use crate::refs::{BlobAddress, Refs};
use crate::signed::Sha256;

/// The most ways to try where blobs lie at several addresses.
const MOST_TRIES: usize = 4_096;

impl Repair<'_> {
    pub(super) fn all_refs(&self, repaired: &mut Repaired) -> Result<(), RepositoryError> {
        for record in self.records()? {
            for archive in &record.archives {
                let Some(sum) = archive.refs else { continue };
                let path = layout::refs(&layout::backup(&record.name), &archive.source);
                let file = self.read(&path, MAX_REFS)?.unwrap_or_default();
                if Sha256::of(&file) == sum {
                    continue;
                }
                if let Some(right) = self.right_refs(&record, &archive.source, &file, sum)? {
                    self.put(&path, &right)?;
                    repaired.mended.push(format!("{path} was made anew"));
                } else if self.keys.is_none() {
                    repaired.left.push(format!("{path} is damaged; it can be made anew with the key"));
                }
            }
        }
        Ok(())
    }

    fn right_refs(
        &self,
        record: &BackupRecord,
        source: &SourceId,
        file: &[u8],
        sum: Sha256,
    ) -> Result<Option<Vec<u8>>, RepositoryError> {
        let is_right = |file: &[u8]| Sha256::of(file) == sum;
        let from_copies = Refs::decode(file).ok().map(|refs| refs.encode()).filter(|file| is_right(file));
        if let Some(right) = from_copies.or_else(|| from_both(file, is_right)) {
            return Ok(Some(right));
        }
        let Some(keys) = self.keys else { return Ok(None) };
        match from_pages(self, keys, record, source, is_right) {
            Err(error) if error.is_of_one_object() => Ok(None),
            other => other,
        }
    }
}

/// The file from what its two copies have in common.
fn from_both(file: &[u8], is_right: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    /// Magic, version, reserved, length, checksum.
    const HEAD: usize = 8 + 2 + 2 + 8 + 32;
    let payloads = file.get(HEAD..).filter(|rest| rest.len() % 2 == 0)?;
    let (first, second) = payloads.split_at(payloads.len() / 2);
    let encoded = |payload: &[u8]| Refs::decode_payload(payload).ok().map(|refs| refs.encode());
    let whole = merged(first, second, |payload| encoded(payload).is_some_and(|file| is_right(&file)))?;
    encoded(&whole)
}

fn from_pages(
    repair: &Repair<'_>,
    keys: &KeyRing,
    record: &BackupRecord,
    source: &SourceId,
    is_right: impl Fn(&[u8]) -> bool,
) -> Result<Option<Vec<u8>>, RepositoryError> {
    let manifest = repair.repository.archive(record, source)?;
    let mut index = repair.repository.load_index(&manifest.domain)?.index;
    index.set_unsound(repair.repository.quarantined()?);
    let problems = manifest.problems;
    let everything = everything(&index, manifest.domain);
    let addresses = addresses(&index);
    let mut reader = ArchiveReader::with(repair.repository, keys, source, manifest, everything, index);
    let mut ids = BTreeSet::from([reader.root()?]);
    ids.extend(problems);
    for line in reader.page_table()?.pages {
        ids.insert(line.id);
        for entry in reader.page(&line.id)? {
            let EntryKind::File(content) = entry.kind else { continue };
            if let Pieces::Listed(lists) = &content.pieces {
                ids.extend(lists);
            }
            ids.extend(reader.pieces(&content.pieces)?.iter().map(|piece| piece.blob));
        }
    }
    Ok(that_fit(&ids, &addresses, Refs::new(reader.domain()), is_right))
}

type Addresses = HashMap<BlobId, Vec<(BlobAddress, u32)>>;

/// Every address of every blob, absent ones too, with the number of lines of its segment's table.
fn addresses(index: &DomainIndex) -> Addresses {
    let mut addresses = Addresses::new();
    for (segment, lines) in index.tables(0, |_| true) {
        for (ordinal, line) in (0..).zip(&lines) {
            let address = BlobAddress { segment, ordinal };
            addresses.entry(line.id).or_default().push((address, lines.len() as u32));
        }
    }
    addresses.values_mut().for_each(|found| found.sort_unstable_by_key(|(address, _)| *address));
    addresses
}

fn everything(index: &DomainIndex, domain: crate::ids::DomainId) -> Refs {
    let mut refs = Refs::new(domain);
    for (segment, lines) in index.tables(0, |_| true) {
        for (ordinal, _) in (0..).zip(&lines).filter(|(_, line)| !line.absent) {
            refs.add(BlobAddress { segment, ordinal }, lines.len() as u32);
        }
    }
    refs
}

/// The refs to `ids` that are right. A blob may lie at several addresses: those in segments that are needed
/// anyway are tried first, then the others.
fn that_fit(
    ids: &BTreeSet<BlobId>,
    addresses: &Addresses,
    mut sure: Refs,
    is_right: impl Fn(&[u8]) -> bool,
) -> Option<Vec<u8>> {
    let mut several = Vec::new();
    for id in ids {
        match addresses.get(id)?.as_slice() {
            [(only, blobs)] => sure.add(*only, *blobs),
            choices => several.push(choices.to_vec()),
        }
    }
    let needed: BTreeSet<SegmentId> = sure.segments().map(|(segment, _)| segment).collect();
    for choices in &mut several {
        choices.sort_by_key(|(address, _)| !needed.contains(&address.segment));
    }
    let ways = several.iter().try_fold(1_usize, |ways, choices| ways.checked_mul(choices.len()))?;
    (0..ways.min(MOST_TRIES)).find_map(|mut way| {
        let mut refs = sure.clone();
        for choices in &several {
            let (address, blobs) = choices[way % choices.len()];
            way /= choices.len();
            refs.add(address, blobs);
        }
        Some(refs.encode()).filter(|file| is_right(file))
    })
}
