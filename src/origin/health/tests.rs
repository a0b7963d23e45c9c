//! Tests of the conditions under which checks are trusted.

use super::*;

#[test]
fn a_check_that_has_never_succeeded_is_not_believed_where_requests_do() {
    let now = Instant::now();
    for (failing, well, may_try) in [
        (CheckFailureKind::Unreachable, false, false),
        (CheckFailureKind::Unwell, false, true),
        (CheckFailureKind::Refused, true, true),
    ] {
        let checks = CheckHistory::default();
        assert!(checks.is_well() && !checks.answered());
        assert_eq!(checks.found(Some(failing)), !well, "{failing:?}");
        assert_eq!((checks.is_well(), checks.may_try(now)), (well, may_try), "{failing:?}");
        checks.tries(now);
        assert_eq!(checks.may_try(now), failing == CheckFailureKind::Refused);
        assert_eq!(checks.may_try(now + TRIAL_INTERVAL), may_try);
        assert!(checks.answered() && !checks.answered(), "told once");
        assert!(checks.is_well() && checks.are_doubted());
        // Once one has succeeded they are trusted.
        checks.found(None);
        assert!(checks.is_well() && !checks.are_doubted());
        assert!(checks.found(Some(failing)));
        assert!(!checks.is_well() && !checks.may_try(now + 10 * TRIAL_INTERVAL) && !checks.answered());
        checks.forget();
        assert!(checks.is_well());
    }
}
