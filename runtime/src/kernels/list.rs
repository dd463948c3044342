//! The interface of the kernels.

use super::{
    AttentionJob, DotJob, ExpRow, LinearJob, LinearOut, NormJob, NormOut, NormRow, ROW_BLOCK, ScoreScale, portable,
};
use crate::arith::exp::RowScale;

/// The inner loops. All methods are total: rows and slices that do not fit together shorten the work, down to nothing,
/// they never panic. The operators check every length and address when a model is opened.
pub trait Kernels: 'static {
    /// Name shown in reports.
    const NAME: &'static str;

    /// A dense layer. `scratch` has [`dense_scratch_bytes`](super::dense_scratch_bytes) bytes, aligned to 16.
    fn linear(job: &LinearJob<'_>, x: &[i8], out: LinearOut<'_>, scratch: &mut [u8]) {
        let _ = scratch;
        portable::linear(job, x, out);
    }

    /// The sums of a dense layer without requantization: `out = acc`, `[rows, n]` with `out_stride`. `scratch` as for
    /// [`linear`](Self::linear); the multipliers are not read.
    fn linear_acc(job: &LinearJob<'_>, x: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        let _ = scratch;
        portable::linear_acc(job, x, out);
    }

    /// Dot products of signed rows. `scratch` as for [`linear`](Self::linear).
    fn dot_i8(job: &DotJob, x: &[i8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        let _ = scratch;
        portable::dot(job, x, y, out);
    }

    /// Dot products of 8-bit exponentials with signed rows. `scratch` as for [`linear`](Self::linear).
    fn dot_u8(job: &DotJob, x: &[u8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        let _ = scratch;
        portable::dot(job, x, y, out);
    }

    /// Dot products of 16-bit exponentials (at most 2^15 - 1) with signed rows. `scratch` as for
    /// [`linear`](Self::linear).
    fn dot_u16(job: &DotJob, x: &[u16], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        let _ = scratch;
        portable::dot(job, x, y, out);
    }

    /// Scores of query rows `x` with key rows `y`: [`dot_i8`](Self::dot_i8), then
    /// [`scale_scores`](Self::scale_scores).
    fn scores(job: &DotJob, scale: ScoreScale, x: &[i8], y: &[i8], out: &mut [i32], scratch: &mut [u8]) {
        Self::dot_i8(job, x, y, out, scratch);
        for row in out.chunks_mut(job.out_stride.max(1)).take(job.rows) {
            Self::scale_scores(row.get_mut(..job.cols).unwrap_or(&mut []), scale);
        }
    }

    /// Scales scores to log2 units with 8 fractional bits: `s = mulhi_round(s << acc_shift, multiplier)`.
    fn scale_scores(scores: &mut [i32], scale: ScoreScale) {
        portable::scale_scores(scores, scale);
    }

    /// `e = 2^-(max - s)` of a row of scaled scores; returns the sum of `e`.
    fn exp_row(scores: &[i32], out: ExpRow<'_>) -> u32 {
        portable::exp_row(scores, out)
    }

    /// Requantizes a row of sums by the row's own scale: `sat8(zero_point + acc * scale)`.
    fn scale_row(acc: &[i32], scale: RowScale, zero_point: i32, out: &mut [i8]) {
        portable::scale_row(acc, scale, zero_point, out);
    }

    /// `out[c][r] = x[r][c]` for `rows` x `cols` elements; the rest of each output row, up to `out_stride`, becomes 0.
    fn transpose(x: &[i8], x_stride: usize, rows: usize, cols: usize, out: &mut [i8], out_stride: usize) {
        portable::transpose(x, x_stride, rows, cols, out, out_stride);
    }

    /// Whether [`transpose`](Self::transpose) is fast for few rows, so that windows of planar images are gathered by it.
    const INTERLEAVES: bool = false;

    /// Windows of an image that are gathered for one dense layer; more than [`ROW_BLOCK`] on hosts, which have memory of
    /// their own for them.
    const GATHERED_ROWS: usize = ROW_BLOCK;

    /// Whether [`attention`](Self::attention) may take a job.
    const ATTENDS: bool = false;

    /// Attention of many query rows of a head at once, where the kernels have memory of their own for it (a host's
    /// stack). `false`: nothing was written, the operator goes on in blocks of [`ROW_BLOCK`] rows. The answer does not
    /// depend on `rows`.
    fn attention(job: &AttentionJob<'_>, out: &mut [i8]) -> bool {
        let _ = (job, out);
        false
    }

    /// Into how many parts operators divide rows that take `work` multiplications; see `Parallel`.
    fn parts(work: u64) -> usize {
        let _ = work;
        1
    }

    /// Calls both, at the same time where there are threads for them.
    fn join<X: Send, Y: Send>(a: impl FnOnce() -> X + Send, b: impl FnOnce() -> Y + Send) -> (X, Y) {
        (a(), b())
    }

    /// LayerNorm or RMSNorm of one row.
    fn norm_row(job: &NormJob<'_>, x: NormRow<'_>, out: NormOut<'_>) {
        portable::norm_row(job, x, out);
    }

    /// [`norm_row`](Self::norm_row) of every row; rows have the length of gamma.
    fn norm_rows(job: &NormJob<'_>, x: NormRow<'_>, mut out: NormOut<'_>) {
        let (n, mut row) = (job.gamma.len().max(1), 0);
        while let (Some(x), Some(out)) = (x.row(row, n), out.row(row, n)) {
            Self::norm_row(job, x, out);
            row += 1;
        }
    }

    /// `out = table[x + 128]` in place.
    fn lut_in_place(data: &mut [i8], table: &[i8; 256]) {
        portable::lut_in_place(data, table);
    }

    /// `out = sat16((out * ma + b * mb + bias) >> shift)`: the residual addition, in place.
    fn add_i16_in_place(out: &mut [i16], b: &[i16], ma: i32, mb: i32, bias: i32, shift: u32) {
        portable::add_i16_in_place(out, b, ma, mb, bias, shift);
    }
}
