//! Environment variables and flags, put over the file.

use super::decode;
use super::error::{ConfigError, Problem};
use super::load::{Flag, Settings};
use super::tree::{Node, Origin};

const PREFIX: &str = "NEURASHIELD_";
/// Read before or outside of the configuration.
const ELSEWHERE: [&str; 4] =
    ["NEURASHIELD_CONFIG", "NEURASHIELD_LOG", "NEURASHIELD_LOG_FORMAT", crate::steps::FOLDER];

/// One variable that is a setting, and how specific its name is: more specific ones win.
struct Setting<'a> {
    rank: u8,
    name: &'a str,
    path: Vec<String>,
    text: &'a str,
}

/// Puts the variables that are settings of `T` into the tree; returns those that nobody knows.
pub(super) fn apply<T: Settings>(
    tree: &mut Node,
    variables: &[(String, String)],
) -> Result<Vec<Problem>, ConfigError> {
    let keys = decode::keys_of::<T>();
    let mut settings = Vec::new();
    let mut unknown = Vec::new();
    for (name, text) in variables {
        let Some(words) = name.strip_prefix(PREFIX) else { continue };
        if text.is_empty() || ELSEWHERE.contains(&name.as_str()) {
            continue;
        }
        let mut path: Vec<String> = words.to_ascii_lowercase().split("__").map(str::to_owned).collect();
        let has_section = path.len() > 1 && T::SECTIONS.contains(&path[0].as_str());
        if let Some((_, setting)) = T::SHORT_FORMS.iter().find(|(short, _)| short == name) {
            let path = setting.split('.').map(str::to_owned).collect();
            settings.push(Setting { rank: 0, name, path, text });
        } else if has_section && path[0] == T::SECTION {
            path.remove(0);
            settings.push(Setting { rank: 2, name, path, text });
        } else if !has_section && keys.contains(&path[0].as_str()) {
            settings.push(Setting { rank: 1, name, path, text });
        } else if !has_section && !is_service_link(words) {
            unknown.push(Problem::new(
                name.as_str(),
                format!("this environment variable is no setting of the {} and was ignored", T::SECTION),
            ));
        }
    }
    // Lists grow by one place after the other: 2 comes before 10.
    settings.sort_by_cached_key(|setting| {
        let steps = setting.path.iter().map(|step| (step.parse::<usize>().ok(), step.clone()));
        (setting.rank, steps.collect::<Vec<_>>())
    });
    for setting in settings {
        put(tree, &setting.path, setting.text, Origin::Environment(setting.name.to_owned()))?;
    }
    Ok(unknown)
}

/// Puts flags over everything else.
pub(super) fn apply_flags(tree: &mut Node, flags: &[Flag]) -> Result<(), ConfigError> {
    for flag in flags {
        let path: Vec<String> = flag.path.split('.').map(str::to_owned).collect();
        put(tree, &path, &flag.value, Origin::Flag(flag.name.to_owned()))?;
    }
    Ok(())
}

fn put(tree: &mut Node, path: &[String], text: &str, origin: Origin) -> Result<(), ConfigError> {
    tree.put(path, text, &origin).map_err(|reason| ConfigError::Invalid {
        origin,
        path: path.join("."),
        reason,
    })
}

/// Kubernetes announces services as variables: `…_SERVICE_HOST`, `…_PORT`, `…_PORT_8443_TCP_ADDR`.
fn is_service_link(words: &str) -> bool {
    words.contains("SERVICE_HOST")
        || words.contains("SERVICE_PORT")
        || words == "PORT"
        || words.starts_with("PORT_")
        || words.ends_with("_PORT")
        || words.contains("_PORT_")
}
