//! The policy of the cache: what may be stored, shared and served, and at which age. All such decisions are
//! made here: values in, a verdict with a named reason out. Nothing here waits, reads a clock or keeps state.
//!
//! Two kinds of routes have two sets of rules, and share [`freshness::Terms`]:
//!
//! - [`namespaced`]: answers under version keys. The route decides how long, the origin whether at all.
//! - [`follow`]: the origin's headers decide (RFC 9111, with 5861, 8246 and 9213); [`directives`] reads them,
//!   [`vary`] tells the variants of one resource apart, [`date`] reads HTTP's dates.
//!
//! [`status`] decides for both if an answer that is not stored ends a stored one.

pub mod accel;
pub mod date;
pub mod delta_seconds;
pub mod directives;
pub mod fields;
pub mod follow;
pub mod freshness;
pub mod invalidation;
pub mod namespaced;
pub mod status;
pub mod vary;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod test_kit;

pub(super) use namespaced::millis;
pub use {
    directives::{asked, of_answer, Asked},
    fields::{conditions, head_effect, is_part_of_another, kept_fields, renewed, validates, HeadEffect},
    follow::{head_ends, may_be_for_credentials, reuse, Exchange, Reuse, Why},
    freshness::{Freshness, Terms},
    invalidation::{also_invalidated, content_is_of_target, invalidates},
    status::{ends_stored, may_be_the_requests_own},
    vary::{named, varies, Content, Match, Selecting, Varies},
};
