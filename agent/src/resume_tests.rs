//! Swaps that were cut off, and what a start makes of them.

use std::cell::Cell;
use std::convert::Infallible;
use std::path::PathBuf;

use bytes::Bytes;
use jiff::Timestamp;
use repository::archive::entry::{Entry, EntryKind, Metadata};
use repository::archive::path::EntryPath;
use repository::content::IdKey;
use repository::ids::BlobId;

use runtime::clock::{Clock, SystemClock};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::*;
use crate::platform::Application;
use crate::state::{AgentKey, Report, RestoreRecord, StateFolder, Stopped, Stopping};
use crate::targets::files::{
    Allowance, Place, RestoreError, RestoreRequest, Selection, Steps, Tools, restore,
};
use crate::targets::{BlobError, BlobReader, CancelFlag, Progress};

/// Resumes with nothing configured, and gives the state folder back.
async fn finish_restores(state: StateFolder) -> StateFolder {
    finish_restores_as(crate::config::AgentConfig::default(), state).await
}

async fn finish_restores_as(config: crate::config::AgentConfig, state: StateFolder) -> StateFolder {
    let key = AgentKey::open(&state).expect("a key");
    let agent = Arc::new(Agent {
        platform: crate::platform::Platform::new(&config),
        config,
        state,
        key,
        served: Vec::new(),
        clock: Arc::new(SystemClock),
        instance: [0; 16],
        room: Arc::default(),
        listed: crate::pipeline::RememberedBlobs::default(),
        drills: None,
        unbroken: Default::default(),
        retrying: Default::default(),
    });
    resume(agent.clone(), &CancellationToken::new()).await;
    Arc::into_inner(agent).expect("nobody else has it").state
}

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
    let request = RestoreRequest {
        restore_id: "r-1".into(),
        place,
        selection: Selection::Whole,
        keeps_older: false,
        stays: None,
        signer_height: None,
        signer_seen: None,
        signer_seen_here: None,
        leaves_keys: false,
    };
    let (progress, cancel) = (OnRecord(state.restore("r-1")), CancelFlag::default());
    let steps = KilledAtRename(Cell::new(3));
    let id_key = IdKey::new([1; 32]);
    let tools = Tools { id_key: &id_key, progress: &progress, cancel: &cancel, steps: &steps };
    let allowance = Allowance { entries: 9, ..Allowance::default() };
    let error = restore(&request, allowance, entries.into_iter(), &mut NoBlobs, tools).expect_err("killed");
    assert!(matches!(error, RestoreError::Interrupted { .. }), "{error:?}");
}

/// A folder, and the state folder `at` of an agent that was killed in a swap below `root`.
struct Killed {
    folder: tempfile::TempDir,
    root: PathBuf,
    at: PathBuf,
    state: StateFolder,
}

fn half_swapped() -> Killed {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path().canonicalize().expect("a path").join("root");
    std::fs::create_dir_all(root.join("etc/deep/er")).expect("folders");
    for link in LINKS {
        std::os::unix::fs::symlink("now", root.join(link)).expect("a link");
    }
    let at = folder.path().join("state");
    let state = StateFolder::open(&at).expect("opens");
    killed_in_its_swap(&root, &state);
    Killed { folder, root, at, state }
}

#[tokio::test]
async fn a_swap_cut_off_below_what_the_configuration_names_is_finished_at_the_next_start() {
    let Killed { folder: _folder, root, at, state } = half_swapped();
    let targets = || LINKS.map(|link| std::fs::read_link(root.join(link)).ok());
    assert_ne!(targets()[0], targets()[1], "it is half done");

    let state = finish_restores(state).await;
    assert_eq!(targets(), [Some(PathBuf::from("then")), Some(PathBuf::from("then"))]);
    let records = || std::fs::read_dir(at.join("restores")).expect("lists").count();
    assert_eq!(records(), 0);
    drop(state);
}

#[tokio::test]
async fn a_record_is_kept_while_the_folder_with_the_journal_is_not_mounted() {
    let Killed { folder, root, at, state } = half_swapped();
    let (first, disk) = (root.join("etc/deep/er"), folder.path().join("disk"));
    std::fs::rename(&first, &disk).expect("it goes");
    std::fs::create_dir(&first).expect("the folder for the mount");
    let records = || std::fs::read_dir(at.join("restores")).expect("lists").count();
    let state = finish_restores(state).await;
    assert_eq!(records(), 1);

    std::fs::remove_dir(&first).expect("it goes");
    std::fs::rename(&disk, &first).expect("it comes back");
    let state = finish_restores(state).await;
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
    let state = finish_restores(state).await;
    assert_eq!(records(), 1);
    std::fs::create_dir(&missing).expect("a folder");
    let state = finish_restores(state).await;
    assert_eq!(records(), 0);
    let third = state.restore("r-2");
    third.note(folder.path()).expect("noted");
    assert_eq!(records(), 1);
    third.ended();
    assert_eq!(records(), 0);
}

/// A container that a restore has stopped, on record in the state folder `at`.
fn stopped_container(at: &Path, stopped_at: Timestamp) -> StateFolder {
    let application = Application {
        name: "db".into(),
        handle: Reached::Container("c1".into()),
        after: Vec::new(),
        runs: true,
        is_checked: true,
    };
    let state = StateFolder::open(at).expect("opens");
    let stopped = vec![Stopped { application, state: Stopping::Stopped }];
    let mut report = Report::default();
    report.did("stopped", stopped_at, "db");
    state.runs().keep("r-1", &Run { report, stopped, ..Run::default() }).expect("kept");
    state
}

/// What an engine answers that has this one container.
fn answer(line: &str) -> &'static str {
    match line {
        line if line.starts_with("POST ") => "",
        line if line.starts_with("GET /containers/json") => "[]",
        _ => r#"{"State": {"Running": true, "Restarting": false, "ExitCode": 0}}"#,
    }
}

#[tokio::test]
async fn a_container_is_started_by_an_engine_that_comes_up_after_the_agent() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (at, socket) = (folder.path().join("state"), folder.path().join("docker.sock"));
    let state = stopped_container(&at, SystemClock.now());
    let mut config = crate::config::AgentConfig::default();
    config.docker.socket = socket.clone();
    let engine = tokio::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let listener = tokio::net::UnixListener::bind(socket).expect("it listens");
        let mut asked = Vec::new();
        while !asked.iter().any(|line: &String| line.starts_with("GET /containers/c1/json")) {
            let (stream, _) = listener.accept().await.expect("somebody asks");
            let mut stream = BufReader::new(stream);
            let mut lines = Vec::new();
            while lines.last().is_none_or(|line: &String| line != "\r\n") {
                let mut line = String::new();
                stream.read_line(&mut line).await.expect("a line");
                lines.push(line);
            }
            let body = answer(&lines[0]);
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.get_mut().write_all((head + body).as_bytes()).await.expect("answered");
            asked.push(lines.swap_remove(0));
        }
        asked
    });
    let state = finish_restores_as(config, state).await;
    let asked = engine.await.expect("the engine does not panic");
    assert!(asked.iter().any(|line| line.starts_with("POST /containers/c1/start")), "{asked:?}");
    assert_eq!(state.runs().all().expect("listed"), [], "it is over");
}

#[tokio::test]
async fn what_cannot_be_started_again_stays_on_record_for_a_day() {
    let now = SystemClock.now();
    for stopped_at in [now, now - jiff::SignedDuration::from_hours(25)] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = stopped_container(&folder.path().join("state"), stopped_at);
        let mut config = crate::config::AgentConfig::default();
        config.docker.enabled = Some(false);
        let state = finish_restores_as(config, state).await;
        let runs = state.runs().all().expect("listed");
        // Of the agent's start on, however long the host was off.
        let left: Vec<_> = runs.iter().map(|(_, run)| (run.is_over, run.left_at >= Some(now))).collect();
        assert_eq!(left, [(true, true)], "stopped at {stopped_at}");
    }
}
