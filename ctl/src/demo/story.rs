//! What the demo does, step by step. Each step returns the figure that proves it, or fails.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use proto::v1;

use super::damage::Damage;
use super::sample::{self, COMPONENTS};
use super::stage::Stage;
use super::steps::Steps;
use super::trees::Snapshot;
use crate::client::{Client, ask};
use crate::commands::{follow, request_id};
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::words::{count, counted, size};
use crate::views::job::{Job, State};
use crate::views::plan::Plan;

/// A second backup of 120 MiB in which 4 KiB changed must send less than this.
const LITTLE: u64 = 6 << 20;

pub(super) async fn tell(stage: &mut Stage, steps: &mut Steps) -> Ended {
    let data = stage.data();
    steps.step("sample data of five components", write_sample(data.clone())).await?;
    let client = steps.step("controller and agent, joined", start(stage)).await?;

    let first = steps.step("backup", first_backup(&client)).await?;
    let change = data.clone();
    steps
        .step("one file changed", async {
            Ok(((), blocking(move || sample::change_one(&change)).await?.to_owned()))
        })
        .await?;
    let second = steps.step("second backup", second_backup(&client, first)).await?;
    steps.step("verified, every piece opened", verify_intact(&client, &second)).await?;
    let copies = stage.folder().join("copies");
    let snapshot =
        steps.step("a copy put aside, to compare with", take_snapshot(data.clone(), copies)).await?;

    let root = stage.repository();
    let damage = steps.step("one bit of one pack flipped", strike(root)).await?;
    steps.step("verified again: damage found", verify_damaged(&client, &second, &damage)).await?;
    steps.step("the bit put back, verified again", heal(&client, &second, &damage)).await?;

    steps.step("all data deleted", delete(data.clone())).await?;
    steps.step("restored", restore(&client, &second)).await?;
    steps.step("compared with the copy", compare(snapshot)).await?;
    steps.title(&format!("\nEvery step held, in {}.", steps.took()));
    Ok(Exit::Done)
}

/// File work, off the threads that keep the programs talking.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Trouble> {
    let done = tokio::task::spawn_blocking(work).await.expect("file work of the demo does not panic");
    done.map_err(|error| {
        Trouble::failed("cannot work in the demo's folder")
            .caused_by(&error)
            .hint("set TMPDIR to a folder that has 600 MiB of room")
    })
}

fn broken(what: impl Into<String>, why: impl Into<String>) -> Trouble {
    Trouble::failed(what)
        .because(why)
        .hint("this is a fault: please report it with the logs in the demo's folder")
}

async fn write_sample(data: PathBuf) -> Result<((), String), Trouble> {
    let bytes = blocking(move || {
        sample::write(&data)?;
        total(&data)
    })
    .await?;
    Ok(((), format!("{} in {}", size(bytes.1), counted(bytes.0, "file", "files"))))
}

/// Files below `folder` and their bytes, holes included.
fn total(folder: &Path) -> io::Result<(u64, u64)> {
    let mut sum = (0, 0);
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let (files, bytes) = total(&entry.path())?;
            sum = (sum.0 + files, sum.1 + bytes);
        } else if entry.file_type()?.is_file() {
            sum = (sum.0 + 1, sum.1 + entry.metadata()?.len());
        }
    }
    Ok(sum)
}

async fn start(stage: &mut Stage) -> Result<(Client, String), Trouble> {
    let (client, controller, agent) = stage.start().await?;
    Ok((client, format!("processes {controller} and {agent}, mTLS on {}", stage.grpc())))
}

/// A job that has ended as it should have.
async fn finished(client: &Client, job: v1::Job) -> Result<Job, Trouble> {
    Ok(Job::from(follow::quietly(client, &job.id).await?))
}

fn complete(job: Job) -> Result<Job, Trouble> {
    if job.state == State::Complete {
        return Ok(job);
    }
    let (what, why) = match &job.failure {
        Some(failure) => (failure.what.clone(), failure.why.clone().unwrap_or_default()),
        None => (format!("the {} did not complete", job.kind), job.summary().replace('\n', "; ")),
    };
    Err(broken(what, why))
}

/// What a backup did, all components together.
struct Figures {
    files: u64,
    bytes: u64,
    read: u64,
    stored: u64,
    reused: u64,
}

async fn backup(client: &Client) -> Result<(String, Figures, f64), Trouble> {
    let started = Instant::now();
    let request = v1::StartBackupRequest { request_id: request_id(), ..v1::StartBackupRequest::default() };
    let job = client.jobs().start_backup(ask(request)).await?.into_inner();
    let job = complete(finished(client, job).await?)?;
    if job.parts.len() != COMPONENTS.len() {
        return Err(broken("the backup lacks components", job.summary()));
    }
    let sum = |of: fn(&crate::views::backup::Counts) -> u64| {
        job.parts.iter().filter_map(|part| part.counts.as_ref()).map(of).sum()
    };
    let figures = Figures {
        files: sum(|counts| counts.files),
        bytes: sum(|counts| counts.bytes),
        read: sum(|counts| counts.read_bytes),
        stored: sum(|counts| counts.stored_bytes),
        reused: sum(|counts| counts.reused_files),
    };
    let name = job.backup.ok_or_else(|| broken("the backup has no name", "the controller did not say it"))?;
    Ok((name, figures, started.elapsed().as_secs_f64()))
}

async fn first_backup(client: &Client) -> Result<(Figures, String), Trouble> {
    let (name, figures, seconds) = backup(client).await?;
    let rate = size((figures.read as f64 / seconds.max(0.001)) as u64);
    let text =
        format!("{name}: {} read at {rate}/s, {} sent and stored", size(figures.read), size(figures.stored));
    Ok((figures, text))
}

async fn second_backup(client: &Client, first: Figures) -> Result<(String, String), Trouble> {
    let (name, second, _) = backup(client).await?;
    if second.stored >= LITTLE || second.stored == 0 {
        let why = format!("it sent {} after {} had", size(second.stored), size(first.stored));
        return Err(broken("the second backup did not send little", why));
    }
    let share = second.stored as f64 / second.bytes.max(1) as f64 * 100.0;
    let mut text = format!("{name}: {} sent, {share:.1} % of {}", size(second.stored), size(second.bytes));
    // Files younger than a minute are read again to be sure, so a quick demo shows none.
    if second.reused > 0 {
        text.push_str(&format!("; {} of {} files not even read", count(second.reused), count(second.files)));
    }
    Ok((name, text))
}

async fn verify(client: &Client, backup: &str) -> Result<Job, Trouble> {
    let request = v1::StartVerifyRequest {
        backup: backup.to_owned(),
        components: Vec::new(),
        depth: v1::Depth::Opened as i32,
        request_id: request_id(),
        all: true,
        ..v1::StartVerifyRequest::default()
    };
    let job = client.jobs().start_verify(ask(request)).await?.into_inner();
    finished(client, job).await
}

async fn verify_intact(client: &Client, backup: &str) -> Result<((), String), Trouble> {
    let job = verify(client, backup).await?;
    if job.exit() != Exit::Done {
        return Err(broken("an intact backup was not found intact", job.summary().replace('\n', "; ")));
    }
    Ok(((), format!("{} intact", counted(job.parts.len() as u64, "component", "components"))))
}

async fn take_snapshot(data: PathBuf, copies: PathBuf) -> Result<(Snapshot, String), Trouble> {
    let snapshot = blocking(move || Snapshot::take(&data, &copies)).await?;
    let extent = snapshot.extent();
    Ok((snapshot, format!("{} in {}", size(extent.bytes), counted(extent.files, "file", "files"))))
}

async fn strike(root: PathBuf) -> Result<(Damage, String), Trouble> {
    let damage = blocking(move || Damage::strike(&root)).await?;
    let text = format!("pack {}…, byte {}", &damage.pack()[..12], count(damage.offset()));
    Ok((damage, text))
}

/// The damage must be found, and the finding must name the pack.
async fn verify_damaged(client: &Client, backup: &str, damage: &Damage) -> Result<((), String), Trouble> {
    let job = verify(client, backup).await?;
    let pack = damage.pack();
    let named = job.parts.iter().find_map(|part| {
        let finding = part.findings.iter().find(|finding| finding.contains(&pack[..8]))?;
        Some((part.component.clone(), finding.replace(&pack, &format!("{}…", &pack[..12]))))
    });
    match (job.exit(), named) {
        (Exit::Damaged, Some((component, finding))) => Ok(((), format!("{component}: {finding}"))),
        _ => Err(broken("the damage was not found, or not named", job.summary().replace('\n', "; "))),
    }
}

async fn heal(client: &Client, backup: &str, damage: &Damage) -> Result<((), String), Trouble> {
    damage.heal().map_err(|error| Trouble::failed("cannot put the byte back").caused_by(&error))?;
    verify_intact(client, backup).await
}

/// Everything in the components' folders; the folders stay, as mount points would.
async fn delete(data: PathBuf) -> Result<((), String), Trouble> {
    let (files, _) = blocking(move || {
        let before = total(&data)?;
        for (component, _) in COMPONENTS {
            for entry in fs::read_dir(data.join(component))? {
                let entry = entry?;
                match entry.file_type()?.is_dir() {
                    true => fs::remove_dir_all(entry.path())?,
                    false => fs::remove_file(entry.path())?,
                }
            }
        }
        match total(&data)? {
            (0, 0) => Ok(before),
            _ => Err(io::Error::other("something is still there")),
        }
    })
    .await?;
    Ok(((), format!("{} gone", counted(files, "file", "files"))))
}

async fn restore(client: &Client, backup: &str) -> Result<((), String), Trouble> {
    let started = Instant::now();
    let request = v1::PlanRestoreRequest { backup: backup.to_owned(), ..Default::default() };
    let wire = client.jobs().plan_restore(ask(request)).await?.into_inner();
    let request = wire.request.clone();
    let plan = Plan::from(wire);
    if !plan.can_go_ahead() {
        return Err(broken("the restore cannot go ahead", plan.text().replace('\n', "; ")));
    }
    let request = v1::StartRestoreRequest { request, digest: plan.digest, request_id: request_id() };
    let job = client.jobs().start_restore(ask(request)).await?.into_inner();
    let job = complete(finished(client, job).await?)?;
    let sum = |of: fn(&crate::views::job::Restored) -> u64| {
        job.parts.iter().filter_map(|part| part.restored.as_ref()).map(of).sum()
    };
    let (entries, bytes): (u64, u64) = (sum(|done| done.entries), sum(|done| done.bytes));
    let rate = size((bytes as f64 / started.elapsed().as_secs_f64().max(0.001)) as u64);
    Ok(((), format!("{}, {} at {rate}/s", counted(entries, "entry", "entries"), size(bytes))))
}

async fn compare(snapshot: Snapshot) -> Result<((), String), Trouble> {
    let extent = snapshot.extent();
    let differences = blocking(move || snapshot.differences()).await?;
    if !differences.is_empty() {
        let shown: Vec<_> = differences.iter().take(5).cloned().collect();
        let why = format!("{} differences, e.g. {}", differences.len(), shown.join("; "));
        return Err(broken("what was restored is not what was there", why));
    }
    let entries = counted(extent.entries, "entry", "entries");
    Ok(((), format!("{entries} equal: bytes, modes, owners, times, links, holes, attributes")))
}
