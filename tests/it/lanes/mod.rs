//! Lanes: the same answer by each of them.

mod agreement;
mod native_session;
mod smuggling;
