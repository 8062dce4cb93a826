//! Uploaders: send sealed segments, a few at a time, so that the wire never waits for the packer.

use std::sync::Mutex;
use std::sync::mpsc::Receiver;

use proto::Failure;
use repository::pack::segment::SealedSegment;
use tokio_util::sync::CancellationToken;

use super::progress::ArchiveProgress;
use super::room::OnItsWay;

/// Segments in flight.
pub(super) const UPLOADS: usize = 2;

/// Where segments go.
pub(crate) trait Uplink: Sync {
    /// Blocks until the segment is durable; true if it was durable before. Repeating it is harmless.
    fn put(&self, segment: &SealedSegment) -> Result<bool, Failure>;
}

/// Sends until the packer has no more segments; returns how many bytes are new in the repository. The
/// first failure stops the whole pipeline; from then on segments are taken and dropped, since a packer
/// whose segments nobody takes would wait for ever.
pub(super) fn upload(
    segments: &Mutex<Receiver<OnItsWay>>,
    uplink: &dyn Uplink,
    progress: &ArchiveProgress,
    stop: &CancellationToken,
) -> Result<u64, Failure> {
    let mut stored = Ok(0);
    loop {
        let next = segments.lock().expect("nobody panics while waiting for a segment").recv();
        let Ok(next) = next else { return stored };
        if stop.is_cancelled() {
            continue;
        }
        let segment = &next.segment;
        match uplink.put(segment) {
            Ok(existed) => {
                progress.add_sent(segment.length());
                let new = if existed { 0 } else { segment.length() };
                stored = stored.map(|before| before + new);
                next.has_gone();
            }
            Err(failure) => {
                stop.cancel();
                stored = Err(failure);
            }
        }
    }
}
