//! Profiles that no engine of ours has opened: folders made like theirs come back by the rules of their engine, and
//! are told to be untested.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use serde_json::Value;
use tests::{System, wait_for};

use crate::{Writer, consistency, left_in, quiesce, restored, system};

/// Writes files with what lies above them.
fn make(node: &Path, files: &[(&str, &str)]) {
    for (file, text) in files {
        let path = node.join(file);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    }
}

/// A LevelDB of 400 numbers, which goleveldb has written.
fn leveldb(to: &Path) {
    fs::create_dir_all(to).expect("made");
    for file in fs::read_dir(tests::project().join("formats/tests/leveldb")).expect("listed") {
        let file = file.expect("a file").path();
        fs::copy(&file, to.join(file.file_name().expect("a name"))).expect("copied");
    }
}

/// That the manifest says of which profile it is, and that it is untested.
fn is_told_untested(system: &System, profile: &str) {
    let name = system.nsctl(&["show", "latest", "-o", "json"]).expect(0).json()["name"].clone();
    let path = system.repository().join(name.as_str().expect("a name")).join("blockchain/chain.json");
    let manifest: Value = serde_json::from_slice(&fs::read(path).expect("there")).expect("JSON");
    let remark = manifest["remarks"][0].as_str().unwrap_or_default().to_owned();
    assert!(remark.starts_with(&format!("profile {profile}, untested: ")), "{manifest:#}");
}

#[test]
fn folders_like_those_of_fabric_and_rocksdb_are_known_come_back_whole_and_are_told_to_be_untested() {
    let wal = "etcdraft/wal/main";
    let orderer: Vec<(String, &str)> = vec![
        ("chains/main/blockfile_000000".into(), "blocks"),
        (format!("{wal}/0000000000000000-0000000000000000.wal"), "over"),
        (format!("{wal}/0000000000000001-0000000000000009.wal"), "written"),
        ("etcdraft/snapshot/main/0000000000000002-0000000000000009.snap".into(), "a snapshot"),
    ];
    let orderer: Vec<_> = orderer.iter().map(|(name, text)| (name.as_str(), *text)).collect();
    let peer = [
        ("ledgersData/chains/chains/main/blockfile_000000", "blocks that are over"),
        ("ledgersData/chains/chains/main/blockfile_000001", "blocks"),
        ("msp/signcerts/cert.pem", "a certificate"),
    ];
    // As RocksDB 9 names its files; its table format is not looked at here.
    let rocks = [
        ("db/CURRENT", "MANIFEST-000005\n"),
        ("db/IDENTITY", "b6b5c1c2"),
        ("db/OPTIONS-000007", "[Version]\n"),
        ("db/000004.log", "a log"),
        ("db/LOG", "what it told"),
    ];
    let cases = [
        ("fabric-orderer", &orderer[..], &["index"][..]),
        ("fabric-peer", &peer[..], &["ledgersData/chains/index", "ledgersData/stateLeveldb"][..]),
        ("rocksdb", &rocks[..], &["db"][..]),
    ];
    for (profile, files, stores) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let (node, scratch) = (folder.path().join("node"), folder.path().join("restored"));
        stores.iter().for_each(|store| leveldb(&node.join(store)));
        // RocksDB's own names lie beside the tables.
        let current = fs::read_to_string(node.join(stores[0]).join("CURRENT")).expect("there");
        make(&node, files);
        if profile == "rocksdb" {
            fs::write(node.join("db/CURRENT"), current).expect("written");
        }
        if profile == "fabric-orderer" {
            fs::write(node.join(wal).join("0.tmp"), [0; 4096]).expect("written");
        }
        for more in ["", &format!(", profile: {profile}")] {
            let system = system(&node, more);
            let job = system.run(&["backup"]);
            assert_eq!(job["parts"][0]["problems"], serde_json::json!([]), "{profile}{more}");
            assert_eq!(consistency(&system), "bracketed", "{profile}{more}");
            is_told_untested(&system, profile);
            let there = restored(&system, &scratch);
            for (name, text) in files.iter().filter(|(name, _)| !name.ends_with("CURRENT")) {
                assert_eq!(fs::read_to_string(there.join(name)).expect(name), *text, "{profile}{more}");
            }
            for name in stores
                .iter()
                .flat_map(|store| ["CURRENT", "000005.ldb"].map(|name| format!("{store}/{name}")))
            {
                assert_eq!(
                    fs::read(there.join(&name)).expect(&name),
                    fs::read(node.join(&name)).expect(&name)
                );
            }
            assert!(!there.join(wal).join("0.tmp").exists(), "what is spare is not backed up");
            assert_eq!(left_in(&node), [""; 0]);
            fs::remove_dir_all(&scratch).expect("removed");
        }
    }
}

/// Appends numbers to one file and then the other, for as long as it lives.
struct Appending(Child);

impl Drop for Appending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Appending {
    fn to(files: [&Path; 2]) -> Self {
        let text = "exec 3>>\"$0\" 4>>\"$1\"; i=0; while :; do i=$((i+1)); echo $i >&3; echo $i >&4; done";
        let mut command = Command::new("sh");
        Self(command.args(["-c", text]).args(files).spawn().expect("it starts"))
    }
}

/// The last number of a file in which they follow each other; of a torn line the one before.
fn count(file: &Path) -> u64 {
    let text = fs::read_to_string(file).expect("restored");
    let lines: Vec<&str> = text[..text.rfind('\n').map_or(0, |end| end + 1)].lines().collect();
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(line.parse(), Ok(at + 1), "{}", file.display());
    }
    lines.len() as u64
}

#[test]
fn a_peers_blocks_and_indexes_that_are_written_all_the_time_are_of_one_moment() {
    let folder = tempfile::tempdir().expect("a folder");
    let (node, scratch) = (folder.path().join("node"), folder.path().join("restored"));
    let chains = node.join("ledgersData/chains");
    let blocks = ["a", "b"].map(|channel| chains.join("chains").join(channel).join("blockfile_000001"));
    for file in &blocks {
        fs::create_dir_all(file.parent().expect("a parent")).expect("made");
        fs::write(file.with_file_name("blockfile_000000"), "blocks that are over").expect("written");
    }
    let index = Writer::start("leveldb", &chains.join("index"));
    let appending = Appending::to([&blocks[0], &blocks[1]]);
    // Slow, so that it is read long after it was held.
    let system = system(&node, ", limits: { read: 4MB }");
    for backup in 0..2 {
        let job = system.run(&["backup"]);
        assert_eq!(job["parts"][0]["problems"], serde_json::json!([]), "backup {backup}");
        // Where writers get no time for a while, a bracket succeeds: that is one moment, too.
        let how = (consistency(&system), quiesce(&system)["by"].clone());
        let ways = [("quiesced", "pause"), ("bracketed", "bracket")];
        assert!(ways.iter().any(|way| how == (way.0.into(), way.1.into())), "backup {backup}: {how:?}");
        is_told_untested(&system, "fabric-peer");
        let there = restored(&system, &scratch).join("ledgersData/chains");
        index.check(&there.join("index")).unwrap_or_else(|why| panic!("backup {backup}: {why}"));
        let [a, b] =
            ["a", "b"].map(|channel| count(&there.join("chains").join(channel).join("blockfile_000001")));
        assert!(a > 100 && (a == b || a == b + 1), "backup {backup}: {a} and {b} are of different moments");
        let over = fs::read(there.join("chains/a/blockfile_000000")).expect("restored");
        assert_eq!(over, b"blocks that are over");
        wait_for("it goes on", 10, || (fs::metadata(&blocks[0]).ok()?.len() > a * 2).then_some(()));
        fs::remove_dir_all(&scratch).expect("removed");
    }
    drop(appending);
}
