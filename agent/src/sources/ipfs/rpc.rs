//! The RPC of a Kubo node: POST, answers as JSON, lines of JSON or bytes, failures in the middle of an answer in
//! its trailer. js-ipfs speaks it, too, and differs: numbers may be texts, a missing block is waited for.
//!
//! Must stay true: every wait has an end; an answer counts only when its end has come without an error in the
//! trailer; `offline` is asked for, so that a backup never fetches from other nodes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use formats::ipfs::{Cid, MAX_BLOCK};
use http::{Request, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::sources::SourceError;

type Body = BoxBody<Bytes, std::io::Error>;

/// A file that a request sends, in its frame of `multipart/form-data`.
pub(crate) struct SentFile {
    body: Body,
    /// Changes while the node takes more of it.
    taken: Arc<AtomicU64>,
}

impl SentFile {
    /// One that is there as a whole.
    pub(crate) fn whole(bytes: &[u8]) -> Self {
        let (before, after) = around_file();
        let body = Full::new(Bytes::from([&before, bytes, &after].concat()));
        Self { body: body.map_err(|never| match never {}).boxed(), taken: Arc::default() }
    }

    /// One that comes part by part, its frame included ([`around_file`]). Whoever cannot go on sends an error.
    pub(crate) fn parts(parts: Receiver<Result<Bytes, std::io::Error>>) -> Self {
        let taken = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&taken);
        let frames = ReceiverStream::new(parts).map(move |part| {
            counted.fetch_add(1, Ordering::Relaxed);
            part.map(Frame::data)
        });
        Self { body: BodyExt::boxed(StreamBody::new(frames)), taken }
    }
}

/// How long the node may be looked for.
const FIND: Duration = Duration::from_secs(10);
/// How long an answer, or its next part, may take. Less than a cancelled task has for its end.
const ANSWER: Duration = Duration::from_secs(45);
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
    /// Nothing else would be given either.
    pub(crate) is_connection: bool,
}

impl Trouble {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_connection: false }
    }

    fn lost(why: &str) -> Self {
        Self { why: why.to_owned(), is_connection: true }
    }

    /// What to do.
    pub(crate) fn hint(&self) -> &'static str {
        match self.is_connection {
            true => "check that the node runs and that `rpc` is the address of its RPC, then try again",
            false => "see to the node, then try again; the agent's log says more",
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
    authority: String,
    runtime: Handle,
    idle: Mutex<Vec<SendRequest<Body>>>,
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
}

impl Rpc {
    /// The node at `address`, e.g. `http://127.0.0.1:5001`; nothing is asked yet. Belongs into the runtime.
    pub(crate) fn new(address: &str) -> Self {
        let authority = authority(address).expect("the configuration was checked");
        Self { authority, runtime: Handle::current(), idle: Mutex::default() }
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
        let taken = file.as_ref().map(|file| Arc::clone(&file.taken));
        if file.is_some() {
            request =
                request.header(header::CONTENT_TYPE, format!("multipart/form-data; boundary={BOUNDARY}"));
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
        let response = match within(taken.as_deref(), sender.try_send_request(request)).await? {
            Ok(response) => response,
            // A connection that was kept may have been closed meanwhile: then nothing was sent.
            Err(mut error) if !is_fresh && error.message().is_some() => {
                let request = error.take_message().expect("it was just looked at");
                sender = self.connect().await?;
                within(None, sender.send_request(request)).await?.map_err(not_sent)?
            }
            Err(error) => return Err(not_sent(error.into_error())),
        };
        let status = response.status();
        let mut coming = Coming { body: response.into_body(), sender };
        if status == StatusCode::OK {
            return Ok(coming);
        }
        let mut said = BytesMut::new();
        while let Some(part) = coming.next().await? {
            if said.len() + part.len() <= MAX_LINE {
                said.extend_from_slice(&part);
            }
        }
        self.keep(coming.sender);
        Err(refused(call, status, &said))
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

/// Waits for the beginning of an answer, as long as the node takes more of what is sent.
async fn within<T>(taken: Option<&AtomicU64>, answer: impl Future<Output = T>) -> Result<T, Trouble> {
    let mut answer = std::pin::pin!(answer);
    let now = || taken.map_or(0, |taken| taken.load(Ordering::Relaxed));
    loop {
        let before = now();
        match timeout(ANSWER, &mut answer).await {
            Ok(answer) => return Ok(answer),
            Err(_) if now() == before => return Err(Trouble::lost("it does not answer")),
            Err(_) => {}
        }
    }
}

impl Coming {
    /// The next part; `None` at the end, if that is a good one.
    async fn next(&mut self) -> Result<Option<Bytes>, Trouble> {
        loop {
            let part = timeout(ANSWER, self.body.frame()).await;
            let part = part.map_err(|_| Trouble::lost("it does not go on with its answer"))?;
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

/// What separates the parts of a request that sends a file.
const BOUNDARY: &str = "neurashield-4c2f9a7d1e";

/// What comes before a file, and after it.
pub(crate) fn around_file() -> (Bytes, Bytes) {
    let before = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"file\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    (before.into(), format!("\r\n--{BOUNDARY}--\r\n").into())
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
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Trouble { why: format!("it does not let us call {command}"), is_connection: true }
        }
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            Trouble::new(format!("it does not know the command {command}"))
        }
        _ => Trouble::new(format!("it refuses the command {command}")),
    }
}

/// Host and port of the address of an RPC.
pub(crate) fn authority(address: &str) -> Result<String, &'static str> {
    const SHAPE: &str = "must be http://HOST:PORT";
    let authority = address.strip_prefix("http://").ok_or(SHAPE)?.trim_end_matches('/');
    let (host, port) = authority.rsplit_once(':').ok_or(SHAPE)?;
    let host_is_fine = !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']);
    match host_is_fine && port.parse::<u16>().is_ok_and(|port| port > 0) {
        true => Ok(authority.to_owned()),
        false => Err(SHAPE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        assert_eq!(authority("http://127.0.0.1:5001/").as_deref(), Ok("127.0.0.1:5001"));
        assert_eq!(authority("http://[::1]:5001").as_deref(), Ok("[::1]:5001"));
        for wrong in
            ["https://a:1", "a:1", "http://a", "http://u:p@a:1", "http://a:1/x", "http://a:0", "http://:1"]
        {
            assert!(authority(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn arguments_are_escaped() {
        let call = Call::new("pin/add").arg("Qm").with("name", "a b&c=é/");
        assert_eq!(call.0, "/api/v0/pin/add?offline=true&arg=Qm&name=a%20b%26c%3D%C3%A9/");
    }
}
