//! Secrets stay where they belong. Canaries are planted in every component and in every setting that holds
//! a secret, the system is used and misused, and what it left and showed is searched for them: logs at
//! their most talkative, every answer of every program, pages, process arguments, the repository, the
//! state folders, and what a crash would leave of the memory.
//!
//! Must stay true: each canary is first found where it was planted, by the same search, so that a search
//! that finds nothing means something.

mod secrets_support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use secrets_support::{Arguments, Canary, Haystack, Search, fetch, sign_in, web_pages};
use tests::{Process, System, programs, wait_for};

const COMPONENTS: [&str; 5] = ["database", "models", "blockchain", "ipfs", "configs"];

/// The secrets that an operator gives, by the setting that takes them.
struct Given(BTreeMap<&'static str, Canary>);

impl Given {
    fn new() -> Self {
        let names = [
            "key-passphrase",
            "smtp-password",
            "web-password",
            "slack-url",
            "discord-url",
            "webhook-url",
            "webhook-secret",
            "ping-url",
            "webhook-header",
            "hook-variable",
            "drill-variable",
        ];
        Self(names.map(|name| (name, Canary::new(name))).into())
    }

    fn text(&self, name: &str) -> &str {
        self.0[name].text()
    }

    /// One way each: in the file, in the environment, in a file of its own.
    fn configure(&self, system: &mut System) {
        let file = system.root().join("slack-url");
        fs::write(&file, self.text("slack-url")).expect("written");
        system.configure_controller(&format!(
            "key: {{ passphrase: \"{}\" }}\n\
             alerts:\n  allow_private: true\n  sinks:\n    \
             chat: {{ slack: {{ webhook_url_file: {} }} }}\n    \
             hook: {{ webhook: {{ url: \"https://localhost:1/{}\", secret: \"{}\", \
             headers: {{ x-key: \"{}\" }} }} }}\n    \
             pulse: {{ ping: {{ url: \"https://localhost:1/{}\" }} }}\n",
            self.text("key-passphrase"),
            file.display(),
            self.text("webhook-url"),
            self.text("webhook-secret"),
            self.text("webhook-header"),
            self.text("ping-url"),
        ));
        // A hook that says what it was given, and fails so that it is told.
        let variable = self.text("hook-variable");
        system.configure_source(
            "models",
            &format!(
                "hooks: {{ after_backup: {{ shell: \"echo it is $SECRET; echo $SECRET >&2; exit 1\", \
                 env: {{ SECRET: \"{variable}\" }} }} }}"
            ),
        );
        // The same of a drill's program.
        system.configure_agent(&format!(
            "drills:\n  scratch: {}\n  open:\n    - {{ component: models, env: {{ SECRET: \"{}\" }}, command: [/bin/sh, -c, \
             \"echo it is $SECRET; echo $SECRET >&2\", opener, \"{{}}\"] }}\n",
            system.root().join("scratch").display(),
            self.text("drill-variable"),
        ));
        system.set_variable("NEURASHIELD_SMTP_URL", "smtps://user@localhost:1");
        system.set_variable("NEURASHIELD_ALERT_EMAIL_TO", "ops@example.org");
        system.set_variable("NEURASHIELD_SMTP_PASSWORD", self.text("smtp-password"));
        system.set_variable("NEURASHIELD_WEB_PASSWORD", self.text("web-password"));
        let discord = format!("https://localhost:1/api/{}", self.text("discord-url"));
        system.set_variable("NEURASHIELD_DISCORD_WEBHOOK_URL", &discord);
    }
}

/// Data with a canary as content, as name, as attribute and as the target of a link in each component.
fn plant(folder: &Path) -> Vec<Canary> {
    let mut planted = Vec::new();
    for component in COMPONENTS {
        let place = folder.join(component);
        fs::create_dir(&place).expect("made");
        let [content, name, attribute, target] = ["content", "name", "attribute", "target"]
            .map(|what| Canary::new(&format!("{component}-{what}")));
        let file = place.join(name.text());
        fs::write(&file, content.text().repeat(40)).expect("written");
        let attr = Command::new("python3")
            .args(["-c", "import os,sys; os.setxattr(sys.argv[1], 'user.key', sys.argv[2].encode())"])
            .arg(&file)
            .arg(attribute.text())
            .status();
        assert!(attr.is_ok_and(|status| status.success()));
        std::os::unix::fs::symlink(target.text(), place.join("link")).expect("linked");
        planted.extend([content, name, attribute, target]);
    }
    planted
}

/// Everything that people do, and what they do wrong. What `cat`, `ls` and `export` print is the data
/// itself and is not searched.
fn use_it(system: &System) -> Vec<Haystack> {
    let mut seen = Vec::new();
    let mut look = |arguments: &[&str]| {
        let answer = system.nsctl(arguments);
        seen.push(Haystack::of(format!("nsctl {arguments:?}"), format!("{}{}", answer.out, answer.err)));
        answer
    };
    let place = system.root().join("elsewhere");
    let place = place.to_str().expect("UTF-8");
    look(&["backup"]).expect(0);
    look(&["verify", "-v"]).expect(0);
    for verb in [
        &["list", "-o", "json"][..],
        &["show", "latest", "-o", "yaml"],
        &["jobs", "-o", "json"],
        &["agent", "list", "-o", "json"],
        &["restore", "--timestamp", "latest", "--to", place, "--plan", "-o", "json"],
    ] {
        look(verb).expect(0);
    }
    look(&["doctor", "-v", "-o", "json"]);
    let bundle = system.root().join("bundle.tar.gz");
    look(&["debug", "bundle", "--file", bundle.to_str().expect("UTF-8")]).expect(0);
    let jobs = system.nsctl(&["jobs", "-o", "json"]).expect(0).json();
    let job = jobs["jobs"][0]["id"].as_str().expect("an id").to_owned();
    look(&["logs", &job, "-v"]).expect(0);
    let drill = ["verify", "--depth", "drilled", "--components", "models", "-v", "-o", "json"];
    let job = look(&drill).expect(0).json()["id"].as_str().expect("an id").to_owned();
    assert!(look(&["logs", &job, "-v"]).expect(0).out.contains("it is (redacted)"));
    look(&["restore", "--timestamp", "latest", "--to", place, "--yes"]).expect(0);
    look(&["cat", "latest", "models", "no-such-file", "-v"]).expect(1);
    look(&["backup", "--components", "nobody"]);
    // The sinks are nowhere: each says why it took nothing.
    for sink in ["chat", "hook", "pulse", "email", "discord"] {
        look(&["alert", "test", sink, "-v"]).expect(1);
    }
    wait_for("an alert not to be delivered", 30, || {
        let history = system.nsctl(&["alert", "history", "-o", "json"]).expect(0).json();
        history["deliveries"].as_array()?.iter().any(|one| one["attempts"].as_u64() > Some(0)).then_some(())
    });
    look(&["alert", "history", "-v", "-o", "json"]).expect(0);
    look(&["alert", "list", "-v", "-o", "json"]).expect(0);
    let unpacked = system.root().join("bundle");
    fs::create_dir(&unpacked).expect("made");
    let tar = Command::new("tar").arg("-xzf").arg(&bundle).arg("-C").arg(&unpacked).status();
    assert!(tar.is_ok_and(|status| status.success()));
    let in_bundle = Haystack::folder(&unpacked);
    assert!(in_bundle.len() > 10, "there is something to search");
    seen.extend(in_bundle);
    seen
}

/// The same from elsewhere, with a token that is kept in a file, and what is said of tokens that are wrong.
fn use_it_from_elsewhere(system: &System) -> Vec<Haystack> {
    let made = system.nsctl(&["token", "create", "canary", "--role", "admin", "-o", "json"]).expect(0).json();
    let text = made["token"].as_str().expect("a token");
    let file = system.root().join("api-token");
    fs::write(&file, text).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
    let server = format!("https://localhost:{}", system.grpc_port());
    let mut seen = Vec::new();
    let mut say = |variable: &str, value: &str, words: &[&str], code: i32| {
        let mut command = Command::new(programs().join("nsctl"));
        command.args(["--server", &server, "-v"]).args(words).env(variable, value);
        let output = command.env("NEURASHIELD_LOG", "trace").output().expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", String::from_utf8_lossy(&said));
        seen.push(Haystack { name: format!("nsctl {words:?} by {variable}"), bytes: said });
    };
    let path = file.to_str().expect("UTF-8");
    say("NSCTL_TOKEN_FILE", path, &["backup"], 0);
    for words in [&["list"][..], &["doctor"], &["token", "list", "-o", "json"], &["audit", "-o", "json"]] {
        say("NSCTL_TOKEN", text, words, 0);
    }
    let forged = text.replacen(|digit: char| digit.is_ascii_digit(), "a", 40);
    for wrong in [&forged, &text[..text.len() - 9], "x"] {
        let mut command = Command::new(programs().join("nsctl"));
        command.args(["--server", &server, "-v", "list"]).env("NSCTL_TOKEN", wrong);
        let output = command.output().expect("it runs");
        assert!(!output.status.success(), "{wrong} is refused");
        seen.push(Haystack { name: "nsctl with a wrong token".to_owned(), bytes: output.stderr });
    }
    seen
}

/// What the programs say of their settings, and of settings in which a secret stands at the wrong place.
fn misconfigure(system: &System, secret: &Canary) -> Vec<Haystack> {
    let mut seen = Vec::new();
    let mut say = |file: &Path, words: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(programs().join("neurashield-controller"));
        command.arg("--config").arg(file).args(words).envs(variables.iter().copied());
        let output = command.output().expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        assert!(!said.is_empty(), "{words:?} says something");
        seen.push(Haystack { name: format!("{} {words:?} {variables:?}", file.display()), bytes: said });
        output.status.success()
    };
    let good = system.root().join("controller.yaml");
    let mail =
        [("NEURASHIELD_SMTP_URL", "smtps://user@mail.example.org"), ("NEURASHIELD_ALERT_EMAIL_TO", "a@b")];
    assert!(say(&good, &["config", "show", "--origin"], &mail));
    assert!(say(&good, &["config", "check"], &mail));

    let text = secret.text();
    let wrong = [
        format!("key: {{ passphrase: [\"{text}\"] }}"),
        format!("key: \"{text}\""),
        format!("key: {{ passphrase: \"{text}\", passphrase_file: /x }}"),
        format!("key: {{ passphrase: \"{text}"),
        format!("key: {{ passphrase: {text}: {text} }}"),
        format!("key: {{ passhprase: \"{text}\" }}"),
        format!("alerts: {{ sinks: {{ chat: \"https://x.example.org/{text}\" }} }}"),
        format!("alerts: {{ sinks: {{ chat: {{ slack: \"https://x.example.org/{text}\" }} }} }}"),
        format!("alerts: {{ sinks: {{ chat: {{ slack: {{ webhook_url: [\"{text}\"] }} }} }} }}"),
        format!("alerts: {{ sinks: {{ m: {{ email: {{ to: [a@b], smtp: \"smtps://u:{text}@h\" }} }} }} }}"),
        format!("alerts: {{ sinks: {{ m: {{ email: {{ to: [a@b], smtp: \"u:{text}@h\" }} }} }} }}"),
        format!("alerts: {{ sinks: {{ m: {{ email: {{ to: [\"{text}\"], smtp: \"smtps://h\" }} }} }} }}"),
        format!("alerts: {{ sinks: {{ h: {{ webhook: {{ url: \"https://h/{text}\", url_file: /x }} }} }} }}"),
        format!("repository: \"s3://user:{text}@bucket/prefix\""),
        format!("time_zone: \"{text}\""),
        format!("- \"{text}\""),
        text.to_owned(),
    ];
    for (place, yaml) in wrong.iter().enumerate() {
        let file = system.root().join(format!("wrong-{place}.yaml"));
        fs::write(&file, yaml).expect("written");
        assert!(secret.is_in(&Haystack::file(&file)), "it was planted");
        assert!(!say(&file, &["config", "check"], &[]), "{yaml} is refused");
        assert!(!say(&file, &[], &[]), "{yaml} starts nothing");
    }
    for name in [
        "NEURASHIELD_KEY",
        "NEURASHIELD_ALERTS__SINKS__CHAT",
        "NEURASHIELD_RETENTION",
        "NEURASHIELD_TIME_ZONE",
    ] {
        let mut plain: Vec<Haystack> = Vec::new();
        let output = Command::new(programs().join("neurashield-controller"))
            .args(["config", "check"])
            .env(name, text)
            .output()
            .expect("it runs");
        assert!(!output.status.success(), "{name}");
        plain.push(Haystack { name: name.to_owned(), bytes: [output.stdout, output.stderr].concat() });
        seen.extend(plain);
    }
    seen
}

/// What the web page's admin sees (but for what is in a backup, which is the data itself), and what everybody sees who is not signed in.
fn every_page(system: &System, given: &Given) -> Vec<Haystack> {
    let token = fs::read_to_string(system.root().join("api-token")).expect("made before");
    let jobs = system.nsctl(&["jobs", "-o", "json"]).expect(0).json();
    let job = jobs["jobs"][0]["id"].as_str().expect("an id").to_owned();
    let backups = system.nsctl(&["list", "-o", "json"]).expect(0).json();
    let backup = backups["backups"][0]["name"].as_str().expect("a name").to_owned();
    let mut pages: Vec<String> = [
        "",
        "backups",
        "restore",
        "jobs",
        "schedules",
        "retention",
        "agents",
        "alerts",
        "tokens",
        "audit",
        "doctor",
        "uncovered",
    ]
    .map(|page| format!("/{page}"))
    .into();
    pages.push(format!("/jobs/{job}"));
    pages.push(format!("/backups/{backup}"));
    let port = system.web_port();
    let mut seen = web_pages(port, &format!("token={}", token.trim()), &pages);
    let password = given.text("web-password");
    seen.extend(web_pages(port, &format!("name=admin&password={password}"), &pages));
    seen.push(sign_in(port, &format!("name=root&password={password}")));
    seen.push(fetch(system.web_port(), "/"));
    seen.push(fetch(system.web_port(), "/sign-in"));
    seen
}

/// The secrets that the programs made for themselves, each with the only file that may hold it.
fn made_secrets(system: &System) -> Vec<(Canary, PathBuf)> {
    let files = ["controller/ca.key", "agent/agent.key", "controller/recovery-key.txt", "token", "api-token"];
    let made = files.map(|file| {
        let path = system.root().join(file);
        let mode = fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file} is its owner's alone");
        let canary = Canary::made(&path);
        assert!(canary.is_in(&Haystack::file(&path)), "{file} holds its secret");
        (canary, path)
    });
    made.into()
}

#[test]
fn a_planted_secret_is_found_nowhere_but_where_it_belongs() {
    let folder = tempfile::tempdir().expect("a folder");
    let in_data = plant(folder.path());
    let paths = COMPONENTS.map(|component| (component, folder.path().join(component)));
    let sources: Vec<(&str, &Path)> = paths.iter().map(|(name, path)| (*name, path.as_path())).collect();
    let given = Given::new();
    let mut system = System::prepare(&sources);
    given.configure(&mut system);
    system.set_variable("NEURASHIELD_LOG", "trace");
    let arguments = Arguments::watch();
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();

    let mut haystacks = use_it(&system);
    haystacks.extend(use_it_from_elsewhere(&system));
    let misplaced = Canary::new("misplaced");
    haystacks.extend(misconfigure(&system, &misplaced));
    haystacks.extend(every_page(&system, &given));
    for page in ["/healthz", "/readyz", "/metrics"] {
        haystacks.push(fetch(system.probes_port(), page));
    }
    // A start with the wrong passphrase, and then an end of both.
    system.kill_agent();
    system.kill_controller();
    let wrong = Canary::new("wrong-passphrase");
    haystacks.push(start_with_passphrase(&system, &wrong));
    for log in ["neurashield-controller.log", "neurashield-agent.log"] {
        let log = Haystack::file(&system.root().join(log));
        assert!(log.bytes.len() > 1_000, "{} says something", log.name);
        haystacks.push(log);
    }
    haystacks.push(arguments.end());

    let made = made_secrets(&system);
    let in_state = Haystack::folder(&system.root().join("controller"));
    let of_agent = Haystack::folder(&system.root().join("agent"));
    let repository = Haystack::folder(&system.repository());
    assert!(
        repository.len() > 10 && in_state.len() > 3 && of_agent.len() > 1,
        "there is something to search"
    );

    // The search finds what is there.
    let planted: Vec<Haystack> = paths.iter().flat_map(|(_, path)| Haystack::folder(path)).collect();
    for canary in in_data.iter().filter(|canary| canary.text().contains("content")) {
        assert!(planted.iter().any(|hay| canary.is_in(hay)), "{canary:?} was planted");
    }
    let settings = Haystack::file(&system.root().join("controller.yaml"));
    for name in ["key-passphrase", "webhook-url", "webhook-secret", "webhook-header", "ping-url"] {
        assert!(given.0[name].is_in(&settings), "{name} was planted");
    }
    assert!(given.0["drill-variable"].is_in(&Haystack::file(&system.root().join("agent.yaml"))));
    assert!(given.0["hook-variable"].is_in(&Haystack::file(&system.root().join("agent.yaml"))));
    let told = "hook after_backup: it is (redacted)";
    let spoke = |hay: &Haystack| String::from_utf8_lossy(&hay.bytes).contains(told);
    assert!(haystacks.iter().any(spoke), "the hook has spoken");

    let mut found = Vec::new();
    let everywhere = || haystacks.iter().chain(&repository).chain(&in_state).chain(&of_agent);
    let kept = Search::for_these(given.0.values().chain([&misplaced, &wrong]));
    found.extend(everywhere().flat_map(|hay| kept.of(hay).into_iter().map(move |canary| (canary, hay))));
    for (canary, file) in &made {
        let search = Search::for_these([canary]);
        let others = everywhere().filter(|hay| hay.name != file.display().to_string());
        found.extend(others.filter(|hay| !search.of(hay).is_empty()).map(|hay| (canary, hay)));
    }
    // Of the data nothing is in clear in the repository or the controller's folder. Names may be in the
    // agent's log and cache, which lie beside the data itself; contents may not.
    let all = Search::for_these(&in_data);
    let contents = Search::for_these(in_data.iter().filter(|canary| !canary.what().ends_with("-name")));
    for (search, place) in repository
        .iter()
        .chain(&in_state)
        .map(|hay| (&all, hay))
        .chain(of_agent.iter().chain(&haystacks).map(|hay| (&contents, hay)))
    {
        found.extend(search.of(place).into_iter().map(|canary| (canary, place)));
    }
    let found: Vec<String> =
        found.iter().map(|(canary, hay)| format!("{} in {}", canary.what(), hay.name)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// What the controller says when its passphrase is not the repository's.
fn start_with_passphrase(system: &System, passphrase: &Canary) -> Haystack {
    let output = Command::new(programs().join("neurashield-controller"))
        .arg("--config")
        .arg(system.root().join("controller.yaml"))
        .env("NEURASHIELD_KEY__PASSPHRASE", passphrase.text())
        .env("NEURASHIELD_LOG", "trace")
        .output()
        .expect("it runs");
    assert!(!output.status.success());
    let hay = Haystack { name: "start with a wrong passphrase".to_owned(), bytes: output.stderr };
    assert!(!hay.bytes.is_empty());
    hay
}

#[test]
fn a_crash_leaves_no_memory_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("weights"), "weights").expect("written");
    // This machine writes dumps: a program that does not forbid it leaves one.
    let mut shell = Command::new("bash");
    shell.args(["-c", "ulimit -c unlimited; kill -ABRT $$"]).current_dir(folder.path());
    let control = shell.status().expect("it runs");
    assert!(control.core_dumped(), "this machine writes no core dumps at all: nothing can be shown");

    let mut system = System::start(&[("models", folder.path())]);
    system.run(&["backup"]);
    for which in [Process::Agent, Process::Controller] {
        let pid = system.pid(which);
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("readable");
        let line = limits.lines().find(|line| line.starts_with("Max core file size")).expect("the limit");
        assert_eq!(line.split_whitespace().nth(4), Some("0"), "{which:?}: {line}");
        let mut child = system.take(which);
        let sent = Command::new("kill").args(["-ABRT", &pid.to_string()]).status().expect("kill runs");
        assert!(sent.success());
        let ended = child.wait().expect("it ends");
        assert_eq!(ended.signal(), Some(6), "{which:?}");
        assert!(!ended.core_dumped(), "{which:?} left its memory behind");
    }
}

#[test]
fn the_memory_of_a_daemon_is_closed_to_its_own_user_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let open_to_all = fs::Permissions::from_mode(0o777);
    fs::set_permissions(folder.path(), open_to_all).expect("a mode");
    let program = folder.path().join("agent");
    fs::copy(programs().join("neurashield-agent"), &program).expect("copied");
    let owner_of_memory = |program: &Path, arguments: &[&str]| {
        let mut child = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(program)
            .args(arguments)
            .env_clear()
            .env("NEURASHIELD_CONTROLLER", "https://127.0.0.1:1")
            .env("NEURASHIELD_STATE", folder.path().join("state"))
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("it starts");
        let name = program.file_name().expect("a name").to_owned();
        let comm = format!("/proc/{}/comm", child.id());
        wait_for("the program to run", 30, || {
            let running = fs::read_to_string(&comm).ok()?;
            (running.trim() == name.to_str()?).then_some(())
        });
        // The kernel gives the files of a process that must not be dumped to root.
        let memory = format!("/proc/{}/mem", child.id());
        let mut owner = fs::metadata(&memory).expect("it runs").uid();
        for _ in 0..100 {
            if owner == 0 {
                break;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(10));
            owner = fs::metadata(&memory).expect("it runs").uid();
        }
        child.kill().expect("it can be killed");
        child.wait().expect("it can be reaped");
        owner
    };
    assert_eq!(owner_of_memory(Path::new("/bin/sleep"), &["60"]), 65534, "any other program's is its user's");
    assert_eq!(owner_of_memory(&program, &[]), 0);
}
