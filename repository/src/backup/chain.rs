//! The chain: one signed line for each backup ever committed, and the names that they have taken.
//!
//! Must stay true: no sequence and no name is given twice, whatever was deleted since; a damaged line is told
//! and stops nothing. What the one writer remembers of the chain is believed only while the newest line is
//! there and no line follows it, so that a line of another writer, and a chain that was lost, are noticed
//! before anything is added; a commit then costs the same whether the chain has ten lines or ten thousand.

use std::collections::{BTreeSet, HashSet};

use jiff::{SignedDuration, Timestamp};

use super::manifest::{BackupRecord, ChainLine};
use crate::error::RepositoryError;
use crate::ingest::lock;
use crate::keys::KeyRing;
use crate::layout;
use crate::names::BackupName;
use crate::repo::Repository;
use crate::side_by_side::side_by_side;
use crate::signed::{MAX_JSON, Sha256};
use crate::store::{ListedKind, StoreError};
use crate::verify::read_again;

/// Missing lines of one gap that are told one by one.
const MAX_HOLES: usize = 1_000;
/// More bytes than any name of a backup has.
const MAX_NAME: u64 = 64;

/// Every backup that was ever committed, oldest first.
#[derive(Debug)]
pub struct Chain {
    /// The lines that can be read.
    pub lines: Vec<ChainLine>,
    /// What is wrong with others, a line each.
    pub findings: Vec<String>,
    /// What the next line names as the one before it.
    head: Head,
    /// The sequence of the newest line; 0: there is none.
    newest: u64,
    /// The highest sequence that a line or a backup has: none is given twice, even where lines were lost.
    highest: u64,
    /// Sequences without a line that can be read: whose they were, only the backups themselves can say.
    holes: BTreeSet<u64>,
}

/// The newest line's SHA-256, if there is a line; where the medium does not give it, the line's sequence.
type Head = Result<Option<Sha256>, u64>;

/// A line's SHA-256, and what the line says. One that the medium does not give has neither.
struct Read {
    digest: Option<Sha256>,
    line: Result<ChainLine, String>,
}

impl Chain {
    fn empty() -> Self {
        let (lines, findings, holes) = (Vec::new(), Vec::new(), BTreeSet::new());
        Self { lines, findings, head: Ok(None), newest: 0, highest: 0, holes }
    }

    /// Sequences that have no line which can be read.
    pub(crate) fn holes(&self) -> &BTreeSet<u64> {
        &self.holes
    }

    /// A sequence that a person gave up, and of which no line can be read.
    fn pass_over(&mut self, sequence: u64, digest: Sha256) {
        self.reach(sequence, false);
        self.head = Ok(Some(digest));
        self.newest = sequence;
        self.highest = self.highest.max(sequence);
    }

    /// Tells of what is missing between the last line and this one. Where this one follows the last at once,
    /// the sequences between were passed over when it was given out, and were nobody's.
    fn reach(&mut self, sequence: u64, follows: bool) {
        let expected = self.highest + 1;
        if sequence != expected {
            self.findings.push(format!("the chain has no line {expected}"));
            self.holes.extend((expected..sequence).filter(|_| !follows).take(MAX_HOLES));
        }
    }

    fn add(&mut self, sequence: u64, Read { digest, line }: Read) {
        let expected = self.highest + 1;
        self.reach(sequence, line.as_ref().is_ok_and(|line| Ok(line.previous) == self.head));
        let head = digest.map(Some).ok_or(sequence);
        let previous = std::mem::replace(&mut self.head, head);
        match line {
            Ok(line) if line.sequence != sequence => {
                self.findings.push(format!("line {sequence} of the chain says that it is another one"));
                self.holes.insert(sequence);
            }
            Ok(line) => {
                if sequence == expected && previous.is_ok_and(|previous| line.previous != previous) {
                    self.findings
                        .push(format!("line {sequence} of the chain does not fit the one before it"));
                }
                self.lines.push(line);
            }
            Err(why) => {
                self.findings.push(format!("line {sequence} of the chain: {why}"));
                self.holes.insert(sequence);
            }
        }
        self.newest = sequence;
        self.highest = self.highest.max(sequence);
    }
}

/// What the one writer remembers of the chain.
#[derive(Debug)]
pub(crate) struct ChainEnd {
    /// The names of all lines, and those that other things had in the root when the chain was read.
    taken: HashSet<BackupName>,
    head: Head,
    newest: u64,
    highest: u64,
    /// True if every backup has its line: only then a new one may be added at once.
    is_complete: bool,
}

impl ChainEnd {
    fn of(chain: &Chain, root: impl IntoIterator<Item = BackupName>, is_complete: bool) -> Self {
        let names = chain.lines.iter().map(|line| line.name.clone());
        Self {
            taken: names.chain(root).collect(),
            head: chain.head,
            newest: chain.newest,
            highest: chain.highest,
            is_complete,
        }
    }

    /// The sequence of the next backup.
    pub(super) fn next_sequence(&self) -> u64 {
        self.highest + 1
    }

    /// What the next backup names as the line before it.
    pub(super) fn head(&self) -> Result<Option<Sha256>, RepositoryError> {
        self.head.map_err(|sequence| RepositoryError::ChainEnd { sequence })
    }
}

impl Repository {
    /// A name for a backup that starts `now`: that second, or the next one that neither this repository
    /// nor `in_use` (jobs that have not committed yet) knows.
    pub fn reserve_name(
        &self,
        now: Timestamp,
        in_use: &BTreeSet<BackupName>,
    ) -> Result<BackupName, RepositoryError> {
        let mut known = lock(&self.chain_end);
        let end = match known.take() {
            Some(end) if self.is_the_end(&end)? => end,
            _ => ChainEnd::of(&self.chain()?, self.names_in_root()?, false),
        };
        let end = known.insert(end);
        // Said before anything is sent for it.
        end.head()?;
        let mut time = now;
        loop {
            let name = BackupName::from_time(time);
            if !in_use.contains(&name) && !end.taken.contains(&name) && !self.is_taken(&name)? {
                return Ok(name);
            }
            time = time.saturating_add(SignedDuration::from_secs(1)).expect("a second can be added");
        }
    }

    /// The names of all backups that were ever committed, those of a moment ago included, whatever a list
    /// shows; and maybe other names in the root.
    pub(crate) fn known_names(&self) -> Result<HashSet<BackupName>, RepositoryError> {
        if let Some(end) = &*lock(&self.chain_end) {
            return Ok(end.taken.clone());
        }
        Ok(self.chain()?.lines.into_iter().map(|line| line.name).collect())
    }

    /// Whether anything in the root or among the unfinished backups has this name.
    fn is_taken(&self, name: &BackupName) -> Result<bool, RepositoryError> {
        for path in [layout::backup(name), layout::staged(name)] {
            match self.store.size(&path) {
                Ok(_) => return Ok(true),
                Err(error) if error.is_not_found() => {
                    if !self.store.list(Some(&path))?.is_empty() {
                        return Ok(true);
                    }
                }
                // Neither object nor absent: an empty folder of somebody else. Or the storage fails: then no
                // name is free, and to try the next one would never end.
                Err(error) => {
                    let beside = self.store.list(path.parent().as_ref())?;
                    if !beside.iter().any(|listed| listed.name == name.as_str()) {
                        return Err(error.into());
                    }
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn names_in_root(&self) -> Result<Vec<BackupName>, RepositoryError> {
        Ok(self.store.list(None)?.iter().filter_map(|listed| listed.name.parse().ok()).collect())
    }

    /// True if the newest line that is remembered is there and no line follows it.
    fn is_the_end(&self, end: &ChainEnd) -> Result<bool, RepositoryError> {
        let is_there = |sequence| match self.store.size(&layout::chain_line(sequence)) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        };
        Ok((end.newest == 0 || is_there(end.newest)?) && !is_there(end.highest + 1)?)
    }

    /// Where the chain ends, every backup in it: as remembered, where nothing speaks against it.
    pub(super) fn continued(
        &self,
        known: Option<ChainEnd>,
        keys: &KeyRing,
        now: Timestamp,
    ) -> Result<ChainEnd, RepositoryError> {
        match known {
            Some(end) if end.is_complete && self.is_the_end(&end)? => Ok(end),
            _ => Ok(self.completed(keys, now)?.1),
        }
    }

    /// Adds the line of a backup that was published just now, and says whether it did. A line that is there
    /// already is not ours to judge: then everything is read again.
    pub(super) fn add_line(
        &self,
        mut end: ChainEnd,
        (record, digest): (&BackupRecord, Sha256),
        keys: &KeyRing,
        now: Timestamp,
    ) -> Result<(ChainEnd, bool), RepositoryError> {
        let (sequence, name) = (record.sequence, record.name.clone());
        let previous = end.head()?;
        let line = ChainLine { sequence, name, backup: digest, previous, at: now, stands_for: None };
        let file = keys.signing().sign(&line);
        match self.store.create(&layout::chain_line(sequence), file.bytes()) {
            Err(StoreError::AlreadyExists { .. }) => return Ok((self.completed(keys, now)?.1, false)),
            other => other?,
        }
        self.forget_announced(sequence);
        end.taken.insert(line.name);
        end.head = Ok(Some(file.digest()));
        (end.newest, end.highest) = (sequence, sequence);
        Ok((end, true))
    }

    /// Says by a name that can be asked for which backup is about to take its place in the order: where lists
    /// lag, a crash before its line would leave one that nobody sees, and its sequence would be given twice.
    pub(super) fn announce(&self, record: &BackupRecord) -> Result<(), RepositoryError> {
        if self.store.lists_may_lag() {
            let path = layout::next_in_order(record.sequence);
            self.store.replace(&path, record.name.as_str().as_bytes())?;
        }
        Ok(())
    }

    /// The backup that was announced for this place, if it came to be.
    fn announced(&self, sequence: u64) -> Result<Option<(BackupRecord, Sha256)>, RepositoryError> {
        if !self.store.lists_may_lag() {
            return Ok(None);
        }
        let name = match self.store.read(&layout::next_in_order(sequence), MAX_NAME) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).parse::<BackupName>(),
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Ok(name) = name else { return Ok(None) };
        match self.backup_with_digest(&name) {
            Ok(found) => Ok(Some(found).filter(|(record, _)| record.sequence == sequence)),
            Err(error) if error.is_of_one_object() || error.is_foreign() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The line is there: the announcement has done its work. One that stays is taken away at the next start.
    fn forget_announced(&self, sequence: u64) {
        if self.store.lists_may_lag()
            && let Err(error) = self.store.delete(&layout::next_in_order(sequence))
        {
            tracing::warn!(%error, "what announced a backup that is in the chain now stays for a while");
        }
    }

    /// Adds the chain line of a backup that a crash left without one, and returns the whole chain.
    pub fn complete_chain(&self, keys: &KeyRing, now: Timestamp) -> Result<Chain, RepositoryError> {
        let mut known = lock(&self.chain_end);
        *known = None;
        let (chain, end) = self.completed(keys, now)?;
        *known = Some(end);
        Ok(chain)
    }

    /// Adds the chain line of a backup that a crash left without one, unless it is known that there is none.
    pub(crate) fn continue_chain(&self, keys: &KeyRing, now: Timestamp) -> Result<(), RepositoryError> {
        let mut known = lock(&self.chain_end);
        let end = self.continued(known.take(), keys, now)?;
        *known = Some(end);
        Ok(())
    }

    fn completed(&self, keys: &KeyRing, now: Timestamp) -> Result<(Chain, ChainEnd), RepositoryError> {
        let mut chain = self.chain()?;
        let chained: HashSet<&BackupName> = chain.lines.iter().map(|line| &line.name).collect();
        let (mut unchained, mut foreign) = (Vec::new(), Vec::new());
        for listed in self.store.list(None)? {
            let Ok(name) = listed.name.parse::<BackupName>() else { continue };
            if chained.contains(&name) {
                continue;
            }
            if listed.kind == ListedKind::Folder {
                match self.backup_with_digest(&name) {
                    Ok(found) => unchained.push(found),
                    // Foreign or damaged folders have no place in the chain.
                    Err(error) if error.is_of_one_object() || error.is_foreign() => {}
                    Err(error) => return Err(error),
                }
            }
            foreign.push(name);
        }
        if let Some((record, digest)) = self.announced(chain.highest + 1)?
            && !unchained.iter().any(|(other, _)| other.name == record.name)
        {
            foreign.push(record.name.clone());
            unchained.push((record, digest));
        }
        unchained.sort_by_key(|(record, _)| record.sequence);
        for (record, digest) in unchained {
            if record.sequence != chain.highest + 1 || Ok(record.previous) != chain.head {
                tracing::warn!(backup = %record.name, "a backup does not continue the chain; it is left out of it");
                chain.highest = chain.highest.max(record.sequence);
                continue;
            }
            let (sequence, previous) = (record.sequence, record.previous);
            let line = ChainLine {
                sequence,
                name: record.name,
                backup: digest,
                previous,
                at: now,
                stands_for: None,
            };
            let file = keys.signing().sign(&line);
            self.store.create(&layout::chain_line(sequence), file.bytes())?;
            chain.add(sequence, Read { digest: Some(file.digest()), line: Ok(line) });
        }
        self.forget_announced(chain.newest);
        let end = ChainEnd::of(&chain, foreign, true);
        Ok((chain, end))
    }

    /// The chain as it lies there. A damaged line is told in [`Chain::findings`] and stops nothing: neither
    /// the reading of other backups nor new ones.
    pub fn chain(&self) -> Result<Chain, RepositoryError> {
        let mut chain = Chain::empty();
        let listed = self.store.list(Some(&layout::chain()))?;
        let sequences = listed.iter().filter_map(|listed| layout::chain_line_named(&listed.name));
        let mut sequences: BTreeSet<u64> = sequences.map(|(sequence, _)| sequence).collect();
        let given_up = self.given_up(&listed)?;
        sequences.extend(given_up.keys());
        if self.store.lists_may_lag() {
            // One that a list leaves out is asked for by name, before it counts as gone.
            let gaps =
                (1..sequences.last().copied().unwrap_or(0)).filter(|sequence| !sequences.contains(sequence));
            let gaps: Vec<u64> = gaps.take(MAX_HOLES).collect();
            sequences.extend(gaps);
        }
        let sequences: Vec<u64> = sequences.into_iter().collect();
        let lines = side_by_side(&sequences, |sequence| match self.read_line(*sequence) {
            Err(error) if error.is_not_found() => Ok(None),
            read => read.map(Some),
        })?;
        for (sequence, line) in sequences.into_iter().zip(lines) {
            match (line, given_up.get(&sequence)) {
                (None, None) => {}
                (Some(line), None) => chain.add(sequence, line),
                // The line may be back: what came after it names what stood for it meanwhile.
                (Some(line @ Read { line: Ok(_), .. }), Some(given)) => {
                    chain.add(sequence, Read { digest: Some(given.digest), ..line });
                }
                (_, Some(given)) => chain.pass_over(sequence, given.digest),
            }
        }
        // A list may lag: what follows the newest line that it shows is asked for by name.
        while let Some(next) = chain.newest.checked_add(1) {
            match self.read_line(next) {
                Err(error) if error.is_not_found() => break,
                Err(error) => return Err(error.into()),
                Ok(line) => chain.add(next, line),
            }
        }
        Ok(chain)
    }

    fn read_line(&self, sequence: u64) -> Result<Read, StoreError> {
        let file = match read_again(|| self.store.read(&layout::chain_line(sequence), MAX_JSON)) {
            Err(error) if error.is_unreadable() => {
                return Ok(Read { digest: None, line: Err("the disk cannot read it".to_owned()) });
            }
            other => other?,
        };
        let line = self.config.signing_key.verify::<ChainLine>(&file);
        // The line after it names the one that was lost.
        let stands_for = line.as_ref().ok().and_then(|line| line.stands_for);
        let digest = Some(stands_for.unwrap_or(Sha256::of(&file)));
        Ok(Read { digest, line: line.map_err(|error| error.to_string()) })
    }

    /// The chain's line of this sequence; `None` if it is not there, or what was written is not to be had.
    pub(crate) fn chain_line(&self, sequence: u64) -> Result<Option<ChainLine>, RepositoryError> {
        match self.store.read(&layout::chain_line(sequence), MAX_JSON) {
            Ok(file) => Ok(self.config.signing_key.verify::<ChainLine>(&file).ok()),
            Err(error) if error.is_not_found() || error.is_unreadable() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
