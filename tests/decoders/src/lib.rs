//! Every decoder of bytes that somebody else may have written, as a function of bytes.
//!
//! Must stay true: each is total and bounded. Whatever bytes it is given, it returns; it does not panic, hang
//! or take memory that its input does not justify. What one accepts is looked at once more where that is
//! cheap: it has to encode to what it was read from.
//!
//! `tests/replay.rs` gives each the corpus in `corpus/<name>` and mutations of it; `fuzz/` gives them to a
//! fuzzer: `DECODER=page cargo fuzz run decoder corpus/page` in this folder.

mod wire;

use agent::targets::files::PathPatterns;
use controller::identity::AgentCertificate;
use formats::ipfs::{Cid, Node, codec, links};
use formats::{CheckedFile, Subject};
use repository::archive::page::{PageBuilder, PageTable, decode_page, decode_pieces, encode_pieces};
use repository::archive::path::EntryPath;
use repository::backup::manifest::{ArchiveManifest, BackupRecord, ChainLine, RepositoryConfig};
use repository::backup::wishes::{PinNote, RulesNote};
use repository::codec::{Decoder, Malformed};
use repository::content::IdKey;
use repository::cut::decompress;
use repository::ids::{DomainId, PackId, RepositoryId, SegmentId};
use repository::index::IndexFile;
use repository::keys::{RecoveryKey, Slot};
use repository::names::{BackupName, Component, SourceId};
use repository::pack::blob::{BlobKind, BlobLine, Codec, TAG};
use repository::pack::file::{decode_header, survey};
use repository::pack::seal::{BlobCipher, SegmentContext, SegmentKey};
use repository::pack::segment::{SegmentHeader, SegmentTable};
use repository::parity::mend;
use repository::refs::Refs;
use repository::signed::{Sha256, VerifyingKey};
use repository::store::ObjectPath;

/// A decoder with its name, which is that of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("agent_cache", agent::decoders::cache_block),
    ("agent_identity", agent::decoders::identity),
    ("agent_journal", agent::decoders::journal),
    ("api_token", api_token),
    ("audit_line", controller::audit::read_line),
    ("backup_name", backup_name),
    ("backup_record", json::<BackupRecord>),
    ("blob_line", blob_line),
    ("blob_open", blob_open),
    ("catalog_copy", catalog_copy),
    ("certificate", certificate),
    ("chain_line", json::<ChainLine>),
    ("config_file", config_file),
    ("cron", text::<controller::config::Cron>),
    ("decompress", decompressed),
    ("dump_file", dump_file),
    ("entry_path", entry_path),
    ("exclude", exclude),
    ("index", index),
    ("ipfs_blocks", ipfs_blocks),
    ("join_token", join_token),
    ("key_slot", json::<Slot>),
    ("manifest", json::<ArchiveManifest>),
    ("model_file", model_file),
    ("object_path", object_path),
    ("pack", pack),
    ("page", page),
    ("page_table", page_table),
    ("parity", parity),
    ("path_pattern", path_pattern),
    ("pieces", pieces),
    ("pin_note", json::<PinNote>),
    ("recovery_key", text::<RecoveryKey>),
    ("refs", refs),
    ("repository_config", json::<RepositoryConfig>),
    ("rules_note", json::<RulesNote>),
    ("segment", segment),
    ("signed", signed),
    ("source_id", source_id),
    ("units", units),
    ("wire_agent", wire::agent),
    ("wire_enrolment", wire::enrolment),
    ("wire_ingest", wire::ingest),
    ("wire_orders", wire::orders),
    ("wire_user", wire::user),
];

/// The target with this name.
pub fn target(name: &str) -> Option<fn(&[u8])> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}

fn utf8(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn text<T: std::str::FromStr>(bytes: &[u8]) {
    let _ = utf8(bytes).map(T::from_str);
}

fn json<T: serde_json_value::Json>(bytes: &[u8]) {
    T::read(bytes);
}

/// JSON types: what was read is written and read again.
mod serde_json_value {
    use super::*;

    pub(crate) trait Json {
        fn read(bytes: &[u8]);
    }

    macro_rules! json {
        ($($type:ty),*) => {$(
            impl Json for $type {
                fn read(bytes: &[u8]) {
                    if let Ok(value) = serde_json::from_slice::<$type>(bytes) {
                        let text = serde_json::to_vec(&value).expect("what was read can be written");
                        serde_json::from_slice::<$type>(&text).expect("what was written can be read");
                    }
                }
            }
        )*};
    }

    json!(ArchiveManifest, BackupRecord, ChainLine, PinNote, RepositoryConfig, RulesNote, Slot);
}

fn config_file(bytes: &[u8]) {
    checked_file("configs", bytes);
}

fn dump_file(bytes: &[u8]) {
    checked_file("mongodb", bytes);
}

fn model_file(bytes: &[u8]) {
    checked_file("files", bytes);
}

fn ipfs_blocks(bytes: &[u8]) {
    checked_file("ipfs", bytes);
    // As if each kind of block were right, which its hash would say of any bytes.
    let block = bytes.splitn(2, |byte| *byte == b'\n').nth(1).unwrap_or_default();
    let some: Cid = "bafkreiey5jxe6ilpf62lnh77tm5ejbbmhbugzjuf6p2v3remlu73ced34q".parse().expect("a CID");
    for codec in [codec::DAG_PB, codec::DAG_CBOR, codec::DAG_JSON] {
        let _ = links(&Cid::new_v1(codec, *some.hash()), block);
    }
    let _ = Node::read(block).map(|node| node.directory());
}

/// The first line is the file's name; the rest is what it holds.
fn checked_file(kind: &str, bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let (path, content) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let subject = Subject { kind, component: "models", now: jiff::Timestamp::UNIX_EPOCH };
    let mut check = formats::check_of(&subject).expect("there is one for each of these kinds");
    let file = CheckedFile { path, length: content.len() as u64, is_proven: false };
    if check.file(file) {
        let _ = content.chunks(13).all(|piece| check.bytes(piece));
        let _ = check.file_end();
    }
    let _ = check.end();
}

fn catalog_copy(bytes: &[u8]) {
    let _ = repository::catalog_copy::look_at(bytes);
}

fn backup_name(bytes: &[u8]) {
    if let Some(Ok(name)) = utf8(bytes).map(str::parse::<BackupName>) {
        assert_eq!(Some(name.as_str()), utf8(bytes));
        let _ = name.time();
    }
}

fn source_id(bytes: &[u8]) {
    let Some(text) = utf8(bytes) else { return };
    let _ = text.parse::<Component>();
    if let Ok(source) = text.parse::<SourceId>() {
        assert_eq!(source.to_string(), text);
    }
}

fn object_path(bytes: &[u8]) {
    if let Some(path) = utf8(bytes).and_then(ObjectPath::parse) {
        assert!(!path.to_string().split('/').any(|name| matches!(name, "" | "." | "..")), "{path}");
    }
}

fn entry_path(bytes: &[u8]) {
    let Ok(path) = EntryPath::new(bytes) else { return };
    assert_eq!(path.as_bytes(), bytes);
    assert!(path.names().all(|name| !matches!(name, b"" | b"." | b"..") && !name.contains(&0)));
    assert!(!path.to_string().contains(char::is_control));
    assert!(path.parent().is_none_or(|parent| path.is_within(&parent) && parent < path));
}

fn page(bytes: &[u8]) {
    let Ok(entries) = decode_page(bytes) else { return };
    let mut builder = PageBuilder::new(&IdKey::new([0; 32]));
    let mut again = Vec::new();
    for entry in &entries {
        again.extend(builder.add(entry));
    }
    again.extend(builder.finish());
    let back: Vec<_> =
        again.iter().flat_map(|page| decode_page(&page.bytes).expect("our own page")).collect();
    assert_eq!(back, entries);
}

fn page_table(bytes: &[u8]) {
    if let Ok(table) = PageTable::decode(bytes) {
        assert_eq!(table.encode(), bytes);
        let _ = (table.entries(), table.page_of(&EntryPath::root()));
    }
}

fn pieces(bytes: &[u8]) {
    if let Ok(pieces) = decode_pieces(bytes) {
        assert_eq!(decode_pieces(&encode_pieces(&pieces)), Ok(pieces));
    }
}

fn refs(bytes: &[u8]) {
    if let Ok(refs) = Refs::decode(bytes) {
        assert_eq!(Refs::decode(&refs.encode()), Ok(refs.clone()));
        let counted: usize = refs.segments().map(|(segment, _)| refs.ordinals(&segment).count()).sum();
        assert_eq!(counted as u64, refs.blobs());
    }
}

fn index(bytes: &[u8]) {
    if let Ok(index) = IndexFile::decode(bytes) {
        assert_eq!(index.encode(), bytes);
    }
}

/// A parity file, for a pack of which nothing is left and for one of which something is; once as it is, and
/// once with the checksum that its head should have, which anybody can work out.
fn parity(bytes: &[u8]) {
    let sum = |bytes: &[u8]| Sha256::of(bytes).0;
    let Some(id) = bytes.get(12..44).and_then(|id| PackId::try_from(id).ok()) else { return };
    for file in [bytes, &[bytes, &sum(bytes)].concat()] {
        for left in [&[][..], bytes] {
            if let Some(whole) = mend(&id, left, file) {
                assert_eq!(PackId::new(sum(&whole)), id, "no wrong byte ever comes back");
            }
        }
    }
}

fn pack(bytes: &[u8]) {
    let _ = decode_header(bytes);
    let read = |offset: u64, length: u64| {
        let range = usize::try_from(offset).ok().zip(usize::try_from(offset.saturating_add(length)).ok());
        let taken = range.and_then(|(start, end)| bytes.get(start..end));
        taken.map(<[u8]>::to_vec).ok_or(Malformed::new("pack", "it ends too early"))
    };
    if let Ok(segments) = survey(bytes.len() as u64, read) {
        for segment in &segments {
            let blobs = 0..segment.table.lines.len() as u32;
            blobs.for_each(|ordinal| assert!(segment.table.body_range(ordinal).is_some()));
        }
    }
}

fn segment(bytes: &[u8]) {
    let _ = SegmentHeader::decode(&mut Decoder::new("segment", bytes));
    let _ = SegmentTable::decode(&mut Decoder::new("segment", bytes));
}

fn blob_line(bytes: &[u8]) {
    let _ = BlobLine::decode(&mut Decoder::new("blob", bytes));
}

/// The first line says how long the plaintext is, the rest is what was sealed.
fn blob_open(bytes: &[u8]) {
    let mut decoder = Decoder::new("blob", bytes);
    let Ok(line) = BlobLine::decode(&mut decoder) else { return };
    let sealed = decoder.raw(decoder.remaining()).expect("it is what remains").to_vec();
    let context = SegmentContext {
        repository: RepositoryId::new([1; 16]),
        domain: DomainId::new([2; 16]),
        segment: SegmentId::new([3; 16]),
    };
    let cipher = BlobCipher::new(&SegmentKey::new([4; 32]));
    let _ = context.open(&cipher, 0, &line, sealed);
    assert!(line.kind == BlobKind::Data || line.stored_length > TAG);
}

/// Two bytes of length, then the compressed bytes.
fn decompressed(bytes: &[u8]) {
    let Some((length, stored)) = bytes.split_first_chunk::<2>() else { return };
    let length = u32::from(u16::from_le_bytes(*length));
    for (codec, length) in [(Codec::Zstd, length), (Codec::Raw, length), (Codec::Zstd, u32::MAX)] {
        if let Ok(plain) = decompress(codec, stored.to_vec(), length) {
            assert_eq!(plain.len(), length as usize);
        }
    }
}

fn signed(bytes: &[u8]) {
    let key = VerifyingKey([7; 32]);
    assert!(key.verify::<ArchiveManifest>(bytes).is_err(), "nobody has that key");
}

fn api_token(bytes: &[u8]) {
    let Some(token) = utf8(bytes).and_then(|text| proto::api_token::ApiToken::parse(text).ok()) else {
        return;
    };
    for again in [token.to_text(), token.bearer()] {
        assert!(proto::api_token::ApiToken::parse(&again).is_ok());
    }
}

fn join_token(bytes: &[u8]) {
    let Some(text) = utf8(bytes) else { return };
    if let Ok(token) = proto::token::JoinToken::parse(text) {
        let again = token.to_text();
        assert!(proto::token::JoinToken::parse(&again).is_ok());
    }
}

fn certificate(bytes: &[u8]) {
    let _ = AgentCertificate::read(bytes, RepositoryId::new([1; 16]), jiff::Timestamp::UNIX_EPOCH);
}

fn path_pattern(bytes: &[u8]) {
    let _ = utf8(bytes).map(|text| PathPatterns::new(&[text.to_owned()]));
}

fn exclude(bytes: &[u8]) {
    let Some(text) = utf8(bytes) else { return };
    let patterns: Vec<String> = text.lines().take(16).map(str::to_owned).collect();
    let _ = agent::sources::files::Excludes::new(&patterns);
}

fn units(bytes: &[u8]) {
    text::<runtime::config::Duration>(bytes);
    text::<runtime::config::Size>(bytes);
}
