//! Signed events: what an application sends to say that a namespace has changed.

pub mod signature;
