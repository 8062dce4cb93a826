//! Retention where schedules have rules of their own. Pure: facts in, a decision with its reasons out.
//!
//! Must stay true: what protects a backup whatever the rules say (a pin, a reader, the newest complete and the
//! newest verified ones) is decided over all backups together, so no schedule's rules can take it away; a
//! backup of which nobody knows any more which schedule ordered it is kept if anybody's rules keep it.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use repository::backup::manifest::Outcome;
use repository::names::BackupName;
use repository::retention::{Facts, Keep, Rules, decide};

/// The rules of everything, and beside them those of schedules that have their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllRules {
    /// Of whatever has no rules of its own.
    pub general: Rules,
    /// By schedule: of the backups that it orders, instead.
    pub of_schedules: BTreeMap<String, Rules>,
}

/// Which schedule has ordered a backup; `None`: somebody did. What is not there is not known any more.
pub type Origins = HashMap<BackupName, Option<String>>;

/// What becomes of one backup.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Which.
    pub name: BackupName,
    /// Its place in the order of backups.
    pub sequence: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it is kept, the strongest reason first; none: it goes.
    pub keeps: Vec<String>,
    /// Whose rules decided, for what goes.
    pub by: String,
}

impl Verdict {
    /// True if nothing keeps it.
    pub fn goes(&self) -> bool {
        self.keeps.is_empty()
    }
}

/// Decides what becomes of each backup, newest first.
pub fn verdicts(
    backups: &[Facts],
    rules: &AllRules,
    origins: &Origins,
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<Verdict> {
    let general = &rules.general;
    let outcomes: HashMap<&BackupName, Outcome> =
        backups.iter().map(|facts| (&facts.name, facts.outcome)).collect();
    let everywhere = match rules.of_schedules.is_empty() {
        true => general.clone(),
        // What no schedule's rules are asked about.
        false => Rules { keep_complete: general.keep_complete, ..nothing() },
    };
    let mut verdicts: Vec<Verdict> = decide(backups, &everywhere, now, zone)
        .into_iter()
        .map(|decision| Verdict {
            outcome: outcomes[&decision.name],
            sequence: decision.sequence,
            keeps: decision.keeps.iter().map(ToString::to_string).collect(),
            by: by(origin(rules, origins, &decision.name), rules),
            name: decision.name,
        })
        .collect();
    if rules.of_schedules.is_empty() {
        return verdicts;
    }
    let places: HashMap<BackupName, usize> =
        verdicts.iter().enumerate().map(|(place, verdict)| (verdict.name.clone(), place)).collect();
    let all = std::iter::once((None, general));
    let own = rules.of_schedules.iter().map(|(schedule, rules)| (Some(schedule), rules));
    for (schedule, its) in all.chain(own) {
        let asked: Vec<Facts> = (backups.iter())
            .filter(|facts| match origin(rules, origins, &facts.name) {
                Origin::Unknown => true,
                Origin::General => schedule.is_none(),
                Origin::Schedule(of) => schedule.is_some_and(|schedule| schedule == of),
            })
            .cloned()
            .collect();
        for decision in decide(&asked, its, now, zone) {
            let keeps = decision.keeps.iter().filter(|keep| is_of_rules(keep, schedule.is_some()));
            let whose = schedule.map_or_else(String::new, |schedule| format!(" (schedule {schedule})"));
            let verdict = &mut verdicts[places[&decision.name]];
            verdict.keeps.extend(keeps.map(|keep| format!("{keep}{whose}")));
        }
    }
    verdicts
}

/// Whose rules a backup goes by.
enum Origin<'a> {
    General,
    Schedule(&'a str),
    Unknown,
}

fn origin<'a>(rules: &AllRules, origins: &'a Origins, name: &BackupName) -> Origin<'a> {
    match origins.get(name) {
        None if !rules.of_schedules.is_empty() => Origin::Unknown,
        Some(Some(schedule)) if rules.of_schedules.contains_key(schedule) => Origin::Schedule(schedule),
        _ => Origin::General,
    }
}

/// In words: what a backup that goes was kept by not.
fn by(origin: Origin<'_>, rules: &AllRules) -> String {
    match origin {
        Origin::General => rules.general.to_string(),
        Origin::Schedule(schedule) => format!("schedule {schedule}: {}", rules.of_schedules[schedule]),
        Origin::Unknown => "those of every schedule, since nobody knows which one ordered it".to_owned(),
    }
}

/// What rules themselves keep; the rest is decided over all backups. Of a schedule's own, so are the newest
/// complete ones that it counts.
fn is_of_rules(keep: &Keep, of_schedule: bool) -> bool {
    match keep {
        Keep::Within(_) | Keep::Last(_) | Keep::Newest(..) => true,
        Keep::Complete(_) => of_schedule,
        Keep::Pinned(_) | Keep::InUse(_) | Keep::Verified(_) | Keep::NotReplaced(_) => false,
    }
}

fn nothing() -> Rules {
    Rules {
        keep_within_seconds: None,
        keep_last: None,
        keep_hourly: None,
        keep_daily: None,
        keep_weekly: None,
        keep_monthly: None,
        keep_yearly: None,
        keep_complete: 1,
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use repository::retention::{ArchiveFacts, Proof};
    use repository::verify::Depth;

    use super::*;

    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    fn start() -> Timestamp {
        "2026-03-01T00:00:00Z".parse().expect("a time")
    }

    /// So many backups, one an hour, verified; those at midnight are `daily`'s, the others `hourly`'s.
    fn history(hours: i32) -> (Vec<Facts>, Origins) {
        let (mut backups, mut origins) = (Vec::new(), Origins::new());
        for hour in 0..hours {
            let at = start() + HOUR * hour;
            let name: BackupName = at.strftime("%Y%m%d_%H%M%S").to_string().parse().expect("a name");
            let proof = Proof { depth: Depth::Opened, at: at + HOUR, intact: true };
            backups.push(Facts {
                name: name.clone(),
                sequence: u64::try_from(hour).expect("positive") + 1,
                started_at: at,
                outcome: Outcome::Complete,
                pin: None,
                in_use: None,
                archives: vec![ArchiveFacts {
                    source: "models/models".parse().expect("a source"),
                    outcome: Outcome::Complete,
                    proofs: vec![proof],
                }],
            });
            let schedule = if hour % 24 == 0 { "daily" } else { "hourly" };
            origins.insert(name, Some(schedule.to_owned()));
        }
        (backups, origins)
    }

    fn rules(general_days: u64, of_schedules: &[(&str, Rules)]) -> AllRules {
        let general = Rules { keep_within_seconds: Some(general_days * 86_400), ..nothing() };
        let own = of_schedules.iter().map(|(name, rules)| ((*name).to_owned(), rules.clone()));
        AllRules { general, of_schedules: own.collect() }
    }

    fn kept(verdicts: &[Verdict]) -> usize {
        verdicts.iter().filter(|verdict| !verdict.goes()).count()
    }

    #[test]
    fn each_schedules_backups_go_by_its_own_rules_and_each_reason_says_whose() {
        let (backups, origins) = history(10 * 24);
        let now = start() + HOUR * (10 * 24);
        let six = Rules { keep_last: Some(6), ..nothing() };
        let verdicts = verdicts(&backups, &rules(30, &[("hourly", six)]), &origins, now, &TimeZone::UTC);
        // Ten daily ones, and six hourly ones.
        assert_eq!(kept(&verdicts), 16);
        assert!(
            verdicts[0].keeps.contains(&"one of the newest 6 (schedule hourly)".to_owned()),
            "{verdicts:?}"
        );
        let daily = verdicts.last().expect("the oldest");
        assert_eq!(daily.keeps, ["within 30d"]);
        let gone = verdicts.iter().find(|verdict| verdict.goes()).expect("some go");
        assert!(gone.by.starts_with("schedule hourly: last 6"), "{}", gone.by);
    }

    #[test]
    fn without_rules_of_schedules_nothing_is_decided_otherwise() {
        let (backups, origins) = history(50);
        let now = start() + HOUR * 50;
        let all = rules(1, &[]);
        let verdicts = verdicts(&backups, &all, &origins, now, &TimeZone::UTC);
        let plain = decide(&backups, &all.general, now, &TimeZone::UTC);
        for (verdict, decision) in verdicts.iter().zip(plain) {
            let reasons: Vec<String> = decision.keeps.iter().map(ToString::to_string).collect();
            assert_eq!((&verdict.name, &verdict.keeps), (&decision.name, &reasons));
        }
    }

    #[test]
    fn what_nobody_knows_the_schedule_of_is_kept_by_anybodys_rules() {
        let (backups, origins) = history(40 * 24);
        let now = start() + HOUR * (40 * 24);
        let years = Rules { keep_yearly: Some(7), keep_within_seconds: Some(100 * 86_400), ..nothing() };
        let all = rules(1, &[("daily", years)]);
        let known = verdicts(&backups, &all, &origins, now, &TimeZone::UTC);
        let forgotten = verdicts(&backups, &all, &Origins::new(), now, &TimeZone::UTC);
        assert!(kept(&known) < 24 + 45, "{}", kept(&known));
        assert_eq!(kept(&forgotten), 40 * 24, "who knows less removes less");
    }

    #[test]
    fn no_rules_of_a_schedule_take_what_is_pinned_or_the_last_of_its_kind() {
        let (mut backups, mut origins) = history(48);
        backups[3].pin = Some("an audit".to_owned());
        // The only one that holds the database.
        backups[5].archives[0].source = "database/database".parse().expect("a source");
        for origin in origins.values_mut() {
            *origin = Some("hourly".to_owned());
        }
        let one = Rules { keep_last: Some(1), ..nothing() };
        let now = start() + HOUR * 1_000;
        let verdicts = verdicts(&backups, &rules(1, &[("hourly", one)]), &origins, now, &TimeZone::UTC);
        let kept: Vec<u64> = verdicts.iter().filter(|one| !one.goes()).map(|one| one.sequence).collect();
        assert_eq!(kept, [48, 6, 4]);
    }
}
