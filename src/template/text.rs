//! Filters on texts.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use minijinja::value::Value;
use minijinja::{Environment, Error};
use regex::Regex;
use sha2::{Digest, Sha256};

use super::shared::{problem, text as shared_text};
use crate::spec::container::hex;

type Result<T> = std::result::Result<T, Error>;

pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_filter("regex_match", |text: String, pattern: String| {
        Ok::<_, Error>(regex("regex_match", &pattern)?.is_match(&text))
    });
    environment.add_filter("regex_replace_all", |text: String, pattern: String, to: String| {
        Ok::<_, Error>(regex("regex_replace_all", &pattern)?.replace_all(&text, to.as_str()).into_owned())
    });
    environment.add_filter("replace_all", |text: String, from: String, to: String| text.replace(&from, &to));
    environment.add_filter("base64_encode", |text: String| BASE64_STANDARD.encode(text));
    environment.add_filter("base64_url_encode", |text: String| BASE64_URL_SAFE.encode(text));
    environment
        .add_filter("base64_decode", |text: String| decoded("base64_decode", BASE64_STANDARD.decode(text.trim())));
    environment.add_filter("base64_url_decode", |text: String| {
        decoded("base64_url_decode", BASE64_URL_SAFE.decode(text.trim()))
    });
    environment.add_filter("split", split);
    environment.add_filter("join", join);
    environment.add_filter("to_lower", |text: String| text.to_lowercase());
    environment.add_filter("to_upper", |text: String| text.to_uppercase());
    environment.add_filter("to_title", to_title);
    environment.add_filter("trim_space", |text: String| text.trim().to_owned());
    environment.add_filter("trim", |text: String, letters: Option<String>| match letters {
        Some(letters) => text.trim_matches(|letter| letters.contains(letter)).to_owned(),
        None => text.trim().to_owned(),
    });
    environment.add_filter("trim_prefix", |text: String, part: String| {
        text.strip_prefix(&part).map_or(text.clone(), str::to_owned)
    });
    environment.add_filter("trim_suffix", |text: String, part: String| {
        text.strip_suffix(&part).map_or(text.clone(), str::to_owned)
    });
    environment.add_filter("indent", indent);
    environment.add_filter("sha256_hex", |text: String| hex(&Sha256::digest(text.as_bytes())));
}

fn regex(filter: &str, pattern: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(|error| {
        let why = match error {
            regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
            // The last line of the message says what is wrong; the others draw the pattern.
            error => error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
        };
        problem(format!("{filter}: this is not a regular expression: {why}"))
    })
}

fn decoded(filter: &str, bytes: std::result::Result<Vec<u8>, base64::DecodeError>) -> Result<String> {
    let bytes = bytes.map_err(|_| problem(format!("{filter}: it is given something that is not base64")))?;
    String::from_utf8(bytes).map_err(|_| problem(format!("{filter}: what it decodes is not text")))
}

/// Nothing but blanks has no parts.
fn split(text: String, separator: String) -> Vec<String> {
    match text.trim() {
        "" => Vec::new(),
        text if separator.is_empty() => text.chars().map(String::from).collect(),
        text => text.split(&separator).map(str::to_owned).collect(),
    }
}

fn join(list: Value, separator: Option<String>) -> Result<String> {
    let mut parts = Vec::new();
    for part in list.try_iter()? {
        if part.is_undefined() {
            return Err(Error::from(minijinja::ErrorKind::UndefinedError));
        }
        parts.push(shared_text(&part));
    }
    Ok(parts.join(separator.as_deref().unwrap_or_default()))
}

/// The first letter of each word in upper case.
fn to_title(text: String) -> String {
    let mut begins = true;
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if begins {
            out.extend(letter.to_uppercase());
        } else {
            out.push(letter);
        }
        begins = !(letter.is_alphanumeric() || letter == '_' || letter == '\'');
    }
    out
}

fn indent(text: String, spaces: usize) -> Result<String> {
    indented("indent", &text, spaces)
}

/// Every line that is not empty, the first one too; the others, and the end, stay as they are.
pub(super) fn indented(filter: &str, text: &str, spaces: usize) -> Result<String> {
    if spaces > 1000 {
        return Err(problem(format!("{filter}: more than 1000 spaces")));
    }
    let blanks = " ".repeat(spaces);
    let line = |line: &str| if line.is_empty() { String::new() } else { format!("{blanks}{line}") };
    Ok(text.split('\n').map(line).collect::<Vec<_>>().join("\n"))
}
