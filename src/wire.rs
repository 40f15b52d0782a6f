//! What goes over the wire: one type for each body, shared by server and agent, unknown members refused.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::domain::id::{ApplianceId, SiteId};

/// Clocks differ: certificates hold from so many seconds before they were issued.
pub const EARLIER_S: i64 = 600;

/// The form of a site's or an appliance's id, of at most 63 letters, for the `OpenAPI` document.
pub const ID: &str = r"^[a-z0-9-]+(\.[a-z0-9-]+)*$";
/// The form of the id of an order or of a request for one.
pub const ORDER_ID: &str = "^(ORD|REQ)-[0-9a-f]{16}$";
/// The form of a runbook's id.
const CHECK_ID: &str = "^RB(-[A-Z0-9]+){1,3}-[0-9]{3}$";

/// First word of an enrolment token.
const PREFIX: &str = "mle1.";

/// Everything an appliance needs to come to this server and no other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// `https://fleet.example:7443`
    pub url: String,
    /// SHA-256 of the authority the server's certificate must come from, in hexadecimal.
    pub authority: String,
    /// First part of the log's name.
    pub operator_domain: String,
    /// The site.
    pub site: SiteId,
    /// The appliance.
    pub appliance: ApplianceId,
    /// The secret, used once.
    pub secret: String,
}

impl Token {
    /// The text to hand over.
    pub fn text(&self) -> String {
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default()))
    }

    /// Reads the text; `None` where it is none.
    pub fn read(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim().strip_prefix(PREFIX)?).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

/// What comes with an enrolment token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Enrol {
    /// The token's secret.
    pub secret: String,
    /// A certificate request (DER, base64) signed by a key that stays on the appliance.
    pub csr: String,
    /// Name of the appliance's log.
    pub origin: String,
    /// Verifier keys (C2SP vkey) of its log.
    pub keys: Keys,
    /// Signatures (base64) of the entry key and of the head key over `malachor/enrol/v1`, origin, secret's and request's
    /// SHA-256, a line each: whoever enrols has these keys.
    pub proof: Proof,
}

/// The keys of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// Signs entries.
    pub entry: String,
    /// Signs heads.
    pub head: String,
    /// The offline recovery key.
    pub recovery: Option<String>,
}

/// Proof of possession.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// By the entry key.
    pub entry: String,
    /// By the head key.
    pub head: String,
}

/// The text both keys sign.
pub fn proof_text(origin: &str, secret: &str, csr: &[u8]) -> String {
    let (secret, csr) = (crate::crypto::sha256_hex(secret.as_bytes()), crate::crypto::sha256_hex(csr));
    format!("malachor/enrol/v1\n{origin}\n{secret}\n{csr}\n")
}

/// What an enrolled appliance gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Enrolled {
    /// Its client certificate (PEM).
    pub certificate: String,
    /// The authority it holds the server to (PEM).
    pub authority: String,
    /// Keys that sign orders (C2SP vkey).
    pub order_keys: Vec<String>,
    /// The key that cosigns its heads (C2SP vkey).
    pub witness_key: String,
    /// The server's time, RFC 3339.
    pub server_time: String,
}

/// A request for a new certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Renew {
    /// A certificate request (DER, base64).
    pub csr: String,
}

/// The new certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Renewed {
    /// PEM.
    pub certificate: String,
}

/// How an appliance is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckIn {
    /// Version of its program.
    pub version: String,
    /// Its time, RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    pub time: String,
    /// Ids of the order keys it verifies with.
    pub order_keys: Vec<String>,
    /// The last order it used.
    pub order_seq: u64,
    /// Entries of its log.
    pub log_size: u64,
    /// Entries it has not handed over.
    pub outbox: u64,
    /// Counts of its posture.
    pub posture: Option<Value>,
    /// Its inventory, when it changed.
    pub inventory: Option<Value>,
}

/// What the server says to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckedIn {
    /// The server's time, RFC 3339.
    pub server_time: String,
    /// How far the appliance's clock is ahead of it, in milliseconds.
    pub clock_offset_ms: i64,
    /// Entries of the appliance's log the server holds.
    pub log_size: u64,
    /// The last order the server gave out.
    pub order_seq: u64,
    /// Whether the appliance came back with less than it had: it must not act before a person looks.
    pub rolled_back: bool,
    /// The keys that sign orders (a DSSE envelope, as text), where the appliance holds others.
    pub order_keys: Option<String>,
    /// The content it should work with; null where nothing was published.
    pub content: Option<Announced>,
    /// The configuration it should work with; null where nothing was published.
    pub config: Option<Announced>,
}

/// Which bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Announced {
    /// Its number.
    pub number: u64,
    /// SHA-256 of its manifest, in hexadecimal.
    pub sha256: String,
}

/// A bundle with its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BundleFiles {
    /// The signed manifest: a DSSE envelope, as text.
    pub envelope: String,
    /// The files it names.
    pub files: std::collections::BTreeMap<String, String>,
}

/// How far the server follows a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogState {
    /// Entries it holds.
    pub size: u64,
    /// The head it cosigned last, with its cosignature.
    pub note: Option<String>,
}

/// A receipt for evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Receipt {
    /// Entries the server holds now.
    pub size: u64,
    /// The appliance's head with the server's cosignature: verified, and in WORM.
    pub note: String,
}

/// Orders, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Orders {
    /// DSSE envelopes, as text.
    pub orders: Vec<String>,
}

/// A signed report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// A DSSE envelope, as text.
    pub envelope: String,
}

/// Nothing to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Empty {}

/// Whether every store answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ready {
    /// Whether it can do its work.
    pub ready: bool,
    /// `ok`, `degraded` or `down`, by part.
    pub parts: std::collections::BTreeMap<String, String>,
}

/// A runbook orders may name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunbookLine {
    /// Its id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Citations.
    pub hipaa: Vec<String>,
    /// How bad a failing finding is.
    pub severity: String,
    /// Whether it can heal anything.
    pub heals: bool,
}

/// Counts; null where nothing is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stats {
    /// Sites the caller sees.
    pub sites: u64,
    /// Appliances that may speak.
    pub appliances: u64,
    /// Of those, seen within five minutes.
    pub seen_lately: Option<u64>,
    /// Evidence of those sites in quarantine.
    pub quarantined: u64,
}

/// A site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SiteLine {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What it pays for.
    pub tier: String,
    /// Since when, RFC 3339.
    pub created_at: String,
}

/// A site to add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddSite {
    /// Its id: lower case letters, digits, `-` and `.`.
    #[schemars(extend("pattern" = ID, "maxLength" = 63))]
    pub id: String,
    /// What people call it.
    #[schemars(extend("pattern" = "\\S"))]
    pub name: String,
    /// essential, professional or enterprise.
    #[schemars(extend("enum" = ["essential", "professional", "enterprise"]))]
    pub tier: String,
}

/// An appliance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ApplianceLine {
    /// Its site.
    pub site: String,
    /// Its id.
    pub id: String,
    /// active, `rolled_back` or revoked.
    pub state: String,
    /// Name of its log.
    pub origin: String,
    /// When it was last seen, RFC 3339; null where never.
    pub last_seen_at: Option<String>,
    /// Version of its program; null where never seen.
    pub version: Option<String>,
    /// How far its clock is ahead, in milliseconds; null where never seen.
    pub clock_offset_ms: Option<i64>,
    /// Entries it had not handed over when last seen; null where never.
    pub outbox: Option<u64>,
    /// Entries of its log that the server holds, verified and in WORM.
    pub held: u64,
    /// Its posture; null where never told.
    pub posture: Option<Value>,
    /// What it is made of: system, mode, checks, which content and configuration; null where never told.
    pub inventory: Option<Value>,
}

/// What a token is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AskToken {
    /// Whether it may take the place of an appliance that is enrolled.
    #[serde(default)]
    pub again: bool,
}

/// Why something is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Because {
    /// In a sentence.
    pub reason: String,
}

/// A token, shown once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenText {
    /// The text to give to `malachor enroll`.
    pub token: String,
    /// Until when it holds, RFC 3339.
    pub expires_at: String,
}

/// An order somebody asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AskOrder {
    /// What to do: `{"do": "run_checks", "checks": []}` and the like.
    #[schemars(schema_with = "verb")]
    pub verb: Value,
    /// For which appliances: `site/appliance`, `site/*`, or `tier:professional`.
    #[schemars(extend("minItems" = 1))]
    pub target: Vec<String>,
    /// Why.
    #[schemars(extend("pattern" = r"\S"))]
    pub reason: String,
    /// For how many seconds it holds; half an hour where it is not said.
    #[schemars(extend("maximum" = 604_800))]
    pub life_s: Option<u32>,
}

/// The closed set of what may be ordered, as `domain::order::Verb` reads it.
fn verb(_: &mut SchemaGenerator) -> Schema {
    let of = |word: &str, more: &[(&str, Value)]| {
        let mut members = serde_json::Map::from_iter([("do".to_owned(), json!({"const": word}))]);
        members.extend(more.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())));
        let required: Vec<&String> = members.keys().collect();
        json!({"type": "object", "required": required, "properties": members, "additionalProperties": false})
    };
    let check = json!({"type": "string", "pattern": CHECK_ID});
    json_schema!({"oneOf": [
        of("run_checks", &[("checks", json!({"type": "array", "items": check}))]),
        of("run_runbook", &[("check", check), ("params", json!({"type": "object"}))]),
        of("sync_content", &[]),
        of("set_kill_switch", &[("on", json!({"type": "boolean"}))]),
        of("rotate_keys", &[]),
        of("update_config", &[]),
        of("collect_diagnostics", &[]),
    ]})
}

/// A second person's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Decide {
    /// Yes or no.
    pub approve: bool,
}

/// A request and its orders.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RequestLine {
    /// Its id.
    pub id: String,
    /// What was asked for.
    pub verb: Value,
    /// Whom it is for, as `site/appliance`; of the sites its reader sees.
    pub target: Vec<String>,
    /// Why.
    pub reason: String,
    /// Who asked.
    pub asked_by: String,
    /// When, RFC 3339.
    pub asked_at: String,
    /// waiting, issued, rejected or expired.
    pub state: String,
    /// Who decided.
    pub decided_by: Option<String>,
    /// One for each appliance.
    pub orders: Vec<OrderLine>,
}

/// One order as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OrderLine {
    /// Its id.
    pub id: String,
    /// The site.
    pub site: String,
    /// The appliance.
    pub appliance: String,
    /// Its place in the appliance's sequence.
    pub seq: u64,
    /// Where it stands.
    pub state: String,
    /// What the appliance said last.
    pub say: String,
    /// Until when it holds, RFC 3339.
    pub expires_at: String,
}

/// Who did what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditLine {
    /// Its number.
    pub id: i64,
    /// The site; empty for the fleet.
    pub site: String,
    /// When, RFC 3339.
    pub at: String,
    /// Who.
    pub actor: String,
    /// What.
    pub act: String,
    /// To what.
    pub object: String,
    /// done or refused.
    pub outcome: String,
    /// Anything else.
    pub detail: Value,
}
