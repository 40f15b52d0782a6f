//! Reading and replacing files below the host's root.

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::OFlags;

use super::{Host, HostError};

/// A file larger than this is not read by a collector.
const READ_CAP: u64 = 4 * 1024 * 1024;

/// Opening waits for no writer of a pipe and takes over no terminal.
const NO_WAITING: i32 = OFlags::NONBLOCK.union(OFlags::NOCTTY).bits().cast_signed();

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link (not followed).
    Link,
    /// A socket, device or pipe.
    Other,
}

/// What `lstat` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Kind of file.
    pub kind: FileKind,
    /// Permission bits, `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Last change of content; `None` where the time is outside what can be represented.
    pub modified: Option<Timestamp>,
}

/// Use of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsUsage {
    /// All bytes.
    pub bytes_total: u64,
    /// Bytes an unprivileged user can still write.
    pub bytes_available: u64,
    /// All inodes; zero where the file system has no fixed number.
    pub inodes_total: u64,
    /// Free inodes.
    pub inodes_free: u64,
}

impl Host {
    /// The text of a file (lossy UTF-8, at most 4 MiB).
    pub fn read(&self, path: &str) -> Result<String, HostError> {
        self.read_bytes(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The bytes of a file, at most 4 MiB.
    pub fn read_bytes(&self, path: &str) -> Result<Vec<u8>, HostError> {
        let file = self.open_file(path)?;
        let mut bytes = Vec::new();
        file.take(READ_CAP + 1).read_to_end(&mut bytes).map_err(|error| HostError::from_io(path, &error))?;
        if bytes.len() as u64 > READ_CAP {
            return Err(HostError::Garbage { what: path.to_owned(), why: "larger than 4 MiB".to_owned() });
        }
        Ok(bytes)
    }

    /// Opens a regular file. Anybody may put a pipe or a device under a name we read: those are refused, and opening one
    /// waits for nobody.
    fn open_file(&self, path: &str) -> Result<std::fs::File, HostError> {
        let io = |error: std::io::Error| HostError::from_io(path, &error);
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).custom_flags(NO_WAITING).open(self.path(path)).map_err(io)?;
        if file.metadata().map_err(io)?.is_file() {
            Ok(file)
        } else {
            Err(HostError::Garbage { what: path.to_owned(), why: "is not a regular file".to_owned() })
        }
    }

    /// A file and what it is, read through one handle that follows no link: nobody can put another one in between.
    ///
    /// `None` where there is none.
    pub fn read_unfollowed(&self, path: &str) -> Result<Option<(Stat, Vec<u8>)>, HostError> {
        let io = |error: std::io::Error| HostError::from_io(path, &error);
        let not_regular = || HostError::Garbage { what: path.to_owned(), why: "is not a regular file".to_owned() };
        let mut options = std::fs::OpenOptions::new();
        let flags = NO_WAITING | OFlags::NOFOLLOW.bits().cast_signed();
        let file = match options.read(true).custom_flags(flags).open(self.path(path)) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                return Err(not_regular());
            }
            Err(error) => return Err(io(error)),
        };
        let stat = stat_of(&file.metadata().map_err(io)?);
        if stat.kind != FileKind::File {
            return Err(not_regular());
        }
        let mut bytes = Vec::new();
        file.take(READ_CAP + 1).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() as u64 > READ_CAP {
            return Err(HostError::Garbage { what: path.to_owned(), why: "larger than 4 MiB".to_owned() });
        }
        Ok(Some((stat, bytes)))
    }

    /// The first `count` bytes of a file, or all there are.
    pub fn head(&self, path: &str, count: u64) -> Result<Vec<u8>, HostError> {
        let file = self.open_file(path)?;
        let mut bytes = Vec::new();
        file.take(count).read_to_end(&mut bytes).map_err(|error| HostError::from_io(path, &error))?;
        Ok(bytes)
    }

    /// The last `count` bytes of a file, or all there are.
    pub fn tail(&self, path: &str, count: u64) -> Result<Vec<u8>, HostError> {
        let io = |error: std::io::Error| HostError::from_io(path, &error);
        let mut file = self.open_file(path)?;
        let length = file.metadata().map_err(io)?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(count))).map_err(io)?;
        let mut bytes = Vec::new();
        file.take(count).read_to_end(&mut bytes).map_err(io)?;
        Ok(bytes)
    }

    /// SHA-256 (hex) and length of a file of any size.
    pub fn digest(&self, path: &str) -> Result<(String, u64), HostError> {
        let io = |error: std::io::Error| HostError::from_io(path, &error);
        let mut file = self.open_file(path)?;
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        let (mut chunk, mut length) = (vec![0_u8; 64 * 1024], 0_u64);
        loop {
            let read = file.read(&mut chunk).map_err(io)?;
            if read == 0 {
                return Ok((crate::crypto::hex(context.finish().as_ref()), length));
            }
            context.update(chunk.get(..read).unwrap_or_default());
            length += read as u64;
        }
    }

    /// The names in a directory, sorted.
    pub fn list(&self, path: &str) -> Result<Vec<String>, HostError> {
        let entries = std::fs::read_dir(self.path(path)).map_err(|error| HostError::from_io(path, &error))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| HostError::from_io(path, &error))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// What a path is, without following a link.
    pub fn stat(&self, path: &str) -> Result<Stat, HostError> {
        let meta = std::fs::symlink_metadata(self.path(path)).map_err(|error| HostError::from_io(path, &error))?;
        Ok(stat_of(&meta))
    }

    /// Whether something is there, a dangling link included.
    pub fn exists(&self, path: &str) -> bool {
        self.stat(path).is_ok()
    }

    /// The text of a symbolic link.
    pub fn read_link(&self, path: &str) -> Result<String, HostError> {
        std::fs::read_link(self.path(path))
            .map(|target| target.to_string_lossy().into_owned())
            .map_err(|error| HostError::from_io(path, &error))
    }

    /// Use of the file system that holds `path`.
    pub fn fs_usage(&self, path: &str) -> Result<FsUsage, HostError> {
        let stat = rustix::fs::statvfs(self.path(path))
            .map_err(|error| HostError::from_io(path, &std::io::Error::from(error)))?;
        Ok(FsUsage {
            bytes_total: stat.f_blocks.saturating_mul(stat.f_frsize),
            bytes_available: stat.f_bavail.saturating_mul(stat.f_frsize),
            inodes_total: stat.f_files,
            inodes_free: stat.f_ffree,
        })
    }

    /// Replaces a file atomically: new file beside it, same directory, fsync, rename, fsync of the directory.
    ///
    /// Without `owner` a file that is there keeps its owner. The new file's name is always the same, so that what a
    /// crash leaves behind goes with the next try.
    pub fn replace(&self, path: &str, content: &[u8], mode: u32, owner: Option<(u32, u32)>) -> Result<(), HostError> {
        let io = |error: std::io::Error| HostError::from_io(path, &error);
        let full = self.path(path);
        let (dir, new) = beside(&full).ok_or_else(|| HostError::Missing(format!("directory of {path}")))?;
        let owner = owner.or_else(|| self.stat(path).ok().map(|stat| (stat.uid, stat.gid)));
        let write = || {
            remove_if_there(&new)?;
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            std::io::Write::write_all(&mut file, content)?;
            let now = file.metadata()?;
            if let Some((uid, gid)) = owner
                && (now.uid(), now.gid()) != (uid, gid)
            {
                std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
            }
            file.set_permissions(std::fs::Permissions::from_mode(mode))?;
            file.sync_all()?;
            std::fs::rename(&new, &full)?;
            std::fs::File::open(dir)?.sync_all()
        };
        let written = write();
        if written.is_err() {
            remove_if_there(&new).ok();
        }
        written.map_err(io)
    }

    /// Removes a file and what a crash may have left beside it; it is no error if nothing is there.
    pub fn remove(&self, path: &str) -> Result<(), HostError> {
        let full = self.path(path);
        let remove = || {
            if let Some((_, new)) = beside(&full) {
                remove_if_there(&new)?;
            }
            remove_if_there(&full)
        };
        remove().map_err(|error| HostError::from_io(path, &error))
    }
}

fn stat_of(meta: &std::fs::Metadata) -> Stat {
    let kind = match meta.file_type() {
        kind if kind.is_file() => FileKind::File,
        kind if kind.is_dir() => FileKind::Dir,
        kind if kind.is_symlink() => FileKind::Link,
        _ => FileKind::Other,
    };
    Stat {
        kind,
        mode: meta.permissions().mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        size: meta.len(),
        modified: Timestamp::new(meta.mtime(), 0).ok(),
    }
}

/// The directory of a file, and the name its next content is written under.
fn beside(full: &Path) -> Option<(&Path, PathBuf)> {
    let (dir, name) = (full.parent()?, full.file_name()?);
    Some((dir, dir.join(format!(".malachor-{}", name.to_string_lossy()))))
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
