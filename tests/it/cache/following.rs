//! Routes that follow their origin (`cache = "origin"`): a shared cache in front of one application, asked for all
//! that hurts the users of a front door. Nothing waits for a lifetime to pass: an answer that comes with an `Age` above
//! its lifetime is stale at once.

use crate::support::{gateway::GatewayBuilder, *};

mod answers;
mod ended;
mod fields;
mod flights;
mod invalidation;
mod isolation;
mod ranges;
mod tier;
mod validation;
mod vary;

const FOLLOW: &str = "cache = \"origin\"";
/// With what a client asks of caches.
const HEARS: &str = r#"cache = { follow = "origin", request_directives = true }"#;
const MINUTE: (&str, &str) = ("cache-control", "max-age=60");

/// In front of this origin: everything follows it, but for what is below `/off/`.
fn gateway(origin: &TestOrigin) -> GatewayBuilder {
    Gateway::with(origin).origin("retries = 0").route("/*", FOLLOW).route("/off/*", "")
}

/// Text that is fresh for a minute.
fn fresh(body: &str) -> Answer {
    with(body, &[MINUTE])
}

/// Text with these fields.
fn with(body: &str, fields: &[(&str, &str)]) -> Answer {
    let answer = Answer::new("text/plain", body.to_owned());
    fields.iter().fold(answer, |answer, (name, value)| answer.header(name, value))
}

/// Text that is stale when it comes, with these further directives.
fn stale(body: &str, directives: &str) -> Answer {
    with(body, &[("cache-control", &format!("max-age=60{directives}")), ("age", "100")])
}

/// Returns true if `Cache-Status` has this parameter, such as `hit` or `fwd=stale`.
fn says(reply: &Reply, parameter: &str) -> bool {
    reply.cache_status().split(';').skip(1).any(|said| said.trim() == parameter)
}
