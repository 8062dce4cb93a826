//! Alerts as they are written: sinks by name, and which events go to which.

use std::collections::BTreeMap;
use std::path::PathBuf;

use runtime::config::{Problem, Secret};
use serde::{Deserialize, Serialize};

use crate::alerts::Kind;

/// Whom to tell what.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Alerts {
    /// Ways to reach somebody, by name.
    pub sinks: BTreeMap<String, Sink>,
    /// Which events go to which sinks.
    pub routes: Vec<Route>,
}

/// A way to reach somebody. Of a pair `x` and `x_file`, at most one is set.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sink {
    /// By email.
    Email(Email),
    /// A Slack channel.
    Slack(Channel),
    /// A Discord channel.
    Discord(Channel),
    /// Any program.
    Webhook(Webhook),
    /// A dead-man switch.
    Ping(Ping),
}

/// An email.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Email {
    /// Addresses.
    pub to: Vec<String>,
    /// `smtps://user@host` or `smtp://host`, without a password.
    pub smtp: String,
    /// The password of the user.
    pub password: Option<Secret>,
    /// The file that holds it.
    pub password_file: Option<PathBuf>,
}

/// A channel of a chat.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// Its incoming webhook.
    pub webhook_url: Option<Secret>,
    /// The file that holds it.
    pub webhook_url_file: Option<PathBuf>,
}

/// A program that takes messages.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where to post to.
    pub url: Option<Secret>,
    /// The file that holds it.
    pub url_file: Option<PathBuf>,
    /// What signs the message.
    pub secret: Option<Secret>,
    /// The file that holds it.
    pub secret_file: Option<PathBuf>,
}

/// A dead-man switch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ping {
    /// What to ask after each success.
    pub url: Option<Secret>,
    /// The file that holds it.
    pub url_file: Option<PathBuf>,
}

/// Events that go to sinks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Which.
    pub events: Vec<Kind>,
    /// To which sinks, by name.
    pub to: Vec<String>,
}

impl Alerts {
    pub(super) fn check(&self) -> Result<(), Problem> {
        for (name, sink) in &self.sinks {
            sink.check(&format!("alerts.sinks.{name}"))?;
        }
        for (place, route) in self.routes.iter().enumerate() {
            if let Some(unknown) = route.to.iter().position(|name| !self.sinks.contains_key(name)) {
                let known: Vec<&str> = self.sinks.keys().map(String::as_str).collect();
                let reason = format!("there is no such sink; sinks: {}", known.join(", "));
                return Err(Problem::new(format!("alerts.routes[{place}].to[{unknown}]"), reason));
            }
        }
        Ok(())
    }
}

impl Sink {
    fn check(&self, path: &str) -> Result<(), Problem> {
        let (kind, url, file, key) = match self {
            Self::Email(email) => return email.check(&format!("{path}.email")),
            Self::Slack(channel) => ("slack", &channel.webhook_url, &channel.webhook_url_file, "webhook_url"),
            Self::Discord(channel) => {
                ("discord", &channel.webhook_url, &channel.webhook_url_file, "webhook_url")
            }
            Self::Ping(ping) => ("ping", &ping.url, &ping.url_file, "url"),
            Self::Webhook(hook) => {
                at_most_one(&format!("{path}.webhook"), "secret", &hook.secret, &hook.secret_file)?;
                ("webhook", &hook.url, &hook.url_file, "url")
            }
        };
        let path = format!("{path}.{kind}");
        if url.is_none() && file.is_none() {
            return Err(Problem::new(path, format!("set `{key}` or `{key}_file`")));
        }
        at_most_one(&path, key, url, file)
    }
}

impl Email {
    fn check(&self, path: &str) -> Result<(), Problem> {
        if self.to.is_empty() || !self.to.iter().all(|address| address.contains('@')) {
            return Err(Problem::new(format!("{path}.to"), "write at least one address, name@host"));
        }
        let rest = self.smtp.strip_prefix("smtps://").or_else(|| self.smtp.strip_prefix("smtp://"));
        let user = rest.map(|rest| rest.rsplit_once('@').map_or("", |(user, _)| user));
        match user {
            None => Err(Problem::new(format!("{path}.smtp"), "write smtps://user@host or smtp://host")),
            Some(user) if user.contains(':') => {
                let reason = "the password does not belong here; use `password_file` or `password`";
                Err(Problem::new(format!("{path}.smtp"), reason))
            }
            Some(_) => at_most_one(path, "password", &self.password, &self.password_file),
        }
    }
}

fn at_most_one(path: &str, key: &str, value: &Option<Secret>, file: &Option<PathBuf>) -> Result<(), Problem> {
    match value.is_some() && file.is_some() {
        true => Err(Problem::new(path, format!("set `{key}` or `{key}_file`, not both"))),
        false => Ok(()),
    }
}
