//! One transaction of either database, in the SQL both understand.
//!
//! Parameters are `$1`, `$2`, …; columns are named; order is total; time is a parameter. Rows that a transaction means to
//! change are read with `FOR UPDATE`, which SQLite has no need of: it has one writer.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::types::{ToSqlOutput, ValueRef};

use super::postgres::Client;
use super::{FleetError, Row, Value, postgres, sqlite};
use crate::domain::id::SiteId;
use crate::domain::role::Sites;

/// How a query says that it means to change what it reads.
const LOCK: &str = " FOR UPDATE";

/// A transaction under way.
#[derive(Debug)]
pub struct Sql(pub(super) Inner);

#[derive(Debug)]
pub(super) enum Inner {
    /// The writer's (or a reader's) connection, inside a transaction. Nobody else holds it while work runs.
    Sqlite(Arc<Mutex<rusqlite::Connection>>),
    Postgres(Client),
    /// PostgreSQL locks no rows for somebody who only reads.
    Reading(Client),
}

impl Sql {
    /// The rows of a query.
    pub async fn rows(&self, sql: &str, params: &[Value]) -> Result<Vec<Row>, FleetError> {
        match &self.0 {
            Inner::Sqlite(connection) => {
                let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                sqlite_rows(&connection, sql, params).map_err(|error| sqlite::failed(&error))
            }
            Inner::Postgres(client) => postgres::rows(client, sql, params).await,
            Inner::Reading(client) => postgres::rows(client, &sql.replace(LOCK, ""), params).await,
        }
    }

    /// The first row of a query, if any.
    pub async fn row(&self, sql: &str, params: &[Value]) -> Result<Option<Row>, FleetError> {
        Ok(self.rows(sql, params).await?.into_iter().next())
    }

    /// Changes rows; says how many.
    pub async fn run(&self, sql: &str, params: &[Value]) -> Result<u64, FleetError> {
        match &self.0 {
            Inner::Sqlite(connection) => {
                let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                sqlite_run(&connection, sql, params).map_err(|error| sqlite::failed(&error))
            }
            Inner::Postgres(client) | Inner::Reading(client) => postgres::run(client, sql, params).await,
        }
    }

    /// Changes exactly one row, or says why not.
    pub async fn run_one(&self, sql: &str, params: &[Value], missing: &str) -> Result<(), FleetError> {
        match self.run(sql, params).await? {
            0 => Err(FleetError::NotThere(missing.to_owned())),
            _ => Ok(()),
        }
    }

    /// Runs one statement for many rows of parameters.
    ///
    /// `columns` names what each row holds, as `int8`, `text` or `bytea`: PostgreSQL takes all rows in one statement over
    /// unnested arrays, for which `sql` ends in `SELECT * FROM unnest(…)`; SQLite runs `sql_each` once a row.
    pub async fn run_many(&self, many: &Many<'_>, rows: Vec<Vec<Value>>) -> Result<u64, FleetError> {
        match &self.0 {
            Inner::Sqlite(connection) => {
                let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                let insert = many.one_at_a_time();
                let mut changed = 0;
                for row in &rows {
                    changed += sqlite_run(&connection, &insert, row).map_err(|error| sqlite::failed(&error))?;
                }
                Ok(changed)
            }
            Inner::Postgres(client) | Inner::Reading(client) => postgres::run_many(client, many, rows).await,
        }
    }
}

/// A condition on a column: one of these values, which become parameters.
pub(super) fn one_of<'a>(column: &str, values: impl IntoIterator<Item = &'a str>, params: &mut Vec<Value>) -> String {
    let mut places = Vec::new();
    for value in values {
        params.push(value.into());
        places.push(format!("${}", params.len()));
    }
    // PostgreSQL has no empty list.
    if places.is_empty() { "1 = 0".to_owned() } else { format!("{column} IN ({})", places.join(", ")) }
}

/// A condition on a column: one of these sites.
pub(super) fn within(column: &str, sites: &Sites, params: &mut Vec<Value>) -> String {
    match sites {
        Sites::All => "1 = 1".to_owned(),
        Sites::Some(sites) => one_of(column, sites.iter().map(SiteId::as_str), params),
    }
}

/// Rows for one table.
#[derive(Debug, Clone, Copy)]
pub struct Many<'a> {
    /// The table.
    pub table: &'a str,
    /// Its columns with PostgreSQL's type of each: `int8`, `text` or `bytea`.
    pub columns: &'a [(&'a str, &'a str)],
}

impl Many<'_> {
    fn names(&self) -> String {
        self.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    fn one_at_a_time(&self) -> String {
        let places: Vec<String> = (1..=self.columns.len()).map(|n| format!("${n}")).collect();
        format!("INSERT INTO {} ({}) VALUES ({})", self.table, self.names(), places.join(", "))
    }

    pub(super) fn at_once(&self) -> String {
        let arrays: Vec<String> =
            self.columns.iter().enumerate().map(|(n, (_, kind))| format!("${}::{kind}[]", n + 1)).collect();
        format!("INSERT INTO {} ({}) SELECT * FROM unnest({})", self.table, self.names(), arrays.join(", "))
    }
}

/// The same text for SQLite: `?1` for `$1`, and no row locks.
fn in_sqlite(sql: &str) -> String {
    sql.replace('$', "?").replace(LOCK, "")
}

struct Param<'a>(&'a Value);

impl rusqlite::ToSql for Param<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Int(value) => ValueRef::Integer(*value),
            Value::Text(value) => ValueRef::Text(value.as_bytes()),
            Value::Bytes(value) => ValueRef::Blob(value),
        }))
    }
}

fn sqlite_rows(connection: &rusqlite::Connection, sql: &str, params: &[Value]) -> rusqlite::Result<Vec<Row>> {
    let mut statement = connection.prepare_cached(&in_sqlite(sql))?;
    let columns = statement.column_count();
    let mut rows = statement.query(rusqlite::params_from_iter(params.iter().map(Param)))?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        let mut values = Vec::with_capacity(columns);
        for column in 0..columns {
            values.push(match row.get_ref(column)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(value) => Value::Int(value),
                // No column of ours is a float.
                #[expect(clippy::cast_possible_truncation, reason = "sums and averages are asked for as whole numbers")]
                ValueRef::Real(value) => Value::Int(value as i64),
                ValueRef::Text(value) => Value::Text(String::from_utf8_lossy(value).into_owned()),
                ValueRef::Blob(value) => Value::Bytes(value.to_vec()),
            });
        }
        out.push(Row(values));
    }
    Ok(out)
}

fn sqlite_run(connection: &rusqlite::Connection, sql: &str, params: &[Value]) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare_cached(&in_sqlite(sql))?;
    statement.execute(rusqlite::params_from_iter(params.iter().map(Param))).map(|changed| changed as u64)
}
