//! Packs by themselves, whatever they are needed for: how older backups stay proven between the days on
//! which somebody verifies them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use super::look::Meter;
use super::{Depth, Memory, Verification};
use crate::ahead;
use crate::content::IdKey;
use crate::error::RepositoryError;
use crate::ids::{DomainId, PackId};
use crate::index::IndexedPack;
use crate::ingest::{PackVerdict, lock};
use crate::keys::KeyRing;
use crate::layout;
use crate::pack::seal::BlobCipher;
use crate::read::{Proven, open_blob};
use crate::store::{Store, StoreError};

/// A read that fails once may have met a hiccup on the way; one that fails so often is the storage's answer.
pub(crate) const READS: usize = 3;

/// What a read gives, or its error of the last of [`READS`] tries.
pub(crate) fn read_again<T>(read: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    (1..READS).find_map(|_| read().ok()).map_or_else(read, Ok)
}

/// What was found in packs.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Scrubbed {
    /// What is wrong, by pack.
    pub findings: BTreeMap<PackId, String>,
    /// What was made good, a line each.
    pub mended: Vec<String>,
    /// What is known now of each pack.
    pub packs: Vec<PackVerdict>,
    /// Bytes that were read.
    pub bytes: u64,
}

impl Verification<'_> {
    /// Proves packs of a domain to the depth, whichever backups need them.
    pub fn scrub(
        &self,
        domain: &DomainId,
        packs: &BTreeSet<PackId>,
        memory: &Memory<'_>,
    ) -> Result<Scrubbed, RepositoryError> {
        let index = self.repository.load_index(domain)?.index;
        let mut wanted: Vec<&IndexedPack> =
            index.packs().iter().filter(|pack| packs.contains(&pack.id)).collect();
        wanted.sort_by_key(|pack| pack.id);
        wanted.dedup_by_key(|pack| pack.id);
        let mut meter = Meter::new(self.progress, self.cancel);
        meter.total = wanted.iter().map(|pack| pack.length).sum();
        let deeper = |pack: &&IndexedPack| match (self.depth, self.keys) {
            (Depth::Opened, Some(keys)) => self.unopened(keys, pack),
            (Depth::Opened, None) => unreachable!("`opened` is asked for with the keys"),
            _ => Ok(None),
        };
        let mut scrubbed = Scrubbed::default();
        self.look_at(&wanted, memory, &meter, deeper, |pack, looked| {
            if self.depth == Depth::Opened && looked.finding.is_none() {
                memory.witness.opened(&pack.id);
            }
            scrubbed.packs.push(PackVerdict { pack: pack.id, is_sound: looked.finding.is_none() });
            scrubbed.mended.extend(looked.mended);
            scrubbed.findings.extend(looked.finding.map(|finding| (pack.id, finding)));
            Ok(())
        })?;
        scrubbed.packs.sort_unstable_by_key(|verdict| verdict.pack);
        scrubbed.mended.sort_unstable();
        scrubbed.bytes = meter.done();
        Ok(scrubbed)
    }

    fn unopened(&self, keys: &KeyRing, pack: &IndexedPack) -> Result<Option<String>, RepositoryError> {
        let mut damaged = 0;
        each_blob(&**self.repository.store(), keys, pack, |_, _, opened| {
            damaged += usize::from(opened.is_none());
            if self.cancel.is_cancelled() { Err(RepositoryError::Cancelled) } else { Ok(()) }
        })?;
        Ok((damaged > 0).then(|| format!("{damaged} blobs of pack {} do not open", pack.id)))
    }
}

/// Held by the one thread that opens a blob of unusual size: the others' memory is that of usual ones.
static LARGE: Mutex<()> = Mutex::new(());

/// Gives `visit` each blob that the pack should hold, by its segment's place and its ordinal: its sealed
/// bytes if it opens and is what its id says, else nothing. A storage that is out of reach is an error: it
/// says nothing about the blob.
pub(crate) fn each_blob(
    store: &dyn Store,
    keys: &KeyRing,
    pack: &IndexedPack,
    mut visit: impl FnMut(usize, u32, Option<Vec<u8>>) -> Result<(), RepositoryError>,
) -> Result<(), RepositoryError> {
    let path = layout::pack(&pack.id);
    for (nth, placed) in pack.segments.iter().enumerate() {
        let table = &placed.table;
        let cipher = keys.segment_key(&table.header).ok().map(|key| BlobCipher::new(&key));
        let id_key: IdKey = keys.domain_keys_by_id(table.header.context.domain).id_key;
        let mut offset = placed.body_offset();
        for (ordinal, line) in (0..).zip(&table.lines).filter(|(_, line)| !line.absent) {
            let length = u64::from(line.stored_length);
            let alone = (line.plain_length > ahead::MAX_PLAIN).then(|| lock(&LARGE));
            let read = match read_again(|| store.read_range(&path, offset, length)) {
                Err(error) if error.is_unreadable() || error.is_not_found() => None,
                read => Some(read?),
            };
            offset += length;
            let sound = read.filter(|sealed| {
                cipher.as_ref().is_some_and(|cipher| {
                    let context = &table.header.context;
                    open_blob(context, cipher, ordinal, line, sealed.clone(), &id_key, Proven::ById).is_ok()
                })
            });
            drop(alone);
            visit(nth, ordinal, sound)?;
        }
    }
    Ok(())
}
