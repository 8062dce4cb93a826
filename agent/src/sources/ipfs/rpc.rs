//! The RPC of a Kubo node: POST, answers as JSON, lines of JSON or bytes, failures in the middle of an answer in
//! its trailer. js-ipfs speaks it, too, and differs: numbers may be texts, a missing block is waited for.
//!
//! Must stay true: every wait has an end; an answer counts only when its end has come without an error in the
//! trailer; `offline` is asked for, so that a backup never fetches from other nodes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use formats::ipfs::{Cid, MAX_BLOCK};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{self, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::plain::{Reach, reach};
use super::tls;
use crate::config::NodeRpc;
use crate::sources::SourceError;

type Body = BoxBody<Bytes, std::io::Error>;

/// A file that a request sends, in its frame of `multipart/form-data`.
pub(crate) struct SentFile {
    body: Body,
    taken: Arc<Taken>,
    boundary: String,
}

/// How much of a file the node has taken.
#[derive(Debug, Default)]
struct Taken {
    parts: AtomicU64,
    is_all: AtomicBool,
}

/// What comes before a file, and after it.
pub(crate) struct Frame {
    pub(crate) before: Bytes,
    pub(crate) after: Bytes,
}

impl SentFile {
    /// One that is there as a whole.
    pub(crate) fn whole(bytes: &[u8]) -> Self {
        let (boundary, Frame { before, after }) = frame();
        let body = Full::new(Bytes::from([&before, bytes, &after].concat()));
        let taken = Arc::new(Taken { is_all: true.into(), ..Taken::default() });
        Self { body: body.map_err(|never| match never {}).boxed(), taken, boundary }
    }

    /// One that comes part by part, its frame included. Whoever cannot go on sends an error.
    pub(crate) fn parts(parts: Receiver<Result<Bytes, std::io::Error>>) -> (Self, Frame) {
        let (boundary, frame) = frame();
        let taken = Arc::new(Taken::default());
        let (counted, ended) = (Arc::clone(&taken), Arc::clone(&taken));
        let frames = ReceiverStream::new(parts).map(move |part| {
            counted.parts.fetch_add(1, Ordering::Relaxed);
            part.map(body::Frame::data)
        });
        let frames = frames.chain(tokio_stream::iter(std::iter::from_fn(move || {
            ended.is_all.store(true, Ordering::Relaxed);
            None
        })));
        (Self { body: BodyExt::boxed(StreamBody::new(frames)), taken, boundary }, frame)
    }
}

/// What separates the parts of one request, and its frame. What a file holds is anybody's, so it is one that nobody
/// could have put into it.
fn frame() -> (String, Frame) {
    let mut chance = [0; 24];
    aws_lc_rs::rand::fill(&mut chance).expect("the operating system's random source answers");
    let boundary: String = chance.iter().map(|byte| format!("{byte:02x}")).collect();
    let before = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"file\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    let after = format!("\r\n--{boundary}--\r\n").into();
    (boundary, Frame { before: before.into(), after })
}

/// How long the node may be looked for.
const FIND: Duration = Duration::from_secs(10);
/// How long an answer, or its next part, may take where nobody can end the wait: less than a cancelled task has for
/// its end.
const ANSWER: Duration = Duration::from_secs(45);
/// The same where the wait can be ended: a node that collects garbage may say nothing for minutes.
const PATIENCE: Duration = Duration::from_secs(300);
/// And so long after that: what is held at the node is let go then, too.
const LAST: Duration = Duration::from_secs(15);
/// The same after all of a file was taken: the node writes what it has gathered before it answers.
const TAKEN: Duration = Duration::from_secs(300);
/// How long an answer that is read at once may take, and one of many lines.
const SHORT: Duration = Duration::from_secs(600);
const LONG: Duration = Duration::from_secs(24 * 3_600);
/// How long the node may look for a block that it should have. js-ipfs waits for it without an end.
const BLOCK: &str = "10s";
/// Connections that are kept for the next request.
const IDLE: usize = 16;
/// The longest line of an answer, and the longest answer that is read at once.
const MAX_LINE: usize = 1 << 20;
const MAX_ANSWER: usize = 16 << 20;

/// The node does not give something.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{why}")]
pub(crate) struct Trouble {
    why: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It refuses this, or has answered something that cannot be used.
    Refused,
    /// It does not know the command.
    NotKnown,
    /// It does not let us call the command.
    NotAllowed,
    /// It is not there, or says no more: nothing else would be given either. What it was told to do may be done or
    /// not, or later.
    Gone,
}

impl Trouble {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), kind: Kind::Refused }
    }

    fn lost(why: &str) -> Self {
        Self { why: why.to_owned(), kind: Kind::Gone }
    }

    /// Nothing else would be given either, and what was asked for may still happen.
    pub(crate) fn is_gone(&self) -> bool {
        self.kind == Kind::Gone
    }

    /// The node does not have the command.
    pub(crate) fn is_not_known(&self) -> bool {
        self.kind == Kind::NotKnown
    }

    /// Asking the same of something else would be in vain.
    pub(crate) fn is_of_each(&self) -> bool {
        matches!(self.kind, Kind::NotAllowed | Kind::Gone)
    }

    /// What to do.
    pub(crate) fn hint(&self) -> &'static str {
        match self.kind {
            Kind::Gone => "check that the node runs and that `rpc` is the address of its RPC, then try again",
            Kind::NotAllowed => {
                "check that `rpc` is the address of its RPC, and that `rpc_auth` is what it asks for and may call this \
                 (AllowedPaths in its API.Authorizations), then try again"
            }
            Kind::Refused | Kind::NotKnown => "see to the node, then try again; the agent's log says more",
        }
    }
}

impl From<Trouble> for SourceError {
    fn from(trouble: Trouble) -> Self {
        SourceError::Server { hint: trouble.hint(), source: trouble.into() }
    }
}

/// A node, by the address of its RPC.
#[derive(Debug)]
pub(crate) struct Rpc {
    address: NodeRpc,
    authority: String,
    /// What it asks for; an error where that cannot be had.
    authorization: Result<Option<HeaderValue>, Trouble>,
    runtime: Handle,
    /// That a secret goes without TLS was said.
    is_warned: AtomicBool,
    idle: Mutex<Vec<SendRequest<Body>>>,
    wait: Wait,
}

/// How long a silent node is waited for.
#[derive(Debug, Clone)]
struct Wait {
    silence: Duration,
    stop: CancellationToken,
}

impl Wait {
    /// What comes within `time`; `None`: nothing did.
    async fn within<T>(&self, time: Duration, coming: impl Future<Output = T>) -> Result<Option<T>, Trouble> {
        let ended = async {
            self.stop.cancelled().await;
            tokio::time::sleep(LAST).await;
        };
        tokio::select! {
            biased;
            came = timeout(time, coming) => Ok(came.ok()),
            () = ended => Err(Trouble::lost("it does not answer, and what was asked for is cancelled")),
        }
    }
}

/// A command with its arguments.
#[derive(Debug, Clone)]
pub(crate) struct Call(String);

impl Call {
    pub(crate) fn new(command: &str) -> Self {
        Self(format!("/api/v0/{command}?offline=true"))
    }

    /// With one more argument.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push('&');
        self.0.push_str(name);
        self.0.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                    self.0.push(char::from(byte));
                }
                other => self.0.push_str(&format!("%{other:02X}")),
            }
        }
        self
    }

    pub(crate) fn arg(self, value: &str) -> Self {
        self.with("arg", value)
    }
}

/// An answer that comes.
struct Coming {
    body: Incoming,
    sender: SendRequest<Body>,
    wait: Wait,
}

impl Rpc {
    /// The node at `address`; nothing is asked yet. Belongs into the runtime; reads the file with its secret.
    pub(crate) fn new(address: &NodeRpc) -> Self {
        let authority = address.authority().expect("the configuration was checked");
        let authorization = address.authorization().map_err(|why| Trouble { why, kind: Kind::NotAllowed });
        let (runtime, idle) = (Handle::current(), Mutex::default());
        let is_warned = AtomicBool::new(false);
        let wait = Wait { silence: ANSWER, stop: CancellationToken::new() };
        Self { address: address.clone(), authority, authorization, runtime, is_warned, idle, wait }
    }

    /// Waits longer for a silent node, and hardly once `stop` is cancelled.
    pub(crate) fn stopped_by(self, stop: &CancellationToken) -> Self {
        Self { wait: Wait { silence: PATIENCE, stop: stop.clone() }, ..self }
    }

    /// The runtime that waits for the node.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// An answer that is one JSON value. Blocks.
    pub(crate) fn json(&self, call: Call) -> Result<Value, Trouble> {
        self.runtime.block_on(async {
            let bytes = self.bytes(call, MAX_ANSWER).await?;
            serde_json::from_slice(&bytes).map_err(|_| Trouble::new("its answer cannot be understood"))
        })
    }

    /// A call whose answer does not matter, as long as it is none of an error. Blocks.
    pub(crate) fn done(&self, call: Call) -> Result<(), Trouble> {
        self.runtime.block_on(self.bytes(call, MAX_ANSWER)).map(drop)
    }

    /// Every line of an answer, as JSON, as it comes. Blocks.
    pub(crate) fn lines(
        &self,
        call: Call,
        each: impl FnMut(Value) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        self.runtime.block_on(self.sent_lines(call, None, each))
    }

    /// The same of a call that sends a file.
    pub(crate) async fn sent_lines(
        &self,
        call: Call,
        file: Option<SentFile>,
        each: impl FnMut(Value) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let all = self.each_line(call, file, each);
        timeout(LONG, all).await.map_err(|_| Trouble::lost("it does not come to the end of its answer"))?
    }

    async fn each_line(
        &self,
        call: Call,
        file: Option<SentFile>,
        mut each: impl FnMut(Value) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let mut coming = self.ask(&call, file).await?;
        let mut held = BytesMut::new();
        let mut line = |line: &[u8]| match line.trim_ascii() {
            [] => Ok(()),
            line => match serde_json::from_slice(line) {
                Ok(value) => each(value),
                Err(_) => Err(Trouble::new("its answer cannot be understood")),
            },
        };
        while let Some(part) = coming.next().await? {
            held.extend_from_slice(&part);
            while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                line(&held.split_to(end + 1))?;
            }
            if held.len() > MAX_LINE {
                return Err(Trouble::new("its answer has a line of more than a MiB"));
            }
        }
        line(&held)?;
        self.keep(coming.sender);
        Ok(())
    }

    /// The bytes that the node has under the name of a block, whatever they are.
    pub(crate) async fn block(&self, cid: &Cid) -> Result<Bytes, Trouble> {
        let call = Call::new("block/get").arg(&cid.to_string()).with("timeout", BLOCK);
        self.bytes(call, MAX_BLOCK).await
    }

    async fn bytes(&self, call: Call, limit: usize) -> Result<Bytes, Trouble> {
        let all = self.all_bytes(call, limit);
        timeout(SHORT, all).await.map_err(|_| Trouble::lost("it does not come to the end of its answer"))?
    }

    async fn all_bytes(&self, call: Call, limit: usize) -> Result<Bytes, Trouble> {
        let mut coming = self.ask(&call, None).await?;
        let Some(first) = coming.next().await? else {
            self.keep(coming.sender);
            return Ok(Bytes::new());
        };
        let mut all = BytesMut::from(first);
        while let Some(part) = coming.next().await? {
            if all.len() + part.len() > limit {
                return Err(Trouble::new(format!("its answer has more than {limit} bytes")));
            }
            all.extend_from_slice(&part);
        }
        self.keep(coming.sender);
        Ok(all.freeze())
    }

    /// Sends a call and waits for the beginning of its answer.
    async fn ask(&self, Call(call): &Call, file: Option<SentFile>) -> Result<Coming, Trouble> {
        let mut request = Request::post(call).header(header::HOST, &self.authority);
        if let Some(authorization) = self.authorization.clone()? {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let taken = file.as_ref().map(|file| Arc::clone(&file.taken));
        if let Some(SentFile { boundary, .. }) = &file {
            request =
                request.header(header::CONTENT_TYPE, format!("multipart/form-data; boundary={boundary}"));
        }
        let empty = || Full::new(Bytes::new()).map_err(|never| match never {}).boxed();
        let request = request.body(file.map_or_else(empty, |file| file.body)).expect("it is well-formed");
        let (mut sender, is_fresh) = match (taken.is_some(), self.pooled()) {
            (false, Some(sender)) => (sender, false),
            _ => (self.connect().await?, true),
        };
        let not_sent = |error: hyper::Error| {
            tracing::debug!(%error, "an IPFS node has not answered");
            Trouble::lost("the connection to it is lost")
        };
        let response = match self.begun(taken.as_deref(), sender.try_send_request(request)).await? {
            Ok(response) => response,
            // A connection that was kept may have been closed meanwhile: then nothing was sent.
            Err(mut error) if !is_fresh && error.message().is_some() => {
                let request = error.take_message().expect("it was just looked at");
                sender = self.connect().await?;
                self.begun(None, sender.send_request(request)).await?.map_err(not_sent)?
            }
            Err(error) => return Err(not_sent(error.into_error())),
        };
        let status = response.status();
        let mut coming = Coming { body: response.into_body(), sender, wait: self.wait.clone() };
        if status == StatusCode::OK {
            return Ok(coming);
        }
        let mut said = BytesMut::new();
        while let Some(part) = coming.next().await? {
            said.extend_from_slice(&part);
            if said.len() > MAX_LINE {
                return Err(refused(call, status, &[]));
            }
        }
        self.keep(coming.sender);
        Err(refused(call, status, &said))
    }

    /// Waits for the beginning of an answer, as long as the node takes more of what is sent.
    async fn begun<T>(&self, taken: Option<&Taken>, answer: impl Future<Output = T>) -> Result<T, Trouble> {
        let mut answer = std::pin::pin!(answer);
        let parts = || taken.map_or(0, |taken| taken.parts.load(Ordering::Relaxed));
        let mut waited = Duration::ZERO;
        loop {
            let before = parts();
            if let Some(answer) = self.wait.within(ANSWER, &mut answer).await? {
                return Ok(answer);
            }
            let has_all = taken.is_some_and(|taken| taken.is_all.load(Ordering::Relaxed));
            let limit = if has_all { TAKEN.max(self.wait.silence) } else { self.wait.silence };
            waited = if parts() == before { waited + ANSWER } else { Duration::ZERO };
            if waited >= limit {
                return Err(Trouble::lost("it does not answer"));
            }
        }
    }

    fn pooled(&self) -> Option<SendRequest<Body>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(sender) = idle.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, sender: SendRequest<Body>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE && !sender.is_closed() {
            idle.push(sender);
        }
    }

    async fn connect(&self) -> Result<SendRequest<Body>, Trouble> {
        let nobody = "nothing answers at its address";
        let connected = timeout(FIND, TcpStream::connect(&self.authority)).await;
        let stream = connected.map_err(|_| Trouble::lost(nobody))?.map_err(|_| Trouble::lost(nobody))?;
        // What waits for an answer is small.
        let _ = stream.set_nodelay(true);
        if !self.address.is_secure() {
            self.may_see_secret(&stream)?;
            return self.shaken(stream).await;
        }
        let secured = timeout(FIND, tls::secure(&self.address, &self.authority, stream)).await;
        self.shaken(secured.map_err(|_| Trouble::lost(nobody))?.map_err(|why| Trouble::lost(&why))?).await
    }

    /// Whether a secret may go there without TLS, if there is one.
    fn may_see_secret(&self, stream: &TcpStream) -> Result<(), Trouble> {
        if !matches!(self.authorization, Ok(Some(_))) {
            return Ok(());
        }
        let address = stream.peer_addr().map_err(|_| Trouble::lost("nothing answers at its address"))?.ip();
        match reach(address) {
            Reach::Own => Ok(()),
            Reach::Private => {
                if !self.is_warned.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        rpc = %self.address.rpc,
                        "`rpc_auth` goes over the network without TLS: whoever listens there has it; use https://"
                    );
                }
                Ok(())
            }
            Reach::Public => {
                let why = format!(
                    "`rpc_auth` would go without TLS to {address}, an address that is not of a private network: use \
                     https:// in `rpc`"
                );
                Err(Trouble { why, kind: Kind::NotAllowed })
            }
        }
    }

    async fn shaken(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<SendRequest<Body>, Trouble> {
        let nobody = "nothing answers at its address";
        let shaken = timeout(FIND, hyper::client::conn::http1::handshake(TokioIo::new(stream))).await;
        let (sender, connection) =
            shaken.map_err(|_| Trouble::lost(nobody))?.map_err(|_| Trouble::lost(nobody))?;
        self.runtime.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to an IPFS node ended");
            }
        });
        Ok(sender)
    }
}

impl Coming {
    /// The next part; `None` at the end, if that is a good one.
    async fn next(&mut self) -> Result<Option<Bytes>, Trouble> {
        loop {
            let part = self.wait.within(self.wait.silence, self.body.frame()).await?;
            let part = part.ok_or_else(|| Trouble::lost("it does not go on with its answer"))?;
            let Some(frame) = part else { return Ok(None) };
            let frame = frame.map_err(|_| Trouble::lost("the connection to it is lost"))?;
            match frame.into_data() {
                Ok(data) => return Ok(Some(data)),
                Err(frame) => {
                    let failed = frame.trailers_ref().and_then(|trailers| trailers.get("x-stream-error"));
                    if let Some(failed) = failed {
                        tracing::debug!(error = ?failed, "an IPFS node ends an answer by an error");
                        return Err(Trouble::new("it ended its answer by an error"));
                    }
                }
            }
        }
    }
}

/// What the node says when it refuses goes into the log: it may name files.
fn refused(call: &str, status: StatusCode, said: &[u8]) -> Trouble {
    let message: Option<String> = serde_json::from_slice::<Value>(said)
        .ok()
        .and_then(|said| Some(said.get("Message")?.as_str()?.to_owned()));
    let message = message.unwrap_or_else(|| String::from_utf8_lossy(said).into_owned());
    let command = call.split('?').next().unwrap_or_default().trim_start_matches("/api/v0/");
    tracing::debug!(command, %status, message, "an IPFS node refuses");
    match status {
        StatusCode::UNAUTHORIZED => {
            Trouble { why: format!("it asks for another `rpc_auth` at {command}"), kind: Kind::NotAllowed }
        }
        StatusCode::FORBIDDEN => {
            Trouble { why: format!("it does not let us call {command}"), kind: Kind::NotAllowed }
        }
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            Trouble { why: format!("it does not know the command {command}"), kind: Kind::NotKnown }
        }
        _ => Trouble::new(format!("it refuses the command {command}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_can_hold_what_ends_it() {
        let (mut seen, file) = (std::collections::HashSet::new(), SentFile::whole(b"some bytes"));
        assert!(seen.insert(file.boundary));
        for _ in 0..20 {
            let (boundary, Frame { before, after }) = frame();
            assert!(boundary.len() == 48 && boundary.bytes().all(|byte| byte.is_ascii_hexdigit()));
            for part in [before, after] {
                assert!(String::from_utf8_lossy(&part).contains(&format!("--{boundary}")));
            }
            assert!(seen.insert(boundary), "it is another one for each request");
        }
    }

    #[test]
    fn what_is_not_allowed_does_not_mean_that_the_node_is_gone() {
        let not_allowed = refused("/api/v0/pin/add?x", StatusCode::FORBIDDEN, b"");
        assert!(!not_allowed.is_gone() && not_allowed.is_of_each());
        assert_eq!(not_allowed.to_string(), "it does not let us call pin/add");
        let not_known = refused("/api/v0/files/flush", StatusCode::NOT_FOUND, b"");
        assert!(!not_known.is_gone() && not_known.is_not_known());
        let refused = refused("/api/v0/block/get", StatusCode::INTERNAL_SERVER_ERROR, b"{}");
        assert!(!refused.is_gone() && !refused.is_of_each() && !refused.is_not_known());
        assert!(Trouble::lost("x").is_gone());
    }

    #[test]
    fn arguments_are_escaped() {
        let call = Call::new("pin/add").arg("Qm").with("name", "a b&c=é/");
        assert_eq!(call.0, "/api/v0/pin/add?offline=true&arg=Qm&name=a%20b%26c%3D%C3%A9/");
    }
}
