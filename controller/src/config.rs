//! The controller's settings: what may be written, what it means where it is left out, what is refused.
//!
//! Must stay true: whatever is accepted here has an effect or a notice that says that it has none.

mod alerts;
mod drills;
mod history;
mod kubernetes;
mod object_storage;
mod parity;
mod quotas;
mod restores;
mod schedules;
mod verification;
mod web;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use repository::retention::Rules;
use repository::store::location::Location;
use runtime::config::{Duration, Origin, Problem, Secret, SecretSource, Settings};
use serde::{Deserialize, Deserializer, Serialize};

pub use alerts::{Alerts, Channel, Email, Mailserver, Ping, Route, Sink, Webhook};
pub use drills::Drills;
pub use history::History;
pub use kubernetes::{AccountRule, AuthorityMap, Kubernetes, RestorePod};
pub use object_storage::{ObjectStorage, ObjectStorageError};
pub use parity::Parity;
pub use quotas::Quota;
pub use restores::Restores;
pub use schedules::{
    BackupSchedule, Components, Cron, Schedule, VerifyDepth, VerifySchedule, is_schedule_name,
};
pub use verification::Verifying;
pub use web::{WebPage, WebUser};

/// Where the file lies unless told otherwise.
pub const USUAL_FILE: &str = "/etc/neurashield/controller.yaml";

/// Settings of the controller.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControllerConfig {
    /// Where the repository is: a folder, or `s3://BUCKET/PREFIX`.
    pub repository: Location,
    /// How a bucket is reached.
    pub s3: ObjectStorage,
    /// The folder of catalog and identity.
    pub state: PathBuf,
    /// What opens the repository's private key; nothing where it is kept elsewhere.
    pub key: Key,
    /// Addresses.
    pub listen: Listen,
    /// Under which names and where the web page is.
    pub web: WebPage,
    /// DNS names and IP addresses for the server's certificate, beside `localhost`, the loopback addresses
    /// and the host's name.
    pub grpc_names: Vec<String>,
    /// IANA name of the zone in which schedules are meant.
    pub time_zone: String,
    /// What is to happen when, by name. A file that has `schedules` replaces the default ones, `daily` and
    /// `check`.
    pub schedules: BTreeMap<String, Schedule>,
    /// Of these somebody has written something: then nothing but the configuration changes them.
    #[serde(skip)]
    pub declared_schedules: BTreeSet<String>,
    /// Which backups are kept.
    pub retention: Retention,
    /// Somebody has written what is kept: then nothing but the configuration changes it.
    #[serde(skip)]
    pub retention_is_declared: bool,
    /// How restores go.
    pub restores: Restores,
    /// Who makes drills of what others back up.
    pub drills: Drills,
    /// How much a verification reads.
    pub verification: Verifying,
    /// How long it is known what jobs did.
    pub history: History,
    /// What each new pack gets, so that rot in it is mended.
    pub parity: Parity,
    /// Whom to tell what.
    pub alerts: Alerts,
    /// How much agents may send.
    pub quotas: Vec<Quota>,
    /// Agents that join by service accounts of a Kubernetes cluster.
    pub kubernetes: Kubernetes,
    /// A static `nsctl` for the repository's rescue folder, where it does not lie beside the controller as
    /// `nsctl-static`.
    pub rescue_program: Option<PathBuf>,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            repository: PathBuf::from("/opt/neurashield/backups").into(),
            s3: ObjectStorage::default(),
            state: "/var/lib/neurashield".into(),
            key: Key::default(),
            listen: Listen::default(),
            web: WebPage::default(),
            grpc_names: Vec::new(),
            time_zone: "UTC".to_owned(),
            schedules: BTreeMap::new(),
            declared_schedules: BTreeSet::new(),
            retention: Retention::default(),
            retention_is_declared: false,
            restores: Restores::default(),
            drills: Drills::default(),
            verification: Verifying::default(),
            history: History::default(),
            parity: Parity::default(),
            alerts: Alerts::default(),
            quotas: Vec::new(),
            kubernetes: Kubernetes::default(),
            rescue_program: None,
        }
    }
}

impl Settings for ControllerConfig {
    const SECTION: &'static str = "controller";
    const SECTIONS: &'static [&'static str] = &["controller", "agent"];
    const SHORT_FORMS: &'static [(&'static str, &'static str)] = &[
        ("NEURASHIELD_RETENTION", "retention.keep_within"),
        ("NEURASHIELD_BACKUP_SCHEDULE", "schedules.daily.backup"),
        ("NEURASHIELD_VERIFY_SCHEDULE", "schedules.check.verify"),
        ("NEURASHIELD_SMTP_URL", "alerts.sinks.email.email.smtp"),
        ("NEURASHIELD_SMTP_PASSWORD", "alerts.sinks.email.email.password"),
        ("NEURASHIELD_SMTP_PASSWORD_FILE", "alerts.sinks.email.email.password_file"),
        ("NEURASHIELD_ALERT_EMAIL_TO", "alerts.sinks.email.email.to"),
        ("NEURASHIELD_SLACK_WEBHOOK_URL", "alerts.sinks.slack.slack.webhook_url"),
        ("NEURASHIELD_SLACK_WEBHOOK_URL_FILE", "alerts.sinks.slack.slack.webhook_url_file"),
        ("NEURASHIELD_DISCORD_WEBHOOK_URL", "alerts.sinks.discord.discord.webhook_url"),
        ("NEURASHIELD_DISCORD_WEBHOOK_URL_FILE", "alerts.sinks.discord.discord.webhook_url_file"),
        ("NEURASHIELD_WEBHOOK_URL", "alerts.sinks.webhook.webhook.url"),
        ("NEURASHIELD_WEBHOOK_URL_FILE", "alerts.sinks.webhook.webhook.url_file"),
        ("NEURASHIELD_WEB_PASSWORD", "web.users.admin.password"),
        ("NEURASHIELD_WEB_PASSWORD_FILE", "web.users.admin.password_file"),
    ];
    const DEFAULTS: &'static str = r#"
schedules:
  daily: { backup: "0 1 * * *", components: all, catch_up: 6h, jitter: 0s }
  check: { verify: "0 5 * * *", depth: opened, wait_for_backup: 4h }
retention: { keep_within: 30d, keep_complete: 3 }
"#;

    fn note_origins(&mut self, origin: &dyn Fn(&str) -> Origin) {
        let is_written = |rule: &&str| origin(&format!("retention.{rule}")) != Origin::Default;
        self.retention_is_declared = Retention::RULES.iter().any(is_written);
        let is_declared = |name: &&String| {
            let is_written = |key: &&str| origin(&format!("schedules.{name}.{key}")) != Origin::Default;
            schedules::KEYS.iter().any(is_written)
        };
        self.declared_schedules = self.schedules.keys().filter(is_declared).cloned().collect();
    }

    fn check(&self) -> Result<(), Problem> {
        self.repository.folder().map_or(Ok(()), |folder| absolute("repository", folder))?;
        self.s3.check()?;
        absolute("state", &self.state)?;
        self.rescue_program.iter().try_for_each(|program| absolute("rescue_program", program))?;
        absolute("listen.socket", &self.listen.socket)?;
        self.listen.check()?;
        self.key.check()?;
        if jiff::tz::TimeZone::get(&self.time_zone).is_err() {
            return Err(Problem::new("time_zone", schedules::UNKNOWN_ZONE));
        }
        if let Some(place) = self.grpc_names.iter().position(|name| !is_host(name)) {
            return Err(Problem::new(
                format!("grpc_names[{place}]"),
                "write a DNS name or an IP address, no port",
            ));
        }
        self.web.check()?;
        schedules::check(&self.schedules)?;
        self.retention.check()?;
        self.restores.check()?;
        self.drills.check()?;
        self.verification.check()?;
        self.history.check()?;
        quotas::check(&self.quotas)?;
        self.kubernetes.check()?;
        self.alerts.check()
    }
}

impl ControllerConfig {
    /// The names that the server's certificate has to carry, each once.
    pub fn certificate_names(&self) -> Vec<String> {
        let mut names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        for name in std::iter::once(runtime::host::hostname()).chain(self.grpc_names.iter().cloned()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// The zone in which schedules are meant.
    pub fn zone(&self) -> jiff::tz::TimeZone {
        jiff::tz::TimeZone::get(&self.time_zone).expect("`check` has seen that the zone exists")
    }
}

/// What opens the repository's private key: one of these.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::manual_non_exhaustive, reason = "the private field takes a key only to refuse it")]
pub struct Key {
    /// A key file.
    pub file: Option<PathBuf>,
    /// A passphrase.
    pub passphrase: Option<Secret>,
    /// A file that holds a passphrase.
    pub passphrase_file: Option<PathBuf>,
    #[serde(rename = "kubernetes_secret", skip_serializing, deserialize_with = "refuse_kubernetes_secret")]
    _kubernetes_secret: (),
}

/// How the repository's private key is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// By a key file.
    File(PathBuf),
    /// By a passphrase.
    Passphrase(SecretSource),
}

impl Key {
    /// What was configured; `None` where the private key is not with the controller.
    pub fn source(&self) -> Option<KeySource> {
        let passphrase = SecretSource::from_pair(self.passphrase.as_ref(), self.passphrase_file.as_ref());
        self.file.clone().map(KeySource::File).or_else(|| passphrase.map(KeySource::Passphrase))
    }

    fn check(&self) -> Result<(), Problem> {
        let set = [self.file.is_some(), self.passphrase.is_some(), self.passphrase_file.is_some()];
        if set.iter().filter(|is_set| **is_set).count() > 1 {
            return Err(Problem::new("key", "set one of file, passphrase and passphrase_file, not several"));
        }
        for (path, file) in [("key.file", &self.file), ("key.passphrase_file", &self.passphrase_file)] {
            file.as_deref().map_or(Ok(()), |file| absolute(path, file))?;
        }
        Ok(())
    }
}

fn refuse_kubernetes_secret<'de, D: Deserializer<'de>>(_: D) -> Result<(), D::Error> {
    Err(serde::de::Error::custom(
        "this release cannot read the key from the Kubernetes API yet; mount the secret and use `file` or \
         `passphrase_file`",
    ))
}

/// Where the controller listens.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// gRPC with TLS: agents and people.
    #[serde(deserialize_with = "address")]
    pub grpc: SocketAddr,
    /// The web page.
    #[serde(deserialize_with = "address")]
    pub web: SocketAddr,
    /// Plain probes and metrics.
    #[serde(deserialize_with = "address")]
    pub probes: SocketAddr,
    /// The Unix socket for people on this machine.
    pub socket: PathBuf,
}

impl Listen {
    /// Two that listen at one address would fail at the start.
    fn check(&self) -> Result<(), Problem> {
        let places = [("grpc", self.grpc), ("web", self.web), ("probes", self.probes)];
        for (nth, (name, place)) in places.iter().enumerate() {
            if let Some((other, _)) =
                places[..nth].iter().find(|(_, before)| before == place && place.port() != 0)
            {
                return Err(Problem::new(
                    format!("listen.{name}"),
                    format!("listen.{other} listens there already"),
                ));
            }
        }
        Ok(())
    }
}

impl Default for Listen {
    fn default() -> Self {
        let everywhere = |port| SocketAddr::from(([0, 0, 0, 0], port));
        Self {
            grpc: everywhere(8443),
            web: everywhere(8080),
            probes: everywhere(9090),
            socket: "/run/neurashield/controller.sock".into(),
        }
    }
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        serde::de::Error::custom("not an address to listen at; write IP:PORT, e.g. 0.0.0.0:8443 or [::]:8443")
    })
}

/// Which backups are kept: what one rule keeps stays. A file that has `retention` replaces the default of
/// 30 days; it has to say what it keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// All that are younger than this.
    pub keep_within: Option<Duration>,
    /// The newest so many.
    pub keep_last: Option<u32>,
    /// The newest of each of so many hours.
    pub keep_hourly: Option<u32>,
    /// The newest of each of so many days.
    pub keep_daily: Option<u32>,
    /// The newest of each of so many weeks.
    pub keep_weekly: Option<u32>,
    /// The newest of each of so many months.
    pub keep_monthly: Option<u32>,
    /// The newest of each of so many years.
    pub keep_yearly: Option<u32>,
    /// The newest so many complete ones, whatever their age; at least 1.
    pub keep_complete: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            keep_within: None,
            keep_last: None,
            keep_hourly: None,
            keep_daily: None,
            keep_weekly: None,
            keep_monthly: None,
            keep_yearly: None,
            keep_complete: 3,
        }
    }
}

impl Retention {
    /// The keys of all rules.
    const RULES: &'static [&'static str] = &[
        "keep_within",
        "keep_last",
        "keep_hourly",
        "keep_daily",
        "keep_weekly",
        "keep_monthly",
        "keep_yearly",
        "keep_complete",
    ];

    /// As the repository's decisions want them; part of a second counts as a whole one.
    pub fn rules(&self) -> Rules {
        Rules {
            keep_within_seconds: self.keep_within.map(|span| span.get().as_millis().div_ceil(1_000) as u64),
            keep_last: self.keep_last,
            keep_hourly: self.keep_hourly,
            keep_daily: self.keep_daily,
            keep_weekly: self.keep_weekly,
            keep_monthly: self.keep_monthly,
            keep_yearly: self.keep_yearly,
            keep_complete: self.keep_complete,
        }
    }

    fn check(&self) -> Result<(), Problem> {
        let wrong = |(key, why): (&str, &str)| Problem::new(format!("retention{key}"), why);
        self.wrong().map_or(Ok(()), |found| Err(wrong(found)))
    }

    /// What is wrong with it, and with which key.
    fn wrong(&self) -> Option<(&'static str, &'static str)> {
        if self.keep_complete == 0 {
            return Some((".keep_complete", "at least 1: the newest complete backup always stays"));
        }
        let keeps = self.rules().keeps_anything();
        (!keeps).then_some(("", "no rule keeps anything; set keep_within, keep_last or another"))
    }
}

fn absolute(path: &str, value: &Path) -> Result<(), Problem> {
    match value.is_absolute() {
        true => Ok(()),
        false => Err(Problem::new(path, "write an absolute path, starting with /")),
    }
}

fn is_host(name: &str) -> bool {
    let is_dns = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-' || letter == '*')
    };
    name.parse::<std::net::IpAddr>().is_ok() || (name.len() <= 253 && name.split('.').all(is_dns))
}

#[cfg(test)]
mod tests;
