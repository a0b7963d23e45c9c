//! Requests with bodies: where they end, who is waited for, answers that come before the end, and what is sent again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a failure is a panic")]

#[path = "uploads/again.rs"]
mod again;
#[path = "uploads/answers.rs"]
mod answers;
#[path = "uploads/early.rs"]
mod early;
#[path = "uploads/ends.rs"]
mod ends;
#[path = "uploads/gunicorn.rs"]
mod gunicorn;
mod support;
#[path = "uploads/waiting.rs"]
mod waiting;
