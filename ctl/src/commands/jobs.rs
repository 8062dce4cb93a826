//! `nsctl jobs`, `logs` and `cancel`.

use proto::v1;
use runtime::clock::{Clock, SystemClock};

use super::follow::{Events, tell_failure};
use crate::client::{Client, ask};
use crate::output::Voice;
use crate::output::exit::{Ended, Exit};
use crate::views::job::{Event, Job, Jobs};

pub(super) async fn list(client: Client, limit: u32, voice: Voice) -> Ended {
    let mut jobs = Jobs { jobs: Vec::new() };
    let mut before = String::new();
    loop {
        let left = limit - u32::try_from(jobs.jobs.len()).unwrap_or(limit).min(limit);
        let page = v1::ListJobsRequest { limit: left, before };
        let page = client.jobs().list_jobs(ask(page)).await?.into_inner();
        jobs.jobs.extend(page.jobs.into_iter().map(Job::from));
        match jobs.jobs.last() {
            Some(last) if page.more && jobs.jobs.len() < limit as usize => before = last.id.clone(),
            _ => break,
        }
    }
    voice.result(&jobs, |jobs| jobs.table(SystemClock.now()))?;
    Ok(Exit::Done)
}

/// One job with all that is known of it.
pub(super) async fn show(client: Client, id: String, voice: Voice) -> Ended {
    voice.result(&get(&client, &id).await?, Job::report)?;
    Ok(Exit::Done)
}

pub(super) async fn logs(client: Client, id: String, follow: bool, voice: Voice) -> Ended {
    let now = get(&client, &id).await?;
    let mut events = Events::new(client.clone(), &id);
    loop {
        let next = match follow || now.state.has_ended() {
            true => events.next().await?,
            false => events.next_of_the_past().await?,
        };
        let Some(event) = next else { break };
        if !event.line.is_empty() {
            voice.event(&Event::from(event), Event::line)?;
        }
    }
    let ended = get(&client, &id).await?;
    if !follow {
        return Ok(Exit::Done);
    }
    tell_failure(&ended, &voice);
    Ok(ended.exit())
}

pub(super) async fn cancel(client: Client, id: String, voice: Voice) -> Ended {
    let job = client.jobs().cancel_job(ask(v1::CancelJobRequest { id })).await?.into_inner();
    let job: Job = job.into();
    if job.state.has_ended() {
        voice.say(format!("the job {} has ended already: {}", job.id, job.state.word()));
    } else {
        voice.say(format!("the job {} is being cancelled", job.id));
    }
    voice.data(&job)?;
    Ok(Exit::Done)
}

async fn get(client: &Client, id: &str) -> Result<Job, crate::output::exit::Trouble> {
    Ok(client.jobs().get_job(ask(v1::GetJobRequest { id: id.to_owned() })).await?.into_inner().into())
}
