//! Writes a sound sample for each decoder into `corpus/`: where mutations and a fuzzer start from. Samples
//! that are there stay.

use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;
use proto::v1;
use repository::archive::entry::{
    Entry, EntryKind, Extent, FileContent, Layout, Metadata, Piece, Pieces, Timestamp,
};
use repository::archive::page::{PageBuilder, PageLine, PageTable, encode_pieces};
use repository::archive::path::EntryPath;
use repository::codec::Encoder;
use repository::content::IdKey;
use repository::ids::{BlobId, ContentId, DomainId, PackId, RepositoryId};
use repository::index::{IndexFile, IndexedPack};
use repository::keys::SlotSecret;
use repository::pack::blob::{BlobKind, Class, Codec, blob_id};
use repository::pack::file::{header, survey};
use repository::pack::segment::SegmentBuilder;
use repository::parity::{Strength, encode};
use repository::refs::{BlobAddress, Refs};
use repository::repo::Repository;
use repository::signed::Sha256;
use repository::store::local::LocalStore;
use zeroize::Zeroizing;

fn keep(target: &str, name: &str, bytes: &[u8]) {
    assert!(decoders::target(target).is_some(), "{target} is in the table");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder).expect("made");
    let file = folder.join(name);
    if !file.exists() && bytes.len() <= 4_096 {
        fs::write(file, bytes).expect("written");
    }
}

fn main() {
    archive();
    packs();
    texts();
    json();
    agent();
    wire();
    files();
    dump_files();
}

/// A name, and what a file of that name holds.
fn files() {
    for (name, text) in [
        ("compose.yaml", "services: &s\n  web: {image: shop, ports: ['80:80']}\n---\nmore: *s\n"),
        ("settings.json", "{\"a\": [1, 2.5e3, null, {\"b\": \"\\u00e4\"}]}"),
        ("Cargo.toml", "[a.b]\nc = [1, 2]\nd = { e = 1979-05-27T07:32:00Z }\nf = 'x'\n"),
        ("app.env", "# c\nexport A='x\ny' # z\nB: 1\nC\n"),
        ("log.properties", "a\\u0041 = b\\\n  c\n! d\n"),
        ("tls.pem", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"),
    ] {
        keep("config_file", name, format!("{name}\n{text}").as_bytes());
    }
    let header = r#"{"__metadata__":{"a":"b"},"t":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}"#;
    let tensor = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[7; 8]].concat();
    let number = |value: u64| value.to_le_bytes();
    let text = |text: &str| [&number(text.len() as u64)[..], text.as_bytes()].concat();
    let gguf = [
        &b"GGUF\x03\0\0\0"[..],
        &number(1),
        &number(1),
        &text("general.name"),
        &8_u32.to_le_bytes(),
        &text("x"),
        &text("t"),
        &1_u32.to_le_bytes(),
        &number(2),
        &0_u32.to_le_bytes(),
        &number(0),
    ]
    .concat();
    let begun = gguf.len();
    let gguf = [gguf, vec![0; begun.next_multiple_of(32) - begun + 8]].concat();
    let onnx = b"\x08\x08\x3a\x10\x0a\x02\x0a\x00\x2a\x0a\x08\x01\x10\x01\x42\x01t\x4a\x01\x00";
    let part = [&b"PK\x03\x04\x0a\0"[..], &[0; 12], &[1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0], b"ax"].concat();
    let line = [&b"PK\x01\x02\x0a\0\x0a\0"[..], &[0; 12], &[1, 0, 0, 0, 1, 0, 0, 0, 1, 0], &[0; 16], b"a"];
    let line = line.concat();
    let end = [&b"PK\x05\x06\0\0\0\0\x01\0\x01\0"[..], &[47, 0, 0, 0, 32, 0, 0, 0, 0, 0]].concat();
    let zip = [part, line, end].concat();
    let index = br#"{"metadata":{"total_size":8},"weight_map":{"t":"m-00001-of-00001.safetensors"}}"#;
    let samples: [(&str, &[u8]); 5] = [
        ("m.safetensors", &tensor),
        ("m.gguf", &gguf),
        ("m.onnx", onnx),
        ("m.pt", &zip),
        ("m.safetensors.index.json", index),
    ];
    for (name, bytes) in samples {
        keep("model_file", name, &[name.as_bytes(), b"\n", bytes].concat());
    }
}

/// Two documents and a description, as a dump has them.
fn dump_files() {
    let document = |id: u8| {
        let body =
            [&b"\x10_id\0"[..], &[id, 0, 0, 0], b"\x02s\0\x03\0\0\0ab\0\x05data\0\x01\0\0\0\0z\0"].concat();
        [&(body.len() as u32 + 4).to_le_bytes()[..], &body].concat()
    };
    let documents = [document(1), document(2)].concat();
    let metadata = br#"{"indexes":[{"key":{"_id":{"$numberInt":"1"}},"name":"_id_"}],"collectionName":"a"}"#;
    let samples: [(&str, &[u8]); 4] = [
        ("shop/a.bson", &documents),
        ("shop/fs.chunks.bson", &documents),
        ("shop/fs.files.bson", &documents),
        ("shop/a.metadata.json", metadata),
    ];
    for (path, bytes) in samples {
        let name = path.rsplit('/').next().expect("a name");
        keep("dump_file", name, &[path.as_bytes(), b"\n", bytes].concat());
    }
}

fn path(text: &str) -> EntryPath {
    EntryPath::new(text.as_bytes()).expect("a path")
}

fn archive() {
    let xattrs = vec![(b"security.capability".to_vec(), vec![1; 20]), (b"user.a".to_vec(), vec![])];
    let mtime = Timestamp { seconds: -1, nanoseconds: 999_999_999 };
    let rich = Metadata { mode: 0o4755, uid: u32::MAX, gid: 7, mtime, xattrs };
    let blob = BlobId::new([9; 32]);
    let piece = Piece { blob, offset: 3, length: 10 };
    let id = ContentId::new([1; 32]);
    let sparse =
        Layout::Sparse(vec![Extent { offset: 4_096, length: 10 }, Extent { offset: 9_000, length: 10 }]);
    let file = |size, layout, pieces| EntryKind::File(FileContent { size, id, layout, pieces });
    let kinds = [
        file(10, Layout::Dense, Pieces::Inline(vec![piece])),
        file(10_000, sparse, Pieces::Inline(vec![piece; 2])),
        file(1 << 40, Layout::Dense, Pieces::Listed(vec![blob; 3])),
        EntryKind::Symlink { target: b"../x".to_vec() },
        EntryKind::HardLink { to: path("0") },
        EntryKind::Fifo,
        EntryKind::Socket,
        EntryKind::Device { block: true, major: 8, minor: 1 },
    ];
    let mut builder = PageBuilder::new(&IdKey::new([5; 32]));
    let root = Entry { path: EntryPath::root(), metadata: rich.clone(), kind: EntryKind::Folder };
    assert!(builder.add(&root).is_none());
    for (n, kind) in kinds.into_iter().enumerate() {
        let entry = Entry { path: path(&n.to_string()), metadata: rich.clone(), kind };
        assert!(builder.add(&entry).is_none());
    }
    let page = builder.finish().expect("a page");
    keep("page", "kinds", &page.bytes);
    let line = |first: &str| PageLine { first: path(first), id: blob, entries: 9 };
    keep("page_table", "two", &PageTable { pages: vec![line(""), line("a/b")] }.encode());
    keep("pieces", "three", &encode_pieces(&[piece; 3]));
    keep("entry_path", "deep", b"a/b.c/\xff\xfe/d");
}

fn packs() {
    let (key, id_key) =
        (repository::pack::seal::SealingPublicKey { epoch: 1, key: [9; 32] }, IdKey::new([1; 32]));
    let (repository, domain) = (RepositoryId::new([1; 16]), DomainId::new([2; 16]));
    let mut builder = SegmentBuilder::new(Class::Data, repository, domain, &key);
    for text in [&b"one"[..], b"two two"] {
        builder.add(
            blob_id(&id_key, BlobKind::Data, text),
            BlobKind::Data,
            Codec::Raw,
            text.len() as u32,
            text,
        );
    }
    let segment = builder.finish();
    let pack = [header(1), segment.head.to_vec(), segment.body.to_vec()].concat();
    keep("pack", "one", &pack);
    keep("segment", "one", &segment.head);
    let id = PackId::new(Sha256::of(&pack).0);
    let parity = encode(id, &pack, Strength::percent(50).expect("in range"));
    keep("parity", "one", &parity);
    // All of its head but the checksum at its end.
    let head = u32::from_le_bytes(*parity.last_chunk().expect("a length")) as usize;
    keep("parity", "head", &parity[..head - 32]);
    let mut line = Encoder::new();
    segment.table.lines[0].encode(&mut line);
    let line = line.finish();
    keep("blob_line", "one", &line);
    keep("blob_open", "one", &[line, segment.body[..19].to_vec()].concat());
    let read = |at: u64, length: u64| {
        Ok::<_, repository::codec::Malformed>(pack[at as usize..][..length as usize].to_vec())
    };
    let segments = survey(pack.len() as u64, read).expect("sound");
    let packed = IndexedPack { id: PackId::new([3; 32]), length: pack.len() as u64, segments };
    keep("index", "one", &IndexFile { domain, replaces: vec![], packs: vec![packed] }.encode());
    let mut refs = Refs::new(domain);
    refs.add(BlobAddress { segment: segment.id(), ordinal: 1 }, 2);
    keep("refs", "one", &refs.encode());
    let text = b"the same words again; ".repeat(100);
    let small = repository::cut::Compressor::new().compress(&text).expect("it shrinks");
    keep("decompress", "text", &[&(text.len() as u16).to_le_bytes()[..], &small].concat());
}

fn texts() {
    keep("backup_name", "one", b"20260101_010000");
    keep("source_id", "one", b"models/gpu-1");
    keep("source_id", "component", b"models");
    keep("object_path", "one", b"packs/ab/abcdef");
    keep("cron", "nightly", b"0 3 * * 1-5");
    keep("cron", "steps", b"*/5 0,12 1 */2 *");
    keep("path_pattern", "stars", b"a/**/[!b]*.{x,y}");
    keep("exclude", "rules", b"*.tmp\n/cache/\n!keep.tmp\n**/[a-z]?/x");
    keep("units", "size", b"16MiB");
    keep("units", "time", b"1h30m");
    let der =
        rcgen::generate_simple_self_signed(vec!["x".to_owned()]).expect("a certificate").cert.der().to_vec();
    keep("certificate", "stranger", &der);
    let api_token = proto::api_token::ApiToken::new([9; 16], [7; 32], Some(der.clone()));
    keep("api_token", "one", api_token.to_text().as_bytes());
    keep("api_token", "bearer", api_token.bearer().as_bytes());
    keep(
        "audit_line",
        "one",
        br#"{"seq":1,"at":"2026-01-01T00:00:00Z","kind":"user","id":"0","name":"","from":"","call":"Jobs/StartBackup","about":"","result":"begun","reason":"","of":0,"times":0,"prev":"00","mac":"00"}"#,
    );
    keep("join_token", "one", proto::token::JoinToken::new([7; 32], der).to_text().as_bytes());
}

/// From a repository that has just been made, and by hand what that does not hold.
fn json() {
    let home = tempfile::tempdir().expect("a folder");
    let store = LocalStore::open_or_make(home.path()).expect("made");
    let secret = SlotSecret::KeyFile(Zeroizing::new(vec![42; 32]));
    let made =
        Repository::init(std::sync::Arc::new(store), &secret, jiff::Timestamp::UNIX_EPOCH).expect("made");
    keep("recovery_key", "one", made.recovery_key.reveal().as_bytes());
    let mut waiting = vec![home.path().to_owned()];
    while let Some(at) = waiting.pop() {
        for entry in fs::read_dir(at).expect("listed") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                waiting.push(path);
                continue;
            }
            let bytes = fs::read(&path).expect("read");
            let text = path.display().to_string();
            if text.ends_with("config.json") {
                keep("signed", "config", &bytes);
                let end =
                    bytes[..bytes.len() - 1].iter().rposition(|byte| *byte == b'\n').expect("two lines");
                keep("repository_config", "one", &bytes[..end]);
            } else if text.contains("/slots/") {
                keep("key_slot", path.file_stem().and_then(|name| name.to_str()).expect("text"), &bytes);
            }
        }
    }
    let counts = r#"{"files":1,"folders":1,"links":0,"specials":0,"bytes":3,"unreadable":0,"vanished":0,"changed":0,"read_bytes":3,"stored_bytes":19,"reused_files":0}"#;
    let (a, b) = ("a".repeat(32), "b".repeat(64));
    let times = r#""started_at":"2026-01-01T01:00:00Z","ended_at":"2026-01-01T01:00:01Z""#;
    let about = format!(
        r#""component":"models","source":"models","kind":"files","outcome":"complete","reason":null,"consistency":"fuzzy","counts":{counts}"#
    );
    let manifest = format!(
        r#"{{"format":1,{about},"domain":"{a}","root":"{b}","problems":null,"agent":null,{times},"segments":1,"blobs":2}}"#
    );
    serde_json::from_str::<repository::backup::manifest::ArchiveManifest>(&manifest).expect("sound");
    keep("manifest", "one", manifest.as_bytes());
    let record = format!(
        r#"{{"format":1,"repository":"{a}","name":"20260101_010000","sequence":1,"job":"j",{times},"outcome":"complete","pin":null,"previous":null,"archives":[{{{about},"manifest":"{b}","refs":"{b}"}}]}}"#
    );
    serde_json::from_str::<repository::backup::manifest::BackupRecord>(&record).expect("sound");
    keep("backup_record", "one", record.as_bytes());
    let line = format!(
        r#"{{"sequence":1,"name":"20260101_010000","backup":"{b}","previous":null,"at":"2026-01-01T01:00:01Z"}}"#
    );
    serde_json::from_str::<repository::backup::manifest::ChainLine>(&line).expect("sound");
    keep("chain_line", "one", line.as_bytes());
    let pin =
        r#"{"sequence":1,"backup":"20260101_010000","number":2,"reason":"x","at":"2026-01-01T01:00:01Z"}"#;
    serde_json::from_str::<repository::backup::wishes::PinNote>(pin).expect("sound");
    keep("pin_note", "one", pin.as_bytes());
    let rules = r#"{"number":1,"rules":{"keep_within_seconds":2592000,"keep_last":null,"keep_hourly":null,"keep_daily":7,"keep_weekly":null,"keep_monthly":null,"keep_yearly":null,"keep_complete":3},"at":"2026-01-01T01:00:01Z"}"#;
    serde_json::from_str::<repository::backup::wishes::RulesNote>(rules).expect("sound");
    keep("rules_note", "one", rules.as_bytes());
}

fn agent() {
    let plain = r#"{"mode":493,"uid":0,"gid":0,"seconds":1,"nanoseconds":2,"xattrs":[["user.x","y"]]}"#;
    let journal = format!(
        "{{\"begin\":{{\"format\":1}}}}\n{{\"area\":\"/x\"}}\n{{\"move\":{{\"area\":1,\"path\":\"a/b\",\"put\":true}}}}\n\
         {{\"root\":{{\"new\":{plain},\"old\":{plain}}}}}\n\"swapping\"\n\"undoing\"\n\"undone\"\n"
    );
    keep("agent_journal", "swap", journal.as_bytes());
    keep("agent_journal", "servant", b"{\"begin\":{\"format\":1}}\n{\"serves\":\"/x/y\"}\n");
    let identity = r#"{"agent_id":"01970000-0000-7000-8000-000000000000","certificate":"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n","ca_certificate":"","repository":"01010101010101010101010101010101"}"#;
    keep("agent_identity", "one", identity.as_bytes());
    // A record of the cache begins with a path; the mutations find the rest.
    keep("agent_cache", "start", b"\x00\x01a\x02\x04\x06\x00\x08\x00\x01\x03");
}

fn wire() {
    let source = || Some(v1::SourceId { component: "models".into(), name: "gpu-1".into() });
    let id = |length: usize| vec![7; length].into();
    let domain = || Some(v1::DomainKeys { domain_id: id(16), id_key: id(32), gear_key: id(32) });
    let privileged = v1::PrivilegedEntries {
        privilege: v1::Privilege::Setuid.into(),
        count: 2,
        names: vec!["bin/su".into()],
    };
    let plan =
        v1::SourcePlan { source: source(), entries: 3, privileges: vec![privileged], ..Default::default() };
    let planned = v1::RestorePlanned { task_id: "t".into(), plan: Some(plan) };
    let served = v1::ServedSource { source: source(), kind: "files".into(), location: "/x".into() };
    let hello = v1::Hello { protocol: 1, host: "h".into(), sources: vec![served], ..Default::default() };
    use v1::agent_message::Message as Up;
    for (name, message) in [("hello", Up::Hello(hello)), ("planned", Up::RestorePlanned(planned))] {
        keep("wire_agent", name, &v1::AgentMessage { message: Some(message) }.encode_to_vec());
    }
    let join = v1::JoinRequest {
        token: "nsjoin1-00-30".into(),
        certificate_request: id(40),
        name: "a".into(),
        ..Default::default()
    };
    keep("wire_enrolment", "join", &join.encode_to_vec());
    let put = v1::PutSegmentRequest { task_id: "t".into(), segment_id: id(16), length: 9, data: id(9) };
    keep("wire_ingest", "put", &put.encode_to_vec());
    let summary = v1::ArchiveSummary {
        task_id: "t".into(),
        root: id(32),
        counts: Some(v1::ArchiveCounts { files: 3, ..Default::default() }),
        consistency: v1::Consistency::Fuzzy.into(),
        ..Default::default()
    };
    let part = Some(v1::finish_archive_request::Part::Summary(summary));
    keep("wire_ingest", "finish", &v1::FinishArchiveRequest { part }.encode_to_vec());
    let blob =
        v1::BlobLine { ordinal: 1, blob_id: id(32), kind: 1, codec: 0, plain_length: 9, stored_length: 25 };
    let opened = v1::OpenedSegment { segment_id: id(16), key: id(32), blobs: vec![blob] };
    keep("wire_ingest", "opened", &opened.encode_to_vec());
    let order = v1::RestoreOrder {
        source: source(),
        folder: "/restore".into(),
        selection: Some(v1::Selection {
            globs: vec!["a/**".into()],
            include: vec!["shop.a*".into()],
            renames: vec![v1::Rename { from: "shop".into(), to: "copy".into() }],
            drop_others: true,
            ..v1::Selection::default()
        }),
        restore_id: "r1".into(),
        root: id(32),
        domain: domain(),
        ..Default::default()
    };
    let grant = v1::Grant { privilege: v1::Privilege::Device.into(), count: 1 };
    let allowance = Some(v1::Allowance { entries: 3, bytes: 9, grants: vec![grant] });
    use v1::controller_message::Message as Down;
    let restore = v1::StartRestore {
        task_id: "t".into(),
        order: Some(order),
        allowance,
        ..v1::StartRestore::default()
    };
    let start =
        v1::StartArchive { task_id: "t".into(), source: source(), domain: domain(), ..Default::default() };
    for (name, message) in [("restore", Down::StartRestore(restore)), ("archive", Down::StartArchive(start))]
    {
        keep("wire_orders", name, &v1::ControllerMessage { message: Some(message) }.encode_to_vec());
    }
    let plan = v1::PlanRestoreRequest {
        backup: "latest".into(),
        components: vec!["models".into()],
        ..Default::default()
    };
    keep("wire_user", "plan", &plan.encode_to_vec());
    let list =
        v1::ListEntriesRequest { source: source(), path: b"a/b".to_vec().into(), ..Default::default() };
    keep("wire_user", "list", &list.encode_to_vec());
}
