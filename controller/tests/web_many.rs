//! The page over a catalog of many backups: an hour's ones in each hour, of five components.
//!
//! In the gate some hundreds, for what the pages show. With `NEURASHIELD_PAGES=10000`, as the suite `web` runs
//! it, every page has to come within 100 ms, 99 times of a hundred, and the first load has to be small.

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use controller::identity::Role;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use repository::backup::manifest::{ArchiveRecord, BackupRecord, Counts, FORMAT, Outcome};
use repository::ids::RepositoryId;
use repository::signed::Sha256;
use support::{Running, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const COMPONENTS: [&str; 5] = ["blockchain", "configs", "ipfs", "models", "mongodb"];
const IN_THE_GATE: u64 = 400;
const ROUNDS: usize = 200;
const MOST: Duration = Duration::from_millis(100);
const FIRST_LOAD: usize = 200_000;

fn wanted() -> Option<u64> {
    let text = std::env::var("NEURASHIELD_PAGES").ok()?;
    Some(text.parse().expect("NEURASHIELD_PAGES is a number"))
}

fn archive(component: &str) -> ArchiveRecord {
    let counts = Counts { files: 1_000, bytes: 5 << 30, stored_bytes: 50 << 20, ..Counts::default() };
    ArchiveRecord {
        source: format!("{component}/{component}").parse().expect("a source"),
        kind: "files".to_owned(),
        outcome: Outcome::Complete,
        reason: None,
        consistency: None,
        signed: None,
        signer: None,
        counts,
        manifest: Sha256([0; 32]),
        refs: None,
    }
}

fn backup(sequence: u64, at: Timestamp) -> BackupRecord {
    let name = at.to_zoned(TimeZone::UTC).strftime("%Y%m%d_%H%M%S").to_string();
    BackupRecord {
        format: FORMAT,
        repository: RepositoryId::new([1; 16]),
        name: name.parse().expect("a name"),
        sequence,
        job: "job".to_owned(),
        started_at: at,
        ended_at: at,
        outcome: Outcome::Complete,
        pin: None,
        previous: None,
        archives: COMPONENTS.map(archive).into(),
    }
}

/// The answer's head and body, and how long it took from the connection on.
async fn get(address: SocketAddr, path: &str, cookie: &str) -> (String, usize, Duration) {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let text =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nCookie: {cookie}\r\n\r\n");
    stream.write_all(text.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("answered");
    let took = begun.elapsed();
    let length = answer.len();
    (String::from_utf8(answer).expect("text"), length, took)
}

async fn sign_in(running: &Running) -> String {
    let life = Some(SignedDuration::from_hours(1));
    let token = running.app.create_token("viewer", Role::Viewer, life, "test").await.expect("made").0;
    let form = format!("token={}", token.to_text().as_str());
    let mut stream = TcpStream::connect(running.addresses.web).await.expect("it listens");
    let request = format!(
        "POST /sign-in HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{form}",
        form.len()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    let cookie = answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    cookie.split(';').next().expect("a pair").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_calendar_leads_to_every_month_and_no_page_gets_slow_or_large() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    let many = wanted().unwrap_or(IN_THE_GATE);
    let now = running.app.now();
    let ago = |hours: u64| now - SignedDuration::from_hours(i64::try_from(hours).expect("few"));
    let backups: Vec<BackupRecord> = (1..=many).map(|nth| backup(nth, ago(many - nth))).collect();
    running.app.catalog.replace_backups(&backups).await.expect("written");
    let (at, cookie) = (running.addresses.web, sign_in(&running).await);

    let oldest = &backups[0];
    let month = oldest.started_at.to_zoned(TimeZone::UTC).strftime("%Y-%m");
    let day = oldest.started_at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d");
    let (first_day, ..) = get(at, &format!("/backups?month={month}&day={day}"), &cookie).await;
    assert!(first_day.contains(&oldest.name.to_string()), "the oldest backup is found by its day");
    assert!(!first_day.contains("older ones"), "a day's are few");
    let (none, ..) = get(at, &format!("/backups?month={month}&state=failed"), &cookie).await;
    assert!(none.contains("is like that") && !none.contains(&oldest.name.to_string()));

    // The overview tells of all thirty days, however many backups a day has.
    let days = (many / 24).min(30);
    let overview = get(at, "/", &cookie).await.0;
    let said = |days: u64| format!("A complete backup on {days} of the last 30 days");
    assert!((days..=days + 2).any(|days| overview.contains(&said(days))), "{days} days: {overview}");

    let mut first_load = 0;
    for path in ["/", "/assets/style.css", "/assets/page.js", "/assets/icon.svg"] {
        first_load += get(at, path, &cookie).await.1;
    }
    println!("first load of the overview, uncompressed: {first_load} bytes");
    assert!(first_load < FIRST_LOAD);

    if wanted().is_none() {
        return running.stop().await;
    }
    let one = format!("/backups/{}", backups[backups.len() / 2].name);
    let in_the_middle = backups[backups.len() / 2].started_at.to_zoned(TimeZone::UTC).strftime("%Y-%m");
    let middle = format!("/backups?month={in_the_middle}");
    for path in ["/", "/backups", &middle, &one, "/restore", "/jobs", "/schedules", "/agents", "/alerts"] {
        let mut took = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let (answer, _, time) = get(at, path, &cookie).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
            took.push(time);
        }
        took.sort_unstable();
        let (median, p99) = (took[ROUNDS / 2], took[ROUNDS * 99 / 100 - 1]);
        println!("{many} backups, {path}: median {median:.1?}, p99 {p99:.1?}");
        assert!(p99 < MOST, "{path}: {p99:?}");
    }
    running.stop().await;
}
