//! What uses the data, around a swap: stopped when all is staged, started when all is live, waited for until
//! it is healthy; and the same way back.
//!
//! Must stay true: every step is on record before it is taken ([`crate::state::Runs`]), so that a process
//! that dies anywhere is followed by one that starts what ran; only what ran is started.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::SignedDuration;
use proto::v1;
use repository::names::SourceId;
use runtime::clock::Clock;
use tokio::runtime::Handle;

use crate::connection::Agent;
use crate::platform::{Application, Found, Platform, writers};
use crate::state::{Report, Run, Runs, Stopped, Stopping};

/// For so long after its restore is over, what could not be started is tried again.
const TRIED_FOR: SignedDuration = SignedDuration::from_hours(24);

/// What uses the place of one restore. Blocks: it belongs to the restore's own thread.
pub(crate) struct Users<'a> {
    platform: &'a Platform,
    runs: Runs,
    clock: &'a dyn Clock,
    runtime: Handle,
    id: String,
    run: Mutex<Run>,
    /// Workloads that the confirmed plan stops: each has to be found when it is time.
    expected: Vec<String>,
    /// Counted while something is stopped: the connection may end, this may not.
    unbroken: &'a AtomicUsize,
    /// Held while somebody tries to start what an earlier restore has stopped.
    retrying: &'a Mutex<()>,
    is_unbroken: AtomicBool,
    /// What is on record under this id is what this knows; else that of an attempt before this one may be there.
    is_on_record: AtomicBool,
}

impl Drop for Users<'_> {
    fn drop(&mut self) {
        if self.is_unbroken.load(Ordering::Relaxed) {
            self.unbroken.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl<'a> Users<'a> {
    /// Those of a restore that begins.
    pub(crate) fn of(agent: &'a Agent, runtime: Handle, id: &str, report: Report) -> Self {
        let run = Run { report, ..Run::default() };
        let users = Self::resumed(agent, runtime, id, run);
        users.is_on_record.store(false, Ordering::Relaxed);
        users
    }

    /// What the plan says is stopped.
    pub(crate) fn expecting(mut self, plan: &v1::SourcePlan) -> Self {
        let workloads = plan.stops.iter().filter(|one| one.running && one.kind == "workload");
        self.expected = workloads.map(|one| one.name.clone()).collect();
        self
    }

    /// The swap is one at this server, which may be out of reach when it is looked for next.
    pub(crate) fn at(self, server: &SourceId) -> Self {
        self.lock().server = Some(server.to_string());
        self
    }

    /// What is stopped is stopped, and from here on it is half applied until it is whole.
    pub(crate) fn applying(&self) -> Result<(), String> {
        let mut run = self.lock();
        run.applying = true;
        self.keep(&run)
    }

    /// True if only the same order once more ends what was begun.
    pub(crate) fn is_applying(&self) -> bool {
        self.lock().applying
    }

    /// Those of a restore whose process has died.
    pub(crate) fn resumed(agent: &'a Agent, runtime: Handle, id: &str, run: Run) -> Self {
        Self {
            platform: &agent.platform,
            runs: agent.state.runs(),
            clock: &*agent.clock,
            runtime,
            id: id.to_owned(),
            run: Mutex::new(run),
            expected: Vec::new(),
            unbroken: &agent.unbroken,
            retrying: &agent.retrying,
            is_unbroken: AtomicBool::new(false),
            is_on_record: AtomicBool::new(true),
        }
    }

    /// Stops what uses the component; then nobody writes in `folder` any more. Where that fails, what was
    /// stopped is for [`Users::start_again`].
    pub(crate) fn stop(&self, component: Option<&str>, folder: Option<PathBuf>) -> Result<(), String> {
        if !self.is_unbroken.swap(true, Ordering::Relaxed) {
            // What is just being started is up, or not, before it is looked for.
            let _nobody_starts = self.retrying.lock().unwrap_or_else(PoisonError::into_inner);
            self.unbroken.fetch_add(1, Ordering::Relaxed);
        }
        let found = match component {
            Some(component) => {
                let found = self.runtime.block_on(self.platform.using(component, folder.as_deref()));
                found.map_err(|error| proto::failure::chain(&error))?
            }
            None => Found::default(),
        };
        let mut run = self.lock();
        run.report.did("staged", self.clock.now(), "everything is written and checked beside the old");
        let is_found = |name: &&String| found.applications.iter().any(|one| one.name == **name);
        if let Some(lost) = self.expected.iter().find(|name| !is_found(name)) {
            return Err(format!("{lost}, which has to be stopped, is not found any more"));
        }
        let before = self.runs.of(&self.id).map_err(|error| {
            format!("it cannot be read what an attempt before this one has stopped: {error}")
        })?;
        let resting: Vec<Application> = found.applications.iter().filter(|one| !one.runs).cloned().collect();
        run.stopped =
            to_start(before.map(|run| run.stopped).unwrap_or_default(), found.applications, &self.id);
        (run.is_over, run.left_at) = (false, None);
        self.keep(&run)?;
        for at in (0..run.stopped.len()).rev() {
            if run.stopped[at].state != Stopping::Untouched {
                continue;
            }
            let application = run.stopped[at].application.clone();
            run.stopped[at].state = Stopping::Told;
            self.keep(&run)?;
            tracing::info!(application = application.name, "stops for a restore");
            self.runtime
                .block_on(self.platform.stop(&application))
                .map_err(|error| format!("cannot stop {}: {error}", application.name))?;
            run.stopped[at].state = Stopping::Stopped;
            run.report.did("stopped", self.clock.now(), application.name);
            self.keep(&run)?;
        }
        drop(run);
        for application in &resting {
            let gone = self.runtime.block_on(self.platform.await_gone(application));
            gone.map_err(|error| format!("{} does not run and is not gone: {error}", application.name))?;
        }
        match folder.and_then(|folder| writers(&folder).into_iter().next()) {
            None => Ok(()),
            Some(writer) => Err(format!("{writer}, although everything known to use it is stopped")),
        }
    }

    /// Starts what ran and waits until each is healthy. Where one is not, all are stopped again.
    pub(crate) fn start(&self) -> Result<(), String> {
        self.lock().report.did("swapped", self.clock.now(), "");
        let applications = self.applications();
        let mut failure = None;
        for application in &applications {
            tracing::info!(application = application.name, "starts after a restore");
            let started = self.runtime.block_on(async {
                self.platform.start(application).await?;
                self.platform.await_health(application).await
            });
            match started {
                Ok(()) => self.lock().report.did("started", self.clock.now(), &application.name),
                Err(error) => {
                    failure = Some(format!("{} did not come up: {error}", application.name));
                    break;
                }
            }
        }
        let Some(failure) = failure else { return Ok(()) };
        for application in applications.iter().rev() {
            if let Err(error) = self.runtime.block_on(self.platform.stop(application)) {
                tracing::error!(application = application.name, %error, "cannot be stopped again");
                // It may go on, or stop later: whoever starts it again stops it before.
                self.is_now(application, Stopping::Told);
                self.remember();
            }
        }
        Err(failure)
    }

    /// Starts what ran, on the state that it ran on. What cannot be started is told.
    pub(crate) fn start_again(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        let stopped = self.lock().stopped.clone();
        for Stopped { application, .. } in stopped.iter().filter(|one| one.state == Stopping::Told) {
            // It may be on the way to its stop: a start before that has ended would be in vain. And one that could
            // not be stopped may hold on to files that are not live any more.
            match self.runtime.block_on(self.platform.stop(application)) {
                Ok(()) => {
                    self.is_now(application, Stopping::Stopped);
                    self.remember();
                }
                Err(error) => {
                    tracing::error!(application = application.name, %error, "cannot be stopped");
                    troubles.push(format!(
                        "{} could not be stopped ({error}): restart it by hand if it holds on to files of before",
                        application.name
                    ));
                }
            }
        }
        troubles.extend(self.try_to_start());
        troubles
    }

    /// Starts what is not started yet. One that runs, or is coming up, is not stopped: somebody may have started it by
    /// hand, or it needs longer than it is waited for.
    pub(crate) fn try_to_start(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        let stopped = self.lock().stopped.clone();
        for Stopped { application, .. } in stopped.iter().filter(|one| one.state != Stopping::Untouched) {
            let started = self.runtime.block_on(async {
                self.platform.start(application).await?;
                self.platform.await_health(application).await
            });
            match started {
                Ok(()) => {
                    self.lock().report.did("started", self.clock.now(), &application.name);
                    self.is_now(application, Stopping::Untouched);
                }
                Err(error) => {
                    tracing::error!(application = application.name, %error, "cannot be started again");
                    troubles.push(format!(
                        "{} is not started again ({error}): the agent tries on for a day; see to it, or start it by hand",
                        application.name
                    ));
                }
            }
        }
        troubles
    }

    /// The restore is over, and is not carried out once more.
    pub(crate) fn end(&self, change: impl FnOnce(&mut Report)) -> Report {
        let mut run = self.lock();
        change(&mut run.report);
        if let Err(error) = self.runs.end(&self.id, &run.report) {
            tracing::error!(restore = self.id, %error, "how a restore ended cannot be kept");
        }
        run.report.clone()
    }

    /// The restore is over and has changed nothing.
    pub(crate) fn forget(&self) {
        if let Err(error) = self.runs.drop(&self.id) {
            tracing::error!(restore = self.id, %error, "the record of a restore stays until the next start");
        }
    }

    /// What could not be started for so long may be gone by now, or somebody has stopped it on purpose since.
    pub(crate) fn is_old(&self) -> bool {
        let (run, now) = (self.lock(), self.clock.now());
        let since = run.left_at.or_else(|| run.report.steps.first().map(|first| first.at));
        since.is_none_or(|since| now.duration_since(since) > TRIED_FOR)
    }

    /// The restore has changed nothing: its record goes where all runs that it had stopped, and stays otherwise. One
    /// that has not come to stop anything leaves alone what an attempt before it has stopped.
    pub(crate) fn settle(&self) {
        match self.is_on_record.load(Ordering::Relaxed) {
            true if self.all_run() => self.forget(),
            true => self.leave_to_start(),
            false => {}
        }
    }

    /// True if what was stopped was started again.
    fn all_run(&self) -> bool {
        self.lock().stopped.iter().all(|one| one.state == Stopping::Untouched)
    }

    /// The restore is over, and something that it stopped is not: it is tried again, by and by
    /// ([`crate::resume::keep_starting`]).
    fn leave_to_start(&self) {
        self.leaves(&mut self.lock());
        self.remember();
    }

    fn leaves(&self, run: &mut Run) {
        run.is_over = true;
        run.left_at.get_or_insert_with(|| self.clock.now());
    }

    /// What could not be started again stays on record.
    pub(crate) fn remember(&self) {
        if let Err(error) = self.keep(&self.lock()) {
            tracing::error!(restore = self.id, "{error}");
        }
    }

    /// All of it was taken back.
    pub(crate) fn undone(&self, cause: &str) -> Report {
        let now = self.clock.now();
        self.lock().report.did("undone", now, cause);
        let troubles = self.start_again();
        let change = |report: &mut Report| {
            report.old.clear();
            report.notes.extend(troubles);
            report.undone = Some(cause.to_owned());
        };
        if self.all_run() {
            return self.end(change);
        }
        let mut run = self.lock();
        change(&mut run.report);
        self.leaves(&mut run);
        if let Err(error) = self.runs.end_and_start_later(&self.id, &run.report, &run) {
            tracing::error!(restore = self.id, %error, "how a restore ended cannot be kept");
        }
        run.report.clone()
    }

    fn applications(&self) -> Vec<Application> {
        self.lock().stopped.iter().map(|one| one.application.clone()).collect()
    }

    fn is_now(&self, application: &Application, state: Stopping) {
        let mut run = self.lock();
        let of_it = run.stopped.iter_mut().filter(|one| one.application.name == application.name);
        of_it.for_each(|one| one.state = state);
    }

    fn keep(&self, run: &Run) -> Result<(), String> {
        self.is_on_record.store(true, Ordering::Relaxed);
        let kept = self.runs.keep(&self.id, run);
        kept.map_err(|error| format!("it cannot be kept on record what is stopped: {error}"))
    }

    fn lock(&self) -> MutexGuard<'_, Run> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has to be started in the end, in the order for that: what runs now, and what an attempt before has stopped.
fn to_start(before: Vec<Stopped>, found: Vec<Application>, id: &str) -> Vec<Stopped> {
    let mut before: Vec<Stopped> =
        before.into_iter().filter(|one| one.state != Stopping::Untouched).collect();
    let mut stopped = Vec::new();
    for application in found {
        let at = before.iter().position(|one| one.application.name == application.name);
        let state = at.map(|at| before.remove(at).state);
        let state = if application.runs { Some(Stopping::Untouched) } else { state };
        stopped.extend(state.map(|state| Stopped { application: application.held_by(id), state }));
    }
    // What is not found any more may come back.
    before.into_iter().chain(stopped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_attempt_before_has_stopped_is_started_by_the_next() {
        let one = |name: &str, runs| Application {
            name: name.to_owned(),
            handle: crate::platform::Handle::Commands,
            after: Vec::new(),
            runs,
            is_checked: false,
        };
        let stopped = |name: &str, state| Stopped { application: one(name, true), state };
        let before = vec![
            stopped("gone", Stopping::Stopped),
            stopped("ran-in-the-end", Stopping::Untouched),
            stopped("told", Stopping::Told),
            stopped("down", Stopping::Stopped),
            stopped("by-hand", Stopping::Stopped),
        ];
        let found = ["down", "by-hand", "ran-in-the-end", "told", "never", "always"];
        let found = found.map(|name| one(name, ["by-hand", "always"].contains(&name))).to_vec();
        let to_start = to_start(before, found, "r");
        let named: Vec<_> = to_start.iter().map(|one| (&*one.application.name, one.state)).collect();
        assert_eq!(
            named,
            [
                ("gone", Stopping::Stopped),
                ("down", Stopping::Stopped),
                ("by-hand", Stopping::Untouched),
                ("told", Stopping::Told),
                ("always", Stopping::Untouched),
            ]
        );
    }
}
