//! Software arrays of the kernel (md): whether one runs with fewer disks than it should.

use serde_json::{Value, json};

use crate::host::{Host, HostError};

const MDSTAT: &str = "/proc/mdstat";
/// Levels that have no disk to spare: they work, or they are gone.
const WITHOUT_SPARE: &[&str] = &["raid0", "linear", "container"];

/// `[{name, level, degraded, sync}]`: missing disks (null where the level has none to spare) and what it is busy with
/// (`idle`, `recover`, `resync`, `check`, …, null where not told). sysfs first (kernel's `md.rst`), then `/proc/mdstat`.
pub(super) fn arrays(host: &Host, names: &[String]) -> Result<Value, HostError> {
    let is_array = |name: &&String| name.starts_with("md") && host.exists(&format!("/sys/block/{name}/md"));
    names.iter().filter(is_array).map(|name| array(host, name)).collect()
}

fn array(host: &Host, name: &str) -> Result<Value, HostError> {
    let file = |file: &str| host.read(&format!("/sys/block/{name}/md/{file}")).map(|text| text.trim().to_owned());
    let level = file("level")?;
    let degraded = if WITHOUT_SPARE.contains(&level.as_str()) {
        None
    } else {
        let missing = match file("degraded") {
            Ok(text) => text.parse::<u64>().ok(),
            Err(HostError::Missing(_)) => missing(&host.read(MDSTAT)?, name),
            Err(error) => return Err(error),
        };
        let what = format!("the state of array {name}");
        Some(missing.ok_or_else(|| HostError::Garbage { what, why: "no number of missing disks".to_owned() })?)
    };
    Ok(json!({"name": name, "level": level, "degraded": degraded, "sync": file("sync_action").ok()}))
}

/// Counts the gaps in `[U_]` in the lines of an array; `None` where there is no such sign.
fn missing(mdstat: &str, name: &str) -> Option<u64> {
    let mut lines = mdstat.lines().skip_while(|line| line.split_whitespace().next() != Some(name));
    lines.next()?;
    let own = lines.take_while(|line| line.starts_with([' ', '\t']));
    let sign = |word: &str| {
        let inner = word.strip_prefix('[')?.strip_suffix(']')?;
        let all = !inner.is_empty() && inner.bytes().all(|byte| byte == b'U' || byte == b'_');
        all.then(|| inner.bytes().filter(|byte| *byte == b'_').count())
    };
    own.flat_map(str::split_whitespace).find_map(sign).and_then(|count| u64::try_from(count).ok())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Tree;
    use super::*;

    const STAT: &str = "Personalities : [raid1] [raid6] [raid5]\n\
        md1 : active raid5 sdd1[3] sdc1[1] sdb1[0]\n      1953260544 blocks super 1.2 level 5, 512k chunk, algorithm 2 [3/3] [UUU]\n      \
        bitmap: 0/8 pages [0KB], 65536KB chunk\n\n\
        md0 : active raid1 sdb2[1] sda2[0](F)\n      1046528 blocks super 1.2 [2/1] [_U]\n\nunused devices: <none>\n";

    #[test]
    fn gaps_are_counted_for_the_right_array() {
        assert_eq!((missing(STAT, "md0"), missing(STAT, "md1")), (Some(1), Some(0)));
        assert_eq!((missing(STAT, "md2"), missing("md0 : what\nmd1", "md0"), missing("", "md0")), (None, None, None));
    }

    #[test]
    fn the_kernels_list_answers_where_sysfs_does_not() {
        let tree = Tree::new().file("/sys/block/md0/md/level", "raid1\n").file(MDSTAT, STAT);
        let names = ["md0".to_owned(), "sda".to_owned(), "md_d9".to_owned()];
        let found = arrays(&tree.host(), &names).unwrap();
        assert_eq!(found, json!([{"name": "md0", "level": "raid1", "degraded": 1, "sync": null}]));
        let striped = Tree::new().file("/sys/block/md0/md/level", "raid0\n");
        assert_eq!(arrays(&striped.host(), &names).unwrap()[0]["degraded"], Value::Null);
        let silent = Tree::new().file("/sys/block/md0/md/level", "raid1\n");
        assert!(arrays(&silent.host(), &names).is_err());
    }
}
