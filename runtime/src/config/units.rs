//! Durations and sizes as people write them: `30d`, `1h30m`, `512MiB`.
//!
//! A bare number is refused: nobody can tell whether `30` means days or seconds.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

/// A span of time, in whole milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(std::time::Duration);

/// Milliseconds of each unit, longest first, as they are printed.
const TIME_UNITS: [(&str, u64); 6] =
    [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const TIME_HELP: &str = "write numbers with units, e.g. 30d, 12h, 5m, 10s or 1h30m (units: w d h m s ms)";

impl Duration {
    /// So many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }

    /// So many days of 24 hours.
    pub const fn from_days(days: u64) -> Self {
        Self::from_secs(days * 86_400)
    }

    /// As the standard library's type.
    pub const fn get(self) -> std::time::Duration {
        self.0
    }

    /// True for `0s`.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("not a duration; {TIME_HELP}");
        let mut left = text.trim();
        let mut milliseconds: u64 = 0;
        if left.is_empty() {
            return Err(refuse());
        }
        while !left.is_empty() {
            let (number, after) = split_number(left).ok_or_else(refuse)?;
            let letters = after.find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(after.len());
            let (unit, rest) = after.split_at(letters);
            let (_, factor) = TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refuse)?;
            milliseconds = number
                .checked_mul(*factor)
                .and_then(|part| milliseconds.checked_add(part))
                .ok_or_else(refuse)?;
            left = rest.trim_start();
        }
        Ok(Self(std::time::Duration::from_millis(milliseconds)))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return out.write_str("0s");
        }
        let mut left = self.0.as_millis();
        // Weeks are read and not written: people compare `30d` with `28d`.
        for (name, factor) in &TIME_UNITS[1..] {
            let count = left / u128::from(*factor);
            left %= u128::from(*factor);
            if count > 0 {
                write!(out, "{count}{name}")?;
            }
        }
        Ok(())
    }
}

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];
const SIZE_HELP: &str = "write a whole number with its unit, e.g. 512MiB, 2GiB or 10MB \
                         (units: B KB MB GB TB KiB MiB GiB TiB)";

impl Size {
    /// So many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("not a size; {SIZE_HELP}");
        let (number, unit) = split_number(text.trim()).ok_or_else(refuse)?;
        let unit = unit.trim_start();
        let (_, factor) =
            SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(refuse)?;
        number.checked_mul(*factor).map(Self).ok_or_else(refuse)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = SIZE_UNITS.iter().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        let (name, factor) = exact.unwrap_or(&("B", 1));
        write!(out, "{}{name}", self.0 / factor)
    }
}

/// The digits at the start of `text` as a number, and what follows.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    Some((number.parse().ok()?, rest))
}

/// Text in, text out: `Debug`, `Serialize` and `Deserialize` by `Display` and `FromStr`.
macro_rules! as_text {
    ($name:ident, $help:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, out)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                        out.write_str($help)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$name, E> {
                        Err(E::custom(format_args!("`{number}` has no unit; {}", $help)))
                    }

                    fn visit_i64<E: de::Error>(self, number: i64) -> Result<$name, E> {
                        Err(E::custom(format_args!("`{number}` has no unit; {}", $help)))
                    }
                }
                deserializer.deserialize_any(Text)
            }
        }
    };
}

as_text!(Duration, TIME_HELP);
as_text!(Size, SIZE_HELP);
