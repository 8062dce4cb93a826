//! As much of HTTP/1.1 as the object storage of the tests and the proxy before it need, written down plainly so
//! that a fault can be put at any byte.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// More than any head here has.
const MAX_HEAD: usize = 64 << 10;

/// A request or an answer.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// `GET /bucket/key HTTP/1.1`, or `HTTP/1.1 200 OK`.
    pub(super) first: String,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Message {
    /// The next message of a connection; `None` where it has ended. An answer to HEAD has no body.
    pub(super) fn read(from: &mut BufReader<TcpStream>, has_body: bool) -> io::Result<Option<Self>> {
        let mut lines = Vec::new();
        let mut length = 0;
        loop {
            let mut line = Vec::new();
            length += from.by_ref().take(MAX_HEAD as u64).read_until(b'\n', &mut line)?;
            if line.is_empty() && lines.is_empty() {
                return Ok(None);
            }
            if !line.ends_with(b"\r\n") || length > MAX_HEAD {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if line == b"\r\n" {
                break;
            }
            lines.push(String::from_utf8_lossy(&line[..line.len() - 2]).into_owned());
        }
        let mut lines = lines.into_iter();
        let first = lines.next().ok_or(io::ErrorKind::InvalidData)?;
        let header = |line: String| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        let mut message = Self { first, headers: lines.filter_map(header).collect(), body: Vec::new() };
        if has_body {
            message.read_body(from)?;
        }
        Ok(Some(message))
    }

    fn read_body(&mut self, from: &mut BufReader<TcpStream>) -> io::Result<()> {
        if self.header("transfer-encoding") != Some("chunked") {
            let length = self.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            let read = from.take(length).read_to_end(&mut self.body)?;
            return if read as u64 == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        loop {
            let mut line = String::new();
            from.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
            from.by_ref().take(size).read_to_end(&mut self.body)?;
            from.read_line(&mut String::new())?;
            if size == 0 {
                break;
            }
        }
        // Passed on in one piece.
        self.headers.retain(|(name, _)| name != "transfer-encoding");
        self.headers.push(("content-length".to_owned(), self.body.len().to_string()));
        Ok(())
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// An answer with this body.
    pub(super) fn answer(status: u16, headers: &[(&str, String)], body: Vec<u8>) -> Self {
        let mut headers: Vec<_> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        if !headers.iter().any(|(name, _)| name == "content-length") {
            headers.push(("content-length".to_owned(), body.len().to_string()));
        }
        Self { first: format!("HTTP/1.1 {status} Said"), headers, body }
    }

    /// An error as S3 tells it.
    pub(super) fn error(status: u16, code: &str) -> Self {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>");
        Self::answer(status, &[("content-type", "application/xml".to_owned())], body.into_bytes())
    }

    pub(super) fn head(&self) -> Vec<u8> {
        let mut head = format!("{}\r\n", self.first);
        self.headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        (head + "\r\n").into_bytes()
    }

    pub(super) fn write(&self, to: &mut TcpStream) -> io::Result<()> {
        to.write_all(&self.head())?;
        to.write_all(&self.body)
    }

    /// Of a request: the method and the target.
    pub(super) fn asked(&self) -> (&str, &str) {
        let mut words = self.first.split(' ');
        (words.next().unwrap_or_default(), words.next().unwrap_or_default())
    }
}

/// `a%20b` as it is meant.
pub(super) fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                plain.push(byte);
                at += 3;
            }
            (b'+', _) => {
                plain.push(b' ');
                at += 1;
            }
            (byte, _) => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}
