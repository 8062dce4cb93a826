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
    Backup, GetRoomRequest, ListAgentsRequest, ListAlertsRequest, ListBackupsRequest, ListJobsRequest,
    ListSchedulesRequest, Room,
};
use uuid::Uuid;

use crate::web::jobs;
use crate::web::site::{Asked, Frame, render};
use crate::web::text::{Mood, State, age, size, time, utc};
use crate::web::verdict::{Component, Verdict, components, verdict};

const JOBS: u32 = 6;

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    frame: Frame,
    verdict: Verdict,
    components: Vec<Component>,
    jobs: Vec<jobs::Line>,
    next: Vec<(String, String)>,
    agents: String,
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
    let backups = asked.backups().list_backups(ListBackupsRequest::default()).await?.into_inner().backups;
    let room = HealthClient::new(caller()).get_room(GetRoomRequest {}).await?.into_inner();
    let agents = AgentsClient::new(caller()).list_agents(ListAgentsRequest {}).await?.into_inner().agents;
    let alerts = AlertsClient::new(caller()).list_alerts(ListAlertsRequest {}).await?.into_inner().alerts;
    let newest = ListJobsRequest { limit: JOBS, before: String::new() };
    let jobs = JobsClient::new(caller()).list_jobs(newest).await?.into_inner().jobs;
    let schedules = SchedulesClient::new(caller()).list_schedules(ListSchedulesRequest {}).await?;
    let next = schedules.into_inner().schedules.into_iter().map(|schedule| {
        let when = time(schedule.next_planned_at).map(|at| format!("{} ({})", utc(at), age(at, now)));
        (schedule.name, when.unwrap_or_else(|| "paused".to_owned()))
    });
    let components = components(&backups, &agents, now);
    let active = agents.iter().filter(|agent| !agent.revoked);
    let there = active.clone().filter(|agent| agent.connected).count();
    render(&Overview {
        frame: asked.frame("Overview"),
        verdict: verdict(&components, &agents, &alerts, now),
        components,
        jobs: jobs.iter().map(|job| jobs::line(job, now)).collect(),
        next: next.collect(),
        agents: format!("{there} of {} connected", active.count()),
        full: full(&room),
        room: room_words(&room, &backups),
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
fn room_words(room: &Room, backups: &[Backup]) -> Vec<(&'static str, String)> {
    let counts = || backups.iter().flat_map(|backup| &backup.archives).filter_map(|archive| archive.counts);
    let held: u64 = counts().map(|counts| counts.bytes).sum();
    let stored: u64 = counts().map(|counts| counts.stored_bytes).sum();
    let mut words = Vec::new();
    words.extend(room.used_bytes.map(|used| ("Used", size(used))));
    words.extend(room.free_bytes.map(|free| ("Free", size(free))));
    if held > 0 {
        let saved = 100.0 * (1.0 - stored as f64 / held as f64);
        let of = format!("{} of data took {}", size(held), size(stored));
        // What was encrypted or compressed before may take more room than it had.
        let saved = if saved > 0.0 { format!("{:.0} %: {of}", saved.floor()) } else { of };
        words.push(("Saved", saved));
    }
    words
}

#[cfg(test)]
mod tests {
    use proto::v1::{Archive, ArchiveCounts};

    use super::*;

    #[test]
    fn what_is_not_known_of_the_room_is_not_told() {
        assert!(room_words(&Room::default(), &[]).is_empty());
        let counts = ArchiveCounts { bytes: 1_000, stored_bytes: 250, ..ArchiveCounts::default() };
        let archive = Archive { counts: Some(counts), ..Archive::default() };
        let backup = Backup { archives: vec![archive], ..Backup::default() };
        let room = Room { used_bytes: Some(300), free_bytes: None, days_until_full: Some(20.0) };
        let saved = "75 %: 1000 B of data took 250 B".to_owned();
        assert_eq!(room_words(&room, &[backup]), [("Used", "300 B".to_owned()), ("Saved", saved)]);
        let full = full(&room).expect("known");
        assert_eq!((full.mood, full.word.as_str()), (Mood::Fair, "in about 20 days"));
    }
}
