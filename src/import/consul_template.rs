//! consul-template's settings and command line as `templates`, each with its template translated.
//!
//! Owns what a `template` block becomes. What becomes of the other settings is in `fates`, the translation of a template's
//! text in `gotemplate`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::settings::TEMPLATE_FOLDERS;
use crate::spec::diagnostic::{Diagnostic, Diagnostics};
use crate::spec::load::Files;
use crate::spec::suggest::did_you_mean;
use crate::spec::tree::{Place, Source};
use crate::spec::words;

use super::fates::{self, Fate};
use super::gotemplate::{self, Options};
use super::hcl::{self, Entry, Kind, Value};
use super::native::native;
use super::settings::Settings;
use super::{COMMAND_LINE, CommandLine, File, Imported, Word, fault, flags, text, yaml};

/// What is imported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// Settings (`*.hcl`, `*.json`), and templates (everything else), by path.
    pub files: Vec<String>,
    /// `SOURCE:DESTINATION:COMMAND`, as consul-template's `-template`.
    pub templates: Vec<String>,
    /// A command line in one text.
    pub command: Option<String>,
    /// A command line in words.
    pub words: Vec<String>,
}

/// # Errors
/// What cannot be read: a file that is missing, HCL or a template that consul-template would refuse, a flag that it does not
/// have.
pub fn import(given: &Given, files: &dyn Files) -> Result<Imported, Diagnostics> {
    let mut importer = Importer::new(files);
    match importer.all(given) {
        Ok(()) => Ok(importer.finish()),
        Err(problem) => Err(Diagnostics(vec![*problem])),
    }
}

type Problem = Box<Diagnostic>;

/// A setting with its path, wherever it was given.
struct Set<'a> {
    path: String,
    /// As it is written, without its value.
    shown: String,
    place: Place,
    value: &'a Value,
}

/// A template before it is translated.
#[derive(Default)]
struct Template {
    from: String,
    source: Option<(String, Place)>,
    contents: Option<(String, Place)>,
    destination: Option<String>,
    delimiters: Option<(String, String)>,
    wait: Option<(String, Option<String>)>,
    /// Complete lines of the entry.
    lines: Vec<String>,
}

struct Importer<'a> {
    files: &'a dyn Files,
    imported: Imported,
    settings: Settings,
    templates: Vec<Template>,
    delimiters: (String, String),
    wait: Option<(String, Option<String>)>,
    secure: bool,
    address: Option<(String, String)>,
    fates: Vec<String>,
    told: BTreeSet<(&'static str, String)>,
    names: BTreeSet<String>,
    /// Of destinations, beside those that the settings allow by themselves.
    folders: BTreeSet<String>,
    from: Vec<String>,
}

impl<'a> Importer<'a> {
    fn new(files: &'a dyn Files) -> Self {
        Self {
            files,
            imported: Imported::default(),
            settings: Settings::default(),
            templates: Vec::new(),
            delimiters: ("{{".to_owned(), "}}".to_owned()),
            wait: None,
            secure: false,
            address: None,
            fates: Vec::new(),
            told: BTreeSet::new(),
            names: BTreeSet::new(),
            folders: BTreeSet::new(),
            from: Vec::new(),
        }
    }

    fn all(&mut self, given: &Given) -> Result<(), Problem> {
        for name in &given.files {
            self.from.push(name.clone());
            if name.ends_with(".hcl") || name.ends_with(".json") {
                self.settings_file(name)?;
            } else {
                let place = Place::new(&text(self.files, name)?, 0..0);
                self.templates.push(Template {
                    from: name.clone(),
                    source: Some((name.clone(), place)),
                    ..Template::default()
                });
            }
        }
        if !given.templates.is_empty() || given.command.is_some() || !given.words.is_empty() {
            self.from.push("the command line".to_owned());
        }
        for template in &given.templates {
            let line = CommandLine::of_words(COMMAND_LINE, std::slice::from_ref(template));
            self.template_flag(&line, &line.words[0])?;
        }
        if let Some(command) = &given.command {
            self.command(&CommandLine::of_line(COMMAND_LINE, command, "consul-template")?)?;
        }
        self.command(&CommandLine::of_words(COMMAND_LINE, &given.words))
    }

    fn settings_file(&mut self, name: &str) -> Result<(), Problem> {
        let source = text(self.files, name)?;
        let entries = hcl::parse(&source.text).map_err(|problem| fault(&source, problem))?;
        // Delimiters first: they hold for templates that stand before them, too.
        for entry in entries.iter().filter(|entry| entry.key == "default_delimiters") {
            self.entry(&source, "", entry)?;
        }
        for entry in entries.iter().filter(|entry| entry.key != "default_delimiters") {
            self.entry(&source, "", entry)?;
        }
        Ok(())
    }

    fn entry(&mut self, source: &Arc<Source>, above: &str, entry: &Entry) -> Result<(), Problem> {
        let path = if above.is_empty() { entry.key.clone() } else { format!("{above}.{}", entry.key) };
        let place = Place::new(source, entry.key_range.clone());
        if path == "template" {
            let blocks = match &entry.value.kind {
                Kind::List(blocks) => blocks.as_slice(),
                _ => std::slice::from_ref(&entry.value),
            };
            return blocks.iter().try_for_each(|block| self.template_block(source, &place, block));
        }
        if path == "wait" {
            self.wait = wait(&entry.value);
            return Ok(());
        }
        let inner = entry.value.entries();
        // A block that is switched off says nothing.
        if inner.iter().any(|entry| entry.key == "enabled" && entry.value.boolean() == Some(false)) {
            return Ok(());
        }
        if inner.is_empty() {
            let shown = format!("{path} ({}:{})", source.name, place.line());
            return self.setting(&Set { path, shown, place, value: &entry.value });
        }
        inner.iter().try_for_each(|entry| self.entry(source, &path, entry))
    }

    fn command(&mut self, line: &CommandLine) -> Result<(), Problem> {
        let (flags, rest) = flags::parse(line, fates::SWITCHES);
        if let Some(word) = rest.first() {
            return Err(Box::new(Diagnostic::error(&line.place(&word.range), "consul-template takes no such word")));
        }
        for flag in flags {
            let place = line.place(&flag.word.range);
            let Some(path) = fates::of_flag(&flag.name) else {
                let message = format!("consul-template has no flag `-{}`", flag.name);
                return Err(Box::new(Diagnostic::error(&place, message)));
            };
            let word = flag.value.clone().unwrap_or(Word { text: "true".to_owned(), range: flag.word.range.clone() });
            match path.as_str() {
                "template" => self.template_flag(line, &word)?,
                "config" => {
                    self.from.push(word.text.clone());
                    self.settings_file(&word.text)?;
                }
                _ => {
                    let value = Value { kind: Kind::Text(word.text.clone()), range: word.range.clone() };
                    if path == "wait" {
                        self.wait = wait(&value);
                        continue;
                    }
                    self.setting(&Set { path, shown: format!("-{}", flag.name), place, value: &value })?;
                }
            }
        }
        Ok(())
    }

    fn setting(&mut self, set: &Set<'_>) -> Result<(), Problem> {
        let Some((known, fate)) = fates::of(&set.path) else {
            let problem = Diagnostic::error(&set.place, format!("consul-template has no setting `{}`", set.path));
            return Err(Box::new(match did_you_mean(&set.path, fates::names()) {
                Some(help) => problem.with_help(help),
                None => problem,
            }));
        };
        let value = set.value.text().unwrap_or_default();
        match fate {
            Fate::Setting("consul.address") => self.address = Some((value.to_owned(), set.shown.clone())),
            Fate::Setting(key) if !value.is_empty() => self.settings.set(key, value, &set.shown),
            Fate::Secret(key) if !value.is_empty() => {
                let what = format!("put the token of {} into this file", set.shown);
                self.settings.hint(key, "/etc/reeve/consul-token", &what);
            }
            Fate::Setting(_) | Fate::Secret(_) => {}
            Fate::Settled(why) => self.settled(known, &set.shown, why),
            Fate::Gap(why, help) => {
                self.gap(known, set, why, help);
            }
            Fate::Own => self.own(set, value),
        }
        Ok(())
    }

    /// One line for a whole block of settings that share their fate.
    fn settled(&mut self, known: &'static str, shown: &str, why: &str) {
        if self.told.insert((known, String::new())) {
            self.fates.push(format!("{shown}: {why}"));
        }
    }

    fn gap(&mut self, known: &'static str, set: &Set<'_>, why: &str, help: &str) {
        if self.told.insert((known, set.place.file().to_owned())) {
            self.imported.gap(&set.place, format!("`{known}` has no counterpart: {why}"), help);
            let help = if help.is_empty() { String::new() } else { format!("; {help}") };
            self.fates.push(format!("{}: no counterpart: {why}{help}", set.shown));
        }
    }

    fn own(&mut self, set: &Set<'_>, value: &str) {
        match set.path.as_str() {
            "consul.ssl.enabled" => self.secure = set.value.boolean() == Some(true),
            "consul.ssl.verify" if set.value.boolean() == Some(false) => {
                self.gap(
                    "consul.ssl.verify",
                    set,
                    "reeve always checks certificates",
                    "name the authority in `consul.ca_file`",
                );
            }
            "log_level" => {
                let level = match value.to_ascii_lowercase().as_str() {
                    "err" => "error".to_owned(),
                    "warning" => "warn".to_owned(),
                    level => level.to_owned(),
                };
                self.settings.set("log.level", &level, &set.shown);
            }
            "default_delimiters.left" => self.delimiters.0 = value.to_owned(),
            "default_delimiters.right" => self.delimiters.1 = value.to_owned(),
            _ => {}
        }
    }

    /// `SOURCE:DESTINATION:COMMAND`.
    fn template_flag(&mut self, line: &CommandLine, word: &Word) -> Result<(), Problem> {
        let mut parts = word.text.trim().splitn(3, ':').map(str::trim);
        let source = parts.next().unwrap_or_default().to_owned();
        let mut template = Template { from: format!("-template {}", word.text.trim()), ..Template::default() };
        if source.is_empty() {
            return Err(Box::new(Diagnostic::error(&line.place(&word.range), "the template's source is missing")));
        }
        template.source = Some((source, line.place(&word.range)));
        template.destination = parts.next().filter(|part| !part.is_empty()).map(str::to_owned);
        if let Some(command) = parts.next().filter(|part| !part.is_empty()) {
            template.lines.push(format!("command: {}", command_text(command, None)));
        }
        self.templates.push(template);
        Ok(())
    }

    fn template_block(&mut self, source: &Arc<Source>, key: &Place, block: &Value) -> Result<(), Problem> {
        let mut template = Template { from: format!("{}:{}", source.name, key.line()), ..Template::default() };
        let mut delimiters = self.delimiters.clone();
        let entries = block.entries();
        let timeout = entries.iter().find(|entry| entry.key == "command_timeout").and_then(|entry| entry.value.text());
        for entry in entries {
            let place = Place::new(source, entry.key_range.clone());
            let value = entry.value.text().unwrap_or_default().to_owned();
            let key = entry.key.as_str();
            match key {
                "source" if !value.is_empty() => {
                    template.source = Some((value, Place::new(source, entry.value.range.clone())));
                }
                "contents" if !value.is_empty() => template.contents = Some((value, place)),
                "destination" => template.destination = Some(value).filter(|value| !value.is_empty()),
                "command" => {
                    template.lines.extend(command(&entry.value, timeout).map(|line| format!("command: {line}")));
                }
                "exec" => {
                    let field = |name: &str| entry.value.entries().iter().find(|one| one.key == name);
                    let timeout = field("timeout").and_then(|one| one.value.text()).or(timeout);
                    let line = field("command").and_then(|one| command(&one.value, timeout));
                    if field("enabled").and_then(|one| one.value.boolean()) != Some(false) {
                        template.lines.extend(line.map(|line| format!("command: {line}")));
                    }
                    let known = ["command", "timeout", "enabled"];
                    for other in entry.value.entries().iter().filter(|one| !known.contains(&one.key.as_str())) {
                        let place = Place::new(source, other.key_range.clone());
                        let name = format!("exec.{}", other.key);
                        self.template_gap(
                            &mut template,
                            &place,
                            &name,
                            "a command here has its words and a timeout alone",
                        );
                    }
                }
                "perms" => template.lines.push(format!("perms: {}", yaml::quoted(&value))),
                "user" | "group" if !value.is_empty() => {
                    template.lines.push(format!("{key}: {}", yaml::scalar(&value)))
                }
                "uid" | "gid" if !value.is_empty() && value != "-1" => {
                    let name = if key == "uid" { "user" } else { "group" };
                    template.lines.push(format!("{name}: {}", yaml::quoted(&value)));
                }
                "backup" if entry.value.boolean() == Some(true) => template.lines.push("backup: true".to_owned()),
                "left_delimiter" => delimiters.0 = value,
                "right_delimiter" => delimiters.1 = value,
                "wait" => template.wait = wait(&entry.value),
                "error_on_missing_key" if entry.value.boolean() == Some(true) => {
                    template.lines.push("# error_on_missing_key: always so, an undefined value is an error".to_owned());
                }
                "create_dest_dirs" if entry.value.boolean() == Some(false) => {
                    self.template_gap(&mut template, &place, key, "reeve always makes the destination's folder");
                }
                "sandbox_path" if !value.is_empty() => {
                    self.template_gap(&mut template, &place, key, "`file` reads wherever reeve may");
                }
                "function_denylist" | "function_blacklist" => {
                    self.template_gap(
                        &mut template,
                        &place,
                        key,
                        "templates start no programs and write no other files anyway",
                    );
                }
                "source"
                | "contents"
                | "command_timeout"
                | "user"
                | "group"
                | "uid"
                | "gid"
                | "backup"
                | "error_on_missing_key"
                | "create_dest_dirs"
                | "sandbox_path"
                | "error_fatal"
                | "splay"
                | "map_to_environment_variable" => {}
                _ => {
                    let message = format!("a `template` of consul-template has no setting `{key}`");
                    return Err(Box::new(Diagnostic::error(&place, message)));
                }
            }
        }
        template.delimiters = Some(delimiters);
        if template.source.is_none() && template.contents.is_none() {
            return Err(Box::new(Diagnostic::error(key, "this `template` has neither `source` nor `contents`")));
        }
        self.templates.push(template);
        Ok(())
    }

    fn template_gap(&mut self, template: &mut Template, place: &Place, key: &str, why: &str) {
        self.imported.gap(place, format!("`{key}` has no counterpart: {why}"), "");
        template.lines.push(format!("# no counterpart: {key}: {why}"));
    }

    fn finish(mut self) -> Imported {
        let templates = std::mem::take(&mut self.templates);
        let mut body = String::new();
        for template in templates {
            body.push_str(&self.template(template));
        }
        if let Some((address, from)) = &self.address {
            let scheme = if self.secure { "https" } else { "http" };
            let address = if address.contains("://") { address.clone() } else { format!("{scheme}://{address}") };
            self.settings.set("consul.address", &address, from);
        }
        if !self.folders.is_empty() {
            let allowed: Vec<&str> =
                TEMPLATE_FOLDERS.into_iter().chain(self.folders.iter().map(String::as_str)).collect();
            self.settings.list("templates.allow", &allowed, "where templates may write");
        }
        let mut text = format!("# Imported from consul-template: {}.\n", self.from.join(", "));
        text.push_str(
            "# Put it into your spec, or give it as one more file: `reeve -f app.yaml -f templates.yaml plan`.\n",
        );
        text.push_str("# The templates (`*.j2`) belong into the folder of the first file of the spec.\n\n");
        text.push_str(&self.settings.comment());
        if !self.fates.is_empty() {
            text.push_str("# What became of the other settings:\n");
            for fate in &self.fates {
                text.push_str(&format!("#   {fate}\n"));
            }
            text.push('\n');
        }
        text.push_str(if body.is_empty() { "templates: {}\n" } else { "templates:\n" });
        text.push_str(&body);
        let mut imported = self.imported;
        imported.files.insert(0, File { name: "templates.yaml".to_owned(), text });
        imported
    }

    /// A destination in no folder that the settings allow by themselves needs to be allowed.
    fn allow(&mut self, destination: &str) {
        let folder = Path::new(destination).parent().filter(|folder| folder.is_absolute());
        if let Some(folder) = folder.filter(|folder| !TEMPLATE_FOLDERS.iter().any(|known| folder.starts_with(known))) {
            self.folders.insert(folder.display().to_string());
        }
    }

    /// The entry of one template; its text becomes a file.
    fn template(&mut self, template: Template) -> String {
        let place = template.source.as_ref().or(template.contents.as_ref()).map(|(_, place)| place.clone());
        let stem = name(template.destination.as_deref().or(template.source.as_ref().map(|(path, _)| path.as_str())));
        let mut key = stem.clone();
        let mut number = 2;
        while !self.names.insert(key.clone()) {
            key = format!("{stem}-{number}");
            number += 1;
        }
        let mut entry = format!("  # {}\n  {}:\n", template.from.replace('\n', " "), yaml::scalar(&key));
        let (left, right) = template.delimiters.as_ref().unwrap_or(&self.delimiters);
        let delimiters = match (left.as_str(), right.as_str()) {
            ("", _) | (_, "") => ("{{".to_owned(), "}}".to_owned()),
            _ => (left.clone(), right.clone()),
        };
        let (origin, source) = match (&template.contents, &template.source) {
            (Some((contents, _)), _) => {
                let name = format!("{} (contents)", template.from);
                ("its contents".to_owned(), Ok(Arc::new(Source { name, text: contents.clone() })))
            }
            (None, Some((path, _))) => (path.clone(), text(self.files, path)),
            (None, None) => (String::new(), Ok(Arc::new(Source { name: String::new(), text: String::new() }))),
        };
        let options = |source: &Source| Options { name: source.name.clone(), delimiters };
        let translated = source.and_then(|source| {
            gotemplate::translate(&source.text, &options(&source))
                .map(|translated| (Arc::clone(&source), translated))
                .map_err(|problem| fault(&source, problem))
        });
        let file = self.imported.free_name(&key, ".j2");
        entry.push_str(&format!("    {:<38} # translated from {origin}\n", format!("source: {file}")));
        match translated {
            Ok((source, translated)) => {
                for gap in translated.gaps {
                    let place = Place::new(&source, gap.range);
                    self.imported.gap(&place, format!("no counterpart: {}", gap.reason), "");
                }
                if let Some(upstream) = native(&translated.text) {
                    entry.push_str("    # `upstreams` does this natively: endpoints are checked, seen loaded, and drained. About so:\n");
                    entry.push_str(&format!("    #   {upstream}\n"));
                }
                self.imported.files.push(File { name: file, text: translated.text });
            }
            // One template that cannot be read must not hide the others.
            Err(problem) => {
                entry.push_str(&format!("    # not translated: {}\n", problem.message));
                let mut gap = *problem;
                if gap.line == 0
                    && let Some(place) = &place
                {
                    gap = Diagnostic::error(place, format!("{}: {}", gap.file, gap.message));
                }
                self.imported.gaps.push(gap);
            }
        }
        match &template.destination {
            Some(destination) => {
                self.allow(destination);
                entry.push_str(&format!("    destination: {}\n", yaml::scalar(&yaml::escape(destination))))
            }
            None => entry.push_str("    destination: /path/to/file # consul-template was not told where\n"),
        }
        for line in &template.lines {
            entry.push_str(&format!("    {line}\n"));
        }
        if let Some((min, max)) = template.wait.as_ref().or(self.wait.as_ref()) {
            let max = max.as_ref().map_or(String::new(), |max| format!(", max: {max}"));
            entry.push_str(&format!("    wait: {{ min: {min}{max} }}\n"));
        }
        entry
    }
}

/// The name of a template: of the file that it makes.
fn name(path: Option<&str>) -> String {
    let path = path.unwrap_or("template");
    let base = path.rsplit('/').next().unwrap_or(path);
    let base = [".ctmpl", ".tmpl", ".tpl"].iter().find_map(|ending| base.strip_suffix(ending)).unwrap_or(base);
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    let name: String = base.chars().map(|letter| if fits(letter) { letter } else { '-' }).collect();
    if name.is_empty() { "template".to_owned() } else { name }
}

/// A list of words, or a text.
fn command(value: &Value, timeout: Option<&str>) -> Option<String> {
    match &value.kind {
        Kind::List(words) => {
            let words: Vec<String> = words.iter().filter_map(Value::text).map(yaml::escape).collect();
            (!words.is_empty()).then(|| command_list(&words, timeout))
        }
        _ => value.text().filter(|text| !text.is_empty()).map(|text| command_text(text, timeout)),
    }
}

/// consul-template gave a text with blanks to a shell. Here a shell is asked for only when the text needs one.
fn command_text(command: &str, timeout: Option<&str>) -> String {
    let needs_shell = command.contains(|letter: char| "|&;<>()$`*?~#\n".contains(letter)) || command.contains("||");
    match words::split(command) {
        Ok(words) if !needs_shell && !words.is_empty() => command_list(&words, timeout),
        _ => {
            let timeout = timeout.map_or(String::new(), |timeout| format!(", timeout: {timeout}"));
            format!("{{ shell: {}{timeout} }}", yaml::quoted(&yaml::escape(command)))
        }
    }
}

fn command_list(words: &[String], timeout: Option<&str>) -> String {
    match timeout {
        None => yaml::list(words),
        Some(timeout) => format!("{{ exec: {}, timeout: {timeout} }}", yaml::list(words)),
    }
}

/// `{ min = "5s" max = "10s" }`, or `5s:10s`. Without a maximum it is four times the minimum.
fn wait(value: &Value) -> Option<(String, Option<String>)> {
    let entries = value.entries();
    let field = |name: &str| entries.iter().find(|entry| entry.key == name).map(|entry| &entry.value);
    if field("enabled").and_then(Value::boolean) == Some(false) {
        return None;
    }
    let (min, max) = match value.text() {
        Some(text) => {
            let (min, max) = text.split_once(':').unwrap_or((text, ""));
            (min.to_owned(), max.to_owned())
        }
        None => {
            let text = |name: &str| field(name).and_then(Value::text).unwrap_or_default().to_owned();
            (text("min"), text("max"))
        }
    };
    if min.is_empty() || min.starts_with('0') {
        return None;
    }
    let max = if max.is_empty() { four_times(&min) } else { Some(max) };
    Some((min, max))
}

fn four_times(duration: &str) -> Option<String> {
    let digits = duration.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = duration.split_at(digits);
    let number: u64 = number.parse().ok()?;
    unit.chars().all(char::is_alphabetic).then(|| format!("{}{unit}", number.saturating_mul(4)))
}
