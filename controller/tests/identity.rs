//! Who gets in, over real sockets.

mod support;

use std::time::{Duration, Instant};

use proto::Failure;
use proto::failure::reason;
use proto::v1::agent_gateway_client::AgentGatewayClient;
use proto::v1::jobs_client::JobsClient;
use proto::v1::{ListBlobsRequest, ListJobsRequest, WatchJobRequest};
use rcgen::{CertificateParams, KeyPair};
use support::agent::{Joined, channel, join};
use support::start;
use tonic::{Code, Status};

fn failure(status: Status) -> Failure {
    Failure::from(status)
}

async fn list_blobs(joined: &Joined, address: std::net::SocketAddr) -> Failure {
    let task = ListBlobsRequest { task_id: "x".into(), ..Default::default() };
    failure(joined.gateway(address).await.list_blobs(task).await.expect_err("no such task"))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_there_is_joining_and_nothing_else() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let token = running.token().await;
    let ca = support::agent::pem(token.ca_certificate());
    let nobody = channel(running.addresses.grpc, &ca, None).await;
    let task = ListBlobsRequest { task_id: "x".into(), ..Default::default() };
    let refused = AgentGatewayClient::new(nobody.clone()).list_blobs(task).await.expect_err("refused");
    assert_eq!(failure(refused).reason, reason::CERTIFICATE_REFUSED);
    let person = JobsClient::new(nobody).list_jobs(ListJobsRequest::default()).await.expect_err("refused");
    assert_eq!(
        (person.code(), failure(person.clone()).reason.as_str()),
        (Code::Unauthenticated, reason::DENIED)
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_joins_one_agent() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let token = running.token().await;
    let joined = join(running.addresses.grpc, &token, "first").await.expect("joined");
    let second = join(running.addresses.grpc, &token, "second").await.map(|joined| joined.id);
    assert_eq!(failure(second.expect_err("used up")).reason, reason::TOKEN_REFUSED);
    assert_eq!(list_blobs(&joined, running.addresses.grpc).await.reason, reason::TASK_GONE);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_does_not_even_connect() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let joined = join(running.addresses.grpc, &running.token().await, "agent").await.expect("joined");
    let key = KeyPair::generate().expect("a key");
    let forged = CertificateParams::new(Vec::new()).expect("no names").self_signed(&key).expect("signed");
    let forged = Joined { certificate: forged.pem(), key: key.serialize_pem(), ..joined };
    // With TLS 1.3 a client hears of the refusal at its first call.
    let connected =
        tokio::spawn(async move { forged.connect(running.addresses.grpc, &[]).await.map(|_| ()) });
    assert!(!matches!(connected.await, Ok(Ok(()))));
    running.shutdown.request();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_agent_is_cut_off_and_stays_out_even_when_the_catalog_is_lost() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let revoked = join(running.addresses.grpc, &running.token().await, "bad").await.expect("joined");
    let good = join(running.addresses.grpc, &running.token().await, "good").await.expect("joined");
    let mut agent = revoked.connect(running.addresses.grpc, &["models/a"]).await.expect("connected");
    running.app.revoke("bad").await.expect("revoked");
    assert_eq!(agent.next().await, None, "the control stream is cut");
    assert_eq!(list_blobs(&revoked, running.addresses.grpc).await.reason, reason::AGENT_REVOKED);
    running.stop().await;

    for suffix in ["", "-wal", "-shm"] {
        // SQLite removes two of them at a clean end.
        let _ = std::fs::remove_file(home.path().join(format!("state/catalog.sqlite{suffix}")));
    }
    let running = start(home.path()).await;
    assert!(running.app.agents().await.expect("listed").is_empty());
    assert_eq!(list_blobs(&revoked, running.addresses.grpc).await.reason, reason::AGENT_REVOKED);
    let _agent = good.connect(running.addresses.grpc, &["models/a"]).await.expect("taken in again");
    let agents = running.app.agents().await.expect("listed");
    let good = agents.iter().find(|agent| agent.name == "good").expect("it has its name again");
    assert_eq!((good.sources.len(), good.revoked_at), (1, None));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_cannot_touch_the_task_of_another() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let one = join(running.addresses.grpc, &running.token().await, "one").await.expect("joined");
    let two = join(running.addresses.grpc, &running.token().await, "two").await.expect("joined");
    let mut one = one.connect(running.addresses.grpc, &["models/a"]).await.expect("connected");
    let mut two = two.connect(running.addresses.grpc, &[]).await.expect("connected");
    running.start_backup(&[]).await;
    let order = one.expect_archive().await;
    let task = ListBlobsRequest { task_id: order.task_id.clone(), ..Default::default() };
    let refused = two.gateway.list_blobs(task.clone()).await.expect_err("not its task");
    assert_eq!(failure(refused).reason, reason::TASK_GONE);
    let refused = two.put(&order.task_id, &[1; 16], b"x").await.expect_err("not its task");
    assert_eq!(failure(refused).reason, reason::TASK_GONE);
    one.gateway.list_blobs(task).await.expect("its own task");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_open_streams() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let joined = join(running.addresses.grpc, &running.token().await, "agent").await.expect("joined");
    let mut agent = joined.connect(running.addresses.grpc, &["models/a"]).await.expect("connected");
    let job = running.start_backup(&[]).await;
    agent.expect_archive().await;
    let watch = WatchJobRequest { id: job.id, after: 0 };
    let mut events = running.jobs().await.watch_job(watch).await.expect("watched").into_inner();
    let began = Instant::now();
    running.stop().await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let ended = loop {
        match events.message().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert_eq!(failure(ended.expect_err("the watcher is told")).reason, reason::UNREACHABLE);
    assert_eq!(agent.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_belongs_to_the_agent_that_served_it_first() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let address = running.addresses.grpc;
    let serves = |name: &'static str| {
        let app = running.app.clone();
        move || async move {
            let agents = app.agents().await.expect("listed");
            let newest = agents.into_iter().rfind(|agent| agent.name == name).expect("there");
            (
                newest.sources.len(),
                newest
                    .refused
                    .into_iter()
                    .map(|owned| match owned.owner {
                        controller::catalog::Owner::Another(name) => name,
                        controller::catalog::Owner::OutOfBounds => "out of bounds".to_owned(),
                    })
                    .collect::<Vec<_>>(),
            )
        }
    };
    let first = join(address, &running.token().await, "first").await.expect("joined");
    let _first = first.connect(address, &["models/a"]).await.expect("connected");
    let thief = join(address, &running.token().await, "thief").await.expect("joined");
    let line = thief.connect(address, &["models/a", "ipfs/b"]).await.expect("connected");
    assert_eq!(serves("thief")().await, (1, vec!["first".to_owned()]));
    let connected = running.app.fleet.connected();
    let served =
        connected.iter().filter(|agent| agent.sources.iter().any(|s| s.source.to_string() == "models/a"));
    assert_eq!(served.count(), 1, "it is asked for nothing of that source");
    drop(line);

    let namesake = join(address, &running.token().await, "first").await.expect("joined");
    let _line = namesake.connect(address, &["models/a"]).await.expect("connected");
    assert_eq!(serves("first")().await, (0, vec!["first".to_owned()]), "it chose that name itself");

    let invitation = running.app.invite("first", None).await.expect("invited");
    let reinstalled = join(address, &invitation.token, "first").await.expect("joined");
    let _line = reinstalled.connect(address, &["models/a"]).await.expect("connected");
    assert_eq!(serves("first")().await, (1, vec![]));

    running.app.revoke(&reinstalled.id).await.expect("revoked");
    let _line = thief.connect(address, &["models/a", "ipfs/b"]).await.expect("connected");
    assert_eq!(serves("thief")().await, (2, vec![]), "the operator has revoked its owner");
    running.stop().await;
}
