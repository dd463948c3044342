//! The float model between importer and quantizer: tensors with static shapes, nodes in topological order.

pub mod exec;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// Index into [`Graph::tensors`].
pub type TensorId = usize;

/// A model with every shape known.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// All tensors: inputs, constants, node outputs.
    pub tensors: Vec<Tensor>,
    /// In topological order.
    pub nodes: Vec<Node>,
    /// Graph inputs.
    pub inputs: Vec<TensorId>,
    /// Graph outputs.
    pub outputs: Vec<TensorId>,
    /// Operators of the source model by the names of its nodes, see [`Graph::origin`].
    pub origins: Arc<HashMap<String, String>>,
    /// Per input the minimum and maximum of its element type, where that is an integer type; may be shorter than `inputs`.
    pub input_ranges: Vec<Option<(i64, i64)>>,
    /// Inputs that enter in 32 bits, with their scales: the first operator normalizes them, see [`crate::fuse::observe`].
    pub raw_inputs: HashMap<TensorId, f64>,
}

/// One value of the graph.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name in the source model, or derived from it.
    pub name: String,
    /// Dimensions; empty for a scalar.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: DataType,
    /// The value, where it is a constant.
    pub value: Option<Arc<Data>>,
}

/// Element types of the float graph. All floats are computed as `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataType {
    /// Any float type.
    Float,
    /// Any integer type.
    Int,
    /// Boolean.
    Bool,
}

/// Values of a tensor, row major.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// [`DataType::Float`].
    Float(Vec<f32>),
    /// [`DataType::Int`].
    Int(Vec<i64>),
    /// [`DataType::Bool`].
    Bool(Vec<bool>),
}

/// One operation.
#[derive(Clone, Debug)]
pub struct Node {
    /// Name in the source model, or derived from it.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// Operands, in the order the operation documents.
    pub inputs: Vec<TensorId>,
    /// The result.
    pub output: TensorId,
}

/// The operations. Operands are listed in brackets; `?` is optional, `const` must have a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `[x [.., k], w const [n, k], bias? const [n]]` to `[.., n]`.
    Linear,
    /// `[a [.., m, k], b [.., k, n]]` (or `b [.., n, k]` when transposed), batch dimensions broadcast.
    MatMul {
        /// `b` is `[.., n, k]`.
        transpose_b: bool,
    },
    /// `[x [batch, c, h, w], w const [n, c / groups, kh, kw], bias? const [n]]` to `[batch, n, oh, ow]`.
    Conv2d(Window),
    /// `[x [batch, c, h, w]]`, padding does not take part.
    MaxPool(Window),
    /// `[x [batch, c, h, w]]`.
    AveragePool {
        /// Geometry; `groups` is 1.
        window: Window,
        /// Padding counts as zeros.
        count_include_pad: bool,
    },
    /// `[x]`, over the last dimension.
    Softmax,
    /// `[x [.., n], gamma? const [n], beta? const [n]]`, over the last dimension.
    LayerNorm {
        /// Added to the variance.
        eps: f32,
    },
    /// `[x [.., n], gamma? const [n]]`, over the last dimension.
    RmsNorm {
        /// Added to the mean square.
        eps: f32,
    },
    /// `[x]`, element by element.
    Unary(Unary),
    /// `[a, b]` with broadcasting.
    Binary(Binary),
    /// `[condition, a, b]` with broadcasting.
    Where,
    /// `[x]`; output dimension `i` is input dimension `perm[i]`.
    Transpose {
        /// Permutation.
        perm: Vec<usize>,
    },
    /// `[x]` to the shape of the output (also squeeze, unsqueeze, flatten).
    Reshape,
    /// `[x]`, one range per dimension: `starts[d] + i * steps[d]`.
    Slice {
        /// First index per dimension.
        starts: Vec<usize>,
        /// Step per dimension; may be negative.
        steps: Vec<isize>,
    },
    /// `[x0, x1, ..]`.
    Concat {
        /// Dimension along which the operands follow each other.
        axis: usize,
    },
    /// `[x]` broadcast to the shape of the output.
    Expand,
    /// `[x, indices]`: `out = x` with dimension `axis` replaced by the dimensions of `indices`.
    Gather {
        /// Dimension that is indexed.
        axis: usize,
    },
    /// `[x]`, constant padding.
    Pad {
        /// Elements before, per dimension.
        before: Vec<usize>,
        /// Elements after, per dimension.
        after: Vec<usize>,
        /// The value.
        value: f32,
    },
    /// `[x]`.
    Reduce {
        /// What is computed.
        kind: Reduce,
        /// Reduced dimensions, ascending.
        axes: Vec<usize>,
        /// Whether they stay as 1.
        keep: bool,
    },
    /// `[x]` rounded to `scale * clamp(round(x / scale) + zero_point)`: a QuantizeLinear/DequantizeLinear pair.
    FakeQuant(FakeQuant),
    /// `[q, k, v, bias0?, bias1?]`: softmax(scale q k^T + bias) v without intermediate tensors.
    Attention(Attention),
    /// `[x, cosines const [positions, rotary / 2], sines const [positions, rotary / 2]]`: rotary position embedding of rows
    /// of `heads * head_dim` elements, row `i` at position `i`.
    Rope(Rope),
    /// `[x [.., k], tables const [k / chunk, 2^chunk, n], bias const [n]]` to `[.., n]`: the row of each chunk's table that its
    /// signs number (0 counts as positive, the first element is the lowest bit), times the product of its factors.
    Lookup(Lookup),
    /// `[table const [positions, ..]]`: its first rows, as many as the output has.
    Positions,
}

/// A layer of look-ups, see [`Op::Lookup`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lookup {
    /// Elements of a chunk.
    pub chunk: usize,
    /// How large elements are whose sign is sure.
    pub temperature: f32,
}

impl Lookup {
    /// `1 / (1 + exp(-2 |x| / temperature))`: how sure the sign of `x` is.
    pub fn factor(&self, x: f64) -> f64 {
        1.0 / (1.0 + (-2.0 * x.abs() / f64::from(self.temperature)).exp())
    }
}

/// Geometry of a convolution or pooling.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Rows and columns.
    pub kernel: [usize; 2],
    /// Vertical and horizontal step.
    pub strides: [usize; 2],
    /// Top, left, bottom, right.
    pub pads: [usize; 4],
    /// Vertical and horizontal distance of window elements.
    pub dilations: [usize; 2],
    /// Groups of channels.
    pub groups: usize,
}

/// Elementwise functions of one operand.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Unary {
    Gelu {
        tanh: bool,
    },
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    Relu,
    LeakyRelu {
        slope: f32,
    },
    Elu {
        alpha: f32,
    },
    Silu,
    Sigmoid,
    Tanh,
    HardSwish,
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    Mish,
    Softplus,
    Erf,
    Exp,
    Log,
    Sqrt,
    Reciprocal,
    Neg,
    Abs,
    Floor,
    Ceil,
    Round,
    /// Towards 0.
    Trunc,
    Sign,
    Sin,
    Atan,
    Cos,
    Clip {
        low: f32,
        high: f32,
    },
    IsNaN,
    Not,
    /// To the element type of the output.
    Cast,
}

/// Elementwise functions of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Min,
    Max,
    Mod,
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    And,
    Or,
    Xor,
}

/// Reductions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Reduce {
    Mean,
    Sum,
    Max,
    Min,
    Prod,
}

/// A fixed quantization that came with the model.
#[derive(Clone, Debug, PartialEq)]
pub struct FakeQuant {
    /// One, or one per index of `axis`.
    pub scale: Vec<f32>,
    /// Like `scale`.
    pub zero_point: Vec<i32>,
    /// Dimension of per-channel scales.
    pub axis: usize,
    /// Minimum and maximum integer.
    pub range: (i32, i32),
}

/// What attention over a cache looks back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Causal {
    /// Positions of a session.
    pub positions: usize,
    /// Keys that a query sees, its own included: all, where there are as many as positions.
    pub window: usize,
}

/// Multi-head attention over strided views.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Independent attentions (batch, windows).
    pub batch: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Query rows.
    pub n_q: usize,
    /// Key rows.
    pub n_k: usize,
    /// Width of a query or key row.
    pub head_dim: usize,
    /// Width of a value row.
    pub v_dim: usize,
    /// Factor of the products.
    pub scale: f32,
    /// Query row `i` sees the keys up to `i`, which are kept from one run to the next; without biases then.
    pub causal: Option<Causal>,
    /// Where query rows lie in their operand.
    pub q: HeadView,
    /// Where key rows lie.
    pub k: HeadView,
    /// Where value rows lie.
    pub v: HeadView,
    /// Where output rows lie in the output.
    pub out: HeadView,
}

/// Which elements are rotated: of every head the first `rotary`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Rope {
    pub heads: usize,
    pub head_dim: usize,
    pub rotary: usize,
    /// Pairs are neighbours `(2 i, 2 i + 1)`; otherwise `(i, i + rotary / 2)`.
    pub interleaved: bool,
}

impl Rope {
    /// The places of pair `pair` in a head.
    pub fn pair(self, pair: usize) -> [usize; 2] {
        if self.interleaved { [2 * pair, 2 * pair + 1] } else { [pair, pair + self.rotary / 2] }
    }
}

/// Row `i` of head `h` of batch `b` starts at element `offset + b * batch + h * head + i * row`; elements of a row are
/// neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct HeadView {
    pub offset: usize,
    pub batch: usize,
    pub head: usize,
    pub row: usize,
}

impl Binary {
    /// Whether it compares two numbers.
    pub fn compares(self) -> bool {
        match self {
            Binary::Equal | Binary::Less | Binary::LessOrEqual | Binary::Greater | Binary::GreaterOrEqual => true,
            Binary::Add
            | Binary::Sub
            | Binary::Mul
            | Binary::Div
            | Binary::Pow
            | Binary::Min
            | Binary::Max
            | Binary::Mod
            | Binary::And
            | Binary::Or
            | Binary::Xor => false,
        }
    }
}

impl Data {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Data::Float(v) => v.len(),
            Data::Int(v) => v.len(),
            Data::Bool(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element type.
    pub fn dtype(&self) -> DataType {
        match self {
            Data::Float(_) => DataType::Float,
            Data::Int(_) => DataType::Int,
            Data::Bool(_) => DataType::Bool,
        }
    }

    /// The values as `f32`.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Data::Float(v) => v.clone(),
            Data::Int(v) => v.iter().map(|&x| x as f32).collect(),
            Data::Bool(v) => v.iter().map(|&x| f32::from(u8::from(x))).collect(),
        }
    }

    /// The values as `f32`, where they are floats.
    pub fn floats(&self) -> Option<&[f32]> {
        match self {
            Data::Float(v) => Some(v),
            _ => None,
        }
    }

    /// The values as `i64`, where they are integers.
    pub fn ints(&self) -> Option<&[i64]> {
        match self {
            Data::Int(v) => Some(v),
            _ => None,
        }
    }
}

impl Tensor {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether a dimension is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Graph {
    /// Adds a tensor.
    pub fn add_tensor(&mut self, name: impl Into<String>, shape: Vec<usize>, dtype: DataType) -> TensorId {
        self.tensors.push(Tensor { name: name.into(), shape, dtype, value: None });
        self.tensors.len() - 1
    }

    /// Adds a constant.
    pub fn add_constant(&mut self, name: impl Into<String>, shape: Vec<usize>, value: Data) -> TensorId {
        let dtype = value.dtype();
        self.tensors.push(Tensor { name: name.into(), shape, dtype, value: Some(Arc::new(value)) });
        self.tensors.len() - 1
    }

    /// Adds a node at the end and its output tensor.
    pub fn add_node(
        &mut self,
        name: &str,
        op: Op,
        inputs: Vec<TensorId>,
        shape: Vec<usize>,
        dtype: DataType,
    ) -> TensorId {
        let output = self.add_tensor(name, shape, dtype);
        self.nodes.push(Node { name: name.to_owned(), op, inputs, output });
        output
    }

    /// The operator of the source model that a node with this name stands for, or is a part of.
    pub fn origin(&self, name: &str) -> Option<&str> {
        origin(&self.origins, name)
    }

    /// Shape of a tensor.
    pub fn shape(&self, id: TensorId) -> &[usize] {
        &self.tensors[id].shape
    }

    /// Value of a constant.
    pub fn constant(&self, id: TensorId) -> Option<&Data> {
        self.tensors[id].value.as_deref()
    }

    /// Values of a float constant.
    pub fn floats(&self, id: TensorId) -> Option<&[f32]> {
        self.constant(id)?.floats()
    }

    /// For every tensor the index of the node that makes it.
    pub fn producers(&self) -> Vec<Option<usize>> {
        let mut producers = vec![None; self.tensors.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            producers[node.output] = Some(index);
        }
        producers
    }

    /// Whether `id` is a score between 0 and 1: a sigmoid, moved, or chosen from several. `producers` as in
    /// [`producers`](Self::producers).
    pub fn is_score(&self, producers: &[Option<usize>], id: TensorId) -> bool {
        let Some(node) = producers[id].map(|index| &self.nodes[index]) else { return false };
        let scores = |ids: &[TensorId]| ids.iter().all(|&id| self.is_score(producers, id));
        let moves = matches!(node.op, Op::Reshape | Op::Transpose { .. } | Op::FakeQuant(_));
        matches!(node.op, Op::Unary(Unary::Sigmoid | Unary::HardSigmoid { .. }))
            || moves && scores(&node.inputs[..1])
            || node.op == Op::Where && scores(&node.inputs[1..])
    }

    /// For every tensor the nodes that read it; a graph output counts as one more reader, `usize::MAX`.
    pub fn consumers(&self) -> Vec<Vec<usize>> {
        let mut consumers = vec![Vec::new(); self.tensors.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            for &input in &node.inputs {
                consumers[input].push(index);
            }
        }
        for &output in &self.outputs {
            consumers[output].push(usize::MAX);
        }
        consumers
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The name of the variant.
        let text = format!("{self:?}");
        f.write_str(text.split([' ', '{', '(']).next().unwrap_or(&text))
    }
}

/// The operator of the source model that a node called `name` stands for, or is a part of: parts have names with further
/// steps behind a slash.
pub fn origin<'o>(origins: &'o HashMap<String, String>, mut name: &str) -> Option<&'o str> {
    loop {
        if let Some(operator) = origins.get(name) {
            return Some(operator);
        }
        name = &name[..name.rfind('/')?];
    }
}

/// Row-major strides of `shape`, in elements.
pub fn contiguous_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for d in (0..shape.len().saturating_sub(1)).rev() {
        strides[d] = strides[d + 1] * shape[d + 1];
    }
    strides
}
