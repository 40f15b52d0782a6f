//! Malware protection: clamd with a functional proof over its socket (a known test virus found, clean bytes not), other
//! scanners by their units, endpoint products by what they say of themselves.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::edr;
use super::systemd::{self, Unit};
use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;
use crate::host::{Host, HostError};

/// Where Debian's clamd listens; used where it is installed and no other socket is set.
const DEFAULT_SOCKET: &str = "/run/clamav/clamd.ctl";
const UPDATER: &str = "clamav-freshclam.service";
/// What freshclam writes: its own notes, and the signatures that change daily.
const UPDATED: &[&str] = &["/var/lib/clamav/freshclam.dat", "/var/lib/clamav/daily.cld", "/var/lib/clamav/daily.cvd"];
/// Where distributions keep clamd's configuration.
const CONFIGS: &[&str] = &["/etc/clamav/clamd.conf", "/etc/clamd.d/scan.conf", "/etc/clamd.conf"];
/// Expressions that leave out every path.
const ALL_PATHS: &[&str] = &["/", "^/", "^/.*", "/.*", "^", ".*", "^.*", "^/*"];
const ANSWER_CAP: u64 = 4096;
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Facts: `installed`, `units` (where an endpoint product scans, only those that are installed), `masked` (their names),
/// `scanner`, `edr` (`[{product, scans, healthy, say, definitions_age_h}]`), `updater`, `updated_age_h` (since freshclam last
/// wrote something; null where it never did), `excludes_all` (lines of clamd's configuration that leave out everything),
/// `tools`.
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let host = context.host;
    let socket = context.text("socket").or_else(|| host.has("clamd").then_some(DEFAULT_SOCKET));
    let edr = edr::products(context).await;
    let other = edr.as_ref().map_or(true, |products| products.iter().any(|product| product.scans));
    let units = systemd::show_all(host, &context.list("units")).await;
    let units = units.map(|units| units.into_iter().filter(|unit| !other || unit.installed()).collect::<Vec<Unit>>());
    let scanner = match socket {
        Some(socket) => scanner(context, socket).await.map(Some),
        None => Ok(None),
    };
    match (&scanner, &units) {
        _ if other => facts.set("installed", true),
        (Ok(Some(_)) | Err(_), _) => facts.set("installed", true),
        (Ok(None), Ok(units)) => facts.set("installed", units.iter().any(Unit::installed)),
        (Ok(None), Err(error)) => facts.fail("installed", error),
    }
    facts.learn("edr", edr.map(|products| products.iter().map(edr::Product::fact).collect::<Value>()));
    facts.learn("masked", masked(host, matches!(scanner, Ok(Some(_))), &units));
    facts.learn("scanner", scanner);
    facts.learn("units", units.map(|units| systemd::facts(&units)));
    let updated = UPDATED.iter().filter_map(|path| host.stat(path).ok()?.modified).max();
    facts.set("updated_age_h", updated.map(|updated| context.seconds_since(updated) / 3600));
    facts.learn("excludes_all", excludes_all(host));
    facts.learn("updater", systemd::show(host, UPDATER).await.map(|unit| unit.fact()));
    facts.set("tools", json!({"freshclam": host.has("freshclam")}));
    facts.into()
}

/// Units that cannot be started; where a scanner answers without a service manager, nothing can be locked.
fn masked(host: &Host, scanner: bool, units: &Result<Vec<Unit>, HostError>) -> Result<Value, HostError> {
    match units {
        Ok(units) => Ok(units.iter().filter(|unit| unit.is_masked()).map(|unit| json!(unit.name)).collect()),
        Err(_) if scanner && systemd::booted(host).is_err() => Ok(json!([])),
        Err(error) => Err(error.clone()),
    }
}

/// Lines of clamd's configuration that leave out everything (`clamd.conf(5)`): the scanner is alive and sees nothing.
fn excludes_all(host: &Host) -> Result<Value, HostError> {
    for path in CONFIGS {
        match host.read(path) {
            Ok(text) => return Ok(text.lines().map(str::trim).filter(|line| leaves_out_all(line)).collect()),
            Err(HostError::Missing(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(json!([]))
}

fn leaves_out_all(line: &str) -> bool {
    let Some((option, value)) = line.split_once(char::is_whitespace) else { return false };
    let value = value.trim().trim_matches('"');
    match option {
        "ExcludePath" => ALL_PATHS.contains(&value),
        // A directory with all below it.
        "OnAccessExcludePath" => value == "/",
        _ => false,
    }
}

async fn scanner(context: Context<'_>, socket: &str) -> Result<Value, HostError> {
    let clamd = Clamd { path: context.host.path(socket), name: socket };
    let mut fact = json!({
        "socket": socket, "answers": false, "engine": null, "signatures": null, "signatures_age_h": null,
        "test_virus_found": null, "clean_passed": null,
    });
    match clamd.ask(b"zPING\0").await {
        Ok(pong) if pong == "PONG" => {}
        // Nobody listens, or it listens and says nothing: that is known, and it is not an answer.
        Ok(_) | Err(HostError::Missing(_) | HostError::Io { .. } | HostError::Timeout { .. }) => return Ok(fact),
        Err(error @ (HostError::Denied(_) | HostError::Garbage { .. })) => return Err(error),
    }
    let version = clamd.ask(b"zVERSION\0").await?;
    let (engine, signatures, made) = read_version(&version);
    let age = made.map(|made| context.seconds_since(made).max(0) / 3600);
    let (infected, clean) = (clamd.scan(&test_virus()).await?, clamd.scan(b"nothing to see here\n").await?);
    if let Some(fact) = fact.as_object_mut() {
        fact.extend([
            ("answers".to_owned(), json!(true)),
            ("engine".to_owned(), json!(engine)),
            ("signatures".to_owned(), json!(signatures)),
            ("signatures_age_h".to_owned(), json!(age)),
            ("test_virus_found".to_owned(), json!(infected.ends_with(" FOUND"))),
            ("clean_passed".to_owned(), json!(clean.ends_with(": OK"))),
        ]);
    }
    Ok(fact)
}

/// The EICAR test file, put together here so that no scanner takes this program for it.
fn test_virus() -> Vec<u8> {
    let parts = ["X5O!P%@AP[4\\PZX54(P^)7CC)7}$", "EICAR-STANDARD", "-ANTIVIRUS-", "TEST-FILE", "!$H+H*"];
    parts.concat().into_bytes()
}

/// `ClamAV 1.0.3/27000/Mon Aug 14 07:30:00 2023`: engine, number and date of the signatures.
fn read_version(text: &str) -> (&str, Option<u64>, Option<Timestamp>) {
    let mut parts = text.splitn(3, '/');
    let engine = parts.next().unwrap_or_default();
    let number = parts.next().and_then(|number| number.parse().ok());
    let made = parts.next().and_then(|date| DateTime::strptime("%a %b %e %H:%M:%S %Y", date.trim()).ok());
    (engine, number, made.and_then(|made| made.to_zoned(TimeZone::UTC).ok()).map(|made| made.timestamp()))
}

/// One conversation per connection, as clamd wants it.
struct Clamd<'a> {
    path: std::path::PathBuf,
    name: &'a str,
}

impl Clamd<'_> {
    async fn ask(&self, request: &[u8]) -> Result<String, HostError> {
        let talk = async {
            let mut stream = UnixStream::connect(&self.path).await?;
            stream.write_all(request).await?;
            let mut answer = Vec::new();
            stream.take(ANSWER_CAP).read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = tokio::time::timeout(PATIENCE, talk)
            .await
            .map_err(|_| HostError::Timeout { what: self.name.to_owned(), seconds: PATIENCE.as_secs() })?
            .map_err(|error| HostError::from_io(self.name, &error))?;
        let text = String::from_utf8_lossy(&answer);
        Ok(text.trim_end_matches(['\0', '\n']).to_owned())
    }

    /// `INSTREAM`: length, bytes, and a length of zero at the end.
    async fn scan(&self, bytes: &[u8]) -> Result<String, HostError> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
        let request = [b"zINSTREAM\0".as_slice(), &length, bytes, &[0; 4]].concat();
        self.ask(&request).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Tree, finding, now, on_runtime, words};
    use super::super::planned::lines;
    use super::*;
    use crate::host::Cmd;

    const ID: &str = "RB-LNX-AV-001";

    /// A clamd that answers `version` and finds the test virus only if it `finds`.
    fn clamd(tree: &Tree, version: &'static str, finds: bool) -> std::thread::JoinHandle<()> {
        use std::io::{Read, Write};
        let listener = std::os::unix::net::UnixListener::bind(tree.at("/run/clamav/clamd.ctl")).unwrap();
        std::thread::spawn(move || {
            for _ in 0..4 {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1024];
                let read = stream.read(&mut request).unwrap();
                let request = String::from_utf8_lossy(&request[..read]).into_owned();
                let answer = match request.split('\0').next().unwrap() {
                    "zPING" => "PONG\0",
                    "zVERSION" => version,
                    _ if request.contains("EICAR") && finds => "stream: Eicar-Signature FOUND\0",
                    _ => "stream: OK\0",
                };
                stream.write_all(answer.as_bytes()).unwrap();
            }
        })
    }

    fn with_clamd(version: &'static str, finds: bool) -> (&'static str, Vec<String>) {
        let tree = Tree::new();
        let server = clamd(&tree, version, finds);
        let found = tree.judge(ID, &json!({"socket": "/run/clamav/clamd.ctl"}));
        server.join().unwrap();
        found
    }

    #[test]
    fn a_scanner_proves_itself_without_a_service_manager() {
        assert_eq!(with_clamd("ClamAV 1.4.1/27000/Mon Mar  2 07:30:00 2026\0", true), ("pass", vec![]));
    }

    #[test]
    fn a_scanner_that_finds_nothing_or_is_old_fails() {
        assert_eq!(
            with_clamd("ClamAV 1.4.1/27000/Mon Mar  2 07:30:00 2026\0", false),
            ("fail", vec!["test_virus_missed".into()])
        );
        assert_eq!(
            with_clamd("ClamAV 1.4.1/27000/Mon Feb  2 07:30:00 2026\0", true),
            ("fail", vec!["signatures_stale".into()])
        );
        assert_eq!(with_clamd("ClamAV 1.4.1\0", true), ("fail", vec!["signatures_missing".into()]));
        assert_eq!(
            with_clamd("ClamAV 1.4.1/27000/Thu Feb 26 07:30:00 2026\0", true),
            ("warn", vec!["signatures_ageing".into()])
        );
    }

    fn unit(load: &str, active: &str, enabled: &str) -> Tree {
        Tree::new().systemd().unit("clamav-daemon.service", load, active, "x", enabled).unit(
            UPDATER,
            "not-found",
            "inactive",
            "dead",
            "",
        )
    }

    #[test]
    fn only_a_unit_is_judged_as_a_unit() {
        assert_eq!(unit("loaded", "active", "enabled").judge(ID, &json!({})), ("pass", vec![]));
        let down = unit("loaded", "failed", "enabled").judge(ID, &json!({}));
        assert_eq!(down, ("fail", vec!["scanner_down".into()]));
        let masked = unit("masked", "inactive", "masked").judge(ID, &json!({}));
        assert_eq!(masked, ("fail", vec!["scanner_down".into(), "scanner_masked".into()]));
    }

    #[test]
    fn a_scanner_that_answers_and_could_not_be_started_again_fails() {
        let tree = unit("masked", "active", "masked");
        let server = clamd(&tree, "ClamAV 1.4.1/27000/Mon Mar  2 07:30:00 2026\0", true);
        let found = tree.judge(ID, &json!({"socket": "/run/clamav/clamd.ctl"}));
        server.join().unwrap();
        assert_eq!(found, ("fail", vec!["scanner_masked".into()]));
    }

    #[test]
    fn one_that_hangs_is_restarted_and_one_that_is_down_is_started() {
        let settings = json!({"socket": "/run/clamav/clamd.ctl"});
        let verbs = |tree: Tree| {
            let lines = lines(tree.answer("freshclam --version", "").plan(ID, &settings));
            let of = |verb: &str| lines.contains(&format!("systemctl {verb} clamav-daemon.service"));
            (of("restart"), of("start"))
        };
        assert_eq!(verbs(unit("loaded", "active", "enabled")), (true, true), "it is up and says nothing");
        assert_eq!(verbs(unit("loaded", "failed", "enabled")), (false, true));
    }

    #[test]
    fn a_configuration_that_leaves_out_everything_warns() {
        let with = |config: &str| unit("loaded", "active", "enabled").file("/etc/clamav/clamd.conf", config);
        let sane = "# ExcludePath ^/\nExcludePath ^/proc/\nOnAccessExcludePath /var/log\nLogFile /\nFoo\n";
        assert_eq!(with(sane).judge(ID, &json!({})), ("pass", vec![]));
        for all in ["ExcludePath ^/", "ExcludePath \".*\"", "OnAccessExcludePath /"] {
            assert_eq!(with(all).judge(ID, &json!({})), ("warn", vec!["excludes_everything".into()]), "{all}");
        }
    }

    #[test]
    fn the_updaters_last_work_is_a_fact() {
        let age = |tree: Tree| tree.observe(ID, &json!({})).facts["updated_age_h"].clone();
        let both = unit("loaded", "active", "enabled").file("/var/lib/clamav/daily.cld", "").file(UPDATED[0], "");
        assert_eq!(age(both.aged("/var/lib/clamav/daily.cld", 5).aged(UPDATED[0], 50)), json!(5));
        assert_eq!(age(unit("loaded", "active", "enabled")), Value::Null);
    }

    #[test]
    fn nothing_installed_was_never_configured_and_nothing_known_is_unknown() {
        let finding = unit("not-found", "inactive", "").finding(ID, &json!({}));
        assert_eq!(words(&finding), ("fail", vec!["not_installed".into()]));
        assert!(finding.is_never_configured());
        assert_eq!(Tree::new().judge(ID, &json!({})).0, "unknown");
    }

    #[test]
    fn a_socket_where_nobody_listens_is_silent() {
        let tree = unit("loaded", "active", "enabled");
        let silent = tree.judge(ID, &json!({"socket": "/run/clamav/clamd.ctl"}));
        assert_eq!(silent, ("fail", vec!["scanner_silent".into()]));
    }

    /// The real clamd with a signature database of one line.
    #[test]
    fn the_real_scanner_finds_the_test_virus() {
        let host = Host::live();
        if !host.has("clamd") {
            eprintln!("skipped: clamd is not installed");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let md5_of_test_virus = "44d88612fea8a8f36de82e1278abb02f:68:Eicar-Test-Signature\n";
        std::fs::create_dir(at("db")).unwrap();
        std::fs::write(at("db/test.hdb"), md5_of_test_virus).unwrap();
        let config = format!(
            "LocalSocket {}\nDatabaseDirectory {}\nForeground yes\nUser root\nLogFile {}\n",
            at("clamd.ctl"),
            at("db"),
            at("log")
        );
        std::fs::write(at("clamd.conf"), config).unwrap();
        let settings = json!({"socket": at("clamd.ctl")});
        on_runtime(async {
            let config = format!("--config-file={}", at("clamd.conf"));
            let daemon = Cmd::new(["clamd".to_owned(), config]).timeout(std::time::Duration::from_mins(1));
            let probe = async {
                for _ in 0..300 {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    if std::fs::exists(at("clamd.ctl")).unwrap() {
                        break;
                    }
                }
                let settings = settings.as_object().unwrap();
                let context = Context { host: &host, settings, now: now(), own: &json!({}), before: None };
                scanner(context, settings["socket"].as_str().unwrap()).await
            };
            tokio::select! {
                ended = host.run(daemon) => panic!("clamd ended: {ended:?}"),
                fact = probe => {
                    let fact = fact.unwrap();
                    assert_eq!(fact["test_virus_found"], json!(true), "{fact}");
                    assert_eq!(fact["clean_passed"], json!(true), "{fact}");
                }
            }
        });
        // It stopped with the runtime: now nobody answers.
        assert_eq!(finding(&host, ID, &settings).verdict.word(), "fail");
    }
}
