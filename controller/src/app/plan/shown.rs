//! The plans that were shown last.
//!
//! Must stay true: never more than a few of them are kept, and nothing is decided by them: they only tell what
//! has changed since.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use proto::plan::changes;
use proto::v1::SourcePlan;

use super::Plan;

/// The plans that were shown last, by their digests: so that it can be told what has changed since. A plan
/// that is not here any more is refused without that.
#[derive(Debug, Default)]
pub struct ShownPlans(Mutex<VecDeque<(String, Vec<SourcePlan>)>>);

impl ShownPlans {
    /// So many are remembered.
    const MAX: usize = 32;

    pub(super) fn show(&self, plan: &Plan) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.iter().any(|(digest, _)| *digest == plan.digest) {
            return;
        }
        if shown.len() == Self::MAX {
            shown.pop_front();
        }
        shown.push_back((plan.digest.clone(), plan.sources.clone()));
    }

    /// What the new plan says that the one with this digest did not.
    pub(super) fn changes(&self, digest: &str, now: &[SourcePlan]) -> Vec<String> {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, before)) = shown.iter().find(|(known, _)| known == digest) else { return Vec::new() };
        let of_source = |plan: &SourcePlan| {
            let was = before.iter().find(|was| was.source == plan.source)?;
            let source = plan.source.clone().unwrap_or_default();
            let name = format!("{}/{}", source.component, source.name);
            Some(changes(was, plan).into_iter().map(move |line| format!("{name}: {line}")))
        };
        now.iter().filter_map(of_source).flatten().collect()
    }
}
