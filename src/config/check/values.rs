//! Checks of single values that several tables share.

use crate::config::file::{fault::FaultReport, ByteSize, PlacedValue, TableField};
use std::time::Duration;

pub(super) const NOT_ZERO: &str = "must be more than 0";

/// A duration that must not be zero.
pub(super) fn positive(
    field: TableField<Duration>,
    default: Duration,
    report: &mut FaultReport,
) -> Option<Duration> {
    field.or_if(default, |duration| !duration.is_zero(), NOT_ZERO, report)
}

/// A duration that must not be zero, and has no default.
pub(super) fn positive_if_given(
    field: TableField<Duration>,
    report: &mut FaultReport,
) -> Option<Option<Duration>> {
    match field.optional()? {
        None => Some(None),
        Some(given) => positive(TableField::Given(given), Duration::ZERO, report).map(Some),
    }
}

/// A number of bytes that must not be zero.
pub(super) fn positive_size(
    field: TableField<ByteSize>,
    default: u64,
    report: &mut FaultReport,
) -> Option<u64> {
    field.or_if(ByteSize(default), |size| size.0 > 0, NOT_ZERO, report).map(|size| size.0)
}

/// The values of a list in which none may stand twice.
pub(super) fn distinct<T: PartialEq>(raw: Vec<PlacedValue<T>>, report: &mut FaultReport) -> Option<Vec<T>> {
    let mut values = Vec::new();
    for PlacedValue { value, place } in raw {
        match values.contains(&value) {
            true => report.fault(&place, "stands there twice"),
            false => values.push(value),
        }
    }
    Some(values)
}

/// The name of a cookie, or of a parameter that stands for one (RFC 6265, 4.1.1).
pub(super) fn cookie_name(field: TableField<String>, report: &mut FaultReport) -> Option<Option<String>> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    match field.optional()? {
        Some(PlacedValue { value, .. }) if value.len() <= 64 && value.bytes().all(plain) => Some(Some(value)),
        Some(PlacedValue { place, .. }) => {
            report.fault(&place, "must be a name of letters, digits and a few signs, at most 64 of them");
            None
        }
        None => Some(None),
    }
}
