//! Which collections came, went or were renamed between two looks at a server.
//!
//! Must stay true: a collection whose documents may be in an archive under neither of its names is told as missing.

use std::collections::{BTreeMap, BTreeSet};

use mongodb::bson::raw::RawDocument;

use super::names::file_name;
use crate::sources::{Problem, ProblemKind};
use repository::archive::path::EntryPath;

/// A collection that is read: its database and its name.
type Name = (String, String);

/// The collections that are read, and what the server knows each by whatever its name is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Collections(BTreeMap<Name, Option<Vec<u8>>>);

/// What became of collections.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) came: Vec<Name>,
    pub(super) went: Vec<Name>,
    /// Under which name it is now.
    pub(super) renamed: Vec<(Name, Name)>,
}

impl Collections {
    /// One more, as `listCollections` gives it.
    pub(super) fn add(&mut self, database: &str, collection: &str, listed: &RawDocument) {
        let uuid = listed.get_document("info").and_then(|info| info.get_binary("uuid"));
        let uuid = uuid.ok().map(|uuid| uuid.bytes.to_vec());
        self.0.insert((database.to_owned(), collection.to_owned()), uuid);
    }

    /// What has changed since `before`. What has the name of another that is gone is none of it: that name is read.
    /// Where the other is still there under some name, the two have changed places, and either may have been read
    /// twice or not at all.
    pub(super) fn since(&self, before: &Self) -> Changes {
        let mut was: BTreeMap<&[u8], &Name> = BTreeMap::new();
        was.extend(before.0.iter().filter_map(|(name, uuid)| Some((uuid.as_deref()?, name))));
        let mut changes = Changes::default();
        let is: BTreeSet<&[u8]> = self.0.values().filter_map(Option::as_deref).collect();
        let is_the_same_or_alone = |name: &Name, uuid: Option<&[u8]>| match before.0.get(name) {
            None => false,
            Some(old) => old.as_deref() == uuid || old.as_deref().is_none_or(|old| !is.contains(old)),
        };
        for (name, uuid) in &self.0 {
            if is_the_same_or_alone(name, uuid.as_deref()) {
                continue;
            }
            match uuid.as_deref().and_then(|uuid| was.get(uuid)) {
                Some(from) => changes.renamed.push(((*from).clone(), name.clone())),
                None => changes.came.push(name.clone()),
            }
        }
        let is_renamed = |name: &Name| changes.renamed.iter().any(|(from, _)| from == name);
        let gone = before.0.keys().filter(|name| !self.0.contains_key(*name) && !is_renamed(name));
        changes.went = gone.cloned().collect();
        changes
    }
}

impl Changes {
    /// What people should know of an archive that was made from the list of before: of one of an instant, whatever came
    /// after it is no part.
    pub(super) fn problems(self, is_of_instant: bool) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |(database, collection): &Name, kind, cause: String| {
            let path = EntryPath::new(format!("{database}/{}.bson", file_name(collection)).as_bytes());
            problems.push(Problem { path: path.unwrap_or_else(|_| EntryPath::root()), kind, cause });
        };
        for (from, to) in &self.renamed {
            let cause = format!(
                "it was renamed while the server was read, and was {}.{} before: it may be missing under both names",
                from.0, from.1
            );
            add(to, ProblemKind::Unreadable, cause);
        }
        for name in &self.went {
            let cause =
                "it was dropped while the server was read: what is archived of it may be a part, or nothing";
            add(name, ProblemKind::Vanished, cause.to_owned());
        }
        for name in self.came.iter().filter(|_| !is_of_instant) {
            let cause = "it came while the server was read: the next backup has it";
            add(name, ProblemKind::LeftOut, cause.to_owned());
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::spec::BinarySubtype;
    use mongodb::bson::{Binary, rawdoc};

    fn of(names: &[(&str, u8)]) -> Collections {
        let mut all = Collections::default();
        for (name, uuid) in names {
            let uuid = Binary { subtype: BinarySubtype::Uuid, bytes: vec![*uuid; 16] };
            all.add("shop", name, &rawdoc! { "name": *name, "info": { "uuid": uuid } });
        }
        all
    }

    #[test]
    fn what_was_renamed_is_missing_and_what_came_or_went_is_told() {
        let name = |name: &str| ("shop".to_owned(), name.to_owned());
        let before = of(&[("a", 1), ("b", 2), ("c", 3), ("live", 4), ("next", 5)]);
        // `next` took the place of `live`: that name is read, whichever of the two it was.
        let after = of(&[("a", 1), ("bb", 2), ("d", 6), ("live", 5)]);
        let changes = after.since(&before);
        assert_eq!(changes.renamed, [(name("b"), name("bb"))]);
        assert_eq!(changes.came, [name("d")]);
        assert_eq!(changes.went, [name("c"), name("next")]);
        let told = |is_of_instant| -> Vec<String> {
            let problems = after.since(&before).problems(is_of_instant);
            problems.into_iter().map(|one| format!("{} {:?}", one.path, one.kind)).collect()
        };
        let fuzzy = [
            "shop/bb.bson Unreadable",
            "shop/c.bson Vanished",
            "shop/next.bson Vanished",
            "shop/d.bson LeftOut",
        ];
        assert_eq!(told(false), fuzzy);
        assert_eq!(told(true), fuzzy[..3]);
        assert_eq!(before.since(&before), Changes::default());

        // `a` and `b` have changed places: one of them may have been read twice.
        let after = of(&[("a", 2), ("b", 1), ("c", 3), ("live", 4), ("next", 5)]);
        let changes = after.since(&before);
        assert_eq!(changes.renamed, [(name("b"), name("a")), (name("a"), name("b"))]);
        assert_eq!((changes.came, changes.went), (Vec::new(), Vec::new()));
    }
}
