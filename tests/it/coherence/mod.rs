//! Coherence between nodes, through faults.

mod chaos;
mod clock;
mod faults;
mod losses;
mod model;
mod purging;
mod purging_routes;
mod read_your_event;
mod store_words;
