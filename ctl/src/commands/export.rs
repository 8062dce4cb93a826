//! `nsctl cat` and `nsctl export`: content of a backup as bytes.
//!
//! Must stay true: a file that `export` leaves behind is whole; a half-written one is removed.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use proto::v1;
use tonic::Streaming;

use super::{car, dump, source};
use crate::cli::{Export, ExportFormat};
use crate::client::Client;
use crate::output::Voice;
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::words::size;

pub(super) async fn cat(client: Client, timestamp: String, component: String, path: String) -> Ended {
    let request = v1::ReadFileRequest {
        backup: timestamp,
        source: Some(source(&component)),
        path: path.into_bytes().into(),
    };
    let data = client.backups().read_file(request).await?.into_inner();
    copy(data, &mut io::stdout(), "stdout").await?;
    Ok(Exit::Done)
}

pub(super) async fn run(client: Client, wanted: Export, voice: Voice) -> Ended {
    let request =
        v1::ExportArchiveRequest { backup: wanted.timestamp, source: Some(source(&wanted.component)) };
    match wanted.format {
        ExportFormat::Tar => {}
        ExportFormat::Car => return car::run(client, request, &wanted.output, voice).await,
        ExportFormat::Mongodump => return dump::folder(client, request, &wanted.output, voice).await,
        ExportFormat::MongodumpArchive => return dump::stream(client, request, &wanted.output, voice).await,
    }
    let data = client.backups().export_archive(request).await?.into_inner();
    if wanted.output == Path::new("-") {
        copy(data, &mut io::stdout(), "stdout").await?;
        return Ok(Exit::Done);
    }
    let name = wanted.output.display().to_string();
    let mut file = create(&wanted.output)?;
    let copied = match copy(data, &mut file, &name).await {
        Ok(bytes) => file.sync_all().map(|()| bytes).map_err(|error| cannot_write(&name, &error)),
        Err(trouble) => Err(trouble),
    };
    match copied {
        Ok(bytes) => voice.say(format!("{name}: {}", size(bytes))),
        Err(trouble) => {
            fs::remove_file(&wanted.output).ok();
            return Err(trouble);
        }
    }
    Ok(Exit::Done)
}

/// A new file; an existing one is never overwritten.
pub(crate) fn create(path: &Path) -> Result<fs::File, Trouble> {
    OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Trouble::usage(format!("{} exists already", path.display()))
            .because("nothing is ever overwritten")
            .hint("give another name, or remove it first"),
        _ => cannot_write(&path.display().to_string(), &error),
    })
}

async fn copy(mut data: Streaming<v1::Data>, to: &mut impl Write, name: &str) -> Result<u64, Trouble> {
    let mut bytes = 0;
    while let Some(piece) = data.message().await? {
        if let Err(error) = to.write_all(&piece.data) {
            // A reader that has seen enough (`nsctl cat … | head`) is no error.
            if error.kind() == io::ErrorKind::BrokenPipe {
                return Ok(bytes);
            }
            return Err(cannot_write(name, &error));
        }
        bytes += piece.data.len() as u64;
    }
    to.flush().map_err(|error| cannot_write(name, &error))?;
    Ok(bytes)
}

pub(crate) fn cannot_write(name: &str, error: &io::Error) -> Trouble {
    Trouble::failed(format!("cannot write {name}")).caused_by(error)
}
