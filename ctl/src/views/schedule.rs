//! Schedules: when they run next, and what became of their last run.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use proto::v1;
use serde::Serialize;

use super::job::State;
use super::retention::Keeps;
use super::{some, time};
use crate::output::table::{Rows, or_dash};
use crate::output::words::{counted, duration, utc};

/// All schedules, by name.
#[derive(Debug, Serialize)]
pub(crate) struct Schedules {
    pub(crate) schedules: Vec<Schedule>,
}

/// A schedule.
#[derive(Debug, Serialize)]
pub(crate) struct Schedule {
    pub(crate) name: String,
    /// backup, verify.
    pub(crate) kind: String,
    pub(crate) cron: String,
    pub(crate) time_zone: String,
    /// None: all.
    pub(crate) components: Vec<String>,
    /// Of a verification.
    pub(crate) depth: Option<String>,
    pub(crate) wait_for_backup_seconds: Option<u64>,
    pub(crate) retention: Option<bool>,
    /// Of a backup: the rules for what it makes; none: those of all.
    pub(crate) keeps: Option<Keeps>,
    pub(crate) jitter_seconds: u64,
    pub(crate) catch_up_seconds: u64,
    /// The controller's configuration declares it: it is changed there alone.
    pub(crate) managed: bool,
    pub(crate) paused_at: Option<Timestamp>,
    /// None while it is paused.
    pub(crate) next_planned_at: Option<Timestamp>,
    /// The same with its jitter.
    pub(crate) next_due_at: Option<Timestamp>,
    pub(crate) last: Option<Run>,
}

/// A schedule that was removed.
#[derive(Debug, Serialize)]
pub(crate) struct Removed {
    pub(crate) removed: String,
}

/// What became of a planned time.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    /// None: somebody ran it by hand.
    pub(crate) planned_at: Option<Timestamp>,
    /// When it was decided.
    pub(crate) ran_at: Option<Timestamp>,
    /// started, waiting, skipped, missed, empty.
    pub(crate) state: String,
    pub(crate) job: Option<String>,
    pub(crate) job_state: Option<State>,
    pub(crate) retention_job: Option<String>,
    pub(crate) retention_state: Option<State>,
    /// So many were missed together, of which `planned_at` is the last.
    pub(crate) missed: u32,
    pub(crate) first_missed_at: Option<Timestamp>,
    pub(crate) note: Option<String>,
}

impl From<v1::ListSchedulesResponse> for Schedules {
    fn from(wire: v1::ListSchedulesResponse) -> Self {
        Self { schedules: wire.schedules.into_iter().map(Schedule::from).collect() }
    }
}

impl From<v1::Schedule> for Schedule {
    fn from(wire: v1::Schedule) -> Self {
        let is_verify = wire.kind == "verify";
        Self {
            name: wire.name,
            kind: wire.kind,
            cron: wire.cron,
            time_zone: wire.time_zone,
            components: wire.components,
            depth: some(wire.depth),
            wait_for_backup_seconds: is_verify.then_some(wire.wait_for_backup_milliseconds / 1_000),
            retention: is_verify.then_some(wire.retention),
            keeps: wire.keeps.map(Keeps::from),
            jitter_seconds: wire.jitter_milliseconds / 1_000,
            catch_up_seconds: wire.catch_up_milliseconds / 1_000,
            managed: wire.managed,
            paused_at: time!(wire.paused_at),
            next_planned_at: time!(wire.next_planned_at),
            next_due_at: time!(wire.next_due_at),
            last: wire.last.map(Run::from),
        }
    }
}

impl From<v1::ScheduleRun> for Run {
    fn from(wire: v1::ScheduleRun) -> Self {
        let (job, retention) = (wire.job_state(), wire.retention_state());
        let state = |job: &str, state: v1::JobState| (!job.is_empty()).then(|| State::from(state));
        Self {
            planned_at: time!(wire.planned_at),
            ran_at: time!(wire.ran_at),
            state: wire.state,
            job_state: state(&wire.job_id, job),
            job: some(wire.job_id),
            retention_state: state(&wire.retention_job_id, retention),
            retention_job: some(wire.retention_job_id),
            missed: wire.missed,
            first_missed_at: time!(wire.first_missed_at),
            note: some(wire.note),
        }
    }
}

impl Schedules {
    pub(crate) fn table(&self) -> String {
        let mut rows =
            Rows::new(&["NAME", "WHAT", "CRON", "ZONE", "NEXT", "NEXT (UTC)", "LAST", "RESULT", "KEEPS"]);
        for schedule in &self.schedules {
            let next = schedule.next_due_at;
            rows.row([
                format!("{}{}", schedule.name, if schedule.managed { " (managed)" } else { "" }),
                schedule.what(),
                schedule.cron.clone(),
                schedule.time_zone.clone(),
                match (schedule.paused_at, next) {
                    (Some(_), _) => "paused".to_owned(),
                    (None, next) => next.map_or("-".to_owned(), |next| local(next, &schedule.time_zone)),
                },
                or_dash(&next.map(utc).unwrap_or_default()),
                or_dash(&schedule.last.as_ref().and_then(|last| last.ran_at).map(utc).unwrap_or_default()),
                or_dash(&schedule.last.as_ref().map(Run::result).unwrap_or_default()),
                or_dash(&schedule.keeps.as_ref().map(Keeps::words).unwrap_or_default()),
            ]);
        }
        rows.finish_or("there are no schedules; nothing is backed up by itself")
    }

    /// What comes next, a line each, the soonest first.
    pub(crate) fn coming(&self) -> Vec<String> {
        let mut schedules: Vec<&Schedule> = self.schedules.iter().collect();
        schedules.sort_by_key(|schedule| (schedule.next_due_at.is_none(), schedule.next_due_at));
        schedules.into_iter().map(Schedule::coming).collect()
    }
}

impl Schedule {
    fn what(&self) -> String {
        let depth = self.depth.as_ref().map(|depth| format!(" ({depth})")).unwrap_or_default();
        match self.components.is_empty() {
            true => format!("{}{depth}", self.kind),
            false => format!("{}{depth} of {}", self.kind, self.components.join(", ")),
        }
    }

    fn coming(&self) -> String {
        match self.next_due_at {
            None => format!("{} ({}): paused", self.kind, self.name),
            Some(next) if self.time_zone == "UTC" => format!("{} ({}): {}", self.kind, self.name, utc(next)),
            Some(next) => {
                format!("{} ({}): {} ({})", self.kind, self.name, local(next, &self.time_zone), utc(next))
            }
        }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let own = if self.managed { ", declared by the controller's configuration" } else { "" };
        let mut lines = vec![
            format!("schedule {}: {}{own}", self.name, self.what()),
            format!("  when      {} ({})", self.cron, self.time_zone),
            format!("  next      {}", self.coming()),
        ];
        if self.jitter_seconds > 0 {
            lines.push(format!("  jitter    up to {}", duration(self.jitter_seconds as f64)));
        }
        lines.push(format!("  catch up  {}", duration(self.catch_up_seconds as f64)));
        if let Some(wait) = self.wait_for_backup_seconds {
            lines.push(format!("  waits     up to {} for a backup that still runs", duration(wait as f64)));
        }
        if self.retention == Some(true) {
            lines.push("  then      the rules of retention are applied".to_owned());
        }
        if let Some(keeps) = &self.keeps {
            lines.push(format!("  keeps     {}", keeps.words()));
        }
        lines.join("\n")
    }
}

impl Run {
    fn result(&self) -> String {
        let mut text = match self.state.as_str() {
            "started" => match self.job_state {
                Some(state) => state.word().to_owned(),
                None => "started".to_owned(),
            },
            "missed" => format!("missed {}", counted(self.missed.into(), "run", "runs")),
            "empty" => "nothing to verify".to_owned(),
            other => other.to_owned(),
        };
        if self.planned_at.is_none() {
            text.push_str(" (by hand)");
        }
        if let Some(retention) = self.retention_state {
            text.push_str(&format!(", retention {}", retention.word()));
        }
        match &self.note {
            Some(note) => format!("{text}: {note}"),
            None => text,
        }
    }
}

/// The time in this zone, with its offset; in UTC where the zone is not known here.
fn local(time: Timestamp, zone: &str) -> String {
    let zone = TimeZone::get(zone).unwrap_or(TimeZone::UTC);
    time.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S%:z").to_string()
}

#[cfg(test)]
mod tests {
    use proto::convert::to_wire_time;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn the_next_run_is_shown_in_the_schedules_zone_and_in_utc() {
        let schedule = v1::Schedule {
            name: "daily".into(),
            kind: "backup".into(),
            cron: "0 1 * * *".into(),
            time_zone: "Europe/Berlin".into(),
            managed: true,
            next_due_at: Some(to_wire_time(at("2027-07-01T23:00:00Z"))),
            last: Some(v1::ScheduleRun {
                planned_at: Some(to_wire_time(at("2027-06-30T23:00:00Z"))),
                ran_at: Some(to_wire_time(at("2027-06-30T23:00:01Z"))),
                state: "missed".into(),
                missed: 3,
                ..v1::ScheduleRun::default()
            }),
            ..v1::Schedule::default()
        };
        let list = Schedules::from(v1::ListSchedulesResponse { schedules: vec![schedule] });
        let table = list.table();
        for said in [
            "daily (managed)",
            "2027-07-02 01:00:00+02:00",
            "2027-07-01 23:00:00Z",
            "2027-06-30 23:00:01Z",
            "missed 3 runs",
        ] {
            assert!(table.contains(said), "{said}: {table}");
        }
        assert_eq!(list.coming(), ["backup (daily): 2027-07-02 01:00:00+02:00 (2027-07-01 23:00:00Z)"]);
    }
}
