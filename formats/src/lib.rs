//! What the files of a component must look like, so that what uses them will take them.
//!
//! The checks here see a file's bytes go by, while a backup or a verification reads it. They hold no
//! engine, do no I/O and know no clock.
//!
//! Must stay true: whatever the bytes are, a check ends, without a panic, within a fixed memory; it never
//! runs, loads or follows what it reads; what it says names files, lines and offsets, and no content.

pub mod chains;
pub mod configs;
pub mod ipfs;
pub mod leveldb;
pub mod models;
pub mod mongodb;

pub use repository::check::{CheckedFile, ContentCheck, Finding, Severity, Subject};

/// The check that a source's archive calls for, if there is one.
pub fn check_of(subject: &Subject<'_>) -> Option<Box<dyn ContentCheck>> {
    match (subject.kind, subject.component) {
        ("configs", _) => Some(Box::new(configs::ConfigsCheck::new(subject.now))),
        ("ipfs", _) => Some(Box::new(ipfs::IpfsCheck::default())),
        ("mongodb", _) => Some(Box::new(mongodb::MongoCheck::default())),
        ("blockchain", _) => Some(Box::new(chains::ChainsCheck::default())),
        ("files", "models") => Some(Box::new(models::ModelsCheck::default())),
        _ => None,
    }
}

/// The same for a backup, which is not asked at its end what is missing.
pub fn check_of_backup(subject: &Subject<'_>) -> Option<Box<dyn ContentCheck>> {
    match subject.kind {
        "ipfs" => Some(Box::new(ipfs::IpfsCheck::of_each_alone())),
        _ => check_of(subject),
    }
}
