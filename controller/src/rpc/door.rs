//! The door: accepts TCP connections, lets them show who they are within bounds, and hands on those that
//! speak TLS.
//!
//! Must stay true: nothing here waits for a peer without a limit of time; a connection that is turned away
//! costs a place in no queue; running out of file descriptors ends nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::identity::KeyDigest;
use crate::metrics::{Metrics, families};
use crate::rpc::book::{Book, Place};

const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections that are ready and wait to be served.
const QUEUE: usize = 16;
const LOOK_FOR_IDLE: Duration = Duration::from_secs(1);
/// Before the next try when the system has no file descriptor, or no memory, for a connection.
const NO_ROOM: Duration = Duration::from_millis(100);
/// Turned-away connections are told in the log at most this often.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// What a connection without a certificate may send at once, and then in a second: a few calls of people.
const UNPROVEN_BYTES: u64 = 1 << 20;
const UNPROVEN_RATE: u64 = 64 << 10;
/// What is read at once from a peer that has shown a certificate: TLS asks for four kibibytes at a time, and a system
/// call for each was a twentieth of a backup's processor time.
const READ_AHEAD: usize = 64 << 10;

/// A connection as it is served.
pub(super) type Served = TlsStream<Guarded>;

/// Accepts until `stop`; the connections come out of the stream.
pub(super) fn open(
    listener: TcpListener,
    tls: TlsAcceptor,
    book: Book,
    metrics: Metrics,
    stop: CancellationToken,
) -> ReceiverStream<io::Result<Served>> {
    let (ready, served) = mpsc::channel(QUEUE);
    tokio::spawn(look_for_idle(book.clone(), stop.clone()));
    tokio::spawn(accept(listener, tls, book, TurnedAway::new(metrics), ready, stop));
    ReceiverStream::new(served)
}

async fn look_for_idle(book: Book, stop: CancellationToken) {
    let mut tick = tokio::time::interval(LOOK_FOR_IDLE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        book.cut_idle(Instant::now());
    }
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    book: Book,
    mut away: TurnedAway,
    ready: mpsc::Sender<io::Result<Served>>,
    stop: CancellationToken,
) {
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                away.tell(&format!("the system gives no connection: {error}"));
                tokio::time::sleep(NO_ROOM).await;
                continue;
            }
        };
        match book.enter(peer, Instant::now()) {
            Ok(place) => {
                let (tls, ready, stop) = (tls.clone(), ready.clone(), stop.clone());
                // As many of these as there are places, each for as long as a handshake may take.
                tokio::spawn(async move {
                    stop.run_until_cancelled(greet(tcp, place, tls, ready)).await;
                });
            }
            Err(full) => away.tell(&format!("{full}, the last from {}", peer.ip())),
        }
    }
}

/// The peer went away before it was accepted: nothing is wrong with the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::ConnectionRefused | K::ConnectionAborted | K::ConnectionReset)
}

async fn greet(tcp: TcpStream, place: Place, tls: TlsAcceptor, ready: mpsc::Sender<io::Result<Served>>) {
    // Without it small answers wait; the connection works all the same.
    let _ = tcp.set_nodelay(true);
    let Ok(Ok(mut stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(Guarded::new(tcp, place))).await
    else {
        return;
    };
    let (guarded, session) = stream.get_mut();
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    let key = certificate.and_then(|certificate| KeyDigest::of_certificate(certificate));
    let kept = match key {
        Some(key) => guarded.place.prove(key),
        None => guarded.place.stay_unproven(Instant::now()),
    };
    if let Err(full) = kept {
        tracing::debug!(%full, "a connection was turned away");
        return;
    }
    if key.is_some() {
        guarded.budget = None;
        guarded.ahead = Ahead::of(READ_AHEAD);
    }
    // The server has ended: so has everything.
    let _ = ready.send(Ok(stream)).await;
}

/// Tells now and then, with a count, what would fill the log.
struct TurnedAway {
    metrics: Metrics,
    count: u64,
    told: Option<Instant>,
}

impl TurnedAway {
    fn new(metrics: Metrics) -> Self {
        Self { metrics, count: 0, told: None }
    }

    fn tell(&mut self, why: &str) {
        self.count += 1;
        self.metrics.add(&families::CONNECTIONS_REFUSED, &[], 1);
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            tracing::warn!(connections = self.count, why, "connections were turned away");
            (self.count, self.told) = (0, Some(Instant::now()));
        }
    }
}

/// A TCP connection with its place in the book, which ends when the book says so, or when it sends more
/// than somebody unknown may.
pub(super) struct Guarded {
    tcp: TcpStream,
    place: Place,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    budget: Option<Budget>,
    ahead: Ahead,
}

/// What was read and not yet asked for.
#[derive(Default)]
struct Ahead {
    /// Empty: nothing is read ahead.
    buffer: Box<[u8]>,
    from: usize,
    to: usize,
}

impl Ahead {
    fn of(bytes: usize) -> Self {
        Self { buffer: vec![0; bytes].into(), from: 0, to: 0 }
    }

    fn poll_read(
        &mut self,
        tcp: Pin<&mut TcpStream>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() {
            return tcp.poll_read(context, buffer);
        }
        if self.from == self.to {
            let mut read = ReadBuf::new(&mut self.buffer);
            ready!(tcp.poll_read(context, &mut read))?;
            (self.from, self.to) = (0, read.filled().len());
        }
        let taken = buffer.remaining().min(self.to - self.from);
        buffer.put_slice(&self.buffer[self.from..self.from + taken]);
        self.from += taken;
        Poll::Ready(Ok(()))
    }
}

impl Guarded {
    fn new(tcp: TcpStream, place: Place) -> Self {
        let cut = Box::pin(place.cut().cancelled_owned());
        let budget = Some(Budget { since: Instant::now(), taken: 0 });
        Self { tcp, place, cut, budget, ahead: Ahead::default() }
    }
}

/// What a connection without a certificate has sent.
struct Budget {
    since: Instant,
    taken: u64,
}

impl Budget {
    fn take(&mut self, bytes: u64) -> bool {
        self.taken += bytes;
        self.taken <= UNPROVEN_BYTES + self.since.elapsed().as_secs() * UNPROVEN_RATE
    }
}

impl Connected for Guarded {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.tcp.connect_info()
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        let Self { tcp, ahead, .. } = &mut *self;
        ready!(ahead.poll_read(Pin::new(tcp), context, buffer))?;
        let bytes = (buffer.filled().len() - before) as u64;
        let is_within = self.budget.as_mut().is_none_or(|budget| budget.take(bytes));
        Poll::Ready(if is_within { Ok(()) } else { Err(io::ErrorKind::QuotaExceeded.into()) })
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}
