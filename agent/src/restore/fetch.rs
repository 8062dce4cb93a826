//! The stream of sealed blobs from the controller, as blocking calls.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use proto::v1::agent_gateway_client::AgentGatewayClient;
use proto::{Failure, v1};
use repository::refs::BlobAddress;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::limits::Pace;

/// Requests that may wait for the stream: more than a reader ever has open, so that asking never waits for
/// answers that nobody reads meanwhile.
const REQUESTS: usize = 512;

/// Gives sealed blobs in the order in which they are asked for. Blocking.
pub(crate) trait BlobStream: Send {
    /// Asks for a blob.
    fn ask(&mut self, address: BlobAddress) -> Result<(), String>;
    /// Says that there is more to come, where nothing is asked for long.
    fn keep(&mut self) {}
    /// The next answer; it must be the one for `expected`.
    fn receive(&mut self, expected: BlobAddress) -> Result<Fetched, String>;
    /// The same, if the answer is here already.
    fn receive_now(&mut self, expected: BlobAddress) -> Result<Option<Fetched>, String> {
        self.receive(expected).map(Some)
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// The blob.
    Sealed(Bytes),
    /// No pack holds it.
    Missing,
    /// It cannot be had for another reason.
    Problem(String),
}

/// `FetchBlobs` of one task.
pub(crate) struct WireBlobs {
    runtime: Handle,
    cancel: CancellationToken,
    pace: Option<Pace>,
    requests: mpsc::Sender<v1::FetchBlobsRequest>,
    answers: Streaming<v1::FetchedBlob>,
}

impl WireBlobs {
    /// Opens the stream.
    pub(crate) async fn open(
        mut gateway: AgentGatewayClient<Channel>,
        task_id: &str,
        cancel: CancellationToken,
        pace: Option<Pace>,
    ) -> Result<Self, Failure> {
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        let first = v1::FetchBlobsRequest { task_id: task_id.to_owned(), blobs: Vec::new() };
        requests.try_send(first).expect("a new channel has room");
        let answers = gateway.fetch_blobs(ReceiverStream::new(outgoing)).await.map_err(Failure::from)?;
        Ok(Self { runtime: Handle::current(), cancel, pace, requests, answers: answers.into_inner() })
    }
}

impl BlobStream for WireBlobs {
    fn ask(&mut self, address: BlobAddress) -> Result<(), String> {
        let blob = v1::BlobAddress {
            segment_id: address.segment.as_bytes().to_vec().into(),
            ordinal: address.ordinal,
        };
        let request = v1::FetchBlobsRequest { task_id: String::new(), blobs: vec![blob] };
        self.requests.blocking_send(request).map_err(|_| "the stream of blobs has ended".to_owned())
    }

    fn keep(&mut self) {
        // Where the stream has ended the next question says so.
        let _ = self.requests.try_send(v1::FetchBlobsRequest::default());
    }

    fn receive(&mut self, expected: BlobAddress) -> Result<Fetched, String> {
        let (cancel, answers) = (&self.cancel, &mut self.answers);
        let answer = self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err("the restore was cancelled or the connection broke".to_owned()),
                answer = answers.message() => answer.map_err(|status| one_line(&Failure::from(status))),
            }
        })?;
        self.checked(answer, expected)
    }

    fn receive_now(&mut self, expected: BlobAddress) -> Result<Option<Fetched>, String> {
        let _in_runtime = self.runtime.enter();
        // Whoever waits for the next answer asks again, and is woken then.
        let mut context = Context::from_waker(Waker::noop());
        let polled = pin!(self.answers.message()).poll(&mut context);
        match polled {
            Poll::Pending => Ok(None),
            Poll::Ready(answer) => {
                let answer = answer.map_err(|status| one_line(&Failure::from(status)))?;
                self.checked(answer, expected).map(Some)
            }
        }
    }
}

impl WireBlobs {
    fn checked(&self, answer: Option<v1::FetchedBlob>, expected: BlobAddress) -> Result<Fetched, String> {
        let answer = answer.ok_or_else(|| "the controller ended the stream of blobs".to_owned())?;
        check_address(answer.address.as_ref(), expected)?;
        if let Some(pace) = &self.pace {
            pace.pass_blocking(answer.sealed.len(), &self.runtime, &self.cancel);
        }
        match answer.problem.as_str() {
            "" => Ok(Fetched::Sealed(answer.sealed)),
            "missing" => Ok(Fetched::Missing),
            other => Ok(Fetched::Problem(other.chars().filter(|c| !c.is_control()).take(500).collect())),
        }
    }
}

fn check_address(found: Option<&v1::BlobAddress>, expected: BlobAddress) -> Result<(), String> {
    let same = |found: &v1::BlobAddress| {
        found.segment_id[..] == *expected.segment.as_bytes() && found.ordinal == expected.ordinal
    };
    if found.is_some_and(same) { Ok(()) } else { Err("the controller answered with another blob".to_owned()) }
}

fn one_line(failure: &Failure) -> String {
    if failure.why.is_empty() { failure.what.clone() } else { format!("{}: {}", failure.what, failure.why) }
}
