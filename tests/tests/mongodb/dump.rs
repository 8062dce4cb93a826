//! Exports, opened by a parser of the stream of `mongodump --archive` that shares nothing with its writer.

use std::collections::BTreeMap;
use std::fs;

use mongodb::bson::{Document, RawDocumentBuf};

use crate::parsed;
use crate::server::{Server, fill, system, uri};

/// What a stream says of a collection, and its documents.
#[derive(Debug, Default)]
struct Namespace {
    metadata: String,
    documents: Vec<Vec<u8>>,
    has_ended: bool,
}

struct Stream<'a>(&'a [u8]);

impl Stream<'_> {
    /// The next document; none at a terminator.
    fn next(&mut self) -> Option<Vec<u8>> {
        let length = u32::from_le_bytes(self.0[..4].try_into().expect("four bytes"));
        let taken = if length == u32::MAX { 4 } else { length as usize };
        let (document, rest) = self.0.split_at(taken);
        self.0 = rest;
        (length != u32::MAX).then(|| document.to_vec())
    }

    fn header(&mut self) -> Option<Document> {
        let raw = RawDocumentBuf::from_bytes(self.next()?).expect("a document");
        Some(Document::try_from(&*raw).expect("a document"))
    }
}

/// CRC-64/XZ, bit by bit.
pub(crate) fn checksum(documents: &[Vec<u8>]) -> u64 {
    let mut sum = u64::MAX;
    for byte in documents.iter().flatten() {
        sum ^= u64::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0xc96c_5795_d787_0f42 } else { sum >> 1 };
        }
    }
    !sum
}

fn parse(bytes: &[u8]) -> BTreeMap<(String, String), Namespace> {
    assert_eq!(bytes[..4], [0x6d, 0xe2, 0x99, 0x81]);
    let mut stream = Stream(&bytes[4..]);
    let header = stream.header().expect("a header");
    let text = |key| header.get_str(key).expect("a text");
    assert_eq!((text("version"), text("server_version")), ("0.1", "4.4.0"));
    assert_eq!(header.get_i32("concurrent_collections").expect("a number"), 1);
    let key = |of: &Document| {
        let text = |key| of.get_str(key).expect("a text").to_owned();
        (text("db"), text("collection"))
    };
    let mut all: BTreeMap<_, Namespace> = BTreeMap::new();
    while let Some(one) = stream.header() {
        let metadata = one.get_str("metadata").expect("a text").to_owned();
        all.insert(key(&one), Namespace { metadata, ..Namespace::default() });
    }
    while !stream.0.is_empty() {
        let block = stream.header().expect("a block has a header");
        let of = all.get_mut(&key(&block)).expect("it was announced");
        assert!(!of.has_ended, "{block}");
        let mut documents = Vec::new();
        while let Some(document) = stream.next() {
            documents.push(document);
        }
        of.has_ended = block.get_bool("EOF").expect("a mark");
        if of.has_ended {
            assert!(documents.is_empty());
            assert_eq!(
                block.get_i64("CRC").expect("a sum"),
                checksum(&of.documents).cast_signed(),
                "{block}"
            );
        }
        of.documents.extend(documents);
    }
    all
}

#[test]
fn an_export_is_the_folder_or_the_stream_that_mongorestore_reads() {
    let server = Server::start("9");
    let files = fill(&server);
    server.run("shop", mongodb::bson::doc! { "create": "empty" });
    let system = system(&uri(server.port), "");
    system.run(&["backup"]);
    let [stream, folder] = ["dump.archive", "dump"].map(|name| system.root().join(name));
    let export = |format: &str, output: &std::path::Path| {
        let output = output.to_str().expect("UTF-8");
        system.nsctl(&["export", "latest", "database", "--format", format, "--output", output])
    };
    export("mongodump-archive", &stream).expect(0);
    export("mongodump", &folder).expect(0);
    assert_eq!(export("mongodump", &folder).expect(2).code, 2, "nothing is overwritten");

    let all = parse(&fs::read(&stream).expect("it is there"));
    assert!(all.values().all(|one| one.has_ended));
    assert_eq!(all.len(), files.len() + 1);
    for ((database, name), file) in &files {
        let one = &all[&((*database).to_owned(), name.clone())];
        let (bson, json) = (format!("{database}/{file}.bson"), format!("{database}/{file}.metadata.json"));
        assert!(one.documents == server.documents(database, name), "{database}.{name}");
        assert!(one.documents == parsed(&folder.join(bson)), "{database}.{name}");
        assert_eq!(one.metadata, fs::read_to_string(folder.join(json)).expect("it is there"));
    }
}
