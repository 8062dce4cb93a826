//! What a server's refusal means, in plain words.
//!
//! Must stay true: of an answer only its code, its status and the region that it names are repeated. Its
//! body may hold the signature, the key's id and the session token.

use std::error::Error as _;
use std::io;

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

use crate::store::{ObjectPath, StoreError};

/// What went wrong with a bucket, in plain words. As the cause of a [`StoreError`] it says that this is where it
/// went wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(in crate::store) struct Said(pub(super) String);

/// What came of a request that did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There is no such object.
    Missing,
    /// The condition did not hold: the name is taken.
    Taken,
    /// Whether it was done is not known, or it may be done the next time.
    Unclear,
    /// It was refused, and will be.
    Refused,
}

pub(super) fn outcome(error: &Error) -> Outcome {
    match (error, code(error)) {
        (_, Some("NoSuchBucket")) => Outcome::Refused,
        (Error::NotFound { .. }, _) => Outcome::Missing,
        // 409: somebody else writes this name at the same moment. It is looked at again.
        (Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. }, _) => {
            Outcome::Taken
        }
        _ => match (status(error), transport(error)) {
            (Some(408 | 429 | 500..), _) | (None, Some(_)) => Outcome::Unclear,
            _ => Outcome::Refused,
        },
    }
}

/// The error of an operation on `path`.
pub(super) fn failure(verb: &'static str, path: &ObjectPath, error: &Error) -> StoreError {
    let path = path.clone();
    if outcome(error) == Outcome::Missing {
        return StoreError::NotFound { path };
    }
    let words = words(error);
    let is_full =
        matches!(code(error), Some("XMinioStorageFull" | "QuotaExceeded")) || status(error) == Some(507);
    match is_full {
        true => StoreError::Full { path, source: io::Error::new(io::ErrorKind::StorageFull, Said(words)) },
        false => StoreError::Failed { verb, path, source: io::Error::other(Said(words)) },
    }
}

fn words(error: &Error) -> String {
    let text = error.to_string();
    match code(error) {
        Some("NoSuchBucket") => return "the bucket does not exist".to_owned(),
        Some("InvalidAccessKeyId") => return "the server does not know this access key".to_owned(),
        Some("SignatureDoesNotMatch") => return "the secret of the access key is wrong".to_owned(),
        Some("ExpiredToken" | "InvalidToken") => {
            return "the session token is wrong or has expired".to_owned();
        }
        Some("RequestTimeTooSkewed") => {
            return "this machine's clock is more than 15 minutes off the server's".to_owned();
        }
        Some("AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException") => {
            return match element(&text, "Region").or_else(|| expected_region(&text)) {
                Some(region) => format!("the bucket lies in the region {region}: set that one"),
                None => "the bucket lies in another region than the one that is set".to_owned(),
            };
        }
        _ => {}
    }
    if text.contains("redirect without LOCATION") || matches!(status(error), Some(301 | 307)) {
        return "the bucket lies in another region than the one that is set".to_owned();
    }
    match (status(error), code(error), transport(error)) {
        (Some(401 | 403), ..) => {
            "access is denied: check the key and what it may do with this bucket".to_owned()
        }
        (Some(status @ (429 | 503)), ..) => {
            format!("the server asks for fewer requests, again and again ({status})")
        }
        (Some(status), Some(code), _) => format!("the server answers {status} {code}"),
        (Some(status), None, _) => format!("the server answers {status}"),
        (None, _, Some(HttpErrorKind::Connect)) => format!("the server cannot be reached{}", cause(error)),
        (None, _, Some(HttpErrorKind::Timeout)) => "the server does not answer in time".to_owned(),
        (None, _, Some(_)) => format!("the connection to the server broke{}", cause(error)),
        (None, _, None) if text.contains("Instance") || text.contains("169.254.169.254") => {
            "there is no key, and this machine has no role that gives one".to_owned()
        }
        (None, _, None) => "the server's answer makes no sense".to_owned(),
    }
}

/// The innermost cause of an error of the network: an operating system's message.
fn cause(error: &Error) -> String {
    let io = causes(error)
        .find_map(|cause| cause.downcast_ref::<io::Error>().filter(|io| io.raw_os_error().is_some()));
    io.map(|io| format!(": {io}")).unwrap_or_default()
}

fn causes(error: &Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let this = next?;
        next = this.source();
        Some(this)
    })
}

/// How the connection failed, if that is what did.
pub(super) fn transport(error: &Error) -> Option<HttpErrorKind> {
    causes(error).find_map(|cause| cause.downcast_ref::<HttpError>()).map(HttpError::kind)
}

/// The code in the body of an answer, if it has one that is worth repeating.
fn code(error: &Error) -> Option<&'static str> {
    const CODES: [&str; 22] = [
        "NoSuchBucket",
        "NoSuchKey",
        "NoSuchUpload",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "AuthorizationHeaderMalformed",
        "PermanentRedirect",
        "IllegalLocationConstraintException",
        "XMinioStorageFull",
        "QuotaExceeded",
        "AccessDenied",
        "SlowDown",
        "InternalError",
        "BadDigest",
        "EntityTooSmall",
        "InvalidRequest",
        "InvalidArgument",
        "NotImplemented",
        "MethodNotAllowed",
    ];
    let text = error.to_string();
    let said = element(&text, "Code")?;
    CODES.into_iter().find(|code| *code == said)
}

/// The status in the library's words for an answer: `… status code: 403 Forbidden: …`.
pub(super) fn status(error: &Error) -> Option<u16> {
    let text = error.to_string();
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (value, _) = rest.split_once("</")?;
    let is_plain = value.len() <= 64 && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    is_plain.then_some(value)
}

/// Amazon's and MinIO's sentence: `… the region 'a' is wrong; expecting 'b'`.
fn expected_region(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("expecting '")?;
    let (region, _) = rest.split_once('\'')?;
    region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-').then_some(region)
}
