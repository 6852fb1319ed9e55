//! Golden plans: `tests/plans/<case>/before.yaml` is converged in memory, `standing.txt` (if there is one) was there before, `world.txt` happens to that
//! world, and the plan for `after.yaml` is printed into `plan.txt`. `REEVE_GOLDEN=overwrite` writes them anew; read the diff.

mod common;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use common::{context, converge, empty_world, execute, look, renderer, settle, spec, start, tamper};
use reeve::observed::{Observed, Pin};
use reeve::plan::preview::Preview;
use reeve::plan::{Removals, Teardown, display, plan};
use reeve::settings::EndpointsMode;
use reeve::spec::Spec;

/// What the user says beside the spec: `orders.txt`, one word a line.
#[derive(Default)]
struct Orders {
    held: bool,
    destroy: bool,
    volumes: bool,
    without_consul: bool,
    /// `waves:N`: so many waves towards the second spec have been applied before anything happens to the world.
    waves: usize,
    /// Between these waves containers get healthy, and checks pass.
    healthy: bool,
    /// `later:N`: so many seconds have passed since.
    later: i64,
    /// `hold:SERVICE`, `failed:SERVICE`, `rolled-back:SERVICE`: pins on what `pinned.yaml` says, or else the second spec.
    pins: Vec<(String, String)>,
    /// Printed, too: what waits in the first wave, also when a later one ends it.
    waiting: bool,
    /// What was kept of served configurations is lost.
    history_lost: bool,
    /// `nginx.endpoints`: `lua` or `auto`, and otherwise `reload`.
    endpoints: EndpointsMode,
}

impl Orders {
    fn read(text: &str) -> Self {
        let mut orders = Self { endpoints: EndpointsMode::Reload, ..Self::default() };
        for word in text.split_whitespace() {
            match word {
                "held" => orders.held = true,
                "destroy" => orders.destroy = true,
                "volumes" => orders.volumes = true,
                "without-consul" => orders.without_consul = true,
                "waiting" => orders.waiting = true,
                "lua" => orders.endpoints = EndpointsMode::Lua,
                "auto" => orders.endpoints = EndpointsMode::Auto,
                "healthy" => orders.healthy = true,
                "history-lost" => orders.history_lost = true,
                other => match other.split_once(':') {
                    Some(("waves", number)) => orders.waves = number.parse().expect("a number of waves"),
                    Some(("later", number)) => orders.later = number.parse().expect("a number of seconds"),
                    Some((kind @ ("hold" | "failed" | "rolled-back"), service)) => {
                        orders.pins.push((kind.to_owned(), service.to_owned()));
                    }
                    _ => panic!("unknown order {other}"),
                },
            }
        }
        orders
    }
}

fn read(folder: &Path, file: &str) -> Option<String> {
    std::fs::read_to_string(folder.join(file)).ok()
}

fn plan_of(folder: &Path) -> String {
    let (preview, world) = preview_of(folder);
    let mut text = display::text(&preview, &world);
    let orders = Orders::read(&read(folder, "orders.txt").unwrap_or_default());
    for waiting in preview.waves[0].waiting.iter().filter(|_| orders.waiting) {
        writeln!(text, "first wave: {} waits: {}", waiting.object, waiting.reason).expect("a string");
    }
    text
}

fn preview_of(folder: &Path) -> (Preview, Observed) {
    let renderer = renderer();
    let mut now = start();
    let mut world = empty_world();
    let before = read(folder, "before.yaml").map(|text| spec(&text));
    let after = read(folder, "after.yaml").map(|text| spec(&text)).or_else(|| before.clone());
    let after = after.expect("a case has before.yaml, after.yaml or both");
    let orders = Orders::read(&read(folder, "orders.txt").unwrap_or_default());
    let mut context = context(&renderer, &after.project);
    if let Some(nginx) = &mut context.nginx {
        nginx.endpoints = orders.endpoints;
    }
    tamper::apply(&mut world, &read(folder, "standing.txt").unwrap_or_default(), now);
    if let Some(before) = &before {
        converge(&mut world, before, &context, &mut now);
        now += jiff::SignedDuration::from_secs(3600);
    }
    look(&mut world, &after, &context.owner, now);
    let mut waves = orders.waves;
    while waves > 0 {
        let wave = plan(&after, &world, now, &context);
        if wave.steps.is_empty() {
            let until = wave.waiting.iter().filter_map(|waiting| waiting.until).min();
            now = until.unwrap_or_else(|| panic!("{}: fewer waves than {}", folder.display(), orders.waves));
            continue;
        }
        for step in &wave.steps {
            execute(&mut world, &step.action, &context, now);
        }
        if orders.healthy {
            settle(&mut world, &after, now);
        }
        waves -= 1;
    }
    let pinned = read(folder, "pinned.yaml").map(|text| spec(&text));
    add_pins(&mut world, &orders, pinned.as_ref().unwrap_or(&after));
    now += jiff::SignedDuration::from_secs(orders.later);
    tamper::apply(&mut world, &read(folder, "world.txt").unwrap_or_default(), now);
    common::templates::look(&mut world, &after, now);
    if orders.held {
        context.removals = Removals::Held;
    }
    let mut wanted = after;
    if orders.destroy {
        context.teardown = Some(Teardown { volumes: orders.volumes, without_consul: orders.without_consul });
        wanted = Spec::empty(&wanted.project);
        look(&mut world, &wanted, &context.owner, now);
    }
    let preview = Preview::of(&wanted, &world, now, &context);
    (preview, world)
}

fn add_pins(world: &mut Observed, orders: &Orders, spec: &Spec) {
    let images = world.docker.known().map(|docker| docker.images.clone()).unwrap_or_default();
    let directory = world.directory.known_mut().expect("the folder is known");
    for (kind, service) in &orders.pins {
        let wanted = &spec.services[service];
        let image_id = images.get(&wanted.config.image).map(|image| image.id.clone()).unwrap_or_default();
        let (service, hash, digest) = (service.clone(), wanted.hash.clone(), wanted.digest());
        directory.pins.insert(match kind.as_str() {
            "hold" => Pin::Hold { service, hash, digest },
            "rolled-back" => Pin::RolledBack { service, from: hash, digest, image_id },
            _ => {
                let reason = "replica x: its HEALTHCHECK fails: 500; it was not ready within 60 s".to_owned();
                Pin::Failed {
                    service,
                    hash,
                    digest,
                    image_id,
                    at: start(),
                    reason,
                    log: vec!["cannot open the database".to_owned()],
                }
            }
        });
    }
    if orders.history_lost {
        directory.kept.clear();
    }
}

#[test]
fn every_plan_reads_as_it_should() {
    let mut cases: Vec<PathBuf> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plans"))
        .expect("the folder of cases")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    assert!(!cases.is_empty());
    let overwrite = std::env::var("REEVE_GOLDEN").is_ok_and(|value| value == "overwrite");
    let mut wrong = Vec::new();
    for folder in cases {
        let text = plan_of(&folder);
        let file = folder.join("plan.txt");
        let golden = std::fs::read_to_string(&file).unwrap_or_default();
        if golden == text {
            continue;
        }
        if overwrite {
            std::fs::write(&file, &text).expect("the golden plan can be written");
            continue;
        }
        let diff = similar::TextDiff::from_lines(&golden, &text);
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        wrong.push(format!("{}", diff.unified_diff().header(&format!("{name}/plan.txt"), "now")));
    }
    assert!(
        wrong.is_empty(),
        "{}\n{} plans differ; if that is meant: REEVE_GOLDEN=overwrite",
        wrong.join("\n"),
        wrong.len()
    );
}

/// `run --observe` never comes to the second wave, in which the container is made again.
#[test]
fn a_container_that_others_removed_is_drift_from_the_first_wave_on_and_one_that_leaves_is_none() {
    let drifts = |case: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans").join(case);
        preview_of(&folder)
            .0
            .waves
            .iter()
            .flat_map(|wave| &wave.steps)
            .find(|step| step.drift)
            .map(|step| step.action.kind())
    };
    assert_eq!(drifts("container-removed"), Some("deregister"));
    for case in ["image-stop-first", "scale-4-to-2", "service-renamed", "destroy"] {
        assert_eq!(drifts(case), None, "{case}");
    }
}
