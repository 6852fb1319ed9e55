//! What each function of Go's templates and of consul-template is called in reeve.
//!
//! Owns the table, and the calls that are more than another name. A function that is not here has no counterpart; why is
//! `crate::template`'s.

use super::code::{Code, Level, Shape};
use super::sprig;
use crate::template::absent;

/// Why something cannot be translated, for the person who has to do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(pub String);

impl Missing {
    fn new<T>(reason: impl Into<String>) -> Result<T, Self> {
        Err(Self(reason.into()))
    }
}

enum Target {
    /// `name(arguments)`.
    Function(&'static str),
    /// The last argument is what is piped.
    Filter(&'static str),
}

use Target::{Filter, Function};

/// What [`built_in`] knows, with the right number of arguments.
const BUILT_IN: &[&str] =
    &["and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "index", "slice", "print", "in", "loop"];

/// By the name in Go: the counterpart, and the least and most arguments.
const TABLE: &[(&str, Target, usize, usize)] = &[
    ("service", Function("service"), 1, 1),
    ("services", Function("services"), 0, 1),
    ("nodes", Function("nodes"), 0, 1),
    ("node", Function("node"), 0, 1),
    ("key", Function("key"), 1, 1),
    ("keyOrDefault", Function("key_or_default"), 2, 2),
    ("keyExists", Function("key_exists"), 1, 1),
    ("ls", Function("ls"), 1, 1),
    ("safeLs", Function("safe_ls"), 1, 1),
    ("tree", Function("tree"), 1, 1),
    ("safeTree", Function("safe_tree"), 1, 1),
    ("datacenters", Function("datacenters"), 0, 0),
    ("env", Function("env"), 1, 1),
    ("mustEnv", Function("must_env"), 1, 1),
    ("envOrDefault", Function("env_or_default"), 2, 2),
    ("file", Function("file"), 1, 1),
    ("timestamp", Function("timestamp"), 0, 1),
    ("printf", Function("printf"), 1, 32),
    ("byTag", Filter("by_tag"), 1, 1),
    ("byMeta", Filter("by_meta"), 2, 2),
    ("byKey", Filter("by_key"), 1, 1),
    ("byPort", Filter("by_port"), 1, 1),
    ("parseJSON", Filter("parse_json"), 1, 1),
    ("parseYAML", Filter("parse_yaml"), 1, 1),
    ("parseInt", Filter("parse_int"), 1, 1),
    ("parseUint", Filter("parse_uint"), 1, 1),
    ("parseFloat", Filter("parse_float"), 1, 1),
    ("parseBool", Filter("parse_bool"), 1, 1),
    ("toJSON", Filter("to_json"), 1, 1),
    ("toJSONPretty", Filter("to_json_pretty"), 1, 1),
    ("toUnescapedJSON", Filter("to_unescaped_json"), 1, 1),
    ("toUnescapedJSONPretty", Filter("to_unescaped_json_pretty"), 1, 1),
    ("toYAML", Filter("to_yaml"), 1, 1),
    ("toTOML", Filter("to_toml"), 1, 1),
    ("contains", Filter("contains"), 2, 2),
    ("containsAny", Filter("contains_any"), 2, 2),
    ("containsAll", Filter("contains_all"), 2, 2),
    ("containsNone", Filter("contains_none"), 2, 2),
    ("containsNotAll", Filter("contains_not_all"), 2, 2),
    ("regexMatch", Filter("regex_match"), 2, 2),
    ("regexReplaceAll", Filter("regex_replace_all"), 3, 3),
    ("replaceAll", Filter("replace_all"), 3, 3),
    ("base64Encode", Filter("base64_encode"), 1, 1),
    ("base64Decode", Filter("base64_decode"), 1, 1),
    ("base64URLEncode", Filter("base64_url_encode"), 1, 1),
    ("base64URLDecode", Filter("base64_url_decode"), 1, 1),
    ("split", Filter("split"), 2, 2),
    ("join", Filter("join"), 2, 2),
    ("toLower", Filter("to_lower"), 1, 1),
    ("toUpper", Filter("to_upper"), 1, 1),
    ("toTitle", Filter("to_title"), 1, 1),
    ("trimSpace", Filter("trim_space"), 1, 1),
    ("trim", Filter("trim"), 2, 2),
    ("trimPrefix", Filter("trim_prefix"), 2, 2),
    ("trimSuffix", Filter("trim_suffix"), 2, 2),
    ("indent", Filter("indent"), 2, 2),
    ("sha256Hex", Filter("sha256_hex"), 1, 1),
    ("explode", Filter("explode"), 1, 1),
    ("add", Filter("add"), 2, 2),
    ("subtract", Filter("subtract"), 2, 2),
    ("multiply", Filter("multiply"), 2, 2),
    ("divide", Filter("divide"), 2, 2),
    ("modulo", Filter("modulo"), 2, 2),
    ("minimum", Filter("minimum"), 2, 2),
    ("maximum", Filter("maximum"), 2, 2),
    ("len", Filter("length"), 1, 1),
];

/// The call of a function.
///
/// # Errors
/// When it has no counterpart.
pub fn call(name: &str, arguments: &[Code]) -> Result<Code, Missing> {
    if let Some(code) = built_in(name, arguments)? {
        return Ok(code);
    }
    let Some((_, target, least, most)) = TABLE.iter().find(|(known, ..)| *known == name) else {
        return match name.split_once('_') {
            Some(("sprig", of_sprig)) => sprig::call(of_sprig, arguments),
            _ if BUILT_IN.contains(&name) => Missing::new(format!("not with {} arguments", arguments.len())),
            _ => Missing::new(absent(name).unwrap_or("neither Go nor consul-template has such a function")),
        };
    };
    if arguments.len() < *least || arguments.len() > *most {
        let number = if least == most { format!("{least}") } else { format!("{least} to {most}") };
        return Missing::new(format!("it takes {number} arguments, and got {}", arguments.len()));
    }
    let shape = result(name, arguments);
    Ok(match (target, arguments) {
        (Filter(to), [rest @ .., last]) => last.filter(to, rest, shape),
        (Function(to) | Filter(to), _) => Code::call(to, arguments, shape),
    })
}

fn result(name: &str, arguments: &[Code]) -> Shape {
    let given = arguments.last().map_or(Shape::Unknown, |code| code.shape.clone());
    match name {
        "service" => Shape::list(Shape::Instance),
        "services" => Shape::list(Shape::Entry),
        "nodes" => Shape::list(Shape::Node),
        "node" => Shape::NodeDetail,
        "ls" | "safeLs" | "tree" | "safeTree" => Shape::list(Shape::Pair),
        "datacenters" | "split" => Shape::list(Shape::Text),
        "byTag" | "byMeta" | "byPort" => Shape::map(given),
        "byKey" => Shape::map(Shape::map(given.element())),
        "explode" => Shape::map(Shape::Unknown),
        "parseJSON" | "parseYAML" => Shape::Unknown,
        "parseInt" | "parseUint" | "parseFloat" | "len" | "add" | "subtract" | "multiply" | "divide" | "modulo"
        | "minimum" | "maximum" => Shape::Number,
        _ => Shape::Text,
    }
}

/// Go's own functions, and those of consul-template whose arguments mean something else here.
fn built_in(name: &str, arguments: &[Code]) -> Result<Option<Code>, Missing> {
    let lenient = || arguments.iter().map(Code::lenient).collect::<Vec<_>>();
    let operator = |operator: &str| Code::joined(operator, Level::Compare, &lenient());
    let code = match (name, arguments) {
        ("and", [_, ..]) => Code::joined("and", Level::And, &lenient()),
        ("or", [_, ..]) => Code::joined("or", Level::Or, &lenient()),
        ("not", [value]) => Code::new(format!("not {}", value.lenient().at(Level::Not)), Level::Not, Shape::Unknown),
        ("eq", [first, others @ ..]) if !others.is_empty() => {
            let pairs: Vec<Code> = others
                .iter()
                .map(|other| Code::joined("==", Level::Compare, &[first.lenient(), other.lenient()]))
                .collect();
            match pairs.as_slice() {
                [one] => one.clone(),
                _ => Code::joined("or", Level::Or, &pairs),
            }
        }
        ("ne", [_, _]) => operator("!="),
        ("lt", [_, _]) => operator("<"),
        ("le", [_, _]) => operator("<="),
        ("gt", [_, _]) => operator(">"),
        ("ge", [_, _]) => operator(">="),
        ("index", [value, keys @ ..]) => keys.iter().fold(value.clone(), index),
        ("slice", [value]) => value.clone(),
        ("slice", [value, from]) => {
            Code::atom(format!("{}[{}:]", value.at(Level::Atom), from.text), value.shape.clone())
        }
        ("slice", [value, from, to]) => {
            Code::atom(format!("{}[{}:{}]", value.at(Level::Atom), from.text, to.text), value.shape.clone())
        }
        ("print", [value]) => value.clone(),
        ("print", [_, ..]) => {
            // Go puts a blank between two of which neither is text.
            if arguments.windows(2).any(|pair| pair.iter().all(|code| code.shape != Shape::Text)) {
                return Missing::new(
                    "use `printf`: whether `print` puts a blank between two values depends on what they are",
                );
            }
            Code::joined("~", Level::Concat, arguments)
        }
        ("println", _) => {
            let mut parts = Vec::new();
            for argument in arguments {
                parts.extend((!parts.is_empty()).then(|| Code::literal(" ")));
                parts.push(argument.clone());
            }
            parts.push(Code::literal("\n"));
            Code::joined("~", Level::Concat, &parts)
        }
        // Of consul-template's library for debugging.
        (name, _) if name.starts_with("spew_") => return Missing::new("print the value with `to_json`"),
        ("in", [list, value]) => Code::joined("in", Level::Compare, &[value.clone(), list.clone()]),
        ("loop", [to]) => {
            Code::call("loop_range", &[Code::atom("0", Shape::Number), to.clone()], Shape::list(Shape::Number))
        }
        ("loop", [_, _]) => Code::call("loop_range", arguments, Shape::list(Shape::Number)),
        ("service", [query, filter @ ..]) if !filter.is_empty() => {
            let whole = filter.iter().enumerate().fold(query.clone(), |whole, (at, word)| {
                glue(&glue(&whole, &Code::literal(if at == 0 { "|" } else { "," })), word)
            });
            Code::call("service", &[whole], Shape::list(Shape::Instance))
        }
        ("timestamp", [layout]) if layout.text != "\"unix\"" => {
            let format = unquoted(layout).and_then(strftime);
            let Some(format) = format else {
                return Missing::new(
                    "its layout cannot be translated; `timestamp` takes `unix` or a format of strftime",
                );
            };
            Code::call("timestamp", &[Code::literal(&format)], Shape::Text)
        }
        _ => return Ok(None),
    };
    Ok(Some(code))
}

/// Two texts as one.
fn glue(left: &Code, right: &Code) -> Code {
    match (unquoted(left), unquoted(right)) {
        (Some(a), Some(b)) => Code::literal(&format!("{a}{b}")),
        _ => {
            let mut code = Code::joined("~", Level::Concat, &[left.clone(), right.clone()]);
            code.shape = Shape::Text;
            code
        }
    }
}

/// The content of a literal without escapes.
fn unquoted(code: &Code) -> Option<&str> {
    let inner = code.text.strip_prefix('"')?.strip_suffix('"')?;
    (!inner.contains(['"', '\\'])).then_some(inner)
}

/// One step of Go's `index`. A missing entry of a map is empty in Go, one past the end of a list is an error in both.
fn index(value: Code, key: &Code) -> Code {
    let plain = Code::atom(format!("{}[{}]", value.at(Level::Atom), key.text), value.shape.element());
    let map = matches!(value.shape, Shape::Map(_));
    let by_name = key.text.starts_with('"');
    match map || (by_name && !matches!(value.shape, Shape::List(_))) {
        true => plain.filter("default", &[Code::literal("")], value.shape.element()),
        false => plain,
    }
}

/// A layout of Go's `time` as a format of strftime. The time is UTC in both.
fn strftime(layout: &str) -> Option<String> {
    const PARTS: [(&str, &str); 30] = [
        ("January", "%B"),
        ("Monday", "%A"),
        ("Z07:00", "Z"),
        ("-07:00", "%:z"),
        ("Z0700", "Z"),
        ("-0700", "%z"),
        ("2006", "%Y"),
        ("Jan", "%b"),
        ("Mon", "%a"),
        ("MST", "%Z"),
        ("002", "%j"),
        ("01", "%m"),
        ("02", "%d"),
        ("03", "%I"),
        ("04", "%M"),
        ("05", "%S"),
        ("06", "%y"),
        ("15", "%H"),
        ("PM", "%p"),
        ("_2", "%e"),
        ("1", "%-m"),
        ("2", "%-d"),
        ("3", "%-I"),
        ("4", "%-M"),
        ("5", "%-S"),
        ("T", "T"),
        (" ", " "),
        ("-", "-"),
        (":", ":"),
        ("/", "/"),
    ];
    let mut format = String::new();
    let mut rest = layout;
    while !rest.is_empty() {
        if let Some((part, to)) = PARTS.iter().find(|(part, _)| rest.starts_with(part)) {
            format.push_str(to);
            rest = &rest[part.len()..];
            continue;
        }
        let letter = rest.chars().next()?;
        // Digits and letters may be a part that is not known here.
        if letter.is_alphanumeric() || letter == '%' {
            return None;
        }
        format.push(letter);
        rest = &rest[letter.len_utf8()..];
    }
    Some(format)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::*;
    use crate::spec::{LoadOptions, load_text};
    use crate::template;

    /// A name that nobody has would only be found out by whoever renders what was imported.
    #[test]
    fn every_counterpart_of_the_table_exists() {
        let mut text = String::from("name: x\ntemplates:\n");
        for (name, target, ..) in TABLE {
            let call = match target {
                Function(name) => format!("{name}()"),
                Filter(name) => format!("1 | {name}"),
            };
            text.push_str(&format!("  {name}: {{ contents: \"{{{{ {call} }}}}\", destination: /etc/{name} }}\n"));
        }
        let spec = load_text(&[("spec.yaml", &text)], &LoadOptions::default()).expect("a valid spec").spec;
        assert!(spec.templates.len() > 60);
        for template in spec.templates.values() {
            let error = template::run(template, &Arc::default(), Timestamp::UNIX_EPOCH).text.err().unwrap_or_default();
            assert!(!error.contains("unknown") && !error.contains("no counterpart"), "{}: {error}", template.name);
        }
    }

    /// All of consul-template's: none is dropped in silence, and none is an unknown one.
    #[test]
    fn each_function_of_consul_template_has_a_counterpart_or_a_reason() {
        let all = "datacenters file key keyExists keyExistsGet keyOrDefault ls safeLs node nodes peerings exportedServices \
                   partitions secret secrets service connect services tree safeTree caRoots caLeaf pkiCert nomadServices \
                   nomadService nomadVarList nomadVarListSafe nomadVar nomadVarExists scratch base64Decode base64Encode \
                   base64URLDecode base64URLEncode byKey byPort byTag byMeta contains containsAll containsAny containsNone \
                   containsNotAll env mustEnv envOrDefault executeTemplate explode explodeMap mergeMap mergeMapWithOverride \
                   in indent loop join trim trimPrefix trimSuffix trimSpace parseBool parseFloat parseInt parseJSON \
                   parseUint parseYAML plugin regexReplaceAll regexMatch replaceAll sha256Hex md5sum hmacSHA256Hex timestamp \
                   toLower toJSON toJSONPretty toUnescapedJSON toUnescapedJSONPretty toTitle toTOML toUpper toYAML split \
                   splitToMap sockaddr writeToFile add subtract multiply divide modulo minimum maximum spew_dump \
                   spew_sdump spew_printf spew_sprintf and or not eq ne lt le gt ge index slice print println printf len \
                   html js urlquery call";
        let argument = || Code::atom("x", Shape::Unknown);
        for name in all.split_whitespace() {
            let calls: Vec<_> = (0..=3).map(|count| call(name, &vec![argument(); count])).collect();
            let reasons: Vec<&str> = calls.iter().filter_map(|call| Some(call.as_ref().err()?.0.as_str())).collect();
            assert!(!reasons.iter().any(|reason| reason.contains("has such a function")), "{name}: {reasons:?}");
            assert!(
                calls.iter().any(Result::is_ok) || absent(name).is_some() || name.contains('_'),
                "{name}: {reasons:?}"
            );
        }
    }
}
