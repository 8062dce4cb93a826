//! The list of jobs, and one of them while it runs.

use std::convert::Infallible;

use askama::Template;
use axum::body::Bytes;
use axum::extract::Path;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use jiff::Timestamp;
use proto::Failure;
use proto::v1::jobs_client::JobsClient;
use proto::v1::{CancelJobRequest, GetJobRequest, Job, JobPart, JobState, ListJobsRequest, TaskProgress};
use proto::v1::{JobEvent, WatchJobRequest};

use crate::web::meter::Meter;
use crate::web::site::{Asked, Frame, redirect, render};
use crate::web::text::{State, age, counted, job_state, size, span, time, utc};

/// One job in a list.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) state: State,
    pub(super) when: String,
    pub(super) age: String,
    pub(super) took: String,
    pub(super) about: String,
}

fn kind(job: &Job) -> String {
    match (job.undo_of.is_empty(), job.safety_of.is_empty()) {
        (false, _) => "undo".to_owned(),
        (_, false) => "safety backup".to_owned(),
        _ => job.kind.clone(),
    }
}

pub(super) fn line(job: &Job, now: Timestamp) -> Line {
    let ordered = time(job.created_at).unwrap_or(now);
    let took =
        time(job.started_at).map(|from| time(job.ended_at).unwrap_or(now).duration_since(from).as_secs());
    let parts: Vec<String> =
        job.parts.iter().map(|part| part.source.clone().unwrap_or_default().component).collect();
    Line {
        id: job.id.clone(),
        kind: kind(job),
        state: job_state(job.state()),
        when: utc(ordered),
        age: age(ordered, now),
        took: took.map(span).unwrap_or_default(),
        about: if job.what.is_empty() { parts.join(", ") } else { job.what.clone() },
    }
}

#[derive(Template)]
#[template(path = "jobs.html")]
struct List {
    frame: Frame,
    jobs: Vec<Line>,
    older: Option<String>,
}

pub(super) async fn list(asked: Asked) -> Response {
    let made = listed(&asked).await;
    asked.answer(made)
}

async fn listed(asked: &Asked) -> Result<Response, Failure> {
    let wanted = ListJobsRequest { limit: 50, before: asked.query.get("before").to_owned() };
    let page = JobsClient::new(asked.caller.clone()).list_jobs(wanted).await?.into_inner();
    let older = page.jobs.last().filter(|_| page.more).map(|job| job.id.clone());
    let now = asked.site.app.now();
    let jobs = page.jobs.iter().map(|job| line(job, now)).collect();
    render(&List { frame: asked.frame("Jobs"), jobs, older })
}

/// One part of a job.
struct PartLine {
    component: String,
    agent: String,
    state: State,
    step: String,
    progress: Option<(u64, u64)>,
    amount: String,
    /// How fast it goes, and how long it will take.
    rate: String,
    reason: String,
    steps: Vec<(String, String)>,
    notes: Vec<String>,
}

fn amount(progress: &TaskProgress) -> String {
    match progress.total_bytes {
        0 => size(progress.done_bytes),
        total => format!("{} of {}", size(progress.done_bytes), size(total)),
    }
}

fn part(part: &JobPart, rate: String) -> PartLine {
    let progress = part.progress.clone().unwrap_or_default();
    let runs = part.state() == JobState::Running;
    let restored = part.restored.clone().unwrap_or_default();
    let mut notes = restored.warnings;
    notes.extend(part.findings.iter().cloned());
    if !restored.undone.is_empty() {
        notes.push(format!("it was taken back, the old state is there again: {}", restored.undone));
    }
    if !restored.previous_state.is_empty() {
        notes.push(format!("the replaced state is kept at {}", restored.previous_state));
    }
    notes.extend(
        part.problems
            .iter()
            .take(20)
            .map(|problem| format!("{}: {}", String::from_utf8_lossy(&problem.path), problem.cause)),
    );
    let amount = match (&part.restored, &part.counts) {
        (Some(done), _) => format!("{}, {}", counted(done.entries, "entry", "entries"), size(done.bytes)),
        (_, Some(counts)) => {
            format!("{}, {} new in the repository", size(counts.bytes), size(counts.stored_bytes))
        }
        _ if part.progress.is_some() => amount(&progress),
        _ => String::new(),
    };
    PartLine {
        component: part.source.clone().unwrap_or_default().component,
        agent: part.agent.clone(),
        state: job_state(part.state()),
        step: if runs { progress.step.clone() } else { String::new() },
        progress: (runs && progress.total_bytes > 0)
            .then(|| (progress.done_bytes.min(progress.total_bytes), progress.total_bytes)),
        amount,
        rate,
        reason: part.reason.clone(),
        steps: restored.steps.into_iter().map(|step| (step.step, step.detail)).collect(),
        notes,
    }
}

/// What changes while a job runs.
#[derive(Template)]
#[template(path = "live.html")]
struct Live {
    frame: Frame,
    id: String,
    state: State,
    headline: String,
    job: Job,
    parts: Vec<PartLine>,
    can_cancel: bool,
    can_undo: bool,
    took: String,
}

fn has_ended(job: &Job) -> bool {
    !matches!(
        job.state(),
        JobState::Queued | JobState::Running | JobState::Committing | JobState::Unspecified
    )
}

impl Live {
    fn new(frame: Frame, job: Job, meter: &mut Meter, now: Timestamp) -> Self {
        let line = line(&job, now);
        let restores = job.kind == "restore";
        let is_done = job.state() == JobState::Complete;
        let headline = match (has_ended(&job), is_done, restores) {
            (true, true, true) if !job.undo_of.is_empty() => "The restore was taken back.",
            (true, true, true) if job.safety_job.is_empty() => "Restored.",
            (true, true, true) => "Restored. What was there before can be brought back.",
            (true, true, false) => "Done.",
            (true, false, true) => "The restore did not succeed.",
            (true, false, false) => "It did not fully succeed.",
            (false, ..) if job.state() == JobState::Queued => "It waits for its turn.",
            (false, ..) => "It is under way. This page may be closed: the work goes on.",
        };
        Self {
            can_cancel: frame.may_act && matches!(job.state(), JobState::Queued | JobState::Running),
            can_undo: frame.may_act && restores && is_done && !job.safety_job.is_empty(),
            frame,
            id: job.id.clone(),
            state: line.state,
            headline: headline.to_owned(),
            parts: job.parts.iter().map(|one| part(one, meter.of(one, now))).collect(),
            took: line.took,
            job,
        }
    }
}

#[derive(Template)]
#[template(path = "job.html")]
struct One {
    frame: Frame,
    id: String,
    kind: String,
    when: String,
    plan: Vec<String>,
    live: String,
    has_ended: bool,
}

pub(super) async fn one(asked: Asked, Path(id): Path<String>) -> Response {
    let made = shown(&asked, id).await;
    asked.answer(made)
}

async fn shown(asked: &Asked, id: String) -> Result<Response, Failure> {
    let job = JobsClient::new(asked.caller.clone()).get_job(GetJobRequest { id }).await?.into_inner();
    let now = asked.site.app.now();
    let (line, has_ended) = (line(&job, now), has_ended(&job));
    let mut frame = asked.frame("Job");
    frame.is_live = !has_ended;
    let plan = job.plan.clone();
    let live = Live::new(asked.frame("Job"), job, &mut Meter::default(), now).render();
    let live = live.map_err(|error| Failure::internal("the page cannot be made").caused_by(&error))?;
    render(&One { frame, id: line.id, kind: line.kind, when: line.when, plan, live, has_ended })
}

pub(super) async fn events(asked: Asked, Path(id): Path<String>) -> Response {
    let watch = WatchJobRequest { id, after: 0 };
    match JobsClient::new(asked.caller.clone()).watch_job(watch).await {
        Ok(events) => {
            let events = told(asked, events.into_inner());
            Sse::new(events).keep_alive(KeepAlive::default()).into_response()
        }
        Err(status) => asked.answer(Err(status.into())),
    }
}

/// What a browser is told of a job: `state` with the page's part that changes, `line` with a line of the log.
fn told(asked: Asked, events: tonic::Streaming<JobEvent>) -> impl Stream<Item = Result<Event, Infallible>> {
    let events = events.take_while(|event| std::future::ready(event.is_ok()));
    let events = events.filter_map(|event| std::future::ready(event.ok()));
    let mut meter = Meter::default();
    let told = events.map(move |event| {
        let at = event.sequence.to_string();
        let mut told = Vec::with_capacity(2);
        if !event.line.is_empty() {
            let when = time(event.at).map(|at| at.strftime("%H:%M:%S").to_string()).unwrap_or_default();
            let line = format!("{when}  {}  {}", event.level, event.line);
            told.push(Event::default().event("line").id(&at).data(line.replace(['\r', '\n'], " ")));
        }
        if let Some(job) = event.job {
            let name = if has_ended(&job) { "end" } else { "state" };
            let live = Live::new(asked.frame("Job"), job, &mut meter, asked.site.app.now()).render();
            told.push(Event::default().event(name).id(&at).data(live.unwrap_or_default()));
        }
        told.into_iter().map(Ok)
    });
    told.map(futures_util::stream::iter).flatten()
}

pub(super) async fn cancel(asked: Asked, Path(id): Path<String>, body: Bytes) -> Response {
    let made = match asked.form(&body) {
        Ok(_) => {
            let request = CancelJobRequest { id: id.clone() };
            JobsClient::new(asked.caller.clone()).cancel_job(request).await.map_err(Failure::from)
        }
        Err(failure) => Err(failure),
    };
    let to = format!("{}jobs/{id}", asked.site.base);
    asked.answer(made.map(|_| redirect(&to)))
}
