//! What looks like a credential: by its name, or by its value being a URL with a password.
//!
//! Owns the guess, and how credentials are hidden in texts. It errs towards "is one": a value that is taken for a credential is only shown as a digest, one
//! that is not ends up in labels, plans and logs.

use super::container::Secret;

/// Parts of a name that mark a credential.
const WORDS: [&str; 12] = [
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "SECRET",
    "TOKEN",
    "API_KEY",
    "APIKEY",
    "PRIVATE_KEY",
    "ACCESS_KEY",
    "ENCRYPTION_KEY",
    "CREDENTIAL",
    "HTPASS",
];

/// Ends of a name that mark a credential (`MYSQL_PWD`, `DB_PASS`, `APP_KEY`).
const ENDS: [&str; 6] = ["_PASS", "_PWD", "_AUTH", "_DSN", "_KEY", "_SALT"];

/// Ends of a name that are for everyone, though they look like one of the above.
const PUBLIC: [&str; 1] = ["PUBLIC_KEY"];

/// Ends of a name that say that the value only points at a credential.
const POINTERS: [&str; 3] = ["_FILE", "_PATH", "_DIR"];

/// Does the name of an environment variable say that its value is a credential?
pub fn name_is_credential(name: &str) -> bool {
    let name = name.to_ascii_uppercase().replace(['-', '.'], "_");
    if POINTERS.iter().chain(&PUBLIC).any(|end| name.ends_with(end)) {
        return false;
    }
    WORDS.iter().any(|word| name.contains(word)) || ENDS.iter().any(|end| name.ends_with(end)) || name == "PASS"
}

/// Is the value a URL with a password (`postgres://user:password@host`)?
pub fn value_is_credential(value: &str) -> bool {
    password_of_url(value).is_some() || value.contains("-----BEGIN")
}

/// A text with the credentials in it replaced by asterisks: whole, line by line where they have several, and the password
/// of a URL alone.
pub fn mask<'a>(text: &str, secrets: impl Iterator<Item = &'a Secret>) -> String {
    let mut parts: Vec<&str> = secrets.flat_map(|secret| parts(secret.reveal())).collect();
    // A part of a longer one must not spoil it.
    parts.sort_unstable_by_key(|part| std::cmp::Reverse(part.len()));
    parts.iter().fold(text.to_owned(), |text, part| text.replace(part, MASK))
}

const MASK: &str = "******";
/// A line of a credential that has several says something only when it is longer than this.
const SHORT_LINE: usize = 8;

fn parts(value: &str) -> Vec<&str> {
    let several = value.trim().contains('\n');
    let lines = value.lines().map(str::trim).filter(move |line| several && line.len() > SHORT_LINE);
    let password = password_of_url(value).map(|range| &value[range]);
    std::iter::once(value.trim()).chain(lines).chain(password).filter(|part| !part.is_empty()).collect()
}

/// The bytes of the password in the first URL of the text.
fn password_of_url(text: &str) -> Option<std::ops::Range<usize>> {
    let mut from = 0;
    while let Some(found) = text[from..].find("://") {
        let start = from + found + 3;
        let end = text[start..].find(['/', ' ', '"', '\'', '?', '#']).map_or(text.len(), |end| start + end);
        let authority = &text[start..end];
        if let Some((user, _)) = authority.rsplit_once('@')
            && let Some(colon) = user.find(':')
            && colon + 1 < user.len()
        {
            return Some(start + colon + 1..start + user.len());
        }
        from = start;
    }
    None
}

/// A line of a spec file with the credentials in it replaced by asterisks, of the same length in bytes, so that columns
/// stay. A reference (`${NAME}`) is left: it says nothing.
pub fn mask_line(line: &str) -> String {
    let mut hidden = vec![false; line.len()];
    for (at, separator) in line.char_indices().filter(|(_, letter)| matches!(letter, ':' | '=')) {
        let before = line[..at].trim_end_matches([' ', '"', '\'']);
        let start = before.rfind(|letter: char| !is_name(letter)).map_or(0, |found| found + letter_len(before, found));
        let name = &before[start..];
        // `secrets:` and `secret:` are words of Compose, followed by names.
        let compose = matches!(name, "secrets" | "secret" | "x-secrets");
        if name.is_empty() || compose || !name_is_credential(name) {
            continue;
        }
        let rest = &line[at + separator.len_utf8()..];
        let value_start = line.len() - rest.trim_start().len();
        let value = &line[value_start..];
        if value.starts_with('$') || value.starts_with("\"$") || value.starts_with("'$") {
            continue;
        }
        let end = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => value[1..].find(quote).map_or(value.len(), |end| end + 1),
            _ => value.find([',', '}', ']', '"']).or_else(|| value.find(" #")).unwrap_or(value.len()),
        };
        hidden[value_start..value_start + end].fill(true);
    }
    if let Some(range) = password_of_url(line)
        && !line[range.clone()].starts_with('$')
    {
        hidden[range].fill(true);
    }
    let mut masked = String::with_capacity(line.len());
    for (at, letter) in line.char_indices() {
        match hidden[at] && !matches!(letter, '"' | '\'' | ' ') {
            true => masked.extend(std::iter::repeat_n('*', letter.len_utf8())),
            false => masked.push(letter),
        }
    }
    masked
}

fn is_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.')
}

fn letter_len(text: &str, at: usize) -> usize {
    text[at..].chars().next().map_or(1, char::len_utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_urls_that_carry_a_password_are_credentials() {
        for name in [
            "POSTGRES_PASSWORD",
            "db_pass",
            "GITHUB_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "MYSQL_PWD",
            "api-key",
            "APP_KEY",
            "AUTH_SALT",
        ] {
            assert!(name_is_credential(name), "{name}");
        }
        for name in ["POSTGRES_PASSWORD_FILE", "COMPASS", "HOME", "PORT", "KEY_SIZE", "VAPID_PUBLIC_KEY"] {
            assert!(!name_is_credential(name), "{name}");
        }
        assert!(value_is_credential("postgres://app:hunter2@db/app"));
        assert!(!value_is_credential("http://localhost:8080/a@b"));
        assert!(!value_is_credential("redis://cache:6379"));
    }

    #[test]
    fn a_log_hides_what_the_spec_calls_secret() {
        let secret = |value: &str| Secret::new("shop/web", value.to_owned());
        let hidden = |text: &str, values: &[&str]| {
            let secrets: Vec<Secret> = values.iter().map(|value| secret(value)).collect();
            mask(text, secrets.iter())
        };
        assert_eq!(hidden("login as app with hunter2!", &["hunter2"]), "login as app with ******!");
        assert_eq!(hidden("cannot log in with sword", &["pg://app:sword@db/x"]), "cannot log in with ******");
        assert_eq!(hidden("ab12 ab", &["ab", "ab12"]), "****** ******");
        assert_eq!(hidden("key MIIEvQIBADAN", &["-----BEGIN\nMIIEvQIBADAN\n-----END\n"]), "key ******");
        assert_eq!(hidden("nothing", &["", "\n"]), "nothing");
    }

    #[test]
    fn a_shown_line_hides_credentials_and_keeps_its_columns() {
        assert_eq!(mask_line("  DB_PASSWORD: hunter2"), "  DB_PASSWORD: *******");
        assert_eq!(mask_line("  - API_KEY=abc # x"), "  - API_KEY=*** # x");
        assert_eq!(mask_line("{ TOKEN: abc, A: b }"), "{ TOKEN: ***, A: b }");
        assert_eq!(mask_line("  DB_PASSWORD: ${PW}"), "  DB_PASSWORD: ${PW}");
        assert_eq!(mask_line("  URL: pg://u:pw@h/d"), "  URL: pg://u:**@h/d");
        assert_eq!(mask_line("    secrets: [db_password]"), "    secrets: [db_password]");
        assert_eq!(mask_line("  PASSWORD: \"häß\" # é"), "  PASSWORD: \"*****\" # é");
    }
}
