//! What can be wrong with a configuration, said with the place.

use std::path::PathBuf;

use super::tree::Origin;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration file {}", file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is longer than any configuration.
    #[error("the configuration file {} is longer than {limit} bytes", file.display())]
    TooLong {
        /// Which file.
        file: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// A value, a key or the file's syntax is wrong. Printed as `file:line:column: key: reason`.
    #[error("{}", place(origin, path, reason))]
    Invalid {
        /// Where it was written.
        origin: Origin,
        /// Which setting, e.g. `sources[1].path`; empty for the file as a whole.
        path: String,
        /// What is wrong, and what is allowed.
        reason: String,
    },
}

fn place(origin: &Origin, path: &str, reason: &str) -> String {
    match (origin, path) {
        (Origin::Default, "") => reason.to_owned(),
        (Origin::Default, path) => format!("{path}: {reason}"),
        (origin, "") => format!("{origin}: {reason}"),
        (origin, path) => format!("{origin}: {path}: {reason}"),
    }
}

/// Something about one setting that its type alone cannot tell: found by [`Settings::check`](super::Settings::check).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The setting, e.g. `sources[1].path`.
    pub path: String,
    /// What is wrong, and what to do.
    pub reason: String,
}

impl Problem {
    /// A problem with the setting at `path`.
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), reason: reason.into() }
    }
}
