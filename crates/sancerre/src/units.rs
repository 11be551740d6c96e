//! Sizes and durations as people write and read them. Binary units in text, plain bytes in JSON.

use std::time::Duration;

const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Parses `300M`, `300MiB`, `1G` or plain bytes; K, M, G and T are powers of 1024.
///
/// Errors: a sentence that says what is understood.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a size such as 300M, 2G or 1048576");
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(bad()),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"))
}

/// Parses `90s`, `15m`, `26h`, `8d`, `2w` or `1y` to seconds.
///
/// Errors: a sentence that says what is understood.
pub(crate) fn parse_seconds(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a time such as 90s, 15m, 26h, 8d, 2w or 1y");
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(bad)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        "y" => 31_557_600,
        _ => return Err(bad()),
    };
    digits.parse::<u32>().map(|number| u64::from(number) * seconds).map_err(|_| bad())
}

/// [`parse_seconds`] as a duration.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    parse_seconds(text).map(Duration::from_secs)
}

/// Seconds as they are typed, in the largest unit that divides them: `12h`. For defaults that a library sets: said once a
/// process, and never freed.
pub(crate) fn typed_seconds(seconds: u64) -> &'static str {
    let units = [(86_400, "d"), (3600, "h"), (60, "m")];
    let (unit, letter) =
        units.into_iter().find(|(unit, _)| seconds.is_multiple_of(*unit)).unwrap_or((1, "s"));
    format!("{}{letter}", seconds / unit).leak()
}

/// The same of a size: `64G`.
pub(crate) fn typed_size(bytes: u64) -> &'static str {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    let (shift, letter) =
        units.into_iter().find(|(shift, _)| bytes.is_multiple_of(1 << shift)).unwrap_or((0, ""));
    format!("{}{letter}", bytes >> shift).leak()
}

/// The same of a share: `50%`.
pub(crate) fn typed_share(percent: u8) -> &'static str {
    format!("{percent}%").leak()
}

/// `3 h` up to two days, then `12 d`.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Parses `0.1%`: above 0, at most 100.
///
/// Errors: a sentence that says what is understood.
pub(crate) fn parse_percent(text: &str) -> Result<f64, String> {
    let share = text.strip_suffix('%').and_then(|share| share.parse().ok());
    share
        .filter(|share| *share > 0.0 && *share <= 100.0)
        .ok_or_else(|| format!("{text:?} is not a share such as 0.1% or 99%"))
}

/// Parses `75%` or `75`: whole per cent, at most 100.
///
/// Errors: a sentence that says what is understood.
pub(crate) fn parse_share(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number.filter(|number| *number <= 100).ok_or_else(|| format!("{text:?} is not a share such as 50%"))
}

/// `1.2 GiB`; whole bytes below 1 KiB.
pub(crate) fn size(bytes: u64) -> String {
    let mut scaled = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        // 1023.95 would be shown as 1024.0.
        if scaled < 1023.95 {
            break;
        }
        scaled /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{scaled:.1} {unit}") }
}

/// `0:07`, `12:34`, `1:02:03`; hours are not folded into days.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// Whole seconds and milliseconds, for JSON.
pub(crate) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

/// `1 disk`, `2 disks`.
pub(crate) fn count(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_understood() {
        let cases = [
            ("0", 0),
            ("1048576", 1 << 20),
            ("300M", 300 << 20),
            ("300m", 300 << 20),
            ("300 MiB", 300 << 20),
            ("2G", 2 << 30),
            ("4KB", 4096),
            ("1T", 1 << 40),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "1.5G", "-1", "+1", "12X", "1 M B", "18446744073709551616", "99999999999T"] {
            parse_size(text).unwrap_err();
        }
    }

    #[test]
    fn times_and_shares_are_understood() {
        let cases =
            [("0s", 0), ("90s", 90), ("15m", 900), ("26h", 93_600), ("8d", 691_200), ("2w", 1_209_600)];
        for (text, seconds) in cases {
            assert_eq!(parse_seconds(text), Ok(seconds), "{text}");
        }
        for text in ["", "h", "26", "-1h", "1.5h", "1 h", "1x", "999999999999999999d", "1é"] {
            parse_seconds(text).unwrap_err();
        }
        assert_eq!(
            [age(59 * 60), age(7 * 3600), age(47 * 3600), age(50 * 3600)],
            ["59 min", "7 h", "47 h", "2 d"]
        );
        assert_eq!((parse_percent("0.1%"), parse_percent("100%")), (Ok(0.1), Ok(100.0)));
        for text in ["", "5", "%", "0%", "-5%", "101%", "NaN%"] {
            parse_percent(text).unwrap_err();
        }
    }

    #[test]
    fn defaults_are_typed_as_people_type_them() {
        let times = [(90, "90s"), (900, "15m"), (3600, "1h"), (43_200, "12h"), (172_800, "2d")];
        for (seconds, text) in times {
            assert_eq!((typed_seconds(seconds), parse_seconds(text)), (text, Ok(seconds)));
        }
        let sizes = [(1000, "1000"), (300 << 20, "300M"), (64 << 30, "64G"), (1 << 40, "1T")];
        for (bytes, text) in sizes {
            assert_eq!((typed_size(bytes), parse_size(text)), (text, Ok(bytes)));
        }
        assert_eq!((typed_share(5), parse_share("5%")), ("5%", Ok(5)));
    }

    #[test]
    fn sizes_are_readable() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (3 << 30, "3.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn durations_are_readable() {
        let cases = [(7, "0:07"), (754, "12:34"), (3723, "1:02:03"), (90_000, "25:00:00")];
        for (seconds, text) in cases {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn shares_are_understood() {
        assert_eq!((parse_share("75%"), parse_share("0")), (Ok(75), Ok(0)));
        for text in ["", "101%", "-1", "x"] {
            parse_share(text).unwrap_err();
        }
    }
}
