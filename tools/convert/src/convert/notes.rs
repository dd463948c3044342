//! Notes for people on the samples and the integer program.

use super::trials::CalibratedGraph;
use crate::graph::{DataType, Graph};
use crate::model_file::Values;
use crate::program::Program;
use crate::quantize::range::BINS;
use shiftformer::arith::exp::sum_error;
use shiftformer::ops;

/// Magnitudes this many times the median of those that are not 0 are reported as outliers.
const OUTLIER: f64 = 1000.0;

/// Reminds of `--mean` and `--std` where raw bytes are the values of a real input as they are.
pub(super) fn raw_bytes_note(
    graph: &Graph,
    sample: Option<&Vec<Values>>,
    normalization: Option<(f64, f64)>,
) -> Option<String> {
    let inputs = graph.inputs.iter().map(|&id| &graph.tensors[id]).zip(sample?);
    let raw = inputs.filter(|(tensor, values)| tensor.dtype == DataType::Float && matches!(values, Values::U8(_)));
    let (tensor, _) = raw.take(1).find(|_| normalization.is_none())?;
    Some(format!(
        "`{}`: the data are bytes and enter as 0 to 255; if the model wants normalized pixels, give `--mean` and `--std`",
        tensor.name
    ))
}

/// Which exponentials the longest attention uses, and what they cost at worst.
pub(super) fn exponentials_note(program: &Program) -> Option<String> {
    let rows = program.ops.iter().filter_map(|op| match op.op {
        ops::Op::Attention(ops::attention::Attention { attention }) => Some(attention),
        ops::Op::AttentionScores(ops::attention::AttentionScores { attention }) => Some(attention),
        _ => None,
    });
    let longest = rows.max_by_key(|attention| attention.n_k)?;
    let n = longest.n_k;
    let percent = |wide| f64::from(sum_error(n, wide)) / 655.36;
    let (bits, other) = if longest.wide_exp { (16, 8) } else { (8, 16) };
    let (own, others) = (percent(longest.wide_exp), percent(!longest.wide_exp));
    Some(format!(
        "attention over {n} keys uses {bits}-bit exponentials: a weighted sum is off by at most {own:.1} % of the range of its \
         values in the worst case ({others:.1} % with {other} bits)"
    ))
}

/// Notes on 8-bit tensors whose extremes lie far beyond what is usual in them.
pub(super) fn outliers(site: &CalibratedGraph, program: &Program) -> Vec<String> {
    let narrow = program.tensors.iter().filter(|t| t.dtype.bytes() == 1 && t.constant.is_none());
    narrow
        .filter_map(|tensor| {
            let stats = site.calibration.stats(tensor.source?);
            // What a ReLU, a softmax or a one-hot vector leaves at 0 says nothing about the rest.
            let bin = f64::from(stats.max - stats.min) / BINS as f64;
            let mut magnitudes: Vec<(f64, f64)> =
                stats.bins().map(|(x, n)| (x.abs(), n)).filter(|m| m.0 > bin).collect();
            magnitudes.sort_by(|a, b| a.0.total_cmp(&b.0));
            let half = magnitudes.iter().map(|m| m.1).sum::<f64>() / 2.0;
            let mut seen = 0.0;
            let median = magnitudes
                .iter()
                .find(|m| {
                    seen += m.1;
                    seen >= half
                })?
                .0;
            (stats.abs_max() / median.max(f64::MIN_POSITIVE) > OUTLIER).then(|| {
                format!(
                    "`{}` has outliers more than {OUTLIER} times its median; scale migration or a clipped range helps",
                    tensor.name
                )
            })
        })
        .collect()
}
