//! The state of a file, by which a change to it is noticed.

use std::{os::unix::fs::MetadataExt, path::Path};

/// The identity of one state of a file, to notice a change; `None`: the file can't be read.
pub type FileStamp = Option<(u64, i64, i64, u64)>;

/// The state that a file is in. Follows symbolic links: files may be replaced by replacing a linked directory.
pub fn file_stamp(path: &Path) -> FileStamp {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
}
