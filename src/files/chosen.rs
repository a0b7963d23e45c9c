//! The file that answers a path, with what is said of it.

use super::{answer::Facts, root::Opened};
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use std::sync::Arc;

/// A file and its fields.
#[derive(Debug)]
pub struct Chosen {
    /// Its bytes.
    pub source: Source,
    /// Its length and validators.
    pub facts: Facts,
    /// Its type, its coding and its lifetime in caches.
    pub fields: Vec<(HeaderName, HeaderValue)>,
}

/// The place of a file's bytes.
#[derive(Debug, Clone)]
pub enum Source {
    /// In the file.
    File(Arc<Opened>),
    /// In memory, whole: it is small.
    Here(Bytes),
}
