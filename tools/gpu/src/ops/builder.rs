//! What the operators are made with: their operands, scratch memory, and the dispatches they take.

use crate::error::GpuError;
use crate::gpu::Abilities;
use crate::layout::{Layout, Operands, Region, Source};
use crate::step::{self, Beside, Buffer, Params, Shader, Step, Tensor, Work};
use shiftformer::ops::layer_norm::LayerNorm;
use shiftformer::tensor::Dtype;

/// Most terms that one invocation sums for an element: it makes up to four, and Mesa's software driver ends all loops of
/// an invocation, silently, after 65535 iterations together.
pub(super) const MAX_TERMS: u32 = 16_000;

/// A norm of the output of an operator that may follow in the operator's own dispatch.
#[derive(Clone, Copy)]
pub struct Following {
    /// Index of the norm.
    pub op: usize,
    /// Its parameters.
    pub norm: LayerNorm,
    /// What it writes.
    pub out: Tensor,
    /// The operator that copies the whole of what it writes.
    pub copy: Option<usize>,
    /// What that writes, or absent.
    pub again: Tensor,
}

/// Collects the dispatches of one operator.
pub struct Builder<'l> {
    pub(super) op: usize,
    pub(super) operands: &'l Operands,
    pub(super) fault: Region,
    step: Option<Region>,
    pub(super) capacity: u64,
    pub(super) abilities: Abilities,
    pub(super) following: Option<Following>,
    absorbed: Vec<usize>,
    pub(super) scratch_words: u64,
    pub(super) steps: Vec<Step>,
}

impl<'l> Builder<'l> {
    /// For operator `op` in a batch of `capacity` samples on a device of these abilities; scratch memory starts behind
    /// what `layout` holds.
    pub fn new(op: usize, operands: &'l Operands, layout: &Layout, capacity: u64, abilities: Abilities) -> Self {
        let (fault, step, scratch_words) = (layout.fault, layout.step, layout.words);
        let (following, absorbed, steps) = (None, Vec::new(), Vec::new());
        Self { op, operands, fault, step, capacity, abilities, following, absorbed, scratch_words, steps }
    }

    /// With a norm of the output that the dispatches may make too.
    pub fn followed_by(self, following: Option<Following>) -> Self {
        Self { following, ..self }
    }

    /// The dispatches, the words per sample up to the end of the scratch memory, and the later operators that these
    /// dispatches are as well.
    pub fn finish(self) -> (Vec<Step>, u64, Vec<usize>) {
        (self.steps, self.scratch_words, self.absorbed)
    }

    /// The norm that follows is made by this operator's dispatches.
    pub(super) fn absorb_following(&mut self) {
        let found = self.following.take();
        self.absorbed.extend(found.into_iter().flat_map(|f| [Some(f.op), f.copy]).flatten());
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

    pub(super) fn output(&self) -> Tensor {
        self.operands.output.tensor(self.capacity)
    }

    /// `bytes` of scratch memory per sample.
    pub(super) fn scratch(&mut self, bytes: u64, dtype: Dtype) -> Result<Tensor, GpuError> {
        let bytes = usize::try_from(bytes).map_err(|_| self.broken("its scratch memory is too large"))?;
        let region = Region { offset: self.scratch_words, bytes, dtype };
        self.scratch_words += region.words();
        Ok(region.tensor(self.capacity))
    }

    pub(super) fn fault(&self) -> Tensor {
        self.fault.tensor(self.capacity)
    }

    /// Position of the run and its rows, two words.
    pub(super) fn position(&self) -> Tensor {
        self.step.map_or(Tensor::ABSENT, |step| step.tensor(self.capacity))
    }

    /// Parameters that start with `tensors`.
    pub(super) fn params(&self, tensors: &[Tensor]) -> Params {
        Params::new(self.op, tensors)
    }

    /// A shader built on `elementwise.wgsl` that makes `len` elements of `out`; `params` starts with its inputs.
    pub(super) fn elements(
        &mut self,
        shader: &'static Shader,
        out: Tensor,
        len: u64,
        params: Params,
    ) -> Result<(), GpuError> {
        let params = self.params(&[out]).with(len as u32).followed_by(params);
        self.groups(shader, params, step::word_groups(len, out.dtype))
    }

    /// A shader built on `rows.wgsl`: statistics of each of `rows` rows of `n` elements of `x`, then the elements of `out`;
    /// `params` starts with both, `rows` and `n`.
    pub(super) fn row_stats(
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
    pub(super) fn groups(&mut self, shader: &'static Shader, params: Params, count: u64) -> Result<(), GpuError> {
        self.push(shader, params, Work::PerSample(count))
    }

    /// A shader that takes `columns` workgroups for every `size` rows of all samples together, `rows` each.
    pub(super) fn batch_tiles(
        &mut self,
        shader: &'static Shader,
        params: Params,
        rows: u64,
        size: u64,
        columns: u64,
    ) -> Result<(), GpuError> {
        self.push(shader, params, Work::Tiles { rows, size, columns })
    }

    pub(super) fn push(&mut self, shader: &'static Shader, params: Params, work: Work) -> Result<(), GpuError> {
        self.steps.push(Step::new(shader, params, work, self.capacity)?);
        Ok(())
    }

    /// The last step can run beside others.
    pub(super) fn beside(&mut self, beside: Beside) {
        if let Some(step) = self.steps.last_mut() {
            step.beside = Some(beside);
        }
    }

    /// Refuses an operator whose elements have more than [`MAX_TERMS`] terms.
    pub(super) fn check_terms(&self, terms: u64) -> Result<(), GpuError> {
        if terms > u64::from(MAX_TERMS) { Err(self.broken("its sums are too long for one invocation")) } else { Ok(()) }
    }

    pub(super) fn broken(&self, reason: &'static str) -> GpuError {
        GpuError::Op { op: self.op, reason }
    }
}

/// Number of elements of `dims`.
pub(super) fn product(dims: &[u32]) -> u64 {
    dims.iter().map(|&d| u64::from(d)).product()
}
