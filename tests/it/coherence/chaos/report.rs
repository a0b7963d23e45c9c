//! A table of the observations under each fault, and a short trace for who has to find a reason.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt::Write,
    sync::{
        atomic::{AtomicUsize, Ordering},
        Mutex,
    },
    time::{Duration, Instant},
};

/// The number of lines of the trace that are kept.
const KEPT: usize = 400;

/// The observations under one kind of fault.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    /// Answers with a number.
    pub(crate) answers: u64,
    /// Of these, provably old ones without a mark.
    pub(crate) old: u64,
    /// The oldest of them.
    pub(crate) worst: Duration,
    /// Answers that say themselves that they are stale.
    pub(crate) marked: u64,
    /// Answers with a status of 500 or above.
    pub(crate) errors: u64,
    /// Requests that got no answer in time.
    pub(crate) silent: u64,
    /// Changes that were acknowledged, and those that were not.
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
}

/// All that was seen, by the name of the fault that was begun last.
pub(crate) struct Report {
    begun: Instant,
    names: Vec<&'static str>,
    tallies: Mutex<Vec<Tally>>,
    current: AtomicUsize,
    trace: Mutex<VecDeque<String>>,
    violations: Mutex<Vec<String>>,
    told: Mutex<BTreeSet<(usize, usize, u64)>>,
}

/// The name of the time before the first fault, and some time after each.
pub(crate) const CALM: &str = "none";

impl Report {
    pub(crate) fn new(names: impl Iterator<Item = &'static str>) -> Self {
        let names: Vec<_> = std::iter::once(CALM).chain(names).collect();
        Self {
            begun: Instant::now(),
            tallies: Mutex::new(vec![Tally::default(); names.len()]),
            names,
            current: AtomicUsize::new(0),
            trace: Mutex::default(),
            violations: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// Puts all that is seen from now on down to this fault.
    pub(crate) fn under(&self, name: &str) {
        let index = self.names.iter().position(|known| *known == name).unwrap();
        self.current.store(index, Ordering::SeqCst);
    }

    /// Counts what is seen now.
    pub(crate) fn count(&self, count: impl FnOnce(&mut Tally)) {
        count(&mut self.tallies.lock().unwrap()[self.current.load(Ordering::SeqCst)]);
    }

    /// Notes what happened.
    pub(crate) fn note(&self, what: &str) {
        let mut trace = self.trace.lock().unwrap();
        if trace.len() == KEPT {
            trace.pop_front();
        }
        trace.push_back(format!("{:8.3} {what}", self.begun.elapsed().as_secs_f64()));
    }

    /// Notes what must not happen, once for each of what it is about.
    pub(crate) fn violation_once(&self, about: (usize, usize, u64), what: &str) {
        let is_new = self.told.lock().unwrap().insert(about);
        if is_new {
            self.violation(what);
        }
    }

    /// Notes what must not happen.
    pub(crate) fn violation(&self, what: &str) {
        let name = self.names[self.current.load(Ordering::SeqCst)];
        self.note(&format!("VIOLATION {what}"));
        let mut violations = self.violations.lock().unwrap();
        // The first of them tell the story.
        if violations.len() < 20 {
            let line = format!("{:8.3} under \"{name}\": {what}", self.begun.elapsed().as_secs_f64());
            violations.push(line);
        }
    }

    /// All that has happened and must not.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap().clone()
    }

    /// The last things that happened.
    pub(crate) fn trace(&self) -> String {
        self.trace.lock().unwrap().iter().fold(String::new(), |mut all, line| {
            writeln!(all, "{line}").unwrap();
            all
        })
    }

    /// The observations under each fault there was.
    pub(crate) fn tallies(&self) -> Vec<(&'static str, Tally)> {
        let tallies = self.tallies.lock().unwrap();
        self.names
            .iter()
            .copied()
            .zip(tallies.iter().cloned())
            .filter(|(_, tally)| tally.answers > 0)
            .collect()
    }

    /// The summary, in Markdown.
    pub(crate) fn table(&self) -> String {
        let mut table = String::from(
            "| fault | answers | old ones | worst age | marked stale | 5xx | no answer | changes acknowledged | not acknowledged |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        for (name, seen) in self.tallies() {
            let Tally { answers, old, worst, marked, errors, silent, acknowledged, refused } = seen;
            let worst = worst.as_millis();
            writeln!(
                table,
                "| {name} | {answers} | {old} | {worst} ms | {marked} | {errors} | {silent} | {acknowledged} | {refused} |"
            )
            .unwrap();
        }
        table
    }
}
