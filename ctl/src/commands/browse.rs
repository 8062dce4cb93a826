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

/// Asks page by page: a message has a limit, and a repository has none.
pub(super) async fn list(client: Client, limit: Option<u32>, voice: Voice) -> Ended {
    let mut listing = Listing::default();
    let mut left = limit.unwrap_or(u32::MAX);
    let mut before = 0;
    loop {
        let request = ask(v1::ListBackupsRequest {
            limit: if limit.is_some() { left } else { 0 },
            before,
            ..v1::ListBackupsRequest::default()
        });
        let page = client.backups().list_backups(request).await?.into_inner();
        left = left.saturating_sub(u32::try_from(page.backups.len()).unwrap_or(u32::MAX));
        before = page.backups.last().map_or(0, |oldest| oldest.sequence);
        let is_last = !page.more || left == 0 || before == 0;
        listing.add(page);
        if is_last {
            break;
        }
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
