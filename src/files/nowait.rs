//! Reads of a file from the page cache, which never wait for the disk.

use std::{fs::File, io};

/// Returns the number of bytes read, at least one except at the end of the file; `None` if the read would
/// wait for the disk, or that is unknown.
#[cfg(target_os = "linux")]
pub(super) fn read(file: &File, into: &mut [u8], at: u64) -> io::Result<Option<usize>> {
    use rustix::io::{preadv2, Errno, ReadWriteFlags};
    use std::os::unix::fs::FileExt;
    match preadv2(file, &mut [io::IoSliceMut::new(into)], at, ReadWriteFlags::NOWAIT) {
        Ok(read) => Ok(Some(read)),
        // Some file systems don't support the flag. One in memory never waits.
        Err(Errno::OPNOTSUPP) if is_in_memory(file) => file.read_at(into, at).map(Some),
        Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns true for tmpfs and ramfs.
#[cfg(target_os = "linux")]
fn is_in_memory(file: &File) -> bool {
    const TMPFS: u32 = 0x0102_1994;
    const RAMFS: u32 = 0x8584_58f6;
    rustix::fs::fstatfs(file).is_ok_and(|system| [TMPFS, RAMFS].contains(&(system.f_type as u32)))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn read(_: &File, _: &mut [u8], _: u64) -> io::Result<Option<usize>> {
    Ok(None)
}
