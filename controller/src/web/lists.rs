//! Pages that are one table each: schedules, the audit log, the doctor's findings.

use askama::Template;
use axum::response::Response;
use proto::v1::audit_client::AuditClient;
use proto::v1::health_client::HealthClient;
use proto::v1::schedules_client::SchedulesClient;
use proto::v1::{AuditEntry, ExamineRequest, Finding, ListAuditRequest, ListSchedulesRequest, finding};

use crate::web::site::{Asked, Frame, render};
use crate::web::text::{Mood, State, age, job_state, time, utc};

/// What a cell shows.
enum Cell {
    Text(String),
    State(State),
}

fn text(text: impl Into<String>) -> Cell {
    Cell::Text(text.into())
}

#[derive(Template)]
#[template(path = "table.html")]
struct Table {
    frame: Frame,
    intro: &'static str,
    heads: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
    none: &'static str,
}

pub(super) async fn schedules(asked: Asked) -> Response {
    let made = async {
        let now = asked.site.app.now();
        let listed =
            SchedulesClient::new(asked.caller.clone()).list_schedules(ListSchedulesRequest {}).await?;
        let rows = listed.into_inner().schedules.into_iter().map(|schedule| {
            let next = time(schedule.next_planned_at).map(|at| format!("{} ({})", utc(at), age(at, now)));
            let state = match schedule.paused_at {
                Some(_) => State::new(Mood::Fair, "paused"),
                None => State::new(Mood::Good, "active"),
            };
            let last = schedule.last.as_ref();
            let became = match last {
                Some(run) if run.state == "started" => Cell::State(job_state(run.job_state())),
                Some(run) => text(run.state.clone()),
                None => text("not yet"),
            };
            let components = schedule.components.join(", ");
            vec![
                text(schedule.name),
                Cell::State(state),
                text(if components.is_empty() {
                    schedule.kind
                } else {
                    format!("{} of {components}", schedule.kind)
                }),
                text(format!("{} {}", schedule.cron, schedule.time_zone)),
                text(next.unwrap_or_else(|| "–".to_owned())),
                became,
            ]
        });
        let rows = rows.collect();
        render(&Table {
            frame: asked.frame("Schedules"),
            intro: "What happens by itself. `nsctl schedule` changes it.",
            heads: &["Schedule", "State", "What", "When", "Next", "Last run"],
            rows,
            none: "Nothing happens by itself: no schedule is set up.",
        })
    };
    let made = made.await;
    asked.answer(made)
}

fn audit_line(entry: AuditEntry) -> Vec<Cell> {
    let mood = match entry.result.as_str() {
        "done" => Mood::Good,
        "denied" | "failed" => Mood::Bad,
        _ => Mood::Plain,
    };
    let word = match entry.reason.is_empty() {
        true => entry.result,
        false => format!("{}: {}", entry.result, entry.reason),
    };
    let who = if entry.name.is_empty() { format!("{} {}", entry.kind, entry.id) } else { entry.name };
    vec![
        text(time(entry.at).map(utc).unwrap_or_default()),
        text(who),
        text(if entry.from.is_empty() { "this machine".to_owned() } else { entry.from }),
        text(entry.call),
        text(entry.about),
        Cell::State(State::new(mood, word)),
    ]
}

pub(super) async fn audit(asked: Asked) -> Response {
    let made = async {
        let wanted = ListAuditRequest { since: None, limit: 200 };
        let listed = AuditClient::new(asked.caller.clone()).list_audit(wanted).await?.into_inner();
        render(&Table {
            frame: asked.frame("Audit log"),
            intro: "Who asked for what. `nsctl audit --check` proves that nothing was changed.",
            heads: &["When", "Who", "From", "Call", "About", "Result"],
            rows: listed.entries.into_iter().map(audit_line).collect(),
            none: "Nobody has changed anything yet.",
        })
    };
    let made = made.await;
    asked.answer(made)
}

fn finding_line(found: Finding) -> (Mood, Vec<Cell>) {
    let state = match found.level() {
        finding::Level::Fine => State::new(Mood::Good, "fine"),
        finding::Level::Warning => State::new(Mood::Fair, "warning"),
        finding::Level::Problem => State::new(Mood::Bad, "problem"),
        finding::Level::Unspecified => State::new(Mood::Plain, "unknown"),
    };
    (state.mood, vec![Cell::State(state), text(found.area), text(found.finding), text(found.hint)])
}

pub(super) async fn doctor(asked: Asked) -> Response {
    let made = async {
        let found = HealthClient::new(asked.caller.clone()).examine(ExamineRequest {}).await?.into_inner();
        let mut rows: Vec<(Mood, Vec<Cell>)> = found.findings.into_iter().map(finding_line).collect();
        rows.sort_by_key(|(mood, _)| *mood);
        render(&Table {
            frame: asked.frame("Doctor"),
            intro: "Everything that a backup or a restore needs, looked at just now; the worst first.",
            heads: &["State", "Area", "Finding", "What to do"],
            rows: rows.into_iter().map(|(_, cells)| cells).collect(),
            none: "Nothing was looked at.",
        })
    };
    let made = made.await;
    asked.answer(made)
}
