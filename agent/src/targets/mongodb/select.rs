//! Which collections are restored, and under which names. Pure.

use std::fmt;

use repository::archive::path::EntryPath;

use super::archive::Archived;
use crate::sources::mongodb::names::file_name;
use crate::targets::files::PathPatterns;

/// A collection or a view in its database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name {
    pub(crate) database: String,
    pub(crate) collection: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.collection)
    }
}

/// What was asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// `DB` or `DB.COLLECTION`, in which `*` stands for any letters, and `\*` for itself; none: all, or what is
    /// renamed.
    pub(crate) include: Vec<String>,
    /// Old and new, each `DB` or `DB.COLLECTION`.
    pub(crate) renames: Vec<(String, String)>,
    /// Over the paths in the archive.
    pub(crate) paths: Option<PathPatterns>,
    /// What is live and not in the backup goes.
    pub(crate) drops_others: bool,
}

impl Wanted {
    /// Where it goes; none: it is not restored.
    pub(super) fn target(&self, archived: &Archived) -> Option<Name> {
        let name = &archived.name;
        let full = name.to_string();
        let renamed = self.renamed(name);
        let is_included = match self.include.as_slice() {
            [] => self.renames.is_empty() || renamed.is_some(),
            some => some.iter().any(|pattern| matches(pattern, name, &full)),
        };
        let is_chosen = self.paths.as_ref().is_none_or(|paths| has_path(paths, name));
        (is_included && is_chosen).then(|| renamed.unwrap_or_else(|| name.clone()))
    }

    /// True if everything in this live database is meant, and not some of its collections.
    pub(super) fn is_whole(&self, database: &str) -> bool {
        let all = format!("{database}.*");
        self.paths.is_none()
            && self.renames.is_empty()
            && (self.include.is_empty() || self.include.iter().any(|one| *one == database || *one == all))
    }

    /// A rename of the collection counts before one of its database.
    fn renamed(&self, name: &Name) -> Option<Name> {
        let full = name.to_string();
        if let Some((_, to)) = self.renames.iter().find(|(from, _)| *from == full) {
            let (database, collection) = to.split_once('.').unwrap_or((to, &name.collection));
            return Some(Name { database: database.to_owned(), collection: collection.to_owned() });
        }
        let (_, to) = self.renames.iter().find(|(from, _)| *from == name.database)?;
        Some(Name { database: to.clone(), collection: name.collection.clone() })
    }

    /// What cannot be meant, a line each.
    pub(super) fn faults(&self) -> Vec<String> {
        let wrong = |text: &str| text.is_empty() || text.starts_with('.') || text.ends_with('.');
        let mut faults: Vec<String> = (self.include.iter().filter(|one| wrong(one)))
            .map(|one| format!("--include {one} names neither a database nor DB.COLLECTION"))
            .collect();
        for (from, to) in &self.renames {
            if wrong(from) || wrong(to) || (!from.contains('.') && to.contains('.')) {
                faults.push(format!("--rename {from}={to} is neither DB=DB nor DB.COLLECTION=DB.COLLECTION"));
            }
        }
        faults
    }
}

fn has_path(paths: &PathPatterns, name: &Name) -> bool {
    let file = file_name(&name.collection);
    let path = |path: String| EntryPath::new(path.as_bytes()).is_ok_and(|path| paths.names(&path));
    path(name.database.clone())
        || path(format!("{}/{file}.bson", name.database))
        || path(format!("{}/{file}.metadata.json", name.database))
}

fn matches(pattern: &str, name: &Name, full: &str) -> bool {
    pattern == name.database || like(pattern, full)
}

/// `*` stands for any letters, `\*` for itself.
fn like(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    if let Some(head) = head.strip_suffix('\\') {
        let text = text.strip_prefix(head).and_then(|text| text.strip_prefix('*'));
        return text.is_some_and(|text| like(rest, text));
    }
    let Some(text) = text.strip_prefix(head) else { return false };
    let mut ends = (0..=text.len()).filter(|at| text.is_char_boundary(*at));
    ends.any(|at| like(rest, &text[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::mongodb::archive::Kind;

    fn target(wanted: &Wanted, name: &str) -> Option<String> {
        let (database, collection) = name.split_once('.').expect("a whole name");
        let name = Name { database: database.to_owned(), collection: collection.to_owned() };
        let (options, indexes) = Default::default();
        let archived =
            Archived { name, kind: Kind::Collection, options, indexes, documents: None, is_described: true };
        wanted.target(&archived).map(|name| name.to_string())
    }

    fn wanted(include: &[&str], renames: &[(&str, &str)]) -> Wanted {
        Wanted {
            include: include.iter().map(|one| (*one).to_owned()).collect(),
            renames: renames.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect(),
            ..Wanted::default()
        }
    }

    #[test]
    fn what_is_included_is_restored_and_nothing_else() {
        let all = wanted(&[], &[]);
        assert_eq!(target(&all, "shop.orders").as_deref(), Some("shop.orders"));
        let some = wanted(&["shop.orders", "log.2026*", "users"], &[]);
        for name in ["shop.orders", "log.2026-11", "users.a.b"] {
            assert_eq!(target(&some, name).as_deref(), Some(name));
        }
        for name in ["shop.orders2", "log.2025", "users2.a", "shopXorders.x"] {
            assert_eq!(target(&some, name), None, "{name}");
        }
        let star = wanted(&[r"shop.a\*b*"], &[]);
        for (name, is_meant) in
            [("shop.a*b", true), ("shop.a*bc", true), ("shop.axb", false), (r"shop.a\*b", false)]
        {
            assert_eq!(target(&star, name).is_some(), is_meant, "{name}");
        }
        let paths = PathPatterns::new(&["shop/sp+ace.*".to_owned()]).expect("a pattern");
        let by_path = Wanted { paths: Some(paths), ..Wanted::default() };
        assert!(target(&by_path, "shop.sp ace").is_some() && target(&by_path, "shop.space").is_none());
    }

    #[test]
    fn what_is_renamed_goes_under_its_new_name_and_alone_where_nothing_else_is_asked_for() {
        let copy = wanted(&[], &[("shop", "copy"), ("shop.orders", "shop.orders_old")]);
        assert_eq!(target(&copy, "shop.items").as_deref(), Some("copy.items"));
        assert_eq!(target(&copy, "shop.orders").as_deref(), Some("shop.orders_old"));
        assert_eq!(target(&copy, "users.a"), None);
        let both = wanted(&["users"], &[("users.a", "users.b")]);
        assert_eq!(target(&both, "users.a").as_deref(), Some("users.b"));
        assert_eq!(target(&both, "users.c").as_deref(), Some("users.c"));
    }

    #[test]
    fn only_a_whole_database_can_lose_what_the_backup_lacks() {
        assert!(wanted(&[], &[]).is_whole("shop") && wanted(&["shop.*"], &[]).is_whole("shop"));
        assert!(!wanted(&["shop.orders"], &[]).is_whole("shop"));
        assert!(!wanted(&["shop"], &[]).is_whole("users"));
        assert!(!wanted(&[], &[("shop", "copy")]).is_whole("copy"));
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        assert_eq!(wanted(&["shop", "a.b.c"], &[("a", "b"), ("a.b", "c.d")]).faults(), [""; 0]);
        assert_eq!(wanted(&["", ".a"], &[("a", "b.c"), ("a.", "b")]).faults().len(), 4);
    }
}
