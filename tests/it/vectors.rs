//! Public test vectors: what the specifications say, not what we think.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use malachor::crypto::dsse::{Envelope, VerifyError, pae};
use malachor::crypto::keys::{PrivateKey, PublicKey, VerifierKey};
use malachor::crypto::merkle::{Frontier, Hash, leaf_hash, verify_consistency, verify_inclusion};
use malachor::crypto::note::{Checkpoint, Note};
use malachor::crypto::{jcs, json, sha256, unbase64};
use serde_json::Value;

fn vectors(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(path)
}

fn load(path: &str) -> Value {
    serde_json::from_slice(&fs::read(vectors(path)).unwrap()).unwrap()
}

fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

#[test]
fn wycheproof_gives_its_151_verdicts() {
    let mut seen = 0;
    for group in load("ed25519/wycheproof_ed25519_test.json")["testGroups"].as_array().unwrap() {
        let key = PublicKey::from_bytes(&unhex(&group["publicKey"]["pk"]).try_into().unwrap()).unwrap();
        assert_eq!(PublicKey::from_spki_pem(group["publicKeyPem"].as_str().unwrap()).unwrap(), key);
        for case in group["tests"].as_array().unwrap() {
            let signature: Result<[u8; 64], _> = unhex(&case["sig"]).try_into();
            let accepted = signature.is_ok_and(|sig| key.verify(&unhex(&case["msg"]), &sig).is_ok());
            assert_eq!(accepted, case["result"] == "valid", "tcId {}", case["tcId"]);
            seen += 1;
        }
    }
    assert_eq!(seen, 151);
}

/// Our rule is dalek's strict one, and on top no key of small or mixed order is ever loaded.
#[test]
fn cctv_edge_cases_are_accepted_as_the_strict_rule_accepts_them() {
    let (mut strict, mut ours) = (0, 0);
    for case in load("ed25519/cctv_ed25519vectors.json").as_array().unwrap() {
        let key: [u8; 32] = unhex(&case["key"]).try_into().unwrap();
        let sig: [u8; 64] = unhex(&case["sig"]).try_into().unwrap();
        let message = case["msg"].as_str().unwrap().as_bytes();
        let by_rule = VerifyingKey::from_bytes(&key)
            .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(&sig)).is_ok());
        let loaded = PublicKey::from_bytes(&key);
        let by_us = loaded.as_ref().is_ok_and(|key| key.verify(message, &sig).is_ok());
        assert!(by_rule || !by_us, "accepted beyond the strict rule: {}", case["number"]);
        if loaded.is_ok() {
            assert_eq!(by_us, by_rule, "{}", case["number"]);
        }
        strict += usize::from(by_rule);
        ours += usize::from(by_us);
    }
    assert_eq!(strict, 43);
    println!("cctv: strict rule accepts {strict}, with keys refused at load {ours}");
    assert!(ours > 0 && ours <= strict);
}

fn files(dir: &str, out: &mut Vec<PathBuf>) {
    for item in fs::read_dir(vectors(dir)).unwrap() {
        let path = item.unwrap().path();
        let inside = path.strip_prefix(vectors("")).unwrap().to_str().unwrap().to_owned();
        if path.is_dir() { files(&inside, out) } else { out.push(path) }
    }
}

fn hash(value: &Value) -> Option<Hash> {
    unbase64(value.as_str()?)?.try_into().ok()
}

/// Some cases carry a phrase where a root belongs, meaning "any": its digest stands for it.
fn root(value: &Value) -> Option<Hash> {
    let bytes = unbase64(value.as_str()?)?;
    Some(bytes.as_slice().try_into().unwrap_or_else(|_| sha256(&bytes)))
}

/// `None` when a hash has the wrong length or a number is no index: such a case must be one that is rejected.
fn proof_verdict(case: &Value, consistency: bool) -> Option<bool> {
    let proof: Vec<Hash> = case["proof"].as_array().into_iter().flatten().map(hash).collect::<Option<_>>()?;
    Some(if consistency {
        let (old, new) = (root(&case["root1"])?, root(&case["root2"])?);
        verify_consistency((case["size1"].as_u64()?, &old), (case["size2"].as_u64()?, &new), &proof).is_ok()
    } else {
        let (leaf, root) = (hash(&case["leafHash"])?, root(&case["root"])?);
        verify_inclusion(&leaf, case["leafIdx"].as_u64()?, case["treeSize"].as_u64()?, &proof, &root).is_ok()
    })
}

#[test]
fn merkle_proof_cases_are_judged_as_their_files_say() {
    let mut counts = [0, 0];
    for (kind, dir) in ["merkle/inclusion", "merkle/consistency"].into_iter().enumerate() {
        let mut paths = vec![];
        files(dir, &mut paths);
        for path in paths {
            let case: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            let accepted = proof_verdict(&case, kind == 1).unwrap_or(false);
            assert_eq!(accepted, !case["wantErr"].as_bool().unwrap(), "{}", path.display());
            counts[kind] += 1;
        }
    }
    println!("merkle: {counts:?} cases");
    assert!(counts[0] > 50 && counts[1] > 50);
}

#[test]
fn rfc_8785_pairs_agree_and_what_is_outside_the_subset_says_why() {
    for name in ["arrays", "unicode", "values", "weird"] {
        let input = fs::read(vectors(&format!("jcs/input/{name}.json"))).unwrap();
        let output = fs::read(vectors(&format!("jcs/output/{name}.json"))).unwrap();
        let loose: Value = serde_json::from_slice(&input).unwrap();
        let strict = json::parse(&input, input.len());
        match name {
            "values" => {
                assert!(strict.unwrap_err().to_string().contains("not an integer"));
                assert!(jcs::to_vec(&loose).unwrap_err().to_string().contains("not an integer"));
            }
            "weird" => {
                assert!(strict.unwrap_err().to_string().contains("not ascii"));
                let mut written = Vec::new();
                jcs::emit(&loose, &mut written);
                assert_eq!(written, output.trim_ascii_end());
            }
            _ => assert_eq!(jcs::to_vec(&strict.unwrap()).unwrap(), output.trim_ascii_end(), "{name}"),
        }
    }
}

#[test]
fn signed_notes_open_as_their_vectors_say() {
    for case in load("tlog/note_vectors.json")["notes"].as_array().unwrap() {
        let keys: Vec<VerifierKey> =
            case["vkeys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().parse().unwrap()).collect();
        let opened = Note::parse(case["note"].as_str().unwrap().as_bytes()).unwrap().verify(&keys);
        assert_eq!(opened.is_ok(), case["ok"].as_bool().unwrap(), "{}: {opened:?}", case["name"]);
    }
}

#[test]
fn a_cosigned_checkpoint_opens_under_either_key() {
    let note = fs::read(vectors("peer-checked/checkpoint")).unwrap();
    for key in ["site", "witness"] {
        let key: VerifierKey =
            fs::read_to_string(vectors(&format!("peer-checked/{key}.vkey"))).unwrap().parse().unwrap();
        let opened = Checkpoint::open(&note, std::slice::from_ref(&key)).unwrap();
        assert_eq!((opened.get().size, opened.signer()), (300, &key.key));
        let later = String::from_utf8(note.clone()).unwrap().replace("\n300\n", "\n301\n");
        assert!(Checkpoint::open(later.as_bytes(), &[key]).is_err());
    }
}

#[test]
fn a_real_tlog_tiles_log_has_the_roots_its_checkpoints_sign() {
    let key: VerifierKey = fs::read_to_string(vectors("tlog/tessera-testlog.vkey")).unwrap().parse().unwrap();
    let bundle = fs::read(vectors("tlog/tessera-testlog/tile/entries/000.p/15")).unwrap();
    let (mut rest, mut frontier, mut roots) = (bundle.as_slice(), Frontier::default(), vec![]);
    roots.push(frontier.root());
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let (entry, tail) = tail.split_at(usize::from(u16::from_be_bytes(*length)));
        frontier.push(leaf_hash(entry), |_| ());
        roots.push(frontier.root());
        rest = tail;
    }
    let mut seen = 0;
    for size in (0..=10).chain([15]) {
        let note = fs::read(vectors(&format!("tlog/tessera-testlog/checkpoint.{size}"))).unwrap();
        let head = Checkpoint::open(&note, std::slice::from_ref(&key)).unwrap().into_inner();
        assert_eq!((head.size, head.root), (size, roots[usize::try_from(size).unwrap()]));
        seen += 1;
    }
    assert_eq!(seen, 12);
}

#[test]
fn the_pre_authentication_encoding_is_that_of_the_specification() {
    let spec = load("dsse/spec_vector.json");
    let payload = spec["payload"].as_str().unwrap().as_bytes();
    assert_eq!(pae(spec["payloadType"].as_str().unwrap(), payload), spec["pae"].as_str().unwrap().as_bytes());
    let envelope = spec["ecdsa_p256"]["envelope"].to_string();
    assert_eq!(STANDARD.encode(payload), spec["ecdsa_p256"]["envelope"]["payload"].as_str().unwrap());
    let envelope = Envelope::parse(envelope.as_bytes()).unwrap();
    assert_eq!((envelope.payload.as_slice(), envelope.signatures[0].keyid.as_str()), (payload, ""));
    let ours = PrivateKey::from_seed(&[7; 32]).public();
    assert_eq!(envelope.verify(&[ours]), Err(VerifyError::BadSignature), "ecdsa is not ours to accept");
}

#[test]
fn an_envelope_other_tools_accepted_is_accepted() {
    let line = fs::read(vectors("peer-checked/b0.json")).unwrap();
    let pem = fs::read_to_string(vectors("peer-checked/site.pub.pem")).unwrap();
    let key = PublicKey::from_spki_pem(&pem).unwrap();
    assert_eq!(key.to_spki_pem(), pem);
    let envelope = Envelope::parse(&line).unwrap();
    assert_eq!(pae(&envelope.payload_type, &envelope.payload), fs::read(vectors("peer-checked/b0.pae")).unwrap());
    assert_eq!(envelope.signatures[0].sig.as_slice(), fs::read(vectors("peer-checked/b0.sig")).unwrap());
    assert!(envelope.verify(&[key]).is_ok());
}
