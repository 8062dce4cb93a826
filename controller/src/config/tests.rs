use runtime::config::{Layers, Loaded, Origin, load};

use super::*;
use crate::identity::Role;

fn from(text: &str, variables: &[(&str, &str)]) -> Result<Loaded<ControllerConfig>, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("controller.yaml");
    std::fs::write(&file, text).unwrap();
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let loaded = load(&Layers { file: Some(file), variables, flags: Vec::new() });
    loaded.map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
}

fn error(text: &str) -> String {
    match from(text, &[]) {
        Err(error) => error,
        Ok(_) => panic!("this configuration is wrong and was accepted: {text}"),
    }
}

#[test]
fn with_nothing_configured_the_documented_defaults_hold() {
    let config = load::<ControllerConfig>(&Layers::default()).unwrap().settings;
    assert_eq!(config.repository.folder(), Some(Path::new("/opt/neurashield/backups")));
    assert_eq!(config.state, Path::new("/var/lib/neurashield"));
    assert_eq!(config.key.source(), None);
    assert_eq!(config.listen.grpc, "0.0.0.0:8443".parse().unwrap());
    assert_eq!(config.listen.web, "0.0.0.0:8080".parse().unwrap());
    assert_eq!(config.listen.probes, "0.0.0.0:9090".parse().unwrap());
    assert_eq!(config.listen.socket, Path::new("/run/neurashield/controller.sock"));
    assert_eq!(config.time_zone, "UTC");
    assert_eq!(config.retention.keep_within, Some(Duration::from_days(30)));
    assert_eq!(config.retention.keep_complete, 3);
    let verification = &config.verification;
    assert_eq!((verification.budget, verification.everything_within), (None, Duration::from_days(30)));
    let Schedule::Backup(daily) = &config.schedules["daily"] else { panic!("daily is a backup") };
    assert_eq!((daily.cron.as_str(), &daily.components), ("0 1 * * *", &Components::All));
    let Schedule::Verify(check) = &config.schedules["check"] else { panic!("check is a verification") };
    assert_eq!((check.cron.as_str(), check.depth), ("0 5 * * *", VerifyDepth::Opened));
    assert_eq!(check.wait_for_backup, Duration::from_secs(4 * 3600));
}

#[test]
fn the_documented_example_is_accepted_without_a_notice() {
    let text = r#"
controller:
  repository: /opt/neurashield/backups
  state: /var/lib/neurashield
  key: { file: /run/secrets/neurashield-key }
  listen: { grpc: 0.0.0.0:8443, web: 0.0.0.0:8080, probes: 0.0.0.0:9090, socket: /run/neurashield/controller.sock }
  time_zone: UTC
  schedules:
    daily:  { backup: "0 1 * * *", components: all, catch_up: 6h, jitter: 0s }
    check:  { verify: "0 5 * * *", depth: opened, wait_for_backup: 4h }
  retention: { keep_within: 30d, keep_complete: 3 }
  alerts:
    sinks:
      ops-mail: { email: { to: [ops@example.org], smtp: "smtps://user@mail.example.org", password_file: /run/secrets/smtp } }
      chat:     { slack: { webhook_url_file: /run/secrets/slack } }
      hook:     { webhook: { url: https://example.org/hook, secret_file: /run/secrets/hook } }
      pulse:    { ping: { url: https://example.org/ping/abc } }
    routes: [ { events: [backup_failed, verify_failed, restore_succeeded, restore_failed], to: [ops-mail, chat] } ]
agent:
  controller: https://backup.example.org:8443
"#;
    let loaded = from(text, &[]).unwrap();
    assert_eq!(loaded.settings.key.source(), Some(KeySource::File("/run/secrets/neurashield-key".into())));
    assert_eq!(loaded.settings.alerts.sinks.len(), 4);
    assert!(loaded.notices.is_empty(), "{:?}", loaded.notices);
    let shown = loaded.show(true);
    assert!(shown.contains("schedules.daily.components: all"), "{shown}");
    assert!(shown.contains("alerts.sinks.ops-mail.email.password_file: /run/secrets/smtp"), "{shown}");
    assert!(!shown.contains("ping/abc"), "an address that is a secret is not shown: {shown}");
}

#[test]
fn short_forms_reach_the_settings_they_stand_for() {
    let variables = [
        ("NEURASHIELD_RETENTION", "7d"),
        ("NEURASHIELD_BACKUP_SCHEDULE", "30 2 * * *"),
        ("NEURASHIELD_VERIFY_SCHEDULE", "0 6 * * sun"),
        ("NEURASHIELD_TIME_ZONE", "Europe/Paris"),
        ("NEURASHIELD_SMTP_URL", "smtps://user@mail.example.org"),
        ("NEURASHIELD_SMTP_PASSWORD", "hunter2"),
        ("NEURASHIELD_ALERT_EMAIL_TO", "a@example.org,b@example.org"),
        ("NEURASHIELD_SLACK_WEBHOOK_URL_FILE", "/run/secrets/slack"),
        ("NEURASHIELD_DISCORD_WEBHOOK_URL", "https://discord.example/hunter2"),
        ("NEURASHIELD_WEBHOOK_URL", "https://example.org/hunter2"),
        ("NEURASHIELD_WEB_PASSWORD", "hunter2 hunter2"),
    ];
    let loaded = from("", &variables).unwrap();
    let config = &loaded.settings;
    assert!(config.web.users().find("admin", "hunter2 hunter2").is_some_and(|user| user.role == Role::Admin));
    assert_eq!(config.retention.keep_within, Some(Duration::from_days(7)));
    assert_eq!(config.retention.keep_complete, 3);
    let Schedule::Backup(daily) = &config.schedules["daily"] else { panic!("daily is a backup") };
    assert_eq!((daily.cron.as_str(), daily.catch_up), ("30 2 * * *", Duration::from_secs(6 * 3600)));
    let Schedule::Verify(check) = &config.schedules["check"] else { panic!("check is a verification") };
    assert_eq!(check.cron.as_str(), "0 6 * * sun");
    assert_eq!(config.zone().iana_name(), Some("Europe/Paris"));
    let Sink::Email(email) = &config.alerts.sinks["email"] else { panic!("email is an email") };
    assert_eq!(email.to, ["a@example.org", "b@example.org"]);
    assert_eq!(config.alerts.sinks.len(), 4);
    assert_eq!(
        loaded.origin("schedules.daily.backup"),
        Origin::Environment("NEURASHIELD_BACKUP_SCHEDULE".to_owned())
    );
    assert!(!format!("{config:?}{}", loaded.show(true)).contains("hunter2"));
}

#[test]
fn components_from_the_environment_are_all_or_a_list() {
    let components = |text: &str| {
        let loaded = from("", &[("NEURASHIELD_SCHEDULES__DAILY__COMPONENTS", text)]).unwrap();
        let Schedule::Backup(daily) = loaded.settings.schedules["daily"].clone() else { panic!("a backup") };
        daily.components
    };
    assert_eq!(components("all"), Components::All);
    assert_eq!(components("models, ipfs"), Components::Named(vec!["models".to_owned(), "ipfs".to_owned()]));
}

#[test]
fn what_this_release_cannot_do_is_refused_with_what_to_do_instead() {
    let kubernetes = error("key: { kubernetes_secret: { name: x } }\n");
    assert!(
        kubernetes.starts_with("controller.yaml:1:27: key.kubernetes_secret: this release cannot"),
        "{kubernetes}"
    );
    let deeper = error("schedules: { x: { verify: \"0 5 * * *\", depth: bored } }\n");
    assert!(deeper.ends_with("not an allowed word; allowed: listed, hashed, opened, drilled"), "{deeper}");
}

#[test]
fn impossible_values_are_refused_at_their_place() {
    let cases = [
        ("listen: { grpc: \"8443\" }\n", "1:17: listen.grpc: not an address to listen at"),
        ("state: here\n", "1:8: state: write an absolute path"),
        ("drills: { agents: [drill-host] }\n", "1:20: drills.agents[0]: write the agent's id"),
        ("time_zone: Mars\n", "1:12: time_zone: unknown zone"),
        ("grpc_names: [good.example, \"bad:1\"]\n", "1:28: grpc_names[1]: write a DNS name"),
        ("key: { file: /a, passphrase_file: /b }\n", "1:6: key: set one of"),
        ("retention: { keep_complete: 0, keep_last: 5 }\n", "1:29: retention.keep_complete: at least 1"),
        ("retention: {}\n", "1:12: retention: no rule keeps anything"),
        ("retention: { keep_within: 0s, keep_last: 0 }\n", "1:12: retention: no rule keeps anything"),
        ("retention: { keep_last: -1 }\n", "1:25: retention.keep_last: "),
        ("schedules: { x: { components: all } }\n", "1:17: schedules.x: a schedule has either"),
        ("schedules: { x: { backup: \"0 1 * * *\", depth: opened } }\n", "1:17: schedules.x: `depth`"),
        ("schedules: { X: { backup: \"0 1 * * *\" } }\n", "1:17: schedules.X: names of schedules"),
        ("schedules: { x: { backup: \"0 1 * * *\", components: [] } }\n", "1:52: schedules.x.components: "),
        (
            "schedules: { x: { backup: \"*/10 * * * *\", jitter: 10m } }\n",
            "schedules.x.jitter: must be shorter than the time from one run to the next",
        ),
        (
            "schedules: { x: { backup: \"0 1,22 * * *\", jitter: 4h } }\n",
            "schedules.x.jitter: must be shorter than the time from one run to the next",
        ),
        (
            "alerts: { sinks: { x: { fax: {} } } }\n",
            "alerts.sinks.x.fax: not an allowed word; allowed: email",
        ),
        ("alerts: { sinks: { x: { slack: [] } } }\n", "alerts.sinks.x.slack: expected a group of keys"),
        ("alerts: { sinks: { x: { slack: {} } } }\n", "alerts.sinks.x.slack: set `webhook_url` or"),
        (
            "alerts: { sinks: { x: { webhook: { url: \"ftp://hunter2\" } } } }\n",
            "alerts.sinks.x.webhook.url: write http:// or https:// and a host",
        ),
        (
            "listen: { grpc: \"127.0.0.1:1\", web: \"127.0.0.1:1\" }\n",
            "listen.web: listen.grpc listens there already",
        ),
        (
            "alerts: { routes: [{ events: [backup_failed], to: [x] }] }\n",
            "routes[0].to[0]: there is no such sink",
        ),
        (
            "alerts: { sinks: { x: { email: { to: [a@b], smtp: \"smtp://u:hunter2@h\" } } } }\n",
            "the password does not",
        ),
        (
            "kubernetes: { agents: [{ namespace: a/b, service_account: x, name: x }] }\n",
            "kubernetes.agents[0].namespace: write a name as Kubernetes knows it",
        ),
        (
            "kubernetes: { agents: [{ namespace: a, service_account: x, name: \"\" }] }\n",
            "kubernetes.agents[0].name: write the agent's name",
        ),
        (
            "kubernetes: { agents: [{ namespace: a, service_account: x, name: x, sources: [models] }] }\n",
            "kubernetes.agents[0].sources: \"models\" is no pattern",
        ),
        ("kubernetes: { authority: [{ namespace: a, config_map: ../x }] }\n", "authority[0].config_map: "),
    ];
    for (text, expected) in cases {
        let error = error(text);
        assert!(error.starts_with("controller.yaml:1:") && error.contains(expected), "{text}{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn cron_texts_have_five_fields_within_their_ranges() {
    for text in
        ["0 1 * * *", "*/15 0-6,22 1,15 jan-mar mon-fri", "59 23 31 12 7", "0 0 * * sun", "5/10 * * * *"]
    {
        assert!(text.parse::<Cron>().is_ok(), "{text}");
    }
    for text in
        ["", "0 1 * *", "60 1 * * *", "0 24 * * *", "0 1 0 * *", "0 1 * 13 *", "0 1 * * 8", "5-1 * * * *"]
    {
        assert!(text.parse::<Cron>().is_err(), "{text}");
    }
    for text in
        ["0 1 * * * *", "*/0 * * * *", "a 1 * * *", "1, * * * *", "@daily", "-1 * * * *", "300 * * * *"]
    {
        assert!(text.parse::<Cron>().is_err(), "{text}");
    }
}

#[test]
fn the_certificate_names_hold_this_machine_and_what_is_configured_once() {
    let config = from("grpc_names: [backup.example.org, 10.0.0.5, localhost]\n", &[]).unwrap().settings;
    let names = config.certificate_names();
    for name in ["localhost", "127.0.0.1", "::1", "backup.example.org", "10.0.0.5"] {
        assert_eq!(names.iter().filter(|known| *known == name).count(), 1, "{name} in {names:?}");
    }
    assert!(names.contains(&runtime::host::hostname()));
}

#[test]
fn a_verification_has_a_budget_and_a_time_within_which_it_reads_everything() {
    let text = "verification: { budget: 200GiB, everything_within: 14d }";
    let goal = from(text, &[]).unwrap().settings.verification.goal();
    assert_eq!((goal.budget, goal.within.as_hours()), (Some(200 << 30), 14 * 24));
    let variables = [("NEURASHIELD_CONTROLLER__VERIFICATION__BUDGET", "1GiB")];
    assert_eq!(from("", &variables).unwrap().settings.verification.goal().budget, Some(1 << 30));
    assert!(error("verification: { budget: 0B }").contains("leave it out"));
    assert!(error("verification: { everything_within: 1h }").contains("a day or more"));
    assert!(error("verification: { budget: 200 }").contains("with its unit"));
}

#[test]
fn a_variable_is_enough_for_a_password_whatever_the_file_says_of_the_page() {
    for file in
        ["", "web: { path: /restore/ }", "web: { users: { kim: { role: viewer, password: another horse } } }"]
    {
        let loaded = from(file, &[("NEURASHIELD_WEB_PASSWORD", "correct horse")]).expect(file);
        let users = loaded.settings.web.users();
        assert!(users.find("admin", "correct horse").is_some_and(|user| user.role == Role::Admin), "{file}");
        assert_eq!(users.find("kim", "another horse").is_some(), file.contains("kim"));
    }
}
