//! The web page over a real socket: who is let in, what another site may not do, what every answer carries.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use controller::audit::Outcome;
use controller::config::Verifying;
use controller::identity::Role;
use jiff::{SignedDuration, Timestamp};
use runtime::clock::{Clock, SystemClock};
use support::{Running, start, start_as};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request as it goes over the wire; the whole answer.
async fn ask(address: SocketAddr, line: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let mut text = format!("{line} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("\r\n{body}"));
    stream.write_all(text.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("answered");
    String::from_utf8(answer).expect("text")
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status")
}

async fn token(running: &Running, role: Role) -> String {
    let made = running.app.create_token(role.word(), role, Some(SignedDuration::from_hours(1)), "test").await;
    made.expect("made").0.to_text().to_string()
}

const HOST: (&str, &str) = ("Host", "localhost:8080");
const OURS: (&str, &str) = ("Origin", "http://localhost:8080");

/// Signs in; the cookie.
async fn sign_in(address: SocketAddr, token: &str) -> String {
    let answer = ask(address, "POST /sign-in", &[HOST, OURS], &format!("token={token}")).await;
    assert_eq!(status(&answer), 303, "{answer}");
    let line = answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    assert!(line.ends_with("; Path=/; Secure; HttpOnly; SameSite=Strict"), "{line}");
    line.split(';').next().expect("a pair").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_session_there_is_the_sign_in_alone_and_a_revoked_token_ends_its_session() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let at = running.addresses.web;
    for path in ["/", "/backups", "/restore", "/jobs/x", "/jobs/x/events", "/audit", "/doctor"] {
        let answer = ask(at, &format!("GET {path}"), &[HOST], "").await;
        assert_eq!(status(&answer), 303, "{path}: {answer}");
        assert!(answer.contains("location: /sign-in?next="), "{answer}");
    }
    let refused = ask(at, "POST /sign-in", &[HOST, OURS], "token=nsat-wrong").await;
    assert_eq!(status(&refused), 401);
    assert!(refused.contains("the token is not accepted") && !refused.contains("nsat-wrong"), "{refused}");
    let cookie = sign_in(at, &token(&running, Role::Viewer).await).await;
    let page = ask(at, "GET /", &[HOST, ("Cookie", &cookie)], "").await;
    assert_eq!(status(&page), 200, "{page}");
    for header in
        ["content-security-policy: default-src 'none'", "x-content-type-options: nosniff", "no-store"]
    {
        assert!(page.contains(header), "{header}: {page}");
    }
    let audit = ask(at, "GET /audit", &[HOST, ("Cookie", &cookie)], "").await;
    assert_eq!(status(&audit), 403, "it is for admins: {audit}");
    running.app.revoke_token("viewer").await.expect("revoked");
    let answer = ask(at, "GET /", &[HOST, ("Cookie", &cookie)], "").await;
    assert_eq!(status(&answer), 303, "{answer}");
    let denied = running.app.audit_entries(None, 100).await.expect("entries");
    let denied = denied.iter().filter(|entry| entry.result == Outcome::Denied).count();
    assert!(denied >= 2, "the wrong token and the viewer's look at the log are in it: {denied}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_site_sends_changes_nothing_and_a_foreign_name_is_not_answered() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let at = running.addresses.web;
    let cookie = sign_in(at, &token(&running, Role::Operator).await).await;
    let cookie = ("Cookie", cookie.as_str());
    let page = ask(at, "GET /", &[HOST, cookie], "").await;
    let key =
        page.split("name=\"key\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a key");
    let form = format!("key={key}");
    let foreign = ("Origin", "http://evil.example");
    let site = ("Sec-Fetch-Site", "cross-site");
    for headers in [&[HOST, cookie][..], &[HOST, cookie, foreign], &[HOST, cookie, OURS, site]] {
        let answer = ask(at, "POST /backups/start", headers, &form).await;
        assert_eq!(status(&answer), 403, "{headers:?}: {answer}");
    }
    let without_key = ask(at, "POST /backups/start", &[HOST, cookie, OURS], "key=00").await;
    assert_eq!(status(&without_key), 403, "{without_key}");
    assert!(running.app.catalog.jobs(10).await.expect("a list").is_empty(), "nothing was ordered");
    for host in ["evil.example", "localhost.evil.example:8080"] {
        let answer = ask(at, "GET /sign-in", &[("Host", host)], "").await;
        assert_eq!(status(&answer), 403, "{host}: {answer}");
    }
    let ordered = ask(at, "POST /backups/start", &[HOST, cookie, OURS], &form).await;
    assert_eq!(status(&ordered), 303, "the page itself may: {ordered}");
    assert_eq!(running.app.catalog.jobs(10).await.expect("a list").len(), 1);
    let left = ask(at, "POST /sign-out", &[HOST, cookie, OURS], &form).await;
    assert_eq!(status(&left), 303, "{left}");
    let after = ask(at, "GET /", &[HOST, cookie], "").await;
    assert!(after.contains("location: /sign-in"), "{after}");
    running.stop().await;
}

/// A clock that a test puts on.
#[derive(Default)]
struct Moved(AtomicI64);

impl Clock for Moved {
    fn now(&self) -> Timestamp {
        SystemClock.now() + SignedDuration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_nobody_used_for_an_hour_ends_and_the_sign_in_leads_back_to_where_one_was() {
    let home = tempfile::tempdir().expect("a folder");
    let clock = Arc::new(Moved::default());
    let running = start_as(home.path(), Verifying::default(), clock.clone()).await;
    let at = running.addresses.web;
    let life = Some(SignedDuration::from_hours(24));
    let made = running.app.create_token("viewer", Role::Viewer, life, "test").await.expect("made");
    let cookie = sign_in(at, made.0.to_text().as_str()).await;
    let cookie = ("Cookie", cookie.as_str());
    let look = async |path: &str| ask(at, &format!("GET {path}"), &[HOST, cookie], "").await;
    clock.0.store(59 * 60, Ordering::SeqCst);
    assert_eq!(status(&look("/").await), 200, "it was used within the hour");
    clock.0.store(120 * 60, Ordering::SeqCst);
    let answer = look("/backups?month=2026-01").await;
    assert_eq!(status(&answer), 303, "{answer}");
    assert!(answer.contains("location: /sign-in?next=%2Fbackups%3Fmonth%3D2026-01\r\n"), "{answer}");
    clock.0.store(121 * 60, Ordering::SeqCst);
    let answer = ask(at, "POST /backups/start", &[HOST, OURS, cookie], "key=x").await;
    assert_eq!(status(&answer), 303, "what it orders is not done: {answer}");
    assert!(running.app.catalog.jobs(10).await.expect("a list").is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_browser_reaches_the_services_past_the_page() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let at = running.addresses.web;
    let cookie = sign_in(at, &token(&running, Role::Admin).await).await;
    let cookie = ("Cookie", cookie.as_str());
    let call = "POST /neurashield.backup.v1.Jobs/StartBackup";
    for kind in ["application/grpc-web+proto", "application/grpc-web-text", "application/grpc"] {
        let kind = ("Content-Type", kind);
        let foreign = ask(at, call, &[HOST, cookie, kind, ("Origin", "http://evil.example")], "").await;
        assert_eq!(status(&foreign), 403, "another site's: {foreign}");
        assert!(!foreign.to_ascii_lowercase().contains("access-control-allow"), "{foreign}");
        let own = ask(at, call, &[HOST, cookie, kind, OURS], "").await;
        assert_eq!(status(&own), 404, "a cookie is no token there: {own}");
    }
    let asked_before = [HOST, ("Origin", "http://evil.example"), ("Access-Control-Request-Method", "POST")];
    let preflight = ask(at, "OPTIONS /backups/start", &asked_before, "").await;
    assert_eq!(status(&preflight), 403, "{preflight}");
    assert!(running.app.catalog.jobs(10).await.expect("a list").is_empty(), "nothing was ordered");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sign_in_leads_to_pages_of_ours_alone() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let token = token(&running, Role::Viewer).await;
    for (next, leads_to) in [
        ("/jobs/x", "/jobs/x"),
        ("//evil.example/", "/"),
        ("https://evil.example/", "/"),
        ("/\\evil.example/", "/"),
        ("/%0d%0ax: y", "/"),
    ] {
        let body = format!("token={token}&next={next}");
        let answer = ask(running.addresses.web, "POST /sign-in", &[HOST, OURS], &body).await;
        assert!(answer.contains(&format!("location: {leads_to}\r\n")), "{next}: {answer}");
    }
    running.stop().await;
}
