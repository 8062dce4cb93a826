//! Prints effective settings, for `config show` and `config check`. Secrets print as `(redacted)`.

use std::fmt::Write as _;

use serde_json::Value;

use super::load::{Loaded, Settings};

impl<T: Settings> Loaded<T> {
    /// One line per setting, `path: value`, with where it came from if asked for. What is not set and has no
    /// default is left out.
    pub fn show(&self, with_origin: bool) -> String {
        let value = serde_json::to_value(&self.settings).expect("settings have text keys and plain values");
        let mut lines = Vec::new();
        flatten("", &value, &mut lines);
        let width = lines.iter().map(|(path, text)| path.len() + text.len() + 2).max().unwrap_or(0);
        let mut out = String::new();
        for (path, text) in lines {
            let line = format!("{path}: {text}");
            let written = match with_origin {
                true => writeln!(out, "{line:width$}  # {}", self.tree.origin_of(&path)),
                false => writeln!(out, "{line}"),
            };
            written.expect("a String takes every text");
        }
        out
    }

    /// What `config check` says of a configuration that could be loaded.
    pub fn report(&self) -> String {
        let mut out = match &self.file {
            Some(file) => format!("the configuration of the {} in {} is valid\n", T::SECTION, file.display()),
            None => format!("no configuration file; the {} uses defaults and the environment\n", T::SECTION),
        };
        for notice in &self.notices {
            writeln!(out, "note: {}: {}", notice.path, notice.reason).expect("a String takes every text");
        }
        out
    }
}

fn flatten(path: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Object(entries) if !entries.is_empty() => {
            for (key, value) in entries {
                let joint = if path.is_empty() { "" } else { "." };
                flatten(&format!("{path}{joint}{key}"), value, lines);
            }
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            for (place, item) in items.iter().enumerate() {
                flatten(&format!("{path}[{place}]"), item, lines);
            }
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(plain).collect();
            lines.push((path.to_owned(), format!("[{}]", items.join(", "))));
        }
        leaf => lines.push((path.to_owned(), plain(leaf))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
