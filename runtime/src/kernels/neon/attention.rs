//! Attention of one head: keys and values are packed once on the stack, then twelve query rows at a time are scored,
//! exponentiated and multiplied by the values with the tiles of an [`Engine`].
//!
//! Products are of signed bytes, so 8-bit exponentials have their sign bit flipped (128 less) and the sums start from 128
//! times the sums of the values. 16-bit exponentials are two factors, `e = 128 high + low`, the high one in 8 bits like
//! these, the low one in 7: two products, joined by a shift and an addition.
//!
//! With the largest product `p` of a row the distance of a score is `(2 max - 2pm/2^32) >> 1`, SQDMULH and SHSUB: neither
//! the scaled score nor its rounding is made.

use super::dense::tile_rows;
use super::engine::{COLUMNS, Engine, ROWS, Source, Tile, pack};
use super::rows::{distances, exp_lanes, max_of, scale_factors, scale_scores, scaled, transposed};
use crate::arith::exp::RowScale;
use crate::arith::requant::mulhi_round;
use crate::kernels::{AttentionJob, GROUP, ScoreBias, whole_rows};
use core::arch::aarch64::*;
use core::mem::MaybeUninit;

/// Bytes of packed keys, and of packed values.
const PACKED: usize = 64 * 1024;
/// Most keys.
const MAX_KEYS: usize = 1024;
/// Widest query and widest value.
const MAX_WIDTH: usize = 512;

/// What lives on the stack.
#[repr(align(64))]
struct Memory {
    keys: MaybeUninit<[i8; PACKED]>,
    values: MaybeUninit<[i8; PACKED]>,
    scores: MaybeUninit<[i32; ROWS * MAX_KEYS]>,
    /// Exponentials, those of the high factor first; before them the columns of a block of values.
    exps: MaybeUninit<[i8; 2 * ROWS * MAX_KEYS]>,
    /// Packed queries, then packed exponentials.
    rows: MaybeUninit<[i8; ROWS * MAX_KEYS]>,
    /// 128 times the sum of each column of the values.
    excess: [i32; MAX_WIDTH],
}

/// [`crate::kernels::Kernels::attention`].
///
/// # Safety
/// The processor has the instructions of `E`.
pub unsafe fn attention<E: Engine>(job: &AttentionJob<'_>, out: &mut [i8]) -> bool {
    let AttentionJob { n_k, head_dim, v_dim, .. } = *job;
    let sizes = (1..=MAX_KEYS).contains(&n_k) && [head_dim, v_dim].iter().all(|d| (1..=MAX_WIDTH).contains(d));
    let packed = |columns: usize, k: usize| columns.next_multiple_of(COLUMNS) * k.next_multiple_of(GROUP) <= PACKED;
    if !sizes || !packed(n_k, head_dim) || !packed(v_dim, n_k) || job.zero_point.unsigned_abs() > 128 {
        return false;
    }
    let rows = [(job.q.len(), job.q_stride, head_dim), (out.len(), job.out_stride, v_dim)];
    let keys = [(job.k.len(), job.k_stride, head_dim), (job.v.len(), job.v_stride, v_dim)];
    let there = |&(len, stride, width): &(usize, usize, usize)| whole_rows(len, stride, width);
    if rows.iter().any(|rows| there(rows) < job.rows) || keys.iter().any(|keys| there(keys) < n_k) {
        return false;
    }
    // SAFETY: the slices hold their rows, the packed keys and values fit.
    unsafe { if job.wide_exp { head::<E, true>(job, out) } else { head::<E, false>(job, out) } }
    true
}

/// # Safety
/// As [`attention`] has checked.
#[inline(never)]
unsafe fn head<E: Engine, const WIDE: bool>(job: &AttentionJob<'_>, out: &mut [i8]) {
    let mut memory = Memory {
        keys: MaybeUninit::uninit(),
        values: MaybeUninit::uninit(),
        scores: MaybeUninit::uninit(),
        exps: MaybeUninit::uninit(),
        rows: MaybeUninit::uninit(),
        excess: [0; MAX_WIDTH],
    };
    // SAFETY: the caller's contract.
    unsafe {
        let keys = pack_keys::<E>(job, memory.keys.as_mut_ptr().cast());
        let excess = &mut memory.excess;
        let values = pack_values::<E>(job, memory.values.as_mut_ptr().cast(), &mut memory.exps, excess);
        let head = Head {
            job,
            keys,
            values,
            scores: memory.scores.as_mut_ptr().cast(),
            exps: memory.exps.as_mut_ptr().cast(),
            rows: memory.rows.as_mut_ptr().cast(),
            excess: memory.excess.as_ptr(),
            padded: job.n_k.next_multiple_of(GROUP),
        };
        for row in (0..job.rows).step_by(ROWS) {
            let count = (job.rows - row).min(ROWS);
            head.scores::<E>(row, count);
            let sums = head.exps::<WIDE>(row, count);
            head.weighted::<E, WIDE>(count, &sums, out.as_mut_ptr().add(row * job.out_stride));
        }
    }
}

/// Packed columns.
#[derive(Clone, Copy)]
struct Columns {
    first: *const i8,
    /// One of them may be -128.
    exact: bool,
}

/// Packs the keys, eight to a block; keys beyond the last are the last again.
///
/// # Safety
/// As [`attention`] has checked.
unsafe fn pack_keys<E: Engine>(job: &AttentionJob<'_>, to: *mut i8) -> Columns {
    let bytes = COLUMNS * job.head_dim.next_multiple_of(GROUP);
    let mut exact = false;
    for (block, key) in (0..job.n_k).step_by(COLUMNS).enumerate() {
        // SAFETY: the caller's contract.
        unsafe {
            let first = job.k.as_ptr().add(key * job.k_stride);
            let from = Source::rows(first, job.k_stride, job.head_dim, (job.n_k - key).min(COLUMNS));
            exact |= pack::<E>(from, COLUMNS, to.add(block * bytes));
        }
    }
    Columns { first: to, exact }
}

/// Packs the values, eight columns to a block; keys and columns beyond the last are 0. `excess` gets 128 times the sums
/// of the columns.
///
/// # Safety
/// As [`attention`] has checked.
unsafe fn pack_values<E: Engine>(
    job: &AttentionJob<'_>,
    to: *mut i8,
    columns: &mut MaybeUninit<[i8; 2 * ROWS * MAX_KEYS]>,
    excess: &mut [i32; MAX_WIDTH],
) -> Columns {
    let padded = job.n_k.next_multiple_of(GROUP);
    let columns: *mut i8 = columns.as_mut_ptr().cast();
    let mut exact = false;
    for (block, excess) in excess.chunks_mut(COLUMNS).enumerate().take(job.v_dim.div_ceil(COLUMNS)) {
        let column = block * COLUMNS;
        let width = (job.v_dim - column).min(COLUMNS);
        // SAFETY: the caller's contract; eight columns of padded keys fit the memory of the exponentials.
        unsafe {
            let mut sums = [vdupq_n_s32(0); COLUMNS];
            for key in (0..job.n_k).step_by(GROUP) {
                let first = job.v.as_ptr().add(key * job.v_stride + column);
                let lanes = transposed(first, job.v_stride, (job.n_k - key).min(GROUP), width);
                for (index, (lanes, sum)) in lanes.into_iter().zip(&mut sums).enumerate() {
                    vst1q_s8(columns.add(index * padded + key), lanes);
                    *sum = vpadalq_s16(*sum, vpaddlq_s8(lanes));
                }
            }
            for (excess, sum) in excess.iter_mut().zip(sums) {
                *excess = vaddvq_s32(sum) << 7;
            }
            let from = Source::rows(columns, padded, padded, COLUMNS);
            exact |= pack::<E>(from, COLUMNS, to.add(block * COLUMNS * padded));
        }
    }
    Columns { first: to, exact }
}

/// One head with its keys and values packed.
struct Head<'a> {
    job: &'a AttentionJob<'a>,
    keys: Columns,
    values: Columns,
    /// Rows of `padded` scores.
    scores: *mut i32,
    /// Rows of `padded` exponentials.
    exps: *mut i8,
    rows: *mut i8,
    excess: *const i32,
    /// Keys, a multiple of [`GROUP`].
    padded: usize,
}

/// Calls `$each` with the tile of `$count` rows.
macro_rules! tile_of {
    ($engine:ident, $count:expr, $a:expr, $columns:expr, $w:expr, $groups:expr, $init:expr, $each:expr) => {
        match tile_rows($count) {
            ROWS => each_row($engine::twelve($a, $w, $groups, $columns.exact, $init), $count, $each),
            8 => each_row($engine::eight($a, $w, $groups, $columns.exact, $init), $count, $each),
            _ => each_row($engine::four($a, $w, $groups, $columns.exact, $init), $count, $each),
        }
    };
}

/// Hands the first `count` rows of a tile to `each`.
#[inline(always)]
fn each_row<const R: usize>(tile: Tile<R>, count: usize, mut each: impl FnMut(usize, [int32x4_t; 2])) {
    if count >= R {
        tile.into_iter().enumerate().for_each(|(row, sums)| each(row, sums));
    } else {
        tile.into_iter().enumerate().take(count).for_each(|(row, sums)| each(row, sums));
    }
}

impl Head<'_> {
    /// Products of `count` query rows from `row` on with all keys.
    ///
    /// # Safety
    /// As for [`attention`]; there are the rows.
    unsafe fn scores<E: Engine>(&self, row: usize, count: usize) {
        let Self { job, padded, .. } = *self;
        let groups = job.head_dim.div_ceil(GROUP);
        // SAFETY: the caller's contract; a row has room for whole blocks of keys.
        unsafe {
            let from = Source::rows(job.q.as_ptr().add(row * job.q_stride), job.q_stride, job.head_dim, count);
            pack::<E>(from, tile_rows(count), self.rows);
            let zero = [vdupq_n_s32(0); 2];
            for (block, key) in (0..job.n_k).step_by(COLUMNS).enumerate() {
                let w = self.keys.first.add(block * COLUMNS * groups * GROUP);
                let to = self.scores.add(key);
                tile_of!(E, count, self.rows, self.keys, w, groups, zero, |row, sums: [int32x4_t; 2]| {
                    vst1q_s32(to.add(row * padded), sums[0]);
                    vst1q_s32(to.add(row * padded + 4), sums[1]);
                });
            }
        }
    }

    /// Exponentials of `count` rows of products, in place of what the rows of exponentials held; their sums.
    ///
    /// # Safety
    /// After [`scores`](Self::scores) of the same rows.
    unsafe fn exps<const WIDE: bool>(&self, first: usize, count: usize) -> [u32; ROWS] {
        let Self { job, padded, .. } = *self;
        let mut sums = [0; ROWS];
        for (row, sum) in sums.iter_mut().enumerate().take(count) {
            // SAFETY: the caller's contract; what follows the last key is initialized here.
            unsafe {
                let (scores, to) = (self.scores.add(row * padded), self.exps.add(row * padded));
                for key in job.n_k..padded {
                    *scores.add(key) = 0;
                }
                let keys = core::slice::from_raw_parts_mut(scores, job.n_k);
                let max = max_of(keys);
                let Some(line) = Distances::new(job, max) else {
                    scale_scores(keys, job.scale);
                    for bias in job.biases.iter().flatten() {
                        add_bias(*bias, first + row, keys);
                    }
                    let max = vdupq_n_s32(max_of(keys));
                    *sum = self.exp_row::<WIDE>(scores, to, |low, high| distances(max, low, high));
                    continue;
                };
                *sum = if job.scale.acc_shift == 0 {
                    self.exp_row::<WIDE>(scores, to, |low, high| line.of::<false>(low, high))
                } else {
                    self.exp_row::<WIDE>(scores, to, |low, high| line.of::<true>(low, high))
                };
            }
        }
        sums
    }

    /// Exponentials of a row whose distances `distances` makes of its scores, and their sum; 0 beyond the last key.
    ///
    /// # Safety
    /// There are `padded` scores and exponentials.
    #[inline(always)]
    unsafe fn exp_row<const WIDE: bool>(
        &self,
        scores: *const i32,
        to: *mut i8,
        distances: impl Fn(int32x4_t, int32x4_t) -> uint16x8_t,
    ) -> u32 {
        let n_k = self.job.n_k;
        // SAFETY: the caller's contract.
        unsafe {
            let mut sum = vdupq_n_u32(0);
            let eight = |at: usize| exp_lanes(distances(vld1q_s32(scores.add(at)), vld1q_s32(scores.add(at + 4))));
            let mut put = |at: usize, low: uint16x8_t, high: uint16x8_t| {
                if WIDE {
                    sum = vpadalq_u16(vpadalq_u16(sum, low), high);
                    let mask = vdupq_n_u8(0x7f);
                    let bits = vandq_u8(vmovn_high_u16(vmovn_u16(low), high), mask);
                    let top = vshrn_high_n_u16::<7>(vshrn_n_u16::<7>(low), high);
                    vst1q_s8(to.add(at), flipped(top));
                    vst1q_u8(to.add(self.low_factors() + at).cast(), bits);
                } else {
                    let e = vrshrn_high_n_u16::<7>(vrshrn_n_u16::<7>(low), high);
                    sum = vpadalq_u16(sum, vpaddlq_u8(e));
                    vst1q_s8(to.add(at), flipped(e));
                }
            };
            let whole = n_k / GROUP * GROUP;
            for at in (0..whole).step_by(GROUP) {
                put(at, eight(at), eight(at + 8));
            }
            if whole < n_k {
                let mask = LANES_BELOW.as_ptr().add(GROUP - (n_k - whole));
                let (low, high) = (vld1q_u16(mask), vld1q_u16(mask.add(8)));
                put(whole, vandq_u16(eight(whole), low), vandq_u16(eight(whole + 8), high));
            }
            vaddvq_u32(sum)
        }
    }

    /// Where the low factors of 16-bit exponentials lie behind the high ones.
    fn low_factors(&self) -> usize {
        ROWS * self.padded
    }

    /// Values weighted by `count` rows of exponentials, divided by their sums.
    ///
    /// # Safety
    /// After [`exps`](Self::exps) of the same rows; `out` has the rows.
    unsafe fn weighted<E: Engine, const WIDE: bool>(&self, count: usize, sums: &[u32; ROWS], out: *mut i8) {
        let Self { job, padded, .. } = *self;
        let groups = padded / GROUP;
        let factors = sums.map(|sum| scale_factors(RowScale::new(sum, job.ratio_m, job.ratio_shift)));
        // SAFETY: the caller's contract.
        unsafe {
            let zero = vdupq_n_s16(job.zero_point as i16);
            let low = self.scores.cast::<i8>();
            pack::<E>(Source::rows(self.exps, padded, padded, count), tile_rows(count), self.rows);
            if WIDE {
                // The scores are gone: their memory holds the packed low factors.
                let from = Source::rows(self.exps.add(self.low_factors()), padded, padded, count);
                pack::<E>(from, tile_rows(count), low);
            }
            for (block, column) in (0..job.v_dim).step_by(COLUMNS).enumerate() {
                let w = self.values.first.add(block * COLUMNS * padded);
                let excess = self.excess.add(column);
                let init = [vld1q_s32(excess), vld1q_s32(excess.add(4))];
                let (to, width) = (out.add(column), (job.v_dim - column).min(COLUMNS));
                let divide = |row: usize, sums: [int32x4_t; 2]| {
                    let (multiplier, shift) = factors[row];
                    let (multiplier, shift) = (vdupq_n_s32(multiplier), vdupq_n_s32(shift));
                    let [a, b] = sums.map(|sums| scaled(sums, multiplier, shift));
                    // The zero point is small: saturation to 16 bits before it makes no difference.
                    let y = vqmovn_s16(vqaddq_s16(vqmovn_high_s32(vqmovn_s32(a), b), zero));
                    let to = to.add(row * job.out_stride);
                    if width == COLUMNS {
                        vst1_s8(to, y);
                    } else {
                        let mut lanes = [0i8; COLUMNS];
                        vst1_s8(lanes.as_mut_ptr(), y);
                        core::ptr::copy_nonoverlapping(lanes.as_ptr(), to, width);
                    }
                };
                if WIDE {
                    let mut high = [init; ROWS];
                    tile_of!(E, count, self.rows, self.values, w, groups, init, |row: usize, sums| high[row] = sums);
                    let zero = [vdupq_n_s32(0); 2];
                    tile_of!(E, count, low, self.values, w, groups, zero, |row: usize, sums: [int32x4_t; 2]| {
                        let [a, b] = high[row];
                        divide(row, [vaddq_s32(vshlq_n_s32::<7>(a), sums[0]), vaddq_s32(vshlq_n_s32::<7>(b), sums[1])]);
                    });
                } else {
                    tile_of!(E, count, self.rows, self.values, w, groups, init, divide);
                }
            }
        }
    }
}

/// `x - 128` as a signed byte.
#[inline(always)]
fn flipped(x: uint8x16_t) -> int8x16_t {
    // SAFETY: NEON is in every AArch64.
    unsafe { vreinterpretq_s8_u8(veorq_u8(x, vdupq_n_u8(0x80))) }
}

/// A mask of `n` lanes out of sixteen starts at element `16 - n`.
static LANES_BELOW: [u16; 2 * GROUP] = {
    let mut lanes = [0; 2 * GROUP];
    let mut lane = 0;
    while lane < GROUP {
        lanes[lane] = u16::MAX;
        lane += 1;
    }
    lanes
};

/// Distances from products that are not scaled.
#[derive(Clone, Copy)]
struct Distances {
    /// Twice the largest scaled score.
    top: int32x4_t,
    multiplier: int32x4_t,
    shift: int32x4_t,
}

impl Distances {
    /// `max - floor((q + 1) / 2) = floor((2 max - q) / 2)` with `q` the floor of the doubled product's high half. `None`
    /// where there are biases, or where twice the largest score does not fit.
    #[inline(always)]
    fn new(job: &AttentionJob<'_>, max: i32) -> Option<Self> {
        if job.biases.iter().any(Option::is_some) {
            return None;
        }
        let top = mulhi_round(max.wrapping_shl(job.scale.acc_shift), job.scale.multiplier).checked_mul(2)?;
        // SAFETY: NEON is in every AArch64.
        let [top, multiplier, shift] =
            [top, job.scale.multiplier, job.scale.acc_shift as i32].map(|value| unsafe { vdupq_n_s32(value) });
        Some(Self { top, multiplier, shift })
    }

    /// Those of eight products, saturated at 2^15 - 1. None is negative: the products grow with the scores.
    #[inline(always)]
    fn of<const SHIFTED: bool>(&self, low: int32x4_t, high: int32x4_t) -> uint16x8_t {
        // SAFETY: NEON is in every AArch64.
        unsafe {
            let four = |products| {
                let products = if SHIFTED { vshlq_s32(products, self.shift) } else { products };
                vhsubq_s32(self.top, vqdmulhq_s32(products, self.multiplier))
            };
            vreinterpretq_u16_s16(vqmovn_high_s32(vqmovn_s32(four(low)), four(high)))
        }
    }
}

/// Adds the biases of query row `row` to its scores.
fn add_bias(bias: ScoreBias<'_>, row: usize, scores: &mut [i32]) {
    let values = bias.values.get(row * bias.row..).unwrap_or(&[]);
    match bias.column {
        0 => {
            let value = values.first().map_or(0, |&b| i32::from(b));
            scores.iter_mut().for_each(|s| *s = s.wrapping_add(value));
        }
        1 => scores.iter_mut().zip(values).for_each(|(s, &b)| *s = s.wrapping_add(i32::from(b))),
        step => {
            scores.iter_mut().zip(values.iter().step_by(step)).for_each(|(s, &b)| *s = s.wrapping_add(i32::from(b)))
        }
    }
}
