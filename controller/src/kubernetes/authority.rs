//! The certificate of the controller's authority in config maps, from where pods of agents mount it.
//!
//! It is no secret; but whoever may change such a config map can lead agents to another controller. The config
//! maps exist (the chart makes them), so that the right to change them by name is enough.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use runtime::backoff::Backoff;
use tokio_util::sync::CancellationToken;

use crate::config::AuthorityMap;

/// The key in the config map, and so the file's name in a pod.
const KEY: &str = "ca.crt";
/// A config map that was made anew gets it again within this time.
const AGAIN: Duration = Duration::from_secs(600);
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Keeps the certificate in all of the config maps until `stop`.
pub(crate) async fn publish(
    client: Client,
    maps: Vec<AuthorityMap>,
    certificate: String,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let mut all_have_it = true;
        for map in &maps {
            all_have_it &= put(&client, map, &certificate).await;
        }
        let pause = match all_have_it {
            true => {
                backoff.reset();
                AGAIN
            }
            // One controller by itself: there is nobody to be spread out from.
            false => backoff.next_delay(u64::MAX),
        };
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

async fn put(client: &Client, map: &AuthorityMap, certificate: &str) -> bool {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &map.namespace);
    let patch = serde_json::json!({ "data": { KEY: certificate } });
    let (namespace, config_map) = (&map.namespace, &map.config_map);
    match api.patch(config_map, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => {
            tracing::debug!(namespace, config_map, "agents find the authority's certificate here");
            true
        }
        Err(error) => {
            tracing::warn!(
                namespace,
                config_map,
                error = proto::failure::chain(&error),
                hint = "the config map has to exist, and the controller's service account needs `patch` on it by name",
                "agents cannot be told the authority's certificate; it is tried again"
            );
            false
        }
    }
}
