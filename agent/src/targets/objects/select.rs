//! Which objects of an archive are restored, with which of their keys, and into which namespace. Pure.

use std::collections::BTreeSet;
use std::fmt;

use repository::archive::path::EntryPath;

use serde_json::Value;

use crate::config::Objects;
use crate::kubernetes::text_at;
use crate::sources::configs::{FOLDER, SUFFIX};
use crate::targets::files::PathPatterns;

/// An object in its namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) namespace: String,
    /// `ConfigMap`, `Deployment.apps`.
    pub(crate) kind: String,
    pub(crate) name: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.kind, self.name)
    }
}

impl Name {
    /// Of the object whose file this is.
    pub(crate) fn of_file(path: &EntryPath) -> Option<Self> {
        let path = std::str::from_utf8(path.as_bytes()).ok()?;
        let below = path.strip_prefix(FOLDER)?.strip_prefix('/')?.strip_suffix(SUFFIX)?;
        let mut parts = below.split('/');
        match (parts.next()?, parts.next()?, parts.next()?, parts.next()) {
            (namespace, kind, name, None) => {
                Some(Self { namespace: namespace.into(), kind: kind.into(), name: name.into() })
            }
            _ => None,
        }
    }

    /// True if the object says the same of itself.
    pub(crate) fn is_of(&self, object: &Value) -> bool {
        let group = text_at(object, "/apiVersion").split_once('/').map(|(group, _)| group);
        let kind = text_at(object, "/kind");
        let full = group.map_or_else(|| kind.to_owned(), |group| format!("{kind}.{group}"));
        full == self.kind
            && text_at(object, "/metadata/name") == self.name
            && text_at(object, "/metadata/namespace") == self.namespace
    }

    /// True for the kinds that have keys.
    pub(crate) fn has_keys(&self) -> bool {
        has_keys(&self.kind)
    }
}

fn has_keys(kind: &str) -> bool {
    matches!(kind, "ConfigMap" | "Secret")
}

/// What was asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// `[NAMESPACE/]KIND/NAME[:KEY]`; none: all.
    pub(crate) include: Vec<String>,
    /// Over the paths in the archive.
    pub(crate) paths: Option<PathPatterns>,
    /// All of them go into this namespace.
    pub(crate) to_namespace: Option<String>,
    /// Fields that others have set are taken from them.
    pub(crate) force: bool,
    /// What a safety backup holds; none: nobody asks.
    pub(crate) held: Option<Objects>,
}

/// What of an object is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    /// These keys.
    Keys(BTreeSet<String>),
}

impl Wanted {
    /// Whether nobody chose among what the archive has.
    pub(crate) fn is_everything(&self) -> bool {
        self.include.is_empty() && self.paths.is_none()
    }

    /// What of this object is restored; none: it is not.
    pub(crate) fn part(&self, path: &EntryPath, name: &Name) -> Option<Part> {
        let is_chosen = self.paths.as_ref().is_none_or(|paths| {
            let mut above = Some(path.clone());
            std::iter::from_fn(|| {
                let this = above.take()?;
                above = this.parent();
                Some(this)
            })
            .any(|one| !one.is_root() && paths.names(&one))
        });
        if !is_chosen {
            return None;
        }
        if self.include.is_empty() {
            return Some(Part::Whole);
        }
        let included = self.include.iter().filter_map(|text| Included::of(text));
        let keys: Vec<Option<&str>> = included.filter(|one| one.names(name)).map(|one| one.key).collect();
        match keys.as_slice() {
            [] => None,
            keys if keys.contains(&None) => Some(Part::Whole),
            keys => Some(Part::Keys(keys.iter().flatten().map(|key| (*key).to_owned()).collect())),
        }
    }

    /// Where it goes.
    pub(crate) fn target(&self, name: &Name) -> Name {
        let namespace = self.to_namespace.clone().unwrap_or_else(|| name.namespace.clone());
        Name { namespace, ..name.clone() }
    }

    /// What cannot be meant, a line each.
    pub(crate) fn faults(&self) -> Vec<String> {
        let wrong = self.include.iter().filter(|text| Included::of(text).is_none());
        let told = wrong.map(|text| {
            format!(
                "--include {text} is not [NAMESPACE/]KIND/NAME, or [NAMESPACE/]KIND/NAME:KEY of a ConfigMap or Secret"
            )
        });
        told.collect()
    }
}

struct Included<'a> {
    namespace: Option<&'a str>,
    kind: &'a str,
    name: &'a str,
    key: Option<&'a str>,
}

impl<'a> Included<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let (namespace, kind, rest) = match parts.as_slice() {
            [kind, rest] => (None, *kind, *rest),
            [namespace, kind, rest] => (Some(*namespace), *kind, *rest),
            _ => return None,
        };
        // Names of some other kinds have a colon in them.
        let (name, key) = match rest.split_once(':') {
            Some((name, key)) if has_keys(kind) => (name, Some(key)),
            _ => (rest, None),
        };
        let is_empty = kind.is_empty() || name.is_empty() || key == Some("") || namespace == Some("");
        (!is_empty).then_some(Self { namespace, kind, name, key })
    }

    fn names(&self, name: &Name) -> bool {
        let kind = name.kind.split_once('.').map_or(name.kind.as_str(), |(kind, _)| kind);
        self.namespace.is_none_or(|namespace| namespace == name.namespace)
            && (self.kind == name.kind || self.kind == kind)
            && self.name == name.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> (EntryPath, Name) {
        let path = EntryPath::new(path.as_bytes()).expect("a path");
        let name = Name::of_file(&path).expect("an object");
        (path, name)
    }

    fn including(all: &[&str]) -> Wanted {
        Wanted { include: all.iter().map(|one| (*one).to_owned()).collect(), ..Wanted::default() }
    }

    #[test]
    fn objects_are_chosen_by_name_and_keys_by_theirs() {
        let (path, app) = file("kubernetes/shop/ConfigMap/app.json");
        let part = |wanted: &Wanted| wanted.part(&path, &app);
        let keys = |all: &[&str]| Some(Part::Keys(all.iter().map(|key| (*key).to_owned()).collect()));
        assert_eq!(part(&Wanted::default()), Some(Part::Whole));
        assert_eq!(part(&including(&["ConfigMap/app"])), Some(Part::Whole));
        assert_eq!(part(&including(&["shop/ConfigMap/app"])), Some(Part::Whole));
        assert_eq!(part(&including(&["web/ConfigMap/app", "ConfigMap/ap", "Secret/app"])), None);
        assert_eq!(part(&including(&["ConfigMap/app:a.b", "shop/ConfigMap/app:C"])), keys(&["C", "a.b"]));
        assert_eq!(part(&including(&["ConfigMap/app:a", "ConfigMap/app"])), Some(Part::Whole));
        let (path, role) = file("kubernetes/shop/Role.rbac.authorization.k8s.io/system:x.json");
        assert_eq!(including(&["Role/system:x"]).part(&path, &role), Some(Part::Whole));
        let (path, web) = file("kubernetes/shop/Deployment.apps/web.json");
        assert_eq!(including(&["Deployment.apps/web"]).part(&path, &web), Some(Part::Whole));
    }

    #[test]
    fn paths_choose_files_and_folders() {
        let (path, app) = file("kubernetes/shop/ConfigMap/app.json");
        for (glob, is_chosen) in [
            ("kubernetes/shop", true),
            ("kubernetes/*/ConfigMap/app.json", true),
            ("kubernetes/web", false),
            ("kubernetes/shop/Secret/*", false),
        ] {
            let paths = PathPatterns::new(&[glob.to_owned()]).expect("a pattern");
            let wanted = Wanted { paths: Some(paths), ..Wanted::default() };
            assert_eq!(wanted.part(&path, &app).is_some(), is_chosen, "{glob}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        for wrong in ["app", "ConfigMap/", "/app", "a/b/c/d", "ConfigMap/app:", "/ConfigMap/app"] {
            assert_eq!(including(&[wrong]).faults().len(), 1, "{wrong}");
        }
        assert!(including(&["ConfigMap/app:key", "shop/Secret/db"]).faults().is_empty());
    }

    #[test]
    fn an_object_that_is_not_what_its_path_names_is_none() {
        let (_, app) = file("kubernetes/shop/ConfigMap/app.json");
        let of = |text: &str| app.is_of(&serde_json::from_str(text).expect("JSON"));
        let right =
            r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "app", "namespace": "shop"}}"#;
        assert!(of(right));
        for wrong in [
            "[]",
            "\"x\"",
            "{}",
            r#"{"metadata": 1}"#,
            &right.replace("app", "other"),
            &right.replace("v1", "x/v1"),
        ] {
            assert!(!of(wrong), "{wrong}");
        }
    }

    #[test]
    fn only_files_of_objects_are_objects() {
        for path in
            ["kubernetes/shop/ConfigMap/app", "other/shop/ConfigMap/app.json", "kubernetes/a/b/c/d.json"]
        {
            assert_eq!(Name::of_file(&EntryPath::new(path.as_bytes()).expect("a path")), None, "{path}");
        }
    }
}
