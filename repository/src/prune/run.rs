//! One run, in order.

use std::sync::{MutexGuard, TryLockError};

use jiff::{SignedDuration, Timestamp};

use super::clocks::Moment;
use super::plan::is_braked;
use super::record::{MAX_MARKED, Mark, Sealed, json};
use super::sweep::View;
use super::walk::Live;
use super::{
    Amount, Brake, MarkState, PruneError, PruneOrder, PrunePlan, PruneReport, PruneSettings, PruneState,
    PruneStep, Watch,
};
use crate::error::RepositoryError;
use crate::ids::PackId;
use crate::layout;
use crate::repo::Repository;
use crate::store::{ListedKind, StoreError};
use crate::work::WorkRecord;

impl Repository {
    /// What a run would do. Changes nothing.
    pub fn plan_prune(&self, order: &PruneOrder, watch: &dyn Watch) -> Result<PrunePlan, RepositoryError> {
        let _alone = self.alone()?;
        let mut live = Live::without(&order.without);
        self.walk(&mut live, watch)?;
        let view = self.view(&live)?;
        let young = self.young(&view, order, watch)?;
        let state = self.prune_state(&order.settings, watch.now())?;
        Ok(PrunePlan { marked: state.marked, trash: state.trash, ..figures(&view, &young) })
    }

    /// Where prune stands, told without reading a backup.
    pub fn prune_state(
        &self,
        settings: &PruneSettings,
        now: Timestamp,
    ) -> Result<PruneState, RepositoryError> {
        let mut state = PruneState::default();
        for (number, record) in self.gc_records()? {
            match (&record.mark, &record.sealed) {
                (Some(mark), None) => state.marked = Some(self.mark_state(mark, settings, now)?),
                (_, None) => continue,
                (_, Some(_)) => {}
            }
            for listed in self.store.list(Some(&layout::trash_of(number)))? {
                if let ListedKind::Object { size } = listed.kind {
                    state.trash.add(size);
                }
            }
        }
        Ok(state)
    }

    /// One run. It may be killed anywhere and repeated; a second one at the same time is refused.
    pub fn prune(&self, order: &PruneOrder, watch: &dyn Watch) -> Result<PruneReport, RepositoryError> {
        let _alone = self.alone()?;
        watch.may_write().map_err(RepositoryError::Fenced)?;
        let mut report =
            PruneReport { finished_retiring: self.finish_retiring_alone(watch)?, ..PruneReport::default() };
        let mut run = Run { repository: self, order, watch, live: Live::default(), report: &mut report };
        run.go()?;
        Ok(report)
    }

    pub(super) fn alone(&self) -> Result<MutexGuard<'_, ()>, PruneError> {
        match self.maintenance.try_lock() {
            Ok(alone) => Ok(alone),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(PruneError::Running),
        }
    }

    fn mark_state(
        &self,
        mark: &Mark,
        settings: &PruneSettings,
        now: Timestamp,
    ) -> Result<MarkState, RepositoryError> {
        let waits_for =
            self.work(now)?.into_iter().filter(|work| mark.waits_for.contains(&work.id)).collect();
        Ok(MarkState {
            at: mark.at,
            amount: Amount { packs: mark.packs.len() as u64, bytes: mark.bytes },
            waits_for,
            not_before: mark.at.checked_add(settings.grace).unwrap_or(Timestamp::MAX),
        })
    }

    /// Packs that nothing needs and that are too young to be taken.
    fn young(
        &self,
        view: &View,
        order: &PruneOrder,
        watch: &dyn Watch,
    ) -> Result<Vec<PackId>, RepositoryError> {
        let mut young = Vec::new();
        if order.now {
            return Ok(young);
        }
        let now = watch.now();
        for (pack, _) in view.domains.values().flat_map(|decision| &decision.dead) {
            match self.store.modified(&layout::pack(pack)) {
                Ok(written) if now.duration_since(written) < order.settings.young => young.push(*pack),
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        young.sort_unstable();
        Ok(young)
    }
}

struct Run<'a> {
    repository: &'a Repository,
    order: &'a PruneOrder,
    watch: &'a dyn Watch,
    live: Live,
    report: &'a mut PruneReport,
}

impl Run<'_> {
    fn go(&mut self) -> Result<(), RepositoryError> {
        self.repository.walk(&mut self.live, self.watch)?;
        self.watch.done(PruneStep::Walked);
        let mut view = self.repository.view(&self.live)?;
        let mut unread = 0;
        if view.needs_the_trash() {
            let brought = self.repository.bring_back(&view, self.watch)?;
            (self.report.brought_back, unread) = (brought.packs, brought.unread);
            view = self.repository.view(&self.live)?;
        }
        if unread == 0 {
            self.empty_what_is_due()?;
        } else {
            tracing::warn!(
                unread,
                "packs in the trash cannot be read and may be needed; nothing is deleted there"
            );
        }
        match self.sweep_what_is_due()? {
            Some(waiting) => {
                let young = self.repository.young(&view, self.order, self.watch)?;
                self.report.plan = figures(&view, &young);
                self.report.waiting = Some(waiting);
            }
            None => self.collect()?,
        }
        let state = self.repository.prune_state(&self.order.settings, self.watch.now())?;
        (self.report.plan.marked, self.report.plan.trash) = (state.marked, state.trash);
        match self.repository.keep_ballast(self.order.settings.ballast, self.watch) {
            // There will be plenty another time.
            Err(RepositoryError::Store(StoreError::Full { .. })) => Ok(()),
            other => other,
        }
    }

    /// Deletes the trash of every mark whose time is over.
    fn empty_what_is_due(&mut self) -> Result<(), RepositoryError> {
        let records = self.repository.gc_records()?;
        let mut numbers: Vec<u64> = self.repository.trash_folders()?.into_keys().collect();
        numbers
            .extend(records.iter().filter(|(_, record)| record.sealed.is_some()).map(|(number, _)| *number));
        numbers.sort_unstable();
        numbers.dedup();
        for number in numbers {
            let record = records.get(&number);
            match record.and_then(|record| record.sealed.as_ref()) {
                // Not all of it is here yet.
                Some(sealed) if !sealed.packs.is_empty() => {}
                Some(sealed) => {
                    let since = self.storage_time(&layout::gc_sealed(number))?;
                    let then = Moment { controller: sealed.at, storage: since };
                    if self.is_past(then, self.order.settings.trash_for)? {
                        self.report.deleted.add_all(self.repository.empty_trash(number, self.watch)?);
                    }
                }
                // Since when it lies here is not known any more: from now on.
                None => {
                    let sealed = Sealed { at: self.watch.now(), packs: Vec::new(), count: 0, bytes: 0 };
                    let path = layout::gc_sealed(number);
                    let write = || Ok(self.repository.store.replace(&path, &json(&sealed))?);
                    self.repository.with_room(self.watch, write)?;
                }
            }
        }
        Ok(())
    }

    /// Takes away what older marks named. `Some` if one of them has to wait.
    fn sweep_what_is_due(&mut self) -> Result<Option<MarkState>, RepositoryError> {
        let mut waiting = None;
        for (number, record) in self.repository.gc_records()? {
            match (record.mark, record.sealed) {
                // Cut off in the middle.
                (_, Some(sealed)) if !sealed.packs.is_empty() => {
                    let Sealed { at, packs, bytes, .. } = sealed;
                    self.sweep(number, &Mark { at, packs, bytes, waits_for: Vec::new() })?;
                }
                (_, Some(_)) => {}
                (Some(mark), None) => {
                    let state = self.repository.mark_state(&mark, &self.order.settings, self.watch.now())?;
                    let since = self.storage_time(&layout::gc_mark(number))?;
                    let then = Moment { controller: mark.at, storage: since };
                    let is_due = state.waits_for.is_empty()
                        && self.is_past(then, self.order.settings.grace)?
                        && self.sweep(number, &mark)?;
                    if !is_due {
                        waiting = Some(state);
                    }
                }
                // It cannot be understood, so that nothing was done on its word.
                (None, None) => {
                    self.repository.store.delete(&layout::gc_mark(number))?;
                }
            }
        }
        Ok(waiting)
    }

    /// False if it has to wait after all.
    fn sweep(&mut self, number: u64, mark: &Mark) -> Result<bool, RepositoryError> {
        let Some(sealed) = self.repository.seal(number, mark, &mut self.live, self.watch)? else {
            return Ok(false);
        };
        self.report.swept.add_all(self.repository.discard(number, &sealed, self.watch)?);
        // Where nothing was taken, there is no trash to keep.
        if self.order.now || sealed.count == 0 {
            self.report.deleted.add_all(self.repository.empty_trash(number, self.watch)?);
        }
        Ok(true)
    }

    /// Plans anew, copies, marks; with `now` takes away at once, what is dead before anything is copied.
    fn collect(&mut self) -> Result<(), RepositoryError> {
        let view = self.repository.view(&self.live)?;
        let young = self.repository.young(&view, self.order, self.watch)?;
        self.report.plan = figures(&view, &young);
        if let Some(brake) = self.report.plan.brake.filter(|_| !self.order.approved) {
            self.report.held = Some(brake);
            return Ok(());
        }
        let unused = |view: &View| -> Vec<(PackId, u64)> {
            let all = view.domains.values().flat_map(|decision| decision.unused().collect::<Vec<_>>());
            all.filter(|(pack, _)| young.binary_search(pack).is_err()).collect()
        };
        if self.order.now {
            if !self.mark_and_sweep(unused(&view))? {
                return Ok(());
            }
            let copied = self.copy(&self.repository.view(&self.live)?)?;
            self.mark_and_sweep(copied)?;
        } else {
            let mut packs = unused(&view);
            packs.extend(self.copy(&view)?);
            self.mark(packs)?;
        }
        Ok(())
    }

    /// Copies; gives the packs that the copies stand for.
    fn copy(&mut self, view: &View) -> Result<Vec<(PackId, u64)>, RepositoryError> {
        let mut budget = self.order.settings.copy_at_most;
        let mut sources = Vec::new();
        for (domain, decision) in &view.domains {
            let reserve = self.order.settings.ballast;
            let copied = self.repository.copy(*domain, &decision.copies, &mut budget, reserve, self.watch)?;
            self.report.copied.add_all(copied.made);
            sources.extend(copied.sources);
            if copied.is_full {
                tracing::warn!("there is not enough free space to merge and rewrite packs");
                break;
            }
        }
        Ok(sources)
    }

    /// False if it has to wait for running work.
    fn mark_and_sweep(&mut self, packs: Vec<(PackId, u64)>) -> Result<bool, RepositoryError> {
        let marked = match self.mark(packs) {
            Err(RepositoryError::Store(StoreError::Full { .. })) if self.nobody_works()? => {
                let deleted = self.repository.delete_dead_at_once(&mut self.live, self.watch)?;
                self.report.deleted.add_all(deleted);
                return Ok(true);
            }
            other => other?,
        };
        match marked {
            None => Ok(true),
            Some((number, mark)) => {
                let state = self.repository.mark_state(&mark, &self.order.settings, self.watch.now())?;
                let is_done = state.waits_for.is_empty() && self.sweep(number, &mark)?;
                if !is_done {
                    self.report.waiting = Some(state);
                }
                Ok(is_done)
            }
        }
    }

    fn nobody_works(&self) -> Result<bool, RepositoryError> {
        Ok(self.repository.work(self.watch.now())?.is_empty())
    }

    /// Marks these packs; `None` if there are none.
    fn mark(&mut self, packs: Vec<(PackId, u64)>) -> Result<Option<(u64, Mark)>, RepositoryError> {
        if packs.is_empty() {
            return Ok(None);
        }
        if !self.order.now {
            self.moment()?.checked()?;
        }
        self.watch.may_write().map_err(RepositoryError::Fenced)?;
        let number = self.next_number()?;
        let others = self.repository.leases_of_others(self.watch.now())?;
        let repository = self.repository;
        let mark = repository.with_room(self.watch, || {
            // No work begins before the mark is there: what began before is named, what comes later sees it.
            let register = repository.register.lock();
            let work = register.records().chain(&others).map(|work: &WorkRecord| work.id.clone());
            let named = &packs[..packs.len().min(MAX_MARKED)];
            let mark = Mark {
                at: self.watch.now(),
                packs: named.iter().map(|(pack, _)| *pack).collect(),
                bytes: named.iter().map(|(_, length)| length).sum(),
                waits_for: work.collect(),
            };
            match repository.store.create(&layout::gc_mark(number), &json(&mark)) {
                Ok(()) => Ok(mark),
                Err(error) => Err(RepositoryError::from(error)),
            }
        })?;
        self.watch.done(PruneStep::Marked);
        self.report.marked.add_all(Amount { packs: mark.packs.len() as u64, bytes: mark.bytes });
        Ok(Some((number, mark)))
    }

    fn next_number(&self) -> Result<u64, RepositoryError> {
        let mut highest = 0;
        for folder in [layout::gc(), layout::trash()] {
            let listed = self.repository.store.list(Some(&folder))?;
            let numbers = listed.iter().filter_map(|listed| layout::gc_number(&listed.name));
            highest = numbers.fold(highest, u64::max);
        }
        Ok(highest + 1)
    }

    fn storage_time(&self, path: &crate::store::ObjectPath) -> Result<Timestamp, RepositoryError> {
        Ok(self.repository.store.modified(path)?)
    }

    fn is_past(&self, then: Moment, wait: SignedDuration) -> Result<bool, RepositoryError> {
        if self.order.now {
            return Ok(true);
        }
        Ok(self.moment()?.is_past(then, wait)?)
    }

    /// What time it is by both clocks: the storage's is that of an object just written.
    fn moment(&self) -> Result<Moment, RepositoryError> {
        let path = layout::gc_clock();
        self.repository.with_room(self.watch, || Ok(self.repository.store.replace(&path, b"\n")?))?;
        Ok(Moment { controller: self.watch.now(), storage: self.storage_time(&path)? })
    }
}

fn figures(view: &View, young: &[PackId]) -> PrunePlan {
    let mut plan = PrunePlan::default();
    for decision in view.domains.values() {
        plan.total.add_all(decision.total);
        plan.missing_blobs += decision.lost.len() as u64;
        for (pack, length) in &decision.dead {
            let is_young = young.binary_search(pack).is_ok();
            if is_young { &mut plan.young } else { &mut plan.dead }.add(*length);
        }
        decision.spare.iter().for_each(|(_, length)| plan.spare.add(*length));
        for copying in &decision.copies {
            plan.taken += copying.holes();
            for source in &copying.sources {
                if source.is_half_dead { &mut plan.rewritten } else { &mut plan.merged }.add(source.length);
            }
        }
    }
    plan.taken += plan.dead.bytes;
    let is_held = is_braked(plan.dead.packs, plan.total.packs) || is_braked(plan.taken, plan.total.bytes);
    plan.brake = is_held.then(|| Brake {
        packs_percent: percent(plan.dead.packs, plan.total.packs),
        bytes_percent: percent(plan.taken, plan.total.bytes),
    });
    plan
}

fn percent(part: u64, whole: u64) -> u8 {
    let percent = u128::from(part) * 100 / u128::from(whole.max(1));
    u8::try_from(percent.min(100)).expect("it is at most 100")
}
