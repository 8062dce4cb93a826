//! How far validators have signed, as backups have seen it and as people have stated it, by their key.
//!
//! A key that moves to another source, or to another agent, keeps its height; another key in the same folder has one
//! of its own. What was seen where no key lay, or none that could be read, is the source's, and may have been signed by
//! any key that was ever seen there.
//!
//! Must stay true: what is known of a key goes back only if somebody states so, of that key; a sight of a key takes
//! nothing away from others. What was seen before somebody stated a height counts no more for whom it was stated, and
//! what was seen since does, in whatever order it comes to be known.

use std::collections::HashMap;

use jiff::Timestamp;
use repository::backup::manifest::SignedHeight;
use repository::keys::KeyRing;
use repository::names::SourceId;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::alerts::{Event, Kind};
use crate::catalog::alerts::raise;
use crate::catalog::{Catalog, CatalogError, micros, time};

/// So many are listed.
const MAX_LISTED: i64 = 1_000;
/// So many places are told of each.
const MAX_PLACES: usize = 100;
/// The digits of an address.
const ADDRESS: usize = 40;

/// That a backup has seen how far a validator has signed.
#[derive(Debug, Clone)]
pub struct Seen {
    source: SourceId,
    key: Option<String>,
    address: Option<String>,
    /// How far.
    pub signed: SignedHeight,
    at: Timestamp,
}

impl Seen {
    /// What an agent tells of an archive of `source`; none if it tells nothing that can be.
    pub fn of(
        source: &SourceId,
        wire: Option<&proto::v1::SignedHeight>,
        keys: &KeyRing,
        at: Timestamp,
    ) -> Option<Self> {
        let (height, round, step) = proto::convert::signed(wire)?;
        let address = wire.and_then(|wire| normal(&wire.address));
        let key = address.as_deref().map(|address| keys.signer_id(address));
        Some(Self { source: source.clone(), key, address, signed: SignedHeight { height, round, step }, at })
    }

    /// The same validator was seen again in the same source.
    pub fn again(&mut self, other: &Self) {
        (self.signed, self.at) = (self.signed.max(other.signed), self.at.max(other.at));
    }

    /// What a manifest says.
    pub fn in_manifest(source: SourceId, key: Option<String>, signed: SignedHeight, at: Timestamp) -> Self {
        Self { source, key, address: None, signed, at }
    }

    /// By what manifests name the key.
    pub fn key(&self) -> Option<String> {
        self.key.clone()
    }

    /// That its key is where it was not before: somebody has to look, since one that signs in two places is punished, and
    /// what any agent tells of it counts.
    pub(crate) fn elsewhere(&self, before: &[SourceId]) -> Event {
        let name = self.address.clone().unwrap_or_else(|| self.id());
        let before: Vec<String> = before.iter().map(SourceId::to_string).collect();
        Event::raised(Kind::Anomaly, format!("validator {name}")).saying(
            format!("the key of validator {name} is in {} now", self.source),
            format!("until now it was seen in {}", before.join(", ")),
            "see that it signs in one place alone: two that do are punished. If it does not belong there, see who runs that \
             agent, and what it has told: nsctl signer list, nsctl signer set",
        )
    }

    /// Under what it is remembered.
    pub fn id(&self) -> String {
        self.key.clone().unwrap_or_else(|| self.source.to_string())
    }
}

/// An address as it is compared; none if it is none.
pub(crate) fn normal(address: &str) -> Option<String> {
    let is_one = address.len() == ADDRESS && address.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_one.then(|| address.to_ascii_uppercase())
}

/// What is known of a validator.
#[derive(Debug, Clone)]
pub struct SignerRecord {
    /// Under what it is remembered.
    pub id: String,
    /// The key's address.
    pub address: Option<String>,
    /// Where it was seen last.
    pub source: Option<SourceId>,
    /// All sources in which it was seen, at most [`MAX_PLACES`].
    pub places: Vec<SourceId>,
    /// How far it has signed.
    pub signed: SignedHeight,
    /// When it was seen last, or a height was stated.
    pub seen_at: Timestamp,
    /// When somebody has stated a height, who, and why.
    pub stated: Option<(Timestamp, String, String)>,
}

const COLUMNS: &str =
    "id, address, component, name, height, round, step, seen_at, stated_at, stated_by, reason";

impl Catalog {
    /// A backup has seen how far a validator has signed. What it saw before somebody stated a height does not count.
    /// Tells nobody: it is known already, or was.
    pub async fn saw_signed(&self, seen: &Seen) -> Result<(), CatalogError> {
        self.see(seen, None).await
    }

    /// The same, of a backup that ends `now`: where its key was never seen in that source, but in others, an alert is
    /// raised. That and the place are kept together: a place that is known raises none again.
    pub async fn sees_signed(&self, seen: &Seen, now: Timestamp) -> Result<(), CatalogError> {
        self.see(seen, Some(now)).await
    }

    async fn see(&self, seen: &Seen, told_at: Option<Timestamp>) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query(
            "INSERT INTO signers (id, address, component, name, height, round, step, seen_at)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET
                 height = excluded.height, round = excluded.round, step = excluded.step
             WHERE (excluded.height, excluded.round, excluded.step) > (height, round, step)
               AND excluded.seen_at >= coalesce(stated_at, 0)",
        )
        .bind(seen.id())
        .bind(&seen.address)
        .bind(seen.source.component.as_str())
        .bind(seen.source.name.as_str())
        .bind(seen.signed.height)
        .bind(seen.signed.round)
        .bind(seen.signed.step)
        .bind(micros(seen.at))
        .execute(&mut *change)
        .await?;
        // Where it is, what it is called and when it was seen last is news even where it has signed nothing more.
        sqlx::query(
            "UPDATE signers SET address = coalesce(?1, address), component = ?2, name = ?3, seen_at = ?4
             WHERE id = ?5 AND seen_at <= ?4",
        )
        .bind(&seen.address)
        .bind(seen.source.component.as_str())
        .bind(seen.source.name.as_str())
        .bind(micros(seen.at))
        .bind(seen.id())
        .execute(&mut *change)
        .await?;
        let mut before = Vec::new();
        if seen.key.is_some() {
            let rows = sqlx::query("SELECT component, name FROM signer_places WHERE id = ? LIMIT ?")
                .bind(seen.id())
                .bind(MAX_PLACES as i64)
                .fetch_all(&mut *change)
                .await?;
            let added = sqlx::query(
                "INSERT INTO signer_places (id, component, name) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            )
            .bind(seen.id())
            .bind(seen.source.component.as_str())
            .bind(seen.source.name.as_str())
            .execute(&mut *change)
            .await?
            .rows_affected();
            if added > 0 {
                before = rows.iter().filter_map(|row| place_of(row).transpose()).collect::<Result<_, _>>()?;
            }
        }
        let told_at = told_at.filter(|_| !before.is_empty());
        if let Some(now) = told_at {
            raise(&mut change, &[seen.elsewhere(&before)], now).await?;
        }
        change.commit().await?;
        if told_at.is_some() {
            self.alerts_raised.notify_one();
        }
        Ok(())
    }

    /// The highest that is known of the validator of an archive of `source`: of its key, and of what was seen without one
    /// in that source and wherever this key was ever seen, unless somebody has stated since how far this key has signed.
    /// Where the archive does not say whose it is, of every key: the one that lies in it may have moved on.
    pub async fn signed(
        &self,
        source: &SourceId,
        key: Option<&str>,
    ) -> Result<Option<(i64, i64, i32)>, CatalogError> {
        let row = sqlx::query(
            "SELECT height, round, step FROM signers
             WHERE ?1 IS NULL OR id = ?1
                OR ((id = ?2 OR id IN (SELECT component || '/' || name FROM signer_places WHERE id = ?1))
                    AND seen_at >= coalesce((SELECT stated_at FROM signers WHERE id = ?1), 0))
             ORDER BY height DESC, round DESC, step DESC LIMIT 1",
        )
        .bind(key)
        .bind(source.to_string())
        .fetch_optional(&self.readers)
        .await?;
        row.as_ref().map(parts).transpose()
    }

    /// The highest of all that was ever seen in `source`: what any key that may be live there has signed, wherever, and
    /// what was seen without a key where one of them was seen, unless somebody has stated since how far that key has.
    pub async fn signed_here(&self, source: &SourceId) -> Result<Option<(i64, i64, i32)>, CatalogError> {
        let row = sqlx::query(
            "SELECT height, round, step FROM signers
             WHERE id = ?1 OR id IN (SELECT id FROM signer_places WHERE component = ?2 AND name = ?3)
                OR EXISTS (SELECT 1 FROM signer_places AS here
                           JOIN signer_places AS there ON there.id = here.id
                           LEFT JOIN signers AS own ON own.id = here.id
                           WHERE here.component = ?2 AND here.name = ?3
                             AND there.component || '/' || there.name = signers.id
                             AND signers.seen_at >= coalesce(own.stated_at, 0))
             ORDER BY height DESC, round DESC, step DESC LIMIT 1",
        )
        .bind(source.to_string())
        .bind(source.component.as_str())
        .bind(source.name.as_str())
        .fetch_optional(&self.readers)
        .await?;
        row.as_ref().map(parts).transpose()
    }

    /// All validators that are known, those that were seen last first.
    pub async fn signers(&self) -> Result<Vec<SignerRecord>, CatalogError> {
        let query = format!("SELECT {COLUMNS} FROM signers ORDER BY seen_at DESC, id LIMIT {MAX_LISTED}");
        let rows = sqlx::query(sqlx::AssertSqlSafe(query)).fetch_all(&self.readers).await?;
        let mut all = rows.iter().map(record).collect::<Result<Vec<_>, _>>()?;
        let places =
            sqlx::query("SELECT id, component, name FROM signer_places ORDER BY id, component, name")
                .fetch_all(&self.readers)
                .await?;
        let mut by_id: HashMap<String, Vec<SourceId>> = HashMap::new();
        for row in &places {
            let of = by_id.entry(row.try_get("id")?).or_default();
            if of.len() < MAX_PLACES {
                of.extend(place_of(row)?);
            }
        }
        for one in &mut all {
            one.places = by_id.remove(&one.id).unwrap_or_else(|| one.source.clone().into_iter().collect());
        }
        Ok(all)
    }

    /// When heights were stated, by the ids.
    pub async fn stated(&self) -> Result<HashMap<String, Timestamp>, CatalogError> {
        let rows = sqlx::query("SELECT id, stated_at FROM signers WHERE stated_at IS NOT NULL")
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(|row| Ok((row.try_get("id")?, time(row.try_get("stated_at")?)?))).collect()
    }

    /// Somebody states how far these have signed, whatever was seen before.
    pub async fn state_signed(&self, all: &[SignerRecord]) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        for stated in all {
            state(&mut change, stated).await?;
        }
        Ok(change.commit().await?)
    }
}

async fn state(change: &mut SqliteConnection, stated: &SignerRecord) -> Result<(), CatalogError> {
    let (component, name) = match &stated.source {
        Some(source) => (source.component.as_str(), source.name.as_str()),
        None => ("", ""),
    };
    let (at, by, reason) = stated.stated.clone().unwrap_or((stated.seen_at, String::new(), String::new()));
    sqlx::query(
        "INSERT INTO signers
             (id, address, component, name, height, round, step, seen_at, stated_at, stated_by, reason)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET
             address = coalesce(excluded.address, address),
             height = excluded.height, round = excluded.round, step = excluded.step, seen_at = excluded.seen_at,
             stated_at = excluded.stated_at, stated_by = excluded.stated_by, reason = excluded.reason",
    )
    .bind(&stated.id)
    .bind(&stated.address)
    .bind(component)
    .bind(name)
    .bind(stated.signed.height)
    .bind(stated.signed.round)
    .bind(stated.signed.step)
    .bind(micros(stated.seen_at))
    .bind(micros(at))
    .bind(by)
    .bind(reason)
    .execute(change)
    .await?;
    Ok(())
}

fn signed_of(row: &SqliteRow) -> Result<SignedHeight, CatalogError> {
    Ok(SignedHeight {
        height: row.try_get("height")?,
        round: row.try_get("round")?,
        step: row.try_get("step")?,
    })
}

fn parts(row: &SqliteRow) -> Result<(i64, i64, i32), CatalogError> {
    let SignedHeight { height, round, step } = signed_of(row)?;
    Ok((height, round, step))
}

fn place_of(row: &SqliteRow) -> Result<Option<SourceId>, CatalogError> {
    let place = format!("{}/{}", row.try_get::<&str, _>("component")?, row.try_get::<&str, _>("name")?);
    Ok(place.parse().ok())
}

fn record(row: &SqliteRow) -> Result<SignerRecord, CatalogError> {
    let stated: Option<i64> = row.try_get("stated_at")?;
    let text = |column| Ok::<_, CatalogError>(row.try_get::<Option<String>, _>(column)?.unwrap_or_default());
    Ok(SignerRecord {
        id: row.try_get("id")?,
        address: row.try_get("address")?,
        source: place_of(row)?,
        places: Vec::new(),
        signed: signed_of(row)?,
        seen_at: time(row.try_get("seen_at")?)?,
        stated: stated
            .map(|at| Ok::<_, CatalogError>((time(at)?, text("stated_by")?, text("reason")?)))
            .transpose()?,
    })
}
