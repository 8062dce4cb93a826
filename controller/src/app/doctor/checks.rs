//! Everything that the doctor looks at: the one list from which findings take their words and from which the
//! troubleshooting guide in `docs/operations.md` is made.

/// Something that is looked at.
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    /// A word for programs; it never changes its meaning.
    pub id: &'static str,
    /// storage, state, repository, backups, keys, certificates, clock, agents, sources, schedules, alerts,
    /// controller.
    pub area: &'static str,
    /// What it means where this is wrong, and so why it matters.
    pub why: &'static str,
    /// What to do then, unless the finding knows better.
    pub todo: &'static str,
}

macro_rules! checks {
    ($($ident:ident $area:literal $id:literal $why:literal $todo:literal;)*) => {
        $(pub(crate) static $ident: Check = Check { id: $id, area: $area, why: $why, todo: $todo };)*
        /// All of them, in the order of the guide.
        pub static CHECKS: &[&Check] = &[$(&$ident),*];
    };
}

checks! {
    REACHABLE "controller" "controller-reachable"
        "nothing is scheduled, backed up or told while no controller answers"
        "start it (`nsctl up`, `systemctl start`, `docker-compose up -d`, `kubectl rollout status`) and read its log; from elsewhere check --server, the token and the firewall";
    CONFIGURATION "controller" "configuration"
        "a controller does not start with settings that it cannot use"
        "correct it and try `nsctl config check`";
    AUDIT "controller" "audit-log"
        "who did what can no longer be proven"
        "find out who did it; `nsctl audit --check` proves the whole of it";
    JOBS "controller" "jobs"
        "the newest job of a kind has failed, and what it was for was not done"
        "`nsctl logs JOB` says why and what to do; then run it again";

    SPACE "storage" "disk-space"
        "a backup that finds no room fails; nothing of it stays, and nothing older is lost"
        "make room, let retention keep less and run `nsctl prune`, or move the repository to a larger disk";
    FULL_SOON "storage" "disk-full-soon"
        "at the rate of the last weeks the storage is full before long"
        "let retention keep less (`nsctl retention show`), or give the repository a larger disk";
    WRITABLE "storage" "storage-writable"
        "no backup can be stored; tried for real, by an object that is written and deleted"
        "check that the folder is mounted, belongs to the controller's user and is not read-only; of a bucket: its address, its credentials and their rights";
    STORAGE "storage" "storage-kind"
        "the storage does not promise what a repository needs"
        "docs/operations.md, \"A repository in a bucket\", says what to look at";

    STATE_SPACE "state" "state-space"
        "without room in the state folder no job, no audit and no alert can be written down"
        "make room where the controller's state folder is";
    STATE_MODES "state" "state-permissions"
        "others on this machine can read keys and catalog"
        "`chmod 700` the folder and `chmod 600` the files in it, and find out who has read them";

    LEASE "repository" "repository-lease"
        "another controller writes this repository; this one may not"
        "make sure that only one controller uses it, then restart this one";
    OPENS "repository" "repository-opens"
        "what cannot be listed cannot be restored"
        "see what the finding says; `nsctl repository check` reads it without a controller";
    CATALOG_COPY "repository" "catalog-copy"
        "when the state folder is lost, schedules, agents and history come back as of the newest copy of the catalog"
        "run `nsctl backup`, which puts a copy beside itself; the controller's log says why there was none";
    DAMAGED "repository" "backup-damaged"
        "a backup that cannot be read cannot be restored"
        "`nsctl repository check --repair` mends what can be mended; otherwise bring it back from a copy";
    LOST "repository" "timestamp-missing"
        "a timestamp that existed is no longer in the repository's folder"
        "if nobody meant to delete it, bring its folder back from a copy; the packs are still there";
    CHAIN "repository" "chain"
        "it can no longer be proven which backups there were"
        "bring repository/chain back from a copy; backups go on meanwhile";
    RESCUE "repository" "rescue-programs"
        "the repository should bring the programs with it that restore it when everything else is lost"
        "restart the controller, which fills repository/rescue; its log says what hinders it";

    EXISTS "backups" "backup-exists"
        "what was never backed up completely cannot be restored"
        "run `nsctl backup`; `nsctl jobs` and `nsctl logs JOB` say why earlier ones are not complete";
    AGE "backups" "backup-verified"
        "only a backup that was read and found intact is known to be worth something"
        "`nsctl jobs` tells what hinders it; then `nsctl backup` and `nsctl verify`";

    RECOVERY "keys" "recovery-key"
        "if the first key is lost and nobody has the recovery key, every backup is unreadable"
        "keep a copy of it away from this machine, then run `nsctl repository key confirm`";
    KEY "keys" "key-unlocked"
        "without its key the repository can be neither restored nor verified"
        "bring back the key file or the passphrase of `key:`, or unlock it with the recovery key";

    CERTIFICATE "certificates" "certificate"
        "with a certificate that has ended nobody can connect"
        "it renews itself while it runs; restart it if it does not; an agent whose certificate has ended has to be invited anew";
    TOKEN "certificates" "api-token"
        "automation stops with its token"
        "make another one with `nsctl token create` and give it to whoever uses this one";

    CLOCK "clock" "clock"
        "times decide about schedules, retention and certificates"
        "set the clock of the machine that is wrong: is NTP running there?";

    JOINED "agents" "agent-joined"
        "without agents nothing is backed up"
        "make a token with `nsctl agent invite` and start an agent with it";
    CONNECTED "agents" "agent-connected"
        "what only this agent serves is missing from backups"
        "start it, and check that it reaches this controller; if it is gone for good: `nsctl agent revoke`";
    ANSWERS "agents" "agent-answers"
        "an agent that is connected and does not answer makes no backup either"
        "see the agent's log, and restart it";
    CLONE "agents" "agent-cloned"
        "two processes with one identity disturb each other"
        "find the other process; if its state folder was copied, invite one of the two anew";
    INVITED "agents" "agent-never-joined"
        "somebody was expected and has not come; what it should serve is not backed up"
        "start the agent with its token, or take the invitation back: `nsctl agent invites`";
    AGENT_SPACE "agents" "agent-state-space"
        "without room for its cache an agent reads everything anew each time, or fails"
        "make room where the agent's state folder is";
    STOPPED "agents" "workloads-stopped"
        "what a restore by a restore pod has stopped does not run, and nobody but the controller's log says so"
        "the controller tries on every 15 seconds: `nsctl logs JOB` and its own log say what hinders it; `kubectl describe` the restore pod";

    READABLE "sources" "source-readable"
        "what cannot be read is missing from backups; tried for real by its agent"
        "check that it is there, mounted, and readable for the agent's user";
    OWNED "sources" "source-refused"
        "an agent offers what it may not serve, so nobody backs it up by this agent"
        "if it is to take it over: `nsctl agent revoke` the other one, then restart it";
    NO_SOURCE "sources" "agent-without-source"
        "an agent that serves nothing backs nothing up"
        "add sources to its configuration";
    UNSERVED "sources" "component-unserved"
        "earlier backups hold it, and the next one will not"
        "start or invite the agent that serves it; if it is gone on purpose, its old backups stay until retention";
    UNCOVERED "sources" "data-in-no-plan"
        "data lies where data usually lies, and no source covers it: it is in no backup"
        "add it to `sources` of the agent, or to `look_here.ignore` if it is not worth a backup";

    SCHEDULED "schedules" "schedule-exists"
        "nothing is backed up, or verified, by itself"
        "`nsctl schedule set` makes one; without `schedules` in its configuration the controller has its usual two";
    PAUSED "schedules" "schedule-paused"
        "nothing runs by it until somebody resumes it"
        "`nsctl schedule resume NAME`";
    MISSED "schedules" "schedule-missed"
        "a planned time has passed without its run"
        "`nsctl schedule run NAME` makes up for it; was the controller down, or an earlier run too slow?";

    SINKS "alerts" "alerts-configured"
        "if a backup fails, nobody hears of it"
        "see \"Alerts\" in docs/operations.md: email, Slack, Discord, webhook, ping";
    DELIVERED "alerts" "alerts-delivered"
        "what was to be told does not arrive"
        "mend the sink, then try `nsctl alert test NAME`; what waits is sent by itself";
}

/// The troubleshooting guide's table, as it stands in `docs/operations.md`.
#[cfg(test)]
fn guide() -> String {
    let mut text = String::from("| check | area | why it matters | what to do |\n|---|---|---|---|\n");
    for Check { id, area, why, todo } in CHECKS {
        text.push_str(&format!("| `{id}` | {area} | {why} | {todo} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_guide_is_this_list() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
        let text = std::fs::read_to_string(&file).expect("the guide");
        let (before, rest) = text.split_once("<!-- doctor -->\n").expect("where it begins");
        let (there, after) = rest.split_once("<!-- /doctor -->").expect("where it ends");
        if std::env::var_os("NEURASHIELD_REGENERATE").is_some() {
            let whole = format!("{before}<!-- doctor -->\n{}<!-- /doctor -->{after}", guide());
            std::fs::write(&file, whole).expect("written");
            return;
        }
        assert_eq!(there, guide(), "NEURASHIELD_REGENERATE=1 with this test writes the guide anew");
    }

    #[test]
    fn every_check_has_a_word_of_its_own_and_says_what_to_do() {
        let ids: BTreeSet<&str> = CHECKS.iter().map(|check| check.id).collect();
        assert_eq!(ids.len(), CHECKS.len());
        for check in CHECKS {
            assert!(
                !check.why.is_empty() && !check.todo.is_empty() && !check.todo.contains('|'),
                "{}",
                check.id
            );
        }
    }
}
