//! What passes between an appliance and its server: entries that wait, receipts, orders that were used.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};

use super::{StoreError, Tx};

/// An order that has taken its place in the sequence; it is never used again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedOrder {
    /// Its place.
    pub seq: u64,
    /// Its id.
    pub id: String,
    /// Its nonce.
    pub nonce: String,
    /// The signed bytes.
    pub envelope: Vec<u8>,
    /// Where it stands: acknowledged, running, succeeded, failed or refused.
    pub state: String,
    /// What happened.
    pub say: String,
}

impl Tx<'_> {
    /// Entries from `from` on with the head that covers them, as the server takes them: lines, an empty line, the note.
    ///
    /// It ends at the last head within `most` entries, or at the next one, and before the first entry written after
    /// `until`; `None` where nothing waits.
    pub fn outgoing(&self, from: u64, most: u64, until: Timestamp) -> Result<Option<Vec<u8>>, StoreError> {
        let later =
            "SELECT coalesce(min(seq), 9223372036854775807) FROM outbox WHERE sent_at IS NULL AND queued_at > ?1";
        let end: i64 = self.sql.prepare_cached(later)?.query_row([until.to_string()], |row| row.get(0))?;
        let sql = "SELECT size, note FROM head WHERE size > ?1 AND size <= ?3
                   ORDER BY size <= ?2 DESC, CASE WHEN size <= ?2 THEN -size ELSE size END LIMIT 1";
        let head: Option<(u64, Vec<u8>)> = self
            .sql
            .prepare_cached(sql)?
            .query_row(params![from, from.saturating_add(most), end], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((size, note)) = head else { return Ok(None) };
        let mut body = Vec::new();
        let mut query = self.sql.prepare_cached("SELECT line FROM entry WHERE seq >= ?1 AND seq < ?2 ORDER BY seq")?;
        let mut rows = query.query(params![from, size])?;
        while let Some(row) = rows.next()? {
            body.extend(row.get::<_, Vec<u8>>(0)?);
            body.push(b'\n');
        }
        body.push(b'\n');
        body.extend(note);
        Ok(Some(body))
    }

    /// The server holds this many entries and cosigned this head.
    pub fn taken(&self, size: u64, note: &[u8], now: Timestamp) -> Result<(), StoreError> {
        let at = now.to_string();
        let sql = "INSERT INTO cosigned (size, note, received_at) VALUES (?1, ?2, ?3) ON CONFLICT (size) DO NOTHING";
        self.sql.prepare_cached(sql)?.execute(params![size, note, at])?;
        let sql = "UPDATE outbox SET sent_at = ?2 WHERE seq < ?1 AND sent_at IS NULL";
        self.sql.prepare_cached(sql)?.execute(params![size, at])?;
        Ok(())
    }

    /// Entries the server is known to hold.
    pub fn cosigned_size(&self) -> Result<u64, StoreError> {
        let sql = "SELECT coalesce(max(size), 0) FROM cosigned";
        Ok(self.sql.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }

    /// The last place in the order sequence that was used; 0 before the first.
    pub fn last_order(&self) -> Result<u64, StoreError> {
        let sql = "SELECT coalesce(max(seq), 0) FROM used_order";
        Ok(self.sql.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }

    /// Writes an order down as used, before anything of it is done; `false` where its place or nonce was used before.
    pub fn use_order(&self, order: &UsedOrder, now: Timestamp) -> Result<bool, StoreError> {
        let sql = "INSERT OR IGNORE INTO used_order (seq, id, nonce, envelope, received_at, state, say) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let UsedOrder { seq, id, nonce, envelope, state, say } = order;
        let changed =
            self.sql.prepare_cached(sql)?.execute(params![seq, id, nonce, envelope, now.to_string(), state, say])?;
        Ok(changed == 1)
    }

    /// The server handed a used order out again, so it missed our word: it is told once more. `false` for another order at
    /// that place.
    pub fn told_again(&self, seq: u64, id: &str) -> Result<bool, StoreError> {
        let sql = "UPDATE used_order SET told = 0 WHERE seq = ?1 AND id = ?2";
        Ok(self.sql.prepare_cached(sql)?.execute(params![seq, id])? == 1)
    }

    /// Moves a used order on; the server has yet to be told.
    pub fn put_order(&self, seq: u64, state: &str, say: &str) -> Result<(), StoreError> {
        let sql = "UPDATE used_order SET state = ?2, say = ?3, told = 0 WHERE seq = ?1";
        match self.sql.prepare_cached(sql)?.execute(params![seq, state, say])? {
            1 => Ok(()),
            _ => Err(StoreError::NotThere(format!("order {seq} was not used"))),
        }
    }

    /// Orders whose standing the server was not told, oldest first.
    pub fn untold_orders(&self) -> Result<Vec<UsedOrder>, StoreError> {
        self.used_orders(
            "SELECT seq, id, nonce, envelope, state, say FROM used_order WHERE told = 0 ORDER BY seq LIMIT 100",
        )
    }

    /// Orders that had begun and have no end: whoever was carrying them out is gone.
    pub fn unfinished_orders(&self) -> Result<Vec<UsedOrder>, StoreError> {
        self.used_orders("SELECT seq, id, nonce, envelope, state, say FROM used_order WHERE state IN ('acknowledged', 'running') ORDER BY seq")
    }

    fn used_orders(&self, sql: &str) -> Result<Vec<UsedOrder>, StoreError> {
        let mut query = self.sql.prepare_cached(sql)?;
        let rows = query.query_map([], |row| {
            Ok(UsedOrder {
                seq: row.get(0)?,
                id: row.get(1)?,
                nonce: row.get(2)?,
                envelope: row.get(3)?,
                state: row.get(4)?,
                say: row.get(5)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The server was told where an order stands.
    pub fn told(&self, seq: u64, state: &str) -> Result<(), StoreError> {
        let sql = "UPDATE used_order SET told = 1 WHERE seq = ?1 AND state = ?2";
        self.sql.prepare_cached(sql)?.execute(params![seq, state])?;
        Ok(())
    }
}
