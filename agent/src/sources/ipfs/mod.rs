//! Reads what an IPFS node keeps: its pins and its files, by its RPC.
//!
//! ```text
//! blocks.car          every block that a pin or a file needs, once, in one CAR
//! config.json         the node's configuration, without its private key
//! keystore/           the keys of names, from the node's folder where the source has one
//! mfs/                the node's files: folders, and links to /ipfs/CID
//! node.json           version, root of the files, counts
//! pins/direct/CID     the pins; each file holds the pin's name
//! pins/recursive/CID
//! ```
//! Must stay true: every block was checked against its name; one that is missing or false is told by its name,
//! and the archive is incomplete. The node is asked for what it has and never fetches. What it is changed by is
//! one folder of ours among its files, for the time of the run ([`hold`]). The node's answers about its own state are
//! not believed: a pin is whole when its blocks were walked.

pub(crate) mod files;
pub(crate) mod hold;
pub(crate) mod node;
pub(crate) mod rpc;

pub(crate) mod keystore;

mod content;
mod parts;
mod plain;
mod shards;
mod spec;
mod tls;
pub(crate) mod volume;
pub(crate) mod walk;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use formats::ipfs::{BLOCKS, DIRECT, RECURSIVE};
use repository::archive::entry::{EntryKind, Metadata, Timestamp};
use repository::archive::path::EntryPath;
use repository::backup::manifest::Consistency;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Body, Content, Item, Problem, ProblemKind, Source, SourceEntry, SourceError, Stamp, StampClock};
use crate::config::NodeRpc;
use content::BlocksFile;
pub(crate) use content::Text;
use files::{Files, Shown};
use hold::Hold;
use keystore::Found;
use node::{Kept, Pin};
use rpc::{Call, Rpc, Trouble};
use walk::{Tally, Walk};

/// Permissions: it may be secret, and it is nobody's but its owner's.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
const LINK_MODE: u32 = 0o777;

/// What a node keeps.
pub struct IpfsSource {
    rpc: Arc<Rpc>,
    keystore: Option<PathBuf>,
    shared: Arc<Mutex<Shared>>,
    is_one_moment: bool,
    at: At,
    coming: VecDeque<Item>,
    metadata: Metadata,
}

/// Where the source is.
enum At {
    Root,
    Blocks,
    Keys,
    Files(Files),
    Node,
    Pins,
    Pin { is_direct: bool, next: usize },
    End,
}

/// What the file of blocks and the source have in common.
pub(crate) struct Shared {
    rpc: Arc<Rpc>,
    state: PathBuf,
    /// Under which name holds are on record.
    source: String,
    kept: Kept,
    hold: Option<Hold>,
    tally: Option<Tally>,
    problems: Vec<Problem>,
    /// What has ended the connection.
    gone: Option<Trouble>,
}

impl Shared {
    /// Holds what is kept, and begins to walk over it.
    fn begin(&mut self) -> Result<(Vec<u8>, Walk), Trouble> {
        let recursive = self.kept.recursive.iter().map(|pin| pin.cid);
        let single = self.kept.direct.iter().map(|pin| hold::alone(&pin.cid));
        let roots: Vec<_> = std::iter::once(self.kept.files).chain(recursive).chain(single).collect();
        match Hold::take(&self.rpc, (&self.state, &self.source), &roots, false) {
            Ok(hold) => self.hold = Some(hold),
            // Whether the node is gone is for the next call to say.
            Err(trouble) => {
                let cause = format!("garbage collection may take blocks away while they are read: {trouble}");
                self.problem(BLOCKS, ProblemKind::Suspect, cause);
            }
        }
        let (walk, ours) = Walk::begin(&self.rpc, &self.kept, hold::left(&self.state, &self.source))?;
        hold::remember(&self.state, &self.source, ours.into_iter());
        Ok((Walk::<walk::Ahead>::header(&self.kept), walk))
    }

    fn ended(&mut self, mut walk: Walk) {
        for told in std::mem::take(&mut walk.told) {
            let kind = if told.is_damage { ProblemKind::Damaged } else { ProblemKind::Unreadable };
            self.problem(&format!("blocks/{}", told.cid), kind, told.cause);
        }
        let walk::Untold { damaged, others } = walk.untold;
        for (count, kind, what) in [
            (damaged, ProblemKind::Damaged, "are missing or false"),
            (others, ProblemKind::Unreadable, "are not given, or lead where nobody can follow"),
        ] {
            if count > 0 {
                self.problem(BLOCKS, kind, format!("{count} more blocks {what}"));
            }
        }
        let Tally { unprotected, .. } = walk.tally;
        if unprotected > 0 {
            let cause = format!(
                "{unprotected} blocks that the node has are needed by no pin and no file: garbage collection may \
                 take them, and they are not backed up"
            );
            self.problem(BLOCKS, ProblemKind::LeftOut, cause);
        }
        self.tally = Some(walk.tally);
    }

    fn problem(&mut self, path: &str, kind: ProblemKind, cause: String) {
        let path = EntryPath::new(path.as_bytes()).unwrap_or_default();
        self.problems.push(Problem { path, kind, cause });
    }
}

impl IpfsSource {
    /// Asks the node at `address` what it keeps, as of now. `folder` is the node's own, if it can be read; `state` is
    /// the agent's. Gives up when `cancel` is cancelled. Blocks, within the runtime.
    pub(crate) fn open(
        address: &NodeRpc,
        folder: Option<&Path>,
        state: &Path,
        source: String,
        now: jiff::Timestamp,
        cancel: Option<&CancellationToken>,
    ) -> Result<Self, SourceError> {
        let rpc = Rpc::new(address);
        let rpc = Arc::new(match cancel {
            Some(cancel) => rpc.stopped_by(cancel),
            None => rpc,
        });
        // What an earlier run has left would be taken for the node's.
        match hold::reap(&rpc, state, &source) {
            Ok(0) => {}
            Ok(reaped) => tracing::info!(source, reaped, "holds of earlier runs are gone"),
            Err(trouble) if trouble.is_gone() => return Err(trouble.into()),
            Err(error) => tracing::warn!(source, %error, "holds of earlier runs are still there"),
        }
        let (mut kept, is_one_moment) = Kept::ask(&rpc)?;
        let ours = hold::anchors(state, &source);
        kept.recursive.retain(|pin| !ours.contains(&pin.cid));
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let mtime = Timestamp { seconds: now.as_second(), nanoseconds: 0 };
        let shared = Shared {
            rpc: Arc::clone(&rpc),
            state: state.to_owned(),
            source,
            kept,
            hold: None,
            tally: None,
            problems: Vec::new(),
            gone: None,
        };
        Ok(Self {
            rpc,
            keystore: folder.map(|folder| folder.join("keystore")),
            shared: Arc::new(Mutex::new(shared)),
            is_one_moment,
            at: At::Root,
            coming: VecDeque::new(),
            metadata: Metadata { mode: FILE_MODE, uid, gid, mtime, xattrs: Vec::new() },
        })
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stamp(&self) -> Stamp {
        Stamp { inode: 0, size: 0, mtime: self.metadata.mtime, ctime: self.metadata.mtime }
    }

    fn entry(&mut self, path: EntryPath, mode: u32, body: Body) {
        let metadata = Metadata { mode, ..self.metadata.clone() };
        self.coming.push_back(Item::Entry(SourceEntry { path, metadata, body }));
    }

    fn folder(&mut self, path: EntryPath) {
        self.entry(path, FOLDER_MODE, Body::Plain(EntryKind::Folder));
    }

    fn file(&mut self, path: EntryPath, content: Box<dyn Content>) {
        let body = Body::File { stamp: self.stamp(), clock: StampClock::Nobodys, content };
        self.entry(path, FILE_MODE, body);
    }

    fn text(&mut self, path: EntryPath, bytes: Vec<u8>) {
        let content = Box::new(Text::new(bytes, self.stamp()));
        self.file(path, content);
    }

    fn problem(&mut self, path: EntryPath, kind: ProblemKind, cause: &str) {
        self.coming.push_back(Item::Problem(Problem { path, kind, cause: cause.to_owned() }));
    }

    /// Makes the next items, and goes on.
    fn step(&mut self) -> Result<(), Trouble> {
        self.at = match std::mem::replace(&mut self.at, At::End) {
            At::Root => {
                self.folder(EntryPath::root());
                let blocks = BlocksFile::new(&self.shared, self.stamp());
                self.file(path(BLOCKS), Box::new(blocks));
                At::Blocks
            }
            At::Blocks => {
                let told = std::mem::take(&mut self.shared().problems);
                self.coming.extend(told.into_iter().map(Item::Problem));
                match self.rpc.json(Call::new("config/show")) {
                    Ok(config) => self.text(path("config.json"), pretty(&without_key(config))),
                    Err(trouble) if trouble.is_gone() => return Err(trouble),
                    Err(trouble) => {
                        self.problem(path("config.json"), ProblemKind::LeftOut, &trouble.to_string())
                    }
                }
                At::Keys
            }
            At::Keys => {
                self.keys()?;
                At::Files(Files::new(path("mfs"), self.shared().kept.files))
            }
            At::Files(mut files) => match files.next(&mut &*self.rpc)? {
                None => {
                    // Nothing more is read that garbage collection could take.
                    let hold = self.shared().hold.take();
                    drop(hold);
                    At::Node
                }
                Some(shown) => {
                    match shown {
                        Shown::Folder(path) => self.folder(path),
                        Shown::File(path, cid) => {
                            let target = format!("/ipfs/{cid}").into_bytes();
                            self.entry(path, LINK_MODE, Body::Plain(EntryKind::Symlink { target }));
                        }
                        Shown::Not(path, why) => self.problem(path, ProblemKind::LeftOut, why),
                    }
                    At::Files(files)
                }
            },
            At::Node => {
                let description = self.describe()?;
                self.text(path("node.json"), description);
                At::Pins
            }
            At::Pins => {
                self.folder(path("pins"));
                self.folder(path(DIRECT));
                At::Pin { is_direct: true, next: 0 }
            }
            At::Pin { is_direct, next } => {
                let shared = self.shared();
                let (pins, folder) = match is_direct {
                    true => (&shared.kept.direct, DIRECT),
                    false => (&shared.kept.recursive, RECURSIVE),
                };
                let pin = pins.get(next).cloned();
                drop(shared);
                match (pin, is_direct) {
                    (Some(Pin { cid, name }), _) => {
                        let path = path(folder).join(cid.to_string().as_bytes());
                        self.text(path.expect("a CID is a name"), name.into_bytes());
                        At::Pin { is_direct, next: next + 1 }
                    }
                    (None, true) => {
                        self.folder(path(RECURSIVE));
                        At::Pin { is_direct: false, next: 0 }
                    }
                    (None, false) => At::End,
                }
            }
            At::End => At::End,
        };
        Ok(())
    }

    fn describe(&self) -> Result<Vec<u8>, Trouble> {
        let version = self.rpc.json(Call::new("version"))?;
        let shared = self.shared();
        let Tally { blocks, bytes, wrong, unprotected } = shared.tally.unwrap_or_default();
        Ok(pretty(&json!({
            "Version": version.get("Version"),
            "FilesRoot": shared.kept.files.to_string(),
            "Recursive": shared.kept.recursive.len(),
            "Direct": shared.kept.direct.len(),
            "Blocks": blocks,
            "Bytes": bytes,
            "MissingOrFalse": wrong,
            "Unprotected": unprotected,
        })))
    }

    /// The keys of names.
    fn keys(&mut self) -> Result<(), Trouble> {
        let at = path("keystore");
        let names = match node::key_names(&self.rpc) {
            Ok(names) => Some(names),
            Err(trouble) if trouble.is_gone() => return Err(trouble),
            Err(trouble) => {
                let cause = format!("it cannot be said whether these are all keys: {trouble}");
                self.problem(at.clone(), ProblemKind::LeftOut, &cause);
                None
            }
        };
        let Some(folder) = self.keystore.clone() else {
            for name in names.into_iter().flatten() {
                let cause = format!(
                    "the key {name:?} is not backed up: the RPC gives none; set `path` to the node's folder"
                );
                self.problem(at.clone(), ProblemKind::LeftOut, &cause);
            }
            return Ok(());
        };
        self.folder(at.clone());
        for found in keystore::read(&folder, names.as_ref()) {
            let path = |name: &[u8]| at.join(name).unwrap_or_else(|_| at.clone());
            match found {
                Found::File(name, bytes) => self.text(path(&name), bytes),
                Found::Problem(name, kind, cause) => {
                    let path = name.map_or_else(|| at.clone(), |name| path(&name));
                    self.problem(path, kind, &cause);
                }
            }
        }
        Ok(())
    }
}

impl Source for IpfsSource {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        loop {
            if let Some(trouble) = self.shared().gone.clone() {
                return Err(trouble.into());
            }
            if let Some(item) = self.coming.pop_front() {
                return Ok(Some(item));
            }
            if matches!(self.at, At::End) {
                return Ok(None);
            }
            self.step()?;
        }
    }

    /// Blocks never change; what is kept is of one moment if nothing had changed between two looks.
    fn consistency(&self) -> Consistency {
        if self.is_one_moment { Consistency::Bracketed } else { Consistency::Fuzzy }
    }
}

fn path(path: &str) -> EntryPath {
    EntryPath::new(path.as_bytes()).expect("it is one of ours")
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("a value is JSON");
    bytes.push(b'\n');
    bytes
}

/// Kubo leaves most of it out by itself; js-ipfs does not.
fn without_key(mut config: Value) -> Value {
    let remove = |config: &mut Value, within: &str, name: &str| {
        if let Some(Value::Object(within)) = config.pointer_mut(within) {
            within.remove(name);
        }
    };
    remove(&mut config, "/Identity", "PrivKey");
    remove(&mut config, "/API", "Authorizations");
    if let Some(Value::Object(services)) = config.pointer_mut("/Pinning/RemoteServices") {
        services.values_mut().for_each(|service| remove(service, "/API", "Key"));
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_of_a_configuration_is_backed_up() {
        let config = json!({
            "Identity": { "PeerID": "12D3", "PrivKey": "SECRET" },
            "API": { "HTTPHeaders": {}, "Authorizations": { "me": { "AuthSecret": "bearer:SECRET" } } },
            "Pinning": { "RemoteServices": { "far": { "API": { "Endpoint": "https://p", "Key": "SECRET" } } } },
        });
        let left = without_key(config).to_string();
        assert!(!left.contains("SECRET") && left.contains("12D3") && left.contains("https://p"), "{left}");
    }
}
