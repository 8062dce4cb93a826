//! `nsctl doctor`.

use std::path::PathBuf;

use proto::v1;

use super::block_on;
use crate::access::Access;
use crate::cli::Global;
use crate::client::{Client, ask};
use crate::offline;
use crate::output::Voice;
use crate::output::exit::{Ended, Exit, Trouble};
use crate::views::health::Examination;

/// Asks the controller; where none answers, looks at what can be seen without one.
pub(super) fn run(server: &Global, config: Option<PathBuf>, voice: Voice) -> Ended {
    let access = Access::of(server)?;
    runtime::tls::install_crypto_provider();
    block_on(async {
        let (examination, exit) = match Client::connect(&access).await {
            Ok(client) => {
                let examination = examine(&client).await?;
                let exit = examination.exit();
                (examination, exit)
            }
            Err(trouble) if trouble.exit == Exit::Unreachable => {
                (offline::doctor::examine(&access, config, &trouble), Exit::Unreachable)
            }
            Err(other) => return Err(other),
        };
        voice.result(&examination, Examination::text)?;
        Ok(exit)
    })
}

pub(super) async fn examine(client: &Client) -> Result<Examination, Trouble> {
    Ok(client.health().examine(ask(v1::ExamineRequest {})).await?.into_inner().into())
}
