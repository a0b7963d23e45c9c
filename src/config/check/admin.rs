//! `[admin]`: where, and by which names it is asked.

use super::{address::check_address, host::check_host};
use crate::config::{
    file::{fault::FaultReport, raw, OneOrMany, PlacedValue, TableField},
    types::AdminConfig,
};

use std::net::SocketAddr;

/// Checks it; `taken` are the addresses of the listeners.
pub(super) fn check_admin(
    raw: TableField<raw::Admin>,
    taken: &[Option<SocketAddr>],
    report: &mut FaultReport,
) -> Option<Option<AdminConfig>> {
    let Some(PlacedValue { value, place }) = raw.optional()? else { return Some(None) };
    let address = value.address.required("address", &place, report);
    if let Some(address) = &address {
        check_address(address, taken, report);
        if !address.value.ip().to_canonical().is_loopback() {
            report.warn(
                &address.place,
                "not a loopback address: whoever reaches it reads the metrics and can purge, without a token",
            );
        }
    }
    let hosts = value.hosts.or(OneOrMany(Vec::new())).and_then(|OneOrMany(hosts)| {
        let mut each = |PlacedValue { value, place }: PlacedValue<String>| {
            check_host(&value).map_err(|complaint| report.fault(&place, complaint)).ok()
        };
        let hosts: Vec<_> = hosts.into_iter().map(&mut each).collect();
        hosts.into_iter().collect()
    });
    Some(Some(AdminConfig { address: address?.value, hosts: hosts? }))
}
