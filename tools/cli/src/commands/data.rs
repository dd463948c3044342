//! What commands with samples share: opening data, choosing samples, showing progress.

use super::failure::Failure;
use super::output;
use indicatif::{ProgressBar, ProgressStyle};
use shiftformer_convert::data::Dataset;
use shiftformer_convert::model_file::ModelFile;
use shiftformer_lab::backend::Sample;
use shiftformer_lab::eval::{EvalError, sample_bytes};
use std::path::Path;

/// Opens a data set.
pub fn open(path: &Path) -> Result<Dataset, Failure> {
    Ok(Dataset::open(path).map_err(EvalError::from)?)
}

/// The bytes of the samples `selection`.
pub fn samples(model: &ModelFile, data: &Dataset, selection: &[usize]) -> Result<Vec<Sample>, Failure> {
    Ok(selection.iter().map(|&s| sample_bytes(model, data, s)).collect::<Result<_, _>>()?)
}

/// The first `limit` samples, or all.
pub fn first(data: &Dataset, limit: Option<usize>) -> Result<Vec<usize>, Failure> {
    match limit {
        Some(0) => Err(Failure::Usage("--limit 0 leaves no samples; give at least 1".to_owned())),
        limit => Ok((0..data.samples().min(limit.unwrap_or(usize::MAX))).collect()),
    }
}

/// A sample for timing when the user gives none: the first receipt of the model, else bytes of all magnitudes.
pub fn stand_in(model: &ModelFile) -> Result<Sample, Failure> {
    let opened = model.open::<shiftformer::kernels::Portable>().map_err(|e| Failure::Backend(e.into()))?;
    let sizes: Vec<usize> = (0..opened.n_inputs()).filter_map(|i| opened.input(i).map(|t| t.bytes())).collect();
    if let Some(receipt) = opened.receipts().get(0) {
        return Ok(receipt.inputs(sizes.into_iter()).map(<[u8]>::to_vec).collect());
    }
    let ids = |i: usize| opened.input(i).is_some_and(|t| t.dtype == shiftformer::tensor::Dtype::I32);
    if (0..opened.n_inputs()).any(ids) {
        // Token ids must lie in their table: 0 always does.
        return Ok(sizes.iter().map(|&n| vec![0; n]).collect());
    }
    output::status("no --data given: the model runs on synthetic input");
    Ok(sizes.iter().map(|&n| (0..n).map(|i| (i * 89 % 251) as u8).collect()).collect())
}

/// A bar on stderr; invisible where stderr is not a terminal.
pub fn progress(length: usize, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(length as u64);
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} {eta}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_owned());
    bar
}

/// A line on stderr that changes; invisible where stderr is not a terminal.
pub fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(std::time::Duration::from_millis(120));
    bar
}
