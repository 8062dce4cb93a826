//! `nsctl repository export`: a component as a tar file.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use repository::error::RepositoryError;
use repository::read::ArchiveReader;

use super::{backup, open, source, unlock};
use crate::cli::repository::Export;
use crate::commands::export::{KEYS_LEFT_OUT, cannot_write, create};
use crate::output::Voice;
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::words::size;

pub(super) fn run(wanted: &Export, voice: Voice) -> Ended {
    let repository = open(&wanted.place)?;
    let component = wanted.component.split('/').next();
    let record = backup(&repository, &wanted.timestamp, component)?;
    let source = source(&record, &wanted.component)?;
    let keys = unlock(&repository, &wanted.secret)?;
    let mut reader = ArchiveReader::open(&repository, &keys, &record, &source)?;
    if reader.manifest().kind == "blockchain" && !wanted.with_keys {
        voice.say(KEYS_LEFT_OUT);
    }
    if wanted.output == Path::new("-") {
        write(&mut reader, &mut io::stdout().lock(), "stdout", wanted.with_keys)?;
        return Ok(Exit::Done);
    }
    let name = wanted.output.display().to_string();
    let mut file = create(&wanted.output)?;
    match write_whole(&mut reader, &mut file, &name, wanted.with_keys) {
        Ok(bytes) => voice.say(format!("{name}: {}", size(bytes))),
        Err(trouble) => {
            // A file that stays is whole.
            std::fs::remove_file(&wanted.output).ok();
            return Err(trouble);
        }
    }
    Ok(Exit::Done)
}

fn write_whole(
    reader: &mut ArchiveReader,
    file: &mut File,
    name: &str,
    with_keys: bool,
) -> Result<u64, Trouble> {
    let bytes = write(reader, file, name, with_keys)?;
    file.sync_all().map_err(|error| cannot_write(name, &error))?;
    Ok(bytes)
}

/// Why writing ended early.
enum Stop {
    Repository(RepositoryError),
    Write(io::Error),
}

impl From<RepositoryError> for Stop {
    fn from(error: RepositoryError) -> Self {
        Self::Repository(error)
    }
}

fn write(
    reader: &mut ArchiveReader,
    to: &mut dyn Write,
    name: &str,
    with_keys: bool,
) -> Result<u64, Trouble> {
    let mut bytes = 0;
    let leaves_out = formats::chains::left_out(&reader.manifest().kind, with_keys);
    let written = repository::export::archive(reader, leaves_out, &mut |data| {
        bytes += data.len() as u64;
        to.write_all(&data).map_err(Stop::Write)
    });
    match written.and_then(|()| to.flush().map_err(Stop::Write)) {
        Ok(()) => Ok(bytes),
        // A reader that has seen enough (`… | head`) is no error.
        Err(Stop::Write(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(bytes),
        Err(Stop::Write(error)) => Err(cannot_write(name, &error)),
        Err(Stop::Repository(error)) => Err(error.into()),
    }
}
