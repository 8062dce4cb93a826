//! The RPC of a Kubo node: POST, answers as JSON, lines of JSON or bytes, failures in the middle of an answer in
//! its trailer. js-ipfs speaks it, too, and differs: numbers may be texts, a missing block is waited for.
//!
//! Must stay true: every wait has an end; an answer counts only when its end has come without an error in the
//! trailer; `offline` is asked for, so that a backup never fetches from other nodes.

mod call;
mod connection;
mod sent;
mod trouble;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use formats::ipfs::{Cid, MAX_BLOCK};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::NodeRpc;
pub(crate) use call::Call;
pub(crate) use sent::SentFile;
use sent::Taken;
pub(crate) use trouble::Trouble;
use trouble::refused;

type Body = BoxBody<Bytes, std::io::Error>;

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
/// The longest line of an answer, and the longest answer that is read at once.
const MAX_LINE: usize = 1 << 20;
const MAX_ANSWER: usize = 16 << 20;

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
        let authorization = address.authorization().map_err(Trouble::not_allowed);
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
