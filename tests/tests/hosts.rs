//! The units for systemd and the script that installs them, looked at by systemd itself.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

use tests::{programs, project};

fn install(root: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(project().join("deploy/systemd/install"));
    command.arg(programs()).args(words).env("DESTDIR", root).output().expect("it runs")
}

fn analyze(root: &Path, words: &[&str]) -> Output {
    let mut command = Command::new("systemd-analyze");
    command.arg(format!("--root={}", root.display())).args(words);
    command.output().expect("this test needs systemd-analyze: install systemd")
}

#[test]
fn what_the_script_installs_is_what_systemd_takes_and_calls_hardened() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path();
    let installed = install(root, &[]);
    assert!(installed.status.success(), "{installed:?}");
    // The units that ours come after.
    fs::create_dir_all(root.join("usr/lib/systemd")).expect("made");
    let copied = Command::new("cp")
        .args(["-r", "/usr/lib/systemd/system"])
        .arg(root.join("usr/lib/systemd/system"))
        .status();
    assert!(copied.is_ok_and(|status| status.success()));
    // How exposed a service is, by systemd's own reckoning: 10 is everything, in tenths.
    for (role, at_most) in [("controller", "15"), ("agent", "42")] {
        let unit = root.join(format!("etc/systemd/system/neurashield-{role}.service"));
        let unit = unit.to_str().expect("UTF-8");
        let verified = analyze(root, &["--man=no", "verify", unit]);
        let said = String::from_utf8_lossy(&verified.stderr);
        assert!(verified.status.success() && said.trim().is_empty(), "{role}: {said}");
        let security =
            analyze(root, &["security", "--offline=yes", "--threshold", at_most, "--no-pager", unit]);
        assert!(security.status.success(), "{role}: {}", String::from_utf8_lossy(&security.stdout));
    }
    // What hooks may need beyond that is a file that systemd takes beside the unit.
    let beside = root.join("etc/systemd/system/neurashield-agent.service.d");
    fs::create_dir(&beside).expect("made");
    fs::copy(project().join("deploy/systemd/hooks.conf"), beside.join("hooks.conf")).expect("copied");
    let unit = root.join("etc/systemd/system/neurashield-agent.service");
    let verified = analyze(root, &["--man=no", "verify", unit.to_str().expect("UTF-8")]);
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && said.trim().is_empty(), "{said}");
    // The program that a unit starts is there, and takes its configuration.
    for role in ["controller", "agent"] {
        let config = root.join(format!("etc/neurashield/{role}.yaml"));
        let checked = Command::new(root.join(format!("usr/local/bin/neurashield-{role}")))
            .args(["config", "check", "--config"])
            .arg(config)
            .output()
            .expect("it runs");
        assert!(checked.status.success(), "{role}: {checked:?}");
        let secrets = fs::metadata(root.join(format!("etc/neurashield/{role}.secrets"))).expect("there");
        assert_eq!(secrets.permissions().mode() & 0o777, 0o700, "{role}");
    }
}

#[test]
fn a_second_run_is_an_upgrade_that_leaves_what_is_configured() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path();
    assert!(install(root, &["agent"]).status.success());
    assert!(!root.join("usr/local/bin/neurashield-controller").exists(), "only what was asked for");
    let config = root.join("etc/neurashield/agent.yaml");
    fs::write(&config, "controller: https://backup:8443\n").expect("written");
    let secret = root.join("etc/neurashield/agent.secrets/join");
    fs::write(&secret, "token").expect("written");
    let program = root.join("usr/local/bin/neurashield-agent");
    // Held as by a process that runs it.
    let old = fs::File::open(&program).expect("there");
    assert!(install(root, &["agent"]).status.success());
    assert_eq!(fs::read_to_string(&config).expect("read"), "controller: https://backup:8443\n");
    assert_eq!(fs::read_to_string(&secret).expect("read"), "token");
    // A program that runs cannot be written into: it is replaced.
    let old = old.metadata().expect("known").ino();
    assert_ne!(fs::metadata(&program).expect("there").ino(), old);
    let wrong = install(root, &["server"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}
