//! `[admin]`: where, and by which names it is asked.

use super::{address::check_address, host::host};
use crate::config::{
    fault::Report,
    raw,
    read::{At, Field, OneOrMany},
    types::Admin,
};
use std::net::SocketAddr;

/// Checks it; `taken` are the addresses of the listeners.
pub(super) fn admin(
    raw: Field<raw::Admin>,
    taken: &[Option<SocketAddr>],
    report: &mut Report,
) -> Option<Option<Admin>> {
    let Some(At { value, place }) = raw.optional()? else { return Some(None) };
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
        let mut each = |At { value, place }: At<String>| {
            host(&value).map_err(|complaint| report.fault(&place, complaint)).ok()
        };
        let hosts: Vec<_> = hosts.into_iter().map(&mut each).collect();
        hosts.into_iter().collect()
    });
    Some(Some(Admin { address: address?.value, hosts: hosts? }))
}
