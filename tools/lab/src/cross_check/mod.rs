//! The importer's float graph beside what another reader makes of the same ONNX file: a fault of an importer is silent
//! otherwise, since every later figure is measured against its graph.
//!
//! The comparison is node by node, and each node is computed from the other reader's operands: a difference shows at the
//! node that makes it and nowhere else, and float noise does not grow along the depth.

#[cfg(test)]
mod tests;
#[cfg(feature = "tract")]
pub mod tract;

use serde::Serialize;
use shiftformer_convert::graph::exec::{ExecError, eval_node, run};
use shiftformer_convert::graph::{Binary, Data, DataType, Graph, Node, Op, TensorId, Unary};
use std::collections::{HashMap, HashSet};
use std::fmt;

/// Largest difference that is float noise, relative to the largest magnitude of the tensor. One node in `f32`, whose sums
/// may have another order: `sqrt(k) 2^-24` for `k` up to 2^16 is `2^-16`, and approximated functions have errors of `2^-20`.
const NOISE: f64 = 1e-4;
/// The same where the other reader computes with half floats: eleven bits, and sums of them.
const HALF_NOISE: f64 = 2e-2;
/// Where a value is rounded to a grid, noise tips one that lies between two points over: one element, and one in so many.
const TIPPED: usize = 200;

/// A tensor as the other reader computes it.
#[derive(Clone, Debug)]
pub struct Reread {
    /// Name in the ONNX file.
    pub tensor: String,
    /// Name of the node that gives it, or its first output where it has none.
    pub node: String,
    /// Operator of the node.
    pub operator: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Values.
    pub data: Data,
    /// Computed with half floats.
    pub half: bool,
}

/// What the comparison found.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Comparison {
    /// Tensors that were compared.
    pub tensors: usize,
    /// The first difference, in the order of the nodes in the file.
    pub difference: Option<Difference>,
    /// The first output that fusing changes.
    pub fusion: Option<Output>,
    /// Why nothing was compared.
    pub skipped: Option<String>,
}

/// An output that the fused graph computes otherwise than the graph as imported.
#[derive(Clone, Debug, Serialize)]
pub struct Output {
    /// Its name.
    pub output: String,
    /// How the values differ.
    pub found: Found,
}

impl Comparison {
    /// Warnings for the user; none where all is equal or nothing could be compared.
    pub fn warnings(&self) -> Vec<String> {
        let nodes = self.difference.iter().map(|difference| {
            let Difference { node, operator, tensor, found, nodes } = difference;
            let more = if *nodes > 1 { format!(" ({} more nodes differ)", nodes - 1) } else { String::new() };
            format!(
                "tract computes node `{node}` ({operator}) differently: output `{tensor}`: {found}{more}. One of the two \
                 readers is wrong: compare with onnxruntime before you use the file, and report it"
            )
        });
        let fusion = self.fusion.iter().map(|Output { output, found }| {
            format!("fusing the float model changes output `{output}`: {found}; please report it with the model")
        });
        nodes.chain(fusion).collect()
    }
}

/// The first node that the two readers compute differently.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Name of the node.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// Its output.
    pub tensor: String,
    /// How the values differ.
    pub found: Found,
    /// Nodes that differ, this one included, each computed from equal operands.
    pub nodes: usize,
}

/// How two tensors differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// Other dimensions.
    Shape {
        /// By the importer.
        ours: Vec<usize>,
        /// By the other reader.
        theirs: Vec<usize>,
    },
    /// Other values.
    Values {
        /// Elements that differ by more than noise.
        elements: usize,
        /// All elements.
        of: usize,
        /// Index of the one that differs most.
        index: usize,
        /// By the importer.
        ours: f64,
        /// By the other reader.
        theirs: f64,
    },
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Shape { ours, theirs } => write!(f, "shape {ours:?} here, {theirs:?} there"),
            Found::Values { elements, of, index, ours, theirs } => {
                write!(f, "{elements} of {of} values differ, most at index {index}: {ours} here, {theirs} there")
            }
        }
    }
}

/// Computes `graph`, as imported, on `inputs` and compares it with `other`, which is in the order of the nodes in the file.
///
/// # Errors
/// [`ExecError`] when the graph cannot be computed.
pub fn compare(graph: &Graph, inputs: &[Data], other: Vec<Reread>) -> Result<Comparison, ExecError> {
    let places = by_name(graph);
    let position = |reread: &Reread| places.get(reread.tensor.as_str()).copied();
    let mut other: HashMap<TensorId, (usize, Reread)> = other
        .into_iter()
        .enumerate()
        .filter_map(|(order, reread)| Some((position(&reread)?, (order, reread))))
        .collect();
    let mut walk =
        Walk { graph, values: HashMap::new(), rounded: HashSet::new(), compared: 0, differences: Vec::new() };
    walk.values.extend(graph.inputs.iter().copied().zip(inputs.iter().cloned()));
    for (id, tensor) in graph.tensors.iter().enumerate() {
        if let Some(value) = tensor.value.as_deref()
            && let Some((order, reread)) = other.remove(&id)
        {
            walk.meet(id, value.clone(), order, reread);
        }
    }
    let consumers = graph.consumers();
    for (index, node) in graph.nodes.iter().enumerate() {
        let value = walk.eval(node)?;
        match other.remove(&node.output) {
            Some((order, reread)) => walk.meet(node.output, value, order, reread),
            None => {
                walk.values.insert(node.output, value);
            }
        }
        for &id in &node.inputs {
            if consumers[id].iter().all(|&reader| reader <= index) {
                walk.values.remove(&id);
            }
        }
    }
    Ok(walk.finish())
}

/// The tensors of an imported graph by the names that the file has for them. What a handler computes on the way is named
/// after its node, which may be called like its output: of several tensors with one name the last computed one is the
/// output. Where several constants alone have the name, none is taken.
fn by_name(graph: &Graph) -> HashMap<&str, TensorId> {
    let mut constants: HashMap<&str, Option<TensorId>> = HashMap::new();
    for (id, tensor) in graph.tensors.iter().enumerate().filter(|(_, tensor)| tensor.value.is_some()) {
        constants.entry(&tensor.name).and_modify(|id| *id = None).or_insert(Some(id));
    }
    let mut places: HashMap<&str, TensorId> =
        constants.into_iter().filter_map(|(name, id)| Some((name, id?))).collect();
    let computed = graph.inputs.iter().copied().chain(graph.nodes.iter().map(|node| node.output));
    places.extend(computed.map(|id| (graph.tensors[id].name.as_str(), id)));
    places
}

/// The outputs of the fused graph beside those of the graph as imported, on the same inputs: the first that differs. Values
/// that a model rounds by itself are no measure of a rewrite, so a graph with such operations is not compared.
///
/// # Errors
/// [`ExecError`] when a graph cannot be computed.
pub fn compare_fused(imported: &Graph, fused: &Graph, inputs: &[Data]) -> Result<Option<Output>, ExecError> {
    if imported.nodes.iter().any(|node| rounds(&node.op)) {
        return Ok(None);
    }
    let (ours, theirs) = (run(fused, inputs, &mut |_, _| {})?, run(imported, inputs, &mut |_, _| {})?);
    let outputs = fused.outputs.iter().zip(ours).zip(imported.outputs.iter().zip(theirs));
    Ok(outputs.into_iter().find_map(|((&id, ours), (&before, theirs))| {
        // Along the whole depth noise adds up.
        let found = differ(&ours, &theirs, HALF_NOISE, 0)?;
        debug_assert_eq!(fused.shape(id), imported.shape(before));
        Some(Output { output: fused.tensors[id].name.clone(), found })
    }))
}

/// Compares `imported`, the model at `path`, with tract on one sample, and `fused` with `imported`. Without a sample, for
/// models that bring their own scales, on numbers drawn from -1 to 1 and indices 0.
#[cfg(feature = "tract")]
pub fn with_tract(path: &std::path::Path, imported: &Graph, fused: &Graph, sample: Option<Vec<Data>>) -> Comparison {
    let inputs = sample.unwrap_or_else(|| drawn(imported));
    let compared = tract::read(path, imported, &inputs, BUDGET).map_err(|skipped| skipped.to_string());
    let compared = compared.and_then(|other| compare(imported, &inputs, other).map_err(|error| error.to_string()));
    let comparison = compared.unwrap_or_else(|why| Comparison { skipped: Some(why), ..Comparison::default() });
    // What cannot be computed here ends the conversion elsewhere.
    Comparison { fusion: compare_fused(imported, fused, &inputs).unwrap_or_default(), ..comparison }
}

/// How long tract may take, beside a conversion of minutes for a model of that size.
#[cfg(feature = "tract")]
const BUDGET: std::time::Duration = std::time::Duration::from_secs(10);

/// Values for every input, the same each time.
#[cfg(feature = "tract")]
fn drawn(graph: &Graph) -> Vec<Data> {
    let mut state = 1u64;
    let mut draw = || {
        // Knuth's multiplier; the upper bits are the good ones.
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let values = |&id: &TensorId| {
        let tensor = &graph.tensors[id];
        match tensor.dtype {
            DataType::Float => Data::Float((0..tensor.len()).map(|_| draw()).collect()),
            DataType::Int => Data::Int(vec![0; tensor.len()]),
            DataType::Bool => Data::Bool(vec![true; tensor.len()]),
        }
    };
    graph.inputs.iter().map(values).collect()
}

struct Walk<'g> {
    graph: &'g Graph,
    /// Of inputs, of what is computed, and of constants that the other reader has too.
    values: HashMap<TensorId, Data>,
    /// Tensors on the grid of a rounding that were not compared since.
    rounded: HashSet<TensorId>,
    compared: usize,
    differences: Vec<(usize, Difference)>,
}

impl Walk<'_> {
    fn eval(&mut self, node: &Node) -> Result<Data, ExecError> {
        let mut operands = Vec::with_capacity(node.inputs.len());
        for &id in &node.inputs {
            let data = self.values.get(&id).or_else(|| self.graph.constant(id));
            let why = "an operand has no value";
            let data = data.ok_or_else(|| ExecError::Operands { op: node.name.clone(), why })?;
            operands.push((self.graph.shape(id), data));
        }
        let output = &self.graph.tensors[node.output];
        let value = eval_node(&node.op, &operands, &output.shape, output.dtype)?;
        if rounds(&node.op) || node.inputs.iter().any(|id| self.rounded.contains(id)) {
            self.rounded.insert(node.output);
        }
        Ok(value)
    }

    /// Compares a tensor and goes on with the other reader's values.
    fn meet(&mut self, id: TensorId, ours: Data, order: usize, reread: Reread) {
        // The importer holds quantized tensors as the real numbers that their integers stand for.
        if ours.dtype() != reread.data.dtype() {
            self.values.insert(id, ours);
            return;
        }
        self.compared += 1;
        let shape = self.graph.shape(id);
        let found = if shape != reread.shape {
            Some(Found::Shape { ours: shape.to_vec(), theirs: reread.shape.clone() })
        } else {
            let tipped = if self.rounded.remove(&id) { 1 + ours.len() / TIPPED } else { 0 };
            differ(&ours, &reread.data, if reread.half { HALF_NOISE } else { NOISE }, tipped)
        };
        let fits = reread.data.len() == ours.len();
        self.values.insert(id, if fits { reread.data } else { ours });
        if let Some(found) = found {
            let Reread { tensor, node, operator, .. } = reread;
            self.differences.push((order, Difference { node, operator, tensor, found, nodes: 0 }));
        }
    }

    fn finish(self) -> Comparison {
        let nodes = self.differences.iter().map(|(_, difference)| &difference.node).collect::<HashSet<_>>().len();
        let first = self.differences.into_iter().min_by_key(|(order, _)| *order);
        let difference = first.map(|(_, first)| Difference { nodes, ..first });
        Comparison { tensors: self.compared, difference, ..Comparison::default() }
    }
}

/// Whether the result jumps where the operand hardly changes.
fn rounds(op: &Op) -> bool {
    match op {
        Op::FakeQuant(_) => true,
        Op::Unary(kind) => match kind {
            Unary::Floor | Unary::Ceil | Unary::Round | Unary::Trunc | Unary::Sign | Unary::Cast => true,
            Unary::Gelu { .. }
            | Unary::QuickGelu
            | Unary::Relu
            | Unary::LeakyRelu { .. }
            | Unary::Elu { .. }
            | Unary::Silu
            | Unary::Sigmoid
            | Unary::Tanh
            | Unary::HardSwish
            | Unary::HardSigmoid { .. }
            | Unary::Mish
            | Unary::Softplus
            | Unary::Erf
            | Unary::Exp
            | Unary::Log
            | Unary::Sqrt
            | Unary::Reciprocal
            | Unary::Neg
            | Unary::Abs
            | Unary::Sin
            | Unary::Atan
            | Unary::Cos
            | Unary::Clip { .. }
            | Unary::IsNaN
            | Unary::Not => false,
        },
        Op::Binary(kind) => kind.compares() || *kind == Binary::Mod,
        Op::Linear
        | Op::MatMul { .. }
        | Op::Conv2d(_)
        | Op::MaxPool(_)
        | Op::AveragePool { .. }
        | Op::Rope(_)
        | Op::Lookup(_)
        | Op::Positions
        | Op::Softmax
        | Op::LayerNorm { .. }
        | Op::RmsNorm { .. }
        | Op::Where
        | Op::Transpose { .. }
        | Op::Reshape
        | Op::Slice { .. }
        | Op::Concat { .. }
        | Op::Expand
        | Op::Gather { .. }
        | Op::Pad { .. }
        | Op::Reduce { .. }
        | Op::Attention(_) => false,
    }
}

/// How `ours` and `theirs` differ by more than `noise`, in more than `tipped` elements.
fn differ(ours: &Data, theirs: &Data, noise: f64, tipped: usize) -> Option<Found> {
    let (a, b) = (numbers(ours), numbers(theirs));
    let finite = b.iter().filter(|v| v.is_finite());
    let allowed = match theirs.dtype() {
        DataType::Float => noise * finite.fold(0.0f64, |max, v| max.max(v.abs())) + f64::from(f32::MIN_POSITIVE),
        DataType::Int | DataType::Bool => 0.0,
    };
    let (mut elements, mut worst) = (0, (0.0, 0));
    for (index, (&a, &b)) in a.iter().zip(&b).enumerate() {
        let equal = a == b || a.is_nan() && b.is_nan();
        let error = if equal { 0.0 } else { (a - b).abs() };
        // Not a number where one side is infinite or not a number itself.
        if error > allowed || error.is_nan() {
            elements += 1;
            let error = if error.is_nan() { f64::INFINITY } else { error };
            if error > worst.0 {
                worst = (error, index);
            }
        }
    }
    let (of, index) = (a.len(), worst.1);
    (elements > tipped).then(|| Found::Values { elements, of, index, ours: a[index], theirs: b[index] })
}

fn numbers(data: &Data) -> Vec<f64> {
    match data {
        Data::Float(v) => v.iter().map(|&x| f64::from(x)).collect(),
        Data::Int(v) => v.iter().map(|&x| x as f64).collect(),
        Data::Bool(v) => v.iter().map(|&x| f64::from(u8::from(x))).collect(),
    }
}
