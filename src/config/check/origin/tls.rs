//! `origin.tls`: authorities, the gateway's own certificate, and names that can be verified.
//!
//! What is wrong with a file is found here, before anything listens. What Pingora would meet with a panic (a
//! certificate that it can't read), or with a verification of less than was meant (a name without letters, a
//! name with an underscore), is a fault.

use crate::{
    certificate,
    config::{
        check::surroundings::CheckEnvironment,
        file::{fault::FaultReport, hints, place::FilePlace, raw, PlacedValue, TableField},
        origin::{OriginTls, ServerAddress, ServerEntry, TlsIdentity},
        secret::Secret,
    },
};

use rustls::{
    pki_types::{pem::PemObject, CertificateDer, PrivateKeyDer, ServerName},
    sign::CertifiedKey,
    RootCertStore,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

/// Checks `tls` of an origin.
pub(crate) fn check_origin_tls(
    raw: TableField<raw::OriginTls>,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<OriginTls> {
    let Some(PlacedValue { value: raw, place }) = raw.optional()? else { return Some(OriginTls::default()) };
    let ca = match raw.ca.optional() {
        Some(Some(path)) => authorities(&path, around, report),
        Some(None) => Some(Vec::new()),
        None => None,
    };
    let identity = identity(raw.cert, raw.key, &place, around, report);
    let server_name = match raw.server_name.optional() {
        Some(Some(name)) => verifiable(&name, report).then(|| Some(name.value.to_ascii_lowercase())),
        Some(None) => Some(None),
        None => None,
    };
    Some(OriginTls { ca: ca?, identity: identity?, server_name: server_name? })
}

/// Reports servers that could not be verified, and a `tls` that no server has a use for.
pub(crate) fn fits(
    tls: &OriginTls,
    servers: &[(ServerEntry, FilePlace)],
    given: Option<&FilePlace>,
    report: &mut FaultReport,
) {
    let mut any = false;
    for (server, place) in servers {
        let ServerAddress::Tcp { tls: true, host, .. } = &server.address else { continue };
        any = true;
        if tls.server_name.is_none() {
            verifiable(&PlacedValue { value: host.clone(), place: place.clone() }, report);
        }
    }
    if let Some(place) = given.filter(|_| !any) {
        report.fault(place, "is for https servers, and there is none");
    }
}

/// Returns true if a certificate can be verified against this name. If the first label holds an underscore,
/// Pingora would verify another name instead.
fn verifiable(name: &PlacedValue<String>, report: &mut FaultReport) -> bool {
    let first = name.value.split('.').next().unwrap_or_default();
    let good = ServerName::try_from(name.value.as_str()).is_ok() && !first.contains('_');
    if !good {
        report.fault(
            &name.place,
            "no certificate can be verified for this name: tls.server_name may give another",
        );
    }
    good
}

fn authorities(
    path: &PlacedValue<String>,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<Vec<Vec<u8>>> {
    let certificates = certificates(path, around, report)?;
    let mut roots = RootCertStore::empty();
    let refused = certificates.iter().find_map(|der| roots.add(CertificateDer::from_slice(der)).err());
    match refused {
        Some(error) => {
            report.fault(
                &path.place,
                format!("{} holds no usable authority: {error}", hints::shown_path(&path.value)),
            );
            None
        }
        None => Some(certificates),
    }
}

fn identity(
    cert: TableField<String>,
    key: TableField<String>,
    table: &FilePlace,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<Option<TlsIdentity>> {
    let (cert, key) = match (cert.optional()?, key.optional()?) {
        (None, None) => return Some(None),
        (Some(cert), Some(key)) => (cert, key),
        (Some(_), None) => {
            report.fault(&table.child("key", table.offset), "missing, cert needs it");
            return None;
        }
        (None, Some(_)) => {
            report.fault(&table.child("cert", table.offset), "missing, key needs it");
            return None;
        }
    };
    let chain = certificates(&cert, around, report);
    let key_der = private_key(&key, around, report);
    let (chain, key_der) = (chain?, key_der?);
    let certified = CertifiedKey::from_der(
        chain.iter().map(|der| CertificateDer::from(der.clone())).collect(),
        key_der.clone_key(),
        &certificate::crypto_provider(),
    );
    if let Err(error) = certified {
        report.fault(&key.place, format!("does not go with {}: {error}", hints::shown_path(&cert.value)));
        return None;
    }
    Some(Some(TlsIdentity { chain, key: Secret::new(key_der.secret_der()) }))
}

/// The certificates of a PEM file, at least one, each readable.
fn certificates(
    path: &PlacedValue<String>,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<Vec<Vec<u8>>> {
    let pem = read(path, around, report)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found: Vec<Vec<u8>> = match found {
        Ok(found) => found.into_iter().map(|der| der.to_vec()).collect(),
        Err(error) => {
            report.fault(&path.place, format!("{} is no PEM file: {error}", hints::shown_path(&path.value)));
            return None;
        }
    };
    let readable = |der: &Vec<u8>| X509Certificate::from_der(der).is_ok_and(|(rest, _)| rest.is_empty());
    if found.is_empty() || !found.iter().all(readable) {
        report.fault(
            &path.place,
            format!("{} holds no certificate, or one that can't be read", hints::shown_path(&path.value)),
        );
        return None;
    }
    Some(found)
}

fn private_key(
    path: &PlacedValue<String>,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<PrivateKeyDer<'static>> {
    let pem = read(path, around, report)?;
    // The second conversion is what Pingora does with it, without a way to fail.
    let key = PrivateKeyDer::from_pem_slice(&pem).ok();
    let key = key.filter(|key| PrivateKeyDer::try_from(key.secret_der()).is_ok());
    if key.is_none() {
        report.fault(&path.place, format!("{} holds no private key in PEM", hints::shown_path(&path.value)));
    }
    key
}

fn read(
    path: &PlacedValue<String>,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<Vec<u8>> {
    let complaint = match std::fs::read(around.resolve(&path.value)) {
        Ok(bytes) => match certificate::check_encoding(&bytes) {
            Ok(()) => return Some(bytes),
            Err(fault) => format!("{}: {fault}", hints::shown_path(&path.value)),
        },
        Err(error) => format!("can't read {}: {error}", hints::shown_path(&path.value)),
    };
    report.fault(&path.place, complaint);
    None
}
