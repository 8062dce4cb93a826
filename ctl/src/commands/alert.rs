//! `nsctl alert list`, `test` and `history`.

use std::time::Duration;

use proto::v1;
use runtime::clock::{Clock, SystemClock};

use crate::cli;
use crate::client::{Client, ask};
use crate::output::Voice;
use crate::output::exit::{Ended, Exit};
use crate::views::alert::{Alerts, Deliveries, Tried};

/// A sink is given longer to answer than the controller gives it.
const TEST_WITHIN: Duration = Duration::from_secs(60);

pub(super) async fn run(client: Client, wanted: cli::Alert, voice: Voice) -> Ended {
    let now = SystemClock.now();
    match wanted {
        cli::Alert::List(_) => {
            let wire = client.alerts().list_alerts(ask(v1::ListAlertsRequest {})).await?.into_inner();
            voice.result(&Alerts::from(wire), |alerts| alerts.table(now))?;
        }
        cli::Alert::Test { sink, .. } => {
            let mut request = ask(v1::TestSinkRequest { sink: sink.clone() });
            request.set_timeout(TEST_WITHIN);
            let id = client.alerts().test_sink(request).await?.into_inner().message_id;
            voice.result(&Tried { sink, id }, |tried| {
                format!("{} has taken message {}", tried.sink, tried.id)
            })?;
        }
        cli::Alert::History { limit, .. } => {
            let request = ask(v1::ListDeliveriesRequest { limit });
            let wire = client.alerts().list_deliveries(request).await?.into_inner();
            voice.result(&Deliveries::from(wire), |sent| sent.table(now))?;
        }
    }
    Ok(Exit::Done)
}
