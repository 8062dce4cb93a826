//! Under which names and where the web page is, and who signs in to it by name and password.

use std::collections::BTreeMap;
use std::path::PathBuf;

use runtime::config::{Problem, Secret, SecretSource};
use serde::{Deserialize, Serialize};

use crate::identity::{Role, SHORTEST_PASSWORD, User, Users};

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
    /// Who signs in by name and password; everybody else does by an API token.
    pub users: BTreeMap<String, WebUser>,
}

/// Somebody who signs in by name and password.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebUser {
    /// What they may do; `admin` is an admin where nothing else is said.
    pub role: Option<Role>,
    /// Their password.
    pub password: Option<Secret>,
    /// A file that holds it; read at each sign-in.
    pub password_file: Option<PathBuf>,
}

/// Needs nothing but a password, so that one variable is enough.
const FIRST_USER: &str = "admin";

impl Default for WebPage {
    fn default() -> Self {
        Self { path: "/".to_owned(), hosts: Vec::new(), users: BTreeMap::new() }
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
        self.users.iter().try_for_each(|(name, user)| user.check(name))
    }

    /// Those who can sign in.
    pub fn users(&self) -> Users {
        let users = self.users.iter().filter_map(|(name, user)| {
            let password = SecretSource::from_pair(user.password.as_ref(), user.password_file.as_ref())?;
            Some(User { name: name.clone(), role: user.role_of(name)?, password })
        });
        Users::new(users.collect())
    }
}

impl WebUser {
    fn role_of(&self, name: &str) -> Option<Role> {
        self.role.or((name == FIRST_USER).then_some(Role::Admin))
    }

    fn check(&self, name: &str) -> Result<(), Problem> {
        let wrong = |what: &str| Err(Problem::new(format!("web.users.{name}"), what.to_owned()));
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_plain) {
            return wrong("a name has 1 to 64 of a-z, A-Z, 0-9, '.', '_', '@' and '-'");
        }
        if self.role_of(name).is_none() {
            return wrong("give it a `role`: viewer, operator or admin");
        }
        match (&self.password, &self.password_file) {
            (Some(_), Some(_)) => wrong("set `password` or `password_file`, not both"),
            (None, None) => wrong("give it a `password_file`, or a `password`"),
            (Some(password), None) if password.expose().chars().count() < SHORTEST_PASSWORD => {
                wrong(&format!("a password has at least {SHORTEST_PASSWORD} letters"))
            }
            (None, Some(file)) => super::absolute(&format!("web.users.{name}.password_file"), file),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_role_and_one_password_that_is_long_enough() {
        let user = |password: Option<&str>, file: Option<&str>| WebUser {
            role: Some(Role::Viewer),
            password: password.map(Secret::new),
            password_file: file.map(PathBuf::from),
        };
        let takes = |name: &str, user: WebUser| user.check(name).is_ok();
        assert!(!takes("admin", user(None, None)) && !takes("kim", user(None, None)));
        let without_role = WebUser { role: None, ..user(Some("correct horse"), None) };
        assert!(takes("admin", without_role.clone()) && !takes("kim", without_role));
        assert!(takes("kim@example.org", user(Some("correct horse"), None)));
        assert!(takes("kim", user(None, Some("/run/secrets/kim"))));
        assert!(!takes("kim", user(None, Some("secrets/kim"))));
        assert!(!takes("kim", user(Some("short"), None)));
        assert!(!takes("kim", user(Some("correct horse"), Some("/run/secrets/kim"))));
        for name in ["", "k im", "<b>", "kim/lee"] {
            assert!(!takes(name, user(Some("correct horse"), None)), "{name}");
        }
    }

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
