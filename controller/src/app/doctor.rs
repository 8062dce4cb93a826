//! The doctor: looks at everything that a backup or a restore needs, and says what to do.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proto::failure::chain;
use proto::v1::controller_message::Message;
use proto::v1::{Probe, SourceHealth};
use repository::backup::listing::Listing;
use repository::error::RepositoryError;
use repository::repo::Repository;
use repository::store::ObjectPath;
use tokio::task::JoinSet;

use crate::app::{App, CLONE_HINT};
use crate::catalog::{AgentRecord, CloneSeen, Owner, RefusedSource};
use crate::depot::Depot;
use crate::fleet::{Ended, TaskContext};
use crate::ids::TaskId;

const PROBE_WITHIN: Duration = Duration::from_secs(30);
const LITTLE_SPACE: u64 = 1 << 30;
const SOON: SignedDuration = SignedDuration::from_hours(24 * 14);
/// A clone that has not come back for this long is gone.
const CLONE_COUNTS: SignedDuration = SignedDuration::from_hours(24);
const AHEAD: SignedDuration = SignedDuration::from_mins(5);

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FindingLevel {
    /// As it should be.
    Fine,
    /// It works, and needs attention.
    Warning,
    /// Something does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: FindingLevel,
    /// storage, repository, keys, agents, sources, clock, certificates.
    pub area: &'static str,
    /// What was found.
    pub finding: String,
    /// What to do.
    pub hint: String,
}

fn fine(area: &'static str, finding: impl Into<String>) -> Finding {
    Finding { level: FindingLevel::Fine, area, finding: finding.into(), hint: String::new() }
}

fn warning(area: &'static str, finding: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding { level: FindingLevel::Warning, area, finding: finding.into(), hint: hint.into() }
}

fn problem(area: &'static str, finding: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding { level: FindingLevel::Problem, area, finding: finding.into(), hint: hint.into() }
}

impl App {
    /// Looks at everything.
    pub async fn examine(&self) -> Vec<Finding> {
        let (depot, now) = (self.depot.clone(), self.now());
        let of_repository = tokio::task::spawn_blocking(move || examine_repository(&depot, now)).await;
        let mut findings = of_repository.unwrap_or_else(|error| {
            vec![problem("repository", error.to_string(), "see the controller's log")]
        });
        findings.push(certificate("the controller's certificate", self.server_certificate.ends_at(), now));
        findings.push(match self.audit.damage().await {
            None => fine("audit", "the audit log was whole when it was opened"),
            Some(damage) => problem(
                "audit",
                format!("the audit log is damaged: {damage}"),
                "find out who did it; `nsctl audit --check` proves the whole of it",
            ),
        });
        match self.agents().await {
            Ok(agents) => findings.extend(self.examine_agents(&agents).await),
            Err(failure) => {
                findings.push(problem("agents", format!("{}: {}", failure.what, failure.why), failure.hint))
            }
        }
        findings
    }

    async fn examine_agents(&self, agents: &[AgentRecord]) -> Vec<Finding> {
        let active: Vec<&AgentRecord> = agents.iter().filter(|agent| agent.revoked_at.is_none()).collect();
        if active.is_empty() {
            let hint = "make a token with `nsctl agent invite` and start an agent with it";
            return vec![problem("agents", "no agent has joined", hint)];
        }
        let mut findings = Vec::new();
        let mut probes = JoinSet::new();
        for agent in active {
            let name = agent.name.clone();
            if !self.fleet.is_connected(agent.id) {
                let hint = "start it, and check that it reaches this controller; if it is gone for good: `nsctl agent revoke`";
                findings.push(problem("agents", format!("agent {name} is not connected"), hint));
                continue;
            }
            findings.push(fine("agents", format!("agent {name} is connected ({})", agent.version)));
            findings.push(certificate(
                &format!("the certificate of agent {name}"),
                agent.certificate_ends_at,
                self.now(),
            ));
            findings.extend(agent.clone.as_ref().and_then(|clone| cloned(&name, clone, self.now())));
            findings.extend(agent.refused.iter().map(|owned| not_its_own(&name, owned)));
            if agent.sources.is_empty() && agent.refused.is_empty() {
                let hint = "add sources to its configuration";
                findings.push(warning("sources", format!("agent {name} serves no source"), hint));
            }
            let (app, id) = (self.clone(), agent.id);
            probes.spawn(async move { (name, app.probe(id).await) });
        }
        while let Some(Ok((name, probed))) = probes.join_next().await {
            match probed {
                Some(sources) => findings.extend(sources.iter().map(source)),
                None => findings.push(problem(
                    "agents",
                    format!("agent {name} did not answer in time"),
                    "see the agent's log",
                )),
            }
        }
        findings
    }

    async fn probe(&self, agent: crate::ids::AgentId) -> Option<Vec<SourceHealth>> {
        let task = TaskId::fresh();
        let message = Message::Probe(Probe { task_id: task.to_string() });
        let mut running = self.fleet.begin(agent, task, TaskContext::Probe, message).ok()?;
        match tokio::time::timeout(PROBE_WITHIN, running.ended()).await {
            Ok(Ended::Probed(sources)) => Some(sources),
            _ => None,
        }
    }
}

fn not_its_own(agent: &str, owned: &RefusedSource) -> Finding {
    let RefusedSource { source, owner } = owned;
    let Owner::Another(owner) = owner else {
        return problem(
            "sources",
            format!("agent {agent} may not serve {source}: the join key that it came in by does not name it"),
            "take it out of the agent's configuration, or invite the agent anew for it",
        );
    };
    problem(
        "sources",
        format!("agent {agent} may not serve {source}: agent {owner} served it first"),
        format!("if {agent} is to take it over: `nsctl agent revoke {owner}`, then restart {agent}"),
    )
}

fn cloned(agent: &str, clone: &CloneSeen, now: Timestamp) -> Option<Finding> {
    let CloneSeen { at, host } = clone;
    let finding =
        format!("another process with the identity of agent {agent} wanted in from host {host} at {at}");
    (now.duration_since(*at) < CLONE_COUNTS).then(|| problem("agents", finding, CLONE_HINT))
}

fn source(health: &SourceHealth) -> Finding {
    let name = health.source.as_ref().map(|id| format!("{}/{}", id.component, id.name)).unwrap_or_default();
    let finding = format!("{name}: {}", health.finding);
    match (health.reachable, health.hint.is_empty()) {
        (true, true) => fine("sources", finding),
        (true, false) => warning("sources", finding, health.hint.clone()),
        (false, _) => problem("sources", finding, health.hint.clone()),
    }
}

fn certificate(whose: &str, ends_at: Timestamp, now: Timestamp) -> Finding {
    let finding = format!("{whose} counts until {ends_at}");
    match ends_at {
        end if end <= now => problem(
            "certificates",
            format!("{whose} has ended on {ends_at}"),
            "restart it, or let it join again",
        ),
        end if end <= now + SOON => {
            warning("certificates", finding, "it renews itself while it runs; restart it if it does not")
        }
        _ => fine("certificates", finding),
    }
}

fn examine_repository(depot: &Depot, now: Timestamp) -> Vec<Finding> {
    let repository = depot.repository();
    let mut findings = vec![space(depot), writable(depot), lease(depot)];
    let warnings = repository.store().warnings().into_iter();
    findings
        .extend(warnings.map(|words| warning("storage", words, "docs/operations.md says what to look at")));
    findings.extend(match depot.list() {
        Ok(listing) => listed(&listing, now),
        Err(error) => vec![of_error("the repository cannot be listed", &error)],
    });
    findings.push(match repository.is_recovery_confirmed() {
        Ok(true) => fine("keys", "the recovery key is confirmed"),
        Ok(false) => warning(
            "keys",
            "nobody has confirmed to have the recovery key",
            "keep a copy of it away from this machine, then run `nsctl repository key confirm`",
        ),
        Err(error) => of_error("the keys cannot be read", &error),
    });
    findings.push(rescue(repository));
    findings
}

fn rescue(repository: &Repository) -> Finding {
    match repository.rescue() {
        Ok(Some(contents)) if contents.program().is_some() => {
            fine("repository", "it brings the programs with it that restore it (repository/rescue)")
        }
        Ok(Some(_)) => warning(
            "repository",
            "its rescue folder holds rescue.py, but no static nsctl",
            "make one with `deploy/static-nsctl`, put it beside neurashield-controller as nsctl-static, restart",
        ),
        Ok(None) => warning(
            "repository",
            "its rescue folder is missing or not whole",
            "restart the controller, which fills it; its log says what hinders it",
        ),
        Err(error) => of_error("the rescue folder cannot be read", &error),
    }
}

fn of_error(what: &str, error: &RepositoryError) -> Finding {
    problem("repository", format!("{what}: {}", chain(error)), error.hint())
}

fn space(depot: &Depot) -> Finding {
    let store = depot.repository().store();
    match store.free_space() {
        Ok(Some(free)) if free < LITTLE_SPACE => problem(
            "storage",
            format!("{} MiB are free in {}", free >> 20, store.location()),
            "make room, or move the repository to a larger disk",
        ),
        Ok(Some(free)) => fine("storage", format!("{} GiB are free in {}", free >> 30, store.location())),
        Ok(None) => fine("storage", format!("{} does not tell its free space", store.location())),
        Err(error) => problem("storage", chain(&error), error.hint()),
    }
}

fn writable(depot: &Depot) -> Finding {
    let store = depot.repository().store();
    let path = ObjectPath::new("repository/staging").join(format!("doctor-{}", TaskId::fresh()));
    match store.create(&path, b"doctor").and_then(|()| store.delete(&path)) {
        Ok(()) => fine("storage", "the repository can be written"),
        Err(error) => problem("storage", chain(&error), error.hint()),
    }
}

fn lease(depot: &Depot) -> Finding {
    match depot.lease().check() {
        Ok(()) => fine("repository", "this controller holds the right to write it"),
        Err(error) => problem(
            "repository",
            chain(&error),
            "make sure that only one controller uses it, then restart this one",
        ),
    }
}

fn listed(listing: &Listing, now: Timestamp) -> Vec<Finding> {
    let mut findings =
        vec![fine("repository", format!("it opens, and holds {} backups", listing.backups.len()))];
    findings.extend(listing.damaged.iter().map(|(name, error)| {
        problem("repository", format!("backup {name} is damaged: {}", chain(error)), error.hint())
    }));
    let keep = "if nobody meant to delete it, bring its folder back from a copy; the packs are still there";
    findings.extend(listing.lost.iter().map(|name| {
        problem("repository", format!("backup {name} is gone from the repository's folder"), keep)
    }));
    findings.extend(listing.chain.iter().map(|finding| {
        problem(
            "repository",
            finding.clone(),
            "bring repository/chain back from a copy; backups go on meanwhile",
        )
    }));
    let ahead = listing.backups.iter().find(|backup| backup.name.time() > now + AHEAD);
    findings.push(match ahead {
        Some(backup) => problem(
            "clock",
            format!("backup {} was made in the future", backup.name),
            "set this machine's clock: is NTP running?",
        ),
        None => fine("clock", "no backup is ahead of this machine's clock"),
    });
    findings
}
