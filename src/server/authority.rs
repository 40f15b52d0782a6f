//! The server's own certificate authority: client certificates for appliances, and its own for TLS.
//!
//! A client certificate names its tenant: `malachor://site/<site>/appliance/<appliance>` in its subject alternative name.
//! Nothing else in a request ever selects one.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::crypto::{hex, sha256};
use crate::domain::id::{ApplianceId, SiteId};
use crate::host::Host;
use crate::net::tls::{TlsError, certificates_of, key_of};
use crate::wire::EARLIER_S;

/// How long the authority itself holds.
const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365 * 20);
/// How long the server's own certificate holds; it is made anew when less than half of it is left.
const OWN_LIFE: SignedDuration = SignedDuration::from_hours(24 * 180);
/// Clocks differ: certificates hold from a little earlier.
const EARLIER: SignedDuration = SignedDuration::from_secs(EARLIER_S);

pub(super) const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const OWN: &str = "tls.pem";
const OWN_KEY: &str = "tls.key";

/// The authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Authority")
    }
}

/// A certificate just issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate (PEM).
    pub pem: String,
    /// Its serial number in hexadecimal.
    pub serial: String,
    /// From when it holds.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
}

/// Who a client certificate says somebody is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The tenant.
    pub site: SiteId,
    /// The appliance.
    pub appliance: ApplianceId,
    /// Serial number of the certificate.
    pub serial: String,
    /// Until when it holds.
    pub not_after: Timestamp,
}

impl Authority {
    /// Reads the authority of a keys folder, or makes it on the first start.
    pub fn open(dir: &Path, now: Timestamp) -> Result<Self, TlsError> {
        let (cert, key) = (dir.join(CA), dir.join(CA_KEY));
        if !cert.exists() {
            make(&cert, &key, now)?;
        }
        let name = cert.display().to_string();
        let pem = read(&cert)?;
        let der = certificates_of(&name, pem.as_bytes())?.into_iter().next();
        let der = der.ok_or_else(|| TlsError::new(&name, "holds no certificate"))?;
        let pair =
            KeyPair::from_pem(&read(&key)?).map_err(|error| TlsError::new(&key.display().to_string(), &error))?;
        if !is_of(&der, &pair) {
            let why = "is for another key than the one in ca.key; put back the two as one backup has them";
            return Err(TlsError::new(&name, why));
        }
        let issuer = Issuer::from_ca_cert_der(&der, pair).map_err(|error| TlsError::new(&name, &error))?;
        Ok(Self { issuer, der, pem })
    }

    /// The authority's certificate (PEM), which appliances hold the server to.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The same in DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// SHA-256 of the authority's certificate: what an enrolment token pins.
    pub fn fingerprint(&self) -> [u8; 32] {
        sha256(&self.der)
    }

    /// Issues a client certificate for an appliance over a signing request; only the request's key is taken from it.
    pub fn issue(
        &self,
        request: &[u8],
        (site, appliance): (&SiteId, &ApplianceId),
        (now, life): (Timestamp, SignedDuration),
    ) -> Result<Issued, TlsError> {
        let wrong = |error: rcgen::Error| TlsError::new("certificate request", &error);
        let der = CertificateSigningRequestDer::from(request);
        let mut request = CertificateSigningRequestParams::from_der(&der).map_err(wrong)?;
        let uri = format!("malachor://site/{site}/appliance/{appliance}");
        let mut params = params(appliance.as_str(), now, life).map_err(wrong)?;
        params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(wrong)?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (serial, not_before, not_after) = (serial_of(&params), params.not_before, params.not_after);
        request.params = params;
        let certificate = request.signed_by(&self.issuer).map_err(wrong)?;
        Ok(Issued { pem: certificate.pem(), serial, not_before: instant(not_before), not_after: instant(not_after) })
    }

    /// The server's own certificate for these names, made anew where there is none, where it is for other names or another
    /// key, or where half of its life is over.
    pub fn own(
        &self,
        dir: &Path,
        names: &[String],
        now: Timestamp,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let (cert, key) = (dir.join(OWN), dir.join(OWN_KEY));
        if !self.has_own(dir, names, now) {
            let wrong = |error: rcgen::Error| TlsError::new(OWN, &error);
            let pair = KeyPair::generate().map_err(wrong)?;
            let first = names.first().map_or("malachor", String::as_str);
            let mut params = params(first, now, OWN_LIFE).map_err(wrong)?;
            for name in names {
                params.subject_alt_names.push(match name.parse() {
                    Ok(address) => SanType::IpAddress(address),
                    Err(_) => SanType::DnsName(name.clone().try_into().map_err(wrong)?),
                });
            }
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            let certificate = params.signed_by(&pair, &self.issuer).map_err(wrong)?;
            replace(&key, pair.serialize_pem().as_bytes(), 0o600)?;
            // The authority goes along, so that whoever has only its fingerprint can find it in the chain.
            replace(&cert, format!("{}{}", certificate.pem(), self.pem).as_bytes(), 0o644)?;
        }
        let chain = certificates_of(&cert.display().to_string(), read(&cert)?.as_bytes())?;
        let key_name = key.display().to_string();
        Ok((chain, key_of(&key_name, read(&key)?.as_bytes())?))
    }

    /// Whether the server's own certificate need not be made anew.
    pub(super) fn has_own(&self, dir: &Path, names: &[String], now: Timestamp) -> bool {
        let (Ok(pem), Ok(key)) = (read(&dir.join(OWN)), read(&dir.join(OWN_KEY))) else { return false };
        let Ok(chain) = certificates_of("", pem.as_bytes()) else { return false };
        let Some(Ok((_, own))) = chain.first().map(|der| X509Certificate::from_der(der)) else { return false };
        // Whoever was killed between the two left the key of one and the certificate of another.
        let Ok(pair) = KeyPair::from_pem(&key) else { return false };
        let ours = own.public_key().raw == pair.subject_public_key_info();
        let half = now.checked_add(OWN_LIFE / 2).unwrap_or(now).as_second();
        let alt = own.subject_alternative_name().ok().flatten();
        let held: Vec<String> =
            alt.map(|alt| alt.value.general_names.iter().filter_map(shown).collect()).unwrap_or_default();
        ours && chain.get(1) == Some(&self.der) && own.validity().not_after.timestamp() > half && held == names
    }
}

fn shown(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
            _ => None,
        },
        GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::URI(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    }
}

/// Reads who a verified client certificate is for; `None` where it is none of ours.
pub fn identity(certificate: &[u8]) -> Option<Identity> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let alt = certificate.subject_alternative_name().ok()??;
    let [GeneralName::URI(uri)] = alt.value.general_names.as_slice() else { return None };
    let (site, appliance) = uri.strip_prefix("malachor://site/")?.split_once("/appliance/")?;
    Some(Identity {
        site: site.parse().ok()?,
        appliance: appliance.parse().ok()?,
        serial: hex(certificate.raw_serial()),
        not_after: Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?,
    })
}

/// Whether a certificate is for a key.
fn is_of(certificate: &[u8], pair: &KeyPair) -> bool {
    let read = X509Certificate::from_der(certificate);
    read.is_ok_and(|(_, certificate)| certificate.public_key().raw == pair.subject_public_key_info())
}

/// Until when a certificate holds.
pub fn end_of(certificate: &[u8]) -> Option<Timestamp> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

fn make(cert: &Path, key: &Path, now: Timestamp) -> Result<(), TlsError> {
    let wrong = |error: rcgen::Error| TlsError::new(CA, &error);
    // A first start that was killed left a key alone: it goes on from there. Where the certificate was lost later, the
    // fleet's store refuses the new one, which no appliance would trust.
    let pair = if key.exists() {
        KeyPair::from_pem(&read(key)?).map_err(|error| TlsError::new(&key.display().to_string(), &error))?
    } else {
        KeyPair::generate().map_err(wrong)?
    };
    let mut params = params("Malachor", now, AUTHORITY_LIFE).map_err(wrong)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&pair).map_err(wrong)?;
    // The key first: a certificate without its key would be no authority, and would stand in the way of making one.
    if !key.exists() {
        replace(key, pair.serialize_pem().as_bytes(), 0o600)?;
    }
    replace(cert, certificate.pem().as_bytes(), 0o644)
}

fn params(name: &str, now: Timestamp, life: SignedDuration) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date(now.checked_sub(EARLIER).unwrap_or(now));
    params.not_after = date(now.checked_add(life).unwrap_or(now));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let mut serial = [0_u8; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| rcgen::Error::RingUnspecified)?;
    // Positive, and never shorter than it looks.
    if let Some(first) = serial.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn serial_of(params: &CertificateParams) -> String {
    params.serial_number.as_ref().map(|serial| hex(&serial.to_bytes())).unwrap_or_default()
}

fn date(time: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time.as_second()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn instant(date: OffsetDateTime) -> Timestamp {
    Timestamp::from_second(date.unix_timestamp()).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn read(path: &Path) -> Result<String, TlsError> {
    std::fs::read_to_string(path).map_err(|error| TlsError::new(&path.display().to_string(), &error))
}

/// Writes a file whole or not at all.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let name = path.display().to_string();
    Host::live().replace(&name, bytes, mode, None).map_err(|error| TlsError::new(&name, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-05-04T12:00:00Z".parse().unwrap()
    }

    fn request() -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![SanType::URI("malachor://site/south/appliance/x".try_into().unwrap())];
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_names_the_tenant_it_was_issued_for_whatever_the_request_says() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path(), now()).unwrap();
        let (site, appliance) = ("north".parse().unwrap(), "front-desk".parse().unwrap());
        let life = SignedDuration::from_hours(24);
        let issued = authority.issue(&request(), (&site, &appliance), (now(), life)).unwrap();
        let der = certificates_of("", issued.pem.as_bytes()).unwrap();
        let said = identity(&der[0]).unwrap();
        assert_eq!((&said.site, &said.appliance, &said.serial), (&site, &appliance, &issued.serial));
        assert_eq!((said.not_after, issued.not_after), (now() + life, now() + life));
        assert!(issued.not_before < now());
        assert!(authority.issue(b"nonsense", (&site, &appliance), (now(), life)).is_err());
        let mut tampered = request();
        let middle = tampered.len() / 2;
        tampered[middle] ^= 1;
        assert!(authority.issue(&tampered, (&site, &appliance), (now(), life)).is_err(), "its signature is checked");
    }

    #[test]
    fn the_authority_stays_and_its_own_certificate_follows_names_and_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path(), now()).unwrap();
        let again = Authority::open(dir.path(), now()).unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint());
        let names = ["fleet.example".to_owned(), "10.0.0.7".to_owned()];
        let own = |names: &[String], at| again.own(dir.path(), names, at).unwrap().0;
        let held = own(&names, now());
        assert_eq!(held.len(), 2, "the authority goes along");
        assert_eq!(own(&names, now()), held, "it is kept");
        assert_ne!(own(&names[..1], now()), held);
        let held = own(&names, now());
        assert_ne!(own(&names, now() + SignedDuration::from_hours(24 * 100)), held, "half of its life is over");
        let held = own(&names, now());
        std::fs::write(dir.path().join(OWN_KEY), KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert_ne!(own(&names, now()), held, "its key is another's");
        std::fs::remove_file(dir.path().join(CA)).unwrap();
        Authority::open(dir.path(), now()).expect("a first start that was killed after the key goes on");
        std::fs::write(dir.path().join(CA_KEY), KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let said = Authority::open(dir.path(), now()).unwrap_err().to_string();
        assert!(said.contains("another key than the one in ca.key"), "{said}");
        std::fs::remove_file(dir.path().join(CA_KEY)).unwrap();
        assert!(Authority::open(dir.path(), now()).is_err(), "a lost key is not made anew");
    }
}
