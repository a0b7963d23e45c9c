//! Lanes: the same answer by each of them.

mod agreement;
mod own_session;
mod smuggling;
