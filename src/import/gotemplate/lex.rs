//! Go's template text as pieces: text, comments, and actions with their tokens.
//!
//! Owns delimiters, trim markers and tokens. It must not know what a word means. Every piece and token knows its bytes in
//! the source, since whoever migrates has to find the line that has no counterpart.

use std::ops::Range;

/// What is wrong, and the bytes of the source that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub range: Range<usize>,
    pub message: String,
}

impl Fault {
    pub fn new(range: Range<usize>, message: impl Into<String>) -> Self {
        Self { range, message: message.into() }
    }
}

/// The delimiters of an action, and whether white space around it is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// With the delimiters.
    pub range: Range<usize>,
    pub trim_left: bool,
    pub trim_right: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    Text(Range<usize>),
    Comment { tag: Tag, text: String },
    Action { tag: Tag, tokens: Vec<Token> },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub kind: TokenKind,
    pub range: Range<usize>,
    /// No white space before it: `.A.B` is one operand, `.A .B` are two.
    pub glued: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum TokenKind {
    /// A function or a keyword.
    Word(String),
    /// `.Name`.
    Field(String),
    Dot,
    /// `$name`; empty for `$` alone.
    Variable(String),
    Text(String),
    /// As minijinja writes it.
    Number(String),
    Declare,
    Assign,
    Pipe,
    Comma,
    Open,
    Close,
}

/// Cuts a template into pieces.
///
/// # Errors
/// The first thing that Go would refuse: an action without its end, a text without its closing quote, a stray character.
pub fn pieces(source: &str, left: &str, right: &str) -> Result<Vec<Piece>, Fault> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < source.len() {
        let Some(found) = source[at..].find(left) else {
            pieces.push(Piece::Text(at..source.len()));
            break;
        };
        let start = at + found;
        if found > 0 {
            pieces.push(Piece::Text(at..start));
        }
        let mut inner = start + left.len();
        let bytes = source.as_bytes();
        let blank = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_whitespace);
        // A minus without a blank after it begins a number.
        let trim_left = bytes.get(inner) == Some(&b'-') && blank(inner + 1);
        if trim_left {
            inner += 2;
        }
        let lead = source[inner..].len() - source[inner..].trim_start().len();
        if source[inner + lead..].starts_with("/*") {
            let (piece, end) = comment(source, start, inner + lead, right, trim_left)?;
            pieces.push(piece);
            at = end;
            continue;
        }
        let (tokens, close) = Lexer { source, at: inner, right }.tokens(start)?;
        let trim_right = close.trim;
        let tag = Tag { range: start..close.end, trim_left, trim_right };
        if tokens.is_empty() {
            return Err(Fault::new(tag.range, "this action is empty"));
        }
        pieces.push(Piece::Action { tag, tokens });
        at = close.end;
    }
    Ok(pieces)
}

fn comment(source: &str, start: usize, inner: usize, right: &str, trim_left: bool) -> Result<(Piece, usize), Fault> {
    // Behind the opening, or `/*/` would close itself.
    let Some(length) = source[inner + 2..].find("*/") else {
        return Err(Fault::new(start..inner + 2, "this comment has no end: `*/` is missing"));
    };
    let text = source[inner + 2..inner + 2 + length].trim().to_owned();
    let after = inner + length + 4;
    let rest = &source[after..];
    let trimmed = rest.trim_start();
    let trim_right = trimmed.len() < rest.len() && trimmed.starts_with('-');
    let close = if trim_right { &trimmed[1..] } else { rest };
    if !close.starts_with(right) {
        return Err(Fault::new(start..after, format!("a comment must end with `*/{right}`")));
    }
    let end = source.len() - close.len() + right.len();
    let tag = Tag { range: start..end, trim_left, trim_right };
    Ok((Piece::Comment { tag, text }, end))
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    right: &'a str,
}

struct Close {
    end: usize,
    trim: bool,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.source[self.at..]
    }

    fn tokens(mut self, start: usize) -> Result<(Vec<Token>, Close), Fault> {
        let mut tokens: Vec<Token> = Vec::new();
        let mut depth = 0_usize;
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start().len();
            // A trim marker needs a blank before it, or it is a minus.
            if blank > 0 && rest[blank..].strip_prefix('-').is_some_and(|rest| rest.starts_with(self.right)) {
                let end = self.at + blank + 1 + self.right.len();
                return self.closed(tokens, depth, Close { end, trim: true });
            }
            self.at += blank;
            if self.rest().starts_with(self.right) {
                let end = self.at + self.right.len();
                return self.closed(tokens, depth, Close { end, trim: false });
            }
            if self.rest().is_empty() {
                let shown = start..self.source[start..].find('\n').map_or(self.source.len(), |end| start + end);
                return Err(Fault::new(shown, format!("this action has no end: `{}` is missing", self.right)));
            }
            let from = self.at;
            let kind = self.token()?;
            match kind {
                TokenKind::Open => depth += 1,
                TokenKind::Close if depth == 0 => {
                    return Err(Fault::new(from..self.at, "this parenthesis was not opened"));
                }
                TokenKind::Close => depth -= 1,
                _ => {}
            }
            tokens.push(Token { kind, range: from..self.at, glued: blank == 0 && !tokens.is_empty() });
        }
    }

    fn closed(&self, tokens: Vec<Token>, depth: usize, close: Close) -> Result<(Vec<Token>, Close), Fault> {
        if depth > 0
            && let Some(open) = tokens.iter().rev().find(|token| token.kind == TokenKind::Open)
        {
            return Err(Fault::new(open.range.clone(), "this parenthesis is not closed"));
        }
        Ok((tokens, close))
    }

    fn token(&mut self) -> Result<TokenKind, Fault> {
        let rest = self.rest();
        let word =
            |from: usize| rest[from..].find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len() - from);
        let mut letters = rest.chars();
        let (first, second) = (letters.next().unwrap_or_default(), letters.next().unwrap_or_default());
        let (kind, length) = match first {
            '(' => (TokenKind::Open, 1),
            ')' => (TokenKind::Close, 1),
            '|' => (TokenKind::Pipe, 1),
            ',' => (TokenKind::Comma, 1),
            '=' => (TokenKind::Assign, 1),
            ':' if second == '=' => (TokenKind::Declare, 2),
            '$' => (TokenKind::Variable(rest[1..1 + word(1)].to_owned()), 1 + word(1)),
            '.' if second.is_ascii_digit() => return self.number(),
            '.' if second.is_alphabetic() || second == '_' => {
                (TokenKind::Field(rest[1..1 + word(1)].to_owned()), 1 + word(1))
            }
            '.' => (TokenKind::Dot, 1),
            '"' => return self.quoted(),
            '`' => {
                let Some(end) = rest[1..].find('`') else {
                    return Err(Fault::new(self.line(), "this text has no end: the closing ` is missing"));
                };
                (TokenKind::Text(rest[1..=end].to_owned()), end + 2)
            }
            '\'' => return self.character(),
            '+' | '-' if second.is_ascii_digit() || second == '.' => return self.number(),
            _ if first.is_ascii_digit() => return self.number(),
            _ if first.is_alphabetic() || first == '_' => (TokenKind::Word(rest[..word(0)].to_owned()), word(0)),
            _ => {
                let range = self.at..self.at + first.len_utf8();
                return Err(Fault::new(range, format!("`{first}` has no meaning here")));
            }
        };
        self.at += length;
        Ok(kind)
    }

    /// From here to the end of the line.
    fn line(&self) -> Range<usize> {
        self.at..self.at + self.rest().find('\n').unwrap_or(self.rest().len())
    }

    fn number(&mut self) -> Result<TokenKind, Fault> {
        let rest = self.rest();
        let sign = usize::from(rest.starts_with(['+', '-']));
        let mut length = sign;
        let mut previous = ' ';
        for letter in rest[sign..].chars() {
            let exponent =
                matches!(letter, '+' | '-') && matches!(previous, 'e' | 'E') && !rest[sign..].starts_with("0x");
            if !(letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_') || exponent) {
                break;
            }
            previous = letter;
            length += letter.len_utf8();
        }
        let digits = rest[sign..length].replace('_', "");
        let negative = if rest.starts_with('-') { "-" } else { "" };
        let lower = digits.to_ascii_lowercase();
        let whole = match lower.get(..2) {
            Some("0x") => i64::from_str_radix(&lower[2..], 16).ok(),
            Some("0b") => i64::from_str_radix(&lower[2..], 2).ok(),
            Some("0o") => i64::from_str_radix(&lower[2..], 8).ok(),
            _ if lower.len() > 1 && lower.starts_with('0') => i64::from_str_radix(&lower[1..], 8).ok(),
            _ => lower.parse().ok(),
        };
        let text = match (whole, lower.parse::<f64>()) {
            (Some(whole), _) => format!("{negative}{whole}"),
            (None, Ok(number)) if number.is_finite() && lower.starts_with(|c: char| c.is_ascii_digit() || c == '.') => {
                // Go prints a whole one without a point.
                let whole = number.fract() == 0.0 && number < 1e15;
                if whole { format!("{negative}{number}") } else { format!("{negative}{number:?}") }
            }
            _ => return Err(Fault::new(self.at..self.at + length.max(1), "this is not a number that Go knows")),
        };
        self.at += length;
        Ok(TokenKind::Number(text))
    }

    fn character(&mut self) -> Result<TokenKind, Fault> {
        let (text, length) = self.unescape('\'')?;
        let mut letters = text.chars();
        match (letters.next(), letters.next()) {
            (Some(letter), None) => {
                self.at += length;
                Ok(TokenKind::Number(u32::from(letter).to_string()))
            }
            _ => Err(Fault::new(self.at..self.at + length, "one character must stand between single quotes")),
        }
    }

    fn quoted(&mut self) -> Result<TokenKind, Fault> {
        let (text, length) = self.unescape('"')?;
        self.at += length;
        Ok(TokenKind::Text(text))
    }

    /// The text between here and the closing quote, and the bytes that it takes in the source.
    fn unescape(&self, quote: char) -> Result<(String, usize), Fault> {
        let rest = self.rest();
        let missing = || Fault::new(self.line(), format!("this text has no end: the closing {quote} is missing"));
        let mut text: Vec<u8> = Vec::new();
        let mut letters = rest.char_indices().skip(1);
        let mut buffer = [0; 4];
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\n' => return Err(missing()),
                _ if letter == quote => {
                    let bad = |_| Fault::new(self.at..self.at + at + 1, "the escapes of this text are not UTF-8");
                    return Ok((String::from_utf8(text).map_err(bad)?, at + 1));
                }
                '\\' => {
                    let (_, kind) = letters.next().ok_or_else(missing)?;
                    let digits = match kind {
                        'x' => 2,
                        'u' => 4,
                        'U' => 8,
                        '0'..='7' => 2,
                        _ => 0,
                    };
                    let from = if kind.is_ascii_digit() { at + 1 } else { at + 2 };
                    let mut end = from + usize::from(kind.is_ascii_digit());
                    for _ in 0..digits {
                        end = letters.next().ok_or_else(missing)?.0 + 1;
                    }
                    let unknown = || Fault::new(self.at + at..self.at + end.max(at + 2), "Go knows no such escape");
                    let value = |radix| u32::from_str_radix(rest.get(from..end).unwrap_or_default(), radix).ok();
                    match kind {
                        'a' => text.push(7),
                        'b' => text.push(8),
                        'f' => text.push(12),
                        'n' => text.push(b'\n'),
                        'r' => text.push(b'\r'),
                        't' => text.push(b'\t'),
                        'v' => text.push(11),
                        '\\' | '\'' | '"' => text.extend_from_slice(kind.encode_utf8(&mut buffer).as_bytes()),
                        'x' => text.push(value(16).and_then(|byte| u8::try_from(byte).ok()).ok_or_else(unknown)?),
                        '0'..='7' => text.push(value(8).and_then(|byte| u8::try_from(byte).ok()).ok_or_else(unknown)?),
                        'u' | 'U' => {
                            let letter = value(16).and_then(char::from_u32).ok_or_else(unknown)?;
                            text.extend_from_slice(letter.encode_utf8(&mut buffer).as_bytes());
                        }
                        _ => return Err(unknown()),
                    }
                }
                _ => text.extend_from_slice(letter.encode_utf8(&mut buffer).as_bytes()),
            }
        }
        Err(missing())
    }
}
