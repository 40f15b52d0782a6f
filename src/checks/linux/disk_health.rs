//! Disks that report defects (S.M.A.R.T.) and mirrors that have lost a disk (md).

use serde_json::{Value, json};

use super::md;
use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;
use crate::host::{Cmd, Host, HostError};

/// Disks asked.
const DISKS: usize = 64;
/// Devices of the kernel's own making, and drives without a fixed disk.
const NOT_DISKS: &[&str] = &["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "zd", "rbd", "drbd", "bcache"];
/// Names of disks that are a file or a share elsewhere.
const VIRTUAL_NAMES: &[&str] = &["vd", "xvd"];
/// Vendors and models of such disks, in lower case.
const VIRTUAL_MAKERS: &[&str] = &[
    "qemu",
    "vbox",
    "vmware",
    "msft",
    "virtual",
    "google",
    "nvme_card",
    "amazon elastic block store",
    "xen",
    "lio-org",
];

/// Facts: `disks` (`[{name, virtual, smart}]`; `smart` null where a disk has none), `physical` (their number), `arrays`
/// (see [`md`]), and `unasked`: zero, or why a disk could not be asked.
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let host = context.host;
    let names = match host.list("/sys/block") {
        Ok(names) => names,
        Err(error) => {
            facts.fail_all(&["disks", "physical", "unasked", "arrays"], &error);
            return facts.into();
        }
    };
    facts.learn("arrays", md::arrays(host, &names));
    let ignore = context.list("ignore");
    let disks = names.iter().filter(|name| is_disk(host, name) && !ignore.contains(&name.as_str()));
    let (mut found, mut physical, mut trouble) = (Vec::new(), 0_u64, None);
    for name in disks.take(DISKS) {
        let is_virtual = is_virtual(host, name);
        physical += u64::from(!is_virtual);
        let smart = if is_virtual { Ok(Value::Null) } else { smart(host, name).await };
        match smart {
            Ok(smart) => found.push(json!({"name": name, "virtual": is_virtual, "smart": smart})),
            Err(error) => trouble = trouble.or(Some(error)),
        }
    }
    facts.set("disks", found);
    facts.set("physical", physical);
    match trouble {
        None => facts.set("unasked", 0),
        Some(error) => facts.fail("unasked", &error),
    }
    facts.into()
}

fn is_disk(host: &Host, name: &str) -> bool {
    let flag = |file: &str| host.read(&format!("/sys/block/{name}/{file}")).is_ok_and(|text| text.trim() == "1");
    // A second path to a disk (NVMe multipath) is hidden, a memory stick removable; a memory card has no S.M.A.R.T.
    !NOT_DISKS.iter().any(|prefix| name.starts_with(prefix))
        && !name.starts_with("mmcblk")
        && !flag("hidden")
        && !flag("removable")
}

fn is_virtual(host: &Host, name: &str) -> bool {
    let text = |file: &str| host.read(&format!("/sys/block/{name}/device/{file}")).unwrap_or_default().to_lowercase();
    let made_by = [text("vendor"), text("model")].concat();
    VIRTUAL_NAMES.iter().any(|prefix| name.starts_with(prefix))
        || VIRTUAL_MAKERS.iter().any(|maker| made_by.contains(maker))
}

/// What smartctl(8) says: its exit status is a set of bits, of which the lowest two mean that it could not ask.
async fn smart(host: &Host, name: &str) -> Result<Value, HostError> {
    let cmd = Cmd::new(["smartctl", "--json", "-a", "-d", "auto", &format!("/dev/{name}")]);
    let what = cmd.line();
    let output = host.run(cmd).await?;
    let said = output.json(&what)?;
    if output.status & 0b11 != 0 {
        let message =
            said.pointer("/smartctl/messages/0/string").and_then(Value::as_str).unwrap_or("it gave no reason");
        return Err(HostError::Io { what: format!("/dev/{name} could not be asked"), why: message.to_owned() });
    }
    if said.pointer("/smart_support/available") == Some(&json!(false)) {
        return Ok(Value::Null);
    }
    let Some(passed) = said.pointer("/smart_status/passed").and_then(Value::as_bool) else {
        return Err(HostError::Garbage { what, why: "it does not say whether the disk is sound".to_owned() });
    };
    let number = |path: &str| said.pointer(path).and_then(Value::as_u64);
    let log = |key: &str| number(&format!("/nvme_smart_health_information_log/{key}"));
    let table = said.pointer("/ata_smart_attributes/table").and_then(Value::as_array);
    // ATA attributes by number: 5 moved sectors, 197 waiting to be read again, 198 lost.
    let attribute = |id: u64| {
        let row = table?.iter().find(|row| row.get("id").and_then(Value::as_u64) == Some(id))?;
        row.pointer("/raw/value").and_then(Value::as_u64)
    };
    Ok(json!({
        "passed": passed, "reallocated": attribute(5), "pending": attribute(197), "lost": attribute(198),
        "media_errors": log("media_errors"), "wear_percent": log("percentage_used"),
        "critical": log("critical_warning"), "prefail": output.status & 0x10 != 0, "self_test_failed": output.status & 0x80 != 0,
        "hours": number("/power_on_time/hours"),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Tree, finding, words};
    use super::*;

    const ID: &str = "RB-DISK-002";

    fn disk(tree: Tree, name: &str, vendor: &str) -> Tree {
        tree.file(&format!("/sys/block/{name}/removable"), "0\n")
            .file(&format!("/sys/block/{name}/device/vendor"), &format!("{vendor}\n"))
    }

    /// As smartctl 7.3 answers for a SATA disk, shortened.
    fn ata(passed: bool, reallocated: u64, pending: u64) -> Value {
        let row = |id: u64, name: &str, value: u64| json!({"id": id, "name": name, "value": 100, "worst": 100, "thresh": 10, "when_failed": "", "raw": {"value": value, "string": value.to_string()}});
        json!({
            "json_format_version": [1, 0], "smartctl": {"version": [7, 3], "exit_status": 0},
            "device": {"name": "/dev/sda", "type": "sat", "protocol": "ATA"}, "model_name": "ST2000DM008",
            "smart_support": {"available": true, "enabled": true}, "smart_status": {"passed": passed},
            "ata_smart_attributes": {"revision": 10, "table": [
                row(5, "Reallocated_Sector_Ct", reallocated), row(197, "Current_Pending_Sector", pending),
                row(198, "Offline_Uncorrectable", 0)]},
            "power_on_time": {"hours": 20000},
        })
    }

    fn nvme(critical: u64, used: u64, errors: u64) -> Value {
        json!({
            "smartctl": {"exit_status": 0}, "device": {"type": "nvme", "protocol": "NVMe"},
            "smart_support": {"available": true, "enabled": true}, "smart_status": {"passed": critical == 0, "nvme": {"value": critical}},
            "nvme_smart_health_information_log": {"critical_warning": critical, "available_spare": 100,
                "available_spare_threshold": 10, "percentage_used": used, "media_errors": errors},
        })
    }

    fn judge(name: &str, status: i32, said: &Value) -> (&'static str, Vec<String>) {
        let line = format!("smartctl --json -a -d auto /dev/{name}");
        disk(Tree::new(), name, "ATA").answer_with(&line, status, &said.to_string(), "").judge(ID, &json!({}))
    }

    #[test]
    fn sound_disks_pass_and_defects_have_their_words() {
        assert_eq!(judge("sda", 0, &ata(true, 0, 0)), ("pass", vec![]));
        assert_eq!(judge("sda", 64, &ata(true, 3, 0)), ("pass", vec![]), "a few moved sectors are normal");
        assert_eq!(judge("sda", 0, &ata(true, 50, 0)), ("warn", vec!["disk_wearing".into()]));
        assert_eq!(judge("sda", 0, &ata(true, 0, 8)), ("warn", vec!["disk_defects".into()]));
        assert_eq!(judge("sda", 128, &ata(true, 0, 0)), ("warn", vec!["disk_defects".into()]), "a self-test failed");
        assert_eq!(judge("sda", 8, &ata(false, 0, 0)), ("fail", vec!["disk_failing".into()]));
        assert_eq!(
            judge("sda", 0x10, &ata(true, 0, 0)),
            ("fail", vec!["disk_failing".into()]),
            "worn below its threshold"
        );
        assert_eq!(judge("sda", 0x20, &ata(true, 0, 0)), ("pass", vec![]), "that was once");
        assert_eq!(judge("nvme0n1", 0, &nvme(0, 12, 0)), ("pass", vec![]));
        assert_eq!(judge("nvme0n1", 0, &nvme(0, 95, 0)), ("warn", vec!["disk_wearing".into()]));
        assert_eq!(judge("nvme0n1", 0, &nvme(0, 1, 2)), ("warn", vec!["disk_defects".into()]));
        assert_eq!(judge("nvme0n1", 8, &nvme(4, 1, 0)), ("fail", vec!["disk_failing".into()]));
    }

    #[test]
    fn a_disk_that_cannot_be_asked_is_unknown_with_the_reason() {
        let tree = disk(Tree::new(), "sda", "ATA");
        let finding = tree.finding(ID, &json!({}));
        assert_eq!(words(&finding), ("unknown", vec!["unasked".into()]));
        assert!(finding.reasons[0].say.contains("smartctl is not there"), "{:?}", finding.reasons);
        assert_eq!(tree.judge(ID, &json!({"ignore": ["sda"]})), ("not_applicable", vec!["only_virtual".into()]));
        let bridge = json!({"smartctl": {"exit_status": 1, "messages": [{"string": "/dev/sda: Unknown USB bridge", "severity": "error"}]}});
        assert_eq!(judge("sda", 1, &bridge), ("unknown", vec!["unasked".into()]));
        assert_eq!(judge("sda", 0, &json!({"smart_support": {"available": false}})), ("pass", vec![]), "it has none");
        for garbage in [json!({}), json!([]), json!({"smart_status": {"passed": "yes"}})] {
            assert_eq!(judge("sda", 0, &garbage), ("unknown", vec!["unasked".into()]), "{garbage}");
        }
    }

    #[test]
    fn virtual_disks_and_what_is_none_do_not_count() {
        let tree = disk(disk(Tree::new(), "vda", "0x1af4"), "sda", "QEMU    ");
        let tree =
            disk(tree, "loop0", "").file("/sys/block/sdb/removable", "1\n").file("/sys/block/nvme0c0n1/hidden", "1\n");
        let tree = tree.file("/sys/block/nvme1n1/device/model", "Amazon Elastic Block Store\n");
        let found = tree.finding(ID, &json!({}));
        assert_eq!(words(&found), ("not_applicable", vec!["only_virtual".into()]));
        assert_eq!(found.observation.facts["disks"].as_array().unwrap().len(), 3);
        assert_eq!(Tree::new().judge(ID, &json!({})).0, "unknown");
        let (verdict, reasons) = words(&finding(&crate::host::Host::live(), ID, &json!({})));
        assert!(!verdict.is_empty(), "{reasons:?}");
    }

    #[test]
    fn a_mirror_without_one_of_its_disks_fails() {
        let mirror = |degraded: &str| {
            Tree::new()
                .file("/sys/block/md0/md/level", "raid1\n")
                .file("/sys/block/md0/md/degraded", degraded)
                .file("/sys/block/md0/md/sync_action", "recover\n")
        };
        assert_eq!(mirror("0\n").judge(ID, &json!({})), ("pass", vec![]));
        assert_eq!(mirror("1\n").judge(ID, &json!({})), ("fail", vec!["array_degraded".into()]));
        assert_eq!(mirror("many\n").judge(ID, &json!({})).0, "unknown");
    }
}
