//! All orders in which things can happen to two nodes and a store, up to a depth: no answer is older than the bound, no
//! acknowledged change is lost, nobody waits for ever, and all say the same once the faults are over.
//!
//! The deciders are the gateway's own code ([`tidegate::cache::version`], [`tidegate::cache::doubt`],
//! [`tidegate::cache::purge`]). A state of the model is the list of what has happened; the real objects are made anew
//! and told all of it. Two lists after which everybody says the same are one state.

mod canonical;
mod leases;
mod purges;
mod store;
mod versions;

use rand::{rngs::StdRng, seq::IndexedRandom, Rng, SeedableRng};
use stateright::{Checker, Model, Property};
use std::{
    fmt::Debug,
    hash::{Hash, Hasher},
    time::Instant,
};

/// A model that is driven through all orders of its actions.
pub(crate) trait Subject: Sized {
    /// A step of the model.
    type Action: Copy + Debug + PartialEq + Send + Sync + 'static;

    /// A fault that can be built in.
    type Flaw: Copy + Debug;

    /// The state at the begin.
    fn new(flaw: Option<Self::Flaw>) -> Self;
    /// The actions that can happen next.
    fn actions(&self) -> Vec<Self::Action>;
    /// Lets it happen.
    fn happen(&mut self, action: Self::Action);
    /// The first thing seen that must never be.
    fn fault(&self) -> Option<String>;
    /// Ends all faults, lets everything arrive, and looks for what must not be then.
    fn settle(&mut self) -> Option<String>;
    /// All that can make a difference, as everybody says it.
    fn says(&self) -> String;
}

/// The actions so far, and what everybody says after them.
struct History<S: Subject> {
    actions: Vec<S::Action>,
    /// The actions that can happen next.
    next: Vec<S::Action>,
    says: u128,
    fault: Option<String>,
}

impl<S: Subject> History<S> {
    fn of(actions: Vec<S::Action>) -> Self {
        let mut subject = replayed::<S>(&actions);
        let says = xxhash_rust::xxh3::xxh3_128(subject.says().as_bytes());
        let next = subject.actions();
        let fault = subject.fault().or_else(|| subject.settle());
        Self { actions, next, says, fault }
    }
}

fn replayed<S: Subject>(actions: &[S::Action]) -> S {
    let mut subject = S::new(None);
    actions.iter().for_each(|action| subject.happen(*action));
    subject
}

impl<S: Subject> Clone for History<S> {
    fn clone(&self) -> Self {
        let Self { actions, next, says, fault } = self;
        Self { actions: actions.clone(), next: next.clone(), says: *says, fault: fault.clone() }
    }
}

impl<S: Subject> Hash for History<S> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.says, self.fault.is_some()).hash(hasher);
    }
}

impl<S: Subject> PartialEq for History<S> {
    fn eq(&self, other: &Self) -> bool {
        (self.says, &self.fault) == (other.says, &other.fault)
    }
}

impl<S: Subject> Debug for History<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {:?}", self.actions, self.fault)
    }
}

struct Orders<S>(std::marker::PhantomData<fn() -> S>);

impl<S: Subject + 'static> Model for Orders<S> {
    type State = History<S>;
    type Action = S::Action;

    fn init_states(&self) -> Vec<Self::State> {
        vec![History::of(Vec::new())]
    }

    fn actions(&self, state: &Self::State, actions: &mut Vec<Self::Action>) {
        // What comes after a fault is of no interest.
        if state.fault.is_none() {
            actions.extend(state.next.iter().copied());
        }
    }

    fn next_state(&self, state: &Self::State, action: Self::Action) -> Option<Self::State> {
        let actions = state.actions.iter().copied().chain([action]).collect();
        Some(History::of(actions))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("nothing that must not be", |_, state: &Self::State| state.fault.is_none())]
    }
}

/// The number in this variable of the environment, if there is one.
fn told(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().unwrap())
}

fn fail<A: Debug>(fault: Option<&str>, actions: &[A]) -> ! {
    let trace: String = actions.iter().map(|action| format!("  {action:?}\n")).collect();
    panic!("{}\nafter\n{trace}", fault.unwrap_or_default());
}

/// Looks through all orders of so many actions; `MODEL_DEPTH` is another number.
fn check<S: Subject + 'static>(depth: usize) {
    let depth = told("MODEL_DEPTH").map_or(depth, |depth| usize::try_from(depth).unwrap());
    let begun = Instant::now();
    // The first state is counted as a depth.
    let model = Orders::<S>(std::marker::PhantomData).checker();
    let checker = model.threads(2).target_max_depth(depth + 1).spawn_bfs().join();
    let (all, different) = (checker.state_count(), checker.unique_state_count());
    println!("{all} orders of up to {depth} actions, {different} different states, {:?}", begun.elapsed());
    if let Some(path) = checker.discoveries().into_values().next() {
        let last = path.last_state();
        fail(last.fault.as_deref(), &last.actions);
    }
    assert!(different > 1000, "the model does not move");
}

/// Goes this way of many actions at random. Returns what must not be, if it comes to that, and the way.
fn go<S: Subject>(seed: u64, flaw: Option<S::Flaw>) -> (Option<String>, Vec<S::Action>) {
    const STEPS: usize = 40;
    let mut dice = StdRng::seed_from_u64(seed);
    let (mut subject, mut actions) = (S::new(flaw), Vec::new());
    for _ in 0..dice.random_range(5..STEPS) {
        let Some(action) = subject.actions().choose(&mut dice).copied() else { break };
        actions.push(action);
        subject.happen(action);
        if subject.fault().is_some() {
            break;
        }
    }
    (subject.fault().or_else(|| subject.settle()), actions)
}

/// Goes so many ways at random, for what all orders of a few actions don't reach; `MODEL_WALKS` is another number.
fn walk<S: Subject>(walks: u64) {
    for seed in 0..told("MODEL_WALKS").unwrap_or(walks) {
        if let (Some(fault), actions) = go::<S>(seed, None) {
            fail(Some(&format!("walk {seed}: {fault}")), &actions);
        }
    }
}

/// Goes ways until each of these faults, built in one at a time, is found as what it is.
fn assert_found<S: Subject>(flaws: &[(S::Flaw, &str)]) {
    const WALKS: u64 = 50_000;
    for (flaw, told) in flaws {
        let found =
            (0..WALKS).find_map(|seed| go::<S>(seed, Some(*flaw)).0.filter(|fault| fault.contains(told)));
        assert!(found.is_some(), "{flaw:?} is not found");
        println!("{flaw:?}: {}", found.unwrap_or_default());
    }
}

#[test]
fn no_order_of_events_hides_a_version() {
    check::<versions::Versions>(4);
}

#[test]
fn no_long_history_hides_a_version() {
    walk::<versions::Versions>(15_000);
}

#[test]
fn a_fault_of_versions_is_found() {
    use versions::Flaw::{DeafToReports, ForgetsDebts};
    assert_found::<versions::Versions>(&[
        (DeafToReports, "ms old"),
        (ForgetsDebts, "once the faults are over"),
    ]);
}

#[test]
fn no_order_of_events_hides_a_purge() {
    check::<purges::Purges>(4);
}

#[test]
fn no_long_history_hides_a_purge() {
    walk::<purges::Purges>(4_000);
}

#[test]
fn a_fault_of_purges_is_found() {
    use purges::Flaw::{DeafToReports, DoubtsWithoutEnd, ForgetsDebts, NotesPositionLate};
    assert_found::<purges::Purges>(&[
        (DeafToReports, "ms old"),
        (ForgetsDebts, "once the faults are over"),
        (NotesPositionLate, "once the faults are over"),
        (DoubtsWithoutEnd, "ms old"),
    ]);
}

#[test]
fn no_order_of_events_holds_up_a_fill() {
    check::<leases::Leases>(4);
}

#[test]
fn no_long_history_holds_up_a_fill() {
    walk::<leases::Leases>(15_000);
}

#[test]
fn a_fault_of_leases_is_found() {
    use leases::Flaw::{AsksWithoutPause, HedgesAtOnce, JoinsNobody, WaitsForReports};
    assert_found::<leases::Leases>(&[
        (WaitsForReports, "are left"),
        (HedgesAtOnce, "a hedge begins after"),
        (JoinsNobody, "two fills of one node"),
        (AsksWithoutPause, "has asked for the lease"),
    ]);
}
