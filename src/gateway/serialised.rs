//! Heads as HTTP/1.1 writes them, with holes for what differs from one answer to the next, and what goes into the holes.

use super::{context::date_of, forward};
use crate::cache::prepared::{Circumstances, Head, Hole};
use http::{header, HeaderName};
use pingora_http::{HeaderNameVariant, ResponseHeader};
use std::{
    cell::Cell,
    time::{Duration, UNIX_EPOCH},
};

/// A head as HTTP/1.1 writes it. `None`: one of the holes isn't there, or there twice.
pub(super) fn serialised(
    head: &ResponseHeader,
    dated_now: bool,
    circumstances: Circumstances,
) -> Option<Head> {
    let mut bytes = begun(head);
    let mut holes = Vec::with_capacity(3);
    let written = head.map(|name, value| {
        let name = spelled(&name);
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(b": ");
        let is = |other: &HeaderName| name.eq_ignore_ascii_case(other.as_str().as_bytes());
        let hole = match () {
            () if is(&header::AGE) => Some(Hole::Age),
            () if is(&forward::REQUEST_ID) => Some(Hole::RequestId),
            () if is(&header::DATE) && dated_now => Some(Hole::Date),
            () => None,
        };
        match hole {
            Some(hole) => holes.push((bytes.len(), hole)),
            None => bytes.extend_from_slice(value.as_bytes()),
        }
        bytes.extend_from_slice(b"\r\n");
        Ok(())
    });
    written.ok()?;
    bytes.extend_from_slice(b"\r\n");
    let once = |wanted: Hole| holes.iter().filter(|(_, hole)| *hole == wanted).count() == 1;
    if !once(Hole::Age) || !once(Hole::RequestId) || (dated_now && !once(Hole::Date)) {
        return None;
    }
    let holes: Option<Box<_>> =
        holes.into_iter().map(|(at, hole)| Some((u16::try_from(at).ok()?, hole))).collect();
    Some(Head { circumstances, bytes: bytes.into(), holes: holes?, fields: None })
}

/// The first line of a head.
fn begun(head: &ResponseHeader) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    bytes.extend_from_slice(b"HTTP/1.1 ");
    bytes.extend_from_slice(head.status.as_str().as_bytes());
    bytes.push(b' ');
    bytes.extend_from_slice(head.get_reason_phrase().unwrap_or_default().as_bytes());
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn spelled<'n>(name: &'n HeaderNameVariant<'_>) -> &'n [u8] {
    match name {
        HeaderNameVariant::Case(name) => name.as_slice(),
        HeaderNameVariant::Titled(name) => name.as_bytes(),
    }
}

/// A head as it goes out: with its own date, or else with that of this second, and with what becomes of the connection,
/// `kept` or not. `None`: it is interim, and says neither.
pub(super) fn written(head: &ResponseHeader, kept: Option<bool>, second: u64) -> Vec<u8> {
    let mut bytes = begun(head);
    let mut field = |name: &[u8], value: &[u8]| {
        for part in [name, b": ", value, b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    };
    let now = || {
        date_text(match date_of(&head.headers) {
            0 => second,
            own => own,
        })
    };
    let mut dated = false;
    let fields = head.map(|name, value| {
        let name = spelled(&name);
        if kept.is_some() && name.eq_ignore_ascii_case(b"date") {
            if !std::mem::replace(&mut dated, true) {
                field(name, &now());
            }
        } else if kept.is_none() || !name.eq_ignore_ascii_case(b"connection") {
            field(name, value.as_bytes());
        }
        Ok(())
    });
    // The closure fails nowhere.
    fields.unwrap_or_default();
    if let Some(kept) = kept {
        if !dated {
            field(b"Date", &now());
        }
        field(b"Connection", if kept { b"keep-alive" } else { b"close" });
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// As many as a number of seconds may have.
pub(super) const DIGITS: usize = 20;

/// A number in digits.
pub(super) fn decimal(mut number: u64, digits: &mut [u8; DIGITS]) -> &[u8] {
    let mut at = DIGITS;
    loop {
        at -= 1;
        // A digit.
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 || at == 0 {
            return &digits[at..];
        }
    }
}

/// As long as any date.
const DATE: usize = 29;

thread_local! {
    /// The last date that was made, and its second.
    static LAST: Cell<(u64, [u8; DATE])> = const { Cell::new((0, *b"Thu, 01 Jan 1970 00:00:00 GMT")) };
}

/// The date of a second since 1970, up to the year 9999, as HTTP writes it: made once a second and thread.
pub(super) fn date_text(second: u64) -> [u8; DATE] {
    let (last, text) = LAST.get();
    if last == second {
        return text;
    }
    let made = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
    let Ok(made) = <[u8; DATE]>::try_from(made.as_bytes()) else { return text };
    LAST.set((second, made));
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_they_are() {
        for number in [0, 7, 10, 99, 1_234_567, u64::MAX] {
            assert_eq!(decimal(number, &mut [0; DIGITS]), number.to_string().as_bytes());
        }
    }

    #[test]
    fn a_second_is_written_as_the_library_writes_it() {
        for second in [0, 1, 1_000_000_000, 1_000_000_000, 253_402_300_799] {
            let time = UNIX_EPOCH + Duration::from_secs(second);
            assert_eq!(date_text(second), httpdate::fmt_http_date(time).as_bytes());
        }
    }
}
