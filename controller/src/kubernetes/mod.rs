//! What the controller asks and tells the API server of a Kubernetes cluster: who shows a service account's token
//! ([`TokenReviews`]), by which certificate agents know this controller ([`authority`]), and what has to stand while a
//! restore pod restores ([`RestorePods`]).
//!
//! Must stay true: it asks for nothing else, so that it needs no other right (`deploy/helm`); a token is neither
//! logged nor kept. See `docs/decisions/0032-an-agent-joins-by-its-service-account.md`.

mod api;
pub(crate) mod authority;
mod hold;
mod restore_pods;
mod review;
mod waits;

use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::config::Kubernetes;

pub(crate) use api::{ApiTrouble, WorkloadId};
pub(crate) use hold::{End, HandedOut, Hold, Ran};
pub use restore_pods::RestorePods;
pub(crate) use restore_pods::{Look, PodId, StandIn};
pub use review::{ReviewRefused, TokenReviews};

/// An API server that says nothing for so long is away.
const ANSWER: Duration = Duration::from_secs(10);

/// The API server cannot be asked, for what the configuration or the pod says of it.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The program runs in no pod, and nothing else says where the API server is.
    #[error(
        "kubernetes.agents and kubernetes.authority need the API server, and this process runs in no pod with a \
         service account: set kubernetes.kubeconfig"
    )]
    NoPod(#[source] kube::config::InClusterError),
    /// The configured file cannot be used.
    #[error("the file that kubernetes.kubeconfig names cannot be used")]
    File(#[from] kube::config::KubeconfigError),
    /// The client cannot be made.
    #[error("the client for the Kubernetes API server cannot be set up")]
    Client(#[from] kube::Error),
}

/// A client for the cluster of the configuration. Nothing is asked yet.
pub async fn connect(config: &Kubernetes) -> Result<Client, ClusterError> {
    let mut cluster = match &config.kubeconfig {
        Some(file) => {
            let read = Kubeconfig::read_from(file)?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?
        }
        None => Config::incluster().map_err(ClusterError::NoPod)?,
    };
    cluster.connect_timeout = Some(ANSWER);
    cluster.read_timeout = Some(ANSWER);
    cluster.write_timeout = Some(ANSWER);
    Ok(Client::try_from(cluster)?)
}
