//! Splits a command line into words, as a shell and Compose do: quotes and backslashes, nothing else.

/// The words of a line.
///
/// # Errors
/// A quote that is not closed.
pub fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (Some('"'), '\\') => match letters.next() {
                Some(next @ ('"' | '\\' | '$' | '`')) => word.get_or_insert_default().push(next),
                Some('\n') => {}
                Some(next) => word.get_or_insert_default().extend(['\\', next]),
                None => return Err("it ends within quotes".to_owned()),
            },
            (Some(_), letter) => word.get_or_insert_default().push(letter),
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, '\\') => match letters.next() {
                Some('\n') => {}
                Some(next) => word.get_or_insert_default().push(next),
                None => return Err("it ends with a backslash".to_owned()),
            },
            (None, letter) if letter.is_whitespace() => words.extend(word.take()),
            (None, letter) => word.get_or_insert_default().push(letter),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_line_is_split_as_a_shell_splits_it() {
        let of = |line: &str| split(line).expect("every quote is closed");
        assert_eq!(of("agent -server  -node=a"), ["agent", "-server", "-node=a"]);
        assert_eq!(of("sh -c 'echo \"a b\"'"), ["sh", "-c", "echo \"a b\""]);
        assert_eq!(of(r#"a "b \" c" d\ e"#), ["a", "b \" c", "d e"]);
        assert_eq!(of("--empty='' x"), ["--empty=", "x"]);
        assert_eq!(of("'' x"), ["", "x"]);
        assert_eq!(of("a \\\n b"), ["a", "b"]);
        assert!(of("  ").is_empty());
        assert!(split("echo 'a").is_err());
        assert!(split("echo \\").is_err());
    }
}
