//! Packs: each one is read; a damaged one is made whole, or what still opens of it is saved in a new one.
//!
//! Order, each step durable before the next: the saved blobs' pack, the mark on the damaged one, the index,
//! the damaged one put aside. Whatever it is interrupted at, the next repair finds the rest.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Repair, Repaired};
use crate::codec::Encoder;
use crate::error::RepositoryError;
use crate::ids::PackId;
use crate::index::IndexedPack;
use crate::ingest::{PackVerdict, survey};
use crate::layout;
use crate::pack::file::{self, MAX_PACK};
use crate::parity::{id_of, keep_parity};
use crate::store::{ObjectPath, StoreError};
use crate::verify::each_blob;

/// What the packs turned out to be.
#[derive(Default)]
struct Found {
    sound: HashSet<PackId>,
    /// Where else the bytes of a pack lie: under a wrong name, or put aside.
    elsewhere: HashMap<PackId, ObjectPath>,
    bad: BTreeMap<PackId, String>,
}

impl Repair<'_> {
    pub(super) fn packs(&self, repaired: &mut Repaired) -> Result<(), RepositoryError> {
        let known = self.known_packs(repaired)?;
        let found = self.read_all(&known, repaired)?;
        self.bring_back(&found, repaired)?;
        let mut taken_out = Vec::new();
        for (pack, finding) in &found.bad {
            if !found.elsewhere.contains_key(pack)
                && self.make_good(pack, finding, known.get(pack), repaired)?
            {
                taken_out.push(*pack);
            }
        }
        let is_indexed = |pack: &PackId| known.contains_key(pack);
        let are_indexed = found.sound.iter().chain(found.elsewhere.keys()).all(is_indexed);
        if !taken_out.is_empty() || !are_indexed || !self.is_index_whole()? {
            if self.writes()? {
                self.repository.rebuild_index()?;
            }
            repaired.mended.push("the index was made anew".to_owned());
        }
        for pack in taken_out {
            self.put_aside(&pack, repaired)?;
        }
        repaired.sound.extend(found.sound);
        Ok(())
    }

    /// What the index says of each pack, and what the packs say that no index file names.
    fn known_packs(&self, repaired: &mut Repaired) -> Result<HashMap<PackId, IndexedPack>, RepositoryError> {
        let mut known = HashMap::new();
        for domain in self.repository.domains_on_disk()? {
            let loaded = self.repository.load_index(&domain)?;
            repaired.mended.extend(
                loaded.damaged.iter().map(|name| format!("index file {name} was damaged and is replaced")),
            );
            repaired.mended.extend(
                loaded
                    .unreadable
                    .iter()
                    .map(|name| format!("index file {name} cannot be read; the packs were asked")),
            );
            known.extend(loaded.index.packs().iter().map(|pack| (pack.id, pack.clone())));
        }
        Ok(known)
    }

    fn is_index_whole(&self) -> Result<bool, RepositoryError> {
        for domain in self.repository.domains_on_disk()? {
            if !self.repository.load_index(&domain)?.is_whole() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read_all(
        &self,
        known: &HashMap<PackId, IndexedPack>,
        repaired: &mut Repaired,
    ) -> Result<Found, RepositoryError> {
        let mut found = Found::default();
        let packs = self.repository.list_packs()?;
        let (mut done, total) = (0, packs.iter().map(|(_, length)| length).sum());
        for (pack, length) in packs {
            if self.cancel.is_cancelled() {
                return Err(RepositoryError::Cancelled);
            }
            match self.read(&layout::pack(&pack), MAX_PACK)?.as_deref().map(id_of) {
                Some(id) if id == pack => {
                    found.sound.insert(pack);
                    self.look_after(&pack, repaired)?;
                }
                Some(id) => {
                    found.elsewhere.insert(id, layout::pack(&pack));
                    found.bad.insert(pack, format!("pack {pack} is damaged"));
                }
                None => {
                    found.bad.insert(pack, format!("pack {pack} cannot be read"));
                }
            }
            done += length;
            self.progress.bytes(done, total);
        }
        let gone = known.keys().filter(|pack| !found.sound.contains(*pack) && !found.bad.contains_key(*pack));
        let gone: Vec<_> = gone.map(|pack| (*pack, format!("pack {pack} is missing"))).collect();
        found.bad.extend(gone);
        for pack in self.whole_ones_aside()? {
            if !found.sound.contains(&pack) {
                found.bad.entry(pack).or_insert_with(|| format!("pack {pack} was put aside as damaged"));
                found.elsewhere.insert(pack, layout::taken_out(&pack));
            }
        }
        found.elsewhere.retain(|pack, _| found.bad.contains_key(pack));
        Ok(found)
    }

    /// A sound pack has no mark, and sound parity if it has any.
    fn look_after(&self, pack: &PackId, repaired: &mut Repaired) -> Result<(), RepositoryError> {
        if self.repository.quarantined()?.contains(pack) {
            if self.writes()? {
                self.repository.keep_verdicts(&[PackVerdict { pack: *pack, is_sound: true }])?;
            }
            repaired.mended.push(format!("pack {pack} is sound; its mark is taken away"));
        }
        if let Some(finding) = self.repository.parity_finding(pack)? {
            if self.writes()? {
                self.repository.refresh_parity(pack)?;
            }
            repaired.mended.push(format!("{finding}; it was made anew"));
        }
        Ok(())
    }

    /// Packs whose right bytes lie somewhere: first all of them are put aside, because the place of one may
    /// hold the only copy of another.
    fn bring_back(&self, found: &Found, repaired: &mut Repaired) -> Result<(), RepositoryError> {
        for (pack, place) in &found.elsewhere {
            let aside = layout::taken_out(pack);
            if *place != aside && self.writes()? {
                let bytes = self.repository.store.read(place, MAX_PACK)?;
                if id_of(&bytes) != *pack {
                    // It was read right a moment ago; the next repair asks again.
                    continue;
                }
                match self.repository.store.create(&aside, &bytes) {
                    Err(StoreError::AlreadyExists { .. }) => self.repository.store.replace(&aside, &bytes)?,
                    other => other?,
                }
            }
        }
        for (pack, place) in &found.elsewhere {
            if self.writes()? {
                self.put_back_from_aside(pack)?;
            }
            repaired.mended.push(format!("{}; its bytes lay in {place}", found.bad[pack]));
        }
        Ok(())
    }

    /// True if the pack is to be put aside: a new one has what is left of it.
    fn make_good(
        &self,
        pack: &PackId,
        finding: &str,
        known: Option<&IndexedPack>,
        repaired: &mut Repaired,
    ) -> Result<bool, RepositoryError> {
        if let Some(whole) = self.mended_from(pack, &layout::pack(pack))? {
            self.put_back(pack, &whole)?;
            repaired.mended.push(format!("{finding}; mended by its parity"));
            return Ok(false);
        }
        let is_there = match self.repository.store.size(&layout::pack(pack)) {
            Ok(_) => true,
            Err(error) if error.is_not_found() => false,
            Err(error) => return Err(error.into()),
        };
        let Some(indexed) = self.table_of(pack, known)? else {
            repaired.left.push(format!("{finding}; neither it nor an index says what it held"));
            return Ok(is_there);
        };
        let (keys, may_open) = match self.keys {
            Some(keys) => (Some(keys), true),
            // Of a pack that is gone nothing needs to be opened.
            None => (None, !is_there),
        };
        if !may_open {
            self.mark(pack)?;
            repaired.left.push(format!("{finding}; what still opens of it can be saved with the key"));
            return Ok(false);
        }
        let rest = self.what_opens(&indexed, keys)?;
        if rest.id == *pack {
            self.put_back(pack, &rest.bytes)?;
            repaired.mended.push(format!("{finding}; only its tables were, and the index has them"));
            return Ok(false);
        }
        if self.writes()? {
            self.write_rest(&rest, pack)?;
        }
        self.mark(pack)?;
        let line = format!("{finding}; {} of its {} blobs are lost", rest.lost, rest.lost + rest.saved);
        repaired.mended.push(format!("{line}, the others were saved in pack {}", rest.id));
        Ok(true)
    }

    pub(super) fn put_back(&self, pack: &PackId, whole: &[u8]) -> Result<(), RepositoryError> {
        if self.writes()? {
            self.repository.put_right(pack, whole)?;
            self.repository.keep_verdicts(&[PackVerdict { pack: *pack, is_sound: true }])?;
        }
        Ok(())
    }

    fn mark(&self, pack: &PackId) -> Result<(), RepositoryError> {
        if self.writes()? {
            self.repository.keep_verdicts(&[PackVerdict { pack: *pack, is_sound: false }])?;
        }
        Ok(())
    }

    /// What the pack holds, by the index or by itself.
    fn table_of(
        &self,
        pack: &PackId,
        known: Option<&IndexedPack>,
    ) -> Result<Option<IndexedPack>, RepositoryError> {
        if let Some(known) = known {
            return Ok(Some(known.clone()));
        }
        let length = match self.repository.store.size(&layout::pack(pack)) {
            Ok(length) => length,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match survey(&*self.repository.store, *pack, length) {
            Ok(indexed) => Ok(Some(indexed)),
            Err(error) if error.is_of_one_object() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A pack of the same segments with the blobs that open; the others are absent and keep their lines.
    fn what_opens(
        &self,
        pack: &IndexedPack,
        keys: Option<&crate::keys::KeyRing>,
    ) -> Result<Rest, RepositoryError> {
        let mut bodies: Vec<BTreeMap<u32, Vec<u8>>> = vec![BTreeMap::new(); pack.segments.len()];
        if let Some(keys) = keys {
            each_blob(&*self.repository.store, keys, pack, |nth, ordinal, sealed| {
                bodies[nth].extend(sealed.map(|sealed| (ordinal, sealed)));
                if self.cancel.is_cancelled() { Err(RepositoryError::Cancelled) } else { Ok(()) }
            })?;
        }
        let mut out = Encoder::new();
        out.raw(&file::header(pack.segments.len() as u32));
        let (mut lost, mut saved) = (0, 0);
        for (placed, bodies) in pack.segments.iter().zip(&bodies) {
            let mut table = placed.table.clone();
            for (ordinal, line) in (0..).zip(&mut table.lines).filter(|(_, line)| !line.absent) {
                line.absent = !bodies.contains_key(&ordinal);
                lost += usize::from(line.absent);
                saved += usize::from(!line.absent);
            }
            table.header.body_length = bodies.values().map(|body| body.len() as u64).sum();
            table.encode(&mut out);
            bodies.values().for_each(|body| out.raw(body));
        }
        let bytes = out.finish();
        Ok(Rest { id: id_of(&bytes), bytes, lost, saved })
    }

    fn write_rest(&self, rest: &Rest, of: &PackId) -> Result<(), RepositoryError> {
        match self.repository.store.create(&layout::pack(&rest.id), &rest.bytes) {
            Ok(()) | Err(StoreError::AlreadyExists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if self.repository.store.size(&layout::parity(of)).is_ok() {
            keep_parity(&*self.repository.store, &rest.id, self.repository.strength())?;
        }
        Ok(())
    }
}

/// What is left of a pack, as a pack.
struct Rest {
    id: PackId,
    bytes: Vec<u8>,
    lost: usize,
    saved: usize,
}
