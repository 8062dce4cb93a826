//! `nsctl export --format mongodump` and `mongodump-archive`: what `mongorestore` reads, as a folder or as the
//! one stream of its `--archive`.
//!
//! Must stay true: what is left behind is whole; nothing is overwritten.

mod archive;

use std::fs;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use bytes::Bytes;
use proto::v1;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;

use super::export::{cannot_write, create};
use crate::client::Client;
use crate::output::Voice;
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::words::size;

/// Pieces on their way to whoever takes them apart.
const AHEAD: usize = 8;

/// The archive as a folder that is made.
pub(super) async fn folder(
    client: Client,
    request: v1::ExportArchiveRequest,
    output: &Path,
    voice: Voice,
) -> Ended {
    let name = output.display().to_string();
    if output == Path::new("-") {
        return Err(Trouble::usage("a folder cannot be written to stdout")
            .hint("give --output a folder, or take --format mongodump-archive"));
    }
    fs::create_dir(output).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Trouble::usage(format!("{name} exists already"))
            .because("nothing is ever overwritten")
            .hint("give another name, or remove it first"),
        _ => cannot_write(&name, &error),
    })?;
    let (pieces, to) = (Pieces::of(client, request).await?, output.to_owned());
    let unpacked = blocking(move || {
        let mut tar = tar::Archive::new(pieces);
        tar.set_preserve_ownerships(false);
        tar.unpack(&to)
    });
    match unpacked.await {
        Ok(()) => voice.say(format!("{name}: for `mongorestore --dir {name}`")),
        Err(error) => {
            fs::remove_dir_all(output).ok();
            return Err(cannot_write(&name, &error));
        }
    }
    Ok(Exit::Done)
}

/// The archive as the stream of `mongodump --archive`.
pub(super) async fn stream(
    client: Client,
    request: v1::ExportArchiveRequest,
    output: &Path,
    voice: Voice,
) -> Ended {
    // What each collection is stands before all documents: the archive is read twice.
    let first = Pieces::of(client.clone(), request.clone()).await?;
    let second = Pieces::of(client, request).await?;
    if output == Path::new("-") {
        let written = blocking(move || archive::write(first, second, &mut io::stdout().lock())).await;
        return written.map(|_| Exit::Done).map_err(|error| cannot_write("stdout", &error));
    }
    let (name, file) = (output.display().to_string(), create(output)?);
    let written = blocking(move || {
        let mut to = BufWriter::new(&file);
        let written = archive::write(first, second, &mut to)?;
        to.flush()?;
        drop(to);
        file.sync_all().map(|()| written)
    });
    match written.await {
        Ok(bytes) => voice.say(format!("{name}: {}, for `mongorestore --archive={name}`", size(bytes))),
        Err(error) => {
            fs::remove_file(output).ok();
            return Err(cannot_write(&name, &error));
        }
    }
    Ok(Exit::Done)
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

/// An archive's tar file as it comes, for a thread that reads.
pub(super) struct Pieces {
    coming: mpsc::Receiver<Result<Bytes, tonic::Status>>,
    held: Bytes,
}

impl Pieces {
    pub(super) async fn of(client: Client, request: v1::ExportArchiveRequest) -> Result<Self, Trouble> {
        let mut data = client.backups().export_archive(request).await?.into_inner();
        let (pieces, coming) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            while let Some(piece) = data.next().await {
                if pieces.send(piece.map(|piece| piece.data)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self { coming, held: Bytes::new() })
    }
}

impl Read for Pieces {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.held.is_empty() {
            match self.coming.blocking_recv() {
                None => return Ok(0),
                Some(piece) => {
                    self.held = piece.map_err(|status| io::Error::other(proto::Failure::from(status)))?
                }
            }
        }
        let count = self.held.len().min(to.len());
        to[..count].copy_from_slice(&self.held.split_to(count));
        Ok(count)
    }
}
