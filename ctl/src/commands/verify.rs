//! `nsctl verify`.

use proto::v1;

use super::follow;
use crate::cli::{HowDeep, Verify};
use crate::client::{Client, ask};
use crate::output::Voice;
use crate::output::exit::Ended;

pub(super) async fn run(client: Client, wanted: Verify, voice: Voice) -> Ended {
    let depth = match wanted.depth {
        HowDeep::Listed => v1::Depth::Listed,
        HowDeep::Hashed => v1::Depth::Hashed,
        HowDeep::Opened => v1::Depth::Opened,
        HowDeep::Drilled => v1::Depth::Drilled,
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
