//! nginx's language, as far as a program outside of nginx must read it: words, `;` and blocks.
//!
//! Owns the reader of main configurations, which is also what the tests read rendered text back with. It follows
//! nginx's own reader (`ngx_conf_read_token`) character by character, so that both see the same structure. It knows no
//! directive's meaning, except that the body of a `…_by_lua_block` is not nginx's language.

use std::ops::Range;

/// Blocks may nest so deep; deeper is somebody's attack on the stack.
const MAX_DEPTH: usize = 100;

/// One directive with its block, if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    pub name: String,
    pub args: Vec<String>,
    pub block: Option<Vec<Directive>>,
    /// Line of its first word, from 1.
    pub line: usize,
    /// Bytes of the source, from the first word to the `;` or `}`, both included.
    pub span: Range<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct SyntaxError {
    pub line: usize,
    pub reason: String,
}

/// Reads a whole file.
///
/// # Errors
/// Where nginx's own reader would refuse, with the line.
pub fn parse(text: &str) -> Result<Vec<Directive>, SyntaxError> {
    let mut reader = Reader { bytes: text.as_bytes(), text, at: 0, line: 1 };
    let (directives, end) = reader.block(0)?;
    match end {
        End::File => Ok(directives),
        End::Block => Err(reader.error("unexpected \"}\"")),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    text: &'a str,
    at: usize,
    line: usize,
}

enum End {
    File,
    Block,
}

enum Stop {
    Semicolon,
    Open,
    Close,
    File,
}

struct Statement {
    words: Vec<String>,
    start: usize,
    line: usize,
    stop: Stop,
}

impl Reader<'_> {
    fn error(&self, reason: impl Into<String>) -> SyntaxError {
        SyntaxError { line: self.line, reason: reason.into() }
    }

    fn block(&mut self, depth: usize) -> Result<(Vec<Directive>, End), SyntaxError> {
        if depth > MAX_DEPTH {
            return Err(self.error("blocks nest too deep"));
        }
        let mut directives = Vec::new();
        loop {
            let statement = self.statement()?;
            let block = match statement.stop {
                Stop::File => return Ok((directives, End::File)),
                Stop::Close => return Ok((directives, End::Block)),
                Stop::Semicolon => None,
                Stop::Open if statement.words.first().is_some_and(|name| name.ends_with("_by_lua_block")) => {
                    self.skip_lua()?;
                    Some(Vec::new())
                }
                Stop::Open => match self.block(depth + 1)? {
                    (inner, End::Block) => Some(inner),
                    (_, End::File) => return Err(self.error("unexpected end of file, expecting \"}\"")),
                },
            };
            let mut words = statement.words.into_iter();
            let name = words.next().unwrap_or_default();
            directives.push(Directive {
                name,
                args: words.collect(),
                block,
                line: statement.line,
                span: statement.start..self.at,
            });
        }
    }

    /// Words up to `;`, `{`, `}` or the end.
    fn statement(&mut self) -> Result<Statement, SyntaxError> {
        let mut words: Vec<String> = Vec::new();
        let mut first: Option<(usize, usize)> = None;
        loop {
            self.skip_blanks();
            let (start, line) = first.unwrap_or((self.at, self.line));
            let stop = match self.bytes.get(self.at) {
                None if words.is_empty() => Some(Stop::File),
                None => return Err(self.error("unexpected end of file, expecting \";\" or \"}\"")),
                Some(b';') => Some(Stop::Semicolon),
                Some(b'{') => Some(Stop::Open),
                Some(b'}') => Some(Stop::Close),
                Some(_) => None,
            };
            if let Some(stop) = stop {
                match (&stop, words.is_empty()) {
                    (Stop::Semicolon, true) => return Err(self.error("unexpected \";\"")),
                    (Stop::Open, true) => return Err(self.error("unexpected \"{\"")),
                    (Stop::Close, false) => return Err(self.error("unexpected \"}\"")),
                    _ => {}
                }
                if !matches!(stop, Stop::File) {
                    self.at += 1;
                }
                return Ok(Statement { words, start, line, stop });
            }
            first = Some((start, line));
            words.push(self.word()?);
        }
    }

    fn skip_blanks(&mut self) {
        while let Some(byte) = self.bytes.get(self.at) {
            match byte {
                b'\n' => self.line += 1,
                b' ' | b'\t' | b'\r' => {}
                b'#' => {
                    while self.bytes.get(self.at).is_some_and(|byte| *byte != b'\n') {
                        self.at += 1;
                    }
                    continue;
                }
                _ => return,
            }
            self.at += 1;
        }
    }

    /// One word. `self.at` is at its first byte, which is no blank, `;`, `{`, `}` or `#`.
    fn word(&mut self) -> Result<String, SyntaxError> {
        let quote = match self.bytes[self.at] {
            quote @ (b'"' | b'\'') => {
                self.at += 1;
                Some(quote)
            }
            _ => None,
        };
        let start = self.at;
        // A `{` right behind a `$` belongs to the word: `${name}`.
        let mut variable = false;
        loop {
            let Some(byte) = self.bytes.get(self.at).copied() else {
                return Err(self.error("unexpected end of file, expecting \";\" or \"}\""));
            };
            if byte == b'\n' {
                self.line += 1;
            }
            match byte {
                b'{' if variable => {
                    variable = false;
                    self.at += 1;
                    continue;
                }
                b'\\' => {
                    // The next byte stands for itself; a whole character, because it cannot be a delimiter.
                    if self.bytes.get(self.at + 1) == Some(&b'\n') {
                        self.line += 1;
                    }
                    variable = false;
                    self.at = (self.at + 2).min(self.bytes.len());
                    continue;
                }
                b'$' => {
                    variable = true;
                    self.at += 1;
                    continue;
                }
                _ => variable = false,
            }
            let ends = match quote {
                Some(quote) => byte == quote,
                None => matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{'),
            };
            if ends {
                break;
            }
            self.at += 1;
        }
        let word = unescape(self.text.get(start..self.at).unwrap_or_default());
        if quote.is_none() {
            // The blank or delimiter is read again by the caller, and counted there.
            if self.bytes[self.at] == b'\n' {
                self.line -= 1;
            }
            return Ok(word);
        }
        self.at += 1;
        match self.bytes.get(self.at) {
            None | Some(b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{') => Ok(word),
            // `if ("$a" = "b") {`: nginx lets a bracket stand behind a quote.
            Some(b')') => Ok(word),
            Some(byte) => Err(self.error(format!("unexpected \"{}\"", char::from(*byte)))),
        }
    }

    /// The body of a Lua block: up to the brace that closes it, past Lua's strings and comments.
    fn skip_lua(&mut self) -> Result<(), SyntaxError> {
        let mut open = 1_usize;
        while let Some(byte) = self.bytes.get(self.at).copied() {
            let rest = &self.bytes[self.at..];
            match byte {
                b'\n' => self.line += 1,
                b'{' => open += 1,
                b'}' => {
                    open -= 1;
                    if open == 0 {
                        self.at += 1;
                        return Ok(());
                    }
                }
                b'"' | b'\'' => {
                    self.at += 1;
                    while let Some(inner) = self.bytes.get(self.at).copied() {
                        match inner {
                            b'\\' => self.at += 1,
                            b'\n' => self.line += 1,
                            _ => {}
                        }
                        if inner == byte {
                            break;
                        }
                        self.at += 1;
                    }
                }
                b'-' if rest.starts_with(b"--") => {
                    self.at += 2;
                    if !self.skip_long_bracket() {
                        while self.bytes.get(self.at).is_some_and(|byte| *byte != b'\n') {
                            self.at += 1;
                        }
                    }
                    continue;
                }
                b'[' if self.skip_long_bracket() => continue,
                _ => {}
            }
            self.at += 1;
        }
        Err(self.error("unexpected end of file in a Lua block"))
    }

    /// Lua's `[[ … ]]` and `[==[ … ]==]`; `false`, and nothing skipped, when none starts here.
    fn skip_long_bracket(&mut self) -> bool {
        let rest = &self.bytes[self.at..];
        if rest.first() != Some(&b'[') {
            return false;
        }
        let level = rest[1..].iter().take_while(|byte| **byte == b'=').count();
        if rest.get(1 + level) != Some(&b'[') {
            return false;
        }
        let close: Vec<u8> =
            std::iter::once(b']').chain(std::iter::repeat_n(b'=', level)).chain(std::iter::once(b']')).collect();
        let body = &rest[level + 2..];
        let length = body.windows(close.len()).position(|window| window == close).map(|at| at + close.len());
        let skipped = level + 2 + length.unwrap_or(body.len());
        self.line += rest[..skipped].iter().filter(|byte| **byte == b'\n').count();
        self.at += skipped;
        true
    }
}

/// nginx's escapes: `\"`, `\'`, `\\`, `\t`, `\r`, `\n`; any other backslash stays.
fn unescape(raw: &str) -> String {
    if !raw.contains('\\') {
        return raw.to_owned();
    }
    let mut word = String::with_capacity(raw.len());
    let mut characters = raw.chars().peekable();
    while let Some(character) = characters.next() {
        let escaped = match (character, characters.peek()) {
            ('\\', Some('t')) => Some('\t'),
            ('\\', Some('r')) => Some('\r'),
            ('\\', Some('n')) => Some('\n'),
            ('\\', Some(next @ ('"' | '\'' | '\\'))) => Some(*next),
            _ => None,
        };
        if escaped.is_some() {
            characters.next();
        }
        word.push(escaped.unwrap_or(character));
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Vec<String>> {
        parse(text)
            .expect(text)
            .into_iter()
            .map(|directive| std::iter::once(directive.name).chain(directive.args).collect())
            .collect()
    }

    #[test]
    fn a_real_main_configuration_is_read_with_lines_and_spans() {
        let text = "user www-data;\npid /run/nginx.pid; # here\n\nevents {\n  worker_connections 768;\n}\nhttp {\n  include /x/current/reeve.conf;\n  log_format a '$remote_addr \"$request\"'\n   'b';\n}\n";
        let tree = parse(text).expect("valid");
        assert_eq!(tree.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["user", "pid", "events", "http"]);
        let http = tree[3].block.as_ref().expect("a block");
        assert_eq!(http[0].args, ["/x/current/reeve.conf"]);
        assert_eq!(http[0].line, 8);
        assert_eq!(&text[http[0].span.clone()], "include /x/current/reeve.conf;");
        assert_eq!(http[1].args, ["a", "$remote_addr \"$request\"", "b"]);
        assert_eq!(&text[tree[2].span.clone()], "events {\n  worker_connections 768;\n}");
        assert_eq!(tree[3].line, 7);
    }

    #[test]
    fn words_are_read_as_nginx_reads_them() {
        assert_eq!(words("a b\\ c ${d}e;"), [["a", "b\\ c", "${d}e"]]);
        assert_eq!(words("a \"b;{}#\" 'c\\'d';"), [["a", "b;{}#", "c'd"]]);
        assert_eq!(words("a b}c d#e;"), [["a", "b}c", "d#e"]]);
        assert_eq!(words("a\"b c;"), [["a\"b", "c"]]);
        assert_eq!(words("a \"\\t\\\\\\x\";"), [["a", "\t\\\\x"]]);
        assert_eq!(words("if ($a = \"b\") { x; }"), [["if", "($a", "=", "b", ")"]]);
    }

    #[test]
    fn what_nginx_refuses_is_refused_with_its_line() {
        for (text, line) in
            [("a", 1), ("a {\n b;\n", 3), ("a;\n}", 2), (";", 1), ("{", 1), ("a }", 1), ("a \"b", 1), ("a \"b\"c;", 1)]
        {
            assert_eq!(parse(text).expect_err(text).line, line, "{text:?}");
        }
        assert!(parse(&"a {".repeat(100_000)).is_err(), "a deep file must not overflow the stack");
    }

    #[test]
    fn a_lua_block_is_not_read_as_nginxs_language() {
        let tree =
            parse("content_by_lua_block { local a = { '}' } -- }\n --[[ } ]] b = [=[ } ]=] } after;").expect("valid");
        assert_eq!(tree.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["content_by_lua_block", "after"]);
        assert_eq!(tree[1].line, 2);
    }
}
