//! `[jwt]`: algorithms and keys that fit each other. Shared secrets and public keys are never mixed (RFC
//! 8725, 2.1 and 3.1): otherwise anyone who knows a public key could sign with it as a secret.

use super::{
    host::host_and_port,
    secret::resolve_secrets,
    surroundings::CheckEnvironment,
    values::{cookie_name, NOT_ZERO},
};
use crate::config::{
    file::{
        fault::FaultReport,
        hints,
        place::FilePlace,
        raw::{self, ClaimName},
        ByteSize, OneOrMany, PlacedValue, TableField,
    },
    secret::Secret,
    types::{JwtConfig, JwtKeys},
};

use jsonwebtoken::{Algorithm, AlgorithmFamily};
use std::{sync::Arc, time::Duration};

/// The interval at which a key set is fetched anew.
const REFRESH: Duration = Duration::from_secs(300);
/// The time for which one that can't be read is believed.
const MAX_AGE: Duration = Duration::from_secs(86_400);
/// No longer token could come: the fields of a request may not be larger together.
const MOST_TOKEN: u64 = 64 << 10;

/// Checks `[jwt]`, if it is there.
pub(super) fn check_jwt(
    raw: TableField<raw::Jwt>,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<Option<JwtConfig>> {
    let Some(PlacedValue { value: raw, place }) = raw.optional()? else { return Some(None) };
    let algorithms = raw.algorithms.required("algorithms", &place, report);
    let family = algorithms.as_ref().and_then(|algorithms| family(algorithms, report));
    let max_age = max_age(&raw.jwks, report);
    let keys = match (&raw.secret, &raw.jwks) {
        (TableField::Absent, TableField::Absent) => {
            report.fault(&place, "needs secret or jwks");
            None
        }
        (_, TableField::Absent) => resolve_secrets(raw.secret, &place, around, report)
            .and_then(|secrets| shared_keys(secrets, family, algorithms.as_ref(), report)),
        (TableField::Absent, _) => public_keys(raw.jwks, family, around, report),
        _ => {
            report.fault(&place, "secret and jwks exclude each other");
            None
        }
    };
    let claim = |field: TableField<ClaimName>, default: &str| field.or(ClaimName(default.to_owned()));
    let tenant_claim = claim(raw.tenant_claim, "tenant");
    let user_claim = claim(raw.user_claim, "sub");
    let role_claim = claim(raw.role_claim, "role");
    let default_tenant = raw.default_tenant.optional();
    let (audience, issuer) = (accepted(raw.audience), accepted(raw.issuer));
    let leeway = raw.leeway.or(Duration::ZERO);
    let fits = |size: &ByteSize| (1..=MOST_TOKEN).contains(&size.0);
    let complaint = "must be from 1 to 65536: fields of a request that are larger are refused with 431";
    let max_token = raw.max_token.or_if(ByteSize(16 << 10), fits, complaint, report);
    let cookie = cookie_name(raw.cookie, report);
    Some(Some(JwtConfig {
        algorithms: algorithms?.value.into_iter().map(|algorithm| algorithm.value).collect(),
        keys: keys?,
        jwks_max_age: max_age?,
        tenant_claim: tenant_claim?.0,
        default_tenant: default_tenant?.map(|at| at.value),
        user_claim: user_claim?.0,
        role_claim: role_claim?.0,
        audience: audience?,
        issuer: issuer?,
        leeway: leeway?,
        max_token: usize::try_from(max_token?.0).unwrap_or(usize::MAX),
        cookie: cookie?.map(Arc::from),
    }))
}

/// The time for which a key set that can't be read is believed: longer than it takes until it is read again.
fn max_age(jwks: &TableField<raw::Jwks>, report: &mut FaultReport) -> Option<Duration> {
    let TableField::Given(PlacedValue { value: jwks, .. }) = jwks else { return Some(MAX_AGE) };
    let (place, max_age) = match &jwks.max_age {
        TableField::Absent => return Some(MAX_AGE.max(refresh_of(jwks).saturating_mul(2))),
        TableField::Faulty => return None,
        TableField::Given(PlacedValue { value, place }) => (place, *value),
    };
    if max_age <= refresh_of(jwks) {
        report.fault(place, "must be longer than refresh");
        return None;
    }
    Some(max_age)
}

fn refresh_of(jwks: &raw::Jwks) -> Duration {
    match &jwks.refresh {
        TableField::Given(PlacedValue { value, .. }) => *value,
        TableField::Absent | TableField::Faulty => REFRESH,
    }
}

/// The kind of keys that the algorithms need.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyFamily {
    Shared,
    Public,
}

/// The one family of all algorithms.
fn family(
    algorithms: &PlacedValue<Vec<PlacedValue<Algorithm>>>,
    report: &mut FaultReport,
) -> Option<KeyFamily> {
    let shared = |algorithm: &PlacedValue<Algorithm>| algorithm.value.family() == AlgorithmFamily::Hmac;
    let count = algorithms.value.iter().filter(|algorithm| shared(algorithm)).count();
    match (count, algorithms.value.len()) {
        (_, 0) => {
            report.fault(&algorithms.place, "must hold at least one");
            None
        }
        (0, _) => Some(KeyFamily::Public),
        (count, all) if count == all => Some(KeyFamily::Shared),
        _ => {
            report.fault(
                &algorithms.place,
                "HS* must not be mixed with the others: its keys are secrets, theirs public",
            );
            None
        }
    }
}

fn shared_keys(
    secrets: Vec<PlacedValue<Secret>>,
    family: Option<KeyFamily>,
    algorithms: Option<&PlacedValue<Vec<PlacedValue<Algorithm>>>>,
    report: &mut FaultReport,
) -> Option<JwtKeys> {
    if let (Some(KeyFamily::Public), Some(algorithms)) = (family, algorithms) {
        report.fault(
            &algorithms.place,
            "with secret only HS256, HS384 and HS512 can be used, the others need jwks",
        );
        return None;
    }
    let algorithms = algorithms.map_or(&[][..], |algorithms| &algorithms.value);
    if let Some((needed, algorithm)) =
        algorithms.iter().map(|a| (digest_size(a.value), a.value)).max_by_key(|a| a.0)
    {
        for PlacedValue { value, place } in &secrets {
            let length = value.reveal().len();
            if length < needed {
                report.warn(
                    place,
                    format!("{length} bytes, {algorithm:?} should have {needed} or more (RFC 7518, 3.2)"),
                );
            }
        }
    }
    Some(JwtKeys::Secrets(secrets.into_iter().map(|secret| secret.value).collect()))
}

/// Bytes of the hash that an HMAC algorithm uses.
fn digest_size(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::HS512 => 64,
        Algorithm::HS384 => 48,
        _ => 32,
    }
}

fn public_keys(
    raw: TableField<raw::Jwks>,
    family: Option<KeyFamily>,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<JwtKeys> {
    let PlacedValue { value: raw, place } = raw.optional()??;
    if family == Some(KeyFamily::Shared) {
        report.fault(&place, "holds public keys, HS256, HS384 and HS512 need secret");
    }
    match (raw.file.optional()?, raw.url.optional()?) {
        (Some(file), None) => {
            if let Some(refresh) = raw.refresh.optional()? {
                report.fault(&refresh.place, "belongs to url, a file is re-read when it changes");
            }
            let path = around.resolve(&file.value);
            if let Err(error) = std::fs::File::open(&path) {
                report.fault(&file.place, format!("can't read {}: {error}", hints::shown_path(&file.value)));
            }
            Some(JwtKeys::JwksFile(path))
        }
        (None, Some(url)) => jwks_url(url, raw.refresh, report),
        _ => {
            report.fault(&place, "must have either file or url");
            None
        }
    }
}

fn jwks_url(
    url: PlacedValue<String>,
    refresh: TableField<Duration>,
    report: &mut FaultReport,
) -> Option<JwtKeys> {
    let refresh = refresh.or_if(REFRESH, |refresh| !refresh.is_zero(), NOT_ZERO, report);
    check_url(&url.value, &url.place, report);
    Some(JwtKeys::JwksUrl { url: url.value, refresh: refresh? })
}

fn check_url(url: &str, place: &FilePlace, report: &mut FaultReport) {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host_and_port(authority, 0).filter(|_| url.bytes().all(|b| b.is_ascii_graphic()));
    match (scheme, host) {
        ("https", Some(_)) | ("http", Some(("localhost" | "127.0.0.1" | "::1", _))) => {}
        ("http", Some(_)) => {
            report.warn(place, "without TLS, anyone on the network path can replace the keys");
        }
        _ => report.fault(place, "must be an http:// or https:// URL with a host"),
    }
}

fn accepted(raw: TableField<OneOrMany<String>>) -> Option<Vec<String>> {
    raw.or(OneOrMany(Vec::new())).map(|OneOrMany(values)| values.into_iter().map(|at| at.value).collect())
}
