//! Where each thing lies in the store. Names only; nothing here reads or writes.

use crate::ids::{DomainId, PackId};
use crate::names::{BackupName, SourceId};
use crate::signed::Sha256;
use crate::store::ObjectPath;
use crate::work::WorkId;

/// The folder of everything that is not a backup.
pub const REPOSITORY: &str = "repository";
/// The object whose presence commits a backup.
pub const BACKUP_JSON: &str = "backup.json";
/// The checksums of a backup's files.
pub const SHA256SUMS: &str = "SHA256SUMS";
/// A controller's catalog, sealed, beside a backup.
pub const CATALOG: &str = "catalog.sealed";
/// How to restore by hand.
pub const RESTORE_MD: &str = "RESTORE.md";

fn below(name: &str) -> ObjectPath {
    ObjectPath::new(REPOSITORY).join(name)
}

/// `repository/config.json`.
pub fn config() -> ObjectPath {
    below("config.json")
}

/// The copy of `config.json`.
pub fn config_copy() -> ObjectPath {
    below("config.copy.json")
}

/// A file of the key folder, in its first or second copy.
pub fn slot(id: &str, copy: u8) -> ObjectPath {
    below("keys").join("slots").join(format!("{id}.{copy}.json"))
}

/// The folder of the slots.
pub fn slots() -> ObjectPath {
    below("keys").join("slots")
}

/// The keyring, in its first or second copy.
pub fn keyring(copy: u8) -> ObjectPath {
    below("keys").join(format!("keyring.{copy}.json"))
}

/// That somebody proved to have a slot's recovery key.
pub fn confirmed(slot: &str) -> ObjectPath {
    below("keys").join("confirmed").join(format!("{slot}.json"))
}

/// The folder of all packs.
pub fn packs() -> ObjectPath {
    below("packs")
}

/// A pack.
pub fn pack(id: &PackId) -> ObjectPath {
    let name = id.to_string();
    packs().join(&name[..2]).join(name)
}

/// The parity of a pack.
pub fn parity(id: &PackId) -> ObjectPath {
    let name = id.to_string();
    packs().join(&name[..2]).join(format!("{name}.par"))
}

/// The folder of the marks of packs that were found damaged.
pub fn quarantine() -> ObjectPath {
    below("quarantine")
}

/// The mark of a damaged pack.
pub fn quarantined(id: &PackId) -> ObjectPath {
    quarantine().join(id)
}

/// Where a pack is kept that repair has taken out.
pub fn taken_out(id: &PackId) -> ObjectPath {
    quarantine().join("packs").join(id)
}

/// The parity of a pack that repair took out, as far as there was any.
pub fn taken_out_parity(id: &PackId) -> ObjectPath {
    quarantine().join("packs").join(format!("{id}.par"))
}

/// The packs that repair took out.
pub fn all_taken_out() -> ObjectPath {
    quarantine().join("packs")
}

/// The folder of all domains' index files.
pub fn indexes() -> ObjectPath {
    below("index")
}

/// The folder of a domain's index files.
pub fn index(domain: &DomainId) -> ObjectPath {
    indexes().join(domain)
}

/// An index file.
pub fn index_file(domain: &DomainId, name: &Sha256) -> ObjectPath {
    index(domain).join(name)
}

/// The folder of the chain.
pub fn chain() -> ObjectPath {
    below("chain")
}

/// A line of the chain.
pub fn chain_line(sequence: u64) -> ObjectPath {
    chain().join(format!("{sequence:020}.json"))
}

/// The sequence and the path of the chain's line that has this file name; `None` if it is no name of a line:
/// NAS systems and people leave other things anywhere.
pub fn chain_line_named(name: &str) -> Option<(u64, ObjectPath)> {
    let digits = name.strip_suffix(".json").filter(|digits| digits.len() == 20)?;
    let sequence = digits.parse().ok().filter(|sequence| *sequence > 0)?;
    Some((sequence, chain_line(sequence))).filter(|(_, path)| path.name() == name)
}

/// The folder of the notes about pins.
pub fn pins() -> ObjectPath {
    below("pins")
}

/// A note about the pin of the backup with this sequence.
pub fn pin_note(sequence: u64, number: u32) -> ObjectPath {
    pins().join(format!("{sequence:020}.{number:010}.json"))
}

/// The sequence and the number of the pin note that has this file name, if it is one's.
pub fn pin_note_named(name: &str) -> Option<(u64, u32)> {
    let (sequence, number) = name.strip_suffix(".json")?.split_once('.')?;
    let note = (sequence.parse().ok()?, number.parse().ok()?);
    (pin_note(note.0, note.1).name() == name).then_some(note)
}

/// The folder of the notes about the rules of retention.
pub fn rules_notes() -> ObjectPath {
    below("retention")
}

/// A note about the rules of retention.
pub fn rules_note(number: u32) -> ObjectPath {
    rules_notes().join(format!("{number:010}.json"))
}

/// The number of the note about rules that has this file name, if it is one's.
pub fn rules_note_named(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".json")?.parse().ok()?;
    (rules_note(number).name() == name).then_some(number)
}

/// The note that says when and why the backup of this sequence was retired.
pub fn retired(sequence: u64) -> ObjectPath {
    chain().join(format!("{sequence:020}.pruned.json"))
}

/// The sequence of the backup that the note of this file name is about; `None` if it is no name of a note.
pub fn retired_named(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".pruned.json").filter(|digits| digits.len() == 20)?;
    digits.parse().ok().filter(|sequence| *sequence > 0 && retired(*sequence).name() == name)
}

/// Where what is left of a backup lies that a person gave up.
pub fn quarantined_backup(name: &BackupName) -> ObjectPath {
    quarantine().join("backups").join(name)
}

/// The note that says that a person gave up what had this sequence.
pub fn given_up(sequence: u64) -> ObjectPath {
    chain().join(format!("{sequence:020}.given-up.json"))
}

/// The sequence that the note of this file name gives up; `None` if it is no name of such a note.
pub fn given_up_named(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".given-up.json").filter(|digits| digits.len() == 20)?;
    digits.parse().ok().filter(|sequence| *sequence > 0 && given_up(*sequence).name() == name)
}

/// The folder of what prune has decided and not finished.
pub fn gc() -> ObjectPath {
    below("gc")
}

/// A mark of prune: what it wants to take, and whom it waits for.
pub fn gc_mark(number: u64) -> ObjectPath {
    gc().join(format!("{number:020}.mark.json"))
}

/// A sealed mark: what prune takes.
pub fn gc_sealed(number: u64) -> ObjectPath {
    gc().join(format!("{number:020}.sealed.json"))
}

/// Written to ask the storage for its time.
pub fn gc_clock() -> ObjectPath {
    gc().join("clock")
}

/// Space that is given free when there is none, so that prune can work.
pub fn ballast() -> ObjectPath {
    below("ballast")
}

/// The folder of what was taken away and is not deleted yet.
pub fn trash() -> ObjectPath {
    below("trash")
}

/// The packs that the mark of this number took.
pub fn trash_of(number: u64) -> ObjectPath {
    trash().join(format!("{number:020}"))
}

/// A backup's folder on its way out.
pub fn trash_backup(name: &BackupName) -> ObjectPath {
    trash().join(name)
}

/// The number that a name in the trash or, with its ending, in the folder of marks begins with.
pub fn gc_number(name: &str) -> Option<u64> {
    let digits = name.split('.').next().filter(|digits| digits.len() == 20)?;
    digits.parse().ok().filter(|_| digits.bytes().all(|digit| digit.is_ascii_digit()))
}

/// The folder of the leases of running work.
pub fn work_folder() -> ObjectPath {
    below("work")
}

/// The lease of running work.
pub fn work(id: &WorkId) -> ObjectPath {
    work_folder().join(format!("{id}.json"))
}

/// A file of the folder that restores this repository when everything else is lost.
pub fn rescue(name: &str) -> ObjectPath {
    below("rescue").join(name)
}

/// The folder of unfinished backups.
pub fn staging() -> ObjectPath {
    below("staging")
}

/// An unfinished backup.
pub fn staged(name: &BackupName) -> ObjectPath {
    staging().join(name)
}

/// The mark of an unfinished backup whose files lie where the backup will be.
pub fn claim(name: &BackupName) -> ObjectPath {
    staged(name).join(crate::store::CLAIM)
}

/// Which backup is about to take this place in the order, where lists may lag.
pub fn next_in_order(sequence: u64) -> ObjectPath {
    staging().join(format!("next-{sequence:020}"))
}

/// A committed backup.
pub fn backup(name: &BackupName) -> ObjectPath {
    ObjectPath::new(name.as_str())
}

/// The copy of the catalog beside a backup.
pub fn catalog_beside(name: &BackupName) -> ObjectPath {
    backup(name).join(CATALOG)
}

/// The folder of what controllers have done.
pub fn histories() -> ObjectPath {
    below("history")
}

/// A file of what controllers have done.
pub fn history(number: u64) -> ObjectPath {
    histories().join(format!("{number:020}.sealed"))
}

/// The number of the file of history that has this name, if it is one's.
pub fn history_named(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".sealed")?.parse().ok()?;
    (history(number).name() == name).then_some(number)
}

/// An archive's manifest, below a backup's folder.
pub fn manifest(backup: &ObjectPath, source: &SourceId) -> ObjectPath {
    backup.join(&source.component).join(format!("{}.json", source.name))
}

/// An archive's refs, below a backup's folder.
pub fn refs(backup: &ObjectPath, source: &SourceId) -> ObjectPath {
    backup.join(&source.component).join(format!("{}.refs", source.name))
}
