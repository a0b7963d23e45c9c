//! Tests of what a node believes of versions.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a failure is a panic")]

use super::*;

fn table(coherence: Coherence) -> (Versions, Arc<Slot>) {
    let versions = Versions::new(coherence);
    let slot = versions.slot(&"kpi".parse().unwrap(), &"acme".parse().unwrap());
    (versions, slot)
}

fn ask(slot: &Slot) -> Ticket {
    match slot.standing() {
        Standing::Ask(ticket) => ticket,
        Standing::Current(v) => panic!("{v:?} is believed"),
    }
}

#[test]
fn digits_stand_for_themselves_and_anything_else_for_its_hash() {
    assert_eq!(Version::new(b"7").tag(), "7");
    assert_eq!(Version::absent().tag(), "1");
    let pickled = Version::new(b"!\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x012\x94.");
    assert_eq!(pickled.tag().len(), 25);
    assert!(pickled.tag().starts_with('x'));
    assert_ne!(pickled, Version::new(b"!other"));
    assert_ne!(Version::new(b"").tag(), "");
    assert!(Version::new(b"123456789012345678901").tag().starts_with('x'));
}

#[test]
fn a_bump_never_goes_backwards() {
    assert_eq!(Version::new(b"5").bumped(1_000).tag(), "1000");
    assert_eq!(Version::new(b"5000").bumped(1_000).tag(), "5001");
    assert_eq!(Version::new(b"!pickle").bumped(1_000).tag(), "1000");
    assert_eq!(Version::new(b"18446744073709551615").bumped(1).tag(), "18446744073709551615");
}

#[test]
fn numbers_are_compared_and_nothing_else() {
    assert!(Version::absent().is_behind(&Version::new(b"20")));
    assert!(!Version::new(b"20").is_behind(&Version::new(b"20")));
    assert!(!Version::new(b"!pickle").is_behind(&Version::new(b"20")));
    assert!(!Version::new(b"3").is_behind(&Version::new(b"!pickle")));
    assert!(Version::absent().is_behind(&Version::new(b"!pickle")));
}

#[test]
fn after_a_flush_every_version_moves_on() {
    let (versions, slot) = table(Coherence::Tracked);
    slot.learned(ask(&slot), &Version::absent());
    versions.forget_all();
    ask(&slot);
    assert!(slot.owes_bump());
    slot.moved(&Version::new(b"9"));
    assert!(!slot.owes_bump());
    assert_eq!(slot.last_known(), Version::new(b"9"));
    ask(&slot);
}

#[test]
fn a_store_that_lost_an_acknowledged_bump_is_found_out() {
    let (versions, slot) = table(Coherence::Tracked);
    slot.learned(ask(&slot), &Version::absent());
    slot.moved(&Version::new(b"2000"));
    versions.begin_epoch(Coherence::Away);
    versions.begin_epoch(Coherence::Tracked);
    assert!(Version::absent().is_behind(&slot.last_known()));
    // A node that heard of a change and never read it.
    slot.learned(ask(&slot), &Version::new(b"2000"));
    versions.changed("kpi", "acme");
    let same = Version::new(b"2000");
    assert!(!slot.missed_a_change(ask(&slot), &same));
    versions.begin_epoch(Coherence::Tracked);
    assert!(slot.missed_a_change(ask(&slot), &same));
    assert!(!slot.missed_a_change(ask(&slot), &Version::new(b"2001")));
}

#[test]
fn what_was_read_is_believed_until_a_change_is_reported() {
    let (versions, slot) = table(Coherence::Tracked);
    slot.learned(ask(&slot), &Version::new(b"3"));
    assert_eq!(slot.standing(), Standing::Current(Version::new(b"3")));
    assert_eq!(slot.is_current(&Version::new(b"3")), Some(true));
    assert_eq!(slot.is_current(&Version::new(b"2")), Some(false));
    versions.changed("kpi", "globex");
    assert_eq!(slot.is_current(&Version::new(b"3")), Some(true));
    versions.changed("kpi", "acme");
    ask(&slot);
    assert_eq!(slot.is_current(&Version::new(b"3")), None);
}

#[test]
fn a_read_that_a_change_overtook_is_not_believed() {
    let (versions, slot) = table(Coherence::Tracked);
    let ticket = ask(&slot);
    versions.changed("kpi", "acme");
    slot.learned(ticket, &Version::new(b"3"));
    ask(&slot);
    let ticket = ask(&slot);
    versions.doubt_all();
    slot.learned(ticket, &Version::new(b"3"));
    ask(&slot);
}

#[test]
fn while_the_store_is_away_the_last_known_version_goes_on_and_is_read_anew_after() {
    let (versions, slot) = table(Coherence::Tracked);
    slot.learned(ask(&slot), &Version::new(b"3"));
    versions.begin_epoch(Coherence::Away);
    assert_eq!(slot.standing(), Standing::Current(Version::new(b"3")));
    assert_eq!(slot.is_current(&Version::new(b"3")), Some(true));
    slot.bump_here(1_000);
    assert!(slot.owes_bump());
    let bumped = slot.bump_here(1_000);
    assert_eq!(versions.owing().len(), 1);
    versions.settle();
    assert_eq!(versions.owing().len(), 1);
    assert_eq!(slot.is_current(&Version::new(b"3")), Some(false));
    assert_eq!(slot.is_current(&bumped), Some(true));
    versions.begin_epoch(Coherence::Tracked);
    ask(&slot);
    assert_eq!(slot.is_current(&bumped), None);
    slot.moved(&Version::new(b"1002"));
    versions.settle();
    assert!(versions.owing().is_empty());
}

#[test]
fn alone_the_table_is_the_truth() {
    let (_versions, slot) = table(Coherence::Alone);
    assert_eq!(slot.is_current(&Version::absent()), Some(true));
    slot.bump_here(1_000);
    assert_eq!(slot.is_current(&Version::absent()), Some(false));
    assert!(!slot.owes_bump());
}

#[test]
fn untracked_versions_are_read_each_time() {
    let (_versions, slot) = table(Coherence::Untracked);
    slot.learned(ask(&slot), &Version::new(b"3"));
    ask(&slot);
    assert_eq!(slot.is_current(&Version::new(b"3")), None);
}

#[test]
fn a_sweep_keeps_what_is_held() {
    let (versions, slot) = table(Coherence::Tracked);
    versions.slot(&"chart".parse().unwrap(), &"acme".parse().unwrap());
    let mut slots = versions.slots.lock();
    Versions::sweep(&mut slots);
    assert_eq!(slots.len(), 1);
    assert!(slots.contains_key(&(slot.namespace().clone(), slot.tenant().clone())));
}

#[test]
fn after_a_change_that_nobody_could_read_the_old_generation_is_over() {
    let (versions, slot) = table(Coherence::Tracked);
    let old = Version::new(b"3");
    slot.learned(ask(&slot), &old);
    versions.changed("kpi", "acme");
    versions.begin_epoch(Coherence::Away);
    let Standing::Current(assumed) = slot.standing() else { panic!("there is nobody to ask") };
    assert_ne!(assumed, old);
    assert_eq!((slot.is_current(&old), slot.is_current(&assumed)), (Some(false), Some(true)));
    versions.begin_epoch(Coherence::Tracked);
    slot.learned(ask(&slot), &Version::new(b"4"));
    assert_eq!(slot.is_current(&assumed), Some(false));
}

#[test]
fn what_this_node_moved_it_looks_after() {
    let (versions, slot) = table(Coherence::Tracked);
    assert!(versions.moved_here().is_empty());
    slot.moved(&Version::new(b"9"));
    assert_eq!(versions.moved_here().len(), 1);
}
