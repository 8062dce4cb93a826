//! The keys in a node's folder: none of their bytes are in a copy that nobody has asked for with keys.

use std::fs;
use std::path::{Path, PathBuf};

use tests::System;

use crate::system;

/// Each key by its path, and what it holds.
const KEYS: [(&str, &str); 6] = [
    ("geth/nodekey", "bytes-of-the-node-key"),
    ("geth/jwtsecret", "bytes-of-the-engine-secret"),
    ("config/node_key.json", "bytes-of-the-comet-node-key"),
    ("keystore/UTC--2026--aa", "bytes-of-the-account-key"),
    ("keyring-file/me.info", "bytes-of-the-keyring"),
    ("config/priv_validator_key.json", "bytes-of-the-validator-key"),
];
const NODE_AND_ACCOUNTS: usize = 5;
/// Other names of some of them, by which nobody would know what they are.
const OTHER_NAMES: [(&str, &str); 2] = [
    ("geth/nodekey", "geth/nodekey.old"),
    ("config/priv_validator_key.json", "config/priv_validator_key.old"),
];

fn node(folder: &Path) -> PathBuf {
    let node = folder.join("node");
    for (path, bytes) in KEYS {
        let path = node.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, bytes).expect("written");
    }
    for (key, name) in OTHER_NAMES {
        fs::hard_link(node.join(key), node.join(name)).expect("linked");
    }
    fs::create_dir_all(node.join("data")).expect("made");
    fs::write(node.join("data/blocks"), "blocks").expect("written");
    node
}

/// Which keys' bytes lie anywhere in a file or a folder.
fn found(at: &Path) -> Vec<&'static str> {
    let mut all = Vec::new();
    let mut waiting = vec![at.to_owned()];
    while let Some(path) = waiting.pop() {
        match path.is_dir() {
            true => {
                waiting.extend(fs::read_dir(&path).expect("listed").map(|entry| entry.expect("one").path()))
            }
            false => all.extend(fs::read(&path).expect("read")),
        }
    }
    let holds = |bytes: &str| all.windows(bytes.len()).any(|part| part == bytes.as_bytes());
    KEYS.iter().filter(|(_, bytes)| holds(bytes)).map(|(path, _)| *path).collect()
}

#[test]
fn a_copy_holds_no_byte_of_a_key_unless_somebody_asks_for_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = node(folder.path());
    let system = system(&node, "");
    system.run(&["backup"]);
    let paths = |count: usize| KEYS[..count].iter().map(|(path, _)| *path).collect::<Vec<_>>();
    let copied = |name: &str, more: &[&str]| {
        let to = folder.path().join(name);
        let words = ["restore", "--timestamp", "latest", "--yes", "--to", to.to_str().expect("UTF-8")];
        let said = system.nsctl(&[&words[..], more].concat()).expect(0);
        (to, format!("{}{}", said.out, said.err))
    };
    let (copy, said) = copied("copy", &[]);
    assert_eq!(found(&copy), [""; 0]);
    assert!(said.contains("6 keys of the node are left out") && said.contains("--with-keys"), "{said}");
    assert!(said.contains("is a validator's key and is left out"), "{said}");
    assert_eq!(fs::read(copy.join("blockchain/data/blocks")).expect("there"), b"blocks");
    assert!(copy.join("blockchain/keystore").is_dir(), "a node finds its folders");
    let (copy, _) = copied("asked", &["--with-keys"]);
    assert_eq!(found(&copy), paths(NODE_AND_ACCOUNTS), "a validator's asks for more");
    assert!(copy.join("blockchain/geth/nodekey.old").exists());
    assert!(!copy.join("blockchain/config/priv_validator_key.old").exists());
    let (copy, _) = copied("named", &["--path", "geth/nodekey", "--path", "keystore", "--path", "config/*"]);
    assert_eq!(found(&copy), ["geth/nodekey", "keystore/UTC--2026--aa"]);
    let (copy, _) = copied("moved", &["--with-keys", "--signer-height", "7"]);
    assert_eq!(found(&copy), paths(KEYS.len()));

    exported(&system, folder.path());
    offline(&system, folder.path());

    // In place it is the node itself that comes back.
    for path in KEYS.iter().map(|(path, _)| path).chain(OTHER_NAMES.iter().map(|(_, name)| name)) {
        fs::remove_file(node.join(path)).expect("lost");
    }
    // No state comes with the validator's, so that it is on its owner that it does not sign anything twice.
    let words = ["restore", "--timestamp", "latest", "--yes", "--no-safety-backup"];
    let refused = system.nsctl(&words);
    let said = format!("{}{}", refused.out, refused.err);
    assert!(refused.code != 0 && said.contains("has no state of a validator"), "{said}");
    assert_eq!(found(&node), [""; 0]);
    let done = system.nsctl(&[&words[..], &["--signer-height", "7"]].concat()).expect(0);
    assert!(format!("{}{}", done.out, done.err).contains("says 7 or more"), "{}{}", done.out, done.err);
    assert_eq!(found(&node), paths(KEYS.len()));
    let inode =
        |name: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(node.join(name)).expect("there"));
    OTHER_NAMES.iter().for_each(|(key, name)| assert_eq!(inode(key), inode(name), "{name}"));
}

fn exported(system: &System, folder: &Path) {
    for (name, more, expected) in [("a.tar", &[][..], 0), ("b.tar", &["--with-keys"][..], KEYS.len())] {
        let tar = folder.join(name);
        let words = ["export", "latest", "blockchain", "-o", tar.to_str().expect("UTF-8")];
        let said = system.nsctl(&[&words[..], more].concat()).expect(0);
        assert_eq!(found(&tar).len(), expected, "{}", said.err);
        let holds =
            |name: &str| fs::read(&tar).expect("there").windows(name.len()).any(|at| at == name.as_bytes());
        assert!(OTHER_NAMES.iter().all(|(_, name)| holds(name) == (expected > 0)));
        assert_eq!(said.err.contains("are left out"), expected == 0, "{}", said.err);
    }
}

/// The same with no controller: straight from the repository.
fn offline(system: &System, folder: &Path) {
    let key = folder.join("key");
    fs::copy(system.recovery_key(), &key).expect("its owner keeps it");
    let key = ["--recovery-key-file", key.to_str().expect("UTF-8")];
    for (name, more, expected) in [("c", &[][..], 0), ("d", &["--with-keys"][..], NODE_AND_ACCOUNTS)] {
        let to = folder.join(name);
        let words = ["--timestamp", "latest", "--to", to.to_str().expect("UTF-8")];
        system.offline("restore", &[&words[..], &key, more].concat());
        assert_eq!(found(&to).len(), expected);
        assert!(to.join("blockchain/data/blocks").exists());
    }
    let tar = folder.join("e.tar");
    let words = ["latest", "blockchain", "-o", tar.to_str().expect("UTF-8")];
    system.offline("export", &[&words[..], &key].concat()).expect(0);
    assert_eq!(found(&tar), [""; 0]);
}
