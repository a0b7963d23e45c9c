//! What is sent: content, validators, encodings.

pub mod conditional;
pub mod encoding;
