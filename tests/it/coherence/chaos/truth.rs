//! The truth, the time since which it is acknowledged, and the age of an answer that shows less.
//!
//! An answer is *proven* old where its request began after a change was acknowledged and it shows what was true before
//! the change. Its age is the time from the acknowledgement of the first change that it does not show to the begin of
//! its request: nothing that happens between the two clocks of a machine can make that too large.

use std::{
    sync::{
        atomic::{AtomicU64, Ordering},
        Mutex,
    },
    time::{Duration, Instant},
};

/// One thing that changes: a number that the origin shows.
pub(crate) struct Truth {
    value: AtomicU64,
    /// When this number, or a higher one, was first acknowledged; by number.
    acknowledged: Mutex<Vec<Option<Instant>>>,
}

impl Default for Truth {
    fn default() -> Self {
        Self { value: AtomicU64::new(1), acknowledged: Mutex::new(vec![None; 2]) }
    }
}

impl Truth {
    /// The number that the origin shows.
    pub(crate) fn value(&self) -> u64 {
        self.value.load(Ordering::SeqCst)
    }

    /// Changes what the origin shows.
    pub(crate) fn change(&self) -> u64 {
        self.value.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Somebody was told that everyone is shown this from now on.
    pub(crate) fn acknowledge(&self, value: u64) {
        let now = Instant::now();
        let mut all = self.acknowledged.lock().unwrap();
        let value = usize::try_from(value).unwrap();
        if all.len() <= value {
            all.resize(value + 1, None);
        }
        for at in all[..=value].iter_mut().rev() {
            if at.is_some() {
                break;
            }
            *at = Some(now);
        }
    }

    /// The highest number that was acknowledged.
    pub(crate) fn last_acknowledged(&self) -> u64 {
        let all = self.acknowledged.lock().unwrap();
        all.iter().rposition(Option::is_some).unwrap_or_default() as u64
    }

    /// The provable age of an answer that shows this number to a request of then.
    pub(crate) fn age(&self, shown: u64, begun: Instant) -> Option<Duration> {
        let all = self.acknowledged.lock().unwrap();
        let next = all.get(usize::try_from(shown).unwrap() + 1).copied().flatten()?;
        begun.checked_duration_since(next).filter(|age| !age.is_zero())
    }
}

#[test]
fn an_answer_is_old_from_the_acknowledgement_on() {
    let truth = Truth::default();
    let before = Instant::now();
    assert_eq!((truth.change(), truth.change()), (2, 3));
    let later = |ms| Instant::now() + Duration::from_millis(ms);
    assert_eq!(truth.age(1, later(50)), None, "nobody was told");
    truth.acknowledge(3);
    assert_eq!(truth.age(1, before), None, "asked before");
    assert_eq!(truth.age(3, later(50)), None);
    for shown in [1, 2] {
        assert!(truth.age(shown, later(50)).is_some_and(|age| age > Duration::from_millis(40)));
    }
    assert_eq!(truth.last_acknowledged(), 3);
}
