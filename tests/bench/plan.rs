//! Speed of the pure part: the plan of an unchanged world at three sizes, which shows that it is linear, and rendering.
//!
//! `make bench` runs it; a number beside the name, like `bench plan/10000`, runs one size.

#[path = "../common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use reeve::observed::{Endpoint, GenerationId, Interest, Loaded, Observed, RoutedUpstream, View};
use reeve::plan::plan;
use reeve::spec::Spec;

const REPLICAS: usize = 10;

/// Services that are made in one go; the world of more is put together from such parts, since the model of actions looks at
/// every container for each action.
const PART: usize = 10;

/// Services of ten replicas, each registered and routed by an upstream of its own.
fn spec_of(services: Range<usize>) -> Spec {
    let mut text = String::from("name: big\nservices:\n");
    for number in services.clone() {
        let _ = write!(
            text,
            "  s{number}:\n    image: localhost/web:1\n    ports: [\"80\"]\n    deploy: {{ replicas: {REPLICAS} }}\n    \
             healthcheck: {{ test: [CMD, /bin/true] }}\n    register: {{ check: {{ http: / }} }}\n"
        );
    }
    text.push_str("upstreams:\n");
    for number in services {
        let _ = writeln!(text, "  u{number}: {{ service: s{number}, listen: 8000, server_name: [u{number}.test] }}");
    }
    common::spec(&text)
}

/// Spec and world of so many services, everything as the spec says.
fn converged(services: usize) -> (Spec, Observed, Timestamp) {
    let renderer = common::renderer();
    let mut whole: Option<(Spec, Observed)> = None;
    let mut now = common::start();
    for first in (0..services).step_by(PART) {
        let spec = spec_of(first..(first + PART).min(services));
        let context = common::context(&renderer, &spec.project);
        let mut world = common::empty_world();
        common::converge(&mut world, &spec, &context, &mut now);
        match &mut whole {
            None => whole = Some((spec, world)),
            Some((all, seen)) => {
                all.services.extend(spec.services);
                all.upstreams.extend(spec.upstreams);
                join(seen, world);
            }
        }
    }
    let (spec, mut world) = whole.expect("at least one part");
    let owner = common::context(&renderer, &spec.project).owner;
    let nginx = world.nginx.known_mut().expect("known");
    let loaded =
        nginx.generations.values().find(|one| one.manifest.upstreams.len() == services).expect("joined").clone();
    let id =
        GenerationId { hash: renderer.generation_hash(&owner, &loaded.manifest.upstreams, common::probe()), number: 1 };
    nginx.generations = BTreeMap::from([(id.clone(), loaded)]);
    nginx.current = Some(id.clone());
    nginx.loaded = Loaded::Generation(id);
    (spec, world, now)
}

/// Puts another part's containers, registrations, answers and routes beside those of the first.
fn join(whole: &mut Observed, part: Observed) {
    let (View::Known(docker), View::Known(consul), View::Known(nginx), View::Known(directory)) =
        (part.docker, part.consul, part.nginx, part.directory)
    else {
        panic!("everything is known");
    };
    // What is kept as having served: without it every pass would judge anew whether it is to be kept.
    whole.directory.known_mut().expect("known").kept.extend(directory.kept);
    // The model numbers what it makes from 1 in every part.
    let docker_whole = whole.docker.known_mut().expect("known");
    docker_whole.containers.extend(docker.containers);
    docker_whole.networks.extend(docker.networks);
    let consul_whole = whole.consul.known_mut().expect("known");
    consul_whole.registrations.extend(consul.registrations);
    consul_whole.catalog.extend(consul.catalog);
    let nginx_whole = whole.nginx.known_mut().expect("known");
    let current = nginx_whole.current.clone().expect("there is one");
    let routes = nginx.current.and_then(|id| nginx.generations.get(&id).cloned()).expect("there is one");
    let generation = nginx_whole.generations.get_mut(&current).expect("there is one");
    Arc::make_mut(&mut generation.manifest).upstreams.extend(routes.manifest.upstreams.clone());
}

fn unchanged(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    for containers in [1_000, 10_000, 100_000] {
        let (spec, world, now) = converged(containers / REPLICAS);
        let renderer = common::renderer();
        let context = common::context(&renderer, &spec.project);
        let docker = world.docker.known().expect("known");
        assert_eq!(docker.containers.len(), containers);
        let unchanged = plan(&spec, &world, now, &context);
        assert!(unchanged.is_empty() && unchanged.records.is_empty(), "the world is as the spec says");
        group.throughput(Throughput::Elements(u64::try_from(containers).expect("small")));
        group.bench_with_input(BenchmarkId::from_parameter(containers), &containers, |bencher, _| {
            bencher.iter(|| plan(black_box(&spec), black_box(&world), now, &context));
        });
    }
    group.finish();
}

fn rendering(criterion: &mut Criterion) {
    let spec = spec_of(0..1_000);
    let renderer = common::renderer();
    let owner = common::context(&renderer, &spec.project).owner;
    let endpoint =
        |number: u16| Endpoint { address: "192.0.2.10".to_owned(), port: number, weight: 1, container: None };
    let routed: BTreeMap<String, RoutedUpstream> = spec
        .upstreams
        .iter()
        .map(|(name, upstream)| {
            let endpoints = (30_000..30_010).map(endpoint).collect();
            (name.clone(), RoutedUpstream { upstream: upstream.clone().into(), endpoints, files: BTreeMap::new() })
        })
        .collect();
    let id = GenerationId { hash: "0123456789ab".to_owned(), number: 1 };
    let generations = Path::new("/var/lib/reeve/generations");
    let mut group = criterion.benchmark_group("render");
    group.sample_size(20).measurement_time(Duration::from_secs(3));
    group.bench_function("1000 upstreams x 10 endpoints", |bencher| {
        bencher
            .iter(|| renderer.render(&id, &owner, black_box(&routed), common::probe(), generations).expect("renders"));
    });
    group.bench_function("hash of 1000 upstreams x 10 endpoints", |bencher| {
        bencher.iter(|| renderer.generation_hash(&owner, black_box(&routed), common::probe()));
    });
    group.finish();
}

fn interest(criterion: &mut Criterion) {
    let spec = spec_of(0..1_000);
    let renderer = common::renderer();
    let owner = common::context(&renderer, &spec.project).owner;
    criterion.bench_function("interest of 1000 services", |bencher| {
        bencher.iter(|| Interest::of(black_box(&spec), &owner));
    });
}

criterion_group!(benches, unchanged, rendering, interest);
criterion_main!(benches);
