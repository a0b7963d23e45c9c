//! The variants of one resource (RFC 9111, 4.1): the fields that tell them apart, and the choice of one to
//! evict.
//!
//! All variants of a resource are told apart by the same fields: those in the `Vary` of any of them. So an
//! answer that came without `Vary` is not used for a request that differs in a field that a later answer
//! varies by: some servers send `Vary: Origin` only in answers to requests with `Origin`. The request of an
//! answer is known only in the fields that were known when it came; it counts as one without the others.
//!
//! An answer replaces the one that would have been chosen for its own request, whatever the two vary by (RFC
//! 9111, 4.3.3): the older one was what the origin has just answered anew.

use super::{CacheEntry, UseCount};
use crate::cache::policy::{self, SelectingFields, StoredContent, VariantMatch};
use http::{header, HeaderMap, HeaderName};
use std::sync::Arc;

/// The fields that an answer's own `Vary` names, sorted.
pub(crate) fn varying_names(entry: &CacheEntry) -> Vec<HeaderName> {
    let lines = entry.representation.stored_lines().filter(|line| line.name.is(&header::VARY));
    policy::parse_vary_names(lines.map(|line| line.value)).unwrap_or_default()
}

/// An entry that is told apart by these fields.
pub(crate) fn add_selecting_fields(
    entry: Arc<CacheEntry>,
    names: &[HeaderName],
    request: Option<&HeaderMap>,
) -> Arc<CacheEntry> {
    if entry.selecting().map_or(&[][..], |selecting| selecting.names()) == names {
        return entry;
    }
    let selecting = SelectingFields::by(entry.selecting(), names, request);
    Arc::new(CacheEntry::clone(&entry).narrow_entry(selecting, entry.part()))
}

/// The state when another variant arrives.
pub(crate) struct VariantArrival<'a> {
    /// The fields of its request.
    pub(crate) request: &'a HeaderMap,
    /// The fields that tell other variants apart, which are not here.
    pub(crate) told: &'a [HeaderName],
    /// The most that are kept.
    pub(crate) most: usize,
    pub(crate) now_ms: u64,
}

/// The variants of a resource with another one, the newest first, without those that answer the same
/// requests; and the number of those evicted for want of room.
pub(crate) fn insert_variant(
    mut there: Vec<Arc<CacheEntry>>,
    new: Arc<CacheEntry>,
    arrival: &VariantArrival<'_>,
) -> (Vec<Arc<CacheEntry>>, usize) {
    there.retain(|entry| {
        let is_replaced = is_replaced(entry, &new, arrival.request);
        if is_replaced {
            inherit(&new, entry);
        }
        !is_replaced && is_of_use(entry, arrival.now_ms)
    });
    let mut names: Vec<HeaderName> =
        there.iter().chain([&new]).flat_map(|entry| varying_names(entry)).collect();
    names.extend_from_slice(arrival.told);
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    let new = add_selecting_fields(new, &names, Some(arrival.request));
    let mut all = vec![new.clone()];
    for old in there {
        let old = add_selecting_fields(old, &names, None);
        let is_same = |kept: &Arc<CacheEntry>| kept.selecting() == old.selecting();
        if is_same(&new) && (new.part().is_none() || old.part().is_some()) {
            inherit(&new, &old);
            continue;
        }
        // They differed in a field that no longer tells variants apart: the newer one counts.
        if !all[1..].iter().any(|kept| is_same(kept) && kept.part().is_some() == old.part().is_some()) {
            all.push(old);
        }
    }
    let mut gone = 0;
    while all.len() > arrival.most.max(1) {
        let index = least_used(&all[1..]) + 1;
        all.remove(index);
        gone += 1;
    }
    (all, gone)
}

/// Returns true if an answer would be chosen for the request of the newer one: for that very request, or, as
/// long as it varied by other fields, for one that it fits. A part replaces no whole answer.
fn is_replaced(old: &CacheEntry, new: &CacheEntry, request: &HeaderMap) -> bool {
    if new.part().is_some() {
        return false;
    }
    let Some(selecting) = old.selecting() else { return true };
    match selecting.matches(request, StoredContent::of(&old.representation.headers())) {
        VariantMatch::Exact => true,
        VariantMatch::Fits => varying_names(old) != varying_names(new),
        VariantMatch::No => false,
    }
}

/// The least used variant. Of several one at random: if more are requested in turn than are kept, the oldest
/// would always be the next one to be requested.
fn least_used(entries: &[Arc<CacheEntry>]) -> usize {
    let least = entries.iter().map(|entry| uses(entry)).min().unwrap_or(0);
    // Old uses lose their weight.
    entries.iter().filter_map(|entry| entry.uses()).for_each(|uses| uses.forget(least));
    let candidates: Vec<usize> = (0..entries.len()).filter(|at| uses(&entries[*at]) == 0).collect();
    match candidates.len() {
        0 => 0,
        several => candidates[rand::random::<u32>() as usize % several],
    }
}

fn uses(entry: &CacheEntry) -> u8 {
    entry.uses().map_or(0, UseCount::count)
}

/// Carries over the uses: a popular answer is likely to be popular when it is replaced.
fn inherit(new: &CacheEntry, old: &CacheEntry) {
    if let Some(own) = new.uses() {
        own.raise(uses(old) / 2);
    }
}

/// Returns true if an answer may still be served or validated.
fn is_of_use(entry: &CacheEntry, now_ms: u64) -> bool {
    let what = &entry.representation;
    let has_validator = [header::ETAG, header::LAST_MODIFIED].iter().any(|name| what.header(name).is_some());
    let terms = entry.terms();
    now_ms < terms.received_ms.saturating_add(terms.keep_ms(has_validator))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::{
            coherence::{
                partitions::StorePartitions,
                version::{Version, VersionTable},
            },
            entry::Validity,
            policy::{FreshnessTerms, StoredContent, VariantMatch},
        },
        config,
        representation::Representation,
    };

    use http::{HeaderValue, StatusCode};

    const NOW: u64 = 1_000_000;

    fn entry(vary: Option<&'static str>, lifetime_ms: u64) -> Arc<CacheEntry> {
        let rules = config::EncodingConfig {
            types: Vec::new(),
            min_size: 1_024,
            prefer: Vec::new(),
            levels: Default::default(),
            memory: 1 << 27,
        };
        let fields = vary.map(|vary| (header::VARY, HeaderValue::from_static(vary))).into_iter().collect();
        let what = Representation::verbatim(StatusCode::OK, fields, vec![7; 10], &rules);
        let versions = VersionTable::new(StorePartitions::none());
        let slot = versions.slot(&"kpi".parse().unwrap(), &"acme".parse().unwrap());
        let terms = FreshnessTerms {
            received_ms: NOW,
            initial_age_ms: 0,
            lifetime_ms,
            stale_while_revalidate_ms: 0,
            stale_if_error_ms: 0,
            always_validate: false,
            never_stale: false,
            is_provisional: false,
        };
        Arc::new(CacheEntry::new(what, &terms, Validity::Version(Version::new(b"1"), slot)))
    }

    fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn arrive(
        there: Vec<Arc<CacheEntry>>,
        new: Arc<CacheEntry>,
        request: &HeaderMap,
        most: usize,
    ) -> Vec<Arc<CacheEntry>> {
        insert_variant(there, new, &VariantArrival { request, told: &[], most, now_ms: NOW }).0
    }

    fn found<'e>(all: &'e [Arc<CacheEntry>], request: &HeaderMap) -> Option<&'e Arc<CacheEntry>> {
        all.iter().find(|entry| {
            let content = StoredContent { coding: None, language: None, transformable: true };
            entry.selecting().is_none_or(|s| s.matches(request, content) != VariantMatch::No)
        })
    }

    /// In any order of arrival.
    #[test]
    fn an_answer_without_vary_is_not_for_whom_another_names() {
        let (plain, named) = (entry(None, 60_000), entry(Some("Origin"), 60_000));
        let (without, with_origin) = (fields(&[]), fields(&[("origin", "https://a")]));
        let other = fields(&[("origin", "https://b")]);
        for first in [true, false] {
            let order = [(plain.clone(), &without), (named.clone(), &with_origin)];
            let [one, two] = if first { order } else { [order[1].clone(), order[0].clone()] };
            let all = arrive(arrive(Vec::new(), one.0, one.1, 9), two.0, two.1, 9);
            let vary =
                |request| found(&all, request).map(|e| e.representation.header(&header::VARY).is_some());
            // The plain one would have been chosen for the request of the other, and is replaced by it.
            assert_eq!(vary(&without), (!first).then_some(false), "{first}");
            assert_eq!(vary(&with_origin), Some(true), "{first}");
            assert_eq!(vary(&other), None, "{first}");
        }
    }

    #[test]
    fn an_answer_replaces_the_one_that_its_request_would_get() {
        let (one, other) = (fields(&[("x-v", "1")]), fields(&[("x-v", "2")]));
        let (gzip, brotli) = (fields(&[("accept-encoding", "gzip")]), fields(&[("accept-encoding", "br")]));
        // The `Vary` and the request of the older answer, those of the newer one, and how many stay.
        for (old, old_request, new, new_request, stay) in [
            (None, &one, Some("Cookie"), &one, 1),
            (None, &one, Some("X-V"), &other, 1),
            (Some("X-V"), &one, None, &one, 1),
            (Some("X-V"), &one, None, &other, 2),
            (Some("X-V"), &one, Some("X-W, X-V"), &one, 1),
            (Some("X-V"), &one, Some("X-W, X-V"), &other, 2),
            (Some("Accept-Encoding"), &gzip, Some("Accept-Encoding"), &brotli, 2),
            (Some("Accept-Encoding"), &gzip, Some("Accept-Encoding, X-V"), &brotli, 1),
            (Some("Accept-Encoding"), &gzip, None, &brotli, 1),
        ] {
            let all = arrive(Vec::new(), entry(old, 60_000), old_request, 9);
            let all = arrive(all, entry(new, 60_000), new_request, 9);
            assert_eq!(all.len(), stay, "{old:?} {old_request:?}, {new:?} {new_request:?}");
        }
    }

    #[test]
    fn what_no_answer_names_any_more_tells_nothing_apart() {
        let (a, b) = (fields(&[("x-v", "a")]), fields(&[("x-v", "b")]));
        let all = arrive(Vec::new(), entry(Some("X-V"), 10), &a, 9);
        let all = arrive(all, entry(Some("X-V"), 60_000), &b, 9);
        assert_eq!(all.len(), 2);
        let later = VariantArrival { request: &a, told: &[], most: 9, now_ms: NOW + 70_000 };
        let (all, _) = insert_variant(all, entry(None, 600_000), &later);
        assert_eq!(all.len(), 1, "both were of no use any more");
        assert!(all[0].selecting().is_none());
    }

    #[test]
    fn what_is_used_stays() {
        let mut all = Vec::new();
        let ask = |n: u32| fields(&[("x-v", &n.to_string())]);
        for n in 0..4 {
            all = arrive(all, entry(Some("X-V"), 60_000), &ask(n), 4);
        }
        for n in 4..100 {
            found(&all, &ask(0)).expect("it is used all the time").uses().unwrap().count_one();
            all = arrive(all, entry(Some("X-V"), 60_000), &ask(n), 4);
            assert_eq!(all.len(), 4);
            assert!(found(&all, &ask(n)).is_some(), "the newest is there");
        }
    }

    #[test]
    fn one_more_in_turn_than_are_kept_is_mostly_found() {
        let (mut all, mut hits) = (Vec::new(), 0);
        for n in (0..9_u32).cycle().take(900) {
            let ask = fields(&[("x-v", &n.to_string())]);
            match found(&all, &ask) {
                Some(entry) => {
                    entry.uses().unwrap().count_one();
                    hits += 1;
                }
                None => all = arrive(all, entry(Some("X-V"), 60_000), &ask, 8),
            }
        }
        assert!(hits > 450, "{hits} of 900");
    }
}
