//! Events, and what is open. The outbox is beside it.

use jiff::Timestamp;
use sqlx::{Row, Sqlite, Transaction};

use crate::alerts::{Event, Kind, Sign};
use crate::catalog::{Catalog, CatalogError, from_json, micros, time, to_json};

/// Something that is wrong now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenAlert {
    /// Since when.
    pub since: Timestamp,
    /// When it was last told.
    pub told_at: Timestamp,
    /// The newest event of it.
    pub event: Event,
}

impl Catalog {
    /// Writes events down; what happens next is the dispatcher's.
    pub async fn raise_alerts(&self, events: &[Event], now: Timestamp) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        raise(&mut change, events, now).await?;
        change.commit().await?;
        self.alerts_raised.notify_one();
        Ok(())
    }

    /// What is wrong now, the oldest first.
    pub async fn open_alerts(&self) -> Result<Vec<OpenAlert>, CatalogError> {
        let rows = sqlx::query("SELECT * FROM alert_open ORDER BY since, kind, subject")
            .fetch_all(&self.readers)
            .await?;
        let open = rows.iter().map(|row| {
            Ok(OpenAlert {
                since: time(row.try_get("since")?)?,
                told_at: time(row.try_get("told_at")?)?,
                event: from_json(row.try_get("record")?, "an alert")?,
            })
        });
        open.collect()
    }
}

/// Writes events within the change that is the fact they tell: neither is there without the other.
pub(super) async fn raise(
    change: &mut Transaction<'static, Sqlite>,
    events: &[Event],
    now: Timestamp,
) -> Result<(), CatalogError> {
    for event in events {
        let event = Event { at: now, ..event.clone() };
        let since = open_since(change, event.kind, &event.subject).await?;
        let is_new = match (event.sign, since) {
            (Sign::Raised, Some((_, told_at))) if event.kind.is_condition() => {
                event.kind.reminds_after().is_some_and(|after| now.duration_since(told_at) >= after)
            }
            (Sign::Raised, _) => true,
            (Sign::Resolved, since) => since.is_some(),
        };
        if !is_new {
            continue;
        }
        if event.sign == Sign::Resolved {
            sqlx::query("DELETE FROM alert_open WHERE kind = ? AND subject = ?")
                .bind(event.kind.word())
                .bind(&event.subject)
                .execute(&mut **change)
                .await?;
        } else if event.kind.stays() {
            sqlx::query(
                "INSERT OR REPLACE INTO alert_open (kind, subject, since, told_at, record) VALUES (?, ?, ?, ?, ?)",
            )
            .bind(event.kind.word())
            .bind(&event.subject)
            .bind(micros(since.map_or(now, |(since, _)| since)))
            .bind(micros(now))
            .bind(to_json(&event))
            .execute(&mut **change)
            .await?;
        }
        sqlx::query("INSERT INTO alert_events (id, at, record) VALUES (?, ?, ?)")
            .bind(event.id.to_string())
            .bind(micros(now))
            .bind(to_json(&event))
            .execute(&mut **change)
            .await?;
    }
    Ok(())
}

/// Of what something of this kind is wrong.
pub(super) async fn open_subjects(
    change: &mut Transaction<'static, Sqlite>,
    kind: Kind,
) -> Result<Vec<String>, CatalogError> {
    let subjects = sqlx::query_scalar("SELECT subject FROM alert_open WHERE kind = ? ORDER BY subject")
        .bind(kind.word())
        .fetch_all(&mut **change)
        .await?;
    Ok(subjects)
}

/// Since when it is wrong, and when it was last told.
async fn open_since(
    change: &mut Transaction<'static, Sqlite>,
    kind: Kind,
    subject: &str,
) -> Result<Option<(Timestamp, Timestamp)>, CatalogError> {
    let row = sqlx::query("SELECT since, told_at FROM alert_open WHERE kind = ? AND subject = ?")
        .bind(kind.word())
        .bind(subject)
        .fetch_optional(&mut **change)
        .await?;
    row.map(|row| Ok((time(row.try_get("since")?)?, time(row.try_get("told_at")?)?))).transpose()
}
