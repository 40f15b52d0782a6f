//! Modules may only use what lies below them, and files stay of a size that can be read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const SRC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// From the ground up. A module may name modules of its own layer and below, without going in circles.
const LAYERS: &[&[&str]] = &[
    &["domain", "shown"],
    &["crypto", "phi", "config", "telemetry", "wire"],
    &["store", "fleet", "lock", "blob", "host", "catalog", "net"],
    &["app", "evidence", "checks", "heal", "mcp"],
    &["agent", "uplink", "server", "web"],
    &["cli", "fake"],
];

/// These never name each other, though they stand in one layer: they are two programs.
const STRANGERS: &[(&str, &str)] = &[("agent", "server"), ("uplink", "server")];

/// The longest a file may be, without its tests.
const MAX_LINES: usize = 500;

/// What pure code cannot do: input, output, waiting, clocks, chance, and order that varies.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "tokio",
    "hyper",
    "rusqlite",
    "tracing",
    "rustix",
    "SystemTime",
    "Instant",
    "Timestamp::now",
    "Zoned::now",
    "HashMap",
    "HashSet",
    "ring::rand",
    "println!",
    "async fn",
];

struct Source {
    /// The path below `src`.
    path: PathBuf,
    /// The module at the top of that path: `store` for `store/sqlite.rs`.
    module: String,
    /// The code without comments and without the tests at its end.
    code: String,
    lines: usize,
}

fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    rust_files(Path::new(SRC), &mut files);
    files.iter().map(|file| source(file)).collect()
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            files.push(path);
        }
    }
}

fn source(file: &Path) -> Source {
    let path = file.strip_prefix(SRC).unwrap().to_path_buf();
    let text = std::fs::read_to_string(file).unwrap();
    let own = if path.ends_with("tests.rs") { "" } else { without_tests(&text) };
    let module = path.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
    let code: Vec<&str> = own.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    Source { path, module, code: code.join("\n"), lines: own.lines().count() }
}

/// Everything before a test module that has its body in the same file.
fn without_tests(text: &str) -> &str {
    let inline = |at: usize| {
        let module = text[at..].lines().find(|line| !line.trim().is_empty() && !line.starts_with('#'));
        module.is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'))
    };
    let start = text.match_indices("\n#[cfg(test)]").find(|(at, _)| inline(at + 1));
    start.map_or(text, |(at, _)| &text[..=at])
}

/// Every module named after `crate::`, also inside `use crate::{a::X, b}`.
fn uses(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(members(group).into_iter().map(first_name)),
            None => drop(found.insert(first_name(rest))),
        }
    }
    found.remove("");
    found
}

/// The members of a group up to its closing brace, those of inner groups left inside.
fn members(group: &str) -> Vec<&str> {
    let (mut members, mut depth, mut start) = (Vec::new(), 0, 0);
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' => {
                members.push(&group[start..i]);
                break;
            }
            ',' if depth == 0 => {
                members.push(&group[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    members
}

fn first_name(path: &str) -> String {
    path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn are_strangers(one: &str, other: &str) -> bool {
    STRANGERS.iter().any(|pair| *pair == (one, other) || *pair == (other, one))
}

/// Module → the modules it names.
fn graph() -> BTreeMap<String, BTreeSet<String>> {
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources().into_iter().filter(|source| layer(&source.module).is_some()) {
        let used = uses(&source.code).into_iter().filter(|used| *used != source.module && layer(used).is_some());
        graph.entry(source.module.clone()).or_default().extend(used);
    }
    graph
}

#[test]
fn modules_depend_only_downwards() {
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| !["lib", "main"].contains(&source.module.as_str())) {
        let (path, module) = (source.path.display(), &source.module);
        let Some(own) = layer(module) else {
            broken.push(format!("{path}: `{module}` is in no layer"));
            continue;
        };
        for used in uses(&source.code) {
            if layer(&used).is_some_and(|used| used > own) || are_strangers(module, &used) {
                broken.push(format!("{path}: `{module}` may not use `{used}`"));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn modules_do_not_go_in_circles() {
    let mut graph = graph();
    loop {
        let done: Vec<String> =
            graph.iter().filter(|(_, used)| used.is_empty()).map(|(name, _)| name.clone()).collect();
        if done.is_empty() {
            break;
        }
        graph.retain(|name, _| !done.contains(name));
        for used in graph.values_mut() {
            used.retain(|name| !done.contains(name));
        }
    }
    assert!(graph.values().all(BTreeSet::is_empty), "in a circle, or using one: {graph:?}");
}

#[test]
fn domain_is_pure() {
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| source.module == "domain") {
        for word in IMPURE.iter().filter(|word| source.code.contains(**word)) {
            broken.push(format!("{}: {word}", source.path.display()));
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn files_can_be_read_in_one_sitting() {
    let long = sources().into_iter().filter(|source| source.lines > MAX_LINES);
    let long: Vec<String> = long.map(|source| format!("{}: {} lines", source.path.display(), source.lines)).collect();
    assert!(long.is_empty(), "split by subject:\n{}", long.join("\n"));
}

#[test]
fn what_the_layer_test_reads() {
    let code = "use crate::{store::{Store, self}, domain::time, net}; crate::phi::Scrubber; $crate::x; my_crate::y;";
    assert_eq!(uses(code).into_iter().collect::<Vec<_>>(), ["domain", "net", "phi", "store"]);
    assert_eq!(
        without_tests("a\n#[cfg(test)]\nmod tests;\nb\n#[cfg(test)]\nmod tests {\n}\n"),
        "a\n#[cfg(test)]\nmod tests;\nb\n"
    );
}
