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
        state_free: Some(1 << 20),
        storage_silent: Some("no answer".to_owned()),
        unknown: BTreeSet::new(),
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
        (Kind::StorageNearlyFull, "state"),
        (Kind::StorageSilent, "repository"),
        (Kind::KeyExpiring, "ci"),
        (Kind::RecoveryKeyUnconfirmed, "repository"),
        (Kind::SinkFailing, "mail"),
        (Kind::PingUnsent, "pulse"),
    ];
    assert_eq!(found, expected.map(|(kind, subject)| (kind, subject.to_owned())).into());
    assert!(wrong(&Facts::default(), &Alerts::default(), now).is_empty());
}

#[test]
fn what_nothing_is_known_of_neither_begins_nor_ends_and_the_rest_is_judged() {
    let now = start() + HOUR;
    let (full, state_full) = (
        Event::raised(Kind::StorageNearlyFull, silence::REPOSITORY),
        Event::raised(Kind::StorageNearlyFull, silence::STATE),
    );
    let open = [full, state_full].map(|event| crate::catalog::OpenAlert { since: now, told_at: now, event });
    let facts = Facts {
        agents: [("lost".to_owned(), (Some(start()), now + HOUR * 2_000))].into(),
        state_free: Some(1 << 40),
        storage_silent: Some("it gave no answer within 20 s".to_owned()),
        unknown: [(Kind::StorageNearlyFull, silence::REPOSITORY)].into(),
        ..Facts::default()
    };
    let told = changes(wrong(&facts, &Alerts::default(), now), &facts.unknown, &open);
    let told: Vec<_> = told.iter().map(|event| (event.kind, event.subject.as_str(), event.sign)).collect();
    let expected = [
        (Kind::AgentLost, "lost", Sign::Raised),
        (Kind::StorageSilent, "repository", Sign::Raised),
        (Kind::StorageNearlyFull, "state", Sign::Resolved),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_start_gives_agents_time_but_does_not_end_what_was_told_of_them() {
    let (seen, started) = (start(), start() + HOUR * 2);
    let lost = crate::catalog::OpenAlert {
        since: seen,
        told_at: seen,
        event: Event::raised(Kind::AgentLost, "lost"),
    };
    let open = [lost];
    let mut facts = Facts::default();
    for name in ["lost", "other"] {
        let away = silence::away_since(name, seen, started, &open);
        facts.add_agent(name, Some(away), started + HOUR * 9_000);
    }
    let just_after = started + SignedDuration::from_secs(30);
    let told = |facts: &Facts, now| {
        changes(wrong(facts, &Alerts::default(), now), &facts.unknown, &open)
            .into_iter()
            .map(|event| (event.sign, event.subject))
            .collect::<Vec<_>>()
    };
    assert_eq!(told(&facts, just_after), [], "one is lost still, the other may come");
    assert_eq!(told(&facts, started + HOUR), [(Sign::Raised, "other".to_owned())]);
    // Another one of its name is there: the lost one is told of all the same.
    facts.add_agent("lost", None, started + HOUR * 9_000);
    assert_eq!(told(&facts, just_after), []);
}

#[test]
fn the_end_of_a_token_is_no_recovery() {
    let now = start() + HOUR * 100;
    let tokens = [("ci".to_owned(), start())].into();
    let told = wrong(&Facts { tokens, ..Facts::default() }, &Alerts::default(), now);
    let told: Vec<_> = told.iter().map(|event| (event.kind, event.what.as_str())).collect();
    assert_eq!(told, [(Kind::KeyExpiring, "the API token ci has ended at 2026-01-01T00:00:00Z")]);
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
        let events = changes(wrong(&facts, &alerts, now), &facts.unknown, &open);
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
    catalog.alert_delivered(made[0].id, false, start()).await.expect("written");
    catalog.forget_old_alerts(later).await.expect("done");
    assert!(catalog.alert_deliveries(10).await.expect("read").is_empty());
}

#[tokio::test]
async fn an_old_ping_never_follows_a_newer_one() {
    let (_home, catalog) = catalog().await;
    let mut alerts = sinks(&["hook"]);
    alerts.sinks.insert("pulse".to_owned(), Sink::Ping(Ping { url: None, url_file: None }));
    let later = |minutes| start() + SignedDuration::from_mins(minutes);
    for (minute, kind) in [(0, Kind::BackupSucceeded), (10, Kind::BackupFailed)] {
        let events = [Kind::BackupStarted, kind].map(|kind| Event::raised(kind, ""));
        catalog.raise_alerts(&events, later(minute)).await.expect("written");
        while catalog.route_alerts(|event| plan::sinks_of(&alerts, event)).await.expect("routed") {}
        let fold = |events, _| plan::fold_pings(events);
        catalog.fold_alerts("pulse", true, fold, later(minute)).await.expect("folded");
    }
    make_messages(&catalog, &alerts, later(10)).await;
    let of = async |sink: &str| {
        let made = catalog.alert_deliveries(10).await.expect("read").into_iter().rev();
        let of_sink = made.filter(|one| one.sink == sink);
        of_sink.map(|one| (one.message.id, one.state)).collect::<Vec<_>>()
    };
    let states = async |sink: &str| of(sink).await.into_iter().map(|(_, state)| state).collect::<Vec<_>>();
    let pings = of("pulse").await;
    catalog.alert_delivered(pings[0].0, true, later(20)).await.expect("written");
    assert_eq!(states("pulse").await, ["delivered", "waiting", "waiting", "waiting"], "its end is to come");
    catalog.alert_delivered(pings[3].0, true, later(20)).await.expect("written");
    assert_eq!(states("pulse").await, ["delivered", "superseded", "superseded", "delivered"]);
    assert_eq!(states("hook").await, ["waiting"], "what somebody reads is all sent");
}

#[tokio::test]
async fn a_try_that_a_sink_takes_ends_what_was_told_of_it() {
    let (_home, catalog) = catalog().await;
    let alerts = sinks(&["hook"]);
    catalog.raise_alerts(&[Event::raised(Kind::Anomaly, "x")], start()).await.expect("written");
    let made = messages(&catalog, &alerts, start()).await;
    catalog.alert_failed(made[0].id, "gone", plan::Again::Never, start() + HOUR).await.expect("written");
    let told = |states: std::collections::HashMap<String, SinkState>| {
        let sinks = states.into_iter().map(|(name, state)| (name, (state, false))).collect();
        wrong(&Facts { sinks, ..Facts::default() }, &Alerts::default(), start() + HOUR * 2).len()
    };
    assert_eq!(told(catalog.sink_states().await.expect("read")), 1);
    let message = Message::test(start() + HOUR * 2);
    catalog.note_tried("hook", &message, start() + HOUR * 2).await.expect("written");
    assert_eq!(told(catalog.sink_states().await.expect("read")), 0);
}

#[tokio::test]
async fn what_was_put_off_while_the_clock_was_ahead_is_sent_once_it_is_right() {
    let (_home, catalog) = catalog().await;
    let alerts = sinks(&["hook"]);
    catalog.raise_alerts(&[Event::raised(Kind::Anomaly, "x")], start()).await.expect("written");
    let made = messages(&catalog, &alerts, start()).await;
    let again = plan::Again::At(start() + HOUR * 24);
    catalog.alert_failed(made[0].id, "away", again, start() + HOUR * 23).await.expect("written");
    let due = catalog.due_alert("hook", start() + HOUR).await.expect("read").0;
    assert_eq!(due.map(|due| due.message.id), Some(made[0].id));
    let again = plan::Again::At(start() + HOUR * 2);
    catalog.alert_failed(made[0].id, "away", again, start() + HOUR).await.expect("written");
    assert_eq!(catalog.due_alert("hook", start() + HOUR).await.expect("read").0, None, "it waits its time");
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
        import: None,
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

/// Ended jobs of three orders, and what they tell.
mod ends {
    use repository::verify::Depth;

    use super::*;
    use crate::jobs::job::{PartResult, Proven, RestorePlace};

    const OLD: &str = "20260101_010000";
    const NEW: &str = "20260102_010000";

    fn ended(order: Order, state: JobState, parts: Vec<Part>) -> Job {
        Job { state, parts, ..Job::queued(JobId::fresh(), order, start()) }
    }

    fn part(component: &str, state: PartState) -> Part {
        Part { state, ..Part::waiting(format!("{component}/a").parse().expect("a source"), "files") }
    }

    fn verification(backup: &str, depth: Depth, components: &[&str], state: JobState) -> Job {
        let of_part = if state == JobState::Complete { PartState::Complete } else { PartState::Failed };
        let parts =
            ["database", "models"].into_iter().filter(|of| components.is_empty() || components.contains(of));
        let parts = parts.map(|component| part(component, of_part)).collect();
        let components = components.iter().map(|name| name.parse().expect("a component")).collect();
        let backup = backup.parse().expect("a name");
        ended(Order::Verify { backup, components, depth, budget: None, drill: false }, state, parts)
    }

    fn restore(backup: &str, components: &[&str], state: JobState) -> Job {
        let of_part = if state == JobState::Complete { PartState::Complete } else { PartState::Failed };
        let parts: Vec<Part> = components.iter().map(|component| part(component, of_part)).collect();
        let places = parts.iter().map(|part| RestorePlace {
            source: part.source.clone(),
            kind: "files".to_owned(),
            agent: crate::ids::AgentId::fresh(),
            folder: None,
            globs: Vec::new(),
            databases: Default::default(),
            allowance: Default::default(),
            confirmed: None,
            takes_back: false,
        });
        let places = places.collect();
        let backup = backup.parse().expect("a name");
        let order = Order::Restore { backup, places, safety: None, undo_of: None, digest: String::new() };
        ended(order, state, parts)
    }

    /// True if what `failed` has raised is over once `good` has ended.
    async fn makes_good(failed: &Job, good: &Job) -> bool {
        let (_home, catalog) = catalog().await;
        for job in [failed, good] {
            let before = Job { state: JobState::Running, ..job.clone() };
            catalog.add_job(&before, None, None).await.expect("written");
            let events = job_events(JobState::Running, job);
            catalog.save_job(job, Vec::new(), &events, start()).await.expect("written");
            assert!(job.id == good.id || !catalog.open_alerts().await.expect("read").is_empty());
        }
        catalog.open_alerts().await.expect("read").is_empty()
    }

    #[tokio::test]
    async fn a_finding_in_one_component_is_over_with_that_one_and_with_no_other() {
        let of = |backup: &str, state, parts: &[(&str, PartState)]| {
            let (backup, depth) = (backup.parse().expect("a name"), Depth::Opened);
            let order = Order::Verify { backup, components: Vec::new(), depth, budget: None, drill: false };
            ended(order, state, parts.iter().map(|(component, state)| part(component, *state)).collect())
        };
        let (good, bad) = (PartState::Complete, PartState::Failed);
        let found = of(OLD, JobState::Failed, &[("database", good), ("models", bad)]);
        for (held, expected) in [
            (&["database"][..], false),
            (&["models"], true),
            (&["database", "models"], true),
            (&["ipfs", "models"], true),
        ] {
            let parts: Vec<_> = held.iter().map(|component| (*component, good)).collect();
            let later = of(NEW, JobState::Complete, &parts);
            assert_eq!(makes_good(&found, &later).await, expected, "{held:?}");
        }
    }

    #[tokio::test]
    async fn a_finding_is_over_only_once_as_much_was_read_and_found_well() {
        let (failed, good) = (JobState::Failed, JobState::Complete);
        let found = verification(OLD, Depth::Hashed, &[], failed);
        for (backup, depth, components, expected) in [
            (OLD, Depth::Hashed, &[][..], true),
            (OLD, Depth::Opened, &[][..], true),
            (NEW, Depth::Hashed, &[][..], true),
            (OLD, Depth::Listed, &[][..], false),
            (NEW, Depth::Listed, &[][..], false),
            (OLD, Depth::Opened, &["models"][..], false),
        ] {
            let later = verification(backup, depth, components, good);
            assert_eq!(makes_good(&found, &later).await, expected, "{backup} {depth:?} {components:?}");
        }
        let found = verification(NEW, Depth::Hashed, &[], failed);
        assert!(
            !makes_good(&found, &verification(OLD, Depth::Opened, &[], good)).await,
            "it is an older one"
        );
        let found = verification(OLD, Depth::Hashed, &["models", "database"], failed);
        assert!(makes_good(&found, &verification(OLD, Depth::Hashed, &["database", "models"], good)).await);
        assert!(makes_good(&found, &verification(OLD, Depth::Hashed, &[], good)).await, "all holds these");
        assert!(!makes_good(&found, &verification(OLD, Depth::Hashed, &["models"], good)).await);
    }

    #[tokio::test]
    async fn a_failed_restore_is_made_good_by_the_same_backup_alone() {
        let (bad, good) = (JobState::Failed, JobState::Complete);
        let failed = restore(OLD, &["models"], bad);
        assert!(makes_good(&failed, &restore(OLD, &["models"], good)).await);
        assert!(makes_good(&failed, &restore(OLD, &["models", "database"], good)).await);
        assert!(!makes_good(&failed, &restore(OLD, &["database"], good)).await, "another component");
        assert!(!makes_good(&failed, &restore(NEW, &["models"], good)).await, "another backup");
        let mut undo = restore(OLD, &["models"], good);
        if let Order::Restore { undo_of, .. } = &mut undo.order {
            *undo_of = Some(failed.id);
        }
        assert!(!makes_good(&failed, &undo).await, "taking one back restores nothing");
    }

    #[test]
    fn a_verification_that_its_budget_has_ended_is_no_failure() {
        let kinds = |parts: Vec<Part>, state| {
            let order = verification(OLD, Depth::Hashed, &[], JobState::Complete).order;
            let events = job_events(JobState::Running, &ended(order, state, parts));
            events.into_iter().map(|event| (event.kind, event.severity())).collect::<Vec<_>>()
        };
        let proven = Proven { now: 5, unread: 7, ..Proven::default() };
        let result = PartResult::Verified { findings: Vec::new(), bytes: 5, entries: 1, proven };
        let left = Part { result: Some(result), ..part("models", PartState::Incomplete) };
        let partial = kinds(vec![left.clone(), part("database", PartState::Complete)], JobState::Incomplete);
        assert_eq!(partial, [(Kind::VerifyPartial, Severity::Info)]);
        let nothing = part("database", PartState::Incomplete);
        let incomplete = kinds(vec![left, nothing], JobState::Incomplete);
        assert_eq!(incomplete, [(Kind::VerifyIncomplete, Severity::Warning)]);
        let failed = kinds(vec![part("models", PartState::Failed)], JobState::Failed);
        assert_eq!(failed, [(Kind::VerifyFailed, Severity::Critical)]);
    }
}
