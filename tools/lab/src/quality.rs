//! Whether a conversion may be used: outputs that lose too much are refused, with the place where it is lost and a setting
//! that was tried and helps.

use crate::eval::EvalError;
use crate::eval::per_op::{Cause, per_op, worst};
use shiftformer::format::Profile;
use shiftformer_convert::convert::quality::worst_output;
use shiftformer_convert::convert::{
    ActivationBits, ConvertError, ConvertOptions, Converted, Switch, WeightBits, convert,
};
use shiftformer_convert::graph::{Graph, Op};
use shiftformer_convert::model_file::{ModelFile, Values};
use shiftformer_convert::quantize::range::RangeMethod;

/// Outputs that keep less than this are refused unless asked for, in dB: a quarter of the amplitude is noise.
pub const REFUSED_BELOW_DB: f64 = 12.0;
/// Outputs that keep less than this get a warning, in dB: a tenth of the amplitude is noise.
pub const WARNED_BELOW_DB: f64 = 20.0;
/// A remedy must gain this much to be named, in dB.
const WORTH_DB: f64 = 1.0;
/// Samples that the place of the loss is looked for with.
const PLACE_SAMPLES: usize = 16;

/// Adds a warning to `converted` where an output keeps less than [`WARNED_BELOW_DB`]; below `accepted_db` the text that
/// refuses it. `graph` is the fused graph as it was before the conversion.
///
/// # Errors
/// [`EvalError`] when the converted model cannot be compared with the graph.
pub fn judge(
    graph: &Graph,
    samples: &[Vec<Values>],
    options: &ConvertOptions,
    converted: &mut Converted,
    accepted_db: f64,
    progress: &mut dyn FnMut(&str),
) -> Result<Option<String>, EvalError> {
    let Some((loss, db)) = worst_output(&converted.outputs).map(|(output, db)| (output.loss(), db)) else {
        return Ok(None);
    };
    if db >= WARNED_BELOW_DB.max(accepted_db) {
        return Ok(None);
    }
    progress("finding the operator with the largest loss");
    let model = ModelFile::from_bytes(&converted.file).map_err(|source| EvalError::Sample { sample: 0, source })?;
    let place = place_of_loss(&model, graph, samples)?.map_or_else(String::new, |place| format!("{place}; "));
    let remedy = remedy(graph, samples, options, db, progress);
    let why = format!("{loss}: {place}{remedy}");
    if db < accepted_db {
        let floor = db.floor();
        return Ok(Some(format!(
            "{why}; {accepted_db} dB are required: `--accept-sqnr {floor}` writes the file all the same"
        )));
    }
    converted.warnings.push(why);
    Ok(None)
}

/// The operator of `model` where most is lost, in words.
fn place_of_loss(model: &ModelFile, graph: &Graph, samples: &[Vec<Values>]) -> Result<Option<String>, EvalError> {
    let stride = samples.len().div_ceil(PLACE_SAMPLES).max(1);
    let few: Vec<Vec<Values>> = samples.iter().step_by(stride).cloned().collect();
    let errors = per_op(model, graph, &few)?;
    Ok(worst(&errors, 1).first().map(|worst| {
        let operands = worst.input_sqnr_db.map_or_else(String::new, |db| format!(", its operands keep {db:.1} dB"));
        let cause = if worst.cause == Cause::Inherited { String::new() } else { format!(" ({})", worst.cause.name()) };
        format!("the largest loss is at `{}`, {}: {:.1} dB{operands}{cause}", worst.name, worst.kind, worst.sqnr_db)
    }))
}

/// The settings that differ from `options` and may keep more, in the words of the command line.
fn alternatives(options: &ConvertOptions, attention: bool) -> Vec<(&'static str, ConvertOptions)> {
    let mut list = Vec::new();
    let mut add = |text, changed: ConvertOptions| list.push((text, changed));
    if options.weights != WeightBits::Eight {
        add("--weights 8", ConvertOptions { weights: WeightBits::Eight, ..options.clone() });
    }
    if options.range != RangeMethod::Auto {
        let range = RangeMethod::Auto;
        add("--range auto", ConvertOptions { range, ..options.clone() });
    }
    if options.equalize == Switch::Off {
        add("--equalize auto", ConvertOptions { equalize: Switch::Auto, ..options.clone() });
    }
    if options.wide_exp == Switch::Off && attention {
        add("--wide-exp auto", ConvertOptions { wide_exp: Switch::Auto, ..options.clone() });
    }
    if options.activations == ActivationBits::Eight {
        add("--activations auto", ConvertOptions { activations: ActivationBits::Auto, ..options.clone() });
    }
    match options.profile {
        Profile::Ivit => add("--profile shift", ConvertOptions { profile: Profile::Shift, ..options.clone() }),
        Profile::Shift => add("--profile lut", ConvertOptions { profile: Profile::Lut, ..options.clone() }),
        Profile::Lmul => add("--profile shift", ConvertOptions { profile: Profile::Shift, ..options.clone() }),
        Profile::Lut => {}
    }
    list
}

/// The setting that, tried, keeps the most of the worst output, in words.
fn remedy(
    graph: &Graph,
    samples: &[Vec<Values>],
    options: &ConvertOptions,
    min_db: f64,
    progress: &mut dyn FnMut(&str),
) -> String {
    let attention = graph.nodes.iter().any(|n| matches!(n.op, Op::Attention(_)));
    let mut best: Option<(&'static str, f64)> = None;
    for (text, changed) in alternatives(options, attention) {
        progress(&format!("trying {text}"));
        let tried: Result<Converted, ConvertError> =
            convert(graph, samples, &ConvertOptions { receipts: 0, ..changed }, &mut |_| {});
        // A setting that this model cannot be converted with is no remedy.
        let Some(db) = tried.ok().and_then(|tried| Some(worst_output(&tried.outputs)?.1)) else { continue };
        if db > min_db + WORTH_DB && best.is_none_or(|(_, b)| db > b) {
            best = Some((text, db));
        }
    }
    match best {
        Some((text, db)) => format!("`{text}` gives {db:.1} dB"),
        None => "no other setting of `convert` gains anything".to_owned(),
    }
}
