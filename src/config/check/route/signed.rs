//! A route's `signed`: the secrets of its links, and what can't go with them.

use crate::config::{
    check::{secret::resolve_secrets, surroundings::CheckEnvironment},
    file::{fault::FaultReport, raw, PlacedValue, TableField},
    secret::Secret,
};

/// A secret of fewer bytes than this is worth a warning: HMAC-SHA256 has no more to give (RFC 2104, 3).
const SHORT_SECRET: usize = 32;
/// The parameters of a signature.
const PARAMETERS: [&str; 3] = ["expires", "signature", "signed_path"];

/// Checks the table, if it is there. `query`: the route's `cache.query`; `any_method`: the route has no
/// `methods`.
pub(crate) fn check_signed(
    raw: TableField<raw::Signed>,
    query: &[PlacedValue<String>],
    any_method: bool,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<Option<Vec<Secret>>> {
    let Some(PlacedValue { value: raw, place }) = raw.optional()? else { return Some(None) };
    for PlacedValue { value: name, place } in
        query.iter().filter(|name| PARAMETERS.contains(&name.value.as_str()))
    {
        report.fault(place, format!("{name:?} belongs to the signature, which is taken off first"));
    }
    if any_method {
        report.warn(&place, "without methods a signed URL is good for every method");
    }
    let secrets = resolve_secrets(raw.secret, &place, around, report)?;
    for PlacedValue { value, place } in &secrets {
        let length = value.reveal().len();
        if length < SHORT_SECRET {
            report.warn(place, format!("{length} bytes, should have {SHORT_SECRET} or more"));
        }
    }
    Some(Some(secrets.into_iter().map(|secret| secret.value).collect()))
}
