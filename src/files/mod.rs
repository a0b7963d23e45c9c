//! Files: which may be sent, what is said of them, and how they are read.
//!
//! `path` reads names, `root` opens what they mean and nothing else, `directory` chooses for a route of files
//! (`shelf` remembers for a moment, `window` knows which forms everyone can read), `accel` reads what an origin orders by `X-Accel-Redirect`, `answer` decides what goes out, `send` reads it piece by
//! piece. Nothing here knows a connection; the gateway puts these in order.

pub mod accel;
pub mod answer;
pub mod directory;
mod kind;
pub mod path;
pub mod root;
pub mod send;
mod shelf;
mod window;

pub use kind::content_type;
