//! How far validators have signed, as backups have seen it and as people have stated it, by their key.
//!
//! A key that moves to another source, or to another agent, keeps its height; another key in the same folder has one
//! of its own. Where a state lies and no key, the height is the source's, until a key is seen there: then it is that
//! key's.
//!
//! Must stay true: what is known of a key goes back only if somebody states so.

use std::collections::HashMap;

use jiff::Timestamp;
use repository::backup::manifest::SignedHeight;
use repository::keys::KeyRing;
use repository::names::SourceId;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::catalog::{Catalog, CatalogError, micros, time};

/// So many are listed.
const MAX_LISTED: i64 = 1_000;
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

    /// What a manifest says.
    pub fn in_manifest(source: SourceId, key: Option<String>, signed: SignedHeight, at: Timestamp) -> Self {
        Self { source, key, address: None, signed, at }
    }

    /// By what manifests name the key.
    pub fn key(&self) -> Option<String> {
        self.key.clone()
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
    /// How far it has signed.
    pub signed: SignedHeight,
    /// When that was seen or stated.
    pub seen_at: Timestamp,
    /// When somebody has stated a height, who, and why.
    pub stated: Option<(Timestamp, String, String)>,
}

const COLUMNS: &str =
    "id, address, component, name, height, round, step, seen_at, stated_at, stated_by, reason";

impl Catalog {
    /// A backup has seen how far a validator has signed. What it saw before somebody stated a height does not count.
    pub async fn saw_signed(&self, seen: &Seen) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        let source = seen.source.to_string();
        let mut highest = seen.signed;
        if seen.key.is_some() {
            // What was seen there without a key was this one's.
            let keyless = sqlx::query("DELETE FROM signers WHERE id = ? RETURNING height, round, step")
                .bind(&source)
                .fetch_optional(&mut *change)
                .await?;
            if let Some(row) = keyless {
                highest = highest.max(signed_of(&row)?);
            }
        }
        sqlx::query(
            "INSERT INTO signers (id, address, component, name, height, round, step, seen_at)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET
                 address = coalesce(excluded.address, address), component = excluded.component, name = excluded.name,
                 height = excluded.height, round = excluded.round, step = excluded.step, seen_at = excluded.seen_at
             WHERE (excluded.height, excluded.round, excluded.step) > (height, round, step)
               AND excluded.seen_at >= coalesce(stated_at, 0)",
        )
        .bind(seen.id())
        .bind(&seen.address)
        .bind(seen.source.component.as_str())
        .bind(seen.source.name.as_str())
        .bind(highest.height)
        .bind(highest.round)
        .bind(highest.step)
        .bind(micros(seen.at))
        .execute(&mut *change)
        .await?;
        // Where it is, and what it is called, is news even where it has signed nothing.
        sqlx::query(
            "UPDATE signers SET address = coalesce(?, address), component = ?, name = ?
             WHERE id = ? AND seen_at <= ?",
        )
        .bind(&seen.address)
        .bind(seen.source.component.as_str())
        .bind(seen.source.name.as_str())
        .bind(seen.id())
        .bind(micros(seen.at))
        .execute(&mut *change)
        .await?;
        Ok(change.commit().await?)
    }

    /// The highest that is known of the validator of an archive of `source`: of its key, and of what was seen there
    /// without one. Where the archive does not say whose it is, of every key: the one that lies in it may have moved on.
    pub async fn signed(
        &self,
        source: &SourceId,
        key: Option<&str>,
    ) -> Result<Option<(i64, i64, i32)>, CatalogError> {
        let row = sqlx::query(
            "SELECT height, round, step FROM signers
             WHERE id = ?1 OR id = ?2 OR ?1 IS NULL
             ORDER BY height DESC, round DESC, step DESC LIMIT 1",
        )
        .bind(key)
        .bind(source.to_string())
        .fetch_optional(&self.readers)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let SignedHeight { height, round, step } = signed_of(&row)?;
        Ok(Some((height, round, step)))
    }

    /// All validators that are known, those that were seen last first.
    pub async fn signers(&self) -> Result<Vec<SignerRecord>, CatalogError> {
        let query = format!("SELECT {COLUMNS} FROM signers ORDER BY seen_at DESC, id LIMIT {MAX_LISTED}");
        let rows = sqlx::query(sqlx::AssertSqlSafe(query)).fetch_all(&self.readers).await?;
        rows.iter().map(record).collect()
    }

    /// When heights were stated, by the ids.
    pub async fn stated(&self) -> Result<HashMap<String, Timestamp>, CatalogError> {
        let rows = sqlx::query("SELECT id, stated_at FROM signers WHERE stated_at IS NOT NULL")
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(|row| Ok((row.try_get("id")?, time(row.try_get("stated_at")?)?))).collect()
    }

    /// Somebody states how far a validator has signed, whatever was seen before.
    pub async fn state_signed(&self, stated: &SignerRecord) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        let (component, name) = match &stated.source {
            Some(source) => (source.component.as_str(), source.name.as_str()),
            None => ("", ""),
        };
        let (at, by, reason) =
            stated.stated.clone().unwrap_or((stated.seen_at, String::new(), String::new()));
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
        .execute(&mut *change)
        .await?;
        Ok(change.commit().await?)
    }
}

fn signed_of(row: &SqliteRow) -> Result<SignedHeight, CatalogError> {
    Ok(SignedHeight {
        height: row.try_get("height")?,
        round: row.try_get("round")?,
        step: row.try_get("step")?,
    })
}

fn record(row: &SqliteRow) -> Result<SignerRecord, CatalogError> {
    let place = format!("{}/{}", row.try_get::<&str, _>("component")?, row.try_get::<&str, _>("name")?);
    let stated: Option<i64> = row.try_get("stated_at")?;
    let text = |column| Ok::<_, CatalogError>(row.try_get::<Option<String>, _>(column)?.unwrap_or_default());
    Ok(SignerRecord {
        id: row.try_get("id")?,
        address: row.try_get("address")?,
        source: place.parse().ok(),
        signed: signed_of(row)?,
        seen_at: time(row.try_get("seen_at")?)?,
        stated: stated
            .map(|at| Ok::<_, CatalogError>((time(at)?, text("stated_by")?, text("reason")?)))
            .transpose()?,
    })
}
