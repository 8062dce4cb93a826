//! What verifications have proven and when.
//!
//! Must stay true: a pack that was found bad has no proof here; losing a row only means to read again.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use repository::ids::{BlobId, DomainId, PackId};
use repository::verify::{DomainPacks, PackProof, Proofs};
use sqlx::Row;

use crate::catalog::{Catalog, CatalogError, micros, time, to_json};

/// A proof, or that there is none any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// The pack's SHA-256 is its name.
    Hashed(PackId, Timestamp),
    /// Every blob of it opens.
    Opened(PackId, Timestamp),
    /// Every entry of the page has its content.
    Page(BlobId, Timestamp),
    /// The pack was found bad.
    Unsound(PackId, Timestamp),
}

/// What is known of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownPack {
    /// When a verification first knew of it.
    pub seen_at: Timestamp,
    /// When it was proven.
    pub proof: Option<PackProof>,
    /// When it was found bad; none: it was not, or it was found sound since.
    pub bad_at: Option<Timestamp>,
}

impl Catalog {
    /// Makes the packs of these domains known, and forgets those that they no longer have; `marked` ones lose
    /// their proofs, and so do those whose proof is of a time that is still to come: the clock was ahead. What
    /// was found bad then stays bad, as of now. Returns what is known of all that there are.
    pub async fn know_packs(
        &self,
        domains: &[DomainPacks],
        marked: &BTreeSet<PackId>,
        now: Timestamp,
    ) -> Result<BTreeMap<PackId, KnownPack>, CatalogError> {
        let hex = |packs: &mut dyn Iterator<Item = &PackId>| -> Vec<String> {
            packs.map(|pack| pack.to_string().to_uppercase()).collect()
        };
        let mut change = self.change().await?;
        for DomainPacks { domain, packs } in domains {
            let domain = &domain.as_bytes()[..];
            let ids = to_json(&hex(&mut packs.iter().map(|(pack, _)| pack)));
            sqlx::query(
                "INSERT OR IGNORE INTO pack_proofs (pack, domain, seen_at)
                 SELECT unhex(value), ?, ? FROM json_each(?)",
            )
            .bind(domain)
            .bind(micros(now))
            .bind(&ids)
            .execute(&mut *change)
            .await?;
            sqlx::query(
                "DELETE FROM pack_proofs WHERE domain = ?
                 AND pack NOT IN (SELECT unhex(value) FROM json_each(?))",
            )
            .bind(domain)
            .bind(&ids)
            .execute(&mut *change)
            .await?;
        }
        sqlx::query(
            "UPDATE pack_proofs SET hashed_at = NULL, opened_at = NULL
             WHERE pack IN (SELECT unhex(value) FROM json_each(?))",
        )
        .bind(to_json(&hex(&mut marked.iter())))
        .execute(&mut *change)
        .await?;
        sqlx::query(
            "UPDATE pack_proofs SET hashed_at = NULL, opened_at = NULL WHERE hashed_at > ?1 OR opened_at > ?1",
        )
        .bind(micros(now))
        .execute(&mut *change)
        .await?;
        sqlx::query(
            "UPDATE pack_proofs SET seen_at = min(seen_at, ?1), bad_at = min(bad_at, ?1)
             WHERE seen_at > ?1 OR bad_at > ?1",
        )
        .bind(micros(now))
        .execute(&mut *change)
        .await?;
        let mut known = BTreeMap::new();
        for DomainPacks { domain, .. } in domains {
            let rows = sqlx::query(
                "SELECT pack, seen_at, hashed_at, opened_at, bad_at FROM pack_proofs WHERE domain = ?",
            )
            .bind(&domain.as_bytes()[..])
            .fetch_all(&mut *change)
            .await?;
            for row in rows {
                let pack = PackId::try_from(row.try_get::<&[u8], _>("pack")?).map_err(wrong)?;
                let optional = |column: &str| -> Result<Option<Timestamp>, CatalogError> {
                    row.try_get::<Option<i64>, _>(column)?.map(time).transpose()
                };
                let opened = optional("opened_at")?;
                let proof = optional("hashed_at")?.map(|hashed| PackProof { hashed, opened });
                let (seen_at, bad_at) = (time(row.try_get("seen_at")?)?, optional("bad_at")?);
                known.insert(pack, KnownPack { seen_at, proof, bad_at });
            }
        }
        change.commit().await?;
        Ok(known)
    }

    /// The pages of a domain that were proven since then; earlier ones are forgotten, and those of a time
    /// that is still to come.
    pub async fn proven_pages(
        &self,
        domain: &DomainId,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<Proofs, CatalogError> {
        let mut change = self.change().await?;
        sqlx::query("DELETE FROM page_proofs WHERE domain = ? AND (at < ? OR at > ?)")
            .bind(&domain.as_bytes()[..])
            .bind(micros(since))
            .bind(micros(now))
            .execute(&mut *change)
            .await?;
        let rows = sqlx::query("SELECT page, at FROM page_proofs WHERE domain = ?")
            .bind(&domain.as_bytes()[..])
            .fetch_all(&mut *change)
            .await?;
        let mut proofs = Proofs::default();
        for row in rows {
            let page = BlobId::try_from(row.try_get::<&[u8], _>("page")?).map_err(wrong)?;
            proofs.pages.insert(page, time(row.try_get("at")?)?);
        }
        change.commit().await?;
        Ok(proofs)
    }

    /// Writes proofs down, all or none.
    pub async fn add_proofs(&self, domain: &DomainId, notes: &[Note]) -> Result<(), CatalogError> {
        let domain = &domain.as_bytes()[..];
        let mut change = self.change().await?;
        for note in notes {
            let query = match note {
                Note::Hashed(pack, at) => sqlx::query(
                    "INSERT INTO pack_proofs (pack, domain, seen_at, hashed_at) VALUES (?1, ?2, ?3, ?3)
                     ON CONFLICT (pack) DO UPDATE SET hashed_at = excluded.hashed_at, bad_at = NULL",
                )
                .bind(pack.as_bytes().to_vec())
                .bind(domain)
                .bind(micros(*at)),
                Note::Opened(pack, at) => sqlx::query("UPDATE pack_proofs SET opened_at = ? WHERE pack = ?")
                    .bind(micros(*at))
                    .bind(pack.as_bytes().to_vec()),
                Note::Page(page, at) => {
                    sqlx::query("INSERT OR REPLACE INTO page_proofs (page, domain, at) VALUES (?, ?, ?)")
                        .bind(page.as_bytes().to_vec())
                        .bind(domain)
                        .bind(micros(*at))
                }
                Note::Unsound(pack, at) => sqlx::query(
                    "UPDATE pack_proofs SET hashed_at = NULL, opened_at = NULL, bad_at = ? WHERE pack = ?",
                )
                .bind(micros(*at))
                .bind(pack.as_bytes().to_vec()),
            };
            query.execute(&mut *change).await?;
        }
        Ok(change.commit().await?)
    }

    /// A run over everything began at `since`, now or before it was interrupted. Returns when the one before
    /// it began.
    pub async fn begin_run(&self, depth: &str, since: Timestamp) -> Result<Option<Timestamp>, CatalogError> {
        let mut change = self.change().await?;
        sqlx::query(
            "INSERT INTO verification_runs (depth, at) VALUES (?1, ?2)
             ON CONFLICT (depth) DO UPDATE SET before_at = at, at = excluded.at WHERE at != excluded.at",
        )
        .bind(depth)
        .bind(micros(since))
        .execute(&mut *change)
        .await?;
        let before: Option<i64> =
            sqlx::query_scalar("SELECT before_at FROM verification_runs WHERE depth = ?")
                .bind(depth)
                .fetch_one(&mut *change)
                .await?;
        change.commit().await?;
        before.map(time).transpose()
    }
}

fn wrong<E>(_: E) -> CatalogError {
    CatalogError::Damaged("an id")
}
