//! Looking into an archive: its entries, one file, the whole as a tar file.
//!
//! Reading blocks and runs on threads of its own; what is read waits in a short queue for whoever asked,
//! and ends when nobody listens any more.

use bytes::Bytes;
use proto::Failure;
use repository::archive::entry::{Entry, EntryKind};
use repository::archive::path::EntryPath;
use repository::error::RepositoryError;
use repository::export;
use repository::read::ArchiveReader;
use repository::work::{Work, WorkKind};
use tokio::sync::mpsc;

use crate::app::{App, ArchiveChoice};
use crate::ingest::{repository_failure, thread_died};

const QUEUE: usize = 16;

/// Something that is read, bit by bit.
pub type Reading<T> = mpsc::Receiver<Result<T, Failure>>;

/// Why reading ended early.
enum Stop {
    /// Nobody listens any more.
    Unheard,
    Repository(RepositoryError),
}

impl From<RepositoryError> for Stop {
    fn from(error: RepositoryError) -> Self {
        Self::Repository(error)
    }
}

/// Where a reading thread puts what it has read.
struct Outlet<T>(mpsc::Sender<Result<T, Failure>>);

impl<T> Outlet<T> {
    fn put(&self, value: T) -> Result<(), Stop> {
        self.0.blocking_send(Ok(value)).map_err(|_| Stop::Unheard)
    }
}

impl App {
    /// The entries of a folder, or everything below it. A path that is no folder gives itself.
    pub async fn list_entries(
        &self,
        choice: &ArchiveChoice,
        path: EntryPath,
        recursive: bool,
    ) -> Result<Reading<Entry>, Failure> {
        let (mut reader, held) = self.reader(choice).await?;
        let (reader, entry) = blocking(move || {
            let entry = reader.entry(&path)?;
            Ok((reader, (path, entry)))
        })
        .await?;
        let (path, Some(entry)) = entry else { return Err(no_entry(&entry.0)) };
        Ok(read_on_thread(reader, held, move |reader, outlet| match entry.kind {
            EntryKind::Folder if recursive => {
                for entry in reader.entries_from(&path)? {
                    let entry = entry?;
                    if !entry.path.is_within(&path) {
                        break;
                    }
                    if entry.path != path {
                        outlet.put(entry)?;
                    }
                }
                Ok(())
            }
            EntryKind::Folder => reader.children(&path, |entry| outlet.put(entry)),
            _ => outlet.put(entry),
        }))
    }

    /// The content of one regular file; of a hard link, that of the file it stands for.
    pub async fn read_file(
        &self,
        choice: &ArchiveChoice,
        path: EntryPath,
    ) -> Result<Reading<Bytes>, Failure> {
        let (mut reader, held) = self.reader(choice).await?;
        let (reader, path, found) = blocking(move || {
            let mut found = reader.entry(&path)?;
            if let Some(Entry { kind: EntryKind::HardLink { to }, .. }) = &found {
                let to = to.clone();
                found = reader.entry(&to)?;
            }
            Ok((reader, path, found))
        })
        .await?;
        match found {
            None => Err(no_entry(&path)),
            Some(Entry { kind: EntryKind::File(content), .. }) => {
                Ok(read_on_thread(reader, held, move |reader, outlet| {
                    export::content(reader, &content, &mut |data| outlet.put(data))
                }))
            }
            Some(_) => Err(Failure::invalid(format!("{path} is not a regular file"))
                .hint("`nsctl ls` shows what is in a folder; `nsctl export` gives everything as a tar file")),
        }
    }

    /// The whole archive as a tar file (PAX); a chain's keys only where they were asked for.
    pub async fn export(&self, choice: &ArchiveChoice, with_keys: bool) -> Result<Reading<Bytes>, Failure> {
        let (reader, held) = self.reader(choice).await?;
        let leaves_out = formats::chains::left_out(&reader.manifest().kind, with_keys);
        Ok(read_on_thread(reader, held, move |reader, outlet| {
            export::archive(reader, leaves_out, &mut |data| outlet.put(data))
        }))
    }

    /// The archive, and the lease under which it is read.
    async fn reader(&self, choice: &ArchiveChoice) -> Result<(ArchiveReader, Work), Failure> {
        let (record, archive) = self.archive(choice).await?;
        let held = self.hold(&record.name, WorkKind::Reading).await?;
        let depot = self.depot.clone();
        let open = move || ArchiveReader::open(depot.repository(), depot.keys(), &record, &archive.source);
        Ok((blocking(open).await?, held))
    }
}

fn no_entry(path: &EntryPath) -> Failure {
    Failure::not_found(format!("the archive has no entry {path}")).hint("`nsctl ls` shows what is in it")
}

fn reading_failure(error: &RepositoryError) -> Failure {
    repository_failure("the archive cannot be read", error)
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, RepositoryError> + Send + 'static,
) -> Result<T, Failure> {
    let read = tokio::task::spawn_blocking(read).await.map_err(|error| thread_died(&error))?;
    read.map_err(|error| reading_failure(&error))
}

fn read_on_thread<T: Send + 'static>(
    mut reader: ArchiveReader,
    held: Work,
    read: impl FnOnce(&mut ArchiveReader, &Outlet<T>) -> Result<(), Stop> + Send + 'static,
) -> Reading<T> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        let outlet = Outlet(sender);
        if let Err(Stop::Repository(error)) = read(&mut reader, &outlet) {
            // Who asked may have gone.
            let _ = outlet.0.blocking_send(Err(reading_failure(&error)));
        }
        drop(held);
    });
    receiver
}
