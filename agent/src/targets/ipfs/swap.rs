//! Replacing the files of a node by others, name by name: the RPC has no way to set their root. Pure.
//!
//! Must stay true: nothing goes but what was there when the swap began, as it was then; what is to be done follows
//! from what there is, so whatever step a crash cuts off, it is gone on with.

use std::collections::{BTreeMap, BTreeSet};

use formats::ipfs::{Cid, codec};
use serde::{Deserialize, Serialize};

use crate::sources::ipfs::files::Names;
use crate::sources::ipfs::hold;

/// Names in the root: all of them are on record while they are replaced.
const MOST_NAMES: usize = 100_000;

/// What the root of a node's files holds, without what is ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub(super) struct Tree(BTreeMap<String, Cid>);

impl TryFrom<BTreeMap<String, String>> for Tree {
    type Error = cid::Error;

    fn try_from(names: BTreeMap<String, String>) -> Result<Self, Self::Error> {
        let names = names.into_iter().map(|(name, cid)| Ok((name, cid.parse()?)));
        names.collect::<Result<_, _>>().map(Self)
    }
}

impl From<Tree> for BTreeMap<String, String> {
    fn from(Tree(names): Tree) -> Self {
        names.into_iter().map(|(name, cid)| (name, cid.to_string())).collect()
    }
}

impl Tree {
    /// Takes a list, or says why nobody can put it there by paths.
    pub(super) fn of(names: Names) -> Result<Self, String> {
        if names.len() > MOST_NAMES {
            return Err(format!("there are more than {MOST_NAMES} names in their root"));
        }
        let mut tree = BTreeMap::new();
        for (name, cid) in names.into_iter().filter(|(name, _)| !hold::is_ours(name)) {
            let is_one = |name: &String| !matches!(&**name, "" | "." | "..") && !name.contains(['/', '\0']);
            let name = String::from_utf8(name).ok().filter(is_one);
            let name = name.ok_or("a name among them is one that no path can have")?;
            if tree.contains_key(&name) {
                return Err(format!("the name {name:?} is among them twice"));
            }
            tree.insert(name, cid);
        }
        Ok(Self(tree))
    }

    /// A name whose content no node takes among its files.
    pub(super) fn odd(&self) -> Option<&str> {
        let is_odd = |cid: &Cid| !matches!(cid.codec(), codec::DAG_PB | codec::RAW);
        self.0.iter().find(|(_, cid)| is_odd(cid)).map(|(name, _)| name.as_str())
    }

    /// What would go for `to`, and was not so in `earlier`.
    pub(super) fn changed_since(&self, earlier: &Self, to: &Self) -> Vec<(String, Cid)> {
        let is_new =
            |name: &String, cid: &Cid| earlier.0.get(name) != Some(cid) && to.0.get(name) != Some(cid);
        let changed = self.0.iter().filter(|(name, cid)| is_new(name, cid));
        changed.map(|(name, cid)| (name.clone(), *cid)).collect()
    }
}

/// How far a swap is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// What was changed after the plan is put aside; nothing has gone.
    Keeping,
    /// Names are replaced.
    Swapping,
    /// All are; it can still be taken back.
    Swapped,
    /// It is taken back.
    Undoing,
}

/// A swap that is under way, as it is on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Swap {
    pub(super) restore: String,
    pub(super) from: Tree,
    pub(super) to: Tree,
    /// What was changed after the plan, and so is in no backup: it is put aside, in the folder [`Swap::aside`].
    pub(super) kept: Tree,
    pub(super) phase: Phase,
}

impl Swap {
    /// The name of the folder for what is put aside.
    pub(super) fn aside(&self) -> String {
        format!("neurashield-kept-{}", self.restore)
    }
}

impl From<Vec<(String, Cid)>> for Tree {
    fn from(names: Vec<(String, Cid)>) -> Self {
        Self(names.into_iter().collect())
    }
}

impl<'a> IntoIterator for &'a Tree {
    type Item = (&'a String, &'a Cid);
    type IntoIter = std::collections::btree_map::Iter<'a, String, Cid>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// One change of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// This goes, if it is still this.
    Remove(String, Cid),
    /// This comes, where nothing is.
    Put(String, Cid),
}

/// What is left to do, and names that somebody else has changed meanwhile: these stay.
pub(super) fn steps(now: &Tree, from: &Tree, to: &Tree) -> (Vec<Step>, Vec<String>) {
    let (mut steps, mut foreign) = (Vec::new(), Vec::new());
    let names: BTreeSet<&String> = from.0.keys().chain(to.0.keys()).collect();
    for name in names {
        let (is, was, becomes) = (now.0.get(name), from.0.get(name), to.0.get(name));
        if is == becomes {
            continue;
        }
        match is {
            Some(cid) if is == was => steps.push(Step::Remove(name.clone(), *cid)),
            Some(_) => {
                foreign.push(name.clone());
                continue;
            }
            None => {}
        }
        steps.extend(becomes.map(|cid| Step::Put(name.clone(), *cid)));
    }
    (steps, foreign)
}

#[cfg(test)]
mod tests {
    use super::*;
    use formats::ipfs::named;

    fn cid(n: u32) -> Cid {
        named(codec::RAW, &n.to_le_bytes())
    }

    fn tree(names: &[(&str, u32)]) -> Tree {
        Tree(names.iter().map(|(name, n)| ((*name).to_owned(), cid(*n))).collect())
    }

    fn apply(tree: &mut Tree, step: &Step) {
        match step {
            Step::Remove(name, cid) => assert_eq!(tree.0.remove(name), Some(*cid)),
            Step::Put(name, cid) => assert_eq!(tree.0.insert(name.clone(), *cid), None, "nothing is there"),
        }
    }

    #[test]
    fn wherever_it_is_cut_off_it_goes_on_to_its_end_or_back_to_its_beginning() {
        let from = tree(&[("gone", 1), ("other", 2), ("same", 3)]);
        let to = tree(&[("new", 4), ("other", 5), ("same", 3)]);
        let (all, foreign) = steps(&from, &from, &to);
        assert_eq!((all.len(), foreign.len()), (4, 0), "what is the same stays: {all:?}");
        for cut in 0..=all.len() {
            let mut halfway = from.clone();
            all[..cut].iter().for_each(|step| apply(&mut halfway, step));
            for (from, to) in [(&from, &to), (&to, &from)] {
                let mut now = halfway.clone();
                let (left, foreign) = steps(&now, from, to);
                left.iter().for_each(|step| apply(&mut now, step));
                assert_eq!((&now, foreign.len()), (to, 0), "{cut}");
                assert_eq!(steps(&now, from, to), (vec![], vec![]));
            }
        }
    }

    #[test]
    fn what_somebody_else_has_written_meanwhile_stays() {
        let from = tree(&[("gone", 1), ("other", 2)]);
        let to = tree(&[("other", 5), ("new", 6)]);
        let now = tree(&[("gone", 7), ("other", 2), ("new", 8), ("appeared", 9)]);
        let (left, foreign) = steps(&now, &from, &to);
        assert_eq!(left, [Step::Remove("other".to_owned(), cid(2)), Step::Put("other".to_owned(), cid(5))]);
        assert_eq!(foreign, ["gone", "new"]);
        // Before it begins, what no backup has is known.
        let planned = tree(&[("gone", 1), ("other", 2)]);
        let changed: Vec<String> =
            now.changed_since(&planned, &tree(&[("new", 8)])).into_iter().map(|(name, _)| name).collect();
        assert_eq!(changed, ["appeared", "gone"]);
    }

    #[test]
    fn names_that_are_no_names_are_not_taken_and_ours_are_not_seen() {
        for wrong in [&b"a/b"[..], b"", b".", b"..", b"a\0b", b"\xff", b"/"] {
            assert!(Tree::of(vec![(wrong.to_vec(), cid(1))]).is_err(), "{wrong:?}");
        }
        assert!(Tree::of(vec![(b"a".to_vec(), cid(1)), (b"a".to_vec(), cid(2))]).is_err());
        let ours = format!("{}ab", hold::PLACE).into_bytes();
        let names = vec![(b"...".to_vec(), cid(1)), (ours, cid(2)), (b"a b".to_vec(), cid(3))];
        let read = Tree::of(names).expect("names");
        assert_eq!(read, tree(&[("...", 1), ("a b", 3)]));
        let json = serde_json::to_string(&read).expect("JSON");
        assert_eq!(serde_json::from_str::<Tree>(&json).expect("a tree"), read);
        assert!(serde_json::from_str::<Tree>(r#"{"a":"no CID"}"#).is_err());
        assert_eq!(read.odd(), None);
        let odd = Tree::from(vec![("c".to_owned(), named(codec::DAG_CBOR, b"\xf6"))]);
        assert_eq!(odd.odd(), Some("c"));
    }
}
