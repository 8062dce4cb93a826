//! Loads a program's settings from its layers.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::decode;
use super::environment;
use super::error::{ConfigError, Problem};
use super::tree::{Entry, Node, Origin, Value};

const FILE_LIMIT_BYTES: u64 = 1024 * 1024;

/// The settings of one program.
///
/// `Deserialize` is to be derived with `deny_unknown_fields`; `Serialize` gives what `config show` prints and
/// has the same keys.
pub trait Settings: DeserializeOwned + Serialize {
    /// The name of the program's section in a file for several programs.
    const SECTION: &'static str;
    /// The names of all sections that such a file may hold.
    const SECTIONS: &'static [&'static str];
    /// Variables with a short name, and the settings they mean, e.g. `("NEURASHIELD_RETENTION",
    /// "retention.keep_within")`.
    const SHORT_FORMS: &'static [(&'static str, &'static str)] = &[];
    /// YAML with default values for top-level keys that are taken as a whole: a file that has the key
    /// replaces all of it, a variable changes one value in it.
    const DEFAULTS: &'static str = "";

    /// Lets the settings remember which of them somebody has written. Called before [`Settings::check`].
    fn note_origins(&mut self, _origin: &dyn Fn(&str) -> Origin) {}

    /// What the types alone cannot tell: conflicts, ranges, what this release cannot do.
    fn check(&self) -> Result<(), Problem>;

    /// What is allowed and yet worth a word to the operator.
    fn notices(&self) -> Vec<Problem> {
        Vec::new()
    }
}

/// A command-line flag that sets a setting.
#[derive(Debug, Clone)]
pub struct Flag {
    /// As it is written, e.g. `--state`.
    pub name: &'static str,
    /// The setting, e.g. `listen.grpc`.
    pub path: &'static str,
    /// Its value.
    pub value: String,
}

/// What settings are made from.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// The file; `None` for no file.
    pub file: Option<PathBuf>,
    /// The environment.
    pub variables: Vec<(String, String)>,
    /// The flags.
    pub flags: Vec<Flag>,
}

impl Layers {
    /// The layers of this process: the file that was asked for (which must exist), or the usual one if it
    /// exists; the process's environment (variables that are not UTF-8 are left out); no flags.
    pub fn of_process(asked: Option<PathBuf>, usual: &Path) -> Self {
        let file = asked.or_else(|| usual.exists().then(|| usual.to_owned()));
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { file, variables, flags: Vec::new() }
    }
}

/// Settings, with the origin of each.
pub struct Loaded<T> {
    /// The settings.
    pub settings: T,
    /// What the operator should know: [`Settings::notices`] and variables that nobody knows.
    pub notices: Vec<Problem>,
    /// The file they were read from.
    pub file: Option<PathBuf>,
    pub(super) tree: Node,
}

impl<T> Loaded<T> {
    /// Where the value of the setting at `path` (e.g. `sources[0].path`) came from.
    pub fn origin(&self, path: &str) -> Origin {
        self.tree.origin_of(path)
    }
}

/// Reads, merges, decodes and checks.
pub fn load<T: Settings>(layers: &Layers) -> Result<Loaded<T>, ConfigError> {
    let mut tree = match &layers.file {
        Some(file) => own_section::<T>(read(file)?)?,
        None => Node::empty_map(Origin::Default),
    };
    fill_defaults::<T>(&mut tree);
    let mut notices = environment::apply::<T>(&mut tree, &layers.variables)?;
    environment::apply_flags(&mut tree, &layers.flags)?;
    let mut settings: T = decode::decode(&tree).map_err(|error| ConfigError::Invalid {
        origin: error.origin.unwrap_or(Origin::Default),
        path: error.path,
        reason: error.reason,
    })?;
    settings.note_origins(&|path| tree.origin_of(path));
    settings.check().map_err(|problem| ConfigError::Invalid {
        origin: nearest_origin(&tree, &problem.path),
        path: problem.path,
        reason: problem.reason,
    })?;
    notices.extend(settings.notices());
    Ok(Loaded { settings, notices, file: layers.file.clone(), tree })
}

fn read(file: &Path) -> Result<Node, ConfigError> {
    let unreadable = |source| ConfigError::Read { file: file.to_owned(), source };
    let mut text = Zeroizing::new(String::new());
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    opened.take(FILE_LIMIT_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > FILE_LIMIT_BYTES {
        return Err(ConfigError::TooLong { file: file.to_owned(), limit: FILE_LIMIT_BYTES });
    }
    Node::parse(&text, Some(&Arc::from(file)))
}

/// The part of the file that is this program's: all of it, or its section where the file has sections.
fn own_section<T: Settings>(root: Node) -> Result<Node, ConfigError> {
    let is_section = |entry: &Entry| {
        T::SECTIONS.contains(&entry.key.as_str()) && matches!(entry.node.value, Value::Map(_))
    };
    if !root.entries().iter().any(is_section) {
        return Ok(root);
    }
    if let Some(stray) = root.entries().iter().find(|entry| !T::SECTIONS.contains(&entry.key.as_str())) {
        return Err(ConfigError::Invalid {
            origin: stray.origin.clone(),
            path: stray.key.clone(),
            reason: format!("unknown section; allowed beside each other here: {}", T::SECTIONS.join(", ")),
        });
    }
    let own = root.child(T::SECTION).map(|entry| entry.node.clone());
    let own = own.filter(|section| !matches!(section.value, Value::Null));
    Ok(own.unwrap_or_else(|| Node::empty_map(root.origin.clone())))
}

fn fill_defaults<T: Settings>(tree: &mut Node) {
    let defaults = Node::parse(T::DEFAULTS, None).expect("the program's own defaults are valid YAML");
    let Value::Map(entries) = &mut tree.value else { return };
    for default in defaults.entries() {
        if !entries.iter().any(|entry| entry.key == default.key) {
            entries.push(default.clone());
        }
    }
}

/// The origin of the setting, or of the nearest group that holds it and was written by somebody.
fn nearest_origin(tree: &Node, path: &str) -> Origin {
    let mut path = path;
    loop {
        match (tree.origin_of(path), path.rfind(['.', '['])) {
            (Origin::Default, Some(end)) => path = &path[..end],
            (Origin::Default, None) if !path.is_empty() => path = "",
            (origin, _) => return origin,
        }
    }
}
