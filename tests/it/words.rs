//! Words that have no place in the tree.

use std::path::{Path, PathBuf};

/// Where to look; what does not exist is passed over.
const PLACES: &[&str] = &[
    "src",
    "runbooks",
    "docs",
    "scripts",
    ".ci",
    "tests",
    "benches",
    "README.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
    "Cargo.toml",
];

/// Not searched: this list, and recorded outside data.
const EXCEPT: &[&str] = &["tests/it/words.rs", "tests/vectors"];

/// A promise nobody can keep, and marks of unfinished work.
const PHRASES: &[&str] =
    &["guarantees compliance", "guaranteed compliance", "hipaa certified", "todo!", "unimplemented!", "fixme", "xxx:"];

/// Package registries and mirrors, in pieces: which one serves is the machine's business, not the project's.
const REGISTRIES: &[&[&str]] = &[
    &["crates", "io"],
    &["deb", "debian", "org"],
    &["security", "debian", "org"],
    &["pypi", "org"],
    &["pythonhosted", "org"],
    &["registry", "npmjs", "org"],
    &["proxy", "golang", "org"],
    &["docker", "io"],
    &["cache", "nixos", "org"],
];

fn files(path: &Path, found: &mut Vec<PathBuf>) {
    if EXCEPT.iter().any(|except| path.ends_with(except)) {
        return;
    }
    if path.is_file() {
        found.push(path.to_path_buf());
    }
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        files(&entry.path(), found);
    }
}

#[test]
fn the_tree_is_free_of_forbidden_words() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let hosts = REGISTRIES.iter().map(|parts| parts.join("."));
    let forbidden: Vec<String> = PHRASES.iter().map(|phrase| (*phrase).to_owned()).chain(hosts).collect();
    let mut found = Vec::new();
    for place in PLACES {
        files(&root.join(place), &mut found);
    }
    let mut broken = Vec::new();
    for file in found {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        for (number, line) in text.lines().enumerate() {
            let line = line.to_lowercase();
            for word in forbidden.iter().filter(|word| line.contains(word.as_str())) {
                broken.push(format!("{}:{}: {word}", file.strip_prefix(root).unwrap_or(&file).display(), number + 1));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}
