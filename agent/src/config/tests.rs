use std::fs;

use runtime::config::{Layers, Loaded, load};

use super::*;
use crate::sources::blockchain::{Profile, Rung};

fn from(text: &str, variables: &[(&str, &str)]) -> Result<Loaded<AgentConfig>, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.yaml");
    fs::write(&file, text).unwrap();
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let loaded = load(&Layers { file: Some(file), variables, flags: Vec::new() });
    loaded.map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
}

/// The error of a configuration with this source in its third line.
fn source_error(source: &str) -> String {
    match from(&format!("controller: https://c:8443\nsources:\n  - {source}\n"), &[]) {
        Err(error) => error,
        Ok(_) => panic!("this source is wrong and was accepted: {source}"),
    }
}

#[test]
fn with_only_the_controllers_address_the_documented_defaults_hold() {
    let loaded = from("", &[("NEURASHIELD_CONTROLLER", "https://backup.example.org:8443")]).unwrap();
    assert_eq!(loaded.settings.controller, "https://backup.example.org:8443");
    assert_eq!(loaded.settings.name, runtime::host::hostname());
    assert_eq!(loaded.settings.state, Path::new("/var/lib/neurashield-agent"));
    assert_eq!(loaded.settings.join.token(), None);
    assert!(loaded.settings.sources.is_empty());
}

#[test]
fn the_four_kinds_of_this_release_are_read_with_their_places() {
    let text = r#"
controller: { time_zone: UTC }
agent:
  name: host-1
  controller: https://backup.example.org:8443
  join: { token_file: /run/secrets/join }
  sources:
    - { component: models,     kind: files,      name: models, path: /app/ai_models/models, exclude: ["*.tmp", "!kept.tmp"], exclude_caches: true }
    - { component: blockchain, kind: blockchain, name: chain,  path: /app/backend/data/blockchain }
    - { component: ipfs,       kind: ipfs,       name: ipfs,   path: /data/ipfs }
    - { component: configs,    kind: configs,    name: configs, files: [/etc/app/*.yaml, /app/.env] }
"#;
    let loaded = from(text, &[]).unwrap();
    let config = &loaded.settings;
    assert_eq!(config.name, "host-1");
    assert_eq!(config.join.token(), Some(SecretSource::File("/run/secrets/join".into())));
    let kinds: Vec<Kind> = config.sources.iter().map(|source| source.kind).collect();
    assert_eq!(kinds, [Kind::Files, Kind::Blockchain, Kind::Ipfs, Kind::Configs]);
    assert_eq!(config.sources[0].data, SourceData::Folder { path: "/app/ai_models/models".into() });
    assert_eq!(config.sources[0].exclude, ["*.tmp", "!kept.tmp"]);
    assert!(config.sources[0].exclude_caches && config.sources[0].one_file_system);
    assert!(!config.sources[1].exclude_caches);
    let files = vec!["/etc/app/*.yaml".to_owned(), "/app/.env".to_owned()];
    assert_eq!(config.sources[3].data, SourceData::Listed { files });
    let shown = loaded.show(true);
    assert!(shown.contains("sources[0].path: /app/ai_models/models"), "{shown}");
    assert!(shown.contains("sources[3].files: [/etc/app/*.yaml, /app/.env]"), "{shown}");
}

#[test]
fn sources_can_be_written_in_the_environment() {
    let variables = [
        ("NEURASHIELD_CONTROLLER", "https://c:8443"),
        ("NEURASHIELD_JOIN__TOKEN", "hunter2"),
        ("NEURASHIELD_SOURCES__0__COMPONENT", "configs"),
        ("NEURASHIELD_SOURCES__0__KIND", "configs"),
        ("NEURASHIELD_SOURCES__0__NAME", "env"),
        ("NEURASHIELD_SOURCES__0__FILES", "/app/.env,/app/*.yaml"),
    ];
    let loaded = from("", &variables).unwrap();
    let files = vec!["/app/.env".to_owned(), "/app/*.yaml".to_owned()];
    assert_eq!(loaded.settings.sources[0].data, SourceData::Listed { files });
    assert_eq!(loaded.settings.join.token().unwrap().read().unwrap().expose(), "hunter2");
    assert!(!format!("{:?}{}", loaded.settings, loaded.show(true)).contains("hunter2"));
}

#[test]
fn what_this_release_cannot_serve_is_refused_by_key_with_what_to_do_instead() {
    let folder = "component: x, name: x, path: /x";
    let keys = [("container: geth", "container")];
    for (written, key) in keys {
        let error = source_error(&format!("{{ {folder}, kind: blockchain, {written} }}"));
        assert!(error.starts_with("agent.yaml:3:"), "{error}");
        assert!(error.contains(&format!("sources[0].{key}: not served by this release: ")), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn an_agent_joins_by_a_token_or_by_its_service_account() {
    let join = |join: &str| {
        from(&format!("controller: https://c:1\njoin: {{ {join} }}\n"), &[])
            .map(|loaded| loaded.settings.join.account_folder().map(Path::to_owned))
    };
    let folder = |path: &str| Ok(Some(Path::new(path).to_owned()));
    assert_eq!(join("service_account: true"), folder("/var/run/secrets/neurashield"));
    assert_eq!(join("service_account: true, service_account_folder: /a"), folder("/a"));
    assert_eq!(join("service_account: false, token_file: /t"), Ok(None));
    for wrong in [
        "service_account: true, token_file: /t",
        "service_account_folder: /a",
        "service_account: true, service_account_folder: a",
    ] {
        assert!(join(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn how_a_chains_folder_is_read_is_told_by_its_profile() {
    let head = "controller: https://c:8443\nsources:\n";
    let chain = |profile: &str| {
        from(&format!("{head}  - {{ component: x, name: x, path: /x, kind: {profile} }}\n"), &[])
            .map(|loaded| loaded.settings.sources[0].profile)
    };
    assert_eq!(chain("blockchain"), Ok(Profile::Auto));
    assert_eq!(chain("blockchain, profile: geth"), Ok(Profile::Geth));
    for (name, profile) in [
        ("rocksdb", Profile::Rocksdb),
        ("fabric-peer", Profile::FabricPeer),
        ("fabric-orderer", Profile::FabricOrderer),
    ] {
        assert_eq!(chain(&format!("blockchain, profile: {name}")), Ok(profile));
    }
    assert!(chain("blockchain, profile: bitcoin").unwrap_err().contains("cometbft"));
    let rungs = |quiesce: &str| {
        from(&format!("{head}  - {{ component: x, name: x, path: /x, kind: {quiesce} }}\n"), &[])
            .map(|loaded| loaded.settings.sources[0].quiesce.clone())
    };
    assert_eq!(rungs("blockchain"), Ok(Rung::USUAL.to_vec()));
    assert_eq!(rungs("blockchain, quiesce: [bracket]"), Ok(vec![Rung::Bracket]));
    assert_eq!(rungs("blockchain, quiesce: [snapshot, pause]"), Ok(vec![Rung::Snapshot, Rung::Pause]));
    assert!(rungs("ipfs, quiesce: [snapshot]").unwrap_err().contains("only a source of kind blockchain"));
    assert!(rungs("blockchain, quiesce: [stop]").unwrap_err().contains("before_backup"));
    assert!(rungs("files, quiesce: [pause]").unwrap_err().contains("only a source of kind blockchain"));
    assert!(chain("files, profile: geth").unwrap_err().contains("only a source of kind blockchain"));
}

#[test]
fn objects_of_a_cluster_are_named_by_namespace_label_and_kind() {
    let head = "controller: https://c:8443\nsources:\n  - { component: configs, name: k8s, kind: configs";
    let data = |more: &str| {
        let loaded = from(&format!("{head}, {more} }}\n"), &[]);
        loaded.map(|loaded| loaded.settings.sources[0].data.clone())
    };
    let Ok(SourceData::Objects { kubernetes }) = data(
        "kubernetes: { namespaces: [shop, web], labels: \"app=x\", secrets: true, kinds: [apps/v1/Deployment, v1/Service] }",
    ) else {
        panic!("it is right");
    };
    assert_eq!((kubernetes.namespaces, kubernetes.secrets), (vec!["shop".into(), "web".into()], true));
    assert_eq!(kubernetes.labels, "app=x");
    let kinds: Vec<String> = kubernetes.kinds.iter().map(ToString::to_string).collect();
    assert_eq!(kinds, ["apps/v1/Deployment", "v1/Service"]);
    assert_eq!((kubernetes.kinds[1].group.as_str(), kubernetes.kinds[1].version.as_str()), ("", "v1"));
    let refused = [
        ("kubernetes: { namespaces: [] }", "sources[0].kubernetes.namespaces: name the namespaces"),
        (
            "kubernetes: { namespaces: [Shop] }",
            "sources[0].kubernetes.namespaces[0]: a namespace is named once",
        ),
        (
            "kubernetes: { namespaces: [a, a] }",
            "sources[0].kubernetes.namespaces[1]: a namespace is named once",
        ),
        ("kubernetes: { namespaces: [a], kinds: [Deployment] }", "write a kind as GROUP/VERSION/KIND"),
        ("kubernetes: { namespaces: [a], kinds: [../v1/X] }", "write a kind as GROUP/VERSION/KIND"),
        ("kubernetes: { namespaces: [a], kinds: [batch/v1/Job] }", "name what makes them"),
        ("kubernetes: { namespaces: [a], kinds: [v1/Secret] }", "Secrets by `secrets: true`"),
        (
            "kubernetes: { namespaces: [a], secrets: true, secret_names: [db] }",
            "sources[0].kubernetes.secret_names: `secrets: true` takes all",
        ),
        ("kubernetes: { namespaces: [a, b], secret_names: [db] }", "in a source of one namespace"),
        ("kubernetes: { namespaces: [a], secret_names: [\"a,b\"] }", "these are names of Secrets"),
        ("kubernetes: { namespaces: [a] }, files: [/x]", "for both, write two sources"),
    ];
    for (more, told) in refused {
        let error = data(more).unwrap_err();
        assert!(error.contains(told), "{more}: {error}");
    }
    let error =
        source_error("{ component: x, name: x, kind: files, path: /x, kubernetes: { namespaces: [a] } }");
    assert!(error.contains("only a source of kind configs has `kubernetes`"), "{error}");
}

#[test]
fn an_ipfs_node_is_named_by_its_rpc_and_its_folder_alone_is_read_as_files() {
    let head = "controller: https://c:8443\nsources:\n  - { component: ipfs, name: ipfs, kind: ipfs";
    let data = |more: &str| {
        let loaded = from(&format!("{head}, {more} }}\n"), &[]);
        loaded.map(|loaded| loaded.settings.sources[0].data.clone())
    };
    let rpc = "http://127.0.0.1:5001";
    let node = |path: Option<&str>| SourceData::Node { rpc: NodeRpc::at(rpc), path: path.map(Into::into) };
    assert_eq!(data(&format!("rpc: \"{rpc}\"")), Ok(node(None)));
    assert_eq!(data(&format!("rpc: \"{rpc}\", path: /data/ipfs")), Ok(node(Some("/data/ipfs"))));
    assert_eq!(data("path: /data/ipfs"), Ok(SourceData::Folder { path: "/data/ipfs".into() }));
    let refused = [
        ("rpc: \"ftp://h:5001\"", "sources[0].rpc: must be http://HOST:PORT or https://HOST:PORT"),
        ("rpc: \"http://h:5001\", rpc_auth: hunter2", "sources[0].rpc_auth: must be bearer:TOKEN"),
        ("rpc: \"http://h:5001\", rpc_auth: \"bearer:x\", rpc_auth_file: /x", "one of `rpc_auth`"),
        ("rpc: \"http://h:5001\", rpc_auth_file: x", "sources[0].rpc_auth_file: write an absolute path"),
        ("rpc: \"http://h:5001\", rpc_ca: /x", "sources[0].rpc_ca: is of use with https:// alone"),
        ("rpc: \"http://h:5001\", quiesce: [pause]", "or the folder of an IPFS node, has `quiesce`"),
        ("path: /data/ipfs, rpc_auth: \"bearer:hunter2\"", "are of use with `rpc` alone"),
        ("rpc: \"http://h:5001\", path: data", "sources[0].path: write an absolute path"),
        ("rpc: \"http://h:5001\", exclude: [x]", "has no `exclude`"),
        ("exclude: [x]", "`rpc` (the node's address), `path` (its folder), or both"),
    ];
    for (more, told) in refused {
        let error = data(more).unwrap_err();
        assert!(error.contains(told) && !error.contains("hunter2"), "{more}: {error}");
    }
    let variables = [("NEURASHIELD_SOURCES__0__RPC_AUTH", "bearer:hunter2")];
    let loaded = from(&format!("{head}, rpc: \"https://h:5001\" }}\n"), &variables).expect("it is loaded");
    let SourceData::Node { rpc, .. } = &loaded.settings.sources[0].data else { panic!("a node") };
    assert!(rpc.rpc_auth.is_some() && rpc.is_secure());
    assert!(!format!("{:?}{}", loaded.settings, loaded.show(true)).contains("hunter2"));
    assert!(data("path: /data/ipfs, quiesce: [bracket]").is_ok());
}

#[test]
fn an_environment_is_named_by_whose_it_is() {
    let env = |env: &str| {
        let source = format!("{{ component: configs, name: env, kind: configs, env: {env} }}");
        from(&format!("controller: https://c:8443\nsources:\n  - {source}\n"), &[])
    };
    let loaded =
        env("{ agent: true, containers: [web], container_labels: [app=shop] }").expect("it is loaded");
    let SourceData::Environment { env: of } = &loaded.settings.sources[0].data else {
        panic!("an environment")
    };
    let all = "the environment of the agent, of the container web, of containers labelled app=shop";
    assert_eq!(of.location(), all);
    for (wrong, told) in [
        ("{}", "sources[0].env: say whose"),
        ("{ containers: [\"a/b\"] }", "sources[0].env.containers[0]: this is no name"),
        ("{ container_labels: [\"=x\"] }", "sources[0].env.container_labels[0]: write KEY"),
    ] {
        let error = env(wrong).map(drop).unwrap_err();
        assert!(error.contains(told), "{wrong}: {error}");
    }
    let error = source_error("{ component: x, name: x, kind: files, path: /x, env: { agent: true } }");
    assert!(error.contains("only a source of kind configs has `env`"), "{error}");
    let error = source_error("{ component: x, name: x, kind: configs, files: [/x], env: { agent: true } }");
    assert!(error.contains("one of them"), "{error}");
}

#[test]
fn a_mongodb_server_is_named_by_its_uri_which_is_never_shown() {
    let head = "controller: https://c:8443\nsources:\n";
    let server = "component: database, name: mongodb, kind: mongodb";
    let loaded = from(&format!("{head}  - {{ {server}, uri: \"mongodb://u:hunter2@h\" }}\n"), &[]).unwrap();
    let SourceData::Server { uri: Some(uri), uri_file: None } = &loaded.settings.sources[0].data else {
        panic!("{:?}", loaded.settings.sources)
    };
    assert_eq!(uri.expose(), "mongodb://u:hunter2@h");
    assert!(!format!("{:?}{}", loaded.settings, loaded.show(true)).contains("hunter2"));
    let variables = [("NEURASHIELD_SOURCES__0__URI_FILE", "/run/secrets/uri")];
    let loaded = from(&format!("{head}  - {{ {server} }}\n"), &variables);
    let data = loaded.map(|loaded| loaded.settings.sources[0].data.clone());
    assert_eq!(data, Ok(SourceData::Server { uri: None, uri_file: Some("/run/secrets/uri".into()) }));

    let refused = [
        ("kind: mongodb", "one of `uri`, `uri_file`"),
        ("kind: mongodb, path: /data/db, exclude: [x]", "it is of use only as a whole"),
        ("kind: mongodb, path: /data/db, uri_file: /x", "one of `uri`, `uri_file`"),
        ("kind: files, path: /x, uri_file: /x", "only a source of kind mongodb has `uri`"),
        ("kind: mongodb, uri: \"mongodb://u:hunter2@h\", uri_file: /x", "one of `uri`, `uri_file`"),
        ("kind: mongodb, uri: \"mongodb://u:hunter2@h\", exclude: [x]", "has no `exclude`"),
        ("kind: mongodb, uri_file: x", "sources[0].uri_file: write an absolute path"),
        ("kind: files, path: /x, uri: \"mongodb://u:hunter2@h\"", "only a source of kind mongodb has `uri`"),
    ];
    for (written, expected) in refused {
        let error = source_error(&format!("{{ component: x, name: x, {written} }}"));
        assert!(error.contains(expected) && !error.contains("hunter2"), "{written}\n{error}");
    }
}

#[test]
fn impossible_sources_are_refused_at_their_place() {
    let cases = [
        (
            "{ component: x, name: x, kind: tapes, path: /x }",
            "not an allowed word; allowed: files, ipfs, blockchain, configs, mongodb",
        ),
        ("{ component: x, name: x, kind: files, path: x }", "3:49: sources[0].path: write an absolute path"),
        ("{ component: x, name: x, kind: files }", "3:5: sources[0]: a source of this kind has `path`"),
        ("{ component: x, name: x, kind: files, path: /x, files: [/y] }", "a source of this kind has `path`"),
        ("{ component: x, name: x, kind: configs, path: /x }", "a source of kind configs has `files`"),
        (
            "{ component: x, name: x, kind: configs, files: [x] }",
            "3:53: sources[0].files[0]: write an absolute",
        ),
        ("{ component: x, name: x, kind: configs, files: [\"/x/[\"] }", "sources[0].files[0]: not a glob"),
        (
            "{ component: x, name: x, kind: files, path: /x, exclude: [\"[z-a]\"] }",
            "exclude[0]: not a pattern",
        ),
        ("{ component: X, name: x, kind: files, path: /x }", "3:18: sources[0].component: names have"),
        ("{ component: x, name: ../x, kind: files, path: /x }", "sources[0].name: names have"),
        ("{ component: x, kind: files, path: /x }", "3:5: sources[0]: the key `name` is missing"),
        (
            "{ component: x, name: x, kind: files, path: /x, exlude: [a] }",
            "sources[0].exlude: unknown key; allowed",
        ),
    ];
    for (source, expected) in cases {
        let error = source_error(source);
        assert!(error.starts_with("agent.yaml:3:") && error.contains(expected), "{source}\n{error}");
    }
}

#[test]
fn limits_windows_and_hooks_are_read_and_what_would_not_hold_is_refused() {
    let folder = "component: x, name: x, kind: files, path: /x";
    let text = format!(
        "controller: https://c:8443\nsources:\n  - {{ {folder}, limits: {{ upload: 20MB, nice: 5 }}, \
         window: {{ from: \"22:00\", to: \"06:30\", time_zone: Europe/Paris }}, \
         hooks: {{ before_backup: {{ command: [/bin/lock, -f], env: {{ TOKEN: hunter2 }} }}, \
         after_backup: {{ shell: unlock, timeout: 5m, on_failure: fail }} }} }}\n"
    );
    let loaded = from(&text, &[]).unwrap();
    let source = &loaded.settings.sources[0];
    assert_eq!(source.limits.upload.map(|rate| rate.bytes()), Some(20_000_000));
    assert_eq!((source.limits.nice, source.limits.read, source.limits.threads), (Some(5), None, None));
    let hook = source.hooks.before_backup.as_ref().unwrap();
    assert_eq!((hook.command[1].as_str(), hook.timeout.get().as_secs()), ("-f", 60));
    let shown = loaded.show(true);
    assert!(shown.contains("sources[0].window.to: 06:30") && !shown.contains("hunter2"), "{shown}");
    assert!(!format!("{:?}", loaded.settings).contains("hunter2"));
    let cases = [
        ("limits: { upload: 1KiB }", "limits.upload: at least 64KiB in a second"),
        ("limits: { threads: 0 }", "limits.threads: 1 to 1024"),
        ("limits: { nice: 20 }", "limits.nice: 0 to 19"),
        ("limits: { bandwidth: 1MB }", "limits.bandwidth: unknown key"),
        ("window: { from: \"1:00\", to: \"25:00\" }", "window.to: not a time of the day"),
        ("window: { from: \"01:00\", to: \"01:00\" }", "window: `from` and `to` are the same time"),
        ("window: { from: \"01:00\", to: \"02:00\", time_zone: Mars }", "window.time_zone: unknown zone"),
        ("hooks: { before_backup: {} }", "hooks.before_backup: a hook has either `command`"),
        (
            "hooks: { before_backup: { command: [lock] } }",
            "before_backup.command: write the program as an abs",
        ),
        (
            "hooks: { before_backup: { shell: x, timeout: 11m } }",
            "before_backup.timeout: more than 0s, at most",
        ),
        (
            "hooks: { after_restore: { shell: x, on_failure: fail } }",
            "after_restore.on_failure: when this hook",
        ),
        (
            "hooks: { after_backup: { shell: x, env: { NEURASHIELD_JOB: other } } }",
            "after_backup.env: a name must",
        ),
        ("hooks: { on_error: { shell: x } }", "hooks.on_error: unknown key"),
    ];
    for (written, expected) in cases {
        let error = source_error(&format!("{{ {folder}, {written} }}"));
        assert!(error.starts_with("agent.yaml:3:") && error.contains(expected), "{written}\n{error}");
    }
}

#[test]
fn two_sources_of_a_component_need_two_names() {
    let source = |component: &str, name: &str| {
        format!("  - {{ component: {component}, name: {name}, kind: files, path: /{name} }}\n")
    };
    let text =
        |second: String| format!("controller: https://c:8443\nsources:\n{}{second}", source("models", "a"));
    let error = from(&text(source("models", "a")), &[]).map(|_| ()).unwrap_err();
    assert_eq!(
        error,
        "agent.yaml:4:32: sources[1].name: the component `models` has a source `a` already; give this one \
         another name"
    );
    assert!(from(&text(source("models", "b")), &[]).is_ok());
    assert!(from(&text(source("ipfs", "a")), &[]).is_ok());
}

#[test]
fn an_address_that_is_no_https_address_is_refused_with_how_to_write_one() {
    for address in ["", "http://c:8443", "c:8443", "https://", "https://c:8443/path", "https://user@c:8443"] {
        let error = from(&format!("controller: \"{address}\"\n"), &[]).map(|_| ()).unwrap_err();
        assert!(
            error.starts_with(
                "agent.yaml:1:13: controller: write the controller's address as https://host:port"
            )
        );
    }
}

#[test]
fn a_token_given_twice_is_refused() {
    let variables = [
        ("NEURASHIELD_CONTROLLER", "https://c:8443"),
        ("NEURASHIELD_JOIN__TOKEN", "hunter2"),
        ("NEURASHIELD_JOIN__TOKEN_FILE", "/run/secrets/join"),
    ];
    let error = from("", &variables).map(|_| ()).unwrap_err();
    assert_eq!(
        error,
        "environment NEURASHIELD_JOIN__TOKEN: join: set one of token, token_file and service_account, not several"
    );
}

#[test]
fn discovery_tells_what_is_there_what_is_not_and_what_cannot_be_served() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(discover(root.path()).missing.len(), 4);
    for folder in ["app/ai_models/models", "app/backend/data/db", "data/ipfs"] {
        fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    let found = discover(root.path());
    let served: Vec<_> =
        found.sources.iter().map(|source| (source.component.as_str(), source.kind)).collect();
    assert_eq!(served, [("models", Kind::Files), ("ipfs", Kind::Ipfs)]);
    assert_eq!(found.sources[1].data, SourceData::Folder { path: root.path().join("data/ipfs") });
    assert_eq!(found.unserved.iter().map(|place| place.component).collect::<Vec<_>>(), ["database"]);
    assert_eq!(found.missing.iter().map(|place| place.component).collect::<Vec<_>>(), ["blockchain"]);
    for source in &found.sources {
        source.check("sources[0]").unwrap();
    }
}
