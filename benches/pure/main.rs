//! The cost of the pure parts of a request, in nanoseconds: `make bench-pure`. It shows which
//! of them a change made slower; `make bench` and `make instructions` measure a request as a whole.
#![allow(clippy::unwrap_used, reason = "what is measured was written here")]

mod cache;
mod request;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    request::heads(&mut criterion);
    request::keys(&mut criterion);
    request::routes(&mut criterion);
    request::encodings(&mut criterion);
    request::ranges(&mut criterion);
    cache::policy(&mut criterion);
    cache::lookup(&mut criterion);
    criterion.final_summary();
}

/// A checked configuration with these routes behind what every one needs.
fn config(routes: &str) -> tidegate::config::Config {
    let head = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[origin]]\nname = \"app\"\nservers = [\"http://127.0.0.1:1\"]\n";
    tidegate::config::Config::parse(&format!("{head}{routes}"), "bench.toml", &|_| None).unwrap().config
}
