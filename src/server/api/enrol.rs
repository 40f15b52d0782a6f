//! Enrolment by one-time token, and renewal of certificates.

use std::sync::Arc;

use serde_json::json;

use crate::crypto::keys::{PublicKey, SignatureType, VerifierKey};
use crate::crypto::{sha256, unbase64};
use crate::domain::time::signed;
use crate::fleet::BoxFuture;
use crate::fleet::enrolments::{self, Certificate};
use crate::fleet::sites::{self, EvidenceKeys};
use crate::server::authority::{Identity, Issued};
use crate::server::problem::Problem;
use crate::server::router::{Answer, Ask};
use crate::server::state::{State, audited};
use crate::wire::{Enrol, Enrolled, Renew, Renewed, proof_text};

type Reply = BoxFuture<'static, Result<Answer, Problem>>;

pub(super) fn enrol(state: Arc<State>, ask: Ask) -> Reply {
    Box::pin(async move {
        let asked: Enrol = ask.json()?;
        let csr = unbase64(&asked.csr).ok_or_else(|| Problem::bad("csr", "is not base64"))?;
        let keys = keys_of(&asked)?;
        possesses(&asked, &csr, &keys)?;
        let (now, peer) = (state.clock.now(), ask.peer.to_string());
        let (hash, this) = (sha256(asked.secret.as_bytes()), Arc::clone(&state));
        let stored = EvidenceKeys {
            entry: asked.keys.entry.clone(),
            head: asked.keys.head.clone(),
            recovery: asked.keys.recovery.clone(),
        };
        let keys = state.keys();
        let held = keys.order_ids();
        let issued = state
            .fleet
            .write(move |sql| {
                let held = held.clone();
                let (this, csr, origin, stored, peer) =
                    (Arc::clone(&this), csr.clone(), asked.origin.clone(), stored.clone(), peer.clone());
                Box::pin(async move {
                    let token = enrolments::use_token(sql, &hash, now).await?;
                    let named = format!("{}/malachor/{}/{}", this.operator_domain, token.site, token.appliance);
                    if origin != named {
                        let why = format!("the token is for the log {named}, not for {origin}");
                        return Err(crate::fleet::FleetError::Refused(why));
                    }
                    let life = (now, signed(this.config.certificate_life.0));
                    let issued = this
                        .authority
                        .issue(&csr, (&token.site, &token.appliance), life)
                        .map_err(|error| crate::fleet::FleetError::Refused(error.to_string()))?;
                    enrolments::enrol(sql, &token, (&origin, &stored), &certificate(&issued), now).await?;
                    sites::hold_order_keys(sql, &token.site, &token.appliance, &held).await?;
                    let name = format!("{}/{}", token.site, token.appliance);
                    let detail = json!({"again": token.again, "serial": issued.serial, "peer": peer, "keys": {"entry": stored.entry, "head": stored.head}});
                    audited(sql, (token.site.as_str(), now), (&format!("appliance:{name}"), "appliance.enrol", &name), detail).await?;
                    Ok(issued)
                })
            })
            .await?;
        state.read_revoked().await?;
        Answer::json(&Enrolled {
            certificate: issued.pem,
            authority: state.authority.pem().to_owned(),
            order_keys: keys.order_keys(),
            witness_key: keys.witness().1.to_string(),
            server_time: now.to_string(),
        })
    })
}

fn certificate(issued: &Issued) -> Certificate {
    Certificate { serial: issued.serial.clone(), not_before: issued.not_before, not_after: issued.not_after }
}

/// The keys, if they are of this log, and two.
fn keys_of(asked: &Enrol) -> Result<(PublicKey, PublicKey), Problem> {
    let key = |field: &str, text: &str, name: String| {
        let vkey: VerifierKey = text.parse().map_err(|error| Problem::bad(field, format!("{error}")))?;
        let ours = vkey.name.as_str() == name && vkey.kind == SignatureType::Ed25519;
        if ours { Ok(vkey.key) } else { Err(Problem::bad(field, format!("is not a plain Ed25519 key named {name}"))) }
    };
    let entry = key("keys.entry", &asked.keys.entry, format!("{}/entry", asked.origin))?;
    let head = key("keys.head", &asked.keys.head, asked.origin.clone())?;
    if let Some(recovery) = &asked.keys.recovery {
        key("keys.recovery", recovery, format!("{}/recovery", asked.origin))?;
    }
    if entry == head {
        return Err(Problem::bad("keys", "entries and heads are signed by two keys"));
    }
    Ok((entry, head))
}

fn possesses(asked: &Enrol, csr: &[u8], (entry, head): &(PublicKey, PublicKey)) -> Result<(), Problem> {
    let text = proof_text(&asked.origin, &asked.secret, csr);
    for (field, signature, key) in [("proof.entry", &asked.proof.entry, entry), ("proof.head", &asked.proof.head, head)]
    {
        let signature = unbase64(signature).and_then(|bytes| bytes.try_into().ok());
        let signature: [u8; 64] = signature.ok_or_else(|| Problem::bad(field, "is not a signature in base64"))?;
        key.verify(text.as_bytes(), &signature).map_err(|_| Problem::bad(field, "does not hold"))?;
    }
    Ok(())
}

pub(super) fn renew(state: Arc<State>, ask: Ask, identity: Identity) -> Reply {
    Box::pin(async move {
        let asked: Renew = ask.json()?;
        let csr = unbase64(&asked.csr).ok_or_else(|| Problem::bad("csr", "is not base64"))?;
        let now = state.clock.now();
        let life = (now, signed(state.config.certificate_life.0));
        let issued = state
            .authority
            .issue(&csr, (&identity.site, &identity.appliance), life)
            .map_err(|error| Problem::bad("csr", error.to_string()))?;
        let (kept, who) = (certificate(&issued), identity.clone());
        state
            .fleet
            .write(move |sql| {
                let (kept, who) = (kept.clone(), who.clone());
                Box::pin(async move {
                    // Asked once more, in here: between the gate and this the appliance may have been revoked.
                    enrolments::may_go_on(sql, &who.site, &who.appliance, &who.serial).await?;
                    enrolments::add_certificate(sql, &who.site, &who.appliance, &kept, now).await?;
                    let name = format!("{}/{}", who.site, who.appliance);
                    let detail = json!({"serial": kept.serial, "replaces": who.serial});
                    audited(
                        sql,
                        (who.site.as_str(), now),
                        (&format!("appliance:{name}"), "certificate.renew", &name),
                        detail,
                    )
                    .await
                })
            })
            .await?;
        Answer::json(&Renewed { certificate: issued.pem })
    })
}
