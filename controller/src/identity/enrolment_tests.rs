use rcgen::{CertificateParams, KeyPair};
use repository::ids::RepositoryId;

use super::*;
use crate::identity::{AgentCertificate, CertificateRefused};
use crate::state::StateFolder;

struct Place {
    _home: tempfile::TempDir,
    state: StateFolder,
    catalog: Catalog,
    enrolment: Enrolment,
    repository: RepositoryId,
    now: Timestamp,
}

async fn place() -> Place {
    let home = tempfile::tempdir().expect("a folder");
    let state = StateFolder::open(&home.path().join("state")).expect("opened");
    let catalog = Catalog::open(&state.path("catalog.sqlite")).await.expect("a catalog");
    let (repository, now) = (RepositoryId::random(), "2026-03-01T10:00:00Z".parse().expect("a time"));
    let authority = Arc::new(Authority::open(&state, repository, now).expect("an authority"));
    let enrolment = Enrolment::new(authority, catalog.clone());
    Place { _home: home, state, catalog, enrolment, repository, now }
}

/// A certificate request as an agent makes it, which asks for more than it may have.
fn request() -> Vec<u8> {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
    params.serialize_request(&key).expect("a request").der().to_vec()
}

#[tokio::test]
async fn a_token_makes_one_agent_and_a_repeat_by_the_same_key_gives_the_same_agent() {
    let place = place().await;
    let invitation = place.enrolment.invite(&Terms::once(""), None, place.now).await.expect("invited");
    let asked = request();
    let first = place.enrolment.join(&invitation.token, &asked, "web-1", place.now).await.expect("joined");
    let again =
        place.enrolment.join(&invitation.token, &asked, "web-1", place.now).await.expect("joined again");
    assert_eq!(first.agent, again.agent);
    let certificate =
        AgentCertificate::read(&first.issued.certificate, place.repository, place.now).expect("ours");
    assert_eq!((certificate.agent, certificate.name.as_str()), (first.agent, "web-1"));
    let agents = place.catalog.agents().await.expect("listed");
    assert_eq!(agents.iter().map(|agent| agent.name.as_str()).collect::<Vec<_>>(), ["web-1"]);
}

#[tokio::test]
async fn another_key_cannot_use_a_used_token() {
    let place = place().await;
    let token = place.enrolment.invite(&Terms::once(""), None, place.now).await.expect("invited").token;
    place.enrolment.join(&token, &request(), "web-1", place.now).await.expect("joined");
    let second = place.enrolment.join(&token, &request(), "web-2", place.now).await;
    assert!(matches!(second, Err(JoinRefused::Token)), "{second:?}");
}

#[tokio::test]
async fn a_wrong_or_late_token_is_refused() {
    let place = place().await;
    let invitation = place.enrolment.invite(&Terms::once(""), None, place.now).await.expect("invited");
    let guessed = JoinToken::new([1; 32], invitation.token.ca_certificate().to_vec());
    let wrong = place.enrolment.join(&guessed, &request(), "x", place.now).await;
    assert!(matches!(wrong, Err(JoinRefused::Token)));
    let later = invitation.ends_at + SignedDuration::from_secs(1);
    let late = place.enrolment.join(&invitation.token, &request(), "x", later).await;
    assert!(matches!(late, Err(JoinRefused::Token)));
    assert_eq!(place.catalog.agents().await.expect("listed"), []);
}

#[tokio::test]
async fn a_revoked_agent_cannot_come_back_with_its_token() {
    let place = place().await;
    let token = place.enrolment.invite(&Terms::once("db"), None, place.now).await.expect("invited").token;
    let asked = request();
    let joined = place.enrolment.join(&token, &asked, "other", place.now).await.expect("joined");
    place.catalog.revoke(joined.agent, place.now).await.expect("revoked");
    assert_eq!(place.catalog.is_admitted(joined.agent).await.expect("known"), Some(false));
    let again = place.enrolment.join(&token, &asked, "other", place.now).await;
    assert!(matches!(again, Err(JoinRefused::Revoked)));
    assert_eq!(place.catalog.agents().await.expect("listed")[0].name, "db", "the invitation names the agent");
}

#[tokio::test]
async fn a_broken_certificate_request_is_refused_and_leaves_the_token_good() {
    let place = place().await;
    let token = place.enrolment.invite(&Terms::once(""), None, place.now).await.expect("invited").token;
    let mut forged = request();
    let middle = forged.len() / 2;
    forged[middle] ^= 1;
    for wrong in [forged, vec![0; 20_000], Vec::new()] {
        let refused = place.enrolment.join(&token, &wrong, "x", place.now).await;
        assert!(matches!(refused, Err(JoinRefused::Authority(_))), "{refused:?}");
    }
    place.enrolment.join(&token, &request(), "x", place.now).await.expect("the token is still good");
}

#[tokio::test]
async fn a_certificate_counts_in_its_time_and_for_its_repository_only() {
    let place = place().await;
    let authority = place.enrolment.authority();
    let issued = authority
        .certify(&request(), AgentId::fresh(), "a", &SourceBounds::default(), place.now)
        .expect("certified");
    let read = |repository, now| AgentCertificate::read(&issued.certificate, repository, now).map(|_| ());
    assert_eq!(read(place.repository, place.now), Ok(()));
    assert_eq!(read(RepositoryId::random(), place.now), Err(CertificateRefused::OtherRepository));
    assert_eq!(read(place.repository, issued.ends_at), Err(CertificateRefused::OutOfTime));
    let server = authority.server(&["localhost".into(), "127.0.0.1".into()], place.now).expect("a server");
    let (_, pem) = x509_parser::pem::parse_x509_pem(server.certificate.as_bytes()).expect("PEM");
    let as_agent = AgentCertificate::read(&pem.contents, place.repository, place.now).map(|_| ());
    assert_eq!(as_agent, Err(CertificateRefused::NotAnAgent));
}

#[tokio::test]
async fn the_authority_outlives_a_restart() {
    let place = place().await;
    let again = Authority::open(&place.state, place.repository, place.now).expect("opened again");
    assert_eq!(again.certificate(), place.enrolment.authority().certificate());
}

fn join_key(name: &str, uses: u32, sources: &[&str]) -> Terms {
    let bounds = SourceBounds::new(sources).expect("patterns");
    Terms { name: name.to_owned(), is_reusable: true, uses, bounds }
}

#[tokio::test]
async fn a_join_key_lets_so_many_in_and_its_bounds_stay_in_their_certificates() {
    let place = place().await;
    let terms = join_key("node-*", 2, &["models/*"]);
    let token = place.enrolment.invite(&terms, None, place.now).await.expect("invited").token;
    let stranger = place.enrolment.join(&token, &request(), "web-1", place.now).await;
    assert!(matches!(stranger, Err(JoinRefused::Name)), "{stranger:?}");
    let asked = request();
    let first = place.enrolment.join(&token, &asked, "node-1", place.now).await.expect("joined");
    let again = place.enrolment.join(&token, &asked, "node-1", place.now).await.expect("joined again");
    assert_eq!(first.agent, again.agent, "a repeat takes no use");
    place.enrolment.join(&token, &request(), "node-2", place.now).await.expect("joined");
    let third = place.enrolment.join(&token, &request(), "node-3", place.now).await;
    assert!(matches!(third, Err(JoinRefused::Token)), "{third:?}");

    let read = |der: &[u8]| AgentCertificate::read(der, place.repository, place.now).expect("ours");
    let certificate = read(&first.issued.certificate);
    assert_eq!(certificate.bounds, terms.bounds);
    let renewed = place.enrolment.renew(&certificate, &asked, place.now).await.expect("renewed");
    assert_eq!(read(&renewed.certificate).bounds, terms.bounds, "a renewal does not widen them");
    let other = place.enrolment.renew(&certificate, &request(), place.now).await;
    assert!(matches!(other, Err(JoinRefused::OtherKey)), "{other:?}");
}

#[tokio::test]
async fn a_key_belongs_to_one_agent() {
    let place = place().await;
    let first = place.enrolment.invite(&Terms::once("a"), None, place.now).await.expect("invited").token;
    let second = place.enrolment.invite(&Terms::once("b"), None, place.now).await.expect("invited").token;
    let asked = request();
    place.enrolment.join(&first, &asked, "a", place.now).await.expect("joined");
    let copied = place.enrolment.join(&second, &asked, "b", place.now).await;
    assert!(matches!(copied, Err(JoinRefused::KeyInUse)), "{copied:?}");
    place.enrolment.join(&second, &request(), "b", place.now).await.expect("the token is still good");
}

#[tokio::test]
async fn an_invitation_is_listed_while_it_is_open_and_can_be_taken_back() {
    let place = place().await;
    let invite = |terms: Terms| {
        let place = &place;
        async move { place.enrolment.invite(&terms, None, place.now).await.expect("invited").token }
    };
    let (key, used) = (invite(join_key("*", 5, &[])).await, invite(Terms::once("")).await);
    place.enrolment.join(&used, &request(), "a", place.now).await.expect("joined");
    place.enrolment.join(&key, &request(), "b", place.now).await.expect("joined");
    let open = place.catalog.open_invitations(place.now).await.expect("listed");
    assert_eq!(open.iter().map(|one| (one.used, one.terms.uses)).collect::<Vec<_>>(), [(1, 5)]);
    let id = &open[0].id;
    place.catalog.revoke_invitation(id, place.now).await.expect("revoked").expect("it was open");
    assert_eq!(place.catalog.revoke_invitation(id, place.now).await.expect("looked"), None);
    let late = place.enrolment.join(&key, &request(), "c", place.now).await;
    assert!(matches!(late, Err(JoinRefused::Token)), "{late:?}");
}

#[tokio::test]
async fn an_agent_cannot_renew_again_and_again() {
    let place = place().await;
    let token = place.enrolment.invite(&Terms::once("a"), None, place.now).await.expect("invited").token;
    let asked = request();
    let joined = place.enrolment.join(&token, &asked, "a", place.now).await.expect("joined");
    let certificate =
        AgentCertificate::read(&joined.issued.certificate, place.repository, place.now).expect("ours");
    for _ in 0..4 {
        place.enrolment.renew(&certificate, &asked, place.now).await.expect("an answer may be lost");
    }
    let fifth = place.enrolment.renew(&certificate, &asked, place.now).await;
    assert!(matches!(fifth, Err(JoinRefused::TooOften)), "{fifth:?}");
    let later = place.now + SignedDuration::from_mins(10);
    place.enrolment.renew(&certificate, &asked, later).await.expect("renewed");
}

/// The terms of an agent of the account `shop/agent`, of which there may be two.
fn terms(name: &str) -> AccountTerms {
    AccountTerms {
        account: crate::identity::Account::of_user("system:serviceaccount:shop:agent").expect("an account"),
        name: name.to_owned(),
        is_named: true,
        bounds: "models/*".parse().expect("patterns"),
        most: 2,
    }
}

#[tokio::test]
async fn a_service_account_and_a_name_are_one_agent_whatever_its_pods_bring_along() {
    let place = place().await;
    let mut seen = Vec::new();
    for _ in 0..20 {
        let joined = place.enrolment.join_by_account(&terms("main"), &request(), place.now).await;
        let joined = joined.expect("joined");
        let certificate =
            AgentCertificate::read(&joined.issued.certificate, place.repository, place.now).expect("ours");
        assert_eq!(
            (certificate.name.as_str(), certificate.bounds.to_string()),
            ("main", "models/*".to_owned())
        );
        seen.push(joined.agent);
    }
    seen.dedup();
    assert_eq!(seen.len(), 1);
    assert_eq!(place.catalog.agents().await.expect("listed").len(), 1);

    let other = request();
    let second = place.enrolment.join_by_account(&terms("second"), &other, place.now).await.expect("joined");
    assert_ne!(second.agent, seen[0]);
    let third = place.enrolment.join_by_account(&terms("third"), &request(), place.now).await;
    assert!(matches!(third, Err(JoinRefused::AccountFull)), "{third:?}");
    let taken = place.enrolment.join_by_account(&terms("main"), &other, place.now).await;
    assert!(matches!(taken, Err(JoinRefused::KeyInUse)), "{taken:?}");
    // A node that is gone for good is revoked, and its place is free.
    place.catalog.revoke(second.agent, place.now).await.expect("revoked");
    place.enrolment.join_by_account(&terms("third"), &request(), place.now).await.expect("joined");
}

#[tokio::test]
async fn a_revoked_agent_of_a_service_account_stays_out_and_a_token_s_agent_is_not_its() {
    let place = place().await;
    let joined =
        place.enrolment.join_by_account(&terms("main"), &request(), place.now).await.expect("joined");
    place.catalog.revoke(joined.agent, place.now).await.expect("revoked");
    let again = place.enrolment.join_by_account(&terms("main"), &request(), place.now).await;
    assert!(matches!(again, Err(JoinRefused::AccountRevoked)), "{again:?}");
    // An agent that was invited under the same name is another one, and its key stays its own.
    let token = place.enrolment.invite(&Terms::once("second"), None, place.now).await.expect("invited").token;
    let asked = request();
    let invited = place.enrolment.join(&token, &asked, "second", place.now).await.expect("joined");
    let taken = place.enrolment.join_by_account(&terms("second"), &asked, place.now).await;
    assert!(matches!(taken, Err(JoinRefused::KeyInUse)), "{taken:?}");
    let own = place.enrolment.join_by_account(&terms("second"), &request(), place.now).await.expect("joined");
    assert_ne!(own.agent, invited.agent);
}
