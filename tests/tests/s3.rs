//! A repository in a bucket, with the built programs: what people do with one in a folder they do with it. On
//! a server in memory; `tests/run s3` does the same and much more on MinIO.

use std::fs;
use std::path::Path;
use std::process::Command;

use tests::s3::{FakeS3, Habits, Harm, Proxy, SECRET, TestBucket};
use tests::{Answer, Process, System, assert_equal_folders, programs, wait_for};

const DENIED: i32 = 6;

fn data(folder: &Path) {
    fs::create_dir_all(folder.join("deep/down")).expect("made");
    fs::write(folder.join("deep/down/small"), "small").expect("written");
    let bytes = (0..700_000_u32).flat_map(|number| (number.wrapping_mul(2_654_435_761) >> 7).to_le_bytes());
    fs::write(folder.join("large"), bytes.collect::<Vec<_>>()).expect("written");
}

fn running(bucket: &TestBucket, models: &Path) -> System {
    let mut system = System::prepare_in(Some(bucket.clone()), &[("models", models)]);
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    system
}

#[test]
fn a_repository_in_a_bucket_is_backed_up_to_verified_restored_from_and_read_with_no_controller() {
    // Pages of seven names, and lists that show nothing new for a while.
    let lag = std::time::Duration::from_millis(1500);
    let fake = FakeS3::start(TestBucket::NAME, Habits { lag, ..Habits::default() });
    let proxy = Proxy::to(fake.port());
    let bucket = TestBucket::at(proxy.port());
    let folder = tempfile::tempdir().expect("a folder");
    let models = folder.path().join("data/models");
    data(&models);
    let mut system = running(&bucket, &models);
    system.run(&["backup"]);
    fs::write(models.join("new"), "new").expect("written");
    // What passes breaks now and then, and nobody notices.
    proxy.harm_at_random(9, 1);
    let second = system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
    system.run(&["verify"]);
    let to = folder.path().join("restored");
    system.run(&["restore", "--timestamp", "latest", "--to", to.to_str().expect("UTF-8"), "--yes"]);
    assert_equal_folders(&models, &to.join("models"));
    proxy.heal();
    assert!(proxy.harmed() > 3, "{} requests came to harm", proxy.harmed());
    let doctor = system.nsctl(&["doctor"]);
    assert!(doctor.out.contains("the repository can be written"), "{doctor:?}");
    assert!(doctor.out.contains(&bucket.location()), "{doctor:?}");

    // Killed, and started again on what it left.
    system.kill_controller();
    system.start_controller();
    let listing = system.nsctl(&["list", "-o", "json"]).expect(0).json();
    assert_eq!(listing["backups"].as_array().map(Vec::len), Some(2), "{listing:#}");
    let third = system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
    assert!(third > second, "{third} after {second}");
    system.kill_agent();
    system.kill_controller();

    let listed = system.offline("list", &["-o", "json"]).expect(0).json();
    assert_eq!(listed["backups"].as_array().map(Vec::len), Some(3), "{listed:#}");
    assert_eq!((&listed["legacy"], &listed["damaged"]), (&serde_json::json!([]), &serde_json::json!([])));
    system.offline("check", &[]).expect(0);
    let (to, key) = (folder.path().join("offline"), system.recovery_key());
    let words = ["--timestamp", "latest", "--to", to.to_str().expect("UTF-8")];
    let key = ["--recovery-key-file", key.to_str().expect("UTF-8")];
    system.offline("restore", &[&words[..], &key[..]].concat()).expect(0);
    assert_equal_folders(&models, &to.join("models"));

    // A copy of the bucket is a repository in a folder.
    let copy = system.repository();
    let place = copy.to_str().expect("UTF-8");
    system.nsctl(&["repository", "check", "--repository", place]).expect(0);
    assert_eq!(fs::read_dir(copy.join("repository/staging")).map_or(0, Iterator::count), 0);

    for process in [Process::Agent, Process::Controller] {
        assert!(!system.log(process).contains(SECRET), "the secret is in a log");
    }
    assert_eq!(fake.open_uploads(), 0);
}

fn offline(bucket: &TestBucket, words: &[&str], variables: &[(&str, &str)]) -> Answer {
    let mut command = Command::new(programs().join("nsctl"));
    command.arg("repository").args(words).args(["--repository", &bucket.location()]);
    command.envs(bucket.variables()).envs(variables.iter().copied());
    Answer::of(&command.output().expect("nsctl runs"))
}

#[test]
fn a_bucket_is_made_a_repository_and_unlocked_and_what_is_wrong_is_said_in_plain_words() {
    let fake = FakeS3::start(TestBucket::NAME, Habits::default());
    let bucket = TestBucket::at(fake.port());
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key");
    let key = key.to_str().expect("UTF-8");
    let made = offline(&bucket, &["init", "--key-file", key], &[]).expect(0);
    let recovery = folder.path().join("recovery");
    fs::write(&recovery, &made.out).expect("written");
    let recovery = recovery.to_str().expect("UTF-8");
    offline(&bucket, &["key", "confirm", "--recovery-key-file", recovery], &[]).expect(0);
    let slots = offline(&bucket, &["key", "list", "-o", "json"], &[]).expect(0).json();
    assert_eq!(slots["slots"].as_array().map(Vec::len), Some(2), "{slots:#}");
    assert_eq!(slots["recovery_key_confirmed"], true);
    let again = offline(&bucket, &["init", "--key-file", key], &[]).expect(1);
    assert!(again.err.contains("there is a repository"), "{again:?}");
    let other = folder.path().join("other");
    let words = ["key", "add", "--key-file", recovery, "--new-key-file", other.to_str().expect("UTF-8")];
    assert_eq!(offline(&bucket, &words, &[]).code, DENIED);

    let told = |variables: &[(&str, &str)], words: &str| {
        let answer = offline(&bucket, &["list"], variables);
        assert!(answer.code != 0 && answer.err.contains(words), "{answer:?}");
        assert!(!answer.err.contains(SECRET) && !answer.out.contains(SECRET), "{answer:?}");
    };
    told(&[("AWS_ACCESS_KEY_ID", "nobody")], "does not know this access key");
    told(&[("AWS_ACCESS_KEY_ID", "nobody")], "check the bucket: the network to its server, the key");
    told(&[("AWS_REGION", "us-west-9")], "the bucket lies in the region");
    told(&[("NEURASHIELD_S3__ALLOW_HTTP", "false")], "is not encrypted");
    told(&[("AWS_SECRET_ACCESS_KEY", "")], "only one of the two is set");
    let mut elsewhere = Command::new(programs().join("nsctl"));
    elsewhere.args(["repository", "list", "--repository", "s3://nowhere"]).envs(bucket.variables());
    let answer = Answer::of(&elsewhere.output().expect("nsctl runs"));
    assert!(answer.err.contains("the bucket does not exist"), "{answer:?}");
}

#[test]
fn a_second_controller_on_a_bucket_waits_and_takes_over_when_the_first_has_gone() {
    let fake = FakeS3::start(TestBucket::NAME, Habits::default());
    let bucket = TestBucket::at(fake.port());
    let folder = tempfile::tempdir().expect("a folder");
    let models = folder.path().join("models");
    data(&models);
    let key = folder.path().join("key");
    offline(&bucket, &["init", "--key-file", key.to_str().expect("UTF-8")], &[]).expect(0);
    let shared = format!("key: {{ file: {} }}\n", key.display());
    let prepare = || {
        let system = System::prepare_in(Some(bucket.clone()), &[("models", &models)]);
        system.configure_controller(&shared);
        system
    };
    let (mut first, mut second) = (prepare(), prepare());
    first.start_controller();
    second.begin_controller();
    wait_for("the second to say that it waits", 30, || {
        second.log(Process::Controller).contains("waiting for the repository").then_some(())
    });
    assert_ne!(second.nsctl(&["list"]).code, 0);
    first.nsctl(&["list"]).expect(0);
    let process = first.take(Process::Controller);
    let id = rustix::process::Pid::from_child(&process);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("stopped");
    let mut process = process;
    assert!(process.wait().expect("reaped").success());
    wait_for("the second to take over", 30, || (second.nsctl(&["list"]).code == 0).then_some(()));
}

#[test]
fn every_way_to_lose_an_answer_is_survived_by_a_commit() {
    let fake = FakeS3::start(TestBucket::NAME, Habits::default());
    let proxy = Proxy::to(fake.port());
    let bucket = TestBucket::at(proxy.port());
    let folder = tempfile::tempdir().expect("a folder");
    let models = folder.path().join("models");
    data(&models);
    let system = running(&bucket, &models);
    for (round, harm) in Harm::ALL.into_iter().enumerate() {
        fs::write(models.join("new"), round.to_string()).expect("written");
        proxy.harm_when("PUT", "/backup.json", harm);
        system.run(&["backup"]);
        assert_eq!(proxy.harmed(), round as u64 + 1, "{harm:?}");
    }
    let listed = system.offline("list", &["-o", "json"]).expect(0).json();
    assert_eq!(listed["backups"].as_array().map(Vec::len), Some(Harm::ALL.len()), "{listed:#}");
    system.offline("check", &[]).expect(0);
}

#[test]
fn a_backup_that_no_list_shows_when_a_controller_starts_anew_keeps_its_place_in_the_order() {
    let lag = std::time::Duration::from_secs(12);
    let fake = FakeS3::start(TestBucket::NAME, Habits { lag, ..Habits::default() });
    let bucket = TestBucket::at(fake.port());
    let folder = tempfile::tempdir().expect("a folder");
    let models = folder.path().join("models");
    data(&models);
    let mut system = System::prepare_held_in(Some(bucket.clone()), &[("models", &models)]);
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    system.run(&["backup"]);
    let pass = || {
        let since = std::time::Instant::now();
        wait_for("the lists to catch up", 60, || (since.elapsed() > lag).then_some(()));
    };
    // The keys of a repository that was just made are found by a list, too.
    pass();
    let steps = system.steps().clone();
    steps.ask("commit-renamed");
    system.start_job(&["backup"]);
    wait_for("the commit to be there without its line", 60, || steps.reached("commit-renamed"));
    system.kill_controller();
    steps.clear("commit-renamed");
    // The catalog is lost, too: no job asks for this backup again.
    for suffix in ["", "-wal", "-shm"] {
        // Not each of them is always there.
        let _ = fs::remove_file(system.root().join(format!("controller/catalog.sqlite{suffix}")));
    }
    system.start_controller();
    system.await_agent();
    system.run(&["backup"]);
    let sequences = || {
        let listed = system.offline("list", &["-o", "json"]).expect(0).json();
        let backups = listed["backups"].as_array().expect("a list").iter();
        backups.filter_map(|backup| backup["sequence"].as_u64()).collect::<Vec<_>>()
    };
    assert_eq!(sequences(), [3, 2, 1]);
    // And so it is when the lists have caught up.
    pass();
    assert_eq!(sequences(), [3, 2, 1]);
    system.offline("check", &[]).expect(0);
}
