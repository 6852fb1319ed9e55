//! Values on their way into nginx's language: quoted so that they cannot break out of their place, or refused.
//!
//! Owns the rules of the lexer (what a bare word may hold, what a quoted one must escape) and of the few places where
//! quoting alone is not enough (an address, a name). It must not know what the values mean: that is `scene`'s.
//! The proof that nothing breaks out is in the tests: what is written here is read back by `syntax`, which follows
//! nginx's own reader.

use std::borrow::Cow;

use super::syntax;

/// nginx reads its configuration through a buffer of 4096 bytes, and refuses a word that does not fit.
const MAX_WORD: usize = 4000;

/// Why a value was refused. It never holds the value itself, which may be a credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("holds a control character (a line break, a tab, …), which nginx's language cannot carry safely")]
    Control,
    #[error("is {0} bytes long; nginx takes at most {MAX_WORD} in one word")]
    TooLong(usize),
    #[error("is empty")]
    Empty,
    #[error("holds {0:?}; only {1} may occur here")]
    Character(char, &'static str),
    #[error("must be words for one directive: {0}")]
    Words(&'static str),
}

/// Bytes that mean nothing to nginx's reader, wherever they stand in a word.
fn is_bare(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-./:*$@%+,=~^?&[]".contains(&byte)
}

/// Bytes that are harmless in *every* place, also when a template glues them to other text: no `$`, so no variable.
fn is_plain(byte: u8) -> bool {
    is_bare(byte) && !b"$~^?&".contains(&byte)
}

/// One word of nginx's language that reads back as exactly `value`: bare when it can be, else in double quotes.
///
/// # Errors
/// Control characters, and more than nginx's buffer holds.
pub fn quote(value: &str) -> Result<Cow<'_, str>, Refused> {
    if value.len() > MAX_WORD {
        return Err(Refused::TooLong(value.len()));
    }
    if value.chars().any(char::is_control) {
        return Err(Refused::Control);
    }
    if !value.is_empty() && value.bytes().all(is_bare) {
        return Ok(Cow::Borrowed(value));
    }
    let mut text = String::with_capacity(value.len() + 2);
    text.push('"');
    for character in value.chars() {
        if matches!(character, '"' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text.push('"');
    if text.len() > MAX_WORD + 2 {
        return Err(Refused::TooLong(text.len()));
    }
    Ok(Cow::Owned(text))
}

/// The value itself, if it is harmless in any place without quotes.
///
/// # Errors
/// Everything but letters, digits and `_ - . / : * @ % + , = [ ]`.
pub fn check(value: &str) -> Result<&str, Refused> {
    if value.is_empty() {
        return Err(Refused::Empty);
    }
    if value.len() > MAX_WORD {
        return Err(Refused::TooLong(value.len()));
    }
    only(value, is_plain, "letters, digits and _ - . / : * @ % + , = [ ]")
}

/// Several words for one directive (`8 16k`, `X-Frame-Options "SAMEORIGIN" always`), each quoted anew.
///
/// # Errors
/// No word, a word that cannot be quoted, and everything that would end the directive: `;`, `{`, `}`, `#` outside of quotes.
pub fn words(value: &str) -> Result<String, Refused> {
    if value.chars().any(char::is_control) {
        return Err(Refused::Control);
    }
    let directives = syntax::parse(&format!("x {value};"))
        .map_err(|_| Refused::Words("a quote is not closed, or something stands behind one"))?;
    let [directive] = directives.as_slice() else {
        return Err(Refused::Words("it holds a `;` outside of quotes"));
    };
    if directive.block.is_some() {
        return Err(Refused::Words("it opens a block"));
    }
    // What was read must be all that there was: a comment swallows the rest of a line.
    if directive.span.end != "x ;".len() + value.len() {
        return Err(Refused::Words("it holds a `;` or a `#` outside of quotes"));
    }
    if directive.args.is_empty() {
        return Err(Refused::Empty);
    }
    let mut text = String::with_capacity(value.len() + 8);
    for (index, word) in directive.args.iter().enumerate() {
        if index > 0 {
            text.push(' ');
        }
        text.push_str(&quote(word)?);
    }
    Ok(text)
}

/// An IP address or a host name, as an endpoint has it.
///
/// # Errors
/// Everything but letters, digits and `. _ : -`.
pub fn check_address(value: &str) -> Result<&str, Refused> {
    if value.is_empty() {
        return Err(Refused::Empty);
    }
    if value.len() > 253 {
        return Err(Refused::TooLong(value.len()));
    }
    only(value, |byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte), "letters, digits and . _ : -")
}

/// A name that becomes part of a file's name and of a name in nginx's language.
///
/// # Errors
/// Everything but letters, digits and `. _ -`, and more than 100 bytes.
pub fn check_name(value: &str) -> Result<&str, Refused> {
    if value.is_empty() {
        return Err(Refused::Empty);
    }
    if value.len() > 100 {
        return Err(Refused::TooLong(value.len()));
    }
    only(value, |byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte), "letters, digits and . _ -")
}

fn only<'a>(value: &'a str, allowed: fn(u8) -> bool, words: &'static str) -> Result<&'a str, Refused> {
    if value.bytes().all(allowed) {
        return Ok(value);
    }
    match value.chars().find(|character| !u8::try_from(*character).is_ok_and(allowed)) {
        None => Ok(value),
        Some(character) if character.is_control() => Err(Refused::Control),
        Some(character) => Err(Refused::Character(character, words)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_back(text: &str) -> Vec<String> {
        let tree = syntax::parse(&format!("before; name {text}; after;")).expect("what was quoted must be readable");
        let names: Vec<&str> = tree.iter().map(|directive| directive.name.as_str()).collect();
        assert_eq!(names, ["before", "name", "after"], "{text}");
        assert!(tree.iter().all(|directive| directive.block.is_none()), "{text}");
        tree[1].args.clone()
    }

    #[test]
    fn a_plain_word_stays_as_it_is_and_everything_else_is_quoted() {
        assert_eq!(quote("10.0.0.1:80").expect("plain"), "10.0.0.1:80");
        assert_eq!(quote("https://$host$request_uri").expect("plain"), "https://$host$request_uri");
        assert_eq!(quote("").expect("empty"), "\"\"");
        assert_eq!(quote("a;b").expect("quoted"), "\"a;b\"");
        assert_eq!(quote("a\"b\\n").expect("quoted"), "\"a\\\"b\\\\n\"");
        assert_eq!(quote("${x}").expect("quoted"), "\"${x}\"");
        assert_eq!(quote("#x").expect("quoted"), "\"#x\"");
    }

    #[test]
    fn a_line_break_is_refused_everywhere() {
        for text in ["a\nb", "a\rb", "\0", "a\tb", "\u{85}"] {
            assert_eq!(quote(text), Err(Refused::Control), "{text:?}");
            assert_eq!(words(text), Err(Refused::Control), "{text:?}");
            assert!(check(text).is_err(), "{text:?}");
            assert!(check_address(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_directives_value_may_be_several_words_but_never_more_than_one_directive() {
        assert_eq!(words("8 16k").expect("two words"), "8 16k");
        assert_eq!(words("X-A 'b c' always").expect("three words"), "X-A \"b c\" always");
        for bad in ["", " ", "on; deny all", "on;", "on {", "on }", "\"open", "a #b", "#", "\"a\"b", "x {}", "on; #"] {
            assert!(words(bad).is_err(), "{bad:?} gave {:?}", words(bad));
        }
    }

    #[test]
    fn an_error_never_shows_the_value() {
        let secret = "s3cret;value";
        for text in [check(secret).map(str::to_owned), words(secret), check_address(secret).map(str::to_owned)] {
            let error = text.expect_err("refused").to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_quoted_reads_back_as_exactly_one_word(value in "\\PC*") {
            let text = quote(&value).expect("no control character in it");
            prop_assert_eq!(read_back(&text), vec![value]);
        }

        #[test]
        fn nothing_that_nginx_gives_a_meaning_breaks_out(value in "[ -~;{}\"'\\\\#$()]{0,30}") {
            let text = quote(&value).expect("printable");
            prop_assert_eq!(read_back(&text), vec![value.clone()]);
            if let Ok(text) = words(&value) {
                prop_assert!(!read_back(&text).is_empty());
            }
            if check(&value).is_ok() {
                prop_assert_eq!(read_back(&value), vec![value.clone()]);
            }
        }
    }
}
