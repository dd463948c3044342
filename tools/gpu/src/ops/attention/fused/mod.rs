//! Attention without the score matrix, in three shaders: on cooperative matrices where the device has them; in blocks of
//! 64 query rows that share keys and values in workgroup memory; and by four query rows, for rows of any length and place.

use super::{AttentionParams, Builder, contiguous_rows, place_rows, product, row_scratch};
use crate::error::GpuError;
use crate::step::{Buffer, Shader, Tensor, matrix_shader, shader};
use shiftformer::ops::attention::HeadView;

static SHADER: Shader =
    shader!("attention", ["tensor", "memory", "arith", "packed", "exp", "reduce", "attention", "entry"], "shader.wgsl");
static BLOCK: Shader =
    shader!("attention block", ["tensor", "memory", "arith", "packed", "exp", "attention", "entry"], "block.wgsl");
static MATRIX: Shader = matrix_shader!("attention matrix", "matrix.spv", 224);
/// With exponentials of 16 bits.
static MATRIX_WIDE: Shader = matrix_shader!("attention matrix, 16-bit exponentials", "matrix_wide.spv", 224);

/// Query rows of a workgroup.
const ROWS: u32 = 4;
/// Most invocations side by side over the columns of a row: with one for each row they fill the workgroup.
const MAX_LANES: u32 = 16;

/// Query rows of a workgroup of [`BLOCK`], and the longest row it takes, in bytes.
const BLOCK_ROWS: u32 = 64;
/// Bytes of workgroup memory of [`BLOCK`].
const BLOCK_BYTES: u32 = 4 * 272 * 16;

/// Query rows that a workgroup of [`MATRIX`] takes at a time, and the most keys it holds.
const MATRIX_ROWS: u32 = 7 * 16;
const MATRIX_KEYS: u32 = 224;
/// Workgroups of [`MATRIX`] that keep a large card busy; fewer share the rows of each head.
const MATRIX_GROUPS: u64 = 264;

/// Whether every row of the view starts at a multiple of `bytes`.
fn starts_at(view: &HeadView, bytes: u32) -> bool {
    [view.offset, view.batch, view.head, view.row].iter().all(|v| v.is_multiple_of(bytes))
}

pub(in crate::ops) fn steps(build: &mut Builder<'_>, op: &AttentionParams) -> Result<(), GpuError> {
    let [q, k, v, bias0, bias1] = [0, 1, 2, 3, 4].map(|i| build.input(i));
    // Rows that start and end at whole words are written in place, others by way of scratch memory.
    let whole = starts_at(&op.out, 4) && op.v_dim.is_multiple_of(4);
    if whole && build.abilities.matrices && fits_matrix(op, [q, k, v], [bias0, bias1]) {
        let groups_of_all = product(&[op.batch, op.heads]) * build.capacity;
        let shares = MATRIX_GROUPS.div_ceil(groups_of_all).clamp(1, u64::from(op.n_q.div_ceil(MATRIX_ROWS))) as u32;
        let groups = product(&[op.batch, op.heads, shares]);
        let params = build.params(&[q, k, v, bias0, bias1, build.output()]);
        let shader = if op.wide_exp { &MATRIX_WIDE } else { &MATRIX };
        return build.groups(shader, params.with(groups as u32).with(shares).with(*op), groups);
    }
    let (out, view) = if whole { (build.output(), op.out) } else { (row_scratch(build, op)?, contiguous_rows(op)) };
    let op_in_place = AttentionParams { out: view, ..*op };
    let params = |groups: u64, second: u32| {
        let params = build.params(&[q, k, v, bias0, bias1, out]).with(groups as u32).with(second).with(op_in_place);
        let params = params.constant("BIAS0", bias0 != Tensor::ABSENT).constant("BIAS1", bias1 != Tensor::ABSENT);
        let params = params.constant("ALIGNED", [op.q, op.k, op.v].iter().all(|view| starts_at(view, 4)));
        params.constant("WIDE_EXP", op.wide_exp)
    };
    if fits_block(build, op) {
        let shares = op.n_q.div_ceil(BLOCK_ROWS);
        let groups = product(&[op.batch, op.heads, shares]);
        let rising = bias0 == Tensor::ABSENT && bias1 == Tensor::ABSENT && op.score_multiplier >= 0;
        let params = params(groups, shares).constant("HEAD_WORDS", op.head_dim.div_ceil(4)).constant("RISING", rising);
        build.groups(&BLOCK, params, groups)?;
    } else {
        let groups = product(&[op.batch, op.heads, op.n_q.div_ceil(ROWS)]);
        let lanes = op.v_dim.div_ceil(4).next_power_of_two().min(MAX_LANES);
        build.groups(&SHADER, params(groups, lanes), groups)?;
    }
    if whole { Ok(()) } else { place_rows(build, op, out) }
}

/// Rows of at most 64 bytes that start at whole words, on a device whose workgroup memory holds a block.
fn fits_block(build: &Builder<'_>, op: &AttentionParams) -> bool {
    build.abilities.workgroup_bytes >= BLOCK_BYTES
        && op.head_dim.max(op.v_dim) <= 64
        && [op.q, op.k, op.v].iter().all(|view| starts_at(view, 4))
}

/// Rows of up to 64 bytes in 16-byte words, all keys at once, no biases, and scores that grow with their sums.
fn fits_matrix(op: &AttentionParams, operands: [Tensor; 3], biases: [Tensor; 2]) -> bool {
    op.n_k <= MATRIX_KEYS
        && op.head_dim.max(op.v_dim) <= 64
        && [op.head_dim, op.v_dim].iter().all(|bytes| bytes.is_multiple_of(16))
        && [op.q, op.k, op.v, op.out].iter().all(|view| starts_at(view, 16))
        && operands.iter().all(|t| t.buffer == Buffer::Data)
        && biases.iter().all(|t| *t == Tensor::ABSENT)
        && op.score_multiplier >= 0
}
