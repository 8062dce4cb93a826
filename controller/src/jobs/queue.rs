//! Which queued jobs may start. Pure.
//!
//! Must stay true: a source is never backed up and restored at once, nor restored twice at once; there is
//! one backup, one verification and one retention or prune at a time; jobs that stand in each other's way go in the order in which
//! they came.

use repository::names::Component;

use crate::ids::JobId;
use crate::jobs::job::{Job, JobState, Order};

/// The most jobs that may wait.
pub const MAX_QUEUED: usize = 100;

/// The jobs that may start now. `alive` holds every job that has not ended, the oldest first.
pub fn startable(alive: &[Job]) -> Vec<JobId> {
    let mut ahead: Vec<&Job> = alive.iter().filter(|job| job.state != JobState::Queued).collect();
    let mut starts = Vec::new();
    for job in alive.iter().filter(|job| job.state == JobState::Queued) {
        if !ahead.iter().any(|other| in_the_way(other, job)) {
            starts.push(job.id);
        }
        ahead.push(job);
    }
    starts
}

fn in_the_way(a: &Job, b: &Job) -> bool {
    match (&a.order, &b.order) {
        // What the others read, their leases keep.
        (a, b) if a.clears() || b.clears() => a.clears() && b.clears(),
        (Order::Backup { .. }, Order::Backup { .. }) | (Order::Verify { .. }, Order::Verify { .. }) => true,
        (Order::Verify { .. }, _) | (_, Order::Verify { .. }) => false,
        (a, b) => share_a_component(&touched(a), &touched(b)),
    }
}

/// What a job writes to or reads from at the agents; `None`: everything.
fn touched(order: &Order) -> Option<Vec<&Component>> {
    match order {
        Order::Backup { components, .. } if components.is_empty() => None,
        Order::Backup { components, .. } => Some(components.iter().collect()),
        Order::Verify { .. } | Order::Retention { .. } | Order::Prune { .. } => Some(Vec::new()),
        Order::Restore { places, .. } => Some(places.iter().map(|place| &place.source.component).collect()),
    }
}

fn share_a_component(a: &Option<Vec<&Component>>, b: &Option<Vec<&Component>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.iter().any(|component| b.contains(component)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use repository::verify::Depth;

    use super::*;
    use crate::ids::AgentId;
    use crate::jobs::job::RestorePlace;

    fn job(order: Order, state: JobState) -> Job {
        Job { state, ..Job::queued(JobId::fresh(), order, Timestamp::UNIX_EPOCH) }
    }

    fn backup(components: &[&str]) -> Order {
        let components = components.iter().map(|name| name.parse().expect("a component")).collect();
        Order::Backup { components, pin: None, import: None }
    }

    fn restore(source: &str) -> Order {
        let place = RestorePlace {
            source: source.parse().expect("a source"),
            kind: "files".into(),
            agent: AgentId::fresh(),
            folder: None,
            globs: Vec::new(),
            databases: Default::default(),
            allowance: Default::default(),
            confirmed: None,
            takes_back: false,
        };
        Order::Restore {
            backup: "20260101_010000".parse().expect("a name"),
            places: vec![place],
            safety: None,
            undo_of: None,
            digest: String::new(),
        }
    }

    fn verify() -> Order {
        let backup = "20260101_010000".parse().expect("a name");
        Order::Verify { backup, components: Vec::new(), depth: Depth::Listed, budget: None, drill: false }
    }

    fn starts(alive: &[Job]) -> Vec<usize> {
        let ids = startable(alive);
        (0..alive.len()).filter(|at| ids.contains(&alive[*at].id)).collect()
    }

    #[test]
    fn one_backup_at_a_time_and_a_verification_beside_it() {
        let alive = [
            job(backup(&["models"]), JobState::Running),
            job(backup(&["ipfs"]), JobState::Queued),
            job(verify(), JobState::Queued),
            job(verify(), JobState::Queued),
        ];
        assert_eq!(starts(&alive), [2]);
    }

    #[test]
    fn a_source_is_not_backed_up_and_restored_at_once() {
        let alive = [
            job(backup(&["models"]), JobState::Committing),
            job(restore("models/a"), JobState::Queued),
            job(restore("ipfs/a"), JobState::Queued),
            job(restore("ipfs/b"), JobState::Queued),
        ];
        assert_eq!(starts(&alive), [2]);
    }

    #[test]
    fn one_clearing_at_a_time_and_beside_everything_else() {
        let retention = || Order::Retention { confirmed: None, approved: false };
        let prune = Order::Prune { now: true, approved: false };
        let alive = [
            job(retention(), JobState::Queued),
            job(prune, JobState::Queued),
            job(backup(&[]), JobState::Queued),
        ];
        assert_eq!(startable(&alive), [alive[0].id, alive[2].id]);
        let alive = [job(backup(&[]), JobState::Running), job(retention(), JobState::Queued)];
        assert_eq!(startable(&alive), [alive[1].id]);
    }

    #[test]
    fn a_later_job_does_not_overtake_one_that_it_would_hinder() {
        let alive = [
            job(restore("models/a"), JobState::Running),
            job(backup(&[]), JobState::Queued),
            job(restore("ipfs/a"), JobState::Queued),
        ];
        assert_eq!(starts(&alive), [0usize; 0]);
    }
}
