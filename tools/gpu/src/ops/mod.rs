//! The operators: each folder holds one operator's shader, the dispatches it takes, and its tests against the portable
//! runtime. A `Params` structure in WGSL is the operands, what the host computes, then the operator's parameter words
//! in the order of the file format.

use crate::error::GpuError;
use crate::gpu::Abilities;
use crate::layout::{Layout, Operands, Region, Source};
use crate::step::{self, Buffer, Params, Shader, Step, Tensor, Work};
use shiftformer::ops::Op;
use shiftformer::tensor::Dtype;

mod add;
mod attention;
mod conv2d;
mod copy;
mod depthwise;
mod dyadic_requant;
mod gather;
mod i_layer_norm;
mod layer_norm;
mod linear;
mod lut;
mod matmul;
mod mul;
mod pool;
mod reduce_mean;
mod requant;
mod shiftgelu;
mod shiftmax;
mod softmax;

/// Most terms that one invocation sums for an element: it makes up to four, and Mesa's software driver ends all loops of
/// an invocation, without a word, after 65535 iterations together.
const MAX_TERMS: u32 = 16_000;

/// Collects the dispatches of one operator.
pub struct Builder<'l> {
    op: usize,
    operands: &'l Operands,
    fault: Region,
    capacity: u64,
    abilities: Abilities,
    scratch_words: u64,
    steps: Vec<Step>,
}

impl<'l> Builder<'l> {
    /// For operator `op` in a batch of `capacity` samples on a device of these abilities; scratch memory starts behind
    /// what `layout` holds.
    pub fn new(op: usize, operands: &'l Operands, layout: &Layout, capacity: u64, abilities: Abilities) -> Self {
        let (fault, scratch_words) = (layout.fault, layout.words);
        Self { op, operands, fault, capacity, abilities, scratch_words, steps: Vec::new() }
    }

    /// Appends the dispatches of `op`.
    ///
    /// # Errors
    /// [`GpuError::Op`].
    pub fn add(&mut self, op: &Op) -> Result<(), GpuError> {
        match op {
            Op::Linear(params) => linear::steps(self, params),
            Op::Conv2d(params) => conv2d::steps(self, params),
            Op::DepthwiseConv2d(params) => depthwise::steps(self, params),
            Op::MatMul(params) => matmul::steps(self, params),
            Op::Attention(params) => attention::fused::steps(self, &params.attention),
            Op::AttentionScores(params) => attention::scores::steps(self, &params.attention),
            Op::AttentionExp(params) => attention::exp::steps(self, &params.attention),
            Op::AttentionValues(params) => attention::values::steps(self, &params.attention),
            Op::Softmax(params) => softmax::steps(self, params),
            Op::LayerNorm(params) => layer_norm::steps(self, params),
            Op::Add(params) => add::steps(self, params),
            Op::Mul(params) => mul::steps(self, params),
            Op::Lut(params) => lut::steps(self, params),
            Op::Requant(params) => requant::steps(self, params),
            Op::Copy(params) => copy::steps(self, params),
            Op::Gather(params) => gather::steps(self, params),
            Op::ReduceMean(params) => reduce_mean::steps(self, params),
            Op::Pool2d(params) => pool::steps(self, params),
            Op::DyadicRequant(params) => dyadic_requant::steps(self, params),
            Op::Shiftmax(params) => shiftmax::steps(self, params),
            Op::ShiftGelu(params) => shiftgelu::steps(self, params),
            Op::ILayerNorm(params) => i_layer_norm::steps(self, params),
            Op::KvAppend(_) | Op::CausalAttention(_) | Op::Rope(_) => {
                Err(self.broken("it depends on a position, which the GPU does not know yet"))
            }
        }
    }

    /// The dispatches, and the words per sample up to the end of the scratch memory.
    pub fn finish(self) -> (Vec<Step>, u64) {
        (self.steps, self.scratch_words)
    }

    /// Input `index`, absent where there is none.
    pub(crate) fn input(&self, index: usize) -> Tensor {
        match self.operands.inputs.get(index).copied().flatten() {
            Some(Source::Region(region)) => region.tensor(self.capacity),
            Some(Source::Weights(record)) => {
                Tensor { base: record.offset / 4, stride: 0, dtype: record.dtype, buffer: Buffer::Weights }
            }
            None => Tensor::ABSENT,
        }
    }

    fn output(&self) -> Tensor {
        self.operands.output.tensor(self.capacity)
    }

    /// `bytes` of scratch memory per sample.
    fn scratch(&mut self, bytes: u64, dtype: Dtype) -> Result<Tensor, GpuError> {
        let bytes = usize::try_from(bytes).map_err(|_| self.broken("its scratch memory is too large"))?;
        let region = Region { offset: self.scratch_words, bytes, dtype };
        self.scratch_words += region.words();
        Ok(region.tensor(self.capacity))
    }

    fn fault(&self) -> Tensor {
        self.fault.tensor(self.capacity)
    }

    /// Parameters that start with `tensors`.
    fn params(&self, tensors: &[Tensor]) -> Params {
        Params::new(self.op, tensors)
    }

    /// A shader built on `elementwise.wgsl` that makes `len` elements of `out`; `params` starts with its inputs.
    fn elements(&mut self, shader: &'static Shader, out: Tensor, len: u64, params: Params) -> Result<(), GpuError> {
        let params = self.params(&[out]).with(len as u32).followed_by(params);
        self.groups(shader, params, step::word_groups(len, out.dtype))
    }

    /// A shader built on `rows.wgsl`: statistics of each of `rows` rows of `n` elements of `x`, then the elements of `out`;
    /// `params` starts with both, `rows` and `n`.
    fn row_stats(
        &mut self,
        shader: &'static Shader,
        [x, out]: [Tensor; 2],
        params: Params,
        rows: u64,
        n: u32,
    ) -> Result<(), GpuError> {
        self.check_terms(u64::from(n) / step::ROW_INVOCATIONS)?;
        let params = params.constant("FROM", x.dtype as u32).constant("TO", out.dtype as u32);
        let params = params.constant("FOURS", n.is_multiple_of(4));
        self.groups(shader, params, rows.div_ceil(step::ROWS_OF_GROUP))
    }

    /// A shader that takes `count` workgroups.
    fn groups(&mut self, shader: &'static Shader, params: Params, count: u64) -> Result<(), GpuError> {
        self.push(shader, params, Work::PerSample(count))
    }

    /// A shader that takes `columns` workgroups for every `size` rows of all samples together, `rows` each.
    fn batch_tiles(
        &mut self,
        shader: &'static Shader,
        params: Params,
        rows: u64,
        size: u64,
        columns: u64,
    ) -> Result<(), GpuError> {
        self.push(shader, params, Work::Tiles { rows, size, columns })
    }

    fn push(&mut self, shader: &'static Shader, params: Params, work: Work) -> Result<(), GpuError> {
        self.steps.push(Step::new(shader, params, work, self.capacity)?);
        Ok(())
    }

    /// Refuses an operator whose elements have more than [`MAX_TERMS`] terms.
    fn check_terms(&self, terms: u64) -> Result<(), GpuError> {
        if terms > u64::from(MAX_TERMS) { Err(self.broken("its sums are too long for one invocation")) } else { Ok(()) }
    }

    fn broken(&self, reason: &'static str) -> GpuError {
        GpuError::Op { op: self.op, reason }
    }
}

/// Number of elements of `dims`.
fn product(dims: &[u32]) -> u64 {
    dims.iter().map(|&d| u64::from(d)).product()
}
