//! Pages that are one table each: the audit log, the doctor's findings; and what the doctor says to the overview.

use askama::Template;
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};
use proto::Failure;
use proto::v1::agents_client::AgentsClient;
use proto::v1::audit_client::AuditClient;
use proto::v1::health_client::HealthClient;
use proto::v1::{AuditEntry, ExamineRequest, Finding, ListAgentsRequest, ListAuditRequest, finding};
use tokio::sync::Mutex;

use crate::web::site::{Asked, Frame, render};
use crate::web::text::{Mood, State, age, time, utc};

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
            intro: "Who asked for what, the newest first. On the command line, nsctl audit --check proves that nothing was changed.",
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

/// The doctor's check for data that no source covers.
const IN_NO_PLAN: &str = "data-in-no-plan";
/// Every agent is asked for it: it is not looked for each time that somebody opens the overview.
const LOOKED_FOR_EVERY: SignedDuration = SignedDuration::from_mins(10);

/// The data in no plan that was found last, and when.
#[derive(Debug, Default)]
pub(super) struct Uncovered(Mutex<Option<Looked>>);

/// What a look has found: data, and what to do about it.
#[derive(Debug, Clone)]
struct Looked {
    at: Timestamp,
    found: Vec<(String, String)>,
}

#[derive(Template)]
#[template(path = "uncovered.html")]
struct InNoPlan {
    base: std::sync::Arc<str>,
    found: Vec<(String, String)>,
    age: String,
}

/// The overview's part that says which data is in no plan.
pub(super) async fn uncovered(asked: Asked) -> Response {
    let made = in_no_plan(&asked).await;
    asked.answer(made)
}

async fn in_no_plan(asked: &Asked) -> Result<Response, Failure> {
    let now = asked.site.app.now();
    // Who may not see lists any more sees nothing of what was found before, either.
    AgentsClient::new(asked.caller.clone()).list_agents(ListAgentsRequest {}).await?;
    let mut last = asked.site.uncovered.0.lock().await;
    let is_fresh = |looked: &Looked| now.duration_since(looked.at).abs() < LOOKED_FOR_EVERY;
    let looked = match last.take().filter(is_fresh) {
        Some(known) => known,
        None => {
            let found =
                HealthClient::new(asked.caller.clone()).examine(ExamineRequest {}).await?.into_inner();
            let of_this = found.findings.into_iter().filter(|found| found.check == IN_NO_PLAN);
            Looked { at: now, found: of_this.map(|found| (found.finding, found.hint)).collect() }
        }
    };
    *last = Some(looked.clone());
    drop(last);
    render(&InNoPlan { base: asked.site.base.clone(), found: looked.found, age: age(looked.at, now) })
}
