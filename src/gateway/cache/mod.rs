//! Answers out of the cache: a request becomes a question to it, and its answer a reply.

pub(crate) mod origin_driven;
pub(crate) mod prepared;
pub(crate) mod versioned;
