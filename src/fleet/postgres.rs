//! The fleet store in PostgreSQL: a pool, TLS by rustls, transactions that are tried again where the database asks for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::{
    ClientWrapper, Hook, HookError, Manager, ManagerConfig, Metrics, Object, Pool, PoolError, RecyclingMethod, Runtime,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{IsNull, ToSql, Type, private::BytesMut, to_sql_checked};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::sql::{Inner, Many};
use super::{FleetError, Row, Sql, Value, Work};
use crate::crypto::sha256_hex;

/// Tries of a transaction that collided with another.
const TRIES: u32 = 10;
/// How long a statement, or waiting for a connection, may take.
const PATIENCE: Duration = Duration::from_secs(10);

const MIGRATIONS: &[&str] = &[
    include_str!("migrations/postgres/0001_fleet.sql"),
    include_str!("migrations/postgres/0002_bundles.sql"),
    include_str!("migrations/postgres/0003_requests.sql"),
    include_str!("migrations/postgres/0004_order_seq.sql"),
];
/// One migration at a time, whichever replica starts first: a number of our own for the advisory lock.
const LOCK: i64 = 0x6d61_6c61_6368_6f72;

/// A connection that was used so lately is not asked whether it lives before it is used again.
const LATELY: Duration = Duration::from_secs(1);

/// A connection while a transaction has it.
///
/// The pool gets it back only from a transaction that came to its end. What becomes of one that is dropped half-way, because
/// whoever asked hung up, is not known: its connection is closed, so that nobody else commits its first half.
#[derive(Debug)]
pub(super) struct Client {
    object: Option<Object>,
    /// It is for one statement, which is a transaction by itself.
    single: bool,
    used: AtomicBool,
}

impl Client {
    fn new(object: Object, single: bool) -> Self {
        Self { object: Some(object), single, used: AtomicBool::new(false) }
    }

    fn get(&self) -> Result<&Object, FleetError> {
        self.object.as_ref().ok_or(FleetError::Conflict)
    }

    /// The connection for the next statement of a verb.
    fn next(&self) -> Result<&Object, FleetError> {
        if self.single && self.used.swap(true, Ordering::Relaxed) {
            return Err(FleetError::Corrupt("a second statement where there was to be one".to_owned()));
        }
        self.get()
    }

    fn give_back(mut self) {
        drop(self.object.take());
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            drop(Object::take(object));
        }
    }
}

/// How to reach the database.
#[derive(Debug, Clone)]
pub struct Connection {
    /// `postgres://user@host:port/name`, or key=value pairs.
    pub url: String,
    /// The password, where it is not in the URL.
    pub password: Option<String>,
    /// Roots that the server's certificate is held to; `None` speaks without TLS, for a server on this machine.
    pub roots: Option<RootCertStore>,
    /// Connections at the most.
    pub connections: usize,
}

/// The pool.
#[derive(Debug)]
pub(super) struct Postgres {
    pool: Pool,
    name: String,
}

impl Postgres {
    pub(super) async fn open(to: Connection) -> Result<Self, FleetError> {
        let name = "postgresql".to_owned();
        let wrong = |why: String| FleetError::Unreachable { database: name.clone(), why };
        let mut config: tokio_postgres::Config =
            to.url.parse().map_err(|error: tokio_postgres::Error| wrong(error.to_string()))?;
        if let Some(password) = &to.password {
            config.password(password);
        }
        config
            .application_name("malachor")
            .connect_timeout(Duration::from_secs(5))
            .keepalives_idle(Duration::from_secs(30))
            .options("-c statement_timeout=10000 -c idle_in_transaction_session_timeout=30000");
        let database = format!("postgresql {}", config.get_dbname().unwrap_or("(default)"));
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = match to.roots {
            None => {
                config.ssl_mode(SslMode::Disable);
                Manager::from_config(config, tokio_postgres::NoTls, recycling)
            }
            Some(roots) => {
                config.ssl_mode(SslMode::Require);
                let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                    .with_safe_default_protocol_versions()
                    .map_err(|error| wrong(error.to_string()))?
                    .with_root_certificates(roots)
                    .with_no_client_auth();
                Manager::from_config(config, MakeRustlsConnect::new(tls), recycling)
            }
        };
        let pool = Pool::builder(manager)
            .max_size(to.connections.max(1))
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(PATIENCE))
            .create_timeout(Some(PATIENCE))
            .recycle_timeout(Some(PATIENCE))
            .pre_recycle(Hook::async_fn(|client, metrics| Box::pin(lives(client, metrics))))
            .build()
            .map_err(|error| wrong(error.to_string()))?;
        let postgres = Self { pool, name: database };
        postgres.migrate().await?;
        Ok(postgres)
    }

    async fn client(&self) -> Result<Object, FleetError> {
        self.pool.get().await.map_err(|error| {
            // What the pool says around it helps nobody.
            let why = if let PoolError::Backend(error) = &error { chain(error) } else { chain(&error) };
            FleetError::Unreachable { database: self.name.clone(), why }
        })
    }

    async fn migrate(&self) -> Result<(), FleetError> {
        let client = self.client().await?;
        let said = |error| failed(&error);
        client.batch_execute("BEGIN").await.map_err(said)?;
        client.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await.map_err(said)?;
        client
            .batch_execute(
                "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT PRIMARY KEY, sha256 TEXT NOT NULL)",
            )
            .await
            .map_err(said)?;
        let applied =
            client.query("SELECT version, sha256 FROM schema_version ORDER BY version", &[]).await.map_err(said)?;
        let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
        for row in &applied {
            let (version, sha256): (i64, String) = (row.get(0), row.get(1));
            let ours = usize::try_from(version - 1).ok().and_then(|index| MIGRATIONS.get(index));
            match ours {
                None => return Err(FleetError::Newer { database: self.name.clone(), found: version, known }),
                Some(ours) if sha256_hex(ours.as_bytes()) != sha256 => {
                    return Err(FleetError::Changed { database: self.name.clone(), version });
                }
                Some(_) => {}
            }
        }
        for (index, migration) in MIGRATIONS.iter().enumerate().skip(applied.len()) {
            client.batch_execute(migration).await.map_err(said)?;
            let version = i64::try_from(index).unwrap_or(i64::MAX).saturating_add(1);
            let insert = "INSERT INTO schema_version (version, sha256) VALUES ($1, $2)";
            client.execute(insert, &[&version, &sha256_hex(migration.as_bytes())]).await.map_err(said)?;
        }
        client.batch_execute("COMMIT").await.map_err(said)
    }

    pub(super) async fn write<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T, FleetError> {
        self.until_alone(|| self.transaction(Inner::Postgres, &work)).await
    }

    pub(super) async fn read<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T, FleetError> {
        self.transaction(Inner::Reading, &work).await
    }

    pub(super) async fn change<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T, FleetError> {
        self.until_alone(|| self.statement(Inner::Postgres, &work)).await
    }

    pub(super) async fn look<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T, FleetError> {
        self.statement(Inner::Reading, &work).await
    }

    /// Tries again while it collides with others, a few times.
    async fn until_alone<T, F: Future<Output = Result<T, FleetError>>>(
        &self,
        work: impl Fn() -> F,
    ) -> Result<T, FleetError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match work().await {
                Err(FleetError::Conflict) if tries < TRIES => tokio::time::sleep(pause(tries)).await,
                result => return result,
            }
        }
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, FleetError>>) -> Result<T, FleetError> {
        let late = |_| FleetError::Unreachable { database: self.name.clone(), why: "gave no answer".to_owned() };
        tokio::time::timeout(3 * PATIENCE, work).await.map_err(late)?
    }

    async fn transaction<T: Send + 'static>(
        &self,
        what: fn(Client) -> Inner,
        work: &impl Work<T>,
    ) -> Result<T, FleetError> {
        let sql = Sql(what(Client::new(self.client().await?, false)));
        let begin = match &sql.0 {
            Inner::Reading(_) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            Inner::Postgres(_) | Inner::Sqlite(_) => "BEGIN ISOLATION LEVEL REPEATABLE READ",
        };
        self.in_time(async {
            client_of(&sql)?.get()?.batch_execute(begin).await.map_err(|error| failed(&error))?;
            let result = work(&sql).await;
            let end = if result.is_ok() { "COMMIT" } else { "ROLLBACK" };
            // What became of a commit whose answer was lost is not known; whoever asks again finds out.
            match (result, client_of(&sql)?.get()?.batch_execute(end).await) {
                (result, Ok(())) => {
                    give_back(sql);
                    result
                }
                (Ok(_), Err(error)) => Err(failed(&error)),
                (Err(first), Err(_)) => Err(first),
            }
        })
        .await
    }

    /// One statement, which is a transaction by itself: one way there and back instead of three.
    async fn statement<T: Send + 'static>(
        &self,
        what: fn(Client) -> Inner,
        work: &impl Work<T>,
    ) -> Result<T, FleetError> {
        let sql = Sql(what(Client::new(self.client().await?, true)));
        self.in_time(async {
            let result = work(&sql).await;
            give_back(sql);
            result
        })
        .await
    }
}

/// Whether a connection that was not used lately still reaches a server: one that died in silence shows it only so.
async fn lives(client: &ClientWrapper, metrics: &Metrics) -> Result<(), HookError> {
    if metrics.last_used() < LATELY {
        return Ok(());
    }
    match tokio::time::timeout(PATIENCE, client.simple_query("")).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(HookError::Backend(error)),
        Err(_) => Err(HookError::message("gave no answer")),
    }
}

fn client_of(sql: &Sql) -> Result<&Client, FleetError> {
    match &sql.0 {
        Inner::Postgres(client) | Inner::Reading(client) => Ok(client),
        Inner::Sqlite(_) => Err(FleetError::Corrupt("a transaction of another database".to_owned())),
    }
}

fn give_back(sql: Sql) {
    match sql.0 {
        Inner::Postgres(client) | Inner::Reading(client) => client.give_back(),
        Inner::Sqlite(_) => {}
    }
}

/// Up to 5 ms, doubled each time: by chance, or those that collided would collide again.
fn pause(tries: u32) -> Duration {
    let mut random = [0_u8; 2];
    let part = SystemRandom::new().fill(&mut random).map_or(1.0, |()| f64::from(u16::from_le_bytes(random)) / 65_536.0);
    Duration::from_millis(5 << tries.min(6)).mul_f64(part)
}

pub(super) async fn rows(client: &Client, sql: &str, params: &[Value]) -> Result<Vec<Row>, FleetError> {
    let client = client.next()?;
    let statement = client.prepare_cached(sql).await.map_err(|error| failed(&error))?;
    let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
    let rows = client.query(&statement, &params).await.map_err(|error| failed(&error))?;
    rows.iter().map(read).collect()
}

pub(super) async fn run(client: &Client, sql: &str, params: &[Value]) -> Result<u64, FleetError> {
    let client = client.next()?;
    let statement = client.prepare_cached(sql).await.map_err(|error| failed(&error))?;
    let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
    client.execute(&statement, &params).await.map_err(|error| failed(&error))
}

pub(super) async fn run_many(client: &Client, many: &Many<'_>, rows: Vec<Vec<Value>>) -> Result<u64, FleetError> {
    let client = client.next()?;
    let statement = client.prepare_cached(&many.at_once()).await.map_err(|error| failed(&error))?;
    let mut columns: Vec<Vec<Value>> = many.columns.iter().map(|_| Vec::with_capacity(rows.len())).collect();
    for row in rows {
        for (column, value) in columns.iter_mut().zip(row) {
            column.push(value);
        }
    }
    let params: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
    client.execute(&statement, &params).await.map_err(|error| failed(&error))
}

fn read(row: &tokio_postgres::Row) -> Result<Row, FleetError> {
    let mut values = Vec::with_capacity(row.len());
    for (index, column) in row.columns().iter().enumerate() {
        let corrupt = |error: tokio_postgres::Error| FleetError::Corrupt(error.to_string());
        let value: Value = match *column.type_() {
            Type::INT8 => row.try_get::<_, Option<i64>>(index).map_err(corrupt)?.into(),
            Type::INT4 => row.try_get::<_, Option<i32>>(index).map_err(corrupt)?.map(i64::from).into(),
            Type::BOOL => row.try_get::<_, Option<bool>>(index).map_err(corrupt)?.into(),
            Type::TEXT | Type::VARCHAR | Type::NAME => row.try_get::<_, Option<String>>(index).map_err(corrupt)?.into(),
            Type::BYTEA => row.try_get::<_, Option<Vec<u8>>>(index).map_err(corrupt)?.into(),
            _ => return Err(FleetError::Corrupt(format!("a column of type {}", column.type_()))),
        };
        values.push(value);
    }
    Ok(Row(values))
}

impl ToSql for Value {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(value) => value.to_sql(kind, out),
            Self::Text(value) => value.to_sql(kind, out),
            Self::Bytes(value) => value.to_sql(kind, out),
        }
    }

    fn accepts(kind: &Type) -> bool {
        matches!(*kind, Type::INT8 | Type::TEXT | Type::BYTEA)
    }

    to_sql_checked!();
}

pub(super) fn failed(error: &tokio_postgres::Error) -> FleetError {
    let (database, why) = ("postgresql".to_owned(), chain(error));
    match error.code() {
        Some(code) if *code == SqlState::UNIQUE_VIOLATION => FleetError::Exists(why),
        Some(code) if *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED => {
            FleetError::Conflict
        }
        Some(code)
            if code.code().starts_with("08")
                || code.code().starts_with("57P")
                || code.code().starts_with("53")
                || *code == SqlState::QUERY_CANCELED =>
        {
            FleetError::Unreachable { database, why }
        }
        Some(_) => FleetError::Database { database, why },
        // No answer of the server: the connection.
        None => FleetError::Unreachable { database, why },
    }
}

/// An error with what it says about its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = next.source();
    }
    text
}
