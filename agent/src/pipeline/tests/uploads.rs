//! Uploads that end before the packer does.

use std::sync::mpsc::sync_channel;
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use proto::Failure;
use repository::pack::blob::Class;
use repository::pack::segment::{SealedSegment, SegmentBuilder};
use tokio_util::sync::CancellationToken;

use super::bench::Bench;
use crate::pipeline::progress::ArchiveProgress;
use crate::pipeline::room::OnItsWay;
use crate::pipeline::uploader::{UPLOADS, Uplink, upload};

/// Far longer than a packer has to wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fails every upload, but only when all uploaders are at it.
struct Failing {
    all: Barrier,
    /// If set: waits for it, as an upload does that is cancelled.
    cancelled: Option<CancellationToken>,
}

impl Uplink for Failing {
    fn put(&self, _: &SealedSegment) -> Result<bool, Failure> {
        self.all.wait();
        if let Some(cancelled) = &self.cancelled {
            cancelled.cancel();
        }
        Err(Failure::invalid("the disk of the test is full"))
    }
}

fn segment(bench: &Bench) -> OnItsWay {
    let job = bench.job();
    let segment = SegmentBuilder::new(Class::Data, job.repository, job.domain, &job.public_key).finish();
    OnItsWay { segment, berth: None }
}

/// A packer hands out more segments than there are uploaders, all of which fail at once; returns how the
/// uploaders ended.
fn all_fail(cancelled: Option<CancellationToken>) -> Vec<Result<u64, Failure>> {
    let bench = Bench::new();
    let (segments_in, segments_out) = sync_channel(0);
    let segments: Vec<_> = (0..2 * UPLOADS).map(|_| segment(&bench)).collect();
    let (packed_in, packed) = sync_channel(1);
    let stop = cancelled.as_ref().map_or_else(CancellationToken::new, CancellationToken::child_token);
    // Threads of no scope: a packer that hangs must fail the test and not hang it.
    let uploaders = std::thread::spawn(move || {
        let segments_out = Mutex::new(segments_out);
        let uplink = Failing { all: Barrier::new(UPLOADS), cancelled };
        let progress = ArchiveProgress::default();
        std::thread::scope(|scope| {
            let upload = || upload(&segments_out, &uplink, &progress, &stop);
            let uploaders: Vec<_> = (0..UPLOADS).map(|_| scope.spawn(upload)).collect();
            let ended: Vec<_> = uploaders.into_iter().map(|one| one.join().expect("no panic")).collect();
            // As in the pipeline, the channel's end outlives the uploaders until the packer has ended.
            packed.recv_timeout(PATIENCE).expect("the packer's segments are taken");
            ended
        })
    });
    for segment in segments {
        segments_in.send(segment).expect("somebody takes it");
    }
    packed_in.send(()).expect("it is waited for");
    drop(segments_in);
    uploaders.join().expect("the packer got to its end")
}

#[test]
fn uploads_that_all_fail_leave_no_packer_waiting() {
    let ended = all_fail(None);
    assert!(ended.iter().all(Result::is_err), "{ended:?}");
}

#[test]
fn uploads_that_are_all_cancelled_leave_no_packer_waiting() {
    let ended = all_fail(Some(CancellationToken::new()));
    assert!(ended.iter().all(Result::is_err), "{ended:?}");
}
