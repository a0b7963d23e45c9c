//! Tests of the state machine with a simulated clock.

use super::*;
use proptest::prelude::*;
use std::cell::Cell;

const RULES: TimeoutRules = TimeoutRules {
    header_timeout: Duration::from_secs(10),
    body_timeout: Duration::from_secs(30),
    body_min_rate: 100,
    send_timeout: Duration::from_secs(20),
    send_min_rate: 100,
};

/// A connection and its clock.
struct Stage {
    begin: Instant,
    ms: Cell<u64>,
    looked: Cell<u32>,
    seen: ExchangeProgress,
    guard: ConnectionGuard,
}

impl Stage {
    fn set(rules: TimeoutRules) -> Self {
        let begin = Instant::now();
        let seen = ExchangeProgress::default();
        Self {
            begin,
            ms: Cell::new(0),
            looked: Cell::new(0),
            seen,
            guard: ConnectionGuard::new(rules, begin),
        }
    }

    fn at(&self, ms: u64) -> Instant {
        self.begin + Duration::from_millis(ms)
    }

    fn read(&mut self, bytes: usize) {
        let now = self.at(self.ms.get());
        let looked = &self.looked;
        self.guard.read(bytes, self.seen, || {
            looked.set(looked.get() + 1);
            now
        });
    }

    fn waits(&mut self) -> WaitVerdict {
        let now = self.at(self.ms.get());
        let looked = &self.looked;
        self.guard.waits_to_read(self.seen, || {
            looked.set(looked.get() + 1);
            now
        })
    }

    fn wrote(&mut self, bytes: usize) {
        let now = self.at(self.ms.get());
        let looked = &self.looked;
        self.guard.wrote(bytes, || {
            looked.set(looked.get() + 1);
            now
        });
    }

    fn writes(&mut self, taken: Option<u64>) -> WaitVerdict {
        let now = self.at(self.ms.get());
        self.guard.waits_to_write(now, || taken)
    }

    /// Advances the clock.
    fn after(&mut self, ms: u64) -> &mut Self {
        self.ms.set(self.ms.get() + ms);
        self
    }

    fn handled(&mut self, body: bool) {
        self.seen.handled = true;
        self.seen.body = body;
    }

    fn reused(&mut self) {
        self.seen = ExchangeProgress { exchange: self.seen.exchange + 1, ..ExchangeProgress::default() };
    }

    fn until(&self, ms: u64) -> WaitVerdict {
        WaitVerdict::Until(self.at(ms))
    }
}

#[test]
fn nothing_at_all_is_a_silent_client() {
    let mut stage = Stage::set(RULES);
    assert_eq!(stage.waits(), stage.until(10_000));
    assert_eq!(stage.after(9_999).waits(), stage.until(10_000));
    assert_eq!(stage.after(1).waits(), WaitVerdict::Cut(CutReason::Silent));
    assert!(!stage.guard.is_within_head(stage.seen));
}

#[test]
fn bytes_that_drip_in_move_no_deadline() {
    let mut stage = Stage::set(RULES);
    for _ in 0..9 {
        stage.after(1000).read(1);
        assert_eq!(stage.waits(), stage.until(10_000));
    }
    assert!(stage.guard.is_within_head(stage.seen));
    stage.after(1000).read(1);
    assert_eq!(stage.waits(), WaitVerdict::Cut(CutReason::Header));
    assert_eq!(stage.guard.head_since(), Some(stage.begin));
}

#[test]
fn a_further_request_is_timed_from_its_first_byte() {
    let mut stage = Stage::set(RULES);
    stage.read(100);
    stage.handled(false);
    stage.wrote(100);
    stage.reused();
    assert_eq!(stage.after(60_000).waits(), WaitVerdict::Free, "keep-alive is not of this module");
    stage.read(1);
    assert_eq!(stage.waits(), stage.until(70_000));
    stage.after(9_000).read(1);
    assert_eq!(stage.waits(), stage.until(70_000));
    assert_eq!(stage.after(1_000).waits(), WaitVerdict::Cut(CutReason::Header));
}

#[test]
fn what_came_of_the_next_head_while_one_was_served_is_timed() {
    let mut stage = Stage::set(RULES);
    stage.read(100);
    stage.handled(false);
    stage.after(5_000).read(1);
    stage.reused();
    let seen = stage.seen;
    stage.guard.served(seen, true);
    assert_eq!(stage.after(1_000).waits(), stage.until(16_000));
    assert!(stage.guard.is_within_head(seen));
    assert_eq!(stage.after(10_000).waits(), WaitVerdict::Cut(CutReason::Header));
    // No byte has come: nothing is waited for.
    stage.handled(false);
    stage.read(0);
    stage.reused();
    let seen = stage.seen;
    stage.guard.served(seen, false);
    assert_eq!(stage.waits(), WaitVerdict::Free);
}

#[test]
fn a_request_that_comes_whole_costs_no_look_at_the_clock() {
    let mut stage = Stage::set(RULES);
    for _ in 0..3 {
        stage.read(100);
        stage.handled(false);
        stage.wrote(300);
        stage.reused();
        assert_eq!(stage.waits(), WaitVerdict::Free);
    }
    assert_eq!(stage.looked.get(), 0);
}

#[test]
fn a_body_is_waited_for_only_while_it_is_wanted() {
    let mut stage = Stage::set(RULES);
    stage.read(100);
    stage.handled(false);
    assert_eq!(stage.after(100_000).waits(), WaitVerdict::Free, "the origin takes its time");
    stage.seen.body = true;
    assert_eq!(stage.waits(), stage.until(130_000));
    stage.seen.body = false;
    assert_eq!(
        stage.after(29_000).waits(),
        WaitVerdict::Free,
        "an upgraded connection, or a body that is whole"
    );
    assert_eq!(stage.after(29_000).waits(), WaitVerdict::Free);
    stage.seen.body = true;
    assert_eq!(stage.waits(), stage.until(188_000));
    assert_eq!(stage.after(30_000).waits(), WaitVerdict::Cut(CutReason::BodyTimeout));
}

#[test]
fn a_body_that_drips_is_cut_for_its_rate() {
    let mut stage = Stage::set(RULES);
    stage.read(100);
    stage.handled(true);
    // A fast beginning gives no right to be slow.
    stage.read(1_000_000);
    let cut = (1..60).find_map(|second| {
        assert!(matches!(stage.waits(), WaitVerdict::Until(_)));
        let verdict = stage.after(1000).waits();
        stage.read(1);
        matches!(verdict, WaitVerdict::Cut(_)).then_some((second, verdict))
    });
    // Each second costs 990 ms.
    assert_eq!(cut, Some((31, WaitVerdict::Cut(CutReason::BodyRate))));
}

#[test]
fn each_request_has_its_own_patience() {
    let mut stage = Stage::set(RULES);
    for _ in 0..5 {
        stage.read(100);
        stage.handled(true);
        assert!(matches!(stage.waits(), WaitVerdict::Until(_)));
        stage.after(29_000).read(1);
        assert!(matches!(stage.waits(), WaitVerdict::Until(_)));
        stage.reused();
    }
}

#[test]
fn without_a_rate_any_byte_will_do() {
    let mut stage = Stage::set(TimeoutRules { body_min_rate: 0, send_min_rate: 0, ..RULES });
    stage.read(100);
    stage.handled(true);
    for _ in 0..10 {
        assert!(matches!(stage.waits(), WaitVerdict::Until(_)));
        stage.after(29_999).read(1);
        assert!(matches!(stage.writes(None), WaitVerdict::Until(_)));
        stage.after(19_999).wrote(1);
    }
    assert!(matches!(stage.waits(), WaitVerdict::Until(_)));
    assert_eq!(stage.after(30_000).waits(), WaitVerdict::Cut(CutReason::BodyTimeout));
}

#[test]
fn who_takes_nothing_is_cut() {
    let mut stage = Stage::set(RULES);
    assert_eq!(stage.writes(Some(7)), stage.until(1_000), "a look");
    assert_eq!(stage.after(1_000).writes(Some(7)), stage.until(6_000));
    assert_eq!(stage.after(5_000).writes(Some(7)), stage.until(11_000));
    assert_eq!(stage.after(5_000).writes(Some(7)), stage.until(16_000));
    assert_eq!(stage.after(5_000).writes(Some(7)), stage.until(20_000));
    assert_eq!(stage.after(4_000).writes(Some(7)), WaitVerdict::Cut(CutReason::SendTimeout));
}

/// Five bytes a second, as in slow-read attacks: there is progress, but too little.
#[test]
fn who_takes_almost_nothing_is_cut() {
    let mut stage = Stage::set(RULES);
    let cut = (0..60).find_map(|second| {
        let verdict = stage.writes(Some(second * 5));
        stage.after(1000);
        matches!(verdict, WaitVerdict::Cut(_)).then_some((second, verdict))
    });
    let (second, verdict) = cut.expect("is cut");
    assert_eq!(verdict, WaitVerdict::Cut(CutReason::SendRate));
    assert!((20..=23).contains(&second), "{second}");
}

/// A buffer that shows no room for minutes: the client reads fast enough, and that is noticed.
#[test]
fn what_the_client_acknowledges_counts_while_a_write_waits() {
    let mut stage = Stage::set(RULES);
    for second in 0..600 {
        assert!(matches!(stage.writes(Some(second * 150)), WaitVerdict::Until(_)), "{second}");
        stage.after(1000);
    }
    stage.wrote(90_000);
    // Acknowledged bytes are not counted a second time.
    assert_eq!(stage.guard.sending.left, RULES.send_timeout);
    stage.guard.sending.left = Duration::ZERO;
    stage.guard.look = Some(WriteProgress { next: stage.begin, taken: None, counted: 500 });
    stage.wrote(600);
    assert_eq!(stage.guard.sending.left, Duration::from_secs(1));
}

#[test]
fn patience_with_writes_is_not_renewed_by_a_request() {
    let mut stage = Stage::set(RULES);
    let mut cut = false;
    // Each answer is read a second before it would be cut off, and too slowly.
    for _ in 0..3 {
        stage.handled(false);
        cut |= matches!(stage.writes(None), WaitVerdict::Cut(_));
        cut |= matches!(stage.after(15_000).writes(None), WaitVerdict::Cut(_));
        stage.wrote(10);
        stage.reused();
    }
    assert!(cut);
}

#[test]
fn idle_connections_go_while_places_run_short() {
    let mut stage = Stage::set(RULES);
    stage.read(100);
    stage.handled(false);
    stage.reused();
    assert_eq!(stage.waits(), WaitVerdict::Free);
    stage.seen.crowded = true;
    assert_eq!(stage.after(5_000).waits(), stage.until(6_000));
    assert_eq!(stage.after(1_000).waits(), WaitVerdict::Cut(CutReason::Crowded));
    stage.read(1);
    assert_eq!(stage.waits(), stage.until(16_000), "a request under way is none of the idle");
}

/// A step of the client.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The time in milliseconds after which a piece comes, and its length.
    Piece(u64, usize),
    /// The gateway awaits nothing for this time.
    Pause(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let piece = (0_u64..25_000, 1_usize..5_000).prop_map(|(after, bytes)| Step::Piece(after, bytes));
    let pause = (0_u64..100_000).prop_map(Step::Pause);
    proptest::collection::vec(prop_oneof![4 => piece, 1 => pause], 0..60)
}

proptest! {
    /// A client that keeps to the rate is never cut off, and one that doesn't always is: waiting is bounded
    /// by `body_timeout` and the refund for its bytes.
    #[test]
    fn a_body_gets_what_its_bytes_are_worth(steps in steps(), rate in 1_u64..2_000) {
        let mut stage = Stage::set(TimeoutRules { body_min_rate: rate, ..RULES });
        stage.read(1);
        stage.handled(true);
        let (mut left, mut waited, mut worth) = (30_000.0_f64, 0_u64, 0.0_f64);
        for step in steps {
            match step {
                Step::Pause(ms) => {
                    stage.seen.body = false;
                    prop_assert_eq!(stage.waits(), WaitVerdict::Free);
                    stage.after(ms);
                    prop_assert_eq!(stage.waits(), WaitVerdict::Free);
                    stage.seen.body = true;
                }
                Step::Piece(after, bytes) => {
                    prop_assert!(matches!(stage.waits(), WaitVerdict::Until(_)));
                    let verdict = stage.after(after).waits();
                    let cut = matches!(verdict, WaitVerdict::Cut(_));
                    // Up to rounding.
                    if (left - after as f64).abs() > 1.0 {
                        prop_assert_eq!(cut, after as f64 > left, "{:?} left {}", verdict, left);
                    }
                    if cut {
                        prop_assert!(after > 0);
                        return Ok(());
                    }
                    let gained = bytes as f64 * 1000.0 / rate as f64;
                    waited += after;
                    worth += gained;
                    left = (left - after as f64 + gained).min(30_000.0);
                    prop_assert!(waited as f64 <= 30_000.0 + worth + 1.0);
                    stage.read(bytes);
                }
            }
        }
    }

    /// No order of events causes a panic, a deadline in the past, or a reason whose rule doesn't apply.
    #[test]
    fn any_order_of_events_is_fine(events in proptest::collection::vec((0_u8..8, 0_u64..40_000, 0_usize..9_000), 0..200)) {
        let mut stage = Stage::set(RULES);
        let mut taken = 0;
        for (event, ms, bytes) in events {
            stage.after(ms);
            let now = stage.at(stage.ms.get());
            match event {
                0 => stage.read(bytes),
                1 => stage.wrote(bytes),
                2 => stage.handled(bytes % 2 == 0),
                3 => stage.reused(),
                4 => stage.seen.crowded = !stage.seen.crowded,
                5 | 6 => match stage.waits() {
                    WaitVerdict::Until(at) => prop_assert!(at > now),
                    WaitVerdict::Cut(reason) => {
                        let right = match reason {
                            CutReason::BodyTimeout | CutReason::BodyRate => stage.seen.handled && stage.seen.body,
                            CutReason::Crowded => stage.seen.crowded && !stage.seen.handled,
                            CutReason::Silent | CutReason::Header => !stage.seen.handled,
                            CutReason::SendTimeout | CutReason::SendRate => false,
                        };
                        prop_assert!(right, "{:?} in {:?}", reason, stage.seen);
                    }
                    WaitVerdict::Free => prop_assert!(stage.seen.handled || stage.seen.exchange > 0),
                },
                _ => {
                    taken += bytes as u64;
                    match stage.writes(Some(taken)) {
                        WaitVerdict::Until(at) => prop_assert!(at > now),
                        WaitVerdict::Cut(reason) => {
                            prop_assert!(matches!(reason, CutReason::SendTimeout | CutReason::SendRate));
                        }
                        WaitVerdict::Free => prop_assert!(false, "a pending write is never free"),
                    }
                }
            }
        }
    }
}
