//! `Cache-Status` (RFC 9211): what the gateway's cache did with a request.
//!
//! Pure. A step says it with [`CacheStatus`]; [`CacheStatus::value`] alone writes it.

use http::{HeaderName, HeaderValue, StatusCode};
use std::fmt::Write as _;

/// The name of the field.
pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The reason why a request was forwarded: a value of `fwd` (RFC 9211, 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardToken {
    /// The cache is not used for it.
    Bypass,
    /// Its method is not answered from the cache.
    Method,
    /// Nothing is stored for its target.
    UriMiss,
    /// What is stored for its target was selected by other fields.
    VaryMiss,
    /// The request's own fields don't allow what is stored.
    Request,
    /// What is stored is stale.
    Stale,
    /// Only another part is stored.
    Partial,
}

impl ForwardToken {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Request => "request",
            Self::Stale => "stale",
            Self::Partial => "partial",
        }
    }
}

/// The source of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AnswerSource {
    /// The gateway itself; the cache had no part in it.
    Gateway,
    /// The cache; with the remaining lifetime in seconds, if it is told.
    Cache(Option<i64>),
    Origin(ForwardToken),
}

/// The gateway's member of `Cache-Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheStatus {
    source: AnswerSource,
    status: Option<StatusCode>,
    stored: bool,
    collapsed: bool,
    detail: Option<&'static str>,
}

/// The members of most answers, which need not be written each time.
static COMMON_STATUSES: [(CacheStatus, HeaderValue); 5] = [
    (CacheStatus::HIT, HeaderValue::from_static("tidegate; hit")),
    (CacheStatus::forwarded(ForwardToken::Bypass), HeaderValue::from_static("tidegate; fwd=bypass")),
    (CacheStatus::forwarded(ForwardToken::Method), HeaderValue::from_static("tidegate; fwd=method")),
    (
        CacheStatus::forwarded(ForwardToken::UriMiss).stored(false),
        HeaderValue::from_static("tidegate; fwd=uri-miss; stored"),
    ),
    (
        CacheStatus::forwarded(ForwardToken::UriMiss).stored(true),
        HeaderValue::from_static("tidegate; fwd=uri-miss; stored; collapsed"),
    ),
];

impl CacheStatus {
    /// An answer from the cache.
    pub(crate) const HIT: Self = Self::of(AnswerSource::Cache(None));

    /// An answer of the gateway's own.
    pub(crate) const fn local(detail: &'static str) -> Self {
        Self::of(AnswerSource::Gateway).with_detail(Some(detail))
    }

    /// An answer from the cache with a lifetime of this many seconds, which is negative if it is stale (RFC
    /// 9211, 2.3).
    pub(crate) const fn hit_with_ttl(seconds: i64) -> Self {
        Self::of(AnswerSource::Cache(Some(seconds)))
    }

    /// An answer for which the origin was asked.
    pub(crate) const fn forwarded(why: ForwardToken) -> Self {
        Self::of(AnswerSource::Origin(why))
    }

    const fn of(source: AnswerSource) -> Self {
        Self { source, status: None, stored: false, collapsed: false, detail: None }
    }

    /// The same, with the status of the origin's answer (`fwd-status`).
    pub(crate) const fn with_fwd_status(self, status: StatusCode) -> Self {
        Self { status: Some(status), ..self }
    }

    /// The same of an answer that was stored; `collapsed`: another request had asked for it.
    pub(crate) const fn stored(self, collapsed: bool) -> Self {
        Self { stored: true, collapsed, ..self }
    }

    /// The same, with a `detail`, which is a token.
    pub(crate) const fn with_detail(self, detail: Option<&'static str>) -> Self {
        Self { detail, ..self }
    }

    /// The value of the field.
    pub(crate) fn value(self) -> HeaderValue {
        match COMMON_STATUSES.iter().find(|(status, _)| *status == self) {
            Some((_, value)) => value.clone(),
            // Details are tokens: the value is always valid.
            None => {
                HeaderValue::try_from(self.text()).unwrap_or(const { HeaderValue::from_static("tidegate") })
            }
        }
    }

    fn text(self) -> String {
        let mut text = String::from("tidegate");
        let mut put = |parameter: std::fmt::Arguments<'_>| {
            // Writing to a String can't fail.
            write!(text, "; {parameter}").unwrap_or_default();
        };
        match self.source {
            AnswerSource::Gateway => {}
            AnswerSource::Cache(ttl) => {
                put(format_args!("hit"));
                ttl.iter().for_each(|ttl| put(format_args!("ttl={ttl}")));
            }
            AnswerSource::Origin(why) => put(format_args!("fwd={}", why.as_str())),
        }
        self.status.iter().for_each(|status| put(format_args!("fwd-status={}", status.as_u16())));
        for (is, name) in [(self.stored, "stored"), (self.collapsed, "collapsed")] {
            if is {
                put(format_args!("{name}"));
            }
        }
        self.detail.iter().for_each(|detail| put(format_args!("detail={detail}")));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_written_in_one_way() {
        let forwarded = CacheStatus::forwarded;
        for (status, text) in [
            (CacheStatus::HIT, "tidegate; hit"),
            (CacheStatus::HIT.with_detail(Some("redis")), "tidegate; hit; detail=redis"),
            (CacheStatus::hit_with_ttl(-3).with_detail(Some("a")), "tidegate; hit; ttl=-3; detail=a"),
            (CacheStatus::local("file"), "tidegate; detail=file"),
            (forwarded(ForwardToken::Bypass), "tidegate; fwd=bypass"),
            (forwarded(ForwardToken::UriMiss).stored(true), "tidegate; fwd=uri-miss; stored; collapsed"),
            (
                forwarded(ForwardToken::Stale)
                    .with_fwd_status(StatusCode::NOT_MODIFIED)
                    .stored(false)
                    .with_detail(Some("purged")),
                "tidegate; fwd=stale; fwd-status=304; stored; detail=purged",
            ),
            (
                forwarded(ForwardToken::VaryMiss).with_fwd_status(StatusCode::OK).with_detail(Some("b")),
                "tidegate; fwd=vary-miss; fwd-status=200; detail=b",
            ),
        ] {
            assert_eq!(status.value(), text);
        }
    }

    #[test]
    fn common_members_are_those_that_would_be_written() {
        for (status, value) in &COMMON_STATUSES {
            assert_eq!(*value, status.text());
        }
    }
}
