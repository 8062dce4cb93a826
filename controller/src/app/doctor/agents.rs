//! What the doctor asks of agents: who is there, and what each finds at its sources and beside them.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proto::v1::controller_message::Message;
use proto::v1::{Probe, ProbeFinished, SourceHealth, UncoveredData};
use tokio::task::JoinSet;

use crate::app::doctor::checks as c;
use crate::app::doctor::{Finding, certificate};
use crate::app::{App, CLONE_HINT};
use crate::catalog::{AgentRecord, CloneSeen, Owner, RefusedSource};
use crate::fleet::{Ended, TaskContext};
use crate::ids::{AgentId, TaskId};

const PROBE_WITHIN: Duration = Duration::from_secs(30);
/// A clone that has not come back for this long is gone.
const CLONE_COUNTS: SignedDuration = SignedDuration::from_hours(24);
/// Clocks that differ by more than this are told; by more than [`FAR_APART`], certificates may fail.
const APART: SignedDuration = SignedDuration::from_secs(30);
const FAR_APART: SignedDuration = SignedDuration::from_mins(5);
const LITTLE: u64 = 256 << 20;
/// Of what an agent finds and nobody covers.
const MOST: usize = 100;

/// What an agent answered, and between which times of ours.
struct Answer {
    probed: ProbeFinished,
    asked_at: Timestamp,
    answered_at: Timestamp,
}

impl App {
    pub(super) async fn examine_agents(&self, agents: &[AgentRecord]) -> Vec<Finding> {
        let active: Vec<&AgentRecord> = agents.iter().filter(|agent| agent.revoked_at.is_none()).collect();
        if active.is_empty() {
            return vec![Finding::problem(&c::JOINED, "no agent has joined")];
        }
        let mut findings = Vec::new();
        let mut probes = JoinSet::new();
        let mut namespaces = Namespaces::default();
        for agent in active {
            let name = agent.name.clone();
            if !self.fleet.is_connected(agent.id) {
                let seen =
                    agent.last_seen_at.map_or("never seen".to_owned(), |at| format!("last seen {at:.0}"));
                let finding = format!("agent {name} is not connected ({seen})");
                findings.push(Finding::problem(&c::CONNECTED, finding));
                namespaces.lack_an_answer = true;
                continue;
            }
            findings
                .push(Finding::fine(&c::CONNECTED, format!("agent {name} is connected ({})", agent.version)));
            let whose = format!("the certificate of agent {name}");
            findings.push(certificate(&whose, agent.certificate_ends_at, self.now()));
            findings.extend(agent.clone.as_ref().and_then(|clone| cloned(&name, clone, self.now())));
            findings.extend(agent.refused.iter().map(|owned| not_its_own(&name, owned)));
            if agent.sources.is_empty() && agent.refused.is_empty() {
                findings.push(Finding::warning(&c::NO_SOURCE, format!("agent {name} serves no source")));
            }
            let (app, id) = (self.clone(), agent.id);
            probes.spawn(async move { (name, app.probe(id).await) });
        }
        while let Some(Ok((name, answer))) = probes.join_next().await {
            match answer {
                Some(answer) => {
                    findings.extend(answered(&name, &answer));
                    namespaces.add(answer.probed);
                }
                None => {
                    findings
                        .push(Finding::problem(&c::ANSWERS, format!("agent {name} did not answer in time")));
                    namespaces.lack_an_answer = true;
                }
            }
        }
        findings.extend(namespaces.findings());
        findings
    }

    async fn probe(&self, agent: AgentId) -> Option<Answer> {
        let (task, asked_at) = (TaskId::fresh(), self.now());
        let message = Message::Probe(Probe { task_id: task.to_string() });
        let mut running = self.fleet.begin(agent, task, TaskContext::Probe, message).ok()?;
        match tokio::time::timeout(PROBE_WITHIN, running.ended()).await {
            Ok(Ended::Probed(probed)) => Some(Answer { probed: *probed, asked_at, answered_at: self.now() }),
            _ => None,
        }
    }
}

/// Namespaces of clusters: one agent may cover what another one sees.
#[derive(Default)]
struct Namespaces {
    covered: BTreeSet<String>,
    seen: BTreeSet<String>,
    /// An agent has not said what it covers.
    lack_an_answer: bool,
}

impl Namespaces {
    fn add(&mut self, probed: ProbeFinished) {
        self.covered.extend(probed.covered_namespaces);
        self.seen.extend(probed.uncovered_namespaces.into_iter().take(MOST));
    }

    fn findings(&self) -> impl Iterator<Item = Finding> {
        let of_those = if self.lack_an_answer { " of the agents that answered" } else { "" };
        self.seen.difference(&self.covered).take(MOST).map(move |name| {
            let finding = format!("no object of the namespace {name} is in a backup{of_those}");
            Finding::warning(&c::UNCOVERED, finding).hint(
                "name it under `kubernetes.namespaces` of a source of kind `configs`, or under \
                 `look_here.ignore_namespaces`",
            )
        })
    }
}

fn answered(name: &str, Answer { probed, asked_at, answered_at }: &Answer) -> Vec<Finding> {
    let mut findings: Vec<Finding> = probed.sources.iter().map(source).collect();
    findings.extend(probed.uncovered.iter().take(MOST).map(|data| uncovered(name, data)));
    if let Some(free) = probed.state_free_bytes.filter(|free| *free < LITTLE) {
        let words = format!("{} MiB are free in the state folder of agent {name}", free >> 20);
        findings.push(Finding::warning(&c::AGENT_SPACE, words));
    }
    let agents = probed.now.as_ref().and_then(|now| Timestamp::new(now.seconds, now.nanos).ok());
    if let Some(agents) = agents {
        findings.push(clock(name, agents, *asked_at, *answered_at));
    }
    findings
}

/// The agent's time lies between question and answer, if both clocks are right.
fn clock(name: &str, agents: Timestamp, asked: Timestamp, answered: Timestamp) -> Finding {
    let off = match agents {
        early if early < asked => asked.duration_since(early),
        late if late > answered => late.duration_since(answered),
        _ => SignedDuration::ZERO,
    };
    let finding = format!("the clock of agent {name} is {} s away from the controller's", off.as_secs());
    match off {
        off if off > FAR_APART => Finding::problem(&c::CLOCK, finding),
        off if off > APART => Finding::warning(&c::CLOCK, finding),
        _ => Finding::fine(&c::CLOCK, format!("the clock of agent {name} agrees with the controller's")),
    }
}

fn uncovered(agent: &str, data: &UncoveredData) -> Finding {
    let finding = format!("agent {agent}: {} holds {} and is in no backup", data.path, data.what);
    Finding::warning(&c::UNCOVERED, finding).hint(data.hint.clone())
}

fn not_its_own(agent: &str, owned: &RefusedSource) -> Finding {
    let RefusedSource { source, owner } = owned;
    let Owner::Another(owner) = owner else {
        let finding =
            format!("agent {agent} may not serve {source}: the join key that it came in by does not name it");
        return Finding::problem(&c::OWNED, finding)
            .hint("take it out of the agent's configuration, or invite the agent anew for it");
    };
    let finding = format!("agent {agent} may not serve {source}: agent {owner} served it first");
    Finding::problem(&c::OWNED, finding)
        .hint(format!("if {agent} is to take it over: `nsctl agent revoke {owner}`, then restart {agent}"))
}

fn cloned(agent: &str, clone: &CloneSeen, now: Timestamp) -> Option<Finding> {
    let CloneSeen { at, host } = clone;
    let finding =
        format!("another process with the identity of agent {agent} wanted in from host {host} at {at}");
    (now.duration_since(*at) < CLONE_COUNTS).then(|| Finding::problem(&c::CLONE, finding).hint(CLONE_HINT))
}

fn source(health: &SourceHealth) -> Finding {
    let name = health.source.as_ref().map(|id| format!("{}/{}", id.component, id.name)).unwrap_or_default();
    let finding = format!("{name}: {}", health.finding);
    match (health.reachable, health.hint.is_empty()) {
        (true, true) => Finding::fine(&c::READABLE, finding),
        (true, false) => Finding::warning(&c::READABLE, finding).hint(health.hint.clone()),
        (false, _) => Finding::problem(&c::READABLE, finding).hint(health.hint.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::FindingLevel;

    #[test]
    fn a_namespace_is_in_no_backup_only_of_the_agents_that_have_answered() {
        let said = |lack_an_answer| {
            let mut namespaces = Namespaces { lack_an_answer, ..Namespaces::default() };
            namespaces.add(ProbeFinished {
                covered_namespaces: vec!["shop".to_owned()],
                uncovered_namespaces: vec!["billing".to_owned()],
                ..ProbeFinished::default()
            });
            namespaces.add(ProbeFinished {
                uncovered_namespaces: vec!["shop".to_owned()],
                ..ProbeFinished::default()
            });
            namespaces.findings().map(|finding| finding.finding).collect::<Vec<_>>()
        };
        assert_eq!(said(false), ["no object of the namespace billing is in a backup"]);
        assert_eq!(
            said(true),
            ["no object of the namespace billing is in a backup of the agents that answered"]
        );
    }

    #[test]
    fn a_clock_is_told_only_where_it_cannot_be_right() {
        let at = |seconds: i64| Timestamp::from_second(1_700_000_000 + seconds).unwrap();
        let level = |agents| clock("a", at(agents), at(0), at(10)).level;
        assert_eq!([level(-29), level(0), level(7), level(39)], [FindingLevel::Fine; 4]);
        assert_eq!([level(-31), level(41)], [FindingLevel::Warning; 2]);
        assert_eq!([level(-301), level(311)], [FindingLevel::Problem; 2]);
    }
}
