//! What is counted while the controller runs. A start begins at 0 again, as Prometheus expects it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::jobs::Job;
use crate::jobs::job::{JobState, PartResult};
use crate::metrics::families::{self, Family};
use crate::metrics::text::Page;

/// More series than any controller has; what comes beyond is not counted, so that nobody fills the memory.
const MOST: usize = 20_000;
/// Of durations, in seconds: from a small restore to a day's backup.
const BOUNDS: [f64; 11] = [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0, 7_200.0, 21_600.0, 86_400.0];
const KINDS: [&str; 5] = ["backup", "verify", "restore", "retention", "prune"];
const RESULTS: [&str; 4] = ["complete", "incomplete", "failed", "cancelled"];

/// The counters of this life. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Mutex<Counted>>);

#[derive(Debug, Default)]
struct Counted {
    counters: BTreeMap<Series, u64>,
    times: BTreeMap<Series, jiff::Timestamp>,
    durations: BTreeMap<Series, Durations>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    /// The place of its family in the table.
    family: usize,
    values: Vec<String>,
}

#[derive(Debug, Default)]
struct Durations {
    at_most: [u64; BOUNDS.len()],
    sum: f64,
    count: u64,
}

fn series(family: &'static Family, values: &[&str]) -> Series {
    let place = families::ALL.iter().position(|other| std::ptr::eq(*other, family));
    Series {
        family: place.expect("the table holds every family"),
        values: values.iter().map(|value| (*value).to_owned()).collect(),
    }
}

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts so many more.
    pub(crate) fn add(&self, family: &'static Family, values: &[&str], more: u64) {
        let mut counted = self.lock();
        let series = series(family, values);
        if counted.counters.len() < MOST || counted.counters.contains_key(&series) {
            let figure = counted.counters.entry(series).or_default();
            *figure = figure.saturating_add(more);
        }
    }

    /// Counts how long something of this kind took.
    pub(crate) fn took(&self, family: &'static Family, kind: &str, seconds: f64) {
        let mut counted = self.lock();
        let durations = counted.durations.entry(series(family, &[kind])).or_default();
        let within = BOUNDS.iter().zip(&mut durations.at_most).filter(|(bound, _)| seconds <= **bound);
        within.for_each(|(_, below)| *below += 1);
        durations.sum += seconds;
        durations.count += 1;
    }

    /// Counts a job that has just been written down, if that was its end.
    pub(crate) fn job_saved(&self, before: JobState, job: &Job) {
        let result = match job.state {
            _ if before.is_end() => return,
            JobState::Queued | JobState::Running | JobState::Committing => return,
            JobState::Complete => RESULTS[0],
            JobState::Incomplete => RESULTS[1],
            JobState::Failed => RESULTS[2],
            JobState::Cancelled => RESULTS[3],
        };
        self.add(&families::JOBS, &[job.kind(), result], 1);
        if let Some(ended) = job.ended_at {
            self.lock().times.insert(series(&families::JOB_LAST, &[job.kind(), result]), ended);
            if let Some(started) = job.started_at {
                let took = ended.duration_since(started).as_secs_f64().max(0.0);
                self.took(&families::JOB_SECONDS, job.kind(), took);
            }
        }
        for part in &job.parts {
            match &part.result {
                Some(PartResult::Archive { manifest, .. }) => {
                    let component = part.source.component.as_str();
                    self.add(&families::READ, &[component], manifest.counts.read_bytes);
                    self.add(&families::STORED, &[component], manifest.counts.stored_bytes);
                }
                Some(PartResult::Verified { bytes, .. }) => self.add(&families::VERIFY_READ, &[], *bytes),
                Some(PartResult::Restored { bytes, .. }) => self.add(&families::RESTORED, &[], *bytes),
                None => {}
            }
        }
        if let Some(cleared) = &job.cleared {
            self.add(&families::RETIRED, &[], cleared.backups.len() as u64);
            self.add(&families::FREED, &[], cleared.freed_bytes);
            self.add(&families::REWRITTEN, &[], cleared.rewritten_bytes);
        }
    }

    /// Adds everything to a page; what has not happened yet as 0 where it is known to be possible.
    pub(crate) fn put_into(&self, page: &mut Page) {
        let mut counters = self.lock().counters.clone();
        let possible = KINDS.iter().flat_map(|kind| RESULTS.map(|result| [*kind, result]));
        for values in possible {
            counters.entry(series(&families::JOBS, &values)).or_default();
        }
        for family in families::ALL {
            if family.labels.is_empty() && family.kind == families::Kind::Counter {
                counters.entry(series(family, &[])).or_default();
            }
        }
        for (Series { family, values }, figure) in &counters {
            page.count(families::ALL[*family], &words(values), *figure);
        }
        let counted = self.lock();
        for (Series { family, values }, at) in &counted.times {
            page.time(families::ALL[*family], &words(values), *at);
        }
        for (Series { family, values }, durations) in &counted.durations {
            let buckets = BOUNDS.into_iter().zip(durations.at_most);
            let (family, values) = (families::ALL[*family], words(values));
            page.histogram(family, &values, buckets, durations.sum, durations.count);
        }
    }
}

fn words(values: &[String]) -> Vec<&str> {
    values.iter().map(String::as_str).collect()
}
