//! What packs get for the day on which they rot.

use std::fmt;
use std::str::FromStr;

use repository::parity::Strength;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How much of a pack its parity makes good: `off`, or a percentage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parity(Option<u8>);

impl Parity {
    /// As the repository takes it.
    pub fn strength(self) -> Option<Strength> {
        self.0.and_then(Strength::percent)
    }
}

impl FromStr for Parity {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self(None));
        }
        let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
        let percent = percent.filter(|percent| Strength::percent(*percent).is_some());
        percent.map(|percent| Self(Some(percent))).ok_or("write `off`, or 1% to 50%, e.g. 5%")
    }
}

impl fmt::Display for Parity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("off"),
            Some(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for Parity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Parity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parity_is_off_or_a_percentage() {
        for text in ["off", "1%", "50%"] {
            assert_eq!(text.parse::<Parity>().map(|parity| parity.to_string()).as_deref(), Ok(text));
        }
        for text in ["5", "0%", "51%", "-1%", "on", ""] {
            assert!(text.parse::<Parity>().is_err(), "{text}");
        }
    }
}
