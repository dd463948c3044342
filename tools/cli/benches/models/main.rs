//! Whole models beside tract in f32: one thread each, the same model, the same run.
//!
//! Criterion measures both engines one after the other in wall time. Then they run in turns and the processor time of
//! each run is taken, which other work on the machine distorts least: the table gives the minimum and the median of both,
//! how many times shiftformer is faster, and where its time goes beside the floor of the products alone.
//!
//! DeiT-Tiny and the MNIST ViT come from `$SHIFTFORMER_SHARED/models`; without them the bundled
//! digits model is measured alone.

mod engines;
mod peak;
mod subject;

use criterion::Criterion;
use engines::{Ours, Tract};
use shiftformer_lab::{clock, text};
use std::time::Duration;
use subject::Subject;

/// Runs of each engine, in turns, after criterion's.
const ROUNDS: usize = 60;
/// Longest time for them.
const LIMIT: Duration = Duration::from_secs(15);

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    // `cargo bench -- --list` and `--test` are answered by criterion alone.
    let only_criterion = std::env::args().any(|arg| arg == "--list" || arg == "--test");
    for subject in subject::all() {
        let (mut ours, mut tract) = (Ours::new(&subject), Tract::new(&subject));
        let mut group = criterion.benchmark_group(subject.name);
        group.bench_function("shiftformer", |b| b.iter(|| ours.run()));
        group.bench_function("tract f32", |b| b.iter(|| tract.run()));
        group.finish();
        if !only_criterion {
            compare(&subject, &mut ours, &mut tract);
        }
    }
    criterion.final_summary();
}

/// Runs both engines in turns; prints the comparison and where the time of ours goes.
fn compare(subject: &Subject, ours: &mut Ours<'_>, tract: &mut Tract) {
    let (mut own, mut other) = (Vec::new(), Vec::new());
    let started = std::time::Instant::now();
    while own.len() < ROUNDS && started.elapsed() < LIMIT {
        own.push(clock::time(|| ours.run()));
        other.push(clock::time(|| tract.run()));
    }
    let (own, other) = (summary(&own), summary(&other));
    println!("\n{}: {} runs of each in turns, one thread, {}\n", subject.name, own.runs, clock::WHAT);
    let mut table = text::table(&["engine", "min>", "median>", "shiftformer is faster by>"]);
    let ratio = format!("{:.2} (median {:.2})", other.min / own.min, other.median / own.median);
    for (engine, times, ratio) in [("shiftformer", own, String::new()), ("tract f32", other, ratio)] {
        let [min, median] = [times.min, times.median].map(|seconds| text::milliseconds(seconds * 1e3));
        table.add_row([engine.to_owned(), min, median, ratio]);
    }
    println!("{table}\n");
    println!("{}\n", breakdown(ours));
}

/// Time of ours by kind of operator, beside the time of its products at the peak of the processor.
fn breakdown(ours: &mut Ours<'_>) -> String {
    let peak = peak::measure();
    let mut table = text::table(&["operators", "count>", "MACs>", "time>", "floor>", "time / floor>"]);
    let (mut time, mut macs) = (0.0, 0);
    let floor = |macs: u64| peak.as_ref().map(|peak| macs as f64 / peak.macs_per_s);
    let shown = |seconds: f64| text::milliseconds(seconds * 1e3);
    for part in ours.parts() {
        let bound = floor(part.macs).filter(|_| part.macs > 0);
        table.add_row([
            part.kind.to_owned(),
            part.count.to_string(),
            text::count(part.macs as f64),
            shown(part.seconds),
            bound.map_or_else(|| "-".to_owned(), shown),
            bound.map_or_else(|| "-".to_owned(), |bound| format!("{:.2}", part.seconds / bound)),
        ]);
        time += part.seconds;
        macs += part.macs;
    }
    let bound = floor(macs).map_or_else(|| "-".to_owned(), shown);
    table.add_row(["all".to_owned(), String::new(), text::count(macs as f64), shown(time), bound, String::new()]);
    let note = match peak {
        Some(peak) => format!("floor: MACs at {:.0} G/s, a register-only loop of {}", peak.macs_per_s / 1e9, peak.how),
        None => "floor: not known for this processor".to_owned(),
    };
    format!("{table}\n{note}; every time is the minimum of its operator")
}

/// Times of many runs, in seconds.
#[derive(Clone, Copy)]
struct Times {
    runs: usize,
    min: f64,
    median: f64,
}

/// Minimum and median of `times`, of which there is at least one.
fn summary(times: &[f64]) -> Times {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    Times { runs: sorted.len(), min: sorted[0], median: sorted[sorted.len() / 2] }
}
