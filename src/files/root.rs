//! A root directory: opens files below it, and nothing outside.
//!
//! The kernel enforces the confinement: `openat2` with `RESOLVE_BENEATH` resolves the whole path in one call
//! and fails if any part of it would lead out, whatever is renamed or linked meanwhile. Without `openat2`
//! (before Linux 5.6, or forbidden by a sandbox), each segment is opened by itself and no symbolic link is
//! ever followed.
//!
//! A file is opened with `O_NONBLOCK`, so that a pipe can't block, and its type is checked before anything is
//! read.

use super::{answer::FileIdentity, nowait, path::RelativePath};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use rustix::{
    fs::{fstat, openat, FileType, Mode, OFlags, Stat, CWD},
    io::Errno,
};
use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// The time that the directory itself is kept open: a root that is a link to the newest release may be moved.
const ROOT_LIFETIME: Duration = Duration::from_secs(1);

/// The permission to wait for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskWait {
    /// Reads only from the page cache, for threads that serve other requests as well. Else
    /// [`OpenError::NotNow`].
    None,
    /// Waits as long as it takes.
    Any,
}

/// The reason why a file is not opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// It does not exist.
    #[error("there is no such file")]
    NotFound,
    /// A symbolic link where links are not followed, or one that leads out of the root.
    #[error("the path holds a symbolic link that may not be followed")]
    Link,
    /// A pipe, a socket, a device.
    #[error("it is no regular file")]
    NotRegular,
    /// A directory where a file is needed.
    #[error("it is a directory")]
    Directory,
    /// The process may not read it.
    #[error("it may not be read")]
    Denied,
    /// It is not in the page cache, and waiting was not allowed.
    #[error("the file is not in the page cache")]
    NotNow,
    /// The system failed: too many open files, a broken disk.
    #[error("{0}")]
    Io(#[source] io::Error),
}

/// The kind of file at a path.
#[derive(Debug)]
pub(crate) enum PathEntry {
    /// A regular file, open for reading.
    File(Arc<OpenFile>),
    /// A directory.
    Directory,
}

/// A regular file that is open.
#[derive(Debug)]
pub(crate) struct OpenFile {
    /// The file.
    pub file: File,
    /// The metadata from when it was opened.
    pub stamp: FileIdentity,
}

impl OpenFile {
    /// Reads all of it at once; `None` if it is being changed.
    ///
    /// # Errors
    /// If it can't be read.
    pub(super) fn whole(&self, patience: DiskWait) -> Result<Option<Bytes>, OpenError> {
        let mut content = BytesMut::zeroed(usize::try_from(self.stamp.length).unwrap_or(0));
        if self.beginning(&mut content, patience)? < content.len() {
            // A short read: the rest is on the disk, or the file was truncated.
            return if patience == DiskWait::None { Err(OpenError::NotNow) } else { Ok(None) };
        }
        let stat = fstat(&self.file).map_err(|error| OpenError::Io(error.into()))?;
        Ok((stamp_of(&stat) == self.stamp).then(|| content.freeze()))
    }

    /// Reads its beginning. Returns the number of bytes read.
    ///
    /// # Errors
    /// If it can't be read.
    pub(super) fn beginning(&self, into: &mut [u8], patience: DiskWait) -> Result<usize, OpenError> {
        let read = match patience {
            _ if into.is_empty() => Ok(Some(0)),
            DiskWait::None => nowait::read(&self.file, into, 0),
            DiskWait::Any => self.file.read_at(into, 0).map(Some),
        };
        read.map_err(OpenError::Io)?.ok_or(OpenError::NotNow)
    }
}

/// A directory below which files are opened.
#[derive(Debug)]
pub(crate) struct FileRoot {
    path: PathBuf,
    symlinks: bool,
    /// True for `openat2`; false for segment by segment.
    whole: bool,
    open: Mutex<Option<(Arc<OwnedFd>, Instant)>>,
}

impl FileRoot {
    /// The directory at `path`, which need not exist yet. `symlinks`: links are followed if they stay within
    /// it.
    pub(crate) fn new(path: PathBuf, symlinks: bool) -> Self {
        let whole = beneath::is_there();
        if symlinks && !whole {
            tracing::warn!(path = %path.display(), "no symbolic link is followed: the system has no openat2");
        }
        Self { path, symlinks, whole, open: Mutex::default() }
    }

    /// Opens a path.
    ///
    /// # Errors
    /// If it is nothing that may be read, or the system fails.
    pub(crate) fn open(&self, path: &RelativePath, patience: DiskWait) -> Result<PathEntry, OpenError> {
        self.open_at(path.as_str(), patience)
    }

    /// Opens the file at a path. Waits for the disk on another thread.
    ///
    /// # Errors
    /// If it is no file that may be read, or the system fails.
    pub(crate) async fn file(self: &Arc<Self>, path: RelativePath) -> Result<Arc<OpenFile>, OpenError> {
        if path.is_directory() {
            return Err(OpenError::Directory);
        }
        let found = match self.open(&path, DiskWait::None) {
            Err(OpenError::NotNow) => {
                let root = self.clone();
                let opening = tokio::task::spawn_blocking(move || root.open(&path, DiskWait::Any));
                opening.await.unwrap_or_else(|error| Err(OpenError::Io(error.into())))?
            }
            found => found?,
        };
        match found {
            PathEntry::File(opened) => Ok(opened),
            PathEntry::Directory => Err(OpenError::Directory),
        }
    }

    /// The same, for the text of a [`RelativePath`].
    pub(super) fn open_at(&self, path: &str, patience: DiskWait) -> Result<PathEntry, OpenError> {
        let root = self.directory()?;
        let path = if path.is_empty() { "." } else { path };
        let opened = match self.whole {
            true => beneath::open(&root, path, self.symlinks, patience),
            false if patience == DiskWait::None => return Err(OpenError::NotNow),
            false => open_by_segments(&root, path),
        };
        inspect_file(opened.map_err(|error| self.meaning(error, patience))?)
    }

    /// The directory itself, reopened from time to time.
    fn directory(&self) -> Result<Arc<OwnedFd>, OpenError> {
        let now = Instant::now();
        let mut open = self.open.lock();
        if let Some((directory, since)) = open.as_ref() {
            if now.saturating_duration_since(*since) < ROOT_LIFETIME {
                return Ok(directory.clone());
            }
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, &self.path, flags, Mode::empty());
        let directory = Arc::new(directory.map_err(|error| self.meaning(error, DiskWait::Any))?);
        *open = Some((directory.clone(), now));
        Ok(directory)
    }

    fn meaning(&self, error: Errno, patience: DiskWait) -> OpenError {
        match error {
            Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::INVAL => OpenError::NotFound,
            Errno::LOOP | Errno::XDEV => OpenError::Link,
            Errno::NXIO | Errno::NODEV => OpenError::NotRegular,
            Errno::ACCESS | Errno::PERM => OpenError::Denied,
            Errno::AGAIN if patience == DiskWait::None => OpenError::NotNow,
            error => OpenError::Io(error.into()),
        }
    }
}

/// The flags for opening a file.
fn read_flags() -> OFlags {
    OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC
}

/// Checks the type of an opened file.
fn inspect_file(opened: OwnedFd) -> Result<PathEntry, OpenError> {
    let stat = fstat(&opened).map_err(|error| OpenError::Io(error.into()))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Ok(PathEntry::Directory),
        FileType::RegularFile => {
            Ok(PathEntry::File(Arc::new(OpenFile { file: opened.into(), stamp: stamp_of(&stat) })))
        }
        _ => Err(OpenError::NotRegular),
    }
}

fn stamp_of(stat: &Stat) -> FileIdentity {
    FileIdentity {
        length: u64::try_from(stat.st_size).unwrap_or(0),
        modified: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        changed: (stat.st_ctime, u32::try_from(stat.st_ctime_nsec).unwrap_or(0)),
        inode: stat.st_ino,
    }
}

/// Opens segment by segment and never follows a link, so that no step leads out.
fn open_by_segments(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let mut segments = path.split('/');
    let Some(last) = segments.next_back() else { return Err(Errno::NOENT) };
    let mut at: Option<OwnedFd> = None;
    for segment in segments {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = openat(at.as_ref().unwrap_or(root).as_fd(), segment, flags, Mode::empty())?;
        at = Some(next);
    }
    openat(at.as_ref().unwrap_or(root).as_fd(), last, read_flags() | OFlags::NOFOLLOW, Mode::empty())
}

/// Resolves the whole path by one call of the kernel.
#[cfg(target_os = "linux")]
mod beneath {
    use super::{read_flags, DiskWait, Errno, Mode, OFlags, OwnedFd, CWD};
    use rustix::fs::{openat2, ResolveFlags};
    use std::sync::OnceLock;

    /// The number of attempts while something is renamed at the same time.
    const ATTEMPTS: u32 = 16;

    /// Returns true if the kernel has the call, and no sandbox forbids it.
    pub(super) fn is_there() -> bool {
        static THERE: OnceLock<bool> = OnceLock::new();
        *THERE.get_or_init(|| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat2(CWD, ".", flags, Mode::empty(), ResolveFlags::BENEATH).is_ok()
        })
    }

    pub(super) fn open(
        root: &OwnedFd,
        path: &str,
        symlinks: bool,
        patience: DiskWait,
    ) -> Result<OwnedFd, Errno> {
        let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        if !symlinks {
            resolve |= ResolveFlags::NO_SYMLINKS;
        }
        if patience == DiskWait::None {
            return openat2(root, path, read_flags(), Mode::empty(), resolve | ResolveFlags::CACHED);
        }
        let mut attempt = 1;
        loop {
            match openat2(root, path, read_flags(), Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) if attempt < ATTEMPTS => attempt += 1,
                other => return other,
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod beneath {

    pub(super) fn is_there() -> bool {
        false
    }

    pub(super) fn open(_: &OwnedFd, _: &str, _: bool, _: DiskWait) -> Result<OwnedFd, Errno> {
        Err(Errno::NOSYS)
    }
}

#[cfg(test)]
#[path = "root_tests.rs"]
mod tests;
