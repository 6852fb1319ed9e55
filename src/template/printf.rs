//! `printf`, with Go's verbs.

use std::fmt::Write as _;

use minijinja::Error;
use minijinja::value::{Value, ValueKind};

use super::shared::{problem, text};

/// The widest field.
const WIDEST: usize = 1000;

#[derive(Default)]
struct Flags {
    minus: bool,
    plus: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

/// Go's `fmt.Sprintf`, for `%s %d %v %q %x %X %t %f %e %g %c %%` with flags, width and precision.
pub(super) fn printf(format: &str, arguments: &[Value]) -> Result<String, Error> {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut letters = format.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut flags = Flags::default();
        while let Some(flag) = letters.next_if(|c| "-+0 #".contains(*c)) {
            match flag {
                '-' => flags.minus = true,
                '+' => flags.plus = true,
                '0' => flags.zero = true,
                _ => {}
            }
        }
        flags.width = number(&mut letters)?.unwrap_or_default();
        if letters.next_if_eq(&'.').is_some() {
            flags.precision = Some(number(&mut letters)?.unwrap_or_default());
        }
        let Some(verb) = letters.next() else { return Err(problem("printf: the format ends within a verb")) };
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = arguments.next() else {
            return Err(problem(format!("printf: there is no argument for %{verb}")));
        };
        if value.is_undefined() {
            return Err(Error::from(minijinja::ErrorKind::UndefinedError));
        }
        padded(&mut out, &one(verb, value, &flags)?, &flags, verb);
    }
    match arguments.next() {
        Some(_) => Err(problem("printf: there are more arguments than verbs")),
        None => Ok(out),
    }
}

fn number(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Option<usize>, Error> {
    let mut digits = String::new();
    while let Some(digit) = letters.next_if(char::is_ascii_digit) {
        digits.push(digit);
    }
    if digits.is_empty() {
        return Ok(None);
    }
    digits
        .parse()
        .ok()
        .filter(|width| *width <= WIDEST)
        .map(Some)
        .ok_or_else(|| problem(format!("printf: a width or precision of more than {WIDEST}")))
}

fn one(verb: char, value: &Value, flags: &Flags) -> Result<String, Error> {
    let wrong = |what: &str| problem(format!("printf: %{verb} takes {what}"));
    let whole = || value.as_i64().filter(|_| value.kind() == ValueKind::Number);
    let float = || f64::try_from(value.clone()).map_err(|_| wrong("a number"));
    let signed = |text: String, negative: bool| if flags.plus && !negative { format!("+{text}") } else { text };
    let cut = |text: String| match flags.precision {
        Some(most) => text.chars().take(most).collect(),
        None => text,
    };
    Ok(match verb {
        's' => cut(text(value)),
        'v' => text(value),
        'q' => serde_json::to_string(&text(value)).map_err(|_| wrong("a text"))?,
        'd' => {
            let number = whole().ok_or_else(|| wrong("a whole number"))?;
            signed(number.to_string(), number < 0)
        }
        'x' | 'X' => {
            let text = match (whole(), value.as_str()) {
                (Some(number), _) if number < 0 => format!("-{:x}", number.unsigned_abs()),
                (Some(number), _) => format!("{number:x}"),
                (None, Some(text)) => crate::spec::container::hex(text.as_bytes()),
                (None, None) => return Err(wrong("a whole number or a text")),
            };
            if verb == 'X' { text.to_uppercase() } else { text }
        }
        't' => match value.kind() {
            ValueKind::Bool => text(value),
            _ => return Err(wrong("true or false")),
        },
        'f' | 'F' => {
            let number = float()?;
            signed(format!("{number:.*}", flags.precision.unwrap_or(6)), number < 0.0)
        }
        'g' => {
            let number = float()?;
            signed(number.to_string(), number < 0.0)
        }
        'c' => {
            let letter = whole().and_then(|number| u32::try_from(number).ok()).and_then(char::from_u32);
            letter.ok_or_else(|| wrong("the number of a letter"))?.to_string()
        }
        other => {
            return Err(problem(format!("printf: there is no verb %{other}; it knows %s %d %v %q %x %t %f %g %c %%")));
        }
    })
}

fn padded(out: &mut String, text: &str, flags: &Flags, verb: char) {
    let missing = flags.width.saturating_sub(text.chars().count());
    let zeros = flags.zero && !flags.minus && "dxXfFg".contains(verb);
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) if zeros => (&text[..1], digits),
        _ => ("", text),
    };
    let fill = if zeros { "0" } else { " " }.repeat(missing);
    let (before, after) = if flags.minus { ("", fill.as_str()) } else { (fill.as_str(), "") };
    write!(out, "{sign}{before}{digits}{after}").expect("writing to a String cannot fail");
}
