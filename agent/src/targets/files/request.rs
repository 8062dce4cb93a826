//! What is to be restored, and to where.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use repository::archive::path::EntryPath;
use repository::content::IdKey;

use super::disk::Steps;
use super::signer::Signed;
use crate::sources::files::Rules;
use crate::targets::{CancelFlag, Progress};

/// A restore of one archive.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// Names the staging folder `.neurashield-<id>`: 1 to 64 letters, digits and `-`.
    pub restore_id: String,
    /// Where to.
    pub place: Place,
    /// What of the archive.
    pub selection: Selection,
    /// What earlier restores there have kept of older states stays: this one takes one of them back. Of
    /// [`Selection::Paths`] what the patterns name and the archive lacks goes, since that restore has made it.
    pub keeps_older: bool,
    /// What the source leaves out of its backups, and so stays live in a folder that is restored in place.
    pub stays: Option<Rules>,
    /// Up to which height a validator's key has signed, as the operator states.
    pub signer_height: Option<u64>,
    /// The highest that any backup has seen of the archive's validator.
    pub signer_seen: Option<Signed>,
    /// The same of every validator that was ever seen in the source: where the archive's key does not come, one of these
    /// may be the one that is live.
    pub signer_seen_here: Option<Signed>,
    /// It is the folder of a chain's node, and nobody has asked for its keys.
    pub leaves_keys: bool,
}

/// Where a restore goes.
#[derive(Debug, Clone)]
pub enum Place {
    /// Into a live folder, which was the archive's root. Entry by entry is swapped; with
    /// [`Selection::Whole`], what is live and not in the archive is moved away too. `lost+found` and
    /// folders of other restores at the top are left alone.
    InPlace {
        /// The live folder.
        root: PathBuf,
    },
    /// Into a folder that does not exist or is empty. Folders above it are made.
    NewFolder {
        /// The folder that becomes the archive's root.
        path: PathBuf,
    },
    /// Listed files back to where they were. The archive's root is `root` (`/`, but for tests). Folders
    /// that are there stay as they are; all else is swapped one by one; nothing is taken away.
    Listed {
        /// What archive paths start from.
        root: PathBuf,
    },
}

/// What of an archive is restored.
#[derive(Debug, Clone)]
pub enum Selection {
    /// All of it.
    Whole,
    /// What one of the patterns matches, with all below it.
    Paths(PathPatterns),
}

/// Patterns over archive paths. `*` and `?` stay within a name, `**` stands for any number of folders.
#[derive(Debug, Clone)]
pub struct PathPatterns {
    set: GlobSet,
    /// Those that are a path and nothing else.
    literals: HashSet<String>,
    /// The others as they were given: each may be a path as `nsctl ls` shows it, of a name with such letters in it.
    shown: HashSet<String>,
    shapes: Vec<Shape>,
}

/// Where what a pattern names can lie.
#[derive(Debug, Clone)]
struct Shape {
    /// The names before the first that is a pattern.
    fixed: Vec<Vec<u8>>,
    /// How many names it has; none: any number, as far as can be told.
    depth: Option<usize>,
}

impl Shape {
    const SPECIAL: [char; 5] = ['*', '?', '[', '{', '\\'];

    fn of(pattern: &str) -> Self {
        let is_plain = |name: &&str| !name.contains(Self::SPECIAL);
        let fixed = pattern.split('/').take_while(is_plain).map(|name| name.as_bytes().to_vec()).collect();
        let is_open = pattern.contains("**") || pattern.contains(['[', '{', '\\']);
        Self { fixed, depth: (!is_open).then(|| pattern.split('/').count()) }
    }

    fn may_name_below(&self, folder: &EntryPath) -> bool {
        let is_on_the_way = folder.names().zip(&self.fixed).all(|(name, fixed)| name == fixed);
        let at = folder.names().count();
        let is_above = self.depth.is_none_or(|depth| at < depth);
        is_on_the_way && is_above
    }
}

/// A pattern that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("the path pattern `{pattern}` is wrong")]
pub struct WrongPathPattern {
    /// As it was given.
    pub pattern: String,
    /// What is wrong with it.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl PathPatterns {
    /// Patterns from the archive's root; a `/` at their start or end changes nothing. One that is nothing else is an
    /// error: it comes from a variable that is not set, and would name all that there is.
    pub fn new(patterns: &[String]) -> Result<Self, WrongPathPattern> {
        let mut set = GlobSetBuilder::new();
        let mut shapes = Vec::new();
        let trimmed = patterns.iter().map(|pattern| pattern.trim_matches('/'));
        let (literals, shown) = trimmed.map(str::to_owned).partition(|path| !path.contains(Shape::SPECIAL));
        for pattern in patterns {
            let wrong = |source| WrongPathPattern { pattern: pattern.clone(), source };
            let trimmed = pattern.trim_matches('/');
            if trimmed.is_empty() {
                return Err(wrong("it names no path; `**` names all that there is".into()));
            }
            let glob = GlobBuilder::new(trimmed).literal_separator(true).build();
            set.add(glob.map_err(|error| wrong(error.into()))?);
            shapes.push(Shape::of(trimmed));
        }
        let wrong =
            |error: globset::Error| WrongPathPattern { pattern: patterns.join(" "), source: error.into() };
        set.build().map(|set| Self { set, literals, shown, shapes }).map_err(wrong)
    }

    /// True if one of them is this path, letter by letter.
    pub(super) fn spell(&self, path: &EntryPath) -> bool {
        std::str::from_utf8(path.as_bytes()).is_ok_and(|path| self.literals.contains(path))
    }

    /// True if one of them asks for the key at `path`: by its name, or that of its folder of keys.
    pub(super) fn ask_for_key(&self, path: &EntryPath) -> bool {
        self.literals.iter().any(|named| formats::chains::is_asked_for(path.as_bytes(), named.as_bytes()))
    }

    /// True if one of them is a path to something of this name, letter by letter.
    pub(super) fn spell_a(&self, name: &[u8]) -> bool {
        self.literals.iter().any(|path| path.as_bytes().rsplit(|byte| *byte == b'/').next() == Some(name))
    }

    /// True if one of them may name something below `folder`.
    fn may_hold(&self, folder: &EntryPath) -> bool {
        self.shapes.iter().any(|shape| shape.may_name_below(folder))
    }

    /// True if one of them names this path itself: as a pattern, or as the path is shown, escapes and all.
    pub fn names(&self, path: &EntryPath) -> bool {
        self.set.is_match(Path::new(OsStr::from_bytes(path.as_bytes())))
            || (!self.shown.is_empty() && self.shown.contains(&path.to_string()))
    }
}

impl Selection {
    /// True if `path` is selected by itself; what lies below such a path is selected with it.
    pub(super) fn names(&self, path: &EntryPath) -> bool {
        match self {
            Selection::Whole => true,
            Selection::Paths(patterns) => patterns.names(path),
        }
    }

    /// True if something below `folder` may be selected by itself.
    pub(super) fn may_hold(&self, folder: &EntryPath) -> bool {
        match self {
            Selection::Whole => true,
            Selection::Paths(patterns) => patterns.may_hold(folder),
        }
    }
}

/// What a restore works with.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// The key of the archive's domain: every file is checked against its content id.
    pub id_key: &'a IdKey,
    /// Is told how far it is.
    pub progress: &'a dyn Progress,
    /// Stops it before the swap.
    pub cancel: &'a CancelFlag,
    /// Is asked before each change of the file system: [`super::NoFaults`], but in tests.
    pub steps: &'a dyn Steps,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_looks_where_no_pattern_leads() {
        let may = |pattern: &str, folder: &str| {
            let patterns = PathPatterns::new(&[pattern.to_owned()]).expect("a pattern");
            patterns.may_hold(&EntryPath::new(folder.as_bytes()).expect("a path"))
        };
        assert!(
            may("etc/x", "etc") && !may("etc/x", "var") && !may("etc/x", "etc/x") && !may("etc/x", "etc/y")
        );
        assert!(may("/a/*/c/", "a") && may("a/*/c", "a/b") && !may("a/*/c", "a/b/c") && !may("a/*/c", "b"));
        assert!(may("a/**", "a/b/c") && !may("a/**", "b") && may("**/x", "any/where"));
        assert!(may("a/{b,c/d}", "a/c") && may("[ab]/x", "c/d") && !may("*", "a"));
    }

    #[test]
    fn a_path_as_it_is_shown_names_itself() {
        let names = |pattern: &str, path: &[u8]| {
            let patterns = PathPatterns::new(&[pattern.to_owned()]).expect("a pattern");
            patterns.names(&EntryPath::new(path).expect("a path"))
        };
        assert!(names("sub/bad\\xffname", b"sub/bad\xffname") && names("/new\\nline/", b"new\nline"));
        assert!(names("a\\\\b", b"a\\b") && names("star*[x].txt", b"star*[x].txt"));
        assert!(names("star*[x].txt", b"starryx.txt") && !names("star*[x].txt", b"starry.txt"));
        assert!(names("\\*", b"*") && !names("\\*", b"a") && !names(".", b""));
    }
}
