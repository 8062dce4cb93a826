//! What is kept: by example, and whatever the history.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const DAY: i64 = 86_400;

fn now() -> Timestamp {
    "2026-06-15T12:00:00Z".parse().expect("a time")
}

fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

fn source(name: &str) -> SourceId {
    name.parse().expect("a source")
}

fn opened(intact: bool, at: Timestamp) -> Proof {
    Proof { depth: Depth::Opened, at, intact }
}

/// A complete backup of one source, that was verified on the day when it was made.
fn backup(sequence: u64, seconds_ago: i64) -> Facts {
    let started_at = ago(seconds_ago);
    Facts {
        name: BackupName::from_time(started_at),
        sequence,
        started_at,
        outcome: Outcome::Complete,
        pin: None,
        in_use: None,
        archives: vec![ArchiveFacts {
            source: source("models/a"),
            outcome: Outcome::Complete,
            proofs: vec![opened(true, started_at)],
        }],
    }
}

/// One backup a day, `count` of them, the newest an hour old.
fn daily(count: u64) -> Vec<Facts> {
    (1..=count).map(|sequence| backup(sequence, 3_600 + (count - sequence) as i64 * DAY)).collect()
}

const NONE: Rules = Rules {
    keep_within_seconds: None,
    keep_last: None,
    keep_hourly: None,
    keep_daily: None,
    keep_weekly: None,
    keep_monthly: None,
    keep_yearly: None,
    keep_complete: 1,
};

fn kept(backups: &[Facts], rules: &Rules) -> Vec<u64> {
    let decisions = decide(backups, rules, now(), &TimeZone::UTC);
    let mut kept: Vec<u64> =
        decisions.iter().filter(|decision| !decision.goes()).map(|decision| decision.sequence).collect();
    kept.sort_unstable();
    kept
}

#[test]
fn each_rule_keeps_what_it_says() {
    let days = daily(800);
    let last = |count: u64| (801 - count..=800).collect::<Vec<_>>();
    assert_eq!(kept(&days, &NONE), last(1), "the newest complete and verified one always stays");
    assert_eq!(kept(&days, &Rules { keep_complete: 3, ..NONE }), last(3));
    assert_eq!(kept(&days, &Rules { keep_last: Some(5), ..NONE }), last(5));
    assert_eq!(kept(&days, &Rules { keep_within_seconds: Some(30 * DAY as u64), ..NONE }), last(30));
    assert_eq!(kept(&days, &Rules { keep_daily: Some(7), ..NONE }), last(7));
    // 15 June 2026 is a Monday: the Sundays before it end weeks.
    assert_eq!(kept(&days, &Rules { keep_weekly: Some(3), ..NONE }), [792, 799, 800]);
    assert_eq!(kept(&days, &Rules { keep_monthly: Some(3), ..NONE }), [754, 785, 800]);
    assert_eq!(kept(&days, &Rules { keep_yearly: Some(5), ..NONE }), [269, 634, 800]);
    let hours: Vec<Facts> =
        (1..=90).map(|sequence| backup(sequence, (90 - sequence as i64) * 1_200)).collect();
    assert_eq!(kept(&hours, &Rules { keep_hourly: Some(3), ..NONE }), [86, 89, 90]);
    let all = Rules { keep_last: Some(2), keep_weekly: Some(2), keep_yearly: Some(2), ..NONE };
    assert_eq!(kept(&days, &all), [634, 799, 800]);
}

#[test]
fn days_begin_where_the_schedules_zone_says() {
    let backups = [backup(1, 13 * 3_600), backup(2, 11 * 3_600)];
    let rules = Rules { keep_daily: Some(2), ..NONE };
    assert_eq!(kept(&backups, &rules), [1, 2], "midnight lies between them in UTC");
    let tokyo = TimeZone::get("Asia/Tokyo").expect("a zone");
    assert!(decide(&backups, &rules, now(), &tokyo)[1].goes(), "and not in Tokyo");
}

#[test]
fn pins_and_readers_keep_a_backup_and_say_so() {
    let mut days = daily(5);
    days[0].pin = Some("before the migration".to_owned());
    days[1].in_use = Some("a restore reads it".to_owned());
    let decisions = decide(&days, &NONE, now(), &TimeZone::UTC);
    let reasons: Vec<String> = decisions
        .iter()
        .map(|decision| decision.keeps.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        .collect();
    assert_eq!(
        reasons,
        [
            "the newest complete one; the newest verified one of models/a",
            "",
            "",
            "in use: a restore reads it",
            "pinned: before the migration"
        ]
    );
}

#[test]
fn an_incomplete_backup_takes_no_complete_ones_place() {
    let mut days = daily(10);
    for day in &mut days[5..] {
        day.outcome = Outcome::Incomplete;
        day.archives.push(ArchiveFacts {
            source: source("ipfs/x"),
            outcome: Outcome::Failed,
            proofs: vec![],
        });
    }
    assert_eq!(kept(&days, &Rules { keep_complete: 2, ..NONE }), [4, 5, 10], "10 is the newest of models/a");
    assert_eq!(kept(&days, &Rules { keep_last: Some(2), ..NONE }), [4, 5, 9, 10]);
    assert_eq!(kept(&days, &Rules { keep_daily: Some(2), ..NONE }), [4, 5, 9, 10]);
}

#[test]
fn nothing_goes_that_no_newer_verified_backup_replaces() {
    let mut days = daily(6);
    days.iter_mut().for_each(|day| day.archives[0].proofs.clear());
    assert_eq!(kept(&days, &NONE), [1, 2, 3, 4, 5, 6], "nobody has verified any of them");
    days[3].archives[0].proofs = vec![opened(true, ago(100))];
    assert_eq!(kept(&days, &NONE), [4, 5, 6]);
    days[5].archives[0].proofs = vec![Proof { depth: Depth::Listed, at: ago(100), intact: true }];
    assert_eq!(kept(&days, &NONE), [4, 5, 6], "that everything is listed proves nothing of the bytes");
    days[5].archives[0].proofs = vec![opened(false, ago(50))];
    assert_eq!(kept(&days, &NONE), [4, 5, 6], "a damaged one replaces nothing");
    days[5].archives[0].proofs.push(Proof { depth: Depth::Hashed, at: ago(20), intact: true });
    assert_eq!(kept(&days, &NONE), [4, 5, 6], "nor one that was found damaged when it was opened");
    days[5].archives[0].proofs = vec![opened(true, ago(10))];
    assert_eq!(kept(&days, &NONE), [6]);
}

#[test]
fn the_last_good_state_of_a_source_that_is_gone_or_spoilt_stays() {
    let mut days = daily(6);
    let other =
        |outcome| ArchiveFacts { source: source("configs/b"), outcome, proofs: vec![opened(true, ago(1))] };
    for (at, outcome) in
        [(0, Outcome::Complete), (1, Outcome::Complete), (3, Outcome::Incomplete), (4, Outcome::Incomplete)]
    {
        days[at].archives.push(other(outcome));
    }
    assert_eq!(
        kept(&days, &NONE),
        [2, 5, 6],
        "the newest complete state of configs/b, and the newest of all"
    );
}

#[test]
fn clocks_that_were_wrong_push_nothing_out() {
    let rules = Rules { keep_daily: Some(4), keep_within_seconds: Some(3 * DAY as u64), ..NONE };
    let mut days = daily(20);
    let good = kept(&days, &rules);
    assert_eq!(good, [17, 18, 19, 20]);
    // Twelve in the future, each on another day, and two before anything was there.
    for (at, day) in days[4..16].iter_mut().enumerate() {
        day.started_at = ago(-(at as i64 + 400) * DAY);
    }
    days[1].started_at = Timestamp::UNIX_EPOCH;
    assert_eq!(kept(&days, &rules), good);
    // 19 counts as young as 20 and lies in its day: 4, the next whose own day can be believed, gets its place.
    days[18].started_at = Timestamp::UNIX_EPOCH;
    assert_eq!(kept(&days, &rules), [4, 17, 18, 19, 20]);
    days[19].started_at = ago(-900 * DAY);
    assert_eq!(kept(&days, &rules), [4, 17, 18, 19, 20], "the newest one of all counts as of now");
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![4 => Just(Outcome::Complete), 2 => Just(Outcome::Incomplete), 1 => Just(Outcome::Failed)]
}

fn proofs() -> impl Strategy<Value = Vec<Proof>> {
    let depth = prop_oneof![Just(Depth::Listed), Just(Depth::Hashed), Just(Depth::Opened)];
    let proof = (depth, 0..100 * DAY, prop::bool::weighted(0.8));
    vec(proof.prop_map(|(depth, before, intact)| Proof { depth, at: ago(before), intact }), 0..3)
}

/// Any history: some clocks are wrong, some backups incomplete, damaged, pinned.
fn histories() -> impl Strategy<Value = Vec<Facts>> {
    let gap = prop_oneof![5 => 600..3 * DAY, 1 => 0..1i64, 1 => -400 * DAY..400 * DAY];
    let archives = vec((0..3u8, outcomes(), proofs()), 0..4);
    vec((gap, archives, prop::bool::weighted(0.1)), 0..40).prop_map(|drawn| {
        let mut at = 60 * DAY;
        let facts = drawn.into_iter().enumerate().map(|(place, (gap, archives, pinned))| {
            at -= gap;
            let mut sources = BTreeSet::new();
            let archives: Vec<ArchiveFacts> = archives
                .into_iter()
                .map(|(which, outcome, proofs)| ArchiveFacts {
                    source: source(&format!("models/{which}")),
                    outcome,
                    proofs,
                })
                .filter(|archive| sources.insert(archive.source.clone()))
                .collect();
            let complete = archives.iter().all(|archive| archive.outcome == Outcome::Complete);
            Facts {
                outcome: if complete { Outcome::Complete } else { Outcome::Incomplete },
                pin: pinned.then(|| "wanted".to_owned()),
                archives,
                ..backup(place as u64 + 1, at)
            }
        });
        facts.collect()
    })
}

fn rules() -> impl Strategy<Value = Rules> {
    let count = || prop::option::of(0..6u32);
    let within = prop::option::of(0..80 * DAY as u64);
    (within, count(), count(), count(), count(), count(), count(), 0..4u32).prop_map(
        |(
            keep_within_seconds,
            keep_last,
            keep_hourly,
            keep_daily,
            keep_weekly,
            keep_monthly,
            keep_yearly,
            keep_complete,
        )| Rules {
            keep_within_seconds,
            keep_last,
            keep_hourly,
            keep_daily,
            keep_weekly,
            keep_monthly,
            keep_yearly,
            keep_complete,
        },
    )
}

proptest! {
    #[test]
    fn the_minimum_always_stays(history in histories(), rules in rules()) {
        let kept = kept(&history, &rules);
        let complete: Vec<u64> = history.iter().rev().filter(|backup| backup.outcome == Outcome::Complete)
            .map(|backup| backup.sequence).take(rules.keep_complete.max(1) as usize).collect();
        prop_assert!(complete.iter().all(|sequence| kept.contains(sequence)));
        let stays = |backup: &&Facts| kept.contains(&backup.sequence);
        for which in 0..3 {
            let source = source(&format!("models/{which}"));
            let holds = |backup: &&Facts, outcome: &[Outcome]| {
                backup.archives.iter().any(|archive| archive.source == source && outcome.contains(&archive.outcome))
            };
            for outcome in [&[Outcome::Complete][..], &[Outcome::Complete, Outcome::Incomplete]] {
                let verified = |backup: &&Facts| holds(backup, outcome)
                    && backup.archives.iter().any(|archive| archive.source == source && archive.is_verified());
                // Whatever is lost to retention, a verified one of the same source stays, if there was one;
                // without one, everything does.
                match history.iter().rev().find(verified) {
                    Some(newest) => prop_assert!(stays(&newest)),
                    None => prop_assert!(history.iter().filter(|backup| holds(backup, outcome)).all(|backup| stays(&backup))),
                }
            }
        }
        prop_assert!(history.iter().filter(|backup| backup.pin.is_some()).all(|backup| stays(&backup)));
    }

    #[test]
    fn one_more_rule_never_makes_more_go(history in histories(), rules in rules(), more in rules()) {
        let before = kept(&history, &rules);
        let larger = |a: Option<u32>, b: Option<u32>| a.max(b);
        let both = Rules {
            keep_within_seconds: rules.keep_within_seconds.max(more.keep_within_seconds),
            keep_last: larger(rules.keep_last, more.keep_last),
            keep_hourly: larger(rules.keep_hourly, more.keep_hourly),
            keep_daily: larger(rules.keep_daily, more.keep_daily),
            keep_weekly: larger(rules.keep_weekly, more.keep_weekly),
            keep_monthly: larger(rules.keep_monthly, more.keep_monthly),
            keep_yearly: larger(rules.keep_yearly, more.keep_yearly),
            keep_complete: rules.keep_complete.max(more.keep_complete),
        };
        let after = kept(&history, &both);
        prop_assert!(before.iter().all(|sequence| after.contains(sequence)));
    }

    #[test]
    fn the_order_of_the_list_does_not_matter(history in histories().prop_shuffle(), rules in rules()) {
        let mut sorted = history.clone();
        sorted.sort_by_key(|backup| backup.sequence);
        let zone = TimeZone::UTC;
        prop_assert_eq!(decide(&history, &rules, now(), &zone), decide(&sorted, &rules, now(), &zone));
    }

    #[test]
    fn who_knows_less_of_verifications_removes_less(history in histories(), rules in rules(), lost in vec(any::<bool>(), 40)) {
        let mut forgetful = history.clone();
        for (backup, lost) in forgetful.iter_mut().zip(lost) {
            // What was found damaged is not forgotten: only what speaks for a backup.
            if lost {
                backup.archives.iter_mut().for_each(|archive| archive.proofs.retain(|proof| !proof.intact));
            }
        }
        let (known, forgotten) = (kept(&history, &rules), kept(&forgetful, &rules));
        prop_assert!(known.iter().all(|sequence| forgotten.contains(sequence)));
        for archive in forgetful.iter_mut().flat_map(|backup| &mut backup.archives) {
            archive.proofs.clear();
        }
        let blank = kept(&forgetful, &rules);
        prop_assert!(known.iter().all(|sequence| blank.contains(sequence)), "a lost catalog");
    }

    #[test]
    fn a_backup_of_the_future_takes_no_place_in_a_calendar(count in 2..30u64, place in 0..29usize, days in 1..9_000i64, rules in rules()) {
        let rules = Rules { keep_last: None, keep_complete: 1, ..rules };
        let mut history = daily(count);
        let before: Vec<BackupName> = names(&history, &rules);
        let place = place % (count as usize - 1) + 1;
        history[place..].iter_mut().for_each(|backup| backup.sequence += 1);
        history.insert(place, backup(place as u64 + 1, -days * DAY));
        let after = names(&history, &rules);
        prop_assert!(before.iter().all(|name| after.contains(name)));
    }
}

fn names(history: &[Facts], rules: &Rules) -> Vec<BackupName> {
    let decisions = decide(history, rules, now(), &TimeZone::UTC);
    decisions.into_iter().filter(|decision| !decision.goes()).map(|decision| decision.name).collect()
}
