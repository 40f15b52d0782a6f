//! Certificates in files: when the first of each file's chain runs out; and those that listeners show.

use jiff::Timestamp;
use serde_json::{Value, json};
use x509_parser::pem::Pem;

use super::listeners::{self, File, instant};
use crate::checks::run::{Context, Facts};
use crate::domain::finding::Observation;
use crate::host::{FileKind, Host, HostError};

/// Where certificate clients of Debian and NixOS put what they fetch.
const KNOWN: &[&str] = &["/etc/letsencrypt/live", "/var/lib/acme"];
const ENDINGS: &[&str] = &[".pem", ".crt", ".cer"];
/// Directories below the one that is named.
const DEPTH: u32 = 2;

/// Facts: `configured`, `certificates`, `unread`, and those of [`listeners`].
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    let mut search = Search { host: context.host, certificates: Vec::new(), files: Vec::new(), error: None };
    let configured = context.list("paths");
    for path in &configured {
        search.path(context, path, true, DEPTH);
    }
    for path in KNOWN {
        search.path(context, path, false, DEPTH);
    }
    facts.set("configured", configured.len());
    facts.set("certificates", search.certificates);
    match search.error {
        None => facts.set("unread", 0),
        Some(error) => facts.fail("unread", &error),
    }
    listeners::collect(context, &search.files, &mut facts).await;
    facts.into()
}

struct Search<'a> {
    host: &'a Host,
    certificates: Vec<Value>,
    files: Vec<File>,
    /// The first file that should have been read and was not.
    error: Option<HostError>,
}

impl Search<'_> {
    /// A path that is `named` has to be there and hold a certificate; one that is found may be something else.
    fn path(&mut self, context: Context<'_>, path: &str, named: bool, depth: u32) {
        let kind = self.host.stat(path).map(|stat| match stat.kind {
            // Live certificates are links into an archive.
            FileKind::Link if self.host.list(path).is_ok() => FileKind::Dir,
            FileKind::Link => FileKind::File,
            FileKind::File | FileKind::Dir | FileKind::Other => stat.kind,
        });
        match kind {
            Ok(FileKind::Dir) if depth > 0 => self.dir(context, path, depth),
            Ok(FileKind::File) => match read(context, path) {
                Ok(Some((certificate, file))) => {
                    self.certificates.push(certificate);
                    self.files.push(file);
                }
                Ok(None) if named => {
                    self.note(HostError::Garbage { what: path.to_owned(), why: "holds no certificate".to_owned() });
                }
                Ok(None) => {}
                Err(error) => self.note(error),
            },
            Ok(FileKind::Dir | FileKind::Link | FileKind::Other) => {}
            Err(HostError::Missing(_)) if !named => {}
            Err(error) => self.note(error),
        }
    }

    fn dir(&mut self, context: Context<'_>, path: &str, depth: u32) {
        match self.host.list(path) {
            Ok(names) => {
                for name in names {
                    let inner = format!("{path}/{name}");
                    let is_dir = self.host.list(&inner).is_ok();
                    if is_dir || ENDINGS.iter().any(|ending| name.ends_with(ending)) {
                        self.path(context, &inner, false, depth - 1);
                    }
                }
            }
            Err(error) => self.note(error),
        }
    }

    fn note(&mut self, error: HostError) {
        self.error.get_or_insert(error);
    }
}

/// The first certificate to run out in a PEM file; `None` where it holds something else, such as a key.
fn read(context: Context<'_>, path: &str) -> Result<Option<(Value, File)>, HostError> {
    let garbage = |why: String| HostError::Garbage { what: path.to_owned(), why };
    let bytes = context.host.read_bytes(path)?;
    let mut span: Option<(Timestamp, Timestamp)> = None;
    let mut file = None;
    for pem in Pem::iter_from_buffer(&bytes) {
        let pem = pem.map_err(|error| garbage(format!("no PEM: {error}")))?;
        if pem.label != "CERTIFICATE" {
            continue;
        }
        let certificate = pem.parse_x509().map_err(|error| garbage(format!("no certificate: {error}")))?;
        if file.is_none() {
            file = Some(File { path: path.to_owned(), leaf: listeners::leaf(path, &certificate)? });
        }
        let validity = certificate.validity();
        let (from, to) =
            (instant(path, validity.not_before.timestamp())?, instant(path, validity.not_after.timestamp())?);
        span = Some(span.map_or((from, to), |known| (known.0.max(from), known.1.min(to))));
    }
    Ok(span.zip(file).map(|((from, to), file)| {
        let fact = json!({
            "path": path, "not_after": to.to_string(), "days_left": (-context.seconds_since(to)).div_euclid(86_400),
            "not_yet_valid": context.seconds_since(from) < 0,
        });
        (fact, file)
    }))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::fixture::{Tree, on_runtime};
    use super::*;
    use crate::host::Cmd;

    const ID: &str = "RB-CERT-001";

    /// A machine on which nobody listens.
    fn quiet() -> Tree {
        Tree::new().file("/proc/net/tcp", "  sl  local_address\n")
    }

    /// A certificate of the real openssl, valid from 1 January 2026 to `end`.
    pub(in super::super) fn certificate(start: &str, end: &str) -> Option<String> {
        let script = "cd \"$0\" && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k -subj /CN=t -out c 2>/dev/null && \
            : > db && echo 01 > serial && printf '[ca]\\ndefault_ca=d\\n[d]\\ndatabase=db\\nserial=serial\\nnew_certs_dir=.\\ndefault_md=sha256\\npolicy=p\\n[p]\\ncommonName=supplied\\n' > conf && \
            openssl req -new -key k -subj /CN=leaf -out r 2>/dev/null && \
            openssl ca -batch -config conf -cert c -keyfile k -in r -startdate \"$1\" -enddate \"$2\" -notext -out leaf 2>/dev/null && cat leaf";
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().display().to_string();
        let output = on_runtime(Host::live().run(Cmd::new(["sh", "-c", script, &dir, start, end]))).unwrap();
        if !output.success() {
            eprintln!("skipped: no openssl here: {}", output.first_line());
            return None;
        }
        Some(output.stdout)
    }

    fn judge(start: &str, end: &str) -> Option<(&'static str, Vec<String>)> {
        let pem = certificate(start, end)?;
        Some(quiet().file("/etc/ssl/own.pem", &pem).judge(ID, &json!({"paths": ["/etc/ssl/own.pem"]})))
    }

    #[test]
    fn days_left_are_judged() {
        let Some(found) = judge("20260101000000Z", "20270101000000Z") else { return };
        assert_eq!(found, ("pass", vec![]));
        assert_eq!(judge("20260101000000Z", "20260320000000Z").unwrap(), ("warn", vec!["expires_soon".into()]));
        assert_eq!(judge("20260101000000Z", "20260314000000Z").unwrap(), ("fail", vec!["expires_shortly".into()]));
        assert_eq!(judge("20260101000000Z", "20260306000000Z").unwrap(), ("fail", vec!["expires_now".into()]));
        assert_eq!(judge("20260101000000Z", "20260301000000Z").unwrap(), ("fail", vec!["expired".into()]));
        assert_eq!(judge("20260401000000Z", "20270101000000Z").unwrap(), ("fail", vec!["not_yet_valid".into()]));
    }

    #[test]
    fn live_directories_are_found_and_keys_are_left_alone() {
        let Some(pem) = certificate("20260101000000Z", "20270101000000Z") else { return };
        let tree = quiet()
            .file("/etc/letsencrypt/archive/x/fullchain1.pem", &pem)
            .dir("/etc/letsencrypt/live/x")
            .link("/etc/letsencrypt/live/x/fullchain.pem", "../../archive/x/fullchain1.pem")
            .file(
                "/etc/letsencrypt/live/x/privkey.pem",
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            );
        let finding = tree.finding(ID, &json!({}));
        assert_eq!(finding.observation.facts["certificates"].as_array().unwrap().len(), 1);
        assert_eq!(finding.verdict.word(), "pass", "{:?}", finding.reasons);
    }

    #[test]
    fn nothing_there_does_not_apply_but_something_unreadable_is_unknown() {
        assert_eq!(quiet().judge(ID, &json!({})), ("not_applicable", vec!["no_certificates".into()]));
        let gone = quiet().judge(ID, &json!({"paths": ["/etc/ssl/own.pem"]}));
        assert_eq!(gone, ("fail", vec!["none_found".into(), "unread".into()]));
        for garbage in ["hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let tree = quiet().file("/etc/ssl/own.pem", garbage);
            let finding = tree.finding(ID, &json!({"paths": ["/etc/ssl/own.pem"]}));
            assert!(finding.reasons.iter().any(|reason| reason.verdict.word() == "unknown"), "{garbage}");
        }
    }
}
