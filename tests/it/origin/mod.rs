//! Origins: servers, proxied requests, uploads.

mod direct;
mod passing;
mod proxying;
mod servers;
mod uploads;
