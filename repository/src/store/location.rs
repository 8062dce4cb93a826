//! Where a repository lies, as people write it: the path of a folder, or `s3://bucket/prefix`.
//!
//! Must stay true: no credentials are part of it, so it may be shown anywhere. An address that holds some is
//! refused without being repeated.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ObjectPath;

const SCHEME: &str = "s3://";

/// Where a repository lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// In a folder of this machine.
    Folder(PathBuf),
    /// In object storage.
    Bucket(Bucket),
}

/// A part of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// The bucket's name.
    pub name: String,
    /// What every key begins with; `None`: the bucket is the repository's alone.
    pub prefix: Option<ObjectPath>,
}

/// A text is no place for a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// Another protocol.
    #[error("write the path of a folder, or s3://BUCKET/PREFIX")]
    Scheme,
    /// It has a user or a query.
    #[error("an address holds no credentials and no options: those have settings of their own")]
    Credentials,
    /// The bucket's name is impossible.
    #[error("a bucket's name has 3 to 63 of a-z, 0-9, dots and dashes: write s3://BUCKET/PREFIX")]
    Bucket,
    /// The prefix is impossible.
    #[error("a prefix is printable ASCII without empty parts, `.` and `..`: write s3://BUCKET/PREFIX")]
    Prefix,
}

impl Location {
    /// The folder, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Location::Folder(folder) => Some(folder),
            Location::Bucket(_) => None,
        }
    }
}

impl From<PathBuf> for Location {
    fn from(folder: PathBuf) -> Self {
        Location::Folder(folder)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Folder(folder) => folder.display().fmt(f),
            Location::Bucket(bucket) => bucket.fmt(f),
        }
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.name)?;
        self.prefix.as_ref().map_or(Ok(()), |prefix| write!(f, "/{prefix}"))
    }
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return match text.contains("://") {
                true => Err(LocationError::Scheme),
                false => Ok(Location::Folder(text.into())),
            };
        };
        if rest.contains(['@', '?', '#']) {
            return Err(LocationError::Credentials);
        }
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_fine =
            |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || b".-".contains(&letter);
        if !(3..=63).contains(&name.len()) || !name.bytes().all(is_fine) {
            return Err(LocationError::Bucket);
        }
        let prefix = match prefix.strip_suffix('/').unwrap_or(prefix) {
            "" => None,
            prefix => Some(ObjectPath::parse(prefix).ok_or(LocationError::Prefix)?),
        };
        Ok(Location::Bucket(Bucket { name: name.to_owned(), prefix }))
    }
}

impl Serialize for Location {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Location {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_shown_as_it_is_written() {
        for text in ["s3://backups", "s3://backups/one/two", "/srv/backups", "relative"] {
            assert_eq!(text.parse::<Location>().unwrap().to_string(), text);
        }
        assert_eq!("s3://backups/one/".parse::<Location>().unwrap().to_string(), "s3://backups/one");
        assert_eq!("s3://backups/".parse::<Location>().unwrap().to_string(), "s3://backups");
    }

    #[test]
    fn what_is_no_place_is_refused_and_secrets_are_not_repeated() {
        let cases = [
            ("gs://bucket", LocationError::Scheme),
            ("s3://key:secret@bucket/x", LocationError::Credentials),
            ("s3://bucket/x?secret=y", LocationError::Credentials),
            ("s3://", LocationError::Bucket),
            ("s3://Bucket", LocationError::Bucket),
            ("s3://bucket/a//b", LocationError::Prefix),
            ("s3://bucket/../b", LocationError::Prefix),
        ];
        for (text, wanted) in cases {
            let refused = text.parse::<Location>().unwrap_err();
            assert_eq!(refused, wanted, "{text}");
            assert!(!refused.to_string().contains("secret"));
        }
    }
}
