//! Waiting by two clocks. Pure.
//!
//! A clock that jumped must not shorten a grace: it has passed only when the controller's clock and the
//! storage's own say so, and where they disagree, or one of them went back, nothing is taken away.

use jiff::{SignedDuration, Timestamp};

use super::PruneError;

/// So far apart two clocks may be, and so far back one may step.
const TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// The same moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) controller: Timestamp,
    pub(super) storage: Timestamp,
}

impl Moment {
    /// Refuses clocks that cannot both be right.
    pub(super) fn checked(self) -> Result<Self, PruneError> {
        let Moment { controller, storage } = self;
        if controller.duration_since(storage).abs() > TOLERANCE {
            return Err(PruneError::ClocksDiffer { controller, storage });
        }
        Ok(self)
    }

    /// True if `wait` has passed since `then` by both clocks.
    pub(super) fn is_past(self, then: Moment, wait: SignedDuration) -> Result<bool, PruneError> {
        let now = self.checked()?;
        let pairs = [(then.controller, now.controller), (then.storage, now.storage)];
        for (was, is) in pairs {
            if was.duration_since(is) > TOLERANCE {
                return Err(PruneError::ClockWentBack { was, is });
            }
        }
        Ok(pairs.iter().all(|(was, is)| is.duration_since(*was) >= wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(controller: i64, storage: i64) -> Moment {
        let at = |minute: i64| Timestamp::from_second(1_800_000_000 + 60 * minute).unwrap();
        Moment { controller: at(controller), storage: at(storage) }
    }

    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    #[test]
    fn a_grace_passes_by_both_clocks_or_not_at_all() {
        let then = moment(0, 2);
        assert!(!moment(59, 59).is_past(then, HOUR).unwrap());
        assert!(!moment(60, 61).is_past(then, HOUR).unwrap(), "the storage's clock says 59 minutes");
        assert!(moment(60, 62).is_past(then, HOUR).unwrap());
    }

    #[test]
    fn clocks_that_disagree_or_go_back_stop_it() {
        let then = moment(0, 0);
        assert!(matches!(moment(100, 94).is_past(then, HOUR), Err(PruneError::ClocksDiffer { .. })));
        assert!(matches!(moment(94, 100).is_past(then, HOUR), Err(PruneError::ClocksDiffer { .. })));
        assert!(matches!(moment(-6, -4).is_past(then, HOUR), Err(PruneError::ClockWentBack { .. })));
        assert!(!moment(-4, -4).is_past(then, HOUR).unwrap(), "a small step back is a small step");
    }
}
