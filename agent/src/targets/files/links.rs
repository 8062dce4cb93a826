//! Symlinks of an archive that lead out of the folder which it is restored into.
//!
//! Must stay true: a link counts as one that stays only if it does wherever the other links that stay lead. An entry lies
//! in folders and never behind a link, so `..` first climbs what the entry's path says; after a name that may be a
//! link itself nobody can say where `..` goes, and it counts as out.

use std::collections::BTreeMap;

use repository::archive::entry::{Entry, EntryKind};
use repository::archive::path::EntryPath;

/// So many links that climb are known by their paths, should another name of one come.
const MAX_CLIMBING: usize = 100_000;

/// Looks at links while an archive's entries go by.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Those that stay and begin with `..`, and how often.
    climbing: BTreeMap<EntryPath, usize>,
    /// There are more.
    is_more: bool,
}

impl Links {
    /// True if this entry is a link that leads out.
    pub(super) fn lead_out(&mut self, entry: &Entry) -> bool {
        let Some(depth) = entry.path.names().count().checked_sub(1) else {
            return matches!(entry.kind, EntryKind::Symlink { .. });
        };
        match &entry.kind {
            EntryKind::Symlink { target } => match climbs(target) {
                Some(0) => false,
                Some(count) if count <= depth => {
                    if self.climbing.len() < MAX_CLIMBING {
                        self.climbing.insert(entry.path.clone(), count);
                    } else {
                        self.is_more = true;
                    }
                    false
                }
                _ => true,
            },
            // Another name of a link climbs from another folder.
            EntryKind::HardLink { to } => match self.climbing.get(to) {
                Some(count) => *count > depth,
                None => self.is_more && depth == 0,
            },
            _ => false,
        }
    }
}

/// How many folders a target climbs before it names anything; none: it may lead anywhere.
fn climbs(target: &[u8]) -> Option<usize> {
    if target.starts_with(b"/") {
        return None;
    }
    let names: Vec<&[u8]> =
        target.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
    let first = names.iter().take_while(|name| **name == b"..").count();
    (!names[first..].contains(&&b".."[..])).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use repository::archive::entry::Metadata;

    fn entry(path: &str, kind: EntryKind) -> Entry {
        let path = EntryPath::new(path.as_bytes()).expect("a path");
        Entry { path, kind, metadata: Metadata::default() }
    }

    fn link(path: &str, target: &str) -> Entry {
        entry(path, EntryKind::Symlink { target: target.as_bytes().to_vec() })
    }

    #[test]
    fn links_stay_only_where_nothing_can_lead_them_out() {
        for (path, target, out) in [
            ("a", "b/c", false),
            ("a/b", "../c", false),
            ("a/b/c", "./../../d", false),
            ("a", "/etc/passwd", true),
            ("a", "..", true),
            ("a/b", "../../c", true),
            ("a/b", "../c/../../d", true),
            // `d` may be a link to the folder itself.
            ("a", "d/../x", true),
        ] {
            assert_eq!(Links::default().lead_out(&link(path, target)), out, "{path} -> {target}");
        }
    }

    #[test]
    fn another_name_of_a_link_leads_out_where_it_lies_higher() {
        let mut links = Links::default();
        assert!(!links.lead_out(&link("a/b/c", "../../d")));
        let to = || EntryKind::HardLink { to: EntryPath::new(b"a/b/c").expect("a path") };
        assert!(!links.lead_out(&entry("a/b/d", to())));
        assert!(links.lead_out(&entry("b", to())));
    }
}
