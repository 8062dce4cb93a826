//! An answer that ends when its caller's token does: a stream that was open when the token was revoked, or
//! ran out, goes no further.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use crate::identity::Session;

pub(super) struct Ending {
    inner: Body,
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_over: bool,
    refusal: Status,
    _session: Session,
}

impl Ending {
    /// `inner` until the session is cut or has lasted for `at_most`; then `refusal`.
    pub(super) fn new(inner: Body, session: Session, at_most: Duration, refusal: Status) -> Self {
        let cut = session.cut();
        let end = Box::pin(async move {
            tokio::select! {
                () = cut.cancelled_owned() => {}
                () = tokio::time::sleep(at_most) => {}
            }
        });
        Self { inner, end, is_over: false, refusal, _session: session }
    }
}

impl HttpBody for Ending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if self.end.as_mut().poll(context).is_ready() {
            self.is_over = true;
            let mut trailers = HeaderMap::new();
            self.refusal.add_header(&mut trailers)?;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
