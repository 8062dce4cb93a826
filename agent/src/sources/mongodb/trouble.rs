//! What a server does not give, told for people: by kind and by the server's number for it, without a secret.
//!
//! Must stay true: the driver's own text may name collections or quote documents, and a failure's text may end in a
//! manifest, which needs no key to be read; so that text goes into the agent's log alone, if anywhere.

use mongodb::error::{Error, ErrorKind};

use crate::sources::SourceError;

const SEE_TO_URI: &str = "check the address, the TLS settings and the server; the agent's log says more";
const SEE_TO_USER: &str = "check user, password and `authSource` in the connection string";
const SEE_TO_RIGHTS: &str = "give the user the role `backup` in the database `admin`";
pub(super) const SEE_TO_ROLES: &str =
    "give the user the roles `backup` and `restore` in the database `admin`";
/// The server's number for what the user may not do.
pub(super) const FORBIDDEN: i32 = 13;
const SEE_TO_VERSION: &str = "use a server of version 4.4 or newer";
const SEE_TO_HISTORY: &str = "the next attempt takes another way; to have one instant, give the server a \
                              `minSnapshotHistoryWindowInSeconds` that is longer than a backup takes, then restart \
                              the agent";
/// The server's number for an instant that it no longer knows.
pub(super) const TOO_OLD: i32 = 239;
/// The server's number for a collection that was not the same at the instant.
const UNSETTLED: i32 = 246;
pub(super) const SEE_TO_SERVER: &str = "see to the server, then back up again; the agent's log says more";

/// The server does not give something.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{why}")]
pub(crate) struct Trouble {
    pub(super) why: String,
    pub(crate) hint: &'static str,
    /// Nothing else would be given either.
    pub(crate) is_connection: bool,
    /// What was to be read is not there any more.
    pub(crate) is_vanished: bool,
    /// The server's number for it, if it has answered.
    pub(crate) code: Option<i32>,
}

impl From<Trouble> for SourceError {
    fn from(trouble: Trouble) -> Self {
        match trouble.code {
            Some(TOO_OLD) => SourceError::Again { hint: trouble.hint, source: trouble.into() },
            _ => SourceError::Server { hint: trouble.hint, source: trouble.into() },
        }
    }
}

impl Trouble {
    pub(crate) fn unfit(why: &str) -> Self {
        Self {
            why: why.to_owned(),
            hint: SEE_TO_SERVER,
            is_connection: false,
            is_vanished: false,
            code: None,
        }
    }
}

/// The driver's error for people. Its own text may name collections, and this one may end in a manifest,
/// which needs no key to be read: the text goes into the agent's log alone.
pub(super) fn explain(error: &Error) -> Trouble {
    let text = error.to_string();
    let code = code_of(error);
    match code {
        // What a server says of it may quote a document.
        Some(code) => {
            let name = name_of(error);
            tracing::warn!(code, name, "a MongoDB server does not give what was asked for");
        }
        None => tracing::warn!(%error, "a MongoDB server does not give what was asked for"),
    }
    let (why, hint, is_connection) = match &*error.kind {
        ErrorKind::Authentication { .. } => ("it refuses the user or the password", SEE_TO_USER, true),
        ErrorKind::IncompatibleServer { .. } => ("its version is too old", SEE_TO_VERSION, true),
        _ if text.contains("wire version") => ("its version is too old", SEE_TO_VERSION, true),
        ErrorKind::ServerSelection { .. } => ("no server answers at its address", SEE_TO_URI, true),
        ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. } => {
            ("the connection to it is lost", SEE_TO_URI, true)
        }
        _ => match code {
            Some(18) => ("it refuses the user or the password", SEE_TO_USER, true),
            Some(FORBIDDEN) => ("the user may not read all of it", SEE_TO_RIGHTS, false),
            Some(TOO_OLD) => {
                ("its history does not reach back to the instant at which it was read", SEE_TO_HISTORY, true)
            }
            Some(50) => ("it has not come to it in time, and does not any more", SEE_TO_SERVER, false),
            Some(UNSETTLED) => (
                "it was made, dropped or renamed around the instant at which it was read",
                SEE_TO_SERVER,
                false,
            ),
            Some(26 | 175) => ("it was dropped or renamed while it was read", SEE_TO_SERVER, false),
            Some(11_000) => ("two documents have the same key", SEE_TO_SERVER, false),
            Some(14_031) => ("its disk is full", SEE_TO_SERVER, false),
            Some(code) => {
                let why = format!("it answers with the error {code}{}", name_of(error));
                let hint = SEE_TO_SERVER;
                return Trouble { why, hint, is_connection: false, is_vanished: false, code: Some(code) };
            }
            None => ("its answer cannot be understood", SEE_TO_SERVER, false),
        },
    };
    Trouble { why: why.to_owned(), hint, is_connection, is_vanished: code == Some(26), code }
}

/// The server's number for what it refuses.
fn code_of(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(command) => Some(command.code),
        ErrorKind::InsertMany(failed) => match (&failed.write_errors, &failed.write_concern_error) {
            (Some(errors), _) if !errors.is_empty() => Some(errors[0].code),
            (_, Some(error)) => Some(error.code),
            _ => None,
        },
        _ => None,
    }
}

/// The server's word for it.
fn name_of(error: &Error) -> String {
    match &*error.kind {
        ErrorKind::Command(command) if !command.code_name.is_empty() => format!(" ({})", command.code_name),
        _ => String::new(),
    }
}
