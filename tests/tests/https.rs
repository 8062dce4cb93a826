//! People and automation from elsewhere: `nsctl` over https with a token, on the built programs.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tests::{Answer, System, assert_equal_folders, programs, wait_for};

/// `nsctl --server SERVER --token-file FILE ARGUMENTS…`.
fn nsctl(server: &str, token_file: &Path, arguments: &[&str]) -> Answer {
    let output = command(server, arguments).env("NSCTL_TOKEN_FILE", token_file).output().expect("nsctl runs");
    Answer {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn command(server: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(programs().join("nsctl"));
    command.args(["--server", server]).args(arguments).stdin(Stdio::null());
    command.env_remove("NSCTL_TOKEN").env_remove("NSCTL_TOKEN_FILE").env_remove("NSCTL_CA_FILE");
    command
}

/// A file that only its owner can read.
fn write(path: PathBuf, text: &str) -> PathBuf {
    let file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("written");
    path
}

/// Makes a token over the socket and keeps it in a file.
fn token(system: &System, name: &str, role: &str) -> PathBuf {
    let made = system.nsctl(&["token", "create", name, "--role", role]).expect(0);
    assert!(made.err.contains("shown only now"), "{}", made.err);
    write(system.root().join(format!("{name}.token")), &made.out)
}

fn https(system: &System) -> String {
    format!("https://localhost:{}", system.grpc_port())
}

#[test]
fn every_verb_works_from_elsewhere_within_the_role_of_its_token() {
    let data = tempfile::tempdir().expect("a folder");
    fs::write(data.path().join("weights"), "weights").expect("written");
    let system = System::start(&[("models", data.path())]);
    let server = https(&system);
    let admin = token(&system, "admin", "admin");
    let by_admin = |arguments: &[&str]| nsctl(&server, &admin, arguments);
    let made = by_admin(&["token", "create", "ci", "--role", "operator", "--expires", "1h", "-o", "json"]);
    let made = made.expect(0).json();
    let operator = write(system.root().join("ci.token"), made["token"].as_str().expect("text"));
    let viewer = token(&system, "screen", "viewer");
    let by_operator = |arguments: &[&str]| nsctl(&server, &operator, arguments);
    let by_viewer = |arguments: &[&str]| nsctl(&server, &viewer, arguments);

    by_viewer(&["backup"]).expect(6);
    assert!(
        system.nsctl(&["jobs", "-o", "json"]).expect(0).json()["jobs"].as_array().is_some_and(Vec::is_empty)
    );
    let job = by_operator(&["backup", "-o", "json"]).expect(0).json();
    let id = job["id"].as_str().expect("an id");
    let listing = by_viewer(&["list", "-o", "json"]).expect(0).json();
    assert_eq!(listing["backups"][0]["name"], job["backup"]);
    let followed = by_viewer(&["logs", id, "-f"]).expect(0);
    assert!(followed.out.lines().count() > 1, "{}", followed.out);
    let examined = by_viewer(&["doctor", "-o", "json"]).expect(0).json();
    assert!(examined["findings"].as_array().is_some_and(|findings| findings.len() > 5), "{examined:#}");

    assert_eq!(by_operator(&["cat", "latest", "models", "weights"]).expect(0).out, "weights");
    let denied = by_viewer(&["cat", "latest", "models", "weights"]).expect(6);
    assert!(
        denied.err.contains("needs the role operator") && denied.err.lines().count() == 3,
        "{}",
        denied.err
    );
    // Names are no content.
    assert!(by_viewer(&["find", "weights"]).expect(0).out.ends_with("  weights\n"));
    let backup = job["backup"].as_str().expect("a backup");
    assert!(by_viewer(&["diff", backup, backup]).expect(0).out.contains(" 0 added (0 B), "));
    let tar = system.root().join("models.tar");
    by_operator(&["export", "latest", "models", "-o", tar.to_str().expect("UTF-8")]).expect(0);
    assert!(fs::read(&tar).expect("there").windows(7).any(|bytes| bytes == b"weights"));
    by_operator(&["verify"]).expect(0);
    let elsewhere = system.root().join("restored");
    let to = elsewhere.to_str().expect("UTF-8");
    by_operator(&["restore", "--timestamp", "latest", "--to", to, "--yes"]).expect(0);
    assert_equal_folders(data.path(), &elsewhere.join("models"));

    for verb in [&["agent", "invite"][..], &["token", "list"], &["audit"], &["audit", "--check"]] {
        by_operator(verb).expect(6);
        by_admin(verb).expect(0);
    }
    let listed = by_admin(&["token", "list", "-o", "json"]).expect(0);
    let secret = made["token"].as_str().and_then(|text| text.split('-').nth(2)).expect("the secret");
    assert!(listed.out.contains("\"ci\"") && !listed.out.contains(secret), "{}", listed.out);
    by_admin(&["token", "revoke", "ci"]).expect(0);
    let revoked = by_operator(&["list"]).expect(6);
    assert!(revoked.err.contains("token is not accepted"), "{}", revoked.err);

    // What was done, by whom, and no secret anywhere.
    let audit = by_admin(&["audit", "-o", "json"]).expect(0);
    let entries = audit.json();
    let entries = entries["entries"].as_array().expect("a list").clone();
    let has = |call: &str, name: &str, result: &str| {
        entries.iter().any(|one| one["call"] == call && one["name"] == name && one["result"] == result)
    };
    assert!(
        has("Jobs/StartBackup", "ci", "done") && has("Jobs/StartBackup", "screen", "denied"),
        "{}",
        audit.out
    );
    assert!(
        has("Backups/ReadFile", "ci", "done") && has("Tokens/RevokeToken", "admin", "done"),
        "{}",
        audit.out
    );
    let log = fs::read_to_string(system.root().join("neurashield-controller.log")).expect("a log");
    assert!(!audit.out.contains(secret) && !log.contains(secret) && !log.contains("nstok1"));
}

#[test]
fn whoever_is_not_the_right_one_is_refused_and_told_why() {
    let data = tempfile::tempdir().expect("a folder");
    let mut system = System::prepare(&[("models", data.path())]);
    // On every address of this machine, so that it has one that its certificate does not name.
    let file = system.root().join("controller.yaml");
    let text = fs::read_to_string(&file).expect("read");
    fs::write(&file, text.replace("grpc: \"127.0.0.1:", "grpc: \"0.0.0.0:")).expect("written");
    system.start_controller();
    let mut other = System::prepare(&[("models", data.path())]);
    other.start_controller();
    let server = https(&system);
    let (own, foreign) = (token(&system, "own", "viewer"), token(&other, "foreign", "admin"));

    nsctl(&server, &own, &["list"]).expect(0);
    let told = |answer: Answer, code: i32, words: &str| {
        let answer = answer.expect(code);
        assert!(answer.err.contains(words) && answer.err.lines().count() == 3, "{}", answer.err);
    };
    told(nsctl(&server, &foreign, &["list"]), 5, "not the controller that the token is for");
    let port = system.grpc_port();
    told(nsctl(&format!("https://127.0.0.2:{port}"), &own, &["list"]), 5, "a certificate for other names");
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    told(nsctl(&format!("https://localhost:{free}"), &own, &["list"]), 5, "nothing listens there");

    // The foreign token without its certificate, and ours cut short, changed and missing.
    let short = |file: &Path| {
        let text = fs::read_to_string(file).expect("read");
        text.trim().rsplit_once('-').expect("its certificate").0.to_owned()
    };
    let without = write(system.root().join("foreign"), &short(&foreign));
    told(nsctl(&server, &without, &["list"]), 2, "does not carry");
    let authority = system.root().join("controller/ca.crt");
    let authority = authority.to_str().expect("UTF-8");
    told(nsctl(&server, &without, &["--ca-file", authority, "list"]), 6, "not accepted");
    let without = write(system.root().join("own-short"), &short(&own));
    nsctl(&server, &without, &["--ca-file", authority, "list"]).expect(0);
    let text = short(&own);
    let changed = text[..text.len() - 1].to_owned() + if text.ends_with('0') { "1" } else { "0" };
    let changed = write(system.root().join("changed"), &changed);
    told(nsctl(&server, &changed, &["--ca-file", authority, "list"]), 6, "not accepted");
    let cut = write(system.root().join("cut"), &text[..40]);
    told(nsctl(&server, &cut, &["list"]), 6, "not the whole of one");
    assert_eq!(command(&server, &["list"]).status().expect("it runs").code(), Some(6), "no token");
}

#[test]
fn a_token_among_the_arguments_leaves_them_at_once() {
    // Accepts and says nothing, so that nsctl waits.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let server = format!("https://localhost:{}", silent.local_addr().expect("bound").port());
    let secret = "ab".repeat(32);
    let token = format!("nstok1-{}-{secret}-3000", "01".repeat(16));
    let mut child = command(&server, &["list", "--token", &token])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    let arguments = format!("/proc/{}/cmdline", child.id());
    wait_for("the token to leave the arguments", 10, || {
        let words = fs::read_to_string(&arguments).ok()?;
        (words.contains("list") && !words.contains(&secret)).then_some(())
    });
    let _ = child.kill();
    let output = child.wait_with_output().expect("it ended");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("everybody on this machine could see") && !said.contains(&secret), "{said}");
}

#[test]
fn a_change_of_the_audit_log_is_found_and_its_line_named() {
    let data = tempfile::tempdir().expect("a folder");
    let mut system = System::prepare(&[("models", data.path())]);
    system.start_controller();
    for name in ["one", "two", "three"] {
        token(&system, name, "viewer");
    }
    let checked = system.nsctl(&["audit", "--check", "-o", "json"]).expect(0).json();
    assert_eq!((&checked["intact"], &checked["lines"]), (&true.into(), &6.into()), "{checked:#}");
    let file = system.root().join("controller/audit/00000000000000000001.jsonl");
    let whole = fs::read_to_string(&file).expect("read");
    fs::write(&file, whole.replace("\"two\"", "\"too\"").replace("\\\"two", "\\\"too")).expect("written");
    let damaged = system.nsctl(&["audit", "--check"]).expect(4);
    assert!(damaged.out.contains("line 4 of 00000000000000000001.jsonl was changed"), "{}", damaged.out);
    fs::write(&file, &whole).expect("written");
    system.nsctl(&["audit", "--check"]).expect(0);

    // The end is cut off while the controller is down, and a line is torn by its crash.
    system.kill_controller();
    let lines: Vec<&str> = whole.lines().collect();
    fs::write(&file, format!("{}\n{{\"seq\":7", whole.trim_end())).expect("written");
    system.start_controller();
    let healed = system.nsctl(&["audit", "--check"]).expect(0);
    assert!(healed.out.contains("7 lines"), "{}", healed.out);
    system.kill_controller();
    fs::write(&file, lines[..4].join("\n") + "\n").expect("written");
    system.start_controller();
    let cut = system.nsctl(&["audit", "--check"]).expect(4);
    assert!(cut.out.contains("5 to 7 are missing"), "{}", cut.out);
    assert!(system.nsctl(&["doctor"]).expect(1).out.contains("audit log is damaged"));
    system.nsctl(&["token", "create", "four", "--role", "viewer"]).expect(0);
}

#[test]
fn commands_that_the_documents_give_do_what_they_say() {
    let data = tempfile::tempdir().expect("a folder");
    fs::write(data.path().join("weights"), "weights").expect("written");
    let system = System::start(&[("models", data.path())]);
    let (server, admin) = (https(&system), token(&system, "admin", "admin"));
    let admin = admin.to_str().expect("UTF-8");
    let backups = || {
        let listed = system.nsctl(&["list", "-o", "json"]).expect(0).json();
        listed["backups"].as_array().expect("a list").clone()
    };
    let output = command(&server, &["--token-file", admin, "backup"]).output().expect("nsctl runs");
    Answer::of(&output).expect(0);
    system.nsctl(&["backup", "--pin", "before 2.0"]).expect(0);
    assert!(backups().iter().any(|backup| backup.to_string().contains("before 2.0")), "{:?}", backups());
    for _ in 0..2 {
        system.nsctl(&["backup", "--request-id", "nightly-20260101"]).expect(0);
    }
    assert_eq!(backups().len(), 3, "an order that is repeated under its name is one order");
    system.nsctl(&["healthcheck"]).expect(0);
    let hourly = ["--backup", "0 * * * *", "--components", "models", "--keep-last", "24"];
    system.nsctl(&[&["schedule", "set", "hourly"][..], &hourly].concat()).expect(0);
    let bounds = ["--uses", "20", "--expires", "1h", "--name", "node-*", "--sources", "models/*"];
    system.nsctl(&[&["agent", "invite", "--reusable"][..], &bounds].concat()).expect(0);
    let invited = system.nsctl(&["agent", "invites"]).expect(0);
    assert!(invited.out.contains("node-*"), "{invited:?}");
    system.nsctl(&["retention", "set", "--keep-within", "30d", "--keep-monthly", "12"]).expect(0);
    let audited = system.nsctl(&["audit", "--since", "2d"]).expect(0);
    assert!(audited.out.contains("StartBackup"), "{audited:?}");
}
