//! An answer whose head has arrived and whose body hasn't: the decision on who may have it, and its entry.

use super::{
    entry::{Entry, Part, Standing},
    policy::{Selecting, Terms},
    Arriving,
};
use crate::{
    config,
    representation::{Body, Outside, Representation},
    telemetry::labels::FillOutcome,
};
use http::{header::CONTENT_TYPE, HeaderName, HeaderValue, StatusCode};
use std::{sync::Arc, time::SystemTime};

/// The requests that may have an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All requests, also later ones.
    Keep,
    /// All requests that wait.
    Everyone(FillOutcome),
    /// The leader alone, for this answer.
    Asker(FillOutcome),
    /// The leader alone, as with every answer here.
    AskerAlways(FillOutcome),
}

impl Verdict {
    pub(super) fn outcome(self) -> FillOutcome {
        match self {
            Self::Keep => FillOutcome::Stored,
            Self::Everyone(why) | Self::Asker(why) | Self::AskerAlways(why) => why,
        }
    }

    pub(super) fn is_shared(self) -> bool {
        matches!(self, Self::Keep | Self::Everyone(_))
    }
}

/// An answer whose head has arrived: all of an entry except its body.
pub(super) struct Draft {
    pub(super) verdict: Verdict,
    pub(super) status: StatusCode,
    /// The fields that are stored, or passed on.
    pub(super) fields: Vec<(HeaderName, HeaderValue)>,
    /// Further fields, for the leader alone.
    pub(super) own: Vec<(HeaderName, HeaderValue)>,
    /// The kind of its description.
    pub(super) described: Described,
    /// The length in the head.
    pub(super) length: Option<u64>,
    pub(super) terms: Terms,
    pub(super) standing: Standing,
    pub(super) selecting: Option<Selecting>,
    pub(super) part: Option<Part>,
    /// It is known to be larger than may be stored.
    pub(super) too_large: bool,
    /// It is not stored, but ends the stored answer for the same request.
    pub(super) ends_stored: bool,
}

/// The kind of an answer's description.
#[derive(Clone)]
pub(super) enum Described {
    /// Described by the gateway, with these fields for downstream caches and the origin's `Last-Modified`.
    ByUs(Arc<Outside>, Option<SystemTime>),
    /// Verbatim, as the origin described it.
    Verbatim,
}

impl Described {
    fn represent(
        self,
        status: StatusCode,
        fields: Vec<(HeaderName, HeaderValue)>,
        body: Body,
        rules: &config::Encoding,
    ) -> Representation {
        match self {
            Self::ByUs(told, changed) => Representation::new(status, fields, body, changed, told, rules),
            Self::Verbatim => Representation::verbatim(status, fields, body, rules),
        }
    }
}

impl Draft {
    /// Returns true if its body has no end of its own (EventSource).
    pub(super) fn is_event_stream(&self) -> bool {
        let mut kinds = self.fields.iter().filter(|(name, _)| *name == CONTENT_TYPE);
        kinds.any(|(_, kind)| kind.as_bytes().to_ascii_lowercase().starts_with(b"text/event-stream"))
    }

    /// The whole answer.
    pub(super) fn representation(&self, body: Body, rules: &config::Encoding) -> Representation {
        self.described.clone().represent(self.status, self.fields.clone(), body, rules)
    }

    /// The entry with this body.
    pub(super) fn entry(self, body: Body, rules: &config::Encoding) -> Entry {
        let Self { status, fields, described, terms, standing, selecting, part, .. } = self;
        let representation = described.represent(status, fields, body, rules);
        Entry::new(representation, &terms, standing).narrowed(selecting, part)
    }

    /// The announcement of an answer before its body is complete.
    pub(super) fn arriving(&self, rules: &config::Encoding) -> Arc<Arriving> {
        let mut headers = match self.described {
            Described::ByUs(..) => self.representation(Body::new(), rules).fields_while_arriving(),
            Described::Verbatim => self.fields.clone(),
        };
        headers.extend(self.own.iter().cloned());
        let stamp = match &self.standing {
            Standing::Log(stamp, _) => Some(stamp.clone()),
            Standing::Version(..) => None,
        };
        Arc::new(Arriving {
            status: self.status,
            headers,
            length: self.length,
            outcome: match self.verdict {
                Verdict::Keep if self.too_large => FillOutcome::TooLarge,
                verdict => verdict.outcome(),
            },
            selecting: self.selecting.clone(),
            stamp,
            terms: self.terms,
        })
    }
}
