//! LUKS headers: how the disks in use are encrypted, and whether a saved copy of each header opens with the saved key.
//!
//! Without its header an encrypted disk is lost even to those who know the passphrase.

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::history::{History, Sample};
use crate::checks::run::{Context, Facts, HISTORY};
use crate::host::{Cmd, FileKind, Host, HostError, Stat};

const BLOCK: &str = "/sys/class/block";
/// Encrypted disks looked at.
const MOST: usize = 16;
/// What a saved header may be called after its UUID.
const ENDINGS: &[&str] = &["", ".img", ".header", ".luks"];
/// A copy that opened is not tried again for this long: a good key takes a second and a gigabyte on purpose.
const STANDS: SignedDuration = SignedDuration::from_hours(24);

/// An unlocked LUKS disk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Disk {
    version: u8,
    uuid: String,
    /// Below `/dev`.
    device: String,
}

/// How a header encrypts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    cipher: String,
    key_bits: u64,
    /// The weakest way a passphrase becomes a key; null where no slot takes a passphrase.
    kdf: Option<String>,
    slots: usize,
    tokens: Vec<String>,
}

/// Facts: `headers` (`[{device, uuid, version, cipher, key_bits, kdf, slots, tokens}]`), `unread_headers`: zero, or why one
/// could not be read; `escrow`: null where no place for copies is set, else `[{device, uuid, present, age_d, opens}]` with
/// `opens` null where no key is set; `escrow_dir`: null where none is set, else `{there, private}`, whether only root can look
/// into it; `untried`: zero, or why a copy could not be tried; `history`: which copies opened.
pub(super) async fn collect(context: Context<'_>, facts: &mut Facts) {
    let host = context.host;
    let disks = match unlocked(host) {
        Ok(disks) => disks,
        Err(error) => return facts.fail_all(&["headers", "unread_headers", "escrow", "untried"], &error),
    };
    let (mut headers, mut trouble) = (Vec::new(), None);
    for disk in &disks {
        match header(host, disk.version, &format!("/dev/{}", disk.device)).await {
            Ok(header) => headers.push(json!({
                "device": disk.device, "uuid": disk.uuid, "version": disk.version, "cipher": header.cipher,
                "key_bits": header.key_bits, "kdf": header.kdf, "slots": header.slots, "tokens": header.tokens,
            })),
            Err(error) => trouble = trouble.or(Some(error)),
        }
    }
    facts.set("headers", headers);
    match trouble {
        None => facts.set("unread_headers", 0),
        Some(error) => facts.fail("unread_headers", &error),
    }
    escrow(context, &disks, facts).await;
}

/// Every LUKS mapping of this machine with the disk below it.
fn unlocked(host: &Host) -> Result<Vec<Disk>, HostError> {
    let mut disks = Vec::new();
    for name in host.list(BLOCK)?.iter().filter(|name| name.starts_with("dm-")) {
        let uuid = match host.read(&format!("{BLOCK}/{name}/dm/uuid")) {
            Ok(uuid) => uuid,
            Err(HostError::Missing(_)) => continue,
            Err(error) => return Err(error),
        };
        if let Some((version, uuid)) = luks(uuid.trim()) {
            disks.push(Disk { version, uuid, device: below(host, name)? });
        }
    }
    disks.truncate(MOST);
    Ok(disks)
}

/// `CRYPT-LUKS2-<uuid without dashes>-<name>`, as cryptsetup names its mappings.
fn luks(uuid: &str) -> Option<(u8, String)> {
    let mut parts = uuid.strip_prefix("CRYPT-LUKS")?.split('-');
    let version = parts.next()?.parse().ok().filter(|version| matches!(version, 1 | 2))?;
    let plain = parts.next()?;
    let part = |from: usize, to: usize| plain.get(from..to);
    let dashed = [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)];
    let whole = plain.len() == 32 && plain.bytes().all(|byte| byte.is_ascii_hexdigit());
    let dashed = dashed.into_iter().collect::<Option<Vec<&str>>>().filter(|_| whole).map(|parts| parts.join("-"));
    Some((version, dashed.unwrap_or_else(|| plain.to_owned())))
}

/// The disk below a mapping; one for integrity may lie between.
fn below(host: &Host, name: &str) -> Result<String, HostError> {
    let mut at = name.to_owned();
    for _ in 0..4 {
        let slaves = host.list(&format!("{BLOCK}/{at}/slaves"))?;
        let first = slaves.into_iter().next().ok_or_else(|| HostError::Missing(format!("the disk below {name}")))?;
        let uuid = host.read(&format!("{BLOCK}/{first}/dm/uuid")).unwrap_or_default();
        if !uuid.starts_with("CRYPT-") || uuid.starts_with("CRYPT-LUKS") {
            // The kernel writes `!` for the `/` in a name such as cciss/c0d0.
            return Ok(first.replace('!', "/"));
        }
        at = first;
    }
    Err(HostError::Garbage { what: name.to_owned(), why: "block devices stacked without end".to_owned() })
}

async fn header(host: &Host, version: u8, device: &str) -> Result<Header, HostError> {
    let garbage = |why: &str| HostError::Garbage { what: format!("the header of {device}"), why: why.to_owned() };
    if version == 1 {
        let output = host.run_ok(Cmd::new(["cryptsetup", "luksDump", device])).await?;
        return version_1(&output.stdout).ok_or_else(|| garbage("no LUKS1 header"));
    }
    let cmd = Cmd::new(["cryptsetup", "luksDump", "--dump-json-metadata", device]);
    let what = cmd.line();
    let said = host.run_ok(cmd).await?.json(&what)?;
    version_2(&said).ok_or_else(|| garbage("no LUKS2 header"))
}

/// The JSON of the LUKS2 on-disk format, section 3.
fn version_2(said: &Value) -> Option<Header> {
    let table = |name: &str| said.get(name).and_then(Value::as_object);
    let text = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let mut ciphers = Vec::new();
    for segment in table("segments")?.values().filter(|segment| text(segment, "/type").as_deref() == Some("crypt")) {
        ciphers.push(text(segment, "/encryption")?);
    }
    // The odd one out is the one to judge.
    ciphers.sort_by_key(|cipher| cipher == "aes-xts-plain64");
    let slots: Vec<(&String, &Value)> =
        table("keyslots")?.iter().filter(|(_, slot)| text(slot, "/type").as_deref() == Some("luks2")).collect();
    let tokens = table("tokens")?;
    let of_token = |number: &str| {
        let slots = tokens.values().filter_map(|token| token.get("keyslots")?.as_array()).flatten();
        slots.into_iter().any(|slot| slot.as_str() == Some(number))
    };
    let bits = |slot: &Value| slot.get("key_size").and_then(Value::as_u64).map(|bytes| bytes.saturating_mul(8));
    let sizes: Vec<u64> = slots.iter().map(|(_, slot)| bits(slot)).collect::<Option<_>>()?;
    // What a token holds is random, and needs no slow way to become a key.
    let people = slots.iter().filter(|(number, _)| !of_token(number));
    let mut kdfs: Vec<String> = people.map(|(_, slot)| text(slot, "/kdf/type")).collect::<Option<_>>()?;
    kdfs.sort_by_key(|kdf| kdf == "argon2id");
    Some(Header {
        cipher: ciphers.into_iter().next()?,
        key_bits: sizes.into_iter().min()?,
        kdf: kdfs.into_iter().next(),
        slots: slots.len(),
        tokens: tokens.values().take(32).map(|token| text(token, "/type")).collect::<Option<_>>()?,
    })
}

/// The text cryptsetup(8) prints for LUKS1, which has no other form.
fn version_1(said: &str) -> Option<Header> {
    let field = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    Some(Header {
        cipher: format!("{}-{}", field("Cipher name:")?, field("Cipher mode:")?),
        key_bits: field("MK bits:")?.parse().ok()?,
        kdf: Some("pbkdf2".to_owned()),
        slots: said.lines().filter(|line| line.starts_with("Key Slot ") && line.ends_with(": ENABLED")).count(),
        tokens: Vec::new(),
    })
}

async fn escrow(context: Context<'_>, disks: &[Disk], facts: &mut Facts) {
    let Some(dir) = context.text("header_backup_dir") else {
        facts.set("escrow", Value::Null);
        facts.set("escrow_dir", Value::Null);
        return facts.set("untried", 0);
    };
    facts.learn("escrow_dir", place(context.host, dir));
    let (mut list, mut trouble, mut history) = (Vec::new(), None, Vec::new());
    for disk in disks {
        let copy = match saved(context.host, dir, &disk.uuid) {
            Ok(copy) => copy,
            Err(error) => return facts.fail_all(&["escrow", "untried"], &error),
        };
        let opens = match (&copy, context.text("escrow_key_file")) {
            (Some((path, stat)), Some(key)) => tried(context, disk, (path, stat), key).await,
            _ => Ok(None),
        };
        let age_d = copy
            .as_ref()
            .and_then(|(_, stat)| stat.modified)
            .map(|then| context.seconds_since(then).div_euclid(86_400));
        match opens {
            Ok(try_) => {
                let opens = try_.as_ref().and_then(|sample| sample.value.get("opens").cloned());
                list.push(json!({
                    "device": disk.device, "uuid": disk.uuid, "present": copy.is_some(), "age_d": age_d, "opens": opens,
                }));
                history.extend(try_);
            }
            Err(error) => trouble = trouble.or(Some(error)),
        }
    }
    facts.set("escrow", list);
    facts.set(HISTORY, History(history).fact());
    match trouble {
        None => facts.set("untried", 0),
        Some(error) => facts.fail("untried", &error),
    }
}

/// Whoever has a header can try passphrases on it at leisure.
fn place(host: &Host, dir: &str) -> Result<Value, HostError> {
    match host.stat(dir) {
        Ok(stat) => {
            let open = stat.kind != FileKind::Dir || stat.uid != 0 || stat.mode & 0o077 != 0;
            Ok(json!({"there": true, "private": !open}))
        }
        Err(HostError::Missing(_)) => Ok(json!({"there": false, "private": false})),
        Err(error) => Err(error),
    }
}

fn saved(host: &Host, dir: &str, uuid: &str) -> Result<Option<(String, Stat)>, HostError> {
    for ending in ENDINGS {
        let path = format!("{dir}/{uuid}{ending}");
        match host.stat(&path) {
            Ok(stat) if stat.kind == FileKind::File => return Ok(Some((path, stat))),
            Ok(_) | Err(HostError::Missing(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The outcome of the last try of this very copy, or of one now.
async fn tried(
    context: Context<'_>,
    disk: &Disk,
    (path, stat): (&str, &Stat),
    key: &str,
) -> Result<Option<Sample>, HostError> {
    let written = stat.modified.map(|then| then.to_string());
    let same = |sample: &Sample| {
        let text = |name: &str| sample.value.get(name).and_then(Value::as_str);
        text("uuid") == Some(&disk.uuid)
            && text("written") == written.as_deref()
            && sample.value.get("opens") == Some(&json!(true))
            && context.now.duration_since(sample.at) < STANDS
    };
    if let Some(known) = History::of(context).0.into_iter().rev().find(same) {
        return Ok(Some(known));
    }
    let opens = opens(context.host, &format!("/dev/{}", disk.device), path, key).await?;
    let value = json!({"uuid": disk.uuid, "written": written, "opens": opens});
    Ok(Some(Sample { at: context.now, value }))
}

/// Whether a key opens a saved header; neither the disk nor the copy is written to or unlocked.
async fn opens(host: &Host, device: &str, copy: &str, key: &str) -> Result<bool, HostError> {
    let (copy, key) = (host.path(copy).display().to_string(), host.path(key).display().to_string());
    let argv = ["cryptsetup", "open", "--test-passphrase", "--readonly", "--header", &copy, "--key-file", &key, device];
    let output = host.run(Cmd::new(argv).timeout(std::time::Duration::from_mins(1))).await?;
    match output.status {
        0 => Ok(true),
        // cryptsetup(8): 2 is no permission (bad passphrase).
        2 => Ok(false),
        status => {
            let what = format!("the saved header of {device} could not be tried");
            Err(HostError::Io { what, why: format!("exit {status}: {}", output.first_line()) })
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::encryption::tests::{ID, device, disk, mounts};
    use super::super::fixture::{Tree, on_runtime};
    use super::super::planned;
    use super::*;

    const UUID: &str = "ed25b17f-ce93-4600-b158-5f58736cf3f7";
    const DUMP: &str = "cryptsetup luksDump --dump-json-metadata /dev/sda2";

    /// As cryptsetup 2.6 dumps a header of its defaults, without salts and digests.
    pub(in super::super) fn dump(cipher: &str, key_bytes: u64, kdf: &str) -> Value {
        json!({
            "keyslots": {"0": {"type": "luks2", "key_size": key_bytes, "area": {"type": "raw", "encryption": cipher},
                "kdf": {"type": kdf, "time": 4, "memory": 1_048_576, "cpus": 4}}},
            "tokens": {},
            "segments": {"0": {"type": "crypt", "offset": "16777216", "size": "dynamic", "encryption": cipher, "sector_size": 512}},
            "digests": {}, "config": {"json_size": "12288"},
        })
    }

    fn machine(version: u8) -> Tree {
        let tree = disk(mounts(&[("253:0", "/", "ext4", "/dev/dm-0")]));
        let uuid = format!("CRYPT-LUKS{version}-{}-root", UUID.replace('-', ""));
        device(tree, "253:0", "dm-0", Some(&uuid), &["sda2"])
    }

    fn good() -> Value {
        dump("aes-xts-plain64", 64, "argon2id")
    }

    fn judge(said: &Value, more: &Value) -> (&'static str, Vec<String>) {
        let tree = machine(2).answer(DUMP, &said.to_string()).file(&format!("/escrow/{UUID}.img"), "header");
        let mut settings = json!({"header_backup_dir": "/escrow"});
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        tree.judge(ID, &settings)
    }

    #[test]
    fn weak_headers_have_their_words() {
        let none = json!({});
        assert_eq!(judge(&good(), &none), ("pass", vec![]));
        assert_eq!(judge(&dump("aes-cbc-essiv:sha256", 64, "argon2id"), &none), ("fail", vec!["weak_cipher".into()]));
        assert_eq!(judge(&dump("aes-xts-plain64", 32, "argon2id"), &none), ("warn", vec!["short_key".into()]));
        assert_eq!(
            judge(&dump("aes-xts-plain64", 64, "pbkdf2"), &none),
            ("warn", vec!["weak_passphrase_guard".into()])
        );
        assert_eq!(judge(&good(), &json!({"expected_slots": 2})), ("warn", vec!["slots_differ".into()]));
        assert_eq!(judge(&good(), &json!({"expected_slots": 1})), ("pass", vec![]));
        let mut token = dump("aes-xts-plain64", 64, "pbkdf2");
        token["tokens"] = json!({"0": {"type": "systemd-tpm2", "keyslots": ["0"]}});
        assert_eq!(judge(&token, &none), ("pass", vec![]), "a token's key is random");
    }

    #[test]
    fn what_cannot_be_read_is_unknown_and_only_that() {
        let escrow = json!({"header_backup_dir": "/escrow"});
        let tree = machine(2).file(&format!("/escrow/{UUID}"), "header");
        let finding = tree.finding(ID, &escrow);
        assert_eq!(super::super::fixture::words(&finding), ("unknown", vec!["unread_header".into()]));
        assert!(finding.reasons[0].say.contains("cryptsetup is not there"), "{:?}", finding.reasons);
        for garbage in
            [json!([]), json!({}), json!({"keyslots": {}, "tokens": {}, "segments": {}}), json!({"keyslots": 3})]
        {
            assert_eq!(judge(&garbage, &json!({})), ("unknown", vec!["unread_header".into()]), "{garbage}");
        }
    }

    #[test]
    fn copies_are_missed_and_tried() {
        let dumped = || machine(2).answer(DUMP, &good().to_string());
        let finding = dumped().finding(ID, &json!({}));
        assert_eq!(super::super::fixture::words(&finding), ("warn", vec!["escrow_not_configured".into()]));
        let settings = json!({"header_backup_dir": "/escrow", "escrow_key_file": "/escrow/key"});
        assert_eq!(dumped().dir("/escrow").judge(ID, &settings), ("fail", vec!["escrow_missing".into()]));
        let with = |status: i32| {
            let tree =
                dumped().file(&format!("/escrow/{UUID}.header"), "header").aged(&format!("/escrow/{UUID}.header"), 49);
            let at = |name: &str| tree.at(name).display().to_string();
            let line = format!(
                "cryptsetup open --test-passphrase --readonly --header {} --key-file {} /dev/sda2",
                at(&format!("/escrow/{UUID}.header")),
                at("/escrow/key")
            );
            tree.answer_with(&line, status, "", "No key available with this passphrase.")
        };
        let opened = with(0).finding(ID, &settings);
        assert_eq!(
            (opened.verdict.word(), &opened.observation.facts["escrow"]),
            ("pass", &json!([{"device": "sda2", "uuid": UUID, "present": true, "age_d": 2, "opens": true}]))
        );
        assert_eq!(with(2).judge(ID, &settings), ("fail", vec!["escrow_does_not_open".into()]));
        assert_eq!(with(4).judge(ID, &settings), ("unknown", vec!["escrow_untried".into()]));
        // What opened today is not tried again; tomorrow, or after it failed, it is.
        let facts = opened.observation.facts;
        assert_eq!(with(2).before(1, facts.clone()).judge(ID, &settings), ("pass", vec![]));
        let mut old = facts;
        old["history"][0]["at"] = json!("2026-03-01T11:00:00Z");
        assert_eq!(with(2).before(25, old).judge(ID, &settings), ("fail", vec!["escrow_does_not_open".into()]));
    }

    #[test]
    fn a_missing_copy_is_made_where_only_root_looks_and_never_over_another() {
        let settings = json!({"header_backup_dir": "/escrow"});
        let bare = || machine(2).answer(DUMP, &good().to_string()).answer("cryptsetup --version", "");
        let new = format!("/escrow/{UUID}.header.new");
        let made = [
            format!("rm -f {new}"),
            format!("cryptsetup luksHeaderBackup /dev/sda2 --header-backup-file {new}"),
            format!("mv -n {new} /escrow/{UUID}.header"),
        ];
        let with_dir = [&["mkdir -p -m 0700 /escrow".to_owned()], &made[..]].concat();
        assert_eq!(planned::lines(bare().plan(ID, &settings)), with_dir);
        let open = bare().dir("/escrow").mode("/escrow", 0o755).plan(ID, &settings).unwrap_err();
        assert!(open[0].contains("others can look"), "{open:?}");
        if rustix::process::geteuid().is_root() {
            let private = bare().dir("/escrow").mode("/escrow", 0o700);
            assert_eq!(planned::lines(private.plan(ID, &settings)), made);
        }
        let kept = bare().file(&format!("/escrow/{UUID}"), "header").plan(ID, &settings);
        assert!(kept.is_err(), "there is one: {kept:?}");
    }

    #[test]
    fn names_of_mappings_are_read() {
        let plain = UUID.replace('-', "");
        assert_eq!(luks(&format!("CRYPT-LUKS2-{plain}-luks-{UUID}")), Some((2, UUID.to_owned())));
        assert_eq!(luks("CRYPT-LUKS1-abc-x"), Some((1, "abc".to_owned())));
        for other in ["LVM-x", "CRYPT-PLAIN-swap", "CRYPT-LUKS9-abc-x", "CRYPT-LUKS", "CRYPT-LUKS2", ""] {
            assert_eq!(luks(other), None, "{other}");
        }
        let tree = Tree::new()
            .file("/sys/class/block/dm-1/dm/uuid", "CRYPT-LUKS2-abc-x")
            .file("/sys/class/block/dm-1/slaves/dm-0", "")
            .file("/sys/class/block/dm-0/dm/uuid", "CRYPT-SUBDEV-abc-x_dif")
            .file("/sys/class/block/dm-0/slaves/cciss!c0d0", "");
        let found = unlocked(&tree.host()).unwrap();
        assert_eq!(found, [Disk { version: 2, uuid: "abc".to_owned(), device: "cciss/c0d0".to_owned() }]);
    }

    /// Real headers on files: device-mapper is not needed to read and to try them.
    #[test]
    fn real_headers_are_read_and_their_copies_tried() {
        let live = Host::live();
        if !live.has("cryptsetup") {
            return eprintln!("skipped: cryptsetup is not installed");
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        for (name, key) in [("key", "correct horse"), ("other", "wrong")] {
            std::fs::write(at(name), key).unwrap();
        }
        let run = |argv: &[&str]| {
            let output = on_runtime(live.run(Cmd::new(argv.iter().copied()))).unwrap();
            assert!(output.success(), "{argv:?}: {}", output.stderr);
        };
        let make = |name: &str, options: &[&str]| {
            std::fs::File::create(at(name)).unwrap().set_len(32 << 20).unwrap();
            run(&[&["cryptsetup", "luksFormat", "-q"], options, &[&at(name), &at("key")]].concat());
        };
        let cheap = ["--pbkdf-memory", "65536", "--pbkdf-force-iterations", "4"];
        make("new", &[&["--type", "luks2"], &cheap[..]].concat());
        make(
            "weak",
            &["--type", "luks2", "-c", "aes-cbc-essiv:sha256", "-s", "256", "--pbkdf", "pbkdf2", "--iter-time", "100"],
        );
        make("old", &["--type", "luks1", "--iter-time", "100"]);
        let read = |version: u8, name: &str| on_runtime(header(&live, version, &at(name)));
        let expected = |cipher: &str, key_bits, kdf: &str| {
            Ok(Header { cipher: cipher.into(), key_bits, kdf: Some(kdf.into()), slots: 1, tokens: vec![] })
        };
        assert_eq!(read(2, "new"), expected("aes-xts-plain64", 512, "argon2id"));
        assert_eq!(read(2, "weak"), expected("aes-cbc-essiv:sha256", 256, "pbkdf2"));
        assert_eq!(read(1, "old"), expected("aes-xts-plain64", 512, "pbkdf2"));
        assert!(read(2, "key").is_err() && read(2, "old").is_err() && read(1, "gone").is_err());
        for name in ["new", "old"] {
            let copy = at(&format!("{name}.header"));
            run(&["cryptsetup", "luksHeaderBackup", &at(name), "--header-backup-file", &copy]);
            let before = live.digest(&copy).unwrap();
            let tried = |key: &str, copy: &str| on_runtime(opens(&live, &at(name), copy, &at(key)));
            assert_eq!((tried("key", &copy), tried("other", &copy)), (Ok(true), Ok(false)), "{name}");
            assert!(tried("key", &at("other")).is_err() && tried("gone", &copy).is_err(), "{name}");
            assert_eq!(live.digest(&copy).unwrap(), before, "the copy stays as it is");
        }
    }
}
