//! Coherence between nodes: versions, purges, and how far this node may believe what it knows of them.

pub mod change_listener;
pub mod doubt;
pub mod partitions;
pub mod purge;
pub mod version;
