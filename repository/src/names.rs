//! Names that people see: backups, components, sources. Each is checked once, where it is made.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// A text is not the name it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {kind}: {rule}")]
pub struct InvalidName {
    kind: &'static str,
    rule: &'static str,
    found: String,
}

impl InvalidName {
    fn new(kind: &'static str, rule: &'static str, found: &str) -> Self {
        Self { kind, rule, found: found.chars().take(80).collect() }
    }
}

const WORD_RULE: &str = "use 1 to 63 of a-z, 0-9, '.', '_' and '-', and begin with a letter or digit";

fn is_word(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    matches!(text.as_bytes(), [first, rest @ ..]
        if plain(*first) && rest.len() < 63 && rest.iter().all(|b| plain(*b) || b"._-".contains(b)))
}

macro_rules! word {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if is_word(text) { Ok(Self(text.to_owned())) } else { Err(InvalidName::new($kind, WORD_RULE, text)) }
            }
        }

        text_traits!($name);
    };
}

macro_rules! text_traits {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

word!(
    /// What users name: `database`, `models`, `blockchain`, `ipfs`, `configs`, or one of their own.
    Component, "a component"
);
word!(
    /// The stable name of a source within its component.
    SourceName, "a source's name"
);

/// A component plus a stable name: what history, domain, cache and folder name follow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct SourceId {
    /// The component.
    pub component: Component,
    /// The name within it.
    #[serde(rename = "source")]
    pub name: SourceName,
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.component, self.name)
    }
}

impl FromStr for SourceId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (component, name) = text
            .split_once('/')
            .ok_or_else(|| InvalidName::new("a source", "write it as component/name", text))?;
        Ok(Self { component: component.parse()?, name: name.parse()? })
    }
}

/// The name of a backup: `YYYYMMDD_HHMMSS`, UTC.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupName(String);

impl BackupName {
    const RULE: &str = "write it as YYYYMMDD_HHMMSS (UTC), e.g. 20260101_010000";

    /// The name of a backup that starts at `time`.
    pub fn from_time(time: Timestamp) -> Self {
        Self(time.to_zoned(TimeZone::UTC).strftime("%Y%m%d_%H%M%S").to_string())
    }

    /// The second that the name stands for.
    pub fn time(&self) -> Timestamp {
        Self::parse(&self.0).expect("the name was checked when it was made")
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parse(text: &str) -> Option<Timestamp> {
        let shape = text.len() == 15
            && text.bytes().enumerate().all(|(i, b)| if i == 8 { b == b'_' } else { b.is_ascii_digit() });
        let time = DateTime::strptime("%Y%m%d_%H%M%S", shape.then_some(text)?).ok()?;
        time.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    }
}

impl FromStr for BackupName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::parse(text)
            .map(|_| Self(text.to_owned()))
            .ok_or_else(|| InvalidName::new("a backup's timestamp", Self::RULE, text))
    }
}

text_traits!(BackupName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_name_is_a_real_second() {
        let name: BackupName = "20240229_235959".parse().expect("a leap day");
        assert_eq!(BackupName::from_time(name.time()), name);
        for wrong in
            ["20230229_000000", "20230101-120000", "2023010_1120000", "20230101_246000", "", "latest"]
        {
            assert!(wrong.parse::<BackupName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_source_name_cannot_leave_its_folder() {
        for wrong in ["", "..", ".hidden", "a/b", "A", "ä", "-a", &"x".repeat(64)] {
            assert!(wrong.parse::<SourceName>().is_err(), "{wrong}");
        }
        assert_eq!("models/gpu-1".parse::<SourceId>().expect("valid").to_string(), "models/gpu-1");
    }
}
