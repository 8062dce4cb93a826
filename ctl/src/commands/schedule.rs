//! `nsctl schedule`.

use proto::v1;

use super::follow;
use crate::cli;
use crate::client::{Client, ask};
use crate::output::Voice;
use crate::output::exit::{Ended, Exit};
use crate::views::schedule::{Removed, Schedule, Schedules};

pub(super) async fn run(client: Client, wanted: cli::Schedule, voice: Voice) -> Ended {
    match wanted {
        cli::Schedule::List(_) => {
            let wire =
                client.schedules().list_schedules(ask(v1::ListSchedulesRequest {})).await?.into_inner();
            voice.result(&Schedules::from(wire), Schedules::table)?;
            Ok(Exit::Done)
        }
        cli::Schedule::Set(wanted) => set(client, *wanted, voice).await,
        cli::Schedule::Remove { name, .. } => {
            client.schedules().remove_schedule(ask(v1::RemoveScheduleRequest { name: name.clone() })).await?;
            voice.say(format!("schedule {name} is removed; one of the program's own is what it was again"));
            voice.data(&Removed { removed: name })?;
            Ok(Exit::Done)
        }
        cli::Schedule::Pause(cli::Named { name, .. }) => {
            let request = v1::PauseScheduleRequest { name };
            shown(client.schedules().pause_schedule(ask(request)).await?.into_inner(), voice)
        }
        cli::Schedule::Resume(cli::Named { name, .. }) => {
            let request = v1::ResumeScheduleRequest { name };
            shown(client.schedules().resume_schedule(ask(request)).await?.into_inner(), voice)
        }
        cli::Schedule::Run(cli::Run { name, detach, request, .. }) => {
            let request = v1::RunScheduleRequest { name, request_id: request.id() };
            let job = client.schedules().run_schedule(ask(request)).await?.into_inner();
            follow::started(client, job, detach, voice).await
        }
    }
}

async fn set(client: Client, wanted: cli::Set, voice: Voice) -> Ended {
    let (kind, cron) = match (wanted.backup, wanted.verify) {
        (None, Some(cron)) => ("verify", cron),
        (backup, _) => ("backup", backup.unwrap_or_default()),
    };
    let depth = wanted.depth.map(|depth| match depth {
        cli::HowDeep::Listed => "listed",
        cli::HowDeep::Hashed => "hashed",
        cli::HowDeep::Opened => "opened",
        cli::HowDeep::Drilled => "drilled",
    });
    let request = v1::SetScheduleRequest {
        name: wanted.name,
        kind: kind.to_owned(),
        cron,
        time_zone: wanted.time_zone,
        components: wanted.components,
        depth: depth.unwrap_or_default().to_owned(),
        jitter_milliseconds: wanted.jitter,
        catch_up_milliseconds: wanted.catch_up,
        wait_for_backup_milliseconds: wanted.wait_for_backup,
        retention: wanted.no_retention.then_some(false),
        keeps: wanted.keeps.rules(),
    };
    shown(client.schedules().set_schedule(ask(request)).await?.into_inner(), voice)
}

fn shown(wire: v1::Schedule, voice: Voice) -> Ended {
    voice.result(&Schedule::from(wire), Schedule::text)?;
    Ok(Exit::Done)
}
