//! An answer whose head has come and whose body hasn't: who may have it, and what it will be.

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

/// Who may have an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Everyone, also later.
    Keep,
    /// Everyone who waits.
    Everyone(FillOutcome),
    /// The one who asked, this time.
    Asker(FillOutcome),
    /// The one who asked, each time.
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

/// An answer whose head has come: all of an entry but its body.
pub(super) struct Draft {
    pub(super) verdict: Verdict,
    pub(super) status: StatusCode,
    /// The fields that are kept, or passed on.
    pub(super) fields: Vec<(HeaderName, HeaderValue)>,
    /// Further fields, for the asker alone.
    pub(super) own: Vec<(HeaderName, HeaderValue)>,
    /// Who describes it.
    pub(super) described: Described,
    /// The length that the head tells.
    pub(super) length: Option<u64>,
    pub(super) terms: Terms,
    pub(super) standing: Standing,
    pub(super) selecting: Option<Selecting>,
    pub(super) part: Option<Part>,
    /// It is known to be larger than what may be kept.
    pub(super) too_large: bool,
    /// It is not stored, and what is stored for the same request is over all the same.
    pub(super) ends_stored: bool,
}

/// Who describes an answer.
#[derive(Clone)]
pub(super) enum Described {
    /// The gateway, for these caches outside, with what the origin said of its last change.
    ByUs(Arc<Outside>, Option<SystemTime>),
    /// The origin.
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
    /// Returns whether its body has no end of its own (EventSource).
    pub(super) fn is_event_stream(&self) -> bool {
        let mut kinds = self.fields.iter().filter(|(name, _)| *name == CONTENT_TYPE);
        kinds.any(|(_, kind)| kind.as_bytes().to_ascii_lowercase().starts_with(b"text/event-stream"))
    }

    /// The whole answer.
    pub(super) fn representation(&self, body: Body, rules: &config::Encoding) -> Representation {
        self.described.clone().represent(self.status, self.fields.clone(), body, rules)
    }

    /// The entry that it is with its body.
    pub(super) fn entry(self, body: Body, rules: &config::Encoding) -> Entry {
        let Self { status, fields, described, terms, standing, selecting, part, .. } = self;
        let representation = described.represent(status, fields, body, rules);
        Entry::new(representation, &terms, standing).narrowed(selecting, part)
    }

    /// What is told of it before its body is whole.
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
