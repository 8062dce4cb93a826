//! From the wire's loose values to checked ones and back.
//!
//! Must stay true: whatever bytes arrive, a conversion returns a value or an [`Invalid`] that names the
//! field; it never panics and never guesses.

use jiff::Timestamp;
use repository::backup::manifest::{Consistency, Counts, Outcome, Quiesce, QuiescedBy};
use repository::names::{BackupName, Component, SourceId};
use repository::refs::BlobAddress;
use tonic::Status;

use crate::failure::Failure;
use crate::v1;

/// A field of a message is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the field `{field}` {why}")]
pub struct Invalid {
    /// The field's name in its message.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl Invalid {
    /// The field `field` is wrong because of `why`, e.g. `is missing`.
    pub fn new(field: &'static str, why: impl Into<String>) -> Self {
        Self { field, why: why.into() }
    }
}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Self {
        Failure::invalid(invalid.to_string()).hint(
            "check the value; if nobody typed it, bring controller, agents and nsctl to the same release",
        )
    }
}

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        Failure::from(invalid).into()
    }
}

/// A field that must be set.
pub fn required<T>(field: &'static str, value: Option<T>) -> Result<T, Invalid> {
    value.ok_or_else(|| Invalid::new(field, "is missing"))
}

/// An id of `repository::ids` from its raw bytes.
pub fn id<'a, T>(field: &'static str, bytes: &'a [u8]) -> Result<T, Invalid>
where
    T: TryFrom<&'a [u8]>,
    T::Error: std::fmt::Display,
{
    T::try_from(bytes).map_err(|error| Invalid::new(field, format!("is not an id: {error}")))
}

/// Ids of 32 bytes that stand one after the other without anything between.
pub fn ids32<'a, T>(field: &'static str, bytes: &'a [u8]) -> Result<Vec<T>, Invalid>
where
    T: TryFrom<&'a [u8]>,
    T::Error: std::fmt::Display,
{
    if !bytes.len().is_multiple_of(32) {
        return Err(Invalid::new(field, "is not a whole number of ids"));
    }
    bytes.chunks_exact(32).map(|bytes| id(field, bytes)).collect()
}

/// Exactly `N` bytes, e.g. a key.
pub fn array<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], Invalid> {
    bytes.try_into().map_err(|_| Invalid::new(field, format!("has {} bytes instead of {N}", bytes.len())))
}

/// Text of at most `limit` bytes without control characters.
pub fn text(field: &'static str, value: &str, limit: usize) -> Result<String, Invalid> {
    if value.len() > limit {
        return Err(Invalid::new(field, format!("is longer than {limit} bytes")));
    }
    if value.chars().any(char::is_control) {
        return Err(Invalid::new(field, "holds control characters"));
    }
    Ok(value.to_owned())
}

/// A source that is named in full.
pub fn source_id(field: &'static str, wire: Option<&v1::SourceId>) -> Result<SourceId, Invalid> {
    let wire = required(field, wire)?;
    let invalid = |error: &dyn std::fmt::Display| Invalid::new(field, format!("is not a source: {error}"));
    Ok(SourceId {
        component: wire.component.parse().map_err(|error| invalid(&error))?,
        name: wire.name.parse().map_err(|error| invalid(&error))?,
    })
}

/// A source for the wire.
pub fn to_wire_source(source: &SourceId) -> v1::SourceId {
    v1::SourceId { component: source.component.to_string(), name: source.name.to_string() }
}

/// Components, each once, in the order in which they were first named.
pub fn components(field: &'static str, wire: &[String]) -> Result<Vec<Component>, Invalid> {
    let mut components: Vec<Component> = Vec::new();
    for text in wire {
        let component = text.parse().map_err(|error| Invalid::new(field, format!("is wrong: {error}")))?;
        if !components.contains(&component) {
            components.push(component);
        }
    }
    Ok(components)
}

/// Which backup is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupChoice {
    /// The newest that fits.
    Latest,
    /// This one.
    Named(BackupName),
}

/// `latest`, nothing, or a timestamp.
pub fn backup_choice(field: &'static str, wire: &str) -> Result<BackupChoice, Invalid> {
    match wire {
        "" | "latest" => Ok(BackupChoice::Latest),
        name => name
            .parse()
            .map(BackupChoice::Named)
            .map_err(|error| Invalid::new(field, format!("is wrong: {error}"))),
    }
}

/// Where a blob lies.
pub fn blob_address(field: &'static str, wire: &v1::BlobAddress) -> Result<BlobAddress, Invalid> {
    Ok(BlobAddress { segment: id(field, &wire.segment_id)?, ordinal: wire.ordinal })
}

/// Where a blob lies, for the wire.
pub fn to_wire_address(address: &BlobAddress) -> v1::BlobAddress {
    v1::BlobAddress { segment_id: address.segment.as_bytes().to_vec().into(), ordinal: address.ordinal }
}

/// Figures of an archive.
pub fn counts(wire: &v1::ArchiveCounts) -> Counts {
    Counts {
        files: wire.files,
        folders: wire.folders,
        links: wire.links,
        specials: wire.specials,
        bytes: wire.bytes,
        unreadable: wire.unreadable,
        vanished: wire.vanished,
        changed: wire.changed,
        read_bytes: wire.read_bytes,
        stored_bytes: wire.stored_bytes,
        reused_files: wire.reused_files,
    }
}

/// Figures of an archive, for the wire.
pub fn to_wire_counts(counts: &Counts) -> v1::ArchiveCounts {
    v1::ArchiveCounts {
        files: counts.files,
        folders: counts.folders,
        links: counts.links,
        specials: counts.specials,
        bytes: counts.bytes,
        unreadable: counts.unreadable,
        vanished: counts.vanished,
        changed: counts.changed,
        read_bytes: counts.read_bytes,
        stored_bytes: counts.stored_bytes,
        reused_files: counts.reused_files,
    }
}

/// How an archive or a backup ended, for the wire.
pub fn to_wire_outcome(outcome: Outcome) -> v1::Outcome {
    match outcome {
        Outcome::Complete => v1::Outcome::Complete,
        Outcome::Incomplete => v1::Outcome::Incomplete,
        Outcome::Failed => v1::Outcome::Failed,
    }
}

/// How far an archive is one point in time; `None` where the other side does not say.
pub fn consistency(wire: v1::Consistency) -> Option<Consistency> {
    match wire {
        v1::Consistency::Unspecified => None,
        v1::Consistency::Snapshot => Some(Consistency::Snapshot),
        v1::Consistency::Quiesced => Some(Consistency::Quiesced),
        v1::Consistency::Bracketed => Some(Consistency::Bracketed),
        v1::Consistency::Fuzzy => Some(Consistency::Fuzzy),
    }
}

/// How far an archive is one point in time, for the wire.
pub fn to_wire_consistency(consistency: Option<Consistency>) -> v1::Consistency {
    match consistency {
        None => v1::Consistency::Unspecified,
        Some(Consistency::Snapshot) => v1::Consistency::Snapshot,
        Some(Consistency::Quiesced) => v1::Consistency::Quiesced,
        Some(Consistency::Bracketed) => v1::Consistency::Bracketed,
        Some(Consistency::Fuzzy) => v1::Consistency::Fuzzy,
    }
}

/// How what writes into a source was met; `None` where nothing was done, or something that is not known here.
pub fn quiesce(wire: Option<&v1::Quiesce>) -> Option<Quiesce> {
    let wire = wire?;
    let by = match wire.by.as_str() {
        "bracket" => QuiescedBy::Bracket,
        "pause" => QuiescedBy::Pause,
        "container" => QuiescedBy::Container,
        "lock" => QuiescedBy::Lock,
        _ => return None,
    };
    Some(Quiesce { by, held_ms: wire.held_ms })
}

/// How what writes into a source was met, for the wire.
pub fn to_wire_quiesce(quiesce: Quiesce) -> v1::Quiesce {
    let by = match quiesce.by {
        QuiescedBy::Bracket => "bracket",
        QuiescedBy::Pause => "pause",
        QuiescedBy::Container => "container",
        QuiescedBy::Lock => "lock",
        QuiescedBy::Other => "other",
    };
    v1::Quiesce { by: by.to_owned(), held_ms: quiesce.held_ms }
}

/// How far a validator's key has signed: height, round and step; `None` where one of them cannot be.
pub fn signed(wire: Option<&v1::SignedHeight>) -> Option<(i64, i64, i32)> {
    let v1::SignedHeight { height, round, step, address: _ } = *wire?;
    (height >= 0 && round >= 0 && step >= 0).then_some((height, round, step))
}

/// A privilege in one word, for people, JSON and the catalog.
pub fn privilege_word(privilege: v1::Privilege) -> &'static str {
    match privilege {
        v1::Privilege::Unspecified => "unknown",
        v1::Privilege::Setuid => "setuid",
        v1::Privilege::Setgid => "setgid",
        v1::Privilege::Device => "device",
        v1::Privilege::Capability => "capability",
        v1::Privilege::Attribute => "attribute",
    }
}

/// The privilege that has this word; UNSPECIFIED, which grants nothing, if none has.
pub fn privilege_of_word(word: &str) -> v1::Privilege {
    let all = (1..).map_while(|code| v1::Privilege::try_from(code).ok());
    all.into_iter().find(|privilege| privilege_word(*privilege) == word).unwrap_or_default()
}

/// A point in time for the wire.
pub fn to_wire_time(time: Timestamp) -> prost_types::Timestamp {
    // jiff keeps the sign of both parts equal; protobuf wants nanoseconds that are never negative.
    let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
    if nanos < 0 {
        (seconds, nanos) = (seconds - 1, nanos + 1_000_000_000);
    }
    prost_types::Timestamp { seconds, nanos }
}

/// A point in time from the wire.
pub fn from_wire_time(field: &'static str, time: prost_types::Timestamp) -> Result<Timestamp, Invalid> {
    if !(0..1_000_000_000).contains(&time.nanos) {
        return Err(Invalid::new(field, "has nanoseconds that are not within a second"));
    }
    Timestamp::new(time.seconds, time.nanos).map_err(|_| Invalid::new(field, "is not a point in time"))
}

#[cfg(test)]
mod tests {
    use repository::ids::{BlobId, SegmentId};

    use super::*;

    #[test]
    fn an_id_of_the_wrong_length_is_refused_by_name() {
        assert!(id::<SegmentId>("segment_id", &[7; 16]).is_ok());
        let wrong = id::<SegmentId>("segment_id", &[7; 15]).expect_err("too short");
        assert!(wrong.to_string().starts_with("the field `segment_id` is not an id"), "{wrong}");
        assert_eq!(ids32::<BlobId>("blob_ids", &[1; 96]).map(|ids| ids.len()), Ok(3));
        assert!(ids32::<BlobId>("blob_ids", &[1; 95]).is_err());
    }

    #[test]
    fn times_before_and_after_1970_cross_the_wire() {
        for text in ["2026-02-03T04:05:06.789Z", "1970-01-01T00:00:00Z", "1969-12-31T23:59:59.25Z"] {
            let time: Timestamp = text.parse().expect("a time");
            let wire = to_wire_time(time);
            assert!((0..1_000_000_000).contains(&wire.nanos));
            assert_eq!(from_wire_time("at", wire), Ok(time));
        }
        assert!(from_wire_time("at", prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }).is_err());
        assert!(from_wire_time("at", prost_types::Timestamp { seconds: 0, nanos: -1 }).is_err());
    }

    #[test]
    fn a_source_is_named_in_full_or_refused() {
        let source: SourceId = "models/gpu-1".parse().expect("a source");
        assert_eq!(source_id("source", Some(&to_wire_source(&source))), Ok(source));
        assert!(source_id("source", None).is_err());
        let escaping = v1::SourceId { component: "models".into(), name: "../x".into() };
        assert!(source_id("source", Some(&escaping)).is_err());
        assert_eq!(components("components", &["ipfs".into(), "ipfs".into()]).map(|all| all.len()), Ok(1));
        assert_eq!(backup_choice("backup", "latest"), Ok(BackupChoice::Latest));
        assert!(backup_choice("backup", "yesterday").is_err());
    }

    #[test]
    fn every_privilege_has_a_word_of_its_own() {
        for code in 1..=5 {
            let privilege = v1::Privilege::try_from(code).expect("it is known");
            assert_eq!(privilege_of_word(privilege_word(privilege)), privilege);
        }
        assert_eq!(privilege_of_word("all"), v1::Privilege::Unspecified);
    }

    #[test]
    fn text_cannot_drive_a_terminal() {
        assert!(text("name", "web-1", 64).is_ok());
        assert!(text("name", "web\u{1b}[2J", 64).is_err());
        assert!(text("name", "long", 3).is_err());
    }
}
