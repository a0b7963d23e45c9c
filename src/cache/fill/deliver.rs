//! Delivers a body from the origin to its readers, and announces it: whole if it arrives quickly, else while
//! it arrives.

use super::{
    draft::{EntryDraft, StoreVerdict},
    job::FillLead,
    streaming_body::StreamWriter,
};
use crate::{
    cache::{Cache, FlightOutcome, IncomingBody, LeadOutcome, OriginFetchError},
    config,
    representation::Body,
    telemetry::labels::FillOutcome,
};

use http::StatusCode;
use std::{future::pending, sync::Arc, time::Duration};
use tokio::{
    sync::{oneshot, watch},
    time::{sleep_until, Instant},
};

/// The time after the head in which a body must arrive to be answered as a whole, with its length, its tag
/// and its encodings.
const FIRST_PIECE_GRACE: Duration = Duration::from_millis(5);

/// The end of a body.
pub(crate) enum BodyEnd {
    /// It is complete, and all of it is in memory.
    Whole(Body),
    /// It is complete, and has passed through.
    Passed,
    /// It broke off.
    Broken(OriginFetchError),
    /// It was given up: no reader is left.
    Unwanted,
}

/// The outputs of a fill, each given once: to its leader, to its followers, to readers of the body.
pub(crate) struct FillOutputs {
    lead: Option<FillLead>,
    own: Option<oneshot::Sender<LeadOutcome>>,
    writer: Option<StreamWriter>,
    /// `None` if no one waits for it.
    left: Option<watch::Sender<Option<JoinsClosed>>>,
}

/// The signal that no request joins any more, though the body still arrives: other nodes have nothing to wait
/// for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JoinsClosed {
    /// The next answer may be shareable again.
    ThisTime,
    /// The next answer won't be shareable either.
    EachTime,
}

impl FillOutputs {
    pub(crate) fn new(
        lead: Option<FillLead>,
        own: oneshot::Sender<LeadOutcome>,
        writer: StreamWriter,
    ) -> Self {
        Self { lead, own: Some(own), writer: Some(writer), left: None }
    }

    /// The channel that signals that no request joins any more.
    pub(crate) fn left(&mut self) -> watch::Receiver<Option<JoinsClosed>> {
        self.left.get_or_insert_with(|| watch::Sender::new(None)).subscribe()
    }

    fn tell_that_nobody_joins(&self, left: JoinsClosed) {
        if let Some(told) = &self.left {
            told.send_replace(Some(left));
        }
    }

    /// Returns true if the leader has no answer yet, so that no part of the body has been seen.
    pub(crate) fn are_full(&self) -> bool {
        self.own.is_some()
    }

    /// Waits until the body has had no reader for this long. From then on no request can join.
    pub(crate) async fn forsaken(&self, so_long: Option<Duration>) {
        match (&self.writer, so_long) {
            (Some(writer), Some(so_long)) => writer.forsaken(so_long).await,
            _ => pending().await,
        }
    }

    /// Gives the leader its answer; ignored if the leader has gone.
    pub(crate) fn give(&mut self, led: LeadOutcome) {
        if let Some(own) = self.own.take() {
            drop(own.send(led));
        }
    }

    /// Gives the outcome to all who have none yet; no request joins any more.
    pub(crate) fn land(&mut self, landing: FlightOutcome) {
        let told = self.own.is_none();
        // Followers first: once the leader's client has its answer, no request may join.
        match self.lead.take() {
            Some(mut lead) if told => lead.leave(),
            Some(lead) => lead.land(landing.clone()),
            None => {}
        }
        self.give(LeadOutcome::Landing(landing));
    }

    pub(crate) fn fail(&mut self, error: OriginFetchError) {
        self.writer = None;
        self.land(FlightOutcome::Failed(error));
    }

    /// Releases the followers without an answer.
    pub(crate) fn release(&mut self, why: FillOutcome, status: StatusCode, left: JoinsClosed) {
        self.tell_that_nobody_joins(left);
        if let Some(lead) = self.lead.take() {
            lead.land(FlightOutcome::Unshareable(why, Some(status)));
        }
    }

    /// Signals that other nodes have nothing to wait for: the answer will not be stored for them.
    pub(crate) fn let_go_of_the_lease(&self) {
        self.tell_that_nobody_joins(JoinsClosed::ThisTime);
    }

    /// Announces an answer while it arrives.
    fn announce(&mut self, draft: &EntryDraft, rules: &config::EncodingConfig) {
        if self.own.is_none() {
            return;
        }
        let arriving = draft.arriving(rules);
        match draft.verdict {
            StoreVerdict::Keep | StoreVerdict::Everyone(_) => {
                if let Some(lead) = &self.lead {
                    lead.announce(FlightOutcome::Arriving(arriving.clone()));
                }
                self.give(LeadOutcome::Landing(FlightOutcome::Arriving(arriving)));
            }
            StoreVerdict::Asker(_) | StoreVerdict::AskerAlways(_) => {
                self.give(LeadOutcome::Own(arriving));
            }
        }
    }

    fn leave(&mut self, left: JoinsClosed) {
        self.tell_that_nobody_joins(left);
        if let Some(lead) = &mut self.lead {
            lead.leave();
        }
    }
}

impl Cache {
    /// Delivers a body of which up to `keep` bytes are kept. After `deadline` no request can join.
    pub(crate) async fn carry(
        self: &Arc<Self>,
        hands: &mut FillOutputs,
        draft: &EntryDraft,
        mut body: Box<dyn IncomingBody>,
        keep: u64,
        deadline: Instant,
    ) -> BodyEnd {
        let Some(writer) = hands.writer.take() else { return BodyEnd::Unwanted };
        writer.keep(keep);
        // If neither waiting nor later requests can have the body, the origin need not go on sending it.
        let is_stored = keep > 0 && draft.verdict == StoreVerdict::Keep && !draft.is_event_stream();
        let grace = Instant::now() + FIRST_PIECE_GRACE;
        let mut passing = false;
        let ended = 'body: loop {
            let mut next = body.next();
            let piece = loop {
                tokio::select! {
                    biased;
                    piece = &mut next => break piece,
                    () = writer.forsaken(Duration::ZERO), if passing || !is_stored => return BodyEnd::Unwanted,
                    () = sleep_until(grace), if hands.are_full() => hands.announce(draft, &self.encoding.load()),
                    () = sleep_until(deadline), if hands.lead.is_some() => {
                        hands.announce(draft, &self.encoding.load());
                        hands.leave(JoinsClosed::ThisTime);
                        hands.lead = None;
                    }
                }
            };
            match piece {
                Ok(Some(piece)) => {
                    if !writer.append(piece) {
                        continue;
                    }
                    if !passing {
                        passing = true;
                        // Announced first: a follower that isn't told doesn't read, and would be waited for
                        // for ever.
                        hands.announce(draft, &self.encoding.load());
                        hands.leave(match draft.verdict {
                            StoreVerdict::Keep | StoreVerdict::AskerAlways(_) => JoinsClosed::EachTime,
                            StoreVerdict::Everyone(_) | StoreVerdict::Asker(_) => JoinsClosed::ThisTime,
                        });
                    }
                    if !writer.in_step().await {
                        return BodyEnd::Unwanted;
                    }
                }
                Ok(None) => break 'body Ok(()),
                Err(error) => break 'body Err(error),
            }
        };
        match ended {
            Ok(()) => match writer.finish() {
                Some(body) => BodyEnd::Whole(body),
                None => {
                    // A short body that is the leader's alone is complete before it was announced.
                    hands.announce(draft, &self.encoding.load());
                    BodyEnd::Passed
                }
            },
            Err(error) => {
                if hands.are_full() {
                    writer.start_over();
                    hands.writer = Some(writer);
                }
                BodyEnd::Broken(error)
            }
        }
    }
}
