//! The graph under construction: emits nodes, folds constants, keeps what the float graph does not record.

use super::error::ImportError;
use super::node::{OpResult, invalid, unsupported};
use super::tensor::Elem;
use crate::graph::exec;
use crate::graph::{Binary, Data, DataType, FakeQuant, Graph, Node, Op, Reduce, Tensor, TensorId, Unary};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Stands for the range of integers whose scale follows from the data at run time.
pub const DYNAMIC: (i32, i32) = (i32::MIN, i32::MAX);

/// Most elements of one tensor: 512 MiB of floats.
const MAX_ELEMENTS: usize = 1 << 27;
/// Most elements of all folded constants together.
const MAX_FOLDED: usize = 1 << 27;
/// Most multiplications and moves spent on folding.
const MAX_WORK: u64 = 1 << 32;
/// Most elements of all computed tensors together: ViT-Large on 384 x 384 pixels has 4e8.
const MAX_COMPUTED: usize = 1 << 29;
/// Most multiplications and moves of one inference: ViT-Large on 384 x 384 pixels takes 2e11.
const MAX_INFERENCE: u64 = 1 << 38;
/// Most dimensions of a tensor on the way; the integer program takes six after merging.
const MAX_RANK: usize = 16;
/// Most graph nodes: nested functions grow exponentially.
const MAX_NODES: usize = 1 << 18;

/// The graph under construction.
#[derive(Default)]
pub struct Builder {
    /// What is emitted so far.
    pub graph: Graph,
    /// Element types that [`DataType`] does not tell.
    elems: HashMap<TensorId, Elem>,
    /// Float tensors that the model holds as integers.
    quantized: HashMap<TensorId, FakeQuant>,
    /// Constants behind a fixed quantization, by the tensor behind it.
    fixed: HashMap<TensorId, (TensorId, FakeQuant)>,
    /// Transposed constants, by operand and permutation.
    turned: HashMap<(TensorId, Vec<usize>), TensorId>,
    /// Elements of folded constants, and steps spent on them.
    folded: usize,
    work: u64,
    /// Elements of computed tensors, and steps of one inference.
    computed: usize,
    inference: u64,
    label: String,
    serial: usize,
    names: HashSet<String>,
    folder: Option<PathBuf>,
}

impl Builder {
    /// An empty graph of a model in `folder`.
    pub fn new(folder: Option<&Path>) -> Self {
        Self { folder: folder.map(Path::to_owned), ..Self::default() }
    }

    /// Where external data lies.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Names the nodes emitted from here on after a node of the model and its operator.
    pub fn begin(&mut self, label: &str, operator: &str) {
        self.label = label.to_owned();
        self.serial = 0;
        Arc::make_mut(&mut self.graph.origins).insert(label.to_owned(), operator.to_owned());
    }

    /// The label, then the label with a number, each name once.
    fn next_name(&mut self) -> String {
        loop {
            let name = if self.serial == 0 { self.label.clone() } else { format!("{}/{}", self.label, self.serial) };
            self.serial += 1;
            if self.names.insert(name.clone()) {
                return name;
            }
        }
    }

    /// Shape of a tensor.
    pub fn shape(&self, id: TensorId) -> Vec<usize> {
        self.graph.shape(id).to_vec()
    }

    /// The sizes of a tensor that must have `N` dimensions.
    pub fn dims<const N: usize>(&self, id: TensorId) -> OpResult<[usize; N]> {
        let shape = self.graph.shape(id);
        match shape.try_into() {
            Ok(dims) => Ok(dims),
            Err(_) => invalid(format!("an operand has the shape {shape:?}; {N} dimensions are expected")),
        }
    }

    /// Number of dimensions.
    pub fn rank(&self, id: TensorId) -> usize {
        self.graph.shape(id).len()
    }

    /// Type of a tensor.
    pub fn dtype(&self, id: TensorId) -> DataType {
        self.graph.tensors[id].dtype
    }

    /// Element type in the model, as far as it is known.
    pub fn elem(&self, id: TensorId) -> Elem {
        self.elems.get(&id).copied().unwrap_or(match self.dtype(id) {
            DataType::Float => Elem::Float,
            DataType::Int => Elem::Int64,
            DataType::Bool => Elem::Bool,
        })
    }

    /// Records the element type in the model.
    pub fn set_elem(&mut self, id: TensorId, elem: Elem) {
        self.elems.insert(id, elem);
    }

    /// The quantization that makes the integers of a tensor that the model holds as integers.
    pub fn quantization(&self, id: TensorId) -> Option<&FakeQuant> {
        self.quantized.get(&id)
    }

    /// The values of `x`, which the model holds as integers of `quantization` from here on.
    pub fn hold_as_integers(&mut self, x: TensorId, quantization: FakeQuant) -> OpResult<TensorId> {
        let shape = self.shape(x);
        let rounded = self.emit(Op::FakeQuant(quantization.clone()), &[x], shape)?;
        self.quantized.insert(rounded, quantization);
        Ok(rounded)
    }

    /// Marks `x` as the values of integers of `quantization`.
    pub fn mark_integers(&mut self, x: TensorId, quantization: FakeQuant) {
        self.quantized.insert(x, quantization);
    }

    /// The values of `x`, which the model held as integers, as floats again.
    pub fn hold_as_floats(&mut self, x: TensorId) -> OpResult<TensorId> {
        let tensor = self.graph.tensors[x].clone();
        let Some(quantization) = self.quantized.get(&x).cloned() else { return Ok(x) };
        if quantization.range == DYNAMIC {
            let name = self.next_name();
            return Ok(self.graph.add_node(&name, Op::Reshape, vec![x], tensor.shape, DataType::Float));
        }
        if let Some(value) = &tensor.value {
            self.graph.tensors.push(Tensor { value: Some(Arc::clone(value)), ..tensor });
            return self.fake_quant(self.graph.tensors.len() - 1, quantization);
        }
        let name = self.next_name();
        Ok(self.graph.add_node(&name, Op::Reshape, vec![x], tensor.shape, DataType::Float))
    }

    /// Whether the tensor has a value.
    pub fn is_constant(&self, id: TensorId) -> bool {
        self.graph.tensors[id].value.is_some()
    }

    /// Adds a constant named after the current node.
    pub fn constant(&mut self, shape: &[usize], value: Data) -> OpResult<TensorId> {
        let count = self.checked_count(shape)?;
        debug_assert_eq!(count, value.len());
        let name = self.label.clone();
        Ok(self.graph.add_constant(name, shape.to_vec(), value))
    }

    /// A float constant without dimensions.
    pub fn scalar(&mut self, value: f32) -> TensorId {
        self.graph.add_constant(self.label.clone(), vec![], Data::Float(vec![value]))
    }

    /// Integers of a constant; `what` names it in the error.
    pub fn ints(&self, id: TensorId, what: &str) -> OpResult<Vec<i64>> {
        match self.graph.constant(id) {
            Some(Data::Int(values)) => Ok(values.clone()),
            Some(_) => invalid(format!("{what} must be integers")),
            None => unsupported(format!("{what} must not depend on the input: export with fixed sizes")),
        }
    }

    /// The only element of a constant, as a float.
    pub fn float_value(&self, id: TensorId, what: &str) -> OpResult<f32> {
        match self.graph.constant(id) {
            Some(data) if data.len() == 1 => Ok(data.to_f32()[0]),
            Some(_) => invalid(format!("{what} must be a single value")),
            None => unsupported(format!("{what} must be a constant")),
        }
    }

    /// Floats of a constant.
    pub fn floats(&self, id: TensorId, what: &str) -> OpResult<Vec<f32>> {
        match self.graph.constant(id) {
            Some(Data::Float(values)) => Ok(values.clone()),
            Some(_) => invalid(format!("{what} must be floats")),
            None => unsupported(format!("{what} must be constant")),
        }
    }

    /// Number of elements of `shape`, within the limits.
    pub fn checked_count(&self, shape: &[usize]) -> OpResult<usize> {
        if shape.len() > MAX_RANK {
            return unsupported(format!(
                "a tensor of {} dimensions is too large; the limit is {MAX_RANK}",
                shape.len()
            ));
        }
        let count = shape.iter().try_fold(1usize, |product, &d| product.checked_mul(d)).filter(|&c| c <= MAX_ELEMENTS);
        match count {
            Some(count) => Ok(count),
            None => {
                unsupported(format!("a tensor of shape {shape:?} is too large; the limit is {MAX_ELEMENTS} elements"))
            }
        }
    }

    /// Counts `elements` computed here against the limit of folded constants.
    pub fn charge(&mut self, elements: usize) -> OpResult<()> {
        self.folded = self.folded.saturating_add(elements);
        if self.folded > MAX_FOLDED || self.work > MAX_WORK {
            return invalid(format!(
                "constants computed from constants are out of reach: {} elements and {} steps up to here, the limits are \
                 {MAX_FOLDED} and {MAX_WORK}; simplify the model (onnxsim) before the conversion",
                self.folded, self.work
            ));
        }
        Ok(())
    }

    fn charge_inference(&mut self, op: &Op, inputs: &[TensorId], shape: &[usize]) -> OpResult<()> {
        let count = shape.iter().product();
        self.computed = self.computed.saturating_add(count);
        self.inference = self.inference.saturating_add(work(op, inputs, &self.graph, count));
        if self.computed > MAX_COMPUTED || self.inference > MAX_INFERENCE {
            return invalid(format!(
                "the model is too large: up to here one inference takes {} values and {} steps; the limits are \
                 {MAX_COMPUTED} and {MAX_INFERENCE}",
                self.computed, self.inference
            ));
        }
        Ok(())
    }

    /// Emits a node, or its value where all operands are constants. The type follows from the operation.
    pub fn emit(&mut self, op: Op, inputs: &[TensorId], shape: Vec<usize>) -> OpResult<TensorId> {
        let dtype = match &op {
            Op::Binary(
                Binary::Equal
                | Binary::Less
                | Binary::LessOrEqual
                | Binary::Greater
                | Binary::GreaterOrEqual
                | Binary::And
                | Binary::Or
                | Binary::Xor,
            )
            | Op::Unary(Unary::IsNaN | Unary::Not) => DataType::Bool,
            Op::Where => self.dtype(inputs[1]),
            _ => self.dtype(inputs[0]),
        };
        self.emit_as(op, inputs, shape, dtype)
    }

    fn emit_as(&mut self, op: Op, inputs: &[TensorId], shape: Vec<usize>, dtype: DataType) -> OpResult<TensorId> {
        self.checked_count(&shape)?;
        if self.graph.nodes.len() >= MAX_NODES {
            return invalid(format!("the model has more than {MAX_NODES} nodes with its functions expanded"));
        }
        let quantization = self.result_quantization(&op, inputs)?;
        let output = match self.fold(&op, inputs, &shape, dtype)? {
            Some(value) => self.constant(&shape, value)?,
            None => {
                self.charge_inference(&op, inputs, &shape)?;
                let name = self.next_name();
                self.graph.add_node(&name, op.clone(), inputs.to_vec(), shape, dtype)
            }
        };
        if moves(&op)
            && let Some(&elem) = self.elems.get(&inputs[0])
        {
            self.elems.insert(output, elem);
        }
        if let Some(quantization) = quantization {
            self.quantized.insert(output, quantization);
        }
        Ok(output)
    }

    /// Integers pass through movement; no other operation has a meaning on them.
    fn result_quantization(&self, op: &Op, inputs: &[TensorId]) -> OpResult<Option<FakeQuant>> {
        if !inputs.iter().any(|id| self.quantized.contains_key(id)) {
            return Ok(None);
        }
        let data = if matches!(op, Op::Concat { .. }) { inputs } else { &inputs[..1] };
        let first = self.quantized.get(&data[0]);
        let same = data.iter().all(|id| self.quantized.get(id) == first);
        match first {
            Some(first) if same && first.scale.len() == 1 && (moves(op) || matches!(op, Op::MaxPool(_))) => {
                Ok(Some(first.clone()))
            }
            _ => unsupported(
                "arithmetic on quantized integers has no counterpart; export with DequantizeLinear before and QuantizeLinear behind each operator (QDQ format)",
            ),
        }
    }

    /// The value of a node whose operands are all constants.
    fn fold(&mut self, op: &Op, inputs: &[TensorId], shape: &[usize], dtype: DataType) -> OpResult<Option<Data>> {
        if !inputs.iter().all(|&id| self.is_constant(id)) {
            return Ok(None);
        }
        let count: usize = shape.iter().product();
        self.work = self.work.saturating_add(work(op, inputs, &self.graph, count));
        self.charge(count)?;
        let tensors = inputs.iter().map(|&id| &self.graph.tensors[id]);
        let operands: Vec<(&[usize], &Data)> =
            tensors.filter_map(|t| Some((&t.shape[..], t.value.as_deref()?))).collect();
        match exec::eval_node(op, &operands, shape, dtype) {
            Ok(value) if value.len() == count => Ok(Some(value)),
            Ok(value) => invalid(format!("its value has {} elements, its shape {shape:?} has {count}", value.len())),
            Err(error) => invalid(format!("its value cannot be computed: {error}")),
        }
    }

    /// Element by element, same shape.
    pub fn unary(&mut self, kind: Unary, x: TensorId) -> OpResult<TensorId> {
        let shape = self.shape(x);
        self.emit(Op::Unary(kind), &[x], shape)
    }

    /// With broadcasting.
    pub fn binary(&mut self, kind: Binary, a: TensorId, b: TensorId) -> OpResult<TensorId> {
        if self.dtype(a) != self.dtype(b) {
            return invalid(format!("operands of types {:?} and {:?}", self.dtype(a), self.dtype(b)));
        }
        let shape = broadcast(self.graph.shape(a), self.graph.shape(b))?;
        self.emit(Op::Binary(kind), &[a, b], shape)
    }

    /// `x * factor`; nothing where the factor is 1.
    pub fn scale(&mut self, x: TensorId, factor: f32) -> OpResult<TensorId> {
        if factor == 1.0 {
            return Ok(x);
        }
        let factor = self.scalar(factor);
        self.binary(Binary::Mul, x, factor)
    }

    /// To another type; nothing where it is the same. Integers of floats are truncated, booleans say what is not 0.
    pub fn cast(&mut self, x: TensorId, dtype: DataType) -> OpResult<TensorId> {
        let x = match (self.dtype(x), dtype) {
            (from, to) if from == to => return Ok(x),
            (DataType::Float, DataType::Int) => self.unary(Unary::Trunc, x)?,
            (from @ (DataType::Float | DataType::Int), DataType::Bool) => {
                let zero = if from == DataType::Int { Data::Int(vec![0]) } else { Data::Float(vec![0.0]) };
                let zero = self.constant(&[], zero)?;
                let equal = self.binary(Binary::Equal, x, zero)?;
                return self.unary(Unary::Not, equal);
            }
            _ => x,
        };
        let shape = self.shape(x);
        self.emit_as(Op::Unary(Unary::Cast), &[x], shape, dtype)
    }

    /// `condition ? a : b` with broadcasting.
    pub fn select(&mut self, condition: TensorId, a: TensorId, b: TensorId) -> OpResult<TensorId> {
        if self.dtype(condition) != DataType::Bool || self.dtype(a) != self.dtype(b) {
            return invalid("Where takes a boolean condition and two operands of one type");
        }
        let values = broadcast(self.graph.shape(a), self.graph.shape(b))?;
        let shape = broadcast(self.graph.shape(condition), &values)?;
        self.emit(Op::Where, &[condition, a, b], shape)
    }

    /// Output dimension `i` is input dimension `perm[i]`. A fixed quantization of a constant moves along.
    pub fn transpose(&mut self, x: TensorId, perm: &[usize]) -> OpResult<TensorId> {
        let shape = self.graph.shape(x);
        if perm.iter().enumerate().all(|(i, &p)| i == p) {
            return Ok(x);
        }
        let turned: Vec<usize> = perm.iter().map(|&p| shape[p]).collect();
        let op = Op::Transpose { perm: perm.to_vec() };
        // Layers that share a weight share what becomes of it.
        let key = (x, perm.to_vec());
        if let Some(&known) = self.turned.get(&key) {
            return Ok(known);
        }
        if let Some((source, mut quantization)) = self.fixed.get(&x).cloned() {
            let moved = self.emit(op, &[source], turned)?;
            quantization.axis = perm.iter().position(|&p| p == quantization.axis).unwrap_or(0);
            let turned = self.fixed_constant(moved, quantization)?;
            self.turned.insert(key, turned);
            return Ok(turned);
        }
        let turned = self.emit(op, &[x], turned)?;
        if self.is_constant(x) {
            self.turned.insert(key, turned);
        }
        Ok(turned)
    }

    /// Exchanges the last two dimensions.
    pub fn transpose_last(&mut self, x: TensorId) -> OpResult<TensorId> {
        let rank = self.rank(x);
        let mut perm: Vec<usize> = (0..rank).collect();
        perm.swap(rank - 1, rank - 2);
        self.transpose(x, &perm)
    }

    /// Same elements in order, other shape. A fixed quantization per channel stays with a first dimension that stays.
    pub fn reshape(&mut self, x: TensorId, shape: &[usize]) -> OpResult<TensorId> {
        let old = self.graph.shape(x);
        if old == shape {
            return Ok(x);
        }
        let count = self.checked_count(shape)?;
        if count != old.iter().product::<usize>() {
            return invalid(format!("{old:?} cannot be reshaped to {shape:?}"));
        }
        if let Some((source, quantization)) = self.fixed.get(&x).cloned() {
            let first_stays = quantization.axis == 0 && old.first() == shape.first();
            if quantization.scale.len() == 1 || first_stays {
                let moved = self.emit(Op::Reshape, &[source], shape.to_vec())?;
                return self.fixed_constant(moved, quantization);
            }
        }
        self.emit(Op::Reshape, &[x], shape.to_vec())
    }

    /// Element `starts[d] + i * steps[d]` along each dimension.
    pub fn slice(
        &mut self,
        x: TensorId,
        starts: Vec<usize>,
        steps: Vec<isize>,
        shape: Vec<usize>,
    ) -> OpResult<TensorId> {
        if self.graph.shape(x) == shape && steps.iter().zip(&shape).all(|(&s, &d)| s == 1 || d <= 1) {
            return Ok(x);
        }
        self.emit(Op::Slice { starts, steps }, &[x], shape)
    }

    /// The range `start..start + length` along `axis`.
    pub fn narrow(&mut self, x: TensorId, axis: usize, start: usize, length: usize) -> OpResult<TensorId> {
        let mut shape = self.shape(x);
        debug_assert!(start + length <= shape[axis]);
        let mut starts = vec![0; shape.len()];
        starts[axis] = start;
        shape[axis] = length;
        self.slice(x, starts, vec![1; shape.len()], shape)
    }

    /// Operands one behind the other along `axis`; those without elements are left out.
    pub fn concat(&mut self, inputs: &[TensorId], axis: usize) -> OpResult<TensorId> {
        let mut shape = self.shape(inputs[0]);
        let dtype = self.dtype(inputs[0]);
        let mut total = 0usize;
        for &id in inputs {
            let other = self.graph.shape(id);
            let fits = other.len() == shape.len() && (0..shape.len()).all(|d| d == axis || other[d] == shape[d]);
            if !fits || self.dtype(id) != dtype {
                return invalid(format!("{shape:?} and {other:?} cannot be joined along axis {axis}"));
            }
            total += other[axis];
        }
        shape[axis] = total;
        let kept: Vec<TensorId> = inputs.iter().copied().filter(|&id| self.graph.shape(id)[axis] > 0).collect();
        match kept[..] {
            [] => Ok(inputs[0]),
            [single] => Ok(single),
            _ => self.emit(Op::Concat { axis }, &kept, shape),
        }
    }

    /// Repeats dimensions of size 1.
    pub fn expand(&mut self, x: TensorId, shape: &[usize]) -> OpResult<TensorId> {
        if self.graph.shape(x) == shape {
            return Ok(x);
        }
        if broadcast(self.graph.shape(x), shape)? != shape {
            return invalid(format!("{:?} cannot be expanded to {shape:?}", self.graph.shape(x)));
        }
        self.emit(Op::Expand, &[x], shape.to_vec())
    }

    /// Over `axes`, ascending.
    pub fn reduce(&mut self, kind: Reduce, x: TensorId, axes: Vec<usize>, keep: bool) -> OpResult<TensorId> {
        if axes.is_empty() {
            return Ok(x);
        }
        let old = self.graph.shape(x);
        let shape = old
            .iter()
            .enumerate()
            .filter(|(d, _)| keep || !axes.contains(d))
            .map(|(d, &size)| if axes.contains(&d) { 1 } else { size })
            .collect();
        self.emit(Op::Reduce { kind, axes, keep }, &[x], shape)
    }

    /// Over the last dimension.
    pub fn softmax(&mut self, x: TensorId) -> OpResult<TensorId> {
        let shape = self.shape(x);
        self.emit(Op::Softmax, &[x], shape)
    }

    /// `a [.., m, k]` times `b [.., k, n]`, or `b [.., n, k]`.
    pub fn matmul(&mut self, a: TensorId, b: TensorId, transpose_b: bool) -> OpResult<TensorId> {
        let (sa, sb) = (self.graph.shape(a), self.graph.shape(b));
        let ([batch_a @ .., m, k], [batch_b @ .., p, q]) = (sa, sb) else {
            return invalid(format!("{sa:?} and {sb:?} are not matrices"));
        };
        let (inner, n) = if transpose_b { (q, p) } else { (p, q) };
        if k != inner || self.dtype(a) != DataType::Float || self.dtype(b) != DataType::Float {
            return invalid(format!("{sa:?} and {sb:?} cannot be multiplied"));
        }
        let mut shape = broadcast(batch_a, batch_b)?;
        shape.extend([*m, *n]);
        self.emit(Op::MatMul { transpose_b }, &[a, b], shape)
    }

    /// `x [.., k]` times `w [n, k]`, plus `bias [n]`.
    pub fn linear(&mut self, x: TensorId, w: TensorId, bias: Option<TensorId>) -> OpResult<TensorId> {
        let [n, k] = self.graph.shape(w)[..] else { return invalid("weights must have two dimensions") };
        let mut shape = self.shape(x);
        match shape.last_mut() {
            Some(last) if *last == k && self.dtype(x) == DataType::Float => *last = n,
            _ => return invalid(format!("{:?} cannot be multiplied with weights for {k} values", self.graph.shape(x))),
        }
        let mut inputs = vec![x, w];
        inputs.extend(bias);
        self.emit(Op::Linear, &inputs, shape)
    }

    /// `x` behind a fixed quantization. That of a constant keeps its node, and its result has the rounded value.
    pub fn fake_quant(&mut self, x: TensorId, quantization: FakeQuant) -> OpResult<TensorId> {
        if self.is_constant(x) {
            return self.fixed_constant(x, quantization);
        }
        let shape = self.shape(x);
        self.emit(Op::FakeQuant(quantization), &[x], shape)
    }

    fn fixed_constant(&mut self, source: TensorId, quantization: FakeQuant) -> OpResult<TensorId> {
        let shape = self.shape(source);
        let rounded = self.emit(Op::FakeQuant(quantization.clone()), &[source], shape)?;
        let name = self.next_name();
        let op = Op::FakeQuant(quantization.clone());
        self.graph.nodes.push(Node { name, op, inputs: vec![source], output: rounded });
        self.fixed.insert(rounded, (source, quantization));
        Ok(rounded)
    }
}

impl Builder {
    /// The graph with `outputs`, by name. Reshapes that change nothing, nodes and tensors that no output needs go.
    ///
    /// # Errors
    /// [`ImportError::Tensor`] for weights that are not finite.
    pub fn finish(mut self, outputs: &[(&str, TensorId)]) -> Result<Graph, ImportError> {
        self.skip_identities();
        for &(name, id) in outputs {
            if let Some(reason) = self.unfinished(id) {
                return Err(ImportError::Tensor { name: name.into(), reason: reason.into() });
            }
            let source =
                self.graph.nodes.iter().find(|n| n.output == id && self.is_identity(n)).map_or(id, |n| n.inputs[0]);
            let own = !self.graph.inputs.contains(&source)
                && !self.graph.outputs.contains(&source)
                && !self.is_constant(source);
            let output = if own { source } else { self.copy(source, name) };
            self.graph.tensors[output].name = name.to_owned();
            self.graph.outputs.push(output);
        }
        check_weights(&self.graph)?;
        Ok(compact(self.graph))
    }

    /// Why a tensor that stands for integers cannot be an output.
    fn unfinished(&self, id: TensorId) -> Option<&'static str> {
        let elem = self.elems.get(&id);
        if let Some(held) = self.quantized.get(&id) {
            let dynamic = "the output is the integers of DynamicQuantizeLinear, whose scale follows from the data; end \
                           the model with its operand";
            let fixed = "the output is the integers of QuantizeLinear; end the model with DequantizeLinear";
            return Some(if held.range == DYNAMIC { dynamic } else { fixed });
        }
        match elem {
            Some(Elem::Undefined) => {
                Some("the output is the scale of DynamicQuantizeLinear, which follows from the data")
            }
            Some(Elem::Int32) if self.dtype(id) == DataType::Float => {
                Some("the output is the sums of MatMulInteger or ConvInteger; end the model with Cast and the scales")
            }
            _ => None,
        }
    }

    fn copy(&mut self, source: TensorId, name: &str) -> TensorId {
        let (shape, dtype) = (self.shape(source), self.dtype(source));
        self.graph.add_node(name, Op::Reshape, vec![source], shape, dtype)
    }

    fn is_identity(&self, node: &Node) -> bool {
        node.op == Op::Reshape && self.graph.shape(node.inputs[0]) == self.graph.shape(node.output)
    }

    /// Readers of a reshape to the same shape read its operand.
    fn skip_identities(&mut self) {
        let mut source: Vec<TensorId> = (0..self.graph.tensors.len()).collect();
        for index in 0..self.graph.nodes.len() {
            let inputs = self.graph.nodes[index].inputs.iter().map(|&id| source[id]).collect();
            self.graph.nodes[index].inputs = inputs;
            let node = &self.graph.nodes[index];
            if self.is_identity(node) {
                source[node.output] = node.inputs[0];
            }
        }
    }
}

/// Weights that are not finite cannot be quantized.
fn check_weights(graph: &Graph) -> Result<(), ImportError> {
    for node in &graph.nodes {
        let weights = match node.op {
            Op::Linear | Op::Conv2d(_) | Op::Lookup(_) | Op::LayerNorm { .. } | Op::RmsNorm { .. } => &node.inputs[1..],
            Op::MatMul { .. } | Op::Gather { .. } => &node.inputs[..],
            _ => continue,
        };
        for &id in weights {
            if graph.floats(id).is_some_and(|values| values.iter().any(|v| !v.is_finite())) {
                let reason = format!("the weights of node `{}` are not all finite", node.name);
                return Err(ImportError::Tensor { name: graph.tensors[id].name.clone(), reason });
            }
        }
    }
    Ok(())
}

/// The nodes and tensors that the outputs need, and all inputs.
fn compact(mut graph: Graph) -> Graph {
    let mut needed = vec![false; graph.tensors.len()];
    graph.inputs.iter().chain(&graph.outputs).for_each(|&id| needed[id] = true);
    let mut nodes: Vec<Node> = Vec::new();
    for node in std::mem::take(&mut graph.nodes).into_iter().rev() {
        if needed[node.output] {
            node.inputs.iter().for_each(|&id| needed[id] = true);
            nodes.push(node);
        }
    }
    nodes.reverse();
    let mut place = vec![usize::MAX; needed.len()];
    let mut tensors = Vec::new();
    for (id, tensor) in graph.tensors.into_iter().enumerate().filter(|&(id, _)| needed[id]) {
        place[id] = tensors.len();
        tensors.push(tensor);
    }
    let moved = |ids: &[TensorId]| ids.iter().map(|&id| place[id]).collect();
    for node in &mut nodes {
        node.inputs = moved(&node.inputs);
        node.output = place[node.output];
    }
    let (inputs, outputs) = (moved(&graph.inputs), moved(&graph.outputs));
    Graph { tensors, nodes, inputs, outputs, ..graph }
}

/// Operations whose elements are elements of their first operand.
fn moves(op: &Op) -> bool {
    matches!(
        op,
        Op::Transpose { .. } | Op::Reshape | Op::Slice { .. } | Op::Concat { .. } | Op::Expand | Op::Gather { .. }
    )
}

/// Steps that computing a node takes.
fn work(op: &Op, inputs: &[TensorId], graph: &Graph, count: usize) -> u64 {
    let read = inputs.iter().map(|&id| graph.tensors[id].len()).sum::<usize>();
    let inner = match op {
        Op::MatMul { .. } | Op::Linear => graph.shape(inputs[0]).last().copied().unwrap_or(1),
        Op::Conv2d(_) => graph.shape(inputs[1]).iter().skip(1).product(),
        Op::MaxPool(window) | Op::AveragePool { window, .. } => window.kernel[0].saturating_mul(window.kernel[1]),
        _ => 1,
    };
    // Not in `usize`: the limits are beyond 32 bits.
    (count as u64).saturating_mul(inner as u64).saturating_add(read as u64)
}

/// The shape that two shapes have together by numpy's rule.
pub fn broadcast(a: &[usize], b: &[usize]) -> OpResult<Vec<usize>> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], d: usize| if d + shape.len() < rank { 1 } else { shape[d + shape.len() - rank] };
    (0..rank)
        .map(|d| match (size(a, d), size(b, d)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => invalid(format!("shapes {a:?} and {b:?} do not broadcast")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcast_follows_numpy() {
        assert_eq!(broadcast(&[2, 1, 3], &[4, 1]).unwrap(), [2, 4, 3]);
        assert_eq!(broadcast(&[], &[5]).unwrap(), [5]);
        assert!(broadcast(&[2], &[3]).is_err());
    }

    #[test]
    fn constants_fold_and_variables_do_not() {
        let mut builder = Builder::default();
        builder.begin("n", "Add");
        let x = builder.graph.add_tensor("x", vec![2], DataType::Float);
        let c = builder.constant(&[2], Data::Float(vec![1.0, 2.0])).unwrap();
        let sum = builder.binary(Binary::Add, c, c).unwrap();
        assert_eq!(builder.graph.floats(sum), Some(&[2.0, 4.0][..]));
        let y = builder.binary(Binary::Mul, x, sum).unwrap();
        assert!(!builder.is_constant(y));
        assert_eq!(builder.graph.nodes.len(), 1);
    }

    #[test]
    fn fixed_quantization_follows_a_transposed_weight() {
        let mut builder = Builder::default();
        let w = builder.constant(&[2, 3], Data::Float(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0])).unwrap();
        let per_column = FakeQuant { scale: vec![1.0, 2.0, 3.0], zero_point: vec![0; 3], axis: 1, range: (-128, 127) };
        let w = builder.fake_quant(w, per_column).unwrap();
        let turned = builder.transpose(w, &[1, 0]).unwrap();
        let node = builder.graph.nodes.last().unwrap();
        let Op::FakeQuant(quantization) = &node.op else { panic!("{:?}", node.op) };
        assert_eq!((node.output, quantization.axis), (turned, 0));
        // 2 / 2 and 5 / 2 rounded, half to even; 3 / 3 and 6 / 3.
        assert_eq!(builder.graph.floats(turned), Some(&[1.0, 4.0, 2.0, 4.0, 3.0, 6.0][..]));
    }
}
