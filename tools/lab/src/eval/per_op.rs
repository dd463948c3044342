//! Where the accuracy goes: every intermediate tensor against the float model.

use super::{EvalError, encode, float_inputs};
use crate::eval::metrics::sqnr_db;
use serde::Serialize;
use shiftformer::format::{NO_TENSOR, Profile, TensorRecord};
use shiftformer::kernels::Portable;
use shiftformer::ops::{Op, OpKind};
use shiftformer::{AlignedBytes, Model, Observer, RunFault, Session};
use shiftformer_convert::convert::ivit;
use shiftformer_convert::graph::exec;
use shiftformer_convert::graph::{Graph, TensorId};
use shiftformer_convert::lower::facts::{Group, Noise, dense, facts};
use shiftformer_convert::model_file::whole::WholeOutputs;
use shiftformer_convert::model_file::{ModelFile, Values, dequantize, integers};
use shiftformer_convert::pack::AnnotatedTensor;
use std::collections::{HashMap, HashSet};

/// One operator whose result has a counterpart in the float model.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct OpError {
    /// Index of the operator.
    pub op: usize,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// What that kind does.
    #[serde(skip)]
    pub group: Group,
    /// Element type of the result.
    pub dtype: &'static str,
    /// Signal to noise of the result.
    pub sqnr_db: f64,
    /// The worst of its operands, where they have a counterpart.
    pub input_sqnr_db: Option<f64>,
    /// Share of elements at the ends of the integer range.
    pub clipped: f64,
    /// Maximum magnitude of a channel (last dimension) over the median of all channels.
    pub channel_spread: f64,
    /// Share of the noise that rounding to steps of this size explains: `scale^2 / 12` per element.
    pub rounding_share: f64,
    /// The likely cause of the error.
    pub cause: Cause,
    /// What can be done about it.
    pub remedy: &'static str,
}

/// Why a tensor differs from its float counterpart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The error comes in with the operands.
    Inherited,
    /// Values beyond the range are cut off.
    Clipping,
    /// One channel is much larger than the rest and takes the steps.
    OutlierChannel,
    /// The steps are large for these values.
    CoarseScale,
    /// Small probabilities are lost.
    SoftmaxTail,
    /// The weights have fewer than 8 bits.
    FewWeightBits,
    /// The 8-bit value that a table inside the operator takes is coarse, or a nonlinearity is approximated.
    Activation,
    /// The rounding of 8-bit weights.
    Weights,
}

impl Cause {
    /// What can be done about it in a model of this profile.
    fn remedy(self, profile: Profile) -> &'static str {
        match self {
            Cause::Inherited => "look at the operators before it",
            Cause::Clipping => "calibrate on more samples, or convert with `--range minmax`",
            Cause::OutlierChannel => "convert with `--equalize on`, or train with weight decay on that layer",
            Cause::CoarseScale => "convert with `--range auto` on more samples",
            Cause::SoftmaxTail if profile == Profile::Ivit => {
                "the published exponentials do this: use `--profile shift`"
            }
            Cause::SoftmaxTail => "convert with `--wide-exp on`: 16-bit exponentials",
            Cause::FewWeightBits => "give this layer 8 bits: `--weights mixed` with a larger budget",
            Cause::Activation if profile == Profile::Shift => "try `--range auto` on more samples, or `--profile lut`",
            Cause::Activation => "try `--range auto` on more samples",
            Cause::Weights => "fine-tune the model: this is the limit of 8-bit weights",
        }
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Inherited => "inherited",
            Cause::Clipping => "clipping",
            Cause::OutlierChannel => "outlier channel",
            Cause::CoarseScale => "coarse scale",
            Cause::SoftmaxTail => "softmax tail",
            Cause::FewWeightBits => "weights of few bits",
            Cause::Activation => "activation",
            Cause::Weights => "weight rounding",
        }
    }
}

/// Sums over samples for one tensor.
#[derive(Clone, Debug, Default)]
struct Sums {
    signal: f64,
    noise: f64,
    clip_noise: f64,
    count: u64,
    clipped: u64,
    channel_max: Vec<f32>,
}

/// Compares `samples` (the values of every input), operator by operator. `graph` is the fused graph the model was made
/// from, as it was before the conversion.
///
/// Operators whose result has no counterpart (copies, scores inside attention) are left out.
///
/// # Errors
/// [`EvalError`], the first met.
pub fn per_op(model: &ModelFile, graph: &Graph, samples: &[Vec<Values>]) -> Result<Vec<OpError>, EvalError> {
    let opened = model.open::<Portable>().map_err(crate::backend::BackendError::from)?;
    let mut graph = graph.clone();
    if opened.profile() == Profile::Ivit {
        // As the converter did: the parts are tensors of their own.
        ivit::take_attention_apart(&mut graph);
    }
    let graph = &graph;
    let sources = sources(model, graph, &opened);
    let mut sums: HashMap<usize, Sums> = HashMap::new();
    for (sample, values) in samples.iter().enumerate() {
        let wanted: HashSet<TensorId> = sources.values().copied().collect();
        let mut floats: HashMap<TensorId, Vec<f32>> = HashMap::new();
        let inputs = float_inputs(model, graph, sample, values.clone())?;
        exec::run(graph, &inputs, &mut |id, data| {
            if wanted.contains(&id) {
                floats.insert(id, data.to_f32());
            }
        })
        .map_err(|source| EvalError::Float { sample, source })?;
        let bytes = encode(model, sample, values)?;
        let mut watch = Watch { model, opened: &opened, sources: &sources, floats: &floats, sums: &mut sums };
        let mut whole = WholeOutputs::new(|op, output: &[u8]| watch.output(op, output));
        run(&opened, &bytes, &mut whole).map_err(|why| crate::backend::BackendError::Run {
            backend: "portable".to_owned(),
            why: format!("sample {sample}: {why}"),
        })?;
    }
    Ok(results(model, &opened, &sums))
}

/// Tensors with a float counterpart of the same size.
fn sources(model: &ModelFile, graph: &Graph, opened: &Model<'_>) -> HashMap<usize, TensorId> {
    let source = |(tensor, annotations): (usize, &shiftformer_convert::pack::AnnotatedTensor)| {
        let id = annotations.source?;
        let same = graph.tensors.get(id)?.len() == opened.tensor(tensor)?.len();
        (same && graph.tensors[id].value.is_none()).then_some((tensor, id))
    };
    model.annotations().tensors.iter().enumerate().filter_map(source).collect()
}

fn run(model: &Model<'_>, sample: &[Vec<u8>], watch: &mut impl Observer) -> Result<(), RunFault> {
    let [mut arena, mut state] = [model.arena_bytes(), model.state_bytes()].map(AlignedBytes::zeroed);
    let mut session = Session::with_state(model, &mut arena, &mut state).map_err(|_| RunFault::Memory)?;
    for (index, bytes) in sample.iter().enumerate() {
        let input = session.input_mut(index).filter(|input| input.len() == bytes.len());
        input.ok_or(RunFault::Memory)?.copy_from_slice(bytes);
    }
    session.run_with(watch)
}

struct Watch<'a> {
    model: &'a ModelFile,
    opened: &'a Model<'a>,
    sources: &'a HashMap<usize, TensorId>,
    floats: &'a HashMap<TensorId, Vec<f32>>,
    sums: &'a mut HashMap<usize, Sums>,
}

impl Watch<'_> {
    fn output(&mut self, op: usize, output: &[u8]) {
        let Some(record) = self.opened.op_record(op) else { return };
        let tensor = usize::from(record.output);
        let float = self.sources.get(&tensor).and_then(|id| self.floats.get(id));
        let annotations = self.model.annotations().tensors.get(tensor);
        if let (Some(float), Some(record), Some(annotations), false) =
            (float, self.opened.tensor(tensor), annotations, output.is_empty())
        {
            self.sums.entry(op).or_default().add(&record, output, annotations, float);
        }
    }
}

impl Sums {
    fn add(&mut self, record: &TensorRecord, bytes: &[u8], annotations: &AnnotatedTensor, float: &[f32]) {
        let (scale, zero) = (annotations.scale, annotations.zero);
        let (low, high) = record.dtype.range();
        let steps = integers(bytes, record.dtype);
        let ours = dequantize(bytes, record.dtype, scale, zero);
        let width = record.shape().last().map_or(1, |&d| d as usize).max(1);
        self.channel_max.resize(width, 0.0);
        for (index, ((&step, &ours), &float)) in steps.iter().zip(&ours).zip(float).enumerate() {
            let factor = annotations.column_factors.get(index % width).copied().unwrap_or(1.0);
            let noise = (f64::from(ours * factor) - f64::from(float)).powi(2);
            self.signal += f64::from(float).powi(2);
            self.noise += noise;
            let at_end = step == low || step == high;
            if at_end && (f64::from(float / factor) / scale + zero - f64::from(step)).abs() > 0.5 {
                self.clipped += 1;
                self.clip_noise += noise;
            }
            let max = &mut self.channel_max[index % width];
            *max = max.max(float.abs());
        }
        self.count += steps.len() as u64;
    }

    /// Maximum channel over the median channel.
    fn channel_spread(&self) -> f64 {
        let mut sorted = self.channel_max.clone();
        sorted.sort_by(f32::total_cmp);
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
        let max = sorted.last().copied().unwrap_or(0.0);
        if median > 0.0 { f64::from(max / median) } else { 1.0 }
    }
}

fn results(model: &ModelFile, opened: &Model<'_>, sums: &HashMap<usize, Sums>) -> Vec<OpError> {
    let mut by_tensor: HashMap<usize, f64> = HashMap::new();
    let mut results = Vec::new();
    for op in 0..opened.n_ops() {
        let (Some(record), Some(kind)) = (opened.op_record(op), opened.op_kind(op)) else { continue };
        let Some(sums) = sums.get(&op) else { continue };
        let tensor = usize::from(record.output);
        let operands = record.inputs.iter().filter(|&&t| t != NO_TENSOR);
        let input_sqnr_db = operands.filter_map(|&t| by_tensor.get(&usize::from(t)).copied()).reduce(f64::min);
        let (scale, _) = model.units(tensor);
        let sqnr = sqnr_db(sums.signal, sums.noise);
        let rounding = scale * scale / 12.0 * sums.count as f64;
        let mut error = OpError {
            op,
            name: model.op_name(op).to_owned(),
            kind: kind.name(),
            group: facts(kind).group,
            dtype: opened.tensor(tensor).map_or("", |t| t.dtype.name()),
            sqnr_db: sqnr,
            input_sqnr_db,
            clipped: sums.clipped as f64 / sums.count.max(1) as f64,
            channel_spread: sums.channel_spread(),
            rounding_share: if sums.noise > 0.0 { (rounding / sums.noise).min(1.0) } else { 0.0 },
            cause: Cause::Weights,
            remedy: "",
        };
        let op = opened.op_params(op).and_then(|words| Op::decode(kind, words));
        error.cause = cause(&error, kind, op.as_ref(), sums.clip_noise / sums.noise.max(f64::MIN_POSITIVE));
        error.remedy = error.cause.remedy(opened.profile());
        by_tensor.insert(tensor, sqnr);
        results.push(error);
    }
    results
}

/// Channels this much larger than the median leave less than 5 of 8 bits to the others.
const OUTLIER_SPREAD: f64 = 8.0;

fn cause(error: &OpError, kind: OpKind, op: Option<&Op>, clip_share: f64) -> Cause {
    if clip_share > 0.3 {
        return Cause::Clipping;
    }
    if error.rounding_share > 0.4 {
        return if error.channel_spread > OUTLIER_SPREAD { Cause::OutlierChannel } else { Cause::CoarseScale };
    }
    if error.input_sqnr_db.is_some_and(|input| input <= error.sqnr_db + 1.5) {
        return Cause::Inherited;
    }
    match facts(kind).noise {
        Noise::SoftmaxTail => Cause::SoftmaxTail,
        Noise::Function => Cause::Activation,
        Noise::Weights => match op.and_then(dense) {
            Some(dense) if dense.format.bits() < 8 => Cause::FewWeightBits,
            Some(dense) if !dense.lut.is_some() => Cause::Weights,
            Some(_) | None => Cause::Activation,
        },
    }
}

/// The `count` operators with the lowest SQNR, worst first; those that only hand on what came in stand behind all others.
pub fn worst(errors: &[OpError], count: usize) -> Vec<&OpError> {
    let mut sorted: Vec<&OpError> = errors.iter().collect();
    let inherited = |e: &OpError| e.cause == Cause::Inherited;
    sorted.sort_by(|a, b| inherited(a).cmp(&inherited(b)).then(a.sqnr_db.total_cmp(&b.sqnr_db)));
    sorted.truncate(count);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use shiftformer::format::Blob;
    use shiftformer::ops::conv2d::Window;
    use shiftformer::ops::depthwise::DepthwiseConv2d;
    use shiftformer::ops::linear::Dense;
    use shiftformer::weights::WeightFormat;

    fn error(sqnr_db: f64, input: Option<f64>, rounding_share: f64, channel_spread: f64) -> OpError {
        OpError {
            op: 0,
            name: String::new(),
            kind: "linear",
            group: Group::Dense,
            dtype: "i8",
            sqnr_db,
            input_sqnr_db: input,
            clipped: 0.0,
            channel_spread,
            rounding_share,
            cause: Cause::Weights,
            remedy: "",
        }
    }

    #[test]
    fn causes_follow_from_where_the_noise_sits() {
        let of = |e: &OpError, kind, clip| cause(e, kind, None, clip);
        assert_eq!(of(&error(20.0, None, 0.9, 1.0), OpKind::Linear, 0.5), Cause::Clipping);
        assert_eq!(of(&error(20.0, None, 0.9, 20.0), OpKind::Linear, 0.0), Cause::OutlierChannel);
        assert_eq!(of(&error(20.0, None, 0.9, 2.0), OpKind::Linear, 0.0), Cause::CoarseScale);
        assert_eq!(of(&error(20.0, Some(21.0), 0.1, 2.0), OpKind::Attention, 0.0), Cause::Inherited);
        assert_eq!(of(&error(20.0, Some(40.0), 0.1, 2.0), OpKind::Attention, 0.0), Cause::SoftmaxTail);
        assert_eq!(of(&error(20.0, Some(40.0), 0.1, 2.0), OpKind::Lut, 0.0), Cause::Activation);
    }

    #[test]
    fn a_depthwise_convolution_has_weights_to_blame() {
        let none = Blob::NONE;
        let dense = Dense {
            format: WeightFormat::I8,
            acc_shift: 0,
            zero_point: 0,
            weights: none,
            bias: none,
            multipliers: none,
            lut: none,
        };
        let window = Window {
            in_h: 2,
            in_w: 2,
            out_h: 1,
            out_w: 1,
            kernel_h: 2,
            kernel_w: 2,
            stride_h: 1,
            stride_w: 1,
            pad_top: 0,
            pad_left: 0,
            dilation_h: 1,
            dilation_w: 1,
            channel_stride: 1,
            row_stride: 2,
            column_stride: 1,
            pad_value: 3,
        };
        let op = Op::DepthwiseConv2d(DepthwiseConv2d { window, channels: 4, dense });
        let error = error(20.0, Some(40.0), 0.1, 2.0);
        assert_eq!(cause(&error, op.kind(), Some(&op), 0.0), Cause::Weights);
    }

    #[test]
    fn worst_comes_first() {
        let errors = [error(30.0, None, 0.0, 1.0), error(10.0, None, 0.0, 1.0), error(20.0, None, 0.0, 1.0)];
        let handed_on = OpError { cause: Cause::Inherited, ..error(5.0, None, 0.0, 1.0) };
        let errors = [&errors[..], &[handed_on]].concat();
        let order: Vec<f64> = worst(&errors, 4).iter().map(|e| e.sqnr_db).collect();
        assert_eq!(order, [10.0, 20.0, 30.0, 5.0]);
    }
}
