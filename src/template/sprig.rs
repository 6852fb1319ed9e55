//! What Sprig's functions are called here, and the filters that are offered for their sake.
//!
//! consul-template has them with `sprig_` in front. Here those that templates for servers use have a counterpart: often it is
//! one of minijinja's own. What gives another value each time (`uuidv4`, `now`, `randAlpha`) has none on purpose: the file
//! would be written for ever.

use minijinja::value::Value;
use minijinja::{Environment, Error};

use super::printf::printf;
use super::shared::{problem, text as shown};
use super::text::indented;

/// The longest text that `repeat` makes, in bytes.
const LONGEST: usize = 1 << 20;

/// Filters, for "did you mean".
pub(super) const NAMES: &[&str] = &["quote", "squote", "nindent", "trunc", "repeat", "has_prefix", "has_suffix"];

/// By Sprig's name: what to write instead.
pub(crate) const COUNTERPARTS: &[(&str, &str)] = &[
    ("add", "`a | add(b)`"),
    ("add1", "`a | add(1)`"),
    ("atoi", "`| parse_int`"),
    ("b64dec", "`| base64_decode`"),
    ("b64enc", "`| base64_encode`"),
    ("coalesce", "`a or b or c`"),
    ("contains", "`text | contains(\"part\")`"),
    ("default", "`value | default(\"other\", true)`"),
    ("dict", "`{\"key\": value}`"),
    ("div", "`a | divide(b)`"),
    ("empty", "`not value`"),
    ("env", "`env(\"NAME\")`"),
    ("first", "`| first`"),
    ("float64", "`| float`"),
    ("fromJson", "`| parse_json`"),
    ("get", "`map[\"key\"] | default(\"\")`"),
    ("has", "`list | contains(item)`"),
    ("hasKey", "`\"key\" in map`"),
    ("hasPrefix", "`| has_prefix(\"part\")`"),
    ("hasSuffix", "`| has_suffix(\"part\")`"),
    ("indent", "`| indent(4)`"),
    ("int", "`| int`"),
    ("int64", "`| int`"),
    ("join", "`| join(\",\")`"),
    ("keys", "`map | list`"),
    ("last", "`| last`"),
    ("list", "`[a, b]`"),
    ("lower", "`| to_lower`"),
    ("max", "`a | maximum(b)`"),
    ("min", "`a | minimum(b)`"),
    ("mod", "`a | modulo(b)`"),
    ("mul", "`a | multiply(b)`"),
    ("nindent", "`| nindent(4)`"),
    ("quote", "`| quote`"),
    ("regexMatch", "`| regex_match(\"…\")`"),
    ("regexReplaceAll", "`text | regex_replace_all(\"…\", \"by\")`"),
    ("repeat", "`text | repeat(3)`"),
    ("replace", "`text | replace_all(\"a\", \"b\")`"),
    ("reverse", "`| reverse`"),
    ("sha256sum", "`| sha256_hex`"),
    ("sortAlpha", "`| sort`"),
    ("splitList", "`| split(\",\")`"),
    ("squote", "`| squote`"),
    ("sub", "`a | subtract(b)`"),
    ("substr", "`text[0:5]`"),
    ("ternary", "`a if condition else b`"),
    ("title", "`| to_title`"),
    ("toJson", "`| to_json`"),
    ("toPrettyJson", "`| to_json_pretty`"),
    ("toRawJson", "`| to_unescaped_json`"),
    ("toString", "`| string`"),
    ("trim", "`| trim_space`"),
    ("trimAll", "`| trim(\"letters\")`"),
    ("trimPrefix", "`| trim_prefix(\"part\")`"),
    ("trimSuffix", "`| trim_suffix(\"part\")`"),
    ("trunc", "`| trunc(5)`"),
    ("uniq", "`| unique`"),
    ("until", "`loop_range(n)`"),
    ("untilStep", "`range(first, end, step)`"),
    ("upper", "`| to_upper`"),
];

/// What to write instead of a function of Sprig, without `sprig_`; or why there is nothing.
pub(crate) fn counterpart(name: &str) -> Result<&'static str, &'static str> {
    if let Some((_, instead)) = COUNTERPARTS.iter().find(|(known, _)| *known == name) {
        return Ok(instead);
    }
    let changes = ["rand", "uuid", "now", "date", "ago", "gen", "shuffle", "htmlDate", "bcrypt", "htpasswd"];
    Err(match changes.iter().any(|begin| name.starts_with(begin)) {
        true => {
            "it gives another value each time, and the file would be written for ever; timestamp() is when the data last changed"
        }
        false => "this one of Sprig's is not there; minijinja's own filters may do",
    })
}

pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_filter("quote", |value: Value| printf("%q", &[given(&value)?.into()]));
    environment.add_filter("squote", |value: Value| given(&value).map(|text| format!("'{text}'")));
    environment.add_filter("nindent", |text: String, spaces: usize| {
        indented("nindent", &text, spaces).map(|text| format!("\n{text}"))
    });
    environment.add_filter("trunc", trunc);
    environment.add_filter("repeat", repeat);
    environment.add_filter("has_prefix", |text: String, part: String| text.starts_with(&part));
    environment.add_filter("has_suffix", |text: String, part: String| text.ends_with(&part));
}

fn given(value: &Value) -> Result<String, Error> {
    match value.is_undefined() {
        true => Err(minijinja::ErrorKind::UndefinedError.into()),
        false => Ok(shown(value)),
    }
}

/// So many letters from its beginning; below zero, from its end.
fn trunc(text: String, letters: i64) -> String {
    let count = usize::try_from(letters.unsigned_abs()).unwrap_or(usize::MAX);
    match letters < 0 {
        false => text.chars().take(count).collect(),
        true => text.chars().skip(text.chars().count().saturating_sub(count)).collect(),
    }
}

fn repeat(text: String, times: usize) -> Result<String, Error> {
    match text.len().checked_mul(times).is_some_and(|length| length <= LONGEST) {
        true => Ok(text.repeat(times)),
        false => Err(problem(format!("repeat: the result has more than {} MiB", LONGEST >> 20))),
    }
}
