//! The keys of `[server]` about slow clients and many of them.

use crate::config::{
    check::values::positive,
    file::{fault::FaultReport, raw, ByteSize},
    types::ClientTimeouts,
};
use std::{mem::take, time::Duration};

/// The default rate in bytes a second: a tenth of that of the slowest phone network, and far more than an
/// attacker wants to spend on each of thousands of connections.
const MIN_RATE: ByteSize = ByteSize(256);

/// Takes its keys out of `[server]`.
pub(crate) fn check_clients(raw: &mut raw::Server, report: &mut FaultReport) -> Option<ClientTimeouts> {
    let header_timeout = positive(take(&mut raw.header_timeout), Duration::from_secs(10), report);
    let body_timeout = positive(take(&mut raw.body_timeout), Duration::from_secs(30), report);
    let body_min_rate = take(&mut raw.body_min_rate).or(MIN_RATE);
    let send_timeout = positive(take(&mut raw.send_timeout), Duration::from_secs(30), report);
    let send_min_rate = take(&mut raw.send_min_rate).or(MIN_RATE);
    let max_connections = take(&mut raw.max_connections).or(0);
    let max_per_address = take(&mut raw.max_connections_per_address).or(0);
    let some = |limit: u32| Some(limit).filter(|limit| *limit > 0);
    Some(ClientTimeouts {
        header_timeout: header_timeout?,
        body_timeout: body_timeout?,
        body_min_rate: body_min_rate?.0,
        send_timeout: send_timeout?,
        send_min_rate: send_min_rate?.0,
        max_connections: some(max_connections?),
        max_per_address: some(max_per_address?),
    })
}
