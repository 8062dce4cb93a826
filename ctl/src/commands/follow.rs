//! Waiting for a job: progress, broken connections, Ctrl-C.
//!
//! Must stay true: a job belongs to the controller and goes on whatever happens here. The first Ctrl-C
//! only leaves it and says how to come back; only a second one, right after, cancels it.

use std::time::Duration;

use proto::v1;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;

use crate::client::{Client, ask};
use crate::output::Voice;
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::progress::Progress;
use crate::views::job::Job;

/// How long a second Ctrl-C is waited for.
const SECOND_THOUGHTS: Duration = Duration::from_secs(3);
/// How long a controller may be away (it restarts) before waiting is given up.
const AWAY: Duration = Duration::from_secs(60);
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Goes on with a job that was just started: waits for it, or only says its id.
pub(super) async fn started(client: Client, job: v1::Job, detach: bool, voice: Voice) -> Ended {
    if detach {
        voice.result(&Job::from(job), |job| job.id.clone())?;
        return Ok(Exit::Done);
    }
    let id = job.id;
    let mut interrupts = signal(SignalKind::interrupt())
        .map_err(|error| Trouble::failed("cannot watch for Ctrl-C").caused_by(&error))?;
    let mut progress = Progress::new(&voice);
    let ended = tokio::select! {
        ended = ended(&client, &id, &mut progress) => ended?,
        _ = interrupts.recv() => {
            drop(progress);
            return interrupted(client, &id, &mut interrupts).await;
        }
    };
    drop(progress);
    let job = Job::from(ended);
    voice.result(&job, Job::summary)?;
    tell_failure(&job, &voice);
    Ok(job.exit())
}

/// A failed job is told like any other error, and the exit code is the job's.
pub(super) fn tell_failure(job: &Job, voice: &Voice) {
    let Some(failure) = &job.failure else { return };
    let text = |line: &Option<String>| line.clone().unwrap_or_default();
    voice.error(
        &Trouble::new(job.exit(), &failure.what).because(text(&failure.why)).hint(text(&failure.hint)),
    );
}

async fn interrupted(client: Client, id: &str, interrupts: &mut Signal) -> Ended {
    crate::output::warn(format!(
        "\nleft; the job goes on. Come back with:  nsctl logs {id} -f\nCtrl-C again within 3 seconds cancels it."
    ));
    if timeout(SECOND_THOUGHTS, interrupts.recv()).await.is_ok() {
        client.jobs().cancel_job(ask(v1::CancelJobRequest { id: id.to_owned() })).await?;
        crate::output::warn(format!("the job {id} is being cancelled"));
    }
    Ok(Exit::Interrupted)
}

/// Waits for a job without a word.
pub(crate) async fn quietly(client: &Client, id: &str) -> Result<v1::Job, Trouble> {
    ended(client, id, &mut Progress::none()).await
}

/// The job as it ended. Survives a restart of the controller.
async fn ended(client: &Client, id: &str, progress: &mut Progress) -> Result<v1::Job, Trouble> {
    let mut events = Events::new(client.clone(), id);
    let mut warned_of = 0;
    while let Some(event) = events.next().await? {
        if event.level != "info" && !event.line.is_empty() && event.sequence > warned_of {
            progress.say(&format!("{}: {}", event.level, event.line));
            warned_of = event.sequence;
        }
        if let Some(job) = event.job {
            progress.reached(&Job::from(job).reached());
        }
    }
    Ok(client.jobs().get_job(ask(v1::GetJobRequest { id: id.to_owned() })).await?.into_inner())
}

/// Everything that happened to a job, then what happens, until it has ended; connects again by itself.
pub(super) struct Events {
    client: Client,
    request: v1::WatchJobRequest,
    stream: Option<Streaming<v1::JobEvent>>,
    away_since: Option<Instant>,
}

impl Events {
    pub(super) fn new(client: Client, id: &str) -> Self {
        let request = v1::WatchJobRequest { id: id.to_owned(), after: 0 };
        Self { client, request, stream: None, away_since: None }
    }

    /// The next event; `None` when the job has ended. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Result<Option<v1::JobEvent>, Trouble> {
        loop {
            match self.try_next().await {
                Ok(event) => {
                    self.away_since = None;
                    if let Some(event) = &event {
                        self.request.after = self.request.after.max(event.sequence);
                    }
                    return Ok(event);
                }
                Err(status) => self.wait_after(status).await?,
            }
        }
    }

    /// The next event of those that have been told already; `None` where the present begins: with an event
    /// that has no line. A job may tell how far it is without a pause, so that a pause says nothing.
    pub(super) async fn next_of_the_past(&mut self) -> Result<Option<v1::JobEvent>, Trouble> {
        Ok(self.next().await?.filter(|event| !event.line.is_empty()))
    }

    async fn try_next(&mut self) -> Result<Option<v1::JobEvent>, tonic::Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(self.client.jobs().watch_job(self.request.clone()).await?.into_inner()),
        };
        stream.message().await
    }

    async fn wait_after(&mut self, status: tonic::Status) -> Result<(), Trouble> {
        self.stream = None;
        let trouble = Trouble::from(status);
        let since = *self.away_since.get_or_insert_with(Instant::now);
        if trouble.exit != Exit::Unreachable {
            return Err(trouble);
        }
        if since.elapsed() > AWAY {
            let id = &self.request.id;
            return Err(trouble.hint(format!(
                "the job goes on when the controller is back; see it with: nsctl logs {id} -f"
            )));
        }
        sleep(RETRY_EVERY).await;
        Ok(())
    }
}
