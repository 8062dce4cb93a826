//! Namespaces of the cluster, and which of them no source covers.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Platform;
use crate::kubernetes::{Chosen, Cluster, Resource, text_at};

/// What belongs to the cluster itself begins with this.
const OF_THE_CLUSTER: &str = "kube-";
/// The doctor waits no longer.
const ANSWER: Duration = Duration::from_secs(5);

impl Platform {
    /// The namespaces beside `covered` and our own; none where there is no cluster, or no right to list them.
    pub(crate) async fn namespaces_beside(&self, covered: &BTreeSet<String>) -> Vec<String> {
        if !self.cluster.is_asked() {
            return Vec::new();
        }
        let listed = async {
            let cluster = self.connected.get_or_try_init(|| Cluster::connect(&self.cluster)).await?;
            let name = |one| Some(text_at(&one, "/metadata/name").to_owned());
            let all = cluster.list_metadata(&Resource::namespaces(), "", &Chosen::default(), name).await?;
            Ok::<_, crate::kubernetes::Trouble>((cluster.namespace(), all))
        };
        match tokio::time::timeout(ANSWER, listed).await {
            Ok(Ok((own, all))) => uncovered(all, own, covered),
            Ok(Err(trouble)) => {
                tracing::debug!(%trouble, "it is not known which namespaces there are");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }
}

fn uncovered(all: Vec<String>, own: &str, covered: &BTreeSet<String>) -> Vec<String> {
    let is_beside =
        |name: &String| name != own && !name.starts_with(OF_THE_CLUSTER) && !covered.contains(name);
    let beside: BTreeSet<String> = all.into_iter().filter(is_beside).collect();
    beside.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clusters_own_ours_and_those_that_a_source_names_do_not_count() {
        let all = ["shop", "kube-system", "backup", "dev", "billing"].map(str::to_owned).to_vec();
        let covered = BTreeSet::from(["shop".to_owned()]);
        assert_eq!(uncovered(all, "backup", &covered), ["billing", "dev"]);
    }
}
