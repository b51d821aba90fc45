//! Reads files that the configuration names. Only regular files of a limited size are read, so that
//! reading always ends. A named pipe without a writer would block the start for ever.

use std::fs::{FileType, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::O_NONBLOCK;

/// The largest file that is read, in bytes.
const FILE_MAX: u64 = 4 << 20;

/// Returns the content of a file.
///
/// # Errors
/// If it cannot be read, is not a regular file, or is larger than 4 MiB. The error text gives
/// the reason.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>, String> {
    // Without O_NONBLOCK, opening a named pipe waits for a process that writes to it.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(path);
    let file = opened.map_err(|err| format!("cannot be read: {err}"))?;
    let metadata = file
        .metadata()
        .map_err(|err| format!("cannot be read: {err}"))?;
    if !metadata.is_file() {
        return Err(format!(
            "is {}; name a regular file",
            kind(metadata.file_type())
        ));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|err| format!("cannot be read: {err}"))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err("is larger than 4 MiB, the most that is read".to_owned());
    }
    Ok(bytes)
}

/// Returns the content of a file as text.
///
/// # Errors
/// As for [`read_bytes`], and if it is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, String> {
    String::from_utf8(read_bytes(path)?).map_err(|_| "is not UTF-8 text".to_owned())
}

fn kind(file: FileType) -> &'static str {
    match file {
        file if file.is_dir() => "a folder",
        file if file.is_fifo() => "a named pipe",
        file if file.is_char_device() || file.is_block_device() => "a device",
        _ => "not a regular file",
    }
}
