//! Alerts as they are written: sinks by name, and which events go to which.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use runtime::config::{Duration, Problem, Secret, Size};
use serde::{Deserialize, Serialize};

use super::absolute;
use crate::alerts::Kind;

/// Whom to tell what.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Alerts {
    /// Ways to reach somebody, by name.
    pub sinks: BTreeMap<String, Sink>,
    /// Which events go to which sinks; none: whatever somebody should know goes to every sink.
    pub routes: Vec<Route>,
    /// Sinks may be on this host or in a private network.
    pub allow_private: bool,
    /// Certificates in PEM that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// How old the newest verified backup of a component may be.
    pub objective: Duration,
    /// The same for single components.
    pub objectives: BTreeMap<String, Duration>,
    /// With less free space than this, the repository's storage is nearly full.
    pub low_space: Size,
    /// How long an agent may be away.
    pub agent_away: Duration,
}

impl Default for Alerts {
    fn default() -> Self {
        Self {
            sinks: BTreeMap::new(),
            routes: Vec::new(),
            allow_private: false,
            ca_file: None,
            objective: Duration::from_secs(36 * 3_600),
            objectives: BTreeMap::new(),
            low_space: Size::from_bytes(2 << 30),
            agent_away: Duration::from_secs(15 * 60),
        }
    }
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
    /// `smtps://user@host`, or `smtp://user@host` with STARTTLS; without a password.
    pub smtp: String,
    /// Who it comes from; none: the user.
    pub from: Option<String>,
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
    /// Headers that are sent with each message.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
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
    /// The files of sinks that cannot be read, by the sink's name, and why: what has to be told by then would not be.
    pub fn unreadable<'a>(&'a self) -> Vec<(&'a str, String)> {
        let cannot = |file: &Path| Some(format!("{}: {}", file.display(), std::fs::File::open(file).err()?));
        let of_sink = |(name, sink): (&'a String, &'a Sink)| {
            Some((name.as_str(), sink.files().into_iter().find_map(cannot)?))
        };
        self.sinks.iter().filter_map(of_sink).collect()
    }

    pub(super) fn check(&self) -> Result<(), Problem> {
        self.ca_file.iter().try_for_each(|file| absolute("alerts.ca_file", file))?;
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
                hook.check_headers(&format!("{path}.webhook.headers"))?;
                ("webhook", &hook.url, &hook.url_file, "url")
            }
        };
        let path = format!("{path}.{kind}");
        if url.is_none() && file.is_none() {
            return Err(Problem::new(path, format!("set `{key}` or `{key}_file`")));
        }
        if url.as_ref().is_some_and(|url| !is_web_address(url.expose())) {
            return Err(Problem::new(format!("{path}.{key}"), "write http:// or https:// and a host"));
        }
        at_most_one(&path, key, url, file)
    }

    /// The files that hold its secrets.
    fn files(&self) -> Vec<&Path> {
        let files: &[&Option<PathBuf>] = match self {
            Self::Email(email) => &[&email.password_file],
            Self::Slack(channel) | Self::Discord(channel) => &[&channel.webhook_url_file],
            Self::Ping(ping) => &[&ping.url_file],
            Self::Webhook(hook) => &[&hook.url_file, &hook.secret_file],
        };
        files.iter().filter_map(|file| file.as_deref()).collect()
    }
}

fn is_web_address(text: &str) -> bool {
    let parsed = text.parse::<http::Uri>();
    parsed.is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    })
}

impl Webhook {
    fn check_headers(&self, path: &str) -> Result<(), Problem> {
        const OURS: [&str; 4] = ["host", "content-type", "content-length", "transfer-encoding"];
        for (name, value) in &self.headers {
            let is_ours = OURS.iter().any(|ours| name.eq_ignore_ascii_case(ours))
                || name.to_ascii_lowercase().starts_with("webhook-");
            if is_ours || http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                return Err(Problem::new(path, "one of them cannot be set here: host, content-*, webhook-*"));
            }
            if http::HeaderValue::from_str(value.expose()).is_err() {
                return Err(Problem::new(path, "a value has letters that no header can have"));
            }
        }
        Ok(())
    }
}

/// Where mail is handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailserver {
    /// Its name or address.
    pub host: String,
    /// 465 or 587 unless it is written.
    pub port: u16,
    /// Who logs in, where there is a password; empty: nobody.
    pub user: String,
    /// TLS from the first byte; false: by STARTTLS.
    pub is_wrapped: bool,
}

impl Email {
    /// Where it is handed over; `None` where `smtp` is no such place.
    pub fn server(&self) -> Option<Mailserver> {
        let (is_wrapped, rest) = match self.smtp.strip_prefix("smtps://") {
            Some(rest) => (true, rest),
            None => (false, self.smtp.strip_prefix("smtp://")?),
        };
        let (user, place) = rest.rsplit_once('@').unwrap_or(("", rest));
        let place: http::uri::Authority = place.trim_end_matches('/').parse().ok()?;
        let host = place.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() || user.contains('/') {
            return None;
        }
        let port = place.port_u16().unwrap_or(if is_wrapped { 465 } else { 587 });
        Some(Mailserver { host, port, user: user.to_owned(), is_wrapped })
    }

    fn check(&self, path: &str) -> Result<(), Problem> {
        let wrong = |key: &str, reason: &str| Err(Problem::new(format!("{path}.{key}"), reason));
        let is_address = |text: &String| text.parse::<lettre::message::Mailbox>().is_ok();
        if self.to.is_empty() || !self.to.iter().all(is_address) {
            return wrong("to", "write at least one address, name@host");
        }
        if !self.from.iter().all(is_address) {
            return wrong("from", "write an address, name@host");
        }
        let Some(server) = self.server() else {
            return wrong("smtp", "write smtps://user@host or smtp://host");
        };
        if server.user.contains(':') {
            return wrong("smtp", "the password does not belong here; use `password_file` or `password`");
        }
        let has_password = self.password.is_some() || self.password_file.is_some();
        if has_password && server.user.is_empty() {
            return wrong("smtp", "a password needs a user: write smtps://user@host");
        }
        at_most_one(path, "password", &self.password, &self.password_file)
    }
}

fn at_most_one(path: &str, key: &str, value: &Option<Secret>, file: &Option<PathBuf>) -> Result<(), Problem> {
    match value.is_some() && file.is_some() {
        true => Err(Problem::new(path, format!("set `{key}` or `{key}_file`, not both"))),
        false => Ok(()),
    }
}
