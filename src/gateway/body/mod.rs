//! The bodies of answers on their way to a client: their sources, their coding, and their rate.

pub(crate) mod codec;
pub(crate) mod file_pieces;
pub(crate) mod pacing;
pub(crate) mod pieces;
