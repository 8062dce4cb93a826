//! A model: years of a fake clock, in which everything that can be wrong begins and ends.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::silence::{Facts, changes, wrong};
use super::*;
use crate::catalog::{Catalog, SinkState};
use crate::config::{Alerts, Ping, Route, Sink, Webhook};
use crate::ids::JobId;
use crate::jobs::job::{Part, PartState};
use crate::jobs::{Job, JobState, Order};

const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn start() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

async fn catalog() -> (tempfile::TempDir, Catalog) {
    let home = tempfile::tempdir().expect("a folder");
    let catalog = Catalog::open(&home.path().join("catalog.sqlite")).await.expect("opened");
    (home, catalog)
}

pub(super) fn sinks(names: &[&str]) -> Alerts {
    let hook =
        || Webhook { url: None, url_file: None, secret: None, secret_file: None, headers: BTreeMap::new() };
    let sinks = names.iter().map(|name| ((*name).to_owned(), Sink::Webhook(hook()))).collect();
    Alerts { sinks, ..Alerts::default() }
}

/// Routes and folds as the dispatcher does; gives what was made, by sink.
async fn messages(catalog: &Catalog, alerts: &Alerts, now: Timestamp) -> Vec<Message> {
    make_messages(catalog, alerts, now).await;
    let made = catalog.alert_deliveries(10_000).await.expect("read");
    made.into_iter().rev().map(|delivery| delivery.message).collect()
}

pub(super) async fn make_messages(catalog: &Catalog, alerts: &Alerts, now: Timestamp) {
    while catalog.route_alerts(|event| plan::sinks_of(alerts, event)).await.expect("routed") {}
    for sink in alerts.sinks.keys() {
        let fold = |events, recent: Vec<Timestamp>| plan::fold(events, &recent, now);
        catalog.fold_alerts(sink, false, fold, now).await.expect("folded");
    }
}

#[test]
fn everything_that_is_wrong_is_found_without_any_event() {
    let now = start() + HOUR * 1_000;
    let long_ago = start();
    let soon = now + HOUR;
    let failing = SinkState { waiting: 1, failing_since: Some(long_ago), ..SinkState::default() };
    let facts = Facts {
        verified: [("database".to_owned(), long_ago), ("models".to_owned(), now - HOUR)].into(),
        agents: [
            ("lost".to_owned(), (Some(long_ago), now + HOUR * 2_000)),
            ("old".to_owned(), (None, soon)),
            ("well".to_owned(), (None, now + HOUR * 2_000)),
        ]
        .into(),
        invitations: [("web-2".to_owned(), long_ago), ("fresh".to_owned(), now)].into(),
        free: Some(1 << 20),
        certificate: Some(soon),
        tokens: [("ci".to_owned(), soon), ("other".to_owned(), now + HOUR * 2_000)].into(),
        unconfirmed_since: Some(long_ago),
        sinks: [("mail".to_owned(), (failing.clone(), false)), ("pulse".to_owned(), (failing, true))].into(),
    };
    let found: BTreeSet<(Kind, String)> =
        wrong(&facts, &Alerts::default(), now).into_iter().map(|event| (event.kind, event.subject)).collect();
    let expected = [
        (Kind::BackupOverdue, "database"),
        (Kind::AgentLost, "lost"),
        (Kind::CertificateExpiring, "agent old"),
        (Kind::CertificateExpiring, "the controller"),
        (Kind::AgentNeverJoined, "web-2"),
        (Kind::StorageNearlyFull, "repository"),
        (Kind::KeyExpiring, "ci"),
        (Kind::RecoveryKeyUnconfirmed, "repository"),
        (Kind::SinkFailing, "mail"),
        (Kind::PingUnsent, "pulse"),
    ];
    assert_eq!(found, expected.map(|(kind, subject)| (kind, subject.to_owned())).into());
    assert!(wrong(&Facts::default(), &Alerts::default(), now).is_empty());
}

#[tokio::test]
async fn in_a_year_each_silence_is_told_once_and_so_is_its_end() {
    let (_home, catalog) = catalog().await;
    let alerts = sinks(&["hook"]);
    // A backup is verified each night, but not in three outages, each told of once; 31 hours of silence
    // are no outage yet.
    let is_out = |day: i64| [40, 41, 42, 100, 101, 200, 201, 202, 203, 300].contains(&day);
    let mut verified = start();
    for hour in 0..365 * 24 {
        let now = start() + HOUR * i32::try_from(hour).expect("small");
        if hour % 24 == 5 && !is_out(hour / 24) {
            verified = now - HOUR * 4;
        }
        let facts = Facts { verified: [("database".to_owned(), verified)].into(), ..Facts::default() };
        let open = catalog.open_alerts().await.expect("read");
        let events = changes(wrong(&facts, &alerts, now), &open);
        if !events.is_empty() {
            catalog.raise_alerts(&events, now).await.expect("written");
            messages(&catalog, &alerts, now).await;
        }
    }
    let told = messages(&catalog, &alerts, start()).await;
    let told: Vec<(i64, Sign)> = told
        .iter()
        .map(|message| {
            let hours = message.made_at.duration_since(start()).as_hours();
            (hours / 24, message.events[0].sign)
        })
        .collect();
    // The last good backup is of 01:00 of the day before: too old 36 hours later.
    let outages = [(40, 43), (100, 102), (200, 204), (300, 301)];
    let expected: Vec<(i64, Sign)> =
        outages.iter().flat_map(|(first, end)| [(*first, Sign::Raised), (*end, Sign::Resolved)]).collect();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_thousand_failures_at_once_are_five_messages_a_sink_and_every_one_is_counted() {
    let (_home, catalog) = catalog().await;
    let alerts = sinks(&["a", "b"]);
    let events: Vec<Event> = (0..1_000)
        .map(|nth| Event::raised(Kind::BackupFailed, format!("{nth}")).saying("backup failed", "", ""))
        .collect();
    catalog.raise_alerts(&events, start()).await.expect("written");
    messages(&catalog, &alerts, start()).await;
    let made = messages(&catalog, &alerts, start() + SignedDuration::from_mins(1)).await;
    assert_eq!(made.len(), 10);
    let told: u64 = made.iter().map(Message::total).sum();
    assert_eq!(told, 2_000);
    let last = made.iter().max_by_key(|message| message.total()).expect("some");
    assert!(last.title().contains("996 more alerts"), "{}", last.title());
    // Nothing is told twice, however often it is planned.
    assert_eq!(messages(&catalog, &alerts, start() + HOUR).await.len(), 10);
}

#[tokio::test]
async fn an_end_is_told_only_of_what_was_told() {
    let (_home, catalog) = catalog().await;
    let alerts = sinks(&["hook"]);
    let raise = |event: Event, minute: i64| {
        let (catalog, alerts) = (catalog.clone(), alerts.clone());
        async move {
            let now = start() + SignedDuration::from_mins(minute);
            catalog.raise_alerts(&[event], now).await.expect("written");
            messages(&catalog, &alerts, now).await.len()
        }
    };
    assert_eq!(raise(Event::resolved(Kind::BackupFailed, ""), 0).await, 0, "nothing was wrong");
    assert_eq!(raise(Event::raised(Kind::BackupFailed, ""), 20).await, 1);
    assert_eq!(raise(Event::raised(Kind::BackupFailed, ""), 40).await, 2, "each failure is told");
    assert_eq!(raise(Event::resolved(Kind::BackupFailed, ""), 60).await, 3);
    assert_eq!(raise(Event::resolved(Kind::BackupFailed, ""), 80).await, 3, "it has recovered");
    assert_eq!(raise(Event::raised(Kind::AgentLost, "a"), 100).await, 4);
    assert_eq!(raise(Event::raised(Kind::AgentLost, "a"), 120).await, 4, "a condition is told once");
    assert_eq!(raise(Event::raised(Kind::BackupSucceeded, ""), 140).await, 4, "nobody has to know");
    let key = || Event::raised(Kind::RecoveryKeyUnconfirmed, "repository");
    assert_eq!(raise(key(), 160).await, 5);
    assert_eq!(raise(key(), 170).await, 5);
    assert_eq!(raise(key(), 160 + 7 * 24 * 60).await, 6, "a week later it is told again");
}

#[test]
fn routes_send_what_they_name_and_no_sink_is_told_of_itself() {
    let mut alerts = sinks(&["mail", "chat"]);
    let ping = Ping { url: None, url_file: None };
    alerts.sinks.insert("pulse".to_owned(), Sink::Ping(ping));
    let of = |alerts: &Alerts, kind, subject: &str| plan::sinks_of(alerts, &Event::raised(kind, subject));
    assert_eq!(of(&alerts, Kind::BackupFailed, ""), ["chat", "mail", "pulse"]);
    assert_eq!(of(&alerts, Kind::BackupSucceeded, ""), ["pulse"]);
    assert_eq!(of(&alerts, Kind::RestoreSucceeded, ""), ["chat", "mail"]);
    assert_eq!(of(&alerts, Kind::SinkFailing, "mail"), ["chat"]);
    alerts.routes.push(Route { events: vec![Kind::BackupSucceeded], to: vec!["chat".to_owned()] });
    assert_eq!(of(&alerts, Kind::BackupSucceeded, ""), ["chat", "pulse"]);
    assert_eq!(of(&alerts, Kind::BackupFailed, ""), ["pulse"]);
}

#[tokio::test]
async fn what_is_over_is_forgotten_and_what_waits_is_not() {
    let (_home, catalog) = catalog().await;
    let alerts = sinks(&["hook"]);
    catalog.raise_alerts(&[Event::raised(Kind::Anomaly, "x")], start()).await.expect("written");
    let made = messages(&catalog, &alerts, start()).await;
    let later = start() + HOUR * 24 * 100;
    catalog.forget_old_alerts(later).await.expect("done");
    assert_eq!(catalog.alert_deliveries(10).await.expect("read").len(), 1, "it waits");
    catalog.alert_delivered(made[0].id, start()).await.expect("written");
    catalog.forget_old_alerts(later).await.expect("done");
    assert!(catalog.alert_deliveries(10).await.expect("read").is_empty());
}

#[test]
fn a_later_success_makes_good_what_it_holds_and_nothing_else() {
    let part = |component: &str, state| Part {
        state,
        ..Part::waiting(format!("{component}/{component}").parse().expect("a source"), "files")
    };
    let order = |components: &[&str]| Order::Backup {
        components: components.iter().map(|name| name.parse().expect("a component")).collect(),
        pin: None,
    };
    let ended = |order: Order, state, parts: Vec<Part>| Job {
        state,
        parts,
        ..Job::queued(JobId::fresh(), order, start())
    };
    let open = ["database", "models", "database,models", "", "ipfs"].map(str::to_owned);
    let good = |job: &Job| {
        let events = covered(job, Kind::BackupFailed, &open).into_iter();
        events
            .map(|event| {
                assert_eq!(event.sign, Sign::Resolved);
                event.subject
            })
            .collect::<Vec<_>>()
    };
    let (whole, broken) = (PartState::Complete, PartState::Failed);
    let everything =
        ended(order(&[]), JobState::Complete, vec![part("database", whole), part("models", whole)]);
    assert_eq!(good(&everything), ["database", "models", "database,models"], "its own is told elsewhere");
    let some = ended(order(&[]), JobState::Incomplete, vec![part("database", broken), part("models", whole)]);
    assert_eq!(good(&some), ["models"]);
    let one = ended(order(&["models"]), JobState::Complete, vec![part("models", whole)]);
    assert_eq!(good(&one), Vec::<String>::new(), "a part is not the whole");
    let failed = ended(order(&[]), JobState::Failed, vec![part("models", whole)]);
    assert_eq!(good(&failed), Vec::<String>::new(), "it was not committed");
    let half = [
        part("models", whole),
        Part { source: "models/b".parse().expect("a source"), ..part("models", broken) },
    ];
    assert_eq!(good(&ended(order(&[]), JobState::Incomplete, half.to_vec())), Vec::<String>::new());
    assert!(covered(&everything, Kind::VerifyFailed, &open).is_empty());
}
