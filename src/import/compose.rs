//! Compose files as a spec of reeve: merged, in their order, with their comments.
//!
//! Owns how the result is written. What a key is, and whether reeve supports it, is known to the tables of the spec; what
//! nobody knows there is marked, not dropped. Variables stay variables. A `registrator` among the services becomes a
//! `discovery` block.

use std::collections::BTreeMap;
use std::path::Path;

use crate::spec::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::spec::load::{Files, LoadOptions, load_from};
use crate::spec::merge;
use crate::spec::table::{Kind, SPEC, Standing, Table};
use crate::spec::tree::{self, Entry, Node, Value, shown};

use super::registrator::Conventions;
use super::{CommandLine, File, Imported, register, registrator, text, yaml};

/// The name of the resulting spec.
const NAME: &str = "spec.yaml";
/// Longest line of a list or a mapping that stays on one line.
const LONGEST_FLOW: usize = 100;

/// Merges the files in their order. `folder`: where relative paths in the spec begin, absolute.
///
/// # Errors
/// What cannot be read as YAML.
pub fn import(
    names: &[String],
    folder: &Path,
    options: &LoadOptions,
    files: &dyn Files,
) -> Result<Imported, Diagnostics> {
    let mut merged: Option<Node> = None;
    let mut origins: Origins = BTreeMap::new();
    for name in names {
        let source = text(files, name).map_err(|problem| Diagnostics(vec![*problem]))?;
        let tree = tree::parse(&source).map_err(Diagnostics)?;
        if !matches!(tree.value, Value::Mapping(_)) {
            let problem =
                Diagnostic::error(&tree.place, "this is no Compose file: it must be a mapping with `services`");
            return Err(Diagnostics(vec![problem]));
        }
        for section in tree.entries() {
            for named in section.value.entries() {
                let place = (named.key_place.file().to_owned(), named.key_place.line());
                origins.entry((section.key.clone(), named.key.clone())).or_default().push(place);
            }
        }
        merged = Some(match merged {
            None => tree,
            Some(base) => merge::merge(base, tree, &SPEC),
        });
    }
    let Some(mut root) = merged else {
        return Err(Diagnostics(vec![Diagnostic::of_file("", "no Compose file is given")]));
    };
    merge::sweep(&mut root);
    let mut writer = Writer {
        out: String::new(),
        imported: Imported::default(),
        discovery: None,
        conventions: conventions_of(&root),
        origins,
        section: String::new(),
    };
    writer.out.push_str(&format!("# Imported from {}.\n", names.join(", ")));
    let what = match root.get("name") {
        Some(_) => "relative paths and `.env`",
        None => "relative paths, `.env` and the project's name",
    };
    writer.out.push_str(&format!("# Keep it in the folder of the first one: {what} come from there.\n"));
    writer.out.push('\n');
    let first = names.first().map_or("", String::as_str);
    writer.table(&root, &SPEC, &At { indent: 0, file: first, disabled: None });
    let Writer { out, mut imported, discovery, .. } = writer;
    let mut out = refused(out, folder, options, files, &mut imported);
    if let Some(block) = discovery {
        out.push('\n');
        out.push_str(&block);
    }
    imported.files.insert(0, File { name: NAME.to_owned(), text: out });
    Ok(imported)
}

/// Whatever else reeve does not take of the result is marked in it, and listed with its place there.
fn refused(out: String, folder: &Path, options: &LoadOptions, files: &dyn Files, imported: &mut Imported) -> String {
    let errors = |text: &str| -> Vec<Diagnostic> {
        let texts = [(NAME.to_owned(), text.as_bytes().to_vec())];
        match load_from(&texts, folder, options, files) {
            Ok(_) => Vec::new(),
            Err(problems) => {
                let error = |problem: &Diagnostic| {
                    problem.severity == Severity::Error && problem.file == NAME && problem.line > 0
                };
                problems.0.into_iter().filter(error).collect()
            }
        }
    };
    let found = errors(&out);
    if found.is_empty() {
        return out;
    }
    let mut marked = String::new();
    for (number, line) in (1..).zip(out.lines()) {
        for problem in found.iter().filter(|problem| problem.line == number) {
            let indent = &line[..line.len() - line.trim_start().len()];
            let help = problem.help.as_ref().map_or(String::new(), |help| format!(" ({help})"));
            let message = format!("{}{help}", problem.message).replace('\n', " ");
            marked.push_str(&format!("{indent}# reeve does not take this: {message}\n"));
        }
        marked.push_str(line);
        marked.push('\n');
    }
    imported.gaps.extend(errors(&marked));
    marked
}

/// Where something is written.
#[derive(Clone, Copy)]
struct At<'a> {
    indent: usize,
    /// The file that what stands around it came from.
    file: &'a str,
    /// Everything is a comment, whose sign stands in this column.
    disabled: Option<usize>,
}

impl At<'_> {
    fn deeper(self) -> Self {
        Self { indent: self.indent + 2, ..self }
    }
}

/// File and line of every service, network, volume and so on, by section and name, in the order of the files.
type Origins = BTreeMap<(String, String), Vec<(String, u32)>>;

struct Writer {
    out: String,
    imported: Imported,
    discovery: Option<String>,
    /// Of the registrator among the services.
    conventions: Option<Conventions>,
    origins: Origins,
    /// The top-level key that is being written.
    section: String,
}

impl Writer {
    fn line(&mut self, at: &At<'_>, text: &str) {
        let blanks = |count: usize| " ".repeat(count);
        let line = match at.disabled {
            None => format!("{}{text}", blanks(at.indent)),
            Some(column) => format!("{}# {}{text}", blanks(column), blanks(at.indent - column)),
        };
        self.out.push_str(line.trim_end());
        self.out.push('\n');
    }

    /// The entries of a mapping whose keys are known.
    fn table(&mut self, node: &Node, table: &'static Table, at: &At<'_>) {
        for (index, entry) in node.entries().iter().enumerate() {
            if at.indent == 0 {
                self.section.clone_from(&entry.key);
                self.out.push_str(if index > 0 { "\n" } else { "" });
            }
            let Some(key) = table.key(&entry.key) else {
                if table.extensions && entry.key.starts_with("x-") {
                    self.entry(entry, &Kind::Any, at);
                    continue;
                }
                let message = format!("unknown key `{}` in {}", shown(&entry.key), table.name);
                self.disable(entry, message, "", at);
                continue;
            };
            match key.standing {
                Standing::Supported | Standing::Own => self.entry(entry, &key.kind, at),
                Standing::Unsupported => {
                    let message = format!("`{}` is known to Compose, but reeve does not support it", key.name);
                    self.disable(entry, message, key.doc, at);
                }
            }
        }
    }

    /// An entry that reeve does not take, as a comment.
    fn disable(&mut self, entry: &Entry, message: String, help: &str, at: &At<'_>) {
        let note = if help.is_empty() { message.clone() } else { format!("{message}: {help}") };
        self.line(at, &format!("# {note}"));
        self.imported.gap(&entry.key_place, message, help);
        self.entry(entry, &Kind::Any, &At { disabled: at.disabled.or(Some(at.indent)), ..*at });
    }

    fn entry(&mut self, entry: &Entry, kind: &'static Kind, at: &At<'_>) {
        self.comments_above(entry, at);
        // Of a mapping each key says it for itself.
        let origin = match (&entry.value.value, entry.value.place.file()) {
            (Value::Null | Value::Scalar(_), file) if file != at.file && at.indent > 0 => {
                format!(" # {file}:{}", entry.value.place.line())
            }
            _ => comment_behind(entry),
        };
        self.value(&format!("{}:", yaml::scalar(&entry.key)), &entry.value, kind, &origin, at);
    }

    /// `head`: the key with its colon, or the dash of a list.
    fn value(&mut self, head: &str, node: &Node, kind: &'static Kind, comment: &str, at: &At<'_>) {
        match &node.value {
            Value::Null => self.line(at, &format!("{head}{comment}")),
            Value::Scalar(scalar) => match literal(&scalar.text, scalar.plain) {
                Some((sign, text)) => {
                    self.line(at, &format!("{head} {sign}{comment}"));
                    for line in text.lines() {
                        self.line(&at.deeper(), line);
                    }
                }
                None if scalar.plain && !scalar.text.contains('\n') => {
                    self.line(at, &format!("{head} {}{comment}", scalar.text));
                }
                None => self.line(at, &format!("{head} {}{comment}", yaml::quoted(&scalar.text))),
            },
            Value::Sequence(_) | Value::Mapping(_) => {
                if let Some(flow) = flow(node, Some(kind), at.file)
                    && at.indent + head.len() + flow.len() < LONGEST_FLOW
                {
                    self.line(at, &format!("{head} {flow}{comment}"));
                    return;
                }
                self.line(at, &format!("{head}{comment}"));
                let kind = resolve(kind, node);
                match &node.value {
                    Value::Sequence(items) => self.items(items, kind, &at.deeper()),
                    _ => match kind {
                        Kind::Mapping(table) | Kind::Entries { long: table, .. } => {
                            self.table(node, table, &at.deeper())
                        }
                        Kind::MapOf(kind) => self.named(node, kind, &at.deeper()),
                        Kind::Named(kind) => {
                            node.entries().iter().for_each(|entry| self.entry(entry, kind, &at.deeper()))
                        }
                        _ => node.entries().iter().for_each(|entry| self.entry(entry, &Kind::Any, &at.deeper())),
                    },
                }
            }
        }
    }

    /// Services, networks, volumes: each says where it came from.
    fn named(&mut self, node: &Node, kind: &'static Kind, at: &At<'_>) {
        for (index, entry) in node.entries().iter().enumerate() {
            if index > 0 {
                self.out.push('\n');
            }
            if let Some(command) = registrator_of(&entry.value)
                && self.discovery.is_none()
                && at.disabled.is_none()
            {
                self.registrator(entry, command, at);
                continue;
            }
            self.comments_above(entry, at);
            let places = self.origins.get(&(self.section.clone(), entry.key.clone())).cloned().unwrap_or_default();
            let shown: Vec<String> = places.iter().map(|(file, line)| format!("{file}:{line}")).collect();
            let origin = format!(" # {}", shown.join(", "));
            let inner = At { file: places.first().map_or(at.file, |(file, _)| file), ..*at };
            let head = format!("{}:", yaml::scalar(&entry.key));
            let register = match self.section == "services" && at.disabled.is_none() {
                true => register::lines(&entry.key, &entry.value, self.conventions.as_ref(), &mut self.imported),
                false => Vec::new(),
            };
            if register.is_empty() {
                self.value(&head, &entry.value, kind, &origin, &inner);
                continue;
            }
            // Never on one line: something stands below.
            self.line(&inner, &format!("{head}{origin}"));
            self.collection(&entry.value, kind, &inner.deeper());
            for line in register {
                self.line(&inner.deeper(), &line);
            }
        }
    }

    fn registrator(&mut self, entry: &Entry, command: &Node, at: &At<'_>) {
        match command_line(command).and_then(|line| registrator::discovery(&line, &mut self.imported)) {
            Ok(block) => {
                self.line(at, "# `discovery` below does its work: stop its container when reeve has taken over.");
                let place = &command.place;
                let from = format!("# From the command of {}, {}:{}.\n", entry.key, place.file(), place.line());
                self.discovery = Some(from + &block);
            }
            Err(problem) => {
                self.line(at, &format!("# not imported: {}", problem.message));
                self.imported.gap(&command.place, format!("registrator's command: {}", problem.message), "");
            }
        }
        self.entry(entry, &Kind::Any, &At { disabled: at.disabled.or(Some(at.indent)), ..*at });
    }

    fn items(&mut self, items: &[Node], kind: &'static Kind, at: &At<'_>) {
        for item in items {
            let origin = match item.place.file() {
                file if file != at.file => format!(" # {file}:{}", item.place.line()),
                _ => String::new(),
            };
            let inner = *at;
            let kind = match kind {
                Kind::ListOf(kind) => *kind,
                kind => kind,
            };
            match &item.value {
                Value::Mapping(_) | Value::Sequence(_) if flow(item, Some(kind), inner.file).is_none() => {
                    // The first key stands behind the dash: written deeper, then moved there.
                    let start = self.out.len();
                    self.collection(item, kind, &inner.deeper());
                    let dash = at.indent + if at.disabled.is_some() { 2 } else { 0 };
                    self.dash(start, dash, &origin);
                }
                _ => self.value("-", item, kind, &origin, &inner),
            }
        }
    }

    fn collection(&mut self, node: &Node, kind: &'static Kind, at: &At<'_>) {
        let kind = resolve(kind, node);
        match (&node.value, kind) {
            (Value::Sequence(items), _) => self.items(items, kind, at),
            (_, Kind::Mapping(table) | Kind::Entries { long: table, .. }) => self.table(node, table, at),
            _ => node.entries().iter().for_each(|entry| self.entry(entry, &Kind::Any, at)),
        }
    }

    /// Puts the dash of an item before its first line that is no comment.
    fn dash(&mut self, start: usize, column: usize, origin: &str) {
        let text = self.out.split_off(start);
        let mut done = false;
        for line in text.lines() {
            let comment = line.trim_start().starts_with('#') && column == line.len() - line.trim_start().len();
            let fits = line.len() > column + 1 && line.as_bytes()[column] == b' ';
            if !done && !comment && fits {
                done = true;
                self.out.push_str(&format!("{}-{}{origin}\n", &line[..column], &line[column + 1..]));
            } else {
                self.out.push_str(line);
                self.out.push('\n');
            }
        }
    }

    /// The lines of comments that stand right above a key.
    fn comments_above(&mut self, entry: &Entry, at: &At<'_>) {
        let comment = |line: &&str| line.trim_start().starts_with('#');
        let lines: Vec<&str> = entry.key_place.lines_above().take_while(comment).collect();
        for line in lines.into_iter().rev() {
            self.line(at, line.trim());
        }
    }
}

/// The comment at the end of the line of a key and its value.
fn comment_behind(entry: &Entry) -> String {
    let rest = match &entry.value.value {
        Value::Scalar(_) => entry.value.place.rest_of_line(),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) => {
            entry.key_place.rest_of_line().trim_start_matches(['"', '\'']).trim_start_matches(':')
        }
    };
    let trimmed = rest.trim();
    if trimmed.starts_with('#') && rest.starts_with([' ', '\t']) { format!(" {trimmed}") } else { String::new() }
}

/// Of several kinds the one that fits.
fn resolve(kind: &'static Kind, node: &Node) -> &'static Kind {
    match kind {
        Kind::Either(kinds) => crate::spec::pick(kinds, node).unwrap_or(&Kind::Any),
        kind => kind,
    }
}

/// Text of several lines as a literal block, with its sign.
fn literal(text: &str, plain: bool) -> Option<(&'static str, &str)> {
    let odd = |letter: char| letter.is_control() && letter != '\n';
    if plain || !text.trim_end_matches('\n').contains('\n') || text.chars().any(odd) || text.starts_with([' ', '\n']) {
        return None;
    }
    if text.lines().any(|line| line.ends_with(' ')) || text.ends_with("\n\n") {
        return None;
    }
    Some((if text.ends_with('\n') { "|" } else { "|-" }, text))
}

/// On one line, when it was so and nothing in it has to be marked.
fn flow(node: &Node, kind: Option<&'static Kind>, file: &str) -> Option<String> {
    let empty = match &node.value {
        Value::Sequence(items) => items.is_empty(),
        Value::Mapping(entries) => entries.is_empty(),
        Value::Null | Value::Scalar(_) => false,
    };
    let (line, range) = node.place.excerpt();
    let written = line[range.start..].starts_with(['[', '{']);
    match &node.value {
        Value::Null => Some("null".to_owned()),
        Value::Scalar(scalar) if scalar.text.contains('\n') || node.place.file() != file => None,
        Value::Scalar(scalar) if scalar.plain && !scalar.text.contains([',', '[', ']', '{', '}']) => {
            Some(scalar.text.clone())
        }
        Value::Scalar(scalar) => Some(yaml::quoted(&scalar.text)),
        Value::Sequence(_) | Value::Mapping(_) if !empty && (!written || node.place.file() != file) => None,
        Value::Sequence(items) => {
            let items: Option<Vec<String>> = items.iter().map(|item| flow(item, None, file)).collect();
            Some(format!("[{}]", items?.join(", ")))
        }
        Value::Mapping(entries) => {
            let table = match kind.map(|kind| resolve(kind, node)) {
                Some(Kind::Mapping(table) | Kind::Entries { long: table, .. }) => Some(*table),
                // Names that the user chose, with keys below.
                Some(Kind::MapOf(_) | Kind::Named(_)) if !empty => return None,
                _ => None,
            };
            let mut parts = Vec::new();
            for entry in entries {
                let kind = match table {
                    None => None,
                    Some(table) => {
                        let key = table.key(&entry.key).filter(|key| key.standing != Standing::Unsupported)?;
                        Some(&key.kind)
                    }
                };
                parts.push(format!("{}: {}", yaml::scalar(&entry.key), flow(&entry.value, kind, file)?));
            }
            Some(if parts.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", parts.join(", ")) })
        }
    }
}

fn command_line(command: &Node) -> Result<CommandLine, Box<Diagnostic>> {
    match &command.value {
        Value::Sequence(items) => {
            let words: Vec<String> = items.iter().filter_map(Node::text).map(str::to_owned).collect();
            Ok(CommandLine::of_words("registrator", &words))
        }
        _ => CommandLine::of_line("registrator", command.text().unwrap_or_default(), "registrator"),
    }
}

/// How the registrator among the services registers the others; none: there is none.
fn conventions_of(root: &Node) -> Option<Conventions> {
    let services = root.value("services")?;
    let command = services.entries().iter().find_map(|entry| registrator_of(&entry.value))?;
    command_line(command).ok().map(|line| registrator::conventions(&line))
}

/// The command of a service that runs registrator.
fn registrator_of(service: &Node) -> Option<&Node> {
    let image = service.value("image").and_then(Node::text)?;
    let base = image.rsplit('/').next()?.split([':', '@']).next()?;
    if base == "registrator" { service.value("command") } else { None }
}
