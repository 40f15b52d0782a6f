//! A test that cannot run here says so where `scripts/test` will repeat it.

use std::io::Write;

/// Notes that `what` was skipped and why: on stderr, and in the file that `MALACHOR_SKIPPED` names.
pub(crate) fn skipped(what: &str, why: &str) {
    eprintln!("SKIPPED {what}: {why}");
    let Some(path) = std::env::var_os("MALACHOR_SKIPPED") else { return };
    let noted = std::fs::OpenOptions::new().create(true).append(true).open(path);
    noted.and_then(|mut file| writeln!(file, "{what}: {why}")).expect("the list of skipped tests can be written");
}
