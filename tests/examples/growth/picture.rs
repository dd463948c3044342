//! Six charts in one SVG: instructions above, arena below; tokens, width, depth from left to right.

use crate::{Cost, Sweep};
use shiftformer_lab::report::svg::Chart;
use std::fmt::Write as _;

/// Size of a chart.
const CHART: (f64, f64) = (400.0, 260.0);
/// Room above a chart for its title.
const TITLE: f64 = 26.0;

const STYLE: &str = "text{font:11px system-ui,'DejaVu Sans',sans-serif;fill:#667085}.head{font-size:13px;font-weight:600;\
    fill:#1d2430}.axis{stroke:#667085;fill:none}.grid{stroke:#e4e2dc;fill:none}.line{stroke:#2f6db3;stroke-width:2;fill:none}\
    .dashed{stroke:#c4612d;stroke-width:1.5;stroke-dasharray:5 4;fill:none}.point{fill:#2f6db3}.note{fill:#c4612d}";

/// A quantity of a cost, in the unit of its chart.
type Quantity = fn(&Cost) -> f64;

/// A row of charts: title, axis, the quantity, and one to compare with and its name.
struct Row {
    title: &'static str,
    unit: &'static str,
    value: Quantity,
    other: Quantity,
    other_name: &'static str,
}

const ROWS: [Row; 2] = [
    Row {
        title: "instructions",
        unit: "million",
        value: |c| c.instructions as f64 / 1e6,
        other: |c| c.attention as f64 / 1e6,
        other_name: "of them attention",
    },
    Row {
        title: "arena",
        unit: "KiB",
        value: |c| c.arena as f64 / 1024.0,
        other: |c| c.unfused as f64 / 1024.0,
        other_name: "with the score matrix",
    },
];

/// The picture of all sweeps.
pub fn draw(sweeps: &[Sweep]) -> String {
    let (width, height) = (CHART.0 * sweeps.len() as f64, (CHART.1 + TITLE) * ROWS.len() as f64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\"><style>{STYLE}</style>\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>"
    );
    for (down, row) in ROWS.iter().enumerate() {
        for (right, sweep) in sweeps.iter().enumerate() {
            let (x, y) = (right as f64 * CHART.0, down as f64 * (CHART.1 + TITLE));
            let _ = write!(
                svg,
                "<text class=\"head\" x=\"{}\" y=\"{}\">{} against {}</text><g transform=\"translate({x} {})\">{}</g>",
                x + 56.0,
                y + 18.0,
                row.title,
                sweep.title,
                y + TITLE,
                sized(&chart(row, sweep))
            );
        }
    }
    svg + "</svg>\n"
}

fn chart(row: &Row, sweep: &Sweep) -> String {
    let points = |of: Quantity| -> Vec<(f64, f64)> { sweep.costs.iter().map(|c| (c.x as f64, of(c))).collect() };
    let (values, others) = (points(row.value), points(row.other));
    let right = values.iter().fold(0.0f64, |m, p| m.max(p.0));
    // A curve that leaves the chart is cut where the other one would become flat.
    let top = values.iter().fold(0.0f64, |m, p| m.max(p.1)) * 1.25;
    let mut chart = Chart::new(CHART, (0.0, right), (0.0, top));
    chart.axes(sweep.title, row.unit, |v| format!("{v:.0}"), |v| format!("{v}"));
    let inside: Vec<(f64, f64)> = others.into_iter().take_while(|p| p.1 <= top).collect();
    chart.line("dashed", &inside);
    if let Some(&(x, y)) = inside.last() {
        // Below the end of a long curve, where there is room; above it else.
        let anchor = if x > right * 0.6 { "end" } else { "start" };
        let below = y - 0.3 * top;
        chart.label((x, if anchor == "end" && below > 0.03 * top { below } else { y }), anchor, row.other_name);
    }
    chart.line("line", &values);
    for (point, cost) in values.iter().zip(&sweep.costs) {
        chart.dot("point", *point, 2.5, &format!("{} {}: {:.2} {}", cost.x, sweep.title, point.1, row.unit));
    }
    chart.finish()
}

/// A nested picture needs its size.
fn sized(svg: &str) -> String {
    svg.replacen("<svg ", &format!("<svg width=\"{}\" height=\"{}\" ", CHART.0, CHART.1), 1)
}
