//! Tests of what a node knows of purges.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a failure is a panic")]

use super::*;
use proptest::prelude::*;

const HOST: &str = "a.example";

fn alone() -> Arc<PurgeTable> {
    Arc::new(PurgeTable::new(Arc::new(CoherenceDoubt::none())))
}

const NOW: u64 = 100_000;

fn of_store() -> Arc<CoherenceDoubt> {
    Arc::new(CoherenceDoubt::of_store(Some(std::time::Duration::from_secs(5)), NOW))
}

/// With a store whose log was read and holds one record, 1-0.
fn linked() -> Arc<PurgeTable> {
    let purges = Arc::new(PurgeTable::new(of_store()));
    purges.doubt.link(true, NOW);
    purges.grown();
    assert_eq!(purges.read(None, &[begin(1)]), LogReadOutcome::Taken);
    purges.heed(purges.begin_reading(NOW));
    purges
}

fn tag(text: &str) -> PurgeTarget {
    PurgeTarget::Tag(text.into())
}

fn soft(target: PurgeTarget) -> PurgeOrder {
    PurgeOrder { target, soft: true }
}

fn id(ms: u64) -> RecordId {
    RecordId::new(&format!("{ms}-0"), &["a record"]).unwrap()
}

fn begin(ms: u64) -> PurgeRecord {
    PurgeRecord { id: id(ms), purge: None }
}

fn record(ms: u64, target: PurgeTarget) -> PurgeRecord {
    PurgeRecord { id: id(ms), purge: Some(PurgeOrder::hard(target)) }
}

/// Applies without a debt to anyone.
fn apply(purges: &Arc<PurgeTable>, purge: PurgeOrder) {
    purges.order(vec![purge]).settle();
}

fn stamp(purges: &PurgeTable, path: &str, tags: &[&str]) -> PurgeStamp {
    purges.stamp(purges.position(), key::resource_hash(HOST, path), tags)
}

#[test]
fn a_purge_speaks_against_what_was_filled_before_it() {
    let purges = alone();
    let (x, y) = (stamp(&purges, "/x", &["t", "u"]), stamp(&purges, "/y", &["u"]));
    apply(&purges, PurgeOrder::hard(PurgeTarget::of("A.example:80", "/x")));
    assert_eq!((purges.verdict(&x), purges.verdict(&y)), (PurgeVerdict::Hard, PurgeVerdict::Current));
    assert_eq!(purges.verdict(&stamp(&purges, "/x", &["t"])), PurgeVerdict::Current);
    apply(&purges, soft(tag("u")));
    assert_eq!((purges.verdict(&x), purges.verdict(&y)), (PurgeVerdict::Hard, PurgeVerdict::Soft));
    apply(&purges, PurgeOrder::hard(PurgeTarget::All));
    assert_eq!(purges.verdict(&y), PurgeVerdict::Hard);
    assert_eq!(purges.verdict(&stamp(&purges, "/y", &["u"])), PurgeVerdict::Current);
}

#[test]
fn a_purge_during_a_fill_speaks_against_its_answer() {
    let purges = alone();
    let since = purges.position();
    apply(&purges, soft(tag("t")));
    // The tag was unknown before the answer arrived.
    assert_eq!(purges.verdict(&purges.stamp(since, 7, &["t"])), PurgeVerdict::Soft);
    assert_eq!(purges.verdict(&purges.stamp(since, 7, &["other"])), PurgeVerdict::Current);
}

#[test]
fn a_soft_purge_of_everything_leaves_it_to_validation() {
    let purges = alone();
    let x = stamp(&purges, "/x", &[]);
    apply(&purges, soft(PurgeTarget::All));
    assert_eq!(purges.verdict(&x), PurgeVerdict::Soft);
}

#[test]
fn a_tag_is_no_url() {
    let purges = alone();
    let x = stamp(&purges, "/x", &[]);
    apply(&purges, PurgeOrder::hard(tag("a.example\n/x")));
    assert_eq!(purges.verdict(&x), PurgeVerdict::Current);
}

#[test]
fn what_was_forgotten_is_not_believed() {
    let purges = Arc::new(PurgeTable::remembering(Arc::new(CoherenceDoubt::none()), 4, 4));
    let held = stamp(&purges, "/held", &[]);
    let since = purges.position();
    apply(&purges, PurgeOrder::hard(tag("t")));
    for n in 0..20 {
        apply(&purges, PurgeOrder::hard(tag(&format!("n{n}"))));
    }
    assert!(purges.state.lock().marks.len() < 12, "{}", purges.state.lock().marks.len());
    // The purge of `t` is forgotten; so a fill from before it can't be trusted, whatever its tags.
    assert_eq!(purges.verdict(&purges.stamp(since, 7, &["t"])), PurgeVerdict::Hard);
    // An answer that is kept has its marks, however long ago.
    assert_eq!(purges.verdict(&held), PurgeVerdict::Current);
    apply(&purges, PurgeOrder::hard(PurgeTarget::of(HOST, "/held")));
    for n in 0..20 {
        apply(&purges, PurgeOrder::hard(tag(&format!("m{n}"))));
    }
    assert_eq!(purges.verdict(&held), PurgeVerdict::Hard);
}

#[test]
fn a_node_is_behind_from_a_report_until_it_has_read() {
    let knowledge = |purges: &PurgeTable| purges.knowledge(NOW);
    assert_eq!(knowledge(&alone()), LogKnowledge::Complete);
    let purges = Arc::new(PurgeTable::new(of_store()));
    assert_eq!(knowledge(&purges), LogKnowledge::Doubtful, "there is nothing to read it from");
    purges.grown();
    purges.doubt.link(true, NOW);
    assert_eq!(knowledge(&purges), LogKnowledge::Behind);
    let reading = purges.begin_reading(NOW);
    purges.reported();
    purges.heed(reading);
    assert_eq!(knowledge(&purges), LogKnowledge::Behind, "that reading may have been too early");
    purges.heed(purges.begin_reading(NOW));
    assert_eq!(knowledge(&purges), LogKnowledge::Complete);
    assert_eq!(purges.knowledge(NOW + 1_000), LogKnowledge::Behind, "a heartbeat is missing");
    purges.doubt.unanswered(NOW + 1_000);
    assert_eq!(purges.knowledge(NOW + 1_000), LogKnowledge::Doubtful);
    purges.doubt.lose(NOW);
    assert_eq!(knowledge(&purges), LogKnowledge::Doubtful);
    purges.doubt.link(false, NOW);
    purges.heed(purges.begin_reading(NOW));
    assert_eq!(knowledge(&purges), LogKnowledge::Behind, "nobody would report");
}

#[test]
fn after_a_purge_that_could_not_be_read_every_answer_from_before_is_unsure() {
    let purges = linked();
    let x = stamp(&purges, "/x", &[]);
    purges.could_not_read();
    assert_eq!(purges.verdict(&x), PurgeVerdict::Current, "nothing was reported");
    purges.reported();
    assert_eq!(purges.verdict(&x), PurgeVerdict::Current, "it can be read");
    purges.could_not_read();
    assert_eq!(purges.verdict(&x), PurgeVerdict::Unsure);
    let validated = stamp(&purges, "/x", &[]);
    purges.could_not_read();
    assert_eq!(purges.verdict(&validated), PurgeVerdict::Current, "the same report again");
    purges.doubt.unanswered(NOW);
    purges.reported();
    assert_eq!(
        purges.verdict(&validated),
        PurgeVerdict::Unsure,
        "another one, which nobody waits to be read"
    );
    // A hard purge says more than that.
    let gone = stamp(&purges, "/gone", &[]);
    apply(&purges, PurgeOrder::hard(PurgeTarget::of(HOST, "/gone")));
    assert_eq!(purges.verdict(&gone), PurgeVerdict::Hard);
    let reading = purges.begin_reading(NOW);
    assert_eq!(
        purges.read(Some(id(1)), &[begin(1), record(5, PurgeTarget::of(HOST, "/x"))]),
        LogReadOutcome::Taken
    );
    purges.heed(reading);
    assert_eq!(purges.verdict(&x), PurgeVerdict::Hard);
    assert_eq!(purges.verdict(&gone), PurgeVerdict::Hard);
    assert_eq!(purges.verdict(&stamp(&purges, "/y", &[])), PurgeVerdict::Current);
}

#[test]
fn answers_in_the_store_are_judged_by_the_log() {
    let purges = linked();
    let log = [begin(1), record(5, tag("t")), record(6, tag("u"))];
    assert_eq!(purges.read(Some(id(1)), &log), LogReadOutcome::Taken);
    assert_eq!(purges.log_id(), Some(id(6)));
    let verdict = |ms, tags: &[&str]| purges.stamp_from(id(ms), 7, tags).map(|s| purges.verdict(&s));
    assert_eq!(verdict(1, &["t"]), Some(PurgeVerdict::Hard));
    assert_eq!(verdict(1, &["v"]), Some(PurgeVerdict::Current));
    assert_eq!(verdict(5, &["t"]), Some(PurgeVerdict::Current));
    assert_eq!(verdict(5, &["u"]), Some(PurgeVerdict::Hard));
    assert_eq!(verdict(6, &["t", "u"]), Some(PurgeVerdict::Current));
    for unknown in [0, 2, 7] {
        assert_eq!(verdict(unknown, &[]), None, "{unknown}");
    }
}

#[test]
fn the_log_is_remembered_as_far_as_marks_are() {
    let purges = Arc::new(PurgeTable::remembering(of_store(), 4, 4));
    let log: Vec<_> = (1..=9).map(|ms| record(ms, tag(&format!("t{ms}")))).collect();
    assert_eq!(purges.read(None, &log), LogReadOutcome::Taken);
    assert!(purges.stamp_from(id(5), 7, &[]).is_none());
    for ms in 6..=9 {
        let tags: Vec<String> = (1..=9).map(|n| format!("t{n}")).collect();
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        let verdict = purges.verdict(&purges.stamp_from(id(ms), 7, &tags).unwrap());
        assert_eq!(verdict == PurgeVerdict::Current, ms == 9, "{ms}");
    }
}

#[test]
fn what_is_owed_speaks_against_answers_of_other_nodes() {
    let purges = linked();
    let debt = purges.order(vec![PurgeOrder::hard(tag("t"))]);
    // Another node's record comes first; its fills since then have not seen the purge of this node.
    assert_eq!(purges.read(Some(id(1)), &[begin(1), record(5, tag("u"))]), LogReadOutcome::Taken);
    let stamp = purges.stamp_from(id(5), 7, &["t"]).unwrap();
    assert_eq!(purges.verdict(&stamp), PurgeVerdict::Hard);
    assert_eq!(purges.read(Some(id(5)), &[begin(5), record(6, tag("t"))]), LogReadOutcome::Taken);
    debt.settle();
    assert_eq!(purges.verdict(&purges.stamp_from(id(5), 7, &["t"]).unwrap()), PurgeVerdict::Hard);
    assert_eq!(purges.verdict(&purges.stamp_from(id(6), 7, &["t"]).unwrap()), PurgeVerdict::Current);
}

#[test]
fn a_missing_record_purges_everything() {
    // Trimmed: the log begins after what is known.
    let purges = linked();
    let x = stamp(&purges, "/x", &[]);
    assert_eq!(purges.read(Some(id(1)), &[record(5, tag("t"))]), LogReadOutcome::Gap);
    assert_eq!(purges.verdict(&x), PurgeVerdict::Hard);
    assert_eq!(purges.log_id(), None);
    assert_eq!(purges.read(None, &[record(5, tag("t"))]), LogReadOutcome::Taken);
    assert!(purges.take_debt(9).is_empty(), "the others have read it");
    assert!(purges.stamp_from(id(1), 7, &[]).is_none());

    // Another record under the same number.
    let purges = linked();
    let other = PurgeRecord { id: RecordId::new("1-0", &["another"]).unwrap(), purge: None };
    assert_eq!(purges.read(Some(id(1)), &[other]), LogReadOutcome::Gap);

    // Gone altogether.
    let purges = linked();
    assert_eq!(purges.read(Some(id(1)), &[]), LogReadOutcome::Gap);
    assert_eq!(purges.read(None, &[]), LogReadOutcome::Empty);
    assert_eq!(purges.read(None, &[begin(9)]), LogReadOutcome::Taken);
    assert!(purges.take_debt(9).is_empty());
}

#[test]
fn a_log_that_lost_its_end_is_told_to_the_others() {
    let purges = linked();
    assert_eq!(purges.read(Some(id(1)), &[begin(1), record(5, tag("t"))]), LogReadOutcome::Taken);
    assert_eq!(purges.read(Some(id(5)), &[]), LogReadOutcome::Gap);
    assert_eq!(purges.read(None, &[begin(1)]), LogReadOutcome::Taken);
    let debt = purges.take_debt(9);
    assert_eq!(debt.orders().collect::<Vec<_>>(), [&PurgeOrder::hard(PurgeTarget::All)]);
    // Until they know, an answer of theirs is no better than one from before.
    assert_eq!(purges.verdict(&purges.stamp_from(id(1), 7, &[]).unwrap()), PurgeVerdict::Hard);
    debt.settle();
}

#[test]
fn an_emptied_store_purges_everything_and_overtakes_a_reading() {
    let purges = linked();
    let x = stamp(&purges, "/x", &[]);
    purges.mark_emptied();
    assert_eq!(purges.verdict(&x), PurgeVerdict::Hard);
    assert_eq!(purges.knowledge(NOW), LogKnowledge::Behind);
    assert_eq!(purges.read(Some(id(1)), &[begin(1), record(5, tag("t"))]), LogReadOutcome::Overtaken);
    assert_eq!(purges.log_id(), None);
}

#[test]
fn a_debt_that_is_dropped_is_paid_by_another() {
    let purges = linked();
    let debt = purges.order(vec![PurgeOrder::hard(tag("t"))]);
    assert!(purges.take_debt(9).is_empty(), "someone is about to pay it");
    drop(debt);
    let debt = purges.take_debt(9);
    assert_eq!(debt.orders().count(), 1);
    assert!(purges.take_debt(9).is_empty());
    debt.settle();
    assert!(purges.state.lock().owed.is_empty());
    assert!(alone().order(vec![PurgeOrder::hard(tag("t"))]).is_empty(), "without a store nothing is owed");
}

#[test]
fn paying_an_order_does_not_pay_the_same_one_given_later() {
    let purges = linked();
    let first = purges.order(vec![PurgeOrder::hard(tag("t"))]);
    let second = purges.order(vec![PurgeOrder::hard(tag("t"))]);
    first.settle();
    drop(second);
    assert_eq!(purges.take_debt(9).orders().count(), 1);
}

#[test]
fn too_much_that_is_owed_becomes_everything() {
    let purges = linked();
    let since = purges.position();
    let wanted = (0..=MOST_OWED).map(|n| PurgeOrder::hard(tag(&format!("t{n}")))).collect();
    drop(purges.order(wanted));
    let debt = purges.take_debt(9);
    assert_eq!(debt.orders().collect::<Vec<_>>(), [&PurgeOrder::hard(PurgeTarget::All)]);
    let stamp = purges.stamp_from(id(1), 7, &["t0"]).unwrap();
    assert_eq!((stamp.since, purges.verdict(&stamp)), (since, PurgeVerdict::Hard));
}

#[derive(Debug, Clone)]
enum Step {
    Purge(PurgeOrder),
    /// An answer to this path with these tags, whose fill began so many purges ago.
    Answer(usize, Vec<usize>, u64),
    Ask(usize),
}

const PATHS: [&str; 3] = ["/a", "/b", "/a?b"];
const TAGS: [&str; 3] = ["a", "b", "/a"];

fn step() -> impl Strategy<Value = Step> {
    let target = prop_oneof![
        4 => (0..3_usize).prop_map(|n| PurgeTarget::of(HOST, PATHS[n])),
        4 => (0..3_usize).prop_map(|n| tag(TAGS[n])),
        // So that there is something to forget.
        4 => "[c-z]{3}".prop_map(|t| tag(&t)),
        1 => Just(PurgeTarget::All),
    ];
    prop_oneof![
        (target, any::<bool>()).prop_map(|(target, soft)| Step::Purge(PurgeOrder { target, soft })),
        (0..3_usize, proptest::collection::vec(0..3_usize, 0..3), 0..10_u64)
            .prop_map(|(path, tags, ago)| Step::Answer(path, tags, ago)),
        (0..20_usize).prop_map(Step::Ask),
    ]
}

/// The model: every purge in order, and an answer is judged by all of them since its fill.
fn expected(purges: &[PurgeOrder], since: u64, path: &str, tags: &[&str]) -> PurgeVerdict {
    let about = |purge: &&PurgeOrder| match &purge.target {
        PurgeTarget::All => true,
        PurgeTarget::Tag(tag) => tags.contains(&&**tag),
        PurgeTarget::Url { target, .. } => &**target == path,
        PurgeTarget::Resource(_) => false,
    };
    let since = usize::try_from(since).unwrap() - 1;
    let against: Vec<_> = purges[since..].iter().filter(about).collect();
    match against.iter().any(|purge| !purge.soft) {
        true => PurgeVerdict::Hard,
        false if against.is_empty() => PurgeVerdict::Current,
        false => PurgeVerdict::Soft,
    }
}

proptest! {
    #[test]
    fn a_verdict_is_that_of_all_purges_since(
        steps in proptest::collection::vec(step(), 1..120),
        forgetful: bool,
    ) {
        let remembered = if forgetful { 5 } else { MAX_REMEMBERED };
        let node = Arc::new(PurgeTable::remembering(Arc::new(CoherenceDoubt::none()), remembered, 6));
        let (mut purged, mut answers) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Purge(purge) => {
                    apply(&node, purge.clone());
                    purged.push(purge);
                }
                Step::Answer(path, tags, ago) => {
                    let since = node.position().saturating_sub(ago).max(1);
                    let tags: Vec<&str> = tags.into_iter().map(|n| TAGS[n]).collect();
                    let resource = key::resource_hash(HOST, PATHS[path]);
                    answers.push((node.stamp(since, resource, &tags), since, PATHS[path], tags, ago));
                }
                Step::Ask(n) => {
                    let Some((stamp, since, path, tags, ago)) = answers.get(n) else { continue };
                    let (verdict, expected) = (node.verdict(stamp), expected(&purged, *since, path, tags));
                    // What may have been forgotten counts as purged, and nothing else does.
                    let doubted = verdict == PurgeVerdict::Hard && stamp.since == 0 && *ago > remembered;
                    prop_assert!(verdict == expected || doubted, "{verdict:?}, not {expected:?}");
                }
            }
        }
    }
}

#[test]
fn what_was_filled_before_any_record_was_known_is_purged_with_the_first_reading() {
    let purges = linked();
    purges.mark_emptied();
    let filled = purges.stamp(purges.position(), 1, &[]);
    assert_eq!(purges.verdict(&filled), PurgeVerdict::Current);
    // Meanwhile a purge was recorded, and lost with its log.
    assert_eq!(purges.read(None, &[begin(2)]), LogReadOutcome::Taken);
    assert_eq!(purges.verdict(&filled), PurgeVerdict::Hard);
    let since = purges.stamp(purges.position(), 1, &[]);
    assert_eq!(purges.verdict(&since), PurgeVerdict::Current);
    assert_eq!(
        purges.stamp_from(id(2), 1, &[]).map(|stored| purges.verdict(&stored)),
        Some(PurgeVerdict::Current)
    );
}
