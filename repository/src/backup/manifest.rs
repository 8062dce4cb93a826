//! The JSON that describes archives, backups and the chain. Readable without a key.
//!
//! Must stay true: nothing of content or file names is in here; and what is in here was done. A backup
//! says how consistent each archive is and what could not be read.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{BlobId, DomainId, RepositoryId};
use crate::names::{BackupName, SourceId};
use crate::signed::Sha256;

/// The format's version that this program writes.
pub const FORMAT: u32 = 1;

/// How an archive or a backup ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything that was asked for is there.
    Complete,
    /// Something could not be read, or an archive of the backup is missing.
    Incomplete,
    /// Nothing usable; the reason says why.
    Failed,
}

/// How far an archive is one point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// One instant, by a snapshot.
    Snapshot,
    /// What writes was stopped or paused.
    Quiesced,
    /// Proven unchanged between two looks.
    Bracketed,
    /// Read one after the other, possibly while in use.
    Fuzzy,
}

/// How what writes into the source was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiesce {
    /// By what.
    pub by: QuiescedBy,
    /// For how many milliseconds it was held up.
    pub held_ms: u64,
}

/// What made it one point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuiescedBy {
    /// Nothing has moved between two looks: nobody was held up.
    Bracket,
    /// Processes were stopped and let go on.
    Pause,
    /// Containers were paused and let go on.
    Container,
    /// The server was locked against writes.
    Lock,
    /// In a way that this release does not know: a later one has made the archive.
    #[serde(other)]
    Other,
}

/// How far a validator has signed, in the order in which it signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SignedHeight {
    /// The height, from 0.
    pub height: i64,
    /// The round at that height, from 0.
    pub round: i64,
    /// The step in that round: 1 to 3; 0 before the first.
    pub step: i32,
}

/// Figures of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Regular files.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Symbolic and hard links.
    pub links: u64,
    /// Fifos, sockets, devices.
    pub specials: u64,
    /// Bytes of all files, holes included.
    pub bytes: u64,
    /// Entries that were there and could not be read.
    pub unreadable: u64,
    /// Entries that were gone when their turn came.
    pub vanished: u64,
    /// Files that changed while they were read.
    pub changed: u64,
    /// Bytes read from the source.
    pub read_bytes: u64,
    /// Bytes that are new in the repository, sealed.
    pub stored_bytes: u64,
    /// Files that were not read because nothing had changed.
    pub reused_files: u64,
}

impl Counts {
    /// How many entries.
    pub fn entries(&self) -> u64 {
        self.files + self.folders + self.links + self.specials
    }
}

/// One source's part of a backup: `<component>/<source>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveManifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Component and source.
    #[serde(flatten)]
    pub source: SourceId,
    /// The driver: `files`, `mongodb`, …
    pub kind: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it is not complete, in one line without file names.
    pub reason: Option<String>,
    /// How far it is one point in time.
    pub consistency: Option<Consistency>,
    /// How that was come by, where the agent did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiesce: Option<Quiesce>,
    /// What it is that comes back, where that is not what was there: a line each, without names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// How far the source's validator had signed, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<SignedHeight>,
    /// Which validator that is, keyed; none if its key is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// The domain of its blobs.
    pub domain: DomainId,
    /// Its page table; none if it failed.
    pub root: Option<BlobId>,
    /// What the source could not give; none if there is nothing to tell.
    pub problems: Option<BlobId>,
    /// The agent that made it.
    pub agent: Option<String>,
    /// When it was begun.
    pub started_at: Timestamp,
    /// When it was finished.
    pub ended_at: Timestamp,
    /// Figures.
    pub counts: Counts,
    /// How many segments it needs blobs of.
    pub segments: u64,
    /// How many blobs it needs.
    pub blobs: u64,
}

/// An archive's line in `backup.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRecord {
    /// Component and source.
    #[serde(flatten)]
    pub source: SourceId,
    /// The driver.
    pub kind: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it is not complete.
    pub reason: Option<String>,
    /// How far it is one point in time.
    pub consistency: Option<Consistency>,
    /// How far the source's validator had signed, if it has one: a controller without a state folder learns it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<SignedHeight>,
    /// Which validator that is, keyed; none if its key is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// Figures.
    pub counts: Counts,
    /// SHA-256 of the manifest.
    pub manifest: Sha256,
    /// SHA-256 of the refs; none if it failed.
    pub refs: Option<Sha256>,
}

/// `backup.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// The repository.
    pub repository: RepositoryId,
    /// The folder's name.
    pub name: BackupName,
    /// The order of backups, counted from 1 and never used twice.
    pub sequence: u64,
    /// The job that made it.
    pub job: String,
    /// When it was begun.
    pub started_at: Timestamp,
    /// When everything but the commit was done.
    pub ended_at: Timestamp,
    /// Complete if every archive is.
    pub outcome: Outcome,
    /// Why it must be kept whatever its age.
    pub pin: Option<String>,
    /// SHA-256 of the chain line before; none for the first.
    pub previous: Option<Sha256>,
    /// Its archives, sorted by component and source.
    pub archives: Vec<ArchiveRecord>,
}

impl BackupRecord {
    /// The archive of a source.
    pub fn archive(&self, source: &SourceId) -> Option<&ArchiveRecord> {
        self.archives.iter().find(|archive| archive.source == *source)
    }
}

/// `chain/<sequence>.json`: that a backup was committed, kept even when the backup is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainLine {
    /// The backup's sequence.
    pub sequence: u64,
    /// Its name.
    pub name: BackupName,
    /// SHA-256 of its `backup.json`.
    pub backup: Sha256,
    /// SHA-256 of the line before; none for the first.
    pub previous: Option<Sha256>,
    /// When the line was written.
    pub at: Timestamp,
    /// SHA-256 of the line that was lost and that this one was written for; none if it is the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stands_for: Option<Sha256>,
}

/// `repository/config.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryConfig {
    /// [`FORMAT`].
    pub format: u32,
    /// Features that a reader must know.
    pub required_features: Vec<String>,
    /// The repository.
    pub id: RepositoryId,
    /// When it was made.
    pub created_at: Timestamp,
    /// Signs this file, every backup and the chain.
    pub signing_key: crate::signed::VerifyingKey,
    /// What segments are sealed to, oldest first; new ones use the last.
    pub sealing_keys: Vec<crate::pack::seal::SealingPublicKey>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_of_meeting_writers_that_a_later_release_has_is_no_reason_not_to_read_its_archives() {
        let read = |by: &str| {
            let text = format!(r#"{{"by":"{by}","held_ms":14}}"#);
            serde_json::from_str::<Quiesce>(&text).expect("it is read").by
        };
        assert_eq!((read("container"), read("something-new")), (QuiescedBy::Container, QuiescedBy::Other));
    }
}
