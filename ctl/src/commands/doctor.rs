//! `nsctl doctor` and `healthcheck`.

use std::path::PathBuf;

use proto::v1;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;

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

/// Says nothing where all is well, and never waits long: it is asked again and again.
pub(super) fn healthcheck(server: &Global) -> Ended {
    let access = Access::without_token(server)?;
    runtime::tls::install_crypto_provider();
    block_on(async {
        let client = Client::connect(&access).await?;
        let asked = ask(HealthCheckRequest::default());
        let answer = client.readiness().check(asked).await?.into_inner();
        match answer.status() {
            ServingStatus::Serving => Ok(Exit::Done),
            _ => Err(Trouble::failed("the controller cannot do its work")
                .because("it is starting, stopping, or cannot use its storage or its state folder")
                .hint("`nsctl doctor` says which; so does `/readyz` on its port for probes")),
        }
    })
}

pub(super) async fn examine(client: &Client) -> Result<Examination, Trouble> {
    Ok(client.health().examine(ask(v1::ExamineRequest {})).await?.into_inner().into())
}
