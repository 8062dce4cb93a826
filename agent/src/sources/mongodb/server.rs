//! The connection: made once, asked with a limit of time, its errors told without a secret.

mod repeat;

use std::future::IntoFuture;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mongodb::Client;
use mongodb::bson::{Document, RawDocumentBuf, Timestamp, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{
    Acknowledgment, ClientOptions, ReadPreference, SelectionCriteria, ServerAddress, WriteConcern,
};
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use runtime::config::SecretSource;
use tokio::runtime::Handle;
use tokio_stream::StreamExt;
use tokio_util::task::AbortOnDropHandle;

use super::ahead::Ahead;
use super::events;
pub(crate) use super::trouble::Trouble;
use super::trouble::{FORBIDDEN, SEE_TO_ROLES, SEE_TO_SERVER};
pub(super) use super::trouble::{TOO_OLD, explain};
use crate::sources::SourceError;

/// How long a server may be looked for.
const FIND: Duration = Duration::from_secs(10);
/// How long one answer may take. Less than a cancelled task has for its end.
pub(crate) const ANSWER: Duration = Duration::from_secs(45);
/// How long the server may work on a change that is no index. Well under an answer's time: a change whose answer
/// was not waited for any longer does not take effect any more.
pub(crate) const CHANGE: Duration = Duration::from_secs(30);
/// How often somebody who waits for long looks whether they still should.
const LOOK: Duration = Duration::from_millis(200);
/// What the server knows us by, in its log and its list of operations.
pub(super) const NAME: &str = "neurashield-agent";

/// From this version of the protocol on (MongoDB 5.0) everything can be read as of one instant.
const INSTANTS: i32 = 13;

/// Where the reading of a collection stands.
pub(crate) struct Cursor(RawBatchCursor);

/// A list that is asked for.
pub(super) struct Listing(AbortOnDropHandle<Result<Vec<RawDocumentBuf>, Trouble>>);

/// Documents on their way to the server.
pub(crate) struct Inserting {
    sent: AbortOnDropHandle<Result<(), Error>>,
    documents: Arc<Vec<RawDocumentBuf>>,
}

/// Documents are not there.
#[derive(Debug)]
pub(crate) struct NotInserted {
    pub(crate) trouble: Trouble,
    /// The first that was refused, if it is known.
    pub(crate) document: Option<RawDocumentBuf>,
}

/// Connections that have to stay: whoever holds a lock may not be let in anew.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    /// So many at most.
    pub(super) most: u32,
    /// For so long the server is not asked whether it is there.
    pub(super) longest: Duration,
}

/// A server that answers.
pub(crate) struct Server {
    client: Client,
    options: ClientOptions,
    runtime: Handle,
    /// Set when the connection fails in the middle of a collection: the archive ends there.
    gone: Mutex<Option<Trouble>>,
    /// As of which everything is read; none: as it is when its turn comes.
    instant: Mutex<Option<Timestamp>>,
    addresses: Vec<ServerAddress>,
    is_direct: bool,
    /// As the server gives it.
    pub(crate) version: String,
}

impl Server {
    /// Connects, and asks for the version: then address, user and version are right.
    pub(crate) fn connect(uri: &SecretSource) -> Result<Self, SourceError> {
        Self::connect_within(uri, FIND)
    }

    /// The same, looking for it for so long where the connection string does not say how long.
    pub(crate) fn connect_within(uri: &SecretSource, find: Duration) -> Result<Self, SourceError> {
        Self::connect_by(uri, None, find)
    }

    /// To this member alone, whatever the others are; by connections that are kept, if it says which.
    pub(super) fn connect_member(
        uri: &SecretSource,
        member: ServerAddress,
        find: Duration,
        kept: Option<Kept>,
    ) -> Result<Self, SourceError> {
        Self::connect_by(uri, Some((member, kept)), find)
    }

    fn connect_by(
        uri: &SecretSource,
        member: Option<(ServerAddress, Option<Kept>)>,
        find: Duration,
    ) -> Result<Self, SourceError> {
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
        options.command_event_handler = events::handler();
        options.server_selection_timeout.get_or_insert(find);
        options.connect_timeout.get_or_insert(find);
        if let Some((member, kept)) = member {
            options.hosts = vec![member];
            options.direct_connection = Some(true);
            options.repl_set_name = None;
            // A server that is locked may not let anybody in anew.
            options.max_idle_time = None;
            if let Some(kept) = kept {
                (options.min_pool_size, options.max_pool_size) = (None, Some(kept.most));
                // The driver asks the server again and again whether it is there, and closes all connections where that
                // is not answered in time. So it asks once, for as long.
                options.heartbeat_freq = Some(kept.longest);
            }
        }
        let (addresses, is_direct) = (options.hosts.clone(), options.direct_connection.unwrap_or_default());
        let client = Client::with_options(options.clone())
            .map_err(|_| not_given("the options of the connection string do not fit together".into()))?;
        let mut server = Self {
            client,
            options,
            runtime,
            gone: Mutex::default(),
            instant: Mutex::default(),
            addresses,
            is_direct,
            version: String::new(),
        };
        let built = server.command("admin", doc! { "buildInfo": 1 })?;
        server.version = built.get_str("version").unwrap_or_default().to_owned();
        Ok(server)
    }

    /// Those that the connection string names.
    pub(super) fn addresses(&self) -> &[ServerAddress] {
        &self.addresses
    }

    /// True if the connection string means one server, whatever else is in its set.
    pub(super) fn is_direct(&self) -> bool {
        self.is_direct
    }

    /// Runs a command.
    pub(crate) fn command(&self, database: &str, command: Document) -> Result<Document, Trouble> {
        self.wait(self.client.database(database).run_command(command).into_future())
    }

    /// The same, for no longer than this.
    pub(super) fn command_within(
        &self,
        longest: Duration,
        database: &str,
        command: Document,
    ) -> Result<Document, Trouble> {
        let database = self.client.database(database);
        let answer = async { database.run_command(command).await.map_err(|error| explain(&error)) };
        self.told(self.runtime.block_on(within_time(longest, answer)))
    }

    /// The same, if it is answered soon. Else it is waited for elsewhere, for no longer than `longest`: the driver closes a
    /// connection whose answer nobody waits for.
    pub(super) fn command_soon(
        &self,
        soon: Duration,
        longest: Duration,
        database: &str,
        command: Document,
    ) -> Result<Document, Trouble> {
        let database = self.client.database(database);
        let answer = async move { database.run_command(command).await.map_err(|error| explain(&error)) };
        let asked = self.runtime.spawn(within_time(longest, answer));
        let heard = async { asked.await.unwrap_or_else(|_| Err(Trouble::unfit("what asks it has died"))) };
        self.runtime.block_on(within_time(soon, heard))
    }

    /// All documents that a command lists, as they came.
    pub(crate) fn list(&self, database: &str, command: Document) -> Result<Vec<RawDocumentBuf>, Trouble> {
        let listed = self.runtime.block_on(within(list(self.client.database(database), command)));
        self.told(listed)
    }

    /// From here on every collection is read as of one and the same instant; else this says why not, and what
    /// can be done about it.
    pub(super) fn fix_instant(&self) -> Result<(), String> {
        const UPGRADE: &str = "servers before 5.0 cannot be read as of one instant: upgrade it";
        const NO_SET: &str = "the server is no replica set: make it one (one member will do)";
        let refused =
            |trouble: Trouble| format!("the server does not let itself be read at one instant: {trouble}");
        let role = self.command("admin", doc! { "isMaster": 1 }).map_err(refused)?;
        let is_router = role.get_str("msg").is_ok_and(|word| word == "isdbgrid");
        if !is_router && role.get_str("setName").is_err() {
            return Err(NO_SET.to_owned());
        }
        if role.get_i32("maxWireVersion").unwrap_or_default() < INSTANTS {
            return Err(UPGRADE.to_owned());
        }
        let session = self.client.start_session().snapshot(true).into_future();
        let mut session = self.wait(session).map_err(refused)?;
        // The first answer fixes it.
        let any = self.client.database("admin").collection::<RawDocumentBuf>("system.version");
        let first = self.wait(any.find(doc! {}).limit(1).session(&mut session).batch());
        first.map_err(refused)?;
        let told = session.snapshot_time();
        let within = self.runtime.enter();
        drop(session);
        drop(within);
        let instant = told.ok_or("the server does not say at which instant it was read")?;
        *self.instant.lock().unwrap_or_else(PoisonError::into_inner) = Some(instant);
        Ok(())
    }

    /// Begins to read all documents of a collection, in the order in which the server keeps them.
    pub(super) fn read_ahead(&self, database: &str, collection: &str, batch: u32) -> Ahead {
        let collection = self.client.database(database).collection::<RawDocumentBuf>(collection);
        let instant = *self.instant.lock().unwrap_or_else(PoisonError::into_inner);
        let instant = instant.map(|instant| (self.client.clone(), instant));
        Ahead::begin(&self.runtime, collection, instant, batch)
    }

    /// The next batch of what is read ahead; none at the end.
    pub(super) fn next_of(&self, ahead: &mut Ahead) -> Result<Option<Vec<u8>>, Trouble> {
        let next = self.runtime.block_on(ahead.next());
        self.told(next)
    }

    /// Begins to list what a command lists.
    pub(super) fn list_ahead(&self, database: &str, command: Document) -> Listing {
        let listed = list(self.client.database(database), command);
        Listing(AbortOnDropHandle::new(self.runtime.spawn(within(listed))))
    }

    /// What was listed.
    pub(super) fn listed(&self, listing: Listing) -> Result<Vec<RawDocumentBuf>, Trouble> {
        let listed = self.runtime.block_on(listing.0);
        self.told(listed.unwrap_or_else(|_| Err(Trouble::unfit("it was not listed to its end"))))
    }

    /// A cursor over all documents of a collection at the member that takes the writes: what was loaded just now.
    pub(crate) fn read_written(
        &self,
        database: &str,
        collection: &str,
        batch: u32,
    ) -> Result<Cursor, Trouble> {
        let collection = self.client.database(database).collection::<RawDocumentBuf>(collection);
        let primary = SelectionCriteria::ReadPreference(ReadPreference::Primary);
        let found = collection.find(doc! {}).selection_criteria(primary).batch_size(batch);
        self.wait(found.batch()).map(Cursor)
    }

    /// Returns when most members of the set have what was [inserted](Server::insert) into a collection before. A
    /// write that changes nothing waits for all that came before it.
    pub(crate) fn confirm(&self, database: &str, collection: &str) -> Result<(), Trouble> {
        let nothing = doc! { "q": { "_id": { "$in": [] } }, "u": { "$set": { "confirmed": true } } };
        self.change(database, doc! { "update": collection, "updates": [nothing] }, None).map(|_| ())
    }

    /// Adds the next batch to `held`; false at the end.
    pub(crate) fn more(&self, cursor: &mut Cursor, held: &mut Vec<u8>) -> Result<bool, Trouble> {
        let next = self.wait(async { cursor.0.next().await.transpose() })?;
        let Some(batch) = next else { return Ok(false) };
        add_documents(&batch, held)?;
        Ok(true)
    }

    /// Drops what may tell the server so.
    pub(crate) fn close(&self, cursor: Cursor) {
        let _within = self.runtime.enter();
        drop(cursor);
    }

    /// Runs a command that changes something, and returns when most members of the set have it for good. It
    /// may take as long as `goes_on` says, or [`CHANGE`].
    pub(crate) fn change(
        &self,
        database: &str,
        mut command: Document,
        goes_on: Option<&dyn Fn() -> bool>,
    ) -> Result<Document, Trouble> {
        let mut concern = doc! { "w": "majority", "j": true };
        if goes_on.is_none() {
            let most = i32::try_from(CHANGE.as_millis()).expect("it is short");
            command.insert("maxTimeMS", most);
            concern.insert("wtimeout", most);
        }
        command.insert("writeConcern", concern);
        let database = self.client.database(database);
        let answer = database.run_command(command).into_future();
        let answer = match goes_on {
            None => self.wait(answer),
            Some(goes_on) => self.wait_while(answer, goes_on),
        };
        let answer = answer.map_err(|trouble| match trouble.code {
            Some(FORBIDDEN) => {
                Trouble { why: "the user may not do that".to_owned(), hint: SEE_TO_ROLES, ..trouble }
            }
            _ => trouble,
        })?;
        if let Some(refused) = answer.get_array("writeErrors").ok().and_then(|all| all.first()?.as_document())
        {
            let code = refused.get_i32("code").unwrap_or_default();
            return Err(refusal(code, format!("it does not write what it is told (error {code})")));
        }
        match answer.get_document("writeConcernError") {
            Err(_) => Ok(answer),
            Ok(error) => {
                let code = error.get_i32("code").unwrap_or_default();
                tracing::warn!(%error, "a MongoDB server has not confirmed a change");
                Err(refusal(code, format!("most of its members have not confirmed a change (error {code})")))
            }
        }
    }

    /// Sends documents off, whatever a validator says of them. What is durable is for the next
    /// [`Server::change`] to say.
    pub(crate) fn insert(
        &self,
        database: &str,
        collection: &str,
        documents: Vec<RawDocumentBuf>,
    ) -> Inserting {
        let collection = self.client.database(database).collection::<RawDocumentBuf>(collection);
        let documents = Arc::new(documents);
        let sending = Arc::clone(&documents);
        let sent = AbortOnDropHandle::new(self.runtime.spawn(async move {
            let one = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
            let inserted = collection.insert_many(sending.iter()).ordered(true);
            inserted.bypass_document_validation(true).write_concern(one).await.map(|_| ())
        }));
        Inserting { sent, documents }
    }

    /// Waits for documents to be there.
    pub(crate) fn inserted(&self, Inserting { sent, documents }: Inserting) -> Result<(), NotInserted> {
        let mut at = None;
        let inserted = self.wait(async {
            let result = sent.await.unwrap_or_else(|panic| Err(Error::custom(panic.to_string())));
            if let Err(error) = &result
                && let ErrorKind::InsertMany(failed) = &*error.kind
            {
                at = failed.write_errors.iter().flatten().map(|error| error.index).next();
            }
            result
        });
        inserted.map_err(|trouble| {
            let document = at.and_then(|at| documents.get(at)).cloned();
            NotInserted { trouble, document }
        })
    }

    /// What ended the connection.
    pub(super) fn gone(&self) -> Option<Trouble> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn wait<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Trouble> {
        let answer = async { answer.await.map_err(|error| explain(&error)) };
        self.told(self.runtime.block_on(within(answer)))
    }

    /// Waits for what may take any time; once `goes_on` says no, no longer than for any other answer.
    fn wait_while<T>(
        &self,
        answer: impl Future<Output = Result<T, Error>>,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<T, Trouble> {
        let answered = self.runtime.block_on(async {
            let mut answer = pin!(answer);
            let mut last = None;
            loop {
                if let Ok(answer) = tokio::time::timeout(LOOK, &mut answer).await {
                    return Ok(answer);
                }
                if !goes_on() && last.get_or_insert_with(Instant::now).elapsed() > ANSWER {
                    return Err(Trouble::unfit("it has not answered while it was waited for"));
                }
            }
        });
        self.told(answered.and_then(|answer| answer.map_err(|error| explain(&error))))
    }

    fn told<T>(&self, result: Result<T, Trouble>) -> Result<T, Trouble> {
        if let Err(trouble) = &result
            && trouble.is_connection
        {
            *self.gone.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble.clone());
        }
        result
    }
}

/// A change that was not made, or may not last.
fn refusal(code: i32, why: String) -> Trouble {
    Trouble { why, hint: SEE_TO_SERVER, is_connection: false, is_vanished: false, code: Some(code) }
}

/// An answer, if it comes in time.
pub(super) async fn within<T>(answer: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    within_time(ANSWER, answer).await
}

async fn within_time<T>(
    longest: Duration,
    answer: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    tokio::time::timeout(longest, answer).await.unwrap_or_else(|_| {
        Err(Trouble {
            why: format!("it has not answered for {} seconds", longest.as_secs()),
            hint: SEE_TO_SERVER,
            is_connection: true,
            is_vanished: false,
            code: None,
        })
    })
}

async fn list(database: mongodb::Database, command: Document) -> Result<Vec<RawDocumentBuf>, Trouble> {
    let told = |error: Error| explain(&error);
    let mut cursor = database.run_cursor_command(command).batch().await.map_err(told)?;
    let mut listed = Vec::new();
    while let Some(batch) = cursor.next().await.transpose().map_err(told)? {
        for document in batch.doc_slices().map_err(told)? {
            let document = document.ok().and_then(|value| value.as_document().map(ToOwned::to_owned));
            listed.push(document.ok_or_else(|| Trouble::unfit("its answer is no list of documents"))?);
        }
    }
    Ok(listed)
}

/// Adds the documents of a batch, one after the other.
pub(super) fn add_documents(batch: &RawBatch, held: &mut Vec<u8>) -> Result<(), Trouble> {
    for document in batch.doc_slices().map_err(|error| explain(&error))? {
        let document = document.ok().and_then(|value| value.as_document());
        let document = document.ok_or_else(|| Trouble::unfit("its answer is no list of documents"))?;
        held.extend_from_slice(document.as_bytes());
    }
    Ok(())
}
