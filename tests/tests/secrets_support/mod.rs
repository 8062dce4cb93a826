//! Canaries, and the places that are searched for them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use aho_corasick::AhoCorasick;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// A text that stands for a secret, or one that is there, in the forms in which it could come out.
#[derive(Debug)]
pub(crate) struct Canary {
    what: String,
    text: String,
    forms: Vec<Vec<u8>>,
}

impl Canary {
    /// A canary for `what`, which nothing else looks like.
    pub(crate) fn new(what: &str) -> Self {
        let text = format!("{what}-Vq7xZk2mW9tLr4Hd");
        Self { what: what.to_owned(), forms: forms(text.as_bytes()), text }
    }

    /// The secret that a program has made and keeps in `file`: a private key, a recovery key, a join token.
    pub(crate) fn made(file: &Path) -> Self {
        let text = fs::read_to_string(file).expect("text");
        let secret_part = text.split('-').find(|part| part.len() == 64);
        let forms = match secret_part.filter(|_| text.starts_with("nsjoin1-") || text.starts_with("nstok1-"))
        {
            Some(digits) => forms(&unhex(digits)),
            None if text.contains("NSRK-") => {
                let line = text.lines().find(|line| line.starts_with("NSRK-")).expect("the key");
                [forms(line.as_bytes()), forms(line.replace('-', "").as_bytes())].concat()
            }
            None => private_key(&text),
        };
        Self { what: file.display().to_string(), text: String::new(), forms }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// True if it is there in any form.
    pub(crate) fn is_in(&self, hay: &Haystack) -> bool {
        !Search::for_these([self]).of(hay).is_empty()
    }
}

/// Looks for many canaries in one pass.
pub(crate) struct Search<'a> {
    canaries: Vec<&'a Canary>,
    owners: Vec<usize>,
    forms: AhoCorasick,
}

impl<'a> Search<'a> {
    pub(crate) fn for_these(canaries: impl IntoIterator<Item = &'a Canary>) -> Self {
        let canaries: Vec<&Canary> = canaries.into_iter().collect();
        let (mut owners, mut forms) = (Vec::new(), Vec::new());
        for (owner, canary) in canaries.iter().enumerate() {
            owners.extend(canary.forms.iter().map(|_| owner));
            forms.extend(&canary.forms);
        }
        Self { canaries, owners, forms: AhoCorasick::new(forms).expect("few and short") }
    }

    /// Those that are there in any form, each once.
    pub(crate) fn of(&self, hay: &Haystack) -> Vec<&'a Canary> {
        let found = self.forms.find_overlapping_iter(&hay.bytes).map(|hit| self.owners[hit.pattern()]);
        found.collect::<BTreeSet<_>>().into_iter().map(|owner| self.canaries[owner]).collect()
    }
}

/// `secret` as it is, in hexadecimal digits, and in Base64 wherever it may start.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    assert!(secret.len() >= 16, "short enough to be found by chance");
    let lower: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![secret.to_vec(), lower.to_uppercase().into_bytes(), lower.into_bytes()];
    for before in 0..3 {
        let padded = [&vec![0; before][..], secret].concat();
        for digits in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
            // In the middle of other bytes, the digits at both ends depend on those.
            forms.push(digits.as_bytes()[4..digits.len() - 4].to_vec());
        }
    }
    forms
}

/// The 32 secret bytes of a P-256 key in PEM (PKCS #8): behind `version 1, OCTET STRING of 32 bytes`.
fn private_key(pem: &str) -> Vec<Vec<u8>> {
    let lines: Vec<&str> = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = STANDARD.decode(lines.concat()).expect("PEM");
    let start = der.windows(5).position(|five| five == [2, 1, 1, 4, 32]).expect("a private key") + 5;
    let mut forms = forms(&der[start..start + 32]);
    // As PEM again: the lines break in the middle of it.
    forms.push(lines[1].as_bytes()[..24].to_vec());
    forms
}

fn unhex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("digits"));
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("digits")).collect()
}

/// Something to search.
pub(crate) struct Haystack {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

impl Haystack {
    pub(crate) fn of(name: String, text: String) -> Self {
        Self { name, bytes: text.into_bytes() }
    }

    pub(crate) fn file(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { name: path.display().to_string(), bytes }
    }

    /// Every file below `folder`, with its path as part of what is searched.
    pub(crate) fn folder(folder: &Path) -> Vec<Self> {
        let mut found = Vec::new();
        let mut open = vec![folder.to_owned()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(&folder).expect("listed").map(|entry| entry.expect("read")) {
                let kind = entry.file_type().expect("known");
                if kind.is_dir() {
                    open.push(entry.path());
                } else if kind.is_file() {
                    let mut hay = Self::file(&entry.path());
                    hay.bytes.extend_from_slice(hay.name.as_bytes());
                    found.push(hay);
                }
            }
        }
        found
    }
}

/// A page, headers and all.
pub(crate) fn fetch(port: u16, page: &str) -> Haystack {
    let bytes = ask(port, &format!("GET {page}"), "", "");
    assert!(bytes.starts_with(b"HTTP/1.1 "), "{page} is answered");
    Haystack { name: format!("page {page} on port {port}"), bytes }
}

/// What the web page answers to this form of the sign-in.
pub(crate) fn sign_in(port: u16, form: &str) -> Haystack {
    let bytes = ask(port, "POST /sign-in", "Origin: http://localhost\r\n", form);
    Haystack { name: "the sign-in's answer".to_owned(), bytes }
}

/// Signs in to the web page; every page of it as its user sees it.
pub(crate) fn web_pages(port: u16, form: &str, pages: &[String]) -> Vec<Haystack> {
    let Haystack { bytes: entered, name } = sign_in(port, form);
    let text = String::from_utf8_lossy(&entered).into_owned();
    let cookie = text.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("signed in");
    let cookie = cookie.split(';').next().expect("a pair");
    let page = |page: &String| {
        let bytes = ask(port, &format!("GET {page}"), &format!("Cookie: {cookie}\r\n"), "");
        assert!(bytes.starts_with(b"HTTP/1.1 200"), "{page}: {}", String::from_utf8_lossy(&bytes));
        Haystack { name: format!("web page {page}"), bytes }
    };
    let mut seen: Vec<Haystack> = pages.iter().map(page).collect();
    seen.push(Haystack { name, bytes: entered });
    seen
}

fn ask(port: u16, line: &str, headers: &str, body: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let length = body.len();
    write!(
        stream,
        "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
    .expect("asked");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("answered");
    bytes
}

/// The arguments of all processes of this machine, looked at all the time.
pub(crate) struct Arguments {
    stop: Arc<AtomicBool>,
    looking: JoinHandle<BTreeSet<Vec<u8>>>,
}

impl Arguments {
    pub(crate) fn watch() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let looking = std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !stopped.load(Ordering::Relaxed) {
                let processes = fs::read_dir("/proc").expect("listed").flatten();
                let numbered =
                    processes.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
                seen.extend(numbered.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok()));
                std::thread::park_timeout(Duration::from_millis(5));
            }
            seen
        });
        Self { stop, looking }
    }

    pub(crate) fn end(self) -> Haystack {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.looking.join().expect("it looked");
        let ours = seen.iter().any(|words| String::from_utf8_lossy(words).contains("neurashield-agent"));
        assert!(ours, "it saw our own processes");
        Haystack { name: "process arguments".to_owned(), bytes: seen.into_iter().flatten().collect() }
    }
}
