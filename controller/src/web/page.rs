//! The status page, as one HTML text.

use std::fmt::Write;

use proto::Failure;
use repository::backup::manifest::{BackupRecord, Outcome};

use crate::app::{App, catalog_failure};
use crate::catalog::AgentRecord;
use crate::jobs::Job;
use crate::jobs::job::{JobState, PartState};

const BACKUPS: u32 = 10;
const JOBS: u32 = 10;

const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1c2430;background:#fff}\
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .75rem .35rem 0;border-bottom:1px solid #dde3ea}\
.good{color:#14703a}.fair{color:#8a5a00}.bad{color:#a3192b}\
@media(prefers-color-scheme:dark){body{color:#e3e8ee;background:#11161d}th,td{border-color:#2b3440}.good{color:#62c98a}.fair{color:#e0b050}.bad{color:#ff8a93}}";

/// The page as it is now.
pub(super) async fn render(app: &App) -> Result<String, Failure> {
    let backups = app.newest_backups(BACKUPS).await?;
    let agents = app.agents().await?;
    let jobs = app.catalog.jobs(JOBS).await.map_err(|error| catalog_failure(&error))?;
    let mut body = String::new();
    table(
        &mut body,
        "Backups",
        &["Backup (UTC)", "State", "Sources", "Size"],
        backups.iter().map(backup_row),
    );
    let connected = |agent: &AgentRecord| app.fleet.is_connected(agent.id);
    let active = agents.iter().filter(|agent| agent.revoked_at.is_none());
    table(
        &mut body,
        "Agents",
        &["Agent", "State", "Host", "Serves"],
        active.map(|agent| agent_row(agent, connected(agent))),
    );
    table(&mut body, "Jobs", &["Job", "State", "Ordered", "Parts done"], jobs.iter().map(job_row));
    Ok(document(&body))
}

/// The page where there is nothing to show.
pub(super) fn unavailable() -> String {
    document(
        "<p class=bad>The controller cannot read its catalog. See its log, or run <code>nsctl doctor</code>.</p>",
    )
}

fn document(body: &str) -> String {
    format!(
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>NeuraShield Backup</title><style>{STYLE}</style></head>\
         <body><main><h1>NeuraShield Backup</h1>{body}</main></body></html>"
    )
}

/// A cell: its class and its text, not yet escaped.
type Cell = (&'static str, String);

fn table<const N: usize>(
    out: &mut String,
    title: &str,
    heads: &[&str; N],
    rows: impl Iterator<Item = [Cell; N]>,
) {
    let mut lines = String::new();
    for row in rows {
        lines.push_str("<tr>");
        for (class, text) in row {
            append(&mut lines, format_args!("<td class=\"{class}\">{}</td>", escape(&text)));
        }
        lines.push_str("</tr>");
    }
    append(out, format_args!("<h2>{title}</h2>"));
    if lines.is_empty() {
        out.push_str("<p>None yet.</p>");
        return;
    }
    out.push_str("<table><thead><tr>");
    for head in heads {
        append(out, format_args!("<th scope=col>{head}</th>"));
    }
    append(out, format_args!("</tr></thead><tbody>{lines}</tbody></table>"));
}

fn append(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string does not fail");
}

fn backup_row(record: &BackupRecord) -> [Cell; 4] {
    let state = match record.outcome {
        Outcome::Complete => ("good", "complete"),
        Outcome::Incomplete => ("fair", "incomplete"),
        Outcome::Failed => ("bad", "failed"),
    };
    let sources: Vec<String> = record.archives.iter().map(|archive| archive.source.to_string()).collect();
    let bytes: u64 = record.archives.iter().map(|archive| archive.counts.bytes).sum();
    [
        ("", record.name.to_string()),
        (state.0, state.1.to_owned()),
        ("", sources.join(", ")),
        ("", size(bytes)),
    ]
}

fn agent_row(agent: &AgentRecord, connected: bool) -> [Cell; 4] {
    let state = if connected { ("good", "connected") } else { ("bad", "away") };
    let sources: Vec<String> = agent.sources.iter().map(|served| served.source.to_string()).collect();
    [
        ("", agent.name.clone()),
        (state.0, state.1.to_owned()),
        ("", agent.host.clone()),
        ("", sources.join(", ")),
    ]
}

fn job_row(job: &Job) -> [Cell; 4] {
    let state = match job.state {
        JobState::Queued => ("", "queued"),
        JobState::Running => ("", "running"),
        JobState::Committing => ("", "committing"),
        JobState::Complete => ("good", "complete"),
        JobState::Incomplete => ("fair", "incomplete"),
        JobState::Failed => ("bad", "failed"),
        JobState::Cancelled => ("fair", "cancelled"),
    };
    let done = job.parts.iter().filter(|part| part.state == PartState::Complete).count();
    [
        ("", job.kind().to_owned()),
        (state.0, state.1.to_owned()),
        ("", job.created_at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()),
        ("", format!("{done} of {}", job.parts.len())),
    ]
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_calls_itself_cannot_become_markup() {
        let mut out = String::new();
        let row = [("", "<script>alert(\"x\")</script>&'".to_owned())];
        table(&mut out, "Agents", &["Agent"], std::iter::once(row));
        assert!(out.contains("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;&#39;"), "{out}");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!([size(0), size(1023), size(1536), size(5 << 40)], ["0 B", "1023 B", "1.5 KiB", "5.0 TiB"]);
    }
}
