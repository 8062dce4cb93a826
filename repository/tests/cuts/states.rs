//! What a power cut may leave.
//!
//! A cut comes after some call of the record. What a sync had made durable by then is there. Of all else
//! each piece may be there or not, whatever came before or after it:
//! - *bytes* of a file that was not synced: there, lost, torn, or zeroes of the right length (the length
//!   was written, the data was not);
//! - *names* in a folder that was not synced: a name that was made, moved or removed is as it was before or
//!   after. A rename happens at once for a folder; for a file the old name may outlive the new one's
//!   coming (`link`, then `unlink`), never the other way round.
//!
//! That is what POSIX allows and more than ext4 and xfs do: they keep the order of names
//! ([`Disk::Journalled`]), and a sync of anything makes all names before it durable.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::Path;

use super::record::{Node, Op, Place, ROOT};
use crate::support::Dice;

/// How a disk orders names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// Not at all.
    Unordered,
    /// As they came; every sync writes them all.
    Journalled,
}

/// What became of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kept {
    Whole,
    Lost,
    /// Bytes: only so many of them. A rename: the new name is there, and so is still the old one.
    Torn(usize),
    /// Bytes: as many zeroes.
    Zeroes,
}

/// A state: the cut came after `end` operations, and these were not kept whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub end: usize,
    /// By operation, in their order.
    pub harmed: Vec<(usize, Kept)>,
}

/// The states of one record.
#[derive(Debug)]
pub struct States<'a> {
    ops: &'a [Op],
    disk: Disk,
    /// For each operation: after how many it is durable, whatever happens.
    settled: Vec<usize>,
}

const NEVER: usize = usize::MAX;

impl<'a> States<'a> {
    pub fn of(ops: &'a [Op], disk: Disk) -> Self {
        let settled = (0..ops.len()).map(|nth| settled_after(ops, nth, disk)).collect();
        Self { ops, disk, settled }
    }

    fn pending(&self, end: usize) -> impl Iterator<Item = usize> + '_ {
        (0..end).filter(move |nth| self.ops[*nth].changes_something() && self.settled[*nth] > end)
    }

    /// Right after each mark nothing is left but what was durable.
    pub fn worst_after_marks(&self) -> impl Iterator<Item = State> + '_ {
        let ends = self.ops.iter().enumerate().filter(|(_, op)| matches!(op, Op::Mark(_)));
        ends.map(|(nth, _)| {
            let end = nth + 1;
            State { end, harmed: self.pending(end).map(|nth| (nth, Kept::Lost)).collect() }
        })
    }

    /// Some state, picked by `dice`.
    pub fn random(&self, dice: &mut Dice) -> State {
        let end = dice.below(self.ops.len() + 1);
        let loss = [0, 1, 10, 50, 90, 100][dice.below(6)];
        // What a journal has not written is lost from one name on.
        let journal_ends = dice.below(end + 1);
        let mut harmed = Vec::new();
        for nth in self.pending(end) {
            let is_lost = match (self.disk, self.ops[nth].is_about_bytes()) {
                (Disk::Journalled, false) => nth >= journal_ends,
                _ => dice.below(100) < loss,
            };
            if is_lost {
                let ways = self.ops[nth].ways_to_be_harmed(dice);
                harmed.push((nth, ways[dice.below(ways.len())]));
            }
        }
        State { end, harmed }
    }

    /// All states in which, of three operations in a row, each is as it was before or after, or harmed in
    /// any other way that it may be, and all others are kept; and the same with the others that are not
    /// durable lost.
    pub fn windows(&self) -> Vec<State> {
        let (mut states, mut seen) = (Vec::new(), HashSet::new());
        let changes: Vec<usize> =
            (0..self.ops.len()).filter(|nth| self.ops[*nth].changes_something()).collect();
        let mut dice = Dice::new(0);
        for end in 0..=self.ops.len() {
            let pending: Vec<usize> = self.pending(end).collect();
            let so_far = &changes[..changes.partition_point(|nth| *nth < end)];
            let whole = std::iter::once(&so_far[so_far.len().saturating_sub(3)..]);
            for window in so_far.windows(3).chain(whole) {
                let open: Vec<usize> = window.iter().copied().filter(|nth| pending.contains(nth)).collect();
                for rest_is_kept in [true, false] {
                    let rest = pending.iter().filter(|nth| !rest_is_kept && !window.contains(nth));
                    let rest: Vec<_> = rest.map(|nth| (*nth, Kept::Lost)).collect();
                    for mut harmed in self.combinations(&open, &mut dice) {
                        harmed.extend(&rest);
                        harmed.sort_by_key(|(nth, _)| *nth);
                        let marks = self.ops[..end].iter().filter(|op| matches!(op, Op::Mark(_))).count();
                        if seen.insert((so_far.len(), marks, harmed.clone())) {
                            states.push(State { end, harmed });
                        }
                    }
                }
            }
        }
        states
    }

    fn combinations(&self, open: &[usize], dice: &mut Dice) -> Vec<Vec<(usize, Kept)>> {
        let mut all = vec![Vec::new()];
        for nth in open {
            let ways = self.ops[*nth].ways_to_be_harmed(dice);
            let harmed: Vec<Vec<(usize, Kept)>> = all
                .iter()
                .flat_map(|so_far| {
                    ways.iter().map(move |way| {
                        let mut harmed = so_far.clone();
                        harmed.push((*nth, *way));
                        harmed
                    })
                })
                .collect();
            all.extend(harmed);
        }
        all
    }

    /// What lies on the disk in this state.
    pub fn tree(&self, state: &State) -> Tree {
        let harmed: HashMap<usize, Kept> = state.harmed.iter().copied().collect();
        Tree::after(self.ops, state.end, |nth| harmed.get(&nth).copied().unwrap_or(Kept::Whole))
    }

    /// The last mark before the cut.
    pub fn mark(&self, state: &State) -> usize {
        let marks = self.ops[..state.end].iter().rev();
        marks.filter_map(|op| if let Op::Mark(mark) = op { Some(*mark) } else { None }).next().unwrap_or(0)
    }

    /// The state in words, for whoever has to find out why it was not survived.
    pub fn tell(&self, state: &State) -> String {
        let harm = |nth: usize| state.harmed.iter().find(|(harmed, _)| *harmed == nth).map(|(_, kept)| kept);
        let is_told = |nth: &usize| harm(*nth).is_some() || nth + 12 >= state.end;
        let line = |nth: usize| {
            let harm = harm(nth).map_or(String::new(), |kept| format!("   <- {kept:?}"));
            format!("  {nth:5} {}{harm}\n", self.ops[nth].in_short())
        };
        let lines: String = (0..state.end).filter(is_told).map(line).collect();
        format!("a cut after {} of {} operations, of which:\n{lines}", state.end, self.ops.len())
    }
}

fn settled_after(ops: &[Op], nth: usize, disk: Disk) -> usize {
    let later = || ops.iter().enumerate().skip(nth + 1);
    let first =
        |is_it: &dyn Fn(&Op) -> bool| later().find(|(_, op)| is_it(op)).map_or(NEVER, |(at, _)| at + 1);
    let synced = |folders: &[Node]| match disk {
        Disk::Unordered => first(&|op| matches!(op, Op::SyncFolder { folder } if folders.contains(folder))),
        Disk::Journalled => first(&|op| matches!(op, Op::SyncFolder { .. } | Op::SyncFile { .. })),
    };
    match &ops[nth] {
        Op::Append { file: of, .. } => first(&|op| matches!(op, Op::SyncFile { file } if file == of)),
        Op::Rename { from, to, .. } => synced(&[from.0, to.0]),
        Op::MakeFolder { at, .. } | Op::Link { to: at, .. } | Op::Remove { at } => synced(&[at.0]),
        // Once its next name is durable, nobody can tell whether the first one ever was.
        Op::CreateFile { at, .. } => {
            let moved = later().find(|(_, op)| matches!(op, Op::Rename { from, .. } if from == at));
            let moved = moved.map_or(NEVER, |(nth, _)| settled_after(ops, nth, disk));
            synced(&[at.0]).min(moved)
        }
        Op::SyncFile { .. } | Op::SyncFolder { .. } | Op::Mark(_) => 0,
    }
}

impl Op {
    fn changes_something(&self) -> bool {
        !matches!(self, Op::SyncFile { .. } | Op::SyncFolder { .. } | Op::Mark(_))
    }

    fn is_about_bytes(&self) -> bool {
        matches!(self, Op::Append { .. })
    }

    fn ways_to_be_harmed(&self, dice: &mut Dice) -> Vec<Kept> {
        match self {
            Op::Append { bytes, .. } => {
                vec![Kept::Lost, Kept::Torn(dice.below(bytes.len() + 1)), Kept::Zeroes]
            }
            Op::Rename { is_folder: false, .. } => vec![Kept::Lost, Kept::Torn(0)],
            _ => vec![Kept::Lost],
        }
    }

    fn in_short(&self) -> String {
        match self {
            Op::Append { file, bytes, .. } => format!("append {} bytes to {file}", bytes.len()),
            other => format!("{other:?}"),
        }
    }
}

/// What lies in a folder, by path; folders end in `/`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree(BTreeMap<String, Vec<u8>>);

impl Tree {
    pub fn after(ops: &[Op], end: usize, kept: impl Fn(usize) -> Kept) -> Self {
        let mut names: BTreeMap<Place, Node> = BTreeMap::new();
        let mut files: HashMap<Node, Vec<u8>> = HashMap::new();
        for (nth, op) in ops[..end].iter().enumerate() {
            // A file that lost its first name may come to light under its second.
            if let Op::CreateFile { file, .. } = op {
                files.insert(*file, Vec::new());
            }
            let kept = kept(nth);
            if kept == Kept::Lost {
                continue;
            }
            match op {
                Op::CreateFile { at, file: node } | Op::MakeFolder { at, folder: node } => {
                    names.insert(at.clone(), *node);
                }
                Op::Append { file, offset, bytes } => {
                    let content = files.get_mut(file).expect("created before");
                    let (length, bytes) = match kept {
                        Kept::Torn(length) => (length, &bytes[..length]),
                        Kept::Zeroes => (bytes.len(), &[][..]),
                        _ => (bytes.len(), &bytes[..]),
                    };
                    content.resize(content.len().max(offset + length), 0);
                    content[*offset..offset + bytes.len()].copy_from_slice(bytes);
                }
                Op::Rename { node, is_folder, from, to } => {
                    if *is_folder {
                        names.retain(|_, named| named != node);
                    } else if kept == Kept::Whole && names.get(from) == Some(node) {
                        names.remove(from);
                    }
                    names.insert(to.clone(), *node);
                }
                Op::Link { node, to } => {
                    names.insert(to.clone(), *node);
                }
                Op::Remove { at } => {
                    names.remove(at);
                }
                Op::SyncFile { .. } | Op::SyncFolder { .. } | Op::Mark(_) => {}
            }
        }
        let mut tree = Self::default();
        tree.collect("", ROOT, &names, &files);
        tree
    }

    fn collect(
        &mut self,
        path: &str,
        folder: Node,
        names: &BTreeMap<Place, Node>,
        files: &HashMap<Node, Vec<u8>>,
    ) {
        let here = names.range((folder, String::new())..).take_while(|((of, _), _)| *of == folder);
        for ((_, name), node) in here {
            match files.get(node) {
                Some(content) => {
                    self.0.insert(format!("{path}{name}"), content.clone());
                }
                None => {
                    let path = format!("{path}{name}/");
                    self.0.insert(path.clone(), Vec::new());
                    self.collect(&path, *node, names, files);
                }
            }
        }
    }

    pub fn read(folder: &Path) -> Self {
        let mut tree = Self::default();
        tree.read_below(folder, "");
        tree
    }

    fn read_below(&mut self, root: &Path, path: &str) {
        for entry in fs::read_dir(root.join(path)).expect("listed") {
            let entry = entry.expect("listed");
            let name = entry.file_name().into_string().expect("our names are ASCII");
            if entry.file_type().expect("known").is_dir() {
                let path = format!("{path}{name}/");
                self.0.insert(path.clone(), Vec::new());
                self.read_below(root, &path);
            } else {
                self.0.insert(format!("{path}{name}"), fs::read(entry.path()).expect("read"));
            }
        }
    }

    pub fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for (path, content) in &self.0 {
            for part in [path.as_bytes(), content] {
                hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
            }
        }
        hasher.finalize()
    }

    /// Lays it into an empty folder.
    pub fn write(&self, root: &Path) {
        for (path, content) in &self.0 {
            match path.strip_suffix('/') {
                Some(folder) => fs::create_dir(root.join(folder)).expect("made"),
                None => fs::write(root.join(path), content).expect("written"),
            }
        }
    }
}
