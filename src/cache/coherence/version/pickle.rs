//! The number inside a Python pickle of an `int` or a `str`, as Flask-Caching writes a version.
//!
//! cachelib's Redis backend puts `!` before the pickle. Only the few opcodes for one number or one text of
//! digits are read, in protocols 0 to 5 (Python's `Lib/pickletools.py` describes them); nothing is unpickled.
//! With anything else, before or after, the value is no number.

/// Longer than the longest pickle of a number: a frame, a text of 20 digits and its memo.
const LONGEST: usize = 64;

/// Reads the number. `None` for negative ones, those of 2⁶⁴ and more, booleans and values that are not
/// pickled.
pub(crate) fn parse_pickle(value: &[u8]) -> Option<u64> {
    let pickle = value.strip_prefix(b"!").unwrap_or(value);
    let mut bytes = PickleBytes((pickle.len() <= LONGEST).then_some(pickle)?);
    if bytes.skip(PROTO) && !(2..=5).contains(&bytes.one()?) {
        return None;
    }
    if bytes.skip(FRAME) && u64::from_le_bytes(bytes.array()?) != bytes.0.len() as u64 {
        return None;
    }
    let number = bytes.value()?;
    (bytes.0 == [STOP]).then_some(number)
}

const PROTO: u8 = 0x80;
const FRAME: u8 = 0x95;
const STOP: u8 = b'.';

/// The rest of a pickle.
struct PickleBytes<'a>(&'a [u8]);

impl<'a> PickleBytes<'a> {
    /// The number that is pushed, with the memo of a text.
    fn value(&mut self) -> Option<u64> {
        let text = match self.one()? {
            b'I' => return decimal(self.line()?),
            b'L' => return decimal(self.line()?.strip_suffix(b"L")?),
            b'K' => return self.one().map(u64::from),
            b'M' => return self.array().map(u16::from_le_bytes).map(u64::from),
            b'J' => return u64::try_from(i32::from_le_bytes(self.array()?)).ok(),
            0x8a => return self.long(),
            b'V' => self.line()?,
            b'X' => {
                let length = u32::from_le_bytes(self.array()?);
                self.take(usize::try_from(length).ok()?)?
            }
            0x8c => {
                let length = self.one()?;
                self.take(usize::from(length))?
            }
            _ => return None,
        };
        self.memo()?;
        parse_digits(text)
    }

    /// LONG1: a length, and a number of two's complement in so many bytes, the lowest first.
    fn long(&mut self) -> Option<u64> {
        let length = usize::from(self.one()?);
        let bytes = self.take(length)?;
        let is_negative = bytes.last().is_some_and(|highest| highest & 0x80 != 0);
        let (low, high) = bytes.split_at(length.min(8));
        if is_negative || high.iter().any(|byte| *byte != 0) {
            return None;
        }
        Some(low.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// PUT, BINPUT or MEMOIZE, which `pickletools.optimize` leaves out.
    fn memo(&mut self) -> Option<()> {
        match self.0.first()? {
            b'p' => {
                self.one()?;
                decimal(self.line()?).map(|_| ())
            }
            b'q' => self.take(2).map(|_| ()),
            0x94 => self.take(1).map(|_| ()),
            _ => Some(()),
        }
    }

    fn skip(&mut self, opcode: u8) -> bool {
        let is_there = self.0.first() == Some(&opcode);
        if is_there {
            self.0 = &self.0[1..];
        }
        is_there
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn one(&mut self) -> Option<u8> {
        self.take(1).map(|taken| taken[0])
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// Up to the end of the line, without it.
    fn line(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        let line = self.take(end)?;
        self.take(1)?;
        Some(line)
    }
}

/// A number as Python writes it: `00` and `01` are no numbers but the booleans of protocol 0.
fn decimal(text: &[u8]) -> Option<u64> {
    let is_padded = text.len() > 1 && text.first() == Some(&b'0');
    (!is_padded).then(|| parse_digits(text)).flatten()
}

/// 1 to 20 digits.
pub(crate) fn parse_digits(text: &[u8]) -> Option<u64> {
    let is_plain = (1..=20).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    is_plain.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

#[cfg(test)]
#[path = "pickle_tests.rs"]
mod tests;
