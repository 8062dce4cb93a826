//! `nsctl backup`.

use proto::v1;

use super::follow;
use crate::cli::Backup;
use crate::client::{Client, ask};
use crate::output::Voice;
use crate::output::exit::Ended;

pub(super) async fn run(client: Client, wanted: Backup, voice: Voice) -> Ended {
    let request = v1::StartBackupRequest {
        components: wanted.components,
        pin: wanted.pin,
        request_id: wanted.request.id(),
    };
    let job = client.jobs().start_backup(ask(request)).await?.into_inner();
    follow::started(client, job, wanted.detach, voice).await
}
