//! The controller's port under attack, on the built programs: wrong identities are refused; floods, slow
//! and endless streams end; memory stays flat, files come back, and others are served meanwhile.
//!
//! `NEURASHIELD_ABUSE=long` is the long form: 100,000 resets of each kind, and minutes of slow streams.

#[path = "abuse_support/mod.rs"]
mod support;

use std::fs;

use proto::Failure;
use proto::failure::reason;
use proto::v1::ListBlobsRequest;
use proto::v1::agent_gateway_client::AgentGatewayClient;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair};
use support::{Forger, Identity, Target, target};
use tests::{Process, System, wait_for};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// What the controller's memory may grow by, in KiB: the noise of the allocator and of buffers that are
/// kept for the next connection.
const MAY_GROW: u64 = 16 << 10;

fn token(system: &System, arguments: &[&str]) -> String {
    let mut all = vec!["agent", "invite", "-o", "json"];
    all.extend(arguments);
    system.nsctl(&all).expect(0).json()["token"].as_str().expect("a token").to_owned()
}

/// Why a call of an agent fails with this identity; `None` if the connection does not even come to be.
async fn refusal(target: &Target, shown: Option<&Identity>) -> Option<Failure> {
    let channel = target.channel(shown).await.ok()?;
    let mut gateway = AgentGatewayClient::new(channel);
    let call = gateway.list_blobs(ListBlobsRequest { task_id: "x".into(), ..Default::default() });
    Some(Failure::from(call.await.expect_err("there is no such task")))
}

/// True for an identity that TLS does not take: the call fails for want of a connection.
fn is_cut_off(refusal: &Option<Failure>) -> bool {
    refusal.as_ref().is_none_or(|failure| failure.reason == reason::UNREACHABLE)
}

#[test]
fn no_wrong_identity_gets_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let system = System::start(&[("models", folder.path())]);
    let once = token(&system, &["--name", "mallory"]);
    let target = target(system.grpc_port(), &once);
    let threads = Runtime::new().expect("threads");
    let refused = |shown: Option<&Identity>| threads.block_on(refusal(&target, shown));
    let reason_of = |shown: Option<&Identity>| refused(shown).expect("connected").reason;
    let join = |token: &str, name: &str| threads.block_on(target.join(token, name));
    let denied = |token: &str, name: &str| Failure::from(join(token, name).map(|_| ()).expect_err("refused"));

    let mallory = join(&once, "x").expect("joined");
    assert_eq!(reason_of(Some(&mallory)), reason::TASK_GONE, "a right identity is let in");
    assert_eq!(reason_of(None), reason::CERTIFICATE_REFUSED);
    assert_eq!(denied(&once, "x").reason, reason::TOKEN_REFUSED, "a token is used once");
    let key = ["--reusable", "--uses", "1", "--name", "node-*", "--sources", "models/*"];
    let key = token(&system, &key);
    assert_eq!(denied(&key, "web").reason, reason::TOKEN_REFUSED, "another name");
    join(&key, "node-1").expect("joined");
    assert_eq!(denied(&key, "node-2").reason, reason::TOKEN_REFUSED, "a join key is used up");
    let taken_back = token(&system, &["--name", "late"]);
    let open = system.nsctl(&["agent", "invites", "-o", "json"]).expect(0).json();
    let late = open["invitations"].as_array().expect("a list").iter().find(|one| one["name"] == "late");
    let id = late.expect("it is listed")["id"].as_str().expect("an id").to_owned();
    system.nsctl(&["agent", "invites", "--revoke", &id]).expect(0);
    assert_eq!(denied(&taken_back, "late").reason, reason::TOKEN_REFUSED, "it was taken back");

    let pair = KeyPair::generate().expect("a key");
    let own = CertificateParams::new(Vec::new()).expect("no names").self_signed(&pair).expect("signed");
    let own = Identity { certificate: own.pem(), key: pair.serialize_pem(), uri: String::new() };
    assert!(is_cut_off(&refused(Some(&own))), "signed by itself");
    let forger = Forger::with_key_of(&system.root().join("controller"));
    let uri = mallory.uri.clone();
    let client = || ExtendedKeyUsagePurpose::ClientAuth;
    assert_eq!(
        reason_of(Some(&forger.certificate(&uri, 2040, client()))),
        reason::TASK_GONE,
        "the forger can"
    );
    assert!(is_cut_off(&refused(Some(&forger.certificate(&uri, 2025, client())))), "its time is over");
    let server = forger.certificate(&uri, 2040, ExtendedKeyUsagePurpose::ServerAuth);
    assert!(is_cut_off(&refused(Some(&server))), "a server's certificate is no client's");
    let elsewhere = "spiffe://00000000000000000000000000000000/agent/x";
    let elsewhere = forger.certificate(elsewhere, 2040, client());
    assert_eq!(reason_of(Some(&elsewhere)), reason::CERTIFICATE_REFUSED, "of no agent of this repository");

    let other = System::start(&[("models", folder.path())]);
    let stranger = token(&other, &["--name", "stranger"]);
    let there = support::target(other.grpc_port(), &stranger);
    let stranger = threads.block_on(there.join(&stranger, "stranger")).expect("joined there");
    assert!(is_cut_off(&refused(Some(&stranger))), "of another controller");
    system.nsctl(&["agent", "revoke", "mallory", "--yes"]).expect(0);
    assert_eq!(reason_of(Some(&mallory)), reason::AGENT_REVOKED);
    system.run(&["backup"]);
}

#[test]
fn a_port_under_attack_stays_small_and_serves_others() {
    let is_long = std::env::var("NEURASHIELD_ABUSE").is_ok_and(|form| form == "long");
    let resets = if is_long { 100_000 } else { 5_000 };
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("weights"), vec![7; 5 << 20]).expect("written");
    let system = System::start(&[("models", folder.path())]);
    system.run(&["backup"]);
    let invitation = token(&system, &["--name", "mallory"]);
    let target = target(system.grpc_port(), &invitation);
    let threads = Runtime::new().expect("threads");
    let mallory = threads.block_on(target.join(&invitation, "mallory")).expect("joined");
    let memory = || system.proc(Process::Controller, "status", "VmHWM");
    let (small, files) = (memory(), system.open_files(Process::Controller));

    let mut attacks = JoinSet::new();
    let _inside = threads.enter();
    attacks.spawn(reset_for_ever(support::resets(target.clone(), None, resets)));
    attacks.spawn(reset_for_ever(support::resets(target.clone(), Some(mallory.clone()), resets)));
    attacks.spawn(support::pings(target.clone(), 20_000));
    attacks.spawn(support::settings(target.clone(), 20_000));
    attacks.spawn({
        let target = target.clone();
        async move { support::no_tls(target, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await }
    });
    attacks.spawn({
        let target = target.clone();
        async move { support::no_tls(target, &[0xa5; 64 << 10]).await }
    });
    attacks.spawn(support::silent(target.clone(), 200));
    attacks.spawn(support::idle(target.clone()));
    attacks.spawn(support::trickle(target.clone()));
    attacks.spawn(support::oversized(target.clone()));
    let upload = support::endless_upload(target.clone(), mallory, 90);
    if is_long {
        attacks.spawn(upload);
    } else {
        drop(upload);
    }
    // Meanwhile the work goes on.
    let mut served = 0;
    while !attacks.is_empty() {
        system.run(&["backup"]);
        system.nsctl(&["list"]).expect(0);
        served += 1;
        while let Some(ended) = attacks.try_join_next() {
            ended.expect("the attack ended as it should");
        }
    }
    assert!(served > 1, "{served} backups while it was attacked");
    let grown = memory().saturating_sub(small);
    eprintln!("{served} backups meanwhile; the highest memory grew from {small} KiB by {grown} KiB");
    assert!(grown < MAY_GROW, "the controller's memory grew from {small} KiB by {grown} KiB");
    wait_for("the connections' files to come back", 40, || {
        (system.open_files(Process::Controller) <= files + 4).then_some(())
    });
    system.run(&["verify"]);
}

/// The attack, which itself sees to it that its connections end.
async fn reset_for_ever(attack: impl Future<Output = usize>) {
    let connections = attack.await;
    eprintln!("the resets took {connections} connections");
}
