//! Collections that are asked for before their turn comes, and batches before they are wanted: while one is cut and
//! sealed, the server gives the next ones.
//!
//! Must stay true: of a collection that waits for its turn one batch is held, of the one that is read one beside
//! what is read: memory is fixed, however many collections there are and however large.

use std::time::{Duration, Instant};

use mongodb::bson::{RawDocumentBuf, Timestamp, doc};
use mongodb::{Client, Collection};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_util::task::AbortOnDropHandle;

use super::server::{Trouble, add_documents, explain, within};

/// A server gives up on a cursor of which it has not heard for ten minutes.
const STALE: Duration = Duration::from_secs(60);

/// A collection that is read.
pub(super) struct Ahead {
    batches: mpsc::Receiver<Result<Vec<u8>, Trouble>>,
    begun: Instant,
    _reading: AbortOnDropHandle<()>,
}

impl Ahead {
    /// Begins to read `collection`, as of an instant if there is one.
    pub(super) fn begin(
        runtime: &Handle,
        collection: Collection<RawDocumentBuf>,
        instant: Option<(Client, Timestamp)>,
        batch: u32,
    ) -> Self {
        let (sender, batches) = mpsc::channel(1);
        let reading = runtime.spawn(async move {
            let read = match instant {
                None => read(&collection, batch, &sender).await,
                Some((client, instant)) => read_at(&client, instant, &collection, batch, &sender).await,
            };
            if let Err(trouble) = read {
                // Nobody waits for it any more, or hears it.
                let _ = sender.send(Err(trouble)).await;
            }
        });
        Self { batches, begun: Instant::now(), _reading: AbortOnDropHandle::new(reading) }
    }

    /// True if it has waited for its turn for so long that the server may have given it up.
    pub(super) fn is_stale(&self) -> bool {
        self.begun.elapsed() > STALE
    }

    /// The next batch, of whole documents; none at the end.
    pub(super) async fn next(&mut self) -> Option<Result<Vec<u8>, Trouble>> {
        self.batches.recv().await
    }
}

type Sender = mpsc::Sender<Result<Vec<u8>, Trouble>>;

async fn read(collection: &Collection<RawDocumentBuf>, batch: u32, sender: &Sender) -> Result<(), Trouble> {
    let found = async { collection.find(doc! {}).batch_size(batch).batch().await.map_err(told) };
    let mut cursor = within(found).await?;
    // A batch is asked for when there is room for it.
    while let Ok(room) = sender.reserve().await {
        let next = async { cursor.next().await.transpose().map_err(told) };
        let Some(next) = within(next).await? else { return Ok(()) };
        let mut held = Vec::new();
        add_documents(&next, &mut held)?;
        room.send(Ok(held));
    }
    Ok(())
}

/// Each collection has a session of its own, and all the same instant.
async fn read_at(
    client: &Client,
    instant: Timestamp,
    collection: &Collection<RawDocumentBuf>,
    batch: u32,
    sender: &Sender,
) -> Result<(), Trouble> {
    let begun = async { client.start_session().snapshot(true).snapshot_time(instant).await.map_err(told) };
    let mut session = within(begun).await?;
    let found = collection.find(doc! {}).batch_size(batch);
    let found = async { found.session(&mut session).batch().await.map_err(told) };
    let mut cursor = within(found).await?;
    while let Ok(room) = sender.reserve().await {
        let next = async { cursor.stream(&mut session).next().await.transpose().map_err(told) };
        let Some(next) = within(next).await? else { return Ok(()) };
        let mut held = Vec::new();
        add_documents(&next, &mut held)?;
        room.send(Ok(held));
    }
    Ok(())
}

fn told(error: mongodb::error::Error) -> Trouble {
    explain(&error)
}
