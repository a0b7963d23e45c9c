//! Carrying a body from the origin to those who read it, and telling them of it: whole where it comes quickly, else
//! while it arrives.

use super::{
    draft::{Draft, Verdict},
    fill::Leading,
    live::Writer,
    Cache, FetchError, Incoming, Landing, Led,
};
use crate::{config, representation::Body, telemetry::labels::FillOutcome};
use http::StatusCode;
use std::{future::pending, sync::Arc, time::Duration};
use tokio::{
    sync::{oneshot, watch},
    time::{sleep_until, Instant},
};

/// How long a body may take behind its head to be answered as a whole, with its length, its tag and its encodings.
const GRACE: Duration = Duration::from_millis(5);

/// How a body ended.
pub(super) enum Carried {
    /// It is whole, and all of it is here.
    Whole(Body),
    /// It is whole, and went by.
    Passed,
    /// It broke off.
    Broken(FetchError),
    /// Nobody wanted it any more.
    Unwanted,
}

/// What a fill has to give, each once: to its leader, to those who follow, to those who read.
pub(super) struct Hands {
    lead: Option<Leading>,
    own: Option<oneshot::Sender<Led>>,
    writer: Option<Writer>,
    /// `None`: nobody has asked.
    left: Option<watch::Sender<Option<Left>>>,
}

/// Nobody joins any more, though the body still arrives: other nodes have nothing to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// The next answer may be for them.
    ThisTime,
    /// Nor will the next answer be for them.
    EachTime,
}

impl Hands {
    pub(super) fn new(lead: Option<Leading>, own: oneshot::Sender<Led>, writer: Writer) -> Self {
        Self { lead, own: Some(own), writer: Some(writer), left: None }
    }

    /// Who wants to hear that nobody joins any more.
    pub(super) fn left(&mut self) -> watch::Receiver<Option<Left>> {
        self.left.get_or_insert_with(|| watch::Sender::new(None)).subscribe()
    }

    fn tell_that_nobody_joins(&self, left: Left) {
        if let Some(told) = &self.left {
            told.send_replace(Some(left));
        }
    }

    /// Whether the leader has got nothing yet, and so nobody has seen anything of the body.
    pub(super) fn are_full(&self) -> bool {
        self.own.is_some()
    }

    /// Waits until nobody has waited for so long. From then on nobody can join.
    pub(super) async fn forsaken(&self, so_long: Option<Duration>) {
        match (&self.writer, so_long) {
            (Some(writer), Some(so_long)) => writer.forsaken(so_long).await,
            _ => pending().await,
        }
    }

    /// The leader's answer. One who has left doesn't want it any more.
    pub(super) fn give(&mut self, led: Led) {
        if let Some(own) = self.own.take() {
            drop(own.send(led));
        }
    }

    /// The outcome, for all who have none yet; nobody joins any more.
    pub(super) fn land(&mut self, landing: Landing) {
        let told = self.own.is_none();
        // Those who follow, first: when the leader's client has its answer, nobody may join any more.
        match self.lead.take() {
            Some(mut lead) if told => lead.leave(),
            Some(lead) => lead.land(landing.clone()),
            None => {}
        }
        self.give(Led::Landing(landing));
    }

    pub(super) fn fail(&mut self, error: FetchError) {
        self.writer = None;
        self.land(Landing::Failed(error));
    }

    /// Those who follow get nothing.
    pub(super) fn release(&mut self, why: FillOutcome, status: StatusCode, left: Left) {
        self.tell_that_nobody_joins(left);
        if let Some(lead) = self.lead.take() {
            lead.land(Landing::Unshareable(why, Some(status)));
        }
    }

    /// Other nodes have nothing to wait for: the answer will not be where they look.
    pub(super) fn let_go_of_the_lease(&self) {
        self.tell_that_nobody_joins(Left::ThisTime);
    }

    /// Tells of an answer while it arrives.
    fn announce(&mut self, draft: &Draft, rules: &config::Encoding) {
        if self.own.is_none() {
            return;
        }
        let arriving = draft.arriving(rules);
        match draft.verdict {
            Verdict::Keep | Verdict::Everyone(_) => {
                if let Some(lead) = &self.lead {
                    lead.announce(Landing::Arriving(arriving.clone()));
                }
                self.give(Led::Landing(Landing::Arriving(arriving)));
            }
            Verdict::Asker(_) | Verdict::AskerAlways(_) => {
                self.give(Led::Own(arriving));
            }
        }
    }

    fn leave(&mut self, left: Left) {
        self.tell_that_nobody_joins(left);
        if let Some(lead) = &mut self.lead {
            lead.leave();
        }
    }
}

impl Cache {
    /// Carries a body of which up to `keep` bytes are kept. After `deadline` nobody new joins.
    pub(super) async fn carry(
        self: &Arc<Self>,
        hands: &mut Hands,
        draft: &Draft,
        mut body: Box<dyn Incoming>,
        keep: u64,
        deadline: Instant,
    ) -> Carried {
        let Some(writer) = hands.writer.take() else { return Carried::Unwanted };
        writer.keep(keep);
        // What is for nobody who waits, nor for those who will ask, is not for the origin to go on with.
        let is_stored = keep > 0 && draft.verdict == Verdict::Keep && !draft.is_event_stream();
        let grace = Instant::now() + GRACE;
        let mut passing = false;
        let ended = 'body: loop {
            let mut next = body.next();
            let piece = loop {
                tokio::select! {
                    biased;
                    piece = &mut next => break piece,
                    () = writer.forsaken(Duration::ZERO), if passing || !is_stored => return Carried::Unwanted,
                    () = sleep_until(grace), if hands.are_full() => hands.announce(draft, &self.encoding.load()),
                    () = sleep_until(deadline), if hands.lead.is_some() => {
                        hands.announce(draft, &self.encoding.load());
                        hands.leave(Left::ThisTime);
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
                        // First of all: who isn't told doesn't read, and would be waited for without end.
                        hands.announce(draft, &self.encoding.load());
                        hands.leave(match draft.verdict {
                            Verdict::Keep | Verdict::AskerAlways(_) => Left::EachTime,
                            Verdict::Everyone(_) | Verdict::Asker(_) => Left::ThisTime,
                        });
                    }
                    if !writer.in_step().await {
                        return Carried::Unwanted;
                    }
                }
                Ok(None) => break 'body Ok(()),
                Err(error) => break 'body Err(error),
            }
        };
        match ended {
            Ok(()) => match writer.finish() {
                Some(body) => Carried::Whole(body),
                None => {
                    // One that is the asker's alone, and short, is over before it was told of.
                    hands.announce(draft, &self.encoding.load());
                    Carried::Passed
                }
            },
            Err(error) => {
                if hands.are_full() {
                    writer.start_over();
                    hands.writer = Some(writer);
                }
                Carried::Broken(error)
            }
        }
    }
}
