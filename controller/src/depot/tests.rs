use super::*;

struct Place {
    home: tempfile::TempDir,
    config: ControllerConfig,
    state: StateFolder,
    now: Timestamp,
}

impl Place {
    fn folder(&self) -> &std::path::Path {
        self.config.repository.folder().expect("a folder")
    }
}

fn place() -> Place {
    let home = tempfile::tempdir().expect("a folder");
    let repository = home.path().join("backups").into();
    let config = ControllerConfig { repository, ..ControllerConfig::default() };
    let state = StateFolder::open(&home.path().join("state")).expect("opened");
    Place { home, config, state, now: "2026-03-01T10:00:00Z".parse().expect("a time") }
}

#[test]
fn the_first_start_makes_a_repository_beside_what_is_there_and_the_next_one_opens_it() {
    let place = place();
    std::fs::create_dir_all(place.folder().join("20250101_000000/models")).expect("made");
    std::fs::create_dir_all(place.folder().join("lost+found")).expect("made");
    let first = Depot::open(&place.config, &place.state, place.now).expect("made");
    let id = first.repository().config().id;
    assert_eq!(first.list().expect("listed").legacy.len(), 1);
    drop(first);
    let again = Depot::open(&place.config, &place.state, place.now).expect("opened");
    assert_eq!(again.repository().config().id, id);
    let recovery = place.state.read(RECOVERY_FILE).expect("read").expect("there");
    assert!(recovery.starts_with(b"NSRK-"));
}

#[test]
fn an_empty_root_is_not_mistaken_for_a_fresh_one() {
    let place = place();
    drop(Depot::open(&place.config, &place.state, place.now).expect("made"));
    std::fs::rename(place.folder(), place.home.path().join("elsewhere")).expect("moved");
    std::fs::create_dir(place.folder()).expect("an empty mount point");
    let refused = Depot::open(&place.config, &place.state, place.now);
    assert!(matches!(refused, Err(DepotError::Gone { .. })), "{refused:?}");
    assert_eq!(std::fs::read_dir(place.folder()).expect("listed").count(), 0);
}

#[test]
fn another_repository_in_the_same_place_is_refused() {
    let place = place();
    drop(Depot::open(&place.config, &place.state, place.now).expect("made"));
    let other = StateFolder::open(&place.home.path().join("other")).expect("opened");
    std::fs::remove_dir_all(place.folder()).expect("removed");
    drop(Depot::open(&place.config, &other, place.now).expect("made"));
    let refused = Depot::open(&place.config, &place.state, place.now);
    assert!(matches!(refused, Err(DepotError::OtherRepository { .. })), "{refused:?}");
}

#[test]
fn a_second_controller_is_kept_out_until_the_first_gives_the_lease_back() {
    let place = place();
    let first = Depot::open(&place.config, &place.state, place.now).expect("made");
    let other = StateFolder::open(&place.home.path().join("other")).expect("opened");
    other
        .write("repository.key", &place.state.read("repository.key").expect("read").expect("there"))
        .expect("copied");
    let held = Depot::open(&place.config, &other, place.now);
    assert!(matches!(held, Err(DepotError::Lease(LeaseError::Held { .. }))), "{held:?}");
    first.lease().release();
    Depot::open(&place.config, &other, place.now).expect("free now");
}

#[test]
fn a_recovery_key_that_a_crash_has_lost_is_replaced_once() {
    let place = place();
    let reopened = || {
        let depot = Depot::open(&place.config, &place.state, place.now).expect("opened");
        depot.lease().release();
        depot
    };
    let first = reopened().repository().slots().expect("read").len();
    for file in [RECOVERY_FILE, RECOVERY_NOTE] {
        std::fs::remove_file(place.state.path(file)).expect("as if the crash had come before it");
    }
    assert_eq!(reopened().repository().slots().expect("read").len(), first + 1);
    let text = place.state.read(RECOVERY_FILE).expect("read").expect("there");
    let key = std::str::from_utf8(&text).expect("text").trim().parse().expect("a recovery key");
    let depot = reopened();
    depot.repository().unlock(&SlotSecret::Recovery(key)).expect("the new key opens the repository");

    std::fs::remove_file(place.state.path(RECOVERY_FILE)).expect("its owner has saved it elsewhere");
    assert_eq!(reopened().repository().slots().expect("read").len(), first + 1);
    assert!(place.state.read(RECOVERY_FILE).expect("read").is_none());
}
