//! Ends what interrupted restores have left in a source's folders, because the controller asks for it: before it starts
//! there what it has stopped.
//!
//! Must stay true: success means that nothing is half swapped there. A restore that still runs, and a swap that cannot
//! be decided, are failures.

use std::path::{Path, PathBuf};

use proto::failure::reason;
use proto::{Failure, convert, v1};
use tonic::Code;

use super::{blocking, order};
use crate::targets::files::{InProduction, Recovered, RestoreError, recover};
use crate::tasks::TaskContext;

/// Ends it, one way or the other, and says how. May be repeated.
pub(in crate::tasks) async fn settle(
    context: &TaskContext,
    wire: v1::SettleRestore,
) -> Result<v1::RestoreFinished, Failure> {
    let v1::SettleRestore { task_id, source, .. } = wire;
    let served = order::served(&context.agent, &convert::source_id("source", source.as_ref())?)?;
    let (place, roots) = (served.location(), served.roots());
    let ended = blocking(move || roots.iter().map(|root| recover(root, &InProduction)).collect());
    let ended: Result<Vec<Recovered>, RestoreError> = ended.await?;
    let ended = ended.map_err(|error| {
        let what = format!("the restore that was interrupted in {place} cannot be ended");
        let failure = Failure::new(Code::FailedPrecondition, reason::OBSTACLES, what).caused_by(&error);
        failure.hint("see to the cause; it is tried on")
    })?;
    let (mut warnings, mut replaced) = (Vec::new(), 0);
    for Recovered { finished, undone, left } in &ended {
        if let Some(left) = left.first() {
            let what = format!("the restore that was interrupted in {} cannot be ended", left.display());
            return Err(Failure::new(Code::FailedPrecondition, reason::OBSTACLES, what)
                .because("where its journal lies is not mounted")
                .hint("mount all that the source consists of"));
        }
        replaced += finished.len() as u64;
        let told = |how: &'static str| move |path: &PathBuf| told(how, path);
        warnings.extend(finished.iter().map(told("is carried through: what was restored is live")));
        warnings.extend(undone.iter().map(told("is taken back: the state before it is live")));
    }
    Ok(v1::RestoreFinished { task_id, warnings, replaced, ..v1::RestoreFinished::default() })
}

fn told(how: &str, path: &Path) -> String {
    format!("the restore that was interrupted in {} {how}", path.display())
}
