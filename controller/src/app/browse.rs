//! Looking into an archive: its entries, one file, the whole as a tar file.
//!
//! Reading blocks and runs on threads of its own; what is read waits in a short queue for whoever asked,
//! and ends when nobody listens any more.

use bytes::Bytes;
use proto::Failure;
use repository::archive::entry::{Entry, EntryKind, FileContent, Pieces};
use repository::archive::path::EntryPath;
use repository::error::RepositoryError;
use repository::read::ArchiveReader;
use tokio::sync::mpsc;

use crate::app::{App, ArchiveChoice, tar};
use crate::ingest::{repository_failure, thread_died};

const QUEUE: usize = 16;
/// The most bytes that are handed on at once: a message of the wire has a limit.
const PART: usize = 512 << 10;
const ZEROS: Bytes = Bytes::from_static(&[0; 64 << 10]);

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
        let mut reader = self.reader(choice).await?;
        let (reader, entry) = blocking(move || {
            let entry = reader.entry(&path)?;
            Ok((reader, (path, entry)))
        })
        .await?;
        let (path, Some(entry)) = entry else { return Err(no_entry(&entry.0)) };
        Ok(read_on_thread(reader, move |reader, outlet| match entry.kind {
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
            EntryKind::Folder => reader.children(&path)?.into_iter().try_for_each(|entry| outlet.put(entry)),
            _ => outlet.put(entry),
        }))
    }

    /// The content of one regular file; of a hard link, that of the file it stands for.
    pub async fn read_file(
        &self,
        choice: &ArchiveChoice,
        path: EntryPath,
    ) -> Result<Reading<Bytes>, Failure> {
        let mut reader = self.reader(choice).await?;
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
                Ok(read_on_thread(reader, move |reader, outlet| {
                    content_of(reader, &content, &mut |data| outlet.put(data))
                }))
            }
            Some(_) => Err(Failure::invalid(format!("{path} is not a regular file"))
                .hint("`nsctl ls` shows what is in a folder; `nsctl export` gives everything as a tar file")),
        }
    }

    /// The whole archive as a tar file (PAX).
    pub async fn export(&self, choice: &ArchiveChoice) -> Result<Reading<Bytes>, Failure> {
        let reader = self.reader(choice).await?;
        Ok(read_on_thread(reader, |reader, outlet| {
            // Entries hold the reader while they come; contents need it too: a page at a time.
            let table = reader.page_table()?;
            for page in &table.pages {
                for entry in reader.page(&page.id)? {
                    let Some(header) = tar::header(&entry) else { continue };
                    outlet.put(header.into())?;
                    if let EntryKind::File(content) = &entry.kind {
                        content_of(reader, content, &mut |data| outlet.put(data))?;
                        outlet.put(ZEROS.slice(..tar::padding(content.size)))?;
                    }
                }
            }
            outlet.put(ZEROS.slice(..tar::END))
        }))
    }

    async fn reader(&self, choice: &ArchiveChoice) -> Result<ArchiveReader, Failure> {
        let (record, archive) = self.archive(choice).await?;
        let depot = self.depot.clone();
        blocking(move || ArchiveReader::open(depot.repository(), depot.keys(), &record, &archive.source))
            .await
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
    read: impl FnOnce(&mut ArchiveReader, &Outlet<T>) -> Result<(), Stop> + Send + 'static,
) -> Reading<T> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        let outlet = Outlet(sender);
        if let Err(Stop::Repository(error)) = read(&mut reader, &outlet) {
            // Who asked may have gone.
            let _ = outlet.0.blocking_send(Err(reading_failure(&error)));
        }
    });
    receiver
}

/// A file's bytes in order, holes as zeros.
fn content_of(
    reader: &mut ArchiveReader,
    content: &FileContent,
    put: &mut dyn FnMut(Bytes) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let mut extents = content.layout.extents(content.size).into_iter();
    let mut at = 0;
    let mut end = 0;
    let lists = match &content.pieces {
        Pieces::Inline(pieces) => vec![Ok(pieces.clone())],
        Pieces::Listed(lists) => lists.iter().map(Err).collect(),
    };
    for list in lists {
        let pieces = match list {
            Ok(pieces) => pieces,
            Err(id) => reader.piece_list(id)?,
        };
        for piece in pieces {
            let mut data = reader.piece(&piece)?;
            while !data.is_empty() {
                if at == end {
                    let Some(extent) = extents.next() else { return Ok(()) };
                    zeros(extent.offset - at, put)?;
                    (at, end) = (extent.offset, extent.offset + extent.length);
                }
                let left = usize::try_from(end - at).unwrap_or(usize::MAX);
                let taken = data.split_to(data.len().min(left).min(PART));
                at += taken.len() as u64;
                put(taken)?;
            }
        }
    }
    zeros(content.size - at, put)
}

fn zeros(mut count: u64, put: &mut dyn FnMut(Bytes) -> Result<(), Stop>) -> Result<(), Stop> {
    while count > 0 {
        let now = count.min(ZEROS.len() as u64);
        put(ZEROS.slice(..now as usize))?;
        count -= now;
    }
    Ok(())
}
