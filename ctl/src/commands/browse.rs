//! `nsctl list`, `show` and `ls`.

use proto::v1;
use runtime::clock::{Clock, SystemClock};
use tonic::Streaming;

use super::archives::Pages;
use super::{paths, source};
use crate::cli::Ls;
use crate::client::{Client, ask};
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::{Voice, is_unheard, write_stdout};
use crate::views::backup::{Backup, Listing};
use crate::views::entry::Entry;

pub(super) async fn list(client: Client, limit: Option<u32>, voice: Voice) -> Ended {
    let mut listing = Listing::default();
    let mut pages = Pages::new(limit);
    while let Some(page) = pages.next(&client).await? {
        listing.add(page);
    }
    voice.result(&listing, |listing| listing.table(SystemClock.now()))?;
    Ok(Exit::Done)
}

pub(super) async fn show(client: Client, timestamp: String, voice: Voice) -> Ended {
    let wire = client.backups().get_backup(ask(v1::GetBackupRequest { name: timestamp })).await?.into_inner();
    voice.result(&Backup::from(wire), |backup| backup.table(SystemClock.now()))?;
    Ok(Exit::Done)
}

/// Writes each entry as it arrives: an archive may hold millions. JSON is one object on each line.
pub(super) async fn ls(client: Client, wanted: Ls, voice: Voice) -> Ended {
    let mut entries = open(&client, &wanted).await?;
    while let Some(entry) = entries.message().await? {
        voice.event(&Entry::from(entry), Entry::line)?;
        if is_unheard() {
            break;
        }
    }
    write_stdout("", "")?;
    Ok(Exit::Done)
}

async fn open(client: &Client, wanted: &Ls) -> Result<Streaming<v1::EntryLine>, Trouble> {
    let mut first = None;
    for path in paths::meanings(&wanted.path) {
        let request = v1::ListEntriesRequest {
            backup: wanted.timestamp.clone(),
            source: Some(source(&wanted.component)),
            path: path.into(),
            recursive: wanted.recursive,
        };
        match client.backups().list_entries(request).await {
            Ok(entries) => return Ok(entries.into_inner()),
            Err(status) if paths::is_missing(&status) => first = first.or(Some(status)),
            Err(status) => return Err(status.into()),
        }
    }
    Err(first.map_or_else(|| Trouble::usage("no path"), Trouble::from))
}
