//! Counts the calls that are open on each connection, so that one without a call is noticed; and gives
//! whoever has shown no certificate a limited time for the words of its call.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tower::{Layer, Service};

use crate::rpc::book::{Book, OpenCall};

/// A request of somebody without a certificate has arrived as a whole within this time: such calls are
/// small, and none of them is a stream upwards.
const WORDS_WITHIN: Duration = Duration::from_secs(15);

/// Puts the count before all services.
#[derive(Clone)]
pub(super) struct CountedLayer(pub(super) Book);

impl<S> Layer<S> for CountedLayer {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { book: self.0.clone(), inner }
    }
}

/// The count before the services `S`.
#[derive(Clone)]
pub(super) struct Counted<S> {
    book: Book,
    inner: S,
}

impl<S> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let peer = peer(request.extensions());
        let call = peer.and_then(|peer| self.book.call(peer)).map(Arc::new);
        if let Some(call) = &call {
            // For the gate, which finds out whose it is.
            request.extensions_mut().insert(call.clone());
        }
        if peer.is_some_and(|peer| !self.book.is_proven(peer)) {
            let late = Box::pin(tokio::time::sleep(WORDS_WITHIN));
            request = request.map(|inner| Body::new(Timely { inner, late }));
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            Ok(answer.map(|inner| Body::new(Held { inner, _call: call })))
        })
    }
}

fn peer(extensions: &http::Extensions) -> Option<SocketAddr> {
    extensions.get::<TlsConnectInfo<TcpConnectInfo>>()?.get_ref().remote_addr()
}

/// The words of a call, until it is too late for them.
struct Timely {
    inner: Body,
    late: Pin<Box<Sleep>>,
}

impl HttpBody for Timely {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Pending if self.late.as_mut().poll(context).is_ready() => {
                Poll::Ready(Some(Err(Status::deadline_exceeded("the request came too slowly"))))
            }
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An answer whose call is open until it is dropped.
struct Held {
    inner: Body,
    _call: Option<Arc<OpenCall>>,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
