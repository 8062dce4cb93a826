//! What an agent may do and for how long, over real sockets: its own sources, one process, until it is
//! shut out.

mod support;

use std::time::Duration;

use controller::catalog::Owner;
use controller::identity::{SourceBounds, Terms};
use proto::Failure;
use proto::failure::reason;
use proto::v1::agent_message::Message as Up;
use proto::v1::{
    FetchBlobsRequest, Heartbeat, ListBlobsRequest, OpenArchiveRequest, PutSegmentRequest,
    RenewCertificateRequest,
};
use rcgen::KeyPair;
use support::agent::{Agent, Joined, certificate_request, join};
use support::archive::{files, seal};
use support::{PATIENCE, Running, start};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

async fn joined(running: &Running, name: &str) -> Joined {
    join(running.addresses.grpc, &running.token().await, name).await.expect("joined")
}

fn reason_of(status: Status) -> String {
    Failure::from(status).reason
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_a_revoked_agent_has_open_ends_at_once() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let mut agent = joined(&running, "bad")
        .await
        .connect(running.addresses.grpc, &["models/a"])
        .await
        .expect("connected");
    running.start_backup(&[]).await;
    let order = agent.expect_archive().await;
    let (parts, stream) = mpsc::channel(4);
    let head = PutSegmentRequest {
        task_id: order.task_id.clone(),
        segment_id: vec![1; 16].into(),
        length: 1 << 20,
        data: vec![0; 1_000].into(),
    };
    parts.send(head).await.expect("room");
    let mut gateway = agent.gateway.clone();
    // It never ends by itself.
    let upload = tokio::spawn(async move { gateway.put_segment(ReceiverStream::new(stream)).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!upload.is_finished());
    running.app.revoke("bad").await.expect("revoked");
    let ended = tokio::time::timeout(Duration::from_secs(5), upload).await.expect("at once");
    assert_eq!(reason_of(ended.expect("no panic").expect_err("cut")), reason::AGENT_REVOKED);
    assert_eq!(agent.next().await, None, "the control stream is cut");
    drop(parts);
    running.stop().await;
}

async fn beat(agent: Agent) {
    loop {
        agent.say(Up::Heartbeat(Heartbeat { running_tasks: Vec::new() })).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_with_one_identity_the_first_stays_and_people_are_told() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let first = joined(&running, "twin").await;
    let copy = Joined { instance: [7; 16], ..first.clone() };
    let agent = first.connect(running.addresses.grpc, &["models/a"]).await.expect("connected");
    let beating = tokio::spawn(beat(agent));
    let refused = copy.connect(running.addresses.grpc, &["models/a"]).await.map(|_| ());
    assert_eq!(reason_of(refused.expect_err("refused")), reason::AGENT_CLONED);
    assert!(!beating.is_finished());
    let agents = running.app.agents().await.expect("listed");
    assert_eq!(agents[0].clone.as_ref().map(|clone| clone.host.as_str()), Some("test-host"));
    beating.abort();
    let _ = beating.await;

    // Its connection has ended: a process that was started again is welcome at once.
    let restarted = copy.connect(running.addresses.grpc, &["models/a"]).await.expect("connected");
    drop(restarted);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_can_use_no_task_key_segment_or_blob_of_another() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let address = running.addresses.grpc;
    let mut one = joined(&running, "one").await.connect(address, &["models/a"]).await.expect("connected");
    let mut two = joined(&running, "two").await.connect(address, &["models/b"]).await.expect("connected");
    let job = running.start_backup(&[]).await;
    let (of_one, of_two) = (one.expect_archive().await, two.expect_archive().await);
    let repository = running.app.repository_id().as_bytes().to_vec();
    let sealed = seal(&repository, &of_one, &files("of one"));
    let own = seal(&repository, &of_two, &files("of two"));
    let segment = [sealed.segments[0].head.to_vec(), sealed.segments[0].body.to_vec()].concat();
    let id = sealed.segments[0].id();

    let theirs = of_one.task_id.clone();
    let list = ListBlobsRequest { task_id: theirs.clone(), ..Default::default() };
    assert_eq!(reason_of(two.gateway.list_blobs(list).await.expect_err("refused")), reason::TASK_GONE);
    let put = two.put(&theirs, id.as_bytes(), &segment).await.expect_err("refused");
    assert_eq!(reason_of(put), reason::TASK_GONE);
    let open = OpenArchiveRequest { task_id: theirs.clone() };
    assert_eq!(reason_of(two.gateway.open_archive(open).await.expect_err("refused")), reason::TASK_GONE);
    let fetch = FetchBlobsRequest { task_id: theirs.clone(), blobs: Vec::new() };
    let fetched = two.gateway.fetch_blobs(tokio_stream::iter([fetch])).await.expect_err("refused");
    assert_eq!(reason_of(fetched), reason::TASK_GONE);
    let summary = proto::v1::ArchiveSummary { task_id: theirs.clone(), ..sealed.summary.clone() };
    let finished = two.finish(summary, sealed.refs.clone()).await.expect_err("refused");
    assert_eq!(reason_of(finished), reason::TASK_GONE);
    // Over its own task: a segment sealed in the other's domain, and refs of the other's.
    let foreign = two.put(&of_two.task_id, id.as_bytes(), &segment).await.expect_err("refused");
    assert_eq!(reason_of(foreign), reason::INVALID_REQUEST);
    let summary = proto::v1::ArchiveSummary { task_id: of_two.task_id.clone(), ..sealed.summary.clone() };
    let foreign = two.finish(summary, sealed.refs.clone()).await.expect_err("refused");
    assert_eq!(reason_of(foreign), reason::INVALID_REQUEST);
    // Blobs of the other's segments, in refs of its own domain.
    let domain = own_domain(&of_two);
    let mut claimed = repository::refs::Refs::new(domain);
    claimed.add(
        repository::refs::BlobAddress { segment: id, ordinal: 0 },
        sealed.segments[0].table.header.blobs,
    );
    let summary = proto::v1::ArchiveSummary { task_id: of_two.task_id.clone(), ..own.summary.clone() };
    let answer = two.finish(summary, claimed.encode()).await.expect("answered");
    assert!(!answer.accepted && answer.missing.len() == 1, "{answer:?}");

    // Nothing of it has changed anything: both archives are made as if it had not been.
    assert!(one.make_archive(&repository, &of_one, &files("of one")).await.accepted);
    let answer = two.finish(
        proto::v1::ArchiveSummary { task_id: of_two.task_id.clone(), ..own.summary.clone() },
        claimed.encode(),
    );
    assert!(!answer.await.expect("answered").accepted, "not even now that the other's segment is there");
    assert!(two.make_archive(&repository, &of_two, &files("of two")).await.accepted);
    let (job, lines) = running.ended(&job.id).await;
    assert_eq!(support::state(&job), proto::v1::JobState::Complete, "{lines:?}");
    running.stop().await;
}

fn own_domain(order: &proto::v1::StartArchive) -> repository::ids::DomainId {
    proto::convert::id("domain", &order.domain.as_ref().expect("keys").domain_id).expect("a domain")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bounds_of_a_join_key_hold_as_long_as_the_agent() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let address = running.addresses.grpc;
    let bounds = SourceBounds::new(&["models/*"]).expect("a pattern");
    let terms = Terms { name: "node-*".into(), is_reusable: true, uses: 1, bounds };
    let token = running.app.invite_on(&terms, None).await.expect("invited").token;
    let wrong = join(address, &token, "web").await.map(|_| ()).expect_err("refused");
    assert_eq!(reason_of(wrong), reason::TOKEN_REFUSED);
    let node = join(address, &token, "node-1").await.expect("joined");
    let late = join(address, &token, "node-2").await.map(|_| ()).expect_err("used up");
    assert_eq!(reason_of(late), reason::TOKEN_REFUSED);

    let line = node.connect(address, &["models/a", "configs/b"]).await.expect("connected");
    let agents = running.app.agents().await.expect("listed");
    assert_eq!(agents[0].refused.iter().map(|one| &one.owner).collect::<Vec<_>>(), [&Owner::OutOfBounds]);
    let served: Vec<_> =
        running.app.fleet.connected()[0].sources.iter().map(|s| s.source.to_string()).collect();
    assert_eq!(served, ["models/a"]);
    drop(line);
    running.stop().await;

    for suffix in ["", "-wal", "-shm"] {
        // SQLite removes two of them at a clean end.
        let _ = std::fs::remove_file(home.path().join(format!("state/catalog.sqlite{suffix}")));
    }
    let running = start(home.path()).await;
    let _line = node.connect(running.addresses.grpc, &["configs/b"]).await.expect("taken in again");
    assert!(running.app.fleet.connected()[0].sources.is_empty(), "a lost catalog does not widen them");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_is_for_the_agents_own_key() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let agent = joined(&running, "agent").await;
    let renew = async |key: &KeyPair| {
        let request = RenewCertificateRequest { certificate_request: certificate_request(key).into() };
        let call = async { agent.gateway(running.addresses.grpc).await.renew_certificate(request).await };
        tokio::time::timeout(PATIENCE, call).await.expect("answered")
    };
    let other = renew(&KeyPair::generate().expect("a key")).await.expect_err("refused");
    assert_eq!(reason_of(other), reason::KEY_IN_USE);
    let own = KeyPair::from_pem(&agent.key).expect("its key");
    let renewed = renew(&own).await.expect("renewed").into_inner();
    // An answer that was lost is asked for again.
    let again = renew(&own).await.expect("renewed again").into_inner();
    for certificate in [&renewed.certificate, &again.certificate] {
        let shown = Joined { certificate: support::agent::pem(certificate), ..agent.clone() };
        shown.connect(running.addresses.grpc, &[]).await.expect("each of them counts");
    }
    agent.connect(running.addresses.grpc, &[]).await.expect("and the old one still does");
    running.stop().await;
}
