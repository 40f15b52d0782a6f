//! `quarantine`: what appliances signed that contradicts itself or what the server held before.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::fleet::logs;
use crate::host::Host;

use super::server::on_runtime;
use super::session::Session;
use super::tenants::{listed, open, said};
use super::{Exit, Failure};

/// Contradictions.
#[derive(Debug, Subcommand)]
pub(super) enum Quarantine {
    /// List what is kept, oldest first
    List,
    /// Write what one row keeps into a file: the lines, an empty line, the head, and for a fork the server's own head
    Export(Export),
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// The row's number, from `malachor quarantine list`
    id: u64,
    /// The file to make
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Quarantine {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        on_runtime(async {
            let (fleet, ..) = open(session, Some("list")).await?;
            match self {
                Self::List => {
                    let all = fleet.read(|sql| Box::pin(logs::quarantine_rows(sql))).await?;
                    let rows = all.iter().map(|row| {
                        let name = format!("{}/{}", row.site, row.appliance);
                        let json = json!({
                            "schema": "malachor.quarantined/1", "id": row.id, "appliance": name,
                            "at": row.at.to_string(), "reason": row.reason, "sha256": row.sha256, "bytes": row.bytes,
                        });
                        let (id, bytes) = (row.id.to_string(), row.bytes.to_string());
                        (json, vec![id, name, row.reason.clone(), row.at.to_string(), bytes])
                    });
                    listed(session, &["ID", "APPLIANCE", "REASON", "AT", "BYTES"], rows);
                }
                Self::Export(Export { id, out }) => {
                    let body = fleet.read(move |sql| Box::pin(logs::quarantine_body(sql, id))).await?;
                    let name = out.display().to_string();
                    if out.exists() {
                        return Err(Failure::new(Exit::Usage, format!("{name}: is there already")));
                    }
                    let written = Host::live().replace(&name, &body, 0o600, None);
                    written.map_err(|error| Failure::unavailable(&error))?;
                    let line = format!("{id} is in {name}");
                    said(session, &json!({"schema": "malachor.done/1", "say": line}), line.clone());
                }
            }
            Ok(Exit::Ok)
        })
    }
}
