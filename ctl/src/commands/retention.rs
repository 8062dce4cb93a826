//! `nsctl retention`, `prune`, `pin` and `unpin`: the plan first, then a question, then the work.
//!
//! Must stay true: nothing goes that the shown plan does not say; the plan's digest holds the controller to
//! it; a plan that takes much away goes on only with `--approve`.

use proto::v1;

use super::follow;
use crate::cli::{self, Clearing};
use crate::client::{Client, ask};
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::{Voice, can_ask, confirm};
use crate::views::backup::Backup;
use crate::views::retention::{PrunePlan, RetentionPlan, Rules};

pub(super) async fn run(client: Client, wanted: cli::Retention, voice: Voice) -> Ended {
    match wanted {
        cli::Retention::Show(_) => show(client, voice).await,
        cli::Retention::Set(rules) => set(client, rules, voice).await,
        cli::Retention::Apply(clearing) => apply(client, clearing, voice).await,
    }
}

async fn show(client: Client, voice: Voice) -> Ended {
    let wire = client.retention().get_retention(ask(v1::GetRetentionRequest {})).await?.into_inner();
    voice.result(&Rules::from(wire), Rules::text)?;
    Ok(Exit::Done)
}

async fn set(client: Client, wanted: cli::Rules, voice: Voice) -> Ended {
    let Some(rules) = wanted.keeps.rules() else {
        return Err(Trouble::usage("no rule was given")
            .because("the rules are set as a whole: what is left out holds no more")
            .hint("e.g. `nsctl retention set --keep-within 30d --keep-monthly 12`; `nsctl retention show` tells those in effect"));
    };
    let request = v1::SetRetentionRequest { rules: Some(rules) };
    let wire = client.retention().set_retention(ask(request)).await?.into_inner();
    voice.result(&Rules::from(wire), Rules::text)?;
    voice.say("nothing was removed; `nsctl retention apply --plan` shows what these rules would remove");
    Ok(Exit::Done)
}

async fn apply(client: Client, wanted: Clearing, voice: Voice) -> Ended {
    may_ask(&wanted, "removing backups")?;
    let wire = client.retention().plan_retention(ask(v1::PlanRetentionRequest {})).await?.into_inner();
    let plan = RetentionPlan::from(wire);
    if wanted.plan {
        voice.result(&plan, RetentionPlan::text)?;
        return Ok(Exit::Done);
    }
    voice.say(plan.text());
    // Without removals the job goes on with what earlier ones have marked: nobody has to be asked.
    let wanted = Clearing { yes: wanted.yes || plan.goes() == 0, ..wanted };
    if !goes_on(&wanted, plan.brake.as_deref(), "Remove these backups?", &voice)? {
        return Ok(Exit::Failed);
    }
    let request = v1::StartRetentionRequest {
        digest: plan.digest,
        approved: wanted.approve,
        request_id: wanted.request.id(),
    };
    let job = client.retention().start_retention(ask(request)).await?.into_inner();
    follow::started(client, job, wanted.detach, voice).await
}

pub(super) async fn prune(client: Client, wanted: cli::Prune, voice: Voice) -> Ended {
    let cli::Prune { now, clearing: wanted } = wanted;
    may_ask(&wanted, "freeing space")?;
    let wire = client.retention().plan_prune(ask(v1::PlanPruneRequest { now })).await?.into_inner();
    let planned = wire.request;
    let plan = PrunePlan::from(wire);
    if wanted.plan {
        voice.result(&plan, PrunePlan::text)?;
        return Ok(Exit::Done);
    }
    voice.say(plan.text());
    if !goes_on(&wanted, plan.brake.as_deref(), "Free this?", &voice)? {
        return Ok(Exit::Failed);
    }
    let request = v1::StartPruneRequest {
        request: planned,
        digest: plan.digest,
        approved: wanted.approve,
        request_id: wanted.request.id(),
    };
    let job = client.retention().start_prune(ask(request)).await?.into_inner();
    follow::started(client, job, wanted.detach, voice).await
}

fn may_ask(wanted: &Clearing, what: &str) -> Result<(), Trouble> {
    if wanted.plan || wanted.yes || can_ask() {
        return Ok(());
    }
    Err(Trouble::usage(format!("{what} has to be confirmed"))
        .because("there is no terminal to ask on")
        .hint("add --yes, or --plan to only see what it would do"))
}

/// True if whoever saw the plan wants it.
fn goes_on(wanted: &Clearing, brake: Option<&str>, question: &str, voice: &Voice) -> Result<bool, Trouble> {
    if let Some(why) = brake.filter(|_| !wanted.approve) {
        return Err(Trouble::failed("this takes much away at once; nothing was changed")
            .because(why)
            .hint("if it is meant, look at the plan and run it again with --approve"));
    }
    if wanted.yes || confirm(question)? {
        return Ok(true);
    }
    voice.say("nothing was changed");
    Ok(false)
}

pub(super) async fn pin(client: Client, wanted: cli::Pin, voice: Voice) -> Ended {
    let request = v1::PinBackupRequest { backup: wanted.timestamp, reason: wanted.reason };
    shown(client.retention().pin_backup(ask(request)).await?.into_inner(), voice)
}

pub(super) async fn unpin(client: Client, wanted: cli::Unpin, voice: Voice) -> Ended {
    let request = v1::UnpinBackupRequest { backup: wanted.timestamp };
    shown(client.retention().unpin_backup(ask(request)).await?.into_inner(), voice)
}

fn shown(wire: v1::Backup, voice: Voice) -> Ended {
    voice.result(&Backup::from(wire), |backup| match &backup.pinned {
        Some(reason) => format!("backup {} is kept until it is unpinned: {reason}", backup.name),
        None => format!("backup {} is kept as the rules say", backup.name),
    })?;
    Ok(Exit::Done)
}
