//! Which backups stay, and what the rules would remove now. Nothing is removed from here.

use askama::Template;
use axum::response::Response;
use proto::Failure;
use proto::v1::{GetRetentionRequest, PlanRetentionRequest, RetentionDecision, RetentionRules};

use crate::web::site::{Asked, Frame, render};
use crate::web::text::{State, counted, outcome, size, span};

/// As many backups as are listed of those that go, and of those that stay.
const SHOWN: usize = 100;

struct Line {
    backup: String,
    state: State,
    reasons: String,
}

/// What goes, or what stays.
struct Group {
    title: &'static str,
    lines: Vec<Line>,
    left_out: usize,
}

impl Group {
    fn new(title: &'static str, all: &[&RetentionDecision]) -> Self {
        let lines = all.iter().take(SHOWN).map(|decision| line(decision)).collect();
        Self { title, lines, left_out: all.len().saturating_sub(SHOWN) }
    }
}

/// What would happen now.
struct Preview {
    goes: usize,
    of: usize,
    groups: Vec<Group>,
    freed: String,
    brake: String,
    missing: u64,
}

#[derive(Template)]
#[template(path = "retention.html")]
struct Retention {
    frame: Frame,
    rules: Vec<(&'static str, String)>,
    of_schedules: Vec<(String, String)>,
    time_zone: String,
    is_managed: bool,
    /// None: who asks may not see it.
    preview: Option<Preview>,
}

/// Rules, each as what it keeps and how many.
fn rules(rules: &RetentionRules) -> Vec<(&'static str, String)> {
    let count = |number: Option<u32>, one, many| number.map(|number| counted(number.into(), one, many));
    let within = rules.keep_within_seconds.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
    let all = [
        ("Everything of the last", within.map(span)),
        ("The newest", count(rules.keep_last, "backup", "backups")),
        ("The newest of each hour, for", count(rules.keep_hourly, "hour", "hours")),
        ("The newest of each day, for", count(rules.keep_daily, "day", "days")),
        ("The newest of each week, for", count(rules.keep_weekly, "week", "weeks")),
        ("The newest of each month, for", count(rules.keep_monthly, "month", "months")),
        ("The newest of each year, for", count(rules.keep_yearly, "year", "years")),
        (
            "Whatever their age, of each component",
            count(Some(rules.keep_complete.max(1)), "complete backup", "complete backups"),
        ),
    ];
    all.into_iter().filter_map(|(what, number)| Some((what, number?))).collect()
}

fn line(decision: &RetentionDecision) -> Line {
    Line {
        backup: decision.backup.clone(),
        state: outcome(decision.outcome()),
        reasons: decision.reasons.join(", "),
    }
}

pub(super) async fn show(asked: Asked) -> Response {
    let made = shown(&asked).await;
    asked.answer(made)
}

async fn shown(asked: &Asked) -> Result<Response, Failure> {
    let frame = asked.frame("Retention");
    let now = asked.retention().get_retention(GetRetentionRequest {}).await?.into_inner();
    let preview = if frame.may_act { Some(preview(asked).await?) } else { None };
    let in_words = |of: &RetentionRules| {
        let all = rules(of).into_iter().map(|(what, number)| format!("{what} {number}"));
        all.collect::<Vec<_>>().join("; ").to_lowercase()
    };
    let mut of_schedules: Vec<(String, String)> =
        now.of_schedules.iter().map(|(schedule, of)| (schedule.clone(), in_words(of))).collect();
    of_schedules.sort_unstable();
    render(&Retention {
        frame,
        rules: rules(&now),
        of_schedules,
        time_zone: now.time_zone,
        is_managed: now.managed,
        preview,
    })
}

async fn preview(asked: &Asked) -> Result<Preview, Failure> {
    let plan = asked.retention().plan_retention(PlanRetentionRequest {}).await?.into_inner();
    let (goes, stays): (Vec<_>, Vec<_>) = plan.backups.iter().partition(|decision| decision.goes);
    let mut groups = vec![Group::new("Would be removed", &goes), Group::new("Would stay", &stays)];
    groups.retain(|group| !group.lines.is_empty());
    Ok(Preview {
        goes: goes.len(),
        of: plan.backups.len(),
        groups,
        freed: size(plan.freed_bytes),
        brake: plan.brake,
        missing: plan.missing_blobs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_is_not_set_is_not_told_and_one_complete_backup_always_stays() {
        let some = RetentionRules {
            keep_daily: Some(1),
            keep_within_seconds: Some(30 * 86_400),
            ..RetentionRules::default()
        };
        let said: Vec<String> =
            rules(&some).into_iter().map(|(what, many)| format!("{what} {many}")).collect();
        assert_eq!(
            said,
            [
                "Everything of the last 30 days",
                "The newest of each day, for 1 day",
                "Whatever their age, of each component 1 complete backup",
            ]
        );
    }
}
