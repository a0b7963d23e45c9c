//! Files: names, confinement, fields, and reading.
//!
//! `path` parses names, `root` opens files below a directory and no others, `directory` chooses the file for
//! a route (`small_file_cache` keeps small ones for a moment, `window` tests the forms that every client can
//! decode), `accel` reads an origin's `X-Accel-Redirect`, `answer` plans the answer, `send` reads the file
//! piece by piece. Nothing here knows connections; the gateway calls these in order.

pub(crate) mod accel;
pub(crate) mod answer;
pub(crate) mod directory;
mod nowait;
pub(crate) mod path;
pub(crate) mod root;
pub(crate) mod send;
mod window;

pub(crate) use directory::kind::content_type;
