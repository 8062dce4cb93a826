//! What an agent may serve, and what it may be called: the bounds of a join key.
//!
//! Must stay true: what cannot be read allows nothing; a `*` never crosses the `/` between component and
//! source.

use std::fmt;
use std::str::FromStr;

use glob::{MatchOptions, Pattern};
use repository::names::SourceId;

/// The patterns stand in certificates.
const MAX_TEXT: usize = 512;
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// A pattern cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no pattern: write letters, digits, . _ - and * or ?, e.g. {1}, in all at most 512 letters")]
pub struct InvalidPattern(String, &'static str);

/// Which sources an agent may serve: those that one of the patterns `component/source` fits; without
/// patterns, any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceBounds(Vec<Pattern>);

impl SourceBounds {
    /// From patterns as people write them.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, InvalidPattern> {
        let parse = |text: &S| -> Result<Pattern, InvalidPattern> {
            let text = text.as_ref();
            match text.split_once('/') {
                Some((component, source)) if !component.is_empty() && !source.is_empty() => {
                    parse_plain(text, "models/*")
                }
                _ => Err(InvalidPattern(text.to_owned(), "models/*")),
            }
        };
        let bounds = Self(patterns.iter().map(parse).collect::<Result<_, _>>()?);
        match bounds.to_string() {
            text if text.len() <= MAX_TEXT => Ok(bounds),
            text => Err(InvalidPattern(text, "models/*")),
        }
    }

    /// True if an agent with these bounds may serve the source.
    pub fn allow(&self, source: &SourceId) -> bool {
        let name = source.to_string();
        self.0.is_empty() || self.0.iter().any(|pattern| pattern.matches_with(&name, OPTIONS))
    }

    /// True if anything may be served.
    pub fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// As people write them.
    pub fn patterns(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

/// With a blank between the patterns.
impl fmt::Display for SourceBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.patterns().join(" "))
    }
}

impl FromStr for SourceBounds {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        Self::new(&text.split_ascii_whitespace().collect::<Vec<_>>())
    }
}

/// A pattern for the names of agents.
pub fn name_pattern(text: &str) -> Result<Pattern, InvalidPattern> {
    match text {
        "" => parse_plain("*", "node-*"),
        text if text.contains('/') => Err(InvalidPattern(text.to_owned(), "node-*")),
        text => parse_plain(text, "node-*"),
    }
}

fn parse_plain(text: &str, example: &'static str) -> Result<Pattern, InvalidPattern> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "._-/*?".contains(letter);
    let wrong = || InvalidPattern(text.to_owned(), example);
    if text.len() > MAX_TEXT || text.contains("**") || !text.chars().all(plain) {
        return Err(wrong());
    }
    Pattern::new(text).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> SourceId {
        text.parse().expect("a source")
    }

    #[test]
    fn bounds_allow_what_fits_and_nothing_else() {
        let bounds: SourceBounds = "models/* configs/node-?".parse().expect("patterns");
        for (name, fits) in [
            ("models/a", true),
            ("configs/node-1", true),
            ("configs/node-12", false),
            ("database/models", false),
            ("modelsx/a", false),
        ] {
            assert_eq!(bounds.allow(&source(name)), fits, "{name}");
        }
        assert!(SourceBounds::default().allow(&source("database/main")));
        assert_eq!(bounds.to_string().parse(), Ok(bounds));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for wrong in
            ["models", "/", "models/", "a/b c", "**/x", "[a]/x", "ä/x", &format!("a/{}", "x".repeat(600))]
        {
            assert!(SourceBounds::new(&[wrong]).is_err(), "{wrong}");
        }
        assert!(name_pattern("a/*").is_err() && name_pattern("node-*").is_ok());
    }
}
