//! How long an agent's call may last: until the agent is shut out, or its certificate ends.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use proto::Failure;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::app::{App, agent_revoked};
use crate::identity::{AgentCertificate, CertificateRefused};
use crate::rpc::peer;

/// What remains to an agent.
#[derive(Debug, Clone)]
pub(super) struct Life {
    shut_out: CancellationToken,
    left: Duration,
}

impl Life {
    /// That of the agent with this certificate.
    pub(super) fn of(app: &App, certificate: &AgentCertificate) -> Self {
        let left = certificate.ends_at.duration_since(app.now());
        let left = Duration::try_from(left).unwrap_or_default();
        Self { shut_out: app.fleet.shut_out_of(certificate.agent), left }
    }

    /// Why it is over, once it is.
    pub(super) async fn over(self) -> Failure {
        tokio::select! {
            () = self.shut_out.cancelled_owned() => agent_revoked(),
            () = tokio::time::sleep(self.left) => peer::refused(CertificateRefused::OutOfTime),
        }
    }

    /// Does the work, unless the agent's life is over first.
    pub(super) async fn during<T>(&self, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        tokio::select! {
            biased;
            failure = self.clone().over() => Err(failure.into()),
            done = work => done,
        }
    }

    /// These answers, for as long as it lasts.
    pub(super) fn answers<T>(self, answers: mpsc::Receiver<Result<T, Status>>) -> Answers<T> {
        Answers { answers: Some(ReceiverStream::new(answers)), over: Box::pin(self.over()) }
    }
}

/// A stream to an agent.
pub(super) struct Answers<T> {
    answers: Option<ReceiverStream<Result<T, Status>>>,
    over: Pin<Box<dyn Future<Output = Failure> + Send>>,
}

impl<T> Stream for Answers<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(answers) = &mut this.answers else { return Poll::Ready(None) };
        if let Poll::Ready(failure) = this.over.as_mut().poll(context) {
            // Whoever makes the answers sees that nobody takes them any more.
            this.answers = None;
            return Poll::Ready(Some(Err(failure.into())));
        }
        Pin::new(answers).poll_next(context)
    }
}
