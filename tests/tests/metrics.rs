//! Probes and metrics of a running controller, and the rules and the dashboard that read them.
//!
//! With `NEURASHIELD_TEST_PROMTOOL` set, Prometheus' own checker judges metrics and rules, too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tests::{System, project, wait_for};

/// The status and the body of a page of probes and metrics.
fn page(system: &System, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", system.probes_port())).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    if path == "/metrics" {
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    }
    (status, body.to_owned())
}

/// The metrics of one moment: kind by family, figure by series.
#[derive(Debug, Default)]
struct Metrics {
    families: BTreeMap<String, String>,
    series: BTreeMap<String, f64>,
}

impl Metrics {
    fn of(system: &System) -> Self {
        let (status, text) = page(system, "/metrics");
        assert_eq!(status, 200);
        Self::parse(&text)
    }

    /// Strictly: each family once, with its help and its kind before its series; each series once.
    fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        let (mut helped, mut current) = (String::new(), String::new());
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').expect("a name and its help");
                assert!(!words.is_empty());
                helped = name.to_owned();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a name and its kind");
                assert_eq!(name, helped, "help comes first");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert!(metrics.families.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
                current = name.to_owned();
            } else {
                let (series, figure) = line.rsplit_once(' ').expect("a series and its figure");
                let name = series.split('{').next().expect("a name");
                let own = ["", "_bucket", "_sum", "_count"].map(|end| format!("{current}{end}"));
                assert!(own.contains(&name.to_owned()), "{series} stands below {current}");
                let figure: f64 = figure.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
                assert!(metrics.series.insert(series.to_owned(), figure).is_none(), "{series} twice");
            }
        }
        metrics
    }

    fn get(&self, series: &str) -> f64 {
        *self.series.get(series).unwrap_or_else(|| panic!("no {series} in {:#?}", self.series))
    }

    fn knows(&self, name: &str) -> bool {
        let of_histogram = ["_bucket", "_sum", "_count"].iter().filter_map(|end| name.strip_suffix(end));
        self.families.contains_key(name)
            || of_histogram
                .into_iter()
                .any(|name| self.families.get(name).is_some_and(|is| is == "histogram"))
    }
}

/// The names of our metrics in an expression.
fn names(text: &str) -> BTreeSet<String> {
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = text.split(|letter| !is_of_name(letter));
    words.filter(|word| word.starts_with("neurashield_")).map(str::to_owned).collect()
}

fn observability(file: &str) -> PathBuf {
    project().join("deploy/observability").join(file)
}

fn models() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("weights"), vec![7; 300_000]).expect("written");
    folder
}

#[test]
fn what_happens_shows_in_the_metrics_and_rules_and_dashboard_read_nothing_else() {
    let models = models();
    let mut system = System::start(&[("models", models.path())]);
    for path in ["/livez", "/healthz"] {
        assert_eq!(page(&system, path), (200, "ok\n".to_owned()));
    }
    assert_eq!(page(&system, "/readyz"), (200, "ready\n".to_owned()));
    let before = Metrics::of(&system);
    assert_eq!(before.get("neurashield_jobs_total{kind=\"backup\",result=\"complete\"}"), 0.0);
    assert!(!before.series.keys().any(|series| series.contains("last_complete")));
    let overdue = "neurashield_component_overdue_from_timestamp_seconds{component=\"models\"}";
    assert!(before.get(overdue) > before.get("neurashield_start_time_seconds"));

    let backup = system.nsctl(&["backup", "-o", "json"]).expect(0);
    system.nsctl(&["verify"]).expect(0);
    // What was told is kept for a moment.
    let after = wait_for("the jobs to show", 10, || {
        let metrics = Metrics::of(&system);
        let verified = metrics.get("neurashield_jobs_total{kind=\"verify\",result=\"complete\"}");
        (verified == 1.0).then_some(metrics)
    });
    assert_eq!(after.get("neurashield_jobs_total{kind=\"backup\",result=\"complete\"}"), 1.0);
    assert_eq!(after.get("neurashield_job_duration_seconds_count{kind=\"backup\"}"), 1.0);
    assert_eq!(after.get("neurashield_backup_read_bytes_total{component=\"models\"}"), 300_000.0);
    assert_eq!(after.get("neurashield_backup_last_size_bytes{component=\"models\"}"), 300_000.0);
    let stored = after.get("neurashield_backup_stored_bytes_total{component=\"models\"}");
    assert!(stored > 0.0 && stored < 300_000.0, "{stored}");
    let complete = after.get("neurashield_component_last_complete_timestamp_seconds{component=\"models\"}");
    let verified = after.get("neurashield_component_last_verified_timestamp_seconds{component=\"models\"}");
    assert_eq!(complete, verified);
    // The objective counts from the verified backup.
    let objective = after.get("neurashield_component_objective_seconds{component=\"models\"}");
    assert!((after.get(overdue) - verified - objective).abs() < 0.01);
    assert_eq!(after.get("neurashield_repository_backups"), 1.0);
    assert_eq!(after.get("neurashield_agent_connected{agent=\"test-agent\"}"), 1.0);
    assert!(after.get("neurashield_storage_free_bytes") <= after.get("neurashield_storage_size_bytes"));
    assert!(
        after.get("neurashield_grpc_calls_total{method=\"Jobs/StartBackup\",result=\"answered\"}") >= 1.0
    );
    let job = backup.json()["id"].as_str().map(str::to_owned);
    let job = job.expect("the backup's job");
    assert!(!after.series.keys().any(|series| series.contains(&job)), "no series of one job");

    rules_and_dashboard_read_only(&after);
    if std::env::var_os("NEURASHIELD_TEST_PROMTOOL").is_some() {
        promtool_accepts(&page(&system, "/metrics").1);
    }

    system.kill_agent();
    wait_for("the agent to be away", 40, || {
        let metrics = Metrics::of(&system);
        (metrics.get("neurashield_agent_connected{agent=\"test-agent\"}") == 0.0).then_some(())
    });
}

/// Whatever rules and dashboard ask for, the controller tells.
fn rules_and_dashboard_read_only(metrics: &Metrics) {
    let rules = fs::read_to_string(observability("prometheus-rules.yml")).expect("the rules");
    let dashboard = fs::read_to_string(observability("grafana-dashboard.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let mut asked = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let of_panel = panel["targets"].as_array().expect("targets").iter();
        let of_panel: BTreeSet<String> =
            of_panel.flat_map(|target| names(target["expr"].as_str().expect("an expression"))).collect();
        assert!(!of_panel.is_empty(), "{} shows something", panel["title"]);
        asked.extend(of_panel);
    }
    asked.extend(names(&rules));
    assert!(asked.len() > 30, "{asked:?}");
    let unknown: Vec<&String> = asked.iter().filter(|name| !metrics.knows(name)).collect();
    assert!(unknown.is_empty(), "the controller does not tell {unknown:?}");
}

fn promtool_accepts(metrics: &str) {
    let found = Command::new(project().join("tests/engines/promtool")).output().expect("it runs");
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let promtool = PathBuf::from(String::from_utf8(found.stdout).expect("a path").trim());
    let run = |words: &[&str], input: &str| {
        let mut command = Command::new(&promtool);
        command.args(words).current_dir(observability("")).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("taken");
        let output = child.wait_with_output().expect("it ends");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    // Its silence is its praise.
    assert_eq!(run(&["check", "metrics"], metrics), (true, String::new()));
    for words in
        [&["check", "rules", "prometheus-rules.yml"][..], &["test", "rules", "prometheus-rules.test.yml"]]
    {
        let (accepted, said) = run(words, "");
        assert!(accepted && said.contains("SUCCESS"), "{words:?}: {said}");
    }
    // It does object.
    assert!(!run(&["check", "metrics"], "# TYPE a_total gauge\na_total 1\n").0);
    assert!(Path::new(&promtool).is_absolute());
}
