//! The policy of the cache: what may be stored, shared and served, and at which age. All such decisions are
//! made here: values in, a verdict with a named reason out. Nothing here waits, reads a clock or keeps state.
//!
//! Two kinds of routes have two sets of rules, and share [`FreshnessTerms`]:
//!
//! - [`namespaced`]: answers under version keys. The route decides how long, the origin whether at all.
//! - [`origin_driven`]: the origin's headers decide (RFC 9111, with 5861, 8246 and 9213); [`origin_driven::directives`] reads them,
//!   [`origin_driven::vary`] tells the variants of one resource apart, [`crate::http::date`] reads HTTP's dates.
//!
//! [`status`] decides for both if an answer that is not stored ends a stored one.

pub mod accel_expires;
pub mod fields;
pub mod namespaced;
pub mod origin_driven;
pub mod status;
mod terms;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod test_kit;

pub(super) use terms::millis;
pub use {
    fields::{
        condition_fields, head_effect, is_other_than_stored, is_part_of_another, renew_terms, stored_fields,
        validates, HeadEffect,
    },
    origin_driven::{
        decide_reuse,
        directives::{request_directives, response_directives, RequestDirectives},
        head_ends,
        invalidation::{also_invalidated, content_is_of_target, invalidates},
        may_be_for_credentials,
        vary::{parse_vary_names, vary_rule, SelectingFields, StoredContent, VariantMatch, VaryRule},
        OriginExchange, ReuseVerdict, RevalidateReason,
    },
    status::{ends_stored, may_be_the_requests_own},
    terms::{Freshness, FreshnessTerms},
};
