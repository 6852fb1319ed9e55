//! What `cargo bench --bench plan` measured last of the pure part, for the one table.

use std::path::Path;

use crate::report::Report;

/// Criterion's name of it, in words, and what is wanted, in milliseconds.
const FIGURES: [(&str, &str, Option<f64>); 4] = [
    ("plan/10000", "plan of an unchanged world, 10,000 containers, 1,000 upstreams", Some(50.0)),
    ("plan/1000", "plan of an unchanged world, 1,000 containers, 100 upstreams", None),
    ("render/1000 upstreams x 10 endpoints", "rendering 1,000 upstreams × 10 endpoints", Some(20.0)),
    ("render/hash of 1000 upstreams x 10 endpoints", "telling that they are unchanged", None),
];

pub fn run(report: &mut Report) {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/criterion"));
    for (name, what, most) in FIGURES {
        let path = folder.join(name).join("new/estimates.json");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let estimates: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        match estimates["median"]["point_estimate"].as_f64() {
            Some(nanoseconds) => report.figure(&format!("{what}, median"), nanoseconds / 1e6, "ms", most),
            None => eprintln!("  {}: not measured yet (`cargo bench --bench plan`)", path.display()),
        }
    }
}
