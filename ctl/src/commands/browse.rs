//! `nsctl list`, `show` and `ls`.

use proto::v1;
use runtime::clock::{Clock, SystemClock};

use super::source;
use crate::cli::Ls;
use crate::client::{Client, ask};
use crate::output::exit::{Ended, Exit};
use crate::output::{Voice, write_stdout};
use crate::views::backup::{Backup, Listing};
use crate::views::entry::Entry;

pub(super) async fn list(client: Client, voice: Voice) -> Ended {
    let wire = client.backups().list_backups(ask(v1::ListBackupsRequest {})).await?.into_inner();
    voice.result(&Listing::from(wire), |listing| listing.table(SystemClock.now()))?;
    Ok(Exit::Done)
}

pub(super) async fn show(client: Client, timestamp: String, voice: Voice) -> Ended {
    let wire = client.backups().get_backup(ask(v1::GetBackupRequest { name: timestamp })).await?.into_inner();
    voice.result(&Backup::from(wire), |backup| backup.table(SystemClock.now()))?;
    Ok(Exit::Done)
}

/// Writes each entry as it arrives: an archive may hold millions. JSON is one object on each line.
pub(super) async fn ls(client: Client, wanted: Ls, voice: Voice) -> Ended {
    let request = v1::ListEntriesRequest {
        backup: wanted.timestamp,
        source: Some(source(&wanted.component)),
        path: wanted.path.trim_end_matches('/').to_owned().into(),
        recursive: wanted.recursive,
    };
    let mut entries = client.backups().list_entries(request).await?.into_inner();
    while let Some(entry) = entries.message().await? {
        voice.event(&Entry::from(entry), Entry::line)?;
    }
    write_stdout("", "")?;
    Ok(Exit::Done)
}
