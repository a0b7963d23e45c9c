//! x
pub mod key;
pub mod version;
