//! The stored fields of an answer (RFC 9111, 3.1), their update by a 304 or a HEAD's 200 (3.2, 4.3.4, 4.3.5),
//! and the conditions of a validation (4.3.1).
//!
//! Never touches a body. Fields of one connection or of one message's framing are never stored.

use super::{
    accel_expires,
    origin_driven::{
        self,
        directives::{self, ResponseDirectives},
        OriginExchange,
    },
    terms::FreshnessTerms,
};
use crate::{
    config::FollowRules,
    http::{
        date,
        framing::content_length::agreed_length,
        hop_by_hop::{connection_options, is_hop_by_hop},
        names::is_for_gateway,
    },
    telemetry::labels::FillOutcome,
};

use http::{header, HeaderMap, HeaderName, HeaderValue, StatusCode};

/// A stored field.
pub type StoredField = (HeaderName, HeaderValue);

/// The fields of an answer that are stored: all except those of one connection or one message, those that the
/// origin excludes, those that the gateway sets itself and, unless the route keeps it, `Set-Cookie`.
pub fn stored_fields(answer: &HeaderMap, said: &ResponseDirectives, rules: &FollowRules) -> Vec<StoredField> {
    let dropped = connection_options(answer);
    let keeps =
        |name: &HeaderName| is_storable(name, rules) && !dropped.contains(name) && !said.omit.contains(name);
    answer.iter().filter(|(name, _)| keeps(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Fields that describe the stored body, and would be wrong with another answer's value.
fn describes_the_body(name: &HeaderName) -> bool {
    let of_the_body =
        ["content-encoding", "content-range", "content-md5", "digest", "content-digest", "repr-digest"];
    of_the_body.contains(&name.as_str())
}

/// Updates the stored fields with those of a 304, or of a HEAD's 200 (RFC 9111, 3.2). Fields that describe
/// the stored body stay.
pub fn merge_fields(stored: &[StoredField], fresh: &HeaderMap, rules: &FollowRules) -> Vec<StoredField> {
    let dropped = connection_options(fresh);
    let replaces = |name: &HeaderName| {
        fresh.contains_key(name)
            && is_storable(name, rules)
            && !dropped.contains(name)
            && !describes_the_body(name)
    };
    let mut merged: Vec<StoredField> = Vec::with_capacity(stored.len() + fresh.len());
    for (name, value) in stored {
        if !replaces(name) {
            merged.push((name.clone(), value.clone()));
        } else if !merged.iter().any(|(before, _)| before == name) {
            // All new lines are put in place of the first old one.
            merged.extend(fresh.get_all(name).iter().map(|value| (name.clone(), value.clone())));
        }
    }
    for name in fresh.keys().filter(|name| replaces(name)) {
        if !stored.iter().any(|(before, _)| before == name) {
            merged.extend(fresh.get_all(name).iter().map(|value| (name.clone(), value.clone())));
        }
    }
    let said = directives::response_directives(&map(&merged));
    merged.retain(|(name, _)| !said.omit.contains(name));
    merged
}

/// A stored answer after its validation: its new fields, with its new terms, or the reason why it may not be
/// stored any longer.
///
/// `exchange` is that of the 304, or of the HEAD; `status` is that of the stored answer. The age starts anew:
/// with the `Date` and `Age` of the new message, not the stored ones. The other fields of a message that is
/// made for a cookie are its client's: the stored ones stay.
pub fn renew_terms(
    rules: &FollowRules,
    exchange: &OriginExchange<'_>,
    status: StatusCode,
    stored: &[StoredField],
) -> (Vec<StoredField>, Result<FreshnessTerms, FillOutcome>) {
    let mut fields = merge_fields(stored, exchange.answer, rules);
    let dated = exchange.answer.contains_key(header::DATE);
    if !dated {
        fields.retain(|(name, _)| name != header::DATE);
    }
    let mut answer = map(&fields);
    for age in exchange.answer.get_all(header::AGE) {
        answer.append(header::AGE, age.clone());
    }
    // They are never stored, and have their effect all the same.
    for (name, value) in exchange.answer.iter().filter(|(name, _)| accel_expires::is_for_a_cache(name)) {
        answer.append(name.clone(), value.clone());
    }
    let method = &http::Method::GET;
    let renewed = OriginExchange { method, status, answer: &answer, ..*exchange };
    let said = directives::response_directives(&answer);
    let terms = origin_driven::still_storable(rules, &renewed, &said);
    let fresh = OriginExchange { method, status, ..*exchange };
    if terms.is_ok() && origin_driven::is_renewed_for_a_cookie(rules, &fresh, &renewed) {
        fields = stored.to_vec();
        fields.retain(|(name, _)| name != header::DATE);
        fields.extend(exchange.answer.get(header::DATE).map(|date| (header::DATE, date.clone())));
    }
    if !dated {
        fields.push((header::DATE, date::format_date(exchange.received.wall_ms / 1_000)));
    }
    (fields, terms)
}

/// Returns true if a 304 is about the stored answer (RFC 9111, 4.3.4): its tag, or else its `Last-Modified`,
/// matches, or it has neither.
pub fn validates(stored: &[StoredField], fresh: &HeaderMap) -> bool {
    if let Some(tag) = fresh.get(header::ETAG) {
        return find_field(stored, &header::ETAG).is_some_and(|kept| {
            let weak = tag.as_bytes().starts_with(b"W/");
            kept == tag || (weak && opaque(kept) == opaque(tag))
        });
    }
    match fresh.get(header::LAST_MODIFIED) {
        Some(changed) => find_field(stored, &header::LAST_MODIFIED) == Some(changed),
        None => true,
    }
}

/// The effect of a HEAD's answer on a stored answer to GET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadEffect {
    /// It is the same representation: [`renew_terms`] applies.
    Update,
    /// It is another one: the stored answer is stale.
    Invalidate,
    /// It has no effect.
    Nothing,
}

/// The effect of a HEAD's answer on a stored answer of `stored_status` with a body of `length` bytes (RFC
/// 9111, 4.3.5). It updates the same representation; otherwise it ends what the answer to a GET would end or
/// replace.
///
/// `exchange` is that of the HEAD.
pub fn head_effect(
    rules: &FollowRules,
    exchange: &OriginExchange<'_>,
    stored_status: StatusCode,
    stored: &[StoredField],
    length: u64,
) -> HeadEffect {
    let OriginExchange { status, answer, authorized, .. } = *exchange;
    let same = |name: &HeaderName| answer.get(name).is_none_or(|now| find_field(stored, name) == Some(now));
    let same_length = agreed_length(answer).is_ok_and(|said| said.is_none_or(|said| said == length));
    let both_ok = status == StatusCode::OK && stored_status == StatusCode::OK;
    if both_ok && same(&header::ETAG) && same(&header::LAST_MODIFIED) && same_length {
        return HeadEffect::Update;
    }
    let part_ends =
        status == StatusCode::PARTIAL_CONTENT && !authorized && is_part_of_another(stored, answer);
    match part_ends || origin_driven::head_ends(rules, exchange) {
        true => HeadEffect::Invalidate,
        false => HeadEffect::Nothing,
    }
}

/// Returns true if a part belongs to another representation than the stored one: by `ETag`, or by
/// `Last-Modified` if there is no `ETag`. Parts in another coding or language can't be compared.
pub fn is_part_of_another(stored: &[StoredField], part: &HeaderMap) -> bool {
    is_same_representation(stored, part) == Some(false)
}

/// Returns true if a whole answer replaces the stored one although it may not be stored itself: unless their
/// validators say that they are the same representation.
pub fn is_other_than_stored(stored: &[StoredField], answer: &HeaderMap) -> bool {
    is_same_representation(stored, answer) != Some(true)
}

/// Compares the representations of two answers by their validators. `None`: they are in another coding or
/// language, or have no validator in common.
fn is_same_representation(stored: &[StoredField], answer: &HeaderMap) -> Option<bool> {
    let same_form = |name: &HeaderName| find_field(stored, name) == answer.get(name);
    if !same_form(&header::CONTENT_ENCODING) || !same_form(&header::CONTENT_LANGUAGE) {
        return None;
    }
    let both = |name: &HeaderName| Some((find_field(stored, name)?, answer.get(name)?));
    match (both(&header::ETAG), both(&header::LAST_MODIFIED)) {
        (Some((kept, now)), _) => Some(opaque(kept) == opaque(now)),
        (None, Some((kept, now))) => Some(kept == now),
        (None, None) => None,
    }
}

/// The conditions that validate a stored answer; empty if it has no validator.
pub fn condition_fields(stored: &[StoredField]) -> Vec<StoredField> {
    let asks = [(header::ETAG, header::IF_NONE_MATCH), (header::LAST_MODIFIED, header::IF_MODIFIED_SINCE)];
    let value = |(validator, condition)| Some((condition, find_field(stored, &validator)?.clone()));
    asks.into_iter().filter_map(value).filter(|(_, value)| !value.is_empty()).collect()
}

/// Returns true if a field may be stored in general, whatever the directives of the answer.
fn is_storable(name: &HeaderName, rules: &FollowRules) -> bool {
    if is_hop_by_hop(name) {
        return false;
    }
    match name.as_str() {
        // Of one connection as well (RFC 9111, 3.1).
        "proxy-authorization" => false,
        // Of one message, and made anew by the gateway for each.
        "content-length" | "age" => false,
        "set-cookie" => rules.set_cookie,
        _ => !is_for_gateway(name),
    }
}

fn find_field<'a>(stored: &'a [StoredField], name: &HeaderName) -> Option<&'a HeaderValue> {
    stored.iter().find(|(kept, _)| kept == name).map(|(_, value)| value)
}

/// A tag without `W/`.
fn opaque(tag: &HeaderValue) -> &[u8] {
    tag.as_bytes().strip_prefix(b"W/").unwrap_or(tag.as_bytes())
}

fn map(fields: &[StoredField]) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        map.append(name.clone(), value.clone());
    }
    map
}

#[cfg(test)]
#[path = "fields_tests.rs"]
mod tests;
