//! `nsctl restore` and `nsctl undo`: the plan first, then a question, then the work.
//!
//! Must stay true: nothing is changed that the shown plan does not say; the plan's digest holds the
//! controller to it.

use proto::v1;

use super::follow;
use crate::cli::{HowToRestore, Restore, Undo};
use crate::client::{Client, ask};
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::{Voice, can_ask, confirm};
use crate::views::plan::Plan;

pub(super) async fn run(client: Client, wanted: Restore, voice: Voice) -> Ended {
    let request = request(&wanted)?;
    carry_out(client, request, wanted.how, voice).await
}

/// Takes a restore back.
pub(super) async fn undo(client: Client, wanted: Undo, voice: Voice) -> Ended {
    let selection = v1::Selection { force_conflicts: wanted.how.force_conflicts, ..v1::Selection::default() };
    let request = v1::PlanRestoreRequest {
        undo_of: wanted.job,
        selection: Some(selection),
        ..v1::PlanRestoreRequest::default()
    };
    carry_out(client, request, wanted.how, voice).await
}

async fn carry_out(
    client: Client,
    request: v1::PlanRestoreRequest,
    how: HowToRestore,
    voice: Voice,
) -> Ended {
    if !how.plan && !how.yes && !can_ask() {
        return Err(Trouble::usage("a restore changes data and has to be confirmed")
            .because("there is no terminal to ask on")
            .hint("add --yes, or --plan to only see what it would do"));
    }
    let request = v1::PlanRestoreRequest {
        without_privileges: how.no_privileges,
        without_safety_backup: how.no_safety_backup,
        accept_doubts: how.accept_doubts,
        ..request
    };
    let wire = client.jobs().plan_restore(ask(request)).await?.into_inner();
    let mut planned = wire.request.clone();
    let plan = Plan::from(wire);
    if how.plan {
        voice.result(&plan, Plan::text)?;
    } else {
        voice.say(plan.text());
    }
    if !plan.can_go_ahead() {
        return Err(Trouble::failed("the restore cannot go ahead; nothing was changed")
            .because(plan.obstacles())
            .hint(plan.way_out()));
    }
    if how.plan {
        return Ok(Exit::Done);
    }
    if !plan.doubts.is_empty() && !how.accept_doubts {
        let is_meant = !how.yes && confirm("The backup is not whole. Restore from it all the same?")?;
        if !is_meant {
            return Err(Trouble::failed(format!(
                "the backup {} is not whole; nothing was changed",
                plan.backup
            ))
            .because(plan.doubts.join("; "))
            .hint("choose another backup, or add --accept-doubts"));
        }
        planned.iter_mut().for_each(|request| request.accept_doubts = true);
    }
    if !how.yes && !confirm("Restore this?")? {
        voice.say("nothing was changed");
        return Ok(Exit::Failed);
    }
    let request =
        v1::StartRestoreRequest { request: planned, digest: plan.digest, request_id: how.request.id() };
    let job = client.jobs().start_restore(ask(request)).await?.into_inner();
    if !job.safety_job.is_empty() {
        voice.say(format!("first what is replaced is backed up, by the job {}", job.safety_job));
    }
    follow::started(client, job, how.detach, voice).await
}

fn request(wanted: &Restore) -> Result<v1::PlanRestoreRequest, Trouble> {
    let folder = match &wanted.to {
        None => String::new(),
        Some(folder) if folder.is_absolute() => match folder.to_str() {
            Some(text) => text.to_owned(),
            None => return Err(Trouble::usage("the folder of --to is not UTF-8")),
        },
        Some(folder) => {
            return Err(Trouble::usage(format!("--to {} is not an absolute path", folder.display()))
                .because("the folder lies on the agent's machine, which does not know where you are")
                .hint("give the whole path, from / on"));
        }
    };
    Ok(v1::PlanRestoreRequest {
        backup: wanted.timestamp.clone(),
        components: wanted.components.clone(),
        selection: Some(v1::Selection {
            globs: wanted.path.clone(),
            include: wanted.include.clone(),
            renames: wanted.rename.iter().map(|text| rename(text)).collect::<Result<_, _>>()?,
            drop_others: wanted.drop_others,
            to_namespace: wanted.to_namespace.clone(),
            force_conflicts: wanted.how.force_conflicts,
            signer_height: wanted.signer_height,
            with_keys: wanted.with_keys,
        }),
        folder,
        agent: wanted.to_agent.clone(),
        ..v1::PlanRestoreRequest::default()
    })
}

fn rename(text: &str) -> Result<v1::Rename, Trouble> {
    match text.split_once('=') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => {
            Ok(v1::Rename { from: from.to_owned(), to: to.to_owned() })
        }
        _ => Err(Trouble::usage(format!("--rename {text} is not OLD=NEW"))
            .hint("name two databases, or two collections as DB.COLLECTION")),
    }
}
