//! Who may make which call: one line for every call of every service. [`super::gate`] asks here and nowhere
//! else.
//!
//! Must stay true: a call without a line is denied, and the controller is not even compiled while a call of
//! ours has none.

use crate::identity::Role;

/// Who may make a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum May {
    /// Anybody who can connect; the call itself proves what it has to.
    Anyone,
    /// Agents, by their certificate.
    Agents,
    /// People and automation with this role or a higher one.
    From(Role),
}

/// What of a call is kept in the audit log. Denials always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// Nothing: it changes nothing, or a job that is kept stands behind it.
    No,
    /// Its beginning, before anything is done, and its end.
    Both,
    /// Its success alone: anybody, or any agent, may try, and must not fill the log. It may be repeated.
    Success,
}

/// One call.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) path: &'static str,
    pub(super) may: May,
    pub(super) kept: Kept,
}

const fn line(path: &'static str, may: May, kept: Kept) -> Line {
    Line { path, may, kept }
}

const VIEWER: May = May::From(Role::Viewer);
const OPERATOR: May = May::From(Role::Operator);
const ADMIN: May = May::From(Role::Admin);

/// All calls.
pub(super) const TABLE: &[Line] = &[
    // The join token in the request proves who asks.
    line("/neurashield.backup.v1.Enrolment/Join", May::Anyone, Kept::Success),
    line("/neurashield.backup.v1.AgentGateway/Control", May::Agents, Kept::No),
    line("/neurashield.backup.v1.AgentGateway/ListBlobs", May::Agents, Kept::No),
    line("/neurashield.backup.v1.AgentGateway/PutSegment", May::Agents, Kept::No),
    line("/neurashield.backup.v1.AgentGateway/FinishArchive", May::Agents, Kept::No),
    line("/neurashield.backup.v1.AgentGateway/OpenArchive", May::Agents, Kept::No),
    line("/neurashield.backup.v1.AgentGateway/FetchBlobs", May::Agents, Kept::No),
    // May be repeated; how often, the enrolment limits.
    line("/neurashield.backup.v1.AgentGateway/RenewCertificate", May::Agents, Kept::Success),
    line("/neurashield.backup.v1.Backups/ListBackups", VIEWER, Kept::No),
    line("/neurashield.backup.v1.Backups/GetBackup", VIEWER, Kept::No),
    line("/neurashield.backup.v1.Backups/GetHistory", VIEWER, Kept::No),
    line("/neurashield.backup.v1.Backups/ListEntries", VIEWER, Kept::No),
    // Contents hold secrets: configurations are backed up, too. Reading them is kept.
    line("/neurashield.backup.v1.Backups/ReadFile", OPERATOR, Kept::Both),
    line("/neurashield.backup.v1.Backups/ExportArchive", OPERATOR, Kept::Both),
    line("/neurashield.backup.v1.Jobs/StartBackup", OPERATOR, Kept::Both),
    line("/neurashield.backup.v1.Jobs/StartVerify", OPERATOR, Kept::Both),
    // Nothing changes, but the agent that plans is given the keys of the archive.
    line("/neurashield.backup.v1.Jobs/PlanRestore", OPERATOR, Kept::Both),
    line("/neurashield.backup.v1.Jobs/StartRestore", OPERATOR, Kept::Both),
    line("/neurashield.backup.v1.Jobs/ListJobs", VIEWER, Kept::No),
    line("/neurashield.backup.v1.Jobs/GetJob", VIEWER, Kept::No),
    line("/neurashield.backup.v1.Jobs/WatchJob", VIEWER, Kept::No),
    line("/neurashield.backup.v1.Jobs/CancelJob", OPERATOR, Kept::Both),
    line("/neurashield.backup.v1.Retention/GetRetention", VIEWER, Kept::No),
    // What decides what goes, and what lets something go, is for those who may lose it.
    line("/neurashield.backup.v1.Retention/SetRetention", ADMIN, Kept::Both),
    // Reads what every backup needs: work, but no change.
    line("/neurashield.backup.v1.Retention/PlanRetention", OPERATOR, Kept::No),
    line("/neurashield.backup.v1.Retention/StartRetention", ADMIN, Kept::Both),
    line("/neurashield.backup.v1.Retention/PlanPrune", OPERATOR, Kept::No),
    line("/neurashield.backup.v1.Retention/StartPrune", ADMIN, Kept::Both),
    line("/neurashield.backup.v1.Retention/PinBackup", OPERATOR, Kept::Both),
    // The next retention may remove it.
    line("/neurashield.backup.v1.Retention/UnpinBackup", ADMIN, Kept::Both),
    line("/neurashield.backup.v1.Agents/ListAgents", VIEWER, Kept::No),
    line("/neurashield.backup.v1.Agents/InviteAgent", ADMIN, Kept::Both),
    line("/neurashield.backup.v1.Agents/RevokeAgent", ADMIN, Kept::Both),
    line("/neurashield.backup.v1.Agents/ListInvitations", ADMIN, Kept::No),
    line("/neurashield.backup.v1.Agents/RevokeInvitation", ADMIN, Kept::Both),
    line("/neurashield.backup.v1.Schedules/ListSchedules", VIEWER, Kept::No),
    // A schedule that is changed or paused may mean that nothing is backed up any more.
    line("/neurashield.backup.v1.Schedules/SetSchedule", ADMIN, Kept::Both),
    line("/neurashield.backup.v1.Schedules/RemoveSchedule", ADMIN, Kept::Both),
    line("/neurashield.backup.v1.Schedules/PauseSchedule", ADMIN, Kept::Both),
    line("/neurashield.backup.v1.Schedules/ResumeSchedule", ADMIN, Kept::Both),
    line("/neurashield.backup.v1.Schedules/RunSchedule", OPERATOR, Kept::Both),
    line("/neurashield.backup.v1.Configuration/ListAlertSinks", VIEWER, Kept::No),
    line("/neurashield.backup.v1.Alerts/ListAlerts", VIEWER, Kept::No),
    // Somebody is written to.
    line("/neurashield.backup.v1.Alerts/TestSink", OPERATOR, Kept::Both),
    line("/neurashield.backup.v1.Alerts/ListDeliveries", VIEWER, Kept::No),
    line("/neurashield.backup.v1.Health/Examine", VIEWER, Kept::No),
    // Paths, names and addresses of a whole installation.
    line("/neurashield.backup.v1.Health/Describe", ADMIN, Kept::No),
    line("/neurashield.backup.v1.Health/GetRoom", VIEWER, Kept::No),
    line("/neurashield.backup.v1.Tokens/CreateToken", ADMIN, Kept::Both),
    line("/neurashield.backup.v1.Tokens/ListTokens", ADMIN, Kept::No),
    line("/neurashield.backup.v1.Tokens/RevokeToken", ADMIN, Kept::Both),
    line("/neurashield.backup.v1.Signers/ListSigners", VIEWER, Kept::No),
    // Lower than what was seen, a restore may let a validator sign twice.
    line("/neurashield.backup.v1.Signers/SetSigner", ADMIN, Kept::Both),
    line("/neurashield.backup.v1.Audit/ListAudit", ADMIN, Kept::No),
    line("/neurashield.backup.v1.Audit/CheckAudit", ADMIN, Kept::No),
    line(FOREIGN[0], May::Anyone, Kept::No),
    line(FOREIGN[1], VIEWER, Kept::No),
    line(FOREIGN[2], VIEWER, Kept::No),
];

/// The calls of services that are not ours. Probes have no token; what is on offer is for who is known.
const FOREIGN: &[&str] = &[
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
];

const _: () = assert!(
    without_line(TABLE, proto::METHODS).is_none(),
    "a call of a .proto file has no line in controller/src/rpc/calls.rs: decide who may make it"
);
const _: () = assert!(
    TABLE.len() == proto::METHODS.len() + FOREIGN.len(),
    "a line of controller/src/rpc/calls.rs is of no call, or stands there twice"
);

/// The place of the first call that has no line.
const fn without_line(table: &[Line], calls: &[&str]) -> Option<usize> {
    let mut at = 0;
    while at < calls.len() {
        let mut line = 0;
        while line < table.len() && !is_same(table[line].path, calls[at]) {
            line += 1;
        }
        if line == table.len() {
            return Some(at);
        }
        at += 1;
    }
    None
}

const fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// The line of a call.
pub(super) fn find(path: &str) -> Option<&'static Line> {
    TABLE.iter().find(|line| line.path == path)
}

impl Line {
    /// Service and method without the package: for people.
    pub(super) fn name(&self) -> &'static str {
        let package_ends = self.path.rfind('/').and_then(|method| self.path[..method].rfind('.'));
        package_ends.map_or(self.path, |dot| &self.path[dot + 1..])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_call_without_a_line_is_found_by_what_the_compiler_runs() {
        let mut calls = proto::METHODS.to_vec();
        assert_eq!(without_line(TABLE, &calls), None);
        calls.push("/neurashield.backup.v1.Jobs/DeleteEverything");
        assert_eq!(without_line(TABLE, &calls), Some(calls.len() - 1));
        assert_eq!(without_line(&TABLE[1..], proto::METHODS), Some(0), "nor may a line be lost");
    }

    #[test]
    fn no_line_stands_there_twice_and_every_service_is_served() {
        let paths: BTreeSet<_> = TABLE.iter().map(|line| line.path).collect();
        assert_eq!(paths.len(), TABLE.len());
        assert!(proto::METHODS.len() > 20, "the list is generated from the .proto files");
    }

    #[test]
    fn calls_have_short_names() {
        assert_eq!(TABLE[0].name(), "Enrolment/Join");
        assert_eq!(find(FOREIGN[0]).expect("there").name(), "Health/Check");
    }

    #[test]
    fn whatever_an_admin_alone_may_change_is_kept() {
        for line in TABLE.iter().filter(|line| line.may == ADMIN) {
            let reads = ["/List", "/Check", "/Describe"].iter().any(|verb| line.path.contains(verb));
            assert_eq!(line.kept == Kept::No, reads, "{}", line.path);
        }
    }
}
