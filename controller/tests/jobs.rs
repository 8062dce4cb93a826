//! Whole jobs over real sockets: a controller, TLS, and an agent that does what the test says.

mod support;

use controller::ids::JobId;
use controller::jobs::job;
use proto::Failure;
use proto::failure::reason;
use proto::v1::agent_message::Message as Up;
use proto::v1::backups_client::BackupsClient;
use proto::v1::controller_message::Message as Down;
use proto::v1::schedules_client::SchedulesClient;
use proto::v1::{
    BlobAddress, CancelJobRequest, Depth, FetchBlobsRequest, GetBackupRequest, JobState, ListBackupsRequest,
    OpenArchiveRequest, Outcome, PlanRestoreRequest, ReadFileRequest, RestoreFinished, RestorePlanned,
    RunScheduleRequest, Selection, SetScheduleRequest, SourceId, SourcePlan, StartBackupRequest,
    StartRestoreRequest, StartVerifyRequest, TaskFailed,
};
use support::agent::{Agent, join};
use support::archive::files;
use support::{Running, start, state};
use tonic::Code;

async fn connected(running: &Running, sources: &[&str]) -> Agent {
    let joined = join(running.addresses.grpc, &running.token().await, "agent").await.expect("joined");
    joined.connect(running.addresses.grpc, sources).await.expect("connected")
}

fn repository(running: &Running) -> Vec<u8> {
    running.app.repository_id().as_bytes().to_vec()
}

/// Makes one complete backup of `models/a`; the job's id.
async fn back_up(running: &Running, agent: &mut Agent, content: &str) -> String {
    let job = running.start_backup(&[]).await;
    let order = agent.expect_archive().await;
    let answer = agent.make_archive(&repository(running), &order, &files(content)).await;
    assert!(answer.accepted && answer.missing.is_empty());
    let (job, lines) = running.ended(&job.id).await;
    assert_eq!(state(&job), JobState::Complete, "{lines:?}");
    job.id
}

fn models() -> Option<SourceId> {
    Some(SourceId { component: "models".into(), name: "a".into() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_made_verified_and_read_back() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let mut agent = connected(&running, &["models/a"]).await;
    back_up(&running, &mut agent, "hello").await;

    let verify = StartVerifyRequest { depth: Depth::Opened.into(), ..StartVerifyRequest::default() };
    let job = running.jobs().await.start_verify(verify).await.expect("ordered").into_inner();
    let (job, lines) = running.ended(&job.id).await;
    assert_eq!(state(&job), JobState::Complete, "{lines:?}");

    let mut backups = BackupsClient::new(running.people().await);
    let latest =
        backups.get_backup(GetBackupRequest { name: "latest".into() }).await.expect("there").into_inner();
    assert_eq!(latest.outcome(), Outcome::Complete);
    assert!(latest.archives[0].verifications[0].intact);
    let read = ReadFileRequest { backup: "latest".into(), source: models(), path: b"a.txt".to_vec().into() };
    let mut data = backups.read_file(read).await.expect("opened").into_inner();
    assert_eq!(data.message().await.expect("read").expect("content").data, "hello");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_a_pack_is_found_and_named() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let mut agent = connected(&running, &["models/a"]).await;
    back_up(&running, &mut agent, "hello").await;
    support::damage_packs(home.path());
    let verify = StartVerifyRequest { depth: Depth::Hashed.into(), ..StartVerifyRequest::default() };
    let job = running.jobs().await.start_verify(verify).await.expect("ordered").into_inner();
    let (job, _) = running.ended(&job.id).await;
    assert_eq!((state(&job), job.what.as_str()), (JobState::Failed, "verification found damage"));
    assert!(!job.parts[0].findings.is_empty());
    running.stop().await;
}

/// An agent of before does not say that it leaves keys out, and would put them into the folder.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_chain_is_not_made_by_an_agent_that_would_put_its_keys_there() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let mut agent = connected(&running, &["blockchain/a"]).await;
    back_up(&running, &mut agent, "hello").await;
    for (with_keys, folder, says_so, refused) in [
        (false, "/copy", false, true),
        (false, "/copy", true, false),
        (true, "/copy", false, false),
        (false, "", false, false),
    ] {
        let request = PlanRestoreRequest {
            components: vec!["blockchain".into()],
            folder: folder.into(),
            agent: if folder.is_empty() { String::new() } else { "agent".into() },
            selection: Some(Selection { with_keys, ..Selection::default() }),
            ..PlanRestoreRequest::default()
        };
        let mut jobs = running.jobs().await;
        let asked =
            tokio::spawn(async move { jobs.plan_restore(request).await.expect("planned").into_inner() });
        let Some(Down::PlanRestore(asked_of)) = agent.next().await else { panic!("expected a question") };
        let order = asked_of.order.expect("an order");
        assert_eq!(order.leaves_keys, !with_keys && !folder.is_empty());
        let plan = SourcePlan { entries: 1, leaves_keys: says_so, ..SourcePlan::default() };
        agent.say(Up::RestorePlanned(RestorePlanned { task_id: asked_of.task_id, plan: Some(plan) })).await;
        let planned = asked.await.expect("answered");
        let obstacles = &planned.sources[0].obstacles;
        assert_eq!(obstacles.iter().any(|one| one.contains("older release")), refused, "{obstacles:?}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_is_planned_confirmed_and_served_with_keys_and_blobs() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let mut agent = connected(&running, &["models/a"]).await;
    back_up(&running, &mut agent, "hello").await;
    let request = PlanRestoreRequest { components: vec!["models".into()], ..PlanRestoreRequest::default() };
    let plan = |entries| SourcePlan {
        source: models(),
        place: "/somewhere".into(),
        entries,
        ..SourcePlan::default()
    };

    let mut jobs = running.jobs().await;
    let asked = tokio::spawn({
        let request = request.clone();
        let mut jobs = jobs.clone();
        async move { jobs.plan_restore(request).await.expect("planned").into_inner() }
    });
    let answer_plan = async |agent: &mut Agent, entries| match agent.next().await {
        Some(Down::PlanRestore(asked)) => {
            let planned = RestorePlanned { task_id: asked.task_id, plan: Some(plan(entries)) };
            agent.say(Up::RestorePlanned(planned)).await;
        }
        other => panic!("expected a question, not {other:?}"),
    };
    answer_plan(&mut agent, 3).await;
    let planned = asked.await.expect("answered");
    assert!(planned.fetch_bytes > 0);

    let confirmed =
        StartRestoreRequest { request: Some(request), digest: planned.digest, ..Default::default() };
    let stale = tokio::spawn({
        let (confirmed, mut jobs) = (confirmed.clone(), jobs.clone());
        async move { jobs.start_restore(confirmed).await.expect_err("the plan has changed") }
    });
    answer_plan(&mut agent, 4).await;
    assert_eq!(Failure::from(stale.await.expect("answered")).reason, reason::PLAN_CHANGED);

    let started =
        tokio::spawn(async move { jobs.start_restore(confirmed).await.expect("started").into_inner() });
    answer_plan(&mut agent, 3).await;
    let job = started.await.expect("answered");
    let Some(Down::StartRestore(order)) = agent.next().await else { panic!("expected the restore") };
    let root = order.order.expect("an order").root;
    let task_id = order.task_id;
    let open = OpenArchiveRequest { task_id: task_id.clone() };
    let mut segments = agent.gateway.open_archive(open).await.expect("opened").into_inner();
    let mut blobs = Vec::new();
    let mut roots = 0;
    while let Some(segment) = segments.message().await.expect("read") {
        assert_eq!(segment.key.len(), 32);
        for line in segment.blobs {
            roots += u32::from(line.blob_id == root);
            blobs.push(BlobAddress { segment_id: segment.segment_id.clone(), ordinal: line.ordinal });
        }
    }
    assert_eq!((blobs.len(), roots), (4, 1));
    blobs.push(BlobAddress { segment_id: vec![9; 16].into(), ordinal: 0 });
    let fetch = FetchBlobsRequest { task_id: task_id.clone(), blobs: blobs.clone() };
    let mut fetched =
        agent.gateway.fetch_blobs(tokio_stream::iter([fetch])).await.expect("opened").into_inner();
    for address in &blobs[..4] {
        let blob = fetched.message().await.expect("read").expect("an answer");
        assert_eq!((blob.address.as_ref(), blob.problem.as_str()), (Some(address), ""));
        assert!(!blob.sealed.is_empty());
    }
    assert_eq!(fetched.message().await.expect("read").expect("an answer").problem, "missing");

    let finished = RestoreFinished { task_id, entries: 3, bytes: 10, ..RestoreFinished::default() };
    agent.say(Up::RestoreFinished(finished)).await;
    let (job, _) = running.ended(&job.id).await;
    assert_eq!(state(&job), JobState::Complete);
    assert_eq!(job.parts[0].restored.as_ref().map(|restored| restored.entries), Some(3));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_serves_makes_a_backup_incomplete_and_says_so() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let mut agent = connected(&running, &["models/a"]).await;
    let away = connected(&running, &["ipfs/b"]).await;
    drop(away);
    // By a schedule, which may be there before the agent is; what nobody has is refused to a person.
    let components: Vec<String> = ["models", "ipfs", "configs"].map(str::to_owned).into();
    let asked = StartBackupRequest { components: components.clone(), ..StartBackupRequest::default() };
    let refused = running.jobs().await.start_backup(asked).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let mut schedules = SchedulesClient::new(running.people().await);
    let (name, kind, cron) = ("three".to_owned(), "backup".to_owned(), "0 1 * * *".to_owned());
    let set =
        SetScheduleRequest { name: name.clone(), kind, cron, components, ..SetScheduleRequest::default() };
    schedules.set_schedule(set).await.expect("set");
    let run = RunScheduleRequest { name, ..RunScheduleRequest::default() };
    let job = schedules.run_schedule(run).await.expect("ordered").into_inner();
    let order = agent.expect_archive().await;
    agent.make_archive(&repository(&running), &order, &files("x")).await;
    let (job, _) = running.ended(&job.id).await;
    assert_eq!(state(&job), JobState::Incomplete);
    let reasons: Vec<_> = job.parts.iter().map(|part| (part.state(), part.reason.as_str())).collect();
    assert!(reasons.contains(&(JobState::Failed, "no agent serves this component")), "{reasons:?}");
    assert!(
        reasons.iter().any(|(_, reason)| reason.starts_with("no agent that serves it came")),
        "{reasons:?}"
    );
    let backups =
        BackupsClient::new(running.people().await).list_backups(ListBackupsRequest::default()).await;
    let backup = &backups.expect("listed").into_inner().backups[0];
    assert_eq!((backup.outcome(), backup.archives.len()), (Outcome::Incomplete, 3));

    let verify = StartVerifyRequest { depth: Depth::Opened.into(), ..StartVerifyRequest::default() };
    let verify = StartVerifyRequest { backup: backup.name.clone(), ..verify };
    let job = running.jobs().await.start_verify(verify).await.expect("ordered").into_inner();
    let (job, lines) = running.ended(&job.id).await;
    assert_eq!((state(&job), job.parts.len()), (JobState::Incomplete, 3), "{lines:?}");
    let empty: Vec<_> = job.parts.iter().filter(|part| !part.reason.is_empty()).collect();
    assert_eq!(empty.len(), 2);
    assert!(empty.iter().all(|part| part.reason.starts_with("no data was backed up: ")), "{empty:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_nothing_usable_leaves_no_trace() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let mut agent = connected(&running, &["models/a"]).await;
    let job = running.start_backup(&[]).await;
    let order = agent.expect_archive().await;
    let failed = TaskFailed {
        task_id: order.task_id,
        what: "cannot open the folder".into(),
        why: "permission denied".into(),
        ..TaskFailed::default()
    };
    agent.say(Up::Failed(failed)).await;
    let (job, _) = running.ended(&job.id).await;
    assert_eq!(state(&job), JobState::Failed);
    assert!(job.why.contains("permission denied") && !job.hint.is_empty(), "{} {}", job.why, job.hint);
    let names = std::fs::read_dir(home.path().join("backups")).expect("listed");
    let names: Vec<_> = names.map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(names, ["repository"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_backup_ends_at_the_agent_too() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let mut agent = connected(&running, &["models/a"]).await;
    let job = running.start_backup(&[]).await;
    let order = agent.expect_archive().await;
    running.jobs().await.cancel_job(CancelJobRequest { id: job.id.clone() }).await.expect("asked");
    let Some(Down::Cancel(cancel)) = agent.next().await else { panic!("expected the cancellation") };
    assert_eq!(cancel.task_id, order.task_id);
    let ended = TaskFailed { task_id: order.task_id, cancelled: true, ..TaskFailed::default() };
    agent.say(Up::Failed(ended)).await;
    let (job, _) = running.ended(&job.id).await;
    assert_eq!(state(&job), JobState::Cancelled);
    assert!(running.app.newest_backups(1).await.expect("listed").is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_agent_gets_its_archive_again_and_sends_only_what_is_missing() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let joined = join(running.addresses.grpc, &running.token().await, "agent").await.expect("joined");
    let mut agent = joined.connect(running.addresses.grpc, &["models/a"]).await.expect("connected");
    let job = running.start_backup(&[]).await;
    let order = agent.expect_archive().await;
    let sealed = support::archive::seal(&repository(&running), &order, &files("x"));
    let segment = &sealed.segments[0];
    let bytes = [segment.head.to_vec(), segment.body.to_vec()].concat();
    assert!(!agent.put(&order.task_id, segment.id().as_bytes(), &bytes).await.expect("taken in"));
    drop(agent);

    let mut agent = joined.connect(running.addresses.grpc, &["models/a"]).await.expect("connected again");
    let again = agent.expect_archive().await;
    assert_ne!(again.task_id, order.task_id);
    let list = proto::v1::ListBlobsRequest { task_id: again.task_id.clone(), ..Default::default() };
    let mut tables = agent.gateway.list_blobs(list).await.expect("listed").into_inner();
    let listed = tables.message().await.expect("read").expect("the segment of the first attempt");
    assert_eq!(listed.tables[0].segment_id, segment.id().as_bytes()[..]);
    assert!(agent.put(&again.task_id, segment.id().as_bytes(), &bytes).await.expect("known"));
    assert!(
        agent.put(&order.task_id, segment.id().as_bytes(), &bytes).await.is_err(),
        "the old task is over"
    );
    agent.make_archive(&repository(&running), &again, &files("x")).await;
    let (job, _) = running.ended(&job.id).await;
    assert_eq!((state(&job), job.parts[0].attempt), (JobState::Complete, 2));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_needs_blobs_that_nobody_has_is_not_accepted() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let mut agent = connected(&running, &["models/a"]).await;
    let job = running.start_backup(&[]).await;
    let order = agent.expect_archive().await;
    let sealed = support::archive::seal(&repository(&running), &order, &files("x"));
    let summary = proto::v1::ArchiveSummary { task_id: order.task_id.clone(), ..sealed.summary };
    let answer = agent.finish(summary, sealed.refs).await.expect("answered");
    assert_eq!((answer.accepted, answer.missing.len()), (false, 4));
    agent.make_archive(&repository(&running), &order, &files("x")).await;
    assert_eq!(state(&running.ended(&job.id).await.0), JobState::Complete);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_whose_root_is_none_of_its_blobs_fails_for_good() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let mut agent = connected(&running, &["models/a"]).await;
    let job = running.start_backup(&[]).await;
    let order = agent.expect_archive().await;
    let sealed = support::archive::seal(&repository(&running), &order, &files("x"));
    for segment in &sealed.segments {
        let bytes = [segment.head.to_vec(), segment.body.to_vec()].concat();
        agent.put(&order.task_id, segment.id().as_bytes(), &bytes).await.expect("taken in");
    }
    let summary = proto::v1::ArchiveSummary {
        task_id: order.task_id.clone(),
        root: vec![7; 32].into(),
        ..sealed.summary
    };
    let refused = agent.finish(summary, sealed.refs).await.expect_err("the root is nowhere");
    assert!(refused.message().contains("bug of the agent"), "{refused}");
    let (job, _) = running.ended(&job.id).await;
    assert_eq!((state(&job), job.parts[0].attempt), (JobState::Failed, 1));
    assert!(job.why.contains("page table"), "{}", job.why);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_stopped_gets_its_archive_again_once_it_is_back() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let joined = join(running.addresses.grpc, &running.token().await, "agent").await.expect("joined");
    let mut agent = joined.connect(running.addresses.grpc, &["models/a"]).await.expect("connected");
    let job = running.start_backup(&[]).await;
    let order = agent.expect_archive().await;
    let ended = TaskFailed { task_id: order.task_id, cancelled: true, ..TaskFailed::default() };
    agent.say(Up::Failed(ended)).await;
    assert_eq!(agent.next().await, None, "an agent that stops is given nothing more");

    let mut agent = joined.connect(running.addresses.grpc, &["models/a"]).await.expect("connected again");
    let again = agent.expect_archive().await;
    agent.make_archive(&repository(&running), &again, &files("x")).await;
    let (job, lines) = running.ended(&job.id).await;
    assert_eq!((state(&job), job.parts[0].attempt), (JobState::Complete, 2), "{lines:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_backup_that_cannot_be_read_does_not_make_a_new_one_fail() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let mut agent = connected(&running, &["models/a"]).await;
    let job = running.start_backup(&[]).await;
    let order = agent.expect_archive().await;
    agent.make_archive(&repository(&running), &order, &files("one")).await;
    let (job, _) = running.ended(&job.id).await;
    let old = home.path().join("backups").join(&job.backup).join("backup.json");
    std::fs::remove_file(&old).expect("removed");
    std::fs::create_dir(&old).expect("a folder cannot be read as a file");
    back_up(&running, &mut agent, "two").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_nobody_owns_any_more_is_taken_up_again() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let mut agent = connected(&running, &["models/a"]).await;
    back_up(&running, &mut agent, "one").await;
    // As the catalog holds it after the job's owner has given up on a full disk.
    let order = job::Order::Backup { components: Vec::new(), pin: None, import: None };
    let parts = vec![job::Part::waiting("models/a".parse().expect("a source"), "files")];
    let orphan = job::Job {
        state: job::JobState::Running,
        backup: Some("20300101_010000".parse().expect("a name")),
        parts,
        ..job::Job::queued(JobId::fresh(), order, support::now())
    };
    running.app.catalog.add_job(&orphan, None, None).await.expect("written");

    let next = running.start_backup(&[]).await;
    for id in [orphan.id.to_string(), next.id] {
        let order = agent.expect_archive().await;
        let answer = agent.make_archive(&repository(&running), &order, &files(&id)).await;
        assert!(answer.accepted);
        let (job, lines) = running.ended(&id).await;
        assert_eq!(state(&job), JobState::Complete, "{lines:?}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_suddenly_empty_is_told() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let mut agent = connected(&running, &["models/a"]).await;
    back_up(&running, &mut agent, &"much ".repeat(100)).await;
    let job = running.start_backup(&[]).await;
    let order = agent.expect_archive().await;
    assert!(order.expected_bytes > 1 << 20);
    agent.make_archive(&repository(&running), &order, &support::archive::Files::new()).await;
    let (job, lines) = running.ended(&job.id).await;
    assert_eq!(state(&job), JobState::Complete, "{lines:?}");
    let told = "models/a had 1.4 MiB in the last backup and is empty now: is it mounted?";
    assert!(lines.iter().any(|line| line == told), "{lines:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_outlives_the_controller() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let joined = join(running.addresses.grpc, &running.token().await, "agent").await.expect("joined");
    let mut agent = joined.connect(running.addresses.grpc, &["models/a"]).await.expect("connected");
    let job = running.start_backup(&[]).await;
    agent.expect_archive().await;
    running.stop().await;

    let running = start(home.path()).await;
    let mut agent = joined.connect(running.addresses.grpc, &["models/a"]).await.expect("connected again");
    let order = agent.expect_archive().await;
    agent.make_archive(&repository(&running), &order, &files("x")).await;
    let (job, lines) = running.ended(&job.id).await;
    assert_eq!((state(&job), job.parts[0].attempt), (JobState::Complete, 2), "{lines:?}");
    running.stop().await;
}
