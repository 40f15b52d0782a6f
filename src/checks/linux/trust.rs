//! Whether a browser on this machine would trust what a TLS service shows.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

use crate::host::{Host, HostError};

/// Where Debian and NixOS keep the authorities this machine trusts, a practice's own among them.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The authorities this machine trusts.
#[derive(Debug)]
pub(super) struct Trust(Arc<RootCertStore>);

impl Trust {
    /// `None` where the machine keeps no list of them.
    pub(super) fn read(host: &Host) -> Result<Option<Self>, HostError> {
        let bytes = match host.read_bytes(AUTHORITIES) {
            Ok(bytes) => bytes,
            Err(HostError::Missing(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut roots = RootCertStore::empty();
        let found = Pem::iter_from_buffer(&bytes).filter_map(Result::ok).map(|pem| CertificateDer::from(pem.contents));
        // One that cannot be read is one less that is trusted.
        roots.add_parsable_certificates(found);
        Ok((!roots.is_empty()).then(|| Self(Arc::new(roots))))
    }

    /// `None` where the chain leads from the first certificate to an authority, is whole, and is valid now for the name it
    /// is made out to; else why not.
    pub(super) fn distrust(&self, own: &X509Certificate<'_>, chain: &[Vec<u8>], now: Timestamp) -> Option<String> {
        let Some(name) = name(own) else { return Some("it is made out to no name".to_owned()) };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.0), provider).build();
        let mut ders = chain.iter().map(|der| CertificateDer::from(der.as_slice()));
        let leaf = ders.next()?;
        let others: Vec<CertificateDer<'_>> = ders.collect();
        let seconds = u64::try_from(now.as_second()).unwrap_or(0);
        let when = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        match verifier.map(|verifier| verifier.verify_server_cert(&leaf, &others, &name, &[], when)) {
            Ok(Ok(_)) => None,
            Ok(Err(rustls::Error::InvalidCertificate(why))) => Some(said(&why)),
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the library's list grows; its own words do for the rest")]
fn said(why: &rustls::CertificateError) -> String {
    match why {
        rustls::CertificateError::UnknownIssuer => {
            "nobody this machine trusts has signed it, or a certificate in between is not shown".to_owned()
        }
        other => other.to_string(),
    }
}

/// The first name a certificate is made out to, as a client would ask for it.
fn name(certificate: &X509Certificate<'_>) -> Option<ServerName<'static>> {
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) => ServerName::try_from(name.replacen('*', "any", 1)).ok(),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            let ip = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from)).ok()?;
            Some(ServerName::from(ip))
        }
        GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::URI(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixture::{Tree, on_runtime, words};
    use super::*;
    use crate::host::Cmd;

    const ID: &str = "RB-CERT-001";

    /// An authority, one it has signed, and a certificate for `*.clinic.example` signed by that; all of the real openssl.
    fn chain() -> Option<[String; 3]> {
        let script = "cd \"$0\" && new() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $1.key -subj /CN=$1 -out $1.csr 2>/dev/null; } && \
            new root && new mid && new leaf && \
            printf 'basicConstraints=critical,CA:TRUE\\n' > ca && printf 'subjectAltName=DNS:*.clinic.example\\n' > names && \
            sign() { openssl x509 -req -in $1.csr -extfile $2 -days 36500 -out $1.pem $3 2>/dev/null; } && \
            sign root ca '-signkey root.key' && sign mid ca '-CA root.pem -CAkey root.key -CAcreateserial' && \
            sign leaf names '-CA mid.pem -CAkey mid.key -CAcreateserial' && cat root.pem mid.pem leaf.pem";
        let dir = tempfile::tempdir().unwrap();
        let output =
            on_runtime(Host::live().run(Cmd::new(["sh", "-c", script, &dir.path().display().to_string()]))).unwrap();
        if !output.success() {
            eprintln!("skipped: no openssl here: {}", output.first_line());
            return None;
        }
        let pems: Vec<String> =
            output.stdout.split_inclusive("-----END CERTIFICATE-----\n").map(str::to_owned).collect();
        pems.try_into().ok()
    }

    /// The certificates are valid from today, not from the fixtures' day.
    fn later() -> Timestamp {
        "2040-01-01T00:00:00Z".parse().unwrap()
    }

    fn distrust(authorities: &str, shown: &[&String]) -> Option<String> {
        let tree = Tree::new().file(AUTHORITIES, authorities);
        let trust = Trust::read(&tree.host()).unwrap().unwrap();
        let ders: Vec<Vec<u8>> =
            shown.iter().map(|pem| Pem::iter_from_buffer(pem.as_bytes()).next().unwrap().unwrap().contents).collect();
        let (_, own) = x509_parser::parse_x509_certificate(&ders[0]).unwrap();
        trust.distrust(&own, &ders, later())
    }

    #[test]
    fn a_whole_chain_is_trusted_and_a_broken_one_is_not() {
        let Some([root, mid, leaf]) = chain() else { return };
        assert_eq!(distrust(&root, &[&leaf, &mid]), None);
        assert_eq!(distrust(&root, &[&leaf, &mid, &root]), None);
        let missing = distrust(&root, &[&leaf]).unwrap();
        assert!(missing.contains("in between"), "{missing}");
        let Some([other, ..]) = chain() else { return };
        assert!(distrust(&other, &[&leaf, &mid]).is_some(), "another authority of the same name");
        assert!(distrust(&root, &[&root]).unwrap().contains("no name"));
        assert!(Trust::read(&Tree::new().host()).unwrap().is_none());
        assert!(Trust::read(&Tree::new().file(AUTHORITIES, "none").host()).unwrap().is_none());
    }

    #[test]
    fn what_is_shown_is_judged_only_where_a_chain_is_expected() {
        let Some([root, mid, leaf]) = chain() else { return };
        let judge = |authorities: &str, shown: &str, settings: serde_json::Value| {
            let tree = Tree::new()
                .file(
                    "/proc/net/tcp",
                    "  sl  local_address\n   0: 0100007F:01BB 00000000:0000 0A 0:0 0:0 0 0 0 1 1 0\n",
                )
                .file(AUTHORITIES, authorities)
                .answer("tls 127.0.0.1:443", &format!("TLS 1.3\n{shown}"));
            let words = words(&tree.finding(ID, &settings)).1;
            words
                .into_iter()
                .filter(|word| ["sign", "trust", "author"].iter().any(|part| word.contains(part)))
                .collect::<Vec<String>>()
        };
        let expect = || json!({"expect_chain": true});
        assert_eq!(judge(&root, &root, json!({})), [""; 0]);
        assert_eq!(judge(&mid, &root, expect()), ["self_signed"]);
        assert_eq!(judge(&root, &leaf, expect()), ["not_trusted"]);
        let whole = format!("{leaf}{mid}");
        // On the fixtures' day it is not valid yet, and that is why it is not trusted.
        assert_eq!(judge(&root, &whole, expect()), ["not_trusted"]);
        assert_eq!(judge("", &whole, expect()), ["no_authorities"], "there is nobody to trust");
    }
}
