//! The steps of a request: rules, limits, tokens, events, files.

mod cookie_tokens;
mod cors;
mod events;
mod files;
mod headers;
mod hostile;
mod limits;
mod signed;
mod tokens;
