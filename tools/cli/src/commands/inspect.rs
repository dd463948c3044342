//! `shiftformer inspect`.

use super::failure::{Failure, Verdict};
use super::output;
use shiftformer::Model;
use shiftformer_convert::model_file::ModelFile;
use shiftformer_lab::summary::timeline;
use shiftformer_lab::summary::{EndpointSummary, Summary, summarize};
use shiftformer_lab::text;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// The model.
    file: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Reads a model, naming the file in the error.
pub fn read_model(path: &Path) -> Result<ModelFile, Failure> {
    ModelFile::read(path).map_err(|source| match source {
        shiftformer_convert::model_file::ModelFileError::Read { source, .. } => {
            Failure::Read { path: path.to_owned(), source }
        }
        source => Failure::Model { path: path.to_owned(), source },
    })
}

/// Opens a model that was read.
pub fn open<'m>(file: &'m ModelFile, path: &Path) -> Result<Model<'m>, Failure> {
    file.open().map_err(|e| Failure::Model { path: path.to_owned(), source: e.into() })
}

pub fn run(args: &Args) -> Result<Verdict, Failure> {
    let file = read_model(&args.file)?;
    let model = open(&file, &args.file)?;
    let summary = summarize(&model, file.annotations());
    if args.json {
        output::json(&summary)?;
        return Ok(Verdict::Passed);
    }
    output::print(&overview(&summary));
    output::print(&operators(&summary));
    let blocks = timeline::blocks(&model, file.annotations());
    output::print("\nArena over time\n");
    output::print(&timeline::draw(&blocks, model.n_ops(), model.arena_bytes(), 100, 16));
    if !summary.notes.is_empty() {
        output::print("\nNotes of the converter\n");
        summary.notes.iter().for_each(|note| output::print(&format!("- {note}\n")));
    }
    Ok(Verdict::Passed)
}

fn overview(s: &Summary) -> String {
    let size = |n: usize| text::bytes(n as f64);
    let mut lines = vec![
        format!("format {}, profile {}, from {}", s.format_version, s.profile, s.source),
        format!("parameters   {:>10}   {} MACs per inference", s.params, text::count(s.macs as f64)),
        format!(
            "file         {:>10}   weights {}, needed in flash {}",
            size(s.file_bytes),
            size(s.weight_bytes),
            size(s.flash_bytes)
        ),
        format!(
            "arena        {:>10}   lower bound {} ({:.3} x)",
            size(s.arena_bytes),
            size(s.arena_lower_bound_bytes),
            s.arena_bytes as f64 / s.arena_lower_bound_bytes.max(1) as f64
        ),
        format!("receipts     {:>10}", s.receipts),
    ];
    if let Some(tokenizer) = &s.tokenizer {
        let state = if tokenizer.valid { "" } else { ", INVALID: convert the model again" };
        lines.push(format!("tokenizer    {:>10}   {} tokens{state}", size(tokenizer.bytes), tokenizer.tokens));
    }
    lines.extend(s.state.iter().map(|state| {
        format!(
            "state        {:>10}   {} positions, runs of up to {} tokens",
            size(state.bytes),
            state.positions,
            state.rows
        )
    }));
    let endpoint = |word: &str, e: &EndpointSummary| {
        let pixels = e.normalization.map_or_else(String::new, |(m, d)| format!(", pixels normalised by ({m}, {d})"));
        format!("{word} `{}` {} {:?}, step {:.4e}{pixels}", e.name, e.dtype, e.shape, e.scale)
    };
    lines.extend(s.inputs.iter().map(|e| endpoint("input ", e)));
    lines.extend(s.outputs.iter().map(|e| endpoint("output", e)));
    lines.join("\n") + "\n\n"
}

fn operators(s: &Summary) -> String {
    let mut table =
        text::table(&["op>", "kind", "name", "MACs>", "out", "acc bits>", "product bits>", "wide bits>", "sum bits>"]);
    for op in &s.ops {
        let by = op.block_rows.map_or_else(String::new, |rows| format!(" by {rows}"));
        let out = op.output.as_ref().map_or_else(String::new, |o| format!("{} {:?}{by}", o.dtype, o.shape));
        let bits = |n: u32| if n == 0 { "-".to_owned() } else { n.to_string() };
        table.add_row([
            op.index.to_string(),
            op.kind.to_owned(),
            text::tail(&op.name, 44),
            text::count(op.macs as f64),
            out,
            op.acc_bits.to_string(),
            bits(op.product_bits),
            bits(op.wide_bits),
            bits(op.sum_bits),
        ]);
    }
    let blocks = s.ops.iter().any(|op| op.block_rows.is_some());
    let note = if blocks { "`by N`: in blocks of N rows, together with the operators above or below\n" } else { "" };
    format!("{table}\n{note}")
}
