//! `nsctl verify`.

use proto::v1;

use super::follow;
use crate::cli::{Depth, Verify};
use crate::client::{Client, ask};
use crate::output::Voice;
use crate::output::exit::Ended;

pub(super) async fn run(client: Client, wanted: Verify, voice: Voice) -> Ended {
    let depth = match wanted.depth {
        Depth::Listed => v1::Depth::Listed,
        Depth::Hashed => v1::Depth::Hashed,
        Depth::Opened => v1::Depth::Opened,
    };
    let request = v1::StartVerifyRequest {
        backup: wanted.timestamp,
        components: wanted.components,
        depth: depth as i32,
        request_id: wanted.request.id(),
        budget_bytes: wanted.budget.unwrap_or(0),
        all: wanted.all,
    };
    let job = client.jobs().start_verify(ask(request)).await?.into_inner();
    follow::started(client, job, wanted.detach, voice).await
}
