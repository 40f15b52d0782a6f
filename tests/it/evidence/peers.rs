//! Tools that are not ours must say what we say.
#![expect(clippy::disallowed_methods, reason = "an outside verifier is run by the test, not by the product")]

use std::fs;
use std::io::ErrorKind;
use std::process::Command;

use malachor::crypto::dsse::{Envelope, pae};

use super::fixture::Log;

#[test]
fn openssl_accepts_what_we_sign_and_refuses_a_flipped_byte() {
    let log = Log::grown();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let envelope = Envelope::parse(&log.lines()[130]).unwrap();
    let message = pae(&envelope.payload_type, &envelope.payload);
    fs::write(path("pub.pem"), log.writer.entry_key().key.to_spki_pem()).unwrap();
    fs::write(path("sig"), envelope.signatures[0].sig).unwrap();
    let mut flipped = message.clone();
    flipped[40] ^= 1;
    for (bytes, good) in [(message, true), (flipped, false)] {
        fs::write(path("pae"), bytes).unwrap();
        let run = Command::new("openssl")
            .args(["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "pub.pem", "-sigfile", "sig", "-in", "pae"])
            .current_dir(dir.path())
            .output();
        match run {
            Err(error) if error.kind() == ErrorKind::NotFound => return println!("skipped: no openssl on PATH"),
            run => assert_eq!(run.unwrap().status.success(), good),
        }
    }
}

#[test]
fn openssl_and_we_read_each_others_private_keys() {
    use malachor::crypto::keys::PrivateKey;
    use std::os::unix::fs::PermissionsExt as _;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("theirs.pem");
    let run = Command::new("openssl").args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(&path).output();
    match run {
        Err(error) if error.kind() == ErrorKind::NotFound => return println!("skipped: no openssl on PATH"),
        run => assert!(run.unwrap().status.success()),
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let theirs = PrivateKey::load(&path).unwrap();
    assert_eq!(*theirs.to_pkcs8_pem(), fs::read_to_string(&path).unwrap());
    let public = Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&path).output().unwrap();
    assert_eq!(theirs.public().to_spki_pem(), String::from_utf8(public.stdout).unwrap());
}
