//! `nsctl cat` and `nsctl export`: content of a backup as bytes.
//!
//! Must stay true: a file that `export` leaves behind is whole; a half-written one is removed.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use proto::v1;
use tonic::Streaming;

use super::{car, dump, paths, source};
use crate::cli::{Export, ExportFormat};
use crate::client::{Client, ask};
use crate::output::Voice;
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::words::size;

pub(crate) const KEYS_LEFT_OUT: &str = "keys of the node, its accounts and its validator (nodekey, node_key.json, jwtsecret, \
     keystore/, priv_validator_key.json) are left out; add --with-keys to have them";

pub(super) async fn cat(client: Client, timestamp: String, component: String, path: OsString) -> Ended {
    let mut first = None;
    for path in paths::meanings(&path) {
        let request = v1::ReadFileRequest {
            backup: timestamp.clone(),
            source: Some(source(&component)),
            path: path.into(),
        };
        match client.backups().read_file(request).await {
            Ok(data) => return print(data.into_inner()).await,
            Err(status) if paths::is_missing(&status) => first = first.or(Some(status)),
            Err(status) => return Err(status.into()),
        }
    }
    Err(first.map_or_else(|| Trouble::usage("no path"), Trouble::from))
}

async fn print(data: Streaming<v1::Data>) -> Ended {
    copy(data, &mut io::stdout(), "stdout").await?;
    Ok(Exit::Done)
}

pub(super) async fn run(client: Client, wanted: Export, voice: Voice) -> Ended {
    if wanted.format == ExportFormat::Tar && !wanted.with_keys {
        tell_of_keys(&client, &wanted, &voice).await?;
    }
    let request = v1::ExportArchiveRequest {
        backup: wanted.timestamp,
        source: Some(source(&wanted.component)),
        with_keys: wanted.with_keys,
    };
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

/// A chain's folder comes without its keys.
async fn tell_of_keys(client: &Client, wanted: &Export, voice: &Voice) -> Result<(), Trouble> {
    let request = v1::GetBackupRequest { name: wanted.timestamp.clone() };
    let backup = client.backups().get_backup(ask(request)).await?.into_inner();
    let component = wanted.component.split('/').next().unwrap_or_default();
    let is_it = |archive: &v1::Archive| {
        archive.kind == "blockchain" && archive.source.as_ref().is_some_and(|of| of.component == component)
    };
    if backup.archives.iter().any(is_it) {
        voice.say(KEYS_LEFT_OUT);
    }
    Ok(())
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
