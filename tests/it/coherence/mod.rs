//! Coherence between nodes, through faults.

mod chaos;
mod clock;
mod faults;
mod losses;
mod model;
mod purging;
mod purging_routes;
mod store_words;
