//! Every metric that there is: one entry each, in the order in which they are told.

/// What kind of figure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It only grows, from 0 at each start of the controller.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How often it was how much.
    Histogram,
}

/// A metric with all its series.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
}

macro_rules! families {
    ($($ident:ident $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(crate) static $ident: Family =
            Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*
        /// All of them.
        pub(crate) static ALL: &[&Family] = &[$(&$ident),*];
    };
}

families! {
    BUILD Gauge "neurashield_build_info" ["version"] "The release that runs; always 1.";
    STARTED Gauge "neurashield_start_time_seconds" [] "When the controller was started.";
    READY Gauge "neurashield_ready" [] "1 where the controller can do its work, as /readyz says.";

    JOBS Counter "neurashield_jobs_total" ["kind", "result"] "Jobs that have ended.";
    JOB_SECONDS Histogram "neurashield_job_duration_seconds" ["kind"] "How long ended jobs took, from the end of their wait.";
    JOBS_ALIVE Gauge "neurashield_jobs_alive" ["state"] "Jobs that have not ended: queued, running, committing.";
    JOB_LAST Gauge "neurashield_job_last_end_timestamp_seconds" ["kind", "result"] "When a job last ended so, since the start.";
    READ Counter "neurashield_backup_read_bytes_total" ["component"] "Bytes that backups have read from sources.";
    STORED Counter "neurashield_backup_stored_bytes_total" ["component"] "Bytes that backups have added to the repository, compressed and sealed.";
    SIZE Gauge "neurashield_backup_last_size_bytes" ["component"] "Bytes of all files in the newest backup.";
    VERIFY_READ Counter "neurashield_verify_read_bytes_total" [] "Bytes of packs that verifications have read.";
    RESTORED Counter "neurashield_restore_written_bytes_total" [] "Bytes that restores have written.";
    RETIRED Counter "neurashield_retention_removed_backups_total" [] "Backups that retention has removed.";
    FREED Counter "neurashield_prune_freed_bytes_total" [] "Bytes that prune has freed.";
    REWRITTEN Counter "neurashield_prune_rewritten_bytes_total" [] "Bytes that prune has copied into new packs.";

    COMPLETE Gauge "neurashield_component_last_complete_timestamp_seconds" ["component"] "When the newest backup was begun that holds the component complete.";
    VERIFIED Gauge "neurashield_component_last_verified_timestamp_seconds" ["component"] "When the newest backup was begun in which the component is complete and was read and found intact.";
    OBJECTIVE Gauge "neurashield_component_objective_seconds" ["component"] "How old the newest verified backup may be.";
    OVERDUE Gauge "neurashield_component_overdue_from_timestamp_seconds" ["component"] "From when on the newest verified backup is too old, or should have been there.";

    NEXT Gauge "neurashield_schedule_next_run_timestamp_seconds" ["schedule"] "When it runs next; absent while it is paused.";
    LAST Gauge "neurashield_schedule_last_run_timestamp_seconds" ["schedule"] "When its newest run was decided about.";
    PAUSED Gauge "neurashield_schedule_paused" ["schedule"] "1 while nothing runs by it.";
    MISSED Gauge "neurashield_schedule_missed" ["schedule"] "1 where its newest planned time was missed.";

    AGENTS_EXPECTED Gauge "neurashield_agents_expected" [] "Agents that have joined and are not revoked.";
    AGENTS_CONNECTED Gauge "neurashield_agents_connected" [] "Of these, those that are connected.";
    AGENT_UP Gauge "neurashield_agent_connected" ["agent"] "1 while the agent is connected.";
    AGENT_CERTIFICATE Gauge "neurashield_agent_certificate_expiry_timestamp_seconds" ["agent"] "When the agent's certificate ends.";
    CERTIFICATE Gauge "neurashield_certificate_expiry_timestamp_seconds" [] "When the controller's certificate ends.";
    TOKEN Gauge "neurashield_api_token_expiry_timestamp_seconds" ["token"] "When an API token that is in use ends.";
    RECOVERY_KEY Gauge "neurashield_recovery_key_confirmed" [] "1 where somebody has confirmed to have the recovery key.";

    FREE Gauge "neurashield_storage_free_bytes" [] "Free bytes of the repository's storage; absent where it does not tell.";
    TOTAL Gauge "neurashield_storage_size_bytes" [] "Bytes of the repository's storage; absent where it does not tell.";
    LOW Gauge "neurashield_storage_low_space_bytes" [] "With less free than this, the storage counts as nearly full.";
    STATE_FREE Gauge "neurashield_state_free_bytes" [] "Free bytes where the controller's state folder is.";
    REPOSITORY Gauge "neurashield_repository_bytes" [] "Bytes of all packs that the index names, as of a quarter of an hour ago at most.";
    PACKS Gauge "neurashield_repository_packs" [] "How many packs these are.";
    BACKUPS Gauge "neurashield_repository_backups" [] "Backups in the repository.";
    WRITABLE Gauge "neurashield_repository_lease_held" [] "1 while this controller may write the repository.";

    OPEN_ALERTS Gauge "neurashield_alerts_open" ["kind"] "What is wrong now.";
    DELIVERIES Counter "neurashield_alert_deliveries_total" ["sink", "result"] "Messages that a sink took, refused for now, or was given up for.";
    ALERT_QUEUE Gauge "neurashield_alert_queue_messages" ["sink"] "Messages that wait for a sink.";
    ALERT_FAILING Gauge "neurashield_alert_failing_since_timestamp_seconds" ["sink"] "Since when the oldest message waits that was refused; absent where none was.";

    CALLS Counter "neurashield_grpc_calls_total" ["method", "result"] "gRPC calls: answered, failed, or refused by the gate.";
    CONNECTIONS_REFUSED Counter "neurashield_grpc_connections_refused_total" [] "Connections to the gRPC port that got no place.";
    AUDIT Gauge "neurashield_audit_intact" [] "1 where the audit log was whole when it was opened.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions_and_are_given_once() {
        let names: BTreeSet<&str> = ALL.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), ALL.len());
        for family in ALL {
            assert!(family.name.starts_with("neurashield_"), "{}", family.name);
            assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
            assert!(family.help.ends_with('.') && !family.help.contains(['\n', '\\']), "{}", family.name);
            // Of one job, path or cause there would be ever more.
            for label in family.labels {
                assert!(!["job", "backup", "path", "error", "host"].contains(label), "{}", family.name);
            }
        }
    }
}
