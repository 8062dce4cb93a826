//! Object storage in memory, on a real socket: what the store asks of S3, with the habits of the servers that
//! there are: short pages, lists that lag, conditions that are ignored.
//!
//! Must stay true: it is no more forgiving than MinIO. The same suites run on both (`tests/run s3`).

use std::collections::BTreeMap;
use std::io::BufReader;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use repository::signed::Sha256;

use super::http::{Message, decoded};
use super::{KEY_ID, REGION};

/// What the protocol demands of every part but the last.
const LEAST_PART: usize = 5 << 20;

/// How it behaves.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// Names in one page of a list.
    pub page: usize,
    /// For how long a list shows what was before.
    pub lag: Duration,
    /// `If-None-Match` means nothing to it.
    pub ignores_conditions: bool,
}

impl Default for Habits {
    fn default() -> Self {
        Self { page: 7, lag: Duration::ZERO, ignores_conditions: false }
    }
}

/// A server with its buckets. Dropped, it is gone.
#[derive(Debug)]
pub struct FakeS3 {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    habits: Habits,
    state: Mutex<State>,
    is_over: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// By bucket, then by key.
    buckets: BTreeMap<String, BTreeMap<String, Slot>>,
    uploads: BTreeMap<String, Parts>,
    next: u64,
}

/// A key: what lies there now, and since when; what a list that lags still shows.
#[derive(Debug)]
struct Slot {
    now: Option<Object>,
    since: Instant,
    listed_before: Option<Object>,
}

#[derive(Debug, Clone)]
struct Object {
    bytes: Arc<[u8]>,
    mark: Vec<(String, String)>,
    modified: Timestamp,
}

#[derive(Debug)]
struct Parts {
    key: String,
    mark: Vec<(String, String)>,
    parts: BTreeMap<usize, Vec<u8>>,
}

impl FakeS3 {
    /// A server with one empty bucket.
    pub fn start(bucket: &str, habits: Habits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let mut state = State::default();
        state.buckets.insert(bucket.to_owned(), BTreeMap::new());
        let shared = Shared { habits, state: Mutex::new(state), is_over: AtomicBool::new(false) };
        let shared = Arc::new(shared);
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                if serving.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let serving = serving.clone();
                std::thread::spawn(move || serving.serve(stream));
            }
        });
        Self { port, shared }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Every key of a bucket, as it is now.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        let state = self.shared.state();
        let slots = state.buckets[bucket].iter();
        slots.filter(|(_, slot)| slot.now.is_some()).map(|(key, _)| key.clone()).collect()
    }

    /// Uploads in parts that nobody has ended.
    pub fn open_uploads(&self) -> usize {
        self.shared.state().uploads.len()
    }

    /// Makes what lies under `prefix` so much older.
    pub fn age(&self, bucket: &str, prefix: &str, by: Duration) {
        let by = SignedDuration::try_from(by).expect("an age");
        let mut state = self.shared.state();
        let slots = state.buckets.get_mut(bucket).expect("the bucket");
        for (_, slot) in slots.iter_mut().filter(|(key, _)| key.starts_with(prefix)) {
            if let Some(object) = &mut slot.now {
                object.modified -= by;
            }
        }
    }
}

impl Drop for FakeS3 {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // Wakes the thread that takes connections.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

#[allow(clippy::disallowed_methods)] // a server has a clock of its own
fn now() -> Timestamp {
    Timestamp::now()
}

/// A request, taken apart.
struct Asked<'a> {
    message: &'a Message,
    bucket: String,
    key: String,
    query: BTreeMap<String, String>,
}

impl Asked<'_> {
    fn number(&self, name: &str) -> Option<usize> {
        self.query.get(name)?.parse().ok()
    }

    fn marks(&self) -> Vec<(String, String)> {
        let is_mark = |(name, _): &&(String, String)| name.starts_with("x-amz-meta-");
        self.message.headers.iter().filter(is_mark).cloned().collect()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: TcpStream) {
        let Ok(mut to) = stream.try_clone() else { return };
        let mut from = BufReader::new(stream);
        while let Ok(Some(request)) = Message::read(&mut from, true) {
            let is_head = request.asked().0 == "HEAD";
            let mut answer = self.answer(&request);
            if is_head {
                answer.body.clear();
            }
            if self.is_over.load(Ordering::SeqCst) || answer.write(&mut to).is_err() {
                return;
            }
        }
    }

    fn answer(&self, message: &Message) -> Message {
        let (method, target) = message.asked();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        };
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect();
        let path = decoded(path.trim_start_matches('/'));
        let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
        let asked = Asked { message, bucket: bucket.to_owned(), key: key.to_owned(), query };
        if let Some(refusal) = self.refusal(&asked) {
            return refusal;
        }
        match (method, asked.key.is_empty()) {
            ("GET", true) => self.list(&asked),
            ("PUT", false) if asked.query.contains_key("uploadId") => self.put_part(&asked),
            ("PUT", false) if message.header("x-amz-copy-source").is_some() => self.copy(&asked),
            ("PUT", false) => self.put(&asked),
            ("GET" | "HEAD", false) => self.get(&asked),
            ("DELETE", false) if asked.query.contains_key("uploadId") => {
                match self.state().uploads.remove(&asked.query["uploadId"]) {
                    Some(_) => Message::answer(204, &[], Vec::new()),
                    None => Message::error(404, "NoSuchUpload"),
                }
            }
            ("DELETE", false) => {
                self.state().set(&asked.bucket, &asked.key, None, self.habits.lag);
                Message::answer(204, &[], Vec::new())
            }
            ("POST", false) if asked.query.contains_key("uploads") => self.begin_parts(&asked),
            ("POST", false) if asked.query.contains_key("uploadId") => self.complete(&asked),
            _ => Message::error(405, "MethodNotAllowed"),
        }
    }

    fn refusal(&self, asked: &Asked<'_>) -> Option<Message> {
        let signed = asked.message.header("authorization").unwrap_or_default();
        let (_, scope) = signed.split_once("Credential=").unwrap_or_default();
        let mut scope = scope.split('/');
        if scope.next() != Some(KEY_ID) {
            return Some(Message::error(403, "InvalidAccessKeyId"));
        }
        if scope.nth(1) != Some(REGION) {
            let mut refusal = Message::error(400, "AuthorizationHeaderMalformed");
            refusal.body.extend_from_slice(format!("<Region>{REGION}</Region>").as_bytes());
            return Some(Message::answer(400, &[], refusal.body));
        }
        let sum = asked.message.header("x-amz-content-sha256").unwrap_or_default();
        if sum != Sha256::of(&asked.message.body).to_string() {
            return Some(Message::error(400, "XAmzContentSHA256Mismatch"));
        }
        (!self.state().buckets.contains_key(&asked.bucket)).then(|| Message::error(404, "NoSuchBucket"))
    }

    fn is_taken(&self, state: &State, asked: &Asked<'_>) -> bool {
        asked.message.header("if-none-match") == Some("*")
            && !self.habits.ignores_conditions
            && state.get(&asked.bucket, &asked.key).is_some()
    }

    fn put(&self, asked: &Asked<'_>) -> Message {
        let mut state = self.state();
        if self.is_taken(&state, asked) {
            return Message::error(412, "PreconditionFailed");
        }
        let object =
            Object { bytes: asked.message.body.clone().into(), mark: asked.marks(), modified: now() };
        let etag = object.etag();
        state.set(&asked.bucket, &asked.key, Some(object), self.habits.lag);
        Message::answer(200, &[("etag", etag)], Vec::new())
    }

    fn copy(&self, asked: &Asked<'_>) -> Message {
        let source = decoded(asked.message.header("x-amz-copy-source").unwrap_or_default());
        let (bucket, key) = source.split_once('/').unwrap_or_default();
        let mut state = self.state();
        let Some(mut object) = state.get(bucket, key).cloned() else {
            return Message::error(404, "NoSuchKey");
        };
        object.modified = now();
        let body = format!("<CopyObjectResult><ETag>{}</ETag></CopyObjectResult>", object.etag());
        state.set(&asked.bucket, &asked.key, Some(object), self.habits.lag);
        Message::answer(200, &[], body.into_bytes())
    }

    fn get(&self, asked: &Asked<'_>) -> Message {
        let state = self.state();
        let Some(object) = state.get(&asked.bucket, &asked.key) else {
            return Message::error(404, "NoSuchKey");
        };
        let length = object.bytes.len();
        let modified = object.modified.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let mut headers = vec![("etag", object.etag()), ("last-modified", modified)];
        headers.extend(object.mark.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let range = asked.message.header("range").and_then(|range| range.strip_prefix("bytes="));
        let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
            headers.push(("content-length", length.to_string()));
            return Message::answer(200, &headers, object.bytes.to_vec());
        };
        let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else {
            return Message::error(400, "InvalidArgument");
        };
        if first >= length {
            return Message::error(416, "InvalidRange");
        }
        let last = last.min(length - 1);
        headers.push(("content-range", format!("bytes {first}-{last}/{length}")));
        headers.push(("content-length", (last + 1 - first).to_string()));
        Message::answer(206, &headers, object.bytes[first..=last].to_vec())
    }

    fn list(&self, asked: &Asked<'_>) -> Message {
        let word = |name: &str| asked.query.get(name).map(String::as_str).unwrap_or_default();
        let (prefix, delimiter) = (word("prefix"), word("delimiter"));
        let (after, lag) = (word("continuation-token"), self.habits.lag);
        let state = self.state();
        let mut lines: BTreeMap<String, String> = BTreeMap::new();
        for (key, slot) in &state.buckets[&asked.bucket] {
            let Some((object, rest)) = slot.listed(lag).zip(key.strip_prefix(prefix)) else { continue };
            match rest.split_once('/').filter(|_| !delimiter.is_empty()) {
                Some((folder, _)) => {
                    let name = format!("{prefix}{folder}/");
                    let line =
                        format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escaped(&name));
                    lines.insert(name, line);
                }
                None => {
                    let line = format!(
                        "<Contents><Key>{}</Key><Size>{}</Size><LastModified>{}</LastModified><ETag>{}</ETag></Contents>",
                        escaped(key),
                        object.bytes.len(),
                        object.modified,
                        escaped(&object.etag())
                    );
                    lines.insert(key.clone(), line);
                }
            }
        }
        let mut left = lines.into_iter().filter(|(name, _)| name.as_str() > after);
        let page: Vec<(String, String)> = left.by_ref().take(self.habits.page).collect();
        let more = left.next().is_some().then(|| page.last().map(|(name, _)| escaped(name))).flatten();
        let token = more.map(|name| format!("<NextContinuationToken>{name}</NextContinuationToken>"));
        let lines: String = page.into_iter().map(|(_, line)| line).collect();
        let body = format!(
            "<?xml version=\"1.0\"?><ListBucketResult>{lines}{}</ListBucketResult>",
            token.unwrap_or_default()
        );
        Message::answer(200, &[("content-type", "application/xml".to_owned())], body.into_bytes())
    }

    fn begin_parts(&self, asked: &Asked<'_>) -> Message {
        let mut state = self.state();
        state.next += 1;
        let id = format!("upload-{}", state.next);
        let parts = Parts { key: asked.key.clone(), mark: asked.marks(), parts: BTreeMap::new() };
        state.uploads.insert(id.clone(), parts);
        let body = format!(
            "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
        );
        Message::answer(200, &[], body.into_bytes())
    }

    fn put_part(&self, asked: &Asked<'_>) -> Message {
        let mut state = self.state();
        let (Some(parts), Some(number)) =
            (state.uploads.get_mut(&asked.query["uploadId"]), asked.number("partNumber"))
        else {
            return Message::error(404, "NoSuchUpload");
        };
        parts.parts.insert(number, asked.message.body.clone());
        Message::answer(200, &[("etag", format!("\"part-{number}\""))], Vec::new())
    }

    fn complete(&self, asked: &Asked<'_>) -> Message {
        let mut state = self.state();
        if self.is_taken(&state, asked) {
            return Message::error(412, "PreconditionFailed");
        }
        let id = &asked.query["uploadId"];
        let Some(parts) = state.uploads.get(id).filter(|parts| parts.key == asked.key) else {
            return Message::error(404, "NoSuchUpload");
        };
        let text = String::from_utf8_lossy(&asked.message.body).into_owned();
        let named =
            text.split("<PartNumber>").skip(1).filter_map(|rest| rest.split('<').next()?.parse().ok());
        let pieces: Option<Vec<&Vec<u8>>> = named.map(|number: usize| parts.parts.get(&number)).collect();
        let Some(pieces) = pieces else { return Message::error(400, "InvalidPart") };
        if pieces.iter().rev().skip(1).any(|piece| piece.len() < LEAST_PART) {
            return Message::error(400, "EntityTooSmall");
        }
        let bytes: Vec<u8> = pieces.into_iter().flatten().copied().collect();
        let object = Object { bytes: bytes.into(), mark: parts.mark.clone(), modified: now() };
        let body = format!(
            "<CompleteMultipartUploadResult><ETag>{}</ETag></CompleteMultipartUploadResult>",
            escaped(&object.etag())
        );
        state.uploads.remove(id);
        state.set(&asked.bucket, &asked.key, Some(object), self.habits.lag);
        Message::answer(200, &[], body.into_bytes())
    }
}

impl State {
    fn get(&self, bucket: &str, key: &str) -> Option<&Object> {
        self.buckets.get(bucket)?.get(key)?.now.as_ref()
    }

    fn set(&mut self, bucket: &str, key: &str, object: Option<Object>, lag: Duration) {
        let slots = self.buckets.get_mut(bucket).expect("refused before if there is none");
        let listed_before = slots.get(key).and_then(|slot| slot.listed(lag)).cloned();
        slots.insert(key.to_owned(), Slot { now: object, since: Instant::now(), listed_before });
    }
}

impl Slot {
    fn listed(&self, lag: Duration) -> Option<&Object> {
        if self.since.elapsed() < lag { self.listed_before.as_ref() } else { self.now.as_ref() }
    }
}

impl Object {
    fn etag(&self) -> String {
        format!("\"{}\"", &Sha256::of(&self.bytes).to_string()[..32])
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
