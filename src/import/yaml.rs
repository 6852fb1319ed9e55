//! Writes YAML by hand, since comments and the order of keys matter here.
//!
//! Owns when a text must be quoted. It errs towards quoting.

/// A text as a value or a key. `$` is left alone: whoever means it literally has doubled it.
pub fn scalar(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { quoted(text) }
}

/// Always in double quotes.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if letter.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            _ => out.push(letter),
        }
    }
    out.push('"');
    out
}

/// `[a, b]`.
pub fn list<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| scalar(item.as_ref())).collect();
    format!("[{}]", items.join(", "))
}

/// A literal `$` would begin a variable.
pub fn escape(text: &str) -> String {
    text.replace('$', "$$")
}

fn is_plain(text: &str) -> bool {
    let safe = |letter: char| letter.is_alphanumeric() || "_-./@+=~$ ".contains(letter);
    let first = text.chars().next();
    first.is_some_and(|letter| letter.is_alphabetic() || matches!(letter, '/' | '.' | '_' | '$'))
        && text.chars().all(safe)
        && text.trim() == text
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "false" | "yes" | "no" | "on" | "off" | "null" | "y" | "n" | ".inf" | ".nan"
        )
        && text.parse::<f64>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_yaml_would_take_for_something_else_is_quoted() {
        for plain in ["nginx", "/etc/nginx/app.conf", "a b", "app.conf.j2"] {
            assert_eq!(scalar(plain), plain);
        }
        for text in
            ["", "yes", "No", "1.5", "08", "a: b", "a #b", "- a", "{file}", "a,b", " a", "*a", "null", "-s", "1m"]
        {
            assert_eq!(scalar(text), format!("\"{text}\""));
        }
        assert_eq!(list(["nginx", "-s", "reload"]), "[nginx, \"-s\", reload]");
        assert_eq!(scalar("say \"hi\"\n"), "\"say \\\"hi\\\"\\n\"");
    }
}
