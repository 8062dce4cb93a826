//! The merged configuration before it has a type: a tree of values, each with its origin.
//!
//! Must stay true: a node that comes from the environment or a flag is text, whatever it will become. Only
//! the decoder knows the type that is asked for and reads the text as that, so `NEURASHIELD_NAME=123` can
//! be a name and `NEURASHIELD_…__KEEP_LAST=123` a number.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use zeroize::Zeroizing;

use super::error::ConfigError;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The configuration file.
    File {
        /// Which file.
        file: Arc<Path>,
        /// Line, from 1.
        line: u64,
        /// Column, from 1.
        column: u64,
    },
    /// The environment variable of this name.
    Environment(String),
    /// The flag of this name, e.g. `--state`.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(out, "default"),
            Self::File { file, line, column } => write!(out, "{}:{line}:{column}", file.display()),
            Self::Environment(name) => write!(out, "environment {name}"),
            Self::Flag(name) => write!(out, "flag {name}"),
        }
    }
}

impl Origin {
    fn is_same_layer(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// True where values arrive as text without a type of their own.
    pub(super) fn is_untyped(&self) -> bool {
        matches!(self, Self::Environment(_) | Self::Flag(_))
    }
}

/// One value and where it came from.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) origin: Origin,
    pub(super) value: Value,
}

#[derive(Clone)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    /// Wiped when it goes: it may be a secret.
    Text(Zeroizing<String>),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a map with its value; the key has a place of its own for errors about it.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) origin: Origin,
    pub(super) node: Node,
}

impl Node {
    pub(super) fn empty_map(origin: Origin) -> Self {
        Self { origin, value: Value::Map(Vec::new()) }
    }

    /// Reads YAML text. With `file`, every node knows its line; without, it is a default.
    pub(super) fn parse(text: &str, file: Option<&Arc<Path>>) -> Result<Self, ConfigError> {
        let options = serde_saphyr::options! { with_snippet: false };
        let raw: Option<Raw> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let place = error.location();
            let (line, column) = place.map_or((1, 1), |place| (place.line(), place.column()));
            ConfigError::Invalid {
                origin: origin_at(file, line, column),
                path: String::new(),
                reason: without_place(&error),
            }
        })?;
        Ok(match raw {
            Some(raw) => raw.into_node(file),
            None => Self::empty_map(origin_at(file, 1, 1)),
        })
    }

    /// The entries, if this is a map.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(super) fn child(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// Puts `text` at `path`, making the maps and lists on the way; numbers are places in lists. A secret `x`
    /// of a lower layer gives way to `x_file`, and the other way round.
    ///
    /// # Errors
    /// A place beyond the end of its list, as a reason to tell.
    pub(super) fn put(&mut self, path: &[String], text: &str, origin: &Origin) -> Result<(), String> {
        let Some((key, rest)) = path.split_first() else {
            *self = Self { origin: origin.clone(), value: Value::Text(text.to_owned().into()) };
            return Ok(());
        };
        let slot = match key.parse::<usize>() {
            Ok(place) if !matches!(self.value, Value::Map(_)) => self.list_slot(place, origin)?,
            _ => self.map_slot(key, rest.is_empty(), origin),
        };
        slot.put(rest, text, origin)
    }

    /// The node at `place` of this list, which becomes one if it was none, and grows by one at its end.
    fn list_slot(&mut self, place: usize, origin: &Origin) -> Result<&mut Self, String> {
        if !matches!(self.value, Value::List(_)) {
            *self = Self { origin: origin.clone(), value: Value::List(Vec::new()) };
        }
        let Value::List(items) = &mut self.value else { unreachable!("it was just made a list") };
        if place > items.len() {
            return Err(format!(
                "there is no place {place}; the list has {} items, counted from 0",
                items.len()
            ));
        }
        if place == items.len() {
            items.push(Self { origin: origin.clone(), value: Value::Null });
        }
        Ok(&mut items[place])
    }

    fn map_slot(&mut self, key: &str, is_leaf: bool, origin: &Origin) -> &mut Self {
        if !matches!(self.value, Value::Map(_)) {
            *self = Self::empty_map(origin.clone());
        }
        let Value::Map(entries) = &mut self.value else { unreachable!("it was just made a map") };
        if is_leaf {
            let sibling = key.strip_suffix("_file").map_or_else(|| format!("{key}_file"), str::to_owned);
            entries.retain(|entry| entry.key != sibling || entry.node.origin.is_same_layer(origin));
        }
        // A variable cannot hold `-`: `OPS_MAIL` means the `ops-mail` that the file declares.
        let found = entries.iter().position(|entry| entry.key == key).or_else(|| {
            entries.iter().position(|entry| entry.key.replace('-', "_").eq_ignore_ascii_case(key))
        });
        let place = found.unwrap_or_else(|| {
            let node = Self { origin: origin.clone(), value: Value::Null };
            entries.push(Entry { key: key.to_owned(), origin: origin.clone(), node });
            entries.len() - 1
        });
        &mut entries[place].node
    }

    /// Where the value at `path` came from; where it was not set, [`Origin::Default`].
    pub(super) fn origin_of(&self, path: &str) -> Origin {
        let mut node = self;
        for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
            let next =
                match (&node.value, step.strip_suffix(']').and_then(|place| place.parse::<usize>().ok())) {
                    (Value::List(items), Some(place)) => items.get(place),
                    (Value::Text(_), Some(_)) if node.origin.is_untyped() => Some(node),
                    _ => node.child(step).map(|entry| &entry.node),
                };
            match next {
                Some(next) => node = next,
                None => return Origin::Default,
            }
        }
        node.origin.clone()
    }
}

fn origin_at(file: Option<&Arc<Path>>, line: u64, column: u64) -> Origin {
    file.map_or(Origin::Default, |file| Origin::File { file: file.clone(), line, column })
}

/// The reader's message without the place that it appends: we print file, line and column ourselves.
fn without_place(error: &serde_saphyr::Error) -> String {
    let message = error.without_snippet().to_string();
    let line = message.lines().next().unwrap_or("this is not valid YAML").to_owned();
    match line.rfind(" at line ") {
        Some(end) => line[..end].to_owned(),
        None => line,
    }
}

/// A node as the YAML reader gives it.
struct Raw(Spanned<RawValue>);

enum RawValue {
    Leaf(Value),
    List(Vec<Raw>),
    Map(Vec<(Spanned<String>, Raw)>),
}

impl Raw {
    fn into_node(self, file: Option<&Arc<Path>>) -> Node {
        let at = self.0.referenced;
        let value = match self.0.value {
            RawValue::Leaf(value) => value,
            RawValue::List(items) => {
                Value::List(items.into_iter().map(|item| item.into_node(file)).collect())
            }
            RawValue::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, raw)| Entry {
                        origin: origin_at(file, key.referenced.line(), key.referenced.column()),
                        key: key.value,
                        node: raw.into_node(file),
                    })
                    .collect(),
            ),
        };
        Node { origin: origin_at(file, at.line(), at.column()), value }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = RawValue;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Leaf(Value::Null))
    }

    fn visit_none<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Leaf(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawValue, D::Error> {
        RawValue::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<RawValue, E> {
        Ok(RawValue::Leaf(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<RawValue, E> {
        Ok(RawValue::Leaf(Value::Signed(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<RawValue, E> {
        Ok(RawValue::Leaf(Value::Unsigned(value)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<RawValue, E> {
        Ok(RawValue::Leaf(Value::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<RawValue, E> {
        Ok(RawValue::Leaf(Value::Text(value.to_owned().into())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<RawValue, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(RawValue::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<RawValue, A::Error> {
        let mut map: Vec<(Spanned<String>, Raw)> = Vec::new();
        while let Some((key, value)) = entries.next_entry::<Spanned<String>, Raw>()? {
            if map.iter().any(|(earlier, _)| earlier.value == key.value) {
                return Err(A::Error::custom(format!("the key `{}` is there twice", key.value)));
            }
            map.push((key, value));
        }
        Ok(RawValue::Map(map))
    }
}
