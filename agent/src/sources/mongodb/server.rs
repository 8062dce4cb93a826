//! The connection: made once, asked with a limit of time, its errors told without a secret.

use std::future::IntoFuture;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mongodb::Client;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::ClientOptions;
use mongodb::raw_batch_cursor::RawBatchCursor;
use runtime::config::SecretSource;
use tokio::runtime::Handle;
use tokio_stream::StreamExt;

use crate::sources::SourceError;

/// How long a server may be looked for.
const FIND: Duration = Duration::from_secs(10);
/// How long one answer may take. Less than a cancelled task has for its end.
const ANSWER: Duration = Duration::from_secs(45);
/// What the server knows us by, in its log and its list of operations.
const NAME: &str = "neurashield-agent";

const SEE_TO_URI: &str = "check the address, the TLS settings and the server; the agent's log says more";
const SEE_TO_USER: &str = "check user, password and `authSource` in the connection string";
const SEE_TO_RIGHTS: &str = "give the user the role `backup` in the database `admin`";
const SEE_TO_VERSION: &str = "use a server of version 4.4 or newer";
const SEE_TO_SERVER: &str = "see to the server, then back up again; the agent's log says more";

/// The server does not give something.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{why}")]
pub(super) struct Trouble {
    why: String,
    hint: &'static str,
    /// Nothing else would be given either.
    pub(super) is_connection: bool,
    /// What was to be read is not there any more.
    pub(super) is_vanished: bool,
}

impl From<Trouble> for SourceError {
    fn from(trouble: Trouble) -> Self {
        SourceError::Server { hint: trouble.hint, source: trouble.into() }
    }
}

/// A server that answers.
pub(super) struct Server {
    client: Client,
    runtime: Handle,
    /// Set when the connection fails in the middle of a collection: the archive ends there.
    gone: Mutex<Option<Trouble>>,
    /// As the server gives it.
    pub(super) version: String,
}

impl Server {
    /// Connects, and asks for the version: then address, user and version are right.
    pub(super) fn connect(uri: &SecretSource) -> Result<Self, SourceError> {
        let not_given = |source: Box<dyn std::error::Error + Send + Sync>| SourceError::Server {
            hint: "check `uri` or `uri_file` of the source in the agent's configuration",
            source,
        };
        let uri = uri.read().map_err(|error| not_given(error.into()))?;
        if uri.expose().starts_with("mongodb+srv:") {
            return Err(not_given("mongodb+srv:// is not served by this release: list the hosts".into()));
        }
        let runtime = Handle::current();
        let options = runtime.block_on(ClientOptions::parse(uri.expose()).into_future());
        // What is wrong with a connection string may be said by quoting it.
        let mut options =
            options.map_err(|_| not_given("the connection string cannot be understood".into()))?;
        options.app_name = Some(NAME.to_owned());
        options.server_selection_timeout.get_or_insert(FIND);
        options.connect_timeout.get_or_insert(FIND);
        let client = Client::with_options(options)
            .map_err(|_| not_given("the options of the connection string do not fit together".into()))?;
        let mut server = Self { client, runtime, gone: Mutex::default(), version: String::new() };
        let built = server.command("admin", doc! { "buildInfo": 1 })?;
        server.version = built.get_str("version").unwrap_or_default().to_owned();
        Ok(server)
    }

    /// Runs a command that changes nothing.
    pub(super) fn command(&self, database: &str, command: Document) -> Result<Document, Trouble> {
        self.wait(self.client.database(database).run_command(command).into_future())
    }

    /// All documents that a command lists, as they came.
    pub(super) fn list(&self, database: &str, command: Document) -> Result<Vec<RawDocumentBuf>, Trouble> {
        let database = self.client.database(database);
        let mut cursor = self.wait(database.run_cursor_command(command).batch())?;
        let mut listed = Vec::new();
        while let Some(batch) = self.wait(async { cursor.next().await.transpose() })? {
            let documents = batch.doc_slices().map_err(|error| explain(&error))?;
            for document in documents {
                let document = document.ok().and_then(|value| value.as_document().map(ToOwned::to_owned));
                listed.push(document.ok_or_else(|| Trouble::unfit("its answer is no list of documents"))?);
            }
        }
        Ok(listed)
    }

    /// A cursor over all documents of a collection, in the order in which the server keeps them.
    pub(super) fn read(
        &self,
        database: &str,
        collection: &str,
        batch: u32,
    ) -> Result<RawBatchCursor, Trouble> {
        let collection = self.client.database(database).collection::<RawDocumentBuf>(collection);
        self.wait(collection.find(doc! {}).batch_size(batch).batch())
    }

    /// Adds the next batch to `held`; false at the end.
    pub(super) fn more(&self, cursor: &mut RawBatchCursor, held: &mut Vec<u8>) -> Result<bool, Trouble> {
        let Some(batch) = self.wait(async { cursor.next().await.transpose() })? else { return Ok(false) };
        for document in batch.doc_slices().map_err(|error| explain(&error))? {
            let document = document.ok().and_then(|value| value.as_document());
            let document = document.ok_or_else(|| Trouble::unfit("its answer is no list of documents"))?;
            held.extend_from_slice(document.as_bytes());
        }
        Ok(true)
    }

    /// Drops what may tell the server so.
    pub(super) fn close(&self, cursor: Option<RawBatchCursor>) {
        let _within = self.runtime.enter();
        drop(cursor);
    }

    /// What ended the connection.
    pub(super) fn gone(&self) -> Option<Trouble> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn wait<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Trouble> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(ANSWER, answer).await });
        let result = answer.map_err(|_| Trouble {
            why: format!("it has not answered for {} seconds", ANSWER.as_secs()),
            hint: SEE_TO_SERVER,
            is_connection: true,
            is_vanished: false,
        });
        let result = result.and_then(|answer| answer.map_err(|error| explain(&error)));
        if let Err(trouble) = &result
            && trouble.is_connection
        {
            *self.gone.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble.clone());
        }
        result
    }
}

impl Trouble {
    pub(super) fn unfit(why: &str) -> Self {
        Self { why: why.to_owned(), hint: SEE_TO_SERVER, is_connection: false, is_vanished: false }
    }
}

/// The driver's error for people. Its own text may name collections, and this one may end in a manifest,
/// which needs no key to be read: the text goes into the agent's log alone.
fn explain(error: &Error) -> Trouble {
    tracing::warn!(%error, "a MongoDB server does not give what was asked for");
    let text = error.to_string();
    let (why, hint, is_connection) = match &*error.kind {
        ErrorKind::Authentication { .. } => ("it refuses the user or the password", SEE_TO_USER, true),
        ErrorKind::IncompatibleServer { .. } => ("its version is too old", SEE_TO_VERSION, true),
        _ if text.contains("wire version") => ("its version is too old", SEE_TO_VERSION, true),
        ErrorKind::ServerSelection { .. } => ("no server answers at its address", SEE_TO_URI, true),
        ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. } => {
            ("the connection to it is lost", SEE_TO_URI, true)
        }
        ErrorKind::Command(command) => match command.code {
            18 => ("it refuses the user or the password", SEE_TO_USER, true),
            13 => ("the user may not read all of it", SEE_TO_RIGHTS, false),
            26 | 175 => ("it was dropped or renamed while it was read", SEE_TO_SERVER, false),
            code => {
                let why = format!("it answers with the error {code} ({})", command.code_name);
                return Trouble { why, hint: SEE_TO_SERVER, is_connection: false, is_vanished: false };
            }
        },
        _ => ("its answer cannot be understood", SEE_TO_SERVER, false),
    };
    let is_vanished = matches!(&*error.kind, ErrorKind::Command(command) if command.code == 26);
    Trouble { why: why.to_owned(), hint, is_connection, is_vanished }
}
