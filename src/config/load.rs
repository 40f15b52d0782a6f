//! Reading the layers, remembering where every value came from, pointing at what is wrong.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::place::{ConfigError, Origin, line_of, origins_of, with_hint};
use super::server_layer::{keep_strict, merge, server_layer};
use super::{Config, text_of};

/// Prefix of environment variables that are configuration.
const PREFIX: &str = "MALACHOR__";
/// Bytes of a configuration file; the example with every key has a few thousand.
const MOST: u64 = 1024 * 1024;

/// A configuration and where each of its values came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    origins: BTreeMap<String, Origin>,
    /// The tables of the file: where a mistake about one as a whole stands, but where none of its values came from.
    tables: BTreeMap<String, Origin>,
    file: Option<PathBuf>,
    environment: Vec<(String, String)>,
}

impl Loaded {
    /// The built-in configuration.
    pub fn defaults() -> Self {
        Self {
            config: Config::default(),
            origins: BTreeMap::new(),
            tables: BTreeMap::new(),
            file: None,
            environment: Vec::new(),
        }
    }

    /// The same layers over what the server gave.
    ///
    /// A mode is the strictest that any layer says: neither the server nor this machine can loosen the other's.
    pub fn over(&self, server: &str) -> Result<Self, ConfigError> {
        layered(Some(server), self.file.as_deref(), self.environment.iter().cloned(), &[])
    }

    /// Changes one value from a flag.
    #[must_use]
    pub fn with_flag(mut self, key: &str, flag: &str, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self.origins.insert(key.to_owned(), Origin::Flag(flag.to_owned()));
        self
    }

    /// Where a value came from, by its dotted key.
    pub fn origin(&self, key: &str) -> Origin {
        let mut key = key;
        loop {
            if let Some(origin) = self.origins.get(key) {
                return origin.clone();
            }
            match key.rsplit_once('.') {
                Some((parent, _)) => key = parent,
                None => return Origin::Default,
            }
        }
    }

    /// Every value as `key`, `value`, origin.
    pub fn values(&self) -> Vec<(String, String, Origin)> {
        let mut rows = Vec::new();
        let tree = serde_json::to_value(&self.config).unwrap_or(Value::Null);
        flatten("", &tree, &mut rows);
        rows.into_iter()
            .map(|(key, value)| {
                let origin = self.origin(&key);
                (key, value, origin)
            })
            .collect()
    }

    /// An error about a key, placed where the key was written.
    pub fn complain(&self, key: &str, message: impl Into<String>) -> ConfigError {
        ConfigError { place: self.place(key).to_string(), message: format!("{key}: {}", message.into()) }
    }

    /// Where a key, or else what holds it, was written.
    fn place(&self, key: &str) -> Origin {
        let mut key = key;
        loop {
            let below = || {
                self.origins.iter().find(|(other, _)| other.starts_with(&format!("{key}."))).map(|(_, origin)| origin)
            };
            if let Some(origin) = self.origins.get(key).or_else(|| self.tables.get(key)).or_else(below) {
                return origin.clone();
            }
            match key.rsplit_once('.') {
                Some((parent, _)) => key = parent,
                None => return Origin::Default,
            }
        }
    }
}

/// Loads the layers: the file, then the environment variables given as pairs.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    layered(None, file, environment, &[])
}

/// The same without what is said about content and single runbooks, for what must work when that is broken.
pub fn load_without_content(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    layered(None, file, environment, &["catalog", "runbooks"])
}

fn layered(
    server: Option<&str>,
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    without: &[&str],
) -> Result<Loaded, ConfigError> {
    let mut loaded = Loaded { file: file.map(Path::to_owned), ..Loaded::defaults() };
    let mut tree = Value::Object(Map::new());
    if let Some(text) = server {
        tree = server_layer(text)?;
        (loaded.origins, loaded.tables) = origins_of(text, Origin::Server);
    }
    let strict = tree.clone();
    if let Some(path) = file {
        let text = text_of(path, MOST).map_err(|message| ConfigError { place: path.display().to_string(), message })?;
        if without.is_empty() {
            read_file(path, &text)?;
        }
        let mut table: toml::Table = toml::from_str(&text).map_err(|error| file_error(path, &text, &error))?;
        table.retain(|section, _| !without.contains(&section));
        let own = serde_json::to_value(&table)
            .map_err(|error| ConfigError { place: path.display().to_string(), message: error.to_string() })?;
        merge(&mut tree, own);
        let (origins, tables) = origins_of(&text, |line| Origin::File(path.to_owned(), line));
        loaded.origins.extend(origins);
        loaded.tables.extend(tables);
    }
    for (name, value) in environment {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let section = rest.split("__").next().unwrap_or_default().to_ascii_lowercase();
        if without.contains(&section.as_str()) {
            continue;
        }
        overlay(&mut tree, rest, &name, &value, &mut loaded.origins)?;
        loaded.environment.push((name, value));
    }
    let place =
        || file.filter(|_| !without.is_empty()).map_or("environment".to_owned(), |path| path.display().to_string());
    loaded.config = serde_json::from_value(tree)
        .map_err(|error| ConfigError { place: place(), message: with_hint(&error.to_string()) })?;
    if let Some(text) = server {
        let held = keep_strict(&mut loaded.config, &strict, text);
        loaded.origins.extend(held);
    }
    loaded.config.check().map_err(|message| {
        let key = message.split(':').next().unwrap_or_default().to_owned();
        ConfigError { place: loaded.place(&key).to_string(), message }
    })?;
    Ok(loaded)
}

/// Reads the file alone, so that its mistakes are placed in it.
fn read_file(path: &Path, text: &str) -> Result<Config, ConfigError> {
    toml::from_str(text).map_err(|error| file_error(path, text, &error))
}

fn file_error(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let line = error.span().map_or(1, |span| line_of(text, span.start));
    let message = with_hint(error.message());
    // A value that cannot be read says what it is, and not where it stands; a key that is not known names itself.
    let key =
        error.span().and_then(|span| key_of_value(text, span.start)).filter(|_| !message.starts_with("unknown field"));
    let message = key.map_or(message.clone(), |key| format!("{key}: {message}"));
    ConfigError { place: format!("{}:{line}", path.display()), message }
}

/// The key of the value that stands at an offset, if it is neither a table nor a list.
fn key_of_value(text: &str, offset: usize) -> Option<String> {
    let table = toml::de::DeTable::parse(text).ok()?;
    key_in_table(table.get_ref(), offset)
}

fn key_in_table(table: &toml::de::DeTable<'_>, offset: usize) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let inner = key_in(value.get_ref(), value.span(), offset)?;
        Some(if inner.is_empty() { key.get_ref().to_string() } else { format!("{}.{inner}", key.get_ref()) })
    })
}

/// The rest of the key inside a value; empty where the value itself stands there.
fn key_in(value: &toml::de::DeValue<'_>, span: std::ops::Range<usize>, offset: usize) -> Option<String> {
    if let toml::de::DeValue::Table(table) = value {
        return key_in_table(table, offset);
    }
    if let toml::de::DeValue::Array(items) = value {
        return items.iter().find_map(|item| key_in(item.get_ref(), item.span(), offset));
    }
    span.contains(&offset).then(String::new)
}

fn overlay(
    tree: &mut Value,
    rest: &str,
    name: &str,
    value: &str,
    origins: &mut BTreeMap<String, Origin>,
) -> Result<(), ConfigError> {
    let complain = |message: String| ConfigError { place: format!("environment {name}"), message };
    let mut path: Vec<String> = rest.split("__").map(str::to_ascii_lowercase).collect();
    if path.iter().any(String::is_empty) {
        return Err(complain("a key part is empty; write MALACHOR__SECTION__KEY".to_owned()));
    }
    if let [section, id, ..] = path.as_mut_slice()
        && section == "runbooks"
    {
        // Ids of runbooks have capitals; a variable may be written either way.
        let written = tree.get("runbooks").and_then(Value::as_object).into_iter().flat_map(Map::keys);
        let same = written.into_iter().find(|known| known.eq_ignore_ascii_case(id)).cloned();
        *id = same.unwrap_or_else(|| id.to_ascii_uppercase());
    }
    let mut place = &mut *tree;
    for part in &path {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        let Value::Object(map) = place else { return Err(complain("cannot be set".to_owned())) };
        place = map.entry(part.clone()).or_insert_with(|| Value::Object(Map::new()));
    }
    *place = typed(value);
    serde_json::from_value::<Config>(tree.clone()).map_err(|error| complain(with_hint(&error.to_string())))?;
    origins.insert(path.join("."), Origin::Env(name.to_owned()));
    Ok(())
}

/// A value as TOML would read it, else as text.
fn typed(text: &str) -> Value {
    let line = format!("value = {text}");
    toml::from_str::<toml::Table>(&line)
        .ok()
        .and_then(|mut table| table.remove("value"))
        .and_then(|value| serde_json::to_value(value).ok())
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

fn flatten(prefix: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&name, value, rows);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            rows.push((prefix.to_owned(), value.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::mode::Mode;

    fn from_text(text: &str) -> Result<Loaded, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        load(Some(file.path()), [])
            .map_err(|error| error.to_string().replace(&file.path().display().to_string(), "malachor.toml"))
    }

    #[test]
    fn mistakes_name_file_line_and_nearest_key() {
        let error = |text: &str| from_text(text).unwrap_err();
        insta::assert_snapshot!(
            [
                error("[agent]\nstat_dir = \"/x\"\n"),
                error("[agent]\nheartbeat = \"1 hour\"\n"),
                error("[heal]\nmode = \"heel\"\n"),
                error("[site]\ntimezone = \"Mars/Base\"\n"),
                error("[telemetry]\nmetrics = \"0.0.0.0:9464\"\n"),
                error("[heal]\nwindows = [{ days = [\"sat\"], start = \"22:00\", end = \"22:00\" }]\n"),
                error("[heal]\nwindows = [{ days = [\"sat\"], start = \"25:00\", end = \"22:00\" }]\n"),
                error("[agnt]\n"),
                error("role = \n"),
            ]
            .join("\n")
        );
    }

    #[test]
    fn layers_override_and_remember_where_a_value_came_from() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[heal]\nmode = \"approve\"\nflap_count = 4\n").unwrap();
        let env = [("MALACHOR__HEAL__MODE".to_owned(), "heal".to_owned()), ("HOME".to_owned(), "/".to_owned())];
        let loaded = load(Some(file.path()), env).unwrap();
        assert_eq!(loaded.config.heal.mode.word(), "heal");
        assert_eq!(loaded.origin("heal.mode"), Origin::Env("MALACHOR__HEAL__MODE".into()));
        assert_eq!(loaded.origin("heal.flap_count"), Origin::File(file.path().to_owned(), 3));
        assert_eq!(loaded.origin("heal.flap_within"), Origin::Default);
    }

    /// The example is the documentation: it loads, and no key that exists is missing from it.
    #[test]
    fn the_example_sets_every_key_there_is() {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml"));
        let loaded = load(Some(path), []).unwrap();
        for (key, value, origin) in loaded.values() {
            assert!(matches!(origin, Origin::File(..)), "{key} = {value} is not in config.example.toml");
        }
        let catalog = crate::catalog::Catalog::load(None).unwrap();
        crate::app::check_settings(&loaded, &catalog).unwrap();
    }

    #[test]
    fn a_mistake_about_a_runbook_stands_where_its_table_does() {
        let catalog = crate::catalog::Catalog::load(None).unwrap();
        let error = |text: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            let loaded = load(Some(file.path()), []).unwrap();
            let error = crate::app::check_settings(&loaded, &catalog).unwrap_err().to_string();
            error.replace(&file.path().display().to_string(), "malachor.toml")
        };
        for (text, says) in [
            (
                "\n[runbooks.RB-DISK-009]\n",
                "malachor.toml:2: runbooks.RB-DISK-009: no runbook has this id; did you mean",
            ),
            ("\n[runbooks.RB-NOT]\nevery = \"1h\"\n", "malachor.toml:2: runbooks.RB-NOT: no runbook has this id"),
            (
                "[runbooks.RB-BACKUP-001.settings]\nrepository = \"s3:hunter2\"\n",
                "malachor.toml:2: runbooks.RB-BACKUP-001.settings.repository: is a secret, which is not written here; write `repository = {",
            ),
            (
                "[runbooks.RB-BACKUP-001.settings.repository]\nfile = \"/etc/passwd\"\n",
                "malachor.toml:1: runbooks.RB-BACKUP-001.settings.repository: /etc/passwd: others can read it (mode 0644); run `chmod 600",
            ),
        ] {
            let said = error(text);
            assert!(said.starts_with(says) && !said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn a_variable_names_a_runbook_in_either_case() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[runbooks.RB-DISK-001]\nenabled = false\n").unwrap();
        let set = |name: &str, value: &str| (format!("MALACHOR__RUNBOOKS__{name}"), value.to_owned());
        let env = [set("rb-disk-001__EVERY", "7m"), set("RB-LNX-FIM-001__ENABLED", "false")];
        let loaded = load(Some(file.path()), env).unwrap();
        let disk = loaded.config.runbook("RB-DISK-001");
        assert_eq!((disk.enabled, disk.every.map(String::from)), (false, Some("7m".to_owned())));
        assert!(!loaded.config.runbook("RB-LNX-FIM-001").enabled);
        let wrong = load(None, [set("RB-NOT-001__ENABLED", "false")]).unwrap();
        let catalog = crate::catalog::Catalog::load(None).unwrap();
        let error = crate::app::check_settings(&wrong, &catalog).unwrap_err().to_string();
        assert!(
            error.starts_with("environment MALACHOR__RUNBOOKS__RB-NOT-001__ENABLED: runbooks.RB-NOT-001"),
            "{error}"
        );
    }

    #[test]
    fn metrics_can_be_switched_off_and_names_have_no_empty_part() {
        assert_eq!(from_text("[telemetry]\nmetrics = \"\"\n").unwrap().config.telemetry.metrics, None);
        let env = [("MALACHOR__TELEMETRY__METRICS".to_owned(), String::new())];
        assert_eq!(load(None, env).unwrap().config.telemetry.metrics, None);
        for (key, value) in [
            ("id", "."),
            ("id", ".."),
            ("appliance", "a..b"),
            ("operator_domain", ".example"),
            ("operator_domain", "x."),
        ] {
            let error = from_text(&format!("[site]\n{key} = \"{value}\"\n")).unwrap_err();
            assert!(error.starts_with(&format!("malachor.toml:2: site.{key}: `{value}` is not words")), "{error}");
        }
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let error = load(None, [("MALACHOR__HEAL__MOOD".to_owned(), "heal".to_owned())]).unwrap_err().to_string();
        assert!(error.starts_with("environment MALACHOR__HEAL__MOOD: unknown field `mood`"), "{error}");
        let error =
            load(None, [("MALACHOR__AGENT__JITTER_PERCENT".to_owned(), "lots".to_owned())]).unwrap_err().to_string();
        assert!(error.starts_with("environment MALACHOR__AGENT__JITTER_PERCENT: invalid type"), "{error}");
    }

    #[test]
    fn the_servers_layer_lies_under_the_own_file_and_no_layer_loosens_another() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[heal]\nmode = \"heal\"\nflap_count = 3\n").unwrap();
        let own = load(Some(file.path()), []).unwrap();
        let server = "[heal]\nmode = \"approve\"\nflap_count = 9\nexecutions_per_hour = 2\n\
                      [runbooks.RB-A-001]\nmode = \"observe\"\nevery = \"5m\"\n";
        let loaded = own.over(server).unwrap();
        let heal = &loaded.config.heal;
        assert_eq!((heal.mode, heal.flap_count, heal.executions_per_hour), (Mode::Approve, 3, 2));
        assert_eq!(loaded.config.runbook("RB-A-001").mode, Some(Mode::Observe));
        assert_eq!(loaded.origin("heal.executions_per_hour").to_string(), "the server's configuration:4");
        assert_eq!(
            loaded.origin("heal.mode").to_string(),
            "the server's configuration:2",
            "what holds, and not what was written"
        );
        assert!(loaded.origin("heal.flap_count").to_string().ends_with(":3"));
        // An own file that is stricter stays so.
        std::fs::write(file.path(), "[heal]\nmode = \"observe\"\n[runbooks.RB-A-001]\nmode = \"heal\"\n").unwrap();
        let loaded = load(Some(file.path()), []).unwrap().over(server).unwrap();
        assert_eq!(loaded.config.heal.mode, Mode::Observe);
        assert_eq!(loaded.config.runbook("RB-A-001").mode, Some(Mode::Observe));
        // Neither who an appliance is nor where it keeps things is the server's to say.
        let errors: Vec<String> = [
            "[site]\nid = \"x\"",
            "role = \"server\"",
            "[heal]\nmood = 1",
            "[telemetry]\nlevel = \"error\"",
            "[",
            "[heal]\nflap_count = 1",
        ]
        .into_iter()
        .map(|text| own.over(text).unwrap_err().to_string())
        .collect();
        insta::assert_snapshot!(errors.join("\n"));
    }
}
