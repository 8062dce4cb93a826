//! A file that a request sends, in its frame of `multipart/form-data`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body;
use tokio::sync::mpsc::Receiver;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::Body;

/// The file.
pub(crate) struct SentFile {
    pub(super) body: Body,
    pub(super) taken: Arc<Taken>,
    pub(super) boundary: String,
}

/// How much of a file the node has taken.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) parts: AtomicU64,
    pub(super) is_all: AtomicBool,
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
}
