//! The outbox of alerts: from events that were written down to messages that were taken.
//!
//! Must stay true: each step is one transaction, so that a kill between two of them repeats a step and
//! neither loses an event nor makes a second message of it.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::alerts::{Again, Event, Message};
use crate::catalog::{Catalog, CatalogError, from_json, micros, time, to_json};

/// Events that are looked at in one step.
const STEP: i64 = 2_000;
/// What is kept of what is over.
const KEEP_FOR: SignedDuration = SignedDuration::from_hours(24 * 90);
const KEEP_AT_MOST: i64 = 10_000;

/// One message and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The sink's name.
    pub sink: String,
    /// What is sent.
    pub message: Message,
    /// waiting, delivered, dead, superseded.
    pub state: String,
    /// How often it was sent.
    pub attempts: u32,
    /// When it is sent next.
    pub next_at: Timestamp,
    /// When it was taken or given up.
    pub ended_at: Option<Timestamp>,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// How a sink does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SinkState {
    /// Messages that wait to be taken.
    pub waiting: u64,
    /// Messages that were given up.
    pub dead: u64,
    /// Since when the oldest waits that was refused at least once.
    pub failing_since: Option<Timestamp>,
    /// When it last took one.
    pub delivered_at: Option<Timestamp>,
    /// When one was last given up.
    pub dead_at: Option<Timestamp>,
    /// Why the last attempt failed, where it did.
    pub error: Option<String>,
}

/// No message is put off for longer; a receiver may ask for as much.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_hours(2);

impl Catalog {
    /// True if some event's routes were not looked at.
    pub async fn has_unrouted_alerts(&self) -> Result<bool, CatalogError> {
        let one: Option<i64> =
            sqlx::query_scalar("SELECT sequence FROM alert_events WHERE routed = 0 LIMIT 1")
                .fetch_optional(&self.readers)
                .await?;
        Ok(one.is_some())
    }

    /// Hands events whose routes were not looked at to their sinks. True if there may be more.
    pub async fn route_alerts(&self, sinks_of: impl Fn(&Event) -> Vec<String>) -> Result<bool, CatalogError> {
        let mut change = self.change().await?;
        let rows = sqlx::query(
            "SELECT sequence, record FROM alert_events WHERE routed = 0 ORDER BY sequence LIMIT ?",
        )
        .bind(STEP)
        .fetch_all(&mut *change)
        .await?;
        for row in &rows {
            let sequence: i64 = row.try_get("sequence")?;
            let event: Event = from_json(row.try_get("record")?, "an alert")?;
            for sink in sinks_of(&event) {
                sqlx::query("INSERT OR IGNORE INTO alert_pending (sink, event) VALUES (?, ?)")
                    .bind(sink)
                    .bind(sequence)
                    .execute(&mut *change)
                    .await?;
            }
            sqlx::query("UPDATE alert_events SET routed = 1 WHERE sequence = ?")
                .bind(sequence)
                .execute(&mut *change)
                .await?;
        }
        change.commit().await?;
        Ok(rows.len() as i64 == STEP)
    }

    /// Makes messages of what waits for a sink. `fold` gets the events and when the sink's last messages
    /// were made, and gives each message's events; with `drop_rest` what it leaves out is given up.
    pub async fn fold_alerts(
        &self,
        sink: &str,
        drop_rest: bool,
        fold: impl FnOnce(Vec<Event>, Vec<Timestamp>) -> Vec<Vec<Event>>,
        now: Timestamp,
    ) -> Result<usize, CatalogError> {
        let waits: Option<i64> = sqlx::query_scalar("SELECT event FROM alert_pending WHERE sink = ? LIMIT 1")
            .bind(sink)
            .fetch_optional(&self.readers)
            .await?;
        if waits.is_none() {
            return Ok(0);
        }
        let mut change = self.change().await?;
        let rows = sqlx::query(
            "SELECT e.sequence, e.record FROM alert_pending p JOIN alert_events e ON e.sequence = p.event
             WHERE p.sink = ? ORDER BY e.sequence",
        )
        .bind(sink)
        .fetch_all(&mut *change)
        .await?;
        let (mut places, mut events) = (HashMap::new(), Vec::new());
        for row in &rows {
            let event: Event = from_json(row.try_get("record")?, "an alert")?;
            places.insert(event.id, row.try_get::<i64, _>("sequence")?);
            events.push(event);
        }
        let recent: Vec<i64> = sqlx::query_scalar(
            "SELECT made_at FROM alert_outbox WHERE sink = ? ORDER BY made_at DESC LIMIT 100",
        )
        .bind(sink)
        .fetch_all(&mut *change)
        .await?;
        let recent = recent.into_iter().map(time).collect::<Result<Vec<_>, _>>()?;
        let messages = fold(events, recent);
        let made = messages.len();
        for events in messages {
            for place in events.iter().filter_map(|event| places.get(&event.id)) {
                sqlx::query("DELETE FROM alert_pending WHERE sink = ? AND event = ?")
                    .bind(sink)
                    .bind(place)
                    .execute(&mut *change)
                    .await?;
            }
            let message = Message::of(events, now);
            sqlx::query(
                "INSERT INTO alert_outbox (id, sink, made_at, state, next_at, record)
                 VALUES (?, ?, ?, 'waiting', ?, ?)",
            )
            .bind(message.id.to_string())
            .bind(sink)
            .bind(micros(now))
            .bind(micros(now))
            .bind(to_json(&message))
            .execute(&mut *change)
            .await?;
        }
        if drop_rest {
            sqlx::query("DELETE FROM alert_pending WHERE sink = ?").bind(sink).execute(&mut *change).await?;
        }
        change.commit().await?;
        Ok(made)
    }

    /// The oldest message of a sink that is due, or that waits for longer than any does, since the clock was
    /// ahead when it was put off; and when the next one will be.
    pub async fn due_alert(
        &self,
        sink: &str,
        now: Timestamp,
    ) -> Result<(Option<Delivery>, Option<Timestamp>), CatalogError> {
        let due = sqlx::query(
            "SELECT * FROM alert_outbox WHERE sink = ? AND state = 'waiting' AND (next_at <= ? OR next_at > ?)
             ORDER BY made_at, id LIMIT 1",
        )
        .bind(sink)
        .bind(micros(now))
        .bind(micros(now.checked_add(LONGEST_WAIT).unwrap_or(Timestamp::MAX)))
        .fetch_optional(&self.readers)
        .await?;
        let next: Option<i64> =
            sqlx::query_scalar("SELECT min(next_at) FROM alert_outbox WHERE sink = ? AND state = 'waiting'")
                .bind(sink)
                .fetch_one(&self.readers)
                .await?;
        Ok((due.as_ref().map(delivery).transpose()?, next.map(time).transpose()?))
    }

    /// A message was taken. Of pings only the newest says how things are (`is_ping`): older ones that wait are
    /// not sent any more.
    pub async fn alert_delivered(&self, id: Uuid, is_ping: bool, now: Timestamp) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        if is_ping {
            sqlx::query(
                "UPDATE alert_outbox SET state = 'superseded', ended_at = ?1
                 FROM (SELECT sink AS of_sink, made_at AS until FROM alert_outbox WHERE id = ?2)
                 WHERE sink = of_sink AND state = 'waiting' AND (made_at < until OR (made_at = until AND id < ?2))",
            )
            .bind(micros(now))
            .bind(id.to_string())
            .execute(&mut *change)
            .await?;
        }
        sqlx::query(
            "UPDATE alert_outbox SET state = 'delivered', attempts = attempts + 1, ended_at = ?, error = NULL
             WHERE id = ?",
        )
        .bind(micros(now))
        .bind(id.to_string())
        .execute(&mut *change)
        .await?;
        Ok(change.commit().await?)
    }

    /// A message that was sent past the outbox, to try the sink, was taken. It is kept where the sink has given
    /// messages up: what it has taken last says that it does well again.
    pub async fn note_tried(
        &self,
        sink: &str,
        message: &Message,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query(
            "INSERT INTO alert_outbox (id, sink, made_at, state, attempts, next_at, ended_at, record)
             SELECT ?1, ?2, ?3, 'delivered', 1, ?3, ?3, ?4
             WHERE EXISTS (SELECT 1 FROM alert_outbox WHERE sink = ?2 AND state = 'dead')",
        )
        .bind(message.id.to_string())
        .bind(sink)
        .bind(micros(now))
        .bind(to_json(message))
        .execute(&mut *change)
        .await?;
        Ok(change.commit().await?)
    }

    /// A message was not taken.
    pub async fn alert_failed(
        &self,
        id: Uuid,
        error: &str,
        again: Again,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let (state, next, ended) = match again {
            Again::At(next) => ("waiting", micros(next), None),
            Again::Never => ("dead", micros(now), Some(micros(now))),
        };
        let mut change = self.change().await?;
        sqlx::query(
            "UPDATE alert_outbox SET state = ?, attempts = attempts + 1, next_at = ?, ended_at = ?, error = ?
             WHERE id = ?",
        )
        .bind(state)
        .bind(next)
        .bind(ended)
        .bind(error)
        .bind(id.to_string())
        .execute(&mut *change)
        .await?;
        Ok(change.commit().await?)
    }

    /// A new life: what waits is tried at once, since settings may be mended; what waits for sinks that are
    /// no longer configured is given up.
    pub async fn take_up_alerts(&self, sinks: &[String], now: Timestamp) -> Result<(), CatalogError> {
        let known = to_json(&sinks);
        let mut change = self.change().await?;
        sqlx::query("DELETE FROM alert_pending WHERE sink NOT IN (SELECT value FROM json_each(?))")
            .bind(&known)
            .execute(&mut *change)
            .await?;
        sqlx::query(
            "UPDATE alert_outbox SET state = 'dead', ended_at = ?, error = 'the sink is no longer configured'
             WHERE state = 'waiting' AND sink NOT IN (SELECT value FROM json_each(?))",
        )
        .bind(micros(now))
        .bind(&known)
        .execute(&mut *change)
        .await?;
        sqlx::query("UPDATE alert_outbox SET next_at = ? WHERE state = 'waiting'")
            .bind(micros(now))
            .execute(&mut *change)
            .await?;
        Ok(change.commit().await?)
    }

    /// Forgets what is over and old, or too much.
    pub async fn forget_old_alerts(&self, now: Timestamp) -> Result<(), CatalogError> {
        let before = micros(now - KEEP_FOR);
        let mut change = self.change().await?;
        sqlx::query(
            "DELETE FROM alert_events WHERE routed = 1
               AND (at < ? OR sequence <= (SELECT coalesce(max(sequence), 0) FROM alert_events) - ?)
               AND sequence NOT IN (SELECT event FROM alert_pending)",
        )
        .bind(before)
        .bind(KEEP_AT_MOST)
        .execute(&mut *change)
        .await?;
        sqlx::query(
            "DELETE FROM alert_outbox WHERE state != 'waiting' AND (made_at < ? OR id IN
               (SELECT id FROM alert_outbox ORDER BY made_at DESC, id DESC LIMIT -1 OFFSET ?))",
        )
        .bind(before)
        .bind(KEEP_AT_MOST)
        .execute(&mut *change)
        .await?;
        Ok(change.commit().await?)
    }

    /// The newest messages, the newest first.
    pub async fn alert_deliveries(&self, limit: u32) -> Result<Vec<Delivery>, CatalogError> {
        let rows = sqlx::query("SELECT * FROM alert_outbox ORDER BY made_at DESC, id DESC LIMIT ?")
            .bind(limit)
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(delivery).collect()
    }

    /// How each sink does that was ever given a message.
    pub async fn sink_states(&self) -> Result<HashMap<String, SinkState>, CatalogError> {
        let rows = sqlx::query(
            "SELECT sink, sum(state = 'waiting') AS waiting, sum(state = 'dead') AS dead,
               min(CASE WHEN state = 'waiting' AND attempts > 0 THEN made_at END) AS failing_since,
               max(CASE WHEN state = 'delivered' THEN ended_at END) AS delivered_at,
               max(CASE WHEN state = 'dead' THEN ended_at END) AS dead_at
             FROM alert_outbox GROUP BY sink",
        )
        .fetch_all(&self.readers)
        .await?;
        let mut states = HashMap::new();
        for row in rows {
            let optional = |column| row.try_get::<Option<i64>, _>(column)?.map(time).transpose();
            let count = |column| row.try_get::<i64, _>(column).map(i64::cast_unsigned);
            let sink: String = row.try_get("sink")?;
            let error: Option<String> = sqlx::query_scalar(
                "SELECT error FROM alert_outbox WHERE sink = ? AND error IS NOT NULL
                 ORDER BY made_at DESC LIMIT 1",
            )
            .bind(&sink)
            .fetch_optional(&self.readers)
            .await?;
            let state = SinkState {
                waiting: count("waiting")?,
                dead: count("dead")?,
                failing_since: optional("failing_since")?,
                delivered_at: optional("delivered_at")?,
                dead_at: optional("dead_at")?,
                error,
            };
            states.insert(sink, state);
        }
        Ok(states)
    }
}

fn delivery(row: &SqliteRow) -> Result<Delivery, CatalogError> {
    Ok(Delivery {
        sink: row.try_get("sink")?,
        message: from_json(row.try_get("record")?, "a message")?,
        state: row.try_get("state")?,
        attempts: u32::try_from(row.try_get::<i64, _>("attempts")?).unwrap_or(u32::MAX),
        next_at: time(row.try_get("next_at")?)?,
        ended_at: row.try_get::<Option<i64>, _>("ended_at")?.map(time).transpose()?,
        error: row.try_get("error")?,
    })
}
