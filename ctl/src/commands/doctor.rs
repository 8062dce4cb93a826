//! `nsctl doctor`.

use proto::v1;

use crate::client::{Client, ask};
use crate::output::Voice;
use crate::output::exit::Ended;
use crate::views::health::Examination;

pub(super) async fn run(client: Client, voice: Voice) -> Ended {
    let wire = client.health().examine(ask(v1::ExamineRequest {})).await?.into_inner();
    let examination = Examination::from(wire);
    voice.result(&examination, Examination::text)?;
    Ok(examination.exit())
}
