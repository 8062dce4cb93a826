//! Looking at packs, several of them at once: is each there, with its size and its SHA-256?
//!
//! Must stay true: what is found in a pack depends on that pack alone; what may be written (mending, proofs)
//! is done by the caller's thread, one pack after the other; progress never goes back.

use std::sync::Mutex;

use aws_lc_rs::digest;

use super::{Depth, Memory, Verification, full, read_again};
use crate::error::RepositoryError;
use crate::ids::PackId;
use crate::index::IndexedPack;
use crate::ingest::lock;
use crate::layout;
use crate::progress::{CancelFlag, Progress};
use crate::side_by_side::in_turn;
use crate::store::ObjectPath;

/// How many bytes of a pack are read at once.
const WINDOW: u64 = 2 << 20;

/// What a look at one pack has shown.
pub(super) struct LookedAt {
    /// What is wrong with it.
    pub(super) finding: Option<String>,
    /// What was wrong with it.
    pub(super) mended: Option<String>,
    /// It was proven earlier and not read now.
    pub(super) relied: bool,
}

/// A pack to be looked at.
struct Order<'a, P> {
    pack: &'a P,
    known_bad: Option<&'a str>,
    is_relied_on: bool,
}

/// A pack's name and length.
pub(super) trait Pack: Sync {
    fn id(&self) -> PackId;
    fn length(&self) -> u64;
}

impl Pack for (PackId, u64) {
    fn id(&self) -> PackId {
        self.0
    }
    fn length(&self) -> u64 {
        self.1
    }
}

impl Pack for &IndexedPack {
    fn id(&self) -> PackId {
        self.id
    }
    fn length(&self) -> u64 {
        self.length
    }
}

impl Verification<'_> {
    /// Looks at each pack, mends it where that is allowed and possible, and looks further at it with `deeper`
    /// where nothing was found. `hear` is told of each as its look ends.
    pub(super) fn look_at<P: Pack>(
        &self,
        packs: &[P],
        memory: &Memory<'_>,
        meter: &Meter<'_>,
        deeper: impl Fn(&P) -> Result<Option<String>, RepositoryError> + Sync,
        mut hear: impl FnMut(&P, LookedAt) -> Result<(), RepositoryError>,
    ) -> Result<(), RepositoryError> {
        let order = |pack| {
            let id = P::id(pack);
            let is_relied_on = self.depth > Depth::Listed && memory.is_hashed(&id);
            Order { pack, known_bad: memory.known_bad(&id), is_relied_on }
        };
        let orders: Vec<Order<'_, P>> = packs.iter().map(order).collect();
        let look = |order: &Order<'_, P>| {
            let shallow = self.finding(order, meter)?;
            let deep = if shallow.is_none() { deeper(order.pack)? } else { None };
            Ok((shallow, deep))
        };
        in_turn(&orders, look, |order, (shallow, deep)| {
            let was_sound = shallow.is_none();
            let mut looked = self.mend(order, shallow, memory)?;
            if looked.finding.is_none() {
                looked.finding = if was_sound { deep } else { deeper(order.pack)? };
            }
            hear(order.pack, looked)
        })
    }

    /// What is wrong with the pack; reads nothing but it.
    fn finding<P: Pack>(
        &self,
        order: &Order<'_, P>,
        meter: &Meter<'_>,
    ) -> Result<Option<String>, RepositoryError> {
        let (id, length) = (order.pack.id(), order.pack.length());
        if let Some(finding) = order.known_bad {
            meter.advance(length)?;
            return Ok(Some(finding.to_owned()));
        }
        match (self.size_finding(&id, length)?, order.is_relied_on || self.depth == Depth::Listed) {
            (None, false) => self.hash_finding(&id, length, meter),
            (found, _) => {
                meter.advance(length)?;
                Ok(found)
            }
        }
    }

    /// Makes good what was found, where that is allowed and possible.
    fn mend<P: Pack>(
        &self,
        order: &Order<'_, P>,
        finding: Option<String>,
        memory: &Memory<'_>,
    ) -> Result<LookedAt, RepositoryError> {
        let id = &order.pack.id();
        let relied = order.is_relied_on && order.known_bad.is_none() && finding.is_none();
        let mut looked = LookedAt { finding, mended: None, relied };
        if order.known_bad.is_some() || self.depth == Depth::Listed || relied {
            return Ok(looked);
        }
        match &looked.finding {
            Some(finding) if memory.may_mend && self.repository.mend(id)? => {
                looked.mended = Some(format!("{finding}; mended by its parity"));
                looked.finding = None;
            }
            Some(finding) if !memory.may_mend && self.repository.mended(id)?.is_some() => {
                looked.finding = Some(format!("{finding}; its parity can mend it"));
            }
            Some(_) => {}
            None if memory.may_mend && self.repository.refresh_parity(id)? => {
                looked.mended = Some(format!("the parity of pack {id} was made anew"));
            }
            None => {}
        }
        if looked.finding.is_none() {
            memory.witness.hashed(id);
        }
        Ok(looked)
    }

    /// Where a pack lies. What prune took away since it was looked up is in the trash, and here still.
    fn place_of(&self, id: &PackId) -> Result<ObjectPath, RepositoryError> {
        let path = layout::pack(id);
        match self.repository.store().size(&path) {
            Err(error) if error.is_not_found() => Ok(self.repository.trashed(id)?.unwrap_or(path)),
            _ => Ok(path),
        }
    }

    fn size_finding(&self, id: &PackId, length: u64) -> Result<Option<String>, RepositoryError> {
        match self.repository.store().size(&self.place_of(id)?) {
            Ok(size) if size == length => Ok(None),
            Ok(size) => Ok(Some(format!("pack {id} is {size} bytes long instead of {length}"))),
            Err(error) if error.is_not_found() => Ok(Some(format!("pack {id} is missing"))),
            Err(error) => Err(error.into()),
        }
    }

    fn hash_finding(
        &self,
        id: &PackId,
        length: u64,
        meter: &Meter<'_>,
    ) -> Result<Option<String>, RepositoryError> {
        let (path, store) = (self.place_of(id)?, self.repository.store());
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut offset = 0;
        while offset < length {
            let window = WINDOW.min(length - offset);
            match read_again(|| store.read_range(&path, offset, window)) {
                Ok(bytes) => hash.update(&bytes),
                Err(error) => return Ok(Some(format!("pack {id} cannot be read: {}", full(&error)))),
            }
            meter.advance(window)?;
            offset += window;
        }
        let intact = hash.finish().as_ref() == id.as_bytes();
        Ok((!intact).then(|| format!("pack {id} is damaged: its SHA-256 is not its name")))
    }
}

/// Counts the bytes that were looked at, and hears whether to go on.
pub(super) struct Meter<'a> {
    progress: &'a dyn Progress,
    cancel: &'a CancelFlag,
    done: Mutex<u64>,
    /// As many as there are.
    pub(super) total: u64,
}

impl<'a> Meter<'a> {
    pub(super) fn new(progress: &'a dyn Progress, cancel: &'a CancelFlag) -> Self {
        Self { progress, cancel, done: Mutex::new(0), total: 0 }
    }

    pub(super) fn done(&self) -> u64 {
        *lock(&self.done)
    }

    fn advance(&self, bytes: u64) -> Result<(), RepositoryError> {
        if self.cancel.is_cancelled() {
            return Err(RepositoryError::Cancelled);
        }
        // Told under the lock, so that it never goes back.
        let mut done = lock(&self.done);
        *done += bytes;
        self.progress.bytes(*done, self.total);
        Ok(())
    }
}
