//! Requests that go to an origin, and their answers on the way back.

pub(crate) mod accel;
pub(crate) mod native;
pub(crate) mod response;
pub(crate) mod upload;
pub(crate) mod upstream;
