//! Texts of which those are equal whose states behave alike.

use std::fmt::Write;

/// Times and versions of now begin here; what is less counts something.
pub(crate) const NUMBERS_FROM: u64 = 1_000_000;

/// A text with its larger numbers replaced.
pub(crate) fn numbers(text: &str, mut by: impl FnMut(u64) -> u64) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.find(|c: char| c.is_ascii_digit()) {
        let length = rest[begin..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - begin);
        let digits = &rest[begin..begin + length];
        out.push_str(&rest[..begin]);
        match digits.parse() {
            Ok(number) if number >= NUMBERS_FROM => write!(out, "#{}", by(number)).unwrap(),
            _ => out.push_str(digits),
        }
        rest = &rest[begin + length..];
    }
    out + rest
}
