//! `nsctl repository restore`: from the repository and a key alone into a new folder.
//!
//! Uses the agent's files target, so what arrives is what an agent would have restored: staged beside,
//! every file checked against its content id, swapped in whole. A damaged archive does not keep the
//! others from being restored.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::targets::files::{
    self, Allowance, Named, NoFaults, PathPatterns, Place as Where, Privilege, RestoreError, RestorePlan,
    RestoreRequest, Selection, Tools, preflight, survey,
};
use agent::targets::{BlobError, BlobReader, CancelFlag};
use bytes::Bytes;
use repository::backup::manifest::{ArchiveRecord, BackupRecord, Outcome};
use repository::check::Checks;
use repository::error::RepositoryError;
use repository::ids::BlobId;
use repository::keys::KeyRing;
use repository::names::SourceId;
use repository::progress;
use repository::read::ArchiveReader;
use repository::repo::Repository;
use repository::store::location::Location;
use repository::verify::{Depth, Verification};
use serde::Serialize;

use super::{chosen, open, unlock};
use crate::cli::repository::{Place, Restore};
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::progress::{Progress, Reached};
use crate::output::table::Rows;
use crate::output::words::{count, size};
use crate::output::{Voice, warn};
use crate::views::plan::Privileged;

/// Names that a result lists of each privilege.
const TOLD_NAMES: usize = 100;

/// What was restored.
#[derive(Debug, Serialize)]
struct Restored {
    /// The newest of those that it comes from.
    backup: String,
    archives: Vec<Archive>,
}

/// What became of one archive.
#[derive(Debug, Serialize)]
struct Archive {
    component: String,
    source: String,
    /// From which backup.
    backup: String,
    folder: PathBuf,
    restored: bool,
    /// The same for people.
    #[serde(skip)]
    result: &'static str,
    entries: u64,
    bytes: u64,
    /// Entries that give somebody rights.
    privileges: Vec<Privileged>,
    /// What could not be restored as it was, or why nothing was restored.
    notes: Vec<String>,
}

pub(super) fn run(wanted: &Restore, voice: Voice) -> Ended {
    if !wanted.to.is_absolute() {
        return Err(Trouble::usage(format!("--to {} is not an absolute path", wanted.to.display()))
            .hint("give the whole path, from / on"));
    }
    let selection = match wanted.path.as_slice() {
        [] => Selection::Whole,
        patterns => Selection::Paths(
            PathPatterns::new(patterns)
                .map_err(|error| Trouble::usage("--path is wrong").caused_by(&error))?,
        ),
    };
    let repository = open(&wanted.place)?;
    if let Some(within) = within(&wanted.place, &wanted.to) {
        return Err(Trouble::usage(format!("{} lies in the repository {within}", wanted.to.display()))
            .hint("restore to somewhere else: nobody but backups writes there"));
    }
    let chosen = chosen(&repository, &wanted.timestamp, &wanted.components)?;
    let keys = unlock(&repository, &wanted.secret)?;
    let Restore { no_privileges, signer_height, with_keys, .. } = *wanted;
    let mut done = Restored { backup: chosen[0].0.name.to_string(), archives: Vec::new() };
    let mut work = Work {
        keys,
        repository,
        record: chosen[0].0.clone(),
        selection,
        no_privileges,
        signer_height,
        with_keys,
        voice,
    };
    let mut exit = Exit::Done;
    for (record, sources) in chosen {
        work.voice.say(format!("from backup {}", record.name));
        work.record = record;
        for source in &sources {
            let several = sources.iter().filter(|other| other.component == source.component).count() > 1;
            let mut folder = wanted.to.join(source.component.as_str());
            if several {
                folder.push(source.name.as_str());
            }
            match work.archive(source, folder) {
                Ok((archive, ended)) => {
                    exit = exit.worse(ended);
                    done.archives.push(archive);
                }
                Err(trouble) => {
                    // What is there already is there.
                    if !done.archives.is_empty() {
                        work.voice.result(&done, Restored::table)?;
                    }
                    return Err(trouble);
                }
            }
        }
    }
    voice.result(&done, Restored::table)?;
    Ok(exit)
}

/// The repository in which this folder lies, if it does: whatever is not there yet has no links in it.
fn within(place: &Place, folder: &Path) -> Option<String> {
    let Location::Folder(repository) = &place.repository else { return None };
    let repository = repository.canonicalize().ok()?;
    let there = folder.ancestors().find(|above| above.exists())?;
    there.canonicalize().ok()?.starts_with(&repository).then(|| repository.display().to_string())
}

/// What all archives of one restore share.
struct Work {
    repository: Arc<Repository>,
    keys: KeyRing,
    record: BackupRecord,
    selection: Selection,
    no_privileges: bool,
    signer_height: Option<u64>,
    with_keys: bool,
    voice: Voice,
}

impl Work {
    /// Restores one archive. Damage is told in the result; an error ends the whole restore.
    fn archive(&self, source: &SourceId, folder: PathBuf) -> Result<(Archive, Exit), Trouble> {
        let mut archive = Archive {
            component: source.component.to_string(),
            source: source.name.to_string(),
            backup: self.record.name.to_string(),
            folder,
            restored: false,
            result: "",
            entries: 0,
            bytes: 0,
            privileges: Vec::new(),
            notes: Vec::new(),
        };
        let of_source = |one: &&ArchiveRecord| one.source == *source;
        if let Some(record) = self.record.archives.iter().find(of_source)
            && record.outcome != Outcome::Complete
        {
            let reason = record.reason.as_deref().unwrap_or("no reason was recorded");
            archive.notes.push(format!("incomplete in this backup: {reason}"));
            if record.outcome == Outcome::Failed {
                archive.result = "nothing there";
                return Ok((archive, Exit::Incomplete));
            }
        }
        let outcome = self.restore(source, &mut archive);
        let exit = match outcome {
            Ok(report) => {
                archive.restored = true;
                (archive.entries, archive.bytes) = (report.entries, report.bytes);
                archive.result = "restored";
                archive.notes.extend(report.notes);
                if archive.notes.is_empty() { Exit::Done } else { Exit::Incomplete }
            }
            Err(trouble) if trouble.exit == Exit::Damaged => {
                self.voice.error(&trouble);
                archive.result = "DAMAGED";
                archive.notes = self.damage(source)?;
                archive.notes.iter().for_each(|finding| warn(format!("  {source}: {finding}")));
                Exit::Damaged
            }
            Err(trouble) => return Err(trouble),
        };
        Ok((archive, exit))
    }

    fn restore(
        &self,
        source: &SourceId,
        archive: &mut Archive,
    ) -> Result<agent::targets::files::RestoreReport, Trouble> {
        let open = || ArchiveReader::open(&self.repository, &self.keys, &self.record, source);
        // One walks the pages, the other fetches contents.
        let (mut pages, contents) = (open()?, open()?);
        let id_key = pages.id_key().clone();
        let total = pages.manifest().counts.bytes;
        let request = RestoreRequest {
            restore_id: self.record.name.as_str().replace('_', "-"),
            place: Where::NewFolder { path: archive.folder.clone() },
            selection: self.selection.clone(),
            keeps_older: false,
            stays: None,
            signer_height: self.signer_height,
            signer_seen: None,
            signer_seen_here: None,
            leaves_keys: self.leaves_keys(source),
        };
        let facts = survey(&request, &id_key, pages.entries()?).map_err(|error| trouble(source, &error))?;
        let plan = files::plan(&facts);
        archive.privileges = self.privileges(source, &plan);
        let obstacles = preflight(&facts, &request.restore_id, &NoFaults);
        if !obstacles.is_empty() {
            return Err(Trouble::new(Exit::Usage, format!("{source} was not restored"))
                .because(obstacles.join("; "))
                .hint("clear what is in its way, or give another folder with --to"));
        }
        let allowance = match self.no_privileges {
            true => Allowance::without_privileges(&plan),
            false => Allowance::all(&plan),
        };
        let meter = Meter::new(&self.voice, source, total);
        let cancel = CancelFlag::default();
        let tools = Tools { id_key: &id_key, progress: &meter, cancel: &cancel, steps: &NoFaults };
        let mut blobs = Blobs(contents);
        files::restore(&request, allowance, pages.entries()?, &mut blobs, tools)
            .map_err(|error| trouble(source, &error))
    }

    /// A copy of a chain's node has none of its keys, unless somebody asks.
    fn leaves_keys(&self, source: &SourceId) -> bool {
        let archives = &self.record.archives;
        let is_chain = archives.iter().any(|one| one.source == *source && one.kind == "blockchain");
        is_chain && !self.with_keys
    }

    /// Shows which entries give somebody rights.
    fn privileges(&self, source: &SourceId, plan: &RestorePlan) -> Vec<Privileged> {
        let shown = |(privilege, held): (&Privilege, &Named)| Privileged {
            kind: privilege.word(),
            count: held.count,
            names: held.paths.iter().take(TOLD_NAMES).map(ToString::to_string).collect(),
            granted: !self.no_privileges,
        };
        let privileges: Vec<_> = plan.privileges.iter().map(shown).collect();
        for privileged in &privileges {
            self.voice.say(format!("{source}: {}", privileged.text()));
        }
        privileges
    }

    /// What exactly is damaged, by name.
    fn damage(&self, source: &SourceId) -> Result<Vec<String>, Trouble> {
        let verification = Verification {
            repository: &self.repository,
            keys: Some(&self.keys),
            depth: Depth::Opened,
            checks: Checks::NONE,
            progress: &progress::Silent,
            cancel: &progress::CancelFlag::new(),
        };
        let report = verification.run(&self.record, |other| other == source)?;
        Ok(report.archives.into_iter().flat_map(|archive| archive.findings).collect())
    }
}

fn trouble(source: &SourceId, error: &RestoreError) -> Trouble {
    let exit = match error {
        RestoreError::Blob { source: BlobError::Missing(_) | BlobError::Damaged { .. }, .. } => Exit::Damaged,
        RestoreError::Archive { .. } => Exit::Damaged,
        RestoreError::Entries(cause) => match cause.downcast_ref::<RepositoryError>() {
            Some(cause) if cause.is_damage() => Exit::Damaged,
            _ => Exit::Failed,
        },
        RestoreError::Refused { .. } => Exit::Usage,
        _ => Exit::Failed,
    };
    let hint = match exit {
        Exit::Damaged => {
            "the findings name what is concerned; take that from another backup, the rest with --path"
        }
        Exit::Usage => "give a folder that is new or empty with --to",
        _ => "nothing is left half restored; mend the cause and try again",
    };
    Trouble::new(exit, format!("{source} was not restored")).caused_by(error).hint(hint)
}

/// Blobs straight from the repository.
struct Blobs(ArchiveReader);

impl BlobReader for Blobs {
    fn hint(&mut self, _upcoming: &[BlobId]) {}

    fn blob(&mut self, id: &BlobId) -> Result<Bytes, BlobError> {
        self.0.blob(id).map_err(|error| match &error {
            RepositoryError::BlobMissing(id) => BlobError::Missing(*id),
            error if error.is_damage() => BlobError::Damaged { id: *id, cause: proto::failure::chain(error) },
            error => BlobError::Fetch { id: *id, cause: proto::failure::chain(error) },
        })
    }
}

/// Shows how far the restore of one archive is.
struct Meter {
    shown: RefCell<Progress>,
    step: String,
    total: u64,
    done: Cell<u64>,
    entries: Cell<u64>,
}

impl Meter {
    fn new(voice: &Voice, source: &SourceId, total: u64) -> Self {
        let shown = RefCell::new(Progress::new(voice));
        Self { shown, step: format!("restoring {source}"), total, done: Cell::new(0), entries: Cell::new(0) }
    }

    fn show(&self) {
        let (done, entries) = (self.done.get(), self.entries.get());
        self.shown.borrow_mut().reached(&Reached {
            step: self.step.clone(),
            done,
            total: self.total,
            entries,
        });
    }
}

impl agent::targets::Progress for Meter {
    fn bytes_written(&self, count: u64) {
        self.done.set(self.done.get() + count);
        self.show();
    }

    fn entry_written(&self) {
        self.entries.set(self.entries.get() + 1);
        self.show();
    }

    fn swap_begins(&self) {}
}

impl Restored {
    fn table(&self) -> String {
        let mut rows = Rows::new(&["COMPONENT", "SOURCE", "BACKUP", "RESULT", ">ENTRIES", ">SIZE", "FOLDER"]);
        for archive in &self.archives {
            rows.row([
                archive.component.clone(),
                archive.source.clone(),
                archive.backup.clone(),
                archive.result.to_owned(),
                count(archive.entries),
                size(archive.bytes),
                archive.folder.display().to_string(),
            ]);
        }
        let mut text = rows.finish_or("there was nothing to restore");
        // Damage was told on stderr when it was found.
        for archive in self.archives.iter().filter(|archive| archive.result != "DAMAGED") {
            for note in &archive.notes {
                text.push_str(&format!("\n{}/{}: {note}", archive.component, archive.source));
            }
        }
        text
    }
}
