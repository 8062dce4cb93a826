//! Segments up the wire: in parts, again where an answer was lost.

use std::time::Duration;

use bytes::Bytes;
use proto::v1::agent_gateway_client::AgentGatewayClient;
use proto::{Failure, v1};
use repository::pack::segment::SealedSegment;
use runtime::backoff::Backoff;
use runtime::steps;
use tokio::runtime::Handle;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

use super::{cancelled, until};
use crate::chance;
use crate::connection::PART_BYTES;
use crate::limits::Pace;
use crate::pipeline::Uplink;
use crate::steps::Step;

/// How often a segment is sent before its archive fails.
const ATTEMPTS: usize = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// Sends the segments of one task.
pub(super) struct WireUplink {
    pub(super) runtime: Handle,
    pub(super) gateway: AgentGatewayClient<Channel>,
    pub(super) task_id: String,
    pub(super) cancel: CancellationToken,
    /// No faster than this.
    pub(super) pace: Option<Pace>,
}

impl Uplink for WireUplink {
    fn put(&self, segment: &SealedSegment) -> Result<bool, Failure> {
        steps::reach(Step::SegmentSealed);
        let existed = self.runtime.block_on(self.put_until_durable(segment))?;
        steps::reach(Step::SegmentAnswered);
        Ok(existed)
    }
}

impl WireUplink {
    async fn put_until_durable(&self, segment: &SealedSegment) -> Result<bool, Failure> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        for attempt in 1.. {
            let failure = match self.put_once(segment).await {
                Ok(existed) => return Ok(existed),
                Err(failure) => failure,
            };
            if attempt == ATTEMPTS || !may_pass(&failure) || self.cancel.is_cancelled() {
                return Err(failure);
            }
            tracing::debug!(segment = %segment.id(), attempt, why = failure.why, "sending again: {failure}");
            tokio::select! {
                () = self.cancel.cancelled() => return Err(cancelled()),
                () = tokio::time::sleep(backoff.next_delay(chance())) => {}
            }
        }
        unreachable!("the last attempt returns")
    }

    async fn put_once(&self, segment: &SealedSegment) -> Result<bool, Failure> {
        let mut gateway = self.gateway.clone();
        let answer = match self.pace.clone() {
            None => {
                let parts = tokio_stream::iter(parts(&self.task_id, segment, PART_BYTES));
                until(&self.cancel, gateway.put_segment(parts)).await
            }
            Some(pace) => {
                let parts = tokio_stream::iter(parts(&self.task_id, segment, PART_BYTES.min(pace.piece())));
                let parts = parts.then(move |part| {
                    let pace = pace.clone();
                    async move {
                        pace.pass(part.data.len()).await;
                        part
                    }
                });
                until(&self.cancel, gateway.put_segment(parts)).await
            }
        };
        Ok(answer?.into_inner().existed)
    }
}

/// A connection that breaks shows itself in more ways than [`Failure::is_passing`] knows.
fn may_pass(failure: &Failure) -> bool {
    failure.is_passing() || matches!(failure.code, Code::Unknown | Code::Cancelled)
}

/// The segment as messages of at most `most` bytes, without copying it.
fn parts(
    task_id: &str,
    segment: &SealedSegment,
    most: usize,
) -> impl Iterator<Item = v1::PutSegmentRequest> + use<> {
    let first = v1::PutSegmentRequest {
        task_id: task_id.to_owned(),
        segment_id: Bytes::copy_from_slice(segment.id().as_bytes()),
        length: segment.length(),
        data: Bytes::new(),
    };
    let bytes =
        [segment.head.clone(), segment.body.clone()].into_iter().flat_map(move |bytes| slices(bytes, most));
    std::iter::once(first).chain(bytes.map(|data| v1::PutSegmentRequest { data, ..Default::default() }))
}

/// `bytes` in slices of at most `most`.
pub(super) fn slices(bytes: Bytes, most: usize) -> impl Iterator<Item = Bytes> {
    let starts = (0..bytes.len()).step_by(most);
    starts.map(move |start| bytes.slice(start..bytes.len().min(start + most)))
}
