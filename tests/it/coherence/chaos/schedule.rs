//! A schedule of faults and changes, made of a seed alone, or of one named fault.

use crate::coherence::chaos::{
    fault::{Fault, Kind, Whom},
    world::{Change, Way, SUBJECTS},
};
use rand::{rngs::StdRng, Rng, SeedableRng};
use std::time::Duration;

/// One thing that happens.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Begin(Fault),
    End(Fault),
    /// The end of the last fault's time: an old answer is no longer put down to it.
    Calm,
    Change(Change),
}

/// Steps with their times, in order.
pub(crate) type Schedule = Vec<(Duration, Step)>;

/// Answers that are old because of a fault may be given so long after its end.
pub(crate) const AFTER: Duration = Duration::from_millis(1500);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Faults and changes at random for so long. Faults overlap now and then.
pub(crate) fn random(seed: u64, length: Duration, nodes: usize) -> Schedule {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut steps = changes(&mut dice, length, nodes, |_| true);
    let (mut at, mut redis_is_away) = (ms(400), ms(0));
    while at + ms(500) < length {
        let fault = any_fault(&mut dice, nodes);
        let is_of_redis = matches!(fault.kind, Kind::RedisKilled | Kind::RedisPaused);
        if is_of_redis && at <= redis_is_away {
            continue;
        }
        let longest = (length - at).min(ms(4500));
        let lasts = if fault.kind == Kind::NodePaused { ms(1500) } else { ms(300) }.min(longest);
        let end = at + dice.random_range(lasts..=longest);
        steps.push((at, Step::Begin(fault)));
        steps.push((end, Step::End(fault)));
        if is_of_redis {
            redis_is_away = end;
        }
        if dice.random_ratio(1, 4) {
            at += dice.random_range(ms(100)..=end - at);
        } else if dice.random_ratio(1, 3) {
            steps.push((end + AFTER, Step::Calm));
            at = end + AFTER + dice.random_range(ms(100)..ms(600));
        } else {
            at = end + dice.random_range(ms(50)..ms(1200));
        }
    }
    sorted(steps)
}

/// One fault, with changes of the ways that it is about.
pub(crate) fn named(fault: Fault, lasts: Duration, nodes: usize, ways: fn(Way) -> bool) -> Schedule {
    let mut dice = StdRng::seed_from_u64(lasts.as_secs());
    let begin = ms(500);
    let mut steps = changes(&mut dice, begin + lasts + AFTER, nodes, ways);
    // A node that is away can't be told of changes.
    steps.retain(|(_, step)| {
        let Step::Change(change) = step else { return true };
        change.way.node().is_none_or(|node| fault.whom != Whom::Node(node))
    });
    steps.push((begin, Step::Begin(fault)));
    steps.push((begin + lasts, Step::End(fault)));
    sorted(steps)
}

fn sorted(mut steps: Schedule) -> Schedule {
    steps.sort_by_key(|(at, _)| *at);
    steps
}

fn any_fault(dice: &mut StdRng, nodes: usize) -> Fault {
    let kind = Kind::ALL[dice.random_range(0..Kind::ALL.len())];
    let whom = if dice.random_ratio(2, 3) { Whom::Node(dice.random_range(0..nodes)) } else { Whom::All };
    Fault { kind, whom }
}

/// Busy things change every few 100 ms, quiet ones every two seconds.
fn changes(dice: &mut StdRng, length: Duration, nodes: usize, ways: impl Fn(Way) -> bool) -> Schedule {
    let mut steps = Schedule::new();
    for (subject, what) in SUBJECTS.iter().enumerate() {
        let possible: Vec<Way> = what.ways(nodes).into_iter().filter(|way| ways(*way)).collect();
        if possible.is_empty() {
            continue;
        }
        let pause = if what.busy { ms(250) } else { ms(1600) };
        let mut at = dice.random_range(ms(50)..pause);
        while at < length {
            let way = possible[dice.random_range(0..possible.len())];
            steps.push((at, Step::Change(Change { subject, way })));
            at += dice.random_range(pause / 4..pause * 2);
        }
    }
    steps
}
