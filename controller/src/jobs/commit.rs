//! The end of a backup: its archives become one backup in the repository.

use std::path::Path;
use std::sync::Arc;

use repository::backup::commit::{ArchiveDraft, BackupDraft};
use repository::backup::manifest::{ArchiveManifest, BackupRecord, Counts, FORMAT, Outcome};
use repository::keys::KeyRing;
use repository::refs::Refs;
use runtime::steps;

use crate::jobs::backup::{pin, refs_file};
use crate::jobs::job::{Job, JobFailure, Part, PartResult};
use crate::jobs::runner::Shared;
use crate::jobs::state::Event;
use crate::safekeeping;
use crate::steps::Step;

const WHAT: &str = "the backup could not be committed";

/// Commits a backup; repeating it is harmless.
pub(super) async fn commit(shared: Arc<Shared>, job: &Job) -> Event {
    let (depot, now) = (shared.depot.clone(), shared.clock.now());
    let (folder, of_job) = (shared.settings.jobs_folder.clone(), job.clone());
    let (state, kept_for) = (&shared.settings.state_folder, shared.settings.jobs_kept_for);
    let catalog = safekeeping::beside_backup(&shared.catalog, &depot, state, kept_for, now).await;
    let committed = tokio::task::spawn_blocking(move || {
        let draft = BackupDraft { catalog, ..draft(&folder, &of_job, depot.keys(), now)? };
        let committed = depot.commit(&draft, now);
        committed.map_err(|error| JobFailure::new(WHAT, proto::failure::chain(&error), error.hint()))
    });
    match committed.await {
        Ok(Ok(record)) => {
            remember(&shared, &record).await;
            steps::reached(Step::BackupListed).await;
            Event::Committed
        }
        Ok(Err(failure)) => Event::CommitFailed(failure),
        Err(error) => {
            Event::CommitFailed(JobFailure::new(WHAT, error.to_string(), "see the controller's log"))
        }
    }
}

/// Adds a backup to the catalog's list. The backup is there whatever becomes of the list, so that a failure
/// is told and no more; the next start reads the list again.
async fn remember(shared: &Shared, record: &BackupRecord) {
    const WHAT: &str = "the catalog's list of backups is out of date; a restart reads it again";
    if let Err(error) = shared.catalog.put_backup(record).await {
        tracing::error!(error = proto::failure::chain(&error), "{WHAT}");
    }
}

fn draft(folder: &Path, job: &Job, keys: &KeyRing, now: jiff::Timestamp) -> Result<BackupDraft, JobFailure> {
    let name = job.backup.clone().expect("a running backup has a name");
    let archives =
        job.parts.iter().map(|part| archive(folder, job, part, keys, now)).collect::<Result<Vec<_>, _>>()?;
    Ok(BackupDraft {
        name,
        job: job.id.to_string(),
        started_at: job.started_at.unwrap_or(job.created_at),
        ended_at: now,
        pin: pin(job),
        archives,
        catalog: None,
    })
}

fn archive(
    folder: &Path,
    job: &Job,
    part: &Part,
    keys: &KeyRing,
    now: jiff::Timestamp,
) -> Result<ArchiveDraft, JobFailure> {
    let Some(PartResult::Archive { task, manifest, .. }) = &part.result else {
        return Ok(ArchiveDraft { manifest: failed(job, part, keys, now), refs: None });
    };
    let file = refs_file(folder, job.id, *task);
    let lost = |why: String| {
        JobFailure::new(WHAT, format!("the refs of {} are lost: {why}", part.source), "run the backup again")
    };
    let bytes = std::fs::read(&file).map_err(|error| lost(error.to_string()))?;
    let refs = Refs::decode(&bytes).map_err(|error| lost(error.to_string()))?;
    Ok(ArchiveDraft { manifest: (**manifest).clone(), refs: Some(refs) })
}

/// The manifest of a part that brought nothing.
fn failed(job: &Job, part: &Part, keys: &KeyRing, now: jiff::Timestamp) -> ArchiveManifest {
    ArchiveManifest {
        format: FORMAT,
        source: part.source.clone(),
        kind: part.kind.clone(),
        outcome: Outcome::Failed,
        reason: Some(part.reason.clone().unwrap_or_else(|| "it was cancelled".to_owned())),
        consistency: None,
        quiesce: None,
        remarks: Vec::new(),
        signed: None,
        signer: None,
        domain: keys.domain_keys(&part.source).domain,
        root: None,
        problems: None,
        agent: part.agent.map(|agent| agent.to_string()),
        started_at: job.started_at.unwrap_or(job.created_at),
        ended_at: now,
        counts: Counts::default(),
        segments: 0,
        blobs: 0,
    }
}
