//! The limit of open files of this process, and the limit of connections that follows from it.

use nix::sys::resource::{getrlimit, setrlimit, Resource};

/// The files that are neither a client's connection nor its counterpart: Redis, logs, listeners, the runtime.
const RESERVED_FILES: u64 = 64;
/// The limit that is requested if there is no hard limit: the kernel's default maximum.
const MAX_FILES: u64 = 1 << 20;
/// The least number of connections, even if files are fewer.
const MIN_CONNECTIONS: u64 = 16;

/// Raises the limit of open files as far as permitted. Returns the limit.
pub(crate) fn raise_file_limit() -> u64 {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => (soft.min(MAX_FILES), hard.min(MAX_FILES)),
        Err(error) => {
            tracing::warn!(%error, "the limit of open files is unknown; 1024 is assumed");
            return 1024;
        }
    };
    if soft >= hard {
        return soft;
    }
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(%error, soft, hard, "the limit of open files can't be raised");
            soft
        }
    }
}

/// The number of connections for a limit of open files: each may need a second file, to an origin or of a
/// route.
pub(crate) fn connections_for(files: u64) -> usize {
    usize::try_from((files.saturating_sub(RESERVED_FILES) / 2).max(MIN_CONNECTIONS)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_files_are_for_clients() {
        assert_eq!(connections_for(1024), 480);
        assert_eq!(connections_for(65_536), 32_736);
        assert_eq!(connections_for(10), 16);
    }

    #[test]
    fn the_limit_is_known() {
        assert!(raise_file_limit() >= 256);
    }
}
