//! Schema versions: `PRAGMA user_version` counts the migrations applied; a newer schema is refused.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::StoreError;

/// Every migration from the first schema on; never edited once released.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_log.sql"),
    include_str!("migrations/0002_agent.sql"),
    include_str!("migrations/0003_baseline.sql"),
    include_str!("migrations/0004_outbox.sql"),
    include_str!("migrations/0005_server.sql"),
];

/// Applies what is missing, each migration in a transaction of its own.
pub(super) fn run(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |error: rusqlite::Error| StoreError::sql(path, &error);
    for (index, migration) in MIGRATIONS.iter().enumerate() {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let applied: i64 = tx.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        let (applied, known) = (usize::try_from(applied).unwrap_or(usize::MAX), MIGRATIONS.len());
        if applied > known {
            return Err(StoreError::Newer { path: path.to_owned(), found: applied, known });
        }
        if applied == index {
            tx.execute_batch(migration).map_err(failed)?;
            tx.pragma_update(None, "user_version", index + 1).map_err(failed)?;
        }
        tx.commit().map_err(failed)?;
    }
    Ok(())
}
