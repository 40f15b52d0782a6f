//! A log in SQLite, read without leaving a mark.
//!
//! A plain read-only connection would still create `-shm` and `-wal` files beside a WAL database. So: without WAL
//! content the file is opened as immutable; with it, SQLite is told to keep its hands off the shared-memory file and
//! index the WAL in its own memory; where that is not possible, a private copy is read.

use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, params};
use tempfile::TempDir;

use super::{RawEntry, RawHead, SourceError, Spot, io_error, name_of};
use crate::crypto::merkle::Node;

/// How often a copy is tried again when the original changed meanwhile.
const COPIES: u32 = 8;

pub(in crate::evidence) struct Database {
    conn: Connection,
    next: i64,
    heads_from: i64,
    name: Arc<str>,
    /// The file opened as immutable, with its state then.
    watched: Option<(PathBuf, Stamp)>,
    /// Removed again when reading is over.
    copy: Option<TempDir>,
}

/// Enough of a file's state to notice a write.
type Stamp = (u64, Option<SystemTime>);

/// Whether the file begins like a SQLite database.
pub(super) fn is_database(path: &Path) -> Result<bool, SourceError> {
    if !path.is_file() {
        return Ok(false);
    }
    let mut start = Vec::new();
    File::open(path).and_then(|file| file.take(16).read_to_end(&mut start)).map_err(io_error(path))?;
    Ok(start == b"SQLite format 3\0")
}

impl Database {
    /// `copied` reads a private copy in any case: of a file that changed while it was read.
    pub(super) fn open(path: &Path, copied: bool) -> Result<Self, SourceError> {
        let path = &path.canonicalize().map_err(io_error(path))?;
        if copied {
            return Self::of_copy(path);
        }
        if size_of(&beside(path, "-wal")) == 0 {
            let stamp = stamp(path)?;
            let mut database = Self::connect(path, "immutable=1", path)?;
            database.watched = Some((path.clone(), stamp));
            return Ok(database);
        }
        if beside(path, "-shm").is_file()
            && let Ok(database) = Self::connect(path, "readonly_shm=1", path)
        {
            return Ok(database);
        }
        Self::of_copy(path)
    }

    fn of_copy(path: &Path) -> Result<Self, SourceError> {
        let copy = private_copy(path)?;
        let inside = copy.path().join(name_of(path));
        let mut database = Self::connect(&inside, "readonly_shm=0", path)?;
        database.copy = Some(copy);
        Ok(database)
    }

    fn connect(path: &Path, how: &str, original: &Path) -> Result<Self, SourceError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        #[expect(clippy::disallowed_methods, reason = "an auditor's file, opened read-only and never written")]
        let conn = Connection::open_with_flags(format!("file:{}?mode=ro&{how}", escaped(path)), flags)?;
        conn.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA query_only = ON; BEGIN")?;
        let tables = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('entry', 'head', 'node')";
        if conn.query_row(tables, [], |row| row.get::<_, i64>(0))? != 3 {
            return Err(SourceError::Foreign { path: name_of(original), why: "no evidence log in this database" });
        }
        let name = name_of(original).into();
        Ok(Self { conn, next: i64::MIN, heads_from: i64::MIN, name, watched: None, copy: None })
    }

    fn spot(&self) -> Spot {
        Spot { file: Arc::clone(&self.name), line: None }
    }

    pub(super) fn seek(&mut self, seq: u64) {
        self.next = i64::try_from(seq).unwrap_or(i64::MAX);
    }

    pub(super) fn entries(&mut self, max: usize) -> Result<Vec<RawEntry>, SourceError> {
        let mut query = self.conn.prepare_cached(
            "SELECT seq, substr(line, 1, 65536), substr(leaf, 1, 64) FROM entry WHERE seq >= ?1 ORDER BY seq LIMIT ?2",
        )?;
        let mut rows = query.query(params![self.next, max])?;
        let mut out = Vec::with_capacity(max);
        while let Some(row) = rows.next()? {
            let seq = self.index(row)?;
            let (line, leaf) = (bytes(row, 1)?, Some(bytes(row, 2)?));
            out.push(RawEntry { seq: Some(seq), line, leaf, spot: self.spot() });
            self.next = row.get::<_, i64>(0)?.saturating_add(1);
        }
        Ok(out)
    }

    pub(super) fn heads(&mut self, size: u64) -> Result<Vec<RawHead>, SourceError> {
        let limit = i64::try_from(size).unwrap_or(i64::MAX);
        let mut query = self.conn.prepare_cached(
            "SELECT size, substr(note, 1, 65537) FROM head WHERE size BETWEEN ?1 AND ?2 ORDER BY size",
        )?;
        let mut rows = query.query(params![self.heads_from, limit])?;
        let mut out = Vec::new();
        while let Some(row) = rows.next()? {
            out.push(RawHead { size: self.index(row)?, note: bytes(row, 1)?, spot: self.spot() });
        }
        self.heads_from = limit.saturating_add(1);
        Ok(out)
    }

    fn index(&self, row: &Row<'_>) -> Result<u64, SourceError> {
        let why = "a row has a negative index";
        row.get::<_, i64>(0)?.try_into().map_err(|_| SourceError::Foreign { path: self.name.to_string(), why })
    }

    pub(super) fn node(&self, node: &Node) -> Result<Option<Vec<u8>>, SourceError> {
        let mut query =
            self.conn.prepare_cached("SELECT substr(hash, 1, 64) FROM node WHERE level = ?1 AND idx = ?2")?;
        let found = query.query_row(params![node.level, node.index], |row| Ok(bytes(row, 0))).optional()?;
        found.transpose()
    }

    pub(super) fn node_count(&self) -> Result<u64, SourceError> {
        Ok(self.conn.query_row("SELECT count(*) FROM node", [], |row| row.get(0))?)
    }

    pub(super) fn finish(&self) -> Result<(), SourceError> {
        let Some((path, then)) = &self.watched else { return Ok(()) };
        let now = stamp(path)?;
        if now == *then && size_of(&beside(path, "-wal")) == 0 {
            Ok(())
        } else {
            Err(SourceError::Changed(self.name.to_string()))
        }
    }
}

/// A column's bytes whatever type it was given; a tampered row need not be a blob.
fn bytes(row: &Row<'_>, column: usize) -> Result<Vec<u8>, SourceError> {
    Ok(match row.get_ref(column)? {
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => bytes.to_vec(),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => Vec::new(),
    })
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn size_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.len())
}

fn stamp(path: &Path) -> Result<Stamp, SourceError> {
    let of = |meta: Metadata| (meta.len(), meta.modified().ok());
    match fs::metadata(path) {
        // No WAL is as good as an empty one.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok((0, None)),
        found => found.map(of).map_err(io_error(path)),
    }
}

/// A path as part of a SQLite URI.
fn escaped(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"/._-".contains(&c);
    let one = |c: &u8| if plain(*c) { char::from(*c).to_string() } else { format!("%{c:02X}") };
    path.as_os_str().as_bytes().iter().map(one).collect()
}

/// Copies the database and its WAL as they were at one moment.
#[expect(clippy::disallowed_methods, reason = "verifying is work for a whole thread")]
fn private_copy(path: &Path) -> Result<TempDir, SourceError> {
    let private = fs::Permissions::from_mode(0o700);
    let builder = tempfile::Builder::new().prefix("malachor-verify-").permissions(private).tempdir();
    let dir = builder.map_err(io_error(path))?;
    let pair = [path.to_owned(), beside(path, "-wal")];
    for turn in 0..COPIES {
        std::thread::sleep(std::time::Duration::from_millis(10) * turn);
        let before = pair.iter().map(|file| stamp(file)).collect::<Result<Vec<_>, _>>()?;
        // A database that was closed cleanly has no WAL.
        for file in &pair {
            let copy = dir.path().join(name_of(file));
            match fs::copy(file, &copy) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => drop(fs::remove_file(&copy)),
                copied => drop(copied.map_err(io_error(file))?),
            }
        }
        if before == pair.iter().map(|file| stamp(file)).collect::<Result<Vec<_>, _>>()? {
            return Ok(dir);
        }
    }
    Err(SourceError::Changed(name_of(path)))
}
