//! Where the server under load remembers its fleet: a file, or a PostgreSQL that was started for this and syncs to disk.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use malachor::fleet::{Place, PostgresConnection};
use tempfile::TempDir;

/// Databases to be had.
pub(crate) enum Databases {
    Sqlite,
    Postgres(Postgres),
}

/// A server of our own; it ends with this value.
pub(crate) struct Postgres {
    dir: TempDir,
    port: u16,
    password: String,
    made: AtomicUsize,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        script().args(["clean", "-d"]).arg(self.dir.path()).output().ok();
    }
}

impl Databases {
    pub(crate) fn postgres() -> Self {
        let dir = tempfile::Builder::new().prefix("malachor-fleet-pg-").tempdir().expect("a directory");
        for step in [&["install", "pg"][..], &["start", "-d", &dir.path().display().to_string(), "pg"]] {
            let done = script().args(step).env("MALACHOR_PEERS_DURABLE", "1").output().expect("bash");
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
        let var = |name: &str| {
            std::fs::read_to_string(dir.path().join("vars").join(name))
                .unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let (port, password) = (var("PGPORT").parse().expect("a port"), var("PGPASSWORD"));
        Self::Postgres(Postgres { dir, port, password, made: AtomicUsize::new(0) })
    }

    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }

    /// Seconds of a core that the database has used beside the server's own process.
    pub(crate) fn cpu(&self) -> f64 {
        match self {
            Self::Sqlite => 0.0,
            Self::Postgres(postgres) => super::process::cpu_of_family(postgres.pid()),
        }
    }

    /// An empty database: where it is, and how the server's configuration says so.
    pub(crate) async fn make(&self, server_dir: &Path) -> (Place, String) {
        match self {
            Self::Sqlite => (Place::File(server_dir.join("fleet.db")), String::new()),
            Self::Postgres(postgres) => {
                let name = postgres.make().await;
                let url = postgres.url(&name);
                let file = server_dir.join("password");
                write_private(&file, postgres.password.as_bytes());
                let config =
                    format!("[server.store]\nurl = \"{url}\"\npassword = {{ file = \"{}\" }}\n", file.display());
                let password = Some(postgres.password.clone());
                (Place::Postgres(PostgresConnection { url, password, roots: None, connections: 4 }), config)
            }
        }
    }
}

impl Postgres {
    fn pid(&self) -> u32 {
        let text = std::fs::read_to_string(self.dir.path().join("pg.pid")).expect("the database's process id");
        text.trim().parse().expect("a process id")
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://tester@localhost:{}/{database}", self.port)
    }

    async fn make(&self) -> String {
        let name = format!("fleet_{}", self.made.fetch_add(1, Ordering::Relaxed));
        self.client("postgres").await.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a database");
        name
    }

    /// A connection to an empty database.
    pub(crate) async fn empty(&self) -> tokio_postgres::Client {
        let name = self.make().await;
        self.client(&name).await
    }

    async fn client(&self, database: &str) -> tokio_postgres::Client {
        let mut config: tokio_postgres::Config = self.url(database).parse().expect("an address");
        let (client, connection) =
            config.password(&self.password).connect(tokio_postgres::NoTls).await.expect("the database");
        tokio::spawn(connection);
        client
    }
}

fn script() -> Command {
    let mut command = Command::new("bash");
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/services.sh");
    command.arg(path);
    command
}

fn write_private(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes)).expect("a private file");
}
