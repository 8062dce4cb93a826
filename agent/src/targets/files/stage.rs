//! Writes the selected entries into `new/`, beside what they will replace, and works out what has to be
//! moved for them to become the live ones.
//!
//! Must stay true: everything is made by a single name in a folder that we made ourselves and hold open,
//! below a staging folder that nobody else may enter. No path of the archive is ever resolved by the
//! kernel as a whole, and nothing that exists is ever opened for writing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use repository::archive::entry::{Entry, EntryKind, FileContent, Metadata};
use repository::archive::path::EntryPath;
use repository::content::IdKey;
use rustix::fs::FileType;

use super::allowance::{Allowance, Privilege};
use super::area::{Area, below, free_name};
use super::content::{ContentWriter, Written};
use super::disk::{Disk, Subject};
use super::error::{RestoreError, failed};
use super::ground::{Ground, LOST_AND_FOUND};
use super::handles::{Mounts, again, kind_of, open_below, open_folder_across};
use super::here::Here;
use super::incoming::Incoming;
use super::journal::{Journal, Line, Move, Text};
use super::key::Keys;
use super::metadata::{Notes, apply};
use super::recover::recover_at;
use super::request::{RestoreRequest, Selection, Tools};
use super::signer;
use crate::steps::Step;
use crate::targets::BlobReader;

/// Two handles are held for each.
const MAX_AREAS: usize = 256;

/// So many validators' states are compared: no network has so many nodes in one folder.
const MAX_SIGNERS: usize = super::plan::MAX_NAMED;

/// More sockets and devices than any archive has; the other names of what is beyond are refused.
const MAX_LEFT_OUT: usize = 100_000;

/// A restore while it is staged.
pub(super) struct Stage<'a> {
    disk: Disk<'a>,
    tools: Tools<'a>,
    request: &'a RestoreRequest,
    /// What is left of it.
    allowance: Allowance,
    ground: &'a Ground,
    pub(super) areas: Vec<Area>,
    /// Where in the archive each area's live folder lies.
    bases: Vec<EntryPath>,
    /// The area in use.
    area: usize,
    pub(super) journal: Option<Journal<'a>>,
    pub(super) moves: Vec<Move>,
    /// What the root folder will have.
    pub(super) root: Option<Metadata>,
    /// Names that stay as they are though the archive has them.
    pub(super) left_alone: BTreeSet<EntryPath>,
    /// Sockets and devices that were left out, by all their names.
    pub(super) left_out: BTreeMap<EntryPath, EntryKind>,
    pub(super) notes: Notes,
    /// Validators' states that were staged.
    pub(super) signers: Vec<EntryPath>,
    /// The keys that the archive has.
    pub(super) keys: Keys,
    /// Entries written so far.
    pub(super) entries: u64,
    writer: ContentWriter<'a>,
    /// The last path that was selected by itself.
    selected: Option<EntryPath>,
    /// What is being moved as a whole, in the area in use: what lies below is written with it.
    moved: Option<EntryPath>,
    /// The archive's folders from the root down to where the last entry lies.
    chain: Vec<(EntryPath, Metadata)>,
    /// The same below `bottom`, as far as they have been made.
    open: Vec<OpenFolder>,
    /// `new/` of the area in use.
    bottom: Option<OwnedFd>,
}

struct OpenFolder {
    path: EntryPath,
    handle: OwnedFd,
    /// What it gets when all in it is written; nothing if it only leads to what is moved.
    metadata: Option<Metadata>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        disk: Disk<'a>,
        tools: Tools<'a>,
        request: &'a RestoreRequest,
        allowance: Allowance,
        ground: &'a Ground,
        blobs: &'a mut dyn BlobReader,
    ) -> Self {
        Self {
            disk,
            tools,
            request,
            allowance,
            ground,
            areas: Vec::new(),
            bases: Vec::new(),
            area: 0,
            journal: None,
            moves: Vec::new(),
            root: None,
            left_alone: BTreeSet::new(),
            left_out: BTreeMap::new(),
            notes: Notes::default(),
            signers: Vec::new(),
            keys: Keys::default(),
            entries: 0,
            writer: ContentWriter::new(disk, tools, blobs, Here::new(ground)),
            selected: None,
            moved: None,
            chain: Vec::new(),
            open: Vec::new(),
            bottom: None,
        }
    }

    /// What the confirmed plan takes away, besides what is replaced.
    pub(super) fn takes_away(&mut self) -> Vec<EntryPath> {
        std::mem::take(&mut self.allowance.takes_away)
    }

    /// Writes nothing more: what is there may be removed.
    pub(super) fn stop_writing(&mut self) {
        self.writer.stop();
    }

    /// What the archive's ids are made with.
    pub(super) fn id_key(&self) -> &'a IdKey {
        self.tools.id_key
    }

    /// Bytes of content that were not fetched, since they are live.
    pub(super) fn bytes_from_here(&self) -> u64 {
        self.writer.from_here
    }

    /// Bytes of content written so far.
    pub(super) fn bytes(&self) -> u64 {
        self.writer.written
    }

    /// Writes all that is selected.
    pub(super) fn write_all<I, E>(&mut self, entries: I) -> Result<(), RestoreError>
    where
        I: Iterator<Item = Result<Entry, E>>,
        E: std::error::Error + Send + Sync + 'static,
    {
        let mut incoming = Incoming::new(entries, fetches(self.request, self.ground));
        if !matches!(self.ground, Ground::Spread { .. }) {
            self.use_area(EntryPath::root())?;
        }
        while let Some(entry) = incoming.next()? {
            if self.tools.cancel.is_cancelled() {
                return Err(RestoreError::Cancelled);
            }
            while self.chain.last().is_some_and(|(folder, _)| !entry.path.is_within(folder)) {
                self.chain.pop();
            }
            let is_selected = is_selected(self.request, &mut self.selected, &entry.path);
            self.keys.note(&entry, is_selected);
            if is_selected && signer::left_out(self.request, &entry).is_some() {
                self.notes.key(&entry.path);
            } else if is_selected {
                self.place(&entry, &incoming)?;
            }
            if entry.kind == EntryKind::Folder {
                self.chain.push((entry.path, entry.metadata));
            }
        }
        self.finish_files(true)?;
        self.close_to(0)?;
        if self.tools.cancel.is_cancelled() {
            return Err(RestoreError::Cancelled);
        }
        // One that is taken back may have made all that the paths name: that is seen when it is swapped.
        if self.selected.is_none() && !self.request.keeps_older {
            let place = self.ground.root().display();
            return Err(RestoreError::refused(
                place,
                "nothing in the archive matches the paths that were given",
            ));
        }
        if self.journal.is_none() {
            let cause = "there is nothing to restore: all that is selected are folders, which are there";
            return Err(RestoreError::refused(self.ground.root().display(), cause));
        }
        Ok(())
    }

    fn place<I, E>(&mut self, entry: &Entry, incoming: &Incoming<'_, I>) -> Result<(), RestoreError>
    where
        I: Iterator<Item = Result<Entry, E>>,
        E: std::error::Error + Send + Sync + 'static,
    {
        let whole_live =
            matches!(self.ground, Ground::Live { .. }) && matches!(self.request.selection, Selection::Whole);
        if whole_live && entry.path.is_root() {
            self.root = Some(self.permitted(&entry.path, &entry.kind, &entry.metadata));
            return Ok(());
        }
        if self.moved.as_ref().is_some_and(|moved| entry.path.is_within(moved)) {
            return self.write_below(entry, incoming);
        }
        // In path order nothing but the last one can hold it.
        if self.left_alone.last().is_some_and(|left| entry.path.is_within(left)) {
            return Ok(());
        }
        let Some(moved) = self.to_move(entry)? else { return Ok(()) };
        if whole_live && moved.as_bytes() == LOST_AND_FOUND {
            self.left_alone.insert(moved);
            return Ok(());
        }
        self.begin_move(moved)?;
        self.write_below(entry, incoming)
    }

    /// What has to be moved for `entry` to become live: itself, or the first folder above it that is not
    /// there. `None` for a live folder that stays.
    fn to_move(&self, entry: &Entry) -> Result<Option<EntryPath>, RestoreError> {
        if let Ground::New { .. } = self.ground {
            return Ok(Some(EntryPath::root()));
        }
        let spread = matches!(self.ground, Ground::Spread { .. });
        let Some(name) = entry.path.name() else { return Ok(None) };
        let mut at =
            again(self.ground.handle()).map_err(failed("open the folder", self.ground.root().display()))?;
        for (above, _) in self.chain.iter().filter(|(above, _)| !above.is_root()) {
            let above_name = above.name().expect("it is not the root");
            match kind_of(&at, above_name).map_err(failed("look at", above))? {
                None => return Ok(Some(above.clone())),
                Some(FileType::Directory) => {}
                Some(_) => {
                    let place = self.ground.shown(above).display().to_string();
                    let cause = "in the archive it is a folder, and what is there is none; restore the folder as a whole";
                    return Err(RestoreError::refused(place, cause));
                }
            }
            at = open_folder_across(&at, above_name, self.ground.mounts())
                .map_err(failed("open the folder", above))?;
        }
        if spread && entry.kind == EntryKind::Folder {
            let live = kind_of(&at, name).map_err(failed("look at", &entry.path))?;
            if live == Some(FileType::Directory) {
                return Ok(None);
            }
        }
        Ok(Some(entry.path.clone()))
    }

    fn begin_move(&mut self, moved: EntryPath) -> Result<(), RestoreError> {
        self.close_to_what_holds(&moved)?;
        if matches!(self.ground, Ground::Spread { .. }) {
            self.use_area(moved.parent().expect("the root is never moved"))?;
        }
        let area = self.area;
        let path = match self.ground {
            Ground::New { name, .. } => EntryPath::new(name)
                .map_err(|error| RestoreError::refused("the new folder", error.to_string()))?,
            _ => below(&self.bases[area], &moved),
        };
        self.moves.push(Move { area, path, put: true });
        self.moved = Some(moved);
        Ok(())
    }

    /// Closes the folders that do not lie above `path`.
    fn close_to_what_holds(&mut self, path: &EntryPath) -> Result<(), RestoreError> {
        let kept = self.open.iter().take_while(|folder| path.is_within(&folder.path)).count();
        self.close_to(kept)
    }

    /// Goes on in the area whose live folder is `base` in the archive.
    fn use_area(&mut self, base: EntryPath) -> Result<(), RestoreError> {
        if self.bases.get(self.area) == Some(&base) {
            return Ok(());
        }
        self.close_to(0)?;
        let path = match self.ground {
            Ground::New { parent, .. } => parent.clone(),
            _ => self.ground.shown(&base),
        };
        self.area = match self.bases.iter().position(|known| *known == base) {
            Some(known) => known,
            None => self.add_area(&path, &base)?,
        };
        let area = &self.areas[self.area];
        let new = area.new_folder().map_err(failed("open the staging folder in", path.display()))?;
        self.bottom = Some(new);
        Ok(())
    }

    fn add_area(&mut self, path: &Path, base: &EntryPath) -> Result<usize, RestoreError> {
        if self.areas.len() == MAX_AREAS {
            let cause = format!("it goes to more than {MAX_AREAS} folders; restore fewer paths at a time");
            return Err(RestoreError::refused(self.ground.root().display(), cause));
        }
        let root = match self.ground {
            Ground::Spread { handle, .. } => open_below(handle, base, Mounts::Crossed),
            ground => again(ground.handle()),
        };
        let root = root.map_err(failed("open the folder", path.display()))?;
        let told = self.tools.progress.writes_in(path);
        told.map_err(failed("keep on record that a restore writes in", path.display()))?;
        self.disk.done(Step::PlaceOnRecord).map_err(failed("begin in", path.display()))?;
        recover_at(&root, path, self.tools.steps)?;
        let first = self.areas.first();
        let name = match first {
            Some(first) => first.staging_name().to_owned(),
            None => {
                free_name(&root, &self.request.restore_id).map_err(failed("look into", path.display()))?
            }
        };
        if let Some(journal) = &mut self.journal {
            // Recovery must find each folder that serves this journal before the journal itself goes.
            let line = Line::Area(Text::new(path.as_os_str().as_bytes()));
            journal.write([line]).map_err(failed("write the journal for", path.display()))?;
        }
        let serves = first.map(|first| &*first.path);
        let (area, journal) = Area::create(self.disk, path, root, &name, serves)?;
        self.areas.push(area);
        self.bases.push(base.clone());
        self.journal.get_or_insert(journal);
        self.disk.done(Step::StagingBegun).map_err(failed("stage in", path.display()))?;
        Ok(self.areas.len() - 1)
    }

    fn write_below<I, E>(&mut self, entry: &Entry, incoming: &Incoming<'_, I>) -> Result<(), RestoreError>
    where
        I: Iterator<Item = Result<Entry, E>>,
        E: std::error::Error + Send + Sync + 'static,
    {
        self.open_parents(entry)?;
        if self.write(entry, incoming)? {
            self.entries += 1;
            self.tools.progress.entry_written();
            if self.entries == 1 {
                self.disk.done(Step::FirstStaged).map_err(failed("stage", &entry.path))?;
            }
        } else if self.moved.as_ref() == Some(&entry.path) {
            self.moves.pop();
            self.moved = None;
            self.left_alone.insert(entry.path.clone());
        }
        Ok(())
    }

    /// Makes the folders that `entry` lies in, as far as they are not open.
    fn open_parents(&mut self, entry: &Entry) -> Result<(), RestoreError> {
        self.close_to_what_holds(&entry.path)?;
        let base = &self.bases[self.area];
        let new = matches!(self.ground, Ground::New { .. });
        let moved = self.moved.clone().expect("something is being moved");
        let above: Vec<(EntryPath, Metadata)> = (self.chain.iter())
            .filter(|(path, _)| new || (path != base && path.is_within(base)))
            .skip(self.open.len())
            .cloned()
            .collect();
        for (path, metadata) in above {
            let handle = self.make_folder(&path)?;
            // What only leads to the selected is in no plan: it has no grants, and uses none up.
            let metadata = path.is_within(&moved).then(|| {
                let mut nothing = Allowance::default();
                nothing.permitted(&path, &EntryKind::Folder, &metadata, &mut self.notes).into_owned()
            });
            self.open.push(OpenFolder { path, handle, metadata });
        }
        Ok(())
    }

    fn make_folder(&self, path: &EntryPath) -> Result<OwnedFd, RestoreError> {
        self.disk.make_folder(self.parent(), self.name(path)).map_err(failed("make the folder", path))
    }

    /// The open folder that the next entry goes into.
    fn parent(&self) -> &OwnedFd {
        let last = self.open.last().map(|folder| &folder.handle);
        last.or(self.bottom.as_ref()).expect("an area is in use")
    }

    pub(super) fn name<'n>(&'n self, path: &'n EntryPath) -> &'n [u8] {
        match (path.name(), self.ground) {
            (Some(name), _) => name,
            (None, Ground::New { name, .. }) => name,
            (None, _) => unreachable!("the root of a live folder is never written"),
        }
    }

    fn close_to(&mut self, kept: usize) -> Result<(), RestoreError> {
        while self.open.len() > kept {
            let folder = self.open.pop().expect("there is more than is kept");
            if let Some(metadata) = &folder.metadata {
                let subject = Subject::Handle(folder.handle.as_fd());
                apply(&self.disk, subject, false, &folder.path, metadata, &mut self.notes)?;
            }
        }
        Ok(())
    }

    fn permitted(&mut self, path: &EntryPath, kind: &EntryKind, metadata: &Metadata) -> Metadata {
        self.allowance.permitted(path, kind, metadata, &mut self.notes).into_owned()
    }

    /// Writes one entry into its open folder; false if it was left out, which is noted.
    fn write<I, E>(&mut self, entry: &Entry, incoming: &Incoming<'_, I>) -> Result<bool, RestoreError>
    where
        I: Iterator<Item = Result<Entry, E>>,
        E: std::error::Error + Send + Sync + 'static,
    {
        let path = &entry.path;
        let bytes = if let EntryKind::File(content) = &entry.kind { content.data_length() } else { 0 };
        self.allowance.spend(path, bytes)?;
        let kind = match &entry.kind {
            EntryKind::HardLink { to } => self.left_out.get(to).unwrap_or(&entry.kind).clone(),
            kind => kind.clone(),
        };
        let written = self.write_kind(entry, &kind, incoming)?;
        // Whatever it is: a link of that name would be read as the state, too.
        if written && signer::is_state(path) {
            if self.signers.len() == MAX_SIGNERS {
                let cause = format!(
                    "it is one of more than {MAX_SIGNERS} validators' states; restore fewer at a time"
                );
                return Err(RestoreError::refused(path, cause));
            }
            self.signers.push(path.clone());
        }
        if !written
            && matches!(kind, EntryKind::Socket | EntryKind::Device { .. })
            && self.left_out.len() < MAX_LEFT_OUT
        {
            self.left_out.insert(path.clone(), kind);
        }
        Ok(written)
    }

    /// Writes the entry as one of this kind.
    fn write_kind<I, E>(
        &mut self,
        entry: &Entry,
        kind: &EntryKind,
        incoming: &Incoming<'_, I>,
    ) -> Result<bool, RestoreError>
    where
        I: Iterator<Item = Result<Entry, E>>,
        E: std::error::Error + Send + Sync + 'static,
    {
        let path = &entry.path;
        match kind {
            EntryKind::Folder => {
                let handle = self.make_folder(path)?;
                let metadata = Some(self.permitted(path, &entry.kind, &entry.metadata));
                self.open.push(OpenFolder { path: path.clone(), handle, metadata });
            }
            EntryKind::File(content) => self.write_file(entry, content, incoming)?,
            EntryKind::Symlink { target } => {
                self.disk
                    .make_symlink(self.parent(), self.name(path), target)
                    .map_err(failed("make the link", path))?;
                self.finish_name(entry, true)?;
            }
            EntryKind::HardLink { to } => self.link(path, to)?,
            EntryKind::Fifo => {
                self.special(path, FileType::Fifo, 0).map_err(failed("make the fifo", path))?;
                self.finish_name(entry, false)?;
            }
            EntryKind::Socket => {
                self.notes.socket(path);
                return Ok(false);
            }
            EntryKind::Device { .. } if !self.allowance.grants(Privilege::Device) => {
                self.notes.not_granted(path, Privilege::Device);
                return Ok(false);
            }
            EntryKind::Device { block, major, minor } => {
                let kind = if *block { FileType::BlockDevice } else { FileType::CharacterDevice };
                match self.special(path, kind, rustix::fs::makedev(*major, *minor)) {
                    Ok(()) => self.finish_name(entry, false)?,
                    Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                        self.notes.device(path);
                        return Ok(false);
                    }
                    Err(error) => return Err(failed("make the device", path)(error)),
                }
            }
        }
        Ok(true)
    }

    fn write_file<I, E>(
        &mut self,
        entry: &Entry,
        content: &FileContent,
        incoming: &Incoming<'_, I>,
    ) -> Result<(), RestoreError>
    where
        I: Iterator<Item = Result<Entry, E>>,
        E: std::error::Error + Send + Sync + 'static,
    {
        let path = &entry.path;
        let file =
            self.disk.make_file(self.parent(), self.name(path)).map_err(failed("make the file", path))?;
        let metadata = self.permitted(path, &entry.kind, &entry.metadata);
        if let Some(written) = self.writer.write(file, entry, (content, metadata), incoming)? {
            self.finish_file(&written)?;
        }
        self.finish_files(false)
    }

    /// Gives files that are written their metadata.
    fn finish_files(&mut self, all: bool) -> Result<(), RestoreError> {
        while let Some(written) = self.writer.written(all)? {
            self.finish_file(&written)?;
        }
        Ok(())
    }

    fn finish_file(&mut self, written: &Written) -> Result<(), RestoreError> {
        let Written { file, path, metadata } = written;
        apply(&self.disk, Subject::Handle(file.as_fd()), false, path, metadata, &mut self.notes)
    }

    fn special(&self, path: &EntryPath, kind: FileType, device: u64) -> std::io::Result<()> {
        self.disk.make_special(self.parent(), self.name(path), kind, device)
    }

    /// Gives what has no handle its metadata.
    fn finish_name(&mut self, entry: &Entry, is_symlink: bool) -> Result<(), RestoreError> {
        let name = CString::new(self.name(&entry.path)).expect("a name holds no NUL");
        let metadata = self.permitted(&entry.path, &entry.kind, &entry.metadata);
        let last = self.open.last().map(|folder| &folder.handle);
        let parent = last.or(self.bottom.as_ref()).expect("an area is in use");
        let subject = Subject::Name(parent.as_fd(), &name);
        apply(&self.disk, subject, is_symlink, &entry.path, &metadata, &mut self.notes)
    }

    /// Makes `path` a further name of what was staged as `to`.
    fn link(&self, path: &EntryPath, to: &EntryPath) -> Result<(), RestoreError> {
        let Some((folder, kind)) = self.staged(to)? else {
            let cause = format!("it is another name of {to}, which is not restored; restore that path too");
            return Err(RestoreError::archive(path, cause));
        };
        if kind == FileType::Directory {
            return Err(RestoreError::archive(path, format!("it links to {to}, which is a folder")));
        }
        let result = self.disk.link(folder, self.name(to), self.parent(), self.name(path));
        result.map_err(failed("make the link", path))
    }

    /// The staging folder that `to` was written into, and what it is.
    pub(super) fn staged(&self, to: &EntryPath) -> Result<Option<(OwnedFd, FileType)>, RestoreError> {
        let Some(name) = to.name() else { return Ok(None) };
        for (area, base) in self.areas.iter().zip(&self.bases).rev() {
            if !to.is_within(base) {
                continue;
            }
            let inside = match self.ground {
                Ground::New { name, .. } => EntryPath::new(&[name, &b"/"[..], to.as_bytes()].concat()),
                _ => Ok(below(base, to)),
            };
            let inside = inside.map_err(|error| RestoreError::archive(to, error.to_string()))?;
            let parent = area
                .new_folder()
                .and_then(|new| open_below(new, &inside.parent().unwrap_or_default(), Mounts::Refused));
            let folder = match parent {
                Ok(folder) => folder,
                Err(_) => continue,
            };
            if let Some(kind) = kind_of(&folder, name).map_err(failed("look at", to))? {
                return Ok(Some((folder, kind)));
            }
        }
        Ok(None)
    }
}

/// Whether the request selects `path`; `last` is what was selected by itself before.
fn is_selected(request: &RestoreRequest, last: &mut Option<EntryPath>, path: &EntryPath) -> bool {
    if last.as_ref().is_some_and(|selected| path.is_within(selected)) {
        return true;
    }
    let selected = request.selection.names(path);
    if selected {
        *last = Some(path.clone());
    }
    selected
}

/// Whether an entry's content will be asked of the repository: it is selected, and nothing live looks like it.
fn fetches<'a>(request: &'a RestoreRequest, ground: &'a Ground) -> impl FnMut(&Entry) -> bool + 'a {
    let (mut here, mut last) = (Here::new(ground), None);
    move |entry| is_selected(request, &mut last, &entry.path) && !here.looks_alike(entry)
}
