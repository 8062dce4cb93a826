//! The agent against a controller that does what the test says: joining, the control stream, its end and
//! its return.

mod daemon_support;

use daemon_support::*;
use proto::v1;
use proto::v1::agent_message::Message as Up;
use proto::v1::controller_message::Message as Down;
use tonic::Status;

/// A controller takes an agent that says nothing for so long to be gone.
const CUT_OFF: std::time::Duration = std::time::Duration::from_secs(20);

struct Folders {
    _parent: tempfile::TempDir,
    state: std::path::PathBuf,
    data: std::path::PathBuf,
}

fn folders() -> Folders {
    let parent = tempfile::tempdir().expect("a temporary folder");
    let (state, data) = (parent.path().join("state"), parent.path().join("data"));
    std::fs::create_dir(&data).expect("a folder");
    std::fs::write(data.join("file"), b"content").expect("writes");
    Folders { _parent: parent, state, data }
}

fn archive(task: &str) -> Down {
    Down::StartArchive(v1::StartArchive {
        task_id: task.into(),
        source: Some(v1::SourceId { component: "models".into(), name: "models".into() }),
        domain: Some(v1::DomainKeys {
            domain_id: vec![1; 16].into(),
            id_key: vec![2; 32].into(),
            gear_key: vec![3; 32].into(),
        }),
        repository_key: Some(repository_key()),
        segment_bytes: 0,
        expected_bytes: 0,
        ..v1::StartArchive::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_joins_once_and_needs_no_token_afterwards() {
    let (mut fake, folders) = (Fake::listening().await, folders());
    let running = start(&fake, &folders.state, &folders.data, Some(fake.token()));
    let (hello, mut session) = fake.hello().await;
    assert_eq!((hello.protocol, hello.sources.len()), (1, 1));
    assert_eq!(hello.sources[0].location, folders.data.display().to_string());
    session.send(Down::Welcome(welcome())).await;
    assert!(matches!(session.next().await, Some(Up::Heartbeat(_))));
    running.stop().await;

    let running = start(&fake, &folders.state, &folders.data, None);
    let mut session = fake.welcome().await;
    assert!(matches!(session.next().await, Some(Up::Heartbeat(_))));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_comes_before_its_controller_waits_for_it() {
    let (mut fake, folders) = (Fake::new().await, folders());
    let running = start(&fake, &folders.state, &folders.data, Some(fake.token()));
    // The agent has kept its key, so it has begun to look for the controller.
    let key = folders.state.join("agent.key");
    within(async {
        while !key.exists() {
            tokio::time::sleep(PATIENCE / 1_000).await
        }
    })
    .await;
    fake.listen().await;
    fake.welcome().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_stream_breaks_its_tasks_end_and_the_agent_says_hello_again() {
    let (mut fake, folders) = (Fake::listening().await, folders());
    let running = start(&fake, &folders.state, &folders.data, Some(fake.token()));
    let mut session = fake.welcome().await;
    session.send(archive("t-1")).await;
    let listing = within(fake.listings.recv()).await.expect("the fake lives");
    loop {
        match session.next().await.expect("the agent lives") {
            Up::Heartbeat(v1::Heartbeat { running_tasks }) if running_tasks == ["t-1"] => break,
            _ => {}
        }
    }
    drop(session);
    let mut session = fake.welcome().await;
    within(listing.0.closed()).await;
    assert_eq!(session.next().await, Some(Up::Heartbeat(v1::Heartbeat { running_tasks: Vec::new() })));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_ends_as_cancelled() {
    let (mut fake, folders) = (Fake::listening().await, folders());
    let running = start(&fake, &folders.state, &folders.data, Some(fake.token()));
    let mut session = fake.welcome().await;
    session.send(archive("t-1")).await;
    let _listing = within(fake.listings.recv()).await.expect("the fake lives");
    session.send(Down::Cancel(v1::CancelTask { task_id: "t-1".into() })).await;
    let Some(Up::Failed(failed)) = session.result().await else { panic!("a failure") };
    assert!(failed.cancelled && !failed.retryable && failed.task_id == "t-1", "{failed:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_cannot_be_carried_out_says_what_to_do() {
    let (mut fake, folders) = (Fake::listening().await, folders());
    let running = start(&fake, &folders.state, &folders.data, Some(fake.token()));
    let mut session = fake.welcome().await;
    let Down::StartArchive(order) = archive("t-1") else { unreachable!() };
    let other = v1::SourceId { component: "models".into(), name: "other".into() };
    session.send(Down::StartArchive(v1::StartArchive { source: Some(other), ..order.clone() })).await;
    let Some(Up::Failed(failed)) = session.result().await else { panic!("a failure") };
    assert_eq!(failed.what, "this agent does not serve models/other");
    assert!(!failed.hint.is_empty() && !failed.retryable, "{failed:?}");

    let key = v1::RepositoryKey { epoch: 1, public_key: vec![7; 32].into() };
    session.send(Down::StartArchive(v1::StartArchive { repository_key: Some(key), ..order })).await;
    let Some(Up::Failed(failed)) = session.result().await else { panic!("a failure") };
    assert!(failed.what.contains("repository key"), "{failed:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_tells_of_each_source_whether_it_can_be_read() {
    let (mut fake, folders) = (Fake::listening().await, folders());
    let running = start(&fake, &folders.state, &folders.data, Some(fake.token()));
    let mut session = fake.welcome().await;
    for (task, reachable) in [("p-1", true), ("p-2", false)] {
        session.send(Down::Probe(v1::Probe { task_id: task.into() })).await;
        let Some(Up::ProbeFinished(found)) = session.result().await else { panic!("a finding") };
        assert_eq!((found.task_id.as_str(), found.sources[0].reachable), (task, reachable), "{found:?}");
        assert_eq!(found.sources[0].hint.is_empty(), reachable, "{found:?}");
        let _ = std::fs::remove_dir_all(&folders.data);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_repository_than_the_pinned_one_is_not_worked_for() {
    let (mut fake, folders) = (Fake::listening().await, folders());
    let running = start(&fake, &folders.state, &folders.data, Some(fake.token()));
    let (_, mut session) = fake.hello().await;
    session.send(Down::Welcome(v1::Welcome { repository_id: vec![1; 16].into(), ..welcome() })).await;
    assert_eq!(session.next().await, None, "the agent hangs up and says nothing more");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_agent_still_stops_at_once() {
    let (mut fake, folders) = (Fake::listening().await, folders());
    fake.refuse(Status::unauthenticated("revoked"));
    let running = start(&fake, &folders.state, &folders.data, Some(fake.token()));
    within(fake.sessions.recv()).await.expect("the fake lives");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_a_running_task_and_the_open_streams() {
    let (mut fake, folders) = (Fake::listening().await, folders());
    let running = start(&fake, &folders.state, &folders.data, Some(fake.token()));
    let mut session = fake.welcome().await;
    session.send(archive("t-1")).await;
    let listing = within(fake.listings.recv()).await.expect("the fake lives");
    running.stop().await;
    within(listing.0.closed()).await;
    while session.next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_in_its_last_third_is_renewed() {
    let (mut fake, folders) = (Fake::listening().await, folders());
    // Begun two hours ago, ending in half an hour.
    fake.certificates_live(1_800);
    let held = fake.hold_renewals().await;
    let running = start(&fake, &folders.state, &folders.data, Some(fake.token()));
    let mut old = fake.welcome().await;
    fake.certificates_live(86_400);
    drop(held);
    within(fake.renewals.recv()).await.expect("the fake lives");
    // Nothing runs: it comes again with the new one.
    while old.next().await.is_some() {}
    let mut new = fake.welcome().await;
    assert_ne!(new.certificate, old.certificate);
    assert!(matches!(new.next().await, Some(Up::Heartbeat(_))));
    running.stop().await;
    let running = start(&fake, &folders.state, &folders.data, None);
    let mut session = fake.welcome().await;
    assert!(matches!(session.next().await, Some(Up::Heartbeat(_))));
    assert_eq!(session.certificate, new.certificate, "it was kept");
    assert!(fake.renewals.try_recv().is_err(), "and is not renewed");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_stops_no_heartbeat_and_ends_no_task() {
    let (mut fake, folders) = (Fake::listening().await, folders());
    fake.certificates_live(1_800);
    let held = fake.hold_renewals().await;
    let running = start(&fake, &folders.state, &folders.data, Some(fake.token()));
    let mut session = fake.welcome().await;
    fake.certificates_live(86_400);
    session.send(archive("t-1")).await;
    let _listing = within(fake.listings.recv()).await.expect("the fake lives");
    within(fake.renewals.recv()).await.expect("the fake lives");
    let is_beat = |message| matches!(message, Some(Up::Heartbeat(v1::Heartbeat { running_tasks })) if running_tasks == ["t-1"]);
    let beats = async {
        for _ in 0..4 {
            while !is_beat(session.next().await) {}
        }
    };
    tokio::time::timeout(CUT_OFF, beats).await.expect("heartbeats while the renewal is not answered");
    let identity = folders.state.join("identity.json");
    let before = std::fs::read(&identity).expect("an identity");
    drop(held);
    within(async {
        while std::fs::read(&identity).expect("an identity") == before {
            assert!(is_beat(session.next().await), "the task still runs");
        }
    })
    .await;
    for _ in 0..4 {
        assert!(is_beat(session.next().await), "the task still runs");
    }
    session.send(Down::Cancel(v1::CancelTask { task_id: "t-1".into() })).await;
    assert!(matches!(session.result().await, Some(Up::Failed(_))), "the task's end is told");
    while session.next().await.is_some() {}
    assert_ne!(fake.welcome().await.certificate, session.certificate);
    running.stop().await;
}
