//! Multi-head attention without the score matrix, and the same computation in three operators with it.
//!
//! For each batch, head and query row `i`:
//!
//! 1. `s_j = mulhi_round((q_i . k_j) << acc_shift, score_multiplier) + bias0_ij + bias1_ij`, in log2 units with 8
//!    fractional bits;
//! 2. `e_j = 2^-(max_j s_j - s_j)` in 8 or 16 bits ([`crate::arith::exp`]);
//! 3. `y_i = sat8(zero_point + (sum_j e_j v_j) * ratio / sum_j e_j)`, one rounding, one division a row.
//!
//! The fused operator holds [`ROW_BLOCK`] rows of scores at a time, so its memory grows with `n_k`, not with
//! `n_q * n_k`. The unfused operators write scores and exponentials out and give the same bytes.

pub mod causal;

use super::matmul::TRANSPOSE_WORK;
use super::{
    Division, Inputs, Memory, OpFault, Operands, Operator, Proof, RowAccess, RowRead, RunFault, STEP_WORK, require,
};
use crate::arith::exp::{EXP2_ONE, RowScale};
use crate::arith::requant::mulhi_round;
use crate::format::op_params;
use crate::kernels::{AttentionJob, DotJob, ExpRow, Kernels, ROW_BLOCK, ScoreBias, ScoreScale, linear_scratch_bytes};
use crate::stepwise::stepwise;
use crate::tensor::Dtype;
use core::ops::Range;

op_params! {
    /// Parameters of all four forms. Inputs: 0 `q`, 1 `k`, 2 `v` (`i8`), 3 and 4 optional biases (`i16`).
    AttentionParams {
        /// Independent attentions (windows).
        batch: u32,
        /// Query heads.
        heads: u32,
        /// Query heads that share a key head (1 unless grouped-query).
        kv_group: u32,
        /// Query rows.
        n_q: u32,
        /// Key rows.
        n_k: u32,
        /// Width of a query or key row.
        head_dim: u32,
        /// Width of a value row.
        v_dim: u32,
        /// 16-bit exponentials instead of 8-bit.
        wide_exp: bool,
        /// Left shift of score accumulators.
        acc_shift: u32,
        /// Scores to log2 units.
        score_multiplier: i32,
        /// Significant bits of `s_v / s_out`, in `2^14 .. 2^15`.
        ratio_m: u32,
        /// `s_v / s_out = ratio_m * 2^-ratio_shift`, in `10..=20`.
        ratio_shift: u32,
        /// Zero point of the output.
        zero_point: i32,
        /// Where query rows lie.
        q: HeadView,
        /// Where key rows lie.
        k: HeadView,
        /// Where value rows lie.
        v: HeadView,
        /// Where output rows lie.
        out: HeadView,
        /// Where the first bias lies.
        bias0: BiasView,
        /// Where the second bias lies.
        bias1: BiasView,
    }
}

op_params! {
    /// Rows of all heads in a tensor: row `i` of head `h` of batch `b` starts at
    /// `offset + b * batch + h * head + i * row`, in elements.
    HeadView {
        /// First element.
        offset: u32,
        /// Elements between batches.
        batch: u32,
        /// Elements between heads.
        head: u32,
        /// Elements between rows.
        row: u32,
    }
}

impl HeadView {
    fn start(&self, batch: u32, head: u32) -> usize {
        self.offset as usize + batch as usize * self.batch as usize + head as usize * self.head as usize
    }

    /// Where the row of `unit` starts in a tensor with `window` rows in memory (0: all); `row` is its number among the
    /// rows of all batches.
    fn at(&self, unit: Unit, row: u32, window: u8) -> usize {
        match row.checked_rem(u32::from(window)) {
            Some(held) => self.start(0, unit.head) + held as usize * self.row as usize,
            None => self.start(unit.batch, unit.head) + unit.row as usize * self.row as usize,
        }
    }

    /// Whether the rows of all batches follow each other without a gap, all heads of a row inside it.
    fn is_rows(&self, p: &AttentionParams, width: u32) -> bool {
        let end = self.end(1, p.heads, 1, width);
        end <= u64::from(self.row) && (p.batch == 1 || u64::from(self.batch) == u64::from(self.row) * u64::from(p.n_q))
    }

    fn end(&self, batches: u32, heads: u32, rows: u32, width: u32) -> u64 {
        let reach = |stride: u32, count: u32| u64::from(stride) * u64::from(count.saturating_sub(1));
        u64::from(self.offset)
            + reach(self.batch, batches)
            + reach(self.head, heads)
            + reach(self.row, rows)
            + u64::from(width)
    }
}

op_params! {
    /// A bias for every score, by strides (0 repeats).
    BiasView {
        /// First element.
        offset: u32,
        /// Elements between batches.
        batch: u32,
        /// Elements between heads.
        head: u32,
        /// Elements between query rows.
        row: u32,
        /// Elements between keys.
        column: u32,
    }
}

impl BiasView {
    /// A view that is not used.
    pub const NONE: BiasView = BiasView { offset: 0, batch: 0, head: 0, row: 0, column: 0 };

    fn start(&self, unit: Unit) -> usize {
        let at = |stride: u32, index: u32| stride as usize * index as usize;
        self.offset as usize + at(self.batch, unit.batch) + at(self.head, unit.head) + at(self.row, unit.row)
    }

    fn add(&self, bias: &[i16], unit: Unit, scores: &mut [i32]) {
        let row = bias.get(self.start(unit)..).unwrap_or(&[]);
        if self.column == 0 {
            let value = row.first().copied().unwrap_or(0);
            scores.iter_mut().for_each(|s| *s = s.wrapping_add(i32::from(value)));
        } else {
            for (s, &b) in scores.iter_mut().zip(row.iter().step_by(self.column as usize)) {
                *s = s.wrapping_add(i32::from(b));
            }
        }
    }
}

/// One query row of one head of one batch.
#[derive(Clone, Copy)]
struct Unit {
    batch: u32,
    head: u32,
    row: u32,
}

/// Longest row whose 16-bit exponentials times 8-bit values fit `i32`: `514 * 32640 * 128 < 2^31`.
pub const MAX_WIDE_ROW: u32 = 514;
/// Longest row with 8-bit exponentials: `65535 * 255 * 128 < 2^31`.
pub const MAX_ROW: u32 = 65535;
/// Largest scratch area, in bytes.
const MAX_SCRATCH: u64 = 1 << 28;
/// Maximum size of a dimension of attention.
const MAX_DIM: u32 = 1 << 16;

impl AttentionParams {
    fn check(&self) -> Result<(), OpFault> {
        let dims = [self.batch, self.heads, self.kv_group, self.n_q, self.n_k, self.head_dim, self.v_dim];
        require(dims.iter().all(|&d| d > 0 && d <= MAX_DIM), OpFault::Range)?;
        let ratio = (1 << 14..1 << 15).contains(&self.ratio_m) && (10..=20).contains(&self.ratio_shift);
        let longest = if self.wide_exp { MAX_WIDE_ROW } else { MAX_ROW };
        require(ratio && self.n_k <= longest && self.score_multiplier >= 0, OpFault::Range)?;
        let rows = super::product(&[self.batch, self.heads, self.n_q]);
        require(rows <= u64::from(u32::MAX), OpFault::Range)?;
        require(self.heads.is_multiple_of(self.kv_group) && self.zero_point.unsigned_abs() <= 128, OpFault::Range)?;
        Ok(())
    }

    /// Bounds of the products of queries and keys.
    fn prove_dots(&self) -> Proof {
        // -128 * 127 to -128 * -128, and head_dim is at most 2^16.
        Proof::of((-16256 * i64::from(self.head_dim), 16384 * i64::from(self.head_dim)), self.acc_shift)
    }

    /// Bounds of the scores: scaled products, then the biases there are.
    fn prove_scores(&self, io: &Operands<'_>) -> Result<(i64, i64), OpFault> {
        require(self.acc_shift < 31, OpFault::Overflow)?;
        let scaled = |dot: i64| {
            let shifted = i32::try_from(dot << self.acc_shift).map_err(|_| OpFault::Overflow)?;
            Ok(i64::from(mulhi_round(shifted, self.score_multiplier)))
        };
        let (low, high) = self.prove_dots().acc;
        let biases = [3, 4].map(|index| i64::from(io.input(index).is_some())).iter().sum::<i64>();
        Ok((scaled(low)? - (biases << 15), scaled(high)? + biases * 32767))
    }

    /// Maximum exponential.
    fn one(&self) -> u32 {
        if self.wide_exp { EXP2_ONE } else { 255 }
    }

    /// Bounds of the weighted sums, and of the sum of their weights.
    fn prove_values(&self) -> Proof {
        let sum = i64::from(self.one()) * i64::from(self.n_k);
        Proof { second_acc: (-128 * sum, 127 * sum), row_sum: sum as u64, ..Proof::of((0, 0), 0) }
    }

    fn check_qk(&self, io: &Operands<'_>) -> Result<(), OpFault> {
        let kv_heads = self.heads / self.kv_group.max(1);
        io.need_input(0, &[Dtype::I8], self.q.end(self.batch, self.heads, self.n_q, self.head_dim))?;
        io.need_input(1, &[Dtype::I8], self.k.end(self.batch, kv_heads, self.n_k, self.head_dim))?;
        require(self.q.row >= self.head_dim && self.k.row >= self.head_dim, OpFault::Range)?;
        for (index, view) in [(3, self.bias0), (4, self.bias1)] {
            if io.input(index).is_some() {
                let reach = |stride: u32, count: u32| u64::from(stride) * u64::from(count - 1);
                let last = u64::from(view.offset)
                    + reach(view.batch, self.batch)
                    + reach(view.head, self.heads)
                    + reach(view.row, self.n_q)
                    + reach(view.column, self.n_k);
                io.need_input(index, &[Dtype::I16], last + 1)?;
            }
        }
        Ok(())
    }

    fn check_v(&self, io: &Operands<'_>) -> Result<(), OpFault> {
        let kv_heads = self.heads / self.kv_group.max(1);
        io.need_input(2, &[Dtype::I8], self.v.end(self.batch, kv_heads, self.n_k, self.v_dim))?;
        let rows = super::product(&[self.batch, self.heads, self.n_q]);
        let out = io.need_output(&[Dtype::I8], rows.saturating_mul(u64::from(self.v_dim)))?;
        // No row twice, none beyond the end: all of them.
        let end = self.out.end(self.batch, self.heads, self.n_q, self.v_dim);
        require(end <= out.len() as u64, OpFault::Operand)?;
        require(self.v.row >= self.v_dim && self.out.row >= self.v_dim, OpFault::Range)?;
        // Rows that overlap would keep what was computed last, which depends on the pieces of a run.
        let axes = [(self.out.batch, self.batch), (self.out.head, self.heads), (self.out.row, self.n_q)];
        let axes = axes.map(|(stride, count)| (u64::from(stride), u64::from(count)));
        require(super::is_injective(axes, self.v_dim.into()), OpFault::Alias)?;
        // The scratch areas, in numbers of 64 bits: beyond `usize` they are beyond this bound as well.
        let (keys, block) = (u64::from(self.n_k).next_multiple_of(16), ROW_BLOCK as u64);
        let largest = (keys * u64::from(self.v_dim)).max(4 * block * keys).max(4 * block * u64::from(self.v_dim));
        require(largest < MAX_SCRATCH, OpFault::Range)
    }

    fn score_len(&self) -> u64 {
        u64::from(self.batch) * u64::from(self.heads) * u64::from(self.n_q) * u64::from(self.n_k)
    }

    /// Keys padded so that kernels can work in groups of 16.
    fn padded_keys(&self) -> usize {
        (self.n_k as usize).next_multiple_of(16)
    }

    /// What scores are made of: inputs 0 and 1, and the biases there are.
    fn score_operands<'a>(&self, inputs: &Inputs<'a>) -> Result<AttentionInputs<'a>, RunFault> {
        // None there: no biases.
        let bias = |index| inputs.get::<i16>(index).ok();
        let q_window = inputs.record(0).map_or(0, |q| q.window);
        Ok(AttentionInputs { q: inputs.get(0)?, q_window, k: inputs.get(1)?, v: &[], biases: [bias(3), bias(4)] })
    }

    /// Query rows from `first` on, and the keys of its head.
    fn queries_and_keys<'a>(
        &self,
        operands: &AttentionInputs<'a>,
        first: Unit,
    ) -> Result<(&'a [i8], &'a [i8]), RunFault> {
        let kv_head = first.head.checked_div(self.kv_group).unwrap_or(0);
        let q_start = self.q.at(first, self.row_of(first), operands.q_window);
        let q = operands.q.get(q_start..).ok_or(RunFault::Memory)?;
        let k = operands.k.get(self.k.start(first.batch, kv_head)..).ok_or(RunFault::Memory)?;
        Ok((q, k))
    }

    /// Scores of `rows` query rows from row `first`, scaled and biased, into `to`.
    fn scores<B: Kernels>(
        &self,
        operands: &AttentionInputs<'_>,
        first: Unit,
        rows: usize,
        to: ScoreRows<'_>,
    ) -> Result<(), RunFault> {
        let (q, k) = self.queries_and_keys(operands, first)?;
        let job = DotJob {
            rows,
            cols: self.n_k as usize,
            k: self.head_dim as usize,
            x_stride: self.q.row as usize,
            y_stride: self.k.row as usize,
            out_stride: to.stride,
        };
        let scale = ScoreScale { acc_shift: self.acc_shift, multiplier: self.score_multiplier };
        B::scores(&job, scale, q, k, to.scores, to.scratch);
        for (bias, view) in operands.biases.iter().zip([&self.bias0, &self.bias1]) {
            let Some(bias) = bias else { continue };
            for (row, scores) in to.scores.chunks_mut(to.stride.max(1)).take(rows).enumerate() {
                let Some(scores) = scores.get_mut(..self.n_k as usize) else { continue };
                view.add(bias, Unit { row: first.row + row as u32, ..first }, scores);
            }
        }
        Ok(())
    }

    fn blocks(&self) -> u32 {
        self.n_q.div_ceil(ROW_BLOCK as u32)
    }

    /// Batch, head and first query row of a piece.
    fn unit(&self, piece: u32) -> Unit {
        let blocks = self.blocks().max(1);
        let (outer, block) = (piece / blocks, piece % blocks);
        let heads = self.heads.max(1);
        Unit { batch: outer / heads, head: outer % heads, row: block * ROW_BLOCK as u32 }
    }

    /// Number of the row of `unit` among those of all batches.
    fn row_of(&self, unit: Unit) -> u32 {
        unit.batch * self.n_q + unit.row
    }

    fn rows_from(&self, first: u32) -> usize {
        (self.n_q.saturating_sub(first) as usize).min(ROW_BLOCK)
    }

    /// Sums of values weighted by exponentials, for as many query rows from `first` on as there are sums of exponentials:
    /// normalized and written.
    fn values<B: Kernels>(&self, acc: &[i32], sums: &[u32], first: Unit, to: OutRows<'_>) -> Result<(), RunFault> {
        let v_dim = (self.v_dim as usize).max(1);
        let rows = stepwise(self.out_from(first, to)?.chunks_mut((self.out.row as usize).max(1)));
        for ((acc, &sum), out) in stepwise(acc.chunks_exact(v_dim)).zip(sums).zip(rows) {
            let out = out.get_mut(..v_dim).ok_or(RunFault::Memory)?;
            B::scale_row(acc, RowScale::new(sum, self.ratio_m, self.ratio_shift), self.zero_point, out);
        }
        Ok(())
    }

    fn value_job(&self, rows: usize, out_stride: usize) -> DotJob {
        let padded = self.padded_keys();
        DotJob { rows, cols: self.v_dim as usize, k: self.n_k as usize, x_stride: padded, y_stride: padded, out_stride }
    }

    /// Output elements of `first` and the rows behind it.
    fn out_from<'a>(&self, first: Unit, to: OutRows<'a>) -> Result<&'a mut [i8], RunFault> {
        let start = self.out.at(first, self.row_of(first), to.window);
        let start = start.checked_sub(to.skipped).ok_or(RunFault::Memory)?;
        super::memory::cast_mut(to.bytes)?.get_mut(start..).ok_or(RunFault::Memory)
    }

    /// Values of the head of `unit`.
    fn head_values<'a>(&self, v: &'a [i8], unit: Unit) -> Result<&'a [i8], RunFault> {
        let kv_head = unit.head.checked_div(self.kv_group).unwrap_or(0);
        v.get(self.v.start(unit.batch, kv_head)..).ok_or(RunFault::Memory)
    }

    /// Values of one head, transposed to `[v_dim, padded keys]`: the columns `columns`, as far as there are some.
    fn transpose_values<B: Kernels>(
        &self,
        v: &[i8],
        unit: Unit,
        columns: Range<u32>,
        out: &mut [i8],
    ) -> Result<(), RunFault> {
        let (first, end, padded) = (columns.start as usize, columns.end.min(self.v_dim) as usize, self.padded_keys());
        let v = self.head_values(v, unit)?.get(first..).ok_or(RunFault::Memory)?;
        let out = out.get_mut(first * padded..).ok_or(RunFault::Memory)?;
        B::transpose(v, self.v.row as usize, self.n_k as usize, end.saturating_sub(first), out, padded);
        Ok(())
    }

    /// Offers `rows` query rows from `first` on to the kernels as one job; whether they did it.
    fn attend<B: Kernels>(
        &self,
        operands: &AttentionInputs<'_>,
        to: OutRows<'_>,
        first: Unit,
        rows: usize,
    ) -> Result<bool, RunFault> {
        Ok(B::attention(&self.job(operands, first, rows)?, self.out_from(first, to)?))
    }

    /// `rows` query rows from `first` on.
    fn job<'a>(&self, operands: &AttentionInputs<'a>, first: Unit, rows: usize) -> Result<AttentionJob<'a>, RunFault> {
        let (q, k) = self.queries_and_keys(operands, first)?;
        let [first_bias, second_bias] = operands.biases;
        let biases = [(first_bias, self.bias0), (second_bias, self.bias1)].map(|(values, view)| {
            Some(ScoreBias {
                values: values?.get(view.start(first)..).unwrap_or(&[]),
                row: view.row as usize,
                column: view.column as usize,
            })
        });
        Ok(AttentionJob {
            q,
            k,
            v: self.head_values(operands.v, first)?,
            rows,
            n_k: self.n_k as usize,
            head_dim: self.head_dim as usize,
            v_dim: self.v_dim as usize,
            q_stride: self.q.row as usize,
            k_stride: self.k.row as usize,
            v_stride: self.v.row as usize,
            out_stride: self.out.row as usize,
            scale: ScoreScale { acc_shift: self.acc_shift, multiplier: self.score_multiplier },
            biases,
            wide_exp: self.wide_exp,
            ratio_m: self.ratio_m,
            ratio_shift: self.ratio_shift,
            zero_point: self.zero_point,
        })
    }

    /// `rows` query rows from `first` on, by blocks of [`ROW_BLOCK`].
    fn head_rows<B: Kernels>(
        &self,
        operands: &AttentionInputs<'_>,
        memory: &mut Memory<'_>,
        first: Unit,
        rows: u32,
    ) -> Result<(), RunFault> {
        let (window, skipped) = (memory.output.window, memory.skipped());
        let to = OutRows { bytes: &mut *memory.out, window, skipped };
        if B::ATTENDS && self.attend::<B>(operands, to, first, rows as usize)? {
            return Ok(());
        }
        self.transpose_values::<B>(operands.v, first, 0..self.v_dim, Scratch::split(self, memory.scratch)?.values)?;
        for done in (0..rows).step_by(ROW_BLOCK) {
            let block = Unit { row: first.row + done, ..first };
            self.block::<B>(operands, memory, block, ((rows - done) as usize).min(ROW_BLOCK))?;
        }
        Ok(())
    }

    /// At most [`ROW_BLOCK`] query rows from `first` on; the values of the head are in the scratch, transposed.
    fn block<B: Kernels>(
        &self,
        operands: &AttentionInputs<'_>,
        memory: &mut Memory<'_>,
        first: Unit,
        rows: usize,
    ) -> Result<(), RunFault> {
        self.exponentials::<B>(operands, memory, first, rows)?;
        self.weighted::<B>(memory, first, rows)
    }

    /// Exponentials of the scores of `rows` query rows from `first` on, and their sums: both stay in the scratch.
    fn exponentials<B: Kernels>(
        &self,
        operands: &AttentionInputs<'_>,
        memory: &mut Memory<'_>,
        first: Unit,
        rows: usize,
    ) -> Result<(), RunFault> {
        let padded = self.padded_keys();
        let scratch = Scratch::split(self, memory.scratch)?;
        let to = ScoreRows { scores: &mut *scratch.scores, stride: padded, scratch: &mut *scratch.acc };
        self.scores::<B>(operands, first, rows, to)?;
        let exps = scratch.exps.chunks_exact_mut(self.exp_bytes().max(1));
        let sums: &mut [u32] = super::memory::cast_mut(scratch.acc)?;
        let rows = stepwise(scratch.scores.chunks_exact(padded.max(1))).zip(exps).take(rows);
        for ((scores, exps), sum) in rows.zip(sums) {
            *sum = exp_row::<B>(self.wide_exp, scores.get(..self.n_k as usize).unwrap_or(&[]), exps)?;
        }
        Ok(())
    }

    /// Outputs of these rows, whose exponentials and sums are in the scratch.
    fn weighted<B: Kernels>(&self, memory: &mut Memory<'_>, first: Unit, rows: usize) -> Result<(), RunFault> {
        let (window, skipped) = (memory.output.window, memory.skipped());
        let scratch = Scratch::split(self, memory.scratch)?;
        let sums: [u32; ROW_BLOCK] = *super::memory::cast(scratch.acc)?.first_chunk().ok_or(RunFault::Memory)?;
        let sums = sums.get(..rows).ok_or(RunFault::Memory)?;
        let job = self.value_job(rows, self.v_dim as usize);
        let acc = dot_exps::<B>(self.wide_exp, &job, scratch.exps, scratch.values, scratch.scores, scratch.acc)?;
        self.values::<B>(acc, sums, first, OutRows { bytes: memory.out, window, skipped })
    }

    fn exp_bytes(&self) -> usize {
        self.padded_keys() * if self.wide_exp { 2 } else { 1 }
    }

    /// Parts of a head: its values transposed, some columns a part, then for every block of query rows one for the
    /// exponentials and one for the outputs. Blocks of fewer than [`ROW_BLOCK`] rows take kernels much longer by the row:
    /// these rows are blocks of their own.
    fn parts_of_head(&self) -> HeadParts {
        let transposes = self.v_dim.div_ceil(self.part_columns().max(1));
        let whole = self.n_q / ROW_BLOCK as u32;
        HeadParts { transposes, whole, all: transposes + 2 * (whole + self.n_q % ROW_BLOCK as u32) }
    }

    /// Columns of values that a part transposes.
    fn part_columns(&self) -> u32 {
        (STEP_WORK / self.n_k.saturating_mul(TRANSPOSE_WORK).max(1)).clamp(1, PART_COLUMNS)
    }

    fn part<B: Kernels>(
        &self,
        operands: &AttentionInputs<'_>,
        memory: &mut Memory<'_>,
        part: u32,
    ) -> Result<(), RunFault> {
        let HeadParts { transposes, whole, all } = self.parts_of_head();
        let (heads, all) = (self.heads.max(1), all.max(1));
        let (head, part) = (part / all, part % all);
        let unit = Unit { batch: head / heads, head: head % heads, row: 0 };
        let Some(part) = part.checked_sub(transposes) else {
            let values = Scratch::split(self, memory.scratch)?.values;
            let first = part * self.part_columns();
            return self.transpose_values::<B>(operands.v, unit, first..first + self.part_columns(), values);
        };
        let (block, rows) = (part / 2, ROW_BLOCK as u32);
        let (row, rows) = if block < whole { (block * rows, ROW_BLOCK) } else { (whole * rows + block - whole, 1) };
        let first = Unit { row, ..unit };
        if part % 2 == 0 {
            self.exponentials::<B>(operands, memory, first, rows)
        } else {
            self.weighted::<B>(memory, first, rows)
        }
    }
}

/// Parts of a head, see [`AttentionParams::parts_of_head`].
struct HeadParts {
    /// Those that transpose values.
    transposes: u32,
    /// Blocks of [`ROW_BLOCK`] rows.
    whole: u32,
    /// All.
    all: u32,
}

/// Where output rows go.
struct OutRows<'a> {
    bytes: &'a mut [u8],
    /// Rows in memory, 0: all.
    window: u8,
    /// Elements in memory before `bytes`.
    skipped: usize,
}

/// What attention reads.
struct AttentionInputs<'a> {
    q: &'a [i8],
    /// Rows of `q` in memory, 0: all.
    q_window: u8,
    k: &'a [i8],
    v: &'a [i8],
    biases: [Option<&'a [i16]>; 2],
}

/// Where scores go, `stride` elements a row, and what the kernel may use besides.
struct ScoreRows<'s> {
    scores: &'s mut [i32],
    stride: usize,
    scratch: &'s mut [u8],
}

/// The scratch areas of fused attention, in this order.
///
/// An area that holds nothing yet, or nothing any more, serves the dot products: `acc` while scores are made, `scores`
/// while values are summed. Between the two `acc` holds the sums of the exponentials.
struct Scratch<'s> {
    values: &'s mut [i8],
    scores: &'s mut [i32],
    exps: &'s mut [u8],
    acc: &'s mut [u8],
}

impl<'s> Scratch<'s> {
    #[inline(never)]
    fn sizes(p: &AttentionParams) -> [usize; 4] {
        // Not less than a sum for every row of a block.
        let acc = (ROW_BLOCK * p.v_dim as usize * 4).next_multiple_of(16);
        [
            p.v_dim as usize * p.padded_keys(),
            ROW_BLOCK * p.padded_keys() * 4,
            ROW_BLOCK * p.exp_bytes(),
            acc.max(linear_scratch_bytes(p.head_dim as usize)),
        ]
    }

    #[inline(never)]
    fn split(p: &AttentionParams, bytes: &'s mut [u8]) -> Result<Self, RunFault> {
        let [values, scores, exps, acc] = Self::sizes(p);
        let (values, rest) = bytes.split_at_mut_checked(values).ok_or(RunFault::Memory)?;
        let (scores, rest) = rest.split_at_mut_checked(scores).ok_or(RunFault::Memory)?;
        let (exps, rest) = rest.split_at_mut_checked(exps).ok_or(RunFault::Memory)?;
        let acc = rest.get_mut(..acc).ok_or(RunFault::Memory)?;
        use super::memory::cast_mut;
        Ok(Self { values: cast_mut(values)?, scores: cast_mut(scores)?, exps, acc })
    }
}

/// Exponentials of one row into `out` bytes (`u8` or `u16`); their sum.
fn exp_row<B: Kernels>(wide: bool, scores: &[i32], out: &mut [u8]) -> Result<u32, RunFault> {
    let out = if wide {
        ExpRow::U16(super::memory::cast_mut(out)?.get_mut(..scores.len()).ok_or(RunFault::Memory)?)
    } else {
        ExpRow::U8(out.get_mut(..scores.len()).ok_or(RunFault::Memory)?)
    };
    Ok(B::exp_row(scores, out))
}

/// Sums of the values, weighted by the rows of `exps`, in `acc`; the scores are gone afterwards.
fn dot_exps<'s, B: Kernels>(
    wide: bool,
    job: &DotJob,
    exps: &[u8],
    values: &[i8],
    scores: &mut [i32],
    acc: &'s mut [u8],
) -> Result<&'s [i32], RunFault> {
    let acc: &mut [i32] = super::memory::cast_mut(acc)?;
    let free = bytemuck::cast_slice_mut(scores);
    if wide {
        B::dot_u16(job, super::memory::cast(exps)?, values, acc, free);
    } else {
        B::dot_u8(job, exps, values, acc, free);
    }
    Ok(acc)
}

macro_rules! attention_form {
    ($(#[$meta:meta])* $name:ident) => {
        op_params! {
            $(#[$meta])*
            $name {
                /// The parameters.
                attention: AttentionParams,
            }
        }
    };
}

attention_form! {
    /// `q, k, v` to `y` (`i8`), no score matrix.
    Attention
}
attention_form! {
    /// `q, k` and biases to scores `[batch, heads, n_q, n_k] i32`.
    AttentionScores
}
attention_form! {
    /// Input 0: scores; output: exponentials `[batch, heads, n_q, n_k] u8 | u16`.
    AttentionExp
}
attention_form! {
    /// Input 0: exponentials, of which greater 16-bit ones than [`EXP2_ONE`] count as this; input 2: `v`; output: `y`.
    AttentionValues
}

/// Work of a score besides the products, see [`Division`].
const SCORE_WORK: u64 = 60;
/// The same for [`Operator::piece_work`].
const STEP_SCORE_WORK: u32 = 40;
/// Work of a part besides.
const PART_WORK: u32 = 800;
/// Columns of values that a part transposes at most.
const PART_COLUMNS: u32 = 16;
/// Work of an output of a head besides its products.
const ROW_WORK: u32 = 30;

impl AttentionParams {
    /// Work of a query row of a head.
    fn score_work(&self) -> u32 {
        let each = self.head_dim.saturating_add(self.v_dim).saturating_add(STEP_SCORE_WORK);
        self.n_k.saturating_mul(each).saturating_add(self.v_dim.saturating_mul(ROW_WORK))
    }

    /// Work of transposing the values of a head.
    fn transpose_work(&self) -> u32 {
        super::work(&[TRANSPOSE_WORK, self.n_k, self.v_dim])
    }
}

impl Operator for Attention {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let p = &self.attention;
        p.check()?;
        p.check_qk(io)?;
        p.check_v(io)?;
        Ok(p.prove_dots().and(p.prove_values()))
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, rows: Range<u32>) -> Result<(), RunFault> {
        let p = &self.attention;
        let operands = AttentionInputs { v: memory.inputs.get(2)?, ..p.score_operands(&memory.inputs)? };
        let n_q = p.n_q.max(1);
        let mut row = rows.start;
        while row < rows.end {
            let here = (n_q - row % n_q).min(rows.end - row);
            for head in 0..p.heads {
                p.head_rows::<B>(&operands, memory, Unit { batch: row / n_q, head, row: row % n_q }, here)?;
            }
            row += here;
        }
        Ok(())
    }

    fn macs(&self) -> u64 {
        AttentionScores { attention: self.attention }.macs() + AttentionValues { attention: self.attention }.macs()
    }

    fn scratch_bytes(&self) -> u32 {
        Scratch::sizes(&self.attention).iter().sum::<usize>() as u32
    }

    fn piece_work(&self) -> u32 {
        let p = &self.attention;
        let transposed = p.transpose_work().div_ceil(ROW_BLOCK as u32);
        p.heads.saturating_mul(p.score_work().saturating_add(transposed))
    }

    fn pieces(&self) -> u32 {
        self.attention.batch * self.attention.n_q
    }

    fn block(&self) -> u32 {
        ROW_BLOCK as u32
    }

    fn run_parts<B: Kernels>(&self, memory: &mut Memory<'_>, mut parts: Range<u32>) -> Result<(), RunFault> {
        let p = &self.attention;
        let operands = AttentionInputs { v: memory.inputs.get(2)?, ..p.score_operands(&memory.inputs)? };
        parts.try_for_each(|part| p.part::<B>(&operands, memory, part))
    }

    fn parts(&self) -> u32 {
        let p = &self.attention;
        super::work(&[p.batch, p.heads, p.parts_of_head().all])
    }

    fn part_work(&self) -> u32 {
        let p = &self.attention;
        let scores = super::work(&[ROW_BLOCK as u32, p.n_k, p.head_dim.saturating_add(STEP_SCORE_WORK)]);
        let outputs = super::work(&[ROW_BLOCK as u32, p.n_k.saturating_add(ROW_WORK), p.v_dim]);
        let transposed = super::work(&[TRANSPOSE_WORK, p.n_k, p.part_columns()]);
        scores.max(outputs).max(transposed).saturating_add(PART_WORK)
    }

    fn division(&self) -> Option<Division> {
        let p = &self.attention;
        let score = u64::from(p.head_dim) + u64::from(p.v_dim) + SCORE_WORK;
        let work = u64::from(p.heads) * u64::from(p.n_k) * score;
        p.out.is_rows(p, p.v_dim).then_some(Division::rows(p.out.row, work))
    }

    fn row_access(&self) -> Option<RowAccess> {
        let p = &self.attention;
        let q = if p.q.is_rows(p, p.head_dim) { RowRead::Row(p.q.row) } else { RowRead::Whole };
        let [_, rest @ ..] = RowRead::NONE;
        let [b, c, d, e, f] = rest;
        p.out.is_rows(p, p.v_dim).then_some(RowAccess::rows([q, b, c, d, e, f], p.out.row))
    }
}

impl Operator for AttentionScores {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let p = &self.attention;
        p.check()?;
        p.check_qk(io)?;
        io.need_output(&[Dtype::I32], p.score_len())?;
        Ok(Proof { second_acc: p.prove_scores(io)?, ..p.prove_dots() })
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        let p = &self.attention;
        let n_k = p.n_k as usize;
        let operands = p.score_operands(&memory.inputs)?;
        let scores: &mut [i32] = super::memory::cast_mut(memory.out)?;
        for piece in pieces {
            let first = p.unit(piece);
            let row = (first.batch * p.heads + first.head) as usize * p.n_q as usize + first.row as usize;
            let scores = scores.get_mut(row * n_k..).ok_or(RunFault::Memory)?;
            let to = ScoreRows { scores, stride: n_k, scratch: &mut *memory.scratch };
            p.scores::<B>(&operands, first, p.rows_from(first.row), to)?;
        }
        Ok(())
    }

    fn macs(&self) -> u64 {
        self.attention.score_len() * u64::from(self.attention.head_dim)
    }

    fn scratch_bytes(&self) -> u32 {
        linear_scratch_bytes(self.attention.head_dim as usize) as u32
    }

    fn piece_work(&self) -> u32 {
        let p = &self.attention;
        super::work(&[ROW_BLOCK as u32, p.n_k, p.head_dim.saturating_add(STEP_SCORE_WORK)])
    }

    fn pieces(&self) -> u32 {
        self.attention.batch * self.attention.heads * self.attention.blocks()
    }
}

impl Operator for AttentionExp {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let p = &self.attention;
        p.check()?;
        io.need_input(0, &[Dtype::I32], p.score_len())?;
        let dtype = if p.wide_exp { Dtype::U16 } else { Dtype::U8 };
        io.need_output(&[dtype], p.score_len())?;
        // The distance of any two scores fits the u32 it is taken in.
        Ok(Proof { row_sum: p.prove_values().row_sum, ..Proof::NONE })
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        let p = &self.attention;
        let n_k = (p.n_k as usize).max(1);
        let scores = memory.inputs.get::<i32>(0)?;
        let row_bytes = n_k * if p.wide_exp { 2 } else { 1 };
        let rows = stepwise(scores.chunks_exact(n_k.max(1))).zip(memory.out.chunks_exact_mut(row_bytes.max(1)));
        for (scores, out) in rows.skip(pieces.start as usize).take(pieces.len()) {
            exp_row::<B>(p.wide_exp, scores, out)?;
        }
        Ok(())
    }

    fn piece_work(&self) -> u32 {
        self.attention.n_k.saturating_mul(STEP_SCORE_WORK)
    }

    fn pieces(&self) -> u32 {
        self.attention.batch * self.attention.heads * self.attention.n_q
    }
}

impl Operator for AttentionValues {
    fn check(&self, io: &Operands<'_>) -> Result<Proof, OpFault> {
        let p = &self.attention;
        p.check()?;
        p.check_v(io)?;
        let dtype = if p.wide_exp { Dtype::U16 } else { Dtype::U8 };
        io.need_input(0, &[dtype], p.score_len())?;
        Ok(p.prove_values())
    }

    fn run<B: Kernels>(&self, memory: &mut Memory<'_>, pieces: Range<u32>) -> Result<(), RunFault> {
        let p = &self.attention;
        let n_k = (p.n_k as usize).max(1);
        let row_bytes = n_k * if p.wide_exp { 2 } else { 1 };
        let (exps, v) = (memory.inputs.bytes(0)?, memory.inputs.get(2)?);
        for piece in pieces {
            let first = p.unit(piece);
            let scratch = Scratch::split(p, memory.scratch)?;
            if first.row == 0 {
                p.transpose_values::<B>(v, first, 0..p.v_dim, scratch.values)?;
            }
            let job = DotJob { x_stride: n_k, ..p.value_job(1, p.v_dim as usize) };
            for row in first.row..first.row + p.rows_from(first.row) as u32 {
                let index = (first.batch * p.heads + first.head) as usize * p.n_q as usize + row as usize;
                let exps = exps.get(index * row_bytes..(index + 1) * row_bytes).ok_or(RunFault::Memory)?;
                let acc: &mut [i32] = super::memory::cast_mut(scratch.acc)?;
                let free = bytemuck::cast_slice_mut(scratch.scores);
                let sum = if p.wide_exp {
                    let exps = super::memory::cast::<u16>(exps)?;
                    super::dot_limited::<B>(&job, EXP2_ONE as u16, exps, scratch.values, acc, free);
                    exps.iter().map(|&e| u32::from(e).min(EXP2_ONE)).sum()
                } else {
                    B::dot_u8(&job, exps, scratch.values, acc, free);
                    exps.iter().map(|&e| u32::from(e)).sum()
                };
                let to = OutRows { bytes: &mut *memory.out, window: 0, skipped: 0 };
                p.values::<B>(acc, &[sum], Unit { row, ..first }, to)?;
            }
        }
        Ok(())
    }

    fn macs(&self) -> u64 {
        self.attention.score_len() * u64::from(self.attention.v_dim)
    }

    fn scratch_bytes(&self) -> u32 {
        Scratch::sizes(&self.attention).iter().sum::<usize>() as u32
    }

    fn piece_work(&self) -> u32 {
        let p = &self.attention;
        super::work(&[ROW_BLOCK as u32, p.n_k, p.v_dim.saturating_add(STEP_SCORE_WORK)])
            .saturating_add(p.transpose_work())
    }

    fn pieces(&self) -> u32 {
        self.attention.batch * self.attention.heads * self.attention.blocks()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Random, Weights, run};
    use super::*;
    use crate::arith::exp::{MASKED, sum_error};
    use std::vec::Vec;

    const HEADS: u32 = 2;
    const DIM: u32 = 8;

    /// Heads inside rows of `[rows, HEADS * DIM]`.
    fn params(n_q: u32, n_k: u32, wide_exp: bool, score_multiplier: i32) -> AttentionParams {
        let view = HeadView { offset: 0, batch: 0, head: DIM, row: HEADS * DIM };
        AttentionParams {
            batch: 1,
            heads: HEADS,
            kv_group: 1,
            n_q,
            n_k,
            head_dim: DIM,
            v_dim: DIM,
            wide_exp,
            acc_shift: 0,
            score_multiplier,
            ratio_m: 24_000,
            ratio_shift: 14,
            zero_point: -3,
            q: view,
            k: view,
            v: view,
            out: view,
            bias0: BiasView { offset: 0, batch: 0, head: 0, row: 0, column: 1 },
            bias1: BiasView::NONE,
        }
    }

    /// Softmax-weighted sums in floats, with the range of the values they are made of.
    fn exact(p: &AttentionParams, operands: &[Vec<i32>; 4], row: u32, head: u32, column: u32) -> (f64, f64) {
        let [q, k, v, bias] = operands;
        let at = |row: u32, column: u32| (row * HEADS * DIM + head * DIM + column) as usize;
        let score = |key: u32| {
            let dot: i32 = (0..DIM).map(|d| q[at(row, d)] * k[at(key, d)]).sum();
            (f64::from(dot) * f64::from(p.score_multiplier) / 2f64.powi(32) + f64::from(bias[key as usize])) / 256.0
        };
        let scores: Vec<f64> = (0..p.n_k).map(score).collect();
        let max = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp2()).collect();
        let value = |key: u32| f64::from(v[at(key, column)]);
        let sum: f64 = (0..p.n_k).map(|key| weights[key as usize] * value(key)).sum();
        let (low, high) = (0..p.n_k).map(value).fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        (sum / weights.iter().sum::<f64>(), high - low)
    }

    #[test]
    fn weighted_sums_are_within_the_derived_bound() {
        let mut random = Random(12);
        for (n_q, n_k) in [(1, 1), (3, 7), (6, 50), (5, 197), (2, 514)] {
            // From nearly flat to nearly one-hot.
            for multiplier in [1 << 10, 1 << 20, 1 << 27, i32::MAX] {
                for wide in [false, true] {
                    let p = params(n_q, n_k, wide, multiplier);
                    let mut operand = |rows: u32| random.values(Dtype::I8, (rows * HEADS * DIM) as usize);
                    let (q, k, v) = (operand(n_q), operand(n_k), operand(n_k));
                    let mut bias: Vec<i32> = (0..n_k).map(|_| random.below(900) as i32 - 450).collect();
                    bias.iter_mut().skip(1).step_by(5).for_each(|b| *b = i32::from(MASKED));
                    let operands = [q, k, v, bias];
                    let types = [Dtype::I8, Dtype::I8, Dtype::I8, Dtype::I16];
                    let inputs: Vec<(Dtype, &[i32])> =
                        types.into_iter().zip(operands.iter().map(Vec::as_slice)).collect();
                    let len = (n_q * HEADS * DIM) as usize;
                    let (_, y) =
                        run(&Attention { attention: p }, &Weights::default(), &inputs, (Dtype::I8, len)).unwrap();
                    let ratio = f64::from(p.ratio_m) / 2f64.powi(p.ratio_shift as i32);
                    for (index, &y) in y.iter().enumerate() {
                        let index = index as u32;
                        let (row, head, column) = (index / DIM / HEADS, index / DIM % HEADS, index % DIM);
                        let (exact, range) = exact(&p, &operands, row, head, column);
                        let exact = exact * ratio;
                        // Exponentials, the rounding of the scores, the division, the last rounding.
                        let weights = f64::from(sum_error(n_k, wide)) / 65536.0 + 2f64.powf(1.0 / 256.0) - 1.0;
                        let bound = range * ratio * weights + exact.abs() / 16384.0 + 0.5;
                        let unlimited = exact + f64::from(p.zero_point);
                        let error = f64::from(y) - unlimited.clamp(-128.0, 127.0);
                        assert!(error.abs() <= bound, "n_k {n_k} wide {wide} {multiplier}: {y} {unlimited} {bound}");
                    }
                }
            }
        }
    }
}
