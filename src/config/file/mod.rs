//! The typed reader: takes a parsed TOML value, and gives a Rust value that knows where it stood, or reports
//! a fault and goes on. It never stops at the first fault, and never looks at two values at once: what
//! depends on another key is a matter for `check`.

pub(crate) mod fault;
pub(crate) mod hints;
pub(crate) mod place;
pub(crate) mod raw;
pub(crate) mod syntax;
pub(crate) mod units;
use crate::name::Name;
use fault::FaultReport;
use place::FilePlace;

use std::{net::SocketAddr, time::Duration};
use toml::{
    de::{DeTable, DeValue},
    Spanned,
};

/// A value and where it stood.
#[derive(Debug, Clone)]
pub(crate) struct PlacedValue<T> {
    pub(crate) value: T,
    pub(crate) place: FilePlace,
}

/// The value that a table holds under one key.
#[derive(Debug, Default)]
pub(crate) enum TableField<T> {
    #[default]
    Absent,
    /// An unreadable value; the fault is already reported, so later checks stay silent.
    Faulty,
    Given(PlacedValue<T>),
}

impl<T> TableField<T> {
    /// `None` only where a fault was reported.
    pub(crate) fn optional(self) -> Option<Option<PlacedValue<T>>> {
        match self {
            Self::Absent => Some(None),
            Self::Faulty => None,
            Self::Given(at) => Some(Some(at)),
        }
    }

    /// The value or its default.
    pub(crate) fn or(self, default: T) -> Option<T> {
        self.optional().map(|given| given.map_or(default, |at| at.value))
    }

    /// The value or its default. A value that is not `accepted` is reported with `complaint`.
    pub(crate) fn or_if(
        self,
        default: T,
        accepted: impl Fn(&T) -> bool,
        complaint: &str,
        report: &mut FaultReport,
    ) -> Option<T> {
        match self.optional()? {
            Some(PlacedValue { value, .. }) if accepted(&value) => Some(value),
            Some(PlacedValue { place, .. }) => {
                report.fault(&place, complaint);
                None
            }
            None => Some(default),
        }
    }

    /// The value; that there is none is a fault of the table at `table`.
    pub(crate) fn required(
        self,
        key: &str,
        table: &FilePlace,
        report: &mut FaultReport,
    ) -> Option<PlacedValue<T>> {
        let given = self.optional()?;
        if given.is_none() {
            report.fault(&table.child(key, table.offset), "missing");
        }
        given
    }
}

/// A type that can be read from a TOML value.
pub(crate) trait ReadValue: Sized {
    /// `None` only where a fault was reported.
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self>;
}

/// The entries of a table that knows the keys `known`; the others are faults.
pub(crate) fn entries<'v, 'i>(
    value: &'v DeValue<'i>,
    known: &[&str],
    place: &FilePlace,
    report: &mut FaultReport,
) -> Option<&'v DeTable<'i>> {
    let DeValue::Table(table) = value else {
        match value {
            DeValue::Array(_) => {
                report.fault(place, format!("must be one table, under [{}], not a list", place.key));
            }
            DeValue::Boolean(_) if place.key.ends_with("websocket") => {
                report.fault(place, "must be a table, not a boolean: {} takes its defaults");
            }
            _ => mismatch(value, "a table", place, report),
        }
        return None;
    };
    for (key, _) in table.iter() {
        let word = key.get_ref().as_ref();
        if !known.contains(&word) {
            let place = place.child(word, key.span().start);
            match hints::of_nginx(word) {
                Some(ours) => report.fault(&place, format!("a key of nginx's; here it is {ours}")),
                None => report.unknown(&place, "unknown key", word, known.iter().copied()),
            }
        }
    }
    Some(table)
}

/// Reads `key` from `table`, which stands at `place`.
pub(crate) fn field<T: ReadValue>(
    table: &DeTable<'_>,
    key: &str,
    place: &FilePlace,
    report: &mut FaultReport,
) -> TableField<T> {
    let Some(value) = table.get(key) else { return TableField::Absent };
    match spanned(value, place.child(key, value.span().start), report) {
        Some(at) => TableField::Given(at),
        None => TableField::Faulty,
    }
}

fn spanned<T: ReadValue>(
    value: &Spanned<DeValue<'_>>,
    place: FilePlace,
    report: &mut FaultReport,
) -> Option<PlacedValue<T>> {
    T::read(value.get_ref(), &place, report).map(|value| PlacedValue { value, place })
}

/// The elements of an array; `None` (all reported) if one can't be read.
fn elements<T: ReadValue>(
    array: &[Spanned<DeValue<'_>>],
    place: &FilePlace,
    report: &mut FaultReport,
) -> Option<Vec<PlacedValue<T>>> {
    let read: Vec<_> = array
        .iter()
        .enumerate()
        .map(|(index, value)| spanned(value, place.element(index, value.span().start), report))
        .collect();
    read.into_iter().collect()
}

/// Reports that `value` is of another type than `wanted`; the value itself is not shown.
pub(crate) fn mismatch(value: &DeValue<'_>, wanted: &str, place: &FilePlace, report: &mut FaultReport) {
    let found = match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    report.fault(place, format!("must be {wanted}, not {found}"));
}

impl<T: ReadValue> ReadValue for Vec<PlacedValue<T>> {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
        match value {
            DeValue::Array(array) => elements(array, place, report),
            DeValue::Table(_) => {
                report.fault(place, format!("must be a list of tables, each under [[{}]]", place.key));
                None
            }
            _ => {
                mismatch(value, "a list", place, report);
                None
            }
        }
    }
}

/// A list, or its only element without the brackets.
#[derive(Debug)]
pub(crate) struct OneOrMany<T>(pub(crate) Vec<PlacedValue<T>>);

impl<T: ReadValue> ReadValue for OneOrMany<T> {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
        match value {
            DeValue::Array(array) => elements(array, place, report).map(Self),
            _ => T::read(value, place, report)
                .map(|value| Self(vec![PlacedValue { value, place: place.clone() }])),
        }
    }
}

/// Reads a string and parses it with `parse`, or reports the parser's error.
pub(crate) fn text<T, E: ToString>(
    value: &DeValue<'_>,
    place: &FilePlace,
    report: &mut FaultReport,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Option<T> {
    let DeValue::String(text) = value else {
        mismatch(value, "text", place, report);
        return None;
    };
    if let Some(name) = hints::shell_variable(text) {
        let hint = format!("${name} is not replaced here, it stands for itself: only secrets come from the environment, by {{ env = \"{name}\" }}");
        report.warn(place, hint);
    }
    parse(text).map_err(|complaint| report.fault(place, complaint.to_string())).ok()
}

impl ReadValue for String {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
        text(value, place, report, |text| match text {
            "" => Err("must not be empty"),
            _ => Ok(text.to_owned()),
        })
    }
}

impl ReadValue for Name {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
        text(value, place, report, |text| text.parse::<Name>())
    }
}

impl ReadValue for SocketAddr {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
        text(value, place, report, |text| text.parse().map_err(|_| no_address(text)))
    }
}

/// The message for a text that is no address, with the form to write instead.
fn no_address(text: &str) -> String {
    let form = "must be an IP address and a port, such as \"127.0.0.1:8080\" or \"[::]:80\"";
    let port = text.strip_prefix("*:").or(text.strip_prefix(':')).unwrap_or(text);
    let port = Some(port).filter(|port| port.parse::<u16>().is_ok());
    match (port, text.rsplit_once(':')) {
        _ if text.starts_with("unix:") => format!("{form}: only origins are reached by sockets of Unix"),
        (Some(port), _) => {
            format!("{form}; every address is \"0.0.0.0:{port}\", and of IPv6 \"[::]:{port}\"")
        }
        (None, Some(("localhost", port))) if port.parse::<u16>().is_ok() => {
            format!("{form}; localhost is \"127.0.0.1:{port}\"")
        }
        _ => form.to_owned(),
    }
}

impl ReadValue for bool {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
        if let DeValue::Boolean(yes) = value {
            return Some(*yes);
        }
        mismatch(value, "true or false", place, report);
        None
    }
}

impl ReadValue for u32 {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
        let DeValue::Integer(integer) = value else {
            mismatch(value, "an integer", place, report);
            return None;
        };
        let number = Self::from_str_radix(integer.as_str(), integer.radix()).ok();
        if number.is_none() {
            report.fault(place, format!("must be from 0 to {}", Self::MAX));
        }
        number
    }
}

impl ReadValue for Duration {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
        if let DeValue::Integer(_) = value {
            report.fault(place, units::UnitError::Duration.to_string());
            return None;
        }
        text(value, place, report, units::parse_duration)
    }
}

/// A number of bytes: text with a unit, or a plain integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) u64);

impl ReadValue for ByteSize {
    fn read(value: &DeValue<'_>, place: &FilePlace, report: &mut FaultReport) -> Option<Self> {
        let DeValue::Integer(integer) = value else {
            return text(value, place, report, units::parse_size).map(Self);
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        if number.is_none() {
            report.fault(place, "must not be negative, and must be less than 16 EiB");
        }
        number.map(Self)
    }
}
