//! The surroundings that checks read: the environment, and the directory of relative paths.

use std::path::{Path, PathBuf};

/// The environment and the directory that checks may read.
pub(in crate::config) struct CheckEnvironment<'a> {
    /// Answers for the environment.
    pub(in crate::config) env: &'a dyn Fn(&str) -> Option<String>,
    /// The directory that relative paths start from.
    pub(in crate::config) directory: &'a Path,
}

impl CheckEnvironment<'_> {
    /// `path`, from the directory of the configuration if it is relative.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.directory.join(path)
    }
}
