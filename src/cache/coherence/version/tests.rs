//! Tests of what a node believes of versions.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a failure is a panic")]

use super::*;

const NOW: u64 = 100_000;
const OUTAGE_TTL: u64 = 5_000;

struct Table {
    versions: VersionTable,
    doubt: Arc<CoherenceDoubt>,
}

impl std::ops::Deref for Table {
    type Target = VersionTable;

    fn deref(&self) -> &VersionTable {
        &self.versions
    }
}

fn table(coherence: CoherenceState) -> (Table, Arc<VersionSlot>) {
    let doubt = Arc::new(match coherence {
        CoherenceState::Alone => CoherenceDoubt::none(),
        _ => CoherenceDoubt::of_store(Some(std::time::Duration::from_millis(OUTAGE_TTL)), NOW),
    });
    match coherence {
        CoherenceState::Tracked => doubt.link(true, NOW),
        CoherenceState::Untracked => doubt.link(false, NOW),
        CoherenceState::Alone | CoherenceState::Away => {}
    }
    doubt.settle(doubt.epoch());
    let versions = VersionTable::new(StorePartitions::one(doubt.clone()));
    let slot = versions.slot(&"kpi".parse().unwrap(), &"acme".parse().unwrap());
    (Table { versions, doubt }, slot)
}

fn is_current(slot: &VersionSlot, version: &Version) -> Option<bool> {
    slot.is_current(version, false, NOW)
}

fn ask(slot: &VersionSlot) -> ReadTicket {
    match slot.standing(NOW) {
        SlotVersion::Ask(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

#[test]
fn digits_stand_for_themselves_and_anything_else_for_its_hash() {
    assert_eq!(Version::new(b"7").tag(), "7");
    assert_eq!(Version::absent().tag(), "1");
    let pickled = Version::new(b"!\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x012\x94.");
    assert_eq!(pickled.tag().len(), 27);
    assert!(pickled.tag().starts_with('x') && pickled.tag().ends_with("-2"));
    assert_eq!(Version::new(b"!\x80\x04N.").tag().len(), 25);
    assert_ne!(pickled, Version::new(b"!other"));
    assert_ne!(Version::new(b"").tag(), "");
    assert!(Version::new(b"123456789012345678901").tag().starts_with('x'));
    assert_eq!(Version::named(pickled.tag().to_owned()), pickled);
}

#[test]
fn a_bump_never_goes_backwards() {
    assert_eq!(Version::new(b"5").next_version(1_000).tag(), "1000");
    assert_eq!(Version::new(b"5000").next_version(1_000).tag(), "5001");
    assert_eq!(Version::new(b"!pickle").next_version(1_000).tag(), "1000");
    assert_eq!(Version::new(b"!\x80\x05K\x07.").next_version(1).tag(), "8");
    // What can hardly be counted any further is followed by the time, which is another version in any case.
    assert_eq!(Version::new(b"4611686018427387903").next_version(1).tag(), "4611686018427387904");
    for last in ["4611686018427387904", "9223372036854775807", "18446744073709551615"] {
        assert_eq!(Version::new(last.as_bytes()).next_version(1_000).tag(), "1000");
        assert!(!Version::new(b"1000").is_behind(&Version::new(last.as_bytes())));
    }
}

#[test]
fn numbers_are_compared_and_nothing_else() {
    assert!(Version::absent().is_behind(&Version::new(b"20")));
    assert!(!Version::new(b"20").is_behind(&Version::new(b"20")));
    assert!(!Version::new(b"!pickle").is_behind(&Version::new(b"20")));
    assert!(!Version::new(b"3").is_behind(&Version::new(b"!pickle")));
    assert!(Version::absent().is_behind(&Version::new(b"!pickle")));
    let pickled = |number: u8| Version::new(&[b"!\x80\x05K", &[number][..], b"."].concat());
    assert!(pickled(3).is_behind(&pickled(4)) && pickled(3).is_behind(&Version::new(b"4")));
    assert!(Version::new(b"3").is_behind(&pickled(4)) && !pickled(4).is_behind(&Version::new(b"4")));
    assert_ne!(pickled(4), Version::new(b"4"));
    assert!(Version::absent().is_behind(&pickled(1)) && Version::absent().is_behind(&Version::new(b"0")));
    assert!(!Version::absent().is_behind(&Version::new(b"1")));
}

#[test]
fn after_a_flush_every_version_moves_on() {
    let (versions, slot) = table(CoherenceState::Tracked);
    slot.learn_version(ask(&slot), &Version::absent());
    versions.forget_all(std::slice::from_ref(&versions.doubt), NOW);
    ask(&slot);
    assert!(slot.owes_bump());
    slot.moved(&Version::new(b"9"));
    assert!(!slot.owes_bump());
    assert_eq!(slot.last_known(), Version::new(b"9"));
    ask(&slot);
}

#[test]
fn a_store_that_lost_an_acknowledged_bump_is_found_out() {
    let (versions, slot) = table(CoherenceState::Tracked);
    slot.learn_version(ask(&slot), &Version::absent());
    slot.moved(&Version::new(b"2000"));
    versions.doubt.lose(NOW);
    versions.doubt.link(true, NOW);
    assert!(Version::absent().is_behind(&slot.last_known()));
    // A node that got the report of a change and never read it.
    slot.learn_version(ask(&slot), &Version::new(b"2000"));
    versions.changed("kpi", "acme");
    let same = Version::new(b"2000");
    assert!(!slot.is_lost(ask(&slot), &same, &same));
    versions.doubt.link(true, NOW);
    assert!(slot.is_lost(ask(&slot), &same, &same));
    assert!(!slot.is_lost(ask(&slot), &same, &Version::new(b"2001")));
}

#[test]
fn the_same_value_after_a_report_was_written_again_unless_the_report_may_be_of_its_own_write() {
    let (versions, slot) = table(CoherenceState::Tracked);
    let (same, other) = (Version::new(b"!a"), Version::new(b"!b"));
    let pass = || versions.fences().pass(versions.fences().begin());
    // A read may overtake the report of the write that it has seen.
    slot.learn_version(ask(&slot), &same);
    let early = versions.fences().begin();
    versions.changed("kpi", "acme");
    assert!(!slot.is_lost(ask(&slot), &same, &same));
    slot.learn_version(ask(&slot), &same);
    versions.fences().pass(early);
    versions.changed("kpi", "acme");
    assert!(!slot.is_lost(ask(&slot), &same, &same), "that fence began before the read");
    slot.learn_version(ask(&slot), &same);
    pass();
    let before = ReadTicket { epoch: slot.ticket(NOW).epoch, asked_ms: NOW, changes: 2, rewritten: false };
    versions.changed("kpi", "acme");
    assert!(slot.is_lost(ask(&slot), &same, &same));
    assert!(!slot.is_lost(before, &same, &same), "a read that began before the report");
    assert!(!slot.is_lost(ask(&slot), &same, &other));
    // This node's own bump is reported as well.
    slot.moved(&Version::new(b"9"));
    pass();
    versions.changed("kpi", "acme");
    assert!(!slot.is_lost(ask(&slot), &Version::new(b"9"), &Version::new(b"9")));
    // A read that began after the report of this node's bump, and ended after the reply to it.
    slot.learn_version(ask(&slot), &Version::new(b"9"));
    pass();
    versions.changed("kpi", "acme");
    let (ticket, known) = (ask(&slot), slot.last_known());
    slot.moved(&Version::new(b"10"));
    assert!(!slot.is_lost(ticket, &known, &Version::new(b"10")));
    assert!(slot.is_lost(ticket, &known, &known), "the report was of a later write");
}

#[test]
fn a_value_that_was_replaced_is_never_believed_again() {
    let (versions, slot) = table(CoherenceState::Tracked);
    for value in [&b"!a"[..], b"!b", b"!c"] {
        slot.learn_version(ask(&slot), &Version::new(value));
        versions.changed("kpi", "acme");
    }
    let known = slot.last_known();
    for value in [&b"!a"[..], b"!b"] {
        assert!(slot.is_lost(ask(&slot), &known, &Version::new(value)));
        // It was the known one when the read began: the read is late.
        assert!(!slot.is_lost(ask(&slot), &Version::new(value), &Version::new(value)));
    }
    assert!(!slot.is_lost(ask(&slot), &known, &Version::new(b"!d")));
}

#[test]
fn what_was_read_is_believed_until_a_change_is_reported() {
    let (versions, slot) = table(CoherenceState::Tracked);
    slot.learn_version(ask(&slot), &Version::new(b"3"));
    assert_eq!(slot.standing(NOW), SlotVersion::Current(Version::new(b"3")));
    assert_eq!(is_current(&slot, &Version::new(b"3")), Some(true));
    assert_eq!(is_current(&slot, &Version::new(b"2")), Some(false));
    versions.changed("kpi", "globex");
    assert_eq!(is_current(&slot, &Version::new(b"3")), Some(true));
    versions.changed("kpi", "acme");
    ask(&slot);
    assert_eq!(is_current(&slot, &Version::new(b"3")), None);
}

#[test]
fn a_read_that_a_change_overtook_is_not_believed() {
    let (versions, slot) = table(CoherenceState::Tracked);
    let ticket = ask(&slot);
    versions.changed("kpi", "acme");
    slot.learn_version(ticket, &Version::new(b"3"));
    ask(&slot);
    let ticket = ask(&slot);
    versions.doubt.begin_epoch(NOW);
    slot.learn_version(ticket, &Version::new(b"3"));
    ask(&slot);
}

#[test]
fn while_the_store_is_away_the_last_known_version_goes_on_and_is_read_anew_after() {
    let (versions, slot) = table(CoherenceState::Tracked);
    slot.learn_version(ask(&slot), &Version::new(b"3"));
    versions.doubt.lose(NOW);
    assert_eq!(slot.standing(NOW), SlotVersion::Assumed(Version::new(b"3")));
    assert_eq!(is_current(&slot, &Version::new(b"3")), Some(true));
    slot.bump_here(1_000);
    assert!(slot.owes_bump());
    let bumped = slot.bump_here(1_000);
    assert_eq!(versions.owing().len(), 1);
    versions.settle();
    assert_eq!(versions.owing().len(), 1);
    assert_eq!(is_current(&slot, &Version::new(b"3")), Some(false));
    assert_eq!(is_current(&slot, &bumped), Some(true));
    versions.doubt.link(true, NOW);
    ask(&slot);
    assert_eq!(is_current(&slot, &bumped), None);
    slot.moved(&Version::new(b"1002"));
    versions.settle();
    assert!(versions.owing().is_empty());
}

#[test]
fn alone_the_table_is_the_truth() {
    let (_versions, slot) = table(CoherenceState::Alone);
    assert_eq!(is_current(&slot, &Version::absent()), Some(true));
    slot.bump_here(1_000);
    assert_eq!(is_current(&slot, &Version::absent()), Some(false));
    assert!(!slot.owes_bump());
}

#[test]
fn untracked_versions_are_read_each_time() {
    let (_versions, slot) = table(CoherenceState::Untracked);
    slot.learn_version(ask(&slot), &Version::new(b"3"));
    ask(&slot);
    assert_eq!(is_current(&slot, &Version::new(b"3")), None);
}

#[test]
fn a_sweep_keeps_what_is_held() {
    let (versions, slot) = table(CoherenceState::Tracked);
    versions.slot(&"chart".parse().unwrap(), &"acme".parse().unwrap());
    let mut slots = versions.slots.lock();
    VersionTable::sweep(&mut slots);
    assert_eq!(slots.len(), 1);
    assert!(slots.contains_key(&(slot.namespace().clone(), slot.tenant().clone())));
}

#[test]
fn after_a_change_that_nobody_could_read_the_old_generation_is_over() {
    let (versions, slot) = table(CoherenceState::Tracked);
    let old = Version::new(b"3");
    slot.learn_version(ask(&slot), &old);
    versions.changed("kpi", "acme");
    versions.doubt.lose(NOW);
    let SlotVersion::Assumed(assumed) = slot.standing(NOW) else { panic!("there is nobody to ask") };
    assert_ne!(assumed, old);
    assert_eq!((is_current(&slot, &old), is_current(&slot, &assumed)), (Some(false), Some(true)));
    versions.doubt.link(true, NOW);
    slot.learn_version(ask(&slot), &Version::new(b"4"));
    assert_eq!(is_current(&slot, &assumed), Some(false));
}

#[test]
fn each_report_that_nobody_could_read_ends_what_was_filled_after_the_one_before() {
    let (versions, slot) = table(CoherenceState::Tracked);
    slot.learn_version(ask(&slot), &Version::new(b"3"));
    versions.doubt.unanswered(NOW);
    let mut assumed = vec![Version::new(b"3")];
    for _ in 0..3 {
        versions.changed("kpi", "acme");
        let SlotVersion::Assumed(name) = slot.standing(NOW) else { panic!("the store does not answer") };
        for before in &assumed {
            assert_eq!(slot.is_current(before, true, NOW), Some(false), "{before:?}");
        }
        assert_eq!(
            slot.is_current(&name, true, NOW + 10 * OUTAGE_TTL),
            Some(true),
            "it has its own lifetime"
        );
        assumed.push(name);
    }
    versions.doubt.answered();
    ask(&slot);
}

#[test]
fn in_doubt_an_answer_from_before_is_served_for_the_time_of_an_outage() {
    let (versions, slot) = table(CoherenceState::Tracked);
    let version = Version::new(b"3");
    slot.learn_version(ask(&slot), &version);
    versions.doubt.beat(NOW + 250);
    versions.doubt.lose(NOW + 400);
    let at = |now| slot.is_current(&version, false, now);
    // Since the last answered heartbeat.
    assert_eq!(at(NOW + 250 + OUTAGE_TTL), Some(true));
    assert_eq!(at(NOW + 251 + OUTAGE_TTL), Some(false));
    assert_eq!(slot.is_current(&version, true, NOW + 251 + OUTAGE_TTL), Some(true), "it was filled since");
    // A new link without a successful read changes nothing of that.
    versions.doubt.link(true, NOW + 4_000);
    versions.doubt.unanswered(NOW + 4_000);
    assert_eq!(at(NOW + 251 + OUTAGE_TTL), Some(false));
    versions.doubt.answered();
    assert_eq!(at(NOW + 4_001), None);
    assert_eq!(versions.unread(std::slice::from_ref(&versions.doubt)).len(), 1);
    slot.learn_version(slot.ticket(NOW), &version);
    assert!(versions.unread(std::slice::from_ref(&versions.doubt)).is_empty());
    versions.doubt.settle(versions.doubt.epoch());
    assert_eq!(versions.doubt.since_ms(NOW + 4_500), None);
    assert_eq!(at(NOW + 4_500), Some(true));
}

#[test]
fn a_node_that_has_missed_a_heartbeat_asks_before_it_answers() {
    let (versions, slot) = table(CoherenceState::Tracked);
    let version = Version::new(b"3");
    slot.learn_version(ask(&slot), &version);
    assert_eq!(slot.is_current(&version, false, NOW + 999), Some(true));
    assert_eq!(slot.is_current(&version, false, NOW + 1_000), None);
    assert!(matches!(slot.standing(NOW + 6_000), SlotVersion::Ask(_)));
    versions.doubt.unanswered(NOW + 6_000);
    assert_eq!(slot.is_current(&version, false, NOW + 6_000), Some(false), "it is from too long ago");
    versions.doubt.answered();
    versions.doubt.beat(NOW + 6_000);
    assert_eq!(slot.is_current(&version, false, NOW + 6_000), Some(true));
}

#[test]
fn what_nobody_reports_on_is_in_doubt_since_it_was_read() {
    let (versions, slot) = table(CoherenceState::Untracked);
    let version = Version::new(b"3");
    slot.learn_version(ask(&slot), &version);
    let later = NOW + 60_000;
    versions.doubt.beat(later);
    versions.doubt.unanswered(later);
    assert_eq!(slot.is_current(&version, false, later), Some(false), "it may have changed since");
    versions.doubt.answered();
    slot.learn_version(slot.ticket(later), &version);
    versions.doubt.lose(later + 100);
    assert_eq!(slot.is_current(&version, false, later + OUTAGE_TTL), Some(true));
    assert_eq!(slot.is_current(&version, false, later + OUTAGE_TTL + 1), Some(false));
}

#[test]
fn the_doubt_ends_when_the_log_was_read_as_well() {
    let (versions, _) = table(CoherenceState::Tracked);
    let doubt = &versions.doubt;
    doubt.hold_log();
    doubt.lose(NOW + 100);
    doubt.link(true, NOW + 200);
    let (epoch, now) = (doubt.epoch(), NOW + 300);
    doubt.settle(epoch);
    assert!(doubt.since_ms(now).is_some());
    doubt.settle_log(epoch - 1);
    assert!(doubt.since_ms(now).is_some(), "that was before");
    doubt.settle_log(epoch);
    assert_eq!(doubt.since_ms(now), None);
}

#[test]
fn what_was_read_before_another_link_was_made_is_not_known() {
    let (versions, slot) = table(CoherenceState::Tracked);
    let late = ask(&slot);
    versions.doubt.lose(NOW);
    versions.doubt.link(true, NOW);
    slot.learn_version(slot.ticket(NOW), &Version::new(b"4"));
    slot.learn_version(late, &Version::new(b"3"));
    assert_eq!(slot.last_known(), Version::new(b"4"));
}

#[test]
fn a_version_that_nobody_has_read_yet_is_read_behind_requests() {
    let (versions, slot) = table(CoherenceState::Tracked);
    assert_eq!(versions.unread(std::slice::from_ref(&versions.doubt)).len(), 1);
    slot.learn_version(slot.ticket(NOW), &Version::absent());
    assert!(versions.unread(std::slice::from_ref(&versions.doubt)).is_empty());
}

#[test]
fn all_versions_are_looked_through_once_for_each_epoch_and_then_those_that_changed() {
    let (versions, acme) = table(CoherenceState::Tracked);
    let other = versions.slot(&"kpi".parse().unwrap(), &"other".parse().unwrap());
    let all = std::slice::from_ref(&versions.doubt);
    let mut unread = UnreadSlots::default();
    let mut take = |doubtful: &[Arc<CoherenceDoubt>]| {
        let mut tenants: Vec<_> = unread
            .take(&versions, all, doubtful)
            .iter()
            .map(|slot| {
                slot.learn_version(slot.ticket(NOW), &Version::new(b"7"));
                slot.tenant().to_string()
            })
            .collect();
        tenants.sort();
        tenants
    };
    assert_eq!(take(all), ["acme", "other"], "the first look");
    assert!(take(all).is_empty());
    // What nothing was reported of is not looked at: as if it had been forgotten.
    acme.known.store(None);
    assert!(take(all).is_empty(), "no second look at all");
    versions.changed("kpi", "other");
    versions.changed("kpi", "other");
    assert_eq!(take(all), ["other"], "a report");
    other.moved(&Version::new(b"9"));
    assert_eq!(take(all), ["other"], "moved here");
    let _new = versions.slot(&"kpi".parse().unwrap(), &"new".parse().unwrap());
    assert_eq!(take(all), ["new"], "not known before");
    versions.changed("kpi", "new");
    assert!(take(&[]).is_empty(), "not in doubt: read when it is asked for");
    assert_eq!(take(all), ["acme", "new"], "in doubt again");
    versions.doubt.begin_epoch(NOW);
    assert_eq!(take(all), ["acme", "new", "other"], "another epoch");
}

#[test]
fn versions_that_could_not_be_read_are_taken_again() {
    let (versions, slot) = table(CoherenceState::Tracked);
    let all = std::slice::from_ref(&versions.doubt);
    let mut unread = UnreadSlots::default();
    for _ in 0..3 {
        let slots = unread.take(&versions, all, all);
        assert_eq!(slots.len(), 1);
        unread.leave(slots);
    }
    slot.learn_version(slot.ticket(NOW), &Version::absent());
    assert!(unread.take(&versions, all, all).is_empty(), "somebody else has read it");
}

#[test]
fn the_same_number_after_a_lost_link_may_have_been_counted_anew_unless_it_is_a_time() {
    let (versions, slot) = table(CoherenceState::Tracked);
    for (value, is_lost) in
        [(&b"1"[..], true), (b"7", true), (b"!I7\n.", true), (b"!whatever", true), (b"1764540000000", false)]
    {
        let version = Version::new(value);
        slot.learn_version(slot.ticket(NOW), &version);
        assert!(!slot.is_lost(slot.ticket(NOW), &version, &version), "the same link");
        versions.doubt.lose(NOW);
        versions.doubt.link(true, NOW);
        assert_eq!(slot.is_lost(ask(&slot), &version, &version), is_lost, "{version:?}");
        // A change that is reported then says nothing more.
        versions.changed("kpi", "acme");
        assert_eq!(slot.is_lost(ask(&slot), &version, &version), is_lost, "{version:?}");
        slot.moved(&Version::new(b"1764540000001"));
    }
}
