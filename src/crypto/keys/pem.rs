//! One PEM block, strictly (RFC 7468): 64 columns, nothing before or after but white space.

use zeroize::Zeroizing;

use super::KeyError;
use crate::crypto::{base64, unbase64};

/// The bytes inside the only block, which must carry `label`.
pub(super) fn decode(label: &'static str, text: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let body = text
        .trim()
        .strip_prefix(&format!("-----BEGIN {label}-----"))
        .and_then(|rest| rest.strip_suffix(&format!("-----END {label}-----")))
        .ok_or(KeyError::Pem(label))?;
    let joined = Zeroizing::new(body.split_ascii_whitespace().collect::<String>());
    unbase64(&joined).map(Zeroizing::new).ok_or(KeyError::Pem(label))
}

/// The bytes as a block with `label`.
pub(super) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(base64(der));
    let mut out = Zeroizing::new(format!("-----BEGIN {label}-----\n"));
    for (column, c) in body.chars().enumerate() {
        if column > 0 && column % 64 == 0 {
            out.push('\n');
        }
        out.push(c);
    }
    out.extend(["\n-----END ", label, "-----\n"]);
    out
}
