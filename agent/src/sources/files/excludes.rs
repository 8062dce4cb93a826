//! What a source leaves out: patterns over archive paths.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use repository::archive::path::EntryPath;

/// Patterns of what is left out. `*` and `?` stand for characters of one name, `**` for any number of
/// folders. A pattern without `/` is looked for in every folder; one with `/` starts at the archive's
/// root.
#[derive(Debug, Clone, Default)]
pub struct Excludes {
    patterns: GlobSet,
}

/// A pattern that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("the exclude pattern `{pattern}` is wrong")]
pub struct WrongPattern {
    /// As it was given.
    pub pattern: String,
    /// What is wrong with it.
    #[source]
    pub source: globset::Error,
}

impl Excludes {
    /// Nothing is left out.
    pub fn none() -> Self {
        Self::default()
    }

    /// What one of `patterns` matches is left out.
    pub fn new(patterns: &[String]) -> Result<Self, WrongPattern> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let wrong = |source| WrongPattern { pattern: pattern.clone(), source };
            let anchored = match pattern.trim_end_matches('/') {
                name if !name.contains('/') => format!("**/{name}"),
                path => path.trim_start_matches('/').to_owned(),
            };
            set.add(GlobBuilder::new(&anchored).literal_separator(true).build().map_err(wrong)?);
        }
        let wrong = |source| WrongPattern { pattern: patterns.join(" "), source };
        Ok(Self { patterns: set.build().map_err(wrong)? })
    }

    /// True if `path` itself matches. The archive's root never does.
    pub fn matches(&self, path: &EntryPath) -> bool {
        !path.is_root() && self.patterns.is_match(Path::new(OsStr::from_bytes(path.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excluded(pattern: &str, path: &[u8]) -> bool {
        let path = EntryPath::new(path).expect("a path");
        Excludes::new(&[pattern.to_owned()]).expect("a pattern").matches(&path)
    }

    #[test]
    fn a_bare_name_is_looked_for_in_every_folder() {
        assert!(excluded("*.tmp", b"a/b/x.tmp"));
        assert!(excluded("*.tmp", b"x.tmp"));
        assert!(excluded("cache/", b"a/cache"));
    }

    #[test]
    fn a_pattern_with_a_slash_starts_at_the_root_and_a_star_stays_in_its_folder() {
        assert!(excluded("/logs/*", b"logs/x"));
        assert!(!excluded("/logs/*", b"logs/a/x"));
        assert!(!excluded("logs/*", b"a/logs/x"));
        assert!(excluded("logs/**", b"logs/a/x"));
    }

    #[test]
    fn names_that_are_not_text_are_matched_as_bytes() {
        assert!(excluded("*.tmp", b"\xff\xfe.tmp"));
        assert!(!excluded("*.tmp", b""));
    }

    #[test]
    fn a_wrong_pattern_is_named() {
        let wrong = Excludes::new(&["a[".to_owned()]).expect_err("an open bracket");
        assert_eq!(wrong.to_string(), "the exclude pattern `a[` is wrong");
    }
}
