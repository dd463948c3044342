//! `shiftformer demo`: the bundled digits model through everything.

use super::failure::{Failure, Verdict};
use super::picture::{Picture, row};
use super::{convert, fit as fit_command, output};
use shiftformer::kernels::Portable;
use shiftformer_convert::convert::{ConvertError, ConvertOptions, Converted};
use shiftformer_convert::data::Dataset;
use shiftformer_convert::fuse::fuse;
use shiftformer_convert::graph::Graph;
use shiftformer_convert::import::{ImportOptions, import_bytes};
use shiftformer_convert::model_file::{ModelFile, Values};
use shiftformer_lab::backend::{self, Sample};
use shiftformer_lab::eval::metrics::{Figures, argmax};
use shiftformer_lab::eval::per_op::{OpError, per_op};
use shiftformer_lab::eval::{EvalError, Reference, evaluate, label, sample_bytes, sample_values};
use shiftformer_lab::fit::{BASIS, demand, fit};
use shiftformer_lab::parity::{BackendRun, compare};
use shiftformer_lab::summary::{Summary, summarize};
use shiftformer_lab::text;
use std::path::PathBuf;
use std::time::Instant;

#[derive(clap::Args)]
pub struct Args {
    /// Also write the model here.
    #[arg(long, value_name = "OUT.sfm")]
    output: Option<PathBuf>,
}

const MODEL: &[u8] = include_bytes!("../../digits/digits-vit.onnx");
const CALIBRATION: &[u8] = include_bytes!("../../digits/calib.npz");
const EVALUATION: &[u8] = include_bytes!("../../digits/eval.npz");
// They are symbolic links to `models/digits`, which a package holds as files.
const _: () = assert!(
    MODEL.len() > 1 << 10 && CALIBRATION.len() > 1 << 10 && EVALUATION.len() > 1 << 10,
    "tools/cli/digits \
    has no symbolic links: `git config core.symlinks true`, then check out again"
);
/// Mean and standard deviation the model was trained with: `models/digits/README.md`.
const NORMALIZATION: (f64, f64) = (0.3057, 0.376);
/// Images whose bytes are compared between kernels.
const PARITY_IMAGES: usize = 16;
/// Images compared with the float model operator by operator.
const PER_OP_IMAGES: usize = 32;
/// Images drawn.
const PICTURES: usize = 6;

pub fn run(args: &Args) -> Result<Verdict, Failure> {
    let started = Instant::now();
    let data = |bytes: &[u8], name: &str| Dataset::from_bytes(bytes.to_vec(), name).map_err(EvalError::from);
    let (calibration, images) = (data(CALIBRATION, "calib.npz")?, data(EVALUATION, "eval.npz")?);
    let graph = import_bytes(MODEL, None, &ImportOptions::default());
    let graph = fuse(graph.map_err(|source| Failure::Import { path: "digits-vit.onnx".into(), source })?);
    let converted = converted(&graph, &calibration)?;
    let file = ModelFile::from_bytes(&converted.file).map_err(ConvertError::from)?;
    let model = file.open::<Portable>().map_err(|e| Failure::Backend(e.into()))?;
    let summary = summarize(&model, file.annotations());
    output::print(&headline(&summary));

    let all: Vec<usize> = (0..images.samples()).collect();
    let mut native = backend::open("native", &file)?;
    let figures = evaluate(&file, &images, &Reference::Graph(&graph), &all, native.as_mut(), |_| {})?.figures();
    output::print(&accuracy(&figures));

    let few: Result<Vec<Sample>, EvalError> = (0..PARITY_IMAGES).map(|s| sample_bytes(&file, &images, s)).collect();
    let contestants = [BackendRun::parse("portable", &file)?, BackendRun::parse("native", &file)?];
    let parity = compare(&file, &contestants, &few?, |_| {})?;
    let verdict = if parity.equal { "all bytes equal" } else { "THE BYTES DIFFER" };
    output::print(&format!(
        "parity       {} operators x {} images, portable and native kernels: {verdict}\n\n",
        parity.ops, parity.samples
    ));

    output::print(&pictures(&file, &images, native.as_mut())?);
    let values =
        all.iter().take(PER_OP_IMAGES).map(|&s| sample_values(&file, &images, s)).collect::<Result<Vec<_>, _>>()?;
    let errors = per_op(&file, &graph, &values)?;
    output::print(&operators(&summary, &errors));
    output::print(&format!("\n{}\n{}\n", fit_command::table(&fit(&demand(&model), None)), BASIS));
    if let Some(path) = &args.output {
        output::OutputFile::create(path)?.finish(&converted.file)?;
    }
    output::print(&format!("\ndone in {:.1} s\n", started.elapsed().as_secs_f64()));
    let as_good = figures.accuracy >= figures.float_accuracy;
    Ok(if parity.equal && as_good { Verdict::Passed } else { Verdict::Failed })
}

fn converted(graph: &Graph, calibration: &Dataset) -> Result<Converted, Failure> {
    let samples = convert::calibration_samples(graph, calibration, usize::MAX)?;
    let options = ConvertOptions {
        normalization: Some(NORMALIZATION),
        source: "digits-vit.onnx".to_owned(),
        ..ConvertOptions::default()
    };
    let spinner = super::data::spinner();
    let converted = shiftformer_convert::convert::convert(graph, &samples, &options, &mut |what| {
        spinner.set_message(what.to_owned())
    })?;
    spinner.finish_and_clear();
    Ok(converted)
}

fn headline(summary: &Summary) -> String {
    let size = |n: usize| text::bytes(n as f64);
    format!(
        "A vision transformer on handwritten digits, in integers\n\n\
         model        {} parameters, {} multiplications, {} operators\n\
         flash        {} ({} file, weights {})\n\
         RAM          {} arena, lower bound {}\n",
        summary.params,
        text::count(summary.macs as f64),
        summary.ops.len(),
        size(summary.flash_bytes),
        size(summary.file_bytes),
        size(summary.weight_bytes),
        size(summary.arena_bytes),
        size(summary.arena_lower_bound_bytes),
    )
}

fn accuracy(figures: &Figures) -> String {
    format!(
        "accuracy     {} integer, {} float on {} images; agreement {}, SQNR {}\n",
        text::percent(figures.accuracy),
        text::percent(figures.float_accuracy),
        figures.samples,
        text::percent(figures.agreement),
        text::decibels(figures.sqnr_db),
    )
}

fn pictures(file: &ModelFile, images: &Dataset, backend: &mut dyn backend::Backend) -> Result<String, Failure> {
    let mut pictures = Vec::new();
    for sample in (0..images.samples()).step_by((images.samples() / PICTURES).max(1)).take(PICTURES) {
        let trace = backend.run(&[sample_bytes(file, images, sample)?])?.remove(0);
        let logits = file.decode(0, trace.outputs.first().map_or(&[], |bytes| bytes));
        let pixels = match images.input("image").map(|array| array.sample(sample)) {
            Some(Values::U8(pixels)) => pixels,
            _ => Vec::new(),
        };
        let class = argmax(&logits);
        let truth = label(images, sample)
            .map_or_else(String::new, |l| if l == class as i64 { " ok".to_owned() } else { format!(" not {l}") });
        pictures.push(Picture { width: 8, pixels, caption: format!("-> {class}{truth}") });
    }
    Ok(row(&pictures) + "\n")
}

fn operators(summary: &Summary, errors: &[OpError]) -> String {
    let mut table = text::table(&["op>", "kind", "name", "MACs>", "acc bits>", "SQNR dB>"]);
    for op in &summary.ops {
        let error = errors.iter().find(|e| e.op == op.index);
        table.add_row([
            op.index.to_string(),
            op.kind.to_owned(),
            text::tail(&op.name, 40),
            text::count(op.macs as f64),
            op.acc_bits.to_string(),
            error.map_or_else(|| "-".to_owned(), |e| format!("{:.1}", e.sqnr_db)),
        ]);
    }
    format!("{table}\n")
}
