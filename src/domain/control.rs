//! The HIPAA Security Rule as a catalogue: 45 CFR 164.308 to 164.316, and what is only proposed, marked as such.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::schema::nearest;

/// One standard or implementation specification.
#[derive(Debug, Clone, Deserialize)]
pub struct Control {
    /// `45 CFR 164.312(a)(1)`.
    pub citation: String,
    /// The rule's own heading.
    pub title: String,
    /// Required, addressable, or a standard.
    pub designation: Designation,
    /// In our words; no legal advice.
    pub summary: String,
    /// How far a machine can tell.
    pub checkable: Checkable,
}

/// How binding a specification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Designation {
    /// Every standard must be met.
    Standard,
    /// Must be implemented.
    Required,
    /// Implemented, an equivalent alternative, or a documented reason why not.
    Addressable,
}

/// How far a machine can check a control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checkable {
    /// Wholly.
    Technical,
    /// In part.
    Partial,
    /// Only a person can attest it.
    Attestation,
}

/// A change to the rule that is proposed and not law.
#[derive(Debug, Clone, Deserialize)]
pub struct Proposal {
    /// Short name.
    pub id: String,
    /// Where it would stand.
    #[serde(rename = "where")]
    pub place: String,
    /// What it would ask.
    pub what: String,
}

/// The catalogue.
#[derive(Debug, Clone)]
pub struct Controls {
    by_citation: BTreeMap<String, Control>,
    /// Proposed changes (90 FR 898, RIN 0945-AA22): not law.
    pub proposals: Vec<Proposal>,
}

#[derive(Deserialize)]
struct File {
    schema: String,
    controls: Vec<Control>,
    nprm_proposals: Vec<Proposal>,
}

impl Controls {
    /// Reads the catalogue file.
    pub fn parse(json: &str) -> Result<Self, String> {
        let file: File = serde_json::from_str(json).map_err(|error| error.to_string())?;
        if file.schema != "malachor.hipaa-controls/1" {
            return Err(format!("schema `{}` is not malachor.hipaa-controls/1", file.schema));
        }
        let by_citation =
            file.controls.into_iter().map(|control| (short(&control.citation).to_owned(), control)).collect();
        Ok(Self { by_citation, proposals: file.nprm_proposals })
    }

    /// The control a citation without `45 CFR` names.
    pub fn get(&self, citation: &str) -> Option<&Control> {
        self.by_citation.get(citation)
    }

    /// All controls in the order of their citations.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Control)> {
        self.by_citation.iter().map(|(citation, control)| (citation.as_str(), control))
    }

    /// Refuses a citation that is not in the rule, naming the nearest.
    pub fn check(&self, citation: &str) -> Result<(), String> {
        if self.by_citation.contains_key(citation) {
            return Ok(());
        }
        let near = nearest(citation, self.by_citation.keys().map(String::as_str));
        let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
        Err(format!("`{citation}` is not a citation of 45 CFR 164.308 to 164.316{hint}"))
    }
}

fn short(citation: &str) -> &str {
    citation.strip_prefix("45 CFR ").unwrap_or(citation)
}
