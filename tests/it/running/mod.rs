//! Running it: commands, reloads, metrics, records.

mod admin;
mod browser;
mod cli;
mod harness;
mod records;
mod reload;
mod systemd;
