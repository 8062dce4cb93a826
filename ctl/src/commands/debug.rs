//! `nsctl debug bundle`: what somebody who helps needs to know, in one file.
//!
//! Must stay true: everything in it is what other verbs show, so nothing secret is; a part that cannot be
//! had is named in the bundle, and the rest is there; the file appears whole, for its owner alone.

use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use proto::v1;
use runtime::atomic_file;
use runtime::clock::{Clock, SystemClock};
use serde::Serialize;

use super::block_on;
use super::follow::Events;
use crate::access::Access;
use crate::cli::{Bundle, Global};
use crate::client::{Client, ask};
use crate::offline;
use crate::output::Voice;
use crate::output::exit::{Ended, Exit, Trouble};
use crate::views::agent::Agent;
use crate::views::alert::{Alerts, Deliveries};
use crate::views::backup::Backup;
use crate::views::job::{Event, Job};
use crate::views::retention::Rules;
use crate::views::schedule::Schedules;

/// Of each list, the newest so many.
const JOBS: u32 = 200;
const BACKUPS: u32 = 100;
const DELIVERIES: u32 = 200;
/// Jobs whose lines are in it, and the last lines of each.
const LOGS: usize = 20;
const LINES: usize = 500;

/// The file that was written, and what lies in it.
#[derive(Debug, Serialize)]
struct Written {
    file: PathBuf,
    bytes: u64,
    files: Vec<&'static str>,
    missing: Vec<String>,
}

/// Files that were gathered, with what each is, and what could not be had.
#[derive(Default)]
struct Gathered {
    files: Vec<(String, &'static str, Vec<u8>)>,
    missing: Vec<String>,
}

impl Gathered {
    fn add(&mut self, name: impl Into<String>, what: &'static str, text: impl Into<Vec<u8>>) {
        self.files.push((name.into(), what, text.into()));
    }

    /// A part as JSON, or that it is missing.
    fn put<T: Serialize>(&mut self, name: &str, what: &'static str, view: Result<T, Trouble>) {
        match view {
            Ok(view) => {
                let text = serde_json::to_vec_pretty(&view);
                self.add(name, what, text.expect("views have string keys and no custom code"));
            }
            Err(trouble) => self.missing.push(format!("{name}: {}: {}", trouble.what, trouble.why)),
        }
    }
}

pub(super) fn bundle(server: &Global, wanted: Bundle, voice: Voice) -> Ended {
    let access = Access::of(server)?;
    runtime::tls::install_crypto_provider();
    block_on(async {
        let now = SystemClock.now();
        let name = format!("neurashield-debug-{}", now.strftime("%Y%m%d_%H%M%S"));
        let file = wanted.file.unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
        if file.symlink_metadata().is_ok() {
            return Err(Trouble::usage(format!("{} is there already", file.display()))
                .hint("give another name with --file"));
        }
        let mut gathered = Gathered::default();
        gathered.add("machine.txt", "this machine, and this nsctl", machine());
        match Client::connect(&access).await {
            Ok(client) => gather(&client, &mut gathered).await,
            Err(trouble) if trouble.exit == Exit::Unreachable => {
                let seen = offline::doctor::examine(&access, wanted.config, &trouble);
                gathered.put("doctor.json", "what can be seen without a controller", Ok(seen));
                gathered
                    .missing
                    .push(format!("all that a controller knows: {}: {}", trouble.what, trouble.why));
            }
            Err(other) => return Err(other),
        }
        let bytes = packed(&name, &gathered, now.as_second()).map_err(|error| cannot(&file, &error))?;
        atomic_file::write(&file, &bytes, atomic_file::PRIVATE).map_err(|error| cannot(&file, &error))?;
        let exit = if gathered.missing.is_empty() { Exit::Done } else { Exit::Incomplete };
        let mut files: Vec<&'static str> = gathered.files.iter().map(|(_, what, _)| *what).collect();
        files.dedup();
        let written = Written { file, bytes: bytes.len() as u64, files, missing: gathered.missing };
        voice.result(&written, text)?;
        Ok(exit)
    })
}

fn cannot(file: &std::path::Path, error: &dyn std::error::Error) -> Trouble {
    Trouble::failed(format!("cannot write {}", file.display()))
        .caused_by(error)
        .hint("give another place with --file")
}

fn text(written: &Written) -> String {
    let mut text = format!("{} ({} KiB) holds:\n", written.file.display(), written.bytes.div_ceil(1024));
    written.files.iter().for_each(|what| text.push_str(&format!("  {what}\n")));
    written.missing.iter().for_each(|missing| text.push_str(&format!("missing: {missing}\n")));
    text + NOTICE
}

const NOTICE: &str = "It holds names (of hosts, agents, sources, folders, schedules, and of files that could \
                      not be read), no contents and no secrets. Look into it before you pass it on.";

async fn gather(client: &Client, gathered: &mut Gathered) {
    match client.health().describe(ask(v1::DescribeRequest {})).await {
        Ok(wire) => {
            let described = wire.into_inner();
            let about = format!(
                "controller {} on {}, started at {}\n",
                described.version,
                described.host,
                described
                    .started_at
                    .and_then(|at| proto::convert::from_wire_time("time", at).ok())
                    .unwrap_or_default()
            );
            gathered.add("controller.txt", "the controller: release, host, start", about);
            gathered.add(
                "configuration.json",
                "the controller's settings in effect, secrets redacted",
                described.configuration,
            );
            gathered.add("metrics.txt", "metrics", described.metrics);
        }
        Err(status) => gathered.put::<()>("configuration.json", "", Err(status.into())),
    }
    gathered.put("doctor.json", "what the doctor found", super::doctor::examine(client).await);
    let jobs = client.jobs().list_jobs(ask(v1::ListJobsRequest { limit: JOBS, ..Default::default() })).await;
    let jobs = jobs.map_err(Trouble::from).map(|wire| wire.into_inner().jobs);
    let ids: Vec<String> = jobs.iter().flatten().take(LOGS).map(|job| job.id.clone()).collect();
    let views = jobs.map(|jobs| jobs.into_iter().map(Job::from).collect::<Vec<_>>());
    gathered.put("jobs.json", "the newest jobs with their figures", views);
    for id in ids {
        let lines = lines(client, &id).await;
        gathered.add(format!("logs/{id}.txt"), "what was told of the newest jobs", lines);
    }
    let alerts = client.alerts().list_alerts(ask(v1::ListAlertsRequest {})).await;
    let alerts = alerts.map_err(Trouble::from).map(|wire| Alerts::from(wire.into_inner()));
    gathered.put("alerts.json", "open alerts, and how the sinks do", alerts);
    let sent = client.alerts().list_deliveries(ask(v1::ListDeliveriesRequest { limit: DELIVERIES })).await;
    let sent = sent.map_err(Trouble::from).map(|wire| Deliveries::from(wire.into_inner()));
    gathered.put("deliveries.json", "the newest messages to sinks", sent);
    let schedules = client.schedules().list_schedules(ask(v1::ListSchedulesRequest {})).await;
    let schedules = schedules.map_err(Trouble::from).map(|wire| Schedules::from(wire.into_inner()));
    gathered.put("schedules.json", "schedules with their runs", schedules);
    let agents = client.agents().list_agents(ask(v1::ListAgentsRequest {})).await;
    let agents = agents
        .map_err(Trouble::from)
        .map(|wire| wire.into_inner().agents.into_iter().map(Agent::from).collect::<Vec<_>>());
    gathered.put("agents.json", "agents and what they serve", agents);
    let rules = client.retention().get_retention(ask(v1::GetRetentionRequest {})).await;
    let rules = rules.map_err(Trouble::from).map(|wire| Rules::from(wire.into_inner()));
    gathered.put("retention.json", "what is kept", rules);
    let request = v1::ListBackupsRequest { limit: BACKUPS, ..v1::ListBackupsRequest::default() };
    let backups = client.backups().list_backups(ask(request)).await;
    let backups = backups
        .map_err(Trouble::from)
        .map(|wire| wire.into_inner().backups.into_iter().map(Backup::from).collect::<Vec<_>>());
    gathered.put("backups.json", "the newest backups", backups);
}

/// The last lines that were told of a job.
async fn lines(client: &Client, id: &str) -> String {
    let mut events = Events::new(client.clone(), id);
    let mut lines = std::collections::VecDeque::new();
    while let Ok(Some(event)) = events.next_of_the_past().await {
        lines.push_back(Event::from(event).line());
        if lines.len() > LINES {
            lines.pop_front();
        }
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

fn machine() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let named = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("unknown");
    format!(
        "nsctl {}\nkernel {} {}\ndistribution {}\n",
        env!("CARGO_PKG_VERSION"),
        kernel.trim(),
        std::env::consts::ARCH,
        named.trim_matches('"'),
    )
}

/// Everything below one folder, with a page that says what it is.
fn packed(folder: &str, gathered: &Gathered, now: i64) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let mut append = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now.unsigned_abs());
        tar.append_data(&mut header, format!("{folder}/{name}"), bytes)
    };
    let mut about = format!("A bundle of `nsctl debug bundle`. {NOTICE}\n\n");
    for (name, what, _) in &gathered.files {
        about.push_str(&format!("{name}: {what}\n"));
    }
    gathered.missing.iter().for_each(|missing| about.push_str(&format!("missing: {missing}\n")));
    append("README.txt", about.as_bytes())?;
    for (name, _, bytes) in &gathered.files {
        append(name, bytes)?;
    }
    tar.into_inner()?.finish()
}
