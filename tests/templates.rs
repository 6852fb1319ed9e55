//! Templates in the planner: what is written when, what is believed, and when the command runs.

mod common;

use common::{context, converge, empty_world, renderer, spec, start, templates};
use jiff::{SignedDuration, Timestamp};
use reeve::observed::{Destination, Observed, View};
use reeve::plan::{Action, Plan, TemplateAction, plan};
use reeve::spec::Spec;

struct Scene {
    spec: Spec,
    world: Observed,
    now: Timestamp,
}

impl Scene {
    /// Everything is in place, for an hour.
    fn new(text: &str) -> Self {
        let mut scene = Self { spec: spec(text), world: empty_world(), now: start() };
        converge(&mut scene.world, &scene.spec, &context(&renderer(), "shop"), &mut scene.now);
        scene.later(3600);
        scene
    }

    fn later(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    fn key(&mut self, path: &str, value: Option<&str>) {
        templates::key(&mut self.world, path, value, self.now);
        templates::look(&mut self.world, &self.spec, self.now);
    }

    fn plan(&self) -> Plan {
        plan(&self.spec, &self.world, self.now, &context(&renderer(), "shop"))
    }

    /// Template and kind of each step, sorted.
    fn steps(&self) -> Vec<String> {
        let plan = self.plan();
        let mut steps: Vec<String> =
            plan.steps.iter().map(|step| format!("{}: {}", step.object, step.action.kind())).collect();
        steps.sort();
        steps
    }

    fn waits(&self) -> Vec<(&'static str, Option<i64>)> {
        let until = |until: Timestamp| until.duration_since(self.now).as_secs();
        self.plan().waiting.iter().map(|waiting| (waiting.kind, waiting.until.map(until))).collect()
    }

    /// Applies one wave.
    fn apply(&mut self) {
        let context = context(&renderer(), "shop").owner;
        for step in self.plan().steps {
            self.world.after(&step.action, &context, self.now);
        }
        templates::look(&mut self.world, &self.spec, self.now);
    }

    fn text(&self, name: &str) -> String {
        let seen = self.world.templates.seen.get(name).and_then(View::known).expect("it is known");
        match &seen.destination {
            Destination::File(file) => file.text.as_deref().unwrap_or_default().to_owned(),
            other => panic!("{other:?}"),
        }
    }
}

fn one(contents: &str, more: &str) -> String {
    format!("name: shop\ntemplates:\n  a:\n    contents: \"{contents}\"\n    destination: /etc/a\n{more}")
}

const LIST: &str = "{% for one in tree('app') %}{{ one.Key }} {% endfor %}";

impl Scene {
    /// So many keys are below `app`.
    fn keys(&mut self, count: usize) {
        let data: Vec<_> = (0..count).map(|n| serde_json::json!({"Path": format!("app/{n}"), "Value": ""})).collect();
        let entries = (0..count).map(|n| format!("app/{n}")).collect();
        let answer = reeve::observed::Answer { data: data.into(), entries, shrunk_at: self.now };
        let dependency = reeve::observed::Dependency::Keys { prefix: "app".to_owned(), datacenter: None };
        std::sync::Arc::make_mut(&mut self.world.templates.answers).insert(dependency, View::Known(answer));
        templates::look(&mut self.world, &self.spec, self.now);
    }
}

#[test]
fn a_large_loss_is_believed_when_it_has_lasted_and_a_small_one_at_once() {
    let mut scene = Scene::new(&one(LIST, ""));
    scene.keys(10);
    scene.apply();
    for (left, doubted) in [(5, false), (4, true), (0, true)] {
        let mut scene = Scene { spec: scene.spec.clone(), world: scene.world.clone(), now: scene.now };
        scene.keys(left);
        if !doubted {
            assert_eq!(scene.steps(), ["template a: write_template"], "{left} of 10");
            continue;
        }
        assert_eq!((scene.steps(), scene.waits()), (vec![], vec![("distrust", Some(10))]), "{left} of 10");
        scene.later(11);
        assert_eq!(scene.steps(), ["template a: write_template"], "{left} of 10 for a while");
    }
}

const SERVERS: &str = "name: shop
services:
  web: { image: localhost/web:1, deploy: { replicas: COUNT }, register: { port: 80, address: container } }
templates:
  a: { contents: \"{% for one in service('web') %}{{ one.ID }} {% endfor %}\", destination: /etc/a }
";

impl Scene {
    fn servers(&self) -> usize {
        self.text("a").split_whitespace().count()
    }

    fn look_at_services(&mut self) {
        templates::forget_services(&mut self.world);
        templates::look(&mut self.world, &self.spec, self.now);
    }
}

#[test]
fn a_loss_by_our_own_scale_down_is_believed_at_once_and_one_that_nothing_explains_is_not() {
    let mut scene = Scene::new(&SERVERS.replace("COUNT", "4"));
    scene.look_at_services();
    scene.apply();
    assert_eq!(scene.servers(), 4);
    let vanished = |left: usize| {
        let mut scene = Scene { spec: scene.spec.clone(), world: scene.world.clone(), now: scene.now };
        templates::instances(&mut scene.world, "web", left, scene.now);
        templates::look(&mut scene.world, &scene.spec, scene.now);
        scene
    };
    // The containers run: the catalog is wrong, or will be.
    assert_eq!(vanished(1).waits(), [("distrust", Some(10))]);
    assert_eq!(vanished(0).waits(), [("distrust", Some(10))]);

    scene.spec = spec(&SERVERS.replace("COUNT", "1"));
    for _ in 0..3 {
        scene.apply();
        scene.look_at_services();
        assert!(!scene.waits().iter().any(|(kind, _)| *kind == "distrust"), "{:?}", scene.waits());
    }
    assert_eq!(scene.servers(), 1, "three of four left, and it was meant");
    assert!(!scene.plan().converged(), "and they are still being drained");
}

const NAMES: &str = "name: shop
services:
  gone:
    image: localhost/web:1
    deploy: { replicas: 2 }
    register:
      - { name: a1, port: 80, address: container }
      - { name: a2, port: 81, address: container }
      - { name: a3, port: 82, address: container }
  stays: { image: localhost/web:1, register: { port: 80, address: container } }
templates:
  names: { contents: \"{% for one in services() %}{{ one.Name }} {% endfor %}\", destination: /etc/names }
  ids: { contents: \"{% for one in node().Services %}{{ one.ID }} {% endfor %}\", destination: /etc/ids }
";

#[test]
fn the_names_and_the_ids_of_services_that_leave_with_all_their_containers_are_believed_at_once() {
    let mut scene = Scene::new(NAMES);
    scene.look_at_services();
    scene.apply();
    assert_eq!(scene.text("names"), "a1 a2 a3 stays ");
    assert_eq!(scene.text("ids").split_whitespace().count(), 7);

    // The containers run: the catalog is wrong.
    let mut wrong = Scene { spec: scene.spec.clone(), world: scene.world.clone(), now: scene.now };
    for answer in std::sync::Arc::make_mut(&mut wrong.world.templates.answers).values_mut().filter_map(View::known_mut)
    {
        answer.entries = answer.entries.iter().take(1).cloned().collect();
        answer.shrunk_at = wrong.now;
        match &mut answer.data {
            serde_json::Value::Array(names) => names.truncate(1),
            node => node["Services"].as_array_mut().expect("a list").truncate(1),
        }
    }
    templates::look(&mut wrong.world, &wrong.spec, wrong.now);
    assert_eq!(wrong.waits(), [("distrust", Some(10)), ("distrust", Some(10))]);

    let (head, tail) = NAMES.split_once("  gone:").expect("it is there");
    scene.spec = spec(&format!("{head}{}", &tail[tail.find("  stays:").expect("it is there")..]));
    // Drained for 10 s, stopped, deregistered.
    for _ in 0..20 {
        scene.apply();
        scene.later(1);
        scene.look_at_services();
        assert!(!scene.waits().iter().any(|(kind, _)| *kind == "distrust"), "{:?}", scene.waits());
    }
    assert_eq!(scene.text("names"), "stays ", "three of four left, and it was meant");
    assert_eq!(scene.text("ids").split_whitespace().count(), 1);
}

#[test]
fn a_change_and_its_reversal_within_the_wait_write_nothing_and_run_nothing() {
    let more = "    wait: { min: 5s, max: 20s }\n    command: [reload]\n";
    let mut scene = Scene::new(&one("{{ key_or_default('k', '0') }}", more));
    let record = |scene: &Scene| scene.world.templates.seen["a"].known().and_then(|seen| seen.record.clone());
    let before = record(&scene);
    scene.key("k", Some("1"));
    scene.later(4);
    assert_eq!((scene.steps(), scene.waits()), (vec![], vec![("template_wait", Some(1))]));
    scene.key("k", None);
    for _ in 0..3 {
        let plan = scene.plan();
        assert!(plan.is_empty() && plan.records.is_empty() && plan.waiting.is_empty(), "{plan:?}");
        scene.later(20);
    }
    assert_eq!(record(&scene), before, "nothing was noted, either");
}

#[test]
fn changes_are_gathered_for_the_quiet_time_and_no_longer_than_the_longest_wait() {
    let more = "    wait: { min: 2s, max: 5s }\n";
    let mut scene = Scene::new(&one("{{ key_or_default('k', '0') }}", more));
    scene.key("k", Some("1"));
    assert_eq!((scene.steps(), scene.waits()), (vec![], vec![("template_wait", Some(2))]));
    scene.later(2);
    assert_eq!(scene.steps(), ["template a: write_template"], "it was quiet for so long");
    // It changes all the time.
    let seen = scene.world.templates.seen.get_mut("a").and_then(View::known_mut).expect("it is known");
    (seen.changed_at, seen.unwritten_since) = (scene.now, scene.now - SignedDuration::from_secs(4));
    assert_eq!(scene.waits(), [("template_wait", Some(1))]);
    scene.later(1);
    assert_eq!(scene.steps(), ["template a: write_template"], "it has waited long enough");
}

#[test]
fn the_time_in_a_text_is_that_of_the_data_so_that_nothing_is_written_while_nothing_changes() {
    let mut scene = Scene::new(&one("{{ timestamp() }} {{ key_or_default('k', '0') }}", ""));
    let first = scene.text("a");
    scene.later(600);
    templates::look(&mut scene.world, &scene.spec, scene.now);
    assert!(scene.plan().is_empty(), "{:?}", scene.steps());
    scene.key("k", Some("1"));
    scene.apply();
    assert_ne!(scene.text("a").split(' ').next(), first.split(' ').next());
    scene.later(600);
    templates::look(&mut scene.world, &scene.spec, scene.now);
    assert!(scene.plan().is_empty(), "{:?}", scene.steps());
}

const SHARED: &str = "name: shop
templates:
  a: { contents: \"{{ key_or_default('a', '0') }}\", destination: /etc/a, command: [reload] }
  b: { contents: \"{{ key('b') }}\", destination: /etc/b, command: [reload], wait: 5s }
  c: { contents: \"{{ key_or_default('a', '0') }}\", destination: /etc/c, command: [other] }
";

#[test]
fn a_shared_command_waits_for_those_on_the_way_and_not_for_those_that_cannot_be_rendered() {
    let mut scene = Scene::new(SHARED);
    scene.key("b", Some("1"));
    scene.apply();
    scene.apply();
    assert!(scene.plan().is_empty(), "{:?}", scene.steps());
    scene.key("a", Some("1"));
    scene.key("b", Some("2"));
    scene.apply();
    assert_eq!(scene.steps(), ["template c: run_command"], "b gathers its changes");
    let kinds: Vec<&str> = scene.waits().iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, ["template_wait", "template_others"]);
    scene.later(6);
    assert_eq!(scene.steps(), ["template b: write_template", "template c: run_command"]);
    scene.apply();
    let runs = scene.plan().steps;
    let [step] = &runs[..] else { panic!("{runs:?}") };
    let Action::Template(TemplateAction::Run(run)) = &step.action else { panic!("{step:?}") };
    assert_eq!(run.templates.keys().collect::<Vec<_>>(), ["a", "b"], "once for both");
    scene.apply();
    assert!(scene.plan().is_empty(), "{:?}", scene.steps());

    scene.key("a", Some("2"));
    scene.key("b", None);
    scene.later(11);
    scene.apply();
    assert_eq!(scene.waits(), [("template_failed", None)]);
    assert_eq!(scene.steps(), ["template a: run_command", "template c: run_command"], "b holds nobody up");
    assert_eq!(scene.text("b"), "2", "and keeps its last good file");
}

#[test]
fn data_that_cannot_be_read_change_nothing_and_a_template_without_a_record_is_adopted() {
    let mut scene = Scene::new(&one("{{ key_or_default('k', '0') }}", "    command: [reload]\n"));
    let answers = std::sync::Arc::make_mut(&mut scene.world.templates.answers);
    for view in answers.values_mut() {
        *view = View::Unknown { reason: "no leader".to_owned(), since: scene.now };
    }
    templates::look(&mut scene.world, &scene.spec, scene.now);
    assert_eq!((scene.steps(), scene.waits()), (vec![], vec![("template_data", None)]));

    scene.key("k", None);
    scene.later(60);
    let seen = scene.world.templates.seen.get_mut("a").and_then(View::known_mut).expect("it is known");
    seen.record = None;
    let plan = scene.plan();
    assert!(plan.is_empty(), "the file is what it should be: {:?}", scene.steps());
    let notes: Vec<&str> = plan.records.iter().map(|step| step.action.kind()).collect();
    assert_eq!(notes, ["note_template"]);
}
