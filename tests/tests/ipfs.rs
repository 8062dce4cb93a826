//! IPFS, as a user sees it: what a node keeps is backed up while it is in use and comes back into the node, every
//! pin and path with the same bytes; a block that is withheld or false is named; a kill leaves no pin of ours.
//!
//! The node is js-ipfs, which speaks Kubo's RPC but for what docs/ipfs.md lists. `NEURASHIELD_IPFS=long` takes 2,000
//! objects.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tests::{Process, System, wait_for};

/// A node with its repository in a folder.
struct Node {
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
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = Command::new(tests::project().join("tests/engines/js-ipfs"))
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

    /// What a call answers.
    fn call(&self, call: &str, more: &[&str]) -> Vec<u8> {
        let address = format!("http://127.0.0.1:{}/api/v0/{call}", self.port);
        let output =
            Command::new("curl").args(["-sS", "-m", "60", "-X", "POST", &address]).args(more).output();
        let output = output.expect("curl runs");
        assert!(output.status.success(), "{call}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn lines(&self, call: &str, more: &[&str]) -> Vec<Value> {
        let said = String::from_utf8(self.call(call, more)).expect("text");
        said.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{call}: {said}")))
            .collect()
    }

    /// Adds files; their CIDs.
    fn add(&self, contents: &[Vec<u8>], options: &str) -> Vec<String> {
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

    fn pins(&self, kind: &str) -> BTreeSet<String> {
        let pins = self.lines(&format!("pin/ls?type={kind}&stream=true"), &[]);
        pins.iter().map(|pin| canonical(pin["Cid"].as_str().expect("a CID"))).collect()
    }

    fn cat(&self, cid: &str) -> Vec<u8> {
        self.call(&format!("cat?arg={cid}&timeout=20s"), &[])
    }

    fn local(&self) -> usize {
        self.lines("refs/local", &[]).len()
    }

    /// Nothing is left but an empty node.
    fn wipe(&self) {
        for kind in ["recursive", "direct"] {
            let pins: Vec<String> = self.pins(kind).into_iter().collect();
            for some in pins.chunks(100) {
                let pins: Vec<String> = some.iter().map(|cid| format!("arg={cid}")).collect();
                self.call(&format!("pin/rm?{}", pins.join("&")), &[]);
            }
        }
        for entry in self.lines("files/ls?arg=/", &[]) {
            for entry in entry["Entries"].as_array().into_iter().flatten() {
                let name = entry["Name"].as_str().expect("a name");
                self.call(&format!("files/rm?arg=/{name}&recursive=true"), &[]);
            }
        }
        self.call("repo/gc", &[]);
    }
}

/// Answers some calls itself, and passes the others on.
struct Between {
    port: u16,
    lies: Arc<Mutex<BTreeMap<String, Lie>>>,
}

#[derive(Clone)]
enum Lie {
    /// The answer is an error.
    Refuse,
    /// The answer is this.
    Say(Vec<u8>),
    /// The answer ends by an error in its trailer.
    EndBadly,
}

impl Between {
    fn and(node: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its number").port();
        let lies = Arc::new(Mutex::new(BTreeMap::new()));
        let known = Arc::clone(&lies);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let known = Arc::clone(&known);
                std::thread::spawn(move || drop(Self::serve(client, node, &known)));
            }
        });
        Self { port, lies }
    }

    /// What is said to calls whose path has `part` in it.
    fn lie(&self, part: &str, lie: Lie) {
        self.lies.lock().expect("no panic").insert(part.to_owned(), lie);
    }

    fn honest(&self) {
        self.lies.lock().expect("no panic").clear();
    }

    fn serve(client: TcpStream, node: u16, lies: &Mutex<BTreeMap<String, Lie>>) -> std::io::Result<()> {
        let mut from = BufReader::new(client.try_clone()?);
        let (mut head, mut length) = (String::new(), 0_u64);
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 || line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            head.push_str(&line);
        }
        let mut body = Vec::new();
        from.take(length).read_to_end(&mut body)?;
        let call = head.lines().next().unwrap_or_default().to_owned();
        let lie = lies
            .lock()
            .expect("no panic")
            .iter()
            .find(|(part, _)| call.contains(*part))
            .map(|(_, lie)| lie.clone());
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
            None => {
                let mut node = TcpStream::connect(("127.0.0.1", node))?;
                write!(node, "{head}Connection: close\r\n\r\n")?;
                node.write_all(&body)?;
                std::io::copy(&mut node, &mut client).map(drop)
            }
        }
    }
}

/// js-ipfs writes CIDs of version 1 in base58, Kubo in base32.
fn canonical(cid: &str) -> String {
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

fn is_long() -> bool {
    std::env::var("NEURASHIELD_IPFS").is_ok_and(|form| form == "long")
}

fn noise(seed: usize, length: usize) -> Vec<u8> {
    let mut state = seed as u64 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A system that backs up the node at `port`.
fn system(port: u16, more: &str) -> System {
    let mut system = System::prepare(&[]);
    system.configure_agent(&format!(
        "  - {{ component: ipfs, kind: ipfs, name: ipfs, rpc: \"http://127.0.0.1:{port}\"{more} }}\n"
    ));
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    system
}

/// What is in a node, and how it is read back.
struct Filled {
    /// By CID, the bytes.
    pinned: BTreeMap<String, Vec<u8>>,
    /// By path among the files, the bytes.
    files: BTreeMap<String, Vec<u8>>,
    /// A block that only one of the files needs.
    leaf: String,
    direct: String,
}

fn fill(node: &Node) -> Filled {
    let count = if is_long() { 2_000 } else { 60 };
    let mut contents: Vec<Vec<u8>> = (0..count).map(|n| noise(n, 500 + n)).collect();
    // Of several blocks, and twice in part.
    contents.push(noise(7_000, 900_000));
    contents.push([noise(7_000, 262_144), noise(7_001, 1_000)].concat());
    let mut cids = Vec::new();
    for some in contents.chunks(200) {
        cids.extend(node.add(some, "pin=true&cid-version=1&raw-leaves=true"));
    }
    let old = vec![noise(8_000, 300_000)];
    cids.extend(node.add(&old, "pin=true"));
    contents.extend(old);
    let pinned = cids.into_iter().zip(contents).collect();
    let mut files = BTreeMap::new();
    let loose: Vec<Vec<u8>> = (0..5).map(|n| noise(9_000 + n, 2_000)).collect();
    let cids = node.add(&loose, "pin=false&cid-version=1&raw-leaves=true");
    node.call("files/mkdir?arg=/docs/deep&parents=true", &[]);
    for (n, (cid, content)) in cids.iter().zip(&loose).enumerate() {
        let path = [format!("/docs/f{n}"), "/docs/deep/a b".to_owned(), "/top".to_owned()]
            [n.saturating_sub(2)]
        .clone();
        node.call(&format!("files/cp?arg=/ipfs/{cid}&arg={}", path.replace(' ', "%20")), &[]);
        files.insert(path, content.clone());
    }
    let direct = node.add(&[noise(9_900, 600_000)], "pin=false&cid-version=1&raw-leaves=true").remove(0);
    node.call(&format!("pin/add?arg={direct}&recursive=false"), &[]);
    Filled { pinned, files, leaf: cids[0].clone(), direct }
}

impl Filled {
    /// Every pin and every path gives what it did.
    fn is_in(&self, node: &Node) {
        let pins = node.pins("recursive");
        for (cid, content) in &self.pinned {
            assert!(pins.contains(cid), "{cid} is not pinned");
            assert!(node.cat(cid) == *content, "{cid} gives something else");
        }
        assert!(node.pins("direct").contains(&self.direct));
        for (path, content) in &self.files {
            let read = node.call(&format!("files/read?arg={}", path.replace(' ', "%20")), &[]);
            assert!(read == *content, "{path} gives something else");
        }
    }
}

fn archive(system: &System) -> Value {
    system.nsctl(&["show", "latest", "-o", "json"]).expect(0).json()["archives"][0].clone()
}

#[test]
fn what_a_node_keeps_is_backed_up_in_use_and_comes_back_into_it() {
    let node = Node::start();
    let filled = fill(&node);
    let between = Between::and(node.port);
    let mut system = system(node.port, "");

    // While content is added, pinned and unpinned.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                let cid = node.add(&[noise(20_000 + n, 3_000)], "pin=true&cid-version=1").remove(0);
                node.call(&format!("pin/rm?arg={cid}"), &[]);
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        system.nsctl(&["backup"]).expect(0);
        stop.store(true, Ordering::Relaxed);
    });
    let before: BTreeSet<String> = filled.pinned.keys().cloned().collect();
    assert_eq!(node.pins("recursive"), before, "no pin of ours is left");
    system.run(&["backup"]);
    let made = archive(&system);
    assert_eq!((made["kind"].as_str(), made["consistency"].as_str()), (Some("ipfs"), Some("bracketed")));
    let described = system.nsctl(&["cat", "latest", "ipfs", "node.json"]).expect(0).json();
    // Leaves of the block that is pinned directly, and what was unpinned meanwhile.
    assert!(described["Unprotected"].as_u64() > Some(2) && described["MissingOrFalse"] == 0, "{described:#}");
    // What did not change is not stored once more.
    system.run(&["backup"]);
    let made = archive(&system);
    assert!(
        made["counts"]["stored_bytes"].as_u64().or(made["stored_bytes"].as_u64()) < Some(200_000),
        "{made:#}"
    );
    let listed = system.nsctl(&["ls", "latest", "ipfs", "-R"]).expect(0).out;
    for shown in ["mfs/docs/deep/a b", "pins/direct/", "blocks.car", "config.json", "pins/recursive/baf"] {
        assert!(listed.contains(shown), "{shown}: {listed}");
    }
    system.nsctl(&["verify", "--depth", "opened"]).expect(0);
    let config = system.nsctl(&["cat", "latest", "ipfs", "config.json"]).expect(0).out;
    assert!(config.contains("PeerID") && !config.contains("PrivKey"), "{config}");

    // A pin that is there stays, and so does what the node had beside.
    node.wipe();
    assert!(node.local() < 10, "{} blocks are left", node.local());
    let later = node.add(&[b"later".to_vec()], "pin=true").remove(0);
    node.call("files/mkdir?arg=/docs", &[]);
    let plan = system.nsctl(&["restore", "--timestamp", "latest", "--plan"]).expect(0).out;
    assert!(plan.contains("mfs") && plan.contains("leaves every pin and key that the node has"), "{plan}");
    assert_eq!(node.pins("recursive").len(), 1, "a plan changes nothing");
    system.nsctl(&["restore", "--timestamp", "latest", "--yes"]).expect(0);
    filled.is_in(&node);
    let mut expected = before;
    expected.insert(later);
    assert_eq!(node.pins("recursive"), expected, "what was pinned, and no pin of ours");

    // Killed while it reads, or while it writes: the next start takes our pin away.
    system.kill_agent();
    let file = system.root().join("agent.yaml");
    let slow = fs::read_to_string(&file).expect("read").replace("\" }", "\", limits: { read: 200kB } }");
    fs::write(&file, slow).expect("written");
    system.start_agent();
    system.await_agent();
    let job = system.start_job(&["backup"]);
    wait_for("our pin", 30, || (node.pins("recursive").len() > expected.len()).then_some(()));
    system.kill_agent();
    assert_ne!(node.pins("recursive"), expected);
    system.start_agent();
    wait_for("our pin to go", 30, || (node.pins("recursive") == expected).then_some(()));
    system.await_agent();
    system.nsctl(&["cancel", &job]);
    system.await_end(&job);
    wait_for("our pin to go, cancelled", 30, || (node.pins("recursive") == expected).then_some(()));

    lies(&mut system, &node, &between, &filled);
}

/// A node that withholds or falsifies, that ends an answer badly, or that is not there.
fn lies(system: &mut System, node: &Node, between: &Between, filled: &Filled) {
    let file = system.root().join("agent.yaml");
    let through = fs::read_to_string(&file)
        .expect("read")
        .replace(&format!("127.0.0.1:{}", node.port), &format!("127.0.0.1:{}", between.port))
        .replace(", limits: { read: 200kB }", "");
    fs::write(&file, through).expect("written");
    system.kill_agent();
    system.start_agent();
    system.await_agent();
    let leaf = format!("block/get?offline=true&arg={}", filled.leaf);
    let cases = [
        (leaf.as_str(), Lie::Refuse, "does not give this block"),
        (&leaf, Lie::Say(b"something else".to_vec()), "not what its name says"),
        (&leaf, Lie::EndBadly, "ended its answer by an error"),
    ];
    for (call, lie, told) in cases {
        between.lie(call, lie);
        let ended = system.nsctl(&["backup"]).expect(3);
        let shown = format!("{}{}", ended.out, ended.err);
        assert!(shown.contains(told) && shown.contains(&filled.leaf), "{told}: {shown}");
        assert!(!format!("{}{}", ended.out, ended.err).contains("panicked"));
        between.honest();
    }
    between.lie("refs/local", Lie::EndBadly);
    let ended = system.nsctl(&["backup"]);
    assert_ne!(ended.code, 0);
    assert!(format!("{}{}", ended.out, ended.err).contains("ended its answer by an error"), "{}", ended.err);
    between.honest();
    system.nsctl(&["backup"]).expect(0);

    // To a folder: the file of blocks is one that a node takes.
    let place = system.root().join("restored");
    system.run(&["restore", "--timestamp", "latest", "--to", place.to_str().expect("UTF-8"), "--yes"]);
    let restored = place.join("ipfs");
    let target = fs::read_link(restored.join("mfs/top")).expect("a link");
    assert!(target.starts_with("/ipfs/"), "{target:?}");
    node.wipe();
    import(node, &restored.join("blocks.car"));
    for (cid, content) in filled.pinned.iter().take(70) {
        assert!(node.cat(cid) == *content, "{cid} gives something else");
    }
    assert!(!system.log(Process::Agent).contains("panicked"));
}

fn import(node: &Node, file: &Path) {
    let said = node.lines("dag/import?pin-roots=true", &["-F", &format!("file=@{}", file.display())]);
    assert!(!said.is_empty() && said.iter().all(|line| line["Root"]["PinErrorMsg"] == ""), "{said:?}");
}
