//! The table, and the same as JSON.

use std::time::Duration;

use serde_json::{Value, json};

/// One line: a figure, what it is compared with, and what is wanted.
struct Row {
    what: String,
    figure: String,
    floor: String,
    /// Figure by floor.
    ratio: Option<f64>,
    goal: String,
    met: Option<bool>,
}

#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// A time beside its floor, and at most so many times as long.
    pub fn ratio(&mut self, what: &str, figure: Duration, floor: Duration, most: Option<f64>) {
        let ratio = figure.as_secs_f64() / floor.as_secs_f64().max(f64::EPSILON);
        self.add(Row {
            what: what.to_owned(),
            figure: span(figure),
            floor: span(floor),
            ratio: Some(ratio),
            goal: most.map(|most| format!("≤ {most} ×")).unwrap_or_default(),
            met: most.map(|most| ratio <= most),
        });
    }

    /// A figure with its unit, and at most so much.
    pub fn figure(&mut self, what: &str, figure: f64, unit: &str, most: Option<f64>) {
        let digits = if figure >= 100.0 || figure.fract() == 0.0 { 0 } else { 2 };
        self.add(Row {
            what: what.to_owned(),
            figure: format!("{figure:.digits$} {unit}"),
            floor: String::new(),
            ratio: None,
            goal: most.map(|most| format!("≤ {most} {unit}")).unwrap_or_default(),
            met: most.map(|most| figure <= most),
        });
    }

    fn add(&mut self, row: Row) {
        eprintln!(
            "  {}: {} {}",
            row.what,
            row.figure,
            row.ratio.map(|ratio| format!("({ratio:.2} ×)")).unwrap_or_default()
        );
        self.rows.push(row);
    }

    /// A figure that is to be at least so much of another one, measured beside it.
    pub fn share(&mut self, what: &str, (figure, beside): (f64, f64), unit: &str, ratio: f64, least: f64) {
        self.add(Row {
            what: what.to_owned(),
            figure: format!("{figure:.0} {unit}"),
            floor: format!("{beside:.0} {unit}"),
            ratio: Some(ratio),
            goal: format!("≥ {least} ×"),
            met: Some(ratio >= least),
        });
    }

    /// `whole`: every part was run, so that what is written is all that there is to say.
    pub fn print(&mut self, took: Duration, whole: bool) {
        // Ratios first.
        self.rows.sort_by_key(|row| row.ratio.is_none());
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        println!("\n| what | ratio | figure | floor | goal | met |\n|---|---:|---:|---:|---:|---|");
        for row in &self.rows {
            let ratio = row.ratio.map(|ratio| format!("{ratio:.2} ×")).unwrap_or_default();
            let met = row.met.map_or("", |met| if met { "yes" } else { "**no**" });
            println!("| {} | {ratio} | {} | {} | {} | {met} |", row.what, row.figure, row.floor, row.goal);
        }
        println!("\n{} s; load average at the end: {}", took.as_secs(), load.trim());
        if !whole {
            return;
        }
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({"what": row.what, "ratio": row.ratio, "figure": row.figure, "floor": row.floor, "goal": row.goal,
                    "met": row.met})
            })
            .collect();
        let text = json!({"seconds": took.as_secs(), "load_average": load.trim(), "rows": rows}).to_string();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench.json");
        if let Err(error) = std::fs::write(path, text) {
            eprintln!("{path}: {error}");
        }
    }
}

fn span(span: Duration) -> String {
    match span.as_secs_f64() {
        seconds if seconds >= 10.0 => format!("{seconds:.1} s"),
        seconds if seconds >= 1.0 => format!("{seconds:.2} s"),
        seconds => format!("{:.1} ms", seconds * 1000.0),
    }
}

/// Of a hundred: the 50th, and the 99th.
pub fn median_and_p99(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    let at = |share: usize| times.get(times.len().saturating_sub(1) * share / 100).copied().unwrap_or_default();
    (at(50), at(99))
}
