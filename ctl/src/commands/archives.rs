//! Which backups and which of their archives somebody means.

use proto::v1;

use crate::client::{Client, ask};
use crate::output::exit::Trouble;

/// Backups page by page, newest first: a message has a limit, and a repository has none.
pub(super) struct Pages {
    left: u32,
    is_limited: bool,
    before: u64,
    is_over: bool,
}

impl Pages {
    /// So many backups, or all.
    pub(super) fn new(limit: Option<u32>) -> Self {
        Self { left: limit.unwrap_or(u32::MAX), is_limited: limit.is_some(), before: 0, is_over: false }
    }

    /// The next page; `None` behind the last.
    pub(super) async fn next(&mut self, client: &Client) -> Result<Option<v1::ListBackupsResponse>, Trouble> {
        if self.is_over {
            return Ok(None);
        }
        let request = ask(v1::ListBackupsRequest {
            limit: if self.is_limited { self.left } else { 0 },
            before: self.before,
            ..v1::ListBackupsRequest::default()
        });
        let page = client.backups().list_backups(request).await?.into_inner();
        self.left = self.left.saturating_sub(u32::try_from(page.backups.len()).unwrap_or(u32::MAX));
        self.before = page.backups.last().map_or(0, |oldest| oldest.sequence);
        self.is_over = !page.more || self.left == 0 || self.before == 0;
        Ok(Some(page))
    }
}

/// The backup of this name. `latest` is the newest that holds what is asked for complete and is no safety backup.
pub(super) async fn backup(client: &Client, name: &str, asked: &[String]) -> Result<v1::Backup, Trouble> {
    if name != "latest" || asked.is_empty() {
        let request = v1::GetBackupRequest { name: name.to_owned() };
        return Ok(client.backups().get_backup(ask(request)).await?.into_inner());
    }
    let mut pages = Pages::new(None);
    while let Some(page) = pages.next(client).await? {
        let found = page.backups.into_iter().find(|backup| {
            backup.safety_of.is_empty() && asked.iter().all(|one| holds_complete(backup, one))
        });
        if let Some(backup) = found {
            return Ok(backup);
        }
    }
    Err(Trouble::failed(format!("no backup holds {} complete", asked.join(" and ")))
        .hint("`nsctl list` shows what there is; name one by its timestamp"))
}

fn holds_complete(backup: &v1::Backup, asked: &str) -> bool {
    let mut archives = backup.archives.iter().filter(|archive| is_meant(archive, asked)).peekable();
    archives.peek().is_some() && archives.all(|archive| archive.outcome() == v1::Outcome::Complete)
}

/// True if `asked` is this archive's component, or its component and source.
pub(super) fn is_meant(archive: &v1::Archive, asked: &str) -> bool {
    let Some(source) = &archive.source else { return false };
    match asked.split_once('/') {
        None => source.component == asked,
        Some((component, name)) => source.component == component && source.name == name,
    }
}

/// Of one archive of a backup: `models` or, where the component has several sources there, `models/yolo`.
pub(super) fn label(source: &v1::SourceId, backup: &v1::Backup) -> String {
    let of =
        |archive: &&v1::Archive| archive.source.as_ref().is_some_and(|is| is.component == source.component);
    match backup.archives.iter().filter(of).count() {
        ..=1 => source.component.clone(),
        _ => format!("{}/{}", source.component, source.name),
    }
}

/// All that is in an archive, in the order of its paths, as it is read.
pub(super) async fn entries(
    client: &Client,
    backup: &v1::Backup,
    source: &v1::SourceId,
) -> Result<tonic::Streaming<v1::EntryLine>, Trouble> {
    let request = v1::ListEntriesRequest {
        backup: backup.name.clone(),
        source: Some(source.clone()),
        path: Vec::new().into(),
        recursive: true,
    };
    Ok(client.backups().list_entries(request).await?.into_inner())
}
