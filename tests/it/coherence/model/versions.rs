//! Versions: two nodes, one answer, one version key.

use crate::coherence::model::{
    canonical::{numbers, NUMBERS_FROM},
    store::{pickle, Report, Store},
    Subject,
};
use std::{fmt::Write, sync::Arc, time::Duration};
use tidegate::cache::coherence::{
    doubt::CoherenceDoubt,
    partitions::StorePartitions,
    version::{ReadTicket, SlotVersion, Version, VersionBasis, VersionSlot, VersionTable as Table},
};

/// The time for which an answer may be served in doubt.
const OUTAGE_TTL_MS: u64 = 1_000;
/// An answer is no older than this: the time of an outage and a second.
const BOUND_MS: u64 = OUTAGE_TTL_MS + 1_000;
/// One step of the clock.
const TICK_MS: u64 = 600;
const TICKS: usize = 5;
const CHANGES: usize = 3;
const STORE_FAULTS: usize = 2;
const LOSSES: usize = 2;

/// A step of the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Action {
    /// Time passes.
    Tick,
    /// The next report reaches this node.
    Deliver(usize),
    /// A heartbeat is sent, and answered by the store.
    Beat(usize),
    /// A request asks this node.
    Ask(usize),
    /// The answer to the read of a version reaches this node.
    ReadDone(usize),
    /// The read of a version takes too long.
    ReadFails(usize),
    /// The origin has answered.
    FillDone(usize),
    /// A change by an event to this node.
    Event(usize),
    /// The same, but the store's answer does not come in time.
    EventUnheard(usize),
    /// The application writes the version.
    Write,
    /// This node loses its link.
    Lose(usize),
    /// This node makes a link.
    Link(usize),
    /// This node does what it does again and again: it pays what it owes and reads again what is in doubt.
    Again(usize),
    /// Commands are answered in time again.
    Pulse(usize),
    /// FLUSHALL.
    Flush,
    /// The version key is evicted, or deleted.
    Evict,
    /// The last write is lost, and all links.
    Failover,
}

/// A fault that is built in, to show that it is found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Flaw {
    /// A report of a change reaches nobody.
    DeafToReports,
    /// A debt of a node is never paid.
    ForgetsDebts,
}

struct Cached {
    version: Version,
    is_provisional: bool,
    until_ms: u64,
    truth: u64,
}

struct Read {
    ticket: ReadTicket,
    known: Version,
    value: Option<Vec<u8>>,
    sent_ms: u64,
}

struct Fill {
    basis: VersionBasis,
    truth: u64,
    asked_ms: u64,
}

struct Node {
    doubt: Arc<CoherenceDoubt>,
    versions: Table,
    slot: Arc<VersionSlot>,
    cached: Option<Cached>,
    read: Option<Read>,
    fill: Option<Fill>,
}

/// All of it.
pub(crate) struct Versions {
    flaw: Option<Flaw>,
    now_ms: u64,
    store: Store,
    nodes: [Node; 2],
    truth: u64,
    /// When this truth, or a later one, was acknowledged first; by truth.
    acknowledged: Vec<Option<u64>>,
    fault: Option<String>,
    ticks: usize,
    store_faults: usize,
    losses: usize,
}

impl Subject for Versions {
    type Action = Action;
    type Flaw = Flaw;

    /// Both nodes are linked and have the same answer.
    fn new(flaw: Option<Flaw>) -> Self {
        let now_ms = NUMBERS_FROM;
        let mut new = Self {
            flaw,
            now_ms,
            store: Store { value: Some(pickle(2)), before: Some(pickle(2)), ..Store::default() },
            nodes: [node(now_ms), node(now_ms)],
            truth: 1,
            acknowledged: vec![None; 2],
            fault: None,
            ticks: 0,
            store_faults: 0,
            losses: 0,
        };
        for n in [0, 1] {
            new.link(n);
            new.again(n);
            new.ask(n);
            new.read_done(n);
            if n == 0 {
                new.fill_done(n);
            }
        }
        assert!((0..2).all(|n| new.hit(n) == Some(1)), "both have the answer");
        new
    }

    fn actions(&self) -> Vec<Action> {
        let mut all = Vec::new();
        let mut may = |is_possible: bool, action| {
            if is_possible {
                all.push(action);
            }
        };
        may(self.ticks < TICKS, Action::Tick);
        let is_changeable = (self.truth as usize) <= CHANGES;
        may(is_changeable, Action::Write);
        may(self.store_faults < STORE_FAULTS, Action::Flush);
        may(self.store_faults < STORE_FAULTS && self.store.value.is_some(), Action::Evict);
        // What the application wrote and no node has heard of is nobody's to know.
        let is_heard = !self.is_ignorant(0) && !self.is_ignorant(1);
        let is_known = is_heard && self.store.before != self.store.value && !self.store.is_of_application;
        may(self.store_faults < STORE_FAULTS && is_known, Action::Failover);
        for n in [0, 1] {
            let node = &self.nodes[n];
            let wire = self.store.wires[n].as_ref();
            may(wire.is_some_and(|wire| !wire.is_empty()), Action::Deliver(n));
            let beats = |report: &Report| matches!(report, Report::Beat(_));
            may(wire.is_some_and(|wire| !wire.iter().any(beats)), Action::Beat(n));
            may(node.read.is_none() && node.fill.is_none() && self.hit(n).is_none(), Action::Ask(n));
            may(node.read.is_some(), Action::ReadDone(n));
            may(node.read.is_some(), Action::ReadFails(n));
            may(node.fill.is_some(), Action::FillDone(n));
            may(is_changeable, Action::Event(n));
            may(is_changeable && wire.is_some(), Action::EventUnheard(n));
            may(wire.is_some() && self.losses < LOSSES && !self.is_ignorant(n), Action::Lose(n));
            may(wire.is_none(), Action::Link(n));
            may(wire.is_some() && node.doubt.since_ms(self.now_ms).is_some(), Action::Again(n));
            may(wire.is_some() && !node.doubt.is_answering(), Action::Pulse(n));
        }
        all
    }

    fn happen(&mut self, action: Action) {
        // Two bumps within one millisecond are one.
        self.now_ms += 1;
        match action {
            Action::Tick => {
                self.now_ms += TICK_MS;
                self.ticks += 1;
            }
            Action::Deliver(n) => self.deliver(n),
            Action::Beat(n) => {
                let beat = Report::Beat(self.now_ms);
                self.store.wires[n].iter_mut().for_each(|wire| wire.push_back(beat));
            }
            Action::Ask(n) => self.ask(n),
            Action::ReadDone(n) => self.read_done(n),
            Action::ReadFails(n) => self.read_fails(n),
            Action::FillDone(n) => self.fill_done(n),
            Action::Event(n) => self.event(n),
            Action::EventUnheard(n) => {
                self.truth += 1;
                self.bump_unheard(n);
            }
            Action::Write => {
                self.truth += 1;
                self.store.write_next();
                self.acknowledge(self.truth);
            }
            Action::Lose(n) => {
                self.losses += 1;
                self.lose(n);
            }
            Action::Link(n) => self.link(n),
            Action::Again(n) => self.again(n),
            Action::Pulse(n) => drop(self.nodes[n].doubt.answered()),
            Action::Flush => {
                self.store.answers.clear();
                self.lose_version(Report::Flushed);
            }
            Action::Evict => self.lose_version(Report::Gone),
            Action::Failover => {
                self.store_faults += 1;
                self.store.value = self.store.before.clone();
                (0..2).for_each(|n| self.lose(n));
            }
        }
        self.look();
    }

    fn fault(&self) -> Option<String> {
        self.fault.clone()
    }

    fn settle(&mut self) -> Option<String> {
        for n in [0, 1] {
            if self.store.wires[n].is_none() {
                self.link(n);
            }
            self.nodes[n].doubt.answered();
            self.read_done(n);
            self.fill_done(n);
        }
        // What one node makes up for is a change for the other.
        for _ in 0..3 {
            self.now_ms += 1;
            for n in [0, 1] {
                while self.store.wires[n].as_ref().is_some_and(|wire| !wire.is_empty()) {
                    self.deliver(n);
                }
                self.nodes[n].doubt.beat(self.now_ms);
                self.again(n);
                self.ask(n);
                self.read_done(n);
                self.fill_done(n);
            }
        }
        self.look();
        let fault = self.fault.clone().or_else(|| {
            let wanted = self.acknowledged.iter().rposition(Option::is_some).unwrap_or(1) as u64;
            let shown = [self.hit(0), self.hit(1)];
            let versions = [0, 1].map(|n| self.nodes[n].slot.standing(self.now_ms));
            let read = self.store.value.as_deref().map_or_else(Version::absent, Version::new);
            let read = SlotVersion::Current(read);
            let is_equal = versions.iter().all(|version| *version == read);
            let is_shown = shown.iter().all(|shown| shown.is_some_and(|shown| shown >= wanted));
            (!is_equal || !is_shown).then(|| {
                format!("in the end the nodes go by {versions:?} and show {shown:?}; the store has {read:?}, acknowledged is {wanted}")
            })
        });
        fault.map(|fault| format!("once the faults are over: {fault}"))
    }

    fn says(&self) -> String {
        let text = |value: &Option<Vec<u8>>| value.as_deref().map(Version::new);
        let Store { value, before, is_of_application, answers, wires, seen: _ } = &self.store;
        let mut versions = format!("{:?} {:?} {is_of_application} {answers:?}", text(value), text(before));
        let mut times = format!("{} {:?} {} {wires:?}", self.now_ms, self.acknowledged, self.truth);
        write!(times, "{} {} {}", self.ticks, self.store_faults, self.losses).unwrap();
        for node in &self.nodes {
            let (doubt, slot) = (&node.doubt, &node.slot);
            let ticket = slot.ticket(self.now_ms);
            let (known, assumed) = (slot.last_known(), slot.assumed());
            let lost = self.store.seen.iter().filter(|version| slot.is_lost(ticket, &known, version));
            let lost: Vec<_> = lost.collect();
            write!(times, "|{doubt:?} {} {}", slot.owes_bump(), slot.is_unread()).unwrap();
            write!(versions, "|{lost:?} {known:?} {assumed:?} {:?}", slot.standing(self.now_ms)).unwrap();
            if let Some(Cached { version, is_provisional, until_ms, truth }) = &node.cached {
                write!(versions, " cached {version:?}").unwrap();
                write!(times, " cached {is_provisional} {until_ms} {truth}").unwrap();
            }
            if let Some(Read { ticket: asked, known, value, sent_ms }) = &node.read {
                write!(versions, " read {known:?} {:?}", text(value)).unwrap();
                write!(times, " read {} {sent_ms}", *asked == slot.ticket(*sent_ms)).unwrap();
            }
            if let Some(Fill { basis, truth, asked_ms }) = &node.fill {
                write!(versions, " fill {basis:?}").unwrap();
                write!(times, " fill {truth} {asked_ms}").unwrap();
            }
        }
        // Of times it counts how long ago they are, in steps of the clock; of versions which comes first.
        let mut order = std::collections::BTreeSet::new();
        numbers(&versions, |number| {
            order.insert(number);
            number
        });
        let rank = |number| order.range(..number).count() as u64 + NUMBERS_FROM;
        let times = numbers(&times, |time| time.wrapping_sub(NUMBERS_FROM) / TICK_MS);
        numbers(&versions, rank) + &times
    }
}

fn node(now_ms: u64) -> Node {
    let doubt = Arc::new(CoherenceDoubt::of_store(Some(Duration::from_millis(OUTAGE_TTL_MS)), now_ms));
    let versions = Table::new(StorePartitions::one(doubt.clone()));
    let slot = versions.slot(&"kpi".parse().unwrap(), &"acme".parse().unwrap());
    Node { doubt, versions, slot, cached: None, read: None, fill: None }
}

impl Versions {
    /// Returns whether a node has not heard yet that the version was lost. If its link is lost as well, or
    /// was before, and the application counts to the same number again, there is nothing that could tell it
    /// so.
    fn is_ignorant(&self, n: usize) -> bool {
        let is_loss = |report: &Report| matches!(report, Report::Flushed | Report::Gone);
        self.store.wires[n].iter().flatten().any(is_loss)
    }

    fn acknowledge(&mut self, truth: u64) {
        let truth = truth as usize;
        self.acknowledged.resize(self.acknowledged.len().max(truth + 1), None);
        for at in self.acknowledged[..=truth].iter_mut().filter(|at| at.is_none()) {
            *at = Some(self.now_ms);
        }
    }

    /// An answer with this truth is given to a request of now.
    fn served(&mut self, n: usize, truth: u64, why: &str) {
        let Some(Some(at)) = self.acknowledged.get(truth as usize + 1) else { return };
        let age = self.now_ms - at;
        if age > BOUND_MS {
            self.fault = Some(format!("node {n} shows {truth}, which is {age} ms old ({why})"));
        }
    }

    /// The truth that a request to this node is answered from memory, if any.
    fn hit(&self, n: usize) -> Option<u64> {
        let node = &self.nodes[n];
        let cached = node.cached.as_ref()?;
        let is_current = node.slot.is_current(&cached.version, cached.is_provisional, self.now_ms);
        (is_current == Some(true) && self.now_ms < cached.until_ms).then_some(cached.truth)
    }

    /// Looks at what requests of now would be answered.
    fn look(&mut self) {
        for n in [0, 1] {
            if let Some(truth) = self.hit(n) {
                self.served(n, truth, "a hit");
            }
        }
    }

    fn lose_version(&mut self, report: Report) {
        self.store_faults += 1;
        self.store.lose(report);
    }

    fn deliver(&mut self, n: usize) {
        let report = self.store.wires[n].as_mut().and_then(std::collections::VecDeque::pop_front);
        let node = &self.nodes[n];
        match report {
            Some(Report::Changed | Report::Gone) if self.flaw == Some(Flaw::DeafToReports) => {}
            Some(Report::Changed | Report::Gone) => node.versions.changed("kpi", "acme"),
            Some(Report::Flushed) => node.versions.forget_all(std::slice::from_ref(&node.doubt), self.now_ms),
            Some(Report::Beat(sent_ms)) => node.doubt.beat(sent_ms),
            Some(Report::Fence(fence)) => node.versions.fences().pass(fence),
            None => {}
        }
    }

    fn link(&mut self, n: usize) {
        self.store.wires[n] = Some(std::collections::VecDeque::new());
        self.nodes[n].doubt.link(true, self.now_ms);
    }

    fn lose(&mut self, n: usize) {
        if self.store.wires[n].take().is_some() {
            self.nodes[n].doubt.lose(self.now_ms);
        }
        // Whoever waits for a read gets an error.
        if self.nodes[n].read.take().is_some() {
            let basis = VersionBasis::assumed(self.nodes[n].slot.assumed());
            self.go_by(n, basis);
        }
    }

    fn again(&mut self, n: usize) {
        if self.store.wires[n].is_none() {
            return;
        }
        if !self.nodes[n].versions.owing().is_empty() && self.flaw != Some(Flaw::ForgetsDebts) {
            self.bump(n);
        }
        self.nodes[n].versions.settle();
        let epoch = self.nodes[n].doubt.epoch();
        if !self.nodes[n].versions.unread(std::slice::from_ref(&self.nodes[n].doubt)).is_empty() {
            let slot = &self.nodes[n].slot;
            let (ticket, known, value) =
                (slot.ticket(self.now_ms), slot.last_known(), self.store.value.clone());
            self.believe_or_move(n, ticket, &known, value);
        }
        self.nodes[n].doubt.settle(epoch);
    }

    /// As `RedisStore::bump`.
    fn bump(&mut self, n: usize) -> Version {
        let slot = self.nodes[n].slot.clone();
        let version = self.bump_in_store(n);
        slot.moved(&version);
        version
    }

    fn bump_in_store(&mut self, n: usize) -> Version {
        let at = self.now_ms.max(self.nodes[n].slot.last_known().successor());
        self.store.bump(at, None).unwrap_or_else(|value| {
            let at = at.max(Version::new(&value).successor());
            self.store.bump(at, Some(&value)).unwrap()
        })
    }

    fn bump_unheard(&mut self, n: usize) {
        self.bump_in_store(n);
        self.nodes[n].doubt.unanswered(self.now_ms);
        self.nodes[n].slot.bump_here(self.now_ms);
    }

    /// As `RedisStore::believe_or_move`.
    fn believe_or_move(
        &mut self,
        n: usize,
        ticket: ReadTicket,
        known: &Version,
        mut value: Option<Vec<u8>>,
    ) -> Version {
        let slot = self.nodes[n].slot.clone();
        loop {
            let read = value.as_deref().map_or_else(Version::absent, Version::new);
            if !slot.is_lost(ticket, known, &read) {
                slot.learn_version(ticket, &read);
                let fence = self.nodes[n].versions.fences().begin();
                self.store.wires[n].iter_mut().for_each(|wire| wire.push_back(Report::Fence(fence)));
                return read;
            }
            let at = self.now_ms.max(known.successor()).max(read.successor());
            match self.store.bump(at, Some(&value.unwrap_or_default())) {
                Ok(version) => {
                    slot.moved(&version);
                    return version;
                }
                Err(other) => value = Some(other).filter(|value| !value.is_empty()),
            }
        }
    }

    fn ask(&mut self, n: usize) {
        if self.hit(n).is_some() {
            return;
        }
        let slot = self.nodes[n].slot.clone();
        match slot.standing(self.now_ms) {
            SlotVersion::Current(version) => self.go_by(n, VersionBasis::read(version)),
            SlotVersion::Assumed(version) => self.go_by(n, VersionBasis::assumed(version)),
            SlotVersion::Ask(ticket) => {
                let (known, value, sent_ms) = (slot.last_known(), self.store.value.clone(), self.now_ms);
                self.nodes[n].read = Some(Read { ticket, known, value, sent_ms });
            }
        }
    }

    fn read_done(&mut self, n: usize) {
        let Some(Read { ticket, known, value, .. }) = self.nodes[n].read.take() else { return };
        let version = match self.nodes[n].slot.owes_bump() && self.flaw != Some(Flaw::ForgetsDebts) {
            true => self.bump(n),
            false => self.believe_or_move(n, ticket, &known, value),
        };
        self.go_by(n, VersionBasis::read(version));
    }

    fn read_fails(&mut self, n: usize) {
        let Some(Read { sent_ms, .. }) = self.nodes[n].read.take() else { return };
        self.nodes[n].doubt.unanswered(sent_ms);
        let basis = VersionBasis::assumed(self.nodes[n].slot.assumed());
        self.go_by(n, basis);
    }

    /// Answers by a version: from memory, from the store, or by a fill. Who asked did so before anything that
    /// happens from here on, so that an answer may be as old as the read took.
    fn go_by(&mut self, n: usize, basis: VersionBasis) {
        let node = &mut self.nodes[n];
        let usable = node.cached.as_ref().filter(|cached| {
            let is_usable = !basis.is_assumed || node.slot.allows(cached.is_provisional, self.now_ms);
            is_usable && cached.version == basis.version && self.now_ms < cached.until_ms
        });
        if usable.is_some() {
            return;
        }
        let stored = self.store.answers.get(basis.version.tag()).copied();
        if let Some(truth) = stored.filter(|_| !basis.is_assumed) {
            self.served(n, truth, "from the store");
            self.keep(n, basis, truth, self.now_ms);
            return;
        }
        self.nodes[n].fill = Some(Fill { basis, truth: self.truth, asked_ms: self.now_ms });
    }

    fn keep(&mut self, n: usize, basis: VersionBasis, truth: u64, asked_ms: u64) {
        let until_ms = if basis.is_assumed { asked_ms + OUTAGE_TTL_MS } else { u64::MAX };
        self.nodes[n].cached =
            Some(Cached { version: basis.version, is_provisional: basis.is_assumed, until_ms, truth });
    }

    fn fill_done(&mut self, n: usize) {
        let Some(Fill { basis, truth, asked_ms }) = self.nodes[n].fill.take() else { return };
        if !basis.is_assumed && self.store.wires[n].is_some() {
            self.store.answers.insert(basis.version.tag().to_owned(), truth);
        }
        self.keep(n, basis, truth, asked_ms);
    }

    fn event(&mut self, n: usize) {
        self.truth += 1;
        if self.store.wires[n].is_none() {
            self.nodes[n].slot.bump_here(self.now_ms);
            return;
        }
        self.bump(n);
        self.acknowledge(self.truth);
    }
}
