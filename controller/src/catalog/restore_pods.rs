//! What the controller has stopped in a cluster for a restore.
//!
//! Must stay true: a row is there before the first workload is told, and goes when all that ran is told to run
//! again and the job knows how its part has ended.

use sqlx::Row;

use crate::catalog::{Catalog, CatalogError, from_json};
use crate::ids::JobId;
use crate::kubernetes::{Hold, PodId};

/// A record, or what is known of one that cannot be read.
pub(crate) enum Kept {
    Read(Box<Hold>),
    Unreadable { job: Option<JobId>, part: usize },
}

impl Catalog {
    /// Keeps what is held for a restore in this pod.
    pub(crate) async fn keep_hold(&self, pod: &PodId, hold: &Hold) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query(
            "INSERT INTO restore_pods (namespace, deployment, job, part, hold) VALUES (?, ?, ?, ?, ?)
             ON CONFLICT (namespace, deployment) DO UPDATE SET
                 job = excluded.job, part = excluded.part, hold = excluded.hold",
        )
        .bind(&pod.namespace)
        .bind(&pod.deployment)
        .bind(hold.job.to_string())
        .bind(i64::try_from(hold.part).unwrap_or(i64::MAX))
        .bind(serde_json::to_string(hold).expect("what is held has a JSON form"))
        .execute(&mut *change)
        .await?;
        Ok(change.commit().await?)
    }

    /// What is held for a restore in this pod.
    pub(crate) async fn hold(&self, pod: &PodId) -> Result<Option<Hold>, CatalogError> {
        let row: Option<String> =
            sqlx::query_scalar("SELECT hold FROM restore_pods WHERE namespace = ? AND deployment = ?")
                .bind(&pod.namespace)
                .bind(&pod.deployment)
                .fetch_optional(&self.readers)
                .await?;
        row.map(|hold| from_json(&hold, "what is stopped for a restore")).transpose()
    }

    /// All that is held. A record that cannot be read is told, and hinders no other.
    pub(crate) async fn holds(&self) -> Result<Vec<(PodId, Hold)>, CatalogError> {
        let mut holds = Vec::new();
        for (pod, kept) in self.each_hold().await? {
            match kept {
                Kept::Read(hold) => holds.push((pod, *hold)),
                Kept::Unreadable { .. } => {
                    tracing::error!(pod = %pod.workload(), "a record of a restore pod cannot be read")
                }
            }
        }
        Ok(holds)
    }

    /// The same, with those that cannot be read.
    pub(crate) async fn each_hold(&self) -> Result<Vec<(PodId, Kept)>, CatalogError> {
        let rows = sqlx::query("SELECT namespace, deployment, job, part, hold FROM restore_pods")
            .fetch_all(&self.readers)
            .await?;
        let each = rows.iter().map(|row| {
            let pod = PodId { namespace: row.try_get("namespace")?, deployment: row.try_get("deployment")? };
            let (job, part): (&str, i64) = (row.try_get("job")?, row.try_get("part")?);
            let hold: Result<Hold, _> = from_json(row.try_get("hold")?, "what is stopped for a restore");
            let kept = match hold {
                Ok(hold) => Kept::Read(Box::new(hold)),
                Err(_) => Kept::Unreadable {
                    job: job.parse().ok(),
                    part: usize::try_from(part).unwrap_or(usize::MAX),
                },
            };
            Ok((pod, kept))
        });
        each.collect()
    }

    /// Nothing is held any more.
    pub(crate) async fn drop_hold(&self, pod: &PodId) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query("DELETE FROM restore_pods WHERE namespace = ? AND deployment = ?")
            .bind(&pod.namespace)
            .bind(&pod.deployment)
            .execute(&mut *change)
            .await?;
        Ok(change.commit().await?)
    }
}
