//! The pieces of a Go template as a tree of statements and expressions.
//!
//! Owns Go's grammar. It must not know minijinja, nor what a function does. A pipeline is brought to plain calls here: what
//! is piped is the last argument.

use std::ops::Range;

use super::lex::{self, Fault, Piece, Tag, Token, TokenKind};

#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    pub kind: ExpressionKind,
    pub range: Range<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ExpressionKind {
    Dot,
    /// Empty for `$`.
    Variable(String),
    Field(Box<Expression>, String),
    Text(String),
    Number(String),
    Boolean(bool),
    Nil,
    Call(String, Vec<Expression>),
    /// A field that is called with arguments.
    Method(Box<Expression>, String, Vec<Expression>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    /// One, or two of a `range`.
    pub variables: Vec<String>,
    /// `=`, not `:=`.
    pub assigns: bool,
    pub value: Expression,
}

/// `if` or `else if`; `with` or `else with`.
#[derive(Debug, Clone, PartialEq)]
pub struct Branch {
    pub tag: Tag,
    pub pipeline: Pipeline,
    pub body: Vec<Statement>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Otherwise {
    pub tag: Tag,
    pub body: Vec<Statement>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    Text(Range<usize>),
    Comment { tag: Tag, text: String },
    Output { tag: Tag, pipeline: Pipeline },
    If { branches: Vec<Branch>, otherwise: Option<Otherwise>, end: Tag },
    With { branches: Vec<Branch>, otherwise: Option<Otherwise>, end: Tag },
    Range { branch: Branch, otherwise: Option<Otherwise>, end: Tag },
    Define { tag: Tag, name: String, body: Vec<Statement>, end: Tag },
    Block { tag: Tag, name: String, argument: Expression, body: Vec<Statement>, end: Tag },
    Template { tag: Tag, name: String, argument: Option<Expression> },
    Break(Tag),
    Continue(Tag),
}

/// Deepest nesting of blocks and of parentheses.
const MAX_DEPTH: usize = 64;

/// Reads a template.
///
/// # Errors
/// The first thing that Go would refuse.
pub fn parse(source: &str, left: &str, right: &str) -> Result<Vec<Statement>, Fault> {
    let pieces = lex::pieces(source, left, right)?;
    let mut parser = Parser { pieces: pieces.into_iter(), depth: 0, loops: 0 };
    match parser.body(None)? {
        (body, None) => Ok(body),
        (_, Some(stop)) => Err(Fault::new(stop.tag.range, format!("this `{}` belongs to nothing", stop.word))),
    }
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    depth: usize,
    loops: usize,
}

/// The action that ended a body: `end`, or `else` with what follows it.
struct Stop {
    tag: Tag,
    word: &'static str,
    rest: Vec<Token>,
}

impl Parser {
    /// Statements up to `else` or `end`. `opened`: the tag that waits for it; none at the top.
    fn body(&mut self, opened: Option<&Tag>) -> Result<(Vec<Statement>, Option<Stop>), Fault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let range = opened.map_or(0..0, |tag| tag.range.clone());
            return Err(Fault::new(range, format!("nested more than {MAX_DEPTH} levels deep")));
        }
        let mut body = Vec::new();
        while let Some(piece) = self.pieces.next() {
            match piece {
                Piece::Text(range) => body.push(Statement::Text(range)),
                Piece::Comment { tag, text } => body.push(Statement::Comment { tag, text }),
                Piece::Action { tag, tokens } => {
                    let word = match tokens.first().map(|token| &token.kind) {
                        Some(TokenKind::Word(word)) => word.clone(),
                        _ => String::new(),
                    };
                    let rest = || tokens[1..].to_vec();
                    let stop = match word.as_str() {
                        "end" => Some("end"),
                        "else" => Some("else"),
                        _ => None,
                    };
                    if let Some(word) = stop {
                        self.depth -= 1;
                        return Ok((body, Some(Stop { tag, word, rest: rest() })));
                    }
                    body.push(match word.as_str() {
                        "if" => self.branches("if", tag, rest())?,
                        "with" => self.branches("with", tag, rest())?,
                        "range" => self.range(tag, rest())?,
                        "define" => {
                            let (name, rest) = name(&tag, rest(), "define")?;
                            nothing(&rest)?;
                            let (body, end) = self.block(&tag)?;
                            Statement::Define { tag, name, body, end }
                        }
                        "block" => {
                            let (name, rest) = name(&tag, rest(), "block")?;
                            let argument = expression(&tag, &rest)?;
                            let (body, end) = self.block(&tag)?;
                            Statement::Block { tag, name, argument, body, end }
                        }
                        "template" => {
                            let (name, rest) = name(&tag, rest(), "template")?;
                            let argument = if rest.is_empty() { None } else { Some(expression(&tag, &rest)?) };
                            Statement::Template { tag, name, argument }
                        }
                        "break" | "continue" => {
                            nothing(&rest())?;
                            if self.loops == 0 {
                                return Err(Fault::new(tag.range, format!("`{word}` outside of `range`")));
                            }
                            if word == "break" { Statement::Break(tag) } else { Statement::Continue(tag) }
                        }
                        _ => {
                            let pipeline = pipeline(&tag, &tokens, 1)?;
                            Statement::Output { tag, pipeline }
                        }
                    });
                }
            }
        }
        self.depth -= 1;
        match opened {
            None => Ok((body, None)),
            Some(tag) => Err(Fault::new(tag.range.clone(), "this block has no `end`")),
        }
    }

    /// Statements up to an `end`; `else` is refused.
    fn block(&mut self, opened: &Tag) -> Result<(Vec<Statement>, Tag), Fault> {
        // A macro does not see the loop around it.
        let loops = std::mem::take(&mut self.loops);
        let result = self.body(Some(opened))?;
        self.loops = loops;
        match result {
            (body, Some(Stop { tag, word: "end", rest })) => {
                nothing(&rest)?;
                Ok((body, tag))
            }
            (_, stop) => {
                let range = stop.map_or(opened.range.clone(), |stop| stop.tag.range);
                Err(Fault::new(range, "`else` does not belong here"))
            }
        }
    }

    fn branches(&mut self, word: &str, tag: Tag, rest: Vec<Token>) -> Result<Statement, Fault> {
        let mut branches = Vec::new();
        let mut otherwise = None;
        let mut opened = tag.clone();
        let mut head = Some((tag, rest));
        let end = loop {
            let (body, stop) = self.body(Some(&opened))?;
            match head.take() {
                Some((tag, rest)) => branches.push(Branch { pipeline: pipeline(&tag, &rest, 1)?, tag, body }),
                None => otherwise = Some(Otherwise { tag: opened.clone(), body }),
            }
            let Some(stop) = stop else { return Err(Fault::new(opened.range, "this block has no `end`")) };
            if stop.word == "end" {
                nothing(&stop.rest)?;
                break stop.tag;
            }
            if otherwise.is_some() {
                return Err(Fault::new(stop.tag.range, "a second `else`"));
            }
            opened = stop.tag.clone();
            head = match stop.rest.first().map(|token| &token.kind) {
                None => None,
                Some(TokenKind::Word(next)) if next == word => Some((stop.tag, stop.rest[1..].to_vec())),
                Some(_) => return Err(Fault::new(stop.tag.range, format!("only `{word}` can follow `else` here"))),
            };
        };
        Ok(match word {
            "with" => Statement::With { branches, otherwise, end },
            _ => Statement::If { branches, otherwise, end },
        })
    }

    fn range(&mut self, tag: Tag, rest: Vec<Token>) -> Result<Statement, Fault> {
        let pipeline = pipeline(&tag, &rest, 2)?;
        self.loops += 1;
        let (body, stop) = self.body(Some(&tag))?;
        self.loops -= 1;
        let missing = || Fault::new(tag.range.clone(), "this block has no `end`");
        let stop = stop.ok_or_else(missing)?;
        nothing(&stop.rest)?;
        let (otherwise, end) = match stop.word {
            "else" => {
                let (body, last) = self.body(Some(&stop.tag))?;
                let last = last.ok_or_else(missing)?;
                if last.word == "else" {
                    return Err(Fault::new(last.tag.range, "a second `else`"));
                }
                (Some(Otherwise { tag: stop.tag, body }), last.tag)
            }
            _ => (None, stop.tag),
        };
        Ok(Statement::Range { branch: Branch { tag, pipeline, body }, otherwise, end })
    }
}

fn nothing(rest: &[Token]) -> Result<(), Fault> {
    match rest.first() {
        None => Ok(()),
        Some(token) => Err(Fault::new(token.range.clone(), "nothing can stand here")),
    }
}

fn name(tag: &Tag, rest: Vec<Token>, word: &str) -> Result<(String, Vec<Token>), Fault> {
    match rest.first().map(|token| &token.kind) {
        Some(TokenKind::Text(name)) => Ok((name.clone(), rest[1..].to_vec())),
        _ => Err(Fault::new(tag.range.clone(), format!("`{word}` needs a name in quotes"))),
    }
}

/// `$x := …`, `$i, $v := …`, `$x = …`, or only a value.
fn pipeline(tag: &Tag, tokens: &[Token], most: usize) -> Result<Pipeline, Fault> {
    let head = tokens.iter().position(|token| matches!(token.kind, TokenKind::Declare | TokenKind::Assign));
    let Some(head) = head else {
        return Ok(Pipeline { variables: Vec::new(), assigns: false, value: expression(tag, tokens)? });
    };
    let mut variables = Vec::new();
    for (index, token) in tokens[..head].iter().enumerate() {
        match &token.kind {
            TokenKind::Variable(name) if index % 2 == 0 && !name.is_empty() => variables.push(name.clone()),
            TokenKind::Comma if index % 2 == 1 => {}
            _ => return Err(Fault::new(token.range.clone(), "only variables can stand before `:=` and `=`")),
        }
    }
    if variables.is_empty() || variables.len() > most || head != 2 * variables.len() - 1 {
        return Err(Fault::new(tokens[head].range.clone(), "too many or too few variables stand before this"));
    }
    let assigns = tokens[head].kind == TokenKind::Assign;
    Ok(Pipeline { variables, assigns, value: expression(tag, &tokens[head + 1..])? })
}

fn expression(tag: &Tag, tokens: &[Token]) -> Result<Expression, Fault> {
    let mut reader = Reader { tag, tokens, at: 0, depth: 0 };
    let value = reader.pipe()?;
    nothing(&tokens[reader.at..])?;
    Ok(value)
}

struct Reader<'a> {
    tag: &'a Tag,
    tokens: &'a [Token],
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    /// Commands with `|` between them.
    fn pipe(&mut self) -> Result<Expression, Fault> {
        let mut value = self.command(None)?;
        let mut count = 0;
        while let Some(Token { kind: TokenKind::Pipe, range, .. }) = self.peek().cloned() {
            count += 1;
            if count > MAX_DEPTH {
                return Err(Fault::new(range, format!("more than {MAX_DEPTH} pipes in a row")));
            }
            self.at += 1;
            value = self.command(Some(value))?;
        }
        Ok(value)
    }

    /// Operands up to `|` or a closing parenthesis; the first one is called when it can be.
    fn command(&mut self, piped: Option<Expression>) -> Result<Expression, Fault> {
        let mut operands = Vec::new();
        while let Some(token) = self.peek() {
            match token.kind {
                TokenKind::Pipe | TokenKind::Close => break,
                _ => operands.push(self.operand()?),
            }
        }
        if operands.is_empty() {
            let range = self.peek().map_or(self.tag.range.clone(), |token| token.range.clone());
            return Err(Fault::new(range, "a value is missing here"));
        }
        let first = operands.remove(0);
        let start = piped.as_ref().map_or(first.range.start, |value| value.range.start);
        let was_piped = piped.is_some();
        operands.extend(piped);
        let end = operands.iter().map(|operand| operand.range.end).fold(first.range.end, usize::max);
        let range = start..end;
        match first.kind {
            ExpressionKind::Call(name, none) if none.is_empty() => {
                Ok(Expression { kind: ExpressionKind::Call(name, operands), range })
            }
            ExpressionKind::Field(owner, name) if !operands.is_empty() => {
                Ok(Expression { kind: ExpressionKind::Method(owner, name, operands), range })
            }
            _ if operands.is_empty() => Ok(first),
            _ => {
                let why =
                    if was_piped { "nothing can be piped into this" } else { "this cannot be called with arguments" };
                Err(Fault::new(first.range, why))
            }
        }
    }

    fn operand(&mut self) -> Result<Expression, Fault> {
        let Some(token) = self.peek().cloned() else {
            return Err(Fault::new(self.tag.range.clone(), "a value is missing here"));
        };
        self.at += 1;
        let range = token.range.clone();
        let kind = match token.kind {
            TokenKind::Dot => ExpressionKind::Dot,
            TokenKind::Field(name) => {
                let dot = Expression { kind: ExpressionKind::Dot, range: range.start..range.start + 1 };
                ExpressionKind::Field(Box::new(dot), name)
            }
            TokenKind::Variable(name) => ExpressionKind::Variable(name),
            TokenKind::Text(text) => ExpressionKind::Text(text),
            TokenKind::Number(text) => ExpressionKind::Number(text),
            TokenKind::Word(word) => match word.as_str() {
                "true" => ExpressionKind::Boolean(true),
                "false" => ExpressionKind::Boolean(false),
                "nil" => ExpressionKind::Nil,
                _ => ExpressionKind::Call(word, Vec::new()),
            },
            TokenKind::Open => {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return Err(Fault::new(range, format!("nested more than {MAX_DEPTH} levels deep")));
                }
                let inner = self.pipe()?;
                self.depth -= 1;
                match self.peek().map(|token| token.kind.clone()) {
                    Some(TokenKind::Close) => self.at += 1,
                    _ => return Err(Fault::new(range, "this parenthesis is not closed")),
                }
                // With its parentheses, so that a message shows them.
                let whole = range.start..self.tokens[self.at - 1].range.end;
                return self.fields(Expression { kind: inner.kind, range: whole });
            }
            TokenKind::Declare | TokenKind::Assign | TokenKind::Pipe | TokenKind::Comma | TokenKind::Close => {
                return Err(Fault::new(range, "a value is missing here"));
            }
        };
        self.fields(Expression { kind, range })
    }

    /// Fields that follow without a blank: `$x.A.B`, `(…).A`.
    fn fields(&mut self, mut value: Expression) -> Result<Expression, Fault> {
        let mut count = 0;
        while let Some(Token { kind: TokenKind::Field(name), range, glued: true }) = self.peek().cloned() {
            self.at += 1;
            count += 1;
            if count > MAX_DEPTH {
                return Err(Fault::new(range, format!("more than {MAX_DEPTH} fields in a row")));
            }
            let whole = value.range.start..range.end;
            value = Expression { kind: ExpressionKind::Field(Box::new(value), name), range: whole };
        }
        Ok(value)
    }
}
