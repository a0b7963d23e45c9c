//! The types of what concerns files: where a route's answers come from, directories, internal locations.
//!
//! As in `types`, everything here was checked, and each field names its key and its default.

use globset::GlobSet;
use http::HeaderValue;
use std::path::PathBuf;

/// The source of a route's answers.
#[derive(Debug, Clone)]
pub enum RouteTarget {
    /// `origin`: index into [`super::Config::origins`].
    Origin(usize),
    /// `files`
    Files(Box<FilesConfig>),
}

impl RouteTarget {
    /// The origin, where there is one.
    pub fn origin(&self) -> Option<usize> {
        match self {
            Self::Origin(origin) => Some(*origin),
            Self::Files(_) => None,
        }
    }
}

/// `files = { root = …, … }`
#[derive(Debug, Clone)]
pub struct FilesConfig {
    /// `root`: the directory.
    pub root: PathBuf,
    /// `index` (`index.html`): the file that answers for a directory.
    pub index: String,
    /// `precompressed` (true): `.br`, `.zst` and `.gz` beside a file are sent instead of it to clients that
    /// accept the coding.
    pub precompressed: bool,
    /// `symlinks` (false): follow links that stay below the root.
    pub symlinks: bool,
    /// `hidden` (false): send files whose path has a name that begins with a dot.
    pub hidden: bool,
    /// `cache_control` (`no-cache`)
    pub cache_control: HeaderValue,
    /// `immutable`: the files that never change.
    pub immutable: ImmutableRule,
}

/// `files.immutable`
#[derive(Debug, Clone)]
pub enum ImmutableRule {
    /// Left out.
    Nothing,
    /// `"hashed"`: those whose name holds a hash.
    Hashed,
    /// Those whose path below the root matches one of these.
    Matching(GlobSet),
}

/// `[[accel]]`: an internal location for `X-Accel-Redirect`.
#[derive(Debug, Clone)]
pub struct AccelLocation {
    /// `internal`: begins and ends with a slash.
    pub internal: String,
    /// The target of the location.
    pub to: AccelTarget,
}

/// The target of an internal location.
#[derive(Debug, Clone)]
pub enum AccelTarget {
    /// A directory.
    Root {
        /// `root`
        root: PathBuf,
        /// `symlinks` (false): follow links that stay below the root.
        symlinks: bool,
        /// `hidden` (false): send files whose path has a name that begins with a dot.
        hidden: bool,
    },
    /// URLs of another origin.
    Origin {
        /// `origin`: index into [`super::Config::origins`].
        origin: usize,
        /// `prefix` (`/`): begins and ends with a slash.
        prefix: String,
    },
}
