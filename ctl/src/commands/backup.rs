//! `nsctl backup` and `nsctl import`.

use proto::v1;

use super::follow;
use crate::cli::{Backup, Import};
use crate::client::{Client, ask};
use crate::output::Voice;
use crate::output::exit::{Ended, Trouble};

pub(super) async fn run(client: Client, wanted: Backup, voice: Voice) -> Ended {
    let request = v1::StartBackupRequest {
        components: wanted.components,
        pin: wanted.pin.unwrap_or_default(),
        request_id: wanted.request.id(),
        import: String::new(),
    };
    let job = client.jobs().start_backup(ask(request)).await?.into_inner();
    follow::started(client, job, wanted.detach, voice).await
}

pub(super) async fn import(client: Client, wanted: Import, voice: Voice) -> Ended {
    let Import::Mongodump { folder, archive, component, pin, detach, request, .. } = wanted;
    // The agent sees which of the two it is.
    let dump = folder.or(archive).unwrap_or_default();
    let import = dump.into_os_string().into_string().map_err(|_| {
        Trouble::usage("the dump has a name that is no text").hint("give the folder or the file another name")
    })?;
    let request = v1::StartBackupRequest {
        components: component.into_iter().collect(),
        pin: pin.unwrap_or_default(),
        request_id: request.id(),
        import,
    };
    let job = client.jobs().start_backup(ask(request)).await?.into_inner();
    follow::started(client, job, detach, voice).await
}
