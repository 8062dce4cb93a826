//! An IPFS node for tests, and somebody between it and the agent who withholds, falsifies or delays.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::System;

/// A node with its repository in a folder.
pub struct Node {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

impl Node {
    /// Starts one; its repository is empty.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = Command::new(crate::project().join("tests/engines/js-ipfs"))
            .arg(folder.path().join("repository"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("read");
        let port =
            line.trim().strip_prefix("READY ").and_then(|port| port.parse().ok()).expect("it is ready");
        Self { child, port, _folder: folder }
    }

    /// The port of its RPC.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What a call answers.
    pub fn call(&self, call: &str, more: &[&str]) -> Vec<u8> {
        let address = format!("http://127.0.0.1:{}/api/v0/{call}", self.port);
        // It collects garbage among thousands of pins for minutes.
        let output =
            Command::new("curl").args(["-sS", "-m", "600", "-X", "POST", &address]).args(more).output();
        let output = output.expect("curl runs");
        assert!(output.status.success(), "{call}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// The same as lines of JSON.
    pub fn lines(&self, call: &str, more: &[&str]) -> Vec<Value> {
        let said = String::from_utf8(self.call(call, more)).expect("text");
        said.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{call}: {said}")))
            .collect()
    }

    /// Adds files; their CIDs.
    pub fn add(&self, contents: &[Vec<u8>], options: &str) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut forms = Vec::new();
        for (n, content) in contents.iter().enumerate() {
            let file = folder.path().join(format!("{n:05}"));
            fs::write(&file, content).expect("written");
            forms.extend(["-F".to_owned(), format!("file=@{}", file.display())]);
        }
        let forms: Vec<&str> = forms.iter().map(String::as_str).collect();
        let added = self.lines(&format!("add?{options}"), &forms);
        let cids: Vec<String> = added
            .iter()
            .map(|line| canonical(line["Hash"].as_str().unwrap_or_else(|| panic!("{line}"))))
            .collect();
        assert_eq!(cids.len(), contents.len());
        cids
    }

    /// Its pins of this kind.
    /// What is pinned with all that it links to.
    pub fn pins(&self, kind: &str) -> BTreeSet<String> {
        let pins = self.lines(&format!("pin/ls?type={kind}&stream=true"), &[]);
        pins.iter().map(|pin| canonical(pin["Cid"].as_str().expect("a CID"))).collect()
    }

    /// The bytes of a file.
    pub fn cat(&self, cid: &str) -> Vec<u8> {
        self.call(&format!("cat?arg={cid}&timeout=20s"), &[])
    }

    /// What it has itself, by multihash: it lists blocks as raw bytes.
    pub fn local(&self) -> BTreeSet<String> {
        self.lines("refs/local", &[])
            .iter()
            .map(|line| canonical(line["Ref"].as_str().expect("a CID")))
            .collect()
    }

    /// The names in the root of its files.
    pub fn names(&self) -> BTreeSet<String> {
        let listed = self.lines("files/ls?arg=/", &[]);
        let entries = listed.iter().flat_map(|line| line["Entries"].as_array().cloned().unwrap_or_default());
        entries.map(|entry| entry["Name"].as_str().expect("a name").to_owned()).collect()
    }

    /// Those of them that the agent has put there to hold blocks.
    pub fn holds(&self) -> BTreeSet<String> {
        self.names().into_iter().filter(|name| name.starts_with(".neurashield-hold-")).collect()
    }

    /// Makes this a file among its files. js-ipfs writes into no file that is one raw block.
    pub fn write(&self, path: &str, content: &[u8]) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), content).expect("written");
        let form = format!("file=@{}", file.path().display());
        self.call(&format!("files/rm?arg={path}"), &[]);
        self.call(&format!("files/write?arg={path}&create=true&parents=true"), &["-F", &form]);
        assert_eq!(self.read(path), content, "{path} was written");
    }

    /// Reads a file among its files.
    pub fn read(&self, path: &str) -> Vec<u8> {
        self.call(&format!("files/read?arg={}", path.replace(' ', "%20")), &[])
    }

    /// Imports a file of blocks.
    pub fn import(&self, file: &Path) {
        let said = self.lines("dag/import?pin-roots=true", &["-F", &format!("file=@{}", file.display())]);
        assert!(!said.is_empty() && said.iter().all(|line| line["Root"]["PinErrorMsg"] == ""), "{said:?}");
    }

    /// Nothing is left but an empty node.
    pub fn wipe(&self) {
        for kind in ["recursive", "direct"] {
            let pins: Vec<String> = self.pins(kind).into_iter().collect();
            for some in pins.chunks(100) {
                let pins: Vec<String> = some.iter().map(|cid| format!("arg={cid}")).collect();
                self.call(&format!("pin/rm?{}", pins.join("&")), &[]);
            }
        }
        for name in self.names() {
            self.call(&format!("files/rm?arg=/{name}&recursive=true"), &[]);
        }
        self.call("repo/gc", &[]);
    }
}

/// What a reader that shares no code with ours finds in a CAR: its roots, how many blocks, what is missing below.
pub fn look_into_car(file: &Path) -> (BTreeSet<String>, u64, Vec<String>) {
    let output = Command::new("python3").arg(crate::project().join("tests/car.py")).arg(file).output();
    let output = output.expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let texts = |name: &str| {
        let all = found[name].as_array().cloned().unwrap_or_default();
        all.into_iter().map(|one| one.as_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    (texts("roots").into_iter().collect(), found["blocks"].as_u64().expect("a number"), texts("missing"))
}

/// Answers some calls itself, and passes the others on.
pub struct Between {
    port: u16,
    lies: Arc<Mutex<BTreeMap<String, Lie>>>,
    waiting: Arc<AtomicUsize>,
}

/// What is said instead of what the node says.
#[derive(Clone)]
pub enum Lie {
    /// The answer is an error.
    Refuse,
    /// The answer is that this is not allowed.
    Forbid,
    /// The answer is this.
    Say(Vec<u8>),
    /// The answer ends by an error in its trailer.
    EndBadly,
    /// There is none until nobody lies any more; then it is the node's.
    Wait,
}

impl Between {
    /// One that is before the node at this port.
    pub fn and(node: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its number").port();
        let lies = Arc::new(Mutex::new(BTreeMap::new()));
        let waiting = Arc::new(AtomicUsize::new(0));
        let (known, wait) = (Arc::clone(&lies), Arc::clone(&waiting));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (known, wait) = (Arc::clone(&known), Arc::clone(&wait));
                std::thread::spawn(move || drop(Self::serve(client, node, &known, &wait)));
            }
        });
        Self { port, lies, waiting }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits until somebody waits for an answer.
    pub fn await_waiting(&self) {
        crate::wait_for("a call", 30, || (self.waiting.load(Ordering::SeqCst) > 0).then_some(()));
    }

    /// What is said to calls whose path has `part` in it.
    pub fn lie(&self, part: &str, lie: Lie) {
        self.lies.lock().expect("no panic").insert(part.to_owned(), lie);
    }

    /// Nobody lies any more.
    pub fn honest(&self) {
        self.lies.lock().expect("no panic").clear();
    }

    fn serve(
        client: TcpStream,
        node: u16,
        lies: &Mutex<BTreeMap<String, Lie>>,
        waiting: &AtomicUsize,
    ) -> std::io::Result<()> {
        let mut from = BufReader::new(client.try_clone()?);
        let (mut head, mut length, mut is_chunked) = (String::new(), 0_u64, false);
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 || line == "\r\n" {
                break;
            }
            let small = line.to_ascii_lowercase();
            if let Some(value) = small.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            is_chunked |= small.starts_with("transfer-encoding:");
            head.push_str(&line);
        }
        let call = head.lines().next().unwrap_or_default().to_owned();
        let told = || {
            let lies = lies.lock().expect("no panic");
            lies.iter().find(|(part, _)| call.contains(*part)).map(|(_, lie)| lie.clone())
        };
        let mut lie = told();
        while let Some(Lie::Wait) = lie {
            waiting.fetch_add(1, Ordering::SeqCst);
            crate::pause(10);
            lie = told();
            waiting.fetch_sub(1, Ordering::SeqCst);
        }
        let mut client = client;
        let ok = "HTTP/1.1 200 OK\r\nConnection: close\r\n";
        match lie {
            Some(Lie::Refuse) => {
                let said = r#"{"Message":"block was not found locally","Code":0,"Type":"error"}"#;
                let length = said.len();
                write!(
                    client,
                    "HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{said}"
                )
            }
            Some(Lie::Forbid) => {
                write!(client, "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            }
            Some(Lie::Say(said)) => {
                write!(client, "{ok}Content-Length: {}\r\n\r\n", said.len())?;
                client.write_all(&said)
            }
            Some(Lie::EndBadly) => {
                let said = "{\"Ref\":\"bafkreiey5jxe6ilpf62lnh77tm5ejbbmhbugzjuf6p2v3remlu73ced34q\"}\n";
                write!(
                    client,
                    "{ok}Trailer: X-Stream-Error\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{said}\r\n0\r\n\
                     X-Stream-Error: the disk is gone\r\n\r\n",
                    said.len()
                )
            }
            Some(Lie::Wait) | None => {
                let mut node = TcpStream::connect(("127.0.0.1", node))?;
                write!(node, "{head}Connection: close\r\n\r\n")?;
                let mut to = node.try_clone()?;
                // A body whose length is not known goes on until its sender does not.
                let sent = std::thread::spawn(move || match is_chunked {
                    true => std::io::copy(&mut from, &mut to),
                    false => std::io::copy(&mut from.take(length), &mut to),
                });
                std::io::copy(&mut node, &mut client)?;
                client.shutdown(std::net::Shutdown::Both)?;
                drop(sent.join());
                Ok(())
            }
        }
    }
}

/// js-ipfs writes CIDs of version 1 in base58, Kubo in base32.
pub fn canonical(cid: &str) -> String {
    const BASE58: &[u8] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    const BASE32: &[u8] = b"abcdefghijklmnopqrstuvwxyz234567";
    let Some(digits) = cid.strip_prefix('z') else { return cid.to_owned() };
    let mut bytes = Vec::<u8>::new();
    for digit in digits.bytes() {
        let mut carry = BASE58.iter().position(|known| *known == digit).expect("base58");
        for byte in bytes.iter_mut().rev() {
            carry += usize::from(*byte) * 58;
            *byte = carry as u8;
            carry >>= 8;
        }
        if carry > 0 {
            bytes.insert(0, carry as u8);
        }
    }
    let (mut text, mut held, mut bits) = ("b".to_owned(), 0_u32, 0);
    for byte in bytes {
        (held, bits) = (held << 8 | u32::from(byte), bits + 8);
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(BASE32[(held >> bits) as usize & 31]));
        }
        held &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(char::from(BASE32[(held << (5 - bits)) as usize & 31]));
    }
    text
}

/// Bytes that nothing shrinks; the same for the same seed.
pub fn noise(seed: usize, length: usize) -> Vec<u8> {
    let mut state = seed as u64 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A system that backs up the node at `port`.
pub fn system(port: u16) -> System {
    let mut system = System::prepare_held(&[]);
    system.configure_agent(&format!(
        "  - {{ component: ipfs, kind: ipfs, name: ipfs, rpc: \"http://127.0.0.1:{port}\" }}\n"
    ));
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    system
}

/// What is in a node, and how it is read back.
pub struct Filled {
    /// By CID, the bytes.
    pub pinned: BTreeMap<String, Vec<u8>>,
    /// By path among the files, the bytes.
    pub files: BTreeMap<String, Vec<u8>>,
    /// A block that only one of the files needs.
    pub leaf: String,
    /// What is pinned without what it links to.
    pub direct: String,
}

/// How content is added whose leaves are raw.
pub const RAW: &str = "cid-version=1&raw-leaves=true";

/// Adds content of every kind, `count` small objects of it.
pub fn fill(node: &Node, count: usize) -> Filled {
    let mut contents: Vec<Vec<u8>> = (0..count).map(|n| noise(n, 500 + n)).collect();
    // Of several blocks, and twice in part.
    contents.push(noise(7_000, 900_000));
    contents.push([noise(7_000, 262_144), noise(7_001, 1_000)].concat());
    let mut cids = Vec::new();
    for some in contents.chunks(200) {
        cids.extend(node.add(some, &format!("pin=true&{RAW}")));
    }
    let old = vec![noise(8_000, 300_000)];
    cids.extend(node.add(&old, "pin=true"));
    contents.extend(old);
    let pinned = cids.into_iter().zip(contents).collect();
    let mut files = BTreeMap::new();
    let loose: Vec<Vec<u8>> = (0..5).map(|n| noise(9_000 + n, 2_000)).collect();
    let cids = node.add(&loose, &format!("pin=false&{RAW}"));
    node.call("files/mkdir?arg=/docs/deep&parents=true", &[]);
    let paths = ["/docs/f0", "/docs/f1", "/docs/f2", "/docs/deep/a b", "/top"];
    for (path, (cid, content)) in paths.iter().zip(cids.iter().zip(&loose)) {
        node.call(&format!("files/cp?arg=/ipfs/{cid}&arg={}", path.replace(' ', "%20")), &[]);
        files.insert((*path).to_owned(), content.clone());
    }
    let direct = node.add(&[noise(9_900, 600_000)], &format!("pin=false&{RAW}")).remove(0);
    node.call(&format!("pin/add?arg={direct}&recursive=false"), &[]);
    Filled { pinned, files, leaf: cids[0].clone(), direct }
}

impl Filled {
    /// What is pinned with all that it links to.
    pub fn pins(&self) -> BTreeSet<String> {
        self.pinned.keys().cloned().collect()
    }

    /// Every pin and every path gives what it did.
    pub fn is_in(&self, node: &Node) {
        let pins = node.pins("recursive");
        for (cid, content) in &self.pinned {
            assert!(pins.contains(cid), "{cid} is not pinned");
            assert!(node.cat(cid) == *content, "{cid} gives something else");
        }
        assert!(node.pins("direct").contains(&self.direct));
        self.files_are_in(node);
    }

    /// Every path gives what it did.
    pub fn files_are_in(&self, node: &Node) {
        for (path, content) in &self.files {
            assert!(node.read(path) == *content, "{path} gives something else");
        }
    }
}
