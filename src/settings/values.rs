//! Parsers of single values. The same text means the same in the settings file and in the environment.
//!
//! Errors are half sentences that follow the name of the value: `is not a duration …`.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

/// `50ms`, `1m30s`, `2h`. Units: `us`, `ms`, `s`, `m`, `h`, `d`; a number without unit is an error, because nobody can
/// tell which one was meant.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration; write it like 50ms, 30s or 1m30s");
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let letters = after.len() - after.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, after) = after.split_at(letters);
        if number.is_empty() {
            return Err(wrong());
        }
        if unit.is_empty() {
            return Err(format!("`{text}` has no unit; write it like 50ms, 30s or 1m30s"));
        }
        let nanoseconds: u64 = match unit {
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3_600 * 1_000_000_000,
            "d" => 86_400 * 1_000_000_000,
            _ => return Err(wrong()),
        };
        let too_long = || format!("`{text}` is longer than 500 years");
        let number: u64 = number.parse().map_err(|_| too_long())?;
        let part = number.checked_mul(nanoseconds).map(Duration::from_nanos).ok_or_else(too_long)?;
        total = total.checked_add(part).ok_or_else(too_long)?;
        rest = after;
    }
    Ok(total)
}

/// The reverse of [`parse_duration`]: `1m30s`.
pub fn format_duration(duration: Duration) -> String {
    if duration.is_zero() {
        return "0s".to_owned();
    }
    let mut text = String::new();
    let seconds = duration.as_secs();
    let micros = u64::from(duration.subsec_micros());
    for (amount, unit) in [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (micros / 1_000, "ms"),
        (micros % 1_000, "us"),
    ] {
        if amount > 0 {
            write!(text, "{amount}{unit}").expect("writing to a String cannot fail");
        }
    }
    text
}

/// A duration between two bounds, both included.
pub fn duration_between(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration < least || duration > most {
        return Err(format!("`{text}` is out of range: {} to {}", format_duration(least), format_duration(most)));
    }
    Ok(duration)
}

pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

/// One of a few words.
pub fn one_of<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        let near = nearest(text, words.iter().map(|(word, _)| *word));
        match near {
            Some(word) => format!("`{text}` is not one of {}; did you mean `{word}`?", known.join(", ")),
            None => format!("`{text}` is not one of {}", known.join(", ")),
        }
    })
}

pub fn socket_address(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix("localhost:") {
        return Err(format!("`{text}` is not an IP address with a port; write 127.0.0.1:{port}"));
    }
    text.parse().map_err(|_| format!("`{text}` is not an IP address with a port, like 127.0.0.1:9464"))
}

/// Parts of owner marks, registration ids and container names are made of it.
pub fn node(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.is_empty() || text.len() > 128 || !text.chars().all(plain) {
        return Err(format!(
            "`{text}` is not a node name: letters, digits, `.`, `_` and `-`, at most 128 of them, because it is part of every owner mark and registration id"
        ));
    }
    Ok(text.to_owned())
}

/// An IP address or a host name, without port.
pub fn host(text: &str) -> Result<String, String> {
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    if text.is_empty() || text.len() > 253 || !text.chars().all(plain) {
        return Err(format!("`{text}` is neither an IP address nor a host name (it has no port)"));
    }
    Ok(text.to_owned())
}

pub fn docker_host(text: &str) -> Result<String, String> {
    if let Some(path) = text.strip_prefix("unix://") {
        return if path.starts_with('/') {
            Ok(text.to_owned())
        } else {
            Err(format!("`{text}` does not name an absolute path; write it like unix:///var/run/docker.sock"))
        };
    }
    match text.split_once("://") {
        Some(("tcp" | "http" | "https", rest)) if !rest.is_empty() => Ok(text.to_owned()),
        Some(("ssh", _)) => Err("an engine over ssh is not supported; forward its socket and name that".to_owned()),
        _ => Err(format!(
            "`{text}` is not an engine's address; write unix:///path, tcp://host:port or https://host:port"
        )),
    }
}

/// With the scheme that a bare `host:port` lacks, without a slash at the end.
pub fn consul_address(text: &str) -> Result<String, String> {
    let wrong =
        || format!("`{text}` is not an agent's address; write http://host:port, https://host:port or unix:///path");
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    match scheme {
        "http" | "https" => {
            let rest = rest.trim_end_matches('/');
            // The text may hold a password, so it is not repeated.
            if rest.contains('@') {
                return Err("holds a user and password, which are shown in logs; use consul.token_file".to_owned());
            }
            if rest.is_empty() || rest.contains(char::is_whitespace) || rest.contains(['?', '#']) {
                return Err(wrong());
            }
            Ok(format!("{scheme}://{rest}"))
        }
        "unix" if rest.starts_with('/') => Ok(text.to_owned()),
        _ => Err(wrong()),
    }
}

/// A level, or a list of `level` and `module=level` with commas.
pub fn log_level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for part in text.split(',') {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level).trim();
        if !LEVELS.contains(&level) {
            let help = nearest(level, LEVELS).map(|word| format!("; did you mean `{word}`?")).unwrap_or_default();
            return Err(format!("`{level}` is not a log level (off, error, warn, info, debug, trace){help}"));
        }
    }
    Ok(text.to_owned())
}

pub fn percent(text: &str) -> Result<u8, String> {
    let digits = text.strip_suffix('%').unwrap_or(text).trim();
    match digits.parse::<u8>() {
        Ok(percent @ 1..=100) => Ok(percent),
        _ => Err(format!("`{text}` is not a share from 1 to 100 percent")),
    }
}

/// A count from 1 to 1000.
///
/// # Errors
/// Anything else.
pub fn count(text: &str) -> Result<usize, String> {
    match text.trim().parse::<usize>() {
        Ok(count @ 1..=1000) => Ok(count),
        _ => Err(format!("`{text}` is not a number from 1 to 1000")),
    }
}

/// The known word that a person most likely meant, if any is near.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (distance(&word.to_lowercase(), candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Letters to insert, remove, change or swap with their neighbour to get from one word to the other.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    // Three rows of the table are enough: a swap looks back two.
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, r) in right.iter().enumerate() {
            let change = last[j] + usize::from(l != r);
            let mut best = change.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *l == right[j - 1] && left[i - 1] == *r {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_read_as_it_is_written() {
        for (text, milliseconds) in
            [("50ms", 50), ("1s", 1_000), ("1m30s", 90_000), ("2h", 7_200_000), ("1d", 86_400_000), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
            assert_eq!(format_duration(Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn a_duration_without_unit_or_number_is_refused() {
        for text in ["", "5", "ms", "5 s", "-1s", "1.5s", "1x", "99999999999999999999s", "600000000h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_near_word_is_suggested_and_a_far_one_is_not() {
        assert_eq!(nearest("adress", ["address", "token_file"]), Some("address"));
        assert_eq!(nearest("qiuet", ["quiet", "max_wait"]), Some("quiet"));
        assert_eq!(nearest("banana", ["quiet", "max_wait"]), None);
    }

    #[test]
    fn an_address_of_consul_gets_its_scheme_and_never_shows_a_password() {
        assert_eq!(consul_address("127.0.0.1:8500"), Ok("http://127.0.0.1:8500".to_owned()));
        assert_eq!(consul_address("https://consul:8501/"), Ok("https://consul:8501".to_owned()));
        let error = consul_address("http://me:hunter2@consul:8500").expect_err("a password was accepted");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
