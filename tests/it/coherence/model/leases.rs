//! Leases and hedges: two nodes, one answer, one lease, an origin that takes as long as it likes.

use crate::coherence::model::{
    canonical::{numbers, NUMBERS_FROM},
    Subject,
};
use std::{
    collections::VecDeque,
    fmt::Write,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tidegate::cache::{
    fill::{
        coalescing::{FlightAbandoned, FlightFollower, FlightJoin, FlightLead, Flights},
        hedge::{self, HedgeCause, LeaseState, LeaseStep, LookPlan, UsualFillTime},
    },
    redis::{LeaseWaiters, WaiterSeat},
};

const NAME: &str = "lease";
/// One step of the clock.
const TICK_MS: u64 = 150;
const TICKS: usize = 8;
/// The time of a lease. A node that is not paused prolongs it in time.
const LEASE_MS: u64 = 300;
/// The longest wait for another node's fill.
const HEDGE_MS: u64 = 500;
const REQUESTS: u64 = 5;
const PURGES: u64 = 1;
const FAULTS: usize = 3;

/// A step of the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Action {
    /// Time passes.
    Tick,
    /// The next report reaches this node.
    Deliver(usize),
    /// The next report is lost.
    LoseReport(usize),
    /// A request asks this node.
    Ask(usize),
    /// This lead of this node does what is next: it asks for the lease, looks at it, ends its wait if it may.
    Go(usize, usize),
    /// The store takes the question of this lead, and its answer does not come in time.
    Unheard(usize, usize),
    /// The origin has answered this lead.
    FillDone(usize, usize),
    /// The origin has failed this lead.
    FillFails(usize, usize),
    /// This lead is dropped, as by a panic, and gives nothing back.
    Die(usize, usize),
    /// All that is here is purged: who asks from now on joins nobody from before.
    Purge,
    /// This node stops for a while.
    Pause(usize),
    /// It goes on.
    Resume(usize),
    /// This node loses its link.
    Lose(usize),
    /// This node makes a link.
    Link(usize),
    /// Somebody writes a lease that never ends.
    Endless,
    /// Somebody writes something else in its place.
    OtherType,
    /// The lease is evicted, or deleted.
    Evict,
}

/// A fault that is built in, to show that it is found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Flaw {
    /// A lead that waits goes on when it is woken, and else never.
    WaitsForReports,
    /// A lead asks the origin as soon as another has the lease.
    HedgesAtOnce,
    /// A request asks by itself, though another is under way.
    JoinsNobody,
    /// A lead that waits asks again and again.
    AsksWithoutPause,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Held {
    Nobody,
    /// By a token, until then.
    Lease(u64, u64),
    Endless,
    OtherType,
}

enum Phase {
    /// It is about to ask for the lease.
    Ask,
    /// It has not got it, and is about to look what stands there.
    Look,
    /// It waits, until then at the latest.
    Wait(u64),
    /// It asks the origin; maybe with the lease. From then on it looks for another's answer, if at all.
    Fill { has_lease: bool, looks_from_ms: u64 },
}

struct Filling {
    lead: FlightLead<u64>,
    flight: String,
    generation: u64,
    token: u64,
    began_ms: u64,
    at_most: Duration,
    seat: Option<WaiterSeat>,
    phase: Phase,
    /// The number of times that it has asked for the lease, and of its reasons.
    asked: u64,
    reasons: u64,
}

type Outcome = Pin<Box<dyn Future<Output = Result<u64, FlightAbandoned>>>>;

struct Node {
    flights: Flights<u64>,
    waiters: Arc<LeaseWaiters>,
    usual: UsualFillTime,
    leads: Vec<Filling>,
    /// Those who wait: for which flight, and since which purge.
    waiting: Vec<(String, u64, Outcome)>,
    /// The reports on their way; `None`: it has no link.
    wire: Option<VecDeque<()>>,
    is_paused: bool,
}

/// All of it.
pub(crate) struct Leases {
    flaw: Option<Flaw>,
    now_ms: u64,
    held: Held,
    /// The purge after which the stored answer was filled.
    stored: Option<u64>,
    generation: u64,
    tokens: u64,
    nodes: [Node; 2],
    fault: Option<String>,
    ticks: usize,
    faults: usize,
}

impl Subject for Leases {
    type Action = Action;
    type Flaw = Flaw;

    fn new(flaw: Option<Flaw>) -> Self {
        Self {
            flaw,
            now_ms: NUMBERS_FROM,
            held: Held::Nobody,
            stored: None,
            generation: 0,
            tokens: 0,
            nodes: [node(), node()],
            fault: None,
            ticks: 0,
            faults: 0,
        }
    }

    fn actions(&self) -> Vec<Action> {
        let mut all = Vec::new();
        let mut may = |is_possible: bool, action| {
            if is_possible {
                all.push(action);
            }
        };
        let is_faulty = self.faults < FAULTS;
        may(self.ticks < TICKS, Action::Tick);
        may(self.generation < PURGES, Action::Purge);
        may(is_faulty, Action::Endless);
        may(is_faulty, Action::OtherType);
        may(is_faulty && self.held != Held::Nobody, Action::Evict);
        for (n, node) in self.nodes.iter().enumerate() {
            let is_reported = node.wire.as_ref().is_some_and(|wire| !wire.is_empty());
            may(node.is_paused, Action::Resume(n));
            may(is_faulty && node.wire.is_some(), Action::Lose(n));
            may(is_faulty && is_reported, Action::LoseReport(n));
            if node.is_paused {
                continue;
            }
            may(is_reported, Action::Deliver(n));
            may(is_faulty, Action::Pause(n));
            may(node.wire.is_none(), Action::Link(n));
            may(self.tokens < REQUESTS, Action::Ask(n));
            for (i, lead) in node.leads.iter().enumerate() {
                let is_filling = matches!(lead.phase, Phase::Fill { .. });
                may(!is_filling || self.may_look(lead), Action::Go(n, i));
                may(is_faulty && matches!(lead.phase, Phase::Ask), Action::Unheard(n, i));
                may(is_filling, Action::FillDone(n, i));
                may(is_faulty && is_filling, Action::FillFails(n, i));
                may(is_faulty, Action::Die(n, i));
            }
        }
        all
    }

    fn happen(&mut self, action: Action) {
        self.now_ms += 1;
        match action {
            Action::Tick => {
                self.ticks += 1;
                self.pass(TICK_MS);
            }
            Action::Deliver(n) => self.deliver(n),
            Action::Ask(n) => self.ask(n),
            Action::Go(n, i) => self.go(n, i),
            Action::FillDone(n, i) => self.fill_done(n, i),
            Action::Purge => self.generation += 1,
            Action::Resume(n) => self.nodes[n].is_paused = false,
            Action::Link(n) => self.nodes[n].wire = Some(VecDeque::new()),
            fault => {
                self.faults += 1;
                self.go_wrong(fault);
            }
        }
        self.look();
    }

    fn fault(&self) -> Option<String> {
        self.fault.clone()
    }

    /// Nothing is disturbed any more, nobody dies, and no report comes: all the same each waiter has its answer as soon as
    /// the longest wait is over.
    fn settle(&mut self) -> Option<String> {
        const STEP_MS: u64 = 25;
        for node in &mut self.nodes {
            node.is_paused = false;
            node.wire.get_or_insert_default().clear();
        }
        for _ in 0..=(HEDGE_MS + LEASE_MS) / STEP_MS {
            self.pass(STEP_MS);
            for n in [0, 1] {
                self.nodes[n].wire.iter_mut().for_each(VecDeque::clear);
                for i in (0..self.nodes[n].leads.len()).rev() {
                    if matches!(self.nodes[n].leads[i].phase, Phase::Fill { .. }) {
                        self.fill_done(n, i);
                    } else {
                        self.go(n, i);
                    }
                }
            }
            self.look();
        }
        let left = self
            .nodes
            .each_ref()
            .map(|node| (node.leads.len(), node.waiting.len(), node.flights.under_way()));
        let is_over = left.iter().all(|left| *left == (0, 0, 0));
        let fault = self
            .fault
            .clone()
            .or_else(|| (!is_over).then(|| format!("fills, waiters and flights are left: {left:?}")));
        fault.map(|fault| format!("once the faults are over: {fault}"))
    }

    fn says(&self) -> String {
        let mut text = format!("{} {:?} {:?} {}", self.now_ms, self.held, self.stored, self.generation);
        write!(text, "{} {} {}", self.tokens, self.ticks, self.faults).unwrap();
        for node in &self.nodes {
            let waiting: Vec<_> = node.waiting.iter().map(|(flight, since, _)| (flight, since)).collect();
            write!(text, "|{waiting:?} {:?} {} {:?}", node.wire, node.is_paused, node.waiters).unwrap();
            for lead in &node.leads {
                let Filling { flight, token, began_ms, asked, reasons, .. } = lead;
                write!(text, " {flight} {token} {began_ms} {asked} {reasons} {:?} ", lead.seat).unwrap();
                match lead.phase {
                    Phase::Ask => text.push_str("asks"),
                    Phase::Look => text.push_str("looks"),
                    Phase::Wait(until) => write!(text, "waits {until}").unwrap(),
                    Phase::Fill { has_lease, looks_from_ms } => {
                        write!(text, "fills {has_lease} {looks_from_ms}").unwrap()
                    }
                }
            }
        }
        // Of times it counts how far apart they are.
        numbers(&text, |time| time.wrapping_sub(self.now_ms))
    }
}

fn node() -> Node {
    Node {
        flights: Flights::new(),
        waiters: Arc::default(),
        usual: UsualFillTime::default(),
        leads: Vec::new(),
        waiting: Vec::new(),
        wire: Some(VecDeque::new()),
        is_paused: false,
    }
}

impl Leases {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn may_look(&self, lead: &Filling) -> bool {
        matches!(lead.phase, Phase::Fill { looks_from_ms, .. } if self.now_ms >= looks_from_ms)
    }

    /// Time passes: leases are prolonged, or end.
    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        let Held::Lease(token, until_ms) = self.held else { return };
        let holds = |node: &Node| {
            let mut leads =
                node.leads.iter().filter(|lead| matches!(lead.phase, Phase::Fill { has_lease: true, .. }));
            !node.is_paused && node.wire.is_some() && leads.any(|lead| lead.token == token)
        };
        if self.nodes.iter().any(holds) {
            self.held = Held::Lease(token, self.now_ms + LEASE_MS);
        } else if self.now_ms >= until_ms {
            self.write(Held::Nobody);
        }
    }

    fn write(&mut self, held: Held) {
        self.held = held;
        self.nodes.iter_mut().filter_map(|node| node.wire.as_mut()).for_each(|wire| wire.push_back(()));
    }

    fn deliver(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if node.wire.as_mut().and_then(VecDeque::pop_front).is_some() {
            node.waiters.wake(NAME);
            node.leads.iter_mut().for_each(|lead| lead.reasons += 1);
        }
    }

    fn go_wrong(&mut self, action: Action) {
        match action {
            Action::LoseReport(n) => drop(self.nodes[n].wire.as_mut().and_then(VecDeque::pop_front)),
            Action::Unheard(n, i) => {
                let lead = &self.nodes[n].leads[i];
                let token = lead.token;
                if self.held == Held::Nobody && self.nodes[n].wire.is_some() {
                    self.write(Held::Lease(token, self.now_ms + LEASE_MS));
                }
                self.turn(n, i, LeaseState::Unheard);
            }
            Action::FillFails(n, i) => self.end(n, i, None),
            Action::Die(n, i) => drop(self.nodes[n].leads.remove(i)),
            Action::Pause(n) => self.nodes[n].is_paused = true,
            Action::Lose(n) => {
                self.nodes[n].wire = None;
                self.nodes[n].waiters.wake_all();
                self.nodes[n].leads.iter_mut().for_each(|lead| lead.reasons += 1);
            }
            Action::Endless => self.write(Held::Endless),
            Action::OtherType => self.write(Held::OtherType),
            Action::Evict => self.write(Held::Nobody),
            other => unreachable!("{other:?} is no fault"),
        }
    }

    /// A request joins the flight, or begins it. As `Cache::answer_followed`.
    fn ask(&mut self, n: usize) {
        self.tokens += 1;
        let (generation, token) = (self.generation, self.tokens);
        let flight = match self.has(Flaw::JoinsNobody) {
            true => format!("{generation}-{token}"),
            false => generation.to_string(),
        };
        let node = &mut self.nodes[n];
        let follow = match node.flights.join(&flight, || ()) {
            FlightJoin::Follow(follow) => follow,
            FlightJoin::Lead(lead, follow) => {
                let at_most = hedge::longest_wait(Some(Duration::from_millis(HEDGE_MS)), node.usual.mean());
                node.leads.push(Filling {
                    lead,
                    flight: flight.clone(),
                    generation,
                    token,
                    began_ms: self.now_ms,
                    at_most,
                    seat: Some(node.waiters.take(NAME)),
                    phase: Phase::Ask,
                    asked: 0,
                    reasons: 1,
                });
                follow
            }
        };
        node.waiting.push((flight, generation, outcome(follow)));
    }

    /// As the loop of `Cache::claim`, one call to the store at a time.
    fn go(&mut self, n: usize, i: usize) {
        let (is_linked, held) = (self.nodes[n].wire.is_some(), self.held);
        let never = self.has(Flaw::WaitsForReports);
        let lead = &mut self.nodes[n].leads[i];
        match lead.phase {
            Phase::Ask => {
                lead.asked += 1;
                let (asked, patience) = (lead.asked, (self.now_ms - lead.began_ms) / LEASE_MS.min(HEDGE_MS));
                if asked > lead.reasons + patience + 1 {
                    self.fault = Some(format!("node {n} has asked for the lease {asked} times"));
                }
                self.claim(n, i, is_linked);
            }
            Phase::Look => {
                let state = match held {
                    Held::Nobody => LeaseState::Gone,
                    Held::Lease(..) => LeaseState::Theirs,
                    Held::Endless | Held::OtherType if is_linked => LeaseState::Invalid,
                    // What can't be looked at is waited for as well.
                    Held::Endless | Held::OtherType => LeaseState::Theirs,
                };
                self.turn(n, i, state);
            }
            Phase::Wait(until_ms) => {
                let is_woken = lead.seat.as_mut().is_some_and(WaiterSeat::is_woken);
                if is_woken || self.now_ms >= until_ms && !never {
                    self.again(n, i);
                }
            }
            Phase::Fill { .. } if self.stored >= Some(lead.generation) => self.end(n, i, self.stored),
            Phase::Fill { .. } => {}
        }
    }

    fn claim(&mut self, n: usize, i: usize, is_linked: bool) {
        let Filling { token, generation, .. } = self.nodes[n].leads[i];
        if !is_linked {
            return self.turn(n, i, LeaseState::Unreachable);
        }
        let is_ours = self.held == Held::Nobody;
        if is_ours {
            self.write(Held::Lease(token, self.now_ms + LEASE_MS));
        }
        match self.stored.filter(|stored| *stored >= generation) {
            Some(found) => self.end(n, i, Some(found)),
            None if is_ours => self.turn(n, i, LeaseState::Ours),
            None => self.nodes[n].leads[i].phase = Phase::Look,
        }
    }

    fn turn(&mut self, n: usize, i: usize, state: LeaseState) {
        let (now_ms, hasty) = (self.now_ms, self.has(Flaw::HedgesAtOnce));
        let lead = &mut self.nodes[n].leads[i];
        let waited = Duration::from_millis(now_ms - lead.began_ms);
        let at_most = if hasty { Duration::ZERO } else { lead.at_most };
        let turn = hedge::next_lease_step(state, waited, at_most);
        match turn {
            LeaseStep::Fill | LeaseStep::Alone | LeaseStep::Hedge(_) => {
                let has_lease = turn == LeaseStep::Fill;
                let LookPlan { first, .. } = hedge::plan_looks(has_lease, lead.at_most);
                // Who can't reach the store looks for nothing there.
                let looks_from_ms = if turn == LeaseStep::Alone { u64::MAX } else { now_ms + ms(first) };
                (lead.phase, lead.seat) = (Phase::Fill { has_lease, looks_from_ms }, None);
            }
            LeaseStep::Again => {
                lead.reasons += 1;
                self.again(n, i);
            }
            LeaseStep::Wait(left) => {
                let lease = Duration::from_millis(LEASE_MS);
                let patience = hedge::lease_patience(self.nodes[n].wire.is_some(), lease, left);
                let until_ms = if self.has(Flaw::AsksWithoutPause) { now_ms } else { now_ms + ms(patience) };
                self.nodes[n].leads[i].phase = Phase::Wait(until_ms);
                if patience < lease.min(left) {
                    // Where nothing is reported it looks often.
                    self.nodes[n].leads[i].reasons += 1;
                }
            }
        }
        self.judge_turn(turn, waited);
    }

    fn judge_turn(&mut self, turn: LeaseStep, waited: Duration) {
        let is_lease = matches!(self.held, Held::Lease(..) | Held::Nobody);
        match turn {
            LeaseStep::Hedge(HedgeCause::Slow) if waited < Duration::from_millis(HEDGE_MS) => {
                self.fault = Some(format!("a hedge begins after {waited:?}"));
            }
            LeaseStep::Hedge(HedgeCause::NoLease) if is_lease => {
                self.fault = Some("a hedge beside a lease".to_owned())
            }
            LeaseStep::Wait(left) if waited + left > Duration::from_millis(HEDGE_MS) => {
                self.fault = Some(format!("a wait of {left:?} after {waited:?}"));
            }
            _ => {}
        }
    }

    fn again(&mut self, n: usize, i: usize) {
        let Node { leads, waiters, .. } = &mut self.nodes[n];
        leads[i].seat = None;
        leads[i].seat = Some(waiters.take(NAME));
        leads[i].phase = Phase::Ask;
    }

    fn fill_done(&mut self, n: usize, i: usize) {
        let Filling { generation, began_ms, .. } = self.nodes[n].leads[i];
        self.nodes[n].usual.learn(Duration::from_millis(self.now_ms - began_ms));
        if self.nodes[n].wire.is_some() {
            self.stored = self.stored.max(Some(generation));
        }
        self.end(n, i, Some(generation));
    }

    /// A lead lands, and gives back the lease if it is its own.
    fn end(&mut self, n: usize, i: usize, outcome: Option<u64>) {
        let Filling { lead, token, .. } = self.nodes[n].leads.remove(i);
        lead.land(outcome.unwrap_or(FAILED));
        if matches!(self.held, Held::Lease(held, _) if held == token) && self.nodes[n].wire.is_some() {
            self.write(Held::Nobody);
        }
    }

    /// Looks at who waits for what.
    fn look(&mut self) {
        for node in &mut self.nodes {
            for generation in 0..=PURGES {
                if node.leads.iter().filter(|lead| lead.generation == generation).count() > 1 {
                    self.fault = Some("two fills of one node ask for the same".to_owned());
                }
            }
            let leads = &node.leads;
            let mut fault = None;
            node.waiting.retain_mut(|(flight, since, outcome)| {
                let is_led = leads.iter().any(|lead| lead.flight == *flight);
                match outcome.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(Ok(told)) if told < *since => {
                        fault = Some(format!("an answer from before purge {since}"));
                        false
                    }
                    Poll::Ready(_) => false,
                    Poll::Pending => {
                        if !is_led {
                            fault = Some("a waiter waits for nobody".to_owned());
                        }
                        true
                    }
                }
            });
            self.fault = self.fault.take().or(fault);
        }
    }
}

/// The outcome of a fill that has failed.
const FAILED: u64 = u64::MAX;

fn outcome(follow: FlightFollower<u64>) -> Outcome {
    Box::pin(follow.outcome())
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
