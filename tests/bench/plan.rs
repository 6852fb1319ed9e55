//! Speed of the pure part: the plan of an unchanged world at three sizes, which shows that it is linear, and rendering.
//!
//! `make bench` runs it; a number beside the name, like `bench plan/10000`, runs one size.

#[path = "../common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use reeve::observed::{Endpoint, GenerationId, Interest, Observed, RoutedUpstream};
use reeve::plan::plan;
use reeve::spec::Spec;

const REPLICAS: usize = 10;

/// Services of ten replicas, each registered and routed by an upstream of its own.
fn spec_of(services: usize) -> Spec {
    let mut text = String::from("name: big\nservices:\n");
    for number in 0..services {
        let _ = write!(
            text,
            "  s{number}:\n    image: localhost/web:1\n    ports: [\"80\"]\n    deploy: {{ replicas: {REPLICAS} }}\n    \
             healthcheck: {{ test: [CMD, /bin/true] }}\n    register: {{ check: {{ http: / }} }}\n"
        );
    }
    text.push_str("upstreams:\n");
    for number in 0..services {
        let _ = writeln!(text, "  u{number}: {{ service: s{number}, listen: 8000, server_name: [u{number}.test] }}");
    }
    common::spec(&text)
}

fn converged(spec: &Spec) -> (Observed, Timestamp) {
    let renderer = common::renderer();
    let context = common::context(&renderer, &spec.project);
    let mut world = common::empty_world();
    let mut now = common::start();
    common::converge(&mut world, spec, &context, &mut now);
    (world, now)
}

fn unchanged(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    for containers in [1_000, 10_000, 100_000] {
        let spec = spec_of(containers / REPLICAS);
        let (world, now) = converged(&spec);
        let renderer = common::renderer();
        let context = common::context(&renderer, &spec.project);
        let docker = world.docker.known().expect("known");
        assert_eq!(docker.containers.len(), containers);
        assert!(plan(&spec, &world, now, &context).is_empty(), "the world is as the spec says");
        group.throughput(Throughput::Elements(u64::try_from(containers).expect("small")));
        group.bench_with_input(BenchmarkId::from_parameter(containers), &containers, |bencher, _| {
            bencher.iter(|| plan(black_box(&spec), black_box(&world), now, &context));
        });
    }
    group.finish();
}

fn rendering(criterion: &mut Criterion) {
    let spec = spec_of(1_000);
    let renderer = common::renderer();
    let owner = common::context(&renderer, &spec.project).owner;
    let endpoint =
        |number: u16| Endpoint { address: "192.0.2.10".to_owned(), port: number, weight: 1, container: None };
    let routed: BTreeMap<String, RoutedUpstream> = spec
        .upstreams
        .iter()
        .map(|(name, upstream)| {
            let endpoints = (30_000..30_010).map(endpoint).collect();
            (name.clone(), RoutedUpstream { upstream: upstream.clone(), endpoints, files: BTreeMap::new() })
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
    let spec = spec_of(1_000);
    let renderer = common::renderer();
    let owner = common::context(&renderer, &spec.project).owner;
    criterion.bench_function("interest of 1000 services", |bencher| {
        bencher.iter(|| Interest::of(black_box(&spec), &owner));
    });
}

criterion_group!(benches, unchanged, rendering, interest);
criterion_main!(benches);
