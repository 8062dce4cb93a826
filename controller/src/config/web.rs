//! Under which names and where the web page is.

use runtime::config::Problem;
use serde::{Deserialize, Serialize};

/// Under which names and where the web page is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebPage {
    /// Where it begins for browsers, e.g. `/restore/` behind an Ingress, whether that hands on the whole path or
    /// takes it away.
    pub path: String,
    /// Names by which browsers reach it, no port; beside IP addresses, `localhost`, the host's name and
    /// `grpc_names`.
    pub hosts: Vec<String>,
}

impl Default for WebPage {
    fn default() -> Self {
        Self { path: "/".to_owned(), hosts: Vec::new() }
    }
}

impl WebPage {
    pub(super) fn check(&self) -> Result<(), Problem> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-_.".contains(c);
        let path = &self.path;
        let is_whole = path.starts_with('/') && path.ends_with('/') && !path.contains("//");
        if !is_whole || !path.chars().all(is_plain) || path.split('/').any(|part| part.starts_with('.')) {
            return Err(Problem::new("web.path", "write a path that begins and ends with /, e.g. /restore/"));
        }
        if let Some(place) = self.hosts.iter().position(|name| !super::is_host(name)) {
            return Err(Problem::new(format!("web.hosts[{place}]"), "write a DNS name, no port"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_begins_and_ends_with_a_slash_and_has_nothing_odd() {
        let refuses = |path: &str| WebPage { path: path.to_owned(), ..WebPage::default() }.check().is_err();
        for path in ["/", "/restore/", "/a/b-c/"] {
            assert!(!refuses(path), "{path}");
        }
        for path in ["", "restore", "/restore", "//", "/a//b/", "/../", "/a\"b/", "/{x}/", "/a b/"] {
            assert!(refuses(path), "{path}");
        }
    }
}
