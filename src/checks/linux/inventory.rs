//! What this computer is: hardware, disks, network interfaces and software, without names, addresses or serial numbers.

use serde_json::{Value, json};

use super::release::Release;
use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;
use crate::host::{Cmd, Host, HostError};

/// Block devices that are not disks of their own.
const NO_DISKS: &[&str] = &["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"];

/// UEFI's own variable: four bytes of attributes, then 1 where only signed boot loaders start (UEFI 2.10, section 3.3).
const SECURE_BOOT: &str = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Facts: `machine`, `cpu`, `memory_mb`, `disks`, `interfaces`, `system`, `kernel`, `boot` (`{uefi, secure, tpm}`, for
/// information; `secure` is null where there is no UEFI or it does not say), `firmware_updates` (how many devices have one
/// that fwupd knows of, for information; null where it is not installed or does not say).
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let host = context.host;
    facts.set("machine", machine(host));
    facts.learn("cpu", cpu(host));
    facts.learn("memory_mb", memory_mb(host));
    facts.learn("disks", disks(host));
    facts.learn("interfaces", interfaces(host));
    let system = Release::read(host);
    facts.learn(
        "system",
        system.map(|release| json!({"id": release.id, "version": release.version, "name": release.name})),
    );
    facts.set("boot", boot(host));
    facts.set("firmware_updates", firmware_updates(host).await);
    facts.learn("kernel", host.read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()));
    facts.into()
}

/// A word from a file of the kernel; null where the hardware does not say.
fn word(host: &Host, path: &str) -> Value {
    let text = host.read(path).unwrap_or_default();
    if text.trim().is_empty() { Value::Null } else { json!(text.trim()) }
}

fn machine(host: &Host) -> Value {
    let word = |name: &str| word(host, &format!("/sys/class/dmi/id/{name}"));
    json!({
        "vendor": word("sys_vendor"), "model": word("product_name"),
        "firmware": word("bios_version"), "firmware_date": word("bios_date"),
    })
}

fn boot(host: &Host) -> Value {
    let secure = host.head(SECURE_BOOT, 5).ok().and_then(|bytes| bytes.get(4).map(|byte| *byte == 1));
    json!({
        "uefi": host.exists("/sys/firmware/efi"), "secure": secure,
        "tpm": word(host, "/sys/class/tpm/tpm0/tpm_version_major"),
    })
}

/// From what fwupd has fetched already: looking must not send anything about this machine anywhere.
async fn firmware_updates(host: &Host) -> Option<usize> {
    if !host.has("fwupdmgr") {
        return None;
    }
    let cmd =
        ["fwupdmgr", "get-updates", "--json", "--no-metadata-check", "--no-unreported-check", "--no-remote-check"];
    let output = host.run(Cmd::new(cmd).timeout(std::time::Duration::from_secs(15))).await.ok()?;
    // fwupdmgr(1): 2 is nothing to do.
    if output.status == 2 {
        return Some(0);
    }
    let said = output.json("fwupdmgr").ok().filter(|_| output.success())?;
    let has_one =
        |device: &&Value| device.get("Releases").and_then(Value::as_array).is_some_and(|releases| !releases.is_empty());
    Some(said.get("Devices")?.as_array()?.iter().filter(has_one).count())
}

fn cpu(host: &Host) -> Result<Value, HostError> {
    let text = host.read("/proc/cpuinfo")?;
    let pairs: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key.trim(), value.trim())).collect();
    let count = pairs.iter().filter(|(key, _)| *key == "processor").count();
    if count == 0 {
        return Err(HostError::Garbage { what: "/proc/cpuinfo".to_owned(), why: "no processor in it".to_owned() });
    }
    let model = pairs.iter().find(|(key, _)| *key == "model name").map(|(_, model)| *model);
    Ok(json!({"count": count, "model": model}))
}

fn memory_mb(host: &Host) -> Result<u64, HostError> {
    let text = host.read("/proc/meminfo")?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: Option<u64> = total.and_then(|total| total.split_whitespace().next()?.parse().ok());
    kib.map(|kib| kib / 1024)
        .ok_or(HostError::Garbage { what: "/proc/meminfo".to_owned(), why: "no MemTotal".to_owned() })
}

fn disks(host: &Host) -> Result<Value, HostError> {
    let mut disks = Vec::new();
    for name in host.list("/sys/block")? {
        if NO_DISKS.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let at = format!("/sys/block/{name}");
        let text = host.read(&format!("{at}/size"))?;
        let sectors: u64 = text
            .trim()
            .parse()
            .map_err(|_| HostError::Garbage { what: format!("{at}/size"), why: "no number".to_owned() })?;
        let flag = |file: &str| host.read(&format!("{at}/{file}")).ok().map(|text| text.trim() == "1");
        // An empty card reader is no disk.
        if sectors > 0 {
            disks.push(json!({
                "name": name, "size_gb": sectors.saturating_mul(512) / 1_000_000_000,
                "model": word(host, &format!("{at}/device/model")),
                "rotational": flag("queue/rotational"), "removable": flag("removable"),
            }));
        }
    }
    Ok(Value::Array(disks))
}

fn interfaces(host: &Host) -> Result<Value, HostError> {
    let mut interfaces = Vec::new();
    for name in host.list("/sys/class/net")?.into_iter().filter(|name| name != "lo") {
        let at = format!("/sys/class/net/{name}");
        interfaces.push(json!({
            "name": name, "state": word(host, &format!("{at}/operstate")),
            "wireless": host.exists(&format!("{at}/wireless")) || host.exists(&format!("{at}/phy80211")),
            "virtual": !host.exists(&format!("{at}/device")),
        }));
    }
    Ok(Value::Array(interfaces))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Tree;
    use super::*;

    const ID: &str = "RB-LNX-INVENTORY-001";

    fn machine() -> Tree {
        Tree::new()
            .file("/sys/class/dmi/id/sys_vendor", "Dell Inc.\n")
            .file("/sys/class/dmi/id/product_serial", "SECRET1\n")
            .file(
                "/proc/cpuinfo",
                "processor\t: 0\nmodel name\t: Intel(R) N100\n\nprocessor\t: 1\nmodel name\t: Intel(R) N100\n",
            )
            .file("/proc/meminfo", "MemTotal:       16384000 kB\nMemFree: 1 kB\n")
            .file("/sys/block/sda/size", "1953525168\n")
            .file("/sys/block/sda/queue/rotational", "0\n")
            .file("/sys/block/loop0/size", "8\n")
            .file("/sys/class/net/eth0/operstate", "up\n")
            .file("/sys/class/net/eth0/address", "aa:bb:cc:dd:ee:ff\n")
            .file("/etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n")
            .file("/proc/sys/kernel/osrelease", "6.1.0\n")
            .bytes(SECURE_BOOT, &[6, 0, 0, 0, 1])
            .file("/sys/class/tpm/tpm0/tpm_version_major", "2\n")
    }

    #[test]
    fn a_computer_is_described_without_naming_it() {
        let found = machine().finding(ID, &json!({}));
        assert_eq!(found.verdict.word(), "pass", "{:?}", found.reasons);
        let facts = &found.observation.facts;
        assert_eq!(facts["cpu"], json!({"count": 2, "model": "Intel(R) N100"}));
        assert_eq!((&facts["memory_mb"], &facts["disks"][0]["size_gb"]), (&json!(16000), &json!(1000)));
        assert_eq!(facts["disks"].as_array().unwrap().len(), 1);
        assert_eq!(facts["boot"], json!({"uefi": true, "secure": true, "tpm": "2"}));
        let shown = facts.to_string();
        assert!(!shown.contains("SECRET1") && !shown.contains("aa:bb"), "{shown}");
    }

    #[test]
    fn firmware_updates_are_counted_and_judge_nothing() {
        const ASK: &str = "fwupdmgr get-updates --json --no-metadata-check --no-unreported-check --no-remote-check";
        let found = |status: i32, said: &str| {
            let finding = machine().answer_with(ASK, status, said, "").finding(ID, &json!({}));
            (finding.verdict.word(), finding.observation.facts["firmware_updates"].clone())
        };
        let two = r#"{"Devices": [{"Name": "UEFI", "Releases": [{"Version": "2"}]}, {"Name": "x", "Releases": []}]}"#;
        assert_eq!(found(0, two), ("pass", json!(1)));
        assert_eq!(found(2, r#"{"Error": {"Message": "No updatable devices"}}"#), ("pass", json!(0)));
        assert_eq!(found(1, "failed to connect"), ("pass", Value::Null));
        assert_eq!(machine().observe(ID, &json!({})).facts["firmware_updates"], Value::Null);
    }

    #[test]
    fn what_is_missing_is_unknown_and_nothing_is_incomplete() {
        assert_eq!(Tree::new().judge(ID, &json!({})).0, "unknown");
        let bare = machine().file("/sys/block/sda/size", "0\n").judge(ID, &json!({}));
        assert_eq!(bare, ("warn", vec!["no_disks".into()]));
        assert_eq!(machine().file("/proc/cpuinfo", "?").judge(ID, &json!({})).0, "unknown");
        assert_eq!(machine().file("/sys/block/sda/size", "?").judge(ID, &json!({})).0, "unknown");
    }
}
