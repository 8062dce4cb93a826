//! What happens by itself: which schedules there are, another one, an end to one.
//!
//! Must stay true: what the form does not show of a schedule stays as it was; none is replaced by one that was
//! to be another, and none is removed by a single click.

use askama::Template;
use axum::body::Bytes;
use axum::response::Response;
use jiff::Timestamp;
use proto::Failure;
use proto::v1::agents_client::AgentsClient;
use proto::v1::schedules_client::SchedulesClient;
use proto::v1::{
    JobState, ListAgentsRequest, ListSchedulesRequest, PauseScheduleRequest, RemoveScheduleRequest,
    ResumeScheduleRequest, RunScheduleRequest, Schedule, ScheduleRun, SetScheduleRequest,
};
use runtime::config::Duration;
use uuid::Uuid;

use crate::rpc::PageCaller;
use crate::web::form::Form;
use crate::web::site::{Asked, Frame, redirect, render};
use crate::web::text::{Mood, State, age, at_in, job_state, time};

struct Line {
    name: String,
    state: State,
    what: String,
    cron: String,
    time_zone: String,
    next: String,
    next_at: String,
    last: State,
    last_note: String,
    /// The job of the last run.
    job: String,
    is_paused: bool,
    /// Only the configuration changes it.
    is_managed: bool,
}

/// What the form shows.
#[derive(Default)]
struct Edited {
    name: String,
    is_verify: bool,
    cron: String,
    time_zone: String,
    depth: String,
    jitter: String,
    catch_up: String,
    wait_for_backup: String,
    without_retention: bool,
    /// Every component that is known, and whether it is named.
    components: Vec<(String, bool)>,
    is_new: bool,
}

#[derive(Template)]
#[template(path = "schedules.html")]
struct Schedules {
    frame: Frame,
    schedules: Vec<Line>,
    edited: Edited,
    /// One that somebody wants to remove; empty: none.
    removes: String,
    request_id: String,
}

fn client(asked: &Asked) -> SchedulesClient<PageCaller> {
    SchedulesClient::new(asked.caller.clone())
}

fn last(run: Option<&ScheduleRun>) -> State {
    match run {
        Some(run) if run.state == "started" => job_state(run.job_state()),
        Some(run) if run.state == "missed" => State::new(Mood::Bad, "missed"),
        Some(run) => State::new(Mood::Plain, run.state.clone()),
        None => State::new(Mood::Plain, "not yet"),
    }
}

fn line(schedule: Schedule, now: Timestamp) -> Line {
    let next = time(schedule.next_planned_at);
    let run = schedule.last.as_ref();
    let failed_after = run.filter(|run| run.retention_state() == JobState::Failed);
    let note = run.map(|run| run.note.clone()).unwrap_or_default();
    let components = schedule.components.join(", ");
    let of = if components.is_empty() { "everything".to_owned() } else { components };
    let depth = if schedule.depth.is_empty() { String::new() } else { format!(", {}", schedule.depth) };
    let then = if schedule.retention { ", then retention" } else { "" };
    Line {
        state: match schedule.paused_at {
            Some(_) => State::new(Mood::Fair, "paused"),
            None => State::new(Mood::Good, "active"),
        },
        what: format!("{} of {of}{depth}{then}", schedule.kind),
        cron: schedule.cron,
        next: next.map_or("–".to_owned(), |at| age(at, now)),
        next_at: next.map(|at| at_in(at, &schedule.time_zone)).unwrap_or_default(),
        last: last(run),
        last_note: if failed_after.is_some() { "the retention after it failed".to_owned() } else { note },
        job: run.map(|run| run.job_id.clone()).unwrap_or_default(),
        is_paused: schedule.paused_at.is_some(),
        is_managed: schedule.managed,
        name: schedule.name,
        time_zone: schedule.time_zone,
    }
}

fn span(milliseconds: u64) -> String {
    let text = Duration::from_secs(milliseconds / 1_000).to_string();
    // A span that the form cannot hold whole is not cut short by it.
    if milliseconds.is_multiple_of(1_000) { text } else { format!("{milliseconds}ms") }
}

/// A schedule for the form, or the usual settings of a new one.
fn edited(schedule: Option<&Schedule>, known: Vec<String>) -> Edited {
    let of = |name: &String| schedule.is_some_and(|schedule| schedule.components.contains(name));
    let components = known.iter().map(|name| (name.clone(), of(name))).collect();
    match schedule {
        None => Edited {
            cron: "0 1 * * *".to_owned(),
            depth: "opened".to_owned(),
            jitter: "0s".to_owned(),
            catch_up: "6h".to_owned(),
            wait_for_backup: "4h".to_owned(),
            is_new: true,
            components,
            ..Edited::default()
        },
        Some(schedule) => Edited {
            name: schedule.name.clone(),
            is_verify: schedule.kind == "verify",
            cron: schedule.cron.clone(),
            time_zone: schedule.time_zone.clone(),
            depth: schedule.depth.clone(),
            jitter: span(schedule.jitter_milliseconds),
            catch_up: span(schedule.catch_up_milliseconds),
            wait_for_backup: span(schedule.wait_for_backup_milliseconds),
            without_retention: schedule.kind == "verify" && !schedule.retention,
            components,
            is_new: false,
        },
    }
}

async fn list(asked: &Asked) -> Result<Vec<Schedule>, Failure> {
    Ok(client(asked).list_schedules(ListSchedulesRequest {}).await?.into_inner().schedules)
}

pub(super) async fn show(asked: Asked) -> Response {
    let made = shown(&asked).await;
    asked.answer(made)
}

async fn shown(asked: &Asked) -> Result<Response, Failure> {
    let (now, schedules) = (asked.site.app.now(), list(asked).await?);
    let wanted = asked.query.get("edit");
    let chosen = schedules.iter().find(|schedule| schedule.name == wanted && !schedule.managed);
    let agents =
        AgentsClient::new(asked.caller.clone()).list_agents(ListAgentsRequest {}).await?.into_inner();
    let served = agents.agents.iter().filter(|agent| !agent.revoked).flat_map(|agent| &agent.sources);
    let mut known: Vec<String> =
        served.filter_map(|served| served.source.as_ref()).map(|source| source.component.clone()).collect();
    known.extend(chosen.iter().flat_map(|schedule| schedule.components.iter().cloned()));
    known.sort_unstable();
    known.dedup();
    let edited = edited(chosen, known);
    let removes = asked.query.get("remove");
    let removes = schedules.iter().find(|schedule| schedule.name == removes && !schedule.managed);
    let removes = removes.map(|schedule| schedule.name.clone()).unwrap_or_default();
    render(&Schedules {
        frame: asked.frame("Schedules"),
        edited,
        removes,
        schedules: schedules.into_iter().map(|schedule| line(schedule, now)).collect(),
        request_id: Uuid::now_v7().to_string(),
    })
}

/// What a form orders. `before` is the schedule that it replaces.
fn request(form: &Form, before: Option<&Schedule>) -> Result<SetScheduleRequest, Failure> {
    let text = |name| form.get(name).trim().to_owned();
    let span = |name: &str, what: &str| match form.get(name).trim() {
        "" => Ok(None),
        text => match text.parse::<Duration>() {
            Ok(span) => Ok(Some(u64::try_from(span.get().as_millis()).unwrap_or(u64::MAX))),
            Err(why) => Err(Failure::invalid(format!("{what} {text:?} cannot be understood")).because(why)),
        },
    };
    if let Some(before) = before.filter(|_| form.has("is_new")) {
        return Err(Failure::invalid(format!("there is a schedule {} already", before.name))
            .hint("choose another name, or change that one"));
    }
    let is_verify = form.get("kind") == "verify";
    if let Some(before) =
        before.filter(|before| is_verify && before.kind == "backup" && before.keeps.is_some())
    {
        return Err(Failure::invalid(format!("the schedule {} cannot become a verification", before.name))
            .because("it has rules of retention of its own, which would be lost")
            .hint("set up another schedule for the verification"));
    }
    // Its own rules of retention are not in the form.
    let keeps =
        before.filter(|before| before.kind == "backup" && !is_verify).and_then(|before| before.keeps.clone());
    Ok(SetScheduleRequest {
        name: text("name"),
        kind: if is_verify { "verify" } else { "backup" }.to_owned(),
        cron: text("cron"),
        time_zone: text("time_zone"),
        components: form.all("component").map(str::to_owned).collect(),
        depth: if is_verify { text("depth") } else { String::new() },
        jitter_milliseconds: span("jitter", "the jitter")?,
        catch_up_milliseconds: span("catch_up", "the time to catch up")?,
        wait_for_backup_milliseconds: match is_verify {
            true => span("wait_for_backup", "the time to wait for a backup")?,
            false => None,
        },
        retention: is_verify.then(|| !form.has("without_retention")),
        keeps,
    })
}

pub(super) async fn set(asked: Asked, body: Bytes) -> Response {
    let made = async {
        let form = asked.form(&body)?;
        let there = list(&asked).await?;
        let request = request(&form, there.iter().find(|schedule| schedule.name == form.get("name").trim()))?;
        client(&asked).set_schedule(request).await?;
        Ok(redirect(&format!("{}schedules", asked.site.base)))
    };
    let made = made.await;
    asked.answer(made)
}

/// One of the buttons beside a schedule.
pub(super) async fn act(asked: Asked, body: Bytes) -> Response {
    let made = async {
        let form = asked.form(&body)?;
        let name = form.get("name").to_owned();
        let mut client = client(&asked);
        match form.get("act") {
            "pause" => drop(client.pause_schedule(PauseScheduleRequest { name }).await?),
            "resume" => drop(client.resume_schedule(ResumeScheduleRequest { name }).await?),
            "remove" if form.get("confirm").trim() != name => {
                return Err(Failure::invalid("that was not the schedule's name: nothing was removed")
                    .hint("go back and type it as it is shown"));
            }
            "remove" => drop(client.remove_schedule(RemoveScheduleRequest { name }).await?),
            "run" => {
                let order = RunScheduleRequest { name, request_id: form.get("request_id").to_owned() };
                let job = client.run_schedule(order).await?.into_inner();
                return Ok(redirect(&format!("{}jobs/{}", asked.site.base, job.id)));
            }
            _ => return Err(Failure::invalid("no such button").hint("load the page again")),
        }
        Ok(redirect(&format!("{}schedules", asked.site.base)))
    };
    let made = made.await;
    asked.answer(made)
}

#[cfg(test)]
mod tests {
    use proto::v1::RetentionRules;

    use super::*;

    #[test]
    fn what_the_form_does_not_show_of_a_schedule_stays_as_it_was() {
        let rules = RetentionRules { keep_last: Some(7), ..RetentionRules::default() };
        let before = Schedule {
            name: "hourly".to_owned(),
            kind: "backup".to_owned(),
            cron: "0 * * * *".to_owned(),
            time_zone: "Europe/Paris".to_owned(),
            components: vec!["models".to_owned()],
            jitter_milliseconds: 90_000,
            catch_up_milliseconds: 3_600_000,
            keeps: Some(rules.clone()),
            ..Schedule::default()
        };
        let shown = edited(Some(&before), vec!["configs".to_owned(), "models".to_owned()]);
        assert_eq!((shown.jitter.as_str(), shown.catch_up.as_str()), ("1m30s", "1h"));
        assert_eq!(shown.components, [("configs".to_owned(), false), ("models".to_owned(), true)]);
        let text =
            b"name=hourly&kind=backup&cron=30+*+*+*+*&time_zone=UTC&component=models&component=configs\
            &jitter=1m30s&catch_up=&depth=opened&wait_for_backup=4h";
        let set = request(&Form::parse(text), Some(&before)).expect("understood");
        assert_eq!((set.cron.as_str(), set.time_zone.as_str()), ("30 * * * *", "UTC"));
        assert_eq!((set.jitter_milliseconds, set.catch_up_milliseconds), (Some(90_000), None));
        assert_eq!(set.keeps, Some(rules), "its own rules are kept");
        assert_eq!((set.depth.as_str(), set.wait_for_backup_milliseconds, set.retention), ("", None, None));
        let text =
            b"name=check&kind=verify&cron=0+5+*+*+*&depth=hashed&without_retention=yes&wait_for_backup=2h";
        let set = request(&Form::parse(text), None).expect("understood");
        assert_eq!((set.depth.as_str(), set.retention), ("hashed", Some(false)));
        assert_eq!(set.wait_for_backup_milliseconds, Some(7_200_000));
        let again =
            request(&Form::parse(b"name=hourly&kind=backup&cron=0+1+*+*+*&is_new=yes"), Some(&before));
        assert_eq!(again.expect_err("another one").what, "there is a schedule hourly already");
        let other = request(&Form::parse(b"name=hourly&kind=verify&cron=0+1+*+*+*"), Some(&before));
        assert!(other.expect_err("its rules").why.contains("rules of retention of its own"));
        let wrong = request(&Form::parse(b"name=x&cron=x&jitter=30"), None).expect_err("no unit");
        assert!(wrong.what.contains("jitter"), "{}", wrong.what);
    }
}
