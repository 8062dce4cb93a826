//! Workers: a blob's id, whether it exists, and its compression. As many as there are cores.

use std::sync::Mutex;
use std::sync::mpsc::Receiver;

use repository::content::IdKey;
use repository::cut::Compressor;
use repository::pack::blob::{BlobKind, blob_id};

use super::ledger::{Claim, Ledger};
use super::orders::{Job, Processed, Stored};

/// Works until the reader has no more jobs, or nobody wants the results any more.
pub(super) fn work(jobs: &Mutex<Receiver<Job>>, id_key: &IdKey, ledger: &Ledger) {
    let mut compressor = Compressor::new();
    loop {
        let next = jobs.lock().expect("nobody panics while waiting for a job").recv();
        let Ok(job) = next else { return };
        let id = blob_id(id_key, BlobKind::Data, &job.plain);
        let stored = match ledger.claim(&id) {
            Claim::Exists => None,
            Claim::Ours => Some(compressor.compress(&job.plain).map_or(Stored::Raw, Stored::Compressed)),
        };
        // If the packer has gone, it has told why.
        let _ = job.reply.send(Processed { id, plain: job.plain, stored });
    }
}
