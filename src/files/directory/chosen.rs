//! The file that answers a path, with what is said of it.

use crate::files::{answer::FileFacts, root::OpenFile};
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use std::sync::Arc;

/// A file and its fields.
#[derive(Debug)]
pub(crate) struct ChosenFile {
    /// Its bytes.
    pub source: FileSource,
    /// Its length and validators.
    pub facts: FileFacts,
    /// Its type, its coding and its lifetime in caches.
    pub fields: Vec<(HeaderName, HeaderValue)>,
}

/// The place of a file's bytes.
#[derive(Debug, Clone)]
pub(crate) enum FileSource {
    /// In the file.
    File(Arc<OpenFile>),
    /// In memory, whole: it is small.
    Here(Bytes),
}
