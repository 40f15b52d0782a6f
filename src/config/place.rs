//! Where a value of the configuration was written, and how a mistake there is told.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::domain::schema::nearest;

/// What the server's layer is called in messages.
const SERVER: &str = "the server's configuration";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A line of what the server gave.
    Server(usize),
    /// A line of the file.
    File(PathBuf, usize),
    /// An environment variable.
    Env(String),
    /// A command line flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => out.write_str("default"),
            Self::Server(line) => write!(out, "{SERVER}:{line}"),
            Self::File(path, line) => write!(out, "{}:{line}", path.display()),
            Self::Env(name) => write!(out, "environment {name}"),
            Self::Flag(name) => write!(out, "flag {name}"),
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct ConfigError {
    /// File and line, variable or flag.
    pub place: String,
    /// What is wrong, what is expected, what may have been meant.
    pub message: String,
}

pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// Adds the nearest known key to serde's "unknown field" message.
pub(super) fn with_hint(message: &str) -> String {
    let mut words = message.split('`').skip(1).step_by(2);
    let known: Vec<&str> = words.clone().skip(1).collect();
    match words.next().and_then(|unknown| nearest(unknown, known.into_iter())) {
        Some(near) if message.starts_with("unknown ") => format!("{message}; did you mean `{near}`?"),
        _ => message.to_owned(),
    }
}

/// The line of every key of a text that holds a value, and of every table.
pub(super) fn origins_of(
    text: &str,
    origin: impl Fn(usize) -> Origin,
) -> (BTreeMap<String, Origin>, BTreeMap<String, Origin>) {
    let (mut origins, mut tables) = (BTreeMap::new(), BTreeMap::new());
    if let Ok(table) = toml::de::DeTable::parse(text) {
        walk(table.get_ref(), "", &mut |key, offset, is_table| {
            let map = if is_table { &mut tables } else { &mut origins };
            map.insert(key, origin(line_of(text, offset)));
        });
    }
    (origins, tables)
}

pub(super) fn walk(table: &toml::de::DeTable<'_>, prefix: &str, found: &mut impl FnMut(String, usize, bool)) {
    for (key, value) in table {
        let name = if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        if let toml::de::DeValue::Table(inner) = value.get_ref() {
            walk(inner, &name, found);
            found(name, key.span().start, true);
        } else {
            found(name, key.span().start, false);
        }
    }
}
