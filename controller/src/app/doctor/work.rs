//! What the doctor asks of the catalog: backups and their age, schedules, jobs, alerts, who is missing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};
use proto::Failure;
use repository::names::BackupName;

use crate::alerts::silence::{Facts, NEVER_JOINED, TOKEN};
use crate::app::doctor::Finding;
use crate::app::doctor::checks as c;
use crate::app::doctor::growth::{Change, without_the_first};
use crate::app::metrics::newest_complete;
use crate::app::{AlertsNow, App, ScheduleView, catalog_failure};
use crate::catalog::{AgentRecord, RunState, VerificationRecord};
use crate::config::{Alerts, Schedule};
use crate::jobs::Job;
use crate::jobs::job::{DRILLED, JobState};

/// Jobs and backups that tell of the last weeks.
const LOOKED_AT: u32 = 500;
/// Backups among which the newest complete one of a component is looked for.
const NEWEST: u32 = 100;
/// A sink that takes nothing for this long.
const WAITS: SignedDuration = SignedDuration::from_mins(15);

impl App {
    /// What backups have added and prunes have freed.
    pub(in crate::app) async fn changes(&self) -> Result<Vec<Change>, Failure> {
        let failed = |error| catalog_failure(&error);
        let backups = self.catalog.backups_before(None, LOOKED_AT).await.map_err(failed)?;
        let is_whole = backups.last().is_some_and(|oldest| oldest.sequence == 1);
        let added = backups.iter().map(|backup| {
            Change::Added(backup.ended_at, backup.archives.iter().map(|one| one.counts.stored_bytes).sum())
        });
        let jobs = self.catalog.jobs(LOOKED_AT).await.map_err(failed)?;
        let freed = jobs.iter().filter_map(|job| {
            let cleared = job.cleared.as_ref().filter(|cleared| cleared.freed_bytes > 0)?;
            Some(Change::Freed(job.ended_at?, cleared.freed_bytes))
        });
        Ok(without_the_first(added.chain(freed).collect(), is_whole))
    }

    /// Everything that the catalog knows.
    pub(super) async fn examine_work(&self, agents: &[AgentRecord]) -> Result<Vec<Finding>, Failure> {
        let (now, failed) = (self.now(), |error| catalog_failure(&error));
        let open = self.catalog.open_alerts().await.map_err(failed)?;
        let facts = self.facts(now, &open).await?;
        let backups = self.catalog.backups_before(None, NEWEST).await.map_err(failed)?;
        let complete = newest_complete(&backups);
        let newest: BTreeSet<String> = backups
            .first()
            .into_iter()
            .flat_map(|backup| &backup.archives)
            .map(|archive| archive.source.component.to_string())
            .collect();
        let times = complete.iter().map(|(component, (at, name))| (component.as_str(), (*at, name.as_str())));
        let mut findings = of_backups(&times.collect(), &facts, &self.config.alerts, now);
        let names: Vec<&BackupName> = complete.values().map(|(_, name)| name).collect();
        let verified = self.catalog.verifications_of(&names).await.map_err(failed)?;
        findings.extend(damaged(&complete, &verified));
        findings.extend(unserved(&newest, agents));
        findings.extend(expected(&facts, now));
        findings.extend(of_schedules(&self.schedules().await?));
        findings.extend(of_jobs(&self.catalog.jobs(LOOKED_AT).await.map_err(failed)?));
        findings.extend(of_alerts(&self.alerts_now().await?, now));
        findings.extend(self.config.alerts.unreadable().into_iter().map(|(sink, why)| {
            Finding::problem(&c::DELIVERED, format!("alerts cannot be sent to {sink}: {why}"))
        }));
        let held = self.runner.left_stopped().await.map_err(failed)?;
        findings.extend(held.into_iter().map(|line| Finding::problem(&c::STOPPED, line)));
        Ok(findings)
    }
}

/// Each component that is served: is there a complete backup, and a verified one that is young enough?
fn of_backups(
    complete: &BTreeMap<&str, (Timestamp, &str)>,
    facts: &Facts,
    alerts: &Alerts,
    now: Timestamp,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (component, since) in &facts.verified {
        findings.push(match complete.get(component.as_str()) {
            Some((at, name)) => {
                let hours = now.duration_since(*at).as_hours();
                let finding = format!("{component}: the newest complete backup is {name}, {hours} h old");
                Finding::fine(&c::EXISTS, finding)
            }
            None => Finding::problem(&c::EXISTS, format!("{component}: there is no complete backup")),
        });
        let objective = alerts.objectives.get(component).unwrap_or(&alerts.objective);
        let age = now.duration_since(*since);
        findings.push(if age.is_positive() && age.unsigned_abs() > objective.get() {
            Finding::problem(&c::AGE, format!("{component}: no verified backup of the last {objective}"))
        } else if complete.contains_key(component.as_str()) {
            Finding::fine(&c::AGE, format!("{component}: within its objective of {objective}"))
        } else {
            let finding = format!("{component}: its first verified backup is due within {objective}");
            Finding::fine(&c::AGE, finding)
        });
    }
    findings
}

/// Of each component the newest complete backup, where that was found damaged.
fn damaged(
    complete: &BTreeMap<String, (Timestamp, BackupName)>,
    verified: &HashMap<BackupName, Vec<VerificationRecord>>,
) -> Vec<Finding> {
    let found = |(component, (_, name)): (&String, &(Timestamp, BackupName))| {
        let of_it = verified.get(name)?.iter().filter(|one| one.source.component.as_str() == component);
        let damage = of_it.filter(|one| !one.intact).max_by_key(|one| (one.depth != DRILLED, one.at))?;
        let backup = format!("{component}: the newest complete backup {name}");
        Some(match damage.depth == DRILLED {
            true => Finding::problem(&c::AGE, format!("{backup} failed its drill at {:.0}", damage.at)),
            false => Finding::problem(&c::DAMAGED, format!("{backup} was found damaged at {:.0}", damage.at)),
        })
    };
    complete.iter().filter_map(found).collect()
}

/// What the newest backup holds and nobody serves any more.
fn unserved(newest: &BTreeSet<String>, agents: &[AgentRecord]) -> Vec<Finding> {
    let active = agents.iter().filter(|agent| agent.revoked_at.is_none());
    let served: BTreeSet<String> =
        active.flat_map(|agent| &agent.sources).map(|served| served.source.component.to_string()).collect();
    let gone = newest.difference(&served);
    gone.map(|component| {
        Finding::problem(&c::UNSERVED, format!("{component} is in the newest backup, and no agent serves it"))
    })
    .collect()
}

fn expected(facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, made) in &facts.invitations {
        if now.duration_since(*made) > NEVER_JOINED {
            let finding = format!("the agent that was invited as {name} on {made:.0} has not joined");
            findings.push(Finding::warning(&c::INVITED, finding));
        }
    }
    for (name, ends_at) in &facts.tokens {
        if ends_at.duration_since(now) < TOKEN {
            let finding = format!("the API token {name}, which is in use, counts until {ends_at:.0}");
            findings.push(Finding::warning(&c::TOKEN, finding));
        }
    }
    findings
}

fn of_schedules(schedules: &[ScheduleView]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (what, is_there) in [
        ("backs up", schedules.iter().any(|view| matches!(view.record.definition, Schedule::Backup(_)))),
        ("verifies", schedules.iter().any(|view| matches!(view.record.definition, Schedule::Verify(_)))),
    ] {
        if !is_there {
            findings.push(Finding::warning(&c::SCHEDULED, format!("no schedule {what} anything")));
        }
    }
    for view in schedules {
        let name = &view.record.name;
        if let Some(since) = view.record.paused_at {
            findings
                .push(Finding::warning(&c::PAUSED, format!("schedule {name} is paused since {since:.0}")));
        } else if let Some(next) = &view.next {
            findings.push(Finding::fine(
                &c::SCHEDULED,
                format!("schedule {name} runs next at {:.0}", next.due_at),
            ));
        }
        let missed =
            |run: &&crate::catalog::RunRecord| matches!(run.state, RunState::Missed | RunState::Skipped);
        if let Some(run) = view.last.as_ref().filter(missed) {
            let at = run.planned_at.unwrap_or(run.ran_at);
            let finding = format!("schedule {name}: its run of {at:.0} was {}", run.state.word());
            findings.push(Finding::warning(&c::MISSED, finding));
        }
    }
    findings
}

/// The newest job of each kind that has ended.
fn of_jobs(newest_first: &[Job]) -> Vec<Finding> {
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for job in newest_first.iter().filter(|job| job.state.is_end()) {
        let kind = job.kind();
        if job.state == JobState::Cancelled || !seen.insert(kind) {
            continue;
        }
        findings.push(match job.state {
            JobState::Complete => Finding::fine(&c::JOBS, format!("the newest {kind} is complete")),
            JobState::Incomplete => {
                Finding::warning(&c::JOBS, format!("the newest {kind} is incomplete (job {})", job.id))
            }
            _ => {
                let why = job.failure.as_ref().map_or(String::new(), |failure| format!(": {}", failure.why));
                Finding::problem(&c::JOBS, format!("the newest {kind} has failed (job {}){why}", job.id))
            }
        });
    }
    findings
}

fn of_alerts(alerts: &AlertsNow, now: Timestamp) -> Vec<Finding> {
    if alerts.sinks.is_empty() {
        return vec![Finding::warning(&c::SINKS, "no alert sink is configured")];
    }
    let of_sink = |(name, state): (&String, &crate::catalog::SinkState)| {
        let waits = state.failing_since.is_some_and(|since| now.duration_since(since) > WAITS);
        let gave_up = state.dead_at.is_some_and(|dead| state.delivered_at.is_none_or(|taken| taken < dead));
        let error = state.error.as_deref().unwrap_or("it takes none");
        match (waits || gave_up, state.delivered_at) {
            (true, _) => Finding::problem(&c::DELIVERED, format!("alerts cannot be sent to {name}: {error}"))
                .hint(format!("mend it, then try `nsctl alert test {name}`; what waits is sent by itself")),
            (false, Some(at)) => {
                Finding::fine(&c::DELIVERED, format!("{name} last took an alert at {at:.0}"))
            }
            (false, None) => Finding::fine(
                &c::DELIVERED,
                format!("{name} has not been sent an alert yet; `nsctl alert test {name}` tries it"),
            ),
        }
    };
    alerts.sinks.iter().map(of_sink).collect()
}
