//! Whose turn it is: one restore at a time in a namespace, since two restore pods may stand in for the same workload.
//!
//! Must stay true: nothing is begun beside a restore that is under way, also where that is between two attempts; what
//! one that has ended has left is put right first.

use tokio::sync::OwnedMutexGuard;

use super::closing::{close_left, is_left};
use super::scale::LOOK_AGAIN;
use crate::catalog::{CatalogError, Kept};
use crate::jobs::runner::Attempt;
use crate::jobs::state::MAX_ATTEMPTS;
use crate::kubernetes::{Hold, PodId, StandIn};

/// Waits until no other restore is under way in the namespace, and puts right what one that has ended has left. With
/// the turn comes what is on record of this part, where an attempt before has begun.
pub(super) async fn own_turn(
    attempt: &Attempt,
    stand_in: &StandIn,
) -> Result<(OwnedMutexGuard<()>, Option<Hold>), String> {
    let shared = &attempt.shared;
    let mut tries = 1;
    loop {
        let turn = stand_in.turn.clone().lock_owned().await;
        match look_around(attempt, stand_in).await {
            Ok(Around::Free) => return Ok((turn, None)),
            Ok(Around::Ours(hold)) => return Ok((turn, Some(hold))),
            Ok(Around::Left(left, hold)) => {
                let was_ours = is_of(attempt, &hold) && (hold.done.is_some() || hold.is_unknown());
                let limit = left.pod.start_limit.get();
                match close_left(shared, &left, hold, limit).await {
                    // Restored once more, it would go over what is written since.
                    Ok(None) if was_ours => {
                        return Err("another restore pod than the one that began it serves its source now; what was restored \
                                    may be live"
                            .to_owned());
                    }
                    Ok(None) => {}
                    Ok(Some(why)) => return Err(format!("an earlier restore is not over: {why}")),
                    Err(error) => return Err(proto::failure::chain(&error)),
                }
            }
            Ok(Around::Unreadable(pod)) => {
                return Err(format!(
                    "the record of what a restore by {} has stopped cannot be read",
                    pod.workload()
                ));
            }
            // Another part is between two attempts.
            Ok(Around::Busy) => {}
            Err(error) if tries >= MAX_ATTEMPTS => return Err(proto::failure::chain(&error)),
            Err(_) => tries += 1,
        }
        drop(turn);
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn is_of(attempt: &Attempt, hold: &Hold) -> bool {
    hold.job == attempt.job.id && hold.part == attempt.part
}

enum Around {
    Free,
    Ours(Hold),
    Left(Box<StandIn>, Hold),
    Busy,
    Unreadable(PodId),
}

/// What is on record of this pod, and of those that stand in for a workload that is the same. What is not configured any
/// more, and stands in for others, is told elsewhere.
async fn look_around(attempt: &Attempt, own: &StandIn) -> Result<Around, CatalogError> {
    let shared = &attempt.shared;
    // One that cannot be read is none that may be written over.
    if let Some(hold) = shared.catalog.hold(&own.id()).await?
        && is_of(attempt, &hold)
    {
        return Ok(Around::Ours(hold));
    }
    let mut around = Around::Free;
    for (pod, kept) in shared.catalog.each_hold().await? {
        let hold = match kept {
            Kept::Read(hold) => *hold,
            Kept::Unreadable { .. } if pod.namespace != own.id().namespace => continue,
            // Whoever it is of: what it has stopped may be what this one stands in for.
            Kept::Unreadable { .. } => return Ok(Around::Unreadable(pod)),
        };
        let Some(stand_in) = shared.settings.restore_pods.called(&pod) else { continue };
        if pod != own.id() && !(pod.namespace == own.id().namespace && stand_in.shares_with(own)) {
            continue;
        }
        // Ours, under a pod to which the source belonged before.
        match is_of(attempt, &hold) || is_left(shared, &hold).await? {
            true => around = Around::Left(Box::new(stand_in), hold),
            // Over, but for the job's knowledge.
            false if hold.is_over && pod != own.id() => {}
            false => return Ok(Around::Busy),
        }
    }
    Ok(around)
}
