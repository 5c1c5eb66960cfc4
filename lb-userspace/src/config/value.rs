//! Values written as text: durations, sizes, ranges. Each parser has its writer beside it.

use std::ops::RangeInclusive;
use std::time::Duration;

const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// `100ms`, `1s`, `5m`, `2h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wanted = "write a whole number and ms, s, m or h, such as \"500ms\" or \"5m\"";
    let (number, unit) = split_number(text).ok_or_else(|| wanted.to_owned())?;
    let (_, factor) =
        UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| wanted.to_owned())?;
    let ms = number.checked_mul(*factor).ok_or_else(|| "that is too long".to_owned())?;
    Ok(Duration::from_millis(ms))
}

/// The shortest way to write a duration of whole milliseconds.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (unit, factor) = UNITS
        .iter()
        .rev()
        .find(|(_, factor)| ms != 0 && ms.is_multiple_of(*factor))
        .unwrap_or(&UNITS[0]);
    format!("{}{unit}", ms / factor)
}

/// `16MiB`, `512KiB`, `1048576B`.
pub(crate) fn parse_size(text: &str) -> Result<u32, String> {
    let wanted = "write a whole number and KiB, MiB or GiB, such as \"16MiB\"";
    let (number, unit) = split_number(text).ok_or_else(|| wanted.to_owned())?;
    let (_, factor) =
        SIZES.iter().find(|(name, _)| *name == unit).ok_or_else(|| wanted.to_owned())?;
    number
        .checked_mul(*factor)
        .and_then(|bytes| u32::try_from(bytes).ok())
        .ok_or_else(|| "that is more than 4 GiB".to_owned())
}

pub(crate) fn format_size(bytes: u32) -> String {
    let bytes = u64::from(bytes);
    let (unit, factor) = SIZES
        .iter()
        .find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor))
        .unwrap_or(&SIZES[3]);
    format!("{}{unit}", bytes / factor)
}

/// `1024-32767`, or one number where `single` is a range too.
pub(crate) fn parse_range(text: &str, single: bool) -> Option<RangeInclusive<u16>> {
    let number = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>().ok())?
    };
    match text.split_once('-') {
        Some((start, end)) => Some(number(start)?..=number(end)?),
        None if single => number(text).map(|only| only..=only),
        None => None,
    }
}

pub(crate) fn format_range(range: &RangeInclusive<u16>) -> String {
    format!("{}-{}", range.start(), range.end())
}

/// `75%`, as whole percent.
pub(crate) fn parse_percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').filter(|n| n.bytes().all(|byte| byte.is_ascii_digit()));
    number
        .and_then(|n| n.parse().ok())
        .ok_or_else(|| "write whole percent, such as \"10%\"".to_owned())
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_written() {
        for (text, ms) in [("100ms", 100), ("1s", 1_000), ("5m", 300_000), ("2h", 7_200_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)));
            assert_eq!(format_duration(Duration::from_millis(ms)), text);
        }
        assert_eq!(format_duration(Duration::from_millis(90_000)), "90s");
        assert_eq!(format_duration(Duration::ZERO), "0ms");
        for bad in ["", "5", "s", "1.5s", "-1s", "1 s", "1d", "1S", "99999999999999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert!(parse_duration("18446744073709551615h").is_err());
    }

    #[test]
    fn sizes_read_as_written() {
        for (text, bytes) in [("16MiB", 16 << 20), ("64KiB", 64 << 10), ("1000B", 1000)] {
            assert_eq!(parse_size(text), Ok(bytes));
            assert_eq!(format_size(bytes), text);
        }
        for bad in ["16MB", "4GiB", "16", "MiB", "-1KiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn percentages_read_as_written() {
        assert_eq!(parse_percent("10%"), Ok(10));
        for bad in ["", "%", "10", "0.1", "-1%", "+1%", "256%", "1 %"] {
            assert!(parse_percent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_read_as_written() {
        assert_eq!(parse_range("1024-32767", false), Some(1024..=32767));
        assert_eq!(parse_range("204", true), Some(204..=204));
        for bad in ["204", "1024-", "-5", "1024-70000", "a-b", "1 - 2", "+1-2", "1-2-3", ""] {
            assert_eq!(parse_range(bad, false), None, "{bad}");
        }
    }
}
