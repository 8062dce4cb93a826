//! LevelDB and Pebble: a folder opens whole. Its tables, its MANIFEST and its logs match their checksums,
//! `CURRENT` or a marker names a MANIFEST that is there, and so is each table that the MANIFEST lists, with
//! the length it lists.
//!
//! That is what a copy made while the engine ran can get wrong without a word: an engine that repairs such
//! a folder by itself drops what is missing. Logs that an engine uses again are left alone: what an earlier
//! use left in them looks like damage.
//!
//! Must stay true: nothing is said of a table, or of a MANIFEST, that the engine would not look at: one that is
//! left over, or was just being written. So what is wrong with them is kept until it is known what is named;
//! where that is never known, it is said.

mod find;
mod log;
mod manifest;
mod seek;
mod table;
#[cfg(test)]
mod tests;
mod writes;

use std::collections::{BTreeMap, BTreeSet};

use repository::check::{CheckedFile, ContentCheck, Finding, Severity};

pub(crate) use seek::{Seek, StoreFiles, proto_message, proto_number};
pub use writes::{LogsInOrder, Write, is_in_order, log_writes, table_writes};

use log::{Damage, Log};
use manifest::{Manifest, Refused};

/// A longer table is not held to be checked; an engine's own limit is far lower.
const MAX_TABLE: u64 = 16 << 20;
/// What may be remembered of all folders together, in bytes.
const MAX_REMEMBERED: usize = 16 << 20;
/// What one remembered file or entry of a list takes, about.
const ENTRY: usize = 48;
/// Tables of one folder that are named one by one.
const MAX_NAMED: usize = 20;
/// `CURRENT` holds one name.
const MAX_CURRENT: usize = 256;

/// What a MANIFEST comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Listed {
    /// The length of each table in use, by its number.
    Tables(BTreeMap<u64, u64>),
    /// Its last edit was not written to its end, or one is damaged.
    CutOff,
    /// Another engine wrote it, or it has too many tables: it is not followed.
    Unknown,
}

/// Follows a whole MANIFEST.
pub fn listed(bytes: &[u8]) -> Listed {
    let (mut log, mut manifest) = (Log::default(), Manifest::default());
    log.bytes(bytes, &mut |record| manifest.edit(record));
    match (log.end(&mut |record| manifest.edit(record)), manifest.refused) {
        (Some(Damage::CutOff | Damage::Chunk(_)), _) => Listed::CutOff,
        (Some(Damage::TooLong(_) | Damage::Reused), _) | (None, Some(_)) => Listed::Unknown,
        (None, None) => {
            manifest.tables.append(&mut manifest.backings);
            Listed::Tables(manifest.tables)
        }
    }
}

/// The number of the oldest log that is not done with, by a whole MANIFEST; logs before it count no more.
pub fn first_log(bytes: &[u8]) -> u64 {
    let (mut log, mut manifest) = (Log::default(), Manifest::default());
    log.bytes(bytes, &mut |record| manifest.edit(record));
    log.end(&mut |record| manifest.edit(record));
    manifest.log
}

/// Looks into the LevelDB folders of an archive.
#[derive(Debug, Default)]
pub struct LeveldbCheck {
    path: Vec<u8>,
    reading: Option<Reading>,
    /// Each by its path, with a slash at its end.
    folders: BTreeMap<Vec<u8>, Folder>,
    remembered: usize,
    /// The last file is broken, if it is in use.
    is_undecided: bool,
}

#[derive(Debug)]
enum Reading {
    Table { length: usize, table: Vec<u8> },
    Log(Log),
    Manifest { number: u64, log: Log, edits: u64, manifest: Manifest },
    Current(Vec<u8>),
}

#[derive(Debug, Default)]
struct Folder {
    current: Option<Vec<u8>>,
    /// The latest of Pebble's markers, and the MANIFEST that it names.
    marker: Option<(u64, u64)>,
    manifests: BTreeMap<u64, Manifest>,
    /// The length of each table that is there.
    tables: BTreeMap<u64, u64>,
    /// The logs that are there.
    logs: BTreeSet<u64>,
    /// Its tables end in `.sst`.
    is_sst: bool,
    /// What is wrong with which file, if it is in use.
    doubts: BTreeMap<Vec<u8>, (Severity, String)>,
}

impl ContentCheck for LeveldbCheck {
    fn file(&mut self, file: CheckedFile<'_>) -> bool {
        (self.reading, self.is_undecided) = (None, false);
        let (folder, name) = split(file.path);
        let Some(named) = Named::of(name) else { return false };
        let is_new = !self.folders.contains_key(folder);
        self.remembered += ENTRY + if is_new { size_of::<Folder>() + folder.len() } else { 0 };
        if self.is_too_much() {
            return false;
        }
        self.path = file.path.to_vec();
        let folder = self.folders.entry(folder.to_vec()).or_default();
        // It may be read a second time, where it changed during the first.
        folder.doubts.remove(name);
        self.reading = match named {
            Named::Table(number) => {
                folder.tables.insert(number, file.length);
                folder.is_sst |= name.ends_with(b".sst");
                let length = usize::try_from(file.length).ok().filter(|_| file.length <= MAX_TABLE);
                let length = length.filter(|_| !file.is_proven);
                length.map(|length| Reading::Table { length, table: Vec::with_capacity(length) })
            }
            Named::Log(number) => {
                folder.logs.insert(number);
                (!file.is_proven).then(|| Reading::Log(Log::default()))
            }
            Named::Manifest(number) => {
                let manifest = Manifest::default();
                Some(Reading::Manifest { number, log: Log::default(), edits: 0, manifest })
            }
            Named::Current => Some(Reading::Current(Vec::new())),
            Named::Marker(marker) => {
                folder.marker = folder.marker.max(Some(marker));
                None
            }
        };
        self.reading.is_some()
    }

    fn bytes(&mut self, bytes: &[u8]) -> bool {
        match &mut self.reading {
            None => false,
            Some(Reading::Table { length, table }) => {
                table.extend_from_slice(&bytes[..bytes.len().min(*length - table.len())]);
                true
            }
            Some(Reading::Log(log)) => log.bytes(bytes, &mut |_| ()),
            Some(Reading::Manifest { log, edits, manifest, .. }) => log.bytes(bytes, &mut |record| {
                *edits += 1;
                manifest.edit(record);
            }),
            Some(Reading::Current(name)) => {
                name.extend_from_slice(&bytes[..bytes.len().min(MAX_CURRENT)]);
                name.len() <= MAX_CURRENT
            }
        }
    }

    fn file_end(&mut self) -> Vec<Finding> {
        let (folder, name) = split(&self.path);
        let Some(folder) = self.folders.get_mut(folder) else { return Vec::new() };
        let reading = self.reading.take();
        let may_be_unused = matches!(reading, Some(Reading::Table { .. } | Reading::Manifest { .. }));
        let mut judged = match reading {
            None => None,
            Some(Reading::Table { table, .. }) => table::judge(&table).map(|what| (Severity::Broken, what)),
            Some(Reading::Log(log)) => log.end(&mut |_| ()).and_then(|damage| match damage {
                // The engine drops what it had not finished to write.
                Damage::CutOff | Damage::TooLong(_) | Damage::Reused => None,
                Damage::Chunk(at) => {
                    Some((Severity::Broken, format!("its record at byte {at} does not match its checksum")))
                }
            }),
            Some(Reading::Manifest { number, log, mut edits, mut manifest }) => {
                let damage = log.end(&mut |record| {
                    edits += 1;
                    manifest.edit(record);
                });
                let judged = match (damage, manifest.refused) {
                    (Some(Damage::Chunk(at)), _) => {
                        let what = format!("its edit at byte {at} does not match its checksum");
                        Some((Severity::Broken, what))
                    }
                    (Some(Damage::TooLong(at)), _) => {
                        Some((Severity::Told, format!("its edit at byte {at} is too long to be checked")))
                    }
                    (Some(Damage::CutOff), _) => {
                        Some((Severity::Told, "its last edit is cut off, and does not count".to_owned()))
                    }
                    (Some(Damage::Reused), _) => {
                        Some((Severity::Told, "it is not checked: another engine wrote it".to_owned()))
                    }
                    (None, Some(Refused::TooMany)) => {
                        Some((Severity::Told, "it lists too many tables to be checked".to_owned()))
                    }
                    (None, None | Some(Refused::Foreign | Refused::Damaged)) if edits > 0 => None,
                    (None, _) => Some((Severity::Broken, "it lists nothing".to_owned())),
                };
                if matches!(damage, Some(Damage::Chunk(_) | Damage::TooLong(_) | Damage::Reused)) {
                    manifest.refused = Some(Refused::Damaged);
                }
                manifest.is_cut_off = damage == Some(Damage::CutOff);
                self.remembered += (manifest.tables.len() + manifest.backings.len()) * ENTRY;
                folder.manifests.insert(number, manifest);
                judged
            }
            Some(Reading::Current(name)) => {
                folder.current = Some(name);
                None
            }
        };
        if let Some(judged) = judged.take_if(|_| may_be_unused) {
            self.is_undecided = judged.0 == Severity::Broken;
            self.remembered += ENTRY + name.len() + judged.1.len();
            folder.doubts.insert(name.to_vec(), judged);
        }
        judged
            .map(|(severity, what)| Finding { path: self.path.clone(), what, severity })
            .into_iter()
            .collect()
    }

    fn is_undecided(&self) -> bool {
        self.is_undecided
    }

    fn held_back(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.folders).iter().flat_map(|(path, folder)| folder.doubts(path)).collect()
    }

    fn end(&mut self) -> Vec<Finding> {
        // Beyond this it is not known of every file whether it is there.
        if self.is_too_much() {
            let what = "it has too many tables of LevelDB to compare them with their lists".to_owned();
            let told = Finding { path: Vec::new(), what, severity: Severity::Told };
            return self.held_back().into_iter().chain([told]).collect();
        }
        let folders = std::mem::take(&mut self.folders);
        folders
            .iter()
            .flat_map(|(path, folder)| folder.doubts(path).into_iter().chain(folder.judge(path)))
            .collect()
    }
}

impl LeveldbCheck {
    /// The stores that can be followed, by their folders; asked for once all files were given.
    pub(crate) fn stores(&self) -> impl Iterator<Item = (&[u8], StoreFiles)> {
        let all = (!self.is_too_much()).then_some(&self.folders).into_iter().flatten();
        all.filter_map(|(path, folder)| {
            let number = folder.followed()?;
            let manifest = folder.manifests.get(&number)?;
            if manifest.refused.is_some() || manifest.is_cut_off {
                return None;
            }
            let logs = folder.logs.range(manifest.log..).copied().collect();
            let ending = if folder.is_sst { "sst" } else { "ldb" };
            Some((&path[..], StoreFiles { manifest: number, logs, ending }))
        })
    }

    fn is_too_much(&self) -> bool {
        self.remembered > MAX_REMEMBERED
    }
}

impl Folder {
    /// The MANIFEST that the engine would follow, if one is named.
    fn followed(&self) -> Option<u64> {
        match (self.marker, &self.current) {
            (Some((_, number)), _) => Some(number),
            (None, Some(current)) => named_in(current),
            (None, None) => None,
        }
    }

    /// What is wrong with the files that the engine would look at; with all where it is not known which these
    /// are.
    fn doubts(&self, folder: &[u8]) -> Vec<Finding> {
        let followed = self.followed().filter(|number| self.manifests.contains_key(number));
        let tables = followed.and_then(|number| self.manifests.get(&number));
        let tables = tables.filter(|manifest| manifest.refused.is_none() && !manifest.is_cut_off);
        let is_used = |name: &[u8]| match Named::of(name) {
            Some(Named::Manifest(number)) => followed.is_none_or(|followed| followed == number),
            Some(Named::Table(number)) => tables.is_none_or(|manifest| manifest.lists(number)),
            _ => true,
        };
        let used = self.doubts.iter().filter(|(name, _)| is_used(name));
        used.map(|(name, (severity, what))| Finding {
            path: [folder, name].concat(),
            what: what.clone(),
            severity: *severity,
        })
        .collect()
    }

    /// What does not fit together in it.
    fn judge(&self, folder: &[u8]) -> Vec<Finding> {
        let broken = |name: &str, what: String| Finding {
            path: [folder, name.as_bytes()].concat(),
            what,
            severity: Severity::Broken,
        };
        let (named_by, number) = match (self.marker, &self.current) {
            (Some((_, number)), _) => ("its marker", Some(number)),
            (None, Some(current)) => ("CURRENT", named_in(current)),
            // A MANIFEST that cannot be followed may be of an engine that names it in another way.
            (None, None) => {
                let last = self.manifests.iter().next_back();
                let last = last.filter(|(_, manifest)| manifest.refused.is_none());
                let what = || "CURRENT, which names it, is not in the backup".to_owned();
                return last.map(|(number, _)| broken(&manifest_name(*number), what())).into_iter().collect();
            }
        };
        let Some(number) = number else {
            return vec![broken("CURRENT", "it names no MANIFEST".to_owned())];
        };
        let name = manifest_name(number);
        let Some(manifest) = self.manifests.get(&number) else {
            return match named_by {
                "CURRENT" => {
                    vec![broken("CURRENT", format!("it names {name}, which is not in the backup"))]
                }
                _ => vec![broken(&name, format!("{named_by} names it, and it is not in the backup"))],
            };
        };
        if manifest.refused.is_some() {
            return Vec::new();
        }
        let wrong = manifest.tables.iter().chain(&manifest.backings).filter_map(|(table, length)| match self
            .tables
            .get(table)
        {
            None => Some(format!("its table {table:06} is not in the backup")),
            Some(is) if is != length => {
                Some(format!("its table {table:06} has {is} bytes instead of {length}"))
            }
            Some(_) => None,
        });
        let log = Some(manifest.log).filter(|log| *log > 0 && !self.logs.contains(log));
        let log =
            log.map(|log| format!("its log {log:06}, with what was written last, is not in the backup"));
        let mut all: Vec<_> = log.into_iter().chain(wrong).map(|what| broken(&name, what)).collect();
        let more = all.len().saturating_sub(MAX_NAMED);
        if more > 0 {
            all.truncate(MAX_NAMED);
            all.push(broken(&name, format!("{more} more of its files are missing or have other lengths")));
        }
        all
    }
}

enum Named {
    Table(u64),
    Log(u64),
    Manifest(u64),
    Current,
    /// How late it is, and the MANIFEST that it names.
    Marker((u64, u64)),
}

impl Named {
    fn of(name: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(name).ok()?;
        if name == "CURRENT" {
            return Some(Self::Current);
        }
        if let Some(number) = name.strip_prefix("MANIFEST-") {
            return digits(number).map(Self::Manifest);
        }
        if let Some(marker) = name.strip_prefix("marker.manifest.") {
            let (place, number) = marker.split_once(".MANIFEST-")?;
            return Some(Self::Marker((digits(place)?, digits(number)?)));
        }
        let (number, kind) = name.split_once('.')?;
        let number = digits(number)?;
        match kind {
            "ldb" | "sst" => Some(Self::Table(number)),
            "log" => Some(Self::Log(number)),
            _ => None,
        }
    }
}

fn digits(number: &str) -> Option<u64> {
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())?
}

/// The MANIFEST that a `CURRENT` names.
fn named_in(current: &[u8]) -> Option<u64> {
    match Named::of(current.strip_suffix(b"\n")?) {
        Some(Named::Manifest(number)) => Some(number),
        _ => None,
    }
}

fn manifest_name(number: u64) -> String {
    format!("MANIFEST-{number:06}")
}

/// The folder with its last slash, and the name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    path.split_at(path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1))
}

/// The checksum as LevelDB writes it: turned, so that a sum of sums stays one.
fn masked(bytes: &[u8]) -> u32 {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32;
    sum.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A log with one record, as an engine writes it.
#[cfg(test)]
pub(crate) fn record(payload: &[u8]) -> Vec<u8> {
    let summed = [&[1][..], payload].concat();
    [&masked(&summed).to_le_bytes()[..], &(payload.len() as u16).to_le_bytes(), &summed].concat()
}
