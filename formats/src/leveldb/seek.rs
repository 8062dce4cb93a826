//! Some keys of a store, by those of its files that can hold them: its logs, else the tables whose keys surround them
//! by its MANIFEST. The files are asked for by name, so that nobody reads a store for a few of its keys.
//!
//! Must stay true: what is not known is said and never guessed; memory has a limit, whatever the files are.

use std::collections::{BTreeMap, BTreeSet};

use super::find::{Held, MAX_VALUE, Newest, Place, Wrong, find};
use super::log::{Damage, Log};
use super::manifest::Manifest;
use super::writes::text;
use super::{manifest_name, varint};

/// A longer table is not read for a few keys.
const MAX_TABLE: u64 = 1 << 30;
/// A table is read so often: for its index, for the index that this names, for blocks.
const MAX_PASSES: u8 = 3;
/// So many tables are read for the keys of one store: of each level one, and those that were just written.
const MAX_TABLES: usize = 64;
/// So many logs: those of writes that are in no table yet.
const MAX_LOGS: usize = 64;
/// What is kept of all values together.
const MAX_VALUES: usize = 4 << 20;
const TOO_LONG: &str = "its values are too long to be those that are looked for";

/// Looks for keys in one store.
#[derive(Debug)]
pub(crate) struct Seek {
    /// Its folder, with a slash at its end.
    folder: Vec<u8>,
    files: StoreFiles,
    found: BTreeMap<Vec<u8>, Option<Newest>>,
    manifest: Manifest,
    reading: Reading,
    /// The names of files that were asked for and not given yet.
    awaited: BTreeSet<String>,
    /// Tables that are read once more, by name: how often they were, and which of their blocks are wanted.
    again: BTreeMap<String, (u8, Vec<Place>)>,
    step: Step,
    unclear: Option<String>,
}

/// What is known of a store's files.
#[derive(Debug, Clone, Default)]
pub(crate) struct StoreFiles {
    pub(super) manifest: u64,
    /// Those that are not done with.
    pub(super) logs: Vec<u64>,
    /// The end of its tables' names.
    pub(super) ending: &'static str,
}

#[derive(Debug, Default)]
enum Reading {
    #[default]
    Nothing,
    Manifest(Log),
    Log(Log),
    Table {
        name: String,
        passes: u8,
        wanted: Vec<Place>,
        held: Held,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    New,
    Logs,
    Tables,
    Done,
}

impl Seek {
    pub(crate) fn new(folder: &[u8], files: &StoreFiles, keys: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let found: BTreeMap<_, _> = keys.into_iter().map(|key| (key, None)).collect();
        let manifest = Manifest { sought: found.keys().cloned().collect(), ..Manifest::default() };
        let too_many = files.logs.len() > MAX_LOGS;
        Self {
            folder: folder.to_vec(),
            files: files.clone(),
            found,
            manifest,
            reading: Reading::default(),
            awaited: BTreeSet::new(),
            again: BTreeMap::new(),
            step: Step::New,
            unclear: too_many.then(|| "it has too many logs to be looked at".to_owned()),
        }
    }

    pub(crate) fn folder(&self) -> &[u8] {
        &self.folder
    }

    /// The files that are to be given next; none once all is known.
    pub(crate) fn wants(&mut self) -> Vec<Vec<u8>> {
        if let Some(missing) = self.awaited.pop_first() {
            self.say(format!("{missing} was not there to be looked into"));
        }
        let names: Vec<String> = match self.step {
            _ if self.unclear.is_some() => Vec::new(),
            Step::New => {
                let logs = self.files.logs.iter().map(|log| format!("{log:06}.log"));
                std::iter::once(manifest_name(self.files.manifest)).chain(logs).collect()
            }
            // What is in a log is newer than all tables.
            Step::Logs if self.found.values().all(Option::is_some) => Vec::new(),
            Step::Logs => {
                if self.manifest.may_hold.len() > MAX_TABLES {
                    self.say("too many of its tables may hold a key".to_owned());
                    return self.wants();
                }
                let tables = &self.manifest.may_hold;
                tables.iter().map(|table| format!("{table:06}.{}", self.files.ending)).collect()
            }
            Step::Tables => self.again.keys().cloned().collect(),
            Step::Done => Vec::new(),
        };
        self.step = match self.step {
            _ if names.is_empty() => Step::Done,
            Step::New => Step::Logs,
            _ => Step::Tables,
        };
        let paths: Vec<_> = names.iter().map(|name| [&self.folder, name.as_bytes()].concat()).collect();
        self.awaited = names.into_iter().collect();
        paths
    }

    /// A file that it has asked for begins. False if its bytes are not wanted.
    pub(crate) fn file(&mut self, path: &[u8], length: u64) -> bool {
        let name = path.strip_prefix(&self.folder[..]).and_then(|name| std::str::from_utf8(name).ok());
        let Some(name) = name.and_then(|name| self.awaited.take(name)) else { return false };
        if self.unclear.is_some() {
            return false;
        }
        if name.starts_with("MANIFEST-") {
            self.reading = Reading::Manifest(Log::default());
            return true;
        }
        if let Some(number) = name.strip_suffix(".log") {
            self.reading = Reading::Log(Log::numbered(number.parse().unwrap_or(0)));
            return true;
        }
        let (passes, wanted) = self.again.remove(&name).unwrap_or_default();
        let Some(held) = Held::of(length, &wanted).filter(|_| length <= MAX_TABLE) else {
            self.say(format!("its table {name} is too long to be looked into"));
            return false;
        };
        self.reading = Reading::Table { name, passes: passes + 1, wanted, held };
        true
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> bool {
        match &mut self.reading {
            Reading::Nothing => false,
            Reading::Manifest(log) => log.bytes(bytes, &mut |record| self.manifest.edit(record)),
            Reading::Log(log) => {
                let (found, unclear) = (&mut self.found, &mut self.unclear);
                log.bytes(bytes, &mut |record| batch(record, found, unclear))
            }
            Reading::Table { held, .. } => {
                held.bytes(bytes);
                true
            }
        }
    }

    pub(crate) fn file_end(&mut self) {
        match std::mem::take(&mut self.reading) {
            Reading::Nothing => {}
            Reading::Manifest(log) => {
                let damage = log.end(&mut |record| self.manifest.edit(record));
                if damage.is_some() || self.manifest.refused.is_some() {
                    self.say("its MANIFEST cannot be followed".to_owned());
                }
            }
            Reading::Log(log) => {
                let (found, unclear) = (&mut self.found, &mut self.unclear);
                match log.end(&mut |record| batch(record, found, unclear)) {
                    None | Some(Damage::CutOff | Damage::Reused) => {}
                    Some(Damage::Chunk(at)) => self.say(format!("its log is damaged at byte {at}")),
                    Some(Damage::TooLong(_)) => self.say("a record of its log is too long".to_owned()),
                }
            }
            Reading::Table { name, passes, mut wanted, held } => {
                let before = wanted.len();
                let mut wrong = None;
                for (key, found) in &mut self.found {
                    match find(&held, key) {
                        Ok(None) => {}
                        Ok(Some(now)) => newer(found, now),
                        Err(Wrong::NotHeld(places)) => wanted.extend(places),
                        Err(Wrong::Table(why)) => wrong = Some(why),
                    }
                }
                wanted.sort_unstable();
                wanted.dedup();
                if let Some(why) = wrong {
                    self.say(format!("a table of it: {why}"));
                } else if wanted.len() > before && passes == MAX_PASSES {
                    self.say("a table of it: its indexes lie too far apart to be followed".to_owned());
                } else if wanted.len() > before {
                    self.again.insert(name, (passes, wanted));
                }
            }
        }
        if self.held() > MAX_VALUES {
            self.give_up(TOO_LONG);
        }
    }

    /// How many bytes of values are kept.
    pub(crate) fn held(&self) -> usize {
        length(&self.found)
    }

    /// Nothing more is kept or wanted.
    pub(crate) fn give_up(&mut self, why: &str) {
        self.say(why.to_owned());
        self.found.values_mut().for_each(|found| *found = None);
        self.again.clear();
    }

    /// What stands under a key, once nothing is wanted any more; an error says why that is not known.
    pub(crate) fn value(&self, key: &[u8]) -> Result<Option<&[u8]>, &str> {
        match &self.unclear {
            Some(why) => Err(why),
            None => Ok(self.found.get(key).and_then(|found| found.as_ref()?.1.as_deref())),
        }
    }

    fn say(&mut self, why: String) {
        self.unclear.get_or_insert(why);
    }
}

fn newer(found: &mut Option<Newest>, now: Newest) {
    if found.as_ref().is_none_or(|(number, _)| *number <= now.0) {
        *found = Some(now);
    }
}

/// What was written together, of LevelDB or Pebble.
fn batch(record: &[u8], found: &mut BTreeMap<Vec<u8>, Option<Newest>>, unclear: &mut Option<String>) {
    let read = writes(record, found);
    let read = read.and_then(|()| if length(found) > MAX_VALUES { Err(TOO_LONG) } else { Ok(()) });
    if let Err(why) = read {
        unclear.get_or_insert(why.to_owned());
        found.values_mut().for_each(|found| *found = None);
    }
}

/// Of all values together.
fn length(found: &BTreeMap<Vec<u8>, Option<Newest>>) -> usize {
    found.values().flatten().map(|(_, value)| value.as_ref().map_or(0, Vec::len)).sum()
}

fn writes(record: &[u8], found: &mut BTreeMap<Vec<u8>, Option<Newest>>) -> Result<(), &'static str> {
    let unreadable = "a record of its log cannot be read";
    let (first, rest) = record.split_first_chunk::<8>().ok_or(unreadable)?;
    let mut rest = rest.get(4..).ok_or(unreadable)?;
    let mut number = u64::from_le_bytes(*first);
    while let Some((kind, after)) = rest.split_first() {
        rest = after;
        let key = text(&mut rest).ok_or(unreadable)?;
        let value = match kind {
            // A note, which has no number.
            3 => continue,
            0 | 7 => None,
            1 => Some(text(&mut rest).ok_or(unreadable)?),
            23 => {
                text(&mut rest).ok_or(unreadable)?;
                None
            }
            _ => return Err("a record of its log is of a kind that is not known here"),
        };
        if let Some(found) = found.get_mut(key) {
            if value.is_some_and(|value| value.len() > MAX_VALUE) {
                return Err(TOO_LONG);
            }
            newer(found, (number, value.map(<[u8]>::to_vec)));
        }
        number = number.checked_add(1).ok_or(unreadable)?;
    }
    Ok(())
}

/// The number in a field of a protocol-buffers message: 0 where it has no such field. None if the message cannot be
/// read.
pub(crate) fn proto_number(mut message: &[u8], wanted: u64) -> Option<u64> {
    let mut found = 0;
    while !message.is_empty() {
        if let (field, Value::Number(value)) = proto_field(&mut message)?
            && field == wanted
        {
            found = value;
        }
    }
    Some(found)
}

/// The message in a field of a message. None where it has none, or cannot be read.
pub(crate) fn proto_message(mut message: &[u8], wanted: u64) -> Option<&[u8]> {
    let mut found = None;
    while !message.is_empty() {
        if let (field, Value::Bytes(value)) = proto_field(&mut message)?
            && field == wanted
        {
            found = Some(value);
        }
    }
    found
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

fn proto_field<'a>(message: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = varint(message)?;
    let value = match tag & 7 {
        0 => Value::Number(varint(message)?),
        1 => {
            *message = message.get(8..)?;
            Value::Other
        }
        2 => Value::Bytes(text(message)?),
        5 => {
            *message = message.get(4..)?;
            Value::Other
        }
        _ => return None,
    };
    Some((tag >> 3, value))
}

#[cfg(test)]
#[path = "seek_tests.rs"]
mod tests;
