//! Lowering: the fused float graph and its calibration become an integer program.
//!
//! Every float tensor gets the representations its consumers ask for: 8 bits for products, 16 bits for residual streams
//! and outputs. Movement is tracked as strided views and costs a copy only where values must lie in a row.

mod attention;
mod chains;
mod decoder;
mod dense;
mod elementwise;
mod embedding;
mod entry;
pub mod facts;
mod integers;
mod ivit;
mod limits;
pub mod lmul;
mod lookup;
mod movement;
mod segments;
mod steps;
pub mod view;
pub mod wide;

use crate::calibrate::Calibration;
use crate::graph::{Binary, DataType, Graph, Node, Op, Reduce, TensorId};
use crate::program::{Endpoint, Program, QOp, QTensor, TensorIndex};
use crate::quantize::multiplier::multiplier;
use crate::quantize::range::RangeMethod;
use crate::quantize::tables::Embeddings;
use crate::quantize::weights::Quantized;
use limits::Limits;
use shiftformer::format::Profile;
use shiftformer::ops::{self, copy::Copy};
use shiftformer::tensor::Dtype;
use shiftformer::weights::WeightFormat;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use view::{View, collapse};

/// How a model is quantized.
#[derive(Clone, Debug)]
pub struct LowerOptions {
    /// Numeric profile.
    pub profile: Profile,
    /// Range of 8-bit activations.
    pub range: RangeMethod,
    /// How weights are packed, unless `layer_formats` names the layer.
    pub weights: WeightFormat,
    /// Bits of single layers by node name.
    pub layer_formats: HashMap<String, WeightFormat>,
    /// 16-bit exponentials in attention.
    pub wide_exp: bool,
    /// Attention in three operators with the score matrix.
    pub unfused_attention: bool,
    /// Raw `u8` pixels become `(x / 255 - mean) / std`, for the image input.
    pub normalization: Option<(f64, f64)>,
    /// Correct biases for the mean error of the rounded weights.
    pub bias_correction: bool,
    /// Tensors that dense layers, products and functions read in 16 bits, see [`wide::candidates`].
    pub wide: BTreeSet<TensorId>,
    /// How the tables that ids are looked up in are stored.
    pub embeddings: Embeddings,
    /// Which dense layers multiply by addition under that profile.
    pub lmul: lmul::Lmul,
    /// How often the samples look up every row of the tables, by name.
    pub id_counts: Arc<HashMap<String, Vec<u32>>>,
}

impl Default for LowerOptions {
    fn default() -> Self {
        Self {
            profile: Profile::Shift,
            range: RangeMethod::Mse,
            weights: WeightFormat::I8,
            layer_formats: HashMap::new(),
            wide_exp: false,
            unfused_attention: false,
            normalization: None,
            bias_correction: true,
            wide: BTreeSet::new(),
            embeddings: Embeddings::Plain,
            lmul: lmul::Lmul::default(),
            id_counts: Arc::default(),
        }
    }
}

/// Why a graph cannot be lowered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LowerError {
    /// Operators without an integer form, all of them.
    #[error("{} operator(s) have no integer form: {}", .0.len(), .0.join("; "))]
    Unsupported(Vec<String>),
    /// A tensor of more than six dimensions that cannot be merged.
    #[error("`{0}` has more than six dimensions that cannot be merged; reshape it in the exporter")]
    Rank(String),
    /// Tensors without samples and without a quantization of their own.
    #[error("no range is known for {}: pass calibration data with --calib DATA.npz", list(.0))]
    Uncalibrated(Vec<String>),
}

/// The first names and how many there are.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|n| format!("`{n}`")).collect();
    let more = names.len().saturating_sub(SHOWN);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more tensors", shown.join(", ")) }
}

/// What consumers ask of a tensor.
#[derive(Clone, Copy, Debug, Default)]
struct Want {
    /// 8 bits.
    narrow: bool,
    /// 16 bits.
    wide: bool,
    /// All 8-bit consumers can take a zero point.
    zero_point: bool,
    /// Some consumer asked for 8 bits without a zero point.
    symmetric: bool,
    /// 32-bit ids.
    ids: bool,
}

/// Representations of one float tensor.
#[derive(Clone, Debug, Default)]
struct Forms {
    narrow: Option<View>,
    wide: Option<View>,
    ids: Option<View>,
}

/// Which representation a consumer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `i8`, any zero point.
    Narrow,
    /// `i8`, zero point 0.
    Symmetric,
    /// `i16`.
    Wide,
    /// Whatever is there, 16 bits first.
    Any,
    /// Like [`Form::Any`], but with zero point 0.
    Centred,
}

/// The work in progress.
struct Lowering<'g> {
    graph: &'g Graph,
    calibration: &'g Calibration,
    options: &'g LowerOptions,
    program: Program,
    wants: Vec<Want>,
    forms: Vec<Forms>,
    consumers: Vec<Vec<usize>>,
    producers: Vec<Option<usize>>,
    /// Nodes computed together with another one.
    absorbed: Vec<bool>,
    /// Elementwise chains by their last node.
    chains: HashMap<usize, chains::Chain>,
    /// Borders of the segments of those chains that one table is too coarse for, by their last node.
    segments: HashMap<usize, Vec<f64>>,
    /// Sums at the entry of inputs in 32 bits, with the product each takes in.
    entries: HashMap<usize, usize>,
    /// Activations as floating-point patterns, with the real value of the pattern of 1.
    patterns: HashMap<(TensorIndex, shiftformer::arith::lmul::FloatFormat), (TensorIndex, f64)>,
    /// Indices that are quotients or remainders of ids.
    parts_of_ids: HashMap<TensorId, embedding::PartOfIds>,
    /// Linear nodes that add a residual, by the node of the addition: (linear, residual).
    residuals: HashMap<usize, (usize, TensorId)>,
    /// Which values of every tensor matter.
    limits: Vec<Limits>,
    notes: Vec<String>,
    /// Tensors whose range is asked for but unknown.
    missing: Vec<String>,
}

/// A lowered model.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The program.
    pub program: Program,
    /// Remarks for people: saturations, choices.
    pub notes: Vec<String>,
}

/// Lowers `graph` with the ranges in `calibration`.
///
/// # Errors
/// [`LowerError`], naming every node without an integer form.
pub fn lower(graph: &Graph, calibration: &Calibration, options: &LowerOptions) -> Result<Lowered, LowerError> {
    let mut lowering = Lowering {
        graph,
        calibration,
        options,
        program: Program::new(options.profile),
        wants: vec![Want::default(); graph.tensors.len()],
        forms: vec![Forms::default(); graph.tensors.len()],
        consumers: graph.consumers(),
        producers: graph.producers(),
        absorbed: vec![false; graph.nodes.len()],
        chains: HashMap::new(),
        segments: HashMap::new(),
        residuals: HashMap::new(),
        entries: HashMap::new(),
        parts_of_ids: HashMap::new(),
        patterns: HashMap::new(),
        limits: limits::limits(graph, calibration),
        notes: Vec::new(),
        missing: Vec::new(),
    };
    lowering.check_lmul_layers()?;
    lowering.find_parts_of_ids();
    lowering.find_entries();
    lowering.find_chains();
    lowering.find_segments();
    lowering.find_residuals();
    lowering.spread_wants();
    lowering.add_inputs();
    lowering.program.origins = Arc::clone(&graph.origins);
    let mut unsupported = Vec::new();
    for index in 0..graph.nodes.len() {
        match lowering.node(index) {
            Ok(()) => {}
            Err(LowerError::Unsupported(list)) => {
                unsupported.extend(list);
                // Stand in for the output so that the rest can be examined.
                let output = graph.nodes[index].output;
                lowering.placeholder(output);
            }
            Err(error) => return Err(error),
        }
    }
    if !unsupported.is_empty() {
        return Err(LowerError::Unsupported(unsupported));
    }
    lowering.check_tables()?;
    lowering.add_outputs()?;
    if !lowering.missing.is_empty() {
        lowering.missing.sort();
        lowering.missing.dedup();
        return Err(LowerError::Uncalibrated(lowering.missing));
    }
    lowering.program.remove_dead();
    Ok(Lowered { program: lowering.program, notes: lowering.notes })
}

/// Maximum `i16` used by a calibrated stream: a third of the range is kept for what calibration did not see.
const WIDE_TOP: f64 = 22000.0;

/// A scale no finer than `scale` of which 1 is a whole multiple, where there is one.
fn whole_scale(scale: f64) -> f64 {
    if scale > 1e-20 && scale <= 1.0 { 1.0 / (1.0 / scale).floor() } else { scale }
}

impl<'g> Lowering<'g> {
    fn unsupported(&self, node: &Node, why: &str) -> LowerError {
        // The operator of the model says more than that of the float graph.
        let operator = self.graph.origin(&node.name).map_or_else(|| node.op.to_string(), str::to_owned);
        LowerError::Unsupported(vec![format!("`{}` ({operator}): {why}", node.name)])
    }

    fn name(&self, id: TensorId) -> String {
        self.graph.tensors[id].name.clone()
    }

    fn is_constant(&self, id: TensorId) -> bool {
        self.graph.tensors[id].value.is_some()
    }

    /// The only node that reads `id`.
    fn only_consumer(&self, id: TensorId) -> Option<usize> {
        match self.consumers[id][..] {
            [one] if one != usize::MAX => Some(one),
            _ => None,
        }
    }

    fn new_tensor(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        scale: f64,
        zero: f64,
        source: Option<TensorId>,
    ) -> TensorIndex {
        let shape = if shape.is_empty() { vec![1] } else { shape.to_vec() };
        let name = name.to_owned();
        self.program.add_tensor(QTensor {
            name,
            dtype,
            shape,
            scale,
            zero,
            constant: None,
            source,
            window: 0,
            in_state: false,
        })
    }

    fn push(&mut self, name: &str, op: ops::Op, inputs: &[Option<TensorIndex>], output: TensorIndex) {
        let (name, inputs) = (name.to_owned(), inputs.to_vec());
        self.program.ops.push(QOp { name, op, inputs, output, chained: false });
    }

    /// Records that `id` is to be had through `view`.
    fn set(&mut self, id: TensorId, view: View) {
        let dtype = self.program.tensors[view.tensor].dtype;
        let forms = &mut self.forms[id];
        match dtype {
            Dtype::I8 | Dtype::U8 => forms.narrow = Some(view),
            Dtype::I16 | Dtype::U16 => forms.wide = Some(view),
            Dtype::I32 => forms.ids = Some(view),
        }
    }

    /// A new tensor for `id` in the given type, recorded as one of its forms.
    fn output(&mut self, id: TensorId, dtype: Dtype, scale: f64, zero: f64) -> TensorIndex {
        let shape = self.graph.shape(id).to_vec();
        let tensor = self.new_tensor(&self.name(id), dtype, &shape, scale, zero, Some(id));
        self.set(id, View::whole(tensor, &shape, scale, zero));
        tensor
    }

    fn placeholder(&mut self, id: TensorId) {
        if self.forms[id].narrow.is_none() && self.forms[id].wide.is_none() {
            self.output(id, Dtype::I8, 1.0, 0.0);
        }
    }

    /// Type that the producer of `id` should write.
    fn preferred(&self, id: TensorId) -> Dtype {
        if self.graph.tensors[id].dtype == DataType::Int && !self.is_flag(id) {
            return Dtype::I16;
        }
        if self.wants[id].wide || !self.wants[id].narrow { Dtype::I16 } else { Dtype::I8 }
    }

    fn asymmetric(&self, id: TensorId) -> bool {
        let want = self.wants[id];
        want.zero_point && !want.symmetric && !self.is_ivit()
    }

    /// Scale and zero point of `id` in 8 bits.
    fn narrow_units(&mut self, id: TensorId, asymmetric: bool) -> (f64, f64) {
        if self.graph.tensors[id].dtype != DataType::Float {
            return self.narrow_integer_units(id);
        }
        if let Some((scale, zero)) = self.fixed_units(id) {
            if asymmetric || zero == 0.0 {
                return (scale, zero);
            }
            // The same values around 0: the wider side decides.
            return (scale * (127.0 - zero).max(128.0 + zero) / 127.0, 0.0);
        }
        self.require_samples(id);
        let stats = self.calibration.stats(id);
        let (min, most) = self.useful_range(id);
        // Masked values would take all the steps, and whole numbers lie on steps only where nothing is cut off.
        let cut = min != f64::from(stats.min) || most < f64::from(stats.max);
        let units = if cut || stats.is_whole() {
            let (low, high) = (min.min(0.0), most.max(0.0));
            let scale = if asymmetric { (high - low) / 255.0 } else { high.max(-low) / 127.0 };
            let scale = if stats.is_whole() { whole_scale(scale) } else { scale };
            let zero = if asymmetric { (-128.0 - low / scale.max(1e-30)).round().clamp(-128.0, 127.0) } else { 0.0 };
            (scale, zero)
        } else if asymmetric {
            let (low, high) = stats.asymmetric(self.options.range);
            let scale = (high - low) / 255.0;
            (scale, (-128.0 - low / scale.max(1e-30)).round().clamp(-128.0, 127.0))
        } else {
            (self.whole_period(id, stats.symmetric(self.options.range) / 127.0), 0.0)
        };
        self.sane(id, units)
    }

    /// Remembers `id` as unknown where no sample has shown it.
    fn require_samples(&mut self, id: TensorId) {
        if self.calibration.stats(id).count == 0 {
            self.missing.push(self.name(id));
        }
    }

    /// Units that came with the model (QDQ).
    fn fixed_units(&self, id: TensorId) -> Option<(f64, f64)> {
        self.calibration.fixed.get(&id).copied()
    }

    /// Scale of `id` in 16 bits.
    fn wide_scale(&mut self, id: TensorId) -> f64 {
        if self.graph.tensors[id].dtype != DataType::Float {
            return self.wide_integer_scale(id);
        }
        // A pair of 16 bits around 0 behind it: the stream has its scale at once.
        if let Some(&(scale, _)) = self.calibration.fixed_wide.get(&id).filter(|units| units.1 == 0.0) {
            return scale;
        }
        if self.calibration.stats(id).count == 0 {
            if let Some((scale, _)) = self.fixed_units(id) {
                return scale * 256.0 / WIDE_TOP;
            }
            self.require_samples(id);
        }
        if self.is_score(id) {
            return 1.0 / 32767.0;
        }
        let scale = self.useful_max(id, WIDE_TOP) / WIDE_TOP;
        // The argument of a score reaches as far as its segments.
        let reach = self.segments.iter().filter(|(last, _)| self.chains[last].base == id);
        let reach = reach.filter_map(|(_, borders)| borders.last()).fold(0.0f64, |m, &b| m.max(b));
        let scale = scale.max(reach / 32767.0);
        let scale = if self.calibration.stats(id).is_whole() { whole_scale(scale) } else { scale };
        self.sane(id, (scale, 0.0)).0
    }

    /// Minimum and maximum of what the samples showed of `id`, within its limits.
    fn useful_range(&self, id: TensorId) -> (f64, f64) {
        let stats = self.calibration.stats(id);
        let (min, max) = if stats.count == 0 { (0.0, 0.0) } else { (f64::from(stats.min), f64::from(stats.max)) };
        let low = self.limits[id].low;
        let min = if stats.hides && low.is_finite() { low } else { self.limits[id].clamp(min) };
        (min, self.limits[id].clamp(max))
    }

    /// The magnitude that `top` steps have to cover, so that masked values reach their limit, at which the range ends.
    fn useful_max(&self, id: TensorId, top: f64) -> f64 {
        let (min, max) = self.useful_range(id);
        let limit = self.limits[id].low;
        if !limit.is_finite() || !self.may_be_masked(id) {
            return min.abs().max(max.abs());
        }
        let seen = if min > limit { min.abs() } else { 0.0 };
        seen.max(max.abs()).max(limit.abs() * top / 32767.0)
    }

    /// Whether a mask may have a part in `id`, be it in no calibration sample.
    fn may_be_masked(&self, id: TensorId) -> bool {
        let stats = self.calibration.stats(id);
        let seen = stats.count > 0 && f64::from(stats.min) <= self.limits[id].low;
        let elementwise = |index: usize| {
            matches!(self.graph.nodes[index].op, Op::Unary(_) | Op::Binary(_) | Op::Where | Op::Pad { .. })
        };
        seen || self.producers[id].is_none_or(elementwise)
    }

    /// A scale that is neither zero nor absurd, with a remark where the calibration gave none.
    fn sane(&mut self, id: TensorId, (scale, zero): (f64, f64)) -> (f64, f64) {
        if scale.is_finite() && scale > 1e-20 {
            return (scale, zero);
        }
        let name = self.name(id);
        self.notes.push(format!("`{name}` is zero in all calibration samples; its scale is a guess"));
        (1.0 / 128.0, 0.0)
    }

    /// The form of `id` a consumer asks for, made from another one where it is missing.
    fn get(&mut self, id: TensorId, form: Form) -> Result<View, LowerError> {
        let unmade = self.forms[id].narrow.is_none() && self.forms[id].wide.is_none();
        if unmade && self.is_constant(id) {
            self.constant_forms(id, form)?;
        } else if unmade && self.forms[id].ids.is_some() {
            self.numbers_of_ids(id)?;
        }
        let forms = &self.forms[id];
        let symmetric = |view: &&View| view.zero == 0.0;
        let found = match form {
            Form::Narrow => forms.narrow.clone(),
            Form::Symmetric => forms.narrow.as_ref().filter(symmetric).cloned(),
            Form::Wide => forms.wide.clone(),
            Form::Any => forms.wide.clone().or(forms.narrow.clone()),
            Form::Centred => forms.wide.clone().or(forms.narrow.clone()).filter(|view| view.zero == 0.0),
        };
        if let Some(view) = found {
            return Ok(view);
        }
        if self.is_constant(id) {
            self.constant_forms(id, form)?;
            return self.get(id, form);
        }
        let source = match form {
            Form::Wide | Form::Centred => forms.narrow.clone(),
            _ => forms.wide.clone().or(forms.narrow.clone()),
        };
        let Some(source) = source else {
            return Err(LowerError::Unsupported(vec![format!(
                "`{}`: no integer operator takes this element type",
                self.name(id)
            )]));
        };
        let source = self.contiguous(&source, &self.name(id))?;
        let (dtype, (scale, zero)) = match form {
            Form::Wide => (Dtype::I16, (self.wide_scale(id), 0.0)),
            // Every distance from the zero point, at most 255 steps, keeps its value.
            Form::Centred => (Dtype::I16, (source.scale / 128.0, 0.0)),
            Form::Symmetric => (Dtype::I8, self.narrow_units(id, false)),
            Form::Narrow | Form::Any => (Dtype::I8, self.narrow_units(id, self.asymmetric(id))),
        };
        let zero = if form == Form::Symmetric { 0.0 } else { zero };
        let tensor = self.output(id, dtype, scale, zero);
        self.requant(&source, tensor);
        let view = View::whole(tensor, self.graph.shape(id), scale, zero);
        Ok(view)
    }

    /// Emits the conversion of `source`, which is contiguous, into `to`.
    fn requant(&mut self, source: &View, to: TensorIndex) {
        let target = &self.program.tensors[to];
        if self.is_ivit() && source.zero == 0.0 && target.zero == 0.0 {
            let (name, ratio) = (target.name.clone(), source.scale / target.scale);
            return self.quant_act(&name, source.tensor, &[ratio], None, to);
        }
        let (acc_shift, multiplier) = multiplier(source.scale / target.scale);
        let op = ops::requant::Requant {
            len: source.len() as u32,
            zero_in: source.zero.round() as i32,
            acc_shift,
            multiplier,
            zero_out: target.zero.round() as i32,
        };
        let name = format!("{}/requant", target.name);
        self.push(&name, ops::Op::Requant(op), &[Some(source.tensor)], to);
    }

    /// Quantizes a constant for use as an operand.
    ///
    /// # Errors
    /// [`LowerError::Unsupported`] where an infinite value matters.
    fn constant_forms(&mut self, id: TensorId, form: Form) -> Result<(), LowerError> {
        let tensor = &self.graph.tensors[id];
        let Some(data) = &tensor.value else { return Ok(()) };
        let limits = self.limits[id];
        if let Some(value) = data.to_f32().iter().map(|&v| limits.clamp(f64::from(v))).find(|v| !v.is_finite()) {
            return Err(LowerError::Unsupported(vec![format!(
                "`{}` (constant): it holds {value}, which has an integer form only where a softmax or a maximum hides it; \
                 write a finite number",
                tensor.name
            )]));
        }
        let narrow = matches!(form, Form::Narrow | Form::Symmetric);
        let quantize = || {
            let values: Vec<f64> = data.to_f32().iter().map(|&v| limits.clamp(f64::from(v))).collect();
            let top = if narrow { 127.0 } else { 32767.0 };
            let abs_max = values.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            let scale = (abs_max / top).max(1e-30);
            let scale = if tensor.dtype != DataType::Float && scale <= 1.0 { 1.0 } else { scale };
            let quantized = values.iter().map(|&v| (v / scale).round().clamp(-top, top) as i16);
            let bytes = if narrow {
                quantized.map(|v| v as u8).collect()
            } else {
                quantized.flat_map(i16::to_le_bytes).collect()
            };
            Quantized { bytes, scale }
        };
        let form = (narrow, [limits.low, limits.high].map(f64::to_bits));
        let constant = self.calibration.prepared.constant(data, form, quantize);
        let (dtype, scale) = (if narrow { Dtype::I8 } else { Dtype::I16 }, constant.scale);
        let blob = self.program.weights.add(&constant.bytes);
        let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
        let index = self.new_tensor(&name, dtype, &shape, scale, 0.0, Some(id));
        self.program.tensors[index].constant = Some(blob);
        self.set(id, View::whole(index, &shape, scale, 0.0));
        Ok(())
    }

    /// `view` as a whole tensor, copied where it is not one.
    fn contiguous(&mut self, view: &View, name: &str) -> Result<View, LowerError> {
        let whole = self.program.tensors[view.tensor].len() == view.len();
        if whole && view.is_contiguous() {
            return Ok(view.clone());
        }
        let dtype = self.program.tensors[view.tensor].dtype;
        let to = self.new_tensor(&format!("{name}/copy"), dtype, &view.shape, view.scale, view.zero, None);
        let target = View::whole(to, &view.shape, view.scale, view.zero);
        self.copy(name, view, &target, 0, false)?;
        Ok(target)
    }

    /// Emits a copy between views of the same shape.
    fn copy(&mut self, name: &str, from: &View, to: &View, flip: u32, partial: bool) -> Result<(), LowerError> {
        let collapsed = collapse(&from.shape, &[from, to]).ok_or_else(|| LowerError::Rank(name.to_owned()))?;
        let (dims, extents) = collapsed;
        let op = Copy { dims, from: extents[0], to: extents[1], flip, partial };
        self.push(&format!("{name}/copy"), ops::Op::Copy(op), &[Some(from.tensor)], to.tensor);
        Ok(())
    }

    fn add_inputs(&mut self) {
        for (position, &id) in self.graph.inputs.iter().enumerate() {
            let tensor = &self.graph.tensors[id];
            let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
            let image = tensor.dtype == DataType::Float && self.options.normalization.is_some() && shape.len() >= 3;
            let index = if let Some(&scale) = self.graph.raw_inputs.get(&id) {
                self.output(id, Dtype::I32, scale, 0.0)
            } else if self.wants[id].ids {
                self.output(id, Dtype::I32, 1.0, 0.0)
            } else if let (true, Some((mean, std))) = (image, self.options.normalization) {
                // Raw pixels as the device gets them; XOR 0x80 makes them i8, and the mean goes into biases.
                let scale = 1.0 / (255.0 * std);
                let raw = self.new_tensor(&name, Dtype::U8, &shape, scale, 255.0 * mean, None);
                let zero = 255.0 * mean - 128.0;
                let to = self.output(id, Dtype::I8, scale, zero);
                let (from, to) = (View::whole(raw, &shape, scale, zero), View::whole(to, &shape, scale, zero));
                // A whole tensor always collapses to one dimension.
                let _ = self.copy(&name, &from, &to, 0x80, false);
                raw
            } else if tensor.dtype == DataType::Float && self.wants[id].wide && !self.wants[id].narrow {
                // The input is a residual stream: nobody reads it in 8 bits.
                let scale = self.wide_scale(id);
                self.output(id, Dtype::I16, scale, 0.0)
            } else if tensor.dtype == DataType::Float {
                // The published form is symmetric throughout.
                let (scale, zero) = self.narrow_units(id, !self.is_ivit());
                self.output(id, Dtype::I8, scale, zero)
            } else {
                let range = self.graph.input_ranges.get(position).copied().flatten();
                let (dtype, scale, zero) = self.integer_input(id, range);
                self.output(id, dtype, scale, zero)
            };
            let normalization = if image { self.options.normalization } else { None };
            let masks = tensor.dtype == DataType::Float && self.limits[id].low.is_finite();
            self.program.inputs.push(Endpoint { name, tensor: index, shape, normalization, masks });
        }
    }

    fn add_outputs(&mut self) -> Result<(), LowerError> {
        for &id in &self.graph.outputs {
            let view = self.get(id, Form::Any)?;
            let name = self.name(id);
            let mut view = self.contiguous(&view, &name)?;
            let tensor = &self.program.tensors[view.tensor];
            let is_input = self.program.inputs.iter().any(|input| input.tensor == view.tensor);
            let is_output = self.program.outputs.iter().any(|output| output.tensor == view.tensor);
            if tensor.constant.is_some() || is_input || is_output {
                let copy = self.new_tensor(&name, tensor.dtype, &view.shape, view.scale, view.zero, Some(id));
                let to = View { tensor: copy, ..View::whole(copy, &view.shape, view.scale, view.zero) };
                self.copy(&name, &view, &to, 0, false)?;
                view = to;
            }
            // A scalar factor may have changed the units of the view.
            self.program.tensors[view.tensor].scale = view.scale;
            self.program.tensors[view.tensor].zero = view.zero;
            let shape = self.graph.shape(id).to_vec();
            self.program.outputs.push(Endpoint { name, tensor: view.tensor, shape, normalization: None, masks: false });
        }
        Ok(())
    }

    /// From consumers to producers: which representations are asked for.
    fn spread_wants(&mut self) {
        for &id in &self.graph.outputs {
            self.wants[id].wide = true;
        }
        let ivit = self.is_ivit();
        for index in (0..self.graph.nodes.len()).rev() {
            let node = &self.graph.nodes[index];
            let (out, chained) = (self.wants[node.output], self.in_chain(index));
            let stepwise = self.is_step_like(index, node);
            let segmented = self.segments.iter().any(|(last, _)| self.chains[last].nodes.contains(&index));
            let mut ask = |id: TensorId, want: Want| {
                let have = &mut self.wants[id];
                have.narrow |= want.narrow;
                have.wide |= want.wide;
                have.zero_point |= want.zero_point;
                have.symmetric |= want.symmetric;
                have.ids |= want.ids;
            };
            let narrow = Want { narrow: true, zero_point: true, ..Want::default() };
            let symmetric = Want { narrow: true, symmetric: true, ..Want::default() };
            let wide = Want { wide: true, ..Want::default() };
            // What is chosen to be read in 16 bits is asked for in them.
            let chosen = |id: TensorId, other: Want| if self.options.wide.contains(&id) { wide } else { other };
            match &node.op {
                Op::Linear | Op::Conv2d(_) => ask(node.inputs[0], chosen(node.inputs[0], narrow)),
                Op::MaxPool(_) => ask(node.inputs[0], chosen(node.inputs[0], symmetric)),
                Op::AveragePool { .. } => ask(node.inputs[0], symmetric),
                Op::MatMul { .. } => {
                    ask(node.inputs[0], chosen(node.inputs[0], symmetric));
                    ask(node.inputs[1], symmetric);
                }
                Op::Attention(_) => {
                    node.inputs.iter().take(3).for_each(|&id| ask(id, symmetric));
                    node.inputs.iter().skip(3).for_each(|&id| ask(id, wide));
                }
                Op::Rope(_) => ask(node.inputs[0], wide),
                Op::Lookup(_) => ask(node.inputs[0], narrow),
                Op::Positions => {}
                Op::Softmax if ivit => ask(node.inputs[0], symmetric),
                Op::LayerNorm { .. } | Op::RmsNorm { .. } | Op::Softmax => ask(node.inputs[0], wide),
                Op::Unary(_) | Op::Binary(_) | Op::Where if segmented => {
                    node.inputs.iter().for_each(|&id| ask(id, wide));
                }
                Op::Unary(_) | Op::Binary(_) if stepwise => ask(node.inputs[0], wide),
                Op::Unary(_) => node.inputs.iter().for_each(|&id| ask(id, chosen(id, narrow))),
                Op::Where if !chained => {
                    ask(node.inputs[0], narrow);
                    node.inputs[1..].iter().for_each(|&id| ask(id, out));
                }
                Op::Where => node.inputs.iter().for_each(|&id| ask(id, chosen(id, narrow))),
                Op::Binary(Binary::Div) if !chained => {
                    ask(node.inputs[0], wide);
                    let stats = self.calibration.stats(node.inputs[1]);
                    ask(node.inputs[1], if stats.is_whole() { narrow } else { wide });
                }
                Op::Binary(kind) => {
                    let inner = match chained {
                        // Where a comparison changes is a matter of single steps.
                        true if kind.compares() => wide,
                        true => narrow,
                        // Flags are narrow, numbers are compared by their difference.
                        false if self.graph.tensors[node.inputs[0]].dtype == DataType::Bool => narrow,
                        false => wide,
                    };
                    node.inputs.iter().for_each(|&id| ask(id, if chained { chosen(id, inner) } else { inner }));
                }
                Op::Gather { .. } => {
                    ask(node.inputs[0], out);
                    let indices = node.inputs[1];
                    if self.graph.tensors[indices].value.is_none() {
                        // Of a part of ids, the ids.
                        let ids = self.parts_of_ids.get(&indices).map_or(indices, |part| part.base);
                        ask(ids, Want { ids: true, ..Want::default() });
                    }
                }
                Op::Reduce { kind: Reduce::Max, .. } => ask(node.inputs[0], chosen(node.inputs[0], narrow)),
                Op::Reduce { kind: Reduce::Min, .. } => ask(node.inputs[0], narrow),
                Op::Reduce { .. } => ask(node.inputs[0], wide),
                Op::Transpose { .. }
                | Op::Reshape
                | Op::Slice { .. }
                | Op::Concat { .. }
                | Op::Expand
                | Op::Pad { .. } => {
                    node.inputs.iter().for_each(|&id| ask(id, out));
                }
                Op::FakeQuant(_) if self.calibration.fixed_wide.contains_key(&node.output) => {
                    ask(node.inputs[0], wide);
                }
                Op::FakeQuant(_) => ask(node.inputs[0], narrow),
            }
        }
    }

    /// Whether node `index` is computed as part of a function of one tensor.
    fn in_chain(&self, index: usize) -> bool {
        self.chains.contains_key(&index) || self.absorbed[index]
    }

    /// Lowers node `index` unless another node does it.
    fn node(&mut self, index: usize) -> Result<(), LowerError> {
        if let Some(chain) = self.chains.get(&index).cloned() {
            return self.chain(&chain);
        }
        if let Some(&product) = self.entries.get(&index) {
            return self.entry(product, index);
        }
        if let Some(&(linear, residual)) = self.residuals.get(&index) {
            return self.linear_with_residual(linear, residual, index);
        }
        if self.absorbed[index] {
            return Ok(());
        }
        let node = &self.graph.nodes[index];
        match &node.op {
            Op::Linear => self.linear(index),
            Op::Conv2d(window) => self.conv2d(node, window),
            Op::MaxPool(window) => self.pool(node, window, None),
            Op::AveragePool { window, count_include_pad } => self.pool(node, window, Some(*count_include_pad)),
            Op::MatMul { transpose_b } => self.matmul(node, *transpose_b),
            Op::Attention(attention) => match attention.causal {
                Some(causal) => self.causal_attention(node, attention, causal),
                None => self.attention(node, attention),
            },
            Op::Rope(rope) => self.rope(node, *rope),
            Op::Lookup(lookup) => self.lookup(node, *lookup),
            Op::Positions => self.positions(node),
            Op::Softmax => self.softmax(node),
            Op::LayerNorm { eps } => self.layer_norm(node, f64::from(*eps), false),
            Op::RmsNorm { eps } => self.layer_norm(node, f64::from(*eps), true),
            Op::Binary(kind) => self.binary(node, *kind),
            Op::Reduce { kind, axes, .. } => self.reduce(node, *kind, axes),
            Op::Gather { axis } => self.gather(node, *axis),
            Op::Transpose { .. } | Op::Reshape | Op::Slice { .. } | Op::Expand => self.movement(node),
            Op::Concat { axis } => self.concat(node, *axis),
            Op::Pad { before, value, .. } => self.pad(node, before, f64::from(*value)),
            Op::FakeQuant(_) => self.fake_quant(node),
            Op::Unary(_) => {
                Err(self.unsupported(node, "an elementwise function needs one input computed by the model"))
            }
            Op::Where => self.select(node),
        }
    }

    /// The rounding a quantized model asks for at this place, in its own units.
    fn fake_quant(&mut self, node: &Node) -> Result<(), LowerError> {
        let Some((scale, zero)) = self.fixed_units(node.output) else {
            if let Some(&(scale, zero)) = self.calibration.fixed_wide.get(&node.output) {
                return self.wide_fake_quant(node, scale, zero);
            }
            self.forms[node.output] = self.forms[node.inputs[0]].clone();
            return Ok(());
        };
        let narrow = self.forms[node.inputs[0]].narrow.clone();
        if let Some(view) = narrow.filter(|view| view.scale == scale && view.zero == zero) {
            self.set(node.output, view);
            return Ok(());
        }
        let view = self.get(node.inputs[0], Form::Any)?;
        let view = self.contiguous(&view, &node.name)?;
        let to = self.output(node.output, Dtype::I8, scale, zero);
        self.requant(&view, to);
        Ok(())
    }

    /// The same in 16 bits. Readers inside of the model expect a zero point of 0, an output shows the one it came with.
    fn wide_fake_quant(&mut self, node: &Node, scale: f64, zero: f64) -> Result<(), LowerError> {
        let view = self.get(node.inputs[0], Form::Any)?;
        let is_wide = self.program.tensors[view.tensor].dtype == Dtype::I16;
        if is_wide && view.scale == scale && view.zero == zero {
            self.set(node.output, view);
            return Ok(());
        }
        let view = self.contiguous(&view, &node.name)?;
        let shown = self.consumers[node.output].iter().all(|&reader| reader == usize::MAX);
        if zero == 0.0 || shown {
            let to = self.output(node.output, Dtype::I16, scale, zero);
            self.requant(&view, to);
            return Ok(());
        }
        let pair = self.new_tensor(&format!("{}/pair", node.name), Dtype::I16, &view.shape, scale, zero, None);
        self.requant(&view, pair);
        let pair = View::whole(pair, &view.shape, scale, zero);
        let centred = scale * (32767.0 - zero).max(32768.0 + zero) / 32767.0;
        let to = self.output(node.output, Dtype::I16, centred, 0.0);
        self.requant(&pair, to);
        Ok(())
    }
}
