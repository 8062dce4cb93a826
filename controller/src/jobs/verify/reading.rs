//! What a verification of one archive reads, and what that shows. Blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use repository::backup::manifest::{BackupRecord, Outcome};
use repository::check::Checks;
use repository::error::RepositoryError;
use repository::ids::{DomainId, PackId};
use repository::ingest::PackVerdict;
use repository::names::{BackupName, SourceId};
use repository::progress::{CancelFlag, Progress, Silent};
use repository::verify::plan::{self, Goal, Run, Share, Unit};
use repository::verify::{
    ArchiveReport, Depth, DomainPacks, Memory, NoWitness, PackProof, Proofs, Reach, Scrubbed, Verification,
};
use runtime::steps;
use tokio::runtime::Handle;

use super::MAX_FINDINGS;
use super::notebook::Notebook;
use crate::catalog::{CatalogError, KnownPack, Note};
use crate::jobs::backup::size;
use crate::jobs::job::{Proven, depth_word};
use crate::jobs::runner::Shared;
use crate::steps::Step;

/// What to verify.
pub(super) struct Wanted {
    pub(super) record: BackupRecord,
    pub(super) source: SourceId,
    /// The sources of the job's other parts.
    pub(super) others: Vec<SourceId>,
    /// All of the backup was asked for, and with it whatever else the repository holds.
    pub(super) is_all: bool,
    pub(super) depth: Depth,
    pub(super) budget: Option<u64>,
    /// When the job began.
    pub(super) since: Timestamp,
}

/// A verification could not be carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error("what was proven cannot be kept")]
    Catalog(#[from] CatalogError),
}

/// What was read, and what was found.
#[derive(Default)]
pub(super) struct Looked {
    pub(super) findings: Vec<String>,
    /// In packs that other backups need.
    pub(super) elsewhere: Vec<String>,
    /// The archives that need a pack which was found bad, but for the one that is verified.
    pub(super) hurt: Vec<Hurt>,
    /// What is worth a line in the job's log.
    pub(super) loud: Vec<String>,
    pub(super) bytes: u64,
    pub(super) entries: u64,
    pub(super) no_data: Option<String>,
    pub(super) proven: Proven,
}

/// An archive of another backup that a bad pack costs something.
pub(super) struct Hurt {
    pub(super) backup: BackupName,
    pub(super) source: SourceId,
    pub(super) findings: Vec<String>,
}

pub(super) fn read(
    shared: &Shared,
    wanted: &Wanted,
    progress: &dyn Progress,
    cancel: &CancelFlag,
) -> Result<Looked, ReadError> {
    steps::reach(Step::VerificationBegun);
    let reader = Reader { shared, wanted, progress, cancel };
    let mut looked = match wanted.depth {
        Depth::Listed => reader.listed()?,
        Depth::Hashed | Depth::Opened => reader.packs()?,
    };
    steps::reach(Step::VerdictsKept);
    looked.findings.truncate(MAX_FINDINGS);
    looked.proven.notes.truncate(MAX_FINDINGS);
    Ok(looked)
}

struct Reader<'a> {
    shared: &'a Shared,
    wanted: &'a Wanted,
    progress: &'a dyn Progress,
    cancel: &'a CancelFlag,
}

/// What there is to read.
struct Planned {
    domains: Vec<DomainPacks>,
    lengths: BTreeMap<PackId, u64>,
    known: BTreeMap<PackId, KnownPack>,
    /// Packs that are known to be bad.
    bad: BTreeSet<PackId>,
    /// The packs that the archive needs.
    needed: BTreeSet<PackId>,
    share: Share,
}

/// What reading packs by themselves has shown.
#[derive(Default)]
struct Scrubs {
    bytes: u64,
    mended: Vec<String>,
    verdicts: Vec<PackVerdict>,
    bad: BTreeMap<PackId, String>,
}

impl Reader<'_> {
    fn listed(&self) -> Result<Looked, ReadError> {
        let report = self.archive(&Memory::none(), self.progress)?;
        steps::reach(Step::VerificationRead);
        Ok(Looked::of(report))
    }

    fn packs(&self) -> Result<Looked, ReadError> {
        let (own, takes_rest) = (self.domain(&self.wanted.source), self.takes_rest());
        let planned = self.plan()?;
        let elsewhere: BTreeSet<DomainId> = self.wanted.others.iter().map(|of| self.domain(of)).collect();
        let is_mine = |domain: &DomainId| *domain == own || (takes_rest && !elsewhere.contains(domain));
        let mine: Vec<&DomainPacks> = planned.domains.iter().filter(|packs| is_mine(&packs.domain)).collect();
        let (mut looked, scrubs) = match self.wanted.budget {
            Some(_) => self.budgeted(&own, &mine, &planned)?,
            None => self.whole(&own, &mine, &planned)?,
        };
        self.blame(&scrubs.bad, &planned, &mine, &mut looked)?;
        if takes_rest {
            self.tell(&planned, &mut looked);
        }
        looked.proven.notes.extend(scrubs.mended);
        Ok(looked)
    }

    /// All that the archive needs, and elsewhere what is due.
    fn whole(
        &self,
        own: &DomainId,
        mine: &[&DomainPacks],
        planned: &Planned,
    ) -> Result<(Looked, Scrubs), ReadError> {
        let since = self.wanted.since;
        let mut earlier = block_on(self.shared.catalog.proven_pages(own, since, self.shared.clock.now()))?;
        let of_this_job = |proof: &PackProof| proof.hashed >= since;
        earlier.packs = planned
            .proofs()
            .filter(|(_, proof)| of_this_job(proof))
            .map(|(pack, proof)| {
                (pack, PackProof { opened: proof.opened.filter(|at| *at >= since), ..proof })
            })
            .collect();
        let total: u64 =
            planned.needed.iter().chain(planned.extra(mine)).map(|pack| planned.length(pack)).sum();
        let meter = Meter { inner: self.progress, before: AtomicU64::new(0), total };
        let notebook = Notebook::new(self.shared, *own, self.wanted.depth);
        let memory = Memory {
            earlier: &earlier,
            since,
            witness: &notebook,
            may_mend: self.may_mend(),
            reach: Reach::All,
        };
        let report = self.archive(&memory, &meter);
        notebook.finish()?;
        let report = report?;
        meter.before.fetch_add(report.bytes, Ordering::Relaxed);
        let extra: BTreeSet<PackId> = planned.extra(mine).copied().collect();
        let mut scrubs = self.scrub(mine, &extra, &earlier, &meter)?;
        for verdict in report.packs.iter().filter(|verdict| !verdict.is_sound) {
            scrubs
                .bad
                .entry(verdict.pack)
                .or_insert_with(|| format!("pack {} was found damaged", verdict.pack));
        }
        scrubs.verdicts.extend(&report.packs);
        steps::reach(Step::VerificationRead);
        self.keep(own, &scrubs)?;
        let mut looked = Looked::of(report);
        looked.bytes += scrubs.bytes;
        Ok((looked, scrubs))
    }

    /// The share that the budget allows, each pack by itself; then what that says of the archive.
    fn budgeted(
        &self,
        own: &DomainId,
        mine: &[&DomainPacks],
        planned: &Planned,
    ) -> Result<(Looked, Scrubs), ReadError> {
        let (since, depth) = (self.wanted.since, self.wanted.depth);
        let of_this_job: Proofs = Proofs {
            packs: planned.proofs().filter(|(_, proof)| proof.hashed >= since).collect(),
            ..Proofs::default()
        };
        let is_mine = |pack: &PackId| mine.iter().any(|domain| domain.packs.iter().any(|(of, _)| of == pack));
        let done =
            of_this_job.packs.iter().filter(|(_, proof)| proof.to(depth).is_some_and(|at| at >= since));
        let done: u64 = done.filter(|(pack, _)| is_mine(pack)).map(|(pack, _)| planned.length(pack)).sum();
        let share: u64 =
            planned.share.now.iter().filter(|pack| is_mine(pack)).map(|pack| planned.length(pack)).sum();
        let meter = Meter { inner: self.progress, before: AtomicU64::new(done), total: done + share };
        let mut scrubs = self.scrub(mine, &planned.share.now, &of_this_job, &meter)?;
        steps::reach(Step::VerificationRead);
        self.keep(own, &scrubs)?;
        let mut earlier = Proofs { packs: planned.proofs().collect(), ..Proofs::default() };
        let (hashed, opened) = (self.shared.clock.now(), depth == Depth::Opened);
        for PackVerdict { pack, is_sound } in &scrubs.verdicts {
            match is_sound {
                true => earlier.packs.insert(*pack, PackProof { hashed, opened: opened.then_some(hashed) }),
                false => earlier.packs.remove(pack),
            };
        }
        let read: BTreeSet<PackId> = scrubs.verdicts.iter().map(|verdict| verdict.pack).collect();
        for pack in planned.bad.iter().filter(|pack| !read.contains(pack)) {
            earlier.packs.remove(pack);
            if planned.needed.contains(pack) || planned.is_of_this_job(pack, since) {
                let finding = format!("pack {pack} was found damaged earlier and was not read again");
                scrubs.bad.insert(*pack, finding);
            }
        }
        let memory = Memory {
            earlier: &earlier,
            since,
            witness: &NoWitness,
            may_mend: false,
            reach: Reach::Known(&scrubs.bad),
        };
        let mut looked = Looked::of(self.archive(&memory, &Silent)?);
        looked.bytes = done + scrubs.bytes;
        if depth == Depth::Opened && looked.no_data.is_none() {
            looked.proven.notes.push(
                "a budget opens each piece by itself; a run with --all puts the files together as well"
                    .to_owned(),
            );
        }
        Ok((looked, scrubs))
    }

    /// Reads these packs by themselves.
    fn scrub(
        &self,
        mine: &[&DomainPacks],
        packs: &BTreeSet<PackId>,
        earlier: &Proofs,
        meter: &Meter<'_>,
    ) -> Result<Scrubs, ReadError> {
        let mut scrubs = Scrubs::default();
        for DomainPacks { domain, packs: all } in mine {
            let of_domain: BTreeSet<PackId> =
                all.iter().map(|(pack, _)| *pack).filter(|pack| packs.contains(pack)).collect();
            if of_domain.is_empty() {
                continue;
            }
            let notebook = Notebook::new(self.shared, *domain, self.wanted.depth);
            let memory = Memory {
                earlier,
                since: self.wanted.since,
                witness: &notebook,
                may_mend: self.may_mend(),
                reach: Reach::All,
            };
            let scrubbed = self.verification(meter).scrub(domain, &of_domain, &memory);
            notebook.finish()?;
            let mut scrubbed = scrubbed?;
            if !scrubbed.findings.is_empty() {
                self.forget_pruned(&mut scrubbed)?;
            }
            meter.before.fetch_add(scrubbed.bytes, Ordering::Relaxed);
            scrubs.bytes += scrubbed.bytes;
            scrubs.mended.extend(scrubbed.mended);
            scrubs.verdicts.extend(scrubbed.packs);
            scrubs.bad.extend(scrubbed.findings);
        }
        Ok(scrubs)
    }

    /// What prune took away since the plan was made is not missing.
    fn forget_pruned(&self, scrubbed: &mut Scrubbed) -> Result<(), ReadError> {
        let indexed = self.shared.depot.repository().indexed_packs()?;
        let there: BTreeSet<PackId> =
            indexed.into_iter().flat_map(|domain| domain.packs).map(|(pack, _)| pack).collect();
        scrubbed.findings.retain(|pack, _| there.contains(pack));
        scrubbed.packs.retain(|verdict| verdict.is_sound || there.contains(&verdict.pack));
        Ok(())
    }

    fn plan(&self) -> Result<Planned, ReadError> {
        let Wanted { record, source, others, depth, since, .. } = self.wanted;
        let (repository, catalog) = (self.shared.depot.repository(), &self.shared.catalog);
        let mut domains = repository.indexed_packs()?;
        if !self.wanted.is_all {
            let asked: Vec<DomainId> = others.iter().chain([source]).map(|of| self.domain(of)).collect();
            domains.retain(|packs| asked.contains(&packs.domain));
        }
        let now = self.shared.clock.now();
        let marked = repository.marked_packs()?;
        let known = block_on(catalog.know_packs(&domains, &marked, now))?;
        let found_bad = |known: &KnownPack| known.bad_at.is_some_and(|at| at >= *since);
        let bad: BTreeSet<PackId> = marked
            .into_iter()
            .chain(known.iter().filter(|(_, known)| found_bad(known)).map(|(pack, _)| *pack))
            .collect();
        let last = match self.wanted.is_all {
            true => block_on(catalog.begin_run(depth_word(*depth), *since))?,
            false => None,
        };
        let needed = repository.needed_packs(record, source)?;
        let mut of_backup = needed.clone();
        for other in others {
            of_backup.extend(repository.needed_packs(record, other)?);
        }
        let lengths: BTreeMap<PackId, u64> =
            domains.iter().flat_map(|domain| domain.packs.iter().copied()).collect();
        let unit = |(pack, bytes): (&PackId, &u64)| {
            let of_pack = known.get(pack);
            Unit {
                pack: *pack,
                bytes: *bytes,
                is_needed: of_backup.contains(pack),
                seen_at: of_pack.map_or(now, |known| known.seen_at),
                read_at: of_pack.and_then(|known| match bad.contains(pack) {
                    true => known.bad_at,
                    false => known.proof.and_then(|proof| proof.to(*depth)),
                }),
            }
        };
        let goal = Goal { budget: self.wanted.budget, ..self.shared.settings.verification };
        let run = Run { since: *since, last, now };
        let share = plan::share(lengths.iter().map(unit).collect(), goal, run);
        Ok(Planned { domains, lengths, known, bad, needed, share })
    }

    /// Keeps in mind what is sound and what is not.
    fn keep(&self, own: &DomainId, scrubs: &Scrubs) -> Result<(), ReadError> {
        self.shared.depot.repository().keep_verdicts(&scrubs.verdicts)?;
        let (bad, now) =
            (scrubs.verdicts.iter().filter(|verdict| !verdict.is_sound), self.shared.clock.now());
        let notes: Vec<Note> = bad.map(|verdict| Note::Unsound(verdict.pack, now)).collect();
        Ok(block_on(self.shared.catalog.add_proofs(own, &notes))?)
    }

    /// Finds the archives that bad packs cost something, whichever backups they are of: what was proven of
    /// them no longer holds.
    fn blame(
        &self,
        bad: &BTreeMap<PackId, String>,
        planned: &Planned,
        mine: &[&DomainPacks],
        looked: &mut Looked,
    ) -> Result<(), ReadError> {
        if bad.is_empty() {
            return Ok(());
        }
        let repository = self.shared.depot.repository();
        let domains: BTreeSet<DomainId> = mine.iter().map(|packs| packs.domain).collect();
        let mut told: BTreeSet<PackId> = planned.needed.clone();
        for record in block_on(self.shared.catalog.backups_before(None, u32::MAX))? {
            let archives = record.archives.iter().filter(|archive| archive.outcome != Outcome::Failed);
            for source in archives.map(|archive| &archive.source) {
                let is_own = record.name == self.wanted.record.name && *source == self.wanted.source;
                if is_own || !domains.contains(&self.domain(source)) {
                    continue;
                }
                if self.cancel.is_cancelled() {
                    return Err(RepositoryError::Cancelled.into());
                }
                let needed = repository.needed_packs(&record, source)?;
                let hit = bad.iter().filter(|(pack, _)| needed.contains(pack));
                let findings: Vec<String> = hit.clone().map(|(_, finding)| finding.clone()).collect();
                for (pack, finding) in hit.filter(|(pack, _)| !planned.needed.contains(pack)) {
                    told.insert(*pack);
                    looked.elsewhere.push(format!("backup {} {source}: {finding}", record.name));
                }
                if !findings.is_empty() {
                    looked.hurt.push(Hurt { backup: record.name.clone(), source: source.clone(), findings });
                }
            }
        }
        let spare = bad.iter().filter(|(pack, _)| !told.contains(pack));
        looked.proven.notes.extend(spare.map(|(_, finding)| format!("{finding}; no backup is read from it")));
        Ok(())
    }

    /// What a budget did not suffice for.
    fn tell(&self, planned: &Planned, looked: &mut Looked) {
        let Share { beyond, needed, .. } = planned.share;
        let Some(budget) = self.wanted.budget else { return };
        if beyond > 0 {
            looked.loud.push(format!(
                "needs {} beyond the budget of {}, because verification.everything_within asks for them",
                size(beyond),
                size(budget)
            ));
        }
        if needed > budget {
            looked.loud.push(format!(
                "has a budget of {}, which does not suffice: everything within the set time takes {} a run",
                size(budget),
                size(needed)
            ));
        }
        looked.proven.notes.extend(looked.loud.iter().cloned());
    }

    fn archive(
        &self,
        memory: &Memory<'_>,
        progress: &dyn Progress,
    ) -> Result<ArchiveReport, RepositoryError> {
        let report = self.verification(progress).run_with(
            &self.wanted.record,
            |source| *source == self.wanted.source,
            memory,
        )?;
        for mended in report.archives.iter().flat_map(|archive| &archive.mended) {
            tracing::warn!(backup = %self.wanted.record.name, "{mended}");
        }
        Ok(report.archives.into_iter().next().expect("the part's source is one of the backup's"))
    }

    fn verification<'b>(&'b self, progress: &'b dyn Progress) -> Verification<'b> {
        let depot = &self.shared.depot;
        let (keys, depth, cancel) = (Some(depot.keys()), self.wanted.depth, self.cancel);
        let checks = Checks { of: formats::check_of, now: self.wanted.since };
        Verification { repository: depot.repository(), keys, depth, checks, progress, cancel }
    }

    /// Nobody else writes while the lease is ours: rot that parity can mend is mended at once.
    fn may_mend(&self) -> bool {
        !self.shared.depot.lease().is_lost()
    }

    fn domain(&self, source: &SourceId) -> DomainId {
        self.shared.depot.keys().domain_keys(source).domain
    }

    /// The first archive that holds data takes what belongs to no archive of the job.
    fn takes_rest(&self) -> bool {
        let parts = |source: &SourceId| *source == self.wanted.source || self.wanted.others.contains(source);
        let mut with_data =
            self.wanted.record.archives.iter().filter(|archive| archive.outcome != Outcome::Failed);
        with_data
            .find(|archive| parts(&archive.source))
            .is_some_and(|first| first.source == self.wanted.source)
    }
}

impl Planned {
    fn proofs(&self) -> impl Iterator<Item = (PackId, PackProof)> {
        self.known.iter().filter_map(|(pack, known)| Some((*pack, known.proof?)))
    }

    fn length(&self, pack: &PackId) -> u64 {
        self.lengths.get(pack).copied().unwrap_or(0)
    }

    /// It was found bad by the job that goes on.
    fn is_of_this_job(&self, pack: &PackId, since: Timestamp) -> bool {
        self.known.get(pack).and_then(|known| known.bad_at).is_some_and(|at| at >= since)
    }

    /// What of the share lies in these domains and is not needed by the archive.
    fn extra<'b>(&'b self, mine: &'b [&DomainPacks]) -> impl Iterator<Item = &'b PackId> {
        let packs = mine.iter().flat_map(|domain| domain.packs.iter().map(|(pack, _)| pack));
        packs.filter(|pack| self.share.now.contains(pack) && !self.needed.contains(pack))
    }
}

impl Looked {
    fn of(report: ArchiveReport) -> Self {
        let coverage = report.coverage;
        let mut notes = report.mended;
        notes.extend(report.told);
        Self {
            findings: report.findings,
            bytes: report.bytes,
            entries: report.entries,
            no_data: report.no_data,
            proven: Proven {
                now: coverage.now,
                earlier: coverage.earlier,
                oldest: coverage.oldest,
                unread: coverage.unread,
                notes,
            },
            ..Self::default()
        }
    }
}

/// Several readings as one, of which it is known how much there is to read.
struct Meter<'a> {
    inner: &'a dyn Progress,
    before: AtomicU64,
    total: u64,
}

impl Progress for Meter<'_> {
    fn bytes(&self, done: u64, _of_these: u64) {
        self.inner.bytes(self.before.load(Ordering::Relaxed) + done, self.total);
    }
}

fn block_on<T>(asked: impl Future<Output = Result<T, CatalogError>>) -> Result<T, CatalogError> {
    Handle::current().block_on(asked)
}
