//! What borg lists of its archives: whose they are, when they were made, what they were told to hold.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::repository::Snapshot;

/// Options of `borg create` that are followed by a value (`borg-create(1)` and common options, 1.2 and 1.4).
const WITH_VALUE: &[&str] = &[
    "--chunker-params",
    "--comment",
    "--compression",
    "--checkpoint-interval",
    "--checkpoint-volume",
    "--debug-profile",
    "--debug-topic",
    "--exclude",
    "--exclude-from",
    "--exclude-if-present",
    "--files-cache",
    "--files-changed",
    "--filter",
    "--lock-wait",
    "--pattern",
    "--patterns-from",
    "--remote-buffer",
    "--remote-path",
    "--remote-ratelimit",
    "--rsh",
    "--socket",
    "--timestamp",
    "--umask",
    "--upload-buffer",
    "--upload-ratelimit",
    "-C",
    "-c",
    "-e",
];
/// Options that stand alone.
const ALONE: &[&str] = &[
    "--atime",
    "--bypass-lock",
    "--consider-part-files",
    "--critical",
    "--debug",
    "--dry-run",
    "--error",
    "--exclude-caches",
    "--exclude-nodump",
    "--iec",
    "--info",
    "--json",
    "--keep-exclude-tags",
    "--list",
    "--log-json",
    "--no-cache-sync",
    "--no-files-cache",
    "--noacls",
    "--noatime",
    "--nobirthtime",
    "--nobsdflags",
    "--noctime",
    "--noflags",
    "--noxattrs",
    "--numeric-ids",
    "--numeric-owner",
    "--one-file-system",
    "--progress",
    "--read-special",
    "--show-rc",
    "--show-version",
    "--sparse",
    "--stats",
    "--verbose",
    "--warning",
    "-n",
    "-p",
    "-s",
    "-v",
    "-x",
];

/// Archives that a machine made, of `borg list --json` with their host and command line.
pub(super) fn archives(answer: &Value, machine: &str) -> Option<Vec<Snapshot>> {
    let encrypted = answer.pointer("/encryption/mode")?.as_str()? != "none";
    let mut archives = Vec::new();
    for archive in answer.get("archives")?.as_array()? {
        let text = |key: &str| archive.get(key).and_then(Value::as_str);
        let name = text("name")?;
        if text("hostname")? == machine {
            archives.push(Snapshot {
                series: super::repository::cut(&name.replace(|c: char| c.is_ascii_digit(), "")),
                size: None,
                id: name.to_owned(),
                time: utc(text("start")?)?,
                paths: paths(archive),
                encrypted,
            });
        }
    }
    Some(archives)
}

/// The paths an archive was made of; `None` where its command line does not tell.
fn paths(archive: &Value) -> Option<Vec<String>> {
    let words: Vec<&str> = archive.get("command_line")?.as_array()?.iter().map(Value::as_str).collect::<Option<_>>()?;
    let start = words.iter().position(|word| *word == "create")? + 1;
    let mut rest = words.get(start..)?.iter().copied();
    let mut plain = Vec::new();
    while let Some(word) = rest.next() {
        if word == "--" {
            plain.extend(rest.by_ref());
        } else if WITH_VALUE.contains(&word) {
            rest.next()?;
        } else if !word.starts_with('-') {
            plain.push(word);
        } else if !(ALONE.contains(&word) || word.split_once('=').is_some_and(|(name, _)| WITH_VALUE.contains(&name))) {
            // Paths from a program, files without a path, or an option nobody here knows: what follows it may be its value.
            return None;
        }
    }
    let (archive_name, paths) = plain.split_first()?;
    // A relative path says nothing without the directory it was relative to.
    let told = archive_name.contains("::") && !paths.is_empty() && paths.iter().all(|path| path.starts_with('/'));
    let tidy = |path: &&str| if *path == "/" { "/".to_owned() } else { path.trim_end_matches('/').to_owned() };
    told.then(|| paths.iter().map(tidy).collect())
}

/// borg's times have no zone; it was run in UTC.
pub(super) fn utc(text: &str) -> Option<Timestamp> {
    text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(line: &str) -> Option<Vec<String>> {
        paths(&json!({"command_line": line.split(' ').collect::<Vec<&str>>()}))
    }

    #[test]
    fn paths_are_read_from_between_the_options() {
        let both = Some(vec!["/srv".to_owned(), "/home".to_owned()]);
        for line in [
            "/usr/bin/borg create ::a /srv /home/",
            "borg --lock-wait 60 create --stats -C lz4 -e *.tmp ssh://u@h/./r::{hostname}-{now} /srv --exclude /srv/tmp /home",
            "borg create --compression=zstd,3 --exclude-caches ::a -- /srv /home",
        ] {
            assert_eq!(told(line), both, "{line}");
        }
    }

    #[test]
    fn where_the_line_does_not_tell_nothing_is_made_up() {
        for line in [
            "borg create ::a srv",
            "borg create ::a /srv home",
            "borg create --paths-from-stdin ::a",
            "borg create --new-option /srv ::a /home",
            "borg create -vx ::a /home",
            "borg create ::a",
            "borg create ::a /home -e",
            "borg import-tar ::a /x.tar",
            "",
        ] {
            assert_eq!(told(line), None, "{line}");
        }
        assert_eq!(paths(&json!({})), None);
    }

    #[test]
    fn archives_of_other_machines_are_left_out() {
        let archive = |name: &str, host: &str| json!({"name": name, "start": "2026-03-02T11:00:00.000000", "hostname": host, "command_line": ["borg", "create", "::a", "/srv"]});
        let list =
            json!({"encryption": {"mode": "repokey"}, "archives": [archive("mine", "x"), archive("theirs", "y")]});
        let found = archives(&list, "x").unwrap();
        assert_eq!(found.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["mine"]);
        assert_eq!(found[0].paths, Some(vec!["/srv".to_owned()]));
        assert_eq!(archives(&json!({"encryption": {"mode": "none"}, "archives": [{"name": "a"}]}), "x"), None);
    }
}
