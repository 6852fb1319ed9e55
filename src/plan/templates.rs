//! Templates: which file is written, and when what follows is run.
//!
//! A template is written when what it renders differs from what stands at its destination, unless the data are not to be
//! believed yet. What follows (a command, a signal) runs when every template that shares it is in place and the mark of
//! one says that it is pending: the mark is in reeve's folder, so a crash in between loses nothing. A template that cannot
//! be rendered keeps its last good file and holds nobody else.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::action::{NewFile, TemplateRun};
use super::planner::{Planner, after};
use super::{Action, ObjectKey, Step, TemplateAction};
use crate::observed::{Answer, Dependency, Destination, FileSeen, TemplateRecord, TemplateSeen, TemplateStage, View};
use crate::spec::Template;
use crate::spec::template::{FollowUp, SignalTarget};
use crate::template;

/// Of a file that nothing says otherwise of.
const MODE: u32 = 0o644;

/// How a template stands in this wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Its file is as it should be.
    InPlace,
    /// It is about to be written, or will be when a time is over: what it shares waits.
    OnTheWay,
    /// It waits for somebody: its last good file stays, and what it shares does not wait.
    Stuck,
}

/// What follows, and the templates that share it.
type Groups<'a> = BTreeMap<FollowUp, Vec<(&'a Template, Standing)>>;

impl<'a> Planner<'a> {
    pub(super) fn templates(&mut self) {
        // What is taken down leaves files as they are: whoever reads them goes on with the last ones.
        if self.context.teardown.is_some() {
            return;
        }
        let spec = self.spec;
        let mut groups: Groups<'a> = BTreeMap::new();
        for template in spec.templates.values() {
            let standing = self.judge_template(template);
            if let Some(follow_up) = template.follow_up() {
                groups.entry(follow_up).or_default().push((template, standing));
            }
        }
        for (follow_up, members) in groups {
            self.follow_up(follow_up, &members);
        }
    }

    fn judge_template(&mut self, template: &'a Template) -> Standing {
        let object = ObjectKey::Template(template.name.clone());
        let seen = match self.observed.templates.seen.get(&template.name) {
            Some(View::Known(seen)) => seen,
            Some(View::Unknown { reason, .. }) => {
                self.wait(object, "template_unreadable", reason.clone());
                return Standing::Stuck;
            }
            // A spec that was just taken: the next look knows it.
            None => return Standing::Stuck,
        };
        if let Err((kind, reason)) = self.template_place(template, seen) {
            self.wait(object, kind, reason);
            return Standing::Stuck;
        }
        let record = seen.record.as_deref().filter(|record| !record.text.is_empty());
        let file = match &seen.destination {
            Destination::File(file) => Some(file),
            Destination::Missing | Destination::Other(_) => None,
        };
        let fits = file.is_some_and(|file| fits(template, seen, file));
        if let Some(record) = record
            && record.inputs == seen.inputs
            && fits
            && file.is_some_and(|file| file.digest == record.text)
        {
            self.forget_needless_mark(template, record);
            return Standing::InPlace;
        }
        if let Some(reason) = self.template_data(seen) {
            self.wait(object, "template_data", reason);
            return Standing::Stuck;
        }
        let rendered = match &seen.error {
            Some(error) => Err(error.clone()),
            None => template::run(template, &self.observed.templates.answers, seen.changed_at).text,
        };
        let text = match rendered {
            Ok(text) => text,
            Err(reason) => {
                // Data that are not believed yet may be all that is wrong.
                if self.template_distrusted(&object, seen, record, file) {
                    return Standing::OnTheWay;
                }
                self.wait(
                    object,
                    "template_failed",
                    format!("it cannot be rendered, and its last good file stays: {reason}"),
                );
                return Standing::Stuck;
            }
        };
        let digest = template::digest(text.as_bytes());
        let mut new = self.new_record(template, seen, &digest, file);
        if fits && file.is_some_and(|file| file.digest == digest) {
            // In place already: what it was made from is noted, and a command that was pending stays so.
            new.pending = record.is_some_and(|record| record.pending && record.text == digest);
            new.before = record.and_then(|record| record.before.clone());
            new.failed = record.and_then(|record| record.failed.clone()).filter(|failed| failed.text == digest);
            if seen.record.as_deref() != Some(&new) {
                self.note_template(template, new);
            }
            return Standing::InPlace;
        }
        if self.template_distrusted(&object, seen, record, file)
            || self.template_gathers(&object, template, seen, record)
        {
            return Standing::OnTheWay;
        }
        self.write_template(template, seen, text, new)
    }

    fn write_template(
        &mut self,
        template: &'a Template,
        seen: &TemplateSeen,
        text: String,
        new: TemplateRecord,
    ) -> Standing {
        let object = ObjectKey::Template(template.name.clone());
        let record = seen.record.as_deref().filter(|record| !record.text.is_empty());
        let file = match &seen.destination {
            Destination::File(file) => Some(file),
            Destination::Missing | Destination::Other(_) => None,
        };
        let (mut cause, drift) = cause(template, seen, record, file, &new.text);
        let failed = seen.record.as_ref().and_then(|record| record.failed.as_ref());
        let refused = failed.filter(|failed| failed.stage == TemplateStage::Check && failed.text == new.text);
        if let Some(refused) = refused {
            let line = refused.reason.lines().next().unwrap_or_default();
            cause = format!("{cause}; its check has refused this text before: {line}");
        }
        let (user, group) = seen.owner.clone().unwrap_or_default();
        let action = NewFile {
            name: template.name.clone(),
            real: seen.real.clone(),
            expect: file.map(|file| file.digest.clone()),
            text: text.into(),
            mode: template.perms.or(file.map(|file| file.mode)).unwrap_or(MODE),
            user: user.or(file.map(|file| file.user)),
            group: group.or(file.map(|file| file.group)),
            check: template.check.clone(),
            backup: template.backup,
            record: new,
        };
        self.step(object, Action::Template(TemplateAction::Write(Box::new(action))), cause);
        if drift {
            self.mark_drift();
        }
        if refused.is_some() { Standing::Stuck } else { Standing::OnTheWay }
    }

    /// Whether the destination may be written at all, and can be.
    fn template_place(&self, template: &Template, seen: &TemplateSeen) -> Result<(), (&'static str, String)> {
        let templates = &self.observed.templates;
        let destination = template.destination.display();
        let own = |path: &Path| path.starts_with(&templates.own);
        if own(&template.destination) || own(&seen.real) {
            let reason = format!("{destination} lies in reeve's own folder: choose another destination");
            return Err(("template_place", reason));
        }
        if !templates.allowed.iter().any(|folder| seen.real.starts_with(folder)) {
            let folders: Vec<String> = templates.allowed.iter().map(|folder| folder.display().to_string()).collect();
            let led = match seen.real == template.destination {
                true => String::new(),
                false => format!(" (a link leads to {})", seen.real.display()),
            };
            let reason = format!(
                "{destination}{led} lies in none of the folders that may be written: {}; add its folder to \
                 templates.allow in the settings, or choose another destination",
                folders.join(", ")
            );
            return Err(("template_place", reason));
        }
        if let Some(mount) = &seen.mounted {
            let reason = format!(
                "{destination} is a mount of its own ({mount}): a file that is bind-mounted cannot be replaced, and \
                 whoever has it would go on reading the old one; mount its folder instead"
            );
            return Err(("template_mounted", reason));
        }
        // By text the spec has refused it already; links can make one of two.
        let same = self.spec.templates.keys().take_while(|name| **name != template.name).find(|name| {
            let other = templates.seen.get(*name).and_then(View::known);
            other.is_some_and(|other| other.real == seen.real)
        });
        if let Some(other) = same {
            let reason =
                format!("{destination} leads to the file that the template {other} writes: {}", seen.real.display());
            return Err(("template_place", reason));
        }
        if let Destination::Other(what) = &seen.destination {
            return Err(("template_place", format!("{destination} is {what}, not a file")));
        }
        if let Err(reason) = &seen.owner {
            return Err(("template_place", reason.clone()));
        }
        Ok(())
    }

    /// Why some of the data cannot be told.
    fn template_data(&self, seen: &TemplateSeen) -> Option<String> {
        seen.asked.iter().find_map(|dependency| match self.observed.templates.answers.get(dependency) {
            Some(View::Known(_)) => None,
            Some(View::Unknown { reason, .. }) => {
                Some(format!("{dependency} cannot be read, and its last good file stays: {reason}"))
            }
            None => Some(format!("{dependency} is not read yet")),
        })
    }

    /// An answer that is suddenly empty, or lost more than the settings allow, is not believed until that has lasted.
    fn template_distrusted(
        &mut self,
        object: &ObjectKey,
        seen: &TemplateSeen,
        record: Option<&TemplateRecord>,
        file: Option<&FileSeen>,
    ) -> bool {
        let share = usize::from(self.context.distrust_percent);
        let now = self.now;
        let suspicious = seen.asked.iter().filter(|one| one.of_consul()).find_map(|dependency| {
            let answer = self.observed.templates.answers.get(dependency)?.known()?;
            let name = dependency.to_string();
            let (is, was) = (answer.entries.len(), record.and_then(|record| record.sizes.get(&name)));
            let believed_at = after(answer.shrunk_at, self.context.distrust_for);
            let lost = match was {
                Some(was) => {
                    let own = record.and_then(|record| record.own.get(&name)).into_iter().flatten();
                    let left = own.filter(|(entry, _)| !answer.entries.contains(*entry));
                    // Containers that are seen to be gone, or leaving, explain the loss of their entry, as of an upstream.
                    let leave = |one: &str| self.container_trouble(one).is_some();
                    let explained = left.filter(|(_, containers)| containers.split(' ').all(leave)).count();
                    let lost = was.saturating_sub(is).saturating_sub(explained);
                    lost > 0 && (is == 0 || lost * 100 > *was * share)
                }
                // Somebody else's file, or one whose record is lost: it may be full of what is missing now.
                None => is == 0 && file.is_some() && record.is_none(),
            };
            (lost && believed_at > now).then(|| (dependency, is, was.copied(), believed_at))
        });
        let Some((dependency, is, was, believed_at)) = suspicious else { return false };
        let reason = match (is, was) {
            (0, Some(was)) => format!("{dependency} is suddenly empty ({was} before)"),
            (is, Some(was)) => format!("{dependency} suddenly has {is} entries of {was}"),
            (_, None) => format!("{dependency} is empty"),
        };
        let reason = format!("{reason}: it is not believed until that has lasted; the file stays");
        self.wait_until(object.clone(), "distrust", reason, believed_at);
        true
    }

    /// `wait`: changes are gathered until they are quiet.
    fn template_gathers(
        &mut self,
        object: &ObjectKey,
        template: &Template,
        seen: &TemplateSeen,
        record: Option<&TemplateRecord>,
    ) -> bool {
        let (Some(wait), Some(record)) = (template.wait, record) else { return false };
        if record.inputs == seen.inputs || matches!(seen.destination, Destination::Missing) {
            return false;
        }
        let until = after(seen.changed_at, wait.min).min(after(seen.unwritten_since, wait.max));
        if until <= self.now {
            return false;
        }
        self.wait_until(
            object.clone(),
            "template_wait",
            "its data have just changed: changes are gathered (wait)",
            until,
        );
        true
    }

    fn new_record(
        &self,
        template: &Template,
        seen: &TemplateSeen,
        digest: &str,
        file: Option<&FileSeen>,
    ) -> TemplateRecord {
        let answers = &self.observed.templates.answers;
        let size = |dependency: &Dependency| {
            let answer = answers.get(dependency)?.known()?;
            dependency.of_consul().then(|| (dependency.to_string(), answer.entries.len()))
        };
        let own = |dependency: &Dependency| {
            let own = self.own_entries(dependency, answers.get(dependency)?.known()?);
            (!own.is_empty()).then(|| (dependency.to_string(), own))
        };
        TemplateRecord {
            destination: template.destination.clone(),
            text: digest.to_owned(),
            inputs: seen.inputs.clone(),
            changed_at: seen.changed_at,
            sizes: seen.asked.iter().filter_map(size).collect(),
            own: seen.asked.iter().filter_map(own).collect(),
            before: file.map(|file| file.digest.clone()),
            pending: template.follow_up().is_some(),
            failed: None,
        }
    }

    /// The containers behind each entry of an answer that we registered, with blanks between: an entry of `services` is the
    /// name that several may have.
    fn own_entries(&self, dependency: &Dependency, answer: &Answer) -> BTreeMap<String, String> {
        let Some(consul) = self.facts.consul else { return BTreeMap::new() };
        let node = &consul.agent.node;
        let by_id = |id: &str| consul.registrations.get(id).map(|one| one.container.clone());
        // Once for all entries: a catalog may have a thousand.
        let named = OnceCell::new();
        let by_name = || {
            let mut by_name: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
            for one in consul.registrations.values() {
                by_name.entry(&one.name).or_default().insert(&one.container);
            }
            by_name
        };
        let containers = |entry: &String| match dependency {
            // `<Consul's node>/<id of the registration>`.
            Dependency::Service { .. } => {
                entry.split_once('/').filter(|(at, _)| at == node).and_then(|(_, id)| by_id(id))
            }
            Dependency::Node { name, datacenter: None } if name.as_ref().is_none_or(|name| name == node) => {
                by_id(entry)
            }
            Dependency::Services { datacenter: None } => {
                let all = named.get_or_init(by_name).get(entry.as_str())?;
                Some(all.iter().copied().collect::<Vec<_>>().join(" "))
            }
            _ => None,
        };
        answer.entries.iter().filter_map(|entry| Some((entry.clone(), containers(entry)?))).collect()
    }

    /// The spec has nothing to run any more.
    fn forget_needless_mark(&mut self, template: &Template, record: &TemplateRecord) {
        if record.pending && template.follow_up().is_none() {
            self.note_template(template, TemplateRecord { pending: false, failed: None, ..record.clone() });
        }
    }

    fn note_template(&mut self, template: &Template, record: TemplateRecord) {
        let action = TemplateAction::Note { name: template.name.clone(), record: Arc::new(record) };
        self.add_record(Step {
            object: ObjectKey::Template(template.name.clone()),
            action: Action::Template(action),
            cause: "it is in place: what it was made from is noted".to_owned(),
            drift: false,
            changes: Vec::new(),
        });
    }

    /// Runs what the templates share, once, when all are in place and one is pending.
    fn follow_up(&mut self, follow_up: FollowUp, members: &[(&'a Template, Standing)]) {
        let observed = self.observed;
        let record = |template: &Template| {
            let seen = observed.templates.seen.get(&template.name)?.known()?;
            seen.record.as_deref().filter(|record| record.pending)
        };
        let pending: BTreeMap<String, String> = members
            .iter()
            // The mark of one that waits for somebody stands for its last good file.
            .filter(|(_, standing)| *standing != Standing::OnTheWay)
            .filter_map(|(template, _)| Some((template.name.clone(), record(template)?.text.clone())))
            .collect();
        let Some(first) = pending.keys().next().cloned() else { return };
        let on_the_way: Vec<&str> = members
            .iter()
            .filter(|(_, standing)| *standing == Standing::OnTheWay)
            .map(|(template, _)| template.name.as_str())
            .collect();
        let object = ObjectKey::Template(first.clone());
        if !on_the_way.is_empty() {
            let reason =
                format!("what follows waits until the templates that share it are in place: {}", on_the_way.join(", "));
            self.wait(object, "template_others", reason);
            return;
        }
        let mut containers = BTreeMap::new();
        if let Some(SignalTarget::Service(service)) = follow_up.signal.as_ref().map(|signal| &signal.target) {
            let Some(docker) = self.facts.docker else {
                let reason = format!("the signal to the containers of {service} waits until Docker can be read");
                self.wait(object, "template_signal", reason);
                return;
            };
            let own = docker.containers.values().filter(|one| one.service == *service && one.state.running());
            containers.extend(own.map(|one| (one.id.clone(), one.name.clone())));
        }
        let failed = pending.keys().find_map(|name| {
            let seen = observed.templates.seen.get(name)?.known()?;
            let failed = seen.record.as_ref()?.failed.as_ref()?;
            (failed.stage == TemplateStage::Command)
                .then(|| failed.reason.lines().next().unwrap_or_default().to_owned())
        });
        let names: Vec<&str> = pending.keys().map(String::as_str).collect();
        let cause = match (names.as_slice(), failed) {
            (_, Some(failed)) => format!("it failed before: {failed}"),
            ([_], None) => "its file has changed".to_owned(),
            (names, None) => format!("the files of {} have changed", names.join(", ")),
        };
        let action = TemplateAction::Run(Box::new(TemplateRun { templates: pending, follow_up, containers }));
        self.step(object, Action::Template(action), cause);
    }
}

/// Mode and owner are as the spec says.
fn fits(template: &Template, seen: &TemplateSeen, file: &FileSeen) -> bool {
    let (user, group) = seen.owner.clone().unwrap_or_default();
    template.perms.is_none_or(|mode| mode == file.mode)
        && user.is_none_or(|user| user == file.user)
        && group.is_none_or(|group| group == file.group)
}

/// Why it is written, and whether somebody else has changed it.
fn cause(
    template: &Template,
    seen: &TemplateSeen,
    record: Option<&TemplateRecord>,
    file: Option<&FileSeen>,
    digest: &str,
) -> (String, bool) {
    let destination = template.destination.display();
    let Some(file) = file else {
        let drift = record.is_some_and(|record| record.destination == template.destination && record.before.is_some());
        return (format!("{destination} does not exist"), drift);
    };
    if file.digest == digest {
        return (format!("the mode or the owner of {destination} is another one"), record.is_some());
    }
    match record {
        None => (format!("{destination} is not what the template renders"), false),
        Some(record) if record.destination != template.destination => {
            (format!("its destination was {}", record.destination.display()), false)
        }
        Some(record) if file.digest == record.text => ("the template, or its data, changed".to_owned(), false),
        Some(record) if record.before.as_ref() == Some(&file.digest) => {
            ("it was noted and not put in place".to_owned(), false)
        }
        Some(record) if record.inputs == seen.inputs => (format!("{destination} was changed by somebody else"), true),
        Some(_) => ("its data changed, and the file was changed by somebody else".to_owned(), true),
    }
}
