//! `nsctl` as a shell sees it: words in, exit code, stdout and stderr out.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const NSCTL: &str = env!("CARGO_BIN_EXE_nsctl");

fn run(words: &[&str]) -> Output {
    run_as(Path::new(NSCTL), words)
}

fn run_as(program: &Path, words: &[&str]) -> Output {
    Command::new(program)
        .args(words)
        .env_remove("NSCTL_SERVER")
        .env_remove("NSCTL_TOKEN")
        .env_remove("NSCTL_TOKEN_FILE")
        .env_remove("NSCTL_RECOVERY_KEY_FILE")
        .stdin(Stdio::null())
        .output()
        .expect("nsctl runs")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

#[test]
fn wrong_usage_leaves_with_2_and_help_with_0() {
    for words in [&["backup", "--nonsense"][..], &["nonsense"], &["restore"], &["export", "latest", "models"]]
    {
        assert_eq!(code(&run(words)), 2, "{words:?}");
    }
    for words in [&["--help"][..], &["restore", "--help"], &["repository", "init", "--help"], &["--version"]]
    {
        let output = run(words);
        assert_eq!(code(&output), 0, "{words:?}");
        assert!(!out(&output).is_empty() && err(&output).is_empty());
    }
}

#[test]
fn without_a_controller_every_verb_says_so_in_three_lines_and_leaves_with_5() {
    let server = "unix:///nonexistent/controller.sock";
    for verb in [&["list"][..], &["backup"], &["agent", "list"], &["cat", "latest", "a", "b"]] {
        let output = run(&[&["--server", server], verb].concat());
        assert_eq!(code(&output), 5, "{verb:?}");
        let lines: Vec<String> = err(&output).lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(
            lines[0].starts_with("error: ") && lines[1].contains("why: ") && lines[2].contains("to do: ")
        );
        assert!(out(&output).is_empty());
    }
}

#[test]
fn without_a_controller_the_doctor_says_so_looks_at_the_rest_and_leaves_with_5() {
    let output = run(&["--server", "unix:///nonexistent/controller.sock", "doctor"]);
    assert_eq!(code(&output), 5);
    assert!(out(&output).contains("controller"), "{}", out(&output));
}

#[test]
fn an_address_that_cannot_be_used_is_refused_with_the_reason() {
    let output = run(&["--server", "http://backup.example.org:8443", "list"]);
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("without TLS"), "{}", err(&output));
    let output = run(&["--server", "https://backup.example.org:8443", "list"]);
    assert_eq!(code(&output), 6);
    assert!(err(&output).contains("NSCTL_TOKEN"), "{}", err(&output));
}

#[test]
fn a_restore_off_a_terminal_has_to_be_confirmed_by_a_flag() {
    // The question comes before the plan only where nobody could be asked.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("controller.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
    let answering = std::thread::spawn(move || listener.accept().expect("nsctl connects"));
    let server = format!("unix://{}", socket.display());
    let output = run(&["--server", &server, "restore", "--timestamp", "latest"]);
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("--yes"), "{}", err(&output));
    drop(answering.join());
}

#[test]
fn completions_are_scripts_that_their_shell_understands() {
    let script = run(&["completions", "bash"]);
    assert_eq!(code(&script), 0);
    let mut shell = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().expect("bash runs");
    shell.stdin.take().expect("piped").write_all(&script.stdout).expect("taken");
    assert!(shell.wait().expect("ended").success());
    let script = out(&script);
    assert!(script.contains("restore") && script.contains("--timestamp"));
    assert!(!script.contains("agent-process"), "hidden verbs are not offered");
}

#[test]
fn under_the_name_of_the_runbooks_it_takes_their_flags() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = folder.path().join("backup-recovery.sh");
    symlink(NSCTL, &program).expect("linked");
    let server = ["--server", "unix:///nonexistent/controller.sock"];
    for words in [&["--backup"][..], &["--verify"], &["--restore", "--timestamp", "20260101_010000"]] {
        let output = run_as(&program, &[words, &server].concat());
        assert_eq!(code(&output), 5, "{words:?}: {}", err(&output));
    }
    assert_eq!(code(&run_as(&program, &["list"])), 2);
}

#[test]
fn a_recovery_key_is_shown_once_on_stdout_and_opens_what_it_should() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (repository, key, recovery) = (path("repository"), path("key"), path("recovery"));
    let place = ["--repository", &repository];
    let made = run(&[&["repository", "init", "--key-file", &key][..], &place].concat());
    assert_eq!(code(&made), 0, "{}", err(&made));
    assert!(out(&made).starts_with("NSRK-") && !err(&made).contains("NSRK-"));
    std::fs::write(&recovery, &made.stdout).expect("written");

    let again = run(&[&["repository", "init", "--key-file", &key][..], &place].concat());
    assert_eq!(code(&again), 1);
    let confirmed =
        run(&[&["repository", "key", "confirm", "--recovery-key-file", &recovery][..], &place].concat());
    assert_eq!(code(&confirmed), 0, "{}", err(&confirmed));
    let slots = run(&[&["repository", "key", "list", "-o", "json"][..], &place].concat());
    let slots: serde_json::Value = serde_json::from_slice(&slots.stdout).expect("JSON");
    assert_eq!(slots["recovery_key_confirmed"], true);
    assert_eq!(slots["slots"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_key_of_another_repository_is_denied() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (one, other) = (path("one"), path("other"));
    for (repository, key) in [(&one, path("key-one")), (&other, path("key-other"))] {
        let made = run(&["repository", "init", "--repository", repository, "--key-file", &key]);
        assert_eq!(code(&made), 0, "{}", err(&made));
    }
    let words = ["repository", "key", "add", "--repository", &one, "--key-file", &path("key-other")];
    let added = run(&[&words[..], &["--new-key-file", &path("new")]].concat());
    assert_eq!(code(&added), 6, "{}", err(&added));
    assert!(!Path::new(&path("new")).exists(), "a wrong key is told before anything is made");
}

#[test]
fn the_result_can_be_cut_off_by_its_reader() {
    let mut nsctl =
        Command::new(NSCTL).args(["completions", "bash"]).stdout(Stdio::piped()).spawn().expect("runs");
    drop(nsctl.stdout.take());
    assert!(nsctl.wait().expect("ended").success());
}
