//! Which backups are kept, and what would go.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proto::v1;
use serde::Serialize;

use super::{outcome, some, time};
use crate::output::table::Rows;
use crate::output::words::{count, counted, size, utc};

/// Rules one by one.
#[derive(Debug, Serialize)]
pub(crate) struct Keeps {
    pub(crate) keep_within_seconds: Option<u64>,
    pub(crate) keep_last: Option<u32>,
    pub(crate) keep_hourly: Option<u32>,
    pub(crate) keep_daily: Option<u32>,
    pub(crate) keep_weekly: Option<u32>,
    pub(crate) keep_monthly: Option<u32>,
    pub(crate) keep_yearly: Option<u32>,
    pub(crate) keep_complete: u32,
}

/// The rules of retention.
#[derive(Debug, Serialize)]
pub(crate) struct Rules {
    #[serde(flatten)]
    pub(crate) keeps: Keeps,
    /// By schedule: of the backups that it orders, instead.
    pub(crate) schedules: BTreeMap<String, Keeps>,
    /// The controller's configuration declares them: they are changed there alone.
    pub(crate) managed: bool,
    /// In which hours, days, weeks begin.
    pub(crate) time_zone: String,
}

/// What the rules would remove.
#[derive(Debug, Serialize)]
pub(crate) struct RetentionPlan {
    /// Confirms the plan.
    pub(crate) digest: String,
    pub(crate) rules: Rules,
    /// Newest first.
    pub(crate) backups: Vec<Decision>,
    /// Of packs that nothing would need any more.
    pub(crate) freed_bytes: u64,
    pub(crate) rewritten_packs: u64,
    pub(crate) rewritten_bytes: u64,
    pub(crate) repository_bytes: u64,
    /// Why somebody has to approve it; none: nobody has to.
    pub(crate) brake: Option<String>,
    /// That backups need and no pack has: damage.
    pub(crate) missing_blobs: u64,
}

/// What becomes of a backup.
#[derive(Debug, Serialize)]
pub(crate) struct Decision {
    pub(crate) name: String,
    pub(crate) sequence: u64,
    pub(crate) outcome: &'static str,
    pub(crate) goes: bool,
    /// Why it stays, or why it goes.
    pub(crate) reasons: Vec<String>,
}

/// What prune would do.
#[derive(Debug, Serialize)]
pub(crate) struct PrunePlan {
    /// Confirms the plan.
    pub(crate) digest: String,
    pub(crate) dead_packs: u64,
    pub(crate) dead_bytes: u64,
    pub(crate) rewritten_packs: u64,
    pub(crate) rewritten_bytes: u64,
    /// In all, once it is done.
    pub(crate) freed_bytes: u64,
    /// Dead too, and left for the next attempt of a backup that failed.
    pub(crate) young_bytes: u64,
    /// Marked by an earlier run.
    pub(crate) waiting_bytes: u64,
    pub(crate) waits_until: Option<Timestamp>,
    /// Taken away by an earlier run, and deleted when its time is over.
    pub(crate) trash_bytes: u64,
    pub(crate) repository_bytes: u64,
    /// Without grace.
    pub(crate) now: bool,
    /// Why somebody has to approve it; none: nobody has to.
    pub(crate) brake: Option<String>,
    /// That backups need and no pack has: damage.
    pub(crate) missing_blobs: u64,
}

impl From<v1::RetentionRules> for Rules {
    fn from(mut wire: v1::RetentionRules) -> Self {
        let own = std::mem::take(&mut wire.of_schedules).into_iter();
        let schedules = own.map(|(schedule, rules)| (schedule, Keeps::from(rules))).collect();
        let (managed, time_zone) = (wire.managed, std::mem::take(&mut wire.time_zone));
        Self { keeps: wire.into(), schedules, managed, time_zone }
    }
}

impl From<v1::RetentionRules> for Keeps {
    fn from(wire: v1::RetentionRules) -> Self {
        Self {
            keep_within_seconds: wire.keep_within_seconds,
            keep_last: wire.keep_last,
            keep_hourly: wire.keep_hourly,
            keep_daily: wire.keep_daily,
            keep_weekly: wire.keep_weekly,
            keep_monthly: wire.keep_monthly,
            keep_yearly: wire.keep_yearly,
            keep_complete: wire.keep_complete,
        }
    }
}

impl From<v1::RetentionPlan> for RetentionPlan {
    fn from(wire: v1::RetentionPlan) -> Self {
        Self {
            digest: wire.digest,
            rules: wire.rules.unwrap_or_default().into(),
            backups: wire.backups.into_iter().map(Decision::from).collect(),
            freed_bytes: wire.freed_bytes,
            rewritten_packs: wire.rewritten_packs,
            rewritten_bytes: wire.rewritten_bytes,
            repository_bytes: wire.repository_bytes,
            brake: some(wire.brake),
            missing_blobs: wire.missing_blobs,
        }
    }
}

impl From<v1::RetentionDecision> for Decision {
    fn from(wire: v1::RetentionDecision) -> Self {
        Self {
            outcome: outcome(wire.outcome()),
            name: wire.backup,
            sequence: wire.sequence,
            goes: wire.goes,
            reasons: wire.reasons,
        }
    }
}

impl From<v1::PrunePlan> for PrunePlan {
    fn from(wire: v1::PrunePlan) -> Self {
        Self {
            digest: wire.digest,
            dead_packs: wire.dead_packs,
            dead_bytes: wire.dead_bytes,
            rewritten_packs: wire.rewritten_packs,
            rewritten_bytes: wire.rewritten_bytes,
            freed_bytes: wire.freed_bytes,
            young_bytes: wire.young_bytes,
            waiting_bytes: wire.waiting_bytes,
            waits_until: time!(wire.waits_until),
            trash_bytes: wire.trash_bytes,
            repository_bytes: wire.repository_bytes,
            now: wire.request.is_some_and(|request| request.now),
            brake: some(wire.brake),
            missing_blobs: wire.missing_blobs,
        }
    }
}

impl Keeps {
    fn table(&self) -> String {
        let mut rows = Rows::new(&["RULE", "KEEPS"]);
        if let Some(seconds) = self.keep_within_seconds {
            rows.row(["keep_within".to_owned(), format!("all that are younger than {}", span(seconds))]);
        }
        let each = "the newest of each of ";
        let counts = [
            ("keep_last", self.keep_last, "the newest ", ["backup", "backups"]),
            ("keep_hourly", self.keep_hourly, each, ["hour", "hours"]),
            ("keep_daily", self.keep_daily, each, ["day", "days"]),
            ("keep_weekly", self.keep_weekly, each, ["week", "weeks"]),
            ("keep_monthly", self.keep_monthly, each, ["month", "months"]),
            ("keep_yearly", self.keep_yearly, each, ["year", "years"]),
            (
                "keep_complete",
                Some(self.keep_complete),
                "whatever their age, the newest ",
                ["complete one", "complete ones"],
            ),
        ];
        for (rule, number, words, [one, many]) in counts {
            if let Some(number) = number {
                rows.row([rule.to_owned(), format!("{words}{}", counted(number.into(), one, many))]);
            }
        }
        rows.finish_or("no rules")
    }

    /// In a line, by the rules' names.
    pub(crate) fn words(&self) -> String {
        let within = self.keep_within_seconds.map(|seconds| format!("keep_within {}", span(seconds)));
        let counts = [
            ("keep_last", self.keep_last),
            ("keep_hourly", self.keep_hourly),
            ("keep_daily", self.keep_daily),
            ("keep_weekly", self.keep_weekly),
            ("keep_monthly", self.keep_monthly),
            ("keep_yearly", self.keep_yearly),
            ("keep_complete", Some(self.keep_complete)),
        ];
        let counts = counts.into_iter().filter_map(|(rule, number)| Some(format!("{rule} {}", number?)));
        within.into_iter().chain(counts).collect::<Vec<_>>().join(", ")
    }
}

impl Rules {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let whose = match self.managed {
            true => "the controller's configuration declares them",
            false => "`nsctl retention set` changes them",
        };
        let mut text = self.keeps.table();
        for (schedule, keeps) in &self.schedules {
            text.push_str(&format!("\n\nInstead, of backups by the schedule {schedule}:\n{}", keeps.table()));
        }
        format!(
            "{text}\n\nAlways kept: what is pinned or in use, and what no newer verified backup replaces.\n\
             Days begin by {}; {whose}.",
            self.time_zone
        )
    }
}

impl RetentionPlan {
    /// How many backups go.
    pub(crate) fn goes(&self) -> u64 {
        self.backups.iter().filter(|backup| backup.goes).count() as u64
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut rows = Rows::new(&["BACKUP", "OUTCOME", "WHAT", "WHY"]);
        for backup in &self.backups {
            let what = if backup.goes { "REMOVE" } else { "keep" };
            rows.row([
                backup.name.clone(),
                backup.outcome.to_owned(),
                what.to_owned(),
                backup.reasons.join("; "),
            ]);
        }
        let mut text = format!(
            "{}\n\n{} of {} would be removed; {} of {} would be freed",
            rows.finish_or("no backups yet"),
            count(self.goes()),
            counted(self.backups.len() as u64, "backup", "backups"),
            size(self.freed_bytes),
            size(self.repository_bytes)
        );
        text.push_str(&rewritten(self.rewritten_packs, self.rewritten_bytes));
        text.push_str(".\nThe space is freed after a grace; `nsctl prune --now` frees it at once.");
        text.push_str(&remarks(self.brake.as_deref(), self.missing_blobs));
        text
    }
}

impl PrunePlan {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "{} ({}) {} nothing that is needed; {} of {} would be freed",
            counted(self.dead_packs, "pack", "packs"),
            size(self.dead_bytes),
            if self.dead_packs == 1 { "holds" } else { "hold" },
            size(self.freed_bytes),
            size(self.repository_bytes)
        );
        text.push_str(&rewritten(self.rewritten_packs, self.rewritten_bytes));
        text.push_str(match self.now {
            true => ".\nIt is freed at once.",
            false => ".\nIt is freed after a grace, by later runs; --now frees it at once.",
        });
        if self.young_bytes > 0 {
            text.push_str(&format!("\n{} more are too young to be taken.", size(self.young_bytes)));
        }
        if self.waiting_bytes > 0 {
            let until = self.waits_until.map_or_else(String::new, |at| format!(" until {}", utc(at)));
            let waiting = size(self.waiting_bytes);
            text.push_str(&match self.now {
                true => format!("\n{waiting} more, which an earlier run has marked, are freed now, too."),
                false => format!("\n{waiting} of an earlier run wait{until}."),
            });
        }
        if self.trash_bytes > 0 {
            text.push_str(&format!("\n{} lie in the trash.", size(self.trash_bytes)));
        }
        text.push_str(&remarks(self.brake.as_deref(), self.missing_blobs));
        text
    }
}

fn rewritten(packs: u64, bytes: u64) -> String {
    match packs {
        0 => String::new(),
        _ => format!(", {} ({}) would be written anew", counted(packs, "pack", "packs"), size(bytes)),
    }
}

fn remarks(brake: Option<&str>, missing_blobs: u64) -> String {
    let missing = counted(missing_blobs, "blob is", "blobs are");
    let damage = (missing_blobs > 0).then(|| format!("\nDAMAGE: {missing} in no pack; run `nsctl verify`"));
    let brake = brake.map(|why| format!("\nNEEDS --approve: {why}"));
    damage.into_iter().chain(brake).collect()
}

/// A length of time in the largest unit that says all of it.
fn span(seconds: u64) -> String {
    let units = [(86_400, "day", "days"), (3_600, "hour", "hours"), (60, "minute", "minutes")];
    let fits = units.iter().find(|(unit, ..)| seconds.is_multiple_of(*unit));
    match fits {
        Some((unit, one, many)) => counted(seconds / unit, one, many),
        None => counted(seconds, "second", "seconds"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(name: &str, goes: bool, reason: &str) -> v1::RetentionDecision {
        let outcome = v1::Outcome::Complete.into();
        v1::RetentionDecision {
            backup: name.into(),
            goes,
            outcome,
            reasons: vec![reason.into()],
            ..Default::default()
        }
    }

    #[test]
    fn a_plan_says_of_each_backup_why_it_stays_or_goes() {
        let plan = RetentionPlan::from(v1::RetentionPlan {
            backups: vec![
                decision("20260102_010000", false, "within 30d"),
                decision("20260101_010000", true, "kept by no rule"),
            ],
            freed_bytes: 3 << 20,
            repository_bytes: 1 << 30,
            brake: "9 of 10 backups would go".into(),
            ..Default::default()
        });
        let text = plan.text();
        for line in [
            "20260102_010000  complete  keep    within 30d",
            "20260101_010000  complete  REMOVE  kept by no rule",
            "1 of 2 backups would be removed; 3.00 MiB of 1.00 GiB would be freed",
            "NEEDS --approve: 9 of 10 backups would go",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    #[test]
    fn rules_are_told_in_words() {
        let rules = Rules::from(v1::RetentionRules {
            keep_within_seconds: Some(30 * 86_400),
            keep_weekly: Some(8),
            keep_complete: 3,
            managed: true,
            time_zone: "UTC".into(),
            ..Default::default()
        });
        let text = rules.text();
        for line in [
            "all that are younger than 30 days",
            "each of 8 weeks",
            "configuration declares them",
            "3 complete",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
