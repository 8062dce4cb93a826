//! The store in a bucket, alone: on a server in memory, and in the suite `s3` (`NEURASHIELD_S3=minio`) the
//! same on MinIO. What is asked of every store is asked of it; then every request in turn comes to harm.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use repository::store::lease::{DEFAULT_TTL, Holder, Lease, LeaseError};
use repository::store::location::{Bucket, Location};
use repository::store::s3::{Credentials, Patience, S3Options, S3Store};
use repository::store::{ABANDONED, ObjectPath, Store, StoreError, conformance, probe};
use tests::s3::{FakeS3, Habits, Harm, KEY_ID, Minio, Proxy, REGION, SECRET};
use uuid::Uuid;
use zeroize::Zeroizing;

const BUCKET: &str = "backups";

fn path(text: &str) -> ObjectPath {
    ObjectPath::new(text)
}

fn options(port: u16) -> S3Options {
    S3Options {
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        region: Some(REGION.to_owned()),
        credentials: Some(Credentials {
            key_id: KEY_ID.to_owned(),
            secret: Zeroizing::new(SECRET.to_owned()),
            session_token: None,
        }),
        allow_http: true,
        patience: Patience {
            first_pause: Duration::from_millis(2),
            longest_pause: Duration::from_millis(50),
            ..Patience::default()
        },
        ..S3Options::default()
    }
}

/// A store under a prefix that nobody has used.
fn fresh(port: u16) -> S3Store {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let prefix = path("tests").join(NEXT.fetch_add(1, Ordering::Relaxed));
    let bucket = Bucket { name: BUCKET.to_owned(), prefix: Some(prefix) };
    S3Store::open(&bucket, &options(port)).expect("these settings fit")
}

fn whole_bucket(port: u16) -> S3Store {
    S3Store::open(&Bucket { name: BUCKET.to_owned(), prefix: None }, &options(port)).expect("settings fit")
}

/// The servers that this run is about.
enum Server {
    Fake(FakeS3),
    Minio(Minio),
}

impl Server {
    fn start() -> Self {
        if std::env::var("NEURASHIELD_S3").as_deref() != Ok("minio") {
            return Server::Fake(FakeS3::start(BUCKET, Habits::default()));
        }
        let minio = Minio::start();
        minio.make_bucket(BUCKET);
        Server::Minio(minio)
    }

    fn port(&self) -> u16 {
        match self {
            Server::Fake(fake) => fake.port(),
            Server::Minio(minio) => minio.port(),
        }
    }

    fn is_fake(&self) -> bool {
        matches!(self, Server::Fake(_))
    }
}

#[test]
fn it_keeps_what_every_store_promises() {
    let server = Server::start();
    conformance::check(|| Box::new(fresh(server.port())));
}

#[test]
fn it_keeps_it_for_one_writer_where_conditions_are_ignored_and_says_so() {
    let habits = Habits { ignores_conditions: true, ..Habits::default() };
    let fake = FakeS3::start(BUCKET, habits);
    conformance::check_for_one_writer(|| Box::new(fresh(fake.port())));
    let told = probe::probe(&whole_bucket(fake.port())).expect("fit for one writer");
    assert!(told.len() == 1 && told[0].contains("ignores conditional writes"), "{told:?}");
}

#[test]
fn it_passes_the_probe_and_the_bucket_is_left_as_it_was() {
    let server = Server::start();
    let store = whole_bucket(server.port());
    store.replace(&path("foreign/thing"), b"kept").expect("written");
    assert_eq!(probe::probe(&store).expect("fit"), Vec::<String>::new());
    let left = [("thing".to_owned(), 4)];
    assert_eq!(store.list_all(&path("foreign")).expect("listed"), left);
    assert_eq!(store.list(None).expect("listed").len(), 1);
}

#[test]
fn a_probe_leaves_nothing_though_lists_show_nothing_new() {
    let fake = FakeS3::start(BUCKET, Habits { lag: Duration::from_secs(600), ..Habits::default() });
    probe::probe(&whole_bucket(fake.port())).expect("fit");
    assert_eq!(fake.keys(BUCKET), Vec::<String>::new());
}

#[test]
fn what_outgrows_memory_goes_in_parts_and_comes_back_equal() {
    let server = Server::start();
    let store = fresh(server.port());
    let big: Vec<u8> = (0..27_000_001_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let upload = || {
        let mut upload = store.upload().expect("begun");
        big.chunks(3_000_000).for_each(|part| upload.write(part).expect("written"));
        upload
    };
    upload().finish(&path("repository/packs/big")).expect("finished");
    assert!(store.read(&path("repository/packs/big"), 1 << 30).expect("read") == big);
    let again = upload().finish(&path("repository/packs/big"));
    assert!(matches!(again, Err(StoreError::AlreadyExists { .. })), "{again:?}");
    drop(upload());
    let staging = path("repository/staging");
    tests::wait_for("the parts of dropped uploads to go", 10, || {
        store.list_all(&staging).expect("listed").is_empty().then_some(())
    });
    if let Server::Fake(fake) = &server {
        assert_eq!(fake.open_uploads(), 0);
        // A process that dies in the middle of it drops nothing.
        std::mem::forget(upload());
        assert_eq!((fake.open_uploads(), store.sweep().expect("swept")), (1, 0), "too young");
        fake.age(BUCKET, "", Duration::from_secs(25 * 3600));
        assert_eq!((store.sweep().expect("swept"), fake.open_uploads()), (1, 0));
        assert_eq!(store.list_all(&staging).expect("listed"), []);
    }
}

/// One of everything. What it leaves is the same whatever happened on the way.
fn life(store: &dyn Store) -> Result<(), StoreError> {
    let content = |name: &str, bytes: &[u8]| -> Result<(), StoreError> {
        assert_eq!(store.read(&path(name), 1 << 20)?, bytes, "{name}");
        Ok(())
    };
    store.create(&path("created"), b"whole")?;
    match store.create(&path("created"), b"second") {
        Err(StoreError::AlreadyExists { .. }) => {}
        other => return other.map(|()| panic!("a name was taken twice")),
    }
    content("created", b"whole")?;
    store.replace(&path("replaced"), b"first")?;
    store.replace(&path("replaced"), b"second")?;
    content("replaced", b"second")?;
    let mut upload = store.upload()?;
    upload.write(b"a pack")?;
    upload.finish(&path("packs/ab/pack"))?;
    assert_eq!(store.size(&path("packs/ab/pack"))?, 6);
    assert_eq!(store.read_range(&path("packs/ab/pack"), 2, 4)?, b"pack");
    store.rename(&path("packs/ab/pack"), &path("trash/pack"))?;
    content("trash/pack", b"a pack")?;
    let (from, to) = (path("staging/one"), path("20260101_010000"));
    let place = store.stage(&from, &to, "backup.json", "job")?;
    store.create(&place.join("models/source.json"), b"manifest")?;
    store.create(&from.join("backup.json"), b"backup")?;
    store.publish(&from, &to, "backup.json")?;
    content("20260101_010000/backup.json", b"backup")?;
    content("20260101_010000/models/source.json", b"manifest")?;
    store.create(&path("deleted/one"), b"x")?;
    store.create(&path("deleted/two"), b"x")?;
    store.delete(&path("deleted/one"))?;
    store.delete_folder(&path("deleted"))?;
    let names: Vec<String> = store.list(None)?.into_iter().map(|listed| listed.name).collect();
    assert_eq!(names, ["20260101_010000", "created", "replaced", "trash"]);
    Ok(())
}

#[test]
fn whichever_request_comes_to_harm_the_work_is_done_once_and_right() {
    let server = Server::start();
    let proxy = Proxy::to(server.port());
    life(&fresh(proxy.port())).expect("nothing is in the way");
    let requests = proxy.take_seen().len() as u64;
    assert!(requests > 30, "{requests}");
    // In the gate every request is hurt once, in turn in each way; in the suite in all of them.
    let is_long = std::env::var_os("NEURASHIELD_S3").is_some();
    for nth in 1..=requests {
        let harms = Harm::ALL.into_iter().enumerate();
        for (_, harm) in harms.filter(|(way, _)| is_long || nth as usize % Harm::ALL.len() == *way) {
            let before = proxy.harmed();
            proxy.harm(nth, harm);
            life(&fresh(proxy.port())).unwrap_or_else(|error| {
                panic!("request {nth}, {harm:?}: {error}: {}", source(&error));
            });
            assert_eq!(proxy.harmed(), before + 1, "request {nth} came to no harm");
            proxy.take_seen();
        }
    }
}

#[test]
fn of_many_requests_that_come_to_harm_none_does_damage() {
    let server = Server::start();
    let proxy = Proxy::to(server.port());
    let seeds = if std::env::var_os("NEURASHIELD_S3").is_some() { 100 } else { 10 };
    for seed in 0..seeds {
        proxy.harm_at_random(5, seed);
        // It may give up, with an error; what it said to be done is as it should be.
        if let Err(error) = life(&fresh(proxy.port())) {
            assert!(matches!(error, StoreError::Failed { .. }), "seed {seed}: {error}");
        }
    }
    assert!(proxy.harmed() > seeds);
}

fn source(error: &dyn std::error::Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

#[test]
fn an_unfinished_folder_is_ended_so_that_a_late_writer_cannot_publish_it() {
    let fake = FakeS3::start(BUCKET, Habits::default());
    let store = whole_bucket(fake.port());
    let (from, to, last) =
        (path("repository/staging/20260101_010000"), path("20260101_010000"), "backup.json");
    let place = store.stage(&from, &to, last, "job one").expect("begun");
    store.create(&place.join("models/source.json"), b"manifest").expect("created");
    store.create(&from.join(last), b"backup").expect("created");
    let other = store.stage(&from, &to, last, "job two");
    assert!(matches!(other, Err(StoreError::AlreadyExists { .. })), "{other:?}");
    assert!(!store.abandon(&from, &to, last).expect("asked"), "its writer may be at work");
    store.read(&place.join("models/source.json"), 100).expect("still there");

    fake.age(BUCKET, "repository/staging", Duration::from_secs(25 * 3600));
    assert!(store.abandon(&from, &to, last).expect("ended"));
    assert_eq!(fake.keys(BUCKET), ["20260101_010000/backup.json"]);
    assert_eq!(store.read(&to.join(last), 100).expect("read"), ABANDONED);
    // The writer was only asleep, and had its last object in memory.
    let late = store.create(&to.join(last), b"backup");
    assert!(matches!(late, Err(StoreError::AlreadyExists { .. })), "{late:?}");
    let late = store.stage(&from, &to, last, "job one");
    assert!(matches!(late, Err(StoreError::AlreadyExists { .. })), "{late:?}");
}

#[test]
fn a_folder_that_was_published_is_never_ended() {
    let fake = FakeS3::start(BUCKET, Habits::default());
    let store = whole_bucket(fake.port());
    let (from, to, last) =
        (path("repository/staging/20260101_010000"), path("20260101_010000"), "backup.json");
    let place = store.stage(&from, &to, last, "job").expect("begun");
    store.create(&place.join("models/source.json"), b"manifest").expect("created");
    // As after a crash between the put of the last object and the clearing of the claim.
    store.create(&to.join(last), b"backup").expect("created");
    fake.age(BUCKET, "", Duration::from_secs(25 * 3600));
    assert!(store.abandon(&from, &to, last).expect("asked"));
    assert_eq!(fake.keys(BUCKET), ["20260101_010000/backup.json", "20260101_010000/models/source.json"]);
    assert_eq!(store.read(&to.join(last), 100).expect("read"), b"backup");
}

fn holder(number: u128) -> Holder {
    Holder { id: Uuid::from_u128(number), host: format!("host-{number}") }
}

fn take(store: &S3Store, number: u128, second: i64) -> Result<Lease, LeaseError> {
    let at = Timestamp::from_second(1_800_000_000 + second).expect("a time");
    Lease::acquire(Arc::new(store.clone()), &holder(number), at, DEFAULT_TTL)
}

#[test]
fn the_lease_has_one_holder_though_lists_show_nothing_new() {
    let fake = FakeS3::start(BUCKET, Habits { lag: Duration::from_secs(600), ..Habits::default() });
    let (one, two) = (whole_bucket(fake.port()), whole_bucket(fake.port()));
    let first = take(&one, 1, 0).expect("free");
    assert!(matches!(take(&two, 2, 1), Err(LeaseError::Held { .. })));
    let second = take(&two, 2, 100).expect("the first has slept past its time");
    assert!(matches!(first.check(), Err(LeaseError::Lost { .. })));
    second.check().expect("still held");
    assert_eq!((first.fence(), second.fence()), (1, 2));
}

#[test]
fn where_conditions_are_ignored_one_of_two_keeps_the_lease() {
    let fake = FakeS3::start(BUCKET, Habits { ignores_conditions: true, ..Habits::default() });
    let stores = [whole_bucket(fake.port()), whole_bucket(fake.port())];
    let start = std::sync::Barrier::new(2);
    let held: Vec<Lease> = std::thread::scope(|scope| {
        let start = &start;
        let want = |(number, store)| {
            start.wait();
            take(store, number, 0).ok()
        };
        let threads: Vec<_> = (1..).zip(&stores).map(|one| scope.spawn(move || want(one))).collect();
        threads.into_iter().filter_map(|thread| thread.join().expect("no panic")).collect()
    });
    let right: Vec<_> = held.iter().filter(|lease| lease.check().is_ok()).collect();
    assert_eq!(right.len(), 1, "{held:?}");
}

#[test]
fn refusals_are_told_in_plain_words_and_never_with_a_secret() {
    let server = Server::start();
    let port = server.port();
    let asked = |options: S3Options, bucket: &str| {
        let bucket = Bucket { name: bucket.to_owned(), prefix: None };
        let store = S3Store::open(&bucket, &options).expect("settings fit");
        let error = store.read(&path("repository/config.json"), 100).expect_err("refused");
        assert!(!error.is_not_found(), "{error:?}");
        let words = format!("{error}: {}", source(&error));
        assert!(
            !words.contains(SECRET) && !format!("{error:?} {options:?} {store:?}").contains(SECRET),
            "{words}"
        );
        words
    };
    let with = |key_id: &str, secret: &str| S3Options {
        credentials: Some(Credentials {
            key_id: key_id.to_owned(),
            secret: Zeroizing::new(secret.to_owned()),
            session_token: None,
        }),
        ..options(port)
    };
    assert!(asked(options(port), "nowhere").contains("the bucket does not exist"));
    assert!(asked(with("nobody", SECRET), BUCKET).contains("does not know this access key"));
    if !server.is_fake() {
        assert!(asked(with(KEY_ID, "wrong"), BUCKET).contains("the secret of the access key is wrong"));
    }
    let elsewhere = S3Options { region: Some("us-west-9".to_owned()), ..options(port) };
    let words = asked(elsewhere, BUCKET);
    assert!(words.contains(&format!("the bucket lies in the region {REGION}")), "{words}");

    let patience = Patience { retries: 1, ..options(port).patience };
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let closed = silent.local_addr().expect("bound").port();
    drop(silent);
    let words = asked(S3Options { patience, ..options(closed) }, BUCKET);
    assert!(words.contains("the server cannot be reached"), "{words}");
    let plain = S3Options { allow_http: false, ..options(port) };
    let refused =
        S3Store::open(&Bucket { name: BUCKET.to_owned(), prefix: None }, &plain).expect_err("refused");
    assert!(refused.to_string().contains("is not encrypted"), "{refused}");
}

#[test]
fn a_server_that_does_not_answer_is_given_up_in_time() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let patience = Patience {
        small: Duration::from_millis(200),
        large: Duration::from_millis(200),
        retries: 1,
        ..options(port).patience
    };
    let bucket = Bucket { name: BUCKET.to_owned(), prefix: None };
    let store = S3Store::open(&bucket, &S3Options { patience, ..options(port) }).expect("settings fit");
    let started = std::time::Instant::now();
    let error = store.read(&path("object"), 100).expect_err("nobody answers");
    assert!(source(&error).contains("does not answer in time"), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(10));
    // An answer that makes no sense is none.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().filter_map(Result::ok) {
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
        }
    });
    store.read(&path("object"), 100).expect_err("that is no answer");
}

#[test]
fn an_address_of_a_bucket_gives_its_store() {
    let server = Server::start();
    let Location::Bucket(bucket) = format!("s3://{BUCKET}/deep/down").parse().expect("an address") else {
        panic!("a bucket")
    };
    let store = S3Store::open(&bucket, &options(server.port())).expect("settings fit");
    store.create(&path("object"), b"x").expect("created");
    assert_eq!(store.location(), format!("s3://{BUCKET}/deep/down"));
    let names = whole_bucket(server.port()).list_all(&path("deep")).expect("listed");
    assert_eq!(names, [("down/object".to_owned(), 1)]);
}
