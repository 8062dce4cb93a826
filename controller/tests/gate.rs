//! Who may make which call, over the real wire: every caller there is makes every call there is.

mod support;

use std::collections::BTreeSet;

use jiff::SignedDuration;
use proto::Failure;
use proto::api_token::ApiToken;
use proto::failure::reason;
use proto::v1::jobs_client::JobsClient;
use proto::v1::{ListJobsRequest, WatchJobRequest};
use support::agent::{channel, join};
use support::{Running, start};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use controller::audit::{Kind, Outcome};
use controller::identity::Role;

const ANYONE: &[&str] = &["/neurashield.backup.v1.Enrolment/Join", "/grpc.health.v1.Health/Check"];
const VIEWER: &[&str] = &[
    "/neurashield.backup.v1.Backups/ListBackups",
    "/neurashield.backup.v1.Backups/GetBackup",
    "/neurashield.backup.v1.Backups/GetHistory",
    "/neurashield.backup.v1.Backups/ListEntries",
    "/neurashield.backup.v1.Jobs/ListJobs",
    "/neurashield.backup.v1.Jobs/GetJob",
    "/neurashield.backup.v1.Jobs/WatchJob",
    "/neurashield.backup.v1.Agents/ListAgents",
    "/neurashield.backup.v1.Schedules/ListSchedules",
    "/neurashield.backup.v1.Configuration/ListAlertSinks",
    "/neurashield.backup.v1.Health/Examine",
    "/neurashield.backup.v1.Health/GetRoom",
    "/neurashield.backup.v1.Alerts/ListAlerts",
    "/neurashield.backup.v1.Alerts/ListDeliveries",
    "/neurashield.backup.v1.Retention/GetRetention",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/neurashield.backup.v1.Signers/ListSigners",
];
const OPERATOR: &[&str] = &[
    "/neurashield.backup.v1.Backups/ReadFile",
    "/neurashield.backup.v1.Backups/ExportArchive",
    "/neurashield.backup.v1.Jobs/StartBackup",
    "/neurashield.backup.v1.Jobs/StartVerify",
    "/neurashield.backup.v1.Jobs/PlanRestore",
    "/neurashield.backup.v1.Jobs/StartRestore",
    "/neurashield.backup.v1.Jobs/CancelJob",
    "/neurashield.backup.v1.Alerts/TestSink",
    "/neurashield.backup.v1.Retention/PlanRetention",
    "/neurashield.backup.v1.Retention/PlanPrune",
    "/neurashield.backup.v1.Retention/PinBackup",
    "/neurashield.backup.v1.Schedules/RunSchedule",
];
const ADMIN: &[&str] = &[
    "/neurashield.backup.v1.Health/Describe",
    "/neurashield.backup.v1.Agents/InviteAgent",
    "/neurashield.backup.v1.Agents/RevokeAgent",
    "/neurashield.backup.v1.Agents/ListInvitations",
    "/neurashield.backup.v1.Agents/RevokeInvitation",
    "/neurashield.backup.v1.Signers/SetSigner",
    "/neurashield.backup.v1.Tokens/CreateToken",
    "/neurashield.backup.v1.Tokens/ListTokens",
    "/neurashield.backup.v1.Tokens/RevokeToken",
    "/neurashield.backup.v1.Audit/ListAudit",
    "/neurashield.backup.v1.Audit/CheckAudit",
    "/neurashield.backup.v1.Retention/SetRetention",
    "/neurashield.backup.v1.Schedules/SetSchedule",
    "/neurashield.backup.v1.Schedules/RemoveSchedule",
    "/neurashield.backup.v1.Schedules/PauseSchedule",
    "/neurashield.backup.v1.Schedules/ResumeSchedule",
    "/neurashield.backup.v1.Retention/StartRetention",
    "/neurashield.backup.v1.Retention/StartPrune",
    "/neurashield.backup.v1.Retention/UnpinBackup",
];
const AGENT: &[&str] = &[
    "/neurashield.backup.v1.AgentGateway/Control",
    "/neurashield.backup.v1.AgentGateway/ListBlobs",
    "/neurashield.backup.v1.AgentGateway/PutSegment",
    "/neurashield.backup.v1.AgentGateway/FinishArchive",
    "/neurashield.backup.v1.AgentGateway/OpenArchive",
    "/neurashield.backup.v1.AgentGateway/FetchBlobs",
    "/neurashield.backup.v1.AgentGateway/RenewCertificate",
];

fn all_calls() -> BTreeSet<&'static str> {
    [ANYONE, VIEWER, OPERATOR, ADMIN, AGENT].concat().into_iter().collect()
}

/// Somebody who calls.
#[derive(Clone)]
struct Caller {
    name: &'static str,
    channel: Channel,
    authorization: Option<String>,
    may: BTreeSet<&'static str>,
}

/// Makes a call with an empty message and waits for its first answer.
async fn call(caller: Caller, path: &'static str) -> Result<(), Status> {
    // A message without fields, which every other one can be read as.
    type Empty = ListJobsRequest;
    let mut grpc = tonic::client::Grpc::new(caller.channel);
    grpc.ready().await.expect("connected");
    let mut request = Request::new(Empty::default());
    if let Some(text) = &caller.authorization {
        request.metadata_mut().insert("authorization", text.parse().expect("a header"));
    }
    let codec = tonic_prost::ProstCodec::<Empty, proto::v1::ListBackupsRequest>::default();
    let answer = grpc.server_streaming(request, path.parse().expect("a path"), codec).await?;
    answer.into_inner().message().await.map(|_| ())
}

fn is_denied(status: &Status) -> bool {
    matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied)
}

/// Every call there is, all at once, as refused ones wait.
async fn make_all_calls(callers: &[Caller]) -> Vec<(Caller, &'static str, Result<(), Status>)> {
    let mut calls = JoinSet::new();
    for caller in callers {
        for path in all_calls() {
            let caller = caller.clone();
            calls.spawn(async move { (caller.clone(), path, call(caller, path).await) });
        }
    }
    calls.join_all().await
}

async fn token(running: &Running, role: Role, life: Option<SignedDuration>) -> ApiToken {
    running.app.create_token(role.word(), role, life, "test").await.expect("made").0
}

fn bearer(token: &ApiToken) -> Option<String> {
    Some(format!("Bearer {}", *token.bearer()))
}

fn set(parts: &[&[&'static str]]) -> BTreeSet<&'static str> {
    parts.concat().into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_caller_may_do_what_its_role_says_and_nothing_else() {
    let calls: BTreeSet<&str> = proto::METHODS.iter().copied().collect();
    let ours: BTreeSet<&str> = all_calls().into_iter().filter(|call| call.contains("neurashield")).collect();
    assert_eq!(calls, ours, "a new call needs its place in the lists above");

    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let address = running.addresses.grpc;
    let joined = join(address, &running.token().await, "agent").await.expect("joined");
    // A connection for each, so that those that wait do not hold up the others.
    let mut connections = Vec::new();
    for _ in 0..13 {
        connections.push(channel(address, &joined.ca, None).await);
    }
    let with_certificate = channel(address, &joined.ca, Some((&joined.certificate, &joined.key))).await;
    let admin = token(&running, Role::Admin, None).await;
    let expired = token(&running, Role::Admin, Some(SignedDuration::from_millis(1))).await;
    let revoked = token(&running, Role::Admin, None).await;
    let id = uuid::Uuid::from_bytes(*revoked.id()).to_string();
    running.app.revoke_token(&id).await.expect("revoked");

    let mut caller = |name, authorization, may: &[&[&'static str]]| {
        let channel = connections.pop().expect("one for each");
        Caller { name, channel, authorization, may: set(may) }
    };
    let wrong_secret = ApiToken::new(*admin.id(), [0; 32], None);
    let refused = [
        caller("expired", bearer(&expired), &[ANYONE]),
        caller("revoked", bearer(&revoked), &[ANYONE]),
        caller("of another controller", bearer(&ApiToken::new([1; 16], [2; 32], None)), &[ANYONE]),
        caller("wrong secret", bearer(&wrong_secret), &[ANYONE]),
        caller("malformed", Some("Bearer nstok1-1-2".to_owned()), &[ANYONE]),
        caller("of another kind", Some("Basic YWRtaW46YWRtaW4=".to_owned()), &[ANYONE]),
    ];
    let others = [
        caller("no token", None, &[ANYONE]),
        Caller { channel: with_certificate.clone(), ..caller("an agent", None, &[ANYONE, AGENT]) },
        Caller {
            channel: with_certificate,
            ..caller("an agent with a token", bearer(&admin), &[ANYONE, AGENT])
        },
    ];

    // Those who may little first: afterwards nothing may have happened.
    let before = running.app.api_tokens().await.expect("listed").len();
    let mut answers = make_all_calls(&refused).await;
    // Agents' calls want a certificate; all others tell nothing of the token.
    let people = answers.iter().filter(|(_, path, _)| ![ANYONE, AGENT].concat().contains(path));
    let told: Vec<Failure> =
        people.map(|(_, _, answer)| Failure::from(answer.as_ref().expect_err("refused"))).collect();
    assert!(told.iter().all(|failure| *failure == told[0]), "one answer for all: {told:?}");
    answers.extend(make_all_calls(&others).await);
    assert!(running.app.catalog.jobs(10).await.expect("listed").is_empty());
    assert_eq!(running.app.api_tokens().await.expect("listed").len(), before);
    assert_eq!(running.app.agents().await.expect("listed").len(), 1);
    assert_eq!(running.app.invitations().await.expect("listed"), []);
    let kept = running.app.audit_entries(None, 1_000).await.expect("listed");
    let by_agents = |call: &str| call == "AgentGateway/RenewCertificate" || call == "Enrolment/Join";
    assert!(kept.iter().all(|entry| entry.result == Outcome::Denied || by_agents(&entry.call)));
    let denied: u64 = kept
        .iter()
        .filter(|entry| entry.result == Outcome::Denied && entry.kind == Kind::Nobody)
        .map(|entry| entry.times.max(1))
        .sum();
    assert!(denied >= 6 * (all_calls().len() - ANYONE.len()) as u64, "every denial is counted: {denied}");

    let others = [
        caller("viewer", bearer(&token(&running, Role::Viewer, None).await), &[ANYONE, VIEWER]),
        caller("operator", bearer(&token(&running, Role::Operator, None).await), &[ANYONE, VIEWER, OPERATOR]),
        caller("admin", bearer(&admin), &[ANYONE, VIEWER, OPERATOR, ADMIN]),
        Caller {
            channel: running.people().await,
            ..caller("the socket", None, &[ANYONE, VIEWER, OPERATOR, ADMIN])
        },
    ];
    answers.extend(make_all_calls(&others).await);
    for (caller, path, answer) in answers {
        let denied = answer.as_ref().err().filter(|status| is_denied(status));
        let may = caller.may.contains(path);
        assert_eq!(may, denied.is_none(), "{}: {path}: {answer:?}", caller.name);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_tells_nothing_and_a_call_that_nobody_knows_is_denied() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let ca = support::agent::pem(running.token().await.ca_certificate());
    let tls = channel(running.addresses.grpc, &ca, None).await;
    let caller = |authorization| Caller { name: "", channel: tls.clone(), authorization, may: set(&[]) };
    let expired = token(&running, Role::Viewer, Some(SignedDuration::from_millis(1))).await;
    // A call may take less.
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let unknown = ApiToken::new([1; 16], [2; 32], None);
    let mut answers = Vec::new();
    for token in [bearer(&expired), bearer(&unknown), Some("Bearer x".to_owned())] {
        answers.push(Failure::from(call(caller(token), VIEWER[0]).await.expect_err("refused")));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!((answers[0].code, answers[0].reason.as_str()), (Code::Unauthenticated, reason::TOKEN_REFUSED));

    let nowhere = "/neurashield.backup.v1.Backups/DeleteEverything";
    let stranger = call(caller(None), nowhere).await.expect_err("denied");
    assert_eq!(stranger.code(), Code::Unauthenticated);
    let known = caller(bearer(&token(&running, Role::Viewer, None).await));
    let known = call(known, nowhere).await.expect_err("there is no such call");
    assert_eq!(known.code(), Code::Unimplemented);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_revoked_or_runs_out_ends_its_open_streams() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let address = running.addresses.grpc;
    let joined = join(address, &running.token().await, "agent").await.expect("joined");
    let mut agent = joined.connect(address, &["models/a"]).await.expect("connected");
    let job = running.start_backup(&[]).await;
    agent.expect_archive().await;

    let short = Some(SignedDuration::from_millis(1_500));
    let [revoked, ending, good] = [
        token(&running, Role::Viewer, None).await,
        token(&running, Role::Viewer, short).await,
        token(&running, Role::Viewer, None).await,
    ];
    let tls = channel(address, &joined.ca, None).await;
    let watch = |token: &ApiToken| {
        let mut request = Request::new(WatchJobRequest { id: job.id.clone(), after: 0 });
        request.metadata_mut().insert("authorization", bearer(token).expect("text").parse().expect("ASCII"));
        let mut jobs = JobsClient::new(tls.clone());
        async move {
            let mut events = jobs.watch_job(request).await.expect("watched").into_inner();
            events.message().await.expect("the past of the job");
            events
        }
    };
    let (mut cut, mut late, mut open) = (watch(&revoked).await, watch(&ending).await, watch(&good).await);
    running.app.revoke_token(&uuid::Uuid::from_bytes(*revoked.id()).to_string()).await.expect("revoked");
    for stream in [&mut cut, &mut late] {
        let ended = async {
            loop {
                if let Err(status) = stream.message().await {
                    return status;
                }
            }
        };
        let status = tokio::time::timeout(support::PATIENCE, ended).await.expect("the stream ends");
        assert_eq!(Failure::from(&status).reason, reason::TOKEN_REFUSED, "{status:?}");
    }
    // The job ends, and whoever may still look sees it.
    drop(agent);
    let cancel = proto::v1::CancelJobRequest { id: job.id.clone() };
    running.jobs().await.cancel_job(cancel).await.expect("cancelled");
    let seen = async { while open.message().await.expect("its token counts").is_some() {} };
    tokio::time::timeout(support::PATIENCE, seen).await.expect("the stream ends with the job");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_is_in_the_log_with_who_and_what_and_without_a_secret() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let ca = support::agent::pem(running.token().await.ca_certificate());
    let tls = channel(running.addresses.grpc, &ca, None).await;
    let operator = token(&running, Role::Operator, None).await;
    let mut request = Request::new(proto::v1::StartBackupRequest::default());
    request.metadata_mut().insert("authorization", bearer(&operator).expect("text").parse().expect("ASCII"));
    let job = JobsClient::new(tls.clone()).start_backup(request).await.expect("ordered").into_inner();
    let mut tokens = proto::v1::tokens_client::TokensClient::new(running.people().await);
    let request = proto::v1::CreateTokenRequest { name: "ci".into(), role: 1, valid_seconds: 60 };
    let made = tokens.create_token(request).await.expect("made").into_inner();

    let entries = running.app.audit_entries(None, 10).await.expect("listed");
    let told: Vec<_> =
        entries.iter().map(|entry| (entry.kind, entry.call.as_str(), entry.result, entry.of)).collect();
    assert_eq!(
        told,
        [
            (Kind::User, "Tokens/CreateToken", Outcome::Done, 3),
            (Kind::User, "Tokens/CreateToken", Outcome::Begun, 0),
            (Kind::Token, "Jobs/StartBackup", Outcome::Done, 1),
            (Kind::Token, "Jobs/StartBackup", Outcome::Begun, 0),
        ]
    );
    let token = made.token.expect("told");
    assert!(entries[0].about.contains(&token.id) && entries[0].about.contains("viewer"), "{:?}", entries[0]);
    assert!(entries[2].about.contains(&job.id), "{:?}", entries[2]);
    assert_eq!((entries[2].name.as_str(), entries[2].from.as_str()), ("operator", "127.0.0.1"));
    assert!(running.app.check_audit().await.expect("read").finding.is_none());
    let secret = made.text.split('-').nth(2).expect("the secret");
    for file in std::fs::read_dir(home.path().join("state/audit")).expect("a folder") {
        let text = std::fs::read_to_string(file.expect("a file").path()).expect("text");
        assert!(text.contains(&token.id) && !text.contains(secret) && !text.contains("nstok1"), "{text}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_changed_while_the_log_cannot_be_written() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    // The first file of the log cannot be made: something has its name.
    let obstacle = home.path().join("state/audit/00000000000000000001.jsonl");
    std::fs::create_dir(&obstacle).expect("made");
    let request = proto::v1::StartBackupRequest::default();
    let refused = running.jobs().await.start_backup(request.clone()).await.expect_err("refused");
    let refused = Failure::from(refused);
    assert_eq!(refused.what, "nothing is changed while the audit log cannot be written");
    assert!(running.app.catalog.jobs(10).await.expect("listed").is_empty());
    running.jobs().await.list_jobs(ListJobsRequest::default()).await.expect("looking is free");
    std::fs::remove_dir(&obstacle).expect("removed");
    running.jobs().await.start_backup(request).await.expect("ordered");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_restore_planned_is_in_the_log_with_what_should_go_where() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let wanted = proto::v1::PlanRestoreRequest {
        backup: "latest".into(),
        components: vec!["models".into()],
        agent: "elsewhere".into(),
        folder: "/srv/taken".into(),
        ..Default::default()
    };
    let order = proto::v1::StartRestoreRequest { request: Some(wanted.clone()), ..Default::default() };
    running.jobs().await.plan_restore(wanted).await.expect_err("there is no backup");
    running.jobs().await.start_restore(order).await.expect_err("there is no backup");
    let entries = running.app.audit_entries(None, 10).await.expect("listed");
    let ended: Vec<_> = entries.iter().filter(|entry| entry.result == Outcome::Failed).collect();
    let calls: Vec<_> = ended.iter().map(|entry| entry.call.as_str()).collect();
    assert_eq!(calls, ["Jobs/StartRestore", "Jobs/PlanRestore"]);
    for entry in ended {
        for part in ["latest", "models", "elsewhere", "/srv/taken"] {
            assert!(entry.about.contains(part), "{entry:?}");
        }
    }
    running.stop().await;
}
