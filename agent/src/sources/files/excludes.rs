//! What a source leaves out by pattern, in the syntax of `.gitignore`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use repository::archive::path::EntryPath;

/// Patterns of what is left out, as in a `.gitignore` at the archive's root: a pattern with a `/` at its
/// start or in its middle starts at the root, any other is looked for in every folder; a `/` at its end
/// means folders alone; `!` takes an entry back; the last pattern that matches decides. What lies in a
/// folder that is left out cannot be taken back, since nobody looks there.
#[derive(Debug, Clone)]
pub struct Excludes {
    patterns: Gitignore,
    /// As they were given.
    given: Arc<[String]>,
}

/// A pattern that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("the exclude pattern `{pattern}` is wrong: {why}")]
pub struct WrongPattern {
    /// As it was given.
    pub pattern: String,
    /// What is wrong with it.
    pub why: String,
}

impl Default for Excludes {
    fn default() -> Self {
        Self::none()
    }
}

impl Excludes {
    /// Nothing is left out.
    pub fn none() -> Self {
        Self { patterns: Gitignore::empty(), given: Arc::default() }
    }

    /// What `patterns` say is left out.
    pub fn new(patterns: &[String]) -> Result<Self, WrongPattern> {
        let mut builder = GitignoreBuilder::new("");
        for pattern in patterns {
            let wrong = |why: &str| WrongPattern { pattern: pattern.clone(), why: why.to_owned() };
            match pattern.trim() {
                "" | "!" | "/" | "!/" => return Err(wrong("it names nothing")),
                text if text.starts_with('#') => {
                    return Err(wrong("it is a comment; a name that starts with # is written \\#"));
                }
                _ => {}
            }
            builder.add_line(None, pattern).map_err(|error| wrong(&cause(error)))?;
        }
        let wrong = |error| WrongPattern { pattern: patterns.join(" "), why: cause(error) };
        Ok(Self { patterns: builder.build().map_err(wrong)?, given: patterns.into() })
    }

    /// As they were given.
    pub(crate) fn patterns(&self) -> &[String] {
        &self.given
    }

    /// True if `path` itself is left out. The archive's root never is.
    pub fn matches(&self, path: &EntryPath, is_folder: bool) -> bool {
        !path.is_root()
            && !self.patterns.is_empty()
            && self.patterns.matched(Path::new(OsStr::from_bytes(path.as_bytes())), is_folder).is_ignore()
    }
}

/// Without the pattern, which our own error names.
fn cause(error: ignore::Error) -> String {
    match error {
        ignore::Error::Glob { err, .. } => err,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excluded(patterns: &[&str], path: &[u8], is_folder: bool) -> bool {
        let path = EntryPath::new(path).expect("a path");
        let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        Excludes::new(&patterns).expect("patterns").matches(&path, is_folder)
    }

    #[test]
    fn a_bare_name_is_looked_for_in_every_folder() {
        assert!(excluded(&["*.tmp"], b"a/b/x.tmp", false));
        assert!(excluded(&["*.tmp"], b"x.tmp", false));
        assert!(!excluded(&["*.tmp"], b"x.tmp2", false));
    }

    #[test]
    fn a_slash_at_the_end_means_folders_alone() {
        assert!(excluded(&["cache/"], b"a/cache", true));
        assert!(!excluded(&["cache/"], b"a/cache", false));
    }

    #[test]
    fn a_pattern_with_a_slash_starts_at_the_root_and_a_star_stays_in_its_folder() {
        assert!(excluded(&["/logs/*"], b"logs/x", false));
        assert!(!excluded(&["/logs/*"], b"logs/a/x", false));
        assert!(!excluded(&["logs/*"], b"a/logs/x", false));
        assert!(excluded(&["logs/**"], b"logs/a/x", false));
        assert!(excluded(&["a/**/z"], b"a/z", false) && excluded(&["a/**/z"], b"a/b/c/z", false));
        assert!(excluded(&["/top"], b"top", false) && !excluded(&["/top"], b"a/top", false));
    }

    #[test]
    fn the_last_pattern_that_matches_decides() {
        assert!(!excluded(&["*.log", "!kept.log"], b"a/kept.log", false));
        assert!(excluded(&["!kept.log", "*.log"], b"a/kept.log", false));
    }

    #[test]
    fn names_that_are_not_text_are_matched_as_bytes() {
        assert!(excluded(&["*.tmp"], b"\xff\xfe.tmp", false));
        assert!(excluded(&["\\#x", "\\!y"], b"#x", false));
        assert!(!excluded(&["*"], b"", true), "the root");
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_its_reason() {
        for (pattern, why) in
            [("[z-a]", "range"), ("", "names nothing"), ("# note", "comment"), ("!", "nothing")]
        {
            let error = Excludes::new(&[pattern.to_owned()]).expect_err(pattern).to_string();
            assert!(error.contains(why) && error.contains(pattern), "{error}");
        }
    }
}
