//! The agent's life: state, what a crash left, then the connection until it is asked to stop.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use runtime::clock::SystemClock;
use runtime::shutdown::{Drained, Shutdown};

use crate::chance;
use crate::config::{AgentConfig, discover};
use crate::connection::{Agent, keep_connected};
use crate::hooks;
use crate::pipeline::RememberedBlobs;
use crate::served::{Served, WrongSource};
use crate::state::{AgentKey, Identity, IdentityError, StateError, StateFolder};
use crate::targets::files::{InProduction, recover};

/// How long running work may take to end.
const STOP: Duration = Duration::from_secs(10);

/// The agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It cannot start.
    #[error("the agent cannot start")]
    Start(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Work hangs that only the end of the process can end; whoever supervises it starts it again. Threads
    /// still hang: the runtime must not be waited for.
    #[error("the agent ends so that it can be started again")]
    Hangs(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl RunError {
    fn of(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Start(Box::new(error))
    }
}

impl From<StateError> for RunError {
    fn from(error: StateError) -> Self {
        Self::of(error)
    }
}

impl From<IdentityError> for RunError {
    fn from(error: IdentityError) -> Self {
        Self::of(error)
    }
}

impl From<WrongSource> for RunError {
    fn from(error: WrongSource) -> Self {
        Self::of(error)
    }
}

/// Runs the agent until `shutdown` is asked for, then ends its work within ten seconds. Needs the
/// process's crypto provider to be installed, and a tokio runtime with several threads.
///
/// # Errors
/// When it cannot start, or when work hangs; else, once it runs, it goes on trying.
pub async fn run(config: AgentConfig, shutdown: Shutdown) -> Result<(), RunError> {
    runtime::memory::give_back_large_pieces();
    allow_deep_folders();
    let state = StateFolder::open(&config.state)?;
    let key = AgentKey::open(&state)?;
    let identity = Identity::load(&state)?;
    let served = served(&config)?;
    for source in &served {
        tracing::info!(source = %source.id, location = source.location(), "serves");
    }
    let (served, state) = finish_restores(served, state).await;
    hooks::run_those_owed(&state.hooks(), &served).await;
    let (clock, listed) = (Arc::new(SystemClock), RememberedBlobs::default());
    let agent = Arc::new(Agent { config, state, key, served, clock, instance: instance(), listed });
    let stop = shutdown.clone();
    let connection = shutdown.spawn("connection", async move {
        let ended = Box::pin(keep_connected(agent, identity, stop.token())).await;
        stop.request();
        ended
    });
    match shutdown.drain(STOP).await {
        Drained::Clean => tracing::info!("{}", Drained::Clean),
        other => {
            tracing::warn!("{other}");
            return Ok(());
        }
    }
    let ended = connection.await.expect("the connection does not panic");
    ended.map_err(|hanging| {
        tracing::error!("{hanging}");
        RunError::Hangs(Box::new(hanging))
    })
}

/// Nobody else's: the number of this run of the process.
fn instance() -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&chance().to_be_bytes());
    bytes[8..].copy_from_slice(&chance().to_be_bytes());
    bytes
}

/// A walk holds a folder open for each level that it is deep: asks for as many open files as the system
/// lets us have without a privilege.
fn allow_deep_folders() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// The configured sources, or those found in the usual places.
fn served(config: &AgentConfig) -> Result<Vec<Served>, WrongSource> {
    if !config.sources.is_empty() {
        return config.sources.iter().map(Served::new).collect();
    }
    let found = discover(Path::new("/"));
    for place in &found.unserved {
        let hint = "dump the database into a folder and serve that with `kind: files`";
        tracing::warn!(
            component = place.component, path = %place.path.display(), hint,
            "found, and not served: this release cannot back it up while it is in use"
        );
    }
    for place in &found.missing {
        tracing::info!(component = place.component, path = %place.path.display(), "not found in the usual place");
    }
    if found.sources.is_empty() {
        tracing::warn!("nothing to serve: list `sources` in the configuration");
    }
    found.sources.iter().map(Served::new).collect()
}

/// Ends what a crash left of restores, before anything reads or writes there.
async fn finish_restores(served: Vec<Served>, state: StateFolder) -> (Vec<Served>, StateFolder) {
    let finished = tokio::task::spawn_blocking(move || {
        for source in &served {
            for root in source.roots() {
                finish_restore(&root);
            }
        }
        // A folder that is not there may be one that is not mounted yet.
        if let Err(error) = state.recover_restores(|folder| finish_restore(folder) && folder.is_dir()) {
            tracing::error!(%error, "cannot look for restores that were interrupted");
        }
        (served, state)
    });
    finished.await.expect("recovering restores does not panic")
}

/// False if something is left to do.
fn finish_restore(root: &Path) -> bool {
    match recover(root, &InProduction) {
        Ok(recovered) => {
            for path in &recovered.finished {
                tracing::info!(path = %path.display(), "finished a restore that was interrupted");
            }
            for path in &recovered.undone {
                tracing::info!(path = %path.display(), "took back a restore that was interrupted");
            }
            recovered.left.is_empty()
        }
        Err(error) => {
            let cause = proto::failure::chain(&error);
            tracing::error!(
                path = %root.display(),
                "an interrupted restore could not be ended: {cause}; see to it and restart the agent"
            );
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::path::PathBuf;

    use bytes::Bytes;
    use repository::archive::entry::{Entry, EntryKind, Metadata};
    use repository::archive::path::EntryPath;
    use repository::content::IdKey;
    use repository::ids::BlobId;

    use super::*;
    use crate::state::RestoreRecord;
    use crate::targets::files::{
        Allowance, Place, RestoreError, RestoreRequest, Selection, Steps, Tools, restore,
    };
    use crate::targets::{BlobError, BlobReader, CancelFlag, Progress};

    struct NoBlobs;

    impl BlobReader for NoBlobs {
        fn hint(&mut self, _: &[BlobId]) {}
        fn blob(&mut self, id: &BlobId) -> Result<Bytes, BlobError> {
            Err(BlobError::Missing(*id))
        }
    }

    struct OnRecord(RestoreRecord);

    impl Progress for OnRecord {
        fn writes_in(&self, folder: &Path) -> std::io::Result<()> {
            self.0.note(folder)
        }
        fn bytes_written(&self, _: u64) {}
        fn entry_written(&self) {}
        fn swap_begins(&self) {}
    }

    /// Killed at so many renames.
    struct KilledAtRename(Cell<u32>);

    impl Steps for KilledAtRename {
        fn before(&self, what: &'static str) -> std::io::Result<()> {
            self.0.set(self.0.get().saturating_sub(u32::from(what == "rename")));
            if self.0.get() == 0 { Err(std::io::Error::other("killed")) } else { Ok(()) }
        }
    }

    fn entry(path: &str, kind: EntryKind) -> Result<Entry, Infallible> {
        let path = EntryPath::new(path.as_bytes()).expect("a path");
        let metadata = Metadata { mode: 0o755, ..Metadata::default() };
        Ok(Entry { path, metadata, kind })
    }

    const LINKS: [&str; 2] = ["etc/deep/er/link", "etc/link"];

    /// Restores [`LINKS`] one by one, killed in the middle of the swap.
    fn killed_in_its_swap(root: &Path, state: &StateFolder) {
        let to = |target: &str| EntryKind::Symlink { target: target.into() };
        let entries = vec![
            entry("", EntryKind::Folder),
            entry("etc", EntryKind::Folder),
            entry("etc/deep", EntryKind::Folder),
            entry("etc/deep/er", EntryKind::Folder),
            entry(LINKS[0], to("then")),
            entry(LINKS[1], to("then")),
        ];
        let place = Place::Listed { root: root.to_owned() };
        let request = RestoreRequest { restore_id: "r-1".into(), place, selection: Selection::Whole };
        let (progress, cancel) = (OnRecord(state.restore("r-1")), CancelFlag::default());
        let steps = KilledAtRename(Cell::new(3));
        let id_key = IdKey::new([1; 32]);
        let tools = Tools { id_key: &id_key, progress: &progress, cancel: &cancel, steps: &steps };
        let allowance = Allowance { entries: 9, ..Allowance::default() };
        let error =
            restore(&request, allowance, entries.into_iter(), &mut NoBlobs, tools).expect_err("killed");
        assert!(matches!(error, RestoreError::Interrupted { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_swap_cut_off_below_what_the_configuration_names_is_finished_at_the_next_start() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().canonicalize().expect("a path").join("root");
        std::fs::create_dir_all(root.join("etc/deep/er")).expect("folders");
        for link in LINKS {
            std::os::unix::fs::symlink("now", root.join(link)).expect("a link");
        }
        let at = folder.path().join("state");
        let state = StateFolder::open(&at).expect("opens");
        killed_in_its_swap(&root, &state);
        let targets = || LINKS.map(|link| std::fs::read_link(root.join(link)).ok());
        assert_ne!(targets()[0], targets()[1], "it is half done");

        let (_, state) = finish_restores(Vec::new(), state).await;
        assert_eq!(targets(), [Some(PathBuf::from("then")), Some(PathBuf::from("then"))]);
        let records = || std::fs::read_dir(at.join("restores")).expect("lists").count();
        assert_eq!(records(), 0);
        drop(state);
    }

    #[tokio::test]
    async fn a_record_is_kept_while_the_folder_with_the_journal_is_not_mounted() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().canonicalize().expect("a path").join("root");
        std::fs::create_dir_all(root.join("etc/deep/er")).expect("folders");
        for link in LINKS {
            std::os::unix::fs::symlink("now", root.join(link)).expect("a link");
        }
        let at = folder.path().join("state");
        let state = StateFolder::open(&at).expect("opens");
        killed_in_its_swap(&root, &state);
        let (first, disk) = (root.join("etc/deep/er"), folder.path().join("disk"));
        std::fs::rename(&first, &disk).expect("it goes");
        std::fs::create_dir(&first).expect("the folder for the mount");
        let records = || std::fs::read_dir(at.join("restores")).expect("lists").count();
        let (_, state) = finish_restores(Vec::new(), state).await;
        assert_eq!(records(), 1);

        std::fs::remove_dir(&first).expect("it goes");
        std::fs::rename(&disk, &first).expect("it comes back");
        let (_, state) = finish_restores(Vec::new(), state).await;
        assert_eq!(records(), 0);
        let targets = LINKS.map(|link| std::fs::read_link(root.join(link)).ok());
        assert_eq!(targets, [Some(PathBuf::from("then")), Some(PathBuf::from("then"))]);
        drop(state);
    }

    #[tokio::test]
    async fn a_record_whose_folder_is_not_there_yet_is_kept() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = folder.path().join("state");
        let state = StateFolder::open(&at).expect("opens");
        let missing = folder.path().join("not mounted");
        state.restore("r-1").note(&missing).expect("noted");
        // Another attempt knows of the first one's folder and leaves it on record.
        let second = state.restore("r-1");
        second.note(folder.path()).expect("noted");
        second.ended();
        let records = || std::fs::read_dir(at.join("restores")).expect("lists").count();
        let (_, state) = finish_restores(Vec::new(), state).await;
        assert_eq!(records(), 1);
        std::fs::create_dir(&missing).expect("a folder");
        let (_, state) = finish_restores(Vec::new(), state).await;
        assert_eq!(records(), 0);
        let third = state.restore("r-2");
        third.note(folder.path()).expect("noted");
        assert_eq!(records(), 1);
        third.ended();
        assert_eq!(records(), 0);
    }
}
