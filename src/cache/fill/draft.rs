//! An answer whose head has arrived and whose body hasn't: the decision on who may have it, and its entry.

use crate::{
    cache::{
        entry::{CacheEntry, StoredRange, Validity},
        policy::{FreshnessTerms, SelectingFields},
        ArrivingHead,
    },
    config,
    representation::{Body, OutsideCaching, Representation},
    telemetry::labels::FillOutcome,
};

use http::{header::CONTENT_TYPE, HeaderName, HeaderValue, StatusCode};
use std::{sync::Arc, time::SystemTime};

/// The requests that may have an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreVerdict {
    /// All requests, also later ones.
    Keep,
    /// All requests that wait.
    Everyone(FillOutcome),
    /// The leader alone, for this answer.
    Asker(FillOutcome),
    /// The leader alone, as with every answer here.
    AskerAlways(FillOutcome),
}

impl StoreVerdict {
    pub(crate) fn outcome(self) -> FillOutcome {
        match self {
            Self::Keep => FillOutcome::Stored,
            Self::Everyone(why) | Self::Asker(why) | Self::AskerAlways(why) => why,
        }
    }

    pub(crate) fn is_shared(self) -> bool {
        matches!(self, Self::Keep | Self::Everyone(_))
    }
}

/// An answer whose head has arrived: all of an entry except its body.
pub(crate) struct EntryDraft {
    pub(crate) verdict: StoreVerdict,
    pub(crate) status: StatusCode,
    /// The fields that are stored, or passed on.
    pub(crate) fields: Vec<(HeaderName, HeaderValue)>,
    /// Further fields, for the leader alone.
    pub(crate) own: Vec<(HeaderName, HeaderValue)>,
    /// The kind of its description.
    pub(crate) described: DescribedBy,
    /// The length in the head.
    pub(crate) length: Option<u64>,
    pub(crate) terms: FreshnessTerms,
    pub(crate) standing: Validity,
    pub(crate) selecting: Option<SelectingFields>,
    pub(crate) part: Option<StoredRange>,
    /// It is known to be larger than may be stored.
    pub(crate) too_large: bool,
    /// It is not stored, but ends the stored answer for the same request.
    pub(crate) ends_stored: bool,
}

/// The kind of an answer's description.
#[derive(Clone)]
pub(crate) enum DescribedBy {
    /// Described by the gateway, with these fields for downstream caches and the origin's `Last-Modified`.
    ByUs(Arc<OutsideCaching>, Option<SystemTime>),
    /// Verbatim, as the origin described it.
    Verbatim,
}

impl DescribedBy {
    fn represent(
        self,
        status: StatusCode,
        fields: Vec<(HeaderName, HeaderValue)>,
        body: Body,
        rules: &config::EncodingConfig,
    ) -> Representation {
        match self {
            Self::ByUs(told, changed) => Representation::new(status, fields, body, changed, told, rules),
            Self::Verbatim => Representation::verbatim(status, fields, body, rules),
        }
    }
}

impl EntryDraft {
    /// Returns true if its body has no end of its own (EventSource).
    pub(crate) fn is_event_stream(&self) -> bool {
        let mut kinds = self.fields.iter().filter(|(name, _)| *name == CONTENT_TYPE);
        kinds.any(|(_, kind)| kind.as_bytes().to_ascii_lowercase().starts_with(b"text/event-stream"))
    }

    /// The whole answer.
    pub(crate) fn representation(&self, body: Body, rules: &config::EncodingConfig) -> Representation {
        self.described.clone().represent(self.status, self.fields.clone(), body, rules)
    }

    /// The entry with this body.
    pub(crate) fn entry(self, body: Body, rules: &config::EncodingConfig) -> CacheEntry {
        let Self { status, fields, described, terms, standing, selecting, part, .. } = self;
        let representation = described.represent(status, fields, body, rules);
        CacheEntry::new(representation, &terms, standing).narrow_entry(selecting, part)
    }

    /// The announcement of an answer before its body is complete.
    pub(crate) fn arriving(&self, rules: &config::EncodingConfig) -> Arc<ArrivingHead> {
        let mut headers = match self.described {
            DescribedBy::ByUs(..) => self.representation(Body::new(), rules).fields_while_arriving(),
            DescribedBy::Verbatim => self.fields.clone(),
        };
        headers.extend(self.own.iter().cloned());
        let stamp = match &self.standing {
            Validity::Log(stamp, _) => Some(stamp.clone()),
            Validity::Version(..) => None,
        };
        Arc::new(ArrivingHead {
            status: self.status,
            headers,
            length: self.length,
            outcome: match self.verdict {
                StoreVerdict::Keep if self.too_large => FillOutcome::TooLarge,
                verdict => verdict.outcome(),
            },
            selecting: self.selecting.clone(),
            stamp,
            terms: self.terms,
        })
    }
}
