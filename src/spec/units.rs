//! Durations, sizes and decimal numbers as Compose and Docker write them.
//!
//! Owns parsing alone; an error is the reason, for a message that names key and place. Not `jiff` and not a size crate:
//! they read `512m` as 512,000,000, or refuse `1d`.

use std::time::Duration;

/// Go's notation, as Compose uses it: `1m30s`, `500ms`, `1.5h`; also `d` and `w`; `0` alone.
///
/// # Errors
/// Why it is none.
pub fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u128); 9] = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
        ("d", 86_400_000_000_000),
        ("w", 604_800_000_000_000),
    ];
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.starts_with('-') {
        return Err("it is negative".to_owned());
    }
    let mut rest = text;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit_len = after.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_len);
        if number.is_empty() {
            return Err("it must be numbers with units, such as `1m30s`".to_owned());
        }
        if unit.is_empty() {
            return Err(format!("it has no unit: write `{number}s` for seconds"));
        }
        let Some((_, nanos)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err("its unit must be one of ns, us, ms, s, m, h, d, w".to_owned());
        };
        total = total
            .checked_add(scaled(number, *nanos).ok_or_else(|| "its number cannot be read".to_owned())?)
            .ok_or_else(too_long)?;
        rest = next;
    }
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    // A century: far beyond any meaning, and far from overflowing anything that is computed with it.
    if total > 100 * 366 * 86_400_000_000_000 {
        return Err(too_long());
    }
    let seconds = u64::try_from(total / 1_000_000_000).map_err(|_| too_long())?;
    let nanos = u32::try_from(total % 1_000_000_000).map_err(|_| too_long())?;
    Ok(Duration::new(seconds, nanos))
}

fn too_long() -> String {
    "it is longer than a hundred years".to_owned()
}

/// A decimal number times `unit`, without the rounding of floating point.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) || fraction.len() > 15 {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(unit)?;
    if !fraction.is_empty() {
        let digits: u128 = fraction.parse().ok()?;
        let power = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        total = total.checked_add(digits.checked_mul(unit)? / power)?;
    }
    Some(total)
}

/// Docker's notation, in bytes: `512m` is 536870912; `b`, `k`, `m`, `g`, `t`, also with `b` or `ib` behind; a bare number.
///
/// # Errors
/// Why it is none.
pub fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if text.starts_with('-') {
        return Err("it is negative".to_owned());
    }
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err("it must be a number with a unit, such as `512m`".to_owned());
    }
    let unit = unit.trim().to_ascii_lowercase();
    let power = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        _ => return Err("its unit must be one of b, k, m, g, t".to_owned()),
    };
    let bytes = scaled(number, 1024u128.pow(power)).ok_or_else(|| "its number cannot be read".to_owned())?;
    u64::try_from(bytes).ok().filter(|bytes| *bytes <= 1 << 60).ok_or_else(|| "it is too large".to_owned())
}

/// A number of CPUs, in billionths: `0.5` is 500000000.
///
/// # Errors
/// Why it is none.
pub fn cpus(text: &str) -> Result<i64, String> {
    let text = text.trim();
    if text.is_empty() || text.contains(|letter: char| !letter.is_ascii_digit() && letter != '.') {
        return Err("it must be a number such as `0.5`".to_owned());
    }
    scaled(text, 1_000_000_000)
        .and_then(|nanos| i64::try_from(nanos).ok())
        .ok_or_else(|| "its number cannot be read".to_owned())
}

/// A decimal whole number.
///
/// # Errors
/// Why it is none.
pub fn integer(text: &str, min: i64, max: i64) -> Result<i64, String> {
    let number: i64 = text.trim().parse().map_err(|_| "it must be written in digits".to_owned())?;
    match number {
        number if number < min => Err(format!("it must be at least {min}")),
        number if number > max => Err(format!("it must be at most {max}")),
        number => Ok(number),
    }
}

/// YAML 1.2's booleans, and those of 1.1, which Compose takes too.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => Some(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, wanted) in [
            ("1m30s", Duration::from_secs(90)),
            ("500ms", Duration::from_millis(500)),
            ("1h", Duration::from_secs(3600)),
            ("1.5s", Duration::from_millis(1500)),
            ("0.1s", Duration::from_millis(100)),
            ("0", Duration::ZERO),
            ("1d", Duration::from_secs(86_400)),
            ("10us", Duration::from_micros(10)),
        ] {
            assert_eq!(duration(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_reason() {
        assert_eq!(duration("10"), Err("it has no unit: write `10s` for seconds".to_owned()));
        for text in ["", "s", "10 s", "-1s", "1x", "1..5s", "99999999999999h", "1s2", "ten seconds", "1e3s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024_as_docker_means_them() {
        for (text, wanted) in [
            ("512m", 536_870_912),
            ("1g", 1 << 30),
            ("1gb", 1 << 30),
            ("1.5G", 3 << 29),
            ("64MiB", 64 << 20),
            ("10k", 10_240),
            ("100b", 100),
            ("1048576", 1 << 20),
            ("0", 0),
        ] {
            assert_eq!(size(text), Ok(wanted), "{text}");
        }
        for text in ["", "m", "-1m", "5x", "1..5m", "99999999999999999999t", "1 000"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cpus_are_exact_billionths() {
        assert_eq!(cpus("0.5"), Ok(500_000_000));
        assert_eq!(cpus("1.1"), Ok(1_100_000_000));
        assert_eq!(cpus("2"), Ok(2_000_000_000));
        assert!(cpus("half").is_err());
        assert!(cpus("-1").is_err());
    }
}
