//! Alerts as they are written: sinks by name, and which events go to which.

use std::collections::BTreeMap;
use std::path::PathBuf;

use runtime::config::{Problem, Secret};
use serde::{Deserialize, Serialize};

/// Whom to tell what.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Alerts {
    /// Ways to reach somebody, by name.
    pub sinks: BTreeMap<String, Sink>,
    /// Which events go to which sinks.
    pub routes: Vec<Route>,
}

/// A way to reach somebody.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Sink {
    /// By email.
    Email {
        /// Addresses.
        to: Vec<String>,
        /// `smtps://user@host` or `smtp://host`, without a password.
        smtp: String,
        /// The password of the user.
        password: Option<Secret>,
        /// The file that holds it.
        password_file: Option<PathBuf>,
    },
    /// A Slack channel.
    Slack {
        /// Its incoming webhook.
        webhook_url: Option<Secret>,
        /// The file that holds it.
        webhook_url_file: Option<PathBuf>,
    },
    /// A Discord channel.
    Discord {
        /// Its webhook.
        webhook_url: Option<Secret>,
        /// The file that holds it.
        webhook_url_file: Option<PathBuf>,
    },
    /// Any program.
    Webhook {
        /// Where to post to.
        url: Option<Secret>,
        /// The file that holds it.
        url_file: Option<PathBuf>,
        /// What signs the message.
        secret: Option<Secret>,
        /// The file that holds it.
        secret_file: Option<PathBuf>,
    },
    /// A dead-man switch.
    Ping {
        /// What to ask after each success.
        url: Option<Secret>,
        /// The file that holds it.
        url_file: Option<PathBuf>,
    },
}

/// Events that go to sinks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Which.
    pub events: Vec<Event>,
    /// To which sinks, by name.
    pub to: Vec<String>,
}

/// What can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A backup is complete.
    BackupSucceeded,
    /// A backup lacks something.
    BackupIncomplete,
    /// A backup failed.
    BackupFailed,
    /// A verification found nothing wrong.
    VerifySucceeded,
    /// A verification failed or found damage.
    VerifyFailed,
    /// A restore is done.
    RestoreSucceeded,
    /// A restore failed.
    RestoreFailed,
}

impl Alerts {
    pub(super) fn check(&self) -> Result<(), Problem> {
        for (name, sink) in &self.sinks {
            sink.check(&format!("alerts.sinks.{name}"))?;
        }
        for (place, route) in self.routes.iter().enumerate() {
            if let Some(unknown) = route.to.iter().position(|name| !self.sinks.contains_key(name)) {
                let known: Vec<&str> = self.sinks.keys().map(String::as_str).collect();
                let reason = format!("there is no sink `{}`; sinks: {}", route.to[unknown], known.join(", "));
                return Err(Problem::new(format!("alerts.routes[{place}].to[{unknown}]"), reason));
            }
        }
        Ok(())
    }
}

impl Sink {
    fn check(&self, path: &str) -> Result<(), Problem> {
        match self {
            Self::Email { to, smtp, password, password_file } => {
                if to.is_empty() || !to.iter().all(|address| address.contains('@')) {
                    return Err(Problem::new(
                        format!("{path}.email.to"),
                        "write at least one address, name@host",
                    ));
                }
                let rest = smtp.strip_prefix("smtps://").or_else(|| smtp.strip_prefix("smtp://"));
                match rest.map(|rest| rest.rsplit_once('@').map_or("", |(user, _)| user)) {
                    None => {
                        return Err(Problem::new(
                            format!("{path}.email.smtp"),
                            "write smtps://user@host or smtp://host",
                        ));
                    }
                    Some(user) if user.contains(':') => {
                        let reason = "the password does not belong here; use password_file or password";
                        return Err(Problem::new(format!("{path}.email.smtp"), reason));
                    }
                    Some(_) => {}
                }
                at_most_one(path, "email", "password", password, password_file)
            }
            Self::Slack { webhook_url, webhook_url_file } => {
                exactly_one(path, "slack", "webhook_url", webhook_url, webhook_url_file)
            }
            Self::Discord { webhook_url, webhook_url_file } => {
                exactly_one(path, "discord", "webhook_url", webhook_url, webhook_url_file)
            }
            Self::Webhook { url, url_file, secret, secret_file } => {
                exactly_one(path, "webhook", "url", url, url_file)?;
                at_most_one(path, "webhook", "secret", secret, secret_file)
            }
            Self::Ping { url, url_file } => exactly_one(path, "ping", "url", url, url_file),
        }
    }
}

fn exactly_one(
    path: &str,
    kind: &str,
    key: &str,
    value: &Option<Secret>,
    file: &Option<PathBuf>,
) -> Result<(), Problem> {
    match value.is_none() && file.is_none() {
        true => Err(Problem::new(format!("{path}.{kind}"), format!("set `{key}` or `{key}_file`"))),
        false => at_most_one(path, kind, key, value, file),
    }
}

fn at_most_one(
    path: &str,
    kind: &str,
    key: &str,
    value: &Option<Secret>,
    file: &Option<PathBuf>,
) -> Result<(), Problem> {
    match value.is_some() && file.is_some() {
        true => Err(Problem::new(format!("{path}.{kind}"), format!("set `{key}` or `{key}_file`, not both"))),
        false => Ok(()),
    }
}
