//! What dead processes have left locked at servers is unlocked ([`crate::sources::mongodb::lock`]).

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::connection::Agent;
use crate::sources::mongodb::lock;

/// How long after a look the next one comes.
const AGAIN: Duration = Duration::from_secs(20);

/// Unlocks what was left locked at each server, by the last process or by this one, as soon as that answers; for as long
/// as the agent lives.
pub(crate) async fn unlock_left(agent: Arc<Agent>, stop: CancellationToken) {
    loop {
        let agent = agent.clone();
        let tried = tokio::task::spawn_blocking(move || {
            let uri_of = |source: &str| {
                let served = agent.served.iter().find(|served| served.file_name() == source)?;
                served.server()
            };
            lock::unlock_left(&agent.config.state, None, &uri_of)
        });
        // A try in vain has its own limits: nobody waits for it at a stop.
        tokio::select! {
            () = stop.cancelled() => return,
            tried = tried => drop(tried.expect("looking for locks does not panic")),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}
