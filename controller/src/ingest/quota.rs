//! Quotas: how much an agent may send, and how fast.
//!
//! Must stay true: what is refused was not taken in, and what was taken in stays usable; bytes are
//! reserved before the first of them is written, so that streams side by side cannot exceed a limit
//! together; one agent's limits slow no other agent.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use proto::Failure;
use proto::failure::reason;
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::Code;

use crate::config::Quota;
use crate::ids::AgentId;

/// Segments that one agent may have under way: it cannot hold the places of all others.
const UPLOADS: usize = 4;

/// The limits, and what each agent has used of them since the controller started.
#[derive(Debug)]
pub struct Quotas {
    limits: Vec<(glob::Pattern, Quota)>,
    agents: Mutex<HashMap<AgentId, Arc<Allowance>>>,
}

impl Quotas {
    /// Nobody has sent anything yet.
    pub fn new(quotas: &[Quota]) -> Self {
        let parse = |quota: &Quota| {
            let pattern = glob::Pattern::new(&quota.agents).expect("the configuration was checked");
            (pattern, quota.clone())
        };
        Self { limits: quotas.iter().map(parse).collect(), agents: Mutex::default() }
    }

    /// What the agent of this name may send.
    pub fn of(&self, agent: AgentId, name: &str) -> Arc<Allowance> {
        let fits = |(pattern, _): &&(glob::Pattern, Quota)| pattern.matches(name);
        let fresh = || {
            let quota = self.limits.iter().find(fits).map(|(_, quota)| quota.clone()).unwrap_or_default();
            Arc::new(Allowance::new(quota))
        };
        lock(&self.agents).entry(agent).or_insert_with(fresh).clone()
    }

    /// Bytes taken in from the agent on the day of `now`, and how often it was refused.
    pub fn used_by(&self, agent: AgentId, now: Timestamp) -> (u64, u64) {
        let allowance = lock(&self.agents).get(&agent).cloned();
        allowance.map_or((0, 0), |allowance| {
            let used = allowance.used(now);
            (used.bytes_today, used.refusals)
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one agent may send.
#[derive(Debug)]
pub struct Allowance {
    quota: Quota,
    uploads: Semaphore,
    used: Mutex<Used>,
    pace: Mutex<Bucket>,
}

#[derive(Debug, Default)]
struct Used {
    day: Option<Date>,
    bytes_today: u64,
    refusals: u64,
}

impl Allowance {
    fn new(quota: Quota) -> Self {
        let pace = Mutex::new(Bucket { owed: 0.0, at: Instant::now() });
        Self { quota, uploads: Semaphore::new(UPLOADS), used: Mutex::default(), pace }
    }

    /// Waits for one of the agent's own places.
    pub async fn place(&self) -> SemaphorePermit<'_> {
        self.uploads.acquire().await.expect("the semaphore is never closed")
    }

    /// Sets `bytes` aside, of an archive of which `taken` are new so far. They are given back unless they
    /// are kept.
    pub fn reserve<'a>(
        &'a self,
        taken: &'a AtomicU64,
        bytes: u64,
        now: Timestamp,
    ) -> Result<Reserved<'a>, Failure> {
        let mut used = self.used(now);
        let refusal = [
            (
                "in one archive",
                "bytes_per_archive",
                self.quota.bytes_per_archive,
                taken.load(Ordering::Relaxed),
            ),
            ("on one day", "bytes_per_day", self.quota.bytes_per_day, used.bytes_today),
        ]
        .into_iter()
        .find_map(|(when, key, limit, before)| {
            let limit = limit.filter(|limit| before.saturating_add(bytes) > limit.bytes())?;
            Some(refusal(format!("it may send {limit} {when} ({key})")))
        });
        if let Some(failure) = refusal {
            used.refusals += 1;
            return Err(failure);
        }
        used.bytes_today += bytes;
        taken.fetch_add(bytes, Ordering::Relaxed);
        Ok(Reserved { allowance: self, taken, bytes, day: used.day })
    }

    /// Refuses an archive of too many entries.
    pub fn check_entries(&self, entries: u64, now: Timestamp) -> Result<(), Failure> {
        match self.quota.entries_per_archive.filter(|limit| entries > *limit) {
            None => Ok(()),
            Some(limit) => {
                self.used(now).refusals += 1;
                let why = format!(
                    "{entries} entries, and it may send {limit} in one archive (entries_per_archive)"
                );
                Err(refusal(why))
            }
        }
    }

    /// Waits for as long as `bytes` that have come are too fast.
    pub async fn keep_pace(&self, bytes: usize) {
        let Some(rate) = self.quota.rate else { return };
        let wait = lock(&self.pace).take(bytes as u64, rate.bytes(), Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    fn used(&self, now: Timestamp) -> MutexGuard<'_, Used> {
        let mut used = lock(&self.used);
        let today = now.to_zoned(TimeZone::UTC).date();
        if used.day != Some(today) {
            (used.day, used.bytes_today) = (Some(today), 0);
        }
        used
    }
}

fn refusal(why: String) -> Failure {
    Failure::new(Code::ResourceExhausted, reason::QUOTA, "the agent has used up its quota")
        .because(why)
        .hint("raise it under `quotas` in the controller's configuration, or back up less")
}

/// Bytes that were set aside.
#[derive(Debug)]
pub struct Reserved<'a> {
    allowance: &'a Allowance,
    taken: &'a AtomicU64,
    bytes: u64,
    day: Option<Date>,
}

impl Reserved<'_> {
    /// They have become durable.
    pub fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::Relaxed);
        let mut used = lock(&self.allowance.used);
        if used.day == self.day {
            used.bytes_today -= self.bytes;
        }
    }
}

/// A leaky bucket: one second's worth may come at once.
#[derive(Debug)]
struct Bucket {
    /// Bytes that have come and not yet leaked out.
    owed: f64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, bytes: u64, rate: u64, now: Instant) -> Duration {
        let rate = rate as f64;
        let leaked = now.saturating_duration_since(self.at).as_secs_f64() * rate;
        self.owed = (self.owed - leaked).max(0.0) + bytes as f64;
        self.at = now;
        Duration::from_secs_f64((self.owed / rate - 1.0).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use runtime::config::Size;

    use super::*;

    const NOON: &str = "2026-03-01T12:00:00Z";

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn bytes(count: u64) -> Option<Size> {
        Some(Size::from_bytes(count))
    }

    fn quotas(quota: Quota) -> Quotas {
        Quotas::new(&[Quota { agents: "node-*".to_owned(), ..quota }])
    }

    #[test]
    fn an_archive_may_reach_its_limit_and_not_exceed_it() {
        let quotas = quotas(Quota { bytes_per_archive: bytes(100), ..Quota::default() });
        let agent = AgentId::fresh();
        let allowance = quotas.of(agent, "node-1");
        let (first, second) = (AtomicU64::new(0), AtomicU64::new(0));
        allowance.reserve(&first, 60, at(NOON)).expect("there is room").keep();
        let failure = allowance.reserve(&first, 41, at(NOON)).expect_err("too much");
        assert_eq!((failure.reason.as_str(), failure.is_passing()), (reason::QUOTA, false));
        assert!(failure.why.contains("bytes_per_archive"), "{failure:?}");
        allowance.reserve(&first, 40, at(NOON)).expect("there is just room").keep();
        allowance.reserve(&second, 100, at(NOON)).expect("another archive has its own").keep();
        assert_eq!(quotas.used_by(agent, at(NOON)), (200, 1));
    }

    #[test]
    fn a_day_is_over_at_midnight_and_what_was_not_kept_is_given_back() {
        let quotas = quotas(Quota { bytes_per_day: bytes(100), ..Quota::default() });
        let allowance = quotas.of(AgentId::fresh(), "node-1");
        let taken = AtomicU64::new(0);
        drop(allowance.reserve(&taken, 100, at(NOON)).expect("there is room"));
        assert_eq!(taken.load(Ordering::Relaxed), 0);
        let late = allowance.reserve(&taken, 100, at("2026-03-01T23:59:59Z")).expect("it was given back");
        assert!(allowance.reserve(&taken, 1, at("2026-03-01T23:59:59Z")).is_err());
        allowance.reserve(&taken, 100, at("2026-03-02T00:00:00Z")).expect("a new day").keep();
        // Yesterday's bytes are not taken off today's.
        drop(late);
        assert!(allowance.reserve(&taken, 1, at("2026-03-02T00:00:01Z")).is_err());
    }

    #[test]
    fn streams_side_by_side_cannot_exceed_a_limit_together() {
        let quotas = quotas(Quota { bytes_per_archive: bytes(100), ..Quota::default() });
        let allowance = quotas.of(AgentId::fresh(), "node-1");
        let taken = AtomicU64::new(0);
        let _under_way = allowance.reserve(&taken, 60, at(NOON)).expect("there is room");
        assert!(allowance.reserve(&taken, 60, at(NOON)).is_err());
    }

    #[test]
    fn an_agent_whom_no_pattern_fits_has_no_limits() {
        let quotas =
            quotas(Quota { bytes_per_day: bytes(1), entries_per_archive: Some(1), ..Quota::default() });
        let free = quotas.of(AgentId::fresh(), "database");
        free.reserve(&AtomicU64::new(0), u64::MAX / 2, at(NOON)).expect("no limit").keep();
        free.check_entries(u64::MAX, at(NOON)).expect("no limit");
        assert!(quotas.of(AgentId::fresh(), "node-7").check_entries(2, at(NOON)).is_err());
    }

    #[test]
    fn what_comes_too_fast_waits_until_it_is_not() {
        let start = Instant::now();
        let mut bucket = Bucket { owed: 0.0, at: start };
        assert_eq!(bucket.take(1_000, 1_000, start), Duration::ZERO, "a second's worth may come at once");
        assert_eq!(bucket.take(500, 1_000, start), Duration::from_millis(500));
        assert_eq!(bucket.take(500, 1_000, start + Duration::from_secs(1)), Duration::ZERO);
        assert_eq!(
            bucket.take(1_000, 1_000, start + Duration::from_secs(60)),
            Duration::ZERO,
            "no credit grows"
        );
        assert_eq!(bucket.take(1_000, 1_000, start + Duration::from_secs(60)), Duration::from_secs(1));
    }
}
