//! Requests with bodies: where they end, who is waited for, answers that come before the end, and what is sent again.

mod again;
mod answers;
mod early;
mod ends;
mod gunicorn;
mod waiting;
