//! How much of a machine a source's backups and restores may take, and when they may run.
//!
//! Must stay true: only this file's owner says so. No message of a controller sets, raises or lifts any of it.

use jiff::civil::Time;
use jiff::tz::TimeZone;
use runtime::config::{Problem, Size};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};

/// A slower upload would not bring a segment through before the controller takes the line for dead.
const LEAST_UPLOAD: Size = Size::from_bytes(64 << 10);
const LEAST: Size = Size::from_bytes(16 << 10);
const MOST_THREADS: usize = 1_024;
const MOST_NICE: u8 = 19;

/// Limits of one source; what is left out is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes in a second to the controller.
    pub upload: Option<Size>,
    /// Bytes in a second from the controller, for a restore.
    pub download: Option<Size>,
    /// Bytes in a second that are read from the source.
    pub read: Option<Size>,
    /// Threads that compress.
    pub threads: Option<usize>,
    /// How far a backup steps back behind other programs: 0 to 19, as `nice` counts.
    pub nice: Option<u8>,
}

impl Limits {
    pub(super) fn check(&self, path: &str) -> Result<(), Problem> {
        let rates = [
            ("upload", self.upload, LEAST_UPLOAD),
            ("download", self.download, LEAST),
            ("read", self.read, LEAST),
        ];
        for (key, rate, least) in rates {
            if rate.is_some_and(|rate| rate < least) {
                return Err(Problem::new(format!("{path}.{key}"), format!("at least {least} in a second")));
            }
        }
        if self.threads.is_some_and(|threads| !(1..=MOST_THREADS).contains(&threads)) {
            return Err(Problem::new(format!("{path}.threads"), format!("1 to {MOST_THREADS}")));
        }
        if self.nice.is_some_and(|nice| nice > MOST_NICE) {
            return Err(Problem::new(format!("{path}.nice"), format!("0 to {MOST_NICE}")));
        }
        Ok(())
    }
}

/// The hours of the day in which a source's backups may run. One whose end comes before its start goes over
/// midnight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowConfig {
    /// From this time on.
    #[serde(serialize_with = "write_time", deserialize_with = "read_time")]
    pub from: Time,
    /// Before this one.
    #[serde(serialize_with = "write_time", deserialize_with = "read_time")]
    pub to: Time,
    /// Where these hours are meant.
    #[serde(default = "utc")]
    pub time_zone: String,
}

impl WindowConfig {
    pub(super) fn check(&self, path: &str) -> Result<(), Problem> {
        if self.from == self.to {
            return Err(Problem::new(
                path,
                "`from` and `to` are the same time; leave the window out instead",
            ));
        }
        match TimeZone::get(&self.time_zone) {
            Ok(_) => Ok(()),
            Err(_) => Err(Problem::new(
                format!("{path}.time_zone"),
                "unknown zone; write an IANA name, e.g. UTC or Europe/Paris",
            )),
        }
    }
}

fn utc() -> String {
    "UTC".to_owned()
}

fn write_time<S: Serializer>(time: &Time, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&time.strftime("%H:%M"))
}

fn read_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
    let text = String::deserialize(deserializer)?;
    Time::strptime("%H:%M", text.trim()).map_err(|_| {
        D::Error::custom("not a time of the day; write hours and minutes in quotes, e.g. \"22:30\"")
    })
}
