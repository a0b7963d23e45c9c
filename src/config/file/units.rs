//! Numbers with a unit, as people write them: durations (`"20s"`) and sizes (`"256MiB"`).
//!
//! One whole number, one unit, nothing between them: `"1.5h"` and `"1h30m"` are refused rather than guessed
//! at.

use std::time::Duration;

/// The longest duration that is accepted. Far beyond any sense, and far below what overflows a clock.
const MAX_DURATION: Duration = Duration::from_secs(3650 * 86_400);

/// The fault of a number or its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnitError {
    #[error("must be a whole number with a unit (ms, s, m, h, d), such as \"20s\"")]
    Duration,
    #[error("must be at most 3650d")]
    TooLong,
    #[error("must be a whole number with a unit (B, kB, MB, GB, KiB, MiB, GiB), such as \"256MiB\"")]
    Size,
    #[error("must be less than 16 EiB")]
    TooLarge,
    #[error("must be a number of requests and a time, such as \"100/1m\" or \"10/s\"")]
    Rate,
}

/// `"500ms"`, `"20s"`, `"10m"`, `"1h"`, `"1d"`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let (digits, unit) = split_unit(text).ok_or(UnitError::Duration)?;
    let millis_per_unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(UnitError::Duration),
    };
    let number: u64 = digits.parse().map_err(|_| UnitError::TooLong)?;
    let millis = number.checked_mul(millis_per_unit).ok_or(UnitError::TooLong)?;
    Some(Duration::from_millis(millis)).filter(|d| *d <= MAX_DURATION).ok_or(UnitError::TooLong)
}

/// `"512B"`, `"64KiB"`, `"1MB"`, in bytes: `KiB` is 1,024 of them, `kB` (or `KB`) 1,000.
pub(crate) fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (digits, unit) = split_unit(text).ok_or(UnitError::Size)?;
    let bytes_per_unit: u64 = match unit {
        "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(UnitError::Size),
    };
    let number: u64 = digits.parse().map_err(|_| UnitError::TooLarge)?;
    number.checked_mul(bytes_per_unit).ok_or(UnitError::TooLarge)
}

/// `"100/1m"`, `"10/s"`: a number, and the time in which there may be so many.
pub(crate) fn parse_rate(text: &str) -> Result<(u32, Duration), UnitError> {
    let (number, time) = text.split_once('/').ok_or(UnitError::Rate)?;
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(UnitError::Rate);
    }
    let number = number.parse().map_err(|_| UnitError::Rate)?;
    let window = match time.bytes().next() {
        Some(b'0'..=b'9') => parse_duration(time),
        _ => parse_duration(&format!("1{time}")),
    };
    match window {
        Err(UnitError::Duration) => Err(UnitError::Rate),
        window => Ok((number, window?)),
    }
}

/// Digits, at least one, and what follows them.
fn split_unit(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    (end > 0).then(|| text.split_at(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let millis = |text| parse_duration(text).map(|d| d.as_millis());
        assert_eq!(millis("500ms"), Ok(500));
        assert_eq!(millis("0s"), Ok(0));
        assert_eq!(millis("20s"), Ok(20_000));
        assert_eq!(millis("10m"), Ok(600_000));
        assert_eq!(millis("1h"), Ok(3_600_000));
        assert_eq!(millis("3650d"), Ok(3650 * 86_400_000));
        for bad in ["", "s", "20", "20 s", "-1s", "+1s", "1.5h", "1h30m", "20S", "1w", "١s", "20s "] {
            assert_eq!(parse_duration(bad), Err(UnitError::Duration), "{bad:?}");
        }
        for long in ["3651d", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(parse_duration(long), Err(UnitError::TooLong), "{long:?}");
        }
    }

    #[test]
    fn rates() {
        let seconds = |text| parse_rate(text).map(|(number, window)| (number, window.as_secs_f64()));
        assert_eq!(seconds("100/1m"), Ok((100, 60.0)));
        assert_eq!(seconds("10/s"), Ok((10, 1.0)));
        assert_eq!(seconds("0/500ms"), Ok((0, 0.5)));
        assert_eq!(seconds("1000/24h"), Ok((1_000, 86_400.0)));
        for bad in
            ["", "/", "10", "10/", "/s", "10/1", "+1/s", "-1/s", "1.5/s", "10/w", "10 / s", "4294967296/s"]
        {
            assert_eq!(parse_rate(bad), Err(UnitError::Rate), "{bad:?}");
        }
        assert_eq!(parse_rate("1/9999d"), Err(UnitError::TooLong));
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("0B"), Ok(0));
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert_eq!(parse_size("1MB"), Ok(1_000_000));
        assert_eq!(parse_size("1kB"), parse_size("1KB"));
        assert_eq!(parse_size("256MiB"), Ok(268_435_456));
        assert_eq!(parse_size("2GiB"), Ok(2_147_483_648));
        for bad in ["", "12", "MiB", "1 MiB", "1mib", "1.5MiB", "-1B", "1TiB", "1K"] {
            assert_eq!(parse_size(bad), Err(UnitError::Size), "{bad:?}");
        }
        assert_eq!(parse_size("99999999999999999999B"), Err(UnitError::TooLarge));
        assert_eq!(parse_size("18446744073709551615GiB"), Err(UnitError::TooLarge));
    }
}
