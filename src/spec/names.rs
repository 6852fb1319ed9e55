//! What names and values may consist of, so that none can break out of its place: Docker's, Consul's and nginx's names.
//!
//! Owns the rules alone. Each function says why a text is refused, in words that follow "…: ".

/// A project: `[a-z0-9][a-z0-9_-]*`.
///
/// # Errors
/// Why it is none.
pub fn project(name: &str) -> Result<(), String> {
    let rest = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '_' | '-');
    let first = name.chars().next().is_some_and(|first| first.is_ascii_lowercase() || first.is_ascii_digit());
    match first && name.chars().all(rest) && name.len() <= 63 {
        true => Ok(()),
        false => Err("it must consist of a-z, 0-9, `_` and `-`, and begin with a letter or digit".to_owned()),
    }
}

/// The name of a folder as a project's name; empty when nothing of it is left.
pub fn normalise_project(folder: &str) -> String {
    let lower = folder.to_lowercase();
    let kept: String = lower
        .chars()
        .filter(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '_' | '-'))
        .take(63)
        .collect();
    kept.trim_start_matches(['_', '-']).to_owned()
}

/// A key of `services`, `volumes`, `networks`, `configs`, `secrets`, an upstream, a profile: `[a-zA-Z0-9._-]+`.
///
/// # Errors
/// Why it is none.
pub fn key(name: &str) -> Result<(), String> {
    word(name, "._-", 100)
}

/// A container, volume or network of Docker's: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, of at least two letters but for a network.
///
/// # Errors
/// Why it is none.
pub fn docker(name: &str, network: bool) -> Result<(), String> {
    match name {
        name if name.starts_with(['.', '_', '-']) => Err("it must begin with a letter or digit".to_owned()),
        name if name.len() == 1 && !network => Err("it must have at least two characters".to_owned()),
        name => word(name, "._-", 200),
    }
}

/// A service of Consul, a datacenter, a tag as it is used to select.
///
/// # Errors
/// Why it is none.
pub fn consul(name: &str) -> Result<(), String> {
    match name.starts_with(['.', '_', '-']) {
        true => Err("it must begin with a letter or digit".to_owned()),
        false => word(name, "._-", 128),
    }
}

fn word(name: &str, more: &str, longest: usize) -> Result<(), String> {
    if name.is_empty() {
        return Err("it is empty".to_owned());
    }
    if name.len() > longest {
        return Err(format!("it is longer than {longest} characters"));
    }
    match name.chars().find(|letter| !letter.is_ascii_alphanumeric() && !more.contains(*letter)) {
        Some(letter) => {
            let list: Vec<String> = more.chars().map(|letter| format!("`{letter}`")).collect();
            Err(format!("`{}` is not allowed in it, only letters, digits, {}", letter.escape_debug(), list.join(", ")))
        }
        None => Ok(()),
    }
}

/// A name of an environment variable: anything without `=` and NUL.
///
/// # Errors
/// Why it is none.
pub fn environment(name: &str) -> Result<(), String> {
    match name {
        "" => Err("it is empty".to_owned()),
        name if name.contains(['=', '\0', '\n']) => Err("`=`, NUL and line breaks are not allowed in it".to_owned()),
        _ => Ok(()),
    }
}

/// The name of an HTTP header: RFC 9110's token without the letters that mean something to nginx.
///
/// # Errors
/// Why it is none.
pub fn header(name: &str) -> Result<(), String> {
    word(name, "_-", 128)
}

/// A name that an nginx server answers to: `example.com`, `*.example.com`, `www.example.*`, `.example.com`, `_`.
///
/// # Errors
/// Why it is none.
pub fn server_name(name: &str) -> Result<(), String> {
    word(name, ".-_*", 253)?;
    let inner = name.strip_prefix('*').unwrap_or(name);
    let inner = inner.strip_suffix('*').unwrap_or(inner);
    let edges = (!name.starts_with('*') || name.starts_with("*.")) && (!name.ends_with('*') || name.ends_with(".*"));
    match !inner.contains('*') && edges {
        true => Ok(()),
        false => Err("`*` is allowed only as the first or the last part of it".to_owned()),
    }
}

/// Text that becomes part of nginx's configuration: no control characters, quotes, `;`, braces or backslashes.
///
/// # Errors
/// The letter that is not allowed.
pub fn nginx_text(text: &str) -> Result<(), String> {
    let bad = |letter: &char| letter.is_control() || matches!(letter, '"' | '\'' | ';' | '{' | '}' | '\\' | '`');
    match text.chars().find(bad) {
        Some('`') => Err("a backquote is not allowed in it".to_owned()),
        Some(letter) if letter.is_control() => {
            Err(format!("the control character `{}` is not allowed in it", letter.escape_debug()))
        }
        Some(letter) => Err(format!("`{letter}` is not allowed in it")),
        // nginx reads a word through a buffer of 4096 bytes.
        None if text.len() > 3900 => Err("it is longer than 3900 bytes".to_owned()),
        None => Ok(()),
    }
}

/// The same without blanks, `#` and `$`: one word, such as a path.
///
/// # Errors
/// The letter that is not allowed.
pub fn nginx_word(text: &str) -> Result<(), String> {
    nginx_text(text)?;
    match text.chars().find(|letter| letter.is_whitespace() || matches!(letter, '#' | '$')) {
        Some(letter) => Err(format!("`{letter}` is not allowed in it")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_break_out_of_their_place_are_refused() {
        for bad in ["a;b", "a b", "a\nb", "a{b", "a}b", "a\"b", "a'b", "", "a/b", "ä"] {
            assert!(key(bad).is_err(), "{bad:?}");
            assert!(consul(bad).is_err(), "{bad:?}");
            assert!(server_name(bad).is_err(), "{bad:?}");
            assert!(header(bad).is_err(), "{bad:?}");
        }
        for bad in ["a;b", "a\nb", "a\rb", "a{b", "a\"b", "a'b", "a\\b", "a\0b"] {
            assert!(nginx_text(bad).is_err(), "{bad:?}");
            assert!(nginx_word(bad).is_err(), "{bad:?}");
        }
        assert!(nginx_text("$host and more").is_ok());
        assert!(nginx_word("/a b").is_err());
    }

    #[test]
    fn a_folder_becomes_a_project_as_compose_does_it() {
        assert_eq!(normalise_project("My Shop.v2"), "myshopv2");
        assert_eq!(normalise_project("_-x"), "x");
        assert_eq!(normalise_project("ÄÖ"), "");
        assert!(project("shop_1-a").is_ok());
        assert!(project("Shop").is_err());
        assert!(project("-a").is_err());
    }

    #[test]
    fn a_star_stands_only_at_the_ends_of_a_server_name() {
        for good in ["example.com", "*.example.com", "www.example.*", ".example.com", "_", "localhost"] {
            assert!(server_name(good).is_ok(), "{good}");
        }
        for bad in ["a.*.com", "*a.com", "a*", "~^a$"] {
            assert!(server_name(bad).is_err(), "{bad}");
        }
    }
}
