//! Quotas: how much an agent may send, and how fast.
//!
//! Must stay true: what is refused was not taken in, and what was taken in stays usable; bytes are
//! reserved before the first of them is written, so that streams side by side cannot exceed a limit
//! together; one agent's limits slow no other agent.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use proto::Failure;
use proto::failure::reason;
use tonic::Code;

use crate::config::Quota;
use crate::fleet::ArchiveTask;
use crate::ids::AgentId;
use crate::ingest::{Place, Places, Work};

/// The limits, and what each agent has used of them since the controller started.
#[derive(Debug)]
pub struct Quotas {
    limits: Vec<(glob::Pattern, Quota)>,
    places: Arc<Places>,
    agents: Mutex<HashMap<AgentId, Arc<Allowance>>>,
}

impl Quotas {
    /// Nobody has sent anything yet.
    pub fn new(quotas: &[Quota]) -> Self {
        let parse = |quota: &Quota| {
            let pattern = glob::Pattern::new(&quota.agents).expect("the configuration was checked");
            (pattern, quota.clone())
        };
        let limits = quotas.iter().map(parse).collect();
        Self { limits, places: Arc::new(Places::of_all()), agents: Mutex::default() }
    }

    /// What the agent of this name may send.
    pub fn of(&self, agent: AgentId, name: &str) -> Arc<Allowance> {
        let fits = |(pattern, _): &&(glob::Pattern, Quota)| pattern.matches(name);
        let fresh = || {
            let quota = self.limits.iter().find(fits).map(|(_, quota)| quota.clone()).unwrap_or_default();
            Arc::new(Allowance::new(quota, self.places.clone()))
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
    own: Places,
    of_all: Arc<Places>,
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
    fn new(quota: Quota, of_all: Arc<Places>) -> Self {
        let pace = Mutex::new(Bucket { owed: 0.0, at: Instant::now() });
        Self { quota, own: Places::of_an_agent(), of_all, used: Mutex::default(), pace }
    }

    /// Waits for one of the agent's own places.
    pub async fn own_place(&self, work: Work) -> Place {
        self.own.take(work).await
    }

    /// Waits for one of the places of all agents. To be asked for with an own one in hand.
    pub async fn shared_place(&self, work: Work) -> Place {
        self.of_all.take(work).await
    }

    /// Waits for both.
    pub async fn places(&self, work: Work) -> (Place, Place) {
        let own = self.own_place(work).await;
        (own, self.shared_place(work).await)
    }

    /// Sets `bytes` of this attempt at an archive aside. They are given back unless they are kept.
    pub fn reserve(
        self: &Arc<Self>,
        task: &Arc<ArchiveTask>,
        bytes: u64,
        now: Timestamp,
    ) -> Result<Reserved, Failure> {
        let mut used = self.used(now);
        let of_archive = task.taken.load(Ordering::Relaxed);
        let limits = [
            ("in one archive", "bytes_per_archive", self.quota.bytes_per_archive, of_archive),
            ("on one day", "bytes_per_day", self.quota.bytes_per_day, used.bytes_today),
        ];
        for (when, key, limit, before) in limits {
            if let Some(limit) = limit.filter(|limit| before.saturating_add(bytes) > limit.bytes()) {
                used.refusals += 1;
                return Err(refusal(format!("it may send {limit} {when} ({key})")));
            }
        }
        used.bytes_today = used.bytes_today.saturating_add(bytes);
        // Under the lock, as all changes of it: it cannot go below what is given back.
        task.taken.store(of_archive.saturating_add(bytes), Ordering::Relaxed);
        Ok(Reserved { allowance: self.clone(), task: task.clone(), bytes, day: used.day })
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

    /// Waits until `bytes` more are not too fast.
    pub async fn keep_pace(&self, bytes: u64) {
        let Some(rate) = self.quota.rate else { return };
        let wait = lock(&self.pace).take(bytes, rate.bytes(), Instant::now());
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

/// Bytes that were set aside. They belong to whoever makes them durable, so that a caller who hangs up
/// gets back only what never will be.
pub struct Reserved {
    allowance: Arc<Allowance>,
    task: Arc<ArchiveTask>,
    bytes: u64,
    day: Option<Date>,
}

impl Reserved {
    /// They have become durable.
    pub fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut used = lock(&self.allowance.used);
        let left = self.task.taken.load(Ordering::Relaxed).saturating_sub(self.bytes);
        self.task.taken.store(left, Ordering::Relaxed);
        // Yesterday's bytes are not taken off today's.
        if used.day == self.day {
            used.bytes_today = used.bytes_today.saturating_sub(self.bytes);
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
#[path = "quota_tests.rs"]
mod tests;
