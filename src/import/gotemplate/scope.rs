//! The names of a translated template: Go's variables and what `.` stands for.
//!
//! Owns which Go variable is which minijinja variable. Go's end with their block and may hide others of the same name;
//! minijinja's end with the loop, and what is set in an `if` stays. So every declaration gets a name of its own, and one
//! that is assigned later lives in a `namespace()`, which is what minijinja lets an inner block change.

use std::collections::{BTreeMap, BTreeSet};

use super::code::{Code, Level, Shape, reserved};
use super::parse::{Branch, Otherwise, Pipeline, Statement};
use crate::template::FUNCTIONS;

/// Names of functions that minijinja has by itself, or that the translation uses: with those of reeve's templates, a
/// variable of the same name would hide the function.
const MORE_FUNCTIONS: [&str; 7] = ["range", "dict", "namespace", "debug", "no_counterpart", "caller", "dot"];

fn function(name: &str) -> bool {
    FUNCTIONS.contains(&name) || MORE_FUNCTIONS.contains(&name)
}

#[derive(Debug)]
struct Variable {
    name: String,
    shape: Shape,
    missing: bool,
    boxed: bool,
}

#[derive(Debug, Default)]
pub struct Scope {
    taken: BTreeSet<String>,
    blocks: Vec<BTreeMap<String, Variable>>,
    /// What `.` is; none where it is nothing.
    dots: Vec<Option<Code>>,
    /// What `$` is: the argument of a macro.
    root: Option<Code>,
    /// Variables of Go that some `=` changes.
    assigned: BTreeSet<String>,
}

impl Scope {
    pub fn new(statements: &[Statement]) -> Self {
        let mut scope = Self { blocks: vec![BTreeMap::new()], ..Self::default() };
        assigned(statements, &mut scope.assigned);
        scope
    }

    /// A name that nothing else has.
    pub fn name(&mut self, wanted: &str) -> String {
        let wanted: String =
            wanted.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect();
        let wanted = match wanted.chars().next() {
            Some(first) if !first.is_ascii_digit() => wanted,
            _ => format!("_{wanted}"),
        };
        let base = match reserved(&wanted) || function(&wanted) {
            true => format!("{wanted}_"),
            false => wanted,
        };
        let mut name = base.clone();
        let mut number = 2;
        while !self.taken.insert(name.clone()) {
            name = format!("{base}_{number}");
            number += 1;
        }
        name
    }

    pub fn open(&mut self) {
        self.blocks.push(BTreeMap::new());
    }

    pub fn close(&mut self) {
        self.blocks.pop();
    }

    pub fn is_assigned(&self, variable: &str) -> bool {
        self.assigned.contains(variable)
    }

    /// Makes `variable` known in this block under a name that was made for it.
    pub fn declare(&mut self, variable: &str, name: String, value: &Code) {
        let boxed = self.is_assigned(variable);
        let shape = if boxed { Shape::Unknown } else { value.shape.clone() };
        let known = Variable { name, shape, missing: value.missing && !boxed, boxed };
        if let Some(block) = self.blocks.last_mut() {
            block.insert(variable.to_owned(), known);
        }
    }

    fn find(&self, variable: &str) -> Option<&Variable> {
        self.blocks.iter().rev().find_map(|block| block.get(variable))
    }

    pub fn variable(&self, variable: &str) -> Option<Code> {
        if variable.is_empty() {
            return self.root.clone();
        }
        let known = self.find(variable)?;
        let text = if known.boxed { format!("{}.value", known.name) } else { known.name.clone() };
        Some(Code { text, level: Level::Atom, shape: known.shape.clone(), missing: known.missing })
    }

    pub fn dot(&self) -> Option<Code> {
        self.dots.last().cloned().flatten()
    }

    pub fn enter(&mut self, dot: Option<Code>) {
        self.dots.push(dot);
    }

    pub fn leave(&mut self) {
        self.dots.pop();
    }

    /// Within a macro nothing of the template around it is known. Returns what `restore` needs.
    pub fn isolate(&mut self, argument: Code) -> Isolated {
        let blocks = std::mem::replace(&mut self.blocks, vec![BTreeMap::new()]);
        let dots = std::mem::replace(&mut self.dots, vec![Some(argument.clone())]);
        let root = self.root.replace(argument);
        Isolated { blocks, dots, root }
    }

    pub fn restore(&mut self, outer: Isolated) {
        self.blocks = outer.blocks;
        self.dots = outer.dots;
        self.root = outer.root;
    }
}

/// What is around a macro.
#[derive(Debug)]
pub struct Isolated {
    blocks: Vec<BTreeMap<String, Variable>>,
    dots: Vec<Option<Code>>,
    root: Option<Code>,
}

fn assigned(statements: &[Statement], found: &mut BTreeSet<String>) {
    let note = |pipeline: &Pipeline, found: &mut BTreeSet<String>| {
        if pipeline.assigns {
            found.extend(pipeline.variables.iter().cloned());
        }
    };
    let branch = |branch: &Branch, found: &mut BTreeSet<String>| {
        note(&branch.pipeline, found);
        assigned(&branch.body, found);
    };
    let rest = |otherwise: &Option<Otherwise>, found: &mut BTreeSet<String>| {
        if let Some(otherwise) = otherwise {
            assigned(&otherwise.body, found);
        }
    };
    for statement in statements {
        match statement {
            Statement::Text(_)
            | Statement::Comment { .. }
            | Statement::Template { .. }
            | Statement::Break(_)
            | Statement::Continue(_) => {}
            Statement::Output { pipeline, .. } => note(pipeline, found),
            Statement::If { branches, otherwise, .. } | Statement::With { branches, otherwise, .. } => {
                branches.iter().for_each(|one| branch(one, found));
                rest(otherwise, found);
            }
            Statement::Range { branch: one, otherwise, .. } => {
                branch(one, found);
                rest(otherwise, found);
            }
            Statement::Define { body, .. } | Statement::Block { body, .. } => assigned(body, found),
        }
    }
}
