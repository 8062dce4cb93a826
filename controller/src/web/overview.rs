//! The first page: could everything be restored today?

use askama::Template;
use axum::response::Response;
use proto::Failure;
use proto::v1::agents_client::AgentsClient;
use proto::v1::alerts_client::AlertsClient;
use proto::v1::health_client::HealthClient;
use proto::v1::jobs_client::JobsClient;
use proto::v1::schedules_client::SchedulesClient;
use proto::v1::{
    Agent, GetHistoryRequest, GetRoomRequest, History, ListAgentsRequest, ListAlertsRequest, ListJobsRequest,
    ListSchedulesRequest, Room,
};
use uuid::Uuid;

use crate::web::agents;
use crate::web::jobs;
use crate::web::site::{Asked, Frame, render};
use crate::web::text::{Mood, State, age, at_in, counted, size, time};
use crate::web::verdict::{Component, Facts, Next, Verdict, components, verdict};

const JOBS: u32 = 6;

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    frame: Frame,
    verdict: Verdict,
    components: Vec<Component>,
    jobs: Vec<jobs::Line>,
    next: Vec<(String, Option<Next>)>,
    /// Each with its state, and when it was seen last.
    agents: Vec<(String, State, String)>,
    room: Vec<(&'static str, String)>,
    full: Option<State>,
    request_id: String,
}

pub(super) async fn show(asked: Asked) -> Response {
    let made = made(&asked).await;
    asked.answer(made)
}

async fn made(asked: &Asked) -> Result<Response, Failure> {
    let (caller, now) = (|| asked.caller.clone(), asked.site.app.now());
    let history = asked.backups().get_history(GetHistoryRequest::default()).await?.into_inner();
    let room = HealthClient::new(caller()).get_room(GetRoomRequest {}).await?.into_inner();
    let agents = AgentsClient::new(caller()).list_agents(ListAgentsRequest {}).await?.into_inner().agents;
    let alerts = AlertsClient::new(caller()).list_alerts(ListAlertsRequest {}).await?.into_inner();
    let newest = ListJobsRequest { limit: JOBS, before: String::new() };
    let jobs = JobsClient::new(caller()).list_jobs(newest).await?.into_inner().jobs;
    let schedules = SchedulesClient::new(caller()).list_schedules(ListSchedulesRequest {}).await?;
    let schedules = schedules.into_inner().schedules;
    let facts = Facts {
        history: &history.components,
        agents: &agents,
        alerts: &alerts.alerts,
        objectives: &alerts.objectives,
        schedules: &schedules,
        now,
    };
    let components = components(&facts);
    let next = schedules.iter().map(|schedule| {
        let next = time(schedule.next_planned_at).map(|at| Next {
            soon: age(at, now),
            at: at_in(at, &schedule.time_zone),
            schedule: schedule.name.clone(),
        });
        (schedule.name.clone(), next)
    });
    let agent = |agent: &Agent| {
        let seen = time(agent.last_seen_at).map_or("never".to_owned(), |at| age(at, now));
        (agent.name.clone(), agents::state(agent), seen)
    };
    let mut shown: Vec<(String, State, String)> =
        agents.iter().filter(|agent| !agent.revoked).map(agent).collect();
    shown.sort_by_key(|(_, state, _)| state.mood);
    render(&Overview {
        frame: asked.frame("Overview"),
        verdict: verdict(&components, &facts),
        components,
        jobs: jobs.iter().map(|job| jobs::line(job, now)).collect(),
        next: next.collect(),
        agents: shown,
        full: full(&room),
        room: room_words(&room, &history),
        request_id: Uuid::now_v7().to_string(),
    })
}

/// When the storage is full, if that comes near.
fn full(room: &Room) -> Option<State> {
    let days = room.days_until_full?;
    let words = match days {
        ..1.0 => "within a day".to_owned(),
        1.0..1_000.0 => format!("in about {days:.0} days"),
        _ => "not within years".to_owned(),
    };
    let mood = match days {
        ..14.0 => Mood::Bad,
        14.0..60.0 => Mood::Fair,
        _ => Mood::Good,
    };
    Some(State::new(mood, words))
}

/// The room that is taken and free, and what it holds; only what is known.
fn room_words(room: &Room, history: &History) -> Vec<(&'static str, String)> {
    let mut words = Vec::new();
    words.extend(room.used_bytes.map(|used| ("Used", size(used))));
    words.extend(room.free_bytes.map(|free| ("Free", size(free))));
    if history.bytes > 0 {
        let held = format!("{} in {}", size(history.bytes), counted(history.backups, "backup", "backups"));
        words.push(("Holds", held));
        let saved = room.used_bytes.map(|used| 100.0 * (1.0 - used as f64 / history.bytes as f64));
        // What was encrypted or compressed before may take more room than it had.
        words.extend(
            saved.filter(|saved| *saved > 0.0).map(|saved| ("Saved", format!("{:.0} %", saved.floor()))),
        );
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_of_the_room_is_not_told() {
        assert!(room_words(&Room::default(), &History::default()).is_empty());
        let history = History { backups: 2, bytes: 1_000, ..History::default() };
        let room = Room { used_bytes: Some(250), free_bytes: None, days_until_full: Some(20.0) };
        let holds = "1000 B in 2 backups".to_owned();
        assert_eq!(
            room_words(&room, &history),
            [("Used", "250 B".to_owned()), ("Holds", holds), ("Saved", "75 %".to_owned())]
        );
        let larger = Room { used_bytes: Some(1_001), ..room };
        assert_eq!(room_words(&larger, &history).len(), 2, "nothing is saved");
        let full = full(&room).expect("known");
        assert_eq!((full.mood, full.word.as_str()), (Mood::Fair, "in about 20 days"));
    }
}
