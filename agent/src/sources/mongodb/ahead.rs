//! Collections that are asked for before their turn comes, and batches before they are wanted: while one is cut and
//! sealed, the server gives the next ones.
//!
//! Must stay true: a collection has an end only where the server has told it, and a reader that dies tells none; of
//! a collection that waits for its turn one batch is held, of the one that is read one beside
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
    /// None is the end: it is sent, and a channel that closes without it is an error.
    batches: mpsc::Receiver<Result<Option<Vec<u8>>, Trouble>>,
    begun: Instant,
    is_broken: bool,
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
            // Nobody waits for it any more, or hears it.
            let _ = sender.send(read.map(|()| None)).await;
        });
        Self { batches, begun: Instant::now(), is_broken: false, _reading: AbortOnDropHandle::new(reading) }
    }

    /// True if it gives nothing any more, or has waited for its turn for so long that the server may have given it
    /// up.
    pub(super) fn is_stale(&self) -> bool {
        self.is_broken || self.begun.elapsed() > STALE
    }

    /// The next batch, of whole documents; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Trouble> {
        let next = self.batches.recv().await.unwrap_or_else(|| {
            let mut died = Trouble::unfit("what reads it has died before the end of a collection");
            died.is_connection = true;
            Err(died)
        });
        self.is_broken |= next.is_err();
        next
    }
}

type Sender = mpsc::Sender<Result<Option<Vec<u8>>, Trouble>>;

async fn read(collection: &Collection<RawDocumentBuf>, batch: u32, sender: &Sender) -> Result<(), Trouble> {
    let found = async { collection.find(doc! {}).batch_size(batch).batch().await.map_err(told) };
    let mut cursor = within(found).await?;
    // A batch is asked for when there is room for it.
    while let Ok(room) = sender.reserve().await {
        let next = async { cursor.next().await.transpose().map_err(told) };
        let Some(next) = within(next).await? else { return Ok(()) };
        let mut held = Vec::new();
        add_documents(&next, &mut held)?;
        room.send(Ok(Some(held)));
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
        room.send(Ok(Some(held)));
    }
    Ok(())
}

fn told(error: mongodb::error::Error) -> Trouble {
    explain(&error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_that_dies_is_an_error_and_never_the_end_of_its_collection() {
        let read = |ends: bool| {
            let (sender, batches) = mpsc::channel(1);
            let reading = tokio::spawn(async move {
                let _ = sender.send(Ok(Some(vec![1]))).await;
                assert!(ends, "the reader dies");
                let _ = sender.send(Ok(None)).await;
            });
            let _reading = AbortOnDropHandle::new(reading);
            Ahead { batches, begun: Instant::now(), is_broken: false, _reading }
        };
        let mut whole = read(true);
        assert_eq!(whole.next().await.expect("a batch"), Some(vec![1]));
        assert!(matches!(whole.next().await, Ok(None)) && !whole.is_stale());
        let mut torn = read(false);
        assert_eq!(torn.next().await.expect("a batch"), Some(vec![1]));
        let died = torn.next().await.expect_err("no end was told");
        assert!(died.is_connection && torn.is_stale());
    }
}
