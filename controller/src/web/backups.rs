//! The list of backups, and one of them.

use askama::Template;
use axum::body::Bytes;
use axum::extract::Path;
use axum::response::Response;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use proto::Failure;
use proto::convert::to_wire_time;
use proto::v1::jobs_client::JobsClient;
use proto::v1::{
    Archive, Backup, Consistency, Depth, GetBackupRequest, GetHistoryRequest, HistoryDay, ListBackupsRequest,
    Outcome, StartBackupRequest,
};
use repository::names::BackupName;

use crate::web::calendar::{Day, Month};
use crate::web::form::encode;
use crate::web::site::{Asked, Frame, redirect, render};
use crate::web::text::{Mood, State, age, counted, outcome, size, source_words, time, utc};

/// As many backups as a filter looks at, about, and as are listed.
const MOST: usize = 1_000;
const SHOWN: u32 = 100;

/// One backup in a list.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) at: String,
    pub(super) age: String,
    pub(super) state: State,
    pub(super) verified: State,
    /// Complete, and found whole when it was looked at last.
    pub(super) is_verified: bool,
    pub(super) size: String,
    pub(super) note: String,
    pub(super) components: Vec<(String, State, String)>,
}

/// In place of a depth: a program did not open what was restored for it.
pub(super) const DRILL_FAILED: &str = "drill failed";

/// What verification has found of an archive.
pub(super) fn verified(archive: &Archive, now: Timestamp) -> State {
    // With its own age: a later look that was less deep says nothing of this one.
    let Some(deepest) = archive.verifications.iter().max_by_key(|one| one.depth()) else {
        return State::new(Mood::Plain, "not verified");
    };
    let mut wrong = archive.verifications.iter().filter(|verification| !verification.intact).peekable();
    if wrong.peek().is_some() {
        // A program did not open it: that may have other reasons than what was read of it.
        let is_read = wrong.all(|verification| verification.depth() == Depth::Drilled);
        return State::new(Mood::Bad, if is_read { DRILL_FAILED } else { "damaged" });
    }
    let when = time(deepest.at).map(|at| age(at, now)).unwrap_or_default();
    let (mood, word) = match deepest.depth() {
        Depth::Drilled => (Mood::Good, "drilled"),
        Depth::Opened => (Mood::Good, "opened"),
        Depth::Hashed => (Mood::Good, "hashed"),
        Depth::Listed | Depth::Unspecified => (Mood::Plain, "listed"),
    };
    State::new(mood, format!("{word} {when}"))
}

/// The same of several archives: the worst of them.
pub(super) fn verified_all(archives: &[Archive], now: Timestamp) -> State {
    let found = archives.iter().map(|archive| verified(archive, now));
    found.min_by_key(|state| state.mood).unwrap_or(State::new(Mood::Plain, "empty"))
}

pub(super) fn line(backup: &Backup, now: Timestamp) -> Line {
    let at = time(backup.started_at).unwrap_or(now);
    let bytes = |archive: &Archive| archive.counts.as_ref().map_or(0, |counts| counts.bytes);
    let components: Vec<(String, State, String)> = backup
        .archives
        .iter()
        .map(|archive| {
            let component = archive.source.clone().unwrap_or_default().component;
            (component, outcome(archive.outcome()), size(bytes(archive)))
        })
        .collect();
    let verified = verified_all(&backup.archives, now);
    let state = outcome(backup.outcome());
    let note = match (backup.safety_of.is_empty(), backup.pinned.is_empty()) {
        (false, _) => "made before a restore".to_owned(),
        (true, false) => format!("pinned: {}", backup.pinned),
        (true, true) => String::new(),
    };
    Line {
        name: backup.name.clone(),
        at: utc(at),
        age: age(at, now),
        is_verified: state.mood == Mood::Good && verified.mood == Mood::Good,
        state,
        verified,
        size: size(backup.archives.iter().map(bytes).sum()),
        note,
        components,
    }
}

#[derive(Template)]
#[template(path = "backups.html")]
struct List {
    frame: Frame,
    month: Month,
    weeks: Vec<Vec<Day>>,
    /// There are backups before this month, and after it.
    has_older: bool,
    has_newer: bool,
    filter: Filter,
    components: Vec<String>,
    states: Vec<Choice>,
    backups: Vec<Line>,
    left_out: u64,
    /// The oldest that the filter looked at, where there are older ones; empty: it looked at all.
    looked_until: String,
    is_empty: bool,
}

/// A state to be chosen.
struct Choice {
    value: &'static str,
    words: &'static str,
    is_chosen: bool,
}

const STATES: [(&str, &str); 5] = [
    ("verified", "complete and verified"),
    ("unverified", "not verified"),
    ("complete", "complete"),
    ("incomplete", "incomplete"),
    ("failed", "failed"),
];

/// What of a month is listed; empty: all of it.
struct Filter {
    day: Option<Date>,
    component: String,
    state: String,
}

impl Filter {
    fn of(asked: &Asked) -> Self {
        let text = |name| asked.query.get(name).to_owned();
        Self { day: asked.query.get("day").parse().ok(), component: text("component"), state: text("state") }
    }

    fn is_set(&self) -> bool {
        self.day.is_some() || !self.is_of_all()
    }

    /// It takes whatever its day has.
    fn is_of_all(&self) -> bool {
        self.component.is_empty() && self.state.is_empty()
    }

    /// Its day as `2026-01-31`; empty: it takes all of the month.
    fn day_words(&self) -> String {
        self.day.map(|day| day.to_string()).unwrap_or_default()
    }

    fn takes(&self, line: &Line) -> bool {
        let state = match self.state.as_str() {
            "verified" => line.is_verified,
            "unverified" => !line.is_verified,
            "" => true,
            wanted => line.state.word == wanted,
        };
        let of_component =
            |(name, state, _): &(String, State, String)| *name == self.component && state.mood == Mood::Good;
        state && (self.component.is_empty() || line.components.iter().any(of_component))
    }
}

pub(super) async fn list(asked: Asked) -> Response {
    let made = listed(&asked).await;
    asked.answer(made)
}

async fn listed(asked: &Asked) -> Result<Response, Failure> {
    let now = asked.site.app.now();
    let newest = page(asked, 1, (None, None)).await?;
    let last = newest.first().and_then(|backup| time(backup.started_at)).unwrap_or(now);
    let month = Month::parse(asked.query.get("month")).unwrap_or(Month::of(date(last)));
    let (first, end) = (midnight(month.first()), midnight(month.end()));
    let wanted = GetHistoryRequest { from: Some(to_wire_time(first)), until: Some(to_wire_time(end)) };
    let history = asked.backups().get_history(wanted).await?.into_inner();
    let older = page(asked, 1, (None, Some(first))).await?;
    let filter = Filter::of(asked);
    let days = history.days.iter().filter_map(|day| Some((day.day.parse().ok()?, day)));
    let days: Vec<(Date, &HistoryDay)> = days.collect();
    let of_filter = |(date, _): &&(Date, &HistoryDay)| filter.day.is_none_or(|wanted| wanted == *date);
    let (from, until) = filter.day.map_or((first, end), |day| (midnight(day), midnight(next(day))));
    let (backups, left_out, looked_until) = match filter.is_of_all() {
        true => {
            let shown = page(asked, SHOWN, (Some(from), Some(until))).await?;
            let all: u64 = days.iter().filter(of_filter).map(|(_, day)| day.backups).sum();
            let left_out = all.saturating_sub(shown.len() as u64);
            (shown.iter().map(|backup| line(backup, now)).collect(), left_out, String::new())
        }
        false => filtered(asked, &filter, (from, until)).await?,
    };
    render(&List {
        frame: asked.frame("Backups"),
        month,
        weeks: month.weeks(days.iter().map(|(date, day)| (*date, (day.backups, outcome(day.best()))))),
        has_older: !older.is_empty(),
        has_newer: month.end() <= date(last),
        states: STATES.map(|(value, words)| Choice { value, words, is_chosen: filter.state == value }).into(),
        components: history.components.into_iter().map(|one| one.component).collect(),
        filter,
        backups,
        left_out,
        looked_until,
        is_empty: newest.is_empty(),
    })
}

/// The backups of a stretch of time that a filter takes, the newest first; how many more it takes of those that
/// were looked at; and the oldest of these, where there are older ones.
async fn filtered(
    asked: &Asked,
    filter: &Filter,
    (from, until): (Timestamp, Timestamp),
) -> Result<(Vec<Line>, u64, String), Failure> {
    let now = asked.site.app.now();
    let (mut taken, mut looked_at, mut until) = (Vec::new(), 0, until);
    let mut looked_until = String::new();
    while looked_at < MOST {
        let more = page(asked, 0, (Some(from), Some(until))).await?;
        let Some(last) = more.last() else { break };
        looked_until.clone_from(&last.name);
        until = last.name.parse::<BackupName>().map_or(from, |name| name.time());
        looked_at += more.len();
        taken.extend(more.iter().map(|backup| line(backup, now)).filter(|line| filter.takes(line)));
    }
    if page(asked, 1, (Some(from), Some(until))).await?.is_empty() {
        looked_until.clear();
    }
    let left_out = taken.len().saturating_sub(SHOWN as usize) as u64;
    taken.truncate(SHOWN as usize);
    Ok((taken, left_out, looked_until))
}

/// The backups of a stretch of time, the newest first.
async fn page(
    asked: &Asked,
    limit: u32,
    (from, until): (Option<Timestamp>, Option<Timestamp>),
) -> Result<Vec<Backup>, Failure> {
    let from = Some(to_wire_time(from.unwrap_or(Timestamp::UNIX_EPOCH)));
    let wanted = ListBackupsRequest { limit, before: 0, from, until: until.map(to_wire_time) };
    Ok(asked.backups().list_backups(wanted).await?.into_inner().backups)
}

fn date(time: Timestamp) -> Date {
    time.to_zoned(TimeZone::UTC).date()
}

/// The first moment of a day.
fn midnight(day: Date) -> Timestamp {
    day.to_zoned(TimeZone::UTC).map_or(Timestamp::UNIX_EPOCH, |day| day.timestamp())
}

fn next(day: Date) -> Date {
    day.tomorrow().unwrap_or(Date::MAX)
}

/// One archive of a backup.
struct Detail {
    component: String,
    /// The query that leads to its entries; empty: it has none.
    browse: String,
    kind: String,
    state: State,
    reason: String,
    /// What should be known of what comes back.
    remarks: Vec<String>,
    consistency: &'static str,
    size: String,
    stored: String,
    counts: String,
    missing: String,
    verified: State,
    findings: Vec<String>,
}

fn detail(archive: &Archive, now: Timestamp) -> Detail {
    let counts = archive.counts.unwrap_or_default();
    let source = archive.source.clone().unwrap_or_default();
    let missing = [
        (counts.unreadable, "could not be read"),
        (counts.vanished, "vanished meanwhile"),
        (counts.changed, "changed while read"),
    ];
    let missing: Vec<String> = missing
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    Detail {
        component: source_words(&source),
        browse: match archive.outcome() {
            Outcome::Failed | Outcome::Unspecified => String::new(),
            _ => format!("component={}&source={}", encode(&source.component), encode(&source.name)),
        },
        kind: archive.kind.clone(),
        state: outcome(archive.outcome()),
        reason: archive.reason.clone(),
        remarks: archive.remarks.clone(),
        consistency: match archive.consistency() {
            Consistency::Snapshot => "one instant, by a snapshot",
            Consistency::Quiesced => "its writer was stopped",
            Consistency::Bracketed => "proven unchanged while it was read",
            Consistency::Fuzzy => "read while in use",
            Consistency::Unspecified => "not known",
        },
        size: size(counts.bytes),
        stored: size(counts.stored_bytes),
        counts: format!(
            "{}, {}",
            counted(counts.files, "file", "files"),
            counted(counts.folders, "folder", "folders")
        ),
        missing: missing.join(", "),
        verified: verified(archive, now),
        findings: archive.verifications.iter().flat_map(|found| found.findings.clone()).collect(),
    }
}

#[derive(Template)]
#[template(path = "backup.html")]
struct One {
    frame: Frame,
    line: Line,
    job: String,
    archives: Vec<Detail>,
}

pub(super) async fn one(asked: Asked, Path(name): Path<String>) -> Response {
    let made = shown(&asked, name).await;
    asked.answer(made)
}

async fn shown(asked: &Asked, name: String) -> Result<Response, Failure> {
    let backup = asked.backups().get_backup(GetBackupRequest { name }).await?.into_inner();
    let now = asked.site.app.now();
    let archives = backup.archives.iter().map(|archive| detail(archive, now)).collect();
    let line = line(&backup, now);
    render(&One { frame: asked.frame("Backup"), line, job: backup.job_id, archives })
}

pub(super) async fn start(asked: Asked, body: Bytes) -> Response {
    let made = match asked.form(&body) {
        Ok(form) => started(&asked, form.get("request_id")).await,
        Err(failure) => Err(failure),
    };
    asked.answer(made)
}

async fn started(asked: &Asked, request_id: &str) -> Result<Response, Failure> {
    let order = StartBackupRequest { request_id: request_id.to_owned(), ..StartBackupRequest::default() };
    let job = JobsClient::new(asked.caller.clone()).start_backup(order).await?.into_inner();
    Ok(redirect(&format!("{}jobs/{}", asked.site.base, job.id)))
}
