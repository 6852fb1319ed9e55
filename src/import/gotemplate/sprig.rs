//! Sprig's functions, which consul-template has with `sprig_` in front.
//!
//! Owns the calls alone; which of them exist, and what to do about the others, is `crate::template::sprig`'s.

use super::code::{Code, Level, Shape};
use super::functions::Missing;
use crate::template::sprig;

/// Sprig's name, the filter on its last argument, least and most arguments.
const FILTERS: &[(&str, &str, usize, usize)] = &[
    ("atoi", "parse_int", 1, 1),
    ("b64dec", "base64_decode", 1, 1),
    ("b64enc", "base64_encode", 1, 1),
    ("contains", "contains", 2, 2),
    ("first", "first", 1, 1),
    ("float64", "float", 1, 1),
    ("fromJson", "parse_json", 1, 1),
    ("has", "contains", 2, 2),
    ("hasPrefix", "has_prefix", 2, 2),
    ("hasSuffix", "has_suffix", 2, 2),
    ("indent", "indent", 2, 2),
    ("int", "int", 1, 1),
    ("int64", "int", 1, 1),
    ("join", "join", 2, 2),
    ("keys", "list", 1, 1),
    ("last", "last", 1, 1),
    ("lower", "to_lower", 1, 1),
    ("nindent", "nindent", 2, 2),
    ("quote", "quote", 1, 1),
    ("regexMatch", "regex_match", 2, 2),
    ("repeat", "repeat", 2, 2),
    ("replace", "replace_all", 3, 3),
    ("reverse", "reverse", 1, 1),
    ("sha256sum", "sha256_hex", 1, 1),
    ("sortAlpha", "sort", 1, 1),
    ("splitList", "split", 2, 2),
    ("squote", "squote", 1, 1),
    ("title", "to_title", 1, 1),
    ("toJson", "to_json", 1, 1),
    ("toPrettyJson", "to_json_pretty", 1, 1),
    ("toRawJson", "to_unescaped_json", 1, 1),
    ("toString", "string", 1, 1),
    ("trim", "trim_space", 1, 1),
    ("trimAll", "trim", 2, 2),
    ("trimPrefix", "trim_prefix", 2, 2),
    ("trimSuffix", "trim_suffix", 2, 2),
    ("trunc", "trunc", 2, 2),
    ("uniq", "unique", 1, 1),
    ("upper", "to_upper", 1, 1),
];

/// Sums and the like, from left to right; `sub` and the others after it take two.
const ARITHMETIC: &[(&str, &str, usize)] = &[
    ("add", "add", 32),
    ("mul", "multiply", 32),
    ("max", "maximum", 32),
    ("min", "minimum", 32),
    ("sub", "subtract", 2),
    ("div", "divide", 2),
    ("mod", "modulo", 2),
];

/// The call of `sprig_<name>`.
///
/// # Errors
/// When it has no counterpart, or not with these arguments.
pub(super) fn call(name: &str, arguments: &[Code]) -> Result<Code, Missing> {
    if let Some((_, filter, least, most)) = FILTERS.iter().find(|(known, ..)| *known == name)
        && (*least..=*most).contains(&arguments.len())
        && let [rest @ .., last] = arguments
    {
        return Ok(last.filter(filter, rest, shape(name, last)));
    }
    if let Some((_, filter, most)) = ARITHMETIC.iter().find(|(known, ..)| *known == name)
        && let [first, others @ ..] = arguments
        && (1..*most).contains(&others.len())
    {
        let step = |sum: Code, other: &Code| sum.filter(filter, std::slice::from_ref(other), Shape::Number);
        return Ok(others.iter().fold(first.clone(), step));
    }
    let lenient = |code: &Code| code.lenient();
    Ok(match (name, arguments) {
        ("add1", [value]) => value.filter("add", &[Code::atom("1", Shape::Number)], Shape::Number),
        ("default", [other, value]) => {
            value.filter("default", &[other.clone(), Code::atom("true", Shape::Unknown)], value.shape.clone())
        }
        ("coalesce", [_, _, ..]) => Code::joined("or", Level::Or, &arguments.iter().map(lenient).collect::<Vec<_>>()),
        ("empty", [value]) => Code::new(format!("not {}", value.lenient().at(Level::Not)), Level::Not, Shape::Unknown),
        ("env", [_]) => Code::call("env", arguments, Shape::Text),
        ("ternary", [yes, no, condition]) => Code::atom(
            format!("({} if {} else {})", yes.at(Level::Or), condition.lenient().at(Level::Or), no.at(Level::Or)),
            yes.shape.clone(),
        ),
        ("list", _) => {
            let items: Vec<&str> = arguments.iter().map(|item| item.text.as_str()).collect();
            let of = arguments.first().map_or(Shape::Unknown, |first| first.shape.clone());
            Code::atom(format!("[{}]", items.join(", ")), Shape::list(of))
        }
        ("dict", _) if arguments.len().is_multiple_of(2) => {
            let pairs: Vec<String> = arguments
                .chunks(2)
                .map(|pair| pair.iter().map(|one| one.text.as_str()).collect::<Vec<_>>().join(": "))
                .collect();
            Code::atom(format!("{{{}}}", pairs.join(", ")), Shape::map(Shape::Unknown))
        }
        ("get", [map, key]) => Code::atom(format!("{}[{}]", map.at(Level::Atom), key.text), map.shape.element())
            .filter("default", &[Code::literal("")], map.shape.element()),
        ("hasKey", [map, key]) => Code::joined("in", Level::Compare, &[key.clone(), map.clone()]),
        ("regexReplaceAll", [pattern, value, to]) => {
            value.filter("regex_replace_all", &[pattern.clone(), to.clone()], Shape::Text)
        }
        ("substr", [from, to, value]) => {
            Code::atom(format!("{}[{}:{}]", value.at(Level::Atom), from.text, to.text), Shape::Text)
        }
        ("until", [_]) => Code::call("loop_range", arguments, Shape::list(Shape::Number)),
        ("untilStep", [_, _, _]) => Code::call("range", arguments, Shape::list(Shape::Number)),
        _ => {
            return Err(Missing(match sprig::counterpart(name) {
                Ok(instead) => format!("not with {} arguments; it is {instead}", arguments.len()),
                Err(reason) => reason.to_owned(),
            }));
        }
    })
}

fn shape(name: &str, given: &Code) -> Shape {
    match name {
        "first" | "last" => given.shape.element(),
        "sortAlpha" | "uniq" | "reverse" => given.shape.clone(),
        "keys" | "splitList" => Shape::list(Shape::Text),
        "atoi" | "int" | "int64" | "float64" => Shape::Number,
        "fromJson" | "contains" | "has" | "hasPrefix" | "hasSuffix" | "regexMatch" => Shape::Unknown,
        _ => Shape::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_of_the_table_is_translated() {
        let argument = || Code::atom("x", Shape::Unknown);
        for (name, _) in sprig::COUNTERPARTS {
            let translated = (0..=3).any(|count| call(name, &vec![argument(); count]).is_ok());
            assert!(translated, "sprig_{name}");
        }
        assert!(call("uuidv4", &[]).is_err_and(|missing| missing.0.contains("another value each time")));
        assert!(call("trunc", &[argument()]).is_err_and(|missing| missing.0.contains("not with 1 arguments")));
    }
}
