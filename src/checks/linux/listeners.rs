//! TLS listeners of this machine: the certificate each one really shows, which is not always the one on the disk.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use jiff::Timestamp;
use serde_json::{Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::trust::Trust;
use crate::checks::run::{Context, Facts};
use crate::crypto::sha256_hex;
use crate::host::{Host, HostError};

/// HTTPS, mail and directory, where TLS begins with the first byte.
const PORTS: &[u16] = &[443, 465, 636, 993, 8443];
/// Listeners asked.
const MOST: usize = 16;
const TABLES: &[&str] = &["/proc/net/tcp", "/proc/net/tcp6"];

/// Who a certificate is for and which one of theirs it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    /// The names it is for, sorted; else its subject. Empty where it has neither.
    pub(super) names: String,
    pub(super) sha256: String,
    pub(super) from: Timestamp,
}

/// A certificate file, by the first certificate in it.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) path: String,
    pub(super) leaf: Leaf,
}

/// Facts: `asked` (number of listeners), `listeners` (`[{address, protocol, not_after, days_left, self_signed, distrust,
/// file, reload}]`; all but the first two null where the protocol is older than can be read; `distrust` is why this machine
/// would not trust it, empty where it would; `file` holds the same certificate, and with `reload` a newer one for the same
/// names), `authorities` (whether this machine keeps a list of those it trusts; without one `distrust` is null), and
/// `unanswered`: zero, or why a listener could not be read.
pub(super) async fn collect(context: Context<'_>, files: &[File], facts: &mut Facts) {
    let addresses = match addresses(context) {
        Ok(addresses) => addresses,
        Err(error) => return facts.fail_all(&["asked", "listeners", "authorities", "unanswered"], &error),
    };
    let trust = Trust::read(context.host);
    facts.learn("authorities", trust.as_ref().map(Option::is_some).map_err(Clone::clone));
    let known = Known { files, trust: trust.ok().flatten() };
    let (mut listeners, mut trouble) = (Vec::new(), None);
    facts.set("asked", addresses.len());
    for address in addresses {
        let shown = context.host.tls_greeting(address).await;
        match shown.and_then(|shown| fact(context, address, (shown.protocol, &shown.chain), &known)) {
            Ok(listener) => listeners.push(listener),
            Err(error) => trouble = trouble.or(Some(error)),
        }
    }
    facts.set("listeners", listeners);
    match trouble {
        None => facts.set("unanswered", 0),
        Some(error) => facts.fail("unanswered", &error),
    }
}

fn addresses(context: Context<'_>) -> Result<Vec<SocketAddr>, HostError> {
    let mut addresses = Vec::new();
    for text in context.list("listeners") {
        addresses.push(
            text.parse()
                .map_err(|_| HostError::Garbage { what: text.to_owned(), why: "not an address and port".to_owned() })?,
        );
    }
    if context.flag("find_listeners") {
        addresses.extend(listening(context.host)?.into_iter().filter(|found| PORTS.contains(&found.port())));
    }
    addresses.sort();
    addresses.dedup();
    addresses.truncate(MOST);
    Ok(addresses)
}

/// Where programs listen for TCP (`proc_net_tcp.rst` of the kernel); one that listens everywhere is met on loopback.
fn listening(host: &Host) -> Result<Vec<SocketAddr>, HostError> {
    let (mut found, mut tables) = (Vec::new(), 0);
    for path in TABLES {
        let text = match host.read(path) {
            Ok(text) => text,
            Err(HostError::Missing(_)) => continue,
            Err(error) => return Err(error),
        };
        tables += 1;
        for line in text.lines().skip(1) {
            let garbage = || HostError::Garbage { what: (*path).to_owned(), why: "a line is not a socket".to_owned() };
            let (address, listens) = socket(line).ok_or_else(garbage)?;
            found.extend(listens.then_some(address));
        }
    }
    if tables == 0 { Err(HostError::Missing("/proc/net/tcp".to_owned())) } else { Ok(found) }
}

/// `sl local:port remote:port state …`: its address, and whether it listens.
fn socket(line: &str) -> Option<(SocketAddr, bool)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Each word in the byte order of this machine.
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let bytes: Vec<u8> = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))
        }
        _ => return None,
    };
    let reached = match ip.to_canonical() {
        IpAddr::V4(all) if all.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        // What listens on all of IPv6 nearly always answers IPv4 too; its own loopback is the sure way.
        IpAddr::V6(all) if all.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        one @ (IpAddr::V4(_) | IpAddr::V6(_)) => one,
    };
    Some((SocketAddr::new(reached, port), *fields.get(3)? == "0A"))
}

/// What a listener is compared with.
struct Known<'a> {
    files: &'a [File],
    trust: Option<Trust>,
}

fn fact(
    context: Context<'_>,
    address: SocketAddr,
    (protocol, chain): (&str, &[Vec<u8>]),
    known: &Known<'_>,
) -> Result<Value, HostError> {
    let files = known.files;
    let what = format!("the listener at {address}");
    let mut read = Vec::new();
    for der in chain {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|error| HostError::Garbage { what: what.clone(), why: format!("no certificate: {error}") })?;
        read.push(certificate);
    }
    let Some(own) = read.first() else {
        return if protocol == "older" {
            Ok(json!({
                "address": address.to_string(), "protocol": protocol, "not_after": null, "days_left": null,
                "self_signed": null, "distrust": null, "file": null, "reload": null,
            }))
        } else {
            Err(HostError::Garbage { what, why: "it showed no certificate".to_owned() })
        };
    };
    let ends = read.iter().map(|one| instant(&what, one.validity().not_after.timestamp()));
    let end = ends.collect::<Result<Vec<Timestamp>, HostError>>()?.into_iter().min();
    let leaf = leaf(&what, own)?;
    let same = files.iter().find(|file| file.leaf.sha256 == leaf.sha256);
    let newer =
        files.iter().find(|file| !leaf.names.is_empty() && file.leaf.names == leaf.names && file.leaf.from > leaf.from);
    Ok(json!({
        "address": address.to_string(), "protocol": protocol, "not_after": end.map(|end| end.to_string()),
        "days_left": end.map(|end| (-context.seconds_since(end)).div_euclid(86_400)),
        "self_signed": own.subject().as_raw() == own.issuer().as_raw(),
        "distrust": known.trust.as_ref().map(|trust| trust.distrust(own, chain, context.now).unwrap_or_default()),
        "file": newer.or(same).map(|file| &file.path), "reload": newer.is_some(),
    }))
}

/// What tells a certificate from others of the same names.
pub(super) fn leaf(what: &str, certificate: &X509Certificate<'_>) -> Result<Leaf, HostError> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let mut names: Vec<String> =
        extension.iter().flat_map(|found| &found.value.general_names).map(ToString::to_string).collect();
    names.sort();
    if names.is_empty() {
        names.push(certificate.subject().to_string());
    }
    Ok(Leaf {
        names: names.join(", "),
        sha256: sha256_hex(certificate.as_raw()),
        from: instant(what, certificate.validity().not_before.timestamp())?,
    })
}

pub(super) fn instant(what: &str, seconds: i64) -> Result<Timestamp, HostError> {
    Timestamp::from_second(seconds)
        .map_err(|error| HostError::Garbage { what: what.to_owned(), why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::super::certificates::tests::certificate;
    use super::super::fixture::{Tree, finding, on_runtime};
    use super::*;
    use crate::host::Cmd;

    const ID: &str = "RB-CERT-001";
    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn line(address: &str, state: &str) -> String {
        format!("   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 1 1 0\n")
    }

    fn machine(sockets: &[(&str, &str)]) -> Tree {
        let lines: Vec<String> = sockets.iter().map(|(address, state)| line(address, state)).collect();
        Tree::new().file("/proc/net/tcp", &format!("{HEAD}{}", lines.concat()))
    }

    /// HTTPS on all addresses, and a listener whose answer is recorded.
    fn https(said: &str) -> Tree {
        machine(&[("00000000:01BB", "0A"), ("0A00000A:01BB", "01"), ("00000000:0016", "0A")])
            .answer("tls 127.0.0.1:443", said)
    }

    #[test]
    fn what_is_shown_is_judged_like_what_is_kept() {
        let Some(year) = certificate("20260101000000Z", "20270101000000Z") else { return };
        let shown = |pem: &str| https(&format!("TLS 1.3\n{pem}"));
        assert_eq!(shown(&year).judge(ID, &json!({})), ("pass", vec![]));
        let soon = certificate("20260101000000Z", "20260320000000Z").unwrap();
        assert_eq!(shown(&soon).judge(ID, &json!({})), ("warn", vec!["shown_expires_soon".into()]));
        let fortnight = certificate("20260101000000Z", "20260314000000Z").unwrap();
        assert_eq!(shown(&fortnight).judge(ID, &json!({})), ("fail", vec!["shown_expires_shortly".into()]));
        let week = certificate("20260101000000Z", "20260306000000Z").unwrap();
        assert_eq!(shown(&week).judge(ID, &json!({})), ("fail", vec!["shown_expires_now".into()]));
        assert_eq!(
            shown(&format!("{year}{week}")).judge(ID, &json!({})).0,
            "fail",
            "the first of the chain to run out"
        );
        let past = certificate("20260101000000Z", "20260301000000Z").unwrap();
        assert_eq!(shown(&past).judge(ID, &json!({})), ("fail", vec!["shown_expired".into()]));
        assert_eq!(https("older\n").judge(ID, &json!({})), ("fail", vec!["old_protocol".into()]));
    }

    #[test]
    fn a_renewed_file_that_is_not_shown_yet_warns() {
        let Some(old) = certificate("20260101000000Z", "20270101000000Z") else { return };
        let new = certificate("20260201000000Z", "20270101000000Z").unwrap();
        let judge = |file: &str, shown: &str| {
            https(&format!("TLS 1.2\n{shown}"))
                .file("/etc/ssl/own.pem", file)
                .finding(ID, &json!({"paths": ["/etc/ssl/own.pem"]}))
        };
        let stale = judge(&new, &old);
        assert_eq!(super::super::fixture::words(&stale), ("warn", vec!["not_reloaded".into()]));
        assert!(stale.reasons[0].say.contains("127.0.0.1:443"), "{:?}", stale.reasons);
        let same = judge(&old, &old);
        assert_eq!(
            (same.verdict.word(), &same.observation.facts["listeners"][0]["file"]),
            ("pass", &json!("/etc/ssl/own.pem"))
        );
        assert_eq!(judge(&old, &new).verdict.word(), "pass", "the file is the older one");
    }

    #[test]
    fn silence_and_garbage_are_unknown() {
        let silent = machine(&[("0100007F:01BB", "0A")]);
        assert_eq!(silent.judge(ID, &json!({})), ("unknown", vec!["unanswered".into()]));
        assert_eq!(
            silent.judge(ID, &json!({"find_listeners": false})),
            ("not_applicable", vec!["no_certificates".into()])
        );
        assert_eq!(
            machine(&[]).judge(ID, &json!({"listeners": ["127.0.0.1:8443"]})),
            ("unknown", vec!["unanswered".into()])
        );
        assert_eq!(https("TLS 1.3\n").judge(ID, &json!({})), ("unknown", vec!["unanswered".into()]));
        let garbage = "TLS 1.3\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(https(garbage).judge(ID, &json!({})), ("unknown", vec!["unanswered".into()]));
        assert_eq!(Tree::new().judge(ID, &json!({})).0, "unknown");
        assert_eq!(machine(&[("zz:01BB", "0A")]).judge(ID, &json!({})).0, "unknown");
    }

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let at = |address: &str| socket(&line(address, "0A")).map(|(found, _)| found.to_string());
        assert_eq!(at("0100007F:01BB").as_deref(), Some("127.0.0.1:443"));
        assert_eq!(at("00000000:20FB").as_deref(), Some("127.0.0.1:8443"));
        assert_eq!(at("00000000000000000000000000000000:01BB").as_deref(), Some("[::1]:443"));
        assert_eq!(at("0000000000000000FFFF00000100000A:01BB").as_deref(), Some("10.0.0.1:443"));
        for garbage in ["-", "0100007F", "010000:01BB", "0100007F:zz", "ä00007F:01BB"] {
            assert_eq!(at(garbage), None, "{garbage}");
        }
    }

    /// The real openssl serves; what it shows is read.
    #[test]
    fn real_listeners_show_their_certificate_and_protocol() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let make =
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout"];
        let make = make.map(str::to_owned).into_iter().chain([
            at("k"),
            "-subj".into(),
            "/CN=here".into(),
            "-out".into(),
            at("c"),
        ]);
        match on_runtime(Host::live().run(Cmd::new(make))) {
            Ok(output) if output.success() => {}
            other => return eprintln!("skipped: no openssl here: {other:?}"),
        }
        for (options, protocol) in [
            (&["-tls1_3"][..], "TLS 1.3"),
            (&["-tls1_2"], "TLS 1.2"),
            (&["-tls1_2", "-Verify", "1"], "TLS 1.2"),
            (&["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"], "older"),
        ] {
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let address = format!("127.0.0.1:{port}");
            let serve = ["openssl", "s_server", "-quiet", "-accept"].map(str::to_owned).into_iter();
            let serve = serve.chain([address.clone(), "-cert".into(), at("c"), "-key".into(), at("k")]);
            let serve = Cmd::new(serve.chain(options.iter().map(|option| (*option).to_owned())));
            let listener = on_runtime(async {
                let (host, address) = (Host::live(), address.parse().unwrap());
                let ask = async {
                    for _ in 0..100 {
                        if let Ok(found) = host.tls_greeting(address).await {
                            return Some(found);
                        }
                        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    }
                    None
                };
                tokio::select! { found = ask => found, _ = host.run(serve) => None }
            });
            let shown = listener.unwrap_or_else(|| panic!("no answer with {options:?}"));
            assert_eq!(shown.protocol, protocol, "{options:?}");
            assert_eq!(shown.chain.len(), usize::from(protocol != "older"), "{options:?}");
        }
    }

    #[test]
    fn a_listener_that_says_nothing_or_nonsense_is_left_in_time() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        let settings = json!({"find_listeners": false, "listeners": [address.to_string()]});
        let found = finding(&Host::live(), ID, &settings);
        let unanswered = found.reasons.iter().find(|reason| reason.word == "unanswered").unwrap();
        assert!(unanswered.say.contains("no answer within 3 s"), "{unanswered:?}");
        let babble = std::thread::spawn(move || {
            // The first is the one that was left waiting above.
            for _ in 0..2 {
                let (mut stream, _) = silent.accept().unwrap();
                std::io::Write::write_all(&mut stream, b"220 mail.example ESMTP\r\n").ok();
            }
        });
        assert!(on_runtime(Host::live().tls_greeting(address)).is_err());
        babble.join().unwrap();
    }
}
