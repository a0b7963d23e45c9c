//! The cache: namespaces, followed origins, flights.

mod flights;
mod following;
mod isolation;
mod leaving;
mod sharing;
mod statuses;
mod streaming;
mod widgets;
