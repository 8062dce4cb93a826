//! Alerts on the built programs: what real servers of mail and of HTTP get, whatever they answer, and
//! whatever the controller dies of in between.
//!
//! With `NEURASHIELD_TEST_SMTP` set, a real mail server takes part, and an outage of a minute.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tests::{System, project, wait_for};

const SECRET: &str = "what-signs-the-messages";

/// A server of the tests; dropped, it ends.
struct Server {
    child: Child,
    out: PathBuf,
    ports: Vec<u16>,
}

impl Server {
    fn start(mut command: Command, out: &Path) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the server starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("it speaks");
        let ports = line.strip_prefix("READY ").expect("it is ready").split_whitespace();
        let ports = ports.map(|port| port.parse().expect("a port")).collect();
        Self { child, out: out.to_owned(), ports }
    }

    /// Everything that it was sent whose path begins so.
    fn got(&self, path: &str) -> Vec<Value> {
        let text = fs::read_to_string(&self.out).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines.filter(|line| line["path"].as_str().unwrap_or_default().starts_with(path)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it can be reaped");
    }
}

struct Scene {
    system: System,
    data: tempfile::TempDir,
    http: Server,
}

impl Scene {
    /// A system whose sinks are these, in which HTTP and HTTPS stand for the addresses of the server.
    fn start(sinks: &str) -> Self {
        Self::start_by(System::prepare, sinks)
    }

    fn start_by(prepare: impl FnOnce(&[(&str, &Path)]) -> System, sinks: &str) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        fs::write(data.path().join("weights"), "weights").expect("written");
        let mut system = prepare(&[("models", data.path())]);
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        let (pem, key) = (system.root().join("sink.pem"), system.root().join("sink.key"));
        fs::write(&pem, certificate.cert.pem()).expect("written");
        fs::write(&key, certificate.signing_key.serialize_pem()).expect("written");
        let out = system.root().join("requests");
        let mut command = Command::new("python3");
        command.arg(project().join("tests/alert_sinks.py")).args([&out, &pem, &key]).arg(SECRET);
        let http = Server::start(command, &out);
        let sinks = sinks
            .replace("HTTPS", &format!("https://localhost:{}", http.ports[1]))
            .replace("WRONG", &format!("https://127.0.0.1:{}", http.ports[1]))
            .replace("HTTP", &format!("http://127.0.0.1:{}", http.ports[0]));
        let mut file =
            fs::OpenOptions::new().append(true).open(system.root().join("controller.yaml")).expect("there");
        let ca = pem.display();
        writeln!(file, "alerts:\n  allow_private: true\n  ca_file: {ca}\n  sinks: {sinks}").expect("written");
        system.start_controller();
        system.invite();
        system.start_agent();
        system.await_agent();
        Self { system, data, http }
    }

    /// A backup of what is away.
    fn fail(&self) {
        let (folder, away) = (self.data.path(), self.data.path().with_extension("away"));
        fs::rename(folder, &away).expect("it goes");
        let answer = self.system.nsctl(&["backup", "--components", "models"]);
        fs::rename(&away, folder).expect("it comes back");
        assert_eq!(answer.code, 1, "{} {}", answer.out, answer.err);
    }

    fn await_requests(&self, path: &str, count: usize) -> Vec<Value> {
        // The last of those that are not critical waits for a minute.
        wait_for(&format!("{count} requests at {path}"), 120, || {
            Some(self.http.got(path)).filter(|got| got.len() >= count)
        })
    }
}

fn body(request: &Value) -> Value {
    serde_json::from_str(request["body"].as_str().expect("text")).expect("JSON")
}

#[test]
fn every_sink_gets_a_failure_in_its_own_format_whatever_it_answers_first() {
    let scene = Scene::start(&format!(
        "{{ hook: {{ webhook: {{ url: \"HTTPS/ok/hook\", secret: {SECRET}, headers: {{ x-extra: more }} }} }}, \
         chat: {{ slack: {{ webhook_url: \"HTTPS/flaky/slack\" }} }}, \
         talk: {{ discord: {{ webhook_url: \"HTTPS/limited/discord\" }} }}, \
         away: {{ webhook: {{ url: \"HTTP/redirect/secret-place\" }} }}, \
         name: {{ webhook: {{ url: \"WRONG/ok/wrong-name\" }} }}, \
         pulse: {{ ping: {{ url: \"HTTP/ok/pulse\" }} }} }}"
    ));
    scene.fail();
    let hook = scene.await_requests("/ok/hook", 1).remove(0);
    assert_eq!((&hook["signed"], &hook["extra"]), (&Value::Bool(true), &Value::from("more")));
    let said = body(&hook);
    assert_eq!((&said["id"], &said["version"]), (&hook["id"], &Value::from(1)));
    assert_eq!(said["events"][0]["kind"], "backup_failed");
    assert!(said["events"][0]["why"].as_str().is_some_and(|why| !why.is_empty()), "{said:#}");
    let slack = scene.await_requests("/flaky/slack", 3);
    assert_eq!(body(&slack[0]), body(&slack[2]), "each attempt says the same");
    assert!(body(&slack[0])["blocks"][0]["text"]["text"].as_str().expect("text").starts_with("[CRITICAL]"));
    let discord = scene.await_requests("/limited/discord", 2);
    let left_alone = discord[1]["at"].as_f64().expect("a time") - discord[0]["at"].as_f64().expect("a time");
    assert!(left_alone >= 2.0, "asked again after {left_alone} s");
    assert_eq!(body(&discord[0])["allowed_mentions"]["parse"], serde_json::json!([]));
    scene.await_requests("/ok/pulse/fail", 1);
    let list = scene.system.nsctl(&["alert", "list", "-o", "json"]).expect(0);
    assert_eq!(list.json()["alerts"][0]["kind"], "backup_failed");

    let job = scene.system.run(&["backup"]);
    let run = job["id"].as_str().expect("an id");
    let start = scene.await_requests(&format!("/ok/pulse/start?rid={run}"), 1);
    let end = scene.await_requests(&format!("/ok/pulse?rid={run}"), 1);
    assert!(start[0]["at"].as_f64() <= end[0]["at"].as_f64());

    let tried = scene.system.nsctl(&["alert", "test", "hook", "-o", "json"]).expect(0).json();
    let got = wait_for("the try", 10, || {
        scene.http.got("/ok/hook").into_iter().find(|request| request["id"] == tried["id"])
    });
    assert_eq!(body(&got)["type"], "test");
    let refused = scene.system.nsctl(&["alert", "test", "away"]).expect(1);
    assert!(refused.err.contains("a redirect, which is not followed"), "{}", refused.err);
    assert!(scene.http.got("/ok/redirected").is_empty() && !refused.err.contains("secret-place"));
    let refused = scene.system.nsctl(&["alert", "test", "name"]).expect(1);
    assert!(refused.err.contains("TLS failed") && scene.http.got("/ok/wrong-name").is_empty());

    let history = scene.system.nsctl(&["alert", "history", "-o", "json"]).expect(0).json();
    let of = |sink: &str, state: &str| {
        let all = history["deliveries"].as_array().expect("a list");
        all.iter().filter(|one| one["sink"] == sink && one["state"] == state).count()
    };
    // And that it is over.
    assert!(of("hook", "delivered") == 2 && of("away", "waiting") > 0 && of("name", "waiting") > 0);
    for told in [
        &list.out,
        &fs::read_to_string(scene.system.root().join("neurashield-controller.log")).expect("read"),
    ] {
        assert!(!told.contains("secret-place") && !told.contains(SECRET), "{told}");
    }
}

#[test]
fn a_controller_killed_between_event_and_delivery_delivers_it_under_the_same_id() {
    let mut scene = Scene::start(&format!(
        "{{ hook: {{ webhook: {{ url: \"HTTPS/hang/hook\", secret: {SECRET} }} }}, \
         other: {{ webhook: {{ url: \"HTTP/ok/other\" }} }} }}"
    ));
    scene.fail();
    let first = scene.await_requests("/hang/hook", 1).remove(0);
    let other = scene.await_requests("/ok/other", 1).remove(0);
    scene.system.kill_controller();
    scene.system.start_controller();
    let again = scene.await_requests("/hang/hook", 2).remove(1);
    assert!(first["id"].is_string() && first["id"] == again["id"] && first["body"] == again["body"]);
    assert_eq!(body(&first)["events"][0]["id"], body(&other)["events"][0]["id"]);
    wait_for("the delivery to be known", 20, || {
        let history = scene.system.nsctl(&["alert", "history", "-o", "json"]).expect(0).json();
        let all = history["deliveries"].as_array().expect("a list").clone();
        all.iter().all(|one| one["state"] == "delivered").then_some(())
    });
    assert_eq!(scene.http.got("/ok/other").len(), 1, "what was delivered before is not sent again");
}

#[test]
fn a_controller_killed_before_an_event_is_given_to_any_sink_tells_it_once_and_a_later_backup_of_more_makes_it_good()
 {
    let mut scene = Scene::start_by(System::prepare_held, "{ hook: { webhook: { url: \"HTTP/ok/hook\" } } }");
    // Routes are looked at for each event: also for the start of a backup, which no sink is told.
    scene.fail();
    let first = scene.await_requests("/ok/hook", 1).remove(0);
    let steps = scene.system.steps().clone();
    steps.ask("alerts-unrouted");
    scene.fail();
    wait_for("the step", 30, || steps.reached("alerts-unrouted"));
    scene.system.kill_controller();
    assert_eq!(scene.http.got("/ok/hook").len(), 1);
    steps.give_up("alerts-unrouted");
    scene.system.start_controller();
    let second = scene.await_requests("/ok/hook", 2).remove(1);
    assert_eq!(body(&second)["events"][0]["kind"], "backup_failed");
    assert_ne!(body(&first)["events"][0]["id"], body(&second)["events"][0]["id"]);

    let open = || {
        let list = scene.system.nsctl(&["alert", "list", "-o", "json"]).expect(0).json();
        list["alerts"].as_array().expect("a list").len()
    };
    assert_eq!(open(), 1);
    // What a backup of `models` alone could not do is made good by one of everything.
    scene.system.await_agent();
    assert_eq!(scene.http.got("/ok/hook").len(), 2, "nothing is told twice");
    scene.system.run(&["backup"]);
    let end = body(&scene.await_requests("/ok/hook", 3).remove(2));
    assert_eq!(
        (&end["events"][0]["state"], &end["events"][0]["subject"]),
        (&"resolved".into(), &"models".into())
    );
    assert_eq!(open(), 0);
}

#[test]
fn a_real_mail_server_takes_the_mails_by_tls_after_a_wrong_password_and_after_an_outage() {
    if std::env::var_os("NEURASHIELD_TEST_SMTP").is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    let [pem, key, out] = ["pem", "key", "mails"].map(|name| folder.path().join(name));
    fs::write(&pem, certificate.cert.pem()).expect("written");
    fs::write(&key, certificate.signing_key.serialize_pem()).expect("written");
    let serve = |port: u16| {
        let mut command = Command::new(project().join("tests/smtp-python"));
        command.arg(project().join("tests/smtp_sink.py")).arg(port.to_string()).args([&out, &pem, &key]);
        Server::start(command, &out)
    };
    let mut mail = Some(serve(0));
    let port = mail.as_ref().expect("there").ports[0];
    let mut system = System::prepare(&[("models", folder.path())]);
    let mut file =
        fs::OpenOptions::new().append(true).open(system.root().join("controller.yaml")).expect("there");
    writeln!(file, "alerts: {{ allow_private: true, ca_file: {} }}", pem.display()).expect("written");
    system.set_variable("NEURASHIELD_SMTP_URL", &format!("smtp://user@localhost:{port}"));
    system.set_variable("NEURASHIELD_ALERT_EMAIL_TO", "ops@example.org,more@example.org");
    let password = folder.path().join("password");
    fs::write(&password, "wrong-password").expect("written");
    system.set_variable("NEURASHIELD_SMTP_PASSWORD_FILE", password.to_str().expect("text"));
    system.start_controller();
    let refused = system.nsctl(&["alert", "test", "email"]).expect(1);
    assert!(refused.err.contains("refused the login (535)"), "{}", refused.err);
    assert!(!refused.err.contains("wrong-password"), "{}", refused.err);
    // A file is read for each attempt: nothing has to be started anew.
    fs::write(&password, "good-password").expect("written");
    system.nsctl(&["alert", "test", "email"]).expect(0);
    let mails = || {
        let text = fs::read_to_string(&out).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")).collect::<Vec<_>>()
    };
    let first = mails().remove(0);
    assert_eq!((&first["tls"], first["to"].as_array().expect("a list").len()), (&Value::Bool(true), 2));
    assert!(first["subject"].as_str().expect("text").contains("[TEST]"));

    drop(mail.take());
    // Nobody serves anything.
    let failed = system.nsctl(&["backup"]);
    assert_eq!(failed.code, 1, "{}", failed.err);
    wait_for("an attempt to fail", 60, || {
        let history = system.nsctl(&["alert", "history", "-o", "json"]).expect(0).json();
        (history["deliveries"][0]["attempts"].as_u64() > Some(0)).then_some(())
    });
    mail = Some(serve(port));
    let told = wait_for("the mail after the outage", 120, || mails().into_iter().nth(1));
    assert!(told["subject"].as_str().expect("text").contains("[CRITICAL]"), "{told:#}");
    assert!(told["parts"]["text/plain"].is_string() && told["parts"]["text/html"].is_string(), "{told:#}");
    let history = system.nsctl(&["alert", "history", "-o", "json"]).expect(0).json();
    let id = history["deliveries"][0]["id"].as_str().expect("text");
    assert!(told["id"].as_str().expect("text").contains(id), "the mail's id is the message's");
    drop(mail);
}
