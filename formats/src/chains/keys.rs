//! The keys in a node's folder, by what losing or doubling them does.
//!
//! | tier | which | what happens |
//! |---|---|---|
//! | validator | `priv_validator_key.json` | two nodes that sign with it are punished |
//! | account | below `keystore`, `keyring-file`, `keyring-test` | whoever has it can spend, or sign as its owner |
//! | node | `nodekey`, `node_key.json`, `jwtsecret` | two nodes with one name on their network; lost, it is made anew |
//!
//! Copies are given without them, unless somebody asks: a copy is looked at by more people, and on more machines, than
//! the node. A restore in place has them all.

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// By it a node is known on its network.
    Node,
    /// By it an account signs.
    Account,
    /// By it a validator signs blocks.
    Validator,
}

const NODE: [&[u8]; 3] = [b"nodekey", b"node_key.json", b"jwtsecret"];
const VALIDATOR: &[u8] = b"priv_validator_key.json";
const FOLDERS: [&[u8]; 3] = [b"keystore", b"keyring-file", b"keyring-test"];

/// The tier of the key that lies at `path`, if one does by its name.
pub fn tier(path: &[u8]) -> Option<Tier> {
    let mut names = path.rsplit(|byte| *byte == b'/');
    let name = names.next()?;
    if name == VALIDATOR {
        Some(Tier::Validator)
    } else if names.any(|folder| FOLDERS.contains(&folder)) {
        Some(Tier::Account)
    } else {
        NODE.contains(&name).then_some(Tier::Node)
    }
}

/// True below what cosmovisor has copied before an upgrade: what lies there is nobody's state and nobody's key.
pub fn is_set_aside(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|name| name.starts_with(b"data-backup-"))
}

/// What is left out of a copy of an archive of this kind, where nobody asks for keys.
pub fn left_out(kind: &str, with_keys: bool) -> fn(&[u8]) -> bool {
    if kind == "blockchain" && !with_keys { |path| tier(path).is_some() } else { |_| false }
}

/// True if somebody who names `named` asks for the key at `path`: for itself, or for the folder of keys around it.
pub fn is_asked_for(path: &[u8], named: &[u8]) -> bool {
    let Some(below) = path.strip_prefix(named) else { return false };
    let is_folder = || named.split(|byte| *byte == b'/').any(|folder| FOLDERS.contains(&folder));
    below.is_empty() || (below.starts_with(b"/") && is_folder())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_by_where_they_lie() {
        for (path, expected) in [
            ("geth/nodekey", Some(Tier::Node)),
            ("geth/jwtsecret", Some(Tier::Node)),
            ("config/node_key.json", Some(Tier::Node)),
            ("keystore/UTC--2026-01-01--ab", Some(Tier::Account)),
            ("msp/keystore/a/b_sk", Some(Tier::Account)),
            ("keyring-file/x.info", Some(Tier::Account)),
            ("keystore", None),
            ("config/priv_validator_key.json", Some(Tier::Validator)),
            ("keystore/priv_validator_key.json", Some(Tier::Validator)),
            ("data/priv_validator_state.json", None),
            ("chaindata/000001.ldb", None),
            ("keystores/x", None),
        ] {
            assert_eq!(tier(path.as_bytes()), expected, "{path}");
        }
    }

    #[test]
    fn who_names_a_key_or_its_folder_asks_for_it() {
        let asks = |path: &str, named: &str| is_asked_for(path.as_bytes(), named.as_bytes());
        assert!(asks("geth/nodekey", "geth/nodekey") && asks("keystore/a", "keystore"));
        assert!(asks("node/keystore/a/b", "node/keystore/a"));
        assert!(!asks("geth/nodekey", "geth") && !asks("node/keystore/a", "node"));
        assert!(!asks("keystore/ab", "keystore/a"));
    }
}
