//! The tree of a Go template as minijinja text.
//!
//! Owns which statement becomes which: what `.` is within `range` and `with`, what counts as empty, and where text would be
//! taken for a tag. White space is left as it is, trim markers included: both languages cut alike.

use std::collections::{BTreeMap, BTreeSet};

use super::code::{Code, Level, Shape, quote};
use super::functions::{self, Missing};
use super::lex::Tag;
use super::parse::{Branch, Expression, ExpressionKind, Otherwise, Pipeline, Statement};
use super::scope::Scope;
use super::{Gap, Options};

struct Macro {
    name: String,
    text: String,
    /// Go's names of the templates that it calls.
    calls: BTreeSet<String>,
}

pub struct Translator<'a> {
    source: &'a str,
    options: &'a Options,
    scope: Scope,
    out: String,
    pub gaps: Vec<Gap>,
    /// Gaps of the tag that is being written.
    pending: Vec<String>,
    /// Names that Go's templates have as macros.
    names: BTreeMap<String, String>,
    macros: BTreeMap<String, Macro>,
    calls: BTreeSet<String>,
}

impl<'a> Translator<'a> {
    pub fn new(source: &'a str, options: &'a Options, statements: &[Statement]) -> Self {
        let mut translator = Self {
            source,
            options,
            scope: Scope::new(statements),
            out: String::new(),
            gaps: Vec::new(),
            pending: Vec::new(),
            names: BTreeMap::new(),
            macros: BTreeMap::new(),
            calls: BTreeSet::new(),
        };
        translator.find_macros(statements);
        translator
    }

    /// The whole text.
    pub fn finish(mut self, statements: &[Statement]) -> (String, Vec<Gap>) {
        self.scope.enter(None);
        self.body(statements);
        let mut text = String::new();
        let mut written = BTreeSet::new();
        let names: Vec<String> = self.macros.keys().cloned().collect();
        for name in names {
            self.write_macro(&name, &mut written, &mut text);
        }
        text.push_str(&self.out);
        (text, self.gaps)
    }

    /// A macro stands behind those that it calls.
    fn write_macro(&self, name: &str, written: &mut BTreeSet<String>, text: &mut String) {
        if !written.insert(name.to_owned()) {
            return;
        }
        let Some(one) = self.macros.get(name) else { return };
        for called in &one.calls {
            self.write_macro(called, written, text);
        }
        // The line break stands within the tag, so that it is not part of the output.
        text.push_str(&format!("{{% macro {}(dot) %}}{}{{% endmacro\n%}}", one.name, one.text));
    }

    fn find_macros(&mut self, statements: &[Statement]) {
        for statement in statements {
            match statement {
                Statement::Define { name, body, .. } | Statement::Block { name, body, .. } => {
                    if !self.names.contains_key(name) {
                        let macro_name = self.scope.name(name);
                        self.names.insert(name.clone(), macro_name);
                    }
                    self.find_macros(body);
                }
                Statement::If { branches, otherwise, .. } | Statement::With { branches, otherwise, .. } => {
                    branches.iter().for_each(|branch| self.find_macros(&branch.body));
                    otherwise.iter().for_each(|otherwise| self.find_macros(&otherwise.body));
                }
                Statement::Range { branch, otherwise, .. } => {
                    self.find_macros(&branch.body);
                    otherwise.iter().for_each(|otherwise| self.find_macros(&otherwise.body));
                }
                Statement::Text(_)
                | Statement::Comment { .. }
                | Statement::Output { .. }
                | Statement::Template { .. }
                | Statement::Break(_)
                | Statement::Continue(_) => {}
            }
        }
    }

    fn body(&mut self, statements: &[Statement]) {
        for statement in statements {
            self.statement(statement);
        }
    }

    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Text(range) => self.text(&self.source[range.clone()]),
            Statement::Comment { tag, text } => self.comment(tag, text),
            Statement::Output { tag, pipeline } if pipeline.variables.is_empty() => {
                let value = self.expression(&pipeline.value);
                self.write(tag, &format!("{{{{ {} }}}}", value.text));
            }
            Statement::Output { tag, pipeline } => {
                let set = self.assignment(pipeline);
                self.write(tag, &set);
            }
            Statement::If { branches, otherwise, end } => self.branches(branches, otherwise.as_ref(), end, false),
            Statement::With { branches, otherwise, end } => self.branches(branches, otherwise.as_ref(), end, true),
            Statement::Range { branch, otherwise, end } => self.range(branch, otherwise.as_ref(), end),
            Statement::Define { tag, name, body, end } => {
                self.define(tag, name, body, end);
                let around = Tag { range: tag.range.clone(), trim_left: tag.trim_left, trim_right: end.trim_right };
                self.comment(
                    &around,
                    &format!("the template {} is the macro {} at the top", quote(name), self.names[name]),
                );
            }
            Statement::Block { tag, name, argument, body, end } => {
                self.define(tag, name, body, end);
                let around = Tag { range: tag.range.clone(), trim_left: tag.trim_left, trim_right: end.trim_right };
                let argument = self.expression(argument);
                self.invoke(&around, name, &argument);
            }
            Statement::Template { tag, name, argument } => {
                let argument = match argument {
                    // Without `.` to hand on, the macro has nothing to show of it.
                    Some(Expression { kind: ExpressionKind::Dot, .. }) if self.scope.dot().is_none() => nothing(),
                    Some(argument) => self.expression(argument),
                    None => nothing(),
                };
                self.invoke(tag, name, &argument);
            }
            Statement::Break(tag) => self.write(tag, "{% break %}"),
            Statement::Continue(tag) => self.write(tag, "{% continue %}"),
        }
    }

    fn define(&mut self, tag: &Tag, name: &str, body: &[Statement], end: &Tag) {
        let outer = self.scope.isolate(Code::atom("dot", Shape::Unknown));
        let out = std::mem::take(&mut self.out);
        let calls = std::mem::take(&mut self.calls);
        self.body(body);
        let mut text = std::mem::replace(&mut self.out, out);
        // The tags of a macro are not where Go's were: their trim markers cut the body itself.
        if tag.trim_right {
            text = text.trim_start().to_owned();
        }
        if end.trim_left {
            text = text.trim_end().to_owned();
        }
        // Right before the tag that ends the macro, too, a brace would become a part of it.
        if text.ends_with('{') {
            text.pop();
            text.push_str("{{ \"{\" }}");
        }
        let calls = std::mem::replace(&mut self.calls, calls);
        self.scope.restore(outer);
        let one = Macro { name: self.names[name].clone(), text, calls };
        // Go takes the last definition.
        self.macros.insert(name.to_owned(), one);
    }

    fn invoke(&mut self, tag: &Tag, name: &str, argument: &Code) {
        let code = match self.names.get(name) {
            Some(to) => {
                self.calls.insert(name.to_owned());
                Code::call(to, std::slice::from_ref(argument), Shape::Text)
            }
            None => self.gap(&tag.range, &Missing(format!("this file defines no template {}", quote(name)))),
        };
        self.write(tag, &format!("{{{{ {} }}}}", code.text));
    }

    /// Text, with whatever minijinja would take for the beginning of a tag made harmless.
    fn text(&mut self, text: &str) {
        let mut rest = text;
        while let Some(found) = rest.find("{{").into_iter().chain(rest.find("{%")).chain(rest.find("{#")).min() {
            self.out.push_str(&rest[..found]);
            self.literal(&rest[found..found + 2]);
            rest = &rest[found + 2..];
        }
        self.out.push_str(rest);
    }

    fn literal(&mut self, text: &str) {
        self.part(&format!("{{{{ {} }}}}", quote(text)));
    }

    /// A tag. A brace right before it would become a part of it.
    fn part(&mut self, tag: &str) {
        if self.out.ends_with('{') {
            self.out.pop();
            self.out.push_str("{{ \"{\" }}");
        }
        self.out.push_str(tag);
    }

    fn comment(&mut self, tag: &Tag, text: &str) {
        let (left, right) = (if tag.trim_left { "-" } else { "" }, if tag.trim_right { "-" } else { "" });
        self.part(&format!("{{#{left} {} {right}#}}", text.replace("#}", "# }")));
    }

    /// Tags that stand for one tag of Go, with its trim markers at their ends, and what has no counterpart before them.
    fn write(&mut self, tag: &Tag, text: &str) {
        for gap in std::mem::take(&mut self.pending) {
            let left = if tag.trim_left { "-" } else { "" };
            self.part(&format!("{{#{left} {} #}}", gap.replace("#}", "# }")));
        }
        let mut text = text.to_owned();
        if tag.trim_left {
            text.insert(2, '-');
        }
        if tag.trim_right {
            text.insert(text.len() - 2, '-');
        }
        self.part(&text);
    }

    /// Lists what has no counterpart, and gives what stands in its place: a function that does not exist, so that the template
    /// cannot be used by oversight.
    fn gap(&mut self, range: &std::ops::Range<usize>, missing: &Missing) -> Code {
        let snippet = self.source[range.clone()].split_whitespace().collect::<Vec<_>>().join(" ");
        let (line, column) = self.position(range.start);
        let Missing(reason) = missing;
        self.pending.push(format!("no counterpart: {snippet}: {reason} ({}:{line}:{column})", self.options.name));
        self.gaps.push(Gap { range: range.clone(), reason: reason.clone() });
        Code::call("no_counterpart", &[Code::literal(&snippet)], Shape::Unknown)
    }

    fn position(&self, at: usize) -> (usize, usize) {
        let before = &self.source[..at];
        let line = before.rfind('\n').map_or(0, |found| found + 1);
        (before.matches('\n').count() + 1, before[line..].chars().count() + 1)
    }

    /// `{% set … %}` of a declaration or an assignment.
    fn assignment(&mut self, pipeline: &Pipeline) -> String {
        let value = self.expression(&pipeline.value);
        let variable = pipeline.variables.first().map_or("", String::as_str);
        if pipeline.assigns {
            return self.assign(variable, &value, pipeline);
        }
        self.declare(variable, &value)
    }

    fn assign(&mut self, variable: &str, value: &Code, pipeline: &Pipeline) -> String {
        match self.scope.variable(variable) {
            Some(known) => format!("{{% set {} = {} %}}", known.text, value.text),
            None => {
                let refused = self.gap(&pipeline.value.range, &Missing(format!("`${variable}` was not declared")));
                format!("{{{{ {} }}}}", refused.text)
            }
        }
    }

    fn declare(&mut self, variable: &str, value: &Code) -> String {
        let name = self.scope.name(variable);
        let set = match self.scope.is_assigned(variable) {
            true => format!("{{% set {name} = namespace(value={}) %}}", value.text),
            false => format!("{{% set {name} = {} %}}", value.text),
        };
        self.scope.declare(variable, name, value);
        set
    }

    /// `if` and `with`, whose branches differ only in what `.` is.
    fn branches(&mut self, branches: &[Branch], otherwise: Option<&Otherwise>, end: &Tag, with: bool) {
        self.scope.open();
        let mut nested = 0;
        for (index, branch) in branches.iter().enumerate() {
            let value = self.expression(&branch.pipeline.value);
            let mut before = String::new();
            let mut condition = value;
            if let Some(variable) = branch.pipeline.variables.first() {
                before = match branch.pipeline.assigns {
                    true => self.assign(variable, &condition, &branch.pipeline),
                    false => self.declare(variable, &condition),
                };
                condition = self.scope.variable(variable).unwrap_or(condition);
            } else if with && !condition.is_plain() {
                let name = self.scope.name(condition.shape.noun());
                before = format!("{{% set {name} = {} %}}", condition.text);
                condition = Code { text: name, level: Level::Atom, ..condition };
            }
            let test = condition.lenient().text;
            let tags = match (index, before.is_empty()) {
                (0, _) => format!("{before}{{% if {test} %}}"),
                (_, true) => format!("{{% elif {test} %}}"),
                (_, false) => {
                    nested += 1;
                    format!("{{% else %}}{before}{{% if {test} %}}")
                }
            };
            self.write(&branch.tag, &tags);
            self.scope.open();
            if with {
                self.scope.enter(Some(Code { missing: false, ..condition }));
            }
            self.body(&branch.body);
            if with {
                self.scope.leave();
            }
            self.scope.close();
        }
        if let Some(otherwise) = otherwise {
            self.write(&otherwise.tag, "{% else %}");
            self.scope.open();
            self.body(&otherwise.body);
            self.scope.close();
        }
        self.scope.close();
        self.write(end, &"{% endif %}".repeat(nested + 1));
    }

    fn range(&mut self, branch: &Branch, otherwise: Option<&Otherwise>, end: &Tag) {
        let Branch { tag, pipeline, body } = branch;
        let value = self.expression(&pipeline.value);
        let (before, over) = Self::settled(&mut self.scope, value);
        if pipeline.assigns {
            let reason = Missing("`range` with `=`: declare the variables with `:=`".to_owned());
            self.gap(&pipeline.value.range, &reason);
        }
        self.scope.open();
        let element = over.shape.element();
        let (key, item) = match pipeline.variables.as_slice() {
            [] => (None, None),
            [item] => (None, Some(item)),
            [key, item, ..] => (Some(key), Some(item)),
        };
        let key = key.filter(|key| *key != "_");
        let mut sets = String::new();
        let wanted = item.filter(|item| *item != "_").map_or_else(|| singular(&over, &element), String::as_str);
        let item_name = self.scope.name(wanted);
        let item_code = Code::atom(item_name.clone(), element);
        let mut dot = item_code.clone();
        if let Some(variable) = item {
            if self.scope.is_assigned(variable) {
                sets.push_str(&self.declare(variable, &item_code));
                dot = self.scope.variable(variable).unwrap_or(item_code);
            } else {
                self.scope.declare(variable, item_name.clone(), &item_code);
            }
        }
        let key_name = |translator: &mut Self, sets: &mut String, from: Option<&str>| match (key, from) {
            (None, _) => "_".to_owned(),
            (Some(variable), Some(from)) => {
                sets.push_str(&translator.declare(variable, &Code::atom(from, Shape::Number)));
                String::new()
            }
            (Some(variable), None) => {
                let name = translator.scope.name(variable);
                let value = Code::atom(name.clone(), Shape::Unknown);
                if translator.scope.is_assigned(variable) {
                    sets.push_str(&translator.declare(variable, &value));
                } else {
                    translator.scope.declare(variable, name.clone(), &value);
                }
                name
            }
        };
        let head = match &over.shape {
            Shape::Map(_) => {
                let key = key_name(self, &mut sets, None);
                format!("{{% for {key}, {item_name} in {} %}}", over.filter("items", &[], Shape::Unknown).text)
            }
            Shape::Number => {
                if key.is_some() {
                    key_name(self, &mut sets, Some("loop.index0"));
                }
                format!("{{% for {item_name} in range({}) %}}", over.text)
            }
            Shape::List(_)
            | Shape::Instance
            | Shape::Entry
            | Shape::Node
            | Shape::NodeDetail
            | Shape::Pair
            | Shape::Text => {
                if key.is_some() {
                    key_name(self, &mut sets, Some("loop.index0"));
                }
                format!("{{% for {item_name} in {} %}}", over.text)
            }
            // A map or a list: only the data tells.
            Shape::Unknown => {
                let key = key_name(self, &mut sets, None);
                let text = &over.text;
                format!(
                    "{{% for {key}, {item_name} in ({text} | items if {text} is mapping else range({text} | length) | zip({text})) %}}"
                )
            }
        };
        self.write(tag, &format!("{before}{head}{sets}"));
        self.scope.enter(Some(dot));
        self.body(body);
        self.scope.leave();
        self.scope.close();
        if let Some(otherwise) = otherwise {
            self.write(&otherwise.tag, "{% else %}");
            self.scope.open();
            self.body(&otherwise.body);
            self.scope.close();
        }
        self.write(end, "{% endfor %}");
    }

    /// What `range` goes over, ready to be asked more than once, and what must be set for that beforehand. Go takes a missing
    /// value for an empty one.
    fn settled(scope: &mut Scope, value: Code) -> (String, Code) {
        let whole = match value.missing {
            true => value.filter("default", &[Code::atom("[]", Shape::Unknown)], value.shape.clone()),
            false => value,
        };
        if whole.shape != Shape::Unknown || whole.is_plain() {
            return (String::new(), whole);
        }
        let name = scope.name("data");
        let set = format!("{{% set {name} = {} %}}", whole.text);
        (set, Code::atom(name, Shape::Unknown))
    }

    fn expression(&mut self, expression: &Expression) -> Code {
        match &expression.kind {
            ExpressionKind::Dot => match self.scope.dot() {
                Some(dot) => dot,
                None => self.gap(&expression.range, &outside(".")),
            },
            ExpressionKind::Variable(name) => match self.scope.variable(name) {
                Some(code) => code,
                None if name.is_empty() => self.gap(&expression.range, &outside("$")),
                None => self.gap(&expression.range, &Missing(format!("`${name}` is not known here"))),
            },
            ExpressionKind::Text(text) => Code::literal(text),
            ExpressionKind::Number(text) => Code::atom(text.clone(), Shape::Number),
            ExpressionKind::Boolean(value) => Code::atom(value.to_string(), Shape::Unknown),
            ExpressionKind::Nil => nothing(),
            ExpressionKind::Field(owner, name) => {
                // The whole chain is named once.
                if self.is_nowhere(owner) {
                    return self.gap(&expression.range, &outside("."));
                }
                self.expression(owner).field(name)
            }
            ExpressionKind::Method(owner, name, arguments) if name == "Contains" => {
                let list = self.expression(owner);
                let arguments: Vec<Code> = arguments.iter().map(|argument| self.expression(argument)).collect();
                list.filter("contains", &arguments, Shape::Unknown)
            }
            ExpressionKind::Method(owner, ..) => {
                // When the owner has no counterpart, that is the reason.
                let gaps = self.gaps.len();
                let owner = self.expression(owner);
                if self.gaps.len() > gaps {
                    return owner;
                }
                self.gap(&expression.range, &Missing("a field cannot be called with arguments".to_owned()))
            }
            ExpressionKind::Call(name, arguments) if name == "executeTemplate" => match arguments.as_slice() {
                [Expression { kind: ExpressionKind::Text(name), .. }, rest @ ..] if self.names.contains_key(name) => {
                    self.calls.insert(name.clone());
                    let argument = rest.first().map_or_else(nothing, |argument| self.expression(argument));
                    Code::call(&self.names[name].clone(), &[argument], Shape::Text)
                }
                _ => self.gap(&expression.range, &Missing("this file defines no such template".to_owned())),
            },
            ExpressionKind::Call(name, arguments) => {
                // What stands within it is told only when the function itself has a counterpart.
                let (gaps, pending) = (self.gaps.len(), self.pending.len());
                let arguments: Vec<Code> = arguments.iter().map(|argument| self.expression(argument)).collect();
                match functions::call(name, &arguments) {
                    Ok(code) => code,
                    Err(missing) => {
                        self.gaps.truncate(gaps);
                        self.pending.truncate(pending);
                        self.gap(&expression.range, &Missing(format!("`{name}`: {}", missing.0)))
                    }
                }
            }
        }
    }

    /// `.A.B` where `.` is nothing.
    fn is_nowhere(&self, expression: &Expression) -> bool {
        match &expression.kind {
            ExpressionKind::Dot => self.scope.dot().is_none(),
            ExpressionKind::Variable(name) => name.is_empty() && self.scope.variable("").is_none(),
            ExpressionKind::Field(owner, _) => self.is_nowhere(owner),
            _ => false,
        }
    }
}

fn nothing() -> Code {
    Code::atom("none", Shape::Unknown)
}

fn outside(what: &str) -> Missing {
    Missing(format!("`{what}` is empty outside of `range` and `with`"))
}

/// The name of one thing of many.
fn singular<'c>(over: &'c Code, element: &Shape) -> &'c str {
    match (element, &over.shape) {
        (Shape::Text, _) if over.text.ends_with(".Tags") => "tag",
        (Shape::Text, _) if over.text.starts_with("datacenters(") => "datacenter",
        _ => element.noun(),
    }
}
