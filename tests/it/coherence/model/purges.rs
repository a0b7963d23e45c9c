//! Purges: two nodes that follow an origin, one answer, the log of purges.

use crate::coherence::model::{
    canonical::{numbers, NUMBERS_FROM},
    Subject,
};
use std::{collections::VecDeque, fmt::Write, sync::Arc, time::Duration};
use tidegate::cache::{
    coherence::{
        doubt::CoherenceDoubt,
        purge::{
            LogKnowledge, LogReadOutcome, LogReadStart, PurgeDebt, PurgeOrder, PurgeRecord, PurgeStamp,
            PurgeTable as Known, PurgeTarget, PurgeVerdict, RecordId,
        },
    },
    key,
};

/// The time for which an answer may be served in doubt.
const OUTAGE_TTL_MS: u64 = 1_000;
/// An answer is no older than this: the time of an outage and a second.
const BOUND_MS: u64 = OUTAGE_TTL_MS + 1_000;
/// One step of the clock.
const TICK_MS: u64 = 600;
const TICKS: usize = 5;
const CHANGES: u64 = 3;
const STORE_FAULTS: usize = 2;
const LOSSES: usize = 2;
const TAG: &str = "kpi";

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
    /// This node reads the log, as it does when the log has grown.
    Read(usize),
    /// A page of the log reaches this node.
    PageDone(usize),
    /// A page of the log takes too long.
    PageFails(usize),
    /// The origin has answered the first fill.
    FillDone(usize),
    /// A purge is ordered from this node, and written to the log.
    Order(usize),
    /// The node that has written a purge reads it back, and acknowledges it.
    Paid(usize),
    /// The store's answer to the writing does not come in time.
    Unheard(usize),
    /// The application writes a purge to the log.
    Write,
    /// This node loses its link.
    Lose(usize),
    /// This node makes a link.
    Link(usize),
    /// This node pays what it owes.
    Pay(usize),
    /// Commands are answered in time again.
    Pulse(usize),
    /// FLUSHALL.
    Flush,
    /// The log is evicted, or deleted.
    Evict,
    /// All records but the last are trimmed.
    Trim,
    /// The last record is lost, and all links.
    Failover,
}

/// A fault that is built in, to show that it is found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Flaw {
    /// A report of the log reaches nobody.
    DeafToReports,
    /// A debt is settled though the store was not heard of.
    ForgetsDebts,
    /// The position of a fill is noted when it ends.
    NotesPositionLate,
    /// An answer is served in doubt without a limit.
    DoubtsWithoutEnd,
}

#[derive(Debug, Clone, Copy)]
enum Report {
    Grown,
    Flushed,
    Beat(u64),
}

#[derive(Default)]
struct Store {
    log: Vec<PurgeRecord>,
    /// All records that ever stood there.
    ever: Vec<RecordId>,
    /// The record at which the fill of the stored answer began, and its truth.
    answer: Option<(RecordId, u64)>,
    wires: [Option<VecDeque<Report>>; 2],
}

impl Store {
    fn append(&mut self, purge: Option<PurgeOrder>, now_ms: u64) {
        let id = RecordId::new(&format!("{now_ms}-0"), &[format!("{purge:?}")]).unwrap();
        self.log.push(PurgeRecord { id, purge });
        self.ever.push(id);
        self.report(Report::Grown);
    }

    fn report(&mut self, report: Report) {
        self.wires.iter_mut().flatten().for_each(|wire| wire.push_back(report));
    }

    fn page(&self, from: Option<RecordId>) -> Vec<PurgeRecord> {
        let number = |id: RecordId| id.number();
        let is_after = |record: &&PurgeRecord| from.is_none_or(|from| number(record.id) >= number(from));
        self.log.iter().filter(is_after).cloned().collect()
    }
}

struct Cached {
    stamp: PurgeStamp,
    is_provisional: bool,
    until_ms: u64,
    truth: u64,
}

struct Fill {
    flight: String,
    position: u64,
    id: Option<RecordId>,
    is_doubtful: bool,
    truth: u64,
    asked_ms: u64,
    /// When those asked who wait for it as well.
    joined_ms: Vec<u64>,
}

struct Page {
    beginning: LogReadStart,
    from: Option<RecordId>,
    records: Vec<PurgeRecord>,
    sent_ms: u64,
}

struct Node {
    doubt: Arc<CoherenceDoubt>,
    purges: Arc<Known>,
    cached: Option<Cached>,
    fills: VecDeque<Fill>,
    page: Option<Page>,
    /// The number of reports when a request asked that waits for the log, and when that was.
    waits: Option<(u64, u64)>,
    paying: Option<(PurgeDebt, u64)>,
}

/// All of it.
pub(crate) struct Purges {
    flaw: Option<Flaw>,
    now_ms: u64,
    store: Store,
    nodes: [Node; 2],
    truth: u64,
    /// When this truth, or a later one, was acknowledged first; by truth.
    acknowledged: Vec<Option<u64>>,
    /// The truth that everybody has to show in the end.
    wanted: u64,
    fault: Option<String>,
    ticks: usize,
    store_faults: usize,
    losses: usize,
}

impl Subject for Purges {
    type Action = Action;
    type Flaw = Flaw;

    /// Both nodes have read the log, and have the same answer.
    fn new(flaw: Option<Flaw>) -> Self {
        let now_ms = NUMBERS_FROM;
        let mut new = Self {
            flaw,
            now_ms,
            store: Store::default(),
            nodes: [node(now_ms), node(now_ms)],
            truth: 1,
            acknowledged: vec![None; 2],
            wanted: 1,
            fault: None,
            ticks: 0,
            store_faults: 0,
            losses: 0,
        };
        for n in [0, 1] {
            new.link(n);
            new.read_all(n);
            new.nodes[n].doubt.settle(new.nodes[n].doubt.epoch());
        }
        for n in [0, 1] {
            new.deliver_all(n);
            new.read_all(n);
            new.ask(n);
            new.fill_done(n);
        }
        assert!((0..2).all(|n| new.shown(n) == Some(1)), "both have the answer");
        new
    }

    fn actions(&self) -> Vec<Action> {
        let mut all = Vec::new();
        let mut may = |is_possible: bool, action| {
            if is_possible {
                all.push(action);
            }
        };
        let is_changeable = self.truth <= CHANGES;
        let is_faultless = self.store_faults < STORE_FAULTS;
        may(self.ticks < TICKS, Action::Tick);
        may(is_changeable, Action::Write);
        may(is_faultless, Action::Flush);
        may(is_faultless && !self.store.log.is_empty(), Action::Evict);
        may(is_faultless && self.store.log.len() > 1, Action::Trim);
        // What no node has read is nobody's to know.
        let last = self.store.log.last().map(|record| record.id);
        let is_known = self.nodes.iter().any(|node| node.purges.log_id() == last);
        may(is_faultless && self.store.log.len() > 1 && is_known, Action::Failover);
        for n in [0, 1] {
            let node = &self.nodes[n];
            let wire = self.store.wires[n].as_ref();
            let is_linked = wire.is_some();
            may(wire.is_some_and(|wire| !wire.is_empty()), Action::Deliver(n));
            let beats = |report: &Report| matches!(report, Report::Beat(_));
            may(wire.is_some_and(|wire| !wire.iter().any(beats)), Action::Beat(n));
            may(node.waits.is_none() && node.fills.len() < 2, Action::Ask(n));
            let is_read = node.purges.has_heeded(node.purges.reports());
            may(is_linked && node.page.is_none() && !is_read, Action::Read(n));
            may(node.page.is_some(), Action::PageDone(n));
            may(node.page.is_some(), Action::PageFails(n));
            may(!node.fills.is_empty(), Action::FillDone(n));
            may(is_changeable && node.paying.is_none(), Action::Order(n));
            may(node.paying.is_some(), Action::Paid(n));
            may(node.paying.is_some(), Action::Unheard(n));
            may(is_linked && self.losses < LOSSES, Action::Lose(n));
            may(!is_linked, Action::Link(n));
            may(is_linked && node.paying.is_none() && self.owes(n), Action::Pay(n));
            may(is_linked && !node.doubt.is_answering(), Action::Pulse(n));
        }
        all
    }

    fn happen(&mut self, action: Action) {
        // Records of one millisecond are told apart otherwise.
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
            Action::Read(n) => self.send_page(n, None),
            Action::PageDone(n) => self.page_done(n),
            Action::PageFails(n) => {
                let sent_ms = self.nodes[n].page.as_ref().map_or(self.now_ms, |page| page.sent_ms);
                self.nodes[n].doubt.unanswered(sent_ms);
                self.page_fails(n);
            }
            Action::FillDone(n) => self.fill_done(n),
            Action::Order(n) => self.order(n),
            Action::Paid(n) => self.paid(n),
            Action::Unheard(n) => {
                self.nodes[n].doubt.unanswered(self.now_ms);
                self.not_paid(n);
            }
            Action::Write => {
                self.truth += 1;
                self.wanted = self.truth;
                self.store.append(
                    Some(PurgeOrder { target: PurgeTarget::Tag(TAG.into()), soft: true }),
                    self.now_ms,
                );
                self.acknowledge(self.truth);
            }
            Action::Lose(n) => {
                self.losses += 1;
                self.lose(n);
            }
            Action::Link(n) => self.link(n),
            Action::Pay(n) => self.pay(n),
            Action::Pulse(n) => drop(self.nodes[n].doubt.answered()),
            Action::Flush => {
                self.store_faults += 1;
                self.store.log.clear();
                self.store.answer = None;
                self.store.report(Report::Flushed);
            }
            Action::Evict => {
                self.store_faults += 1;
                self.store.log.clear();
                self.store.report(Report::Grown);
            }
            Action::Trim => {
                self.store_faults += 1;
                self.store.log.drain(..self.store.log.len() - 1);
                self.store.report(Report::Grown);
            }
            Action::Failover => {
                self.store_faults += 1;
                self.store.log.pop();
                (0..2).for_each(|n| self.lose(n));
                // Until a node that knows what was lost has told it, the others can't know.
                self.acknowledged.iter_mut().for_each(|at| *at = None);
            }
        }
    }

    fn fault(&self) -> Option<String> {
        self.fault.clone()
    }

    fn settle(&mut self) -> Option<String> {
        (0..2).for_each(|n| self.ask(n));
        if self.fault.is_some() {
            return self.fault.clone();
        }
        for n in [0, 1] {
            if self.store.wires[n].is_none() {
                self.link(n);
            }
            self.nodes[n].doubt.answered();
        }
        // What one node makes up for is a change for the other.
        for _ in 0..4 {
            for n in [0, 1] {
                self.now_ms += 1;
                self.deliver_all(n);
                self.nodes[n].doubt.beat(self.now_ms);
                self.paid(n);
                if self.owes(n) {
                    self.pay(n);
                    self.paid(n);
                }
                self.nodes[n].doubt.settle(self.nodes[n].doubt.epoch());
                self.read_all(n);
                while !self.nodes[n].fills.is_empty() {
                    self.fill_done(n);
                }
                self.ask(n);
                self.fill_done(n);
            }
        }
        let fault = self.fault.clone().or_else(|| {
            let shown = [self.shown(0), self.shown(1)];
            let last = self.store.log.last().map(|record| record.id);
            let is_read = self.nodes.iter().all(|node| node.purges.log_id() == last);
            let is_sure = |node: &Node| node.purges.knowledge(self.now_ms) == LogKnowledge::Complete;
            let is_shown = shown.iter().all(|shown| shown.is_some_and(|shown| shown >= self.wanted));
            let owes = [self.owes(0), self.owes(1)];
            let waits = [0, 1].map(|n| self.nodes[n].waits);
            let is_well = is_read && self.nodes.iter().all(is_sure) && is_shown && owes == [false; 2];
            (!is_well || waits != [None; 2]).then(|| {
                let wanted = self.wanted;
                format!("the nodes show {shown:?} of {wanted}, owe {owes:?}, wait {waits:?}; all is read: {is_read}")
            })
        });
        fault.map(|fault| format!("once the faults are over: {fault}"))
    }

    fn says(&self) -> String {
        let name = |id: &RecordId| self.store.ever.iter().position(|ever| ever == id);
        let names =
            |records: &[PurgeRecord]| records.iter().map(|record| name(&record.id)).collect::<Vec<_>>();
        let Store { log, ever, answer, wires } = &self.store;
        let mut text =
            format!("{:?} {:?} {wires:?}", names(log), answer.map(|(id, truth)| (name(&id), truth)));
        write!(text, "{} {:?} {} {}", self.now_ms, self.acknowledged, self.truth, self.wanted).unwrap();
        write!(text, "{} {} {}", self.ticks, self.store_faults, self.losses).unwrap();
        for node in &self.nodes {
            let (doubt, purges) = (&node.doubt, &node.purges);
            let stamps: Vec<_> = ever.iter().map(|id| purges.stamp_from(*id, resource(), &[TAG])).collect();
            let verdicts: Vec<_> = (0..purges.position())
                .map(|p| purges.verdict(&purges.stamp(p, resource(), &[TAG])))
                .collect();
            write!(
                text,
                "|{doubt:?} {purges:?} {stamps:?} {verdicts:?} {:?}",
                purges.log_id().map(|id| name(&id))
            )
            .unwrap();
            if let Some(Cached { stamp, is_provisional, until_ms, truth }) = &node.cached {
                write!(text, " cached {stamp:?} {is_provisional} {until_ms} {truth}").unwrap();
            }
            for Fill { flight, position, id, is_doubtful, truth, asked_ms, joined_ms } in &node.fills {
                let id = id.map(|id| name(&id));
                write!(
                    text,
                    " fill {flight} {position} {id:?} {is_doubtful} {truth} {asked_ms} {joined_ms:?}"
                )
                .unwrap();
            }
            if let Some(Page { beginning, from, records, sent_ms }) = &node.page {
                let from = from.map(|id| name(&id));
                write!(text, " page {beginning:?} {from:?} {:?} {sent_ms}", names(records)).unwrap();
            }
            write!(text, " {:?} {:?}", node.waits, node.paying).unwrap();
        }
        // Of times it counts how long ago they are, in steps of the clock.
        numbers(&text, |time| time.wrapping_sub(NUMBERS_FROM) / TICK_MS)
    }
}

fn resource() -> u128 {
    key::resource_hash("a.example", "/kpi")
}

fn node(now_ms: u64) -> Node {
    let doubt = Arc::new(CoherenceDoubt::of_store(Some(Duration::from_millis(OUTAGE_TTL_MS)), now_ms));
    let purges = Arc::new(Known::new(doubt.clone()));
    Node { doubt, purges, cached: None, fills: VecDeque::new(), page: None, waits: None, paying: None }
}

impl Purges {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn acknowledge(&mut self, truth: u64) {
        let truth = truth as usize;
        self.acknowledged.resize(self.acknowledged.len().max(truth + 1), None);
        for at in self.acknowledged[..=truth].iter_mut().filter(|at| at.is_none()) {
            *at = Some(self.now_ms);
        }
    }

    /// An answer with this truth is given to a request of then.
    fn served(&mut self, n: usize, truth: u64, asked_ms: u64, why: &str) {
        let Some(Some(at)) = self.acknowledged.get(truth as usize + 1) else { return };
        let age = asked_ms.saturating_sub(*at);
        if age > BOUND_MS {
            self.fault = Some(format!("node {n} shows {truth}, which is {age} ms old ({why})"));
        }
    }

    fn owes(&self, n: usize) -> bool {
        // What is dropped waits again.
        !self.nodes[n].purges.take_debt(usize::MAX).is_empty()
    }

    fn deliver(&mut self, n: usize) {
        let report = self.store.wires[n].as_mut().and_then(VecDeque::pop_front);
        let node = &self.nodes[n];
        match report {
            Some(Report::Grown) if self.has(Flaw::DeafToReports) => {}
            Some(Report::Grown) => node.purges.reported(),
            Some(Report::Flushed) => {
                node.doubt.begin_epoch(self.now_ms);
                node.purges.mark_emptied();
            }
            Some(Report::Beat(sent_ms)) => node.doubt.beat(sent_ms),
            None => {}
        }
    }

    fn deliver_all(&mut self, n: usize) {
        while self.store.wires[n].as_ref().is_some_and(|wire| !wire.is_empty()) {
            self.deliver(n);
        }
    }

    /// As `RedisStore::linked`.
    fn link(&mut self, n: usize) {
        self.store.wires[n] = Some(VecDeque::new());
        let Node { doubt, purges, .. } = &self.nodes[n];
        purges.grown();
        doubt.link(true, self.now_ms);
        purges.grown();
        doubt.settle(doubt.epoch());
    }

    fn lose(&mut self, n: usize) {
        if self.store.wires[n].take().is_some() {
            self.nodes[n].doubt.lose(self.now_ms);
        }
        self.not_paid(n);
        if self.nodes[n].page.is_some() {
            self.page_fails(n);
        }
    }

    /// As `RedisStore::read_to_the_end`, and the reading of one page by `RedisStore::read_log`.
    fn send_page(&mut self, n: usize, beginning: Option<LogReadStart>) {
        let purges = &self.nodes[n].purges;
        let beginning = beginning.unwrap_or_else(|| purges.begin_reading(self.now_ms));
        let from = purges.log_id();
        let records = self.store.page(from);
        self.nodes[n].page = Some(Page { beginning, from, records, sent_ms: self.now_ms });
    }

    fn page_done(&mut self, n: usize) {
        let Some(Page { beginning, from, records, .. }) = self.nodes[n].page.take() else { return };
        match self.nodes[n].purges.read(from, &records) {
            LogReadOutcome::Taken => self.read_to_the_end(n, beginning),
            LogReadOutcome::Overtaken | LogReadOutcome::Gap => self.send_page(n, Some(beginning)),
            LogReadOutcome::Empty => {
                self.store.append(None, self.now_ms);
                self.now_ms += 1;
                self.send_page(n, Some(beginning));
            }
        }
    }

    fn read_to_the_end(&mut self, n: usize, beginning: LogReadStart) {
        self.nodes[n].purges.heed(beginning);
        let Some((asked_at, asked_ms)) = self.nodes[n].waits else { return };
        if !self.nodes[n].purges.has_heeded(asked_at) {
            return self.send_page(n, None);
        }
        self.nodes[n].waits = None;
        self.answer(n, LogKnowledge::Complete, asked_ms);
    }

    fn page_fails(&mut self, n: usize) {
        self.nodes[n].page = None;
        self.nodes[n].purges.could_not_read();
        if let Some((_, asked_ms)) = self.nodes[n].waits.take() {
            self.answer(n, LogKnowledge::Doubtful, asked_ms);
        }
    }

    fn read_all(&mut self, n: usize) {
        while self.nodes[n].page.is_some() {
            self.page_done(n);
        }
        if !self.nodes[n].purges.has_heeded(self.nodes[n].purges.reports()) {
            self.send_page(n, None);
            self.read_all(n);
        }
    }

    /// As `Cache::purge`.
    fn order(&mut self, n: usize) {
        self.truth += 1;
        self.wanted = self.truth;
        let debt = self.nodes[n].purges.order(vec![PurgeOrder::hard(PurgeTarget::of("a.example", "/kpi"))]);
        self.write_debt(n, debt);
    }

    fn pay(&mut self, n: usize) {
        let debt = self.nodes[n].purges.take_debt(usize::MAX);
        self.write_debt(n, debt);
    }

    fn write_debt(&mut self, n: usize, debt: PurgeDebt) {
        if self.store.wires[n].is_none() {
            return self.drop_debt(debt);
        }
        let orders: Vec<_> = debt.orders().cloned().collect();
        for purge in orders {
            self.store.append(Some(purge), self.now_ms);
            self.now_ms += 1;
        }
        self.nodes[n].paying = Some((debt, self.truth));
    }

    /// As the end of `RedisStore::pay_within`.
    fn paid(&mut self, n: usize) {
        if self.nodes[n].paying.is_none() {
            return;
        }
        self.nodes[n].purges.grown();
        self.read_all(n);
        if let Some((debt, truth)) = self.nodes[n].paying.take() {
            debt.settle();
            self.acknowledge(truth);
        }
    }

    fn not_paid(&mut self, n: usize) {
        if let Some((debt, _)) = self.nodes[n].paying.take() {
            self.drop_debt(debt);
        }
    }

    fn drop_debt(&self, debt: PurgeDebt) {
        match self.has(Flaw::ForgetsDebts) {
            true => debt.settle(),
            false => drop(debt),
        }
    }

    /// The truth that a request of now finds in memory, if anything may be served. As `Cache::judge`.
    fn usable(&self, n: usize, cached: &Cached, knowledge: LogKnowledge) -> bool {
        let purges = &self.nodes[n].purges;
        let is_limited = knowledge == LogKnowledge::Doubtful && !self.has(Flaw::DoubtsWithoutEnd);
        purges.verdict(&cached.stamp) == PurgeVerdict::Current
            && self.now_ms < cached.until_ms
            && (!is_limited || purges.allows(cached.is_provisional, self.now_ms))
    }

    fn shown(&self, n: usize) -> Option<u64> {
        let node = &self.nodes[n];
        let cached = node.cached.as_ref()?;
        let knowledge = node.purges.knowledge(self.now_ms);
        (knowledge != LogKnowledge::Behind && self.usable(n, cached, knowledge)).then_some(cached.truth)
    }

    /// As `Cache::answer_followed`.
    fn ask(&mut self, n: usize) {
        let (now_ms, purges) = (self.now_ms, self.nodes[n].purges.clone());
        match purges.knowledge(now_ms) {
            LogKnowledge::Behind => {
                if !self.nodes[n].doubt.is_heard(now_ms) {
                    purges.grown();
                }
                self.nodes[n].waits = Some((purges.reports(), now_ms));
                if self.nodes[n].page.is_none() {
                    self.send_page(n, None);
                }
            }
            knowledge => self.answer(n, knowledge, now_ms),
        }
    }

    fn answer(&mut self, n: usize, knowledge: LogKnowledge, asked_ms: u64) {
        let node = &self.nodes[n];
        if let Some(cached) = node.cached.as_ref().filter(|cached| self.usable(n, cached, knowledge)) {
            return self.served(n, cached.truth, asked_ms, "a hit");
        }
        let flight = self.flight(n, knowledge);
        if let Some(fill) = self.nodes[n].fills.iter_mut().find(|fill| fill.flight == flight) {
            return fill.joined_ms.push(asked_ms);
        }
        let purges = &self.nodes[n].purges;
        let (position, id) = (purges.position(), purges.log_id());
        let is_doubtful = knowledge == LogKnowledge::Doubtful;
        if let Some(cached) = self.stored(n).filter(|_| !is_doubtful) {
            self.served(n, cached.truth, asked_ms, "from the store");
            self.nodes[n].cached = Some(cached);
            return;
        }
        let (truth, joined_ms) = (self.truth, Vec::new());
        self.nodes[n].fills.push_back(Fill { flight, position, id, is_doubtful, truth, asked_ms, joined_ms });
    }

    /// As `Cache::flight_of`.
    fn flight(&self, n: usize, knowledge: LogKnowledge) -> String {
        let purges = &self.nodes[n].purges;
        let mut name = format!("r{}", purges.last_purge(resource()));
        if knowledge == LogKnowledge::Doubtful {
            write!(name, "@{:?}", purges.doubtful_period(self.now_ms)).unwrap();
        }
        name
    }

    /// The answer in the store, if it may be served.
    fn stored(&self, n: usize) -> Option<Cached> {
        let (id, truth) = self.store.answer.filter(|_| self.store.wires[n].is_some())?;
        let purges = &self.nodes[n].purges;
        let stamp = purges.stamp_from(id, resource(), &[TAG])?;
        let cached = Cached { stamp, is_provisional: false, until_ms: u64::MAX, truth };
        self.usable(n, &cached, purges.knowledge(self.now_ms)).then_some(cached)
    }

    fn fill_done(&mut self, n: usize) {
        let Some(Fill { position, id, is_doubtful, truth, asked_ms, joined_ms, .. }) =
            self.nodes[n].fills.pop_front()
        else {
            return;
        };
        let purges = self.nodes[n].purges.clone();
        let position = if self.has(Flaw::NotesPositionLate) { purges.position() } else { position };
        let stamp = purges.stamp(position, resource(), &[TAG]);
        let is_for_others = purges.verdict(&stamp) == PurgeVerdict::Current;
        for joined_ms in joined_ms.into_iter().filter(|_| is_for_others) {
            self.served(n, truth, joined_ms, "of a fill that was under way");
        }
        if let Some(id) = id.filter(|_| !is_doubtful && self.store.wires[n].is_some()) {
            self.store.answer = Some((id, truth));
        }
        let until_ms = if is_doubtful { asked_ms + OUTAGE_TTL_MS } else { u64::MAX };
        self.nodes[n].cached = Some(Cached { stamp, is_provisional: is_doubtful, until_ms, truth });
    }
}
