//! One HTML file about a conversion: no scripts, no external resources.

mod histogram;
pub mod svg;

use crate::eval::EvalError;
use crate::eval::per_op::{OpError, per_op, worst};
use crate::fit::{Fit, demand, fit};
use crate::summary::timeline::{self, Block};
use crate::summary::{Summary, summarize};
use crate::text;
use histogram::Histogram;
use shiftformer::kernels::Portable;
use shiftformer_convert::convert::{BitsPoint, Converted, Trial};
use shiftformer_convert::graph::Graph;
use shiftformer_convert::lower::facts::Group;
use shiftformer_convert::model_file::{ModelFile, Values};
use svg::{Chart, escape, sparkline};

/// Samples compared operator by operator.
const PER_OP_SAMPLES: usize = 16;
/// Accumulators are 32 bits wide.
const ACC_BITS: u32 = 32;

/// Everything the report shows.
pub struct Content {
    summary: Summary,
    blocks: Vec<Block>,
    errors: Vec<OpError>,
    per_op_samples: usize,
    boards: Vec<Fit>,
    activations: Vec<Histogram>,
    weights: Vec<Histogram>,
    trials: Vec<Trial>,
    curve: Vec<BitsPoint>,
    sqnr_db: Option<f64>,
    samples: usize,
    measured: usize,
    warnings: Vec<String>,
}

impl Content {
    /// Collects what is known of `converted`, made from the fused `graph` with `samples`.
    ///
    /// # Errors
    /// [`EvalError`] when a sample does not fit the model.
    pub fn of(
        file: &ModelFile,
        graph: &Graph,
        converted: &Converted,
        samples: &[Vec<Values>],
    ) -> Result<Self, EvalError> {
        let model = file.open::<Portable>().map_err(crate::backend::BackendError::from)?;
        let few = &samples[..samples.len().min(PER_OP_SAMPLES)];
        Ok(Self {
            summary: summarize(&model, file.annotations()),
            blocks: timeline::blocks(&model, file.annotations()),
            errors: per_op(file, graph, few)?,
            per_op_samples: few.len(),
            boards: fit(&demand(&model), None),
            activations: histogram::activations(converted),
            weights: histogram::weights(converted),
            trials: converted.trials.clone(),
            curve: converted.curve.clone(),
            sqnr_db: converted.sqnr_db,
            samples: samples.len(),
            measured: converted.measured,
            warnings: converted.warnings.clone(),
        })
    }

    /// What can be said of a model without its conversion.
    ///
    /// # Errors
    /// [`EvalError`] when the model does not open.
    pub fn of_file(file: &ModelFile) -> Result<Self, EvalError> {
        let model = file.open::<Portable>().map_err(crate::backend::BackendError::from)?;
        Ok(Self {
            summary: summarize(&model, file.annotations()),
            blocks: timeline::blocks(&model, file.annotations()),
            errors: Vec::new(),
            per_op_samples: 0,
            boards: fit(&demand(&model), None),
            activations: Vec::new(),
            weights: Vec::new(),
            trials: Vec::new(),
            curve: Vec::new(),
            sqnr_db: None,
            samples: 0,
            measured: 0,
            warnings: Vec::new(),
        })
    }
}

/// The page.
pub fn html(content: &Content) -> String {
    let title = escape(&content.summary.source);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{title} - Shiftformer</title><style>{}</style></head><body><main>\n",
        include_str!("style.css")
    );
    page += &header(content);
    page += &section("Remarks and warnings", "", &notes(content));
    page += &section("Choices", CHOICES, &trials(content));
    page += &section("Bits per layer", CURVE, &curve(content));
    page += &section("Accuracy along the depth", DEPTH, &depth(content));
    page += &section("Memory over time", MEMORY, &memory(content));
    page += &section("Boards", crate::fit::BASIS, &boards(content));
    page += &section("Operators and overflow certificate", CERTIFICATE, &certificate(content));
    page += &section("Activations and their ranges", ACTIVATIONS, &histograms(&content.activations));
    page += &section("Weights", WEIGHTS, &histograms(&content.weights));
    page + "</main></body></html>\n"
}

const CHOICES: &str = "Each choice was measured by running the integer model, calibrated on one half of the samples, on the other half; the \
     marked one was kept.";
const CURVE: &str =
    "Layers go to fewer bits in the order of the loss measured for each alone. The ringed point was chosen.";
const DEPTH: &str = "Signal to noise of every operator's result against the float model. A fall from one bar to the next is \
    where accuracy goes; a level stretch hands on what came in.";
const MEMORY: &str =
    "Each rectangle is a tensor (grey: scratch): where it lies in the arena and while which operators it is needed.";
const CERTIFICATE: &str = "For any input bytes, no accumulator, product or row sum needs more bits than stated. The bounds \
    follow from the integer weights by interval arithmetic and are checked again when the model is opened.";
const ACTIVATIONS: &str =
    "Values seen in calibration, on a logarithmic scale; the shaded part is the range that the integers cover.";
const WEIGHTS: &str =
    "Weights of each layer over the largest magnitude of their output channel, which is the end of the integer range.";

/// A section, left out when it has no body.
fn section(title: &str, lead: &str, body: &str) -> String {
    if body.is_empty() {
        return String::new();
    }
    let lead = if lead.is_empty() { String::new() } else { format!("<p class=\"lead\">{lead}</p>") };
    format!("<section><h2>{title}</h2>{lead}{body}</section>\n")
}

fn header(content: &Content) -> String {
    let s = &content.summary;
    let size = |n: usize| text::bytes(n as f64);
    let ratio = s.arena_bytes as f64 / s.arena_lower_bound_bytes.max(1) as f64;
    let fitting = content.boards.iter().filter(|b| b.fits).count();
    let cards = [
        (
            "Output SQNR",
            text::decibels(content.sqnr_db),
            format!("on {} of {} calibration samples", content.measured, content.samples),
        ),
        ("Flash", size(s.flash_bytes), format!("weights {}", size(s.weight_bytes))),
        ("RAM (arena)", size(s.arena_bytes), format!("{ratio:.3} x the lower bound")),
        ("MACs", text::count(s.macs as f64), format!("in {} operators", s.ops.len())),
        ("Parameters", text::count(s.params as f64), format!("profile {}", s.profile)),
        ("Boards", format!("{fitting} of {}", content.boards.len()), "fit the model".to_owned()),
    ];
    let card = |(name, value, note): &(&str, String, String)| {
        format!("<div class=\"card\"><span>{name}</span><b>{value}</b><small>{note}</small></div>")
    };
    let endpoint =
        |e: &crate::summary::EndpointSummary| format!("<code>{}</code> {} {:?}", escape(&e.name), e.dtype, e.shape);
    let list = |all: &[crate::summary::EndpointSummary]| all.iter().map(endpoint).collect::<Vec<_>>().join(", ");
    format!(
        "<header><h1>{}</h1><p>{} &rarr; {}</p><div class=\"cards\">{}</div></header>\n",
        escape(&s.source),
        list(&s.inputs),
        list(&s.outputs),
        cards.iter().map(card).collect::<String>()
    )
}

fn notes(content: &Content) -> String {
    let (warnings, notes) = (&content.warnings, &content.summary.notes);
    if warnings.is_empty() && notes.is_empty() {
        return "<p>None.</p>".to_owned();
    }
    let items: String = warnings.iter().chain(notes).map(|note| format!("<li>{}</li>", escape(note))).collect();
    format!("<ul class=\"notes\">{items}</ul>")
}

fn trials(content: &Content) -> String {
    if content.trials.is_empty() {
        return String::new();
    }
    let row = |t: &Trial| {
        let mark = if t.kept { " class=\"kept\"" } else { "" };
        format!(
            "<tr{mark}><td>{}</td><td>{}</td><td class=\"n\">{:.2} dB</td></tr>",
            escape(&t.what),
            escape(&t.choice),
            t.sqnr_db
        )
    };
    let rows: String = content.trials.iter().map(row).collect();
    format!("<table><tr><th>choice</th><th>value</th><th class=\"n\">SQNR</th></tr>{rows}</table>")
}

fn curve(content: &Content) -> String {
    let points: Vec<(f64, f64)> = content.curve.iter().map(|p| (p.file_bytes as f64 / 1024.0, p.sqnr_db)).collect();
    if points.is_empty() {
        return String::new();
    }
    let (low, high) = extent(points.iter().map(|p| p.0));
    let (worst, best) = extent(points.iter().map(|p| p.1));
    let mut chart =
        Chart::new((900.0, 260.0), (low - (high - low) * 0.04, high + (high - low) * 0.04), (worst - 2.0, best + 2.0));
    chart.axes("file size, KiB", "SQNR, dB", plain, plain);
    chart.line("line", &points);
    for (point, at) in content.curve.iter().zip(&points) {
        let (layers, bits) = (point.fewer_bit_layers.len(), point.fewer_bits);
        let hint = format!("{layers} layers at {bits} bits: {:.0} KiB, {:.2} dB", at.0, at.1);
        if point.kept {
            chart.dot("ring", *at, 7.0, &hint);
            // Above the line, which rises to the right.
            chart.label((at.0, at.1 + 0.7), "end", &hint);
        }
        chart.dot("point", *at, 3.0, &hint);
    }
    chart.finish()
}

fn depth(content: &Content) -> String {
    if content.errors.is_empty() {
        return String::new();
    }
    let n_ops = content.summary.ops.len() as f64;
    let top = content.errors.iter().map(|e| e.sqnr_db.min(90.0)).fold(30.0, f64::max);
    let mut chart = Chart::new((900.0, 280.0), (-0.5, n_ops - 0.5), (0.0, top * 1.05));
    chart.axes("operator", "SQNR, dB", plain, plain);
    for e in &content.errors {
        let x = e.op as f64;
        let hint = format!("{} {} ({}, {}): {:.1} dB, {}", e.op, e.name, e.kind, e.dtype, e.sqnr_db, e.cause.name());
        chart.rect(group_style(e.group).0, (x - 0.42, 0.0), (x + 0.42, e.sqnr_db.clamp(0.0, 90.0)), &hint);
    }
    let row = |e: &&OpError| {
        format!(
            "<tr><td class=\"n\">{}</td><td>{}</td><td>{}</td><td class=\"n\">{:.1} dB</td><td>{}</td><td>{}</td></tr>",
            e.op,
            escape(&e.name),
            e.kind,
            e.sqnr_db,
            e.cause.name(),
            escape(e.remedy)
        )
    };
    let rows: String = worst(&content.errors, 5).iter().map(row).collect();
    format!(
        "{}{}<h3>The worst five on {} samples</h3><table><tr><th class=\"n\">op</th><th>name</th><th>kind</th>\
         <th class=\"n\">SQNR</th><th>likely cause</th><th>remedy</th></tr>{rows}</table>",
        chart.finish(),
        legend(),
        content.per_op_samples
    )
}

/// All groups, in the order of the legend.
const GROUPS: [Group; 4] = [Group::Dense, Group::Attention, Group::Norm, Group::Other];

/// The class that colours a group, and what the legend calls it.
fn group_style(group: Group) -> (&'static str, &'static str) {
    match group {
        Group::Dense => ("dense", "dense layers"),
        Group::Attention => ("attend", "attention, softmax"),
        Group::Norm => ("norm", "normalization"),
        Group::Other => ("other", "everything else"),
    }
}

fn legend() -> String {
    let item = |(class, name): (&str, &str)| format!("<span><i class=\"{class}\"></i>{name}</span>");
    format!("<p class=\"legend\">{}</p>", GROUPS.map(group_style).map(item).concat())
}

fn memory(content: &Content) -> String {
    let s = &content.summary;
    let kib = |n: usize| n as f64 / 1024.0;
    let n_ops = s.ops.len() as f64;
    let mut chart = Chart::new((900.0, 320.0), (-0.5, n_ops - 0.5), (0.0, kib(s.arena_bytes) * 1.06));
    chart.axes("operator", "address, KiB", plain, plain);
    for (index, b) in content.blocks.iter().enumerate() {
        let class = if b.scratch { "scratch".to_owned() } else { format!("m{}", index % 6) };
        let class = if b.window > 0 { class + " window" } else { class };
        let (x0, x1) = (b.first as f64 - 0.47, b.last as f64 + 0.47);
        chart.rect(&class, (x0, kib(b.offset)), (x1, kib(b.offset + b.bytes)), &block_hint(b));
    }
    let limit = [(-0.5, kib(s.arena_bytes)), (n_ops - 0.5, kib(s.arena_bytes))];
    chart.line("limit", &limit);
    chart.label(limit[1], "end", &format!("arena {} bytes", s.arena_bytes));
    let windows = content.blocks.iter().any(|b| b.window > 0);
    chart.finish() + &if windows { format!("<p class=\"legend\">{WINDOWS}</p>") } else { String::new() }
}

const WINDOWS: &str = "Pale and dashed: a window of the tensor's rows. The operators of a chain run on one block of rows after the \
    other, so what is between them is never whole in memory; what a chain reads or writes whole is there all the while. \
    Below, `by N` says how many rows an operator runs on at a time.";

/// What a block is, where and when: the text under the pointer.
fn block_hint(b: &Block) -> String {
    let what = if b.scratch { "scratch of " } else { "" };
    let rows = if b.window > 0 { format!(", {} rows at a time", b.window) } else { String::new() };
    let span = if b.first == b.last {
        format!("operator {}", b.first)
    } else {
        format!("operators {} to {}", b.first, b.last)
    };
    format!("{what}{}: {} bytes at {}{rows}, {span}", b.name, b.bytes, b.offset)
}

fn boards(content: &Content) -> String {
    let row = |line: &Fit| {
        let b = &line.board;
        let class = if line.fits { "yes" } else { "no" };
        format!(
            "<tr class=\"{class}\"><td>{}<small>{}</small></td><td class=\"w\">{}</td><td class=\"n\">{} MHz</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td><b>{}</b></td><td class=\"n\">~{}</td><td><small>{}</small></td></tr>",
            escape(b.name),
            escape(b.chip),
            b.core.name(),
            b.clock_mhz,
            text::bytes(f64::from(b.flash_kib) * 1024.0),
            text::bytes(f64::from(b.ram_kib) * 1024.0),
            line.verdict(),
            text::milliseconds(line.latency_ms),
            escape(b.source)
        )
    };
    let rows: String = content.boards.iter().map(row).collect();
    format!(
        "<table><tr><th>board</th><th>core</th><th class=\"n\">clock</th><th class=\"n\">flash</th><th class=\"n\">RAM</th>\
         <th>verdict</th><th class=\"n\">latency</th><th>source</th></tr>{rows}</table>"
    )
}

fn certificate(content: &Content) -> String {
    let s = &content.summary;
    let most = s.ops.iter().map(|op| op.macs).max().unwrap_or(0).max(1) as f64;
    // Only the profile of the published operators keeps sums in 64 bits.
    let wide = s.ops.iter().any(|op| op.wide_bits > 0);
    let bar = |class: &str, share: f64, text: String| {
        format!(
            "<td class=\"bar\"><i class=\"{class}\" style=\"width:{:.1}%\"></i><span>{text}</span></td>",
            share * 100.0
        )
    };
    let row = |op: &crate::summary::OpSummary| {
        let by = op.block_rows.map_or_else(String::new, |rows| format!(" by {rows}"));
        let out = op.output.as_ref().map_or_else(String::new, |o| format!("{} {:?}{by}", o.dtype, o.shape));
        let bits = |n: u32| format!("<td class=\"n\">{}</td>", if n == 0 { "-".to_owned() } else { n.to_string() });
        format!(
            "<tr><td class=\"n\">{}</td><td>{}</td><td title=\"{}\">{}</td><td class=\"w\">{out}</td>{}{}{}{}{}</tr>",
            op.index,
            op.kind,
            escape(&op.name),
            escape(&text::tail(&op.name, 34)),
            bar(group_style(op.group).0, op.macs as f64 / most, text::count(op.macs as f64)),
            bar("acc", f64::from(op.acc_bits) / f64::from(ACC_BITS), format!("{} of {ACC_BITS}", op.acc_bits)),
            bits(op.product_bits),
            if wide { bits(op.wide_bits) } else { String::new() },
            bits(op.sum_bits)
        )
    };
    let rows: String = s.ops.iter().map(row).collect();
    format!(
        "<div class=\"scroll\"><table><tr><th class=\"n\">op</th><th>kind</th><th>name</th><th>result</th><th>MACs</th>\
         <th>accumulator bits</th><th class=\"n\">product bits</th>{}<th class=\"n\">row sum bits</th></tr>{rows}</table></div>",
        if wide { "<th class=\"n\">wide sum bits</th>" } else { "" }
    )
}

fn histograms(all: &[Histogram]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let figure = |h: &Histogram| {
        format!(
            "<figure>{}<figcaption title=\"{name}\"><b>{}</b><small>{}</small></figcaption></figure>",
            sparkline(&h.counts, h.kept()),
            escape(&text::tail(&h.name, 34)),
            escape(&h.caption),
            name = escape(&h.name),
        )
    };
    format!("<div class=\"grid\">{}</div>", all.iter().map(figure).collect::<String>())
}

fn extent(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
}

/// A tick label without needless digits.
fn plain(value: f64) -> String {
    if value.fract().abs() < 1e-9 { format!("{value:.0}") } else { format!("{value:.1}") }
}
