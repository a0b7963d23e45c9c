//! Answers out of the cache: a request becomes a look-up, and its result a reply.

pub(crate) mod fetch;
pub(crate) mod invalidation;
pub(crate) mod origin_driven;
pub(crate) mod prepared;
pub(crate) mod reply;
pub(crate) mod versioned;
