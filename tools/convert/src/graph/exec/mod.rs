//! The float graph, executed: constant folding, calibration, and the reference every accuracy is measured against.
//!
//! Floats are `f32` with `f64` where a sum decides the result (normalization, softmax, reductions); products go through
//! a blocked matrix multiplication. Integers and booleans are exact.

use crate::graph::contiguous_strides;
use crate::graph::{
    Attention, Binary, Data, DataType, FakeQuant, Graph, HeadView, Op, Reduce, TensorId, Unary, Window,
};
use std::collections::HashMap;

/// Why a node cannot be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The operands do not fit the operation.
    #[error("{op}: {why}")]
    Operands {
        /// Name of the operation.
        op: String,
        /// What is wrong.
        why: &'static str,
    },
    /// An input of the graph has the wrong number of values.
    #[error("input `{name}` needs {expected} values, {given} given")]
    Input {
        /// Name of the input.
        name: String,
        /// Elements of its shape.
        expected: usize,
        /// Elements given.
        given: usize,
    },
}

/// An operand: shape and values.
type Operand<'a> = (&'a [usize], &'a Data);

/// Evaluates one node on whole tensors; `shape` and `dtype` are those of the result.
///
/// # Errors
/// [`ExecError`] when operands are missing, mistyped or of the wrong size.
pub fn eval_node(op: &Op, inputs: &[Operand<'_>], shape: &[usize], dtype: DataType) -> Result<Data, ExecError> {
    let fail = |why| ExecError::Operands { op: op.to_string(), why };
    if inputs.iter().any(|(shape, data)| shape.iter().product::<usize>() != data.len()) {
        return Err(fail("operand length does not match its shape"));
    }
    let at = |index: usize| inputs.get(index).copied().ok_or_else(|| fail("an operand is missing"));
    let floats =
        |index: usize| at(index).and_then(|(_, data)| data.floats().ok_or_else(|| fail("an operand is not float")));
    let optional = |index: usize| inputs.get(index).and_then(|(_, data)| data.floats());
    let result = match op {
        Op::Linear => linear(floats(0)?, floats(1)?, optional(2), at(1)?.0),
        Op::MatMul { transpose_b } => matmul(at(0)?, at(1)?, *transpose_b, shape),
        Op::Conv2d(window) => conv2d((at(0)?.0, floats(0)?), (at(1)?.0, floats(1)?), optional(2), window, shape),
        Op::MaxPool(window) => {
            pool((at(0)?.0, floats(0)?), window, shape, |values, _| values.fold(f32::NEG_INFINITY, f32::max))
        }
        Op::AveragePool { window, count_include_pad } => pool((at(0)?.0, floats(0)?), window, shape, |values, taps| {
            let (sum, count) = values.fold((0.0f64, 0usize), |(sum, n), v| (sum + f64::from(v), n + 1));
            (sum / if *count_include_pad { taps } else { count.max(1) } as f64) as f32
        }),
        Op::Softmax => rows(floats(0)?, shape, softmax_row),
        Op::LayerNorm { eps } => {
            let (gamma, beta) = (optional(1), optional(2));
            rows(floats(0)?, shape, |x, y| norm_row(x, y, gamma, beta, f64::from(*eps), true))
        }
        Op::RmsNorm { eps } => {
            let gamma = optional(1);
            rows(floats(0)?, shape, |x, y| norm_row(x, y, gamma, None, f64::from(*eps), false))
        }
        Op::Unary(kind) => Some(unary(*kind, at(0)?.1, dtype)),
        Op::Binary(kind) => binary(*kind, at(0)?, at(1)?, shape),
        Op::Where => select(at(0)?, at(1)?, at(2)?, shape),
        Op::Transpose { perm } => {
            let (from, data) = at(0)?;
            let strides = contiguous_strides(from);
            let valid = perm.len() == from.len() && perm.iter().all(|&p| p < from.len());
            valid
                .then(|| gather_strided(data, 0, shape, &perm.iter().map(|&p| strides[p] as isize).collect::<Vec<_>>()))
                .flatten()
        }
        Op::Reshape => Some(at(0)?.1.clone()),
        Op::Slice { starts, steps } => {
            let (from, data) = at(0)?;
            let strides = contiguous_strides(from);
            let valid = starts.len() == from.len() && steps.len() == from.len();
            valid
                .then(|| {
                    let offset = starts.iter().zip(&strides).map(|(&s, &stride)| s * stride).sum();
                    let strides: Vec<isize> = strides.iter().zip(steps).map(|(&s, &step)| s as isize * step).collect();
                    gather_strided(data, offset, shape, &strides)
                })
                .flatten()
        }
        Op::Concat { axis } => concat(inputs, *axis, shape),
        Op::Expand => {
            let (from, data) = at(0)?;
            broadcast_strides(from, shape).and_then(|strides| gather_strided(data, 0, shape, &strides))
        }
        Op::Gather { axis } => gather(at(0)?, at(1)?, *axis),
        Op::Pad { before, value, .. } => pad(at(0)?, before, *value, shape),
        Op::Reduce { kind, axes, .. } => reduce(at(0)?, *kind, axes),
        Op::FakeQuant(quant) => fake_quant((at(0)?.0, floats(0)?), quant),
        Op::Attention(attention) => attend(attention, inputs, shape),
    };
    let result = result.ok_or_else(|| fail("the operands do not fit together"))?;
    if result.len() != shape.iter().product::<usize>() {
        return Err(fail("the result has not the declared shape"));
    }
    Ok(result)
}

/// Runs the graph on `inputs` (in the order of [`Graph::inputs`]) and returns its outputs.
///
/// `watch` sees every computed tensor, in order. Values are dropped as soon as nobody reads them any more.
///
/// # Errors
/// [`ExecError`] when an input has the wrong size or a node cannot be evaluated.
pub fn run(graph: &Graph, inputs: &[Data], watch: &mut dyn FnMut(TensorId, &Data)) -> Result<Vec<Data>, ExecError> {
    let mut values: HashMap<TensorId, Data> = HashMap::new();
    for (&id, data) in graph.inputs.iter().zip(inputs) {
        let tensor = &graph.tensors[id];
        if tensor.len() != data.len() {
            return Err(ExecError::Input { name: tensor.name.clone(), expected: tensor.len(), given: data.len() });
        }
        watch(id, data);
        values.insert(id, data.clone());
    }
    let consumers = graph.consumers();
    for (index, node) in graph.nodes.iter().enumerate() {
        let output = {
            let operands: Result<Vec<Operand<'_>>, ExecError> = node
                .inputs
                .iter()
                .map(|&id| {
                    let data = graph.constant(id).or_else(|| values.get(&id));
                    let why = "an operand has no value";
                    let data = data.ok_or_else(|| ExecError::Operands { op: node.name.clone(), why })?;
                    Ok((graph.shape(id), data))
                })
                .collect();
            eval_node(&node.op, &operands?, graph.shape(node.output), graph.tensors[node.output].dtype)?
        };
        watch(node.output, &output);
        values.insert(node.output, output);
        for id in &node.inputs {
            if consumers[*id].iter().all(|&c| c <= index) {
                values.remove(id);
            }
        }
    }
    let missing =
        |id: TensorId| ExecError::Operands { op: graph.tensors[id].name.clone(), why: "an output is not computed" };
    graph
        .outputs
        .iter()
        .map(|&id| graph.constant(id).or_else(|| values.get(&id)).cloned().ok_or_else(|| missing(id)))
        .collect()
}

/// One elementwise operation on scalars; booleans are 0 and 1.
pub fn eval_scalar(op: &Op, operands: &[f64]) -> f64 {
    let at = |index: usize| operands.get(index).copied().unwrap_or(0.0);
    match op {
        Op::Unary(kind) => unary_f64(*kind, at(0)),
        Op::Binary(kind) => binary_f64(*kind, at(0), at(1)),
        Op::Where => {
            if at(0) != 0.0 {
                at(1)
            } else {
                at(2)
            }
        }
        _ => at(0),
    }
}

fn unary_f64(kind: Unary, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let flag = |b: bool| f64::from(u8::from(b));
    match kind {
        Unary::Gelu { tanh: false } => 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Unary::Gelu { tanh: true } => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Unary::QuickGelu => x * sigmoid(1.702 * x),
        Unary::Relu => x.max(0.0),
        Unary::LeakyRelu { slope } => {
            if x < 0.0 {
                x * f64::from(slope)
            } else {
                x
            }
        }
        Unary::Elu { alpha } => {
            if x < 0.0 {
                f64::from(alpha) * x.exp_m1()
            } else {
                x
            }
        }
        Unary::Silu => x * sigmoid(x),
        Unary::Sigmoid => sigmoid(x),
        Unary::Tanh => x.tanh(),
        Unary::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        Unary::HardSigmoid { alpha, beta } => (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0),
        Unary::Mish => x * softplus(x).tanh(),
        Unary::Softplus => softplus(x),
        Unary::Erf => libm::erf(x),
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Sqrt => x.sqrt(),
        Unary::Reciprocal => 1.0 / x,
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => x.round_ties_even(),
        Unary::Trunc => x.trunc(),
        Unary::Sign => {
            if x == 0.0 {
                0.0
            } else {
                x.signum()
            }
        }
        Unary::Sin => x.sin(),
        Unary::Atan => x.atan(),
        Unary::Cos => x.cos(),
        Unary::Clip { low, high } => x.max(f64::from(low)).min(f64::from(high)),
        Unary::IsNaN => flag(x.is_nan()),
        Unary::Not => flag(x == 0.0),
        Unary::Cast => x,
    }
}

fn binary_f64(kind: Binary, a: f64, b: f64) -> f64 {
    let flag = |b: bool| f64::from(u8::from(b));
    match kind {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Pow => a.powf(b),
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
        Binary::Mod => a - (a / b).floor() * b,
        Binary::Equal => flag(a == b),
        Binary::Less => flag(a < b),
        Binary::LessOrEqual => flag(a <= b),
        Binary::Greater => flag(a > b),
        Binary::GreaterOrEqual => flag(a >= b),
        Binary::And => flag(a != 0.0 && b != 0.0),
        Binary::Or => flag(a != 0.0 || b != 0.0),
        Binary::Xor => flag((a != 0.0) != (b != 0.0)),
    }
}

/// Integer arithmetic as ONNX defines it; comparisons give 0 and 1.
fn binary_i64(kind: Binary, a: i64, b: i64) -> i64 {
    match kind {
        Binary::Add => a.wrapping_add(b),
        Binary::Sub => a.wrapping_sub(b),
        Binary::Mul => a.wrapping_mul(b),
        Binary::Div => a.checked_div(b).unwrap_or(0),
        Binary::Pow => u32::try_from(b).map_or(0, |b| a.wrapping_pow(b)),
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
        Binary::Mod => a.checked_rem_euclid(b).map_or(0, |r| if b < 0 && r != 0 { r + b } else { r }),
        Binary::Equal => i64::from(a == b),
        Binary::Less => i64::from(a < b),
        Binary::LessOrEqual => i64::from(a <= b),
        Binary::Greater => i64::from(a > b),
        Binary::GreaterOrEqual => i64::from(a >= b),
        Binary::And => i64::from(a != 0 && b != 0),
        Binary::Or => i64::from(a != 0 || b != 0),
        Binary::Xor => i64::from((a != 0) != (b != 0)),
    }
}

fn is_predicate(kind: Binary) -> bool {
    matches!(
        kind,
        Binary::Equal
            | Binary::Less
            | Binary::LessOrEqual
            | Binary::Greater
            | Binary::GreaterOrEqual
            | Binary::And
            | Binary::Or
            | Binary::Xor
    )
}

fn unary(kind: Unary, data: &Data, dtype: DataType) -> Data {
    if kind == Unary::Cast {
        return cast(data, dtype);
    }
    match data {
        Data::Float(v) if dtype == DataType::Bool => {
            Data::Bool(v.iter().map(|&x| unary_f64(kind, f64::from(x)) != 0.0).collect())
        }
        Data::Float(v) => Data::Float(v.iter().map(|&x| unary_f64(kind, f64::from(x)) as f32).collect()),
        Data::Int(v) => Data::Int(v.iter().map(|&x| unary_f64(kind, x as f64) as i64).collect()),
        Data::Bool(v) => Data::Bool(v.iter().map(|&x| unary_f64(kind, f64::from(u8::from(x))) != 0.0).collect()),
    }
}

fn cast(data: &Data, dtype: DataType) -> Data {
    match (data, dtype) {
        (Data::Float(v), DataType::Int) => Data::Int(v.iter().map(|&x| x as i64).collect()),
        (Data::Float(v), DataType::Bool) => Data::Bool(v.iter().map(|&x| x != 0.0).collect()),
        (Data::Int(v), DataType::Bool) => Data::Bool(v.iter().map(|&x| x != 0).collect()),
        (Data::Bool(v), DataType::Int) => Data::Int(v.iter().map(|&x| i64::from(x)).collect()),
        (_, DataType::Float) => Data::Float(data.to_f32()),
        _ => data.clone(),
    }
}

/// Strides that broadcast `from` to `shape`; `None` where they do not fit.
fn broadcast_strides(from: &[usize], shape: &[usize]) -> Option<Vec<isize>> {
    let extra = shape.len().checked_sub(from.len())?;
    let own = contiguous_strides(from);
    let mut strides = vec![0isize; shape.len()];
    for (d, stride) in strides.iter_mut().enumerate().skip(extra) {
        let (size, target) = (from[d - extra], shape[d]);
        if size == target {
            *stride = own[d - extra] as isize;
        } else if size != 1 {
            return None;
        }
    }
    Some(strides)
}

/// Calls `f` with the offset of every element of the strided view, row major.
fn walk(offset: usize, shape: &[usize], strides: &[isize], mut f: impl FnMut(usize)) {
    let len: usize = shape.iter().product();
    let Some((&width, outer)) = shape.split_last() else {
        return f(offset);
    };
    if len == 0 {
        return;
    }
    let step = strides[outer.len()];
    let mut index = vec![0usize; outer.len()];
    let mut base = offset as isize;
    loop {
        for i in 0..width {
            f((base + step * i as isize) as usize);
        }
        let mut axis = outer.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            index[axis] += 1;
            base += strides[axis];
            if index[axis] < outer[axis] {
                break;
            }
            base -= strides[axis] * outer[axis] as isize;
            index[axis] = 0;
        }
    }
}

fn pick<T: Copy>(values: &[T], offset: usize, shape: &[usize], strides: &[isize]) -> Option<Vec<T>> {
    let mut out = Vec::with_capacity(shape.iter().product());
    let mut inside = true;
    walk(offset, shape, strides, |i| match values.get(i) {
        Some(&v) => out.push(v),
        None => inside = false,
    });
    inside.then_some(out)
}

fn gather_strided(data: &Data, offset: usize, shape: &[usize], strides: &[isize]) -> Option<Data> {
    Some(match data {
        Data::Float(v) => Data::Float(pick(v, offset, shape, strides)?),
        Data::Int(v) => Data::Int(pick(v, offset, shape, strides)?),
        Data::Bool(v) => Data::Bool(pick(v, offset, shape, strides)?),
    })
}

/// An operand broadcast to `shape`, borrowed where it has that shape already.
fn broadcast<'a>((from, data): Operand<'a>, shape: &[usize]) -> Option<std::borrow::Cow<'a, Data>> {
    if from == shape {
        return Some(std::borrow::Cow::Borrowed(data));
    }
    let strides = broadcast_strides(from, shape)?;
    gather_strided(data, 0, shape, &strides).map(std::borrow::Cow::Owned)
}

fn binary(kind: Binary, a: Operand<'_>, b: Operand<'_>, shape: &[usize]) -> Option<Data> {
    let (a, b) = (broadcast(a, shape)?, broadcast(b, shape)?);
    if let (Data::Float(a), Data::Float(b)) = (&*a, &*b) {
        let pairs = a.iter().zip(b);
        return Some(match kind {
            Binary::Add => Data::Float(pairs.map(|(a, b)| a + b).collect()),
            Binary::Sub => Data::Float(pairs.map(|(a, b)| a - b).collect()),
            Binary::Mul => Data::Float(pairs.map(|(a, b)| a * b).collect()),
            Binary::Div => Data::Float(pairs.map(|(a, b)| a / b).collect()),
            _ if is_predicate(kind) => {
                Data::Bool(pairs.map(|(&a, &b)| binary_f64(kind, f64::from(a), f64::from(b)) != 0.0).collect())
            }
            _ => Data::Float(pairs.map(|(&a, &b)| binary_f64(kind, f64::from(a), f64::from(b)) as f32).collect()),
        });
    }
    if a.dtype() == DataType::Float || b.dtype() == DataType::Float {
        // Mixed operands come from exporters that rely on implicit promotion.
        let (a, b) = (a.to_f32(), b.to_f32());
        let values = a.iter().zip(&b).map(|(&a, &b)| binary_f64(kind, f64::from(a), f64::from(b)) as f32);
        return Some(if is_predicate(kind) {
            Data::Bool(values.map(|v| v != 0.0).collect())
        } else {
            Data::Float(values.collect())
        });
    }
    let both_bool = a.dtype() == DataType::Bool && b.dtype() == DataType::Bool;
    let (a, b) = (cast(&a, DataType::Int), cast(&b, DataType::Int));
    let values = a.ints()?.iter().zip(b.ints()?).map(|(&a, &b)| binary_i64(kind, a, b));
    Some(if is_predicate(kind) || both_bool {
        Data::Bool(values.map(|v| v != 0).collect())
    } else {
        Data::Int(values.collect())
    })
}

fn select(condition: Operand<'_>, a: Operand<'_>, b: Operand<'_>, shape: &[usize]) -> Option<Data> {
    let condition = cast(&*broadcast(condition, shape)?, DataType::Bool);
    let Data::Bool(condition) = condition else { return None };
    let (a, b) = (broadcast(a, shape)?, broadcast(b, shape)?);
    fn mix<T: Copy>(condition: &[bool], a: &[T], b: &[T]) -> Vec<T> {
        condition.iter().zip(a.iter().zip(b)).map(|(&c, (&a, &b))| if c { a } else { b }).collect()
    }
    Some(match (&*a, &*b) {
        (Data::Int(a), Data::Int(b)) => Data::Int(mix(&condition, a, b)),
        (Data::Bool(a), Data::Bool(b)) => Data::Bool(mix(&condition, a, b)),
        (a, b) => Data::Float(mix(&condition, &a.to_f32(), &b.to_f32())),
    })
}

/// `c[m, n] = a[m, k] b[k, n]` with the given strides, in elements.
#[derive(Clone, Copy)]
struct Gemm {
    m: usize,
    k: usize,
    n: usize,
    a_strides: [usize; 2],
    b_strides: [usize; 2],
}

impl Gemm {
    /// `None` when a stride reaches beyond an operand.
    fn run(&self, a: &[f32], b: &[f32], c: &mut [f32]) -> Option<()> {
        let reach = |rows: usize, cols: usize, s: [usize; 2]| (rows.max(1) - 1) * s[0] + (cols.max(1) - 1) * s[1];
        let empty = self.m == 0 || self.n == 0;
        if empty || self.k == 0 {
            c.iter_mut().for_each(|c| *c = 0.0);
            return Some(());
        }
        let fits = reach(self.m, self.k, self.a_strides) < a.len()
            && reach(self.k, self.n, self.b_strides) < b.len()
            && c.len() >= self.m * self.n;
        if !fits {
            return None;
        }
        // SAFETY: the line above shows that every element addressed by the strides lies inside its slice.
        unsafe {
            matrixmultiply::sgemm(
                self.m,
                self.k,
                self.n,
                1.0,
                a.as_ptr(),
                self.a_strides[0] as isize,
                self.a_strides[1] as isize,
                b.as_ptr(),
                self.b_strides[0] as isize,
                self.b_strides[1] as isize,
                0.0,
                c.as_mut_ptr(),
                self.n as isize,
                1,
            );
        }
        Some(())
    }
}

fn add_bias(out: &mut [f32], n: usize, bias: Option<&[f32]>) {
    if let Some(bias) = bias {
        for row in out.chunks_exact_mut(n.max(1)) {
            row.iter_mut().zip(bias.iter().cycle()).for_each(|(y, b)| *y += b);
        }
    }
}

fn linear(x: &[f32], w: &[f32], bias: Option<&[f32]>, w_shape: &[usize]) -> Option<Data> {
    let [n, k] = w_shape[..] else { return None };
    let m = x.len().checked_div(k)?;
    let mut out = vec![0.0; m * n];
    Gemm { m, k, n, a_strides: [k, 1], b_strides: [1, k] }.run(x, w, &mut out)?;
    add_bias(&mut out, n, bias);
    Some(Data::Float(out))
}

fn matmul(a: Operand<'_>, b: Operand<'_>, transpose_b: bool, shape: &[usize]) -> Option<Data> {
    // One-dimensional operands are a row on the left and a column on the right.
    let a_shape = if a.0.len() == 1 { vec![1, a.0[0]] } else { a.0.to_vec() };
    let b_shape = if b.0.len() == 1 { vec![b.0[0], 1] } else { b.0.to_vec() };
    let (ra, rb) = (a_shape.len().checked_sub(2)?, b_shape.len().checked_sub(2)?);
    let (m, k) = (a_shape[ra], a_shape[ra + 1]);
    let (bk, n) = if transpose_b { (b_shape[rb + 1], b_shape[rb]) } else { (b_shape[rb], b_shape[rb + 1]) };
    if k != bk {
        return None;
    }
    let batch_rank = ra.max(rb);
    let mut batch = vec![1usize; batch_rank];
    for (d, size) in batch.iter_mut().enumerate() {
        let dim = |s: &[usize], r: usize| (d + r).checked_sub(batch_rank).map_or(1, |i| s[i]);
        *size = dim(&a_shape, ra).max(dim(&b_shape, rb));
    }
    let strides = |s: &[usize], r: usize, matrix: usize| -> Option<Vec<isize>> {
        Some(broadcast_strides(&s[..r], &batch)?.iter().map(|&x| x * matrix as isize).collect())
    };
    let (sa, sb) = (strides(&a_shape, ra, m * k)?, strides(&b_shape, rb, k * n)?);
    let (mut a_at, mut b_at) = (Vec::new(), Vec::new());
    walk(0, &batch, &sa, |i| a_at.push(i));
    walk(0, &batch, &sb, |i| b_at.push(i));
    let (a, b) = (a.1.floats()?, b.1.floats()?);
    let mut out = vec![0.0; shape.iter().product()];
    if out.len() != a_at.len() * m * n {
        return None;
    }
    let b_strides = if transpose_b { [1, k] } else { [n, 1] };
    for ((a_at, b_at), out) in a_at.into_iter().zip(b_at).zip(out.chunks_exact_mut((m * n).max(1))) {
        Gemm { m, k, n, a_strides: [k, 1], b_strides }.run(a.get(a_at..)?, b.get(b_at..)?, out)?;
    }
    Some(Data::Float(out))
}

type Image<'a> = (&'a [usize], &'a [f32]);

/// For every window element of one output pixel the input row and column, where inside the image.
fn taps(window: &Window, y: usize, x: usize, h: usize, w: usize) -> impl Iterator<Item = Option<(usize, usize)>> + '_ {
    let place = move |out: usize, i: usize, d: usize, size: usize| {
        let at = (out * window.strides[d] + i * window.dilations[d]).checked_sub(window.pads[d])?;
        (at < size).then_some(at)
    };
    (0..window.kernel[0])
        .flat_map(move |i| (0..window.kernel[1]).map(move |j| Some((place(y, i, 0, h)?, place(x, j, 1, w)?))))
}

/// The window contents of every output pixel of an ungrouped convolution: rows of `kernel_h * kernel_w * channels`,
/// channels fastest, zeros outside the image. `None` where `x` (`[batch, c, h, w]`) does not fit `out` (`[.., oh, ow]`).
pub fn patches(shape: &[usize], x: &[f32], window: &Window, out: &[usize]) -> Option<Vec<f32>> {
    let ([_, c, h, w], [_, _, oh, ow]) = (shape, out) else { return None };
    let n_taps = window.kernel[0] * window.kernel[1];
    let mut rows = Vec::with_capacity(x.len() / (c * h * w).max(1) * oh * ow * n_taps * c);
    for image in x.chunks_exact((c * h * w).max(1)) {
        for pixel in 0..oh * ow {
            for at in taps(window, pixel / ow, pixel % ow, *h, *w) {
                rows.extend(
                    (0..*c).map(|channel| at.map_or(0.0, |(row, column)| image[channel * h * w + row * w + column])),
                );
            }
        }
    }
    Some(rows)
}

fn conv2d(x: Image<'_>, w: Image<'_>, bias: Option<&[f32]>, window: &Window, shape: &[usize]) -> Option<Data> {
    let ([batch, c, h, width], [n, group_c, ..], [_, _, oh, ow]) = (x.0, w.0, shape) else { return None };
    let groups = window.groups.max(1);
    let n_taps = window.kernel[0] * window.kernel[1];
    let (group_n, k, pixels) = (n / groups, group_c * n_taps, oh * ow);
    let mut out = vec![0.0; batch * n * pixels];
    let mut columns = vec![0.0; k * pixels];
    for (image, out) in x.1.chunks_exact(c * h * width).zip(out.chunks_exact_mut(n * pixels)) {
        for group in 0..groups {
            columns.iter_mut().for_each(|v| *v = 0.0);
            for pixel in 0..pixels {
                for (tap, at) in taps(window, pixel / ow, pixel % ow, *h, *width).enumerate() {
                    let Some((row, column)) = at else { continue };
                    for channel in 0..*group_c {
                        let source = (group * group_c + channel) * h * width + row * width + column;
                        columns[(channel * n_taps + tap) * pixels + pixel] = *image.get(source)?;
                    }
                }
            }
            let weights = w.1.get(group * group_n * k..)?;
            let out = out.get_mut(group * group_n * pixels..(group + 1) * group_n * pixels)?;
            Gemm { m: group_n, k, n: pixels, a_strides: [k, 1], b_strides: [pixels, 1] }.run(weights, &columns, out)?;
        }
        if let Some(bias) = bias {
            for (row, b) in out.chunks_exact_mut(pixels).zip(bias) {
                row.iter_mut().for_each(|y| *y += b);
            }
        }
    }
    Some(Data::Float(out))
}

fn pool(
    x: Image<'_>,
    window: &Window,
    shape: &[usize],
    f: impl Fn(&mut dyn Iterator<Item = f32>, usize) -> f32,
) -> Option<Data> {
    let ([_, _, h, w], [_, _, oh, ow]) = (x.0, shape) else { return None };
    let mut out = Vec::with_capacity(shape.iter().product());
    for plane in x.1.chunks_exact((h * w).max(1)) {
        for pixel in 0..oh * ow {
            let mut values = taps(window, pixel / ow, pixel % ow, *h, *w).flatten().map(|(r, c)| plane[r * w + c]);
            out.push(f(&mut values, window.kernel[0] * window.kernel[1]));
        }
    }
    Some(Data::Float(out))
}

fn rows(x: &[f32], shape: &[usize], f: impl Fn(&[f32], &mut [f32])) -> Option<Data> {
    let n = shape.last().copied().unwrap_or(1).max(1);
    let mut out = vec![0.0; x.len()];
    for (x, y) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        f(x, y);
    }
    Some(Data::Float(out))
}

fn softmax_row(x: &[f32], y: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0f64;
    for (x, y) in x.iter().zip(y.iter_mut()) {
        // A row that is masked out everywhere has no maximum: it becomes uniform instead of NaN.
        *y = if max == f32::NEG_INFINITY { 1.0 } else { (x - max).exp() };
        sum += f64::from(*y);
    }
    y.iter_mut().for_each(|y| *y = (f64::from(*y) / sum) as f32);
}

fn norm_row(x: &[f32], y: &mut [f32], gamma: Option<&[f32]>, beta: Option<&[f32]>, eps: f64, centre: bool) {
    let n = x.len() as f64;
    let mean = if centre { x.iter().map(|&v| f64::from(v)).sum::<f64>() / n } else { 0.0 };
    let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
    let factor = 1.0 / (variance + eps).sqrt();
    let at = |values: Option<&[f32]>, i: usize, default: f64| match values {
        Some([one]) => f64::from(*one),
        Some(values) => values.get(i).map_or(default, |&v| f64::from(v)),
        None => default,
    };
    for (i, (x, y)) in x.iter().zip(y).enumerate() {
        *y = ((f64::from(*x) - mean) * factor * at(gamma, i, 1.0) + at(beta, i, 0.0)) as f32;
    }
}

fn concat(inputs: &[Operand<'_>], axis: usize, shape: &[usize]) -> Option<Data> {
    fn join<T: Copy>(parts: &[(&[usize], &[T])], axis: usize, shape: &[usize]) -> Vec<T> {
        let outer: usize = shape.iter().take(axis).product();
        let mut out = Vec::with_capacity(shape.iter().product());
        for i in 0..outer {
            for (part, values) in parts {
                let block: usize = part.iter().skip(axis).product();
                out.extend_from_slice(&values[i * block..(i + 1) * block]);
            }
        }
        out
    }
    let first = inputs.first()?.1.dtype();
    let aligned = inputs.iter().all(|(s, d)| {
        let same = |(i, (a, b)): (usize, (&usize, &usize))| i == axis || a == b;
        s.len() == shape.len() && d.dtype() == first && s.iter().zip(shape).enumerate().all(same)
    });
    if !aligned || axis >= shape.len() {
        return None;
    }
    match first {
        DataType::Float => {
            let parts: Option<Vec<_>> = inputs.iter().map(|(s, d)| Some((*s, d.floats()?))).collect();
            Some(Data::Float(join(&parts?, axis, shape)))
        }
        DataType::Int => {
            let parts: Option<Vec<_>> = inputs.iter().map(|(s, d)| Some((*s, d.ints()?))).collect();
            Some(Data::Int(join(&parts?, axis, shape)))
        }
        DataType::Bool => {
            let part = |d: &Data| if let Data::Bool(v) = d { Some(v.clone()) } else { None };
            let owned: Option<Vec<_>> = inputs.iter().map(|(s, d)| Some((*s, part(d)?))).collect();
            let owned = owned?;
            let parts: Vec<_> = owned.iter().map(|(s, v)| (*s, v.as_slice())).collect();
            Some(Data::Bool(join(&parts, axis, shape)))
        }
    }
}

fn gather(x: Operand<'_>, indices: Operand<'_>, axis: usize) -> Option<Data> {
    let size = *x.0.get(axis)?;
    let inner: usize = x.0[axis + 1..].iter().product();
    let outer: usize = x.0[..axis].iter().product();
    let indices: Option<Vec<usize>> = indices
        .1
        .ints()?
        .iter()
        .map(|&i| usize::try_from(if i < 0 { i + size as i64 } else { i }).ok().filter(|&i| i < size))
        .collect();
    let indices = indices?;
    fn take<T: Copy>(v: &[T], indices: &[usize], outer: usize, size: usize, inner: usize) -> Vec<T> {
        let mut out = Vec::with_capacity(outer * indices.len() * inner);
        for block in 0..outer {
            for &i in indices {
                let start = (block * size + i) * inner;
                out.extend_from_slice(&v[start..start + inner]);
            }
        }
        out
    }
    Some(match x.1 {
        Data::Float(v) => Data::Float(take(v, &indices, outer, size, inner)),
        Data::Int(v) => Data::Int(take(v, &indices, outer, size, inner)),
        Data::Bool(v) => Data::Bool(take(v, &indices, outer, size, inner)),
    })
}

fn pad(x: Operand<'_>, before: &[usize], value: f32, shape: &[usize]) -> Option<Data> {
    if before.len() != shape.len() || x.0.len() != shape.len() {
        return None;
    }
    let strides = contiguous_strides(shape);
    let offset = before.iter().zip(&strides).map(|(&b, &s)| b * s).sum();
    let signed: Vec<isize> = strides.iter().map(|&s| s as isize).collect();
    fn place<T: Copy>(
        v: &[T],
        fill: T,
        len: usize,
        offset: usize,
        from: &[usize],
        strides: &[isize],
    ) -> Option<Vec<T>> {
        let mut out = vec![fill; len];
        let mut source = v.iter();
        let mut inside = true;
        walk(offset, from, strides, |i| match (out.get_mut(i), source.next()) {
            (Some(to), Some(&v)) => *to = v,
            _ => inside = false,
        });
        inside.then_some(out)
    }
    let len = shape.iter().product();
    Some(match x.1 {
        Data::Float(v) => Data::Float(place(v, value, len, offset, x.0, &signed)?),
        Data::Int(v) => Data::Int(place(v, value as i64, len, offset, x.0, &signed)?),
        Data::Bool(v) => Data::Bool(place(v, value != 0.0, len, offset, x.0, &signed)?),
    })
}

fn reduce(x: Operand<'_>, kind: Reduce, axes: &[usize]) -> Option<Data> {
    let rank = x.0.len();
    if axes.iter().any(|&a| a >= rank) {
        return None;
    }
    // Output strides are 0 along reduced dimensions.
    let kept: Vec<usize> = (0..rank).filter(|d| !axes.contains(d)).collect();
    let out_shape: Vec<usize> = kept.iter().map(|&d| x.0[d]).collect();
    let own = contiguous_strides(&out_shape);
    let mut strides = vec![0isize; rank];
    for (&d, &s) in kept.iter().zip(&own) {
        strides[d] = s as isize;
    }
    let len: usize = out_shape.iter().product();
    let count: usize = axes.iter().map(|&a| x.0[a]).product();
    let start = match kind {
        Reduce::Mean | Reduce::Sum => 0.0,
        Reduce::Prod => 1.0,
        Reduce::Max => f64::NEG_INFINITY,
        Reduce::Min => f64::INFINITY,
    };
    let is_int = x.1.dtype() == DataType::Int;
    let values: Vec<f64> = match x.1 {
        Data::Int(v) => v.iter().map(|&v| v as f64).collect(),
        other => other.to_f32().into_iter().map(f64::from).collect(),
    };
    let mut out = vec![start; len];
    let mut source = values.iter();
    walk(0, x.0, &strides, |i| {
        let (Some(acc), Some(&v)) = (out.get_mut(i), source.next()) else { return };
        *acc = match kind {
            Reduce::Mean | Reduce::Sum => *acc + v,
            Reduce::Prod => *acc * v,
            Reduce::Max => acc.max(v),
            Reduce::Min => acc.min(v),
        };
    });
    if kind == Reduce::Mean {
        out.iter_mut().for_each(|v| *v /= count.max(1) as f64);
    }
    Some(if is_int {
        Data::Int(out.iter().map(|&v| v as i64).collect())
    } else {
        Data::Float(out.iter().map(|&v| v as f32).collect())
    })
}

fn fake_quant(x: Image<'_>, quant: &FakeQuant) -> Option<Data> {
    let channels = quant.scale.len();
    let inner: usize = if channels > 1 { x.0.get(quant.axis + 1..)?.iter().product() } else { 1 };
    if channels > 1 && x.0.get(quant.axis) != Some(&channels) {
        return None;
    }
    let (low, high) = (f64::from(quant.range.0), f64::from(quant.range.1));
    let values = x.1.iter().enumerate().map(|(i, &v)| {
        let channel = if channels > 1 { (i / inner.max(1)) % channels } else { 0 };
        let scale = f64::from(quant.scale.get(channel).copied().unwrap_or(1.0));
        let zero = f64::from(quant.zero_point.get(channel).copied().unwrap_or(0));
        let q = ((f64::from(v) / scale).round_ties_even() + zero).clamp(low, high);
        ((q - zero) * scale) as f32
    });
    Some(Data::Float(values.collect()))
}

/// The element where row `row` of `head` of `batch` starts.
fn view_start(view: &HeadView, batch: usize, head: usize) -> usize {
    view.offset + batch * view.batch + head * view.head
}

fn attend(a: &Attention, inputs: &[Operand<'_>], shape: &[usize]) -> Option<Data> {
    let [q, k, v] = [inputs.first()?.1.floats()?, inputs.get(1)?.1.floats()?, inputs.get(2)?.1.floats()?];
    let score_shape = [a.batch, a.heads, a.n_q, a.n_k];
    let mut biases = Vec::new();
    for &(from, data) in inputs.iter().skip(3) {
        let extra = from.len().saturating_sub(4);
        let merged: Vec<usize> = if extra > 0 {
            // Leading batch dimensions count as one.
            let lead = from[..=extra].iter().product();
            std::iter::once(lead).chain(from[extra + 1..].iter().copied()).collect()
        } else {
            from.to_vec()
        };
        biases.push((broadcast_strides(&merged, &score_shape)?, data.floats()?));
    }
    let mut out = vec![0.0f32; shape.iter().product()];
    let mut scores = vec![0.0f32; a.n_q * a.n_k];
    let mut exps = vec![0.0f32; a.n_k];
    let mut values = vec![0.0f32; a.n_q * a.v_dim];
    let group = (a.heads / a.kv_heads.max(1)).max(1);
    for batch in 0..a.batch {
        for head in 0..a.heads {
            let q = q.get(view_start(&a.q, batch, head)..)?;
            let k = k.get(view_start(&a.k, batch, head / group)..)?;
            let v = v.get(view_start(&a.v, batch, head / group)..)?;
            let gemm = Gemm { m: a.n_q, k: a.head_dim, n: a.n_k, a_strides: [a.q.row, 1], b_strides: [1, a.k.row] };
            gemm.run(q, k, &mut scores)?;
            for (row, scores) in scores.chunks_exact_mut(a.n_k.max(1)).enumerate() {
                for (column, score) in scores.iter_mut().enumerate() {
                    *score *= a.scale;
                    for (strides, bias) in &biases {
                        let index = [batch, head, row, column];
                        let at: isize = strides.iter().zip(index).map(|(&s, i)| s * i as isize).sum();
                        *score += bias.get(at as usize)?;
                    }
                }
                softmax_row(scores, &mut exps);
                scores.copy_from_slice(&exps);
            }
            let gemm = Gemm { m: a.n_q, k: a.n_k, n: a.v_dim, a_strides: [a.n_k, 1], b_strides: [a.v.row, 1] };
            gemm.run(&scores, v, &mut values)?;
            let start = view_start(&a.out, batch, head);
            for (row, values) in values.chunks_exact(a.v_dim.max(1)).enumerate() {
                out.get_mut(start + row * a.out.row..)?.get_mut(..a.v_dim)?.copy_from_slice(values);
            }
        }
    }
    Some(Data::Float(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float(op: &Op, inputs: &[(&[usize], Vec<f32>)], shape: &[usize]) -> Vec<f32> {
        let data: Vec<(&[usize], Data)> = inputs.iter().map(|(s, v)| (*s, Data::Float(v.clone()))).collect();
        let operands: Vec<Operand<'_>> = data.iter().map(|(s, d)| (*s, d)).collect();
        eval_node(op, &operands, shape, DataType::Float).unwrap().floats().unwrap().to_vec()
    }

    #[test]
    fn products_broadcast_their_batches() {
        let a = (0..8).map(|v| v as f32).collect();
        let b = vec![1.0, 0.0, 0.0, 2.0];
        let y = float(&Op::MatMul { transpose_b: false }, &[(&[2, 2, 2], a), (&[2, 2], b)], &[2, 2, 2]);
        assert_eq!(y, [0.0, 2.0, 2.0, 6.0, 4.0, 10.0, 6.0, 14.0]);
    }

    #[test]
    fn binary_broadcasts_both_sides() {
        let y = float(&Op::Binary(Binary::Sub), &[(&[2, 1], vec![10.0, 20.0]), (&[3], vec![1.0, 2.0, 3.0])], &[2, 3]);
        assert_eq!(y, [9.0, 8.0, 7.0, 19.0, 18.0, 17.0]);
    }

    #[test]
    fn convolution_matches_a_hand_computed_window() {
        let window = Window { kernel: [2, 2], strides: [1, 1], pads: [0, 0, 1, 1], dilations: [1, 1], groups: 1 };
        let x = (1..=4).map(|v| v as f32).collect();
        let y = float(&Op::Conv2d(window), &[(&[1, 1, 2, 2], x), (&[1, 1, 2, 2], vec![1.0; 4])], &[1, 1, 2, 2]);
        assert_eq!(y, [10.0, 6.0, 7.0, 4.0]);
    }

    #[test]
    fn slices_run_backwards() {
        let op = Op::Slice { starts: vec![2], steps: vec![-1] };
        assert_eq!(float(&op, &[(&[3], vec![1.0, 2.0, 3.0])], &[3]), [3.0, 2.0, 1.0]);
    }

    #[test]
    fn integer_division_truncates_and_modulo_floors() {
        assert_eq!(binary_i64(Binary::Div, -7, 2), -3);
        assert_eq!(binary_i64(Binary::Mod, -7, 3), 2);
        assert_eq!(binary_i64(Binary::Mod, 7, -3), -2);
        assert_eq!(binary_i64(Binary::Div, 1, 0), 0);
    }

    #[test]
    fn operands_that_do_not_fit_are_an_error() {
        let x = Data::Float(vec![1.0; 6]);
        let w = Data::Float(vec![1.0; 4]);
        assert!(eval_node(&Op::Linear, &[(&[2, 3], &x), (&[2, 2], &w)], &[2, 2], DataType::Float).is_err());
        assert!(eval_node(&Op::Binary(Binary::Add), &[(&[2, 3], &x), (&[4], &w)], &[2, 3], DataType::Float).is_err());
        assert!(eval_node(&Op::Softmax, &[], &[1], DataType::Float).is_err());
    }

    #[test]
    fn attention_is_the_softmax_of_the_products() {
        let view = HeadView { offset: 0, batch: 4, head: 0, row: 2 };
        let a = Attention {
            batch: 1,
            heads: 1,
            kv_heads: 1,
            n_q: 2,
            n_k: 2,
            head_dim: 2,
            v_dim: 2,
            scale: 0.0,
            q: view,
            k: view,
            v: view,
            out: view,
        };
        let x = || vec![1.0, 2.0, 3.0, 4.0];
        let y = float(&Op::Attention(a), &[(&[1, 2, 2], x()), (&[1, 2, 2], x()), (&[1, 2, 2], x())], &[1, 2, 2]);
        assert_eq!(y, [2.0, 3.0, 2.0, 3.0]);
    }
}
