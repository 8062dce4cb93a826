//! What a restore would do: facts about the archive and about what is live, and the plan that follows.
//!
//! [`survey`] looks, [`plan`] decides and touches nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::iter::Peekable;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use repository::archive::entry::{Entry, EntryKind};
use repository::archive::path::EntryPath;
use repository::content::IdKey;
use rustix::fs::FileType;

use crate::sources::files::is_repository;

use super::allowance::{Privilege, privileges};
use super::area::is_staging;
use super::error::{RestoreError, failed};
use super::ground::{Ground, LOST_AND_FOUND, is_mount_point};
use super::handles::{kind_of, open_below};
pub use super::immovable::Immovable;
use super::immovable::{Found, Search};
use super::incoming::Incoming;
use super::key::Keys;
use super::late::{MAX_CARRIED, folder_at};
use super::links::Links;
use super::remove::{Names, names_in};
use super::request::{Place, RestoreRequest, Selection};
use super::signer::{self, LiveState, Signed};
pub use super::stays::Hindrance;
use super::stays::{Fate, MAX_STRAYS, Sift, Top};

/// More names than this are counted and not listed.
pub const MAX_NAMED: usize = 10_000;
/// So many things that are never moved are told: each is a reason by itself.
const MAX_IMMOVABLE: usize = 100;

/// What there is before a restore. However many entries there are, so many are named that people read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// What is swapped as a whole and has no live entry in its place. What is swapped as a whole are the
    /// names at the top for a whole restore, else each outermost selected path.
    pub created: Named,
    /// The same with a live entry in its place.
    pub overwritten: Named,
    /// Live entries that the archive lacks and that are moved away.
    pub removed: Named,
    /// Live entries that the source leaves out of its backups, and that stay.
    pub stay: Named,
    /// How many of them lie in what is swapped, and are carried along.
    pub carried: u64,
    /// The first of what lies in what would be replaced and is never moved.
    pub immovable: Vec<(EntryPath, Immovable)>,
    /// The first of those that cannot be carried, with what is in the way.
    pub not_carried: Vec<(EntryPath, Hindrance)>,
    /// What the source leaves out as well, and goes with the folder that it lies in, or is in the archive all the
    /// same.
    pub go: Named,
    /// Live entries that could not be seen.
    pub unseen: Unseen,
    /// The same of what by the rules may have to stay.
    pub unseen_needed: Unseen,
    /// What a restore that is taken back has made: it is removed.
    pub strays: Vec<EntryPath>,
    /// How many those are beyond what is listed.
    pub strays_missed: u64,
    /// Live entries that cannot be moved, with what is in the way.
    pub blocked: Vec<(EntryPath, LiveEntry)>,
    /// Whether all of the archive goes to a live folder, whose other entries are moved away.
    pub is_whole_live: bool,
    /// Entries below the root that really come: no sockets, and nothing of the file system's own.
    pub comes: u64,
    /// Entries that are selected.
    pub entries: u64,
    /// Bytes of content that are selected, holes not counted.
    pub bytes: u64,
    /// Bytes of disk that they take.
    pub needed: u64,
    /// Selected entries that belong to other users than ours.
    pub of_others: u64,
    /// Which of the selected entries give somebody rights.
    pub privileges: BTreeMap<Privilege, Named>,
    /// Validators' states in the archive, and what is live in their places.
    pub signers: Vec<(EntryPath, LiveState)>,
    /// Up to which height a validator has signed, as the operator has stated.
    pub signer_height: Option<u64>,
    /// The highest that any backup has seen of the key that will be live.
    pub signer_seen: Option<Signed>,
    /// The first validator's key that will be another one in its place.
    pub other_key: Option<EntryPath>,
    /// The archive has a validator's state, selected or not.
    pub has_state: bool,
    /// Validators' keys that would come to another place.
    pub second_keys: Named,
    /// The same, left out.
    pub keys_left_out: Named,
    /// The same of keys of the node and of its accounts.
    pub node_keys_left_out: Named,
    /// Bytes free for us in the target's file system.
    pub free_space: u64,
    /// The folders that a restore writes in.
    pub folders: Vec<PathBuf>,
    /// What stays there as it is, for people; empty: nothing.
    pub leaves: &'static str,
    /// Live folders that are replaced as a whole.
    pub replaced_folders: u64,
    /// Symlinks that would lead out of a new folder, or may.
    pub links_out: Named,
    /// The repository of backups that a new folder would lie in.
    pub repository: Option<PathBuf>,
}

/// Paths of one kind: all are counted, the first [`MAX_NAMED`] are named.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Named {
    /// The first of them.
    pub paths: Vec<EntryPath>,
    /// How many there are.
    pub count: u64,
}

/// What could not be seen, with the first of it and why.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unseen {
    /// Where, and why.
    pub first: Option<(EntryPath, String)>,
    /// How many there are.
    pub count: u64,
}

impl Unseen {
    fn told(&self, then: &str) -> Option<String> {
        let (path, cause) = self.first.as_ref()?;
        let more = match self.count - 1 {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        Some(format!("what is live at {path} cannot be seen ({cause}){more}{then}"))
    }
}

impl Named {
    fn add(&mut self, path: &EntryPath) {
        self.count += 1;
        if self.paths.len() < MAX_NAMED {
            self.paths.push(path.clone());
        }
    }
}

impl Facts {
    /// What is live and the source leaves out.
    fn sift(&mut self, path: &EntryPath, fate: Fate) {
        match fate {
            Fate::Goes => self.go.add(path),
            Fate::Unseen { is_needed, cause } => {
                let unseen = if is_needed { &mut self.unseen_needed } else { &mut self.unseen };
                unseen.count += 1;
                unseen.first.get_or_insert_with(|| (path.clone(), cause));
            }
            Fate::Stays(hindrance) => {
                self.stay.add(path);
                self.carried += u64::from(path.parent().is_some_and(|parent| !parent.is_root()));
                if let Some(hindrance) = hindrance.filter(|_| self.not_carried.len() < MAX_NAMED) {
                    self.not_carried.push((path.clone(), hindrance));
                }
            }
        }
    }

    /// What was found in what would be moved away.
    fn found(&mut self, path: EntryPath, found: Found) {
        match found {
            Found::Immovable(what) => {
                let told = (path, what);
                if self.immovable.len() < MAX_IMMOVABLE && !self.immovable.contains(&told) {
                    self.immovable.push(told);
                }
            }
            Found::Unseen(error) => {
                self.sift(&path, Fate::Unseen { is_needed: false, cause: error.to_string() });
            }
        }
    }

    /// One place: whether the archive has something for it, and what is there.
    fn meet(&mut self, path: &EntryPath, is_archived: bool, live: Option<LiveEntry>) {
        match (is_archived, live) {
            (true, None) => self.created.add(path),
            (true, Some(_)) => self.overwritten.add(path),
            (false, Some(_)) => self.removed.add(path),
            (false, None) => {}
        }
        if let Some(obstacle @ (LiveEntry::MountPoint | LiveEntry::Unreachable)) = live
            && self.blocked.len() < MAX_NAMED
        {
            self.blocked.push((path.clone(), obstacle));
        }
    }
}

/// A live entry that is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveEntry {
    /// It can be moved.
    Movable,
    /// Something is mounted on it.
    MountPoint,
    /// It lies below something that is no folder.
    Unreachable,
}

/// What a restore would do. Lists name at most [`MAX_NAMED`] entries; the counts beside them count all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestorePlan {
    /// Live entries (with all below them) whose place is taken.
    pub overwritten: Vec<EntryPath>,
    /// How many those are.
    pub overwritten_count: u64,
    /// Entries that have no live one.
    pub created: Vec<EntryPath>,
    /// How many those are.
    pub created_count: u64,
    /// Live entries that are moved away since the archive has none of that name.
    pub removed: Vec<EntryPath>,
    /// How many those are.
    pub removed_count: u64,
    /// Those of them that a restore which is taken back has made.
    pub strays: Vec<EntryPath>,
    /// Entries that are written.
    pub entries: u64,
    /// Bytes of content that are written.
    pub bytes_to_write: u64,
    /// Bytes of disk that have to be free, beside what is live.
    pub needed: u64,
    /// What stays there as it is, for people; empty: nothing.
    pub leaves: &'static str,
    /// What a person should know before.
    pub remarks: Vec<String>,
    /// Entries that give somebody rights, by what gives them.
    pub privileges: BTreeMap<Privilege, Named>,
    /// Bytes free for us in the target's file system.
    pub free_space: u64,
    /// Why the restore would fail, one line each with what to do. Empty: nothing speaks against it.
    pub conflicts: Vec<String>,
}

/// The plan that follows from the facts.
pub fn plan(facts: &Facts) -> RestorePlan {
    let mut plan = RestorePlan {
        overwritten: facts.overwritten.paths.clone(),
        overwritten_count: facts.overwritten.count,
        created: facts.created.paths.clone(),
        created_count: facts.created.count,
        removed: facts.removed.paths.clone(),
        removed_count: facts.removed.count,
        strays: facts.strays.clone(),
        entries: facts.entries,
        bytes_to_write: facts.bytes,
        needed: facts.needed,
        leaves: facts.leaves,
        remarks: remarks(facts),
        privileges: facts.privileges.clone(),
        free_space: facts.free_space,
        conflicts: facts.blocked.iter().filter_map(|(path, live)| conflict(path, *live)).collect(),
    };
    plan.conflicts.extend(nothing_comes(facts));
    plan.conflicts.extend(facts.repository.as_ref().map(|repository| {
        format!(
            "it would lie in the repository of backups {}: restore to somewhere else",
            repository.display()
        )
    }));
    plan.conflicts.extend(facts.immovable.iter().map(|(path, what)| immovable(path, *what)));
    plan.conflicts.extend(facts.not_carried.iter().map(|(path, hindrance)| not_carried(path, *hindrance)));
    plan.conflicts.extend(too_many(facts.carried));
    plan.conflicts.extend(facts.unseen_needed.told(
        ", and something of it may have to stay by the source's rules: mend it, move it away, or restore other paths, or to \
         another folder (`--to`)",
    ));
    plan.conflicts.extend((facts.strays_missed > 0).then(|| {
        format!(
            "the restore has made more than {MAX_STRAYS} entries in folders that were there before, which would be taken \
             away one by one while programs stand: remove some of them yourself, then undo the restore"
        )
    }));
    plan.conflicts.extend(signer::conflicts(facts));
    if facts.needed > facts.free_space {
        plan.conflicts.push(format!(
            "{} bytes are needed beside the live state and {} are free; make room, or restore fewer paths",
            facts.needed, facts.free_space
        ));
    }
    plan
}

/// Why nothing would be restored. A whole restore of an empty folder to an empty one has nothing to do; that it
/// empties one in which something is may be a backup of a volume that was not mounted.
fn nothing_comes(facts: &Facts) -> Option<String> {
    let counted = facts.created.count + facts.overwritten.count;
    match (facts.is_whole_live, facts.comes, facts.removed.count) {
        (false, _, removed) if counted + removed == 0 => {
            Some("nothing in the archive matches; look at its paths with `nsctl ls`".to_owned())
        }
        (true, 0, removed) if removed > 0 => Some(format!(
            "the backup holds nothing of this folder, in which {removed} entries are: leave it out (name others with \
             --components), choose another backup, or empty the folder yourself if that is what it should be"
        )),
        _ => None,
    }
}

/// Why what lies at `path` speaks against what would move it.
fn immovable(path: &EntryPath, what: Immovable) -> String {
    let (why, then) = match what {
        Immovable::Mount => (
            "is a mount point in a folder that would be replaced: what is mounted there would go along with the old folder, \
             and programs would start on an empty one",
            "unmount it",
        ),
        Immovable::OwnState => (
            "is, or holds, the agent's own state (`state` in its configuration), which is never moved",
            "move that elsewhere",
        ),
        Immovable::Repository => (
            "is a repository of backups, perhaps the one that is restored from, which is never moved",
            "move it elsewhere",
        ),
    };
    let path = if path.is_root() { "the folder itself".to_owned() } else { path.to_string() };
    format!("{path} {why}; {then}, restore other paths, or to another folder (`--to`)")
}

/// Why what the source excludes cannot be carried into what takes the place of its folder.
fn not_carried(path: &EntryPath, hindrance: Hindrance) -> String {
    let why = match hindrance {
        Hindrance::OtherDevice => "lies in another file system or subvolume: move it away",
        Hindrance::NotOurs => {
            "is a folder of another user's, or lies in one, in which the agent may not write, or none may in the backup's: \
             give it that right, or move it away"
        }
    };
    format!(
        "{path} is in no backup of the source and would have to be carried into the folder that takes the place of its own, \
         and it {why}, or restore other paths, or to another folder (`--to`)"
    )
}

/// Why they are not carried.
pub(super) fn too_many(carried: u64) -> Option<String> {
    (carried > MAX_CARRIED).then(|| {
        format!(
            "{carried} entries that the source excludes lie in folders that are replaced, and would have to be carried \
             over one by one while programs stand; {MAX_CARRIED} are: exclude folders instead of what is in them, move \
             them away before, or restore to another folder (`--to`)"
        )
    })
}

fn remarks(facts: &Facts) -> Vec<String> {
    let is_root = rustix::process::geteuid().is_root();
    let others = (facts.of_others > 0 && !is_root).then(|| {
        format!(
            "{} entries belong to other users; the agent is not root, so they come back as its own",
            facts.of_others
        )
    });
    let keys = facts.second_keys.paths.first().map(|path| {
        format!("{path} is a validator's key: two nodes that sign with it are punished; start nothing with this copy")
    });
    let left_out = facts.keys_left_out.paths.first().map(|path| {
        format!(
            "{path} is a validator's key and is left out: two nodes that sign with it are punished; name it with --path, \
             or state with --signer-height up to where it has signed, to have it"
        )
    });
    let node_keys = facts.node_keys_left_out.paths.first().map(|path| {
        format!(
            "{} keys of the node are left out, {path} first: a copy goes to more places than they should; add --with-keys, \
             or name them with --path, to have them",
            facts.node_keys_left_out.count
        )
    });
    let stay = named(&facts.stay, "that the source excludes, or that no backup has, stay as they are");
    let go = named(
        &facts.go,
        "that the source excludes are not kept live, since the backup has another entry there, or not the folder \
         that they lie in; they are kept with the replaced state, and are in no backup",
    );
    let within = (facts.replaced_folders > 0).then(|| {
        let (these, them) =
            if facts.replaced_folders == 1 { ("1 is a folder", "it") } else { ("some are folders", "them") };
        format!("of what is replaced, {these}: what lies in {them} and is not in the backup goes, too")
    });
    let unseen = facts.unseen.told(": whatever it is, it goes where the folder that it lies in goes");
    others
        .into_iter()
        .chain(stay)
        .chain(go)
        .chain(unseen)
        .chain(keys)
        .chain(left_out)
        .chain(node_keys)
        .chain(signer::remarks(facts))
        .chain(within)
        .collect()
}

/// How many there are, and the first of them.
fn named(named: &Named, what: &str) -> Option<String> {
    const TOLD: usize = 10;
    let first: Vec<String> = named.paths.iter().take(TOLD).map(EntryPath::to_string).collect();
    let more = named.count.saturating_sub(first.len() as u64);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (named.count > 0).then(|| format!("{} entries {what}: {}{more}", named.count, first.join(", ")))
}

/// What `bytes` of content take on a disk, with the entry itself.
fn on_disk(bytes: u64) -> u64 {
    const BLOCK: u64 = 4_096;
    const ENTRY: u64 = 256;
    bytes.div_ceil(BLOCK).saturating_mul(BLOCK).saturating_add(ENTRY)
}

fn conflict(path: &EntryPath, live: LiveEntry) -> Option<String> {
    match live {
        LiveEntry::Movable => None,
        LiveEntry::MountPoint => Some(format!(
            "{path} is a mount point and cannot be replaced; restore what is in it by path, or unmount it"
        )),
        LiveEntry::Unreachable => Some(format!(
            "{path} lies below something that is no folder; restore the folder above it as a whole"
        )),
    }
}

/// Looks at the archive's `entries`, whose ids are made with `id_key`, and at the place that the request names. Changes
/// nothing.
pub fn survey<I, E>(request: &RestoreRequest, id_key: &IdKey, entries: I) -> Result<Facts, RestoreError>
where
    I: Iterator<Item = Result<Entry, E>>,
    E: std::error::Error + Send + Sync + 'static,
{
    let ground = Ground::find(&request.place)?;
    let mut facts = Facts { signer_height: request.signer_height, ..Facts::default() };
    let is_whole = matches!(request.selection, Selection::Whole);
    facts.is_whole_live = is_whole && matches!(ground, Ground::Live { .. });
    let ours = rustix::process::geteuid().as_raw();
    facts.leaves = match &ground {
        Ground::New { .. } => "",
        // By the rules, and not by what is there just now: that comes and goes, and the plan would be another one.
        Ground::Live { .. } if is_whole => match &request.stays {
            Some(rules) if !rules.is_plain() => "what the source excludes",
            _ => "",
        },
        Ground::Live { .. } | Ground::Spread { .. } => "everything else that is there",
    };
    if let Ground::New { .. } = &ground {
        let is_one =
            |folder: &&Path| fs::File::open(folder).is_ok_and(|folder| is_repository(folder.as_fd()));
        facts.repository = ground.root().ancestors().find(is_one).map(Path::to_owned);
    }
    let mut look = Look::begin(&ground, request, &mut facts)?;
    let mut outermost: Option<EntryPath> = None;
    // The last selected folder that stays: what is in it is selected, and goes one by one.
    let mut around: Option<EntryPath> = None;
    let mut incoming = Incoming::new(entries, |_| false);
    let mut keys = Keys::default();
    let mut links = Links::default();
    while let Some(entry) = incoming.next()? {
        look.sift(Some(&entry), &mut facts)?;
        let is_within =
            |folder: &Option<EntryPath>| folder.as_ref().is_some_and(|folder| entry.path.is_within(folder));
        let (below, is_around) = (is_within(&outermost), is_within(&around));
        let is_selected = below || is_around || request.selection.names(&entry.path);
        keys.note(&entry, is_selected);
        if !is_selected {
            continue;
        }
        if let Some(key) = signer::left_out(request, &entry) {
            match key.name() == Some(signer::KEY) {
                true => facts.keys_left_out.add(&entry.path),
                false if entry.kind == EntryKind::Folder => {}
                false => facts.node_keys_left_out.add(&entry.path),
            }
            continue;
        }
        if matches!(ground, Ground::New { .. }) && links.lead_out(&entry) {
            facts.links_out.add(&entry.path);
        }
        facts.entries += 1;
        let is_ours = entry.kind == EntryKind::Socket || entry.path.names().next() == Some(LOST_AND_FOUND);
        facts.comes += u64::from(!entry.path.is_root() && !is_ours);
        look.at_signer(&entry, request, &mut facts);
        facts.of_others += u64::from(entry.metadata.uid != ours);
        for privilege in privileges(&entry) {
            facts.privileges.entry(privilege).or_default().add(&entry.path);
        }
        if !below {
            let folder_that_stays = match &ground {
                Ground::New { .. } => false,
                Ground::Live { .. } => entry.path.is_root(),
                Ground::Spread { .. } => {
                    entry.kind == EntryKind::Folder && is_live_folder(&ground, &entry.path)
                }
            };
            if folder_that_stays {
                if !is_around {
                    around = Some(entry.path.clone());
                }
                continue;
            }
            outermost = Some(entry.path.clone());
            look.at(&entry.path, &mut facts)?;
        }
        if let EntryKind::File(content) = &entry.kind {
            facts.bytes = facts.bytes.saturating_add(content.data_length());
            facts.needed = facts.needed.saturating_add(on_disk(content.data_length()));
        }
    }
    look.finish(&mut facts)?;
    facts.signer_seen = signer::seen(request, &keys);
    facts.other_key = keys.other(&ground, request, id_key, facts.signers.iter().map(|(path, _)| path));
    facts.has_state = keys.has_state;
    Ok(facts)
}

fn is_live_folder(ground: &Ground, path: &EntryPath) -> bool {
    open_below(ground.handle(), path, ground.mounts()).is_ok()
}

/// Looks at the place while the archive's entries go by: both are in path order.
struct Look<'a> {
    ground: &'a Ground,
    /// For a whole restore into a live folder: its names that have not been passed yet.
    live: Option<Peekable<Names>>,
    /// What is live and may be in no archive.
    sift: Option<Sift<'a>>,
    /// What stays at the top.
    top: Top<'a>,
    /// What is never moved.
    search: Search<'a>,
    /// The folders that listed files go to.
    folders: BTreeSet<PathBuf>,
}

impl<'a> Look<'a> {
    fn begin(
        ground: &'a Ground,
        request: &'a RestoreRequest,
        facts: &mut Facts,
    ) -> Result<Self, RestoreError> {
        let root = ground.handle();
        let shown = || ground.root().display();
        facts.free_space = free_space(root).map_err(failed("look at", shown()))?;
        let live = match ground {
            Ground::Live { .. } if facts.is_whole_live => {
                Some(names_in(root).map_err(failed("read the folder", shown()))?)
            }
            _ => None,
        };
        let sift = Sift::begin(ground, request).map_err(failed("look through", shown()))?;
        let (live, top) = (live.map(Iterator::peekable), Top::of(request.stays.as_ref(), root));
        let search = Search::begin(request.stays.as_ref());
        Ok(Self { ground, live, sift, top, search, folders: BTreeSet::new() })
    }

    /// Looks at the place of `path`, which is swapped as a whole.
    fn at(&mut self, path: &EntryPath, facts: &mut Facts) -> Result<(), RestoreError> {
        let name = match path.name() {
            Some(name) if !matches!(self.ground, Ground::New { .. }) => name,
            _ => {
                facts.meet(path, true, None);
                return Ok(());
            }
        };
        if self.live.is_some() {
            if name == LOST_AND_FOUND {
                return Ok(());
            }
            self.pass(Some(name), facts)?;
        }
        let parent = path.parent().unwrap_or_default();
        let live = match open_below(self.ground.handle(), &parent, self.ground.mounts()) {
            Ok(folder) => {
                if matches!(self.ground, Ground::Spread { .. }) {
                    self.folders.insert(self.ground.shown(&parent));
                }
                let live = live_entry(&folder, name).map_err(failed("look at", path))?;
                let is_folder = || kind_of(&folder, name).is_ok_and(|kind| kind == Some(FileType::Directory));
                facts.replaced_folders += u64::from(live == Some(LiveEntry::Movable) && is_folder());
                Self::search((self.ground, &self.search), &folder, path, live, facts)?;
                live
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(_) => Some(LiveEntry::Unreachable),
        };
        facts.meet(path, true, live);
        Ok(())
    }

    /// Looks for what is never moved in the live entry at `path`, which lies in `folder`, unless that is in the way itself.
    fn search(
        (ground, search): (&Ground, &Search<'_>),
        folder: &OwnedFd,
        path: &EntryPath,
        live: Option<LiveEntry>,
        facts: &mut Facts,
    ) -> Result<(), RestoreError> {
        let (Some(LiveEntry::Movable), Some(name)) = (live, path.name()) else { return Ok(()) };
        let mut tell = |path, found| facts.found(path, found);
        let looked = search.look((folder, name), path, &ground.shown(path), &mut tell);
        looked.map_err(failed("look through", path))
    }

    /// Looks through what is live up to where the archive is, or to the end.
    fn sift(&mut self, to: Option<&Entry>, facts: &mut Facts) -> Result<(), RestoreError> {
        let Some(sift) = &mut self.sift else { return Ok(()) };
        let sifted = sift.run(to, &mut |path, fate| facts.sift(&path, fate));
        sifted.map_err(failed("look through", self.ground.root().display()))
    }

    /// Looks what is live where a validator's state goes, and whether its key comes to another place.
    fn at_signer(&self, entry: &Entry, request: &RestoreRequest, facts: &mut Facts) {
        let is_copy = matches!(request.place, Place::NewFolder { .. });
        match entry.path.name() {
            Some(signer::KEY) if is_copy => facts.second_keys.add(&entry.path),
            _ if signer::is_state(&entry.path) && !is_copy && facts.signers.len() < MAX_NAMED => {
                let live = signer::live(self.ground, &entry.path);
                facts.signers.push((entry.path.clone(), live.under(&entry.kind)));
            }
            _ => {}
        }
    }

    /// Passes the live names up to and with `name`, or all: those before it are not in the archive.
    fn pass(&mut self, name: Option<&[u8]>, facts: &mut Facts) -> Result<(), RestoreError> {
        let Some(live) = &mut self.live else { return Ok(()) };
        let is_before = |next: &io::Result<Box<[u8]>>| {
            next.as_ref().map_or(true, |next| name.is_none_or(|name| **next <= *name))
        };
        while let Some(next) = live.next_if(is_before) {
            let next = next.map_err(failed("read the folder", self.ground.root().display()))?;
            let Ok(path) = EntryPath::new(&next) else { continue };
            let stays = *next == *LOST_AND_FOUND || is_staging(&next);
            let root = self.ground.handle();
            let is_left_out = !stays && self.top.leaves_out(root, &path).map_err(failed("look at", &path))?;
            if name == Some(&*next) || stays {
                continue;
            }
            if is_left_out {
                // Of a source without rules nobody else tells it.
                if self.sift.is_none() {
                    facts.stay.add(&path);
                }
                continue;
            }
            let live = live_entry(root, &next).map_err(failed("look at", &path))?;
            Self::search((self.ground, &self.search), root, &path, live, facts)?;
            facts.meet(&path, false, live);
        }
        Ok(())
    }

    fn finish(mut self, facts: &mut Facts) -> Result<(), RestoreError> {
        self.sift(None, facts)?;
        self.pass(None, facts)?;
        let strays = self.sift.take().map(Sift::strays).unwrap_or_default();
        facts.strays_missed = strays.missed;
        for (path, live) in strays.paths {
            let parent = path.parent().unwrap_or_default();
            let folder = folder_at(self.ground.handle(), &parent).map_err(failed("look at", &path))?;
            if let Some(folder) = folder {
                Self::search((self.ground, &self.search), &folder, &path, Some(live), facts)?;
            }
            facts.meet(&path, false, Some(live));
            facts.strays.push(path);
        }
        // What is staged lies beside each: the fullest of their file systems tells.
        let free = self.folders.iter().filter_map(|folder| free_space(fs::File::open(folder).ok()?).ok());
        facts.free_space = free.min().unwrap_or(facts.free_space);
        facts.folders = match self.ground {
            Ground::New { parent, missing, .. } => {
                parent.ancestors().nth(missing.len()).map(Path::to_owned).into_iter().collect()
            }
            _ if self.folders.is_empty() => vec![self.ground.root().to_owned()],
            _ => self.folders.into_iter().collect(),
        };
        Ok(())
    }
}

/// What is live there, and whether it can be moved.
pub(super) fn live_entry(folder: &OwnedFd, name: &[u8]) -> io::Result<Option<LiveEntry>> {
    Ok(match kind_of(folder, name)? {
        None => None,
        Some(FileType::Directory | FileType::RegularFile) if is_mount_point(folder, name) => {
            Some(LiveEntry::MountPoint)
        }
        Some(_) => Some(LiveEntry::Movable),
    })
}

/// Bytes that we may still write, in the file system that `folder` lies in.
pub(super) fn free_space(folder: impl std::os::fd::AsFd) -> io::Result<u64> {
    let stat = rustix::fs::fstatvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {

    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text.as_bytes()).expect(text)
    }

    fn facts(outermost: &[&str], live: &[(&str, LiveEntry)]) -> Facts {
        let entries = outermost.len() as u64;
        let mut facts = Facts { entries, bytes: 10, needed: 10, free_space: 10, ..Facts::default() };
        let mut live: BTreeMap<&str, LiveEntry> = live.iter().copied().collect();
        outermost.iter().for_each(|name| facts.meet(&path(name), true, live.remove(name)));
        live.iter().for_each(|(name, live)| facts.meet(&path(name), false, Some(*live)));
        facts
    }

    #[test]
    fn a_whole_restore_overwrites_creates_and_removes() {
        let plan = plan(&facts(&["a", "b"], &[("b", LiveEntry::Movable), ("c", LiveEntry::Movable)]));
        assert_eq!(
            (plan.created, plan.overwritten, plan.removed),
            (vec![path("a")], vec![path("b")], vec![path("c")])
        );
        assert_eq!(plan.conflicts, Vec::<String>::new());
    }

    #[test]
    fn more_entries_than_are_named_are_counted_all() {
        let names: Vec<String> = (0..=MAX_NAMED).map(|n| format!("{n:06}")).collect();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        let live: Vec<_> = all.iter().map(|name| (*name, LiveEntry::Movable)).collect();
        for (facts, counts) in [
            (facts(&all, &[]), (1, 0, 0)),
            (facts(&all, &live), (0, 1, 0)),
            (facts(&["x"], &live), (0, 0, 1)),
        ] {
            let plan = plan(&facts);
            let all = MAX_NAMED as u64 + 1;
            let found = (plan.created_count / all, plan.overwritten_count / all, plan.removed_count / all);
            assert_eq!(found, counts);
            assert!([&plan.created, &plan.overwritten, &plan.removed].iter().all(|l| l.len() <= MAX_NAMED));
        }
    }

    #[test]
    fn mount_points_missing_space_and_an_empty_selection_are_conflicts() {
        assert_eq!(plan(&facts(&["a"], &[("a", LiveEntry::MountPoint)])).conflicts.len(), 1);
        assert_eq!(plan(&facts(&["a"], &[("b", LiveEntry::MountPoint)])).conflicts.len(), 1);
        assert_eq!(plan(&facts(&["a"], &[("a", LiveEntry::Unreachable)])).conflicts.len(), 1);
        assert_eq!(plan(&facts(&[], &[])).conflicts.len(), 1);
        let full = Facts { free_space: 9, ..facts(&["a"], &[]) };
        assert!(plan(&full).conflicts[0].contains("10 bytes are needed"), "{:?}", plan(&full));
    }
}
