//! The agent's steps, for tests of failures (see [`runtime::steps`]): what it hears, what it keeps, and
//! each change that a restore makes of what is live.

runtime::named_steps! {
    /// What can be held.
    pub enum Step {
        /// A controller has answered the join; the identity is not kept.
        JoinAnswered = "join-answered",
        /// The identity is kept.
        JoinKept = "join-kept",
        /// A controller has answered with a new certificate; it is not kept.
        RenewalAnswered = "renewal-answered",
        /// The new certificate is kept.
        RenewalKept = "renewal-kept",
        /// The controller has said welcome.
        Welcomed = "welcomed",
        /// A task was taken; nothing of it is begun.
        TaskTaken = "task-taken",
        /// The agent knows which blobs the repository holds.
        BlobsKnown = "blobs-known",
        /// A folder for the links into a chain's stores is there; nothing is in it.
        HoldBegun = "hold-begun",
        /// All that has to fit together of a chain is held; nobody was paused for it.
        HoldFilled = "hold-filled",
        /// The tables of a chain's stores are linked; nobody is paused.
        HoldLinked = "hold-linked",
        /// An empty subvolume is there, which tells whether a snapshot could be removed again.
        SnapshotTried = "snapshot-tried",
        /// A snapshot of a chain's subvolume is there; nothing of it is read.
        SnapshotMade = "snapshot-made",
        /// A subvolume that is to go may be written, for an agent that may not remove it at once; all is in it.
        SnapshotWritable = "snapshot-writable",
        /// That subvolume is empty.
        SnapshotEmptied = "snapshot-emptied",
        /// All of a chain is read and its snapshot is gone; the folder that it lay in is there.
        SnapshotGone = "snapshot-gone",
        /// It is on record who is going to be paused.
        PauseNoted = "pause-noted",
        /// The guard of a pause is there; nobody is paused.
        PauseGuarded = "pause-guarded",
        /// Who writes into a chain's stores is paused; nothing else of them is held than what was linked before.
        PauseBegun = "pause-begun",
        /// All of a chain is held; who writes is still paused.
        PauseFilled = "pause-filled",
        /// Who was paused was told to go on; guard and record are still there.
        PauseTold = "pause-told",
        /// The pause is over; nothing of the chain is read.
        PauseEnded = "pause-ended",
        /// A segment is sealed; nothing of it is sent.
        SegmentSealed = "segment-sealed",
        /// The controller has answered for a segment.
        SegmentAnswered = "segment-answered",
        /// Everything of an archive is sent; its end is not told.
        ArchiveMade = "archive-made",
        /// The controller has accepted an archive; the cache that describes it does not count.
        ArchiveAnswered = "archive-answered",
        /// The cache that describes an accepted archive counts.
        CacheKept = "cache-kept",
        /// The agent knows what opens an archive.
        KeysKnown = "keys-known",
        /// A trial in the target has made its files; they are still there.
        TrialMade = "trial-made",
        /// A restore was planned and tried; the controller has no answer.
        PlanTried = "plan-tried",
        /// It is on record where a restore writes; nothing is made there.
        PlaceOnRecord = "place-on-record",
        /// The staging folder and its journal are there.
        StagingBegun = "staging-begun",
        /// The first entry is staged.
        FirstStaged = "first-staged",
        /// Every entry is staged; that is not durable.
        AllStaged = "all-staged",
        /// All that is staged is durable; the journal does not say what will be swapped.
        StagedDurable = "staged-durable",
        /// A workload's own annotation says what it was; it still runs.
        WorkloadNoted = "workload-noted",
        /// A workload is told to stop; its pods are there.
        WorkloadTold = "workload-told",
        /// A workload is told to be what it was; its annotation still says so.
        WorkloadScaled = "workload-scaled",
        /// The journal says that the swap begins; nothing is moved.
        SwapBegun = "swap-begun",
        /// The first live entry is away; the new one is not in its place.
        FirstOldAway = "first-old-away",
        /// The first entry is swapped.
        FirstSwapped = "first-swapped",
        /// Half of the entries are swapped, and the next live one is away.
        MiddleOldAway = "middle-old-away",
        /// Half of the entries are swapped.
        MiddleSwapped = "middle-swapped",
        /// The last entry is swapped.
        LastSwapped = "last-swapped",
        /// The root folder has its new metadata.
        RootSet = "root-set",
        /// The swap is durable; the journal does not say so.
        SwapDurable = "swap-durable",
        /// The journal says that all is new.
        SwapDone = "swap-done",
        /// The journal says that the swap is taken back; nothing is moved back.
        UndoBegun = "undo-begun",
        /// The first entry is moved back.
        FirstMovedBack = "first-moved-back",
        /// All is moved back and durable; the journal does not say so.
        UndoDurable = "undo-durable",
        /// The journal says that all is old.
        UndoDone = "undo-done",
        /// The states that earlier restores have kept are gone.
        OlderReaped = "older-reaped",
        /// What is not kept of the staging folder is gone.
        StagingTidied = "staging-tidied",
        /// The restore is no longer on record.
        OffRecord = "off-record",
        /// The result of a restore is about to be sent.
        ResultDue = "result-due",
        /// A start has found an interrupted restore; nothing is done about it.
        RecoveryBegun = "recovery-begun",
        /// A start has ended an interrupted restore.
        RecoveryEnded = "recovery-ended",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use runtime::steps::Named;

    use super::*;

    #[test]
    fn every_step_has_a_name_of_its_own_that_can_be_a_files() {
        let names: BTreeSet<_> = Step::ALL.iter().map(|step| step.name()).collect();
        assert_eq!(names.len(), Step::ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'-'))));
    }
}
