//! The server's signing keys: one for orders, one with which it witnesses logs. Old order keys stay beside the current
//! one until every appliance has seen the new one.

use std::path::{Path, PathBuf};

use crate::crypto::keys::{KeyError, PrivateKey, SignatureType, VerifierKey};

/// What the server signs with.
#[derive(Debug)]
pub struct ServerKeys {
    order: PrivateKey,
    order_public: VerifierKey,
    witness: PrivateKey,
    witness_public: VerifierKey,
}

impl ServerKeys {
    /// Reads the keys of a folder, or makes them on the first start.
    pub fn open(dir: &Path, operator_domain: &str) -> Result<Self, KeyError> {
        let load = |file: &str| {
            let path: PathBuf = dir.join(file);
            if !path.exists() {
                PrivateKey::generate()?.create(&path)?;
            }
            PrivateKey::load(&path)
        };
        let (order, witness) = (load("order.pem")?, load("witness.pem")?);
        let order_public = VerifierKey::ed25519(format!("{operator_domain}/malachor/orders").parse()?, order.public());
        let witness_name = format!("{operator_domain}/malachor/witness").parse()?;
        let witness_public = VerifierKey::cosigner(witness_name, witness.public());
        debug_assert_eq!(witness_public.kind, SignatureType::CosignatureV1);
        Ok(Self { order, order_public, witness, witness_public })
    }

    /// Signs orders.
    pub fn order(&self) -> (&PrivateKey, &VerifierKey) {
        (&self.order, &self.order_public)
    }

    /// Cosigns heads.
    pub fn witness(&self) -> (&PrivateKey, &VerifierKey) {
        (&self.witness, &self.witness_public)
    }
}
