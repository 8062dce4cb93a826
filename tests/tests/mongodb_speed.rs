//! How fast a MongoDB server is backed up and restored, against the bare driver reading and writing the same
//! documents by the same connections in the same batches. The server is mongo-java-server without an oplog, whose own
//! speed stands in both figures. Beyond the gate: `tests/run mongodb`, with optimised programs.

#[allow(dead_code, reason = "other programs of tests use the rest")]
#[path = "mongodb/server.rs"]
mod server;

use std::time::{Duration, Instant};

use mongodb::bson::{RawDocumentBuf, doc};
use server::{Server, noise, system, uri};
use tests::Process;
use tokio_stream::StreamExt;

const DOCUMENTS: i32 = 100_000;
/// Each has about two kilobytes, half of it repeated: together 200 MB.
const NOISE: usize = 1_000;
const BATCH: u32 = 1_000;
/// The source reads by one connection, the target writes by three.
const WRITERS: usize = 3;
const ROUNDS: usize = 3;
/// The bar of a backup, and of the memory of agent and controller.
const MOST_TIMES: f64 = 1.3;
const MOST_KIB: u64 = 200 << 10;

#[test]
fn a_backup_takes_little_more_than_the_bare_driver_and_the_memory_of_a_few_batches() {
    let server = Server::start("9");
    let text = "the same in each of them ".repeat(38);
    for first in (0..DOCUMENTS).step_by(1_000) {
        let document = |i: i32| doc! { "_id": i, "noise": noise(i, NOISE), "text": &text };
        server.insert("speed", "documents", (first..first + 1_000).map(document).collect());
    }
    let mut best = [Duration::MAX; 4];
    let mut peaks = [0; 2];
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        let mut took = [Duration::ZERO; 4];
        let begun = Instant::now();
        bytes = read_bare(&server, "speed", "documents", BATCH);
        took[0] = begun.elapsed();
        let system = system(&uri(server.port), "");
        let begun = Instant::now();
        system.run(&["backup"]);
        took[1] = begun.elapsed();

        let documents = server.documents("speed", "documents");
        let begun = Instant::now();
        write_bare(&server, "speed", "bare", documents, BATCH as usize, WRITERS);
        took[2] = begun.elapsed();
        server.run("speed", doc! { "drop": "bare" });
        server.run("speed", doc! { "drop": "documents" });
        let begun = Instant::now();
        system.run(&[
            "restore",
            "--timestamp",
            "latest",
            "--yes",
            "--no-safety-backup",
            "--include",
            "speed",
        ]);
        took[3] = begun.elapsed();
        assert_eq!(count(&server, "speed", "documents"), i64::from(DOCUMENTS));
        for (peak, process) in peaks.iter_mut().zip([Process::Agent, Process::Controller]) {
            *peak = (*peak).max(system.proc(process, "status", "VmHWM"));
        }
        for (best, took) in best.iter_mut().zip(took) {
            *best = (*best).min(took);
        }
    }
    let [read, backup, write, restore] = best.map(|took| took.as_secs_f64());
    println!(
        "{DOCUMENTS} documents, {} MB, the best of {ROUNDS}: bare read {read:.2} s, backup {backup:.2} s ({:.2} times); \
         bare write {write:.2} s, restore {restore:.2} s ({:.2} times); memory: agent {} MiB, controller {} MiB",
        bytes / 1_000_000,
        backup / read,
        restore / write,
        peaks[0] >> 10,
        peaks[1] >> 10
    );
    assert!(peaks.iter().all(|peak| *peak < MOST_KIB), "{peaks:?} KiB");
    assert!(backup / read <= MOST_TIMES, "a backup took {backup:.2} s and the bare driver {read:.2} s");
}

/// Reads a collection as fast as the driver does, and says how many bytes it holds.
fn read_bare(server: &Server, database: &str, collection: &str, batch: u32) -> usize {
    let collection = server.client.database(database).collection::<RawDocumentBuf>(collection);
    server.runtime.block_on(async {
        let mut cursor = collection.find(doc! {}).batch_size(batch).batch().await.expect("a cursor");
        let mut bytes = 0;
        while let Some(batch) = cursor.next().await {
            let batch = batch.expect("read");
            let documents = batch.doc_slices().expect("documents");
            bytes += documents
                .into_iter()
                .map(|one| one.ok().and_then(|one| one.as_document().map(|one| one.as_bytes().len())))
                .map(|length| length.expect("a document"))
                .sum::<usize>();
        }
        bytes
    })
}

/// Writes documents as fast as the driver does, in so many batches at once.
fn write_bare(
    server: &Server,
    database: &str,
    collection: &str,
    documents: Vec<Vec<u8>>,
    batch: usize,
    writers: usize,
) {
    let collection = server.client.database(database).collection::<RawDocumentBuf>(collection);
    server.runtime.block_on(async {
        let mut writing = tokio::task::JoinSet::new();
        for batch in documents.chunks(batch) {
            if writing.len() == writers {
                writing.join_next().await.expect("one").expect("it ends");
            }
            let batch = batch.iter().map(|one| RawDocumentBuf::from_bytes(one.clone()).expect("a document"));
            let (collection, batch) = (collection.clone(), batch.collect::<Vec<_>>());
            writing.spawn(async move { drop(collection.insert_many(batch).await.expect("inserted")) });
        }
        while let Some(ended) = writing.join_next().await {
            ended.expect("it ends");
        }
    });
}

/// How many documents a collection has.
fn count(server: &Server, database: &str, collection: &str) -> i64 {
    let told = server.run(database, doc! { "count": collection });
    told.get_i64("n").or_else(|_| told.get_i32("n").map(i64::from)).expect("a count")
}
