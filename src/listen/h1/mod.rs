//! HTTP/1.1 ahead of Pingora: strict reading of heads, and hits that are answered at once.

#[cfg(any(test, fuzzing))]
pub mod agreement;
pub(crate) mod fast_path;
pub(crate) mod request_head;
pub mod strict_reader;
