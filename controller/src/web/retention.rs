//! Which backups stay, what the rules would remove now, other rules, and the removal.
//!
//! Must stay true: what is removed is what was shown: the plan's digest goes along, somebody has typed how many
//! backups go, and where a plan takes much away, has said that it is meant.

use askama::Template;
use axum::body::Bytes;
use axum::response::Response;
use proto::Failure;
use proto::v1::{
    GetRetentionRequest, PlanRetentionRequest, RetentionDecision, RetentionRules, SetRetentionRequest,
    StartRetentionRequest,
};
use runtime::config::Duration;
use uuid::Uuid;

use crate::web::form::Form;
use crate::web::site::{Asked, Frame, redirect, render};
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
    digest: String,
}

/// The rules as the form has them; empty: no rule.
#[derive(Default)]
struct Edited {
    within: String,
    counts: Vec<(&'static str, &'static str, String)>,
}

#[derive(Template)]
#[template(path = "retention.html")]
struct Retention {
    frame: Frame,
    rules: Vec<(&'static str, String)>,
    of_schedules: Vec<(String, String)>,
    time_zone: String,
    is_managed: bool,
    edited: Edited,
    request_id: String,
    confirm_wrong: bool,
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

/// The counting rules: their fields, what they keep, and where they stand.
type Counting = (&'static str, &'static str, fn(&mut RetentionRules) -> &mut Option<u32>);

const COUNTING: [Counting; 6] = [
    ("last", "The newest", |rules| &mut rules.keep_last),
    ("hourly", "Hours of which the newest stays", |rules| &mut rules.keep_hourly),
    ("daily", "Days", |rules| &mut rules.keep_daily),
    ("weekly", "Weeks", |rules| &mut rules.keep_weekly),
    ("monthly", "Months", |rules| &mut rules.keep_monthly),
    ("yearly", "Years", |rules| &mut rules.keep_yearly),
];

fn edited(rules: &RetentionRules) -> Edited {
    let mut rules = rules.clone();
    let text = |count: Option<u32>| count.map(|count| count.to_string()).unwrap_or_default();
    let within = rules.keep_within_seconds.map(|seconds| Duration::from_secs(seconds).to_string());
    let mut counts: Vec<_> =
        COUNTING.iter().map(|(name, what, of)| (*name, *what, text(*of(&mut rules)))).collect();
    counts.push((
        "complete",
        "Complete ones of each component, whatever their age",
        rules.keep_complete.to_string(),
    ));
    Edited { within: within.unwrap_or_default(), counts }
}

/// The rules that a form asks for.
fn wanted(form: &Form) -> Result<RetentionRules, Failure> {
    let count = |name: &str| match form.get(name).trim() {
        "" => Ok(None),
        text => text.parse::<u32>().map(Some).map_err(|_| {
            Failure::invalid(format!("{text:?} is no number of backups"))
                .hint("write a whole number, or nothing")
        }),
    };
    let mut rules = RetentionRules::default();
    for (name, _, of) in COUNTING {
        *of(&mut rules) = count(name)?;
    }
    // The controller refuses none.
    rules.keep_complete = count("complete")?.unwrap_or_default();
    rules.keep_within_seconds = match form.get("within").trim() {
        "" => None,
        text => {
            let span = text.parse::<Duration>();
            let wrong =
                |why| Failure::invalid(format!("the time {text:?} cannot be understood")).because(why);
            Some(span.map_err(wrong)?.get().as_secs())
        }
    };
    Ok(rules)
}

pub(super) async fn set(asked: Asked, body: Bytes) -> Response {
    let made = async {
        let rules = wanted(&asked.form(&body)?)?;
        asked.retention().set_retention(SetRetentionRequest { rules: Some(rules) }).await?;
        Ok(redirect(&format!("{}retention", asked.site.base)))
    };
    let made = made.await;
    asked.answer(made)
}

pub(super) async fn apply(asked: Asked, body: Bytes) -> Response {
    let made = async {
        let form = asked.form(&body)?;
        if form.get("confirm").trim() != form.get("confirms") {
            return shown(&asked, true).await;
        }
        let order = StartRetentionRequest {
            digest: form.get("digest").to_owned(),
            approved: form.has("approved"),
            request_id: form.get("request_id").to_owned(),
        };
        let job = asked.retention().start_retention(order).await?.into_inner();
        Ok(redirect(&format!("{}jobs/{}", asked.site.base, job.id)))
    };
    let made = made.await;
    asked.answer(made)
}

pub(super) async fn show(asked: Asked) -> Response {
    let made = shown(&asked, false).await;
    asked.answer(made)
}

async fn shown(asked: &Asked, confirm_wrong: bool) -> Result<Response, Failure> {
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
        is_managed: now.managed,
        edited: edited(&now),
        time_zone: now.time_zone,
        request_id: Uuid::now_v7().to_string(),
        confirm_wrong,
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
        digest: plan.digest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_come_out_of_the_form_as_they_went_into_it_and_an_empty_field_is_no_rule() {
        let rules = RetentionRules {
            keep_within_seconds: Some(30 * 86_400),
            keep_daily: Some(14),
            keep_complete: 3,
            ..RetentionRules::default()
        };
        let shown = edited(&rules);
        let mut text = form_urlencoded::Serializer::new(String::new());
        text.append_pair("within", &shown.within);
        for (name, _, value) in &shown.counts {
            text.append_pair(name, value);
        }
        assert_eq!(wanted(&Form::parse(text.finish().as_bytes())).expect("understood"), rules);
        for wrong in ["daily=-1", "within=30", "complete=many"] {
            assert!(wanted(&Form::parse(wrong.as_bytes())).is_err(), "{wrong}");
        }
    }

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
