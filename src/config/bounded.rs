//! Reading a file that may be anything: a pipe is not waited for, and what has no end has one here.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// The bytes of a regular file of at most `most` bytes; else why not, without its name.
pub fn bytes_of(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    checked(path, most, |_| Ok(()))
}

/// The same as text.
pub fn text_of(path: &Path, most: u64) -> Result<String, String> {
    String::from_utf8(bytes_of(path, most)?).map_err(|_| "is not UTF-8 text".to_owned())
}

/// The same of a file of root or this user that has none of the `refused` bits of its mode set.
pub(super) fn private_text_of(path: &Path, most: u64, refused: u32) -> Result<String, String> {
    let bytes = checked(path, most, |meta| {
        let (name, mode, me) = (path.display(), meta.mode() & 0o777, rustix::process::geteuid());
        if meta.uid() != 0 && meta.uid() != me.as_raw() {
            return Err(format!("belongs to user {}, who could change it; run `chown root {name}`", meta.uid()));
        }
        if mode & refused != 0 {
            return Err(format!("others can read it (mode {mode:04o}); run `chmod 600 {name}`"));
        }
        Ok(())
    });
    String::from_utf8(bytes?).map_err(|_| "is not UTF-8 text".to_owned())
}

fn checked(
    path: &Path,
    most: u64,
    fits: impl FnOnce(&std::fs::Metadata) -> Result<(), String>,
) -> Result<Vec<u8>, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    // Opening a pipe would wait for a writer.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err("is not a regular file".to_owned());
    }
    fits(&meta)?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > most {
        return Err(format!("is larger than {} KiB", most / 1024));
    }
    Ok(bytes)
}
