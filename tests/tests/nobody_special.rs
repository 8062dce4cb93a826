//! An agent that is a user like any other, as in a pod: the folder of its volume is root's, and only the group that
//! may write there is the agent's (`fsGroup`).

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use tests::{Process, System};

const USER: u32 = 10_001;

fn give(path: &Path, owner: u32, mode: u32) {
    chown(path, Some(owner), Some(USER)).expect("given");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
}

#[test]
fn a_volume_whose_folder_is_roots_is_restored_in_place_and_its_folder_stays_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    fs::create_dir(&data).expect("made");
    give(&data, 0, 0o2775);
    fs::write(data.join("value"), "one").expect("written");
    give(&data.join("value"), USER, 0o640);
    let mut system = System::prepare(&[("models", &data)]);
    let state = system.root().join("agent");
    fs::create_dir(&state).expect("made");
    give(&state, USER, 0o700);
    system.start_controller();
    system.invite();
    // It may look into the folders of these tests, which are root's, and write where its user and group may.
    let user = USER.to_string();
    let may = "-all,+dac_read_search";
    system.start_agent_by(&[
        "setpriv",
        "--reuid",
        &user,
        "--regid",
        &user,
        "--clear-groups",
        "--inh-caps",
        may,
        "--ambient-caps",
        may,
        "--bounding-set",
        may,
    ]);
    system.await_agent();
    assert_eq!(system.proc(Process::Agent, "status", "Uid"), u64::from(USER));
    system.run(&["backup"]);
    fs::write(data.join("value"), "two").expect("written");
    fs::write(data.join("new"), "new").expect("written");
    give(&data.join("new"), USER, 0o640);
    // Since the backup somebody has let fewer in: what the agent cannot set it says, and the rest comes back.
    give(&data, 0, 0o2770);
    let restore = ["restore", "--timestamp", "latest", "--components", "models", "--yes"];
    let answer = system.nsctl(&restore).expect(0);
    let said = answer.out + &answer.err;
    assert!(said.contains("mode or time left as it is, which only its owner may set: 1 (first .)"), "{said}");
    assert_eq!(fs::read_to_string(data.join("value")).expect("restored"), "one");
    assert!(!data.join("new").exists());
    assert_eq!(fs::metadata(&data).expect("there").permissions().mode() & 0o7777, 0o2770);
}
