//! The listeners: their addresses, certificates and redirects. Certificates are read during the check, so
//! that an unusable one is a fault of the file and no surprise at the first handshake.

pub(crate) mod clients;
use super::{address::check_address, surroundings::CheckEnvironment};
use crate::{
    certificate::{self, CertificatePart, CertificatePaths, ServerCertificate},
    clock::wall_ms,
    config::{
        file::{fault::FaultReport, hints, place::FilePlace, raw, PlacedValue, TableField},
        reserved::dashed,
        types::{ClientCertificates, ListenerConfig, ListenerTls},
    },
    http::names::is_origin_field,
};

use http::{header, HeaderName};
use std::{net::SocketAddr, time::Duration};

/// A certificate that ends within this time is warned about.
const SOON: Duration = Duration::from_secs(7 * 86_400);
/// The least `max-age` that browsers' HSTS preload lists accept.
const PRELOAD: Duration = Duration::from_secs(365 * 86_400);

/// The listeners; their addresses are left in `taken`, `None` for a faulty one.
pub(crate) fn check_listeners(
    raw: PlacedValue<Vec<PlacedValue<raw::Listener>>>,
    taken: &mut Vec<Option<SocketAddr>>,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<Vec<ListenerConfig>> {
    if raw.value.is_empty() {
        report.fault(&raw.place, "must hold at least one");
        return None;
    }
    let has_tls = |at: &PlacedValue<raw::Listener>| !matches!(at.value.certificates, TableField::Absent);
    let target = raw.value.iter().position(has_tls);
    let mut checked = Vec::with_capacity(raw.value.len());
    for PlacedValue { value, place } in raw.value {
        checked.push(check_listener(value, &place, target, taken, around, report));
    }
    checked.into_iter().collect()
}

fn check_listener(
    raw: raw::Listener,
    place: &FilePlace,
    target: Option<usize>,
    taken: &mut Vec<Option<SocketAddr>>,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<ListenerConfig> {
    let raw::Listener {
        address,
        certificates,
        client_certificates,
        http2,
        redirect_to_https,
        hsts,
        proxy_protocol,
    } = raw;
    let address = address.required("address", place, report);
    if let Some(address) = &address {
        check_address(address, taken, report);
    }
    taken.push(address.as_ref().map(|address| address.value));
    let has_tls = !matches!(certificates, TableField::Absent);
    let certificates = optional(certificates, report, |at, report| certificates_of(at, around, report));
    let clients = optional(client_certificates, report, |at, report| {
        only_with_tls(has_tls, &at.place, report)?;
        clients(at, around, report)
    });
    let hsts = optional(hsts, report, |at, report| {
        only_with_tls(has_tls, &at.place, report)?;
        strict_transport_security(at, report)
    });
    let redirect_to =
        optional(redirect_to_https, report, |at, report| check_redirect(&at, has_tls, target, report));
    let http2 = http2.or(has_tls);
    let proxy_protocol = proxy_protocol.or(false);
    let (certificates, clients) = (certificates?, clients?);
    Some(ListenerConfig {
        address: address?.value,
        tls: certificates.map(|certificates| ListenerTls { certificates, clients }),
        http2: http2?,
        redirect_to: redirect_to?.flatten(),
        hsts: hsts?,
        proxy_protocol: proxy_protocol?,
    })
}

/// Applies `check` to a field that may be left out; `None` only if a fault was reported.
fn optional<T, U>(
    field: TableField<T>,
    report: &mut FaultReport,
    check: impl FnOnce(PlacedValue<T>, &mut FaultReport) -> Option<U>,
) -> Option<Option<U>> {
    match field.optional()? {
        Some(at) => check(at, report).map(Some),
        None => Some(None),
    }
}

fn only_with_tls(has_tls: bool, place: &FilePlace, report: &mut FaultReport) -> Option<()> {
    if !has_tls {
        report.fault(place, "needs certificates: this listener speaks no TLS");
    }
    has_tls.then_some(())
}

/// `None` for a fault, `Some(None)` where nothing is redirected.
fn check_redirect(
    at: &PlacedValue<bool>,
    has_tls: bool,
    target: Option<usize>,
    report: &mut FaultReport,
) -> Option<Option<usize>> {
    match (at.value, has_tls, target) {
        (false, _, _) => return Some(None),
        (true, true, _) => report.fault(&at.place, "this listener speaks TLS itself"),
        (true, false, None) => {
            report.fault(&at.place, "there is no listener with certificates to send anyone to")
        }
        (true, false, Some(target)) => return Some(Some(target)),
    }
    None
}

fn certificates_of(
    raw: PlacedValue<Vec<PlacedValue<raw::CertificateFiles>>>,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<Vec<CertificatePaths>> {
    if raw.value.is_empty() {
        report.fault(&raw.place, "must hold at least one");
        return None;
    }
    let mut checked = Vec::with_capacity(raw.value.len());
    for (index, at) in raw.value.into_iter().enumerate() {
        checked.push(certificate_of(at, index == 0, around, report));
    }
    checked.into_iter().collect()
}

fn certificate_of(
    PlacedValue { value, place }: PlacedValue<raw::CertificateFiles>,
    is_default: bool,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<CertificatePaths> {
    let cert = value.cert.required("cert", &place, report);
    let key = value.key.required("key", &place, report);
    let ocsp = value.ocsp.optional();
    let (cert, key, ocsp) = (cert?, key?, ocsp?);
    let path = |at: &PlacedValue<String>| around.resolve(&at.value);
    let files = CertificatePaths { cert: path(&cert), key: path(&key), ocsp: ocsp.as_ref().map(path) };
    match ServerCertificate::load(&files) {
        Ok(certificate) => {
            warn_of(&certificate, is_default, &cert.place, report);
            Some(files)
        }
        Err(error) => {
            let at = match error.part {
                CertificatePart::Key => &key,
                CertificatePart::Ocsp => ocsp.as_ref().unwrap_or(&cert),
                CertificatePart::Cert | CertificatePart::Ca => &cert,
            };
            report.fault(&at.place, format!("{}: {}", hints::shown_path(&at.value), error.fault));
            None
        }
    }
}

/// Warns of a certificate that works but is probably not meant.
fn warn_of(certificate: &ServerCertificate, is_default: bool, place: &FilePlace, report: &mut FaultReport) {
    let now = i64::try_from(wall_ms() / 1_000).unwrap_or(i64::MAX);
    let left = certificate.not_after.saturating_sub(now);
    let soon = i64::try_from(SOON.as_secs()).unwrap_or(i64::MAX);
    if left <= 0 {
        report.warn(place, format!("expired {} days ago: clients refuse it", left.unsigned_abs() / 86_400));
    } else if left < soon {
        report.warn(place, format!("expires in {} days", left / 86_400));
    }
    if certificate.not_before > now {
        report.warn(place, "is not valid yet: clients refuse it");
    }
    if certificate.names.is_empty() {
        let text = match is_default {
            true => "names no host (subjectAltName): browsers refuse it",
            false => "names no host (subjectAltName): it is never chosen",
        };
        report.warn(place, text);
    }
}

fn clients(
    PlacedValue { value, place }: PlacedValue<raw::ClientCertificates>,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<ClientCertificates> {
    let ca = value.ca.required("ca", &place, report).and_then(|at| {
        let path = around.resolve(&at.value);
        match certificate::read_authorities(&path) {
            Ok(_) => Some(path),
            Err(error) => {
                report.fault(&at.place, format!("{}: {}", hints::shown_path(&at.value), error.fault));
                None
            }
        }
    });
    let required = value.required.or(true);
    let header = optional(value.header, report, subject_header);
    Some(ClientCertificates { ca: ca?, required: required?, header: header? })
}

/// Fields that the gateway or the protocol sets itself.
const TAKEN: [HeaderName; 11] = [
    header::AUTHORIZATION,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::COOKIE,
    header::EXPECT,
    header::HOST,
    header::RANGE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

fn subject_header(at: PlacedValue<String>, report: &mut FaultReport) -> Option<HeaderName> {
    let Ok(name) = at.value.parse::<HeaderName>() else {
        report.fault(&at.place, "must be the name of a header field, such as \"X-Client-Subject\"");
        return None;
    };
    if dashed(name.as_str()) != name.as_str() {
        report.fault(
            &at.place,
            "must be of letters, digits and \"-\": behind CGI or WSGI any other sign would be the same as \"-\"",
        );
        return None;
    }
    let is_ours = is_origin_field(name.as_str())
        || name.as_str().starts_with("x-forwarded-")
        || name.as_str().starts_with("if-")
        || name.as_str().starts_with("accept");
    if is_ours || TAKEN.contains(&name) {
        report.fault(&at.place, "this field has a meaning already");
        return None;
    }
    Some(name)
}

/// RFC 6797, 6.1
fn strict_transport_security(
    PlacedValue { value, place }: PlacedValue<raw::Hsts>,
    report: &mut FaultReport,
) -> Option<String> {
    let max_age = value.max_age.or(PRELOAD);
    let include_subdomains = value.include_subdomains.or(false);
    let preload = value.preload.or(false);
    let (max_age, include_subdomains, preload) = (max_age?, include_subdomains?, preload?);
    if preload && (!include_subdomains || max_age < PRELOAD) {
        report.warn(
            &place,
            "preload lists take only hosts with include_subdomains and max_age of at least 365d",
        );
    }
    let mut text = format!("max-age={}", max_age.as_secs());
    if include_subdomains {
        text.push_str("; includeSubDomains");
    }
    if preload {
        text.push_str("; preload");
    }
    Some(text)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
