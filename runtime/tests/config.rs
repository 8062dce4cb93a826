//! Configuration as a program sees it: real files, layers, origins, errors with their place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use runtime::config::{
    ConfigError, Duration, Flag, Layers, Loaded, Origin, Problem, Secret, SecretSource, Settings, Size, load,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Program {
    name: String,
    workers: u32,
    quick: bool,
    grace: Duration,
    room: Option<Size>,
    tags: Vec<String>,
    rules: BTreeMap<String, Rule>,
    places: Vec<Rule>,
    login: Login,
}

impl Default for Program {
    fn default() -> Self {
        Self {
            name: "unnamed".to_owned(),
            workers: 2,
            quick: false,
            grace: Duration::from_secs(90),
            room: None,
            tags: Vec::new(),
            rules: BTreeMap::new(),
            places: Vec::new(),
            login: Login::default(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    after: Duration,
    mode: Option<Mode>,
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Slow,
    Fast,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Login {
    password: Option<Secret>,
    password_file: Option<PathBuf>,
}

impl Settings for Program {
    const SECTION: &'static str = "program";
    const SECTIONS: &'static [&'static str] = &["program", "other"];
    const SHORT_FORMS: &'static [(&'static str, &'static str)] =
        &[("NEURASHIELD_AFTER", "rules.usual.after")];
    const DEFAULTS: &'static str = "rules: { usual: { after: 1h }, late: { after: 5h } }";

    fn check(&self) -> Result<(), Problem> {
        match self.workers {
            0 => Err(Problem::new("workers", "at least 1")),
            _ => Ok(()),
        }
    }
}

/// A folder with one configuration file.
struct Place {
    folder: tempfile::TempDir,
    layers: Layers,
}

impl Place {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("program.yaml");
        std::fs::write(&file, text).expect("it can be written");
        Self { folder, layers: Layers { file: Some(file), ..Layers::default() } }
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.layers.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    fn flag(mut self, name: &'static str, path: &'static str, value: &str) -> Self {
        self.layers.flags.push(Flag { name, path, value: value.to_owned() });
        self
    }

    fn load(&self) -> Result<Loaded<Program>, ConfigError> {
        load(&self.layers)
    }

    fn good(&self) -> Loaded<Program> {
        self.load().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The error, with the folder's name cut off.
    fn error(&self) -> String {
        let Err(error) = self.load() else { panic!("this configuration is wrong and was accepted") };
        error.to_string().replace(&format!("{}/", self.folder.path().display()), "")
    }
}

#[test]
fn with_nothing_configured_everything_is_the_default() {
    let loaded = load::<Program>(&Layers::default()).unwrap();
    assert_eq!(loaded.settings.workers, 2);
    assert_eq!(loaded.settings.rules.len(), 2);
    assert_eq!(loaded.origin("workers"), Origin::Default);
    assert_eq!(loaded.origin("rules.usual.after"), Origin::Default);
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let file = Place::new("name: from file\nworkers: 3\ngrace: 5s\n")
        .variable("NEURASHIELD_WORKERS", "4")
        .variable("NEURASHIELD_GRACE", "6s")
        .flag("--grace", "grace", "7s");
    let loaded = file.good();
    assert!(!loaded.settings.quick);
    assert_eq!(loaded.settings.name, "from file");
    assert_eq!(loaded.settings.workers, 4);
    assert_eq!(loaded.settings.grace, Duration::from_secs(7));
    assert_eq!(loaded.origin("quick"), Origin::Default);
    assert_eq!(loaded.origin("workers"), Origin::Environment("NEURASHIELD_WORKERS".to_owned()));
    assert_eq!(loaded.origin("grace"), Origin::Flag("--grace".to_owned()));
    let Origin::File { file: from, line, column } = loaded.origin("name") else {
        panic!("it is in the file")
    };
    assert_eq!((&*from, line, column), (file.layers.file.as_deref().unwrap(), 1, 7));
}

#[test]
fn an_unknown_key_is_told_with_its_place_and_the_keys_that_are_allowed() {
    assert_eq!(
        Place::new("name: x\nlogin:\n  pasword: x\n").error(),
        "program.yaml:3:3: login.pasword: unknown key; allowed here: password, password_file"
    );
}

#[test]
fn a_wrong_type_is_told_with_its_place_and_what_is_expected() {
    let cases = [
        ("workers: many\n", "program.yaml:1:10: workers: expected u32, found text"),
        (
            "a: 1\n",
            "program.yaml:1:1: a: unknown key; allowed here: name, workers, quick, grace, room, tags, rules, places, login",
        ),
        ("name: 12\n", "program.yaml:1:7: name: expected text, found integer `12`"),
        ("tags: one\n", "program.yaml:1:7: tags: expected a list, found text"),
        ("login: hunter2\n", "program.yaml:1:8: login: expected a group of keys, found text"),
        (
            "login: { password: 1234 }\n",
            "program.yaml:1:20: login.password: a secret is text: write it in quotes",
        ),
        ("- name\n", "program.yaml:1:1: expected a group of keys, found a list"),
        (
            "places:\n  - after: 1h\n  - mode: slow\n",
            "program.yaml:3:5: places[1]: the key `after` is missing",
        ),
        (
            "places: [{ after: 1h, mode: medium }]\n",
            "program.yaml:1:29: places[0].mode: not an allowed word; allowed: slow, fast",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(Place::new(text).error(), expected, "{text}");
    }
}

#[test]
fn a_bad_duration_or_size_is_told_with_its_place_and_how_to_write_one() {
    let help = "write numbers with units, e.g. 30d, 12h, 5m, 10s or 1h30m (units: w d h m s ms)";
    assert_eq!(
        Place::new("rules:\n  usual: { after: 3 days }\n").error(),
        format!("program.yaml:2:19: rules.usual.after: not a duration; {help}")
    );
    assert_eq!(
        Place::new("grace: 30\n").error(),
        format!("program.yaml:1:8: grace: `30` has no unit; {help}")
    );
    assert_eq!(
        Place::new("room: 5 Gigs\n").error(),
        "program.yaml:1:7: room: not a size; write a whole number with its unit, e.g. 512MiB, 2GiB \
         or 10MB (units: B KB MB GB TB KiB MiB GiB TiB)"
    );
}

#[test]
fn a_bad_value_in_the_environment_or_a_flag_names_the_variable_or_flag() {
    assert_eq!(
        Place::new("").variable("NEURASHIELD_WORKERS", "many").error(),
        "environment NEURASHIELD_WORKERS: workers: expected a whole number, 0 or more"
    );
    assert_eq!(
        Place::new("").variable("NEURASHIELD_LOGIN__USER", "me").error(),
        "environment NEURASHIELD_LOGIN__USER: login.user: unknown key; allowed here: password, password_file"
    );
    assert_eq!(
        Place::new("").flag("--quick", "quick", "maybe").error(),
        "flag --quick: quick: expected true or false"
    );
}

#[test]
fn duplicate_keys_and_broken_yaml_are_told_with_their_place() {
    let duplicate = Place::new("name: a\nworkers: 3\nname: b\n").error();
    assert!(duplicate.starts_with("program.yaml:3:1: ") && duplicate.contains("name"), "{duplicate}");
    let broken = Place::new("name: a\n  workers: [1\n").error();
    assert!(broken.starts_with("program.yaml:2:"), "{broken}");
    assert_eq!(broken.lines().count(), 1, "{broken}");
}

#[test]
fn what_only_the_program_can_judge_is_told_with_the_place_too() {
    assert_eq!(Place::new("name: a\nworkers: 0\n").error(), "program.yaml:2:10: workers: at least 1");
    assert_eq!(
        Place::new("").variable("NEURASHIELD_WORKERS", "0").error(),
        "environment NEURASHIELD_WORKERS: workers: at least 1"
    );
}

#[test]
fn a_file_for_several_programs_gives_each_its_own_section() {
    let loaded = Place::new("program:\n  workers: 8\nother:\n  anything: goes\n").good();
    assert_eq!(loaded.settings.workers, 8);
    for without in
        ["other: { anything: goes }\n", "other: { anything: goes }\nprogram:\n", "# nothing yet\n", "---\n"]
    {
        assert_eq!(Place::new(without).good().settings.workers, 2, "{without}");
    }
    assert_eq!(
        Place::new("program: { workers: 8 }\nname: x\n").error(),
        "program.yaml:2:1: name: unknown section; allowed beside each other here: program, other"
    );
}

#[test]
fn a_variable_with_the_section_wins_and_one_of_another_section_is_not_ours() {
    let loaded = Place::new("")
        .variable("NEURASHIELD_PROGRAM__WORKERS", "5")
        .variable("NEURASHIELD_WORKERS", "4")
        .variable("NEURASHIELD_OTHER__WORKERS", "6")
        .good();
    assert_eq!(loaded.settings.workers, 5);
    assert!(loaded.notices.is_empty(), "{:?}", loaded.notices);
}

#[test]
fn lists_of_texts_are_comma_separated_and_lists_of_groups_are_numbered() {
    let loaded = Place::new("tags: [file]\nplaces: [{ after: 1s }]\n")
        .variable("NEURASHIELD_TAGS", "one, two,three")
        .variable("NEURASHIELD_PLACES__0__MODE", "fast")
        .variable("NEURASHIELD_PLACES__1__AFTER", "2s")
        .good();
    assert_eq!(loaded.settings.tags, ["one", "two", "three"]);
    assert_eq!(loaded.settings.places[0].after, Duration::from_secs(1));
    assert_eq!(loaded.settings.places[0].mode, Some(Mode::Fast));
    assert_eq!(loaded.settings.places[1].after, Duration::from_secs(2));
    assert!(matches!(loaded.origin("places[0].after"), Origin::File { .. }));
    assert!(matches!(loaded.origin("places[0].mode"), Origin::Environment(_)));
}

#[test]
fn numbered_variables_fill_a_list_in_the_order_of_numbers_and_leave_no_gap() {
    let mut place = Place::new("");
    for number in 0..12 {
        let seconds = format!("{number}s");
        place = place
            .variable(&format!("NEURASHIELD_PLACES__{number}__MODE"), "slow")
            .variable(&format!("NEURASHIELD_PLACES__{number}__AFTER"), &seconds);
    }
    let loaded = place.good();
    let after: Vec<u64> = loaded.settings.places.iter().map(|rule| rule.after.get().as_secs()).collect();
    assert_eq!(after, (0..12).collect::<Vec<u64>>());
    assert_eq!(
        Place::new("").variable("NEURASHIELD_PLACES__1__AFTER", "1s").error(),
        "environment NEURASHIELD_PLACES__1__AFTER: places.1.after: there is no place 1; the list has 0 items, \
         counted from 0"
    );
}

#[test]
fn a_secret_and_its_file_in_the_same_layer_both_stay_for_the_program_to_refuse() {
    let loaded = Place::new("")
        .variable("NEURASHIELD_LOGIN__PASSWORD", "a")
        .variable("NEURASHIELD_LOGIN__PASSWORD_FILE", "/b")
        .good();
    assert!(loaded.settings.login.password.is_some() && loaded.settings.login.password_file.is_some());
}

#[test]
fn a_variable_finds_the_key_with_a_dash_that_the_file_declares() {
    let loaded = Place::new("rules: { two-words: { after: 1s } }\n")
        .variable("NEURASHIELD_RULES__TWO_WORDS__AFTER", "2s")
        .good();
    assert_eq!(loaded.settings.rules.len(), 1);
    assert_eq!(loaded.settings.rules["two-words"].after, Duration::from_secs(2));
}

#[test]
fn a_file_replaces_a_default_group_and_a_short_form_changes_one_value_of_it() {
    let replaced = Place::new("rules: { only: { after: 9h } }\n").good();
    assert_eq!(replaced.settings.rules.keys().collect::<Vec<_>>(), ["only"]);
    let changed = Place::new("").variable("NEURASHIELD_AFTER", "9h").good();
    assert_eq!(changed.settings.rules["usual"].after, Duration::from_secs(9 * 3600));
    assert_eq!(changed.settings.rules["late"].after, Duration::from_secs(5 * 3600));
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    assert_eq!(Place::new("workers: 3\n").variable("NEURASHIELD_WORKERS", "").good().settings.workers, 3);
}

#[test]
fn a_variable_that_nobody_knows_is_told_and_one_that_the_platform_puts_there_is_not() {
    let loaded = Place::new("")
        .variable("NEURASHIELD_WORKRES", "4")
        .variable("NEURASHIELD_LOG", "debug")
        .variable("NEURASHIELD_PORT", "tcp://10.0.0.1:8443")
        .variable("NEURASHIELD_MAIN_SERVICE_HOST", "10.0.0.1")
        .variable("NEURASHIELD_MAIN_PORT_8443_TCP_ADDR", "10.0.0.1")
        .variable("PATH", "/bin")
        .good();
    let named: Vec<&str> = loaded.notices.iter().map(|notice| notice.path.as_str()).collect();
    assert_eq!(named, ["NEURASHIELD_WORKRES"]);
    assert!(loaded.report().contains("note: NEURASHIELD_WORKRES: "), "{}", loaded.report());
}

#[test]
fn a_secret_shows_nowhere() {
    let place = Place::new("login: { password: hunter2 }\n");
    let loaded = place.good();
    assert_eq!(loaded.settings.login.password.as_ref().unwrap().expose(), "hunter2");
    for text in [format!("{:?}", loaded.settings), loaded.show(true), loaded.show(false), loaded.report()] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    assert!(loaded.show(false).contains("login.password: (redacted)\n"), "{}", loaded.show(false));
    let broken = [
        "login: hunter2\n",
        "login: [hunter2]\n",
        "login: { password: [hunter2] }\n",
        "login: { password: { hunter2: x } }\n",
        "login: { password: hunter2\nname: [\n",
        "workers: hunter2\n",
    ];
    for text in broken {
        let error = Place::new(text).error();
        assert!(!error.contains("hunter2"), "{text}{error}");
    }
}

#[test]
fn a_secret_in_a_file_is_read_when_it_is_used_and_without_its_line_end() {
    let place = Place::new("login: { password: in the file }\n");
    let secret = place.folder.path().join("secret");
    let place = place.variable("NEURASHIELD_LOGIN__PASSWORD_FILE", secret.to_str().unwrap());
    let login = place.good().settings.login;
    assert!(login.password.is_none(), "the variable with _FILE takes the place of the value of the file");
    let source = SecretSource::from_pair(login.password.as_ref(), login.password_file.as_ref()).unwrap();

    let missing = source.read().unwrap_err().to_string();
    assert_eq!(missing, format!("cannot read the secret in {}", secret.display()));
    std::fs::write(&secret, "hunter2 \r\n\n").unwrap();
    assert_eq!(source.read().unwrap().expose(), "hunter2 ");
    std::fs::write(&secret, "\n").unwrap();
    assert!(source.read().unwrap_err().to_string().ends_with("is empty"));
}

#[test]
fn a_value_in_the_environment_takes_the_place_of_a_secret_file() {
    let loaded = Place::new("login: { password_file: /nowhere }\n")
        .variable("NEURASHIELD_LOGIN__PASSWORD", "12345")
        .good();
    assert!(loaded.settings.login.password_file.is_none());
    assert_eq!(loaded.settings.login.password.unwrap().expose(), "12345");
}

#[test]
fn show_prints_every_value_with_where_it_came_from() {
    let place = Place::new("name: x\nplaces: [{ after: 90s }]\n").variable("NEURASHIELD_TAGS", "a,b");
    let shown = place.good().show(true);
    let line = |path: &str| shown.lines().find(|line| line.starts_with(path)).unwrap().to_owned();
    let words = |path: &str| line(path).split_whitespace().collect::<Vec<_>>().join(" ");
    let file = place.layers.file.as_deref().unwrap().display();
    assert_eq!(words("name:"), format!("name: x # {file}:1:7"));
    assert_eq!(words("workers:"), "workers: 2 # default");
    assert_eq!(words("tags:"), "tags: [a, b] # environment NEURASHIELD_TAGS");
    assert_eq!(words("places[0].after:"), format!("places[0].after: 1m30s # {file}:2:19"));
    assert_eq!(words("rules.late.after:"), "rules.late.after: 5h # default");
}

#[test]
fn a_file_that_was_asked_for_must_exist_and_the_usual_one_need_not() {
    let missing = Path::new("/nowhere/at/all.yaml");
    assert!(Layers::of_process(None, missing).file.is_none());
    let layers = Layers::of_process(Some(missing.to_owned()), Path::new("/etc/hostname"));
    let Err(error) = load::<Program>(&layers) else { panic!("the file does not exist") };
    assert_eq!(error.to_string(), "cannot read the configuration file /nowhere/at/all.yaml");
}

#[test]
fn durations_and_sizes_are_read_and_printed() {
    let durations = [
        ("30d", "30d"),
        ("1h30m", "1h30m"),
        ("30d 12h 5m 10s", "30d12h5m10s"),
        ("0s", "0s"),
        ("2w", "14d"),
        ("1500ms", "1s500ms"),
        ("90m", "1h30m"),
    ];
    for (text, printed) in durations {
        let duration: Duration = text.parse().unwrap();
        assert_eq!(duration.to_string(), printed);
        assert_eq!(printed.parse::<Duration>().unwrap(), duration);
    }
    for text in ["", "5", "5x", "h", "-5m", "1.5h", "5 m", "99999999999999999w", "5m3"] {
        assert!(text.parse::<Duration>().is_err(), "{text}");
    }
    let sizes = [
        ("512MiB", 512 << 20, "512MiB"),
        ("10MB", 10_000_000, "10MB"),
        ("2 gib", 2 << 30, "2GiB"),
        ("7B", 7, "7B"),
    ];
    for (text, bytes, printed) in sizes {
        let size: Size = text.parse().unwrap();
        assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, printed));
    }
    for text in ["", "5", "5Q", "MiB", "-1MB", "1.5GiB", "99999999999TiB"] {
        assert!(text.parse::<Size>().is_err(), "{text}");
    }
}
